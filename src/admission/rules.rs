//! Whose turn it is to send with one credential (pure; takes `now`).
//!
//! Everything that stands between a request and Snyk's limit is decided here: the budget, holds after a 429, how
//! many may run at once, and a fair queue before them. Doing it (waiting, waking, writing down) is `pacer`'s.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::backoff::{Backoff, BackoffSettings};
use super::budget::{Budget, Limit};
use super::fair_queue::FairQueue;
use super::rate_fields::{Bucket, CallKind, RateFields};
use super::slots::{SlotId, Slots};
use super::starts::{ScopeStarts, starts_limit};
use crate::circuit::{Admits, CircuitStatus};

/// Nobody is told to come back later than this after it is worth candidate again.
const MAX_PROMISE: Duration = Duration::from_mins(1);

/// `[budget]`, `[queue]` and `[backoff]`, for one credential.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LaneSettings {
    /// Snyk's limits, as far as they are ours.
    pub limits: Vec<Limit>,
    /// The same, of the whole account: rate fields that tell these are about it.
    pub account: Vec<Limit>,
    /// Start calls in an hour and scope; `None` leaves it to Snyk to refuse.
    pub starts: Option<u32>,
    /// What every window is taken to be longer.
    pub margin: Duration,
    /// How holds go.
    pub backoff: BackoffSettings,
    /// Longest that a request waits for its turn.
    pub max_wait: Duration,
    /// Most requests that wait.
    pub max_waiting: usize,
    /// Most requests that run.
    pub max_running: usize,
    /// Whether there are several clients: then one leaves slots for the others.
    pub several_clients: bool,
}

/// What asks for a turn.
#[derive(Debug, Clone)]
pub struct Candidate {
    /// Whose request it is.
    pub client: Arc<str>,
    /// Its share.
    pub weight: u32,
    /// The scope of a start call; `None` for any other call.
    pub start: Option<Arc<str>>,
    /// Until when it may wait at most, whatever `max_wait` is.
    pub deadline: Instant,
}

/// Names one that waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct QueueId(u64);

/// What stands in the way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Obstacle {
    /// Snyk's limit, by our own count.
    Budget,
    /// The backoff after a 429.
    Backoff,
    /// Too many run.
    Concurrency,
    /// Too many wait.
    Queue,
}

impl Obstacle {
    /// A word for log, journal and fields.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Budget => "budget",
            Self::Backoff => "backoff",
            Self::Concurrency => "concurrency",
            Self::Queue => "queue",
        }
    }
}

/// It is not your turn, and will not be in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QueueRefusal {
    /// What stands in the way.
    pub obstacle: Obstacle,
    /// When it may be worth candidate again.
    pub retry_after: Duration,
}

/// What to do next.
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
    Refuse(QueueId, QueueRefusal),
    /// Nothing before this time.
    Wait(Instant),
    /// Nothing before something ends or comes.
    Idle,
}

/// A request that is let send.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Grant {
    /// Its slot.
    pub slot: SlotId,
    /// Whether it is the probe after a backoff.
    pub is_probe: bool,
    /// Whether it is the probe after a backoff of its scope's starts.
    pub is_probe_of_starts: bool,
}

/// Whether anything may be sent.
enum Way {
    Open,
    Closed(Option<Instant>),
}

/// A request that another process sent with the same credential.
#[derive(Debug, Clone)]
pub struct Elsewhere {
    /// When.
    pub at: Instant,
    /// The scope whose start it was; that request is counted once more without one.
    pub start: Option<Arc<str>>,
}

/// How a rules stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LaneStatus {
    /// The length of each window, what may be sent in it, and what was.
    pub windows: Vec<(Duration, u32, u32)>,
    /// The backoff after a 429.
    pub backoff: CircuitStatus,
    /// The scopes whose starts are held, and how long still.
    pub paused_starts: Vec<(Arc<str>, Duration)>,
    /// How many wait for their turn.
    pub waiting: usize,
    /// How many were sent and have no answer yet.
    pub running: usize,
}

impl LaneStatus {
    /// Whether anything was sent, or waits.
    #[must_use]
    pub fn is_used(&self) -> bool {
        self.waiting > 0 || self.running > 0 || self.windows.iter().any(|(_, _, used)| *used > 0)
    }
}

