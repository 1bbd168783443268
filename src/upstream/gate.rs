//! Whose turn it is to send with one credential (pure; takes `now`).
//!
//! Everything that stands between a request and Snyk's limit is decided here: the budget, holds after a 429, how
//! many may run at once, and a fair queue before them. Doing it (waiting, waking, writing down) is `pacer`'s.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::budget::{Budget, Limit};
use super::hold::{self, Hold, May};
use super::queue::FairQueue;

/// Nobody is told to come back later than this after it is worth asking again.
const MOST_PROMISED: Duration = Duration::from_mins(1);

/// `[budget]`, `[queue]` and `[hold]`, for one credential.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Snyk's limits, as far as they are ours.
    pub limits: Vec<Limit>,
    /// Start calls in an hour and scope; `None` leaves it to Snyk to refuse.
    pub starts: Option<u32>,
    /// What every window is taken to be longer.
    pub margin: Duration,
    /// How holds go.
    pub hold: hold::Settings,
    /// Longest that a request waits for its turn.
    pub max_wait: Duration,
    /// Most requests that wait.
    pub max_waiting: usize,
    /// Most requests that run.
    pub max_running: usize,
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
        /// Whether much depends on what it gets.
        probe: bool,
    },
    /// Tell this one that it waited in vain.
    Refuse(Ticket, NoTurn),
    /// Nothing before this time.
    At(Instant),
    /// Nothing before something ends or comes.
    Idle,
}

/// Whether anything may be sent.
enum Way {
    Open { probe: bool },
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
    /// `none`, `held`, `probing` or `ramp`; and how long that lasts, where it is known.
    pub hold: (&'static str, Duration),
    /// The scopes whose starts are held, and how long still.
    pub starts_held: Vec<(Arc<str>, Duration)>,
    /// How many wait for their turn.
    pub waiting: usize,
    /// How many were sent and have no answer yet.
    pub running: usize,
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
        /// Whether the rate fields say that a window of the account is used up ([`Gate::is_empty`]).
        account_is_empty: bool,
    },
    /// No answer.
    Failed,
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
    hold: Hold,
    budget: Budget,
}

/// The gate of one credential.
#[derive(Debug)]
pub struct Gate {
    settings: Settings,
    budget: Budget,
    hold: Hold,
    starts: HashMap<Arc<str>, Starts>,
    queue: FairQueue<Waiting>,
    /// The ends of everybody's wait, the first first, and whose they are.
    ends: BTreeMap<(Instant, Ticket), Arc<str>>,
    running: usize,
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
            hold: Hold::new(settings.hold),
            starts: HashMap::new(),
            queue: FairQueue::default(),
            ends: BTreeMap::new(),
            running: 0,
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

    /// Decides what is next; to be asked again after each `Send` and `Refuse`.
    pub fn turn(&mut self, now: Instant) -> Turn {
        let Some((&(first_end, first), _)) = self.ends.first_key_value() else { return Turn::Idle };
        let free = match self.way(now) {
            Way::Open { probe } => match self.take(now) {
                Ok(ticket) => return Turn::Send { ticket, probe },
                Err(free) => free,
            },
            Way::Closed(until) => until,
        };
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
        if self.running >= self.settings.max_running {
            return Way::Closed(None);
        }
        let probe = match self.hold.may(now) {
            May::Send => false,
            May::Probe => true,
            May::WaitUntil(until) => return Way::Closed(Some(until)),
            May::WaitForProbe => return Way::Closed(None),
        };
        let free = self.budget.paced(now);
        if free > now { Way::Closed(Some(free)) } else { Way::Open { probe } }
    }

    /// Takes who is next out of the queue; where all that wait are held starts, when the first of them may go.
    fn take(&mut self, now: Instant) -> Result<Ticket, Option<Instant>> {
        let free = |waiting: &Waiting| {
            let starts = waiting.asking.start.as_ref().and_then(|scope| self.starts.get(scope))?;
            Some(starts.free(now)).filter(|free| *free > now)
        };
        let Some(waiting) = self.queue.pop(|waiting| free(waiting).is_none()) else {
            return Err(self.queue.iter().filter_map(free).min());
        };
        self.ends.remove(&(waiting.until, waiting.ticket));
        self.sends(waiting.asking.start.as_ref(), now);
        Ok(waiting.ticket)
    }

