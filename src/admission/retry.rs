//! Another try of a read that failed: its pause, and the allowance of all retries (pure).

use std::time::Duration;

/// `[retry]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetrySettings {
    /// Most tries after the first.
    pub most: u32,
    /// The longest pause before the first of them; each later one may be twice as long.
    pub pause: Duration,
    /// Retries in a hundred requests.
    pub percent: u32,
}

/// The longest pause of all.
const MAX_PAUSE: Duration = Duration::from_secs(5);
/// Cost of a retry, in hundredths of a first send's share.
const COST: u32 = 100;
/// So many retries may be saved up.
const SAVED: u32 = 10;

/// The allowance of retries: a part of what is sent, so that an upstream in trouble is not sent twice as much.
#[derive(Debug)]
pub(super) struct Allowance {
    percent: u32,
    left: u32,
}

impl Allowance {
    /// A full one.
    pub(super) const fn new(percent: u32) -> Self {
        Self { percent, left: SAVED * COST }
    }

    /// Goes by another part from now on.
    pub(super) fn set(&mut self, percent: u32) {
        self.percent = percent;
    }

    /// A request is sent for the first time.
    pub(super) fn sent(&mut self) {
        self.left = (self.left + self.percent).min(SAVED * COST);
    }

    /// Takes one retry, if there is one.
    pub(super) fn take(&mut self) -> bool {
        let left = self.left.checked_sub(COST);
        self.left = left.unwrap_or(self.left);
        left.is_some()
    }
}

/// The pause before try number `tries` + 1 of a read that failed; `None` where there are no more tries.
/// `chance` is between 0 and 1 (full jitter); `left` is the time that its client still waits.
pub(super) fn pause(tries: u32, chance: f64, left: Duration, settings: &RetrySettings) -> Option<Duration> {
    if tries > settings.most {
        return None;
    }
    let longest = settings.pause.saturating_mul(1 << tries.saturating_sub(1).min(16)).min(MAX_PAUSE);
    Some(longest.mul_f64(chance.clamp(0.0, 1.0))).filter(|pause| *pause < left)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SETTINGS: RetrySettings = RetrySettings { most: 2, pause: Duration::from_millis(100), percent: 10 };

    #[test]
    fn pauses_double_and_there_are_not_many() {
        let pauses = [1, 2, 3].map(|tries| pause(tries, 1.0, Duration::from_mins(1), &SETTINGS));
        assert_eq!(pauses, [Some(Duration::from_millis(100)), Some(Duration::from_millis(200)), None]);
        assert_eq!(pause(1, 0.5, Duration::from_millis(50), &SETTINGS), None);
        assert_eq!(pause(1, 0.0, Duration::from_millis(50), &SETTINGS), Some(Duration::ZERO));
    }

    #[test]
    fn retries_are_a_tenth_of_what_is_sent_beyond_what_was_saved_up() {
        let mut allowance = Allowance::new(10);
        assert_eq!((0..100).filter(|_| allowance.take()).count(), 10);
        let mut retries = 0;
        for _ in 0..1_000 {
            allowance.sent();
            retries += u32::from(allowance.take());
        }
        assert_eq!(retries, 100);
    }
}
