//! The traffic of the last hour, minute by minute (pure; takes `now`).
//!
//! It is made of what the counters say once in a while, so that requests pay nothing for it.

use std::collections::VecDeque;
use std::time::{Duration, SystemTime};

use super::metrics::Totals;

/// The length of a point.
pub const STEP: Duration = Duration::from_mins(1);
/// Most points that are kept, the running one included.
const POINTS: usize = 60;

/// Counts of one minute.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Point {
    /// Start of the minute.
    pub at: SystemTime,
    /// The counts.
    pub counts: Totals,
}

/// The last hour.
#[derive(Debug, Default)]
pub struct History {
    points: VecDeque<Point>,
    before: Totals,
}

impl History {
    /// Takes the counters in: what they say more than last time belongs to the minute of `now`.
    pub fn sample(&mut self, totals: Totals, now: SystemTime) {
        let since = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
        let minute = SystemTime::UNIX_EPOCH + Duration::from_secs(since - since % STEP.as_secs());
        // A clock that was set back goes on in the newest minute.
        if self.points.back().is_none_or(|last| last.at < minute) {
            self.begin(minute);
        }
        let Some(running) = self.points.back_mut() else { return };
        let more = |now: u64, before: u64| now.saturating_sub(before);
        let counts = &mut running.counts;
        for (at, count) in counts.served.iter_mut().enumerate() {
            *count += more(totals.served[at], self.before.served[at]);
        }
        counts.attempts += more(totals.attempts, self.before.attempts);
        counts.failed += more(totals.failed, self.before.failed);
        self.before = totals;
    }

    /// Begins a minute, and those between it and the last one, in which nothing was counted.
    fn begin(&mut self, minute: SystemTime) {
        let empty = |at| Point { at, counts: Totals::default() };
        let hour = STEP * u32::try_from(POINTS).unwrap_or(60);
        if self.points.back().is_some_and(|last| minute.duration_since(last.at).is_ok_and(|gap| gap < hour)) {
            while let Some(last) = self.points.back().filter(|last| last.at + STEP < minute) {
                let at = last.at + STEP;
                self.points.push_back(empty(at));
            }
        } else {
            self.points.clear();
        }
        self.points.push_back(empty(minute));
        while self.points.len() > POINTS {
            self.points.pop_front();
        }
    }

    /// The minutes, the oldest first.
    pub fn points(&self) -> impl Iterator<Item = &Point> {
        self.points.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hits(count: u64) -> Totals {
        Totals { served: [count, 0, 0, 0, 0, 0, 0, 0, 0], ..Totals::default() }
    }

    #[test]
    fn counts_belong_to_their_minute_and_an_hour_is_kept() {
        let mut history = History::default();
        let at = |second: u64| SystemTime::UNIX_EPOCH + Duration::from_secs(second);
        for (total, second) in [(1, 0), (3, 59), (4, 60), (10, 240)] {
            history.sample(hits(total), at(second));
        }
        let found: Vec<u64> = history.points().map(|point| point.counts.served[0]).collect();
        assert_eq!(found, [3, 1, 0, 0, 6]);
        for minute in 5..200 {
            history.sample(hits(10), at(minute * 60));
        }
        assert_eq!(history.points().count(), POINTS);
        // After a day without a sample, the hour is empty.
        history.sample(hits(12), at(86_400));
        let found: Vec<u64> = history.points().map(|point| point.counts.served[0]).collect();
        assert_eq!(found, [2]);
        history.sample(hits(13), at(86_300));
        assert_eq!(history.points().map(|point| point.counts.served[0]).sum::<u64>(), 3);
    }
}
