//! Whose turn it is to send with one credential (pure; takes `now`).
//!
//! Everything that stands between a request and Snyk's limit is decided here: the budget, holds after a 429, how
//! many may run at once, and a fair queue before them. Doing it (waiting, waking, writing down) is `pacer`'s.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::backoff::{self, Backoff};
use super::budget::{Budget, Limit};
use super::queue::FairQueue;
use super::slots::{Slot, Slots};
use crate::circuit::{Admits, Standing as CircuitStanding};

/// Nobody is told to come back later than this after it is worth asking again.
const MOST_PROMISED: Duration = Duration::from_mins(1);

/// `[budget]`, `[queue]` and `[hold]`, for one credential.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Snyk's limits, as far as they are ours.
    pub limits: Vec<Limit>,
    /// The same, of the whole account: rate fields that tell these are about it.
    pub account: Vec<Limit>,
    /// Start calls in an hour and scope; `None` leaves it to Snyk to refuse.
    pub starts: Option<u32>,
    /// What every window is taken to be longer.
    pub margin: Duration,
    /// How holds go.
    pub hold: backoff::Settings,
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
pub struct Asking {
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
pub struct Ticket(u64);

/// What stands in the way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// Snyk's limit, by our own count.
    Budget,
    /// A 429 of Snyk's, not long ago.
    Hold,
    /// Too many run.
    Concurrency,
    /// Too many wait.
    Queue,
}

impl Why {
    /// A word for log, journal and fields.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Budget => "budget",
            Self::Hold => "hold",
            Self::Concurrency => "concurrency",
            Self::Queue => "queue",
        }
    }
}

/// It is not your turn, and will not be in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NoTurn {
    /// What stands in the way.
    pub why: Why,
    /// When it may be worth asking again.
    pub retry_after: Duration,
}

/// What to do next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    /// Let this one send.
    Send {
        /// Which.
        ticket: Ticket,
        /// How.
        send: Send,
    },
    /// End the read in this slot: its clients have left, and another request waits for the slot.
    End(Slot),
    /// Tell this one that it waited in vain.
    Refuse(Ticket, NoTurn),
    /// Nothing before this time.
    At(Instant),
    /// Nothing before something ends or comes.
    Idle,
}

/// A request that is let send.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Send {
    /// Its slot.
    pub slot: Slot,
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

/// What the rate fields of an answer say.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Told {
    /// Its limits.
    pub limits: Vec<Limit>,
    /// The limit that comes first: `remaining` is about its window.
    pub first: Option<u32>,
    /// How many more requests there may be.
    pub remaining: Option<u32>,
    /// In how long that ends.
    pub reset: Option<Duration>,
}

/// How a gate stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    /// The length of each window, what may be sent in it, and what was.
    pub windows: Vec<(Duration, u32, u32)>,
    /// The backoff after a 429.
    pub hold: CircuitStanding,
    /// The scopes whose starts are held, and how long still.
    pub starts_held: Vec<(Arc<str>, Duration)>,
    /// How many wait for their turn.
    pub waiting: usize,
    /// How many were sent and have no answer yet.
    pub running: usize,
}

impl Standing {
    /// Whether anything was sent, or waits.
    #[must_use]
    pub fn is_used(&self) -> bool {
        self.waiting > 0 || self.running > 0 || self.windows.iter().any(|(_, _, used)| *used > 0)
    }
}

/// What came of a send.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// An answer, no 429.
    Answered,
    /// 429.
    TooMany {
        /// `Retry-After`, or until the reset.
        retry_after: Option<Duration>,
        /// The limit that was reached, as far as the rate fields tell ([`Gate::bucket`]).
        bucket: Bucket,
        /// Added to our own pause, so that many gateways do not come back at once.
        jitter: Duration,
    },
    /// No answer.
    Failed,
}

/// A limit of Snyk's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bucket {
    /// The account's.
    Account,
    /// Another one, such as that of a single call.
    Other,
    /// Nothing tells.
    Unknown,
}

/// The part of the API that a call is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// An export call that reads.
    Read,
    /// A start call.
    Start,
    /// Any other call.
    Other,
}

#[derive(Debug)]
struct Waiting {
    ticket: Ticket,
    asking: Asking,
    until: Instant,
}

