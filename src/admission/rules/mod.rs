//! The decisions of one lane: which request is sent next, and when (pure; takes `now`).
//!
//! A request is let through when the backoff, the budget and the slots allow it, in the order of the fair queue. It is
//! confirmed when it is about to be sent ([`Rules::confirm`]): by then the sends of other processes are known, and it
//! counts from then on. `queue` waits and wakes.

mod common;
mod outcome;
mod refusals;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::backoff::Backoff;
use super::budget::Budget;
use super::candidate::{AdmissionRefusal, Candidate, Obstacle, QueueId};
use super::common::{CommonPart, ToldParts};
use super::fair_queue::FairQueue;
use super::settings::LaneSettings;
use super::slots::{SlotId, Slots};
use super::starts::{ScopeStarts, starts_limit};
use super::status::LaneStatus;
use crate::circuit::Admits;

pub use outcome::SendOutcome;

/// The next thing to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Let this request send.
    Admit {
        /// Its place in the queue.
        id: QueueId,
        /// The slot that it gets.
        grant: Grant,
    },
    /// End the read in this slot: its clients have left, and another request waits for the slot.
    Evict(SlotId),
    /// Tell this request that it waited in vain.
    Refuse(QueueId, AdmissionRefusal),
    /// Nothing before this time.
    Wait(Instant),
    /// Nothing before something ends or comes.
    Idle,
}

/// A request that is let through.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Grant {
    /// Its slot.
    pub slot: SlotId,
    /// True if it is the probe after a backoff.
    pub is_probe: bool,
    /// True if it is the probe after a backoff of its scope's start calls.
    pub is_probe_of_starts: bool,
}

#[derive(Debug)]
struct QueueEntry {
    id: QueueId,
    candidate: Candidate,
    until: Instant,
}

/// The rules of one lane, and its state.
#[derive(Debug)]
pub struct Rules {
    settings: LaneSettings,
    budget: Budget,
    /// The part that other machines have too; then `budget` is this machine's own part.
    common: Option<CommonPart>,
    /// Lower limits of Snyk's, where machines share.
    told: ToldParts,
    /// Requests of the last hour are known, so a journal is there that forgot nothing.
    has_history: bool,
    backoff: Backoff,
    starts: HashMap<Arc<str>, ScopeStarts>,
    queue: FairQueue<QueueEntry>,
    slots: Slots,
    last_id: u64,
    /// The last time that each client was told to come back at.
    promised: HashMap<Arc<str>, Instant>,
}

impl Rules {
    /// Nothing was sent, and nobody waits.
    #[must_use]
    pub fn new(settings: LaneSettings) -> Self {
        Self {
            budget: Budget::new(settings.limits.clone(), settings.margin),
            common: None,
            told: ToldParts::default(),
            has_history: false,
            backoff: Backoff::new(settings.backoff),
            starts: HashMap::new(),
            queue: FairQueue::default(),
            slots: Slots::default(),
            last_id: 0,
            promised: HashMap::new(),
            settings,
        }
    }

    /// The end of the wait of a request that asks now.
    pub(crate) fn latest_end(&self, candidate: &Candidate, now: Instant) -> Instant {
        candidate.deadline.min(now + self.settings.max_wait)
    }

    /// Puts a request into the queue.
    ///
    /// # Errors
    /// [`AdmissionRefusal`] at once, where it is certain that it would wait too long.
    pub fn enqueue(&mut self, candidate: Candidate, now: Instant) -> Result<QueueId, AdmissionRefusal> {
        let until = self.latest_end(&candidate, now);
        if self.queue.len() >= self.settings.max_waiting {
            return Err(AdmissionRefusal { obstacle: Obstacle::Queue, retry_after: Duration::from_secs(1) });
        }
        // What is certain to come too late is told at once.
        if self.closed_until(candidate.start.as_ref(), now).is_some_and(|(_, at)| at >= until) {
            return Err(self.refusal(&candidate, now));
        }
        self.last_id += 1;
        let id = QueueId(self.last_id);
        let (client, weight) = (Arc::clone(&candidate.client), candidate.weight);
        let (is_put_back, entry) = (candidate.is_put_back, QueueEntry { id, candidate, until });
        if is_put_back {
            self.queue.put_back(&client, weight, entry);
        } else {
            self.queue.push(&client, weight, entry);
        }
        Ok(id)
    }

