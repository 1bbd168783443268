//! The state of a named export, and its changes (pure). It is kept in the journal's database.

use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use crate::csv::ColumnChange;

/// Tries of one turn.
const TRIES: u32 = 2;
/// Longest pause before a turn that was put off, or before a second try.
const PAUSE: Duration = Duration::from_mins(5);
/// Longest pause that is believed.
const LONGEST_WAIT: Duration = Duration::from_hours(24);
/// A turn comes late by up to one part in so many of its interval.
const JITTER_PART: u32 = 20;
/// Turns after which an export is stale.
const STALE_TURNS: u32 = 3;
/// Snyk keeps files for so long.
const KEPT_BY_SNYK: Duration = Duration::from_hours(3 * 24);
/// Times that are further ahead come from a clock that went back since.
const AHEAD: Duration = Duration::from_secs(1);
/// An export that is not finished after so long has failed.
const LONGEST_EXPORT: Duration = Duration::from_hours(1);

/// The state of a named export. Times are milliseconds since 1970.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct NamedState {
    created_ms: u64,
    pub(crate) next_turn_ms: u64,
    turn_began_ms: u64,
    /// Tries of the turn that began last, that one among them whose end is not known.
    tries: u32,
    /// The start of that try, until its outcome is known. The journal counts it (`claimed`, as JSON).
    pub(super) claimed: Option<ClaimedStart>,
    pub(super) pending: Option<PendingExport>,
    pub(crate) current: Option<CurrentExport>,
    pub(crate) failure: Option<TurnFailure>,
    pub(crate) columns_changed: Option<ColumnsChanged>,
}

/// A start that is sent, or is about to be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct ClaimedStart {
    pub(super) at_ms: u64,
    pub(super) request: String,
    pub(super) credential: String,
}

/// An export that was started for a turn, and is not proven yet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct PendingExport {
    pub(super) id: String,
    pub(super) started_ms: u64,
}

/// The export that is served.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct CurrentExport {
    pub(crate) id: String,
    /// The time of its start: its rows are as old.
    pub(crate) made_ms: u64,
    pub(crate) proven_ms: u64,
    pub(crate) rows: u64,
    pub(crate) columns: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct TurnFailure {
    pub(crate) at_ms: u64,
    pub(crate) reason: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ColumnsChanged {
    pub(crate) at_ms: u64,
    #[serde(flatten)]
    pub(crate) change: ColumnChange,
}

/// A table that was read to its end, and proven.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ProvenTable {
    pub(super) rows: u64,
    pub(super) columns: Vec<String>,
}

/// The interval of turns, and the delay of the next one, from 0 to 1.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pace {
    pub(super) every: Duration,
    pub(super) jitter: f64,
}

impl Pace {
    fn pause_ms(self) -> u64 {
        span_ms(PAUSE.min(self.every / 4))
    }

    /// Longest time until a next turn.
    fn longest_ms(self) -> u64 {
        span_ms(self.every + self.every / JITTER_PART + LONGEST_WAIT)
    }

    fn next_ms(self, began_ms: u64) -> u64 {
        began_ms.saturating_add(span_ms(self.every + (self.every / JITTER_PART).mul_f64(self.jitter)))
    }
}

impl NamedState {
    /// A state without an export, whose first turn is now.
    pub(super) fn new(now_ms: u64) -> Self {
        Self { created_ms: now_ms, next_turn_ms: now_ms, ..Self::default() }
    }

    pub(super) fn read(text: Option<&str>, now_ms: u64) -> Self {
        text.and_then(|text| serde_json::from_str(text).ok()).unwrap_or_else(|| Self::new(now_ms))
    }

    pub(super) fn to_text(&self) -> Option<String> {
        serde_json::to_string(self).ok()
    }

    /// The state as another gateway reads it: with the time of this one's clock.
    pub(super) fn to_fleet(text: &str, now_ms: u64) -> String {
        format!("{now_ms}\n{text}")
    }

    /// A state that another gateway put `age` ago, in our own time. Where the age is not known, and up to a second, the clocks
    /// are taken as equal.
    pub(super) fn of_fleet(text: &str, age: Option<Duration>, now_ms: u64) -> Option<Self> {
        let (then, text) = text.split_once('\n')?;
        let (then, mut state) = (then.parse::<u64>().ok()?, serde_json::from_str::<Self>(text).ok()?);
        let ours = age.map_or(then, |age| now_ms.saturating_sub(span_ms(age)));
        if ours.abs_diff(then) > span_ms(AHEAD) {
            let moved = |time: u64| (time + ours).saturating_sub(then);
            state.times().into_iter().flatten().for_each(|time| *time = moved(*time));
            state.next_turn_ms = moved(state.next_turn_ms);
        }
        Some(state)
    }

