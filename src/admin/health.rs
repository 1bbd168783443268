//! The state of each part, since when it has it, and the readiness that follows (pure; takes `now`).

use std::collections::HashMap;
use std::time::SystemTime;

/// The state of a part, the better ones first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum PartState {
    Ok,
    /// It works, but somebody should look.
    Degraded,
    Failing,
}

impl PartState {
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Degraded => "degraded",
            Self::Failing => "failing",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Part {
    pub(super) name: String,
    pub(super) state: PartState,
    /// The reason of its state.
    pub(super) detail: String,
    /// The gateway is not ready while this part fails.
    pub(super) is_needed: bool,
}

/// Remembers since when each part has its state.
#[derive(Debug, Default)]
pub(super) struct HealthHistory {
    since: HashMap<String, (PartState, SystemTime)>,
}

impl HealthHistory {
    /// Notes the states of `parts`; gives the time since when each has it.
    pub(super) fn note(&mut self, parts: &[Part], now: SystemTime) -> Vec<SystemTime> {
        self.since.retain(|name, _| parts.iter().any(|part| part.name == *name));
        let since = parts.iter().map(|part| {
            let entry = self.since.entry(part.name.clone()).or_insert((part.state, now));
            if entry.0 != part.state {
                *entry = (part.state, now);
            }
            entry.1
        });
        since.collect()
    }
}

/// The readiness of the gateway for requests of clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Readiness {
    Ready,
    /// Ready, but somebody should look.
    Degraded,
    NotReady,
    /// A stop was announced.
    Stopping,
}

impl Readiness {
    pub(super) fn of(parts: &[Part], is_stopping: bool) -> Self {
        if is_stopping {
            Self::Stopping
        } else if parts.iter().any(|part| part.is_needed && part.state == PartState::Failing) {
            Self::NotReady
        } else if parts.iter().any(|part| part.state != PartState::Ok) {
            Self::Degraded
        } else {
            Self::Ready
        }
    }

    pub(super) const fn is_ready(self) -> bool {
        matches!(self, Self::Ready | Self::Degraded)
    }

    /// Its word, as a line.
    pub(super) const fn line(self) -> &'static str {
        match self {
            Self::Ready => "ready\n",
            Self::Degraded => "degraded\n",
            Self::NotReady => "not_ready\n",
            Self::Stopping => "stopping\n",
        }
    }

    pub(super) fn as_str(self) -> &'static str {
        self.line().trim_end()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn part(name: &str, state: PartState, is_needed: bool) -> Part {
        Part { name: name.to_owned(), state, detail: String::new(), is_needed }
    }

    #[test]
    fn it_is_known_since_when_a_part_has_its_state() {
        let (mut history, at) =
            (HealthHistory::default(), |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds));
        let (ok, failing) = (PartState::Ok, PartState::Failing);
        let mut since = Vec::new();
        for (second, state) in [(1, ok), (2, ok), (3, failing), (4, failing)] {
            since.extend(history.note(&[part("journal", state, false)], at(second)));
        }
        assert_eq!(since, [at(1), at(1), at(3), at(3)]);
    }

    #[test]
    fn only_what_is_needed_makes_it_not_ready() {
        let of = |state, is_needed| Readiness::of(&[part("a", state, is_needed)], false);
        assert_eq!(of(PartState::Ok, true), Readiness::Ready);
        assert_eq!(of(PartState::Failing, false), Readiness::Degraded);
        assert_eq!(of(PartState::Degraded, true), Readiness::Degraded);
        assert_eq!(of(PartState::Failing, true), Readiness::NotReady);
        assert_eq!(Readiness::of(&[part("a", PartState::Ok, true)], true), Readiness::Stopping);
    }
}