    /// Decides what is next; to be asked again after each `Admit`, `Evict` and `Refuse`.
    pub fn next_step(&mut self, now: Instant) -> Step {
        let first = self.queue.iter().min_by_key(|waiting| (waiting.until, waiting.id));
        let Some((first, first_end)) = first.map(|waiting| (waiting.id, waiting.until)) else {
            return Step::Idle;
        };
        let mut free = match self.way(now).and_then(|()| self.take(now)) {
            Ok(step) => return step,
            Err(free) => free,
        };
        // What waits for a slot alone may have one that nobody needs any more.
        if let Some((at, slot)) = self.slots.abandoned()
            && self.lacks_slot(now)
        {
            if at <= now {
                self.slots.abandon(slot, None);
                return Step::Evict(slot);
            }
            free = Some(free.map_or(at, |free| free.min(at)));
        }
        if first_end <= now {
            if let Some(gone) = self.queue.remove(|waiting| waiting.id == first) {
                return Step::Refuse(first, self.refusal(&gone.candidate, now));
            }
            return Step::Wait(now);
        }
        Step::Wait(free.map_or(first_end, |free| free.min(first_end)))
    }

    /// Ok if anything may be sent now; else the time from when on, where that is known.
    fn way(&self, now: Instant) -> Result<(), Option<Instant>> {
        if self.slots.len() >= self.settings.max_running {
            return Err(None);
        }
        let free = self.backoff.circuit.free_at(now);
        if free > now {
            return Err(Some(free));
        }
        self.room(now).map(drop)
    }

    /// True if a request waits for nothing but a slot.
    fn lacks_slot(&self, now: Instant) -> bool {
        let may_send = self.backoff.circuit.free_at(now) <= now;
        let may_start =
            |scope: &Arc<str>| self.starts.get(scope).is_none_or(|starts| starts.free(now) <= now);
        let lacks = |entry: &QueueEntry| {
            entry.candidate.start.as_ref().is_none_or(may_start)
                && !self.has_slot_for(&entry.candidate.client)
        };
        may_send && self.room(now).is_ok() && self.queue.iter().any(lacks)
    }

    /// Takes who is next out of the queue; where none may go, when the first of the held starts among them may.
    fn take(&mut self, now: Instant) -> Result<Step, Option<Instant>> {
        let held = &self.starts;
        let free = |waiting: &QueueEntry| {
            let starts = waiting.candidate.start.as_ref().and_then(|scope| held.get(scope))?;
            Some(starts.free(now)).filter(|free| *free > now)
        };
        let LaneSettings { max_running, several_clients, .. } = self.settings;
        let slots = &self.slots;
        let may_go = |waiting: &QueueEntry| {
            free(waiting).is_none() && slots.admit(&waiting.candidate.client, max_running, several_clients)
        };
        let Some(waiting) = self.queue.pop(may_go) else {
            return Err(self.queue.iter().filter_map(free).min());
        };
        let grant = self.let_through(&waiting.candidate, now);
        Ok(Step::Admit { id: waiting.id, grant })
    }

    fn has_slot_for(&self, client: &Arc<str>) -> bool {
        self.slots.admit(client, self.settings.max_running, self.settings.several_clients)
    }

    /// Gives a request its slot. The budget counts it already, so that others are not let through in its place.
    fn let_through(&mut self, candidate: &Candidate, now: Instant) -> Grant {
        let start = candidate.start.as_ref();
        let slot = self.slots.take(&candidate.client, start, now);
        self.spend(slot, now);
        let is_probe = self.backoff.sent(now);
        let starts = start.map(|scope| starts_of(&mut self.starts, scope, &self.settings));
        let is_probe_of_starts = starts.is_some_and(|starts| {
            starts.budget.spend(now, now);
            starts.running += 1;
            starts.backoff.sent(now)
        });
        Grant { slot, is_probe, is_probe_of_starts }
    }

