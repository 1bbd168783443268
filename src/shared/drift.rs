//! The engine's clock, compared with ours (pure; takes times).
//!
//! Windows are kept by the engine's wall clock alone. Were it set forward, grants would leave their windows too early. So each
//! answer bounds the difference of the clocks, and a lower bound that is above an earlier upper one shows that it ran ahead.

use std::time::{Duration, Instant};

use super::MAX_DRIFT;

/// Bounds older than twice this are forgotten. It is longer than a minute's window.
const MEMORY: Duration = Duration::from_secs(70);

/// The bounds of the last minute or two.
///
/// After a jump no answer is used before a new epoch has begun, nor one to a call that was made before that.
#[derive(Debug)]
pub(super) struct EngineClock {
    /// The beginning of our own time.
    base: Instant,
    since: Instant,
    /// The least upper bounds of the difference, of this period and the one before, in ms.
    current: Option<i64>,
    before: Option<i64>,
    /// It ran ahead, and no epoch has begun since.
    is_in_doubt: bool,
    /// The call that began the last epoch of ours.
    epoch: Option<Instant>,
}

/// A call, with the time that the engine told.
#[derive(Debug, Clone, Copy)]
pub(super) struct TimedCall {
    pub(super) asked: Instant,
    pub(super) received: Instant,
    /// Unix time in ms.
    pub(super) time: i64,
    /// True if it began an epoch.
    pub(super) begins_epoch: bool,
}

impl EngineClock {
    pub(super) const fn new(now: Instant) -> Self {
        Self { base: now, since: now, current: None, before: None, is_in_doubt: false, epoch: None }
    }

    /// Forgets everything: another connection may lead to another machine.
    pub(super) const fn forget(&mut self) {
        (self.current, self.before) = (None, None);
    }

    /// True if the answer to a call must not be used: the engine's clock has gone faster than ours by more than it may.
    pub(super) fn is_doubtful(&mut self, call: TimedCall) -> bool {
        let is_ahead = self.runs_ahead(call);
        if is_ahead {
            self.is_in_doubt = true;
        } else if call.begins_epoch {
            (self.is_in_doubt, self.epoch) = (false, Some(call.asked));
        }
        self.is_in_doubt || self.epoch.is_some_and(|epoch| call.asked < epoch)
    }

    /// True if the clock ran ahead. It is taken as it is from then on.
    fn runs_ahead(&mut self, call: TimedCall) -> bool {
        let TimedCall { asked, received, time, .. } = call;
        let ours = |at: Instant| super::milliseconds(at.saturating_duration_since(self.base));
        let (lower, upper) = (time - ours(received), time - ours(asked));
        let bound = [self.current, self.before].into_iter().flatten().min();
        let is_ahead = bound.is_some_and(|bound| lower > bound + super::milliseconds(MAX_DRIFT));
        if is_ahead {
            self.forget();
        }
        if received.saturating_duration_since(self.since) > MEMORY {
            (self.before, self.current, self.since) = (self.current, None, received);
        }
        self.current = Some(self.current.map_or(upper, |bound| bound.min(upper)));
        is_ahead
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Calls at some times, in ms, each with the engine's; the answers that must not be used.
    fn doubtful(calls: &[(u64, u64, i64, bool)]) -> Vec<bool> {
        let base = Instant::now();
        let at = |ms| base + Duration::from_millis(ms);
        let mut clock = EngineClock::new(base);
        let one = |&(asked, received, time, begins_epoch): &(u64, u64, i64, bool)| {
            clock.is_doubtful(TimedCall { asked: at(asked), received: at(received), time, begins_epoch })
        };
        calls.iter().map(one).collect()
    }

    #[test]
    fn a_clock_that_is_set_forward_is_found_and_a_slow_answer_is_no_clock() {
        let calls = [
            (0, 2, 1_000_000, false),
            // The answer took four seconds, and the time in it may be of any moment of these.
            (1_000, 5_000, 1_004_900, false),
            (6_000, 6_002, 1_006_090, false),
        ];
        assert_eq!(doubtful(&calls), [false; 3]);
        assert_eq!(doubtful(&[(0, 2, 1_000, false), (1_000, 1_002, 2_110, false)]), [false, true]);
        // A jump is seen a minute later too.
        assert_eq!(doubtful(&[(0, 2, 1_000, false), (68_000, 68_002, 69_300, false)]), [false, true]);
    }

    #[test]
    fn after_a_jump_nothing_is_used_that_was_asked_before_the_new_epoch() {
        let calls = [
            (0, 2, 1_000, false),
            (10, 12, 6_010, false),
            // Another call of that moment: the clock is the new one already.
            (11, 13, 6_011, false),
            (20, 22, 6_020, true),
            (19, 23, 6_020, false),
            (30, 32, 6_030, false),
        ];
        assert_eq!(doubtful(&calls), [false, true, true, false, true, false]);
    }

    #[test]
    fn a_clock_that_is_a_little_fast_is_no_jump() {
        // 500 parts in a million, the most that NTP slews.
        let call = |second: u64| {
            let time = i64::try_from(second * 1_000 + second / 2).expect("a time");
            (second * 1_000, second * 1_000 + 1, time, false)
        };
        assert!(!doubtful(&(0..100_000).map(call).collect::<Vec<_>>()).contains(&true));
    }
}
