//! The engine that many machines share (Valkey or Redis): one ledger of requests for each lane, holds, and the members of the fleet
//! (0016). Bytes and numbers go in and out; what they stand for is known to others.
//!
//! Nobody waits for a sick engine: after two time-outs in a row, or one failure of another kind, the gateway is *alone* until a
//! connection is made again. An answer is used only where the engine's clock went no faster than ours.

#![cfg_attr(
    not(feature = "shared"),
    allow(dead_code, reason = "a build without the engine's client connects to none")
)]

#[cfg(feature = "shared")]
mod connection;
#[cfg(not(feature = "shared"))]
#[path = "absent.rs"]
mod connection;
mod drift;
mod error;
mod examination;
mod flight;
mod named;
mod names;
mod purges;
mod script;
mod seal;
mod settings;
mod starts;
mod status;
mod supervisor;

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use tokio::sync::broadcast;
use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use connection::EngineConnection;
use drift::{EngineClock, TimedCall};
use purges::PurgeLog;
use script::{Script, ScriptReply};
use status::{Counts, StateLog};

pub use error::EngineError;
pub use examination::{Finding, Judgement, examine};
pub use flight::{
    Claimed, FlightClaim, FlightPlace, FlightStart, KeptValue, Landed, Landing, Landings, Lead,
};
pub use named::{NamedAct, NamedPlace, NamedSeen};
pub use names::{export_name, hashed};
pub use purges::{GatewayPurge, MissedPurges, PurgedExports};
pub use seal::SealKeys;
pub use settings::{EngineAddress, Settings};
pub use starts::{ExportFate, NewStart, StartSeen};
pub use status::{EngineState, SharedStatus};

/// A request with a grant is sent within this time of asking for it. Windows are longer by it.
const LEASE: Duration = Duration::from_millis(500);
/// The part of it between the last look at the clock and the send.
const SENDING: Duration = Duration::from_millis(100);
/// The engine's clock may run ahead of ours by so much in a minute. Windows are longer by it.
const MAX_DRIFT: Duration = Duration::from_millis(100);
/// Longest time between two calls of all members; after a longer one nothing is known of the clock.
const MAX_GAP: Duration = Duration::from_secs(10);
/// Added to each window of a ledger, besides its own margin.
pub const MARGIN: Duration = LEASE.saturating_add(MAX_DRIFT);

/// At most so many grants in any time of a length.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LedgerLimit {
    /// Most grants.
    pub most: u32,
    /// The length.
    pub length: Duration,
    /// True if the second half is spread over the time that is left.
    pub is_paced: bool,
}

/// The ledger of the requests that count together.
#[derive(Debug, Clone)]
pub struct Ledger {
    /// Its name, the same on all machines. It tells nobody what it stands for.
    pub name: Arc<str>,
    /// Its limits, for a ledger that begins.
    pub limits: Vec<LedgerLimit>,
    /// The part of them, in thousandths, that may be granted now.
    pub part: u32,
}

/// A message about a hold, with a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HoldChange {
    /// None.
    None,
    /// Nobody is to send for so long.
    Begin(Duration),
    /// The probe was good.
    End,
}

/// The answer to a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reservation {
    /// Number of grants.
    pub granted: u32,
    /// The time by which they must be used.
    pub until: Instant,
    /// The time at which more may fit.
    pub free: Instant,
    /// Time left of a hold.
    pub hold: Duration,
}

/// News of the fleet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FleetNews {
    /// The engine answers.
    Up {
        /// True if this member has an own part.
        has_own: bool,
        /// Number of members.
        members: u32,
    },
    /// It does not.
    Alone,
    /// A hold of a ledger, and its time left: none where it has ended.
    Hold(Arc<str>, Option<Duration>),
}

type NewsListener = Box<dyn Fn(FleetNews) + Send + Sync>;

/// The engine. Clones share everything.
#[derive(Debug, Clone)]
pub struct Shared(Arc<Engine>);

