//! The task that keeps the connection: it connects, calls each second as a member, hears of holds, and connects again.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use super::connection::EngineConnection;
use super::error::EngineError;
use super::purges::CUT_OFF;
use super::script::{HoldMessage, Script, ScriptReply};
use super::{Engine, FleetNews, Live, Shared, duration, lock};

/// Interval of a member's calls.
const BEAT: Duration = Duration::from_secs(1);
/// Bounds of the pause between two tries to connect; it is chosen by chance below a bound that doubles.
const PAUSES: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(5));
/// Longest time to connect: name, TCP, TLS and the first answer.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

impl Shared {
    /// Keeps a connection, for ever.
    pub async fn run(self) {
        let inner = &*self.0;
        let mut bound = PAUSES.0;
        loop {
            match inner.connected().await {
                Ok(true) => bound = PAUSES.0,
                Ok(false) => {}
                Err(error) => {
                    lock(&inner.state).alone(&error, inner.clock.now());
                    inner.tell(FleetNews::Alone);
                }
            }
            tokio::time::sleep(bound.mul_f64(fastrand::f64())).await;
            bound = (bound * 2).min(PAUSES.1);
        }
    }
}

impl Engine {
    /// Keeps one connection until it breaks. True if it was of use.
    async fn connected(&self) -> Result<bool, EngineError> {
        let (sender, messages) = mpsc::unbounded_channel();
        let channel = self.channel();
        let opened = EngineConnection::open(&self.settings, &channel, sender);
        let opened = tokio::time::timeout(CONNECT_TIMEOUT, opened).await;
        let (connection, driver) = opened.unwrap_or(Err(EngineError::Timeout))?;
        self.counts.connected();
        self.timeouts.store(0, Ordering::SeqCst);
        lock(&self.time).forget();
        let live = Arc::new(Live {
            connection,
            given_up: CancellationToken::new(),
            has_beaten: AtomicBool::new(false),
        });
        self.connection.store(Some(Arc::clone(&live)));
        tokio::select! {
            () = driver => {
                self.judge(&live, &EngineError::Broken("closed by the engine".to_owned()), false);
            }
            () = live.given_up.cancelled() => {}
            () = self.beats() => {}
            () = self.hear(messages) => {}
        }
        self.connection.store(None);
        Ok(live.has_beaten.load(Ordering::SeqCst))
    }

    async fn beats(&self) {
        let mut ticks = tokio::time::interval(BEAT);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            // A failure was judged, and the next beat may do better.
            let _ = self.beat().await;
        }
    }

    /// Hears `NAME MILLISECONDS` of a hold, `purge SEQUENCE NAME` and `landed NAME` of a flight, until the connection ends.
    async fn hear(&self, mut messages: mpsc::UnboundedReceiver<HoldMessage>) {
        while let Some(HoldMessage(text)) = messages.recv().await {
            let words: Vec<&str> = text.split(' ').collect();
            match words.as_slice() {
                // A beat tells the number: a message may say anything.
                ["purge", _, _] => drop(self.beat().await),
                // Nobody may follow any.
                ["landed", name] => drop(self.landings.send((*name).into())),
                [name, left] => {
                    let Ok(left) = left.parse::<i64>() else { continue };
                    self.tell(FleetNews::Hold((*name).into(), (left > 0).then(|| duration(left))));
                }
                _ => {}
            }
        }
        // The end of the connection is seen by its driver.
        std::future::pending::<()>().await;
    }

    /// Calls as a member.
    pub(super) async fn beat(&self) -> Result<(), EngineError> {
        let silence = self.settings.silence.as_millis().to_string();
        let own = [
            self.id.clone(),
            self.split.clone(),
            silence,
            self.purges.applied().to_string(),
            self.name.clone(),
            CUT_OFF.as_millis().to_string(),
        ];
        let keys = [self.fleet_key(), self.gateways_key()];
        let reply = self.call(Script::Beat, &keys, &own).await?;
        self.purge_unsent().await?;
        self.purges.heard(reply.number(4)?);
        let place = u32::try_from(reply.number(1)?).unwrap_or(0);
        let members = u32::try_from(reply.number(2)?).unwrap_or(0);
        let has_own = place > 0 && place <= self.settings.gateways;
        self.note(place, members);
        self.tell(FleetNews::Up { has_own, members });
        self.hold(&reply);
        Ok(())
    }

    /// Notes the place among the members, and logs what should not be.
    fn note(&self, place: u32, members: u32) {
        let mut state = lock(&self.state);
        state.connected(self.clock.now());
        let before = std::mem::replace(&mut state.place, place);
        state.members = members;
        let gateways = self.settings.gateways;
        if place == before {
            return;
        }
        if place == 0 {
            tracing::warn!(
                "other gateways split the budget in another way; no own part for this one until they have stopped for a minute"
            );
        } else if place > gateways {
            tracing::error!(
                place,
                gateways,
                "more gateways than shared.gateways; no own part of the budget for this one: raise shared.gateways on all of them"
            );
        } else {
            tracing::info!(place, members, "member of the fleet");
        }
    }

    fn hold(&self, reply: &ScriptReply) {
        for at in (5..).step_by(2) {
            let (Some(name), Ok(left)) = (reply.text(at), reply.number(at + 1)) else { return };
            self.tell(FleetNews::Hold(name.into(), Some(duration(left))));
        }
    }
}