    /// True if something has happened in it since the last that happened in the other.
    pub(super) fn is_newer_than(&self, other: &Self) -> bool {
        self.newest_ms() > other.newest_ms().saturating_add(span_ms(AHEAD))
    }

    /// The time of the last that happened; 0 in a state in which nothing has.
    fn newest_ms(&self) -> u64 {
        let mut events = Self { created_ms: 0, ..self.clone() };
        events.times().into_iter().flatten().map(|time| *time).max().unwrap_or_default()
    }

    pub(super) fn is_due(&self, pace: Pace, now_ms: u64) -> bool {
        let left = self.next_turn_ms.saturating_sub(now_ms);
        self.pending.is_none() && (left == 0 || left > pace.longest_ms())
    }

    /// Takes what is ahead as now, after the clock went back; the next turn keeps its distance. Gives true if it did so.
    pub(super) fn settle(&mut self, now_ms: u64) -> bool {
        let times = self.times();
        // The newest of them is from when the next turn was set, or later.
        let newest = times.iter().flatten().map(|time| **time).max().unwrap_or_default();
        let ahead = newest.saturating_sub(now_ms);
        if ahead <= span_ms(AHEAD) {
            return false;
        }
        times.into_iter().flatten().for_each(|time| *time = now_ms.min(*time));
        self.next_turn_ms = self.next_turn_ms.saturating_sub(ahead);
        true
    }

    /// The times of all that has happened.
    fn times(&mut self) -> [Option<&mut u64>; 8] {
        let current = self.current.as_mut();
        let (made, proven) = current.map(|one| (&mut one.made_ms, &mut one.proven_ms)).unzip();
        [
            Some(&mut self.created_ms),
            Some(&mut self.turn_began_ms),
            self.claimed.as_mut().map(|one| &mut one.at_ms),
            self.pending.as_mut().map(|one| &mut one.started_ms),
            made,
            proven,
            self.failure.as_mut().map(|one| &mut one.at_ms),
            self.columns_changed.as_mut().map(|one| &mut one.at_ms),
        ]
    }

    /// Counts a try before its start is sent. Whoever finds the state without its end makes the next try.
    pub(super) fn claim(&mut self, pace: Pace, now_ms: u64) {
        let is_over = now_ms.saturating_sub(self.turn_began_ms) >= span_ms(pace.every);
        if self.tries == 0 || self.tries >= TRIES || is_over {
            (self.tries, self.turn_began_ms) = (0, now_ms);
        }
        self.tries += 1;
        self.next_turn_ms = if self.tries < TRIES {
            now_ms + pace.pause_ms()
        } else {
            pace.next_ms(self.turn_began_ms).max(now_ms + pace.pause_ms())
        };
    }

    /// Puts the turn off: no start was sent. `wait` is the least pause.
    pub(super) fn put_off(&mut self, reason: &str, wait: Duration, pace: Pace, now_ms: u64) {
        self.next_turn_ms = now_ms + pace.pause_ms().max(span_ms(wait.min(LONGEST_WAIT)));
        self.failure = Some(TurnFailure { at_ms: now_ms, reason: reason.to_owned() });
    }

    /// Takes a try back whose start was not sent.
    pub(super) fn take_back(&mut self) {
        self.tries = self.tries.saturating_sub(1);
        self.claimed = None;
    }

    pub(super) fn started(&mut self, id: &str, now_ms: u64) {
        self.claimed = None;
        self.pending = Some(PendingExport { id: id.to_owned(), started_ms: now_ms });
    }

    /// Ends a try. A second one follows, where there was none: at once, or after a pause.
    pub(super) fn failed(&mut self, reason: &str, is_at_once: bool, pace: Pace, now_ms: u64) {
        (self.claimed, self.pending) = (None, None);
        self.failure = Some(TurnFailure { at_ms: now_ms, reason: reason.to_owned() });
        self.next_turn_ms = if self.tries >= TRIES {
            pace.next_ms(self.turn_began_ms).max(now_ms + pace.pause_ms())
        } else if is_at_once {
            now_ms
        } else {
            now_ms + pace.pause_ms()
        };
    }

