//! The times at which a poller reads (pure).

use std::time::Duration;

use http::StatusCode;

use super::super::answer::{Cause, NoAnswer};
use super::super::fetch::FlightResult;
use crate::upstream::UpstreamErrorKind;

/// Pauses after the first reads.
const FIRST: [Duration; 4] =
    [Duration::from_secs(1), Duration::from_secs(1), Duration::from_secs(2), Duration::from_secs(3)];
/// The pause after each later read; jitter changes it by up to a tenth.
const LATER: Duration = Duration::from_secs(5);
/// Failures in a row that are waited through.
const MAX_FAILURES: u32 = 3;

/// The meaning of a read for those who wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ReadOutcome {
    /// The export goes on.
    Unfinished,
    /// Snyk is not to be asked for a while, and for how long, as far as is known.
    Held(Option<Duration>),
    /// A failure that may pass.
    Failed,
    /// Anything else is news.
    Ended,
}

impl ReadOutcome {
    pub(super) fn of(result: &FlightResult) -> Self {
        match result {
            Ok(fetched) if fetched.is_unfinished => Self::Unfinished,
            Ok(fetched) if fetched.status == StatusCode::TOO_MANY_REQUESTS => Self::Held(None),
            Ok(fetched) if fetched.status.is_server_error() => Self::Failed,
            Err(NoAnswer { cause: Cause::NotAdmitted(refusal), .. }) => Self::Held(Some(refusal.retry_after)),
            Err(NoAnswer { cause: Cause::Upstream(kind), .. }) if *kind != UpstreamErrorKind::Stopped => {
                Self::Failed
            }
            Err(NoAnswer { cause: Cause::TooManyFollowers | Cause::Abandoned, .. }) => Self::Failed,
            Ok(_) | Err(_) => Self::Ended,
        }
    }
}

/// The progress of a poller.
#[derive(Debug, Default)]
pub(super) struct PollSchedule {
    reads: usize,
    /// In a row.
    failures: u32,
}

impl PollSchedule {
    /// The pause after a read, from its end: a slow Snyk has pauses too. `jitter` is from 0 to 1. `None` if it was the last.
    pub(super) fn pause_after(&mut self, outcome: ReadOutcome, jitter: f64) -> Option<Duration> {
        let usual = FIRST.get(self.reads).copied().unwrap_or_else(|| LATER.mul_f64(0.9 + jitter / 5.0));
        self.reads += 1;
        self.failures = if outcome == ReadOutcome::Failed { self.failures + 1 } else { 0 };
        match outcome {
            ReadOutcome::Ended => None,
            ReadOutcome::Failed if self.failures > MAX_FAILURES => None,
            ReadOutcome::Held(Some(pause)) => Some(pause.max(usual)),
            ReadOutcome::Unfinished | ReadOutcome::Held(None) | ReadOutcome::Failed => Some(usual),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_are_close_at_first_and_then_every_five_seconds() {
        let mut schedule = PollSchedule::default();
        let pauses: Vec<f64> = [0.5, 0.5, 0.5, 0.5, 0.0, 0.5, 1.0]
            .into_iter()
            .filter_map(|jitter| schedule.pause_after(ReadOutcome::Unfinished, jitter))
            .map(|pause| pause.as_secs_f64())
            .collect();
        assert_eq!(pauses, [1.0, 1.0, 2.0, 3.0, 4.5, 5.0, 5.5]);
    }

    #[test]
    fn three_failures_in_a_row_are_waited_through_and_holds_as_long_as_they_say() {
        use ReadOutcome::{Ended, Failed, Held, Unfinished};
        let mut schedule = PollSchedule::default();
        let mut goes_on = |outcome| schedule.pause_after(outcome, 0.5).is_some();
        let row = [Failed, Failed, Failed, Unfinished, Failed, Failed, Held(None), Failed, Failed, Failed];
        assert!(row.into_iter().all(&mut goes_on));
        assert!(!goes_on(Failed));
        assert!(!goes_on(Ended));
        let minute = Duration::from_mins(1);
        assert_eq!(PollSchedule::default().pause_after(Held(Some(minute)), 0.5), Some(minute));
        let least = PollSchedule::default().pause_after(Held(Some(Duration::ZERO)), 0.5);
        assert_eq!(least, Some(Duration::from_secs(1)));
    }
}
