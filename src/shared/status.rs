//! The state of the shared engine, for people.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::error::EngineError;
use crate::clock::Now;

/// The state of the engine, as this gateway sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EngineState {
    /// It answers, and the common part is open.
    Up,
    /// It does not answer: this gateway has its own part alone.
    Alone,
    /// It answers, and the common part is shut until what may have been granted has left the windows.
    Shut,
}

impl EngineState {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Up, Self::Alone, Self::Shut];

    /// A word for status and metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Alone => "alone",
            Self::Shut => "shut",
        }
    }
}

/// The state for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SharedStatus {
    /// The state.
    pub state: EngineState,
    /// The time for which it has been connected or away.
    pub age: Duration,
    /// The reason where it is away.
    pub detail: Option<String>,
    /// Time until the common part is open.
    pub shut_for: Duration,
    /// Place among the members; 0 where they have another split of the limits.
    pub place: u32,
    /// Number of members.
    pub members: u32,
    /// Most members that have an own part.
    pub gateways: u32,
    /// Calls that the engine answered.
    pub answered: u64,
    /// Calls that timed out.
    pub timeouts: u64,
    /// Calls that failed in another way.
    pub failures: u64,
    /// Requests that were granted.
    pub granted: u64,
    /// Connections that were made.
    pub connections: u64,
    /// True if answers are shared (`shared.key_file`).
    pub has_answers: bool,
    /// Stored responses of other gateways that were taken.
    pub entries_taken: u64,
    /// Other answers of theirs that were taken.
    pub answers_taken: u64,
    /// Stored responses that were given to the others.
    pub entries_stored: u64,
}

impl SharedStatus {
    /// True if this gateway has an own part.
    #[must_use]
    pub const fn has_own_part(&self) -> bool {
        matches!(self.state, EngineState::Alone) || (self.place > 0 && self.place <= self.gateways)
    }
}

/// The state and its history.
#[derive(Debug)]
pub(super) struct StateLog {
    since: Instant,
    is_connected: bool,
    detail: Option<String>,
    /// The ledgers that are shut, and the times at which they open.
    shut: HashMap<Arc<str>, Instant>,
    pub(super) place: u32,
    pub(super) members: u32,
}

impl StateLog {
    pub(super) fn new(now: Now) -> Self {
        let detail = Some("not connected yet".to_owned());
        Self { since: now.mono, is_connected: false, detail, shut: HashMap::new(), place: 0, members: 0 }
    }

    /// It answers.
    pub(super) fn connected(&mut self, now: Now) {
        if !self.is_connected {
            (self.since, self.is_connected, self.detail) = (now.mono, true, None);
            tracing::info!("shared engine answers");
        }
    }

    /// It does not answer.
    pub(super) fn alone(&mut self, why: &EngineError, now: Now) {
        if self.is_connected {
            (self.since, self.is_connected) = (now.mono, false);
            tracing::warn!(error = %why, "shared engine is away; sending with this gateway's own part of the budget alone");
        } else if self.detail.as_deref() != Some(&why.to_string()) {
            tracing::warn!(error = %why, "shared engine cannot be reached; sending with this gateway's own part of the budget alone");
        }
        self.detail = Some(why.to_string());
    }

    /// A ledger is shut until this time.
    pub(super) fn shut(&mut self, ledger: &Arc<str>, until: Option<Instant>) {
        let was_shut = self.shut.contains_key(ledger);
        if let Some(until) = until {
            self.shut.insert(Arc::clone(ledger), until);
            if !was_shut {
                tracing::warn!(
                    ledger = %ledger,
                    "common part of the budget is shut: the shared engine is new, lost its data, or its clock jumped; it opens when all earlier requests have left the windows"
                );
            }
        } else if was_shut {
            self.shut.remove(ledger);
            tracing::info!(ledger = %ledger, "common part of the budget is open");
        }
    }

    pub(super) fn status(&self, counts: &Counts, gateways: u32, now: Now) -> SharedStatus {
        let left = self.shut.values().map(|until| until.saturating_duration_since(now.mono));
        let left = left.max().unwrap_or_default();
        let state = match (self.is_connected, left.is_zero()) {
            (false, _) => EngineState::Alone,
            (true, false) => EngineState::Shut,
            (true, true) => EngineState::Up,
        };
        let of = |count: &AtomicU64| count.load(Ordering::Relaxed);
        SharedStatus {
            state,
            age: now.mono.saturating_duration_since(self.since),
            detail: self.detail.clone(),
            shut_for: left,
            place: self.place,
            members: self.members,
            gateways,
            answered: of(&counts.answered),
            timeouts: of(&counts.timeouts),
            failures: of(&counts.failures),
            granted: of(&counts.granted),
            connections: of(&counts.connections),
            has_answers: false,
            entries_taken: of(&counts.entries_taken),
            answers_taken: of(&counts.answers_taken),
            entries_stored: of(&counts.entries_stored),
        }
    }
}

/// Counters.
#[derive(Debug, Default)]
pub(super) struct Counts {
    answered: AtomicU64,
    timeouts: AtomicU64,
    failures: AtomicU64,
    granted: AtomicU64,
    connections: AtomicU64,
    entries_taken: AtomicU64,
    answers_taken: AtomicU64,
    entries_stored: AtomicU64,
}

impl Counts {
    pub(super) fn answered(&self) {
        self.answered.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn failed(&self, error: &EngineError) {
        let count = if *error == EngineError::Timeout { &self.timeouts } else { &self.failures };
        count.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn granted(&self, count: u32) {
        self.granted.fetch_add(count.into(), Ordering::Relaxed);
    }

    pub(super) fn connected(&self) {
        self.connections.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn took_entry(&self) {
        self.entries_taken.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn took_answer(&self) {
        self.answers_taken.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn stored_entry(&self) {
        self.entries_stored.fetch_add(1, Ordering::Relaxed);
    }
}
