//! Purges on all gateways of a fleet (0018).
//!
//! The engine counts them and lists the last ones. Messages and beats tell that there is a newer one; a gateway then reads from
//! the list what it has not applied, so that a lost message costs a second at the most. Where the list does not reach back so
//! far, it purges all that it has.

use std::fmt;
use std::sync::Mutex;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::Notify;

use super::error::EngineError;
use super::names::{export_number, name_of};
use super::script::Script;
use super::{Engine, Shared, duration, lock};

/// Most purges in the list.
const MOST: usize = 1_000;
/// Snyk keeps files for so long: an older purge takes nothing more away.
const KEPT: Duration = Duration::from_hours(72);
/// A gateway that is cut off may serve for so long what it keeps: Snyk's links end by then.
pub(super) const CUT_OFF: Duration = Duration::from_hours(1);
/// The sequence that a gateway tells when it leaves.
const LEFT: i64 = -1;
/// A script without arguments of its own.
const NO_ARGUMENTS: &[&str] = &[];
/// Bounds of the pause between two looks at who has applied a purge.
const PAUSES: (Duration, Duration) = (Duration::from_millis(2), Duration::from_millis(10));

/// The exports that a purge takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PurgedExports {
    /// All.
    All,
    /// The one with this name on the engine.
    One(u128),
}

impl PurgedExports {
    /// An export of an org or group.
    #[must_use]
    pub fn of(scope: &str, export: &str) -> Self {
        Self::One(export_number(scope, export))
    }

    /// True for an export that is purged.
    #[must_use]
    pub fn has(self, scope: &str, export: &str) -> bool {
        match self {
            Self::All => true,
            Self::One(number) => number == export_number(scope, export),
        }
    }

    /// A word that is no name purges everything, so that none is left out.
    fn parse(word: &str) -> Self {
        u128::from_str_radix(word, 16).map_or(Self::All, Self::One)
    }
}

impl fmt::Display for PurgedExports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => f.write_str("*"),
            Self::One(number) => f.write_str(&name_of(*number)),
        }
    }
}

/// Purges that this gateway has to apply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MissedPurges {
    /// The exports.
    pub exports: Vec<PurgedExports>,
    /// To be told when they are purged.
    pub sequence: i64,
}

/// A gateway, and a purge.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GatewayPurge {
    /// The gateway's name, for people.
    pub name: String,
    /// True if it has applied the purge.
    pub has_applied: bool,
    /// The time since it was last heard of.
    pub silence: Duration,
}

/// The purges of the fleet, as this gateway has seen them.
#[derive(Debug, Default)]
pub(super) struct PurgeLog {
    applied: AtomicI64,
    newest: AtomicI64,
    /// There is a newer one than was applied.
    news: Notify,
    /// Purges of others that were applied.
    count: AtomicU64,
    /// Purges that the engine has not heard of: it was away. They are sent before anything else when it is back.
    unsent: Mutex<Vec<PurgedExports>>,
}

impl PurgeLog {
    /// The sequence that is applied.
    pub(super) fn applied(&self) -> i64 {
        self.applied.load(Ordering::SeqCst)
    }

    /// Number of purges that the fleet told and this gateway applied.
    pub(super) fn count(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }

    /// Hears of the newest purge.
    pub(super) fn heard(&self, newest: i64) {
        self.newest.fetch_max(newest, Ordering::SeqCst);
        if self.is_behind() {
            self.news.notify_one();
        }
    }

    /// True if there are purges that the engine has not heard of.
    pub(super) fn has_unsent(&self) -> bool {
        !lock(&self.unsent).is_empty()
    }

    /// Notes a purge that the engine has not heard of. Beyond so many, everything is to be purged.
    fn keep(&self, exports: PurgedExports) {
        let mut unsent = lock(&self.unsent);
        if unsent.len() >= MOST {
            *unsent = vec![PurgedExports::All];
        } else if !unsent.contains(&exports) {
            unsent.push(exports);
        }
    }

    fn is_behind(&self) -> bool {
        let applied = self.applied();
        applied != LEFT && self.newest.load(Ordering::SeqCst) > applied
    }
}

impl Shared {
    /// Purges on the engine and has all gateways purge. Waits for them, for `shared.purge_wait` at the most, and gives those
    /// that may keep something: this one, and all that were heard of within the hour.
    ///
    /// # Errors
    /// [`EngineError`]: some gateways may not know of it.
    pub async fn purge(&self, exports: PurgedExports) -> Result<Vec<GatewayPurge>, EngineError> {
        let inner = &self.0;
        let until = inner.clock.now().mono + inner.settings.purge_wait;
        let (mut sequence, mut pause) = (None, PAUSES.0);
        loop {
            let looked = inner.purge_and_look(exports, &mut sequence).await;
            let left = until.saturating_duration_since(inner.clock.now().mono);
            let is_done = |gateways: &Vec<GatewayPurge>| gateways.iter().all(|gateway| gateway.has_applied);
            if left.is_zero() || looked.as_ref().is_ok_and(is_done) {
                if sequence.is_none() {
                    inner.purges.keep(exports);
                }
                return looked;
            }
            // An engine that did not answer may do so the next time, and a purge may be made twice.
            tokio::time::sleep(pause.min(left)).await;
            pause = (pause * 2).min(PAUSES.1);
        }
    }

