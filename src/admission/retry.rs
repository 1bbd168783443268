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

/// The retries that may follow: a part of what is sent, so that an upstream in trouble is not sent twice as much.
#[derive(Debug)]
pub(super) struct Retries {
    pub(super) settings: RetrySettings,
    left: u32,
}

impl Retries {
    /// A full allowance.
    pub(super) const fn new(settings: RetrySettings) -> Self {
        Self { settings, left: SAVED * COST }
    }

    /// A request is sent for the first time.
    pub(super) fn sent(&mut self) {
        self.left = (self.left + self.settings.percent).min(SAVED * COST);
    }

    /// The pause before try number `tries` + 1 of a read that failed; `None` where there are no more tries, or the allowance
    /// is used up. `chance` is between 0 and 1 (full jitter); `wait` is the time that its client still waits.
    pub(super) fn next(&mut self, tries: u32, chance: f64, wait: Duration) -> Option<Duration> {
        let RetrySettings { most, pause, .. } = self.settings;
        if tries > most {
            return None;
        }
        let longest = pause.saturating_mul(1 << tries.saturating_sub(1).min(16)).min(MAX_PAUSE);
        let pause = Some(longest.mul_f64(chance.clamp(0.0, 1.0))).filter(|pause| *pause < wait)?;
        self.left = self.left.checked_sub(COST)?;
        Some(pause)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SETTINGS: RetrySettings = RetrySettings { most: 2, pause: Duration::from_millis(100), percent: 10 };

    #[test]
    fn pauses_double_and_there_are_not_many() {
        let mut retries = Retries::new(SETTINGS);
        let pauses = [1, 2, 3].map(|tries| retries.next(tries, 1.0, Duration::from_mins(1)));
        assert_eq!(pauses, [Some(Duration::from_millis(100)), Some(Duration::from_millis(200)), None]);
        assert_eq!(retries.next(1, 0.5, Duration::from_millis(50)), None);
        assert_eq!(retries.next(1, 0.0, Duration::from_millis(50)), Some(Duration::ZERO));
    }

    #[test]
    fn retries_are_a_tenth_of_what_is_sent_beyond_what_was_saved_up() {
        let mut allowance = Retries::new(SETTINGS);
        let mut is_retried = |first: bool| {
            if first {
                allowance.sent();
            }
            allowance.next(1, 0.0, Duration::from_secs(1)).is_some()
        };
        assert_eq!((0..100).filter(|_| is_retried(false)).count(), 10);
        let mut retries = 0;
        for _ in 0..1_000 {
            retries += u32::from(is_retried(true));
        }
        assert_eq!(retries, 100);
    }
}
