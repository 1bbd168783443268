//! The start calls of one scope: their backoff, and their limit where one is configured (pure; takes `now`).

use std::time::{Duration, Instant};

use super::backoff::Backoff;
use super::budget::{Budget, Limit};
use super::settings::LaneSettings;

/// The start calls of one scope.
#[derive(Debug)]
pub(super) struct ScopeStarts {
    pub(super) backoff: Backoff,
    pub(super) budget: Budget,
    /// Number under way: their answers must find this scope.
    pub(super) running: usize,
}

/// The limit of a scope's start calls, where there is one here.
pub(super) fn starts_limit(settings: &LaneSettings) -> Vec<Limit> {
    settings.starts.map_or_else(Vec::new, |most| vec![Limit { most, window: Duration::from_hours(1) }])
}

impl ScopeStarts {
    pub(super) fn new(settings: &LaneSettings) -> Self {
        let budget = Budget::new(starts_limit(settings), settings.margin);
        Self { backoff: Backoff::new(settings.backoff), budget, running: 0 }
    }

    /// The time of the next start.
    pub(super) fn free(&self, now: Instant) -> Instant {
        self.backoff.circuit.free_at(now).max(self.budget.next(now))
    }
}
