//! A circuit breaker (pure; takes `now`).
//!
//! Closed, it lets everything pass. Open, it lets nothing pass until its pause is over, and then one request, the probe.
//! A good probe closes it, at once or by a ramp that doubles each second. It serves three times: for the upstream
//! that fails, for the backoff after a 429, and for a credential that Snyk refuses.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Length of a ramp.
const RAMP: Duration = Duration::from_secs(10);
/// A probe without a result after this time is given up, and the next request is one. No request takes longer.
const PROBE_LIMIT: Duration = Duration::from_mins(5);

/// Least time for which a due probe is left to better candidates: longer than the 10 s at which clients poll.
const COURTESY: Duration = Duration::from_secs(15);
/// Most clients that are remembered.
const CLIENTS: usize = 10_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum CircuitState {
    #[default]
    Closed,
    Open {
        until: Instant,
        pause: Duration,
    },
    Probing {
        until: Instant,
        pause: Duration,
    },
    Ramp {
        since: Instant,
        first: u32,
        sent: u64,
    },
}

/// One circuit; closed at first.
#[derive(Debug, Default)]
pub struct Circuit(CircuitState);

/// The requests that a circuit lets pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admits {
    /// All.
    All,
    /// One, the probe.
    Probe,
    /// None before this time.
    NoneBefore(Instant),
    /// None before the probe has a result.
    NoneBeforeProbe,
}

/// A request that may become a circuit's probe.
#[derive(Debug, Clone, Copy)]
pub struct ProbeCandidate<'a> {
    /// Its client.
    pub client: &'a Arc<str>,
    /// True if the last request for the same thing failed.
    pub is_failing: bool,
}

/// The order in which clients have the probes of an open circuit: a request for something that did not just fail comes
/// first, then the client whose last probe is the longest ago. So no client can use up all probes.
#[derive(Debug, Default)]
pub struct ProbeOrder {
    /// The clients that were refused since the circuit opened last, and whether all of their requests were failing ones.
    refused: HashMap<Arc<str>, bool>,
    /// The number of each client's last probe.
    probed: HashMap<Arc<str>, u64>,
    probes: u64,
}

impl ProbeOrder {
    /// True if `candidate` leaves a probe that has been due for `due` to a better one, which is expected to come back.
    pub(crate) fn is_left_to_others(
        &self,
        candidate: ProbeCandidate<'_>,
        due: Duration,
        pause: Duration,
    ) -> bool {
        let place = |client: &Arc<str>, is_failing| (is_failing, self.probed.get(client));
        let own = place(candidate.client, candidate.is_failing);
        due < pause.max(COURTESY)
            && self.refused.iter().any(|(client, is_failing)| place(client, *is_failing) < own)
    }

    /// Notes that `candidate` was refused, since the circuit is open.
    pub fn refused(&mut self, candidate: ProbeCandidate<'_>) {
        if let Some(is_failing) = self.refused.get_mut(candidate.client) {
            *is_failing &= candidate.is_failing;
        } else if self.refused.len() < CLIENTS {
            self.refused.insert(Arc::clone(candidate.client), candidate.is_failing);
        }
    }

    /// Notes that `client` has the probe.
    pub fn probed(&mut self, client: &Arc<str>) {
        self.probes += 1;
        if self.probed.len() < CLIENTS || self.probed.contains_key(client) {
            self.probed.insert(Arc::clone(client), self.probes);
        }
    }

    /// Notes that the circuit opened, for the first time or again.
    pub fn opened(&mut self) {
        self.refused.clear();
    }
}

/// A circuit's phase.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Everything passes.
    Closed,
    /// Nothing passes.
    Open,
    /// The next request is the probe, or the probe is on its way.
    HalfOpen,
    /// Ever more passes.
    Ramp,
}

impl Phase {
    /// A word for status, metrics and logs.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Open => "open",
            Self::HalfOpen => "half_open",
            Self::Ramp => "ramp",
        }
    }
}

/// The state of a circuit, for people.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CircuitStatus {
    /// Its phase.
    pub phase: Phase,
    /// Time until the phase ends by itself; zero where that is not known.
    pub left: Duration,
}

