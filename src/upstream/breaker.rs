//! The circuit breaker: an upstream that keeps failing is left alone for a while (pure; takes `now`).

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// When it opens, and for how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// So many failures in a row open it.
    pub failures: u32,
    /// Or this part of the last requests, in percent.
    pub rate: u32,
    /// How many of the last requests are looked at for the rate.
    pub sample: u32,
    /// How long it is open before a probe.
    pub pause: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Closed,
    Open {
        until: Instant,
    },
    /// A probe is on its way; where it comes to nothing, there may be another then.
    HalfOpen {
        until: Instant,
    },
}

/// One breaker.
#[derive(Debug)]
pub struct Breaker {
    settings: Settings,
    state: State,
    in_a_row: u32,
    /// Whether each of the last requests failed.
    last: VecDeque<bool>,
}

/// What it lets through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lets {
    /// Everything.
    All,
    /// One request, to see.
    Probe,
    /// Nothing for so long.
    None {
        /// Until the next probe.
        retry_after: Duration,
    },
}

/// What the end of a request did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// Nothing.
    None,
    /// It is open now.
    Opened,
    /// It is closed again.
    Closed,
}

impl Breaker {
    /// A closed one: everything goes.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        Self { settings, state: State::Closed, in_a_row: 0, last: VecDeque::new() }
    }

    /// What it lets through at `now`.
    #[must_use]
    pub fn lets(&self, now: Instant) -> Lets {
        match self.state {
            State::Closed => Lets::All,
            State::Open { until } | State::HalfOpen { until } if now >= until => Lets::Probe,
            State::Open { until } => Lets::None { retry_after: until.saturating_duration_since(now) },
            State::HalfOpen { .. } => Lets::None { retry_after: Duration::from_secs(1) },
        }
    }

    /// How it stands at `now`, and how long that lasts at most, where it is known.
    #[must_use]
    pub fn standing(&self, now: Instant) -> (&'static str, Duration) {
        match self.state {
            State::Closed => ("closed", Duration::ZERO),
            State::Open { until } => ("open", until.saturating_duration_since(now)),
            State::HalfOpen { .. } => ("half_open", Duration::ZERO),
        }
    }

    /// Goes by other settings from now on.
    pub fn set(&mut self, settings: Settings) {
        self.settings = settings;
        while self.last.len() > settings.sample as usize {
            self.last.pop_front();
        }
    }

    /// A request was sent at `now`.
    pub fn sent(&mut self, now: Instant) {
        if self.lets(now) == Lets::Probe {
            self.state = State::HalfOpen { until: now + self.settings.pause };
        }
    }

    /// A request ended; what that did to the breaker.
    pub fn ended(&mut self, failed: bool, now: Instant) -> Change {
        let before = self.state;
        self.last.push_back(failed);
        if self.last.len() > self.settings.sample as usize {
            self.last.pop_front();
        }
        self.in_a_row = if failed { self.in_a_row + 1 } else { 0 };
        let open = State::Open { until: now + self.settings.pause };
        self.state = match before {
            // One that was on its way when it opened shows nothing.
            State::HalfOpen { .. } if !failed => {
                self.last.clear();
                State::Closed
            }
            State::HalfOpen { .. } => open,
            State::Closed
                if failed && (self.in_a_row >= self.settings.failures || self.rate_is_reached()) =>
            {
                open
            }
            other @ (State::Closed | State::Open { .. }) => other,
        };
        match (before, self.state) {
            (State::Closed, State::Open { .. }) => Change::Opened,
            (State::HalfOpen { .. }, State::Closed) => Change::Closed,
            _ => Change::None,
        }
    }

    fn rate_is_reached(&self) -> bool {
        let failed = self.last.iter().filter(|failed| **failed).count();
        self.last.len() >= self.settings.sample as usize
            && failed * 100 >= self.last.len() * self.settings.rate as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn breaker() -> (Breaker, Instant) {
        let settings = Settings { failures: 3, rate: 50, sample: 10, pause: Duration::from_secs(5) };
        (Breaker::new(settings), Instant::now())
    }

    #[test]
    fn failures_in_a_row_open_it_and_a_good_probe_closes_it() {
        let (mut breaker, now) = breaker();
        let changes = [true, true, false, true, true, true].map(|failed| breaker.ended(failed, now));
        assert_eq!(changes[..5], [Change::None; 5]);
        assert_eq!(changes[5], Change::Opened);
        assert_eq!(breaker.lets(now), Lets::None { retry_after: Duration::from_secs(5) });
        let later = now + Duration::from_secs(5);
        assert_eq!(breaker.lets(later), Lets::Probe);
        breaker.sent(later);
        assert!(matches!(breaker.lets(later), Lets::None { .. }));
        breaker.ended(true, later);
        assert_eq!(breaker.lets(later), Lets::None { retry_after: Duration::from_secs(5) });
        let again = later + Duration::from_secs(5);
        breaker.sent(again);
        assert_eq!(breaker.ended(false, again), Change::Closed);
        assert_eq!(breaker.lets(again), Lets::All);
    }

    #[test]
    fn a_probe_that_comes_to_nothing_is_followed_by_another() {
        let (mut breaker, now) = breaker();
        for _ in 0..3 {
            breaker.ended(true, now);
        }
        let mut at = now;
        for _ in 0..3 {
            at += Duration::from_secs(5);
            assert_eq!(breaker.lets(at), Lets::Probe);
            breaker.sent(at);
            assert!(matches!(breaker.lets(at), Lets::None { .. }));
        }
    }

    #[test]
    fn one_that_was_on_its_way_when_it_opened_does_not_close_it() {
        let (mut breaker, now) = breaker();
        for _ in 0..3 {
            breaker.ended(true, now);
        }
        assert_eq!(breaker.ended(false, now), Change::None);
        assert!(matches!(breaker.lets(now), Lets::None { .. }));
    }

    #[test]
    fn a_rate_of_failures_opens_it_too() {
        let (mut breaker, now) = breaker();
        let changes: Vec<Change> = (0..12).map(|n| breaker.ended(n % 2 == 1, now)).collect();
        assert_eq!(changes.iter().position(|change| *change == Change::Opened), Some(9));
    }
}