    /// Counts the request in `slot` from `now` on, when it is sent, and no longer from when it was let through. `false` where
    /// it must not be sent: other processes have used a window up meanwhile, or a 429 came. Then it is not counted.
    pub fn confirm(&mut self, slot: SlotId, now: Instant) -> bool {
        let Some(running) = self.slots.get_mut(slot) else { return false };
        let common_until = running.common_until;
        let has_own = self.common.as_ref().is_none_or(|common| common.owns(now));
        if let Some(at) = running.counted.take() {
            if common_until.is_none() {
                self.budget.take_back(at);
            }
            if let Some(starts) = running.start.as_ref().and_then(|scope| self.starts.get_mut(scope)) {
                starts.budget.take_back(at);
            }
        }
        let starts = running.start.as_ref().and_then(|scope| self.starts.get_mut(scope));
        let is_open = |backoff: &Backoff| backoff.circuit.until(now).is_none();
        let has_room = match common_until {
            Some(until) => now < until,
            None => has_own && self.budget.next(now) <= now,
        };
        let may_go = has_room
            && is_open(&self.backoff)
            && starts
                .as_ref()
                .is_none_or(|starts| is_open(&starts.backoff) && starts.budget.next(now) <= now);
        if may_go {
            if common_until.is_none() {
                self.budget.spend(now, now);
            }
            if let Some(starts) = starts {
                starts.budget.spend(now, now);
            }
            (running.counted, running.is_confirmed) = (Some(now), true);
        }
        may_go
    }

    /// The time since the request in `slot` was confirmed.
    pub fn age(&mut self, slot: SlotId, now: Instant) -> Duration {
        let counted = self.slots.get_mut(slot).and_then(|running| running.counted);
        counted.map_or(Duration::ZERO, |at| now.saturating_duration_since(at))
    }

    /// Notes the time since which nobody waits for the request in `slot`; `None` if somebody does again.
    pub fn abandon(&mut self, slot: SlotId, since: Option<Instant>) {
        self.slots.abandon(slot, since);
    }

    /// One that waited is gone.
    pub fn leave(&mut self, id: QueueId) {
        self.queue.remove(|waiting| waiting.id == id);
    }

    /// Counts a request that another process sent at `at`; `start` is the scope of a start call.
    pub fn sent_elsewhere(&mut self, start: Option<&Arc<str>>, at: Instant, now: Instant) {
        self.has_history = true;
        self.budget.spend(at, now);
        if let Some(scope) = start.filter(|_| self.settings.starts.is_some()) {
            starts_of(&mut self.starts, scope, &self.settings).budget.spend(at, now);
        }
    }

    /// The reason that a request would wait now.
    pub(crate) fn obstacle(&self, candidate: &Candidate, now: Instant) -> Option<Obstacle> {
        if self.backoff.circuit.admits(now) != Admits::All {
            Some(Obstacle::Backoff)
        } else if let Some((why, _)) = self.closed_until(candidate.start.as_ref(), now) {
            Some(why)
        } else if !self.has_slot_for(&candidate.client) {
            Some(Obstacle::Concurrency)
        } else {
            (self.queue.len() > 0).then_some(Obstacle::Queue)
        }
    }

    /// The upstream is back after its circuit was open.
    pub fn ramp(&mut self, now: Instant) {
        self.backoff.ramp(now);
    }

    /// The time left of the backoff: of everything (`true`), or of the start calls of a scope.
    pub(crate) fn pause_for(&self, start: Option<&Arc<str>>, now: Instant) -> Option<(bool, Duration)> {
        let starts = || start.and_then(|scope| self.starts.get(scope)?.backoff.circuit.until(now));
        let all = self.backoff.circuit.until(now).map(|until| (true, until));
        let (all, until) = all.or_else(|| starts().map(|until| (false, until)))?;
        Some((all, until.saturating_duration_since(now)))
    }

    /// True if everything is paused at the moment.
    pub(crate) fn is_backing_off(&self, now: Instant) -> bool {
        self.backoff.circuit.blocks(now)
    }

    /// The state at `now`.
    pub(crate) fn standing(&self, now: Instant) -> LaneStatus {
        let starts = self.starts.iter().filter_map(|(scope, starts)| {
            let held = Some(starts).filter(|starts| starts.backoff.circuit.blocks(now))?;
            Some((Arc::clone(scope), held.backoff.retry_after(now)))
        });
        let mut paused_starts: Vec<_> = starts.collect();
        paused_starts.sort();
        LaneStatus {
            windows: self.budget.windows(now).collect(),
            backoff: self.backoff.circuit.standing(now),
            paused_starts,
            waiting: self.waiting(),
            running: self.slots.len(),
        }
    }