impl CircuitStatus {
    /// Time until the end of the pause; zero where it is not open.
    pub(crate) fn left_open(&self) -> Duration {
        if self.phase == Phase::Open { self.left } else { Duration::ZERO }
    }
}

impl Circuit {
    /// The requests that may pass at `now`.
    pub(crate) fn admits(&self, now: Instant) -> Admits {
        match self.0 {
            CircuitState::Closed => Admits::All,
            CircuitState::Open { until, .. } | CircuitState::Probing { until, .. } if now >= until => {
                Admits::Probe
            }
            CircuitState::Open { until, .. } => Admits::NoneBefore(until),
            CircuitState::Probing { .. } => Admits::NoneBeforeProbe,
            CircuitState::Ramp { since, first, sent } => {
                let seconds = now.saturating_duration_since(since).as_secs();
                // After s whole seconds, (2^(s+1) - 1) times the first second's number in all.
                let allowed = u64::from(first) * ((2_u64 << seconds.min(RAMP.as_secs())) - 1);
                if now >= since + RAMP || sent < allowed {
                    Admits::All
                } else {
                    Admits::NoneBefore(since + Duration::from_secs(seconds + 1))
                }
            }
        }
    }

    /// The time of the next request: `now`, or later. The end of a probe is not known, and is looked for again soon.
    pub(crate) fn free_at(&self, now: Instant) -> Instant {
        match self.admits(now) {
            Admits::All | Admits::Probe => now,
            Admits::NoneBefore(until) => until,
            Admits::NoneBeforeProbe => now + Duration::from_secs(1),
        }
    }

    /// Counts a request that passes at `now`. `true` for the probe.
    pub fn pass(&mut self, now: Instant) -> bool {
        self.pass_within(PROBE_LIMIT, now)
    }

    /// The same; after `limit` without a result, the next request is a probe too.
    pub fn pass_within(&mut self, limit: Duration, now: Instant) -> bool {
        match self.0 {
            CircuitState::Open { until, pause } | CircuitState::Probing { until, pause } if now >= until => {
                self.0 = CircuitState::Probing { until: now + limit, pause };
                return true;
            }
            CircuitState::Ramp { since, first, sent } => {
                let is_over = now >= since + RAMP;
                self.0 = if is_over {
                    CircuitState::Closed
                } else {
                    CircuitState::Ramp { since, first, sent: sent + 1 }
                };
            }
            CircuitState::Closed | CircuitState::Open { .. } | CircuitState::Probing { .. } => {}
        }
        false
    }

    /// Opens it for `pause` from `now` on. A circuit that is open already does not close earlier by it.
    pub fn open(&mut self, pause: Duration, now: Instant) {
        let until = now + pause;
        self.0 = match self.0 {
            CircuitState::Open { until: before, pause: longest } => {
                CircuitState::Open { until: before.max(until), pause: longest.max(pause) }
            }
            CircuitState::Closed | CircuitState::Probing { .. } | CircuitState::Ramp { .. } => {
                CircuitState::Open { until, pause }
            }
        };
    }

    /// Closes it: at once, or by a ramp that lets `ramp` requests pass in the first second.
    pub fn close(&mut self, ramp: Option<u32>, now: Instant) {
        self.0 = ramp.map_or(CircuitState::Closed, |first| CircuitState::Ramp { since: now, first, sent: 0 });
    }

    /// Gives the probe up, for it had no result: the next request is the probe.
    pub fn lose_probe(&mut self, now: Instant) {
        if let CircuitState::Probing { pause, .. } = self.0 {
            self.0 = CircuitState::Open { until: now, pause };
        }
    }

    /// The pause that it was opened with last; `None` where it is not open.
    pub(crate) fn pause(&self) -> Option<Duration> {
        match self.0 {
            CircuitState::Open { pause, .. } | CircuitState::Probing { pause, .. } => Some(pause),
            CircuitState::Closed | CircuitState::Ramp { .. } => None,
        }
    }

    /// The end of the pause, where that is known.
    pub(crate) fn until(&self, now: Instant) -> Option<Instant> {
        if let CircuitState::Open { until, .. } = self.0 {
            Some(until).filter(|until| *until > now)
        } else {
            None
        }
    }

