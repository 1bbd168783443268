//! The budget of requests of one credential (pure; takes `now`).
//!
//! Snyk counts in several windows at once (160 a second, 1,620 a minute, 97,200 an hour), and over one of
//! them refuses everything. So every send is kept with its time, and the next one waits until it is within
//! every window, wherever that begins. What others sent with the same credential (an earlier process, another
//! one on this machine, another machine as far as Snyk's headers tell) counts like our own.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Windows up to this length are used as requests come.
const UNPACED: Duration = Duration::from_secs(1);

/// At most so many in any window of a length.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limit {
    /// Most requests.
    pub most: u32,
    /// The window's length.
    pub window: Duration,
}

/// Time for which a lower limit of Snyk's is believed, where it says nothing more.
pub(super) const TOLD_FOR: Duration = Duration::from_hours(1);

/// One of the limits, as configured, and what Snyk says of it.
#[derive(Debug)]
struct BudgetWindow {
    limit: Limit,
    /// A lower limit of Snyk's, and its end.
    told: Option<(u32, Instant)>,
    /// Most requests of ours in a window that others use too, and the end of that limit.
    shared: Option<(u32, Instant)>,
}

impl BudgetWindow {
    /// The limit at `now`.
    fn most(&self, now: Instant) -> u32 {
        let told = self.told.filter(|(_, until)| *until > now).map(|(most, _)| most);
        // Nonsense of Snyk's closes nothing for good. A limit of ours that allows none does.
        told.map_or(self.limit.most, |told| told.max(1).min(self.limit.most))
    }

    /// The part that others leave of it, and the end of that limit.
    fn shared(&self, now: Instant) -> Option<(u32, Instant)> {
        self.shared.filter(|(_, until)| *until > now)
    }

    /// The limit at `now`, all told.
    fn effective(&self, now: Instant) -> u32 {
        self.shared(now).map_or(u32::MAX, |(most, _)| most).min(self.most(now))
    }
}

/// The requests that were sent, and the limits of those to come.
#[derive(Debug)]
pub(super) struct Budget {
    /// By length, the shortest first.
    windows: Vec<BudgetWindow>,
    /// The times of the sends in the longest window, the oldest first.
    sent: VecDeque<Instant>,
    /// Added to each window: a request is on its way for a while, and one may overtake another.
    margin: Duration,
}

impl Budget {
    /// Nothing was sent yet.
    pub(super) fn new(mut limits: Vec<Limit>, margin: Duration) -> Self {
        limits.sort_by_key(|limit| limit.window);
        let windows =
            limits.into_iter().map(|limit| BudgetWindow { limit, told: None, shared: None }).collect();
        Self { windows, sent: VecDeque::new(), margin }
    }

    fn length(&self, window: &BudgetWindow) -> Duration {
        window.limit.window + self.margin
    }

    /// The time at which the next send is within every window: `now`, or later.
    pub(super) fn next(&self, now: Instant) -> Instant {
        // When the oldest send has left the window that must have by then.
        let free = |most: u32, length: Duration| {
            let at = self.sent.len().checked_sub(most as usize)?;
            Some(*self.sent.get(at)? + length)
        };
        let free_of = |window: &BudgetWindow| {
            let length = self.length(window);
            let most = window.most(now);
            let own = if most == 0 { Some(now + length) } else { free(most, length) };
            // With no room at all it is free when that counts no more.
            let shared = window.shared(now).and_then(|(most, until)| {
                (self.within(length, now) >= most)
                    .then(|| free(most, length).map_or(until, |free| free.min(until)))
            });
            own.max(shared)
        };
        self.windows.iter().filter_map(free_of).fold(now, Instant::max)
    }