    /// Goes by other settings from now on; what was sent, the backoff and the queue stay.
    pub fn set(&mut self, settings: LaneSettings) {
        self.budget.set_limits(settings.limits.clone());
        if settings.common.is_none() {
            self.common = None;
        }
        self.backoff.settings = settings.backoff;
        for starts in self.starts.values_mut() {
            starts.backoff.settings = settings.backoff;
            starts.budget.set_limits(starts_limit(&settings));
        }
        self.settings = settings;
    }

    /// Number of requests that wait.
    pub(crate) fn waiting(&self) -> usize {
        self.queue.len()
    }
}

/// The start calls of a scope.
fn starts_of<'a>(
    all: &'a mut HashMap<Arc<str>, ScopeStarts>,
    scope: &Arc<str>,
    settings: &LaneSettings,
) -> &'a mut ScopeStarts {
    all.entry(Arc::clone(scope)).or_insert_with(|| ScopeStarts::new(settings))
}

#[cfg(test)]
mod tests {
    use super::super::rate_fields::{Bucket, CallKind, RateFields};
    use super::*;
    use crate::admission::backoff::BackoffSettings;
    use crate::admission::budget::Limit;

    const fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn settings() -> LaneSettings {
        let limit = |most, window| Limit { most, window: seconds(window) };
        LaneSettings {
            limits: vec![limit(160, 1), limit(1_620, 60), limit(97_200, 3_600)],
            account: vec![limit(160, 1), limit(1_620, 60), limit(97_200, 3_600)],
            common: None,
            starts: None,
            margin: Duration::ZERO,
            backoff: BackoffSettings { usual: seconds(60), most: seconds(600), ramp: 10 },
            max_wait: seconds(10),
            max_waiting: 10_000,
            max_running: 64,
            several_clients: false,
        }
    }

    fn candidate(client: &str, start: Option<&str>, deadline: Instant) -> Candidate {
        Candidate {
            client: client.into(),
            weight: 1,
            start: start.map(Into::into),
            deadline,
            is_put_back: false,
        }
    }

    /// The next that is let send.
    fn send(rules: &mut Rules, now: Instant) -> Grant {
        let step = rules.next_step(now);
        let Step::Admit { grant, .. } = step else { panic!("{step:?}") };
        grant
    }

    const fn too_many(retry_after: u64, bucket: Bucket) -> SendOutcome {
        SendOutcome::TooMany { retry_after: Some(seconds(retry_after)), bucket, jitter: Duration::ZERO }
    }

    #[test]
    fn a_held_start_stops_the_starts_of_its_scope_alone_whatever_ends_meanwhile() {
        let now = Instant::now();
        for others_meanwhile in [0, 1, 3] {
            let mut rules = Rules::new(settings());
            let ask = |rules: &mut Rules, start: Option<&str>| {
                rules.enqueue(candidate("c", start, now + seconds(90)), now)
            };
            assert!(ask(&mut rules, Some("org/a")).is_ok());
            let start = send(&mut rules, now);
            for _ in 0..others_meanwhile {
                assert!(ask(&mut rules, None).is_ok());
                let other = send(&mut rules, now);
                rules.ended(other, &SendOutcome::Answered, now);
            }
            rules.ended(start, &too_many(1_800, Bucket::Unknown), now);
            // Clients are told Snyk's time, though our own pause is shorter.
            assert_eq!(
                ask(&mut rules, Some("org/a")),
                Err(AdmissionRefusal { obstacle: Obstacle::Backoff, retry_after: seconds(1_800) })
            );
            for start in [None, Some("org/b")] {
                assert!(ask(&mut rules, start).is_ok());
                let other = send(&mut rules, now);
                rules.ended(other, &SendOutcome::Answered, now);
            }
            // With an account's window used up, everything is held.
            assert!(ask(&mut rules, Some("org/b")).is_ok());
            let other = send(&mut rules, now);
            rules.ended(other, &too_many(30, Bucket::Account), now);
            assert_eq!(ask(&mut rules, None).map_err(|no| no.obstacle), Err(Obstacle::Backoff));
        }
    }