/// What came of a send.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SendOutcome {
    /// An answer, no 429.
    Answered,
    /// 429.
    TooMany {
        /// `Retry-After`, or until the reset.
        retry_after: Option<Duration>,
        /// The limit that was reached, as far as the rate fields tell ([`Rules::bucket`]).
        bucket: Bucket,
        /// Added to our own pause, so that many gateways do not come back at once.
        jitter: Duration,
    },
    /// No answer.
    Failed,
}

#[derive(Debug)]
struct QueueEntry {
    id: QueueId,
    candidate: Candidate,
    until: Instant,
}

/// The rules of one credential.
#[derive(Debug)]
pub struct Rules {
    settings: LaneSettings,
    budget: Budget,
    backoff: Backoff,
    starts: HashMap<Arc<str>, ScopeStarts>,
    queue: FairQueue<QueueEntry>,
    /// The ends of everybody's wait, the first first, and whose they are.
    ends: BTreeMap<(Instant, QueueId), Arc<str>>,
    slots: Slots,
    last_id: u64,
    /// The last time that each client was told to come back at.
    promised: HashMap<Arc<str>, Instant>,
}

impl Rules {
    /// An open rules.
    #[must_use]
    pub fn new(settings: LaneSettings) -> Self {
        Self {
            budget: Budget::new(settings.limits.clone(), settings.margin),
            backoff: Backoff::new(settings.backoff),
            starts: HashMap::new(),
            queue: FairQueue::default(),
            ends: BTreeMap::new(),
            slots: Slots::default(),
            last_id: 0,
            promised: HashMap::new(),
            settings,
        }
    }

    /// Queues a request: its id, and until when it waits.
    ///
    /// # Errors
    /// [`QueueRefusal`] at once, where it is certain that its turn would come too late.
    pub fn enqueue(
        &mut self,
        candidate: Candidate,
        now: Instant,
    ) -> Result<(QueueId, Instant), QueueRefusal> {
        let until = candidate.deadline.min(now + self.settings.max_wait);
        if self.queue.len() >= self.settings.max_waiting {
            return Err(QueueRefusal { obstacle: Obstacle::Queue, retry_after: Duration::from_secs(1) });
        }
        // What is certain to come too late is told at once.
        if self.closed_until(candidate.start.as_ref(), now).is_some_and(|(_, at)| at >= until) {
            return Err(self.refusal(&candidate, now));
        }
        self.last_id += 1;
        let id = QueueId(self.last_id);
        let (client, weight) = (Arc::clone(&candidate.client), candidate.weight);
        self.ends.insert((until, id), Arc::clone(&client));
        self.queue.push(&client, weight, QueueEntry { id, candidate, until });
        Ok((id, until))
    }

    /// Decides what is next; to be asked again after each `Grant`, `End` and `Refuse`.
    pub fn next_step(&mut self, now: Instant) -> Step {
        let Some((&(first_end, first), _)) = self.ends.first_key_value() else { return Step::Idle };
        let mut free = match self.way(now) {
            Way::Open => match self.take(now) {
                Ok(turn) => return turn,
                Err(free) => free,
            },
            Way::Closed(until) => until,
        };
        // What waits for a slot alone may have one that nobody needs any more.
        if self.lacks_slot(now)
            && let Some((at, slot)) = self.slots.abandoned()
        {
            if at <= now {
                self.slots.abandon(slot, None);
                return Step::Evict(slot);
            }
            free = Some(free.map_or(at, |free| free.min(at)));
        }
        if first_end <= now {
            let client = self.ends.remove(&(first_end, first));
            let gone = client.and_then(|client| self.queue.remove(&client, |waiting| waiting.id == first));
            if let Some(gone) = gone {
                return Step::Refuse(first, self.refusal(&gone.candidate, now));
            }
            return Step::Wait(now);
        }
        Step::Wait(free.map_or(first_end, |free| free.min(first_end)))
    }

    /// Whether anything may be sent now; else until when not, where that is known.
    fn way(&self, now: Instant) -> Way {
        if self.slots.len() >= self.settings.max_running {
            return Way::Closed(None);
        }
        match self.backoff.admits(now) {
            Admits::All | Admits::Probe => {}
            Admits::NoneBefore(until) => return Way::Closed(Some(until)),
            Admits::NoneBeforeProbe => return Way::Closed(None),
        }
        let free = self.budget.paced(now);
        if free > now { Way::Closed(Some(free)) } else { Way::Open }
    }