    /// Waits for purges that this gateway has not applied.
    pub async fn missed_purges(&self) -> MissedPurges {
        let purges = &self.0.purges;
        loop {
            purges.news.notified().await;
            if !purges.is_behind() {
                continue;
            }
            // After a failure, the next beat tells again that there are some.
            if let Ok(missed) = self.0.missed().await {
                return missed;
            }
        }
    }

    /// Tells that purges were applied.
    pub async fn applied(&self, missed: &MissedPurges) {
        let purges = &self.0.purges;
        purges.count.fetch_add(missed.exports.len() as u64, Ordering::Relaxed);
        if purges.applied() != LEFT {
            purges.applied.fetch_max(missed.sequence, Ordering::SeqCst);
            // Where it fails, the next beat tells it.
            let _ = self.0.beat().await;
        }
    }

    /// Tells that this gateway serves nothing more, so that no purge waits for it.
    pub async fn leave(&self) {
        self.0.purges.applied.store(LEFT, Ordering::SeqCst);
        let _ = self.0.beat().await;
    }
}

impl Engine {
    /// Purges, unless it has a number by now, and looks at who has applied it.
    async fn purge_and_look(
        &self,
        exports: PurgedExports,
        sequence: &mut Option<i64>,
    ) -> Result<Vec<GatewayPurge>, EngineError> {
        let number = match *sequence {
            Some(number) => number,
            None => *sequence.insert(self.purge(exports).await?),
        };
        let mut gateways = self.gateways(number).await?;
        if !gateways.iter().any(|gateway| gateway.name == self.name) {
            // The engine has lost their names, and learns them again from their beats.
            let (name, silence) = (self.name.clone(), Duration::ZERO);
            gateways.push(GatewayPurge { name, has_applied: false, silence });
        }
        Ok(gateways)
    }

    /// Sends the purges that the engine has not heard of.
    pub(super) async fn purge_unsent(&self) -> Result<(), EngineError> {
        loop {
            let Some(exports) = lock(&self.purges.unsent).pop() else { return Ok(()) };
            if let Err(error) = self.purge(exports).await {
                self.purges.keep(exports);
                return Err(error);
            }
        }
    }

    async fn purge(&self, exports: PurgedExports) -> Result<i64, EngineError> {
        let prefix = &self.settings.prefix;
        let mut keys = vec![self.fleet_key(), self.purges_key()];
        if let PurgedExports::One(number) = exports {
            keys.push(format!("{prefix}:x:{}", name_of(number)));
        }
        let applied = self.purges.applied().to_string();
        let own = [applied, exports.to_string(), self.channel(), MOST.to_string()];
        self.call(Script::Purge, &keys, &own).await?.number(2)
    }

    async fn missed(&self) -> Result<MissedPurges, EngineError> {
        // Before the call: a purge that comes meanwhile is not one that the engine has forgotten.
        let newest = self.purges.newest.load(Ordering::SeqCst);
        let keys = [self.fleet_key(), self.purges_key()];
        let own = [self.purges.applied().to_string(), KEPT.as_millis().to_string()];
        let reply = self.call(Script::Missed, &keys, &own).await?;
        let sequence = reply.number(2)?;
        if sequence < newest {
            // The engine has forgotten one that it told of.
            return Ok(MissedPurges { exports: vec![PurgedExports::All], sequence: newest });
        }
        let exports = (3..).map_while(|at| reply.text(at)).map(PurgedExports::parse).collect();
        Ok(MissedPurges { exports, sequence })
    }

    async fn gateways(&self, sequence: i64) -> Result<Vec<GatewayPurge>, EngineError> {
        let keys = [self.fleet_key(), self.gateways_key()];
        let reply = self.call(Script::Gateways, &keys, NO_ARGUMENTS).await?;
        let mut gateways = Vec::new();
        for at in (2..).step_by(3) {
            let Some(name) = reply.text(at) else { break };
            let has_applied = reply.number(at + 1)? >= sequence;
            let silence = duration(reply.number(at + 2)?);
            gateways.push(GatewayPurge { name: name.to_owned(), has_applied, silence });
        }
        gateways.sort_by(|one, other| one.name.cmp(&other.name));
        Ok(gateways)
    }

    fn purges_key(&self) -> String {
        format!("{}:purges", self.settings.prefix)
    }

    pub(super) fn gateways_key(&self) -> String {
        format!("{}:gateways", self.settings.prefix)
    }
}