    #[test]
    fn two_starts_that_are_refused_together_hold_their_scope_alone() {
        let (mut rules, now) = (Rules::new(settings()), Instant::now());
        let sends = [(); 2].map(|()| {
            assert!(rules.enqueue(candidate("c", Some("org/a"), now + seconds(90)), now).is_ok());
            send(&mut rules, now)
        });
        for start in sends {
            rules.ended(start, &too_many(1_800, Bucket::Unknown), now);
        }
        assert!(!rules.is_backing_off(now));
    }

    #[test]
    fn an_abandoned_read_is_ended_when_its_slot_is_needed() {
        let (mut rules, now) = (Rules::new(LaneSettings { max_running: 1, ..settings() }), Instant::now());
        let ask = |rules: &mut Rules, client| {
            rules.enqueue(candidate(client, None, now + seconds(90)), now).is_ok()
        };
        assert!(ask(&mut rules, "a"));
        let left = send(&mut rules, now);
        rules.abandon(left.slot, Some(now));
        // Nobody needs it.
        assert_eq!(rules.next_step(now + seconds(9)), Step::Idle);
        assert!(ask(&mut rules, "b"));
        assert_eq!(rules.next_step(now), Step::Wait(now + seconds(5)));
        assert_eq!(rules.next_step(now + seconds(5)), Step::Evict(left.slot));
        assert!(matches!(rules.next_step(now + seconds(5)), Step::Wait(_)));
        rules.ended(left, &SendOutcome::Failed, now + seconds(5));
        assert!(matches!(rules.next_step(now + seconds(5)), Step::Admit { .. }));
    }

    #[test]
    fn who_waits_too_long_is_told_when_to_come_back_and_who_leaves_frees_its_place() {
        let mut small = settings();
        small.limits = vec![Limit { most: 2, window: seconds(60) }];
        small.max_wait = seconds(40);
        small.max_waiting = 2;
        let mut rules = Rules::new(small);
        let now = Instant::now();
        let ask = |rules: &mut Rules| rules.enqueue(candidate("c", None, now + seconds(90)), now);
        assert!(ask(&mut rules).is_ok());
        let _ = send(&mut rules, now);
        // Half is used: the other half is spread, which is a turn in 30 seconds.
        let (first, second) = (ask(&mut rules).expect("a place"), ask(&mut rules).expect("a place"));
        assert_eq!(ask(&mut rules).map_err(|no| no.obstacle), Err(Obstacle::Queue));
        rules.leave(second);
        let third = ask(&mut rules).expect("a place");
        assert_eq!(rules.next_step(now), Step::Wait(now + seconds(30)));
        assert!(matches!(rules.next_step(now + seconds(30)), Step::Admit { id, .. } if id == first));
        let told = rules.next_step(now + seconds(40));
        assert_eq!(
            told,
            Step::Refuse(third, AdmissionRefusal { obstacle: Obstacle::Budget, retry_after: seconds(20) })
        );
        // What is certain to come too late is told at once, and to come after the one before it.
        let late = rules.enqueue(candidate("c", None, now + seconds(45)), now + seconds(41));
        assert_eq!(late, Err(AdmissionRefusal { obstacle: Obstacle::Budget, retry_after: seconds(49) }));
        // Another client's is not behind it.
        let other = rules.enqueue(candidate("d", None, now + seconds(45)), now + seconds(42));
        assert_eq!(other, Err(AdmissionRefusal { obstacle: Obstacle::Budget, retry_after: seconds(18) }));
    }

    #[test]
    fn a_request_counts_from_when_it_is_confirmed_and_only_then() {
        let now = Instant::now();
        let mut few = settings();
        few.limits = vec![Limit { most: 2, window: seconds(1) }];
        let mut rules = Rules::new(few);
        let ask = |rules: &mut Rules| {
            assert!(rules.enqueue(candidate("c", None, now + seconds(90)), now).is_ok());
            send(rules, now)
        };
        let ms = |ms| now + Duration::from_millis(ms);
        let (first, second) = (ask(&mut rules), ask(&mut rules));
        assert!(rules.confirm(first.slot, ms(300)));
        assert_eq!(rules.age(first.slot, ms(400)), Duration::from_millis(100));
        // Another process took what the second one was let through for: it is not sent, and not counted.
        rules.sent_elsewhere(None, ms(200), ms(300));
        assert!(!rules.confirm(second.slot, ms(300)));
        assert_eq!(rules.standing(ms(300)).windows[0].2, 2);
        assert!(!rules.confirm(second.slot, ms(1_100)));
        assert!(rules.confirm(second.slot, ms(1_200)));
        // A 429 meanwhile stops it too, and who has no slot any more is not sent.
        let mut rules = Rules::new(settings());
        let (refused, waits) = (ask(&mut rules), ask(&mut rules));
        rules.ended(refused, &too_many(30, Bucket::Account), now);
        assert!(!rules.confirm(waits.slot, now));
        rules.ended(waits, &SendOutcome::Failed, now);
        assert!(!rules.confirm(waits.slot, now + seconds(60)));
        assert_eq!(rules.standing(now).windows[0].2, 0);
    }

