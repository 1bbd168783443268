//! Waiting for one's turn to send: the [`Gate`] decides, this waits, wakes and writes down.
//!
//! Where nothing can stand in its way, a request has its turn at once, and is written down with whatever is written
//! next. Else one task for each credential asks the gate who is next, has the sends written down where other processes on
//! this machine see them, and wakes their requests. A request that is dropped while it waits frees its place; a
//! [`Pass`] that is dropped without an outcome counts as failed.

use std::collections::HashMap;
use std::fmt;
use std::future::Future;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, oneshot};
use tokio::time::sleep_until;

use super::gate::{
    Asking, Elsewhere, Gate, Kind, NoTurn, Outcome, Send as Sent, Settings, Standing, Ticket, Told, Turn, Why,
};
use super::slots::Slot;
use super::{Lane, Sparing};

/// What is told where nobody gives turns any more: the next try finds the credential that is in force.
pub(super) const NO_ANSWER: NoTurn = NoTurn { why: Why::Queue, retry_after: Duration::from_secs(1) };
/// Longest that is added to a hold by chance, so that many gateways do not come back at once.
const JITTER: Duration = Duration::from_secs(2);

/// The turns of one credential.
#[derive(Debug)]
pub struct Pacer {
    /// The lane's name.
    credential: Arc<str>,
    inner: Mutex<Inner>,
    /// Something came, ended or left.
    changed: Notify,
    /// Where sends are written down. None before what others sent was read.
    ledger: OnceLock<Ledger>,
    /// Its credential is gone: it ends when nobody waits for it.
    retired: AtomicBool,
}

/// What is known of the sends of all processes.
#[derive(Debug, Default)]
pub struct News {
    /// How many of ours are noted and not written yet; `None` where others may not know of this process.
    pub unwritten: Option<u32>,
    /// How many other processes sent something lately.
    pub processes: u32,
    /// What others sent that was not known.
    pub others: Vec<Elsewhere>,
}

/// Takes a note of a send, and of the scope whose start it is.
pub type Note = dyn Fn(Option<&Arc<str>>) + Send + Sync;

/// Where sends are noted, to be written down where other processes see them.
pub struct Ledger {
    /// What is known now.
    pub news: Box<dyn Fn() -> News + Send + Sync>,
    /// Notes a send.
    pub note: Box<Note>,
}

impl fmt::Debug for Ledger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ledger").finish_non_exhaustive()
    }
}

#[derive(Debug)]
struct Inner {
    gate: Gate,
    waiting: HashMap<Ticket, Waiter>,
    /// The reads that may be ended when all their clients have left.
    abandoned: HashMap<Slot, Arc<Notify>>,
    /// Its credential is gone, and nobody gives turns any more.
    is_over: bool,
}

#[derive(Debug)]
struct Waiter {
    asking: Asking,
    until: Instant,
    told: oneshot::Sender<Result<Pass, NoTurn>>,
}

impl Inner {
    fn learn(&mut self, News { processes, others, .. }: News, now: Instant) {
        self.gate.beside(processes);
        for sent in others {
            self.gate.spent_elsewhere(sent, now);
        }
    }
}

/// A turn that is given, but not taken yet.
#[derive(Debug)]
struct Given {
    ticket: Ticket,
    start: Option<Arc<str>>,
    send: Sent,
}

/// The right to send one request, and the duty to say what came of it.
#[derive(Debug)]
pub struct Pass {
    pacer: Arc<Pacer>,
    start: Option<Arc<str>>,
    send: Sent,
    ended: bool,
    /// Told when another request needs the slot of this one, whose clients had left.
    slot_needed: Arc<Notify>,
    /// How long it was waited for.
    pub queued: Duration,
    /// What stood in the way when the wait began, where it was worth a wait.
    pub why: Option<Why>,
}

