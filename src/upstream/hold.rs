//! What a 429 does: nothing is sent until its time is over, then one probe, then ever more (pure; takes `now`).

use std::time::{Duration, Instant};

/// How holds go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// How long, where the 429 does not say.
    pub usual: Duration,
    /// The longest, whatever is said.
    pub most: Duration,
    /// Requests in the first second after a hold; each second allows twice as many.
    pub ramp: u32,
}

/// The shortest hold.
const SHORTEST: Duration = Duration::from_secs(1);
/// After so many seconds of doubling, a ramp is over.
const RAMP_SECONDS: u64 = 10;

/// Whether sends are held back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Open,
    Held {
        until: Instant,
        length: Duration,
    },
    /// The hold is over and one request is on its way to see.
    Probing {
        length: Duration,
    },
    Ramp {
        since: Instant,
        sent: u64,
    },
}

/// One hold.
#[derive(Debug)]
pub struct Hold {
    settings: Settings,
    state: State,
}

/// What may be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum May {
    /// Anything.
    Send,
    /// One request, as a probe.
    Probe,
    /// Nothing before this time.
    WaitUntil(Instant),
    /// Nothing before the probe has come back.
    WaitForProbe,
}

impl Hold {
    /// None.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        Self { settings, state: State::Open }
    }

    /// What may be sent at `now`.
    #[must_use]
    pub fn may(&self, now: Instant) -> May {
        match self.state {
            State::Open => May::Send,
            State::Held { until, .. } if now < until => May::WaitUntil(until),
            State::Held { .. } => May::Probe,
            State::Probing { .. } => May::WaitForProbe,
            State::Ramp { since, sent } => {
                let seconds = now.saturating_duration_since(since).as_secs();
                // After s whole seconds, (2^(s+1) - 1) times the ramp in all.
                let allowed = u64::from(self.settings.ramp) * ((2_u64 << seconds.min(RAMP_SECONDS)) - 1);
                if seconds >= RAMP_SECONDS || sent < allowed {
                    May::Send
                } else {
                    May::WaitUntil(since + Duration::from_secs(seconds + 1))
                }
            }
        }
    }

    /// Whether there is no hold, and none was lately.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.state == State::Open
    }

    /// A request was sent at `now`.
    pub fn sent(&mut self, now: Instant) {
        self.state = match self.state {
            State::Held { until, length } if now >= until => State::Probing { length },
            State::Ramp { since, .. } if now.saturating_duration_since(since).as_secs() >= RAMP_SECONDS => {
                State::Open
            }
            State::Ramp { since, sent } => State::Ramp { since, sent: sent + 1 },
            other @ (State::Open | State::Held { .. } | State::Probing { .. }) => other,
        };
    }

    /// A 429 came, and asked to wait for so long. A probe's doubles what was waited before.
    pub fn refused(&mut self, asked: Option<Duration>, jitter: Duration, now: Instant) {
        // None at all would be doubled to none, for ever.
        let asked = asked.unwrap_or(self.settings.usual).max(SHORTEST);
        let length = match self.state {
            State::Probing { length } => asked.max(length * 2),
            State::Held { length, .. } => asked.max(length),
            State::Open | State::Ramp { .. } => asked,
        };
        let length = length.min(self.settings.most);
        let until = now + length + jitter;
        let until =
            if let State::Held { until: before, .. } = self.state { before.max(until) } else { until };
        self.state = State::Held { until, length };
    }

    /// An answer came that is no 429, to a request that was `probe` or not.
    pub fn answered(&mut self, probe: bool, now: Instant) {
        if let (State::Probing { .. }, true) = (self.state, probe) {
            self.state = State::Ramp { since: now, sent: 0 };
        }
    }

    /// The probe came to nothing (no answer): the next request is one.
    pub fn lost(&mut self, now: Instant) {
        if let State::Probing { length } = self.state {
            self.state = State::Held { until: now, length };
        }
    }

    /// The upstream is back after it was left alone: what waited comes in a ramp.
    pub fn ramp(&mut self, now: Instant) {
        if self.state == State::Open {
            self.state = State::Ramp { since: now, sent: 0 };
        }
    }

    /// Until when nothing is sent, where that is known.
    #[must_use]
    pub fn until(&self, now: Instant) -> Option<Instant> {
        if let State::Held { until, .. } = self.state {
            Some(until).filter(|until| *until > now)
        } else {
            None
        }
    }

    /// A word for how it stands, and how long that lasts, where it is known.
    #[must_use]
    pub fn standing(&self, now: Instant) -> (&'static str, Duration) {
        match self.state {
            State::Held { until, .. } => ("held", until.saturating_duration_since(now)),
            State::Probing { .. } => ("probing", Duration::ZERO),
            State::Ramp { since, .. } if now.saturating_duration_since(since).as_secs() < RAMP_SECONDS => {
                let end = since + Duration::from_secs(RAMP_SECONDS);
                ("ramp", end.saturating_duration_since(now))
            }
            State::Open | State::Ramp { .. } => ("none", Duration::ZERO),
        }
    }

    /// Goes by other settings from now on.
    pub fn set(&mut self, settings: Settings) {
        self.settings = settings;
    }

    /// Whether it is over, or so long ago that it need not be remembered.
    #[must_use]
    pub fn is_over(&self, now: Instant) -> bool {
        match self.state {
            State::Open => true,
            State::Held { until, .. } => now >= until + self.settings.most,
            State::Probing { .. } => false,
            State::Ramp { since, .. } => now.saturating_duration_since(since).as_secs() >= RAMP_SECONDS,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hold() -> Hold {
        let minutes = |minutes: u64| Duration::from_secs(60 * minutes);
        Hold::new(Settings { usual: minutes(1), most: minutes(10), ramp: 2 })
    }

    const ONE: Duration = Duration::from_secs(1);

    #[test]
    fn one_429_stops_everything_then_one_probe_then_a_ramp() {
        let (mut hold, begin) = (hold(), Instant::now());
        let at = |seconds: u64| begin + Duration::from_secs(seconds);
        assert_eq!(hold.may(begin), May::Send);
        hold.refused(Some(Duration::from_secs(30)), ONE, begin);
        assert_eq!(hold.may(at(30)), May::WaitUntil(at(31)));
        // Those that were under way when it came change nothing.
        hold.refused(Some(Duration::from_secs(5)), Duration::ZERO, at(1));
        hold.answered(false, at(1));
        assert_eq!(hold.may(at(30)), May::WaitUntil(at(31)));
        assert_eq!(hold.may(at(31)), May::Probe);
        hold.sent(at(31));
        assert_eq!(hold.may(at(31)), May::WaitForProbe);
        hold.answered(true, at(32));
        let mut sent = Vec::new();
        for second in 0..4 {
            let mut count = 0;
            while hold.may(at(32 + second)) == May::Send {
                hold.sent(at(32 + second));
                count += 1;
            }
            sent.push(count);
        }
        assert_eq!(sent, [2, 4, 8, 16]);
        assert_eq!(hold.may(at(42)), May::Send);
        hold.sent(at(42));
        assert!(hold.is_over(at(42)));
    }

    #[test]
    fn a_failed_probe_doubles_up_to_the_most_and_nonsense_is_capped() {
        let (mut hold, mut now) = (hold(), Instant::now());
        let mut lengths = Vec::new();
        for _ in 0..6 {
            hold.refused(None, Duration::ZERO, now);
            let until = hold.until(now).expect("a hold");
            lengths.push(until.duration_since(now).as_secs() / 60);
            now = until;
            assert_eq!(hold.may(now), May::Probe);
            hold.sent(now);
        }
        assert_eq!(lengths, [1, 2, 4, 8, 10, 10]);
        hold.refused(Some(Duration::from_hours(156)), Duration::ZERO, now);
        assert_eq!(hold.until(now), Some(now + Duration::from_mins(10)));
    }

    #[test]
    fn a_probe_without_an_answer_is_followed_by_another() {
        let (mut hold, now) = (hold(), Instant::now());
        hold.refused(Some(ONE), Duration::ZERO, now);
        hold.sent(now + ONE);
        hold.lost(now + ONE);
        assert_eq!(hold.may(now + ONE), May::Probe);
    }
}
