//! The refusals of requests that would wait too long, and the times that their clients are told to come back after.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::super::candidate::{AdmissionRefusal, Candidate, Obstacle};
use super::Rules;
use crate::circuit::Admits;

/// Longest time beyond the earliest one that a client is told to come back after.
const MAX_PROMISE: Duration = Duration::from_mins(1);

impl Rules {
    /// The backoff or the budget that closes the way, of the account or of a scope's starts, and its end.
    pub(super) fn closed_until(&self, start: Option<&Arc<str>>, now: Instant) -> Option<(Obstacle, Instant)> {
        let starts = start.and_then(|scope| self.starts.get(scope));
        let backoff =
            self.backoff.circuit.until(now).max(starts.and_then(|starts| starts.backoff.circuit.until(now)));
        let budget = self.room_from(now).max(starts.map_or(now, |starts| starts.budget.next(now)));
        match backoff {
            Some(until) if until >= budget => Some((Obstacle::Backoff, until)),
            _ => Some((Obstacle::Budget, budget)).filter(|_| budget > now),
        }
    }

    /// The answer to a request that waits in vain. Where the budget is short, each request of a client is told a time of its
    /// own, so that they do not come back at once; the clients that are told so share what there is.
    pub(super) fn refusal(&mut self, candidate: &Candidate, now: Instant) -> AdmissionRefusal {
        let (why, at) = match self.closed_until(candidate.start.as_ref(), now) {
            Some((Obstacle::Backoff, at)) => (Obstacle::Backoff, at),
            _ if !self.has_slot_for(&candidate.client) => (Obstacle::Concurrency, now),
            _ if self.backoff.circuit.admits(now) != Admits::All => (Obstacle::Backoff, now),
            closed => (Obstacle::Budget, closed.map_or(now, |(_, at)| at)),
        };
        let at = match why {
            Obstacle::Budget => self.promise(&candidate.client, at, now),
            // Snyk's own time, where it is later than ours.
            Obstacle::Backoff => at.max(now + self.told_pause(candidate.start.as_ref(), now)),
            Obstacle::Concurrency | Obstacle::Queue | Obstacle::Circuit(_) => at,
        };
        AdmissionRefusal {
            obstacle: why,
            retry_after: at.saturating_duration_since(now).max(Duration::from_secs(1)),
        }
    }

    /// The wait that Snyk asked for, of the account or of a scope's starts.
    fn told_pause(&self, start: Option<&Arc<str>>, now: Instant) -> Duration {
        let starts = start.and_then(|scope| self.starts.get(scope));
        self.backoff
            .retry_after(now)
            .max(starts.map_or(Duration::ZERO, |starts| starts.backoff.retry_after(now)))
    }

    fn promise(&mut self, client: &Arc<str>, earliest: Instant, now: Instant) -> Instant {
        self.promised.retain(|_, at| *at > now);
        let clients = u32::try_from(self.promised.len()).unwrap_or(u32::MAX).max(1);
        let interval = self.interval(now).saturating_mul(clients);
        let after = self.promised.get(client).map_or(earliest, |last| *last + interval);
        // A client that keeps asking is not told to stay away for ever.
        let at = after.max(earliest).min(earliest + MAX_PROMISE);
        self.promised.insert(Arc::clone(client), at);
        at
    }
}