/// What those who wait are told. Kept until the lock is let go: a pass whose request has left ends at once,
/// and takes the lock for it.
type Telling = Vec<(oneshot::Sender<Result<Pass, NoTurn>>, Result<Pass, NoTurn>)>;

impl Pacer {
    /// An open one.
    #[must_use]
    pub(super) fn new(lane: &Lane, sparing: &Sparing) -> Arc<Self> {
        Self::with(lane.to_string().into(), sparing.gate(lane.api).clone())
    }

    fn with(credential: Arc<str>, settings: Settings) -> Arc<Self> {
        let inner = Inner {
            gate: Gate::new(settings),
            waiting: HashMap::new(),
            abandoned: HashMap::new(),
            is_over: false,
        };
        Arc::new(Self {
            credential,
            inner: Mutex::new(inner),
            changed: Notify::new(),
            ledger: OnceLock::new(),
            retired: AtomicBool::new(false),
        })
    }

    /// Waits for a turn.
    ///
    /// # Errors
    /// [`NoTurn`], when it will not come in time.
    pub async fn turn(self: &Arc<Self>, asking: Asking) -> Result<Pass, NoTurn> {
        let began = Instant::now();
        if let Some(send) = self.at_once(&asking, began) {
            return Ok(Pass::new(Arc::clone(self), asking.start, send));
        }
        let (told, mut answer) = oneshot::channel();
        let (ticket, why) = {
            let mut inner = self.inner();
            if inner.is_over {
                return Err(NO_ANSWER);
            }
            let why = inner.gate.stands_in_the_way(&asking, began);
            let (ticket, until) = inner.gate.ask(asking.clone(), began)?;
            inner.waiting.insert(ticket, Waiter { asking, until, told });
            (ticket, why)
        };
        self.changed.notify_one();
        let place = Place { pacer: self, ticket };
        let answered = (&mut answer).await;
        std::mem::forget(place);
        let pass = answered.unwrap_or(Err(NO_ANSWER))?;
        Ok(pass.waited(began.elapsed(), why))
    }

    /// Takes a turn where it can be had without waiting.
    fn at_once(&self, asking: &Asking, now: Instant) -> Option<Sent> {
        let ledger = self.ledger.get()?;
        let mut inner = self.inner();
        let news = (ledger.news)();
        let unwritten = news.unwritten;
        inner.learn(news, now);
        let send = inner.gate.at_once(asking, unwritten?, now)?;
        (ledger.note)(asking.start.as_ref());
        Some(send)
    }

    /// Whether everything is held back at the moment: a wait for a turn would not be short.
    #[must_use]
    pub fn is_held(&self) -> bool {
        self.inner().gate.is_held(Instant::now())
    }

    /// The upstream is back after it was left alone.
    pub fn ramp(&self) {
        self.inner().gate.ramp(Instant::now());
    }

    /// How things stand.
    #[must_use]
    pub fn standing(&self) -> Standing {
        self.inner().gate.standing(Instant::now())
    }

    /// Its credential is gone.
    pub fn retire(&self) {
        self.retired.store(true, Ordering::SeqCst);
        self.changed.notify_one();
    }

    /// Goes by other settings from now on.
    pub fn set(&self, settings: Settings) {
        self.inner().gate.set(settings);
        self.changed.notify_one();
    }