    /// The same, but spread out once half of a long window is used up: what is left must last until the first of
    /// what was sent leaves it, so that those who ask last do not wait for the rest of it.
    pub(super) fn paced(&self, now: Instant) -> Instant {
        let spread = |window: &BudgetWindow| {
            let (most, length) = (window.effective(now).max(1), self.length(window));
            let recent = self.within(length, now);
            if window.limit.window <= UNPACED || recent < most.div_ceil(2) {
                return None;
            }
            let oldest = *self.sent.get(self.sent.len() - recent as usize)?;
            let until_free = (oldest + length).saturating_duration_since(now);
            let left = most.saturating_sub(recent);
            let apart = (length / most).max(until_free / (left + 1));
            Some(*self.sent.back()? + apart)
        };
        self.windows.iter().filter_map(spread).fold(self.next(now), Instant::max)
    }

    /// Each window's length, what may be sent in it, and what was, at `now`.
    pub(super) fn windows(&self, now: Instant) -> impl Iterator<Item = (Duration, u32, u32)> {
        self.windows.iter().map(move |window| {
            (window.limit.window, window.effective(now), self.within(self.length(window), now))
        })
    }

    /// Takes other limits; what was sent, and what Snyk said, counts on.
    pub(super) fn set_limits(&mut self, mut limits: Vec<Limit>) {
        limits.sort_by_key(|limit| limit.window);
        let before = std::mem::take(&mut self.windows);
        let window = |limit: Limit| {
            let same = before.iter().find(|window| window.limit.window == limit.window);
            let (told, shared) = same.map_or((None, None), |window| (window.told, window.shared));
            BudgetWindow { limit, told, shared }
        };
        self.windows = limits.into_iter().map(window).collect();
    }

    /// The longest time between two sends, where they are spread evenly.
    pub(super) fn interval(&self, now: Instant) -> Duration {
        let interval = |window: &BudgetWindow| window.limit.window / window.most(now).max(1);
        self.windows.iter().map(interval).max().unwrap_or_default()
    }

    /// True if nothing counts any more.
    pub(super) fn is_unused(&self, now: Instant) -> bool {
        self.windows.last().is_none_or(|longest| self.within(self.length(longest), now) == 0)
    }

    /// Counts a send at `at`, which may be earlier than others that are known already.
    pub(super) fn spend(&mut self, at: Instant, now: Instant) {
        let at = at.min(now);
        let place = self.sent.iter().rposition(|sent| *sent <= at).map_or(0, |before| before + 1);
        self.sent.insert(place, at);
        let longest = self.windows.last().map_or(Duration::ZERO, |longest| self.length(longest));
        while self.sent.front().is_some_and(|sent| now.saturating_duration_since(*sent) >= longest) {
            self.sent.pop_front();
        }
    }

    /// Counts a send at `at` no more: it did not take place.
    pub(super) fn take_back(&mut self, at: Instant) {
        if let Ok(place) = self.sent.binary_search(&at) {
            self.sent.remove(place);
        }
    }

    /// Takes in what Snyk said: it allows `most` in a window, and `remaining` of these are left. Less than we
    /// thought counts in this window, for its length or `at_most` (a lower limit, for an hour): capacity is not
    /// lost for good. More than is configured changes nothing.
    pub(super) fn learn(&mut self, told: Limit, remaining: Option<u32>, at_most: Duration, now: Instant) {
        let sent = self.within(told.window, now);
        let Some(window) = self.windows.iter_mut().find(|window| window.limit.window == told.window) else {
            return;
        };
        if told.most < window.limit.most {
            window.told = Some((told.most, now + TOLD_FOR));
        } else {
            window.told = None;
        }
        let Some(ours) = remaining.map(|remaining| sent.saturating_add(remaining)) else { return };
        // An answer that was on its way longer than another knows less.
        if ours < window.effective(now) {
            window.shared = Some((ours, now + told.window.min(at_most)));
        }
    }