struct Engine {
    settings: Settings,
    clock: Clock,
    /// Names this process among the members.
    id: String,
    /// Names it for people.
    name: String,
    /// The split of the limits, as text: all members of a fleet have the same.
    split: String,
    connection: ArcSwapOption<Live>,
    timeouts: AtomicU32,
    time: Mutex<EngineClock>,
    /// The engine's clock ran ahead: its ledgers are to be shut.
    is_ahead: AtomicBool,
    listener: OnceLock<NewsListener>,
    /// The names of flights that have landed.
    landings: broadcast::Sender<Arc<str>>,
    state: Mutex<StateLog>,
    counts: Counts,
    purges: PurgeLog,
}

/// The connection in use.
#[derive(Debug)]
struct Live {
    connection: EngineConnection,
    /// It is not to be used any more.
    given_up: CancellationToken,
    /// True after the first beat: what a former server process left is gone, and so is what was purged while it was away.
    has_beaten: AtomicBool,
}

impl fmt::Debug for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").field("settings", &self.settings).finish_non_exhaustive()
    }
}

impl Shared {
    /// Not connected yet. `split` says how the limits are split.
    #[must_use]
    pub fn new(settings: Settings, clock: Clock, split: String) -> Self {
        let now = clock.now();
        let id = uuid::Uuid::new_v4().to_string();
        Self(Arc::new(Engine {
            settings,
            name: names::of_gateway(&id),
            id,
            split,
            connection: ArcSwapOption::empty(),
            timeouts: AtomicU32::new(0),
            time: Mutex::new(EngineClock::new(now.mono)),
            is_ahead: AtomicBool::new(false),
            listener: OnceLock::new(),
            landings: broadcast::Sender::new(flight::MOST_LANDINGS),
            state: Mutex::new(StateLog::new(now)),
            counts: Counts::default(),
            purges: PurgeLog::default(),
            clock,
        }))
    }

    /// Has `listener` told of the fleet's news; the first one stays.
    pub fn on_news(&self, listener: impl Fn(FleetNews) + Send + Sync + 'static) {
        let _ = self.0.listener.set(Box::new(listener));
    }

    /// Asks for grants, and tells of a hold. It takes `shared.timeout` at the most.
    ///
    /// # Errors
    /// [`EngineError`]: there are no grants.
    pub async fn reserve(
        &self,
        ledger: &Ledger,
        wanted: u32,
        hold: HoldChange,
    ) -> Result<Reservation, EngineError> {
        let inner = &self.0;
        let asked = inner.clock.now().mono;
        let told = match hold {
            HoldChange::None => 0,
            HoldChange::Begin(left) => milliseconds(left).max(1),
            HoldChange::End => -1,
        };
        let keys = [inner.fleet_key(), format!("{}:{}", inner.settings.prefix, ledger.name)];
        let own = [
            wanted.to_string(),
            told.to_string(),
            ledger.name.to_string(),
            inner.channel(),
            limits(&ledger.limits),
            ledger.part.to_string(),
        ];
        let reply = inner.call(Script::Reserve, &keys, &own).await?;
        let received = inner.clock.now().mono;
        let granted = u32::try_from(reply.number(1)?).map_err(|_| EngineError::Unreadable)?;
        let [free, hold, shut] = [reply.number(2)?, reply.number(3)?, reply.number(4)?].map(duration);
        lock(&inner.state).shut(&ledger.name, (!shut.is_zero()).then_some(received + shut));
        inner.counts.granted(granted);
        Ok(Reservation { granted, until: asked + LEASE.saturating_sub(SENDING), free: received + free, hold })
    }

    /// The state for people.
    #[must_use]
    pub fn status(&self) -> SharedStatus {
        let now = self.0.clock.now();
        let purges = self.0.purges.count();
        SharedStatus {
            purges,
            has_answers: self.has_answers(),
            ..lock(&self.0.state).status(&self.0.counts, self.0.settings.gateways, now)
        }
    }