/// What a scope's start calls may do.
#[derive(Debug)]
struct Starts {
    hold: Backoff,
    budget: Budget,
    /// How many are under way: what they bring must find its scope.
    running: usize,
}

/// The gate of one credential.
#[derive(Debug)]
pub struct Gate {
    settings: Settings,
    budget: Budget,
    hold: Backoff,
    starts: HashMap<Arc<str>, Starts>,
    queue: FairQueue<Waiting>,
    /// The ends of everybody's wait, the first first, and whose they are.
    ends: BTreeMap<(Instant, Ticket), Arc<str>>,
    slots: Slots,
    last_ticket: u64,
    /// The last time that each client was told to come back at.
    promised: HashMap<Arc<str>, Instant>,
}

impl Gate {
    /// An open gate.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        Self {
            budget: Budget::new(settings.limits.clone(), settings.margin),
            hold: Backoff::new(settings.hold),
            starts: HashMap::new(),
            queue: FairQueue::default(),
            ends: BTreeMap::new(),
            slots: Slots::default(),
            last_ticket: 0,
            promised: HashMap::new(),
            settings,
        }
    }

    /// Queues a request: its ticket, and until when it waits.
    ///
    /// # Errors
    /// [`NoTurn`] at once, where it is certain that its turn would come too late.
    pub fn ask(&mut self, asking: Asking, now: Instant) -> Result<(Ticket, Instant), NoTurn> {
        let until = asking.deadline.min(now + self.settings.max_wait);
        if self.queue.len() >= self.settings.max_waiting {
            return Err(NoTurn { why: Why::Queue, retry_after: Duration::from_secs(1) });
        }
        // What is certain to come too late is told at once.
        if self.closed_until(asking.start.as_ref(), now).is_some_and(|(_, at)| at >= until) {
            return Err(self.refusal(&asking, now));
        }
        self.last_ticket += 1;
        let ticket = Ticket(self.last_ticket);
        let (client, weight) = (Arc::clone(&asking.client), asking.weight);
        self.ends.insert((until, ticket), Arc::clone(&client));
        self.queue.push(&client, weight, Waiting { ticket, asking, until });
        Ok((ticket, until))
    }

    /// Decides what is next; to be asked again after each `Send`, `End` and `Refuse`.
    pub fn turn(&mut self, now: Instant) -> Turn {
        let Some((&(first_end, first), _)) = self.ends.first_key_value() else { return Turn::Idle };
        let mut free = match self.way(now) {
            Way::Open => match self.take(now) {
                Ok(turn) => return turn,
                Err(free) => free,
            },
            Way::Closed(until) => until,
        };
        // What waits for a slot alone may have one that nobody needs any more.
        if let Some((at, slot)) = self.slots.abandoned()
            && self.lacks_slot(now)
        {
            if at <= now {
                self.slots.abandon(slot, None);
                return Turn::End(slot);
            }
            free = Some(free.map_or(at, |free| free.min(at)));
        }
        if first_end <= now {
            let client = self.ends.remove(&(first_end, first));
            let gone =
                client.and_then(|client| self.queue.remove(&client, |waiting| waiting.ticket == first));
            if let Some(gone) = gone {
                return Turn::Refuse(first, self.refusal(&gone.asking, now));
            }
            return Turn::At(now);
        }
        Turn::At(free.map_or(first_end, |free| free.min(first_end)))
    }

    /// Whether anything may be sent now; else until when not, where that is known.
    fn way(&self, now: Instant) -> Way {
        if self.slots.len() >= self.settings.max_running {
            return Way::Closed(None);
        }
        match self.hold.admits(now) {
            Admits::All | Admits::Probe => {}
            Admits::NoneBefore(until) => return Way::Closed(Some(until)),
            // Its end is not known: looked at again soon.
            Admits::NoneBeforeProbe => return Way::Closed(Some(now + Duration::from_secs(1))),
        }
        let free = self.budget.paced(now);
        if free > now { Way::Closed(Some(free)) } else { Way::Open }
    }

    /// Whether a request waits for nothing but a slot.
    fn lacks_slot(&self, now: Instant) -> bool {
        let may_send = matches!(self.hold.admits(now), Admits::All | Admits::Probe);
        let may_start =
            |scope: &Arc<str>| self.starts.get(scope).is_none_or(|starts| starts.free(now) <= now);
        let lacks = |waiting: &Waiting| {
            waiting.asking.start.as_ref().is_none_or(may_start) && !self.has_slot_for(&waiting.asking.client)
        };
        may_send && self.budget.paced(now) <= now && self.queue.iter().any(lacks)
    }

    /// Takes who is next out of the queue; where none may go, when the first of the held starts among them may.
    fn take(&mut self, now: Instant) -> Result<Turn, Option<Instant>> {
        let held = &self.starts;
        let free = |waiting: &Waiting| {
            let starts = waiting.asking.start.as_ref().and_then(|scope| held.get(scope))?;
            Some(starts.free(now)).filter(|free| *free > now)
        };
        let Settings { max_running, several_clients, .. } = self.settings;
        let slots = &self.slots;
        let may_go = |waiting: &Waiting| {
            free(waiting).is_none() && slots.admit(&waiting.asking.client, max_running, several_clients)
        };
        let Some(waiting) = self.queue.pop(may_go) else {
            return Err(self.queue.iter().filter_map(free).min());
        };
        self.ends.remove(&(waiting.until, waiting.ticket));
        let send = self.sends(&waiting.asking.client, waiting.asking.start.as_ref(), now);
        Ok(Turn::Send { ticket: waiting.ticket, send })
    }

    fn has_slot_for(&self, client: &Arc<str>) -> bool {
        self.slots.admit(client, self.settings.max_running, self.settings.several_clients)
    }

    /// Counts a send.
    fn sends(&mut self, client: &Arc<str>, start: Option<&Arc<str>>, now: Instant) -> Send {
        self.budget.spend(now, now);
        let slot = self.slots.take(client);
        let is_probe = self.hold.sent(now);
        let mut is_probe_of_starts = false;
        if let Some(scope) = start {
            let settings = &self.settings;
            let starts = self.starts.entry(Arc::clone(scope)).or_insert_with(|| Starts::new(settings));
            starts.budget.spend(now, now);
            starts.running += 1;
            is_probe_of_starts = starts.hold.sent(now);
        }
        Send { slot, is_probe, is_probe_of_starts }
    }

    /// Gives a turn at once, where nothing can stand in its way: nobody waits, nothing is held, and the budget is so
    /// far from its end that others need not know of it first. `unwritten` of our sends they do not know of yet.
    pub fn at_once(&mut self, asking: &Asking, unwritten: u32, now: Instant) -> Option<Send> {
        let may = |hold: &Backoff, budget: &Budget| hold.is_open() && budget.may_go_unseen(unwritten, now);
        let start = asking.start.as_ref();
        let starts = start.and_then(|scope| self.starts.get(scope));
        let goes = self.queue.len() == 0
            && self.has_slot_for(&asking.client)
            && may(&self.hold, &self.budget)
            // What is not known of a scope's starts has to be made to be looked at, which is as well done in turn.
            && start.is_none_or(|_| self.settings.starts.is_none())
            && starts.is_none_or(|starts| may(&starts.hold, &starts.budget));
        goes.then(|| self.sends(&asking.client, start, now))
    }

    /// Notes since when nobody waits for the answer to the request in `slot`; `None` where somebody does again.
    pub fn abandon(&mut self, slot: Slot, since: Option<Instant>) {
        self.slots.abandon(slot, since);
    }

    /// One that waited is gone.
    pub fn leave(&mut self, client: &Arc<str>, ticket: Ticket) {
        if let Some(waiting) = self.queue.remove(client, |waiting| waiting.ticket == ticket) {
            self.ends.remove(&(waiting.until, waiting.ticket));
        }
    }

    /// A send ended.
    pub fn ended(&mut self, start: Option<&Arc<str>>, send: Send, outcome: &Outcome, now: Instant) {
        self.slots.free(send.slot);
        let settings = &self.settings;
        let mut starts =
            start.map(|scope| self.starts.entry(Arc::clone(scope)).or_insert_with(|| Starts::new(settings)));
        if let Some(starts) = &mut starts {
            starts.running = starts.running.saturating_sub(1);
        }
        match outcome {
            Outcome::Answered => {
                self.hold.answered(send.is_probe, now);
                if let Some(starts) = starts {
                    starts.hold.answered(send.is_probe_of_starts, now);
                }
            }
            Outcome::TooMany { retry_after, bucket, jitter } => {
                // A start's own quota is another one than the account's, and a bucket of its own is no other call's.
                let is_the_accounts = match bucket {
                    Bucket::Account => true,
                    Bucket::Unknown => starts.is_none(),
                    Bucket::Other => false,
                };
                if let Some(starts) = starts {
                    starts.hold.refused(*retry_after, send.is_probe_of_starts, *jitter, now);
                }
                if is_the_accounts {
                    self.hold.refused(*retry_after, send.is_probe, *jitter, now);
                } else {
                    self.hold.answered(send.is_probe, now);
                }
            }
            Outcome::Failed => {
                if send.is_probe {
                    self.hold.lose_probe(now);
                }
                if let Some(starts) = starts.filter(|_| send.is_probe_of_starts) {
                    starts.hold.lose_probe(now);
                }
            }
        }
        self.starts.retain(|_, starts| {
            starts.running > 0 || !starts.hold.is_over(now) || !starts.budget.is_unused(now)
        });
    }

    /// What others sent with the same credential.
    pub fn spent_elsewhere(&mut self, Elsewhere { at, start }: Elsewhere, now: Instant) {
        let Some(scope) = start else { return self.budget.spend(at, now) };
        if self.settings.starts.is_some() {
            let settings = &self.settings;
            self.starts.entry(scope).or_insert_with(|| Starts::new(settings)).budget.spend(at, now);
        }
    }

    /// So many other processes may have sent with the same credential what is not known yet.
    pub fn beside(&mut self, processes: u32) {
        self.budget.beside(processes);
    }

    /// A turn was not used after all; the budget counts it all the same.
    pub fn not_sent(&mut self, start: Option<&Arc<str>>, send: Send, now: Instant) {
        self.ended(start, send, &Outcome::Failed, now);
    }

    /// A turn that was given at `at` is used only now; whether it still may be.
    pub fn still(&mut self, start: Option<&Arc<str>>, at: Instant, now: Instant) -> bool {
        self.budget.put_off(at, now);
        let starts = start.and_then(|scope| self.starts.get_mut(scope));
        let mut held = self.hold.until(now);
        if let Some(starts) = starts {
            starts.budget.put_off(at, now);
            held = held.max(starts.hold.until(now));
        }
        held.is_none() && self.budget.is_within(now)
    }

    /// Queues one again whose turn could not be used: in its old place, and no longer than before.
    pub fn again(&mut self, ticket: Ticket, asking: Asking, until: Instant) {
        let (client, weight) = (Arc::clone(&asking.client), asking.weight);
        self.ends.insert((until, ticket), Arc::clone(&client));
        self.queue.put_back(&client, weight, Waiting { ticket, asking, until });
    }

    /// What a request that asks now would wait for, if for anything.
    #[must_use]
    pub fn stands_in_the_way(&self, asking: &Asking, now: Instant) -> Option<Why> {
        if self.hold.admits(now) != Admits::All {
            Some(Why::Hold)
        } else if let Some((why, _)) = self.closed_until(asking.start.as_ref(), now) {
            Some(why)
        } else if !self.has_slot_for(&asking.client) {
            Some(Why::Concurrency)
        } else {
            (self.queue.len() > 0).then_some(Why::Queue)
        }
    }

    /// Takes in what the rate fields of an answer say.
    ///
    /// Those of an export read are believed, whatever they say: that is what export reads have. Of any other call, a
    /// limit is believed where it is the account's, for the call may have one of its own. `reset` is when the window ends;
    /// nothing is believed for longer than a hold may last.
    pub fn learn(&mut self, told: &Told, kind: Kind, now: Instant) {
        let at_most = told.reset.map_or(self.settings.hold.most, |reset| reset.min(self.settings.hold.most));
        for limit in &told.limits {
            if kind == Kind::Read || self.is_the_accounts(*limit) {
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
    pub fn bucket(&self, told: &Told, kind: Kind) -> Bucket {
        let first = told.limits.iter().find(|limit| told.first == Some(limit.most));
        match (first, kind) {
            (None, _) => Bucket::Unknown,
            // What holds for one export read holds for all of them, and they are most of what is sent.
            (Some(_), Kind::Read) => Bucket::Account,
            (Some(limit), Kind::Start | Kind::Other) => {
                let is_used_up = told.remaining.is_none_or(|remaining| remaining == 0);
                if is_used_up && self.is_the_accounts(*limit) { Bucket::Account } else { Bucket::Other }
            }
        }
    }

    /// The upstream is back after it was left alone.
    pub fn ramp(&mut self, now: Instant) {
        self.hold.ramp(now);
    }

    /// How long everything (`true`), or the starts of a scope, are held back from now.
    #[must_use]
    pub fn held_for(&self, start: Option<&Arc<str>>, now: Instant) -> Option<(bool, Duration)> {
        let starts = || start.and_then(|scope| self.starts.get(scope)?.hold.until(now));
        let all = self.hold.until(now).map(|until| (true, until));
        let (all, until) = all.or_else(|| starts().map(|until| (false, until)))?;
        Some((all, until.saturating_duration_since(now)))
    }

    /// Whether everything is held back at the moment.
    #[must_use]
    pub fn is_held(&self, now: Instant) -> bool {
        self.hold.blocks(now)
    }

    /// How it stands at `now`.
    #[must_use]
    pub fn standing(&self, now: Instant) -> Standing {
        let starts = self.starts.iter().filter_map(|(scope, starts)| {
            let held = Some(starts).filter(|starts| starts.hold.blocks(now))?;
            Some((Arc::clone(scope), held.hold.retry_after(now)))
        });
        let mut starts_held: Vec<_> = starts.collect();
        starts_held.sort();
        Standing {
            windows: self.budget.windows(now).collect(),
            hold: self.hold.standing(now),
            starts_held,
            waiting: self.waiting(),
            running: self.slots.len(),
        }
    }

    /// Goes by other settings from now on; what was sent, holds and who waits stay.
    pub fn set(&mut self, settings: Settings) {
        self.budget.set_limits(settings.limits.clone());
        self.hold.set(settings.hold);
        for starts in self.starts.values_mut() {
            starts.hold.set(settings.hold);
            starts.budget.set_limits(starts_limit(&settings));
        }
        self.settings = settings;
    }

    /// How many wait.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.queue.len()
    }

    /// What is closed until a time that is known: by a hold or the budget, of the account or of a scope's starts.
    fn closed_until(&self, start: Option<&Arc<str>>, now: Instant) -> Option<(Why, Instant)> {
        let starts = start.and_then(|scope| self.starts.get(scope));
        let hold = self.hold.until(now).max(starts.and_then(|starts| starts.hold.until(now)));
        let budget = self.budget.paced(now).max(starts.map_or(now, |starts| starts.budget.next(now)));
        match hold {
            Some(until) if until >= budget => Some((Why::Hold, until)),
            _ => Some((Why::Budget, budget)).filter(|_| budget > now),
        }
    }

    /// What one that waits in vain is told. Where the budget is short, each of a client's is told a time of its
    /// own, in the order that they came in, so that they do not come back at once; as many clients as are told
    /// so share what there is.
    fn refusal(&mut self, asking: &Asking, now: Instant) -> NoTurn {
        let (why, at) = match self.closed_until(asking.start.as_ref(), now) {
            Some((Why::Hold, at)) => (Why::Hold, at),
            _ if !self.has_slot_for(&asking.client) => (Why::Concurrency, now),
            _ if self.hold.admits(now) != Admits::All => (Why::Hold, now),
            closed => (Why::Budget, closed.map_or(now, |(_, at)| at)),
        };
        let at = match why {
            Why::Budget => self.promise(&asking.client, at, now),
            // Snyk's own time, where it is later than ours.
            Why::Hold => at.max(now + self.held_until_told(asking.start.as_ref(), now)),
            Why::Concurrency | Why::Queue => at,
        };
        NoTurn { why, retry_after: at.saturating_duration_since(now).max(Duration::from_secs(1)) }
    }

    /// The wait that Snyk asked for, of the account or of a scope's starts.
    fn held_until_told(&self, start: Option<&Arc<str>>, now: Instant) -> Duration {
        let starts = start.and_then(|scope| self.starts.get(scope));
        self.hold.retry_after(now).max(starts.map_or(Duration::ZERO, |starts| starts.hold.retry_after(now)))
    }

    fn promise(&mut self, client: &Arc<str>, earliest: Instant, now: Instant) -> Instant {
        self.promised.retain(|_, at| *at > now);
        let clients = u32::try_from(self.promised.len()).unwrap_or(u32::MAX).max(1);
        let interval = self.budget.interval(now).saturating_mul(clients);
        let after = self.promised.get(client).map_or(earliest, |last| *last + interval);
        // Who keeps asking is not told to stay away for ever.
        let at = after.max(earliest).min(earliest + MOST_PROMISED);
        self.promised.insert(Arc::clone(client), at);
        at
    }
}

/// What a scope may start, where that is limited here.
fn starts_limit(settings: &Settings) -> Vec<Limit> {
    settings.starts.map_or_else(Vec::new, |most| vec![Limit { most, window: Duration::from_hours(1) }])
}

impl Starts {
    fn new(settings: &Settings) -> Self {
        let budget = Budget::new(starts_limit(settings), settings.margin);
        Self { hold: Backoff::new(settings.hold), budget, running: 0 }
    }

    /// When the next start may be sent.
    fn free(&self, now: Instant) -> Instant {
        let held = match self.hold.admits(now) {
            Admits::All | Admits::Probe => now,
            Admits::NoneBefore(until) => until,
            // Its end is not known: looked at again soon.
            Admits::NoneBeforeProbe => now + Duration::from_secs(1),
        };
        held.max(self.budget.next(now))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn settings() -> Settings {
        let limit = |most, window| Limit { most, window: seconds(window) };
        Settings {
            limits: vec![limit(160, 1), limit(1_620, 60), limit(97_200, 3_600)],
            account: vec![limit(160, 1), limit(1_620, 60), limit(97_200, 3_600)],
            starts: None,
            margin: Duration::ZERO,
            hold: backoff::Settings { usual: seconds(60), most: seconds(600), ramp: 10 },
            max_wait: seconds(10),
            max_waiting: 10_000,
            max_running: 64,
            several_clients: false,
        }
    }

    fn asking(client: &str, start: Option<&str>, deadline: Instant) -> Asking {
        Asking { client: client.into(), weight: 1, start: start.map(Into::into), deadline }
    }

    /// The next that is let send.
    fn send(gate: &mut Gate, now: Instant) -> Send {
        let turn = gate.turn(now);
        let Turn::Send { send, .. } = turn else { panic!("{turn:?}") };
        send
    }

    const fn too_many(retry_after: u64, bucket: Bucket) -> Outcome {
        Outcome::TooMany { retry_after: Some(seconds(retry_after)), bucket, jitter: Duration::ZERO }
    }

    #[test]
    fn a_held_start_stops_the_starts_of_its_scope_alone_whatever_ends_meanwhile() {
        let now = Instant::now();
        let a: Arc<str> = "org/a".into();
        for others_meanwhile in [0, 1, 3] {
            let mut gate = Gate::new(settings());
            let ask =
                |gate: &mut Gate, start: Option<&str>| gate.ask(asking("c", start, now + seconds(90)), now);
            assert!(ask(&mut gate, Some("org/a")).is_ok());
            let start = send(&mut gate, now);
            for _ in 0..others_meanwhile {
                assert!(ask(&mut gate, None).is_ok());
                let other = send(&mut gate, now);
                gate.ended(None, other, &Outcome::Answered, now);
            }
            gate.ended(Some(&a), start, &too_many(1_800, Bucket::Unknown), now);
            // Clients are told Snyk's time, though our own pause is shorter.
            assert_eq!(
                ask(&mut gate, Some("org/a")),
                Err(NoTurn { why: Why::Hold, retry_after: seconds(1_800) })
            );
            for start in [None, Some("org/b")] {
                assert!(ask(&mut gate, start).is_ok());
                let other = send(&mut gate, now);
                gate.ended(start.map(Into::into).as_ref(), other, &Outcome::Answered, now);
            }
            // With an account's window used up, everything is held.
            assert!(ask(&mut gate, Some("org/b")).is_ok());
            let other = send(&mut gate, now);
            gate.ended(Some(&"org/b".into()), other, &too_many(30, Bucket::Account), now);
            assert_eq!(ask(&mut gate, None).map_err(|no| no.why), Err(Why::Hold));
        }
    }

    #[test]
    fn two_starts_that_are_refused_together_hold_their_scope_alone() {
        let (mut gate, now) = (Gate::new(settings()), Instant::now());
        let a: Arc<str> = "org/a".into();
        let sends = [(); 2].map(|()| {
            assert!(gate.ask(asking("c", Some("org/a"), now + seconds(90)), now).is_ok());
            send(&mut gate, now)
        });
        for start in sends {
            gate.ended(Some(&a), start, &too_many(1_800, Bucket::Unknown), now);
        }
        assert!(!gate.is_held(now));
    }

    #[test]
    fn an_abandoned_read_is_ended_when_its_slot_is_needed() {
        let (mut gate, now) = (Gate::new(Settings { max_running: 1, ..settings() }), Instant::now());
        let ask = |gate: &mut Gate, client| gate.ask(asking(client, None, now + seconds(90)), now).is_ok();
        assert!(ask(&mut gate, "a"));
        let left = send(&mut gate, now);
        gate.abandon(left.slot, Some(now));
        // Nobody needs it.
        assert_eq!(gate.turn(now + seconds(9)), Turn::Idle);
        assert!(ask(&mut gate, "b"));
        assert_eq!(gate.turn(now), Turn::At(now + seconds(5)));
        assert_eq!(gate.turn(now + seconds(5)), Turn::End(left.slot));
        assert!(matches!(gate.turn(now + seconds(5)), Turn::At(_)));
        gate.ended(None, left, &Outcome::Failed, now + seconds(5));
        assert!(matches!(gate.turn(now + seconds(5)), Turn::Send { .. }));
    }

    #[test]
    fn who_waits_too_long_is_told_when_to_come_back_and_who_leaves_frees_its_place() {
        let mut small = settings();
        small.limits = vec![Limit { most: 2, window: seconds(60) }];
        small.max_wait = seconds(40);
        small.max_waiting = 2;
        let mut gate = Gate::new(small);
        let now = Instant::now();
        let ask =
            |gate: &mut Gate| gate.ask(asking("c", None, now + seconds(90)), now).map(|(ticket, _)| ticket);
        assert!(ask(&mut gate).is_ok());
        let _ = send(&mut gate, now);
        // Half is used: the other half is spread, which is a turn in 30 seconds.
        let (first, second) = (ask(&mut gate).expect("a place"), ask(&mut gate).expect("a place"));
        assert_eq!(ask(&mut gate).map_err(|no| no.why), Err(Why::Queue));
        gate.leave(&"c".into(), second);
        let third = ask(&mut gate).expect("a place");
        assert_eq!(gate.turn(now), Turn::At(now + seconds(30)));
        assert!(matches!(gate.turn(now + seconds(30)), Turn::Send { ticket, .. } if ticket == first));
        let told = gate.turn(now + seconds(40));
        assert_eq!(told, Turn::Refuse(third, NoTurn { why: Why::Budget, retry_after: seconds(20) }));
        // What is certain to come too late is told at once, and to come after the one before it.
        let late = gate.ask(asking("c", None, now + seconds(45)), now + seconds(41));
        assert_eq!(late, Err(NoTurn { why: Why::Budget, retry_after: seconds(49) }));
        // Another client's is not behind it.
        let other = gate.ask(asking("d", None, now + seconds(45)), now + seconds(42));
        assert_eq!(other, Err(NoTurn { why: Why::Budget, retry_after: seconds(18) }));
    }

    #[test]
    fn a_turn_is_given_at_once_where_nothing_can_stand_in_its_way_alone() {
        let now = Instant::now();
        let scope: Arc<str> = "org/a".into();
        let any = |start| asking("c", start, now + seconds(9));
        let mut gate = Gate::new(Settings { max_running: 2, ..settings() });
        let first = gate.at_once(&any(None), 0, now).expect("a slot");
        // Others do not know of too many.
        assert_eq!(gate.at_once(&any(None), 5, now), None);
        // Somebody waits.
        let (ticket, _) = gate.ask(any(None), now).expect("a place");
        assert_eq!(gate.at_once(&any(None), 0, now), None);
        gate.leave(&"c".into(), ticket);
        let start = gate.at_once(&any(Some("org/a")), 0, now).expect("a slot");
        // As many run as may.
        assert_eq!(gate.at_once(&any(None), 0, now), None);
        // A scope's starts are held, and all is.
        gate.ended(Some(&scope), start, &too_many(30, Bucket::Unknown), now);
        assert_eq!(gate.at_once(&any(Some("org/a")), 0, now), None);
        gate.ended(None, first, &too_many(30, Bucket::Account), now);
        assert_eq!(gate.at_once(&any(None), 0, now), None);
        // The probe after a hold, and what follows it, come in turn.
        assert_eq!(gate.at_once(&any(None), 0, now + seconds(31)), None);
        // Starts that are few are counted first.
        let mut few = Gate::new(Settings { starts: Some(1), ..settings() });
        assert!(
            few.at_once(&any(Some("org/a")), 0, now).is_none() && few.at_once(&any(None), 0, now).is_some()
        );
        // Half of a window is used.
        let mut short = Gate::new(settings());
        let given: Vec<Send> = (0..200).filter_map(|_| short.at_once(&any(None), 0, now)).collect();
        assert_eq!(given.len(), 64);
        for send in given {
            short.ended(None, send, &Outcome::Answered, now);
        }
        assert_eq!((0..200).filter_map(|_| short.at_once(&any(None), 0, now)).count(), 80 - 64);
    }

    #[test]
    fn a_start_that_is_not_sent_after_all_does_not_hold_its_scope_for_ever() {
        let mut gate = Gate::new(settings());
        let now = Instant::now();
        let scope: Arc<str> = "org/a".into();
        let ask = |gate: &mut Gate, at| gate.ask(asking("c", Some("org/a"), at + seconds(90)), at).is_ok();
        assert!(ask(&mut gate, now));
        let refused = send(&mut gate, now);
        gate.ended(Some(&scope), refused, &too_many(1, Bucket::Unknown), now);
        let later = now + seconds(1);
        for _ in 0..2 {
            assert!(ask(&mut gate, later));
            let unsent = send(&mut gate, later);
            gate.not_sent(Some(&scope), unsent, later);
        }
    }

    #[test]
    fn rate_fields_count_for_what_they_name() {
        let now = Instant::now();
        let told = |most, window, remaining| Told {
            limits: vec![Limit { most, window: seconds(window) }],
            first: Some(most),
            remaining: Some(remaining),
            reset: Some(seconds(30)),
        };
        let mut gate = Gate::new(settings());
        let free = |gate: &mut Gate, at| gate.ask(asking("c", None, at + seconds(1)), at).is_ok();
        let of_starts = told(20, 3_600, 0);
        let low = told(10, 60, 0);
        let account = told(97_200, 3_600, 0);
        for (told, kind, bucket) in [
            (&of_starts, Kind::Start, Bucket::Other),
            (&low, Kind::Other, Bucket::Other),
            (&Told::default(), Kind::Other, Bucket::Unknown),
        ] {
            assert_eq!(gate.bucket(told, kind), bucket);
            gate.learn(told, kind, now);
            assert!(free(&mut gate, now), "{told:?}");
        }
        assert_eq!(gate.bucket(&account, Kind::Start), Bucket::Account);
        // The account's is believed, until it ends.
        gate.learn(&account, Kind::Start, now);
        assert!(!free(&mut gate, now) && free(&mut gate, now + seconds(30)));
    }

    #[test]
    fn starts_that_are_used_up_are_told_when_the_next_is_free() {
        let mut gate = Gate::new(Settings { starts: Some(1), ..settings() });
        let now = Instant::now();
        let ask = |gate: &mut Gate, scope| gate.ask(asking("c", Some(scope), now + seconds(90)), now);
        assert!(ask(&mut gate, "org/a").is_ok());
        let start = send(&mut gate, now);
        gate.ended(Some(&"org/a".into()), start, &Outcome::Answered, now);
        assert_eq!(ask(&mut gate, "org/a"), Err(NoTurn { why: Why::Budget, retry_after: seconds(3_600) }));
        assert!(ask(&mut gate, "org/b").is_ok());
        assert!(matches!(gate.turn(now), Turn::Send { .. }));
    }
}