    /// Counts a send.
    fn sends(&mut self, start: Option<&Arc<str>>, now: Instant) {
        self.budget.spend(now, now);
        self.hold.sent(now);
        self.running += 1;
        if let Some(scope) = start {
            let settings = &self.settings;
            let starts = self.starts.entry(Arc::clone(scope)).or_insert_with(|| Starts::new(settings));
            starts.budget.spend(now, now);
            starts.hold.sent(now);
        }
    }

    /// Gives a turn at once, where nothing can stand in its way: nobody waits, nothing is held, and the budget is so
    /// far from its end that others need not know of it first. `unwritten` of our sends they do not know of yet.
    pub fn at_once(&mut self, start: Option<&Arc<str>>, unwritten: u32, now: Instant) -> bool {
        let may = |hold: &Hold, budget: &Budget| hold.is_open() && budget.may_go_unseen(unwritten, now);
        let starts = start.and_then(|scope| self.starts.get(scope));
        let goes = self.queue.len() == 0
            && self.running < self.settings.max_running
            && may(&self.hold, &self.budget)
            // What is not known of a scope's starts has to be made to be looked at, which is as well done in turn.
            && start.is_none_or(|_| self.settings.starts.is_none())
            && starts.is_none_or(|starts| may(&starts.hold, &starts.budget));
        if goes {
            self.sends(start, now);
        }
        goes
    }

    /// One that waited is gone.
    pub fn leave(&mut self, client: &Arc<str>, ticket: Ticket) {
        if let Some(waiting) = self.queue.remove(client, |waiting| waiting.ticket == ticket) {
            self.ends.remove(&(waiting.until, waiting.ticket));
        }
    }