    /// The name of this gateway, for people.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// True if there may be other gateways.
    pub(crate) fn has_others(&self) -> bool {
        self.0.settings.gateways > 1
    }

    /// The engine's address. No secret is in it.
    #[must_use]
    pub fn address(&self) -> String {
        self.0.settings.address.to_string()
    }
}

impl Engine {
    /// Runs a script, and looks at the engine's clock in its answer.
    async fn call(
        &self,
        script: Script,
        keys: &[String],
        own: &[impl AsRef<[u8]>],
    ) -> Result<ScriptReply, EngineError> {
        let live = self.connection.load_full();
        let begins = matches!(script, Script::Beat | Script::Purge);
        let live = live.filter(|live| begins || live.has_beaten.load(Ordering::SeqCst));
        let live = live.ok_or(EngineError::Away)?;
        let asked = self.clock.now().mono;
        let is_ahead = self.is_ahead.swap(false, Ordering::SeqCst);
        let gap = MAX_GAP.as_millis().to_string();
        let common = [script::FORMAT.as_bytes(), gap.as_bytes(), if is_ahead { b"1" } else { b"0" }];
        let arguments: Vec<&[u8]> = common.into_iter().chain(own.iter().map(AsRef::as_ref)).collect();
        let called =
            tokio::time::timeout(self.settings.timeout, live.connection.run(script, keys, &arguments));
        let reply = called.await.unwrap_or(Err(EngineError::Timeout)).and_then(ScriptReply::checked);
        let reply = reply.and_then(|reply| {
            let (received, time) = (self.clock.now().mono, reply.number(script.place_of_time())?);
            let timed = TimedCall { asked, received, time, begins_epoch: is_ahead };
            if lock(&self.time).is_doubtful(timed) {
                return Err(EngineError::ClockAhead);
            }
            Ok(reply)
        });
        match &reply {
            Ok(_) => {
                self.timeouts.store(0, Ordering::SeqCst);
                // Its first beat sends the purges that it has not heard of.
                if !self.purges.has_unsent() {
                    live.has_beaten.store(true, Ordering::SeqCst);
                }
                self.counts.answered();
            }
            Err(error) => self.judge(&live, error, is_ahead),
        }
        reply
    }

    /// Gives the connection up where it is of no use any more.
    fn judge(&self, live: &Live, error: &EngineError, was_ahead: bool) {
        self.counts.failed(error);
        if was_ahead || *error == EngineError::ClockAhead {
            self.is_ahead.store(true, Ordering::SeqCst);
        }
        let is_first_timeout =
            *error == EngineError::Timeout && self.timeouts.fetch_add(1, Ordering::SeqCst) == 0;
        let is_over = !is_first_timeout && *error != EngineError::ClockAhead;
        if is_over && !live.given_up.is_cancelled() {
            live.given_up.cancel();
            lock(&self.state).alone(error, self.clock.now());
            self.tell(FleetNews::Alone);
        }
    }

    fn tell(&self, news: FleetNews) {
        if let Some(listener) = self.listener.get() {
            listener(news);
        }
    }

    fn fleet_key(&self) -> String {
        format!("{}:fleet", self.settings.prefix)
    }

    fn channel(&self) -> String {
        format!("{}:holds", self.settings.prefix)
    }
}

/// Limits as the script reads them.
fn limits(limits: &[LedgerLimit]) -> String {
    let one = |limit: &LedgerLimit| {
        format!("{}:{}:{}", limit.most, limit.length.as_millis(), u8::from(limit.is_paced))
    };
    limits.iter().map(one).collect::<Vec<_>>().join(",")
}

fn milliseconds(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

fn duration(milliseconds: i64) -> Duration {
    Duration::from_millis(milliseconds.unsigned_abs())
}

/// A panic while it was locked left it whole: each change is one call.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