    /// Whether a request waits for nothing but a slot.
    fn lacks_slot(&self, now: Instant) -> bool {
        let may_send = matches!(self.backoff.admits(now), Admits::All | Admits::Probe);
        may_send && self.budget.paced(now) <= now && self.queue.len() > 0
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
        self.ends.remove(&(waiting.until, waiting.id));
        let grant = self.sends(&waiting.candidate.client, waiting.candidate.start.as_ref(), now);
        Ok(Step::Admit { id: waiting.id, grant })
    }

    fn has_slot_for(&self, client: &Arc<str>) -> bool {
        self.slots.admit(client, self.settings.max_running, self.settings.several_clients)
    }

    /// Counts a send.
    fn sends(&mut self, client: &Arc<str>, start: Option<&Arc<str>>, now: Instant) -> Grant {
        self.budget.spend(now, now);
        let slot = self.slots.take(client);
        let is_probe = self.backoff.sent(now);
        let mut is_probe_of_starts = false;
        if let Some(scope) = start {
            let settings = &self.settings;
            let starts = self.starts.entry(Arc::clone(scope)).or_insert_with(|| ScopeStarts::new(settings));
            starts.budget.spend(now, now);
            starts.running += 1;
            is_probe_of_starts = starts.backoff.sent(now);
        }
        Grant { slot, is_probe, is_probe_of_starts }
    }

    /// Gives a turn at once, where nothing can stand in its way: nobody waits, nothing is held, and the budget is so
    /// far from its end that others need not know of it first. `unwritten` of our sends they do not know of yet.
    pub fn at_once(&mut self, candidate: &Candidate, unwritten: u32, now: Instant) -> Option<Grant> {
        let may =
            |backoff: &Backoff, budget: &Budget| backoff.is_open() && budget.may_go_unseen(unwritten, now);
        let start = candidate.start.as_ref();
        let starts = start.and_then(|scope| self.starts.get(scope));
        let goes = self.queue.len() == 0
            && self.has_slot_for(&candidate.client)
            && may(&self.backoff, &self.budget)
            // What is not known of a scope's starts has to be made to be looked at, which is as well done in turn.
            && start.is_none_or(|_| self.settings.starts.is_none())
            && starts.is_none_or(|starts| may(&starts.backoff, &starts.budget));
        goes.then(|| self.sends(&candidate.client, start, now))
    }

    /// Notes since when nobody waits for the answer to the request in `slot`; `None` where somebody does again.
    pub fn abandon(&mut self, slot: SlotId, since: Option<Instant>) {
        self.slots.abandon(slot, since);
    }

    /// One that waited is gone.
    pub fn leave(&mut self, client: &Arc<str>, id: QueueId) {
        if let Some(waiting) = self.queue.remove(client, |waiting| waiting.id == id) {
            self.ends.remove(&(waiting.until, waiting.id));
        }
    }

    /// A send ended.
    pub fn ended(&mut self, start: Option<&Arc<str>>, send: Grant, outcome: &SendOutcome, now: Instant) {
        self.slots.free(send.slot);
        let settings = &self.settings;
        let mut starts = start
            .map(|scope| self.starts.entry(Arc::clone(scope)).or_insert_with(|| ScopeStarts::new(settings)));
        if let Some(starts) = &mut starts {
            starts.running = starts.running.saturating_sub(1);
        }
        match outcome {
            SendOutcome::Answered => {
                self.backoff.answered(send.is_probe, now);
                if let Some(starts) = starts {
                    starts.backoff.answered(send.is_probe_of_starts, now);
                }
            }
            SendOutcome::TooMany { retry_after, bucket, jitter } => {
                // A start's own quota is another one than the account's, and a bucket of its own is no other call's.
                let is_the_accounts = match bucket {
                    Bucket::Account => true,
                    Bucket::Unknown => starts.is_none(),
                    Bucket::Other => false,
                };
                if let Some(starts) = starts {
                    starts.backoff.refused(*retry_after, send.is_probe_of_starts, *jitter, now);
                }
                if is_the_accounts {
                    self.backoff.refused(*retry_after, send.is_probe, *jitter, now);
                } else {
                    self.backoff.answered(send.is_probe, now);
                }
            }
            SendOutcome::Failed => {
                if send.is_probe {
                    self.backoff.lose_probe(now);
                }
                if let Some(starts) = starts.filter(|_| send.is_probe_of_starts) {
                    starts.backoff.lose_probe(now);
                }
            }
        }
        self.starts.retain(|_, starts| {
            starts.running > 0 || !starts.backoff.is_over(now) || !starts.budget.is_unused(now)
        });
    }

