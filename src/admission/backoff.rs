//! The backoff after a 429: nothing is sent until it is over, then one probe, then a ramp (pure; takes `now`).

use std::time::{Duration, Instant};

use crate::circuit::{Admits, Circuit, Phase};

/// `[backoff]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BackoffSettings {
    /// Length of a backoff where the 429 does not say.
    pub usual: Duration,
    /// Longest backoff of ours, whatever the 429 says.
    pub most: Duration,
    /// Requests in the first second after a backoff; each later second allows twice as many.
    pub ramp: u32,
}

/// Shortest backoff.
const SHORTEST: Duration = Duration::from_secs(1);
/// A 429 comes at once: a probe that takes longer may hang for another reason, and the next request is a probe too.
const PROBE_LIMIT: Duration = Duration::from_secs(5);
/// A `Retry-After` beyond this is not believed (561,600 s were seen), and clients are told this much.
const LONGEST_TOLD: Duration = Duration::from_hours(24);

/// One backoff. Two times count: that of our next request, which `backoff.max` bounds, and the one that Snyk named, which
/// clients are told.
#[derive(Debug)]
pub(super) struct Backoff {
    pub(super) settings: BackoffSettings,
    pub(super) circuit: Circuit,
    told_until: Option<Instant>,
}

impl Backoff {
    pub(super) fn new(settings: BackoffSettings) -> Self {
        Self { settings, circuit: Circuit::default(), told_until: None }
    }

    /// Counts a request that is sent at `now`. `true` for the probe.
    pub(super) fn sent(&mut self, now: Instant) -> bool {
        self.circuit.pass_within(PROBE_LIMIT, now)
    }

    /// A request was answered 429, with this `Retry-After`. After a probe, the pause is at least twice the one before.
    /// `jitter` keeps many gateways from coming back at once.
    pub(super) fn refused(
        &mut self,
        retry_after: Option<Duration>,
        is_probe: bool,
        jitter: Duration,
        now: Instant,
    ) {
        let asked = retry_after.unwrap_or(self.settings.usual).clamp(SHORTEST, LONGEST_TOLD);
        let doubled = self.circuit.pause().filter(|_| is_probe).map_or(Duration::ZERO, |before| before * 2);
        let pause = (asked.max(doubled) + jitter).min(self.settings.most);
        self.circuit.open(pause, now);
        if retry_after.is_some() {
            self.told_until = self.told_until.max(Some(now + asked));
        }
    }

    /// An answer came that is no 429. The probe's ends the backoff.
    pub(super) fn answered(&mut self, is_probe: bool, now: Instant) {
        if is_probe {
            self.circuit.close(Some(self.settings.ramp), now);
            self.told_until = None;
        }
    }

    /// The upstream is back after its circuit was open: those who waited come by a ramp.
    pub(super) fn ramp(&mut self, now: Instant) {
        if self.circuit.is_closed() {
            self.circuit.close(Some(self.settings.ramp), now);
        }
    }

    /// The wait that clients are told: Snyk's own, counted down, where it is longer than ours.
    pub(super) fn retry_after(&self, now: Instant) -> Duration {
        let until = self.circuit.until(now).max(self.told_until);
        until.map_or(Duration::ZERO, |until| until.saturating_duration_since(now))
    }

    /// True if it need not be remembered any more.
    pub(super) fn is_over(&self, now: Instant) -> bool {
        let told = self.told_until.is_some_and(|until| until > now);
        match self.circuit.standing(now).phase {
            Phase::Closed => true,
            Phase::HalfOpen => !told && self.circuit.admits(now) == Admits::Probe,
            Phase::Open | Phase::Ramp => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn backoff() -> Backoff {
        Backoff::new(BackoffSettings { usual: seconds(60), most: seconds(600), ramp: 2 })
    }

    #[test]
    fn one_429_stops_everything_then_one_probe_and_a_ramp() {
        let (mut backoff, begin) = (backoff(), Instant::now());
        backoff.refused(Some(seconds(30)), false, seconds(1), begin);
        assert_eq!(backoff.circuit.admits(begin), Admits::NoneBefore(begin + seconds(31)));
        // Answers to requests that were sent before it change nothing.
        backoff.refused(Some(seconds(5)), false, Duration::ZERO, begin + seconds(1));
        backoff.answered(false, begin + seconds(1));
        assert_eq!(backoff.circuit.until(begin), Some(begin + seconds(31)));
        assert!(backoff.sent(begin + seconds(31)));
        backoff.answered(true, begin + seconds(32));
        assert_eq!(backoff.circuit.admits(begin + seconds(32)), Admits::All);
        assert_eq!(backoff.circuit.standing(begin + seconds(32)).phase, Phase::Ramp);
    }

    #[test]
    fn a_refused_probe_doubles_the_pause_up_to_the_most() {
        let (mut backoff, mut now) = (backoff(), Instant::now());
        let (mut pauses, mut is_probe) = (Vec::new(), false);
        for _ in 0..6 {
            backoff.refused(None, is_probe, Duration::ZERO, now);
            let until = backoff.circuit.until(now).expect("a backoff");
            pauses.push(until.duration_since(now).as_secs() / 60);
            now = until;
            is_probe = backoff.sent(now);
            assert!(is_probe);
        }
        assert_eq!(pauses, [1, 2, 4, 8, 10, 10]);
    }

    #[test]
    fn clients_are_told_snyks_own_time_and_an_absurd_one_is_capped() {
        let (mut backoff, now) = (backoff(), Instant::now());
        backoff.refused(Some(seconds(3_600)), false, seconds(2), now);
        assert_eq!(backoff.circuit.until(now), Some(now + seconds(600)));
        assert_eq!(backoff.retry_after(now + seconds(60)), seconds(3_540));
        // Our own pause is over, and a probe may go; those who ask before its answer are told Snyk's time still.
        assert!(!backoff.is_over(now + seconds(700)));
        assert_eq!(backoff.retry_after(now + seconds(700)), seconds(2_900));
        assert!(backoff.is_over(now + seconds(3_600)));
        backoff.refused(Some(seconds(561_600)), false, Duration::ZERO, now);
        assert_eq!(backoff.retry_after(now), LONGEST_TOLD);
        backoff.refused(None, false, Duration::ZERO, now);
        assert!(backoff.sent(now + seconds(600)));
        backoff.answered(true, now + seconds(601));
        assert_eq!(backoff.retry_after(now + seconds(601)), Duration::ZERO);
    }
}