    /// Makes the pending export the current one. Gives the change of columns.
    pub(super) fn proven(&mut self, table: &ProvenTable, pace: Pace, now_ms: u64) -> Option<ColumnChange> {
        let PendingExport { id, started_ms } = self.pending.take()?;
        let ProvenTable { rows, columns } = table.clone();
        let before =
            self.current.replace(CurrentExport { id, made_ms: started_ms, proven_ms: now_ms, rows, columns });
        (self.tries, self.failure) = (0, None);
        self.next_turn_ms = pace.next_ms(started_ms);
        // A table without a header says nothing about columns.
        let before = before.filter(|before| !before.columns.is_empty() && !table.columns.is_empty())?;
        let change = ColumnChange::between(&before.columns, &table.columns)?;
        self.columns_changed = Some(ColumnsChanged { at_ms: now_ms, change: change.clone() });
        Some(change)
    }

    /// Age of the current export; before the first one, that of the state.
    fn age(&self, now_ms: u64) -> Duration {
        let since = self.current.as_ref().map_or(self.created_ms, |current| current.made_ms);
        Duration::from_millis(now_ms.saturating_sub(since))
    }

    /// True if the last turns brought nothing.
    pub(crate) fn is_stale(&self, every: Duration, now_ms: u64) -> bool {
        // The last of them may have come late, and runs for a while.
        self.age(now_ms) > every * STALE_TURNS + every / JITTER_PART
    }

    /// True if Snyk has deleted the files of the current export.
    pub(crate) fn is_gone(&self, now_ms: u64) -> bool {
        self.current.is_some() && self.age(now_ms) >= KEPT_BY_SNYK
    }
}

impl PendingExport {
    pub(super) fn is_too_old(&self, now_ms: u64) -> bool {
        now_ms.saturating_sub(self.started_ms) > span_ms(LONGEST_EXPORT)
    }
}

impl CurrentExport {
    pub(crate) fn age(&self, now_ms: u64) -> Duration {
        Duration::from_millis(now_ms.saturating_sub(self.made_ms))
    }
}

/// Milliseconds since 1970.
pub(crate) fn unix_ms(at: SystemTime) -> u64 {
    at.duration_since(SystemTime::UNIX_EPOCH).map_or(0, span_ms)
}