    /// What others sent with the same credential.
    pub fn spent_elsewhere(&mut self, Elsewhere { at, start }: Elsewhere, now: Instant) {
        let Some(scope) = start else { return self.budget.spend(at, now) };
        if self.settings.starts.is_some() {
            let settings = &self.settings;
            self.starts.entry(scope).or_insert_with(|| ScopeStarts::new(settings)).budget.spend(at, now);
        }
    }

    /// So many other processes may have sent with the same credential what is not known yet.
    pub fn beside(&mut self, processes: u32) {
        self.budget.beside(processes);
    }

    /// A turn was not used after all; the budget counts it all the same.
    pub fn not_sent(&mut self, start: Option<&Arc<str>>, send: Grant, now: Instant) {
        self.ended(start, send, &SendOutcome::Failed, now);
    }

    /// A turn that was given at `at` is used only now; whether it still may be.
    pub fn still(&mut self, start: Option<&Arc<str>>, at: Instant, now: Instant) -> bool {
        self.budget.put_off(at, now);
        let starts = start.and_then(|scope| self.starts.get_mut(scope));
        let mut held = self.backoff.until(now);
        if let Some(starts) = starts {
            starts.budget.put_off(at, now);
            held = held.max(starts.backoff.until(now));
        }
        held.is_none() && self.budget.is_within(now)
    }

    /// Queues one again whose turn could not be used: in its old place, and no longer than before.
    pub fn again(&mut self, id: QueueId, candidate: Candidate, until: Instant) {
        let (client, weight) = (Arc::clone(&candidate.client), candidate.weight);
        self.ends.insert((until, id), Arc::clone(&client));
        self.queue.put_back(&client, weight, QueueEntry { id, candidate, until });
    }

    /// What a request that asks now would wait for, if for anything.
    #[must_use]
    pub fn stands_in_the_way(&self, candidate: &Candidate, now: Instant) -> Option<Obstacle> {
        if self.backoff.admits(now) != Admits::All {
            Some(Obstacle::Backoff)
        } else if let Some((why, _)) = self.closed_until(candidate.start.as_ref(), now) {
            Some(why)
        } else if !self.has_slot_for(&candidate.client) {
            Some(Obstacle::Concurrency)
        } else {
            (self.queue.len() > 0).then_some(Obstacle::Queue)
        }
    }

    /// Takes in what the rate fields of an answer say.
    ///
    /// Those of an export read are believed, whatever they say: that is what export reads have. Of any other call, a
    /// limit is believed where it is the account's, for the call may have one of its own. `reset` is when the window ends;
    /// nothing is believed for longer than a backoff may last.
    pub fn learn(&mut self, told: &RateFields, kind: CallKind, now: Instant) {
        let at_most =
            told.reset.map_or(self.settings.backoff.most, |reset| reset.min(self.settings.backoff.most));
        for limit in &told.limits {
            if kind == CallKind::Read || self.is_the_accounts(*limit) {
                let remaining = told.remaining.filter(|_| told.first == Some(limit.most));
                self.budget.learn(*limit, remaining, at_most, now);
            }
        }
    }

    fn is_the_accounts(&self, told: Limit) -> bool {
        self.settings.account.contains(&told)
    }

    /// The limit that a 429 with these rate fields is about.
    #[must_use]
    pub fn bucket(&self, told: &RateFields, kind: CallKind) -> Bucket {
        let first = told.limits.iter().find(|limit| told.first == Some(limit.most));
        match (first, kind) {
            (None, _) => Bucket::Unknown,
            // What holds for one export read holds for all of them, and they are most of what is sent.
            (Some(_), CallKind::Read) => Bucket::Account,
            (Some(limit), CallKind::Start | CallKind::Other) => {
                let is_used_up = told.remaining.is_none_or(|remaining| remaining == 0);
                if is_used_up && self.is_the_accounts(*limit) { Bucket::Account } else { Bucket::Other }
            }
        }
    }

