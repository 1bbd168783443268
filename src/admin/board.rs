//! How each part stands, since when, and what that makes of the whole (pure; takes `now`).

use std::collections::HashMap;
use std::time::SystemTime;

/// How a part stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum State {
    /// As it should.
    Ok,
    /// It works, but somebody should look.
    Degraded,
    /// It does not work.
    Failing,
}

impl State {
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Degraded => "degraded",
            Self::Failing => "failing",
        }
    }
}

/// One part, as it was seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Part {
    /// Its name.
    pub(super) name: String,
    /// How it stands.
    pub(super) state: State,
    /// Why.
    pub(super) detail: String,
    /// Whether the gateway is ready only where this part is not failing.
    pub(super) is_needed: bool,
}

/// Remembers since when each part is as it is.
#[derive(Debug, Default)]
pub(super) struct Board {
    since: HashMap<String, (State, SystemTime)>,
}

impl Board {
    /// Notes how the parts stand; since when each does.
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

/// How the whole stands.
#[derive(Debug, Clone)]
pub(super) struct Health {
    pub(super) parts: Vec<Part>,
    pub(super) since: Vec<SystemTime>,
    /// A stop was announced.
    pub(super) is_stopping: bool,
}

impl Health {
    /// Whether clients may be sent here, and a word for how things stand.
    pub(super) fn readiness(&self) -> (bool, &'static str) {
        if self.is_stopping {
            return (false, "stopping");
        }
        if self.parts.iter().any(|part| part.is_needed && part.state == State::Failing) {
            return (false, "not_ready");
        }
        let worst = self.parts.iter().map(|part| part.state).max();
        (true, if worst.unwrap_or(State::Ok) == State::Ok { "ready" } else { "degraded" })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn part(name: &str, state: State, is_needed: bool) -> Part {
        Part { name: name.to_owned(), state, detail: String::new(), is_needed }
    }

    #[test]
    fn it_is_known_since_when_a_part_is_as_it_is() {
        let (mut board, at) =
            (Board::default(), |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds));
        let mut seen = Vec::new();
        for (second, state) in [(1, State::Ok), (2, State::Ok), (3, State::Failing), (4, State::Failing)] {
            seen.extend(board.note(&[part("journal", state, false)], at(second)));
        }
        assert_eq!(seen, [at(1), at(1), at(3), at(3)]);
    }

    #[test]
    fn only_what_is_needed_makes_it_not_ready() {
        let of = |parts: Vec<Part>, is_stopping| {
            let since = vec![SystemTime::UNIX_EPOCH; parts.len()];
            Health { parts, since, is_stopping }.readiness()
        };
        assert_eq!(of(vec![part("a", State::Ok, true)], false), (true, "ready"));
        assert_eq!(of(vec![part("a", State::Failing, false)], false), (true, "degraded"));
        assert_eq!(of(vec![part("a", State::Degraded, true)], false), (true, "degraded"));
        assert_eq!(of(vec![part("a", State::Failing, true)], false), (false, "not_ready"));
        assert_eq!(of(vec![part("a", State::Ok, true)], true), (false, "stopping"));
    }
}