    /// How many wait.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.inner().gate.waiting()
    }

    /// Gives turns, until it is retired. `reserve` writes down so many sends, and the scopes of the starts among them, and
    /// gives back what is known then; `ledger` is for those who need not wait for that.
    pub async fn run<R, F>(self: Arc<Self>, ledger: Ledger, reserve: R)
    where
        R: Fn(u32, Vec<Arc<str>>) -> F,
        F: Future<Output = News>,
    {
        self.learn(reserve(0, Vec::new()).await);
        let _ = self.ledger.set(ledger);
        loop {
            let (batch, at, next) = self.next();
            if !batch.is_empty() {
                let starts = batch.iter().filter_map(|given| given.start.clone()).collect();
                self.learn(reserve(u32::try_from(batch.len()).unwrap_or(u32::MAX), starts).await);
                self.release(batch, at);
                continue;
            }
            let changed = self.changed.notified();
            if self.retired.load(Ordering::SeqCst) && self.is_over() {
                return;
            }
            match next {
                None => changed.await,
                Some(at) => {
                    tokio::select! {
                        () = changed => {}
                        () = sleep_until(at.into()) => {}
                    }
                }
            }
        }
    }

    /// Whether nobody waits; if so, nobody may wait from now on.
    fn is_over(&self) -> bool {
        let mut inner = self.inner();
        inner.is_over = inner.waiting.is_empty();
        inner.is_over
    }

    fn learn(&self, news: News) {
        self.inner().learn(news, Instant::now());
    }

    /// Those whose turn it is now, and when to look again.
    fn next(&self) -> (Vec<Given>, Instant, Option<Instant>) {
        let mut inner = self.inner();
        let now = Instant::now();
        let mut batch = Vec::new();
        loop {
            match inner.gate.turn(now) {
                Turn::Send { ticket, send } => {
                    let start = inner.waiting.get(&ticket).and_then(|waiter| waiter.asking.start.clone());
                    batch.push(Given { ticket, start, send });
                }
                Turn::End(slot) => {
                    if let Some(slot_needed) = inner.abandoned.remove(&slot) {
                        slot_needed.notify_one();
                    }
                }
                Turn::Refuse(ticket, refusal) => {
                    if let Some(waiter) = inner.waiting.remove(&ticket) {
                        let _ = waiter.told.send(Err(refusal));
                    }
                }
                Turn::At(at) => return (batch, now, Some(at)),
                Turn::Idle => return (batch, now, None),
            }
        }
    }

    /// Wakes those whose turn it was at `at`. Where others have used the budget up meanwhile, or a 429 came, they
    /// wait on in their old place.
    fn release(self: &Arc<Self>, batch: Vec<Given>, at: Instant) {
        let now = Instant::now();
        let mut tell: Telling = Vec::new();
        {
            let mut inner = self.inner();
            // Put back from the last to the first, each comes to stand before those behind it.
            for Given { ticket, start, send } in batch.into_iter().rev() {
                // One that has left is counted all the same: it is written down.
                let Some(Waiter { asking, until, told }) = inner.waiting.remove(&ticket) else {
                    inner.gate.not_sent(start.as_ref(), send, now);
                    continue;
                };
                if inner.gate.still(start.as_ref(), at, now) {
                    tell.push((told, Ok(Pass::new(Arc::clone(self), start, send))));
                } else {
                    inner.gate.not_sent(start.as_ref(), send, now);
                    inner.gate.again(ticket, asking.clone(), until);
                    inner.waiting.insert(ticket, Waiter { asking, until, told });
                }
            }
        }
        for (told, turn) in tell.into_iter().rev() {
            let _ = told.send(turn);
        }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Pass {
    fn new(pacer: Arc<Pacer>, start: Option<Arc<str>>, send: Sent) -> Self {
        let slot_needed = Arc::default();
        Self { pacer, start, send, ended: false, slot_needed, queued: Duration::ZERO, why: None }
    }

    const fn waited(mut self, queued: Duration, why: Option<Why>) -> Self {
        self.queued = queued;
        self.why = why;
        self
    }

    /// Whether much depends on what it gets: it is the first request after a backoff.
    #[must_use]
    pub const fn is_probe(&self) -> bool {
        self.send.is_probe || self.send.is_probe_of_starts
    }

    /// Notes that all clients have left that waited for the answer: the request may be ended where its slot is needed.
    pub fn abandon(&self) {
        {
            let mut inner = self.pacer.inner();
            inner.gate.abandon(self.send.slot, Some(Instant::now()));
            inner.abandoned.insert(self.send.slot, Arc::clone(&self.slot_needed));
        }
        self.pacer.changed.notify_one();
    }

    /// Resolves when another request needs the slot of this abandoned one. Somebody may wait for it again by then.
    pub async fn slot_needed(&self) {
        self.slot_needed.notified().await;
    }

    /// What came of the send. `told` is what the answer's rate fields say.
    pub fn ended(mut self, outcome: Outcome, told: &Told, kind: Kind) {
        self.end(outcome, told, kind);
    }

    fn end(&mut self, mut outcome: Outcome, told: &Told, kind: Kind) {
        let now = Instant::now();
        self.ended = true;
        let somebody_waits = {
            let mut inner = self.pacer.inner();
            inner.abandoned.remove(&self.send.slot);
            let was_held = inner.gate.is_held(now);
            if let Outcome::TooMany { bucket, jitter, .. } = &mut outcome {
                (*bucket, *jitter) = (inner.gate.bucket(told, kind), JITTER.mul_f64(fastrand::f64()));
            }
            inner.gate.ended(self.start.as_ref(), self.send, &outcome, now);
            inner.gate.learn(told, kind, now);
            self.log(
                &outcome,
                (was_held, inner.gate.is_held(now)),
                inner.gate.held_for(self.start.as_ref(), now),
            );
            inner.gate.waiting() > 0
        };
        if somebody_waits {
            self.pacer.changed.notify_one();
        }
    }
}

impl Pass {
    fn log(&self, outcome: &Outcome, (was_held, is_held): (bool, bool), held: Option<(bool, Duration)>) {
        let name = &self.pacer.credential;
        if let (Outcome::TooMany { .. }, Some((all, held))) = (outcome, held) {
            let held = held.as_secs();
            if all {
                tracing::warn!(credential.name = %name, hold.duration_s = held, "rate limited by Snyk (429); pausing requests");
            } else {
                let scope = self.start.as_deref();
                tracing::warn!(credential.name = %name, start.scope = scope, hold.duration_s = held, "start rate limited by Snyk (429); pausing the starts of its org or group");
            }
        } else if was_held && !is_held {
            tracing::info!(credential.name = %name, "backoff after a 429 ended; resuming requests in a ramp");
        }
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        if !self.ended {
            self.end(Outcome::Failed, &Told::default(), Kind::Other);
        }
    }
}

/// A place in the queue, given up when its request is dropped.
struct Place<'a> {
    pacer: &'a Arc<Pacer>,
    ticket: Ticket,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut inner = self.pacer.inner();
        if let Some(waiter) = inner.waiting.remove(&self.ticket) {
            inner.gate.leave(&waiter.asking.client, self.ticket);
        }
        drop(inner);
        self.pacer.changed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::upstream::backoff;
    use crate::upstream::budget::Limit;
    use crate::upstream::gate::Bucket;

    fn pacer(max_running: usize) -> Arc<Pacer> {
        let seconds = Duration::from_secs;
        Pacer::with(
            "snyk".into(),
            Settings {
                limits: vec![Limit { most: 100, window: seconds(60) }],
                account: vec![Limit { most: 100, window: seconds(60) }],
                starts: None,
                margin: Duration::ZERO,
                hold: backoff::Settings { usual: seconds(60), most: seconds(600), ramp: 10 },
                max_wait: Duration::from_millis(200),
                max_waiting: 10,
                max_running,
                several_clients: false,
            },
        )
    }

    fn ledger() -> Ledger {
        Ledger { news: Box::new(News::default), note: Box::new(|_| {}) }
    }

    fn asking() -> Asking {
        let deadline = Instant::now() + Duration::from_mins(1);
        Asking { client: "c".into(), weight: 1, start: None, deadline }
    }

    /// A turn that was asked for but not looked at yet.
    async fn asked(pacer: &Arc<Pacer>) -> std::pin::Pin<Box<dyn Future<Output = Result<Pass, NoTurn>> + '_>> {
        let mut turn = Box::pin(pacer.turn(asking()));
        let waits = std::future::poll_fn(|context| std::task::Poll::Ready(turn.as_mut().poll(context))).await;
        assert!(waits.is_pending());
        turn
    }

    #[tokio::test]
    async fn a_turn_that_nobody_takes_any_more_goes_to_the_next() {
        let pacer = pacer(1);
        let turn = asked(&pacer).await;
        let mut running = tokio::task::JoinSet::new();
        running.spawn(Arc::clone(&pacer).run(ledger(), |_, _| async { News::default() }));
        // One thread: the task has given the turn by the time that this goes on.
        while pacer.waiting() > 0 {
            tokio::task::yield_now().await;
        }
        drop(turn);
        assert!(pacer.turn(asking()).await.is_ok());
    }

    #[tokio::test]
    async fn a_turn_at_once_is_noted_and_counts_and_what_others_sent_comes_first() {
        let pacer = pacer(10);
        let (noted, others) = (Arc::new(Mutex::new(0)), Arc::new(Mutex::new(Vec::new())));
        let (count, news) = (Arc::clone(&noted), Arc::clone(&others));
        let ledger = Ledger {
            news: Box::new(move || News {
                unwritten: Some(0),
                processes: 0,
                others: std::mem::take(&mut *news.lock().expect("whole")),
            }),
            note: Box::new(move |_| *count.lock().expect("whole") += 1),
        };
        // Before it is known what was sent earlier, nothing goes at once.
        assert!(pacer.at_once(&asking(), Instant::now()).is_none());
        assert!(pacer.ledger.set(ledger).is_ok());
        let pass = pacer.turn(asking()).await.expect("a turn");
        let standing = pacer.standing();
        assert_eq!((standing.running, standing.windows[0].2, *noted.lock().expect("whole")), (1, 1, 1));
        pass.ended(Outcome::Answered, &Told::default(), Kind::Read);
        assert_eq!(pacer.standing().running, 0);
        let elsewhere = |_| Elsewhere { at: Instant::now(), start: None };
        others.lock().expect("whole").extend((0..49).map(elsewhere));
        assert!(pacer.at_once(&asking(), Instant::now()).is_none());
        assert_eq!(pacer.standing().windows[0].2, 50);
    }

    #[tokio::test]
    async fn who_asks_when_nobody_gives_turns_any_more_is_told_so() {
        let pacer = pacer(1);
        pacer.retire();
        let held = pacer.turn(asking());
        Arc::clone(&pacer).run(ledger(), |_, _| async { News::default() }).await;
        assert_eq!(held.await.err(), Some(NO_ANSWER));
    }

    #[tokio::test]
    async fn a_request_that_leaves_frees_its_place() {
        let pacer = pacer(1);
        let turn = asked(&pacer).await;
        assert_eq!(pacer.waiting(), 1);
        drop(turn);
        assert_eq!(pacer.waiting(), 0);
    }
    #[tokio::test]
    async fn a_turn_is_taken_back_where_a_429_comes_before_it_is_used() {
        let pacer = pacer(10);
        let mut turn = asked(&pacer).await;
        let (batch, at, _) = pacer.next();
        let send = Sent { slot: batch[0].send.slot, is_probe: false, is_probe_of_starts: false };
        let other = Pass::new(Arc::clone(&pacer), None, send);
        let refused = Outcome::TooMany {
            retry_after: Some(Duration::from_secs(30)),
            bucket: Bucket::Unknown,
            jitter: Duration::ZERO,
        };
        other.ended(refused, &Told::default(), Kind::Read);
        pacer.release(batch, at);
        assert_eq!(pacer.waiting(), 1);
        let (none, _, _) = pacer.next();
        assert!(none.is_empty());
        let looked =
            std::future::poll_fn(|context| std::task::Poll::Ready(turn.as_mut().poll(context))).await;
        assert!(looked.is_pending());
    }
}