    /// The upstream is back after it was left alone.
    pub fn ramp(&mut self, now: Instant) {
        self.backoff.ramp(now);
    }

    /// How long everything (`true`), or the starts of a scope, are held back from now.
    #[must_use]
    pub fn pause_for(&self, start: Option<&Arc<str>>, now: Instant) -> Option<(bool, Duration)> {
        let starts = || start.and_then(|scope| self.starts.get(scope)?.backoff.until(now));
        let all = self.backoff.until(now).map(|until| (true, until));
        let (all, until) = all.or_else(|| starts().map(|until| (false, until)))?;
        Some((all, until.saturating_duration_since(now)))
    }

    /// Whether everything is held back at the moment.
    #[must_use]
    pub fn is_backing_off(&self, now: Instant) -> bool {
        self.backoff.blocks(now)
    }

    /// How it stands at `now`.
    #[must_use]
    pub fn standing(&self, now: Instant) -> LaneStatus {
        let starts = self.starts.iter().filter_map(|(scope, starts)| {
            let held = Some(starts).filter(|starts| starts.backoff.blocks(now))?;
            Some((Arc::clone(scope), held.backoff.retry_after(now)))
        });
        let mut paused_starts: Vec<_> = starts.collect();
        paused_starts.sort();
        LaneStatus {
            windows: self.budget.windows(now).collect(),
            backoff: self.backoff.standing(now),
            paused_starts,
            waiting: self.waiting(),
            running: self.slots.len(),
        }
    }

    /// Goes by other settings from now on; what was sent, holds and who waits stay.
    pub fn set(&mut self, settings: LaneSettings) {
        self.budget.set_limits(settings.limits.clone());
        self.backoff.set(settings.backoff);
        for starts in self.starts.values_mut() {
            starts.backoff.set(settings.backoff);
            starts.budget.set_limits(starts_limit(&settings));
        }
        self.settings = settings;
    }