    fn within(&self, window: Duration, now: Instant) -> u32 {
        let before = self.sent.partition_point(|sent| now.saturating_duration_since(*sent) >= window);
        u32::try_from(self.sent.len() - before).unwrap_or(u32::MAX)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SNYK: [(u32, u64); 3] = [(160, 1_000), (1_620, 60_000), (97_200, 3_600_000)];

    fn limits(limits: &[(u32, u64)]) -> Vec<Limit> {
        limits.iter().map(|(most, ms)| Limit { most: *most, window: Duration::from_millis(*ms) }).collect()
    }

    /// Number of sends that could follow at once at `now`.
    fn left(budget: &Budget, now: Instant) -> u32 {
        budget.windows(now).map(|(_, most, used)| most.saturating_sub(used)).min().unwrap_or(u32::MAX)
    }

    /// True if any window, wherever it begins, holds more than it may. By brute force.
    fn exceeded(sent: &[u64], limits: &[(u32, u64)]) -> bool {
        limits.iter().any(|(most, ms)| {
            sent.iter().any(|from| {
                sent.iter().filter(|at| **at >= *from && **at < from + ms).count() > *most as usize
            })
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]

        #[test]
        fn no_window_is_ever_exceeded_and_no_capacity_is_lost(
            limits_ms in prop::collection::vec((1_u32..6, 1_u64..200), 1..4),
            wishes in prop::collection::vec(0_u64..60, 1..120),
        ) {
            let begin = Instant::now();
            let mut budget = Budget::new(limits(&limits_ms), Duration::ZERO);
            let (mut now, mut sent) = (0_u64, Vec::new());
            for wish in wishes {
                now += wish;
                let at = |ms: u64| begin + Duration::from_millis(ms);
                let next = budget.next(at(now));
                let wait = u64::try_from(next.duration_since(at(now)).as_millis()).expect("short");
                // Not a millisecond too early, and none too late: one earlier would exceed a window.
                if wait > 0 {
                    let mut early = sent.clone();
                    early.push(now + wait - 1);
                    prop_assert!(exceeded(&early, &limits_ms));
                }
                now += wait;
                budget.spend(at(now), at(now));
                sent.push(now);
                prop_assert!(!exceeded(&sent, &limits_ms), "{sent:?} {limits_ms:?}");
            }
        }
    }

    #[test]
    fn snyks_own_windows_are_used_to_the_full_from_the_first_second() {
        let begin = Instant::now();
        let mut budget = Budget::new(limits(&SNYK), Duration::ZERO);
        let mut now = begin;
        let mut sent = 0;
        while now < begin + Duration::from_mins(1) {
            now = budget.next(now);
            if now < begin + Duration::from_mins(1) {
                budget.spend(now, now);
                sent += 1;
            }
        }
        assert_eq!(sent, 1_620);
        assert_eq!(left(&budget, now), 160);
    }

    #[test]
    fn a_window_lasts_when_it_is_paced_and_is_used_to_the_full_all_the_same() {
        let begin = Instant::now();
        let mut budget = Budget::new(limits(&SNYK), Duration::ZERO);
        let (mut now, mut gaps, mut by_minute) = (begin, Vec::new(), [0; 5]);
        loop {
            let next = budget.paced(now);
            if next >= begin + Duration::from_mins(5) {
                break;
            }
            gaps.push(next - now);
            now = next;
            budget.spend(now, now);
            by_minute[usize::try_from((now - begin).as_secs() / 60).expect("short")] += 1;
        }
        // Nobody waits long for a turn, whenever it comes.
        assert!(gaps.iter().all(|gap| *gap <= Duration::from_secs(1)), "{:?}", gaps.iter().max());
        assert!(by_minute.iter().all(|count| (1_550..=1_620).contains(count)), "{by_minute:?}");
    }

    #[test]
    fn what_others_sent_counts_whenever_it_becomes_known() {
        let now = Instant::now();
        let ago = |seconds| now.checked_sub(Duration::from_secs(seconds)).expect("a time");
        let mut budget = Budget::new(limits(&[(3, 60_000)]), Duration::ZERO);
        budget.spend(now, now);
        budget.spend(ago(50), now);
        budget.spend(ago(55), now);
        assert_eq!(budget.next(now), now + Duration::from_secs(5));
        // A time that has not come yet (another clock) is counts as now.
        budget.spend(now + Duration::from_hours(1), now);
        assert_eq!(budget.next(now), now + Duration::from_secs(10));
    }

    #[test]
    fn snyks_word_makes_it_less_and_never_more() {
        let now = Instant::now();
        let minute = |most| Limit { most, window: Duration::from_mins(1) };
        let mut budget = Budget::new(vec![minute(10)], Duration::ZERO);
        budget.learn(minute(20), Some(15), Duration::MAX, now);
        assert_eq!(left(&budget, now), 10);
        budget.learn(minute(20), Some(4), Duration::MAX, now);
        assert_eq!(left(&budget, now), 4);
        budget.learn(minute(5), None, Duration::MAX, now);
        assert_eq!(left(&budget, now), 4);
        assert_eq!(left(&budget, now + Duration::from_mins(1)), 5);
        budget.learn(Limit { most: 1, window: Duration::from_secs(7) }, Some(0), Duration::MAX, now);
        assert_eq!(left(&budget, now + Duration::from_mins(1)), 5);
        // Nothing is lost for good: not by nonsense, nor where Snyk says nothing more.
        budget.learn(minute(0), Some(0), Duration::from_secs(7), now);
        assert_eq!(budget.next(now), now + Duration::from_secs(7));
        assert_eq!(left(&budget, now + Duration::from_hours(1)), 10);
        budget.learn(minute(10), None, Duration::MAX, now);
        assert_eq!(left(&budget, now + Duration::from_mins(1)), 10);
    }

    #[test]
    fn what_others_spend_of_one_window_takes_nothing_from_another() {
        let now = Instant::now();
        let mut budget = Budget::new(limits(&SNYK), Duration::ZERO);
        budget.spend(now, now);
        let hour = Limit { most: 97_200, window: Duration::from_hours(1) };
        budget.learn(hour, Some(90_000), Duration::MAX, now);
        assert_eq!((left(&budget, now), budget.next(now), budget.paced(now)), (159, now, now));
        budget.learn(hour, Some(7), Duration::MAX, now);
        assert_eq!(left(&budget, now), 7);
    }

    #[test]
    fn a_limit_of_none_lets_nothing_through_and_snyks_nonsense_does_not_make_one() {
        let now = Instant::now();
        let none = Limit { most: 0, window: Duration::from_secs(10) };
        let mut budget = Budget::new(vec![none], Duration::ZERO);
        assert_eq!(budget.next(now), now + Duration::from_secs(10));
        assert_eq!(budget.paced(now), now + Duration::from_secs(10));
        budget.set_limits(vec![Limit { most: 1, ..none }]);
        budget.learn(none, None, Duration::MAX, now);
        assert_eq!(budget.next(now), now);
    }

    #[test]
    fn a_send_that_is_taken_back_counts_no_more() {
        let now = Instant::now();
        let later = now + Duration::from_secs(3);
        let mut budget =
            Budget::new(vec![Limit { most: 2, window: Duration::from_secs(10) }], Duration::ZERO);
        budget.spend(now, now);
        budget.spend(now, now);
        assert!(budget.next(later) > later);
        budget.take_back(now);
        assert_eq!(budget.next(later), later);
        budget.spend(later, later);
        assert_eq!(budget.next(later), now + Duration::from_secs(10));
    }

    #[test]
    fn what_snyk_said_outlives_other_limits() {
        let limit = |most| Limit { most, window: Duration::from_mins(1) };
        let (mut budget, now) = (Budget::new(vec![limit(1_620)], Duration::ZERO), Instant::now());
        budget.learn(limit(10), None, Duration::from_mins(1), now);
        budget.set_limits(vec![limit(800)]);
        assert_eq!(left(&budget, now), 10);
        budget.set_limits(vec![limit(5)]);
        assert_eq!(left(&budget, now), 5);
    }
}