    /// Time for which a probe has been due at `now`; `None` where none is, or one is on its way.
    pub(crate) fn probe_due_for(&self, now: Instant) -> Option<Duration> {
        if let CircuitState::Open { until, .. } = self.0 { now.checked_duration_since(until) } else { None }
    }

    /// True if it lets everything pass, without a ramp.
    pub(crate) fn is_closed(&self) -> bool {
        self.0 == CircuitState::Closed
    }

    /// True if nothing may pass at `now`.
    pub(crate) fn blocks(&self, now: Instant) -> bool {
        self.until(now).is_some() || self.admits(now) == Admits::NoneBeforeProbe
    }

    /// Its state at `now`.
    pub(crate) fn standing(&self, now: Instant) -> CircuitStatus {
        let left = |until: Instant| until.saturating_duration_since(now);
        let (phase, left) = match self.0 {
            CircuitState::Open { until, .. } if until > now => (Phase::Open, left(until)),
            CircuitState::Open { .. } | CircuitState::Probing { .. } => (Phase::HalfOpen, Duration::ZERO),
            CircuitState::Ramp { since, .. } if now < since + RAMP => (Phase::Ramp, left(since + RAMP)),
            CircuitState::Ramp { .. } | CircuitState::Closed => (Phase::Closed, Duration::ZERO),
        };
        CircuitStatus { phase, left }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAUSE: Duration = Duration::from_secs(5);

    fn at(begin: Instant, seconds: u64) -> Instant {
        begin + Duration::from_secs(seconds)
    }

    #[test]
    fn an_open_circuit_lets_one_probe_pass_and_a_good_one_closes_it_by_a_ramp() {
        let (mut circuit, begin) = (Circuit::default(), Instant::now());
        assert_eq!(circuit.admits(begin), Admits::All);
        circuit.open(PAUSE, begin);
        assert_eq!(circuit.admits(at(begin, 4)), Admits::NoneBefore(at(begin, 5)));
        assert!(circuit.blocks(at(begin, 4)) && !circuit.blocks(at(begin, 5)));
        assert_eq!(
            circuit.standing(at(begin, 5)),
            CircuitStatus { phase: Phase::HalfOpen, left: Duration::ZERO }
        );
        assert!(circuit.pass(at(begin, 5)));
        assert_eq!(circuit.admits(at(begin, 6)), Admits::NoneBeforeProbe);
        assert!(!circuit.pass(at(begin, 6)));
        circuit.close(Some(2), at(begin, 7));
        let mut passed = Vec::new();
        for second in 7..11 {
            let mut count = 0;
            while circuit.admits(at(begin, second)) == Admits::All {
                assert!(!circuit.pass(at(begin, second)));
                count += 1;
            }
            passed.push(count);
        }
        assert_eq!(passed, [2, 4, 8, 16]);
        assert_eq!(circuit.admits(at(begin, 17)), Admits::All);
        assert!(!circuit.is_closed());
        circuit.pass(at(begin, 17));
        assert!(circuit.is_closed());
    }

    #[test]
    fn an_open_circuit_never_closes_earlier_by_being_opened_again() {
        let (mut circuit, begin) = (Circuit::default(), Instant::now());
        circuit.open(Duration::from_mins(1), begin);
        circuit.open(PAUSE, at(begin, 1));
        assert_eq!(circuit.until(begin), Some(at(begin, 60)));
        assert_eq!(circuit.pause(), Some(Duration::from_mins(1)));
    }

    #[test]
    fn a_probe_is_never_lost_for_ever() {
        let (mut circuit, begin) = (Circuit::default(), Instant::now());
        circuit.open(PAUSE, begin);
        assert!(circuit.pass(at(begin, 5)));
        circuit.lose_probe(at(begin, 6));
        assert!(circuit.pass(at(begin, 6)));
        // Nobody says that this one is lost.
        assert_eq!(circuit.admits(at(begin, 305)), Admits::NoneBeforeProbe);
        assert_eq!(circuit.admits(at(begin, 306)), Admits::Probe);
    }
}
