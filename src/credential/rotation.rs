//! Which slot of a credential is used, and what a 401 from Snyk does to it (pure; takes `now`).
//!
//! A slot is *open* or *locked*. The first open slot is used. One that Snyk refused is locked for
//! `probe_interval`; after that, one request at a time is let through to see whether it is good again.

use std::time::{Duration, Instant};

/// So many refusals of one value, with no acceptance between, lock its slot.
const STRIKES: u32 = 2;

/// How a slot stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// It has no value yet.
    Empty,
    Open {
        strikes: u32,
    },
    Locked {
        until: Instant,
    },
}

/// Which slot to use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pick {
    /// This one.
    Use(usize),
    /// This one, for a single request: it was refused before.
    Probe(usize),
    /// None before this time is over.
    Locked {
        /// Until the next probe.
        retry_after: Duration,
    },
}

/// The slots of one credential.
#[derive(Debug)]
pub(super) struct Rotation {
    slots: Vec<State>,
    /// When the source of each was last asked because of a refusal.
    asked: Vec<Option<Instant>>,
    probe_interval: Duration,
}

impl Rotation {
    /// Those that are filled are open.
    #[must_use]
    pub(super) fn new(filled: &[bool], probe_interval: Duration) -> Self {
        let state = |filled: &bool| if *filled { State::Open { strikes: 0 } } else { State::Empty };
        Self { slots: filled.iter().map(state).collect(), asked: vec![None; filled.len()], probe_interval }
    }

    /// Picks a slot for a request at `now`. A probe takes its turn: the next is an interval later.
    pub(super) fn pick(&mut self, now: Instant) -> Pick {
        if let Some(open) = self.open_but(None) {
            return Pick::Use(open);
        }
        let mut soonest = self.probe_interval;
        for (at, slot) in self.slots.iter_mut().enumerate() {
            let State::Locked { until } = slot else { continue };
            if *until <= now {
                *until = now + self.probe_interval;
                return Pick::Probe(at);
            }
            soonest = soonest.min(until.saturating_duration_since(now));
        }
        Pick::Locked { retry_after: soonest }
    }