    /// A send ended.
    pub fn ended(
        &mut self,
        (start, probe): (Option<&Arc<str>>, bool),
        outcome: &Outcome,
        jitter: Duration,
        now: Instant,
    ) {
        self.running = self.running.saturating_sub(1);
        let starts = start.and_then(|scope| self.starts.get_mut(scope));
        match outcome {
            Outcome::Answered => {
                self.hold.answered(probe, now);
                if let Some(starts) = starts {
                    starts.hold.answered(true, now);
                }
            }
            Outcome::TooMany { retry_after, account_is_empty } => {
                // A start's own quota is another one than the account's.
                let of_account = starts.is_none() || *account_is_empty;
                if let Some(starts) = starts {
                    starts.hold.refused(*retry_after, jitter, now);
                }
                if of_account {
                    self.hold.refused(*retry_after, jitter, now);
                } else {
                    self.hold.answered(probe, now);
                }
            }
            Outcome::Failed => {
                if probe {
                    self.hold.lost(now);
                }
                if let Some(starts) = starts {
                    starts.hold.lost(now);
                }
            }
        }
        self.starts.retain(|_, starts| !starts.hold.is_over(now) || !starts.budget.is_unused(now));
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
    pub fn not_sent(&mut self, start: Option<&Arc<str>>, probe: bool, now: Instant) {
        self.ended((start, probe), &Outcome::Failed, Duration::ZERO, now);
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
    pub fn stands_in_the_way(&self, start: Option<&Arc<str>>, now: Instant) -> Option<Why> {
        if self.hold.may(now) != May::Send {
            Some(Why::Hold)
        } else if let Some((why, _)) = self.closed_until(start, now) {
            Some(why)
        } else if self.running >= self.settings.max_running {
            Some(Why::Concurrency)
        } else {
            (self.queue.len() > 0).then_some(Why::Queue)
        }
    }

    /// What Snyk said about its limits.
    ///
    /// An answer to a start may speak of the quota of starts: less than is configured is taken for that. `reset`
    /// is when its window ends; nothing is believed for longer than a hold may last.
    pub fn learn(&mut self, told: &Told, is_start: bool, now: Instant) {
        let at_most = told.reset.map_or(self.settings.hold.most, |reset| reset.min(self.settings.hold.most));
        for limit in &told.limits {
            if !is_start || self.is_the_accounts(*limit) {
                let remaining = told.remaining.filter(|_| told.first == Some(limit.most));
                self.budget.learn(*limit, remaining, at_most, now);
            }
        }
    }

    /// Whether a limit that Snyk told is one of the account's, as far as that can be known.
    fn is_the_accounts(&self, told: Limit) -> bool {
        self.settings.limits.iter().any(|limit| limit.window == told.window && told.most >= limit.most)
    }

    /// Whether what Snyk told says that a window of the account is used up.
    #[must_use]
    pub fn is_empty(&self, told: &Told) -> bool {
        let first = told.limits.iter().find(|limit| told.first == Some(limit.most));
        told.remaining == Some(0) && first.is_some_and(|limit| self.is_the_accounts(*limit))
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
        self.hold.until(now).is_some() || self.hold.may(now) == May::WaitForProbe
    }

    /// How it stands at `now`.
    #[must_use]
    pub fn standing(&self, now: Instant) -> Standing {
        let starts = self.starts.iter().filter_map(|(scope, starts)| {
            let (word, left) = starts.hold.standing(now);
            (word != "none").then(|| (Arc::clone(scope), left))
        });
        let mut starts_held: Vec<_> = starts.collect();
        starts_held.sort();
        Standing {
            windows: self.budget.windows(now).collect(),
            hold: self.hold.standing(now),
            starts_held,
            waiting: self.waiting(),
            running: self.running,
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
            _ if self.running >= self.settings.max_running => (Why::Concurrency, now),
            _ if self.hold.may(now) != May::Send => (Why::Hold, now),
            closed => (Why::Budget, closed.map_or(now, |(_, at)| at)),
        };
        let at = if why == Why::Budget { self.promise(&asking.client, at, now) } else { at };
        NoTurn { why, retry_after: at.saturating_duration_since(now).max(Duration::from_secs(1)) }
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
        Self { hold: Hold::new(settings.hold), budget: Budget::new(starts_limit(settings), settings.margin) }
    }

    /// When the next start may be sent.
    fn free(&self, now: Instant) -> Instant {
        let held = match self.hold.may(now) {
            May::Send | May::Probe => now,
            May::WaitUntil(until) => until,
            // Its end is not known: looked at again soon.
            May::WaitForProbe => now + Duration::from_secs(1),
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
            starts: None,
            margin: Duration::ZERO,
            hold: hold::Settings { usual: seconds(60), most: seconds(600), ramp: 10 },
            max_wait: seconds(10),
            max_waiting: 10_000,
            max_running: 64,
        }
    }

    fn asking(client: &str, start: Option<&str>, deadline: Instant) -> Asking {
        Asking { client: client.into(), weight: 1, start: start.map(Into::into), deadline }
    }

    #[test]
    fn a_held_start_stops_the_starts_of_its_scope_alone() {
        let mut gate = Gate::new(settings());
        let now = Instant::now();
        let deadline = now + seconds(90);
        let a: Arc<str> = "org/a".into();
        let ask = |gate: &mut Gate, start: Option<&str>| gate.ask(asking("c", start, deadline), now);
        assert!(ask(&mut gate, Some("org/a")).is_ok());
        assert!(matches!(gate.turn(now), Turn::Send { .. }));
        let too_many = Outcome::TooMany { retry_after: Some(seconds(1_800)), account_is_empty: false };
        gate.ended((Some(&a), false), &too_many, Duration::ZERO, now);
        // Its wait would be capped at ten minutes, which is more than it may wait: told at once.
        assert_eq!(ask(&mut gate, Some("org/a")), Err(NoTurn { why: Why::Hold, retry_after: seconds(600) }));
        for start in [None, Some("org/b")] {
            assert!(ask(&mut gate, start).is_ok());
            assert!(matches!(gate.turn(now), Turn::Send { .. }), "{start:?}");
            gate.ended((start.map(Into::into).as_ref(), false), &Outcome::Answered, Duration::ZERO, now);
        }
        // With an account's window used up, everything is held.
        let empty = Outcome::TooMany { retry_after: Some(seconds(30)), account_is_empty: true };
        assert!(ask(&mut gate, Some("org/b")).is_ok());
        assert!(matches!(gate.turn(now), Turn::Send { .. }));
        gate.ended((Some(&"org/b".into()), false), &empty, Duration::ZERO, now);
        assert_eq!(ask(&mut gate, None).map_err(|no| no.why), Err(Why::Hold));
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
        assert!(matches!(gate.turn(now), Turn::Send { .. }));
        // Half is used: the other half is spread, which is a turn in 30 seconds.
        let (first, second) = (ask(&mut gate).expect("a place"), ask(&mut gate).expect("a place"));
        assert_eq!(ask(&mut gate).map_err(|no| no.why), Err(Why::Queue));
        gate.leave(&"c".into(), second);
        let third = ask(&mut gate).expect("a place");
        assert_eq!(gate.turn(now), Turn::At(now + seconds(30)));
        assert_eq!(gate.turn(now + seconds(30)), Turn::Send { ticket: first, probe: false });
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
        let mut gate = Gate::new(Settings { max_running: 2, ..settings() });
        assert!(gate.at_once(None, 0, now));
        // Others do not know of too many.
        assert!(!gate.at_once(None, 5, now));
        // Somebody waits.
        let (ticket, _) = gate.ask(asking("c", None, now + seconds(9)), now).expect("a place");
        assert!(!gate.at_once(None, 0, now));
        gate.leave(&"c".into(), ticket);
        assert!(gate.at_once(Some(&scope), 0, now));
        // As many run as may.
        assert!(!gate.at_once(None, 0, now));
        // A scope's starts are held, and all is.
        let held = |account_is_empty| Outcome::TooMany { retry_after: Some(seconds(30)), account_is_empty };
        gate.ended((Some(&scope), false), &held(false), Duration::ZERO, now);
        assert!(!gate.at_once(Some(&scope), 0, now));
        gate.ended((None, false), &held(true), Duration::ZERO, now);
        assert!(!gate.at_once(None, 0, now));
        // The probe after a hold, and what follows it, come in turn.
        assert!(!gate.at_once(None, 0, now + seconds(31)));
        // Starts that are few are counted first.
        let mut few = Gate::new(Settings { starts: Some(1), ..settings() });
        assert!(!few.at_once(Some(&scope), 0, now) && few.at_once(None, 0, now));
        // Half of a window is used.
        let mut short = Gate::new(settings());
        let given = (0..200).filter(|_| short.at_once(None, 0, now)).count();
        assert_eq!(given, 64);
        (0..64).for_each(|_| short.ended((None, false), &Outcome::Answered, Duration::ZERO, now));
        assert_eq!((0..200).filter(|_| short.at_once(None, 0, now)).count(), 80 - 64);
    }

    #[test]
    fn a_start_that_is_not_sent_after_all_does_not_hold_its_scope_for_ever() {
        let mut gate = Gate::new(settings());
        let now = Instant::now();
        let scope: Arc<str> = "org/a".into();
        let ask = |gate: &mut Gate, at| gate.ask(asking("c", Some("org/a"), at + seconds(90)), at).is_ok();
        assert!(ask(&mut gate, now));
        assert!(matches!(gate.turn(now), Turn::Send { .. }));
        let too_many = Outcome::TooMany { retry_after: Some(seconds(1)), account_is_empty: false };
        gate.ended((Some(&scope), false), &too_many, Duration::ZERO, now);
        let later = now + seconds(1);
        for _ in 0..2 {
            assert!(ask(&mut gate, later));
            assert!(matches!(gate.turn(later), Turn::Send { .. }));
            gate.not_sent(Some(&scope), false, later);
        }
    }

    #[test]
    fn what_an_answer_to_a_start_says_of_the_starts_is_not_taken_for_the_accounts() {
        let now = Instant::now();
        let hour = |most| Limit { most, window: seconds(3_600) };
        let told = |most, remaining| Told {
            limits: vec![hour(most)],
            first: Some(most),
            remaining: Some(remaining),
            reset: Some(seconds(30)),
        };
        let mut gate = Gate::new(settings());
        let free = |gate: &mut Gate, at| gate.ask(asking("c", None, at + seconds(1)), at).is_ok();
        assert!(!gate.is_empty(&told(20, 0)) && gate.is_empty(&told(97_200, 0)));
        gate.learn(&told(20, 0), true, now);
        assert!(free(&mut gate, now));
        // The account's is believed, until it ends.
        gate.learn(&told(97_200, 0), true, now);
        assert!(!free(&mut gate, now) && free(&mut gate, now + seconds(30)));
    }

    #[test]
    fn starts_that_are_used_up_are_told_when_the_next_is_free() {
        let mut gate = Gate::new(Settings { starts: Some(1), ..settings() });
        let now = Instant::now();
        let ask = |gate: &mut Gate, scope| gate.ask(asking("c", Some(scope), now + seconds(90)), now);
        assert!(ask(&mut gate, "org/a").is_ok());
        assert!(matches!(gate.turn(now), Turn::Send { .. }));
        gate.ended((Some(&"org/a".into()), false), &Outcome::Answered, Duration::ZERO, now);
        assert_eq!(ask(&mut gate, "org/a"), Err(NoTurn { why: Why::Budget, retry_after: seconds(3_600) }));
        assert!(ask(&mut gate, "org/b").is_ok());
        assert!(matches!(gate.turn(now), Turn::Send { .. }));
    }
}