    #[test]
    fn a_request_that_is_put_back_is_the_next_of_its_client() {
        let (mut rules, now) = (Rules::new(settings()), Instant::now());
        let ask = |rules: &mut Rules, is_put_back| {
            let deadline = now + seconds(90);
            rules.enqueue(Candidate { is_put_back, ..candidate("c", None, deadline) }, now).expect("a place")
        };
        let first = ask(&mut rules, false);
        let again = ask(&mut rules, true);
        let order = [(); 2].map(|()| {
            let step = rules.next_step(now);
            let Step::Admit { id, .. } = step else { panic!("{step:?}") };
            id
        });
        assert_eq!(order, [again, first]);
    }

    #[test]
    fn a_start_that_is_not_sent_after_all_does_not_hold_its_scope_for_ever() {
        let mut rules = Rules::new(settings());
        let now = Instant::now();
        let ask = |rules: &mut Rules, at| {
            rules.enqueue(candidate("c", Some("org/a"), at + seconds(90)), at).is_ok()
        };
        assert!(ask(&mut rules, now));
        let refused = send(&mut rules, now);
        rules.ended(refused, &too_many(1, Bucket::Unknown), now);
        let later = now + seconds(1);
        for _ in 0..2 {
            assert!(ask(&mut rules, later));
            let unsent = send(&mut rules, later);
            rules.ended(unsent, &SendOutcome::Failed, later);
        }
    }

    #[test]
    fn rate_fields_count_for_what_they_name() {
        let now = Instant::now();
        let told = |most, window, remaining| RateFields {
            limits: vec![Limit { most, window: seconds(window) }],
            first: Some(most),
            remaining: Some(remaining),
            reset: Some(seconds(30)),
        };
        let mut rules = Rules::new(settings());
        let free = |rules: &mut Rules, at| rules.enqueue(candidate("c", None, at + seconds(1)), at).is_ok();
        let of_starts = told(20, 3_600, 0);
        let low = told(10, 60, 0);
        let account = told(97_200, 3_600, 0);
        for (told, kind, bucket) in [
            (&of_starts, CallKind::Start, Bucket::Other),
            (&low, CallKind::Other, Bucket::Other),
            (&RateFields::default(), CallKind::Other, Bucket::Unknown),
        ] {
            assert_eq!(rules.bucket(told, kind), bucket);
            rules.learn(told, kind, now);
            assert!(free(&mut rules, now), "{told:?}");
        }
        assert_eq!(rules.bucket(&account, CallKind::Start), Bucket::Account);
        // The account's is believed, until it ends.
        rules.learn(&account, CallKind::Start, now);
        assert!(!free(&mut rules, now) && free(&mut rules, now + seconds(30)));
    }

    #[test]
    fn starts_that_are_used_up_are_told_when_the_next_is_free() {
        let mut rules = Rules::new(LaneSettings { starts: Some(1), ..settings() });
        let now = Instant::now();
        let ask =
            |rules: &mut Rules, scope| rules.enqueue(candidate("c", Some(scope), now + seconds(90)), now);
        assert!(ask(&mut rules, "org/a").is_ok());
        let start = send(&mut rules, now);
        assert!(rules.confirm(start.slot, now));
        rules.ended(start, &SendOutcome::Answered, now);
        assert_eq!(
            ask(&mut rules, "org/a"),
            Err(AdmissionRefusal { obstacle: Obstacle::Budget, retry_after: seconds(3_600) })
        );
        assert!(ask(&mut rules, "org/b").is_ok());
        assert!(matches!(rules.next_step(now), Step::Admit { .. }));
    }
}