    /// How many wait.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.queue.len()
    }

    /// What is closed until a time that is known: by a backoff or the budget, of the account or of a scope's starts.
    fn closed_until(&self, start: Option<&Arc<str>>, now: Instant) -> Option<(Obstacle, Instant)> {
        let starts = start.and_then(|scope| self.starts.get(scope));
        let backoff = self.backoff.until(now).max(starts.and_then(|starts| starts.backoff.until(now)));
        let budget = self.budget.paced(now).max(starts.map_or(now, |starts| starts.budget.next(now)));
        match backoff {
            Some(until) if until >= budget => Some((Obstacle::Backoff, until)),
            _ => Some((Obstacle::Budget, budget)).filter(|_| budget > now),
        }
    }

    /// What one that waits in vain is told. Where the budget is short, each of a client's is told a time of its
    /// own, in the order that they came in, so that they do not come back at once; as many clients as are told
    /// so share what there is.
    fn refusal(&mut self, candidate: &Candidate, now: Instant) -> QueueRefusal {
        let (why, at) = match self.closed_until(candidate.start.as_ref(), now) {
            Some((Obstacle::Backoff, at)) => (Obstacle::Backoff, at),
            _ if !self.has_slot_for(&candidate.client) => (Obstacle::Concurrency, now),
            _ if self.backoff.admits(now) != Admits::All => (Obstacle::Backoff, now),
            closed => (Obstacle::Budget, closed.map_or(now, |(_, at)| at)),
        };
        let at = match why {
            Obstacle::Budget => self.promise(&candidate.client, at, now),
            // Snyk's own time, where it is later than ours.
            Obstacle::Backoff => at.max(now + self.told_pause(candidate.start.as_ref(), now)),
            Obstacle::Concurrency | Obstacle::Queue => at,
        };
        QueueRefusal {
            obstacle: why,
            retry_after: at.saturating_duration_since(now).max(Duration::from_secs(1)),
        }
    }

    /// The wait that Snyk asked for, of the account or of a scope's starts.
    fn told_pause(&self, start: Option<&Arc<str>>, now: Instant) -> Duration {
        let starts = start.and_then(|scope| self.starts.get(scope));
        self.backoff
            .retry_after(now)
            .max(starts.map_or(Duration::ZERO, |starts| starts.backoff.retry_after(now)))
    }

    fn promise(&mut self, client: &Arc<str>, earliest: Instant, now: Instant) -> Instant {
        self.promised.retain(|_, at| *at > now);
        let clients = u32::try_from(self.promised.len()).unwrap_or(u32::MAX).max(1);
        let interval = self.budget.interval(now).saturating_mul(clients);
        let after = self.promised.get(client).map_or(earliest, |last| *last + interval);
        // Who keeps candidate is not told to stay away for ever.
        let at = after.max(earliest).min(earliest + MAX_PROMISE);
        self.promised.insert(Arc::clone(client), at);
        at
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn settings() -> LaneSettings {
        let limit = |most, window| Limit { most, window: seconds(window) };
        LaneSettings {
            limits: vec![limit(160, 1), limit(1_620, 60), limit(97_200, 3_600)],
            account: vec![limit(160, 1), limit(1_620, 60), limit(97_200, 3_600)],
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
        Candidate { client: client.into(), weight: 1, start: start.map(Into::into), deadline }
    }

    /// The next that is let send.
    fn send(rules: &mut Rules, now: Instant) -> Grant {
        let turn = rules.next_step(now);
        let Step::Admit { grant, .. } = turn else { panic!("{turn:?}") };
        grant
    }

    const fn too_many(retry_after: u64, bucket: Bucket) -> SendOutcome {
        SendOutcome::TooMany { retry_after: Some(seconds(retry_after)), bucket, jitter: Duration::ZERO }
    }

    #[test]
    fn a_held_start_stops_the_starts_of_its_scope_alone_whatever_ends_meanwhile() {
        let now = Instant::now();
        let a: Arc<str> = "org/a".into();
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
                rules.ended(None, other, &SendOutcome::Answered, now);
            }
            rules.ended(Some(&a), start, &too_many(1_800, Bucket::Unknown), now);
            // Clients are told Snyk's time, though our own pause is shorter.
            assert_eq!(
                ask(&mut rules, Some("org/a")),
                Err(QueueRefusal { obstacle: Obstacle::Backoff, retry_after: seconds(1_800) })
            );
            for start in [None, Some("org/b")] {
                assert!(ask(&mut rules, start).is_ok());
                let other = send(&mut rules, now);
                rules.ended(start.map(Into::into).as_ref(), other, &SendOutcome::Answered, now);
            }
            // With an account's window used up, everything is held.
            assert!(ask(&mut rules, Some("org/b")).is_ok());
            let other = send(&mut rules, now);
            rules.ended(Some(&"org/b".into()), other, &too_many(30, Bucket::Account), now);
            assert_eq!(ask(&mut rules, None).map_err(|no| no.obstacle), Err(Obstacle::Backoff));
        }
    }

    #[test]
    fn two_starts_that_are_refused_together_hold_their_scope_alone() {
        let (mut rules, now) = (Rules::new(settings()), Instant::now());
        let a: Arc<str> = "org/a".into();
        let sends = [(); 2].map(|()| {
            assert!(rules.enqueue(candidate("c", Some("org/a"), now + seconds(90)), now).is_ok());
            send(&mut rules, now)
        });
        for start in sends {
            rules.ended(Some(&a), start, &too_many(1_800, Bucket::Unknown), now);
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
        rules.ended(None, left, &SendOutcome::Failed, now + seconds(5));
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
        let ask =
            |rules: &mut Rules| rules.enqueue(candidate("c", None, now + seconds(90)), now).map(|(id, _)| id);
        assert!(ask(&mut rules).is_ok());
        let _ = send(&mut rules, now);
        // Half is used: the other half is spread, which is a turn in 30 seconds.
        let (first, second) = (ask(&mut rules).expect("a place"), ask(&mut rules).expect("a place"));
        assert_eq!(ask(&mut rules).map_err(|no| no.obstacle), Err(Obstacle::Queue));
        rules.leave(&"c".into(), second);
        let third = ask(&mut rules).expect("a place");
        assert_eq!(rules.next_step(now), Step::Wait(now + seconds(30)));
        assert!(matches!(rules.next_step(now + seconds(30)), Step::Admit { id, .. } if id == first));
        let told = rules.next_step(now + seconds(40));
        assert_eq!(
            told,
            Step::Refuse(third, QueueRefusal { obstacle: Obstacle::Budget, retry_after: seconds(20) })
        );
        // What is certain to come too late is told at once, and to come after the one before it.
        let late = rules.enqueue(candidate("c", None, now + seconds(45)), now + seconds(41));
        assert_eq!(late, Err(QueueRefusal { obstacle: Obstacle::Budget, retry_after: seconds(49) }));
        // Another client's is not behind it.
        let other = rules.enqueue(candidate("d", None, now + seconds(45)), now + seconds(42));
        assert_eq!(other, Err(QueueRefusal { obstacle: Obstacle::Budget, retry_after: seconds(18) }));
    }

    #[test]
    fn a_turn_is_given_at_once_where_nothing_can_stand_in_its_way_alone() {
        let now = Instant::now();
        let scope: Arc<str> = "org/a".into();
        let any = |start| candidate("c", start, now + seconds(9));
        let mut rules = Rules::new(LaneSettings { max_running: 2, ..settings() });
        let first = rules.at_once(&any(None), 0, now).expect("a slot");
        // Others do not know of too many.
        assert_eq!(rules.at_once(&any(None), 5, now), None);
        // Somebody waits.
        let (id, _) = rules.enqueue(any(None), now).expect("a place");
        assert_eq!(rules.at_once(&any(None), 0, now), None);
        rules.leave(&"c".into(), id);
        let start = rules.at_once(&any(Some("org/a")), 0, now).expect("a slot");
        // As many run as may.
        assert_eq!(rules.at_once(&any(None), 0, now), None);
        // A scope's starts are held, and all is.
        rules.ended(Some(&scope), start, &too_many(30, Bucket::Unknown), now);
        assert_eq!(rules.at_once(&any(Some("org/a")), 0, now), None);
        rules.ended(None, first, &too_many(30, Bucket::Account), now);
        assert_eq!(rules.at_once(&any(None), 0, now), None);
        // The probe after a backoff, and what follows it, come in turn.
        assert_eq!(rules.at_once(&any(None), 0, now + seconds(31)), None);
        // ScopeStarts that are few are counted first.
        let mut few = Rules::new(LaneSettings { starts: Some(1), ..settings() });
        assert!(
            few.at_once(&any(Some("org/a")), 0, now).is_none() && few.at_once(&any(None), 0, now).is_some()
        );
        // Half of a window is used.
        let mut short = Rules::new(settings());
        let given: Vec<Grant> = (0..200).filter_map(|_| short.at_once(&any(None), 0, now)).collect();
        assert_eq!(given.len(), 64);
        for send in given {
            short.ended(None, send, &SendOutcome::Answered, now);
        }
        assert_eq!((0..200).filter_map(|_| short.at_once(&any(None), 0, now)).count(), 80 - 64);
    }

    #[test]
    fn a_start_that_is_not_sent_after_all_does_not_hold_its_scope_for_ever() {
        let mut rules = Rules::new(settings());
        let now = Instant::now();
        let scope: Arc<str> = "org/a".into();
        let ask = |rules: &mut Rules, at| {
            rules.enqueue(candidate("c", Some("org/a"), at + seconds(90)), at).is_ok()
        };
        assert!(ask(&mut rules, now));
        let refused = send(&mut rules, now);
        rules.ended(Some(&scope), refused, &too_many(1, Bucket::Unknown), now);
        let later = now + seconds(1);
        for _ in 0..2 {
            assert!(ask(&mut rules, later));
            let unsent = send(&mut rules, later);
            rules.not_sent(Some(&scope), unsent, later);
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
        rules.ended(Some(&"org/a".into()), start, &SendOutcome::Answered, now);
        assert_eq!(
            ask(&mut rules, "org/a"),
            Err(QueueRefusal { obstacle: Obstacle::Budget, retry_after: seconds(3_600) })
        );
        assert!(ask(&mut rules, "org/b").is_ok());
        assert!(matches!(rules.next_step(now), Step::Admit { .. }));
    }
}