fn span_ms(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const EVERY: Duration = Duration::from_hours(2);
    const MINUTE: u64 = 60_000;
    const HOUR: u64 = 60 * MINUTE;
    const PACE: Pace = Pace { every: EVERY, jitter: 1.0 };

    fn table(columns: &[&str]) -> ProvenTable {
        ProvenTable { rows: 3, columns: columns.iter().map(|name| (*name).to_owned()).collect() }
    }

    #[test]
    fn a_day_has_twelve_turns_of_two_hours_whatever_the_jitter() {
        for jitter in [0.0, 0.3, 1.0] {
            let (mut state, mut starts, pace) = (NamedState::new(0), 0, Pace { every: EVERY, jitter });
            for second in 0..24 * HOUR / 1_000 {
                let at = second * 1_000;
                if state.is_due(pace, at) {
                    state.claim(pace, at);
                    state.started("e", at);
                    starts += 1;
                } else if state.pending.is_some() {
                    assert_eq!(state.proven(&table(&["a"]), pace, at), None);
                }
            }
            assert_eq!(starts, 12, "{jitter}");
        }
    }

    #[test]
    fn a_turn_has_two_tries_and_the_next_one_comes_in_its_time() {
        let mut state = NamedState::new(0);
        state.claim(PACE, 0);
        state.started("e1", 0);
        state.failed("ERRORED", true, PACE, MINUTE);
        assert!(state.is_due(PACE, MINUTE));
        state.claim(PACE, MINUTE);
        state.started("e2", MINUTE);
        state.failed("ERRORED", true, PACE, 2 * MINUTE);
        assert_eq!(state.next_turn_ms, 126 * MINUTE);
        // The try of a process that died counts.
        state.claim(PACE, 126 * MINUTE);
        assert_eq!(state.next_turn_ms, 131 * MINUTE);
        state.claim(PACE, 131 * MINUTE);
        assert_eq!(state.next_turn_ms, (126 + 126) * MINUTE);
    }

    #[test]
    fn a_turn_that_is_put_off_counts_no_try() {
        let mut state = NamedState::new(0);
        for round in 0..5 {
            let now = round * 5 * MINUTE;
            assert!(state.is_due(PACE, now), "{round}");
            state.claim(PACE, now);
            state.take_back();
            state.put_off("held", Duration::ZERO, PACE, now);
        }
        assert_eq!((state.tries, state.next_turn_ms), (0, 25 * MINUTE));
        state.put_off("held", Duration::from_hours(1), PACE, HOUR);
        assert_eq!(state.next_turn_ms, 2 * HOUR);
        state.put_off("held", Duration::MAX, PACE, HOUR);
        assert_eq!(state.next_turn_ms, 25 * HOUR);
    }

    #[test]
    fn a_clock_that_went_back_puts_nothing_off() {
        let mut state = NamedState::new(50 * HOUR);
        state.claim(PACE, 50 * HOUR);
        state.started("e1", 50 * HOUR);
        assert!(state.pending.as_ref().is_some_and(|pending| !pending.is_too_old(49 * HOUR)));
        assert_eq!(state.proven(&table(&["a"]), PACE, 50 * HOUR + MINUTE), None);
        assert!(!state.clone().settle(50 * HOUR + MINUTE - 1_000));
        let now = 3 * HOUR;
        assert!(state.settle(now) && !state.settle(now));
        assert_eq!(state.current.as_ref().map(|current| current.made_ms), Some(now));
        // Two hours and 5 % after its start, a minute of which is over.
        assert_eq!(state.next_turn_ms, now + 125 * MINUTE);
        assert!(!state.is_due(PACE, now + 124 * MINUTE) && state.is_due(PACE, now + 125 * MINUTE));
        assert!(state.is_stale(EVERY, now + 7 * HOUR) && state.is_gone(now + 72 * HOUR));
        // More than the longest that is ever set.
        state.next_turn_ms = now + 27 * HOUR;
        assert!(state.is_due(PACE, now));
    }

    #[test]
    fn a_state_of_another_gateway_is_read_by_its_age_and_the_newest_wins() {
        let mut state = NamedState::new(0);
        state.claim(PACE, HOUR);
        state.started("e1", HOUR);
        let text = NamedState::to_fleet(&state.to_text().expect("a text"), HOUR + MINUTE);
        // Clocks alike, within a second; one that is an hour ahead, and one that is half an hour behind.
        for by in [900, 60 * 60_000, -30 * 60_000] {
            let now = (HOUR + 2 * MINUTE).saturating_add_signed(by);
            let found = NamedState::of_fleet(&text, Some(Duration::from_mins(1)), now).expect("a state");
            let at = |time: u64| time.saturating_add_signed(if by == 900 { 0 } else { by });
            assert_eq!(found.pending.as_ref().map(|pending| pending.started_ms), Some(at(HOUR)), "{by}");
            assert_eq!(found.next_turn_ms, at(state.next_turn_ms), "{by}");
        }
        // Of an age that is not known, the clocks are taken as equal.
        assert_eq!(NamedState::of_fleet(&text, None, 50 * HOUR), Some(state.clone()));
        for bad in ["", "x\n{}", "5", "5\n{"] {
            assert_eq!(NamedState::of_fleet(bad, None, 0), None);
        }
        // A state in which nothing has happened is no newer than any.
        assert!(
            !NamedState::new(50 * HOUR).is_newer_than(&state)
                && state.is_newer_than(&NamedState::new(50 * HOUR))
        );
        let mut later = state.clone();
        assert_eq!(later.proven(&table(&["a"]), PACE, HOUR + 2_000), None);
        assert!(later.is_newer_than(&state) && !state.is_newer_than(&later) && !later.is_newer_than(&later));
    }

    #[test]
    fn the_current_export_stays_until_another_one_is_proven_and_ages() {
        let mut state = NamedState::new(0);
        assert!(!state.is_stale(EVERY, 6 * HOUR) && state.is_stale(EVERY, 7 * HOUR));
        state.claim(PACE, 0);
        state.started("e1", 0);
        assert_eq!(state.proven(&table(&["a", "b"]), PACE, MINUTE), None);
        state.claim(PACE, 126 * MINUTE);
        state.started("e2", 126 * MINUTE);
        state.failed("ERRORED", true, PACE, 127 * MINUTE);
        assert_eq!(state.current.as_ref().map(|current| current.id.as_str()), Some("e1"));
        assert!(state.failure.is_some());
        assert!(state.is_stale(EVERY, 7 * HOUR) && !state.is_gone(71 * HOUR) && state.is_gone(72 * HOUR));
        state.claim(PACE, 128 * MINUTE);
        state.started("e3", 128 * MINUTE);
        let change = state.proven(&table(&["a", "c"]), PACE, 129 * MINUTE).expect("a change");
        assert_eq!(change.to_string(), "went: b; came: c");
        assert_eq!((state.tries, state.failure.clone()), (0, None));
        assert_eq!(NamedState::read(state.to_text().as_deref(), 0), state);
    }
}