    /// A word for how slot `at` stands: `in_use`, `ready`, `locked` or `empty`.
    #[must_use]
    pub(super) fn standing(&self, at: usize) -> &'static str {
        match self.slots[at] {
            State::Empty => "empty",
            State::Locked { .. } => "locked",
            State::Open { .. } if self.open_but(None) == Some(at) => "in_use",
            State::Open { .. } => "ready",
        }
    }

    /// The first open slot that is not `but`.
    #[must_use]
    pub(super) fn open_but(&self, but: Option<usize>) -> Option<usize> {
        (0..self.slots.len()).find(|at| Some(*at) != but && matches!(self.slots[*at], State::Open { .. }))
    }

    /// Snyk took the value of slot `at`. A locked one is opened by its probe alone: other answers may be to
    /// requests that were sent before it was locked.
    pub(super) fn accepted(&mut self, at: usize, is_probe: bool) {
        if is_probe || matches!(self.slots[at], State::Open { .. }) {
            self.slots[at] = State::Open { strikes: 0 };
            self.asked[at] = None;
        }
    }

    /// The slot has another value: what was refused is gone.
    pub(super) fn renewed(&mut self, at: usize) {
        self.slots[at] = State::Open { strikes: 0 };
    }

    /// Whether the source of slot `at` may be asked for a newer value, because Snyk refused the one that it gave:
    /// once in a `probe_interval`, unless Snyk took a value since. Else a source that keeps giving values which
    /// Snyk refuses would never be locked.
    pub(super) fn may_ask(&mut self, at: usize, now: Instant) -> bool {
        let recently = |asked: Instant| now.saturating_duration_since(asked) < self.probe_interval;
        if self.asked[at].is_some_and(recently) {
            return false;
        }
        self.asked[at] = Some(now);
        true
    }

    /// Snyk refused the value of slot `at`; whether it is locked now. It is at once where another slot is
    /// open; else at the second refusal.
    pub(super) fn refused(&mut self, at: usize, now: Instant) -> bool {
        let other_is_open = self.open_but(Some(at)).is_some();
        let until = now + self.probe_interval;
        self.slots[at] = match self.slots[at] {
            State::Open { strikes } if !other_is_open && strikes + 1 < STRIKES => {
                State::Open { strikes: strikes + 1 }
            }
            State::Open { .. } => State::Locked { until },
            State::Locked { until: before } => State::Locked { until: before.max(until) },
            State::Empty => State::Empty,
        };
        matches!(self.slots[at], State::Locked { .. })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_mins(1);

    #[test]
    fn a_single_slot_is_locked_at_its_second_refusal_and_probed_once_a_minute() {
        let (mut rotation, begin) = (Rotation::new(&[true], MINUTE), Instant::now());
        let at = |seconds| begin + Duration::from_secs(seconds);
        assert_eq!(rotation.pick(at(0)), Pick::Use(0));
        assert!(!rotation.refused(0, at(0)));
        assert_eq!(rotation.pick(at(0)), Pick::Use(0));
        assert!(rotation.refused(0, at(0)));
        let picks: Vec<Pick> = (1..10_000).map(|n| rotation.pick(at(0) + Duration::from_millis(n))).collect();
        assert!(picks.iter().all(|pick| matches!(pick, Pick::Locked { .. })));
        assert_eq!(rotation.pick(at(59)), Pick::Locked { retry_after: Duration::from_secs(1) });
        assert_eq!(rotation.pick(at(60)), Pick::Probe(0));
        assert_eq!(rotation.pick(at(60)), Pick::Locked { retry_after: MINUTE });
        assert!(rotation.refused(0, at(61)));
        assert!(matches!(rotation.pick(at(120)), Pick::Locked { .. }));
        assert_eq!(rotation.pick(at(121)), Pick::Probe(0));
        // An answer to a request of before the lock says nothing.
        rotation.accepted(0, false);
        assert!(matches!(rotation.pick(at(122)), Pick::Locked { .. }));
        rotation.accepted(0, true);
        assert_eq!(rotation.pick(at(121)), Pick::Use(0));
    }

    #[test]
    fn an_acceptance_between_two_refusals_clears_the_first() {
        let (mut rotation, now) = (Rotation::new(&[true], MINUTE), Instant::now());
        assert!(!rotation.refused(0, now));
        rotation.accepted(0, false);
        assert!(!rotation.refused(0, now));
        // A source is asked again at once where its value was good meanwhile, else once in a minute.
        assert!(rotation.may_ask(0, now) && !rotation.may_ask(0, now));
        rotation.accepted(0, false);
        assert!(rotation.may_ask(0, now));
        assert!(rotation.may_ask(0, now + MINUTE));
    }

    #[test]
    fn a_slot_without_a_value_is_never_used() {
        let (mut rotation, now) = (Rotation::new(&[true, false], MINUTE), Instant::now());
        assert!(!rotation.refused(0, now));
        assert!(rotation.refused(0, now));
        assert!(matches!(rotation.pick(now), Pick::Locked { .. }));
        rotation.renewed(1);
        assert_eq!(rotation.pick(now), Pick::Use(1));
    }

    #[test]
    fn the_next_slot_takes_over_at_once_and_the_active_one_again_when_renewed() {
        let (mut rotation, now) = (Rotation::new(&[true, true], MINUTE), Instant::now());
        assert!(rotation.refused(0, now));
        assert_eq!(rotation.pick(now), Pick::Use(1));
        assert!(!rotation.refused(1, now));
        assert!(rotation.refused(1, now));
        assert!(matches!(rotation.pick(now), Pick::Locked { .. }));
        rotation.renewed(0);
        assert_eq!(rotation.pick(now), Pick::Use(0));
        // Both are probed in turn, one a minute each.
        assert!(rotation.refused(0, now) | rotation.refused(0, now));
        assert_eq!(rotation.pick(now + MINUTE), Pick::Probe(0));
        assert_eq!(rotation.pick(now + MINUTE), Pick::Probe(1));
        assert!(matches!(rotation.pick(now + MINUTE), Pick::Locked { .. }));
    }
}
