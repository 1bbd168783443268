//! Waiting for the end of an export (RFC 7240 §4.3): one poller for all who wait for one answer (decision 0013).
//!
//! A poller is a task. It reads by a schedule, as long as somebody waits and a little longer. It keeps the newest answer and
//! the newest failure alone. An answer counts for a client only if its request was sent after the client had asked.

mod schedule;
#[cfg(test)]
mod tests;
mod waiters;

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};
use uuid::Uuid;

use super::answer::{Cause, Taken};
use super::fetch::FlightResult;
use super::flights::HALF_CLOSED_GRACE;
use super::question::{Asker, Wait};
use crate::cache::CacheKey;
use crate::clock::Clock;
use crate::shutdown::Shutdown;

use schedule::{PollSchedule, ReadOutcome};
use waiters::{ReadMark, WaitBegin};

pub(super) use waiters::{BegunRead, Waiter, Waiters};

/// A poller goes on for so long after its last waiter, without reading: who asks again goes on with its schedule.
const LINGER: Duration = Duration::from_secs(10);

/// The pollers, by their questions.
#[derive(Debug)]
pub(super) struct Pollers {
    by_key: Arc<PollersByKey>,
    max_waiters: usize,
}

type PollersByKey = Mutex<HashMap<CacheKey, Arc<Poller>>>;

/// One poller, as its waiters see it.
#[derive(Debug, Default)]
struct Poller {
    waiters: Arc<Waiters>,
    newest: watch::Sender<Newest>,
}

/// The newest that a poller knows.
#[derive(Debug, Clone, Default)]
struct Newest {
    /// An unfinished answer.
    unfinished: Option<PolledAnswer>,
    /// A failure that may pass.
    failure: Option<PolledAnswer>,
    /// The answer that ends the wait.
    end: Option<PolledAnswer>,
    /// True if the poller reads no more.
    is_closed: bool,
}

/// The result of a read.
#[derive(Debug, Clone)]
pub(super) struct PolledAnswer {
    pub(super) result: FlightResult,
    mark: ReadMark,
    /// The request in whose name Snyk was asked; `None` if the read joined the flight of another.
    pub(super) cause: Option<Uuid>,
}

/// One read of a poller's.
#[derive(Debug)]
pub(super) struct PollRead {
    /// `None` if it ended without a result.
    pub(super) result: Option<FlightResult>,
    pub(super) is_collapsed: bool,
}

impl Pollers {
    /// No pollers yet; at most `max_waiters` may wait for one answer.
    pub(super) fn new(max_waiters: usize) -> Self {
        Self { by_key: Arc::default(), max_waiters }
    }

    /// Joins the poller of `key`. The task is to be run if there was none.
    pub(super) fn join(&self, key: &CacheKey, waiter: Waiter) -> Result<(Waiting, Option<PollTask>), Cause> {
        let mut by_key = lock(&self.by_key);
        let (poller, task) = match by_key.entry(key.clone()) {
            Entry::Occupied(known) if known.get().waiters.len() >= self.max_waiters => {
                return Err(Cause::TooManyFollowers);
            }
            Entry::Occupied(known) => (Arc::clone(known.get()), None),
            Entry::Vacant(place) => {
                let poller = Arc::clone(place.insert(Arc::default()));
                let (pollers, key) = (Arc::clone(&self.by_key), key.clone());
                (Arc::clone(&poller), Some(PollTask { poller, pollers, key }))
            }
        };
        let asker = Arc::clone(&waiter.asker);
        // Under the lock, so that a poller that ends has seen it.
        let begin = poller.waiters.add(waiter);
        Ok((Waiting { newest: poller.newest.subscribe(), poller, asker, begin }, task))
    }

    /// The number of clients that wait, and of pollers.
    pub(super) fn counts(&self) -> (usize, usize) {
        let by_key = lock(&self.by_key);
        (by_key.values().map(|poller| poller.waiters.len()).sum(), by_key.len())
    }
}

/// The work of a poller. When it is dropped, it is closed.
#[derive(Debug)]
pub(super) struct PollTask {
    poller: Arc<Poller>,
    pollers: Arc<PollersByKey>,
    key: CacheKey,
}

impl PollTask {
    pub(super) fn waiters(&self) -> Arc<Waiters> {
        Arc::clone(&self.poller.waiters)
    }

    /// Reads by the schedule until the export has ended, nobody waits any more, or a stop is announced.
    pub(super) async fn run<R>(self, clock: &Clock, shutdown: &Shutdown, read: impl Fn(BegunRead) -> R)
    where
        R: Future<Output = PollRead>,
    {
        let stop = shutdown.announced();
        tokio::select! {
            () = stop => {}
            () = self.poll(clock, read) => {}
        }
    }

    async fn poll<R>(&self, clock: &Clock, read: impl Fn(BegunRead) -> R)
    where
        R: Future<Output = PollRead>,
    {
        let waiters = &self.poller.waiters;
        let mut schedule = PollSchedule::default();
        let mut next = clock.now().mono;
        let (mut newest, mut last, mut idle_since) = (None, None, None);
        let mut changes = waiters.changes();
        loop {
            // 1. Until the next read is due, or nobody has waited for long.
            let now = clock.now().mono;
            let wake = match waiters.due(next, newest) {
                Some(due) => {
                    idle_since = None;
                    due
                }
                None => *idle_since.get_or_insert(now) + LINGER,
            };
            if wake > now {
                tokio::select! {
                    _ = changes.changed() => {}
                    () = sleep_until(wake.into()) => {}
                }
                continue;
            }
            let Some(begun) = waiters.begin_read(last) else {
                if self.leave_if_idle() {
                    return;
                }
                continue;
            };

            // 2. Read for all who are there.
            let (number, request) = (begun.number, begun.asker.request);
            let PollRead { result, is_collapsed } = tokio::select! {
                biased;
                read = read(begun) => read,
                () = waiters.all_gone() => continue,
            };
            let result = result.unwrap_or_else(|| Err(Cause::Internal.into()));
            let mark = ReadMark { number, asked: asked_at(&result).unwrap_or(now) };
            let answer = PolledAnswer { result, mark, cause: Some(request).filter(|_| !is_collapsed) };
            newest = Some(mark);

            // 3. Tell them.
            let outcome = ReadOutcome::of(&answer.result);
            let Some(pause) = schedule.pause_after(outcome, fastrand::f64()) else {
                // Nobody can join it any more; then its waiters hear of the end.
                self.leave();
                return self.poller.newest.send_modify(|known| known.end = Some(answer));
            };
            let ended = clock.now().mono;
            // From the end of the read, by whichever gateway.
            next = taken_at(&answer.result).unwrap_or(ended) + pause;
            last = Some(ended);
            self.poller.newest.send_modify(|known| {
                let is_unfinished = outcome == ReadOutcome::Unfinished;
                let place = if is_unfinished { &mut known.unfinished } else { &mut known.failure };
                *place = Some(answer);
            });
        }
    }

    fn leave(&self) {
        let mut by_key = lock(&self.pollers);
        if by_key.get(&self.key).is_some_and(|known| Arc::ptr_eq(known, &self.poller)) {
            by_key.remove(&self.key);
        }
    }

    /// Has nobody join it any more if nobody waits; false if somebody does.
    fn leave_if_idle(&self) -> bool {
        let mut by_key = lock(&self.pollers);
        let is_idle = self.poller.waiters.is_left();
        if is_idle {
            by_key.remove(&self.key);
        }
        is_idle
    }
}

impl Drop for PollTask {
    fn drop(&mut self) {
        self.leave();
        self.poller.newest.send_modify(|known| known.is_closed = true);
    }
}

/// The place of a client among those who wait; until it is dropped.
#[derive(Debug)]
pub(super) struct Waiting {
    poller: Arc<Poller>,
    newest: watch::Receiver<Newest>,
    asker: Arc<Asker>,
    begin: WaitBegin,
}

impl Waiting {
    /// Waits for the end of the export, or of the wait. `None` if the poller has ended without an answer for this client.
    ///
    /// # Errors
    /// At a stop or the client's deadline, where there is no answer yet.
    pub(super) async fn end(
        mut self,
        wait: Wait,
        shutdown: &Shutdown,
    ) -> Result<Option<PolledAnswer>, Cause> {
        let (asker, poller) = (Arc::clone(&self.asker), Arc::clone(&self.poller));
        // One that has closed its half of the connection is read for within the grace, and waits no longer.
        let left = async {
            asker.half_closed.cancelled().await;
            let end = Instant::now() + HALF_CLOSED_GRACE;
            poller.waiters.shorten(asker.request, end.into_std());
            sleep_until(end).await;
            poller.waiters.discount(asker.request);
        };
        let over = async {
            tokio::select! {
                () = sleep_until(wait.until.into()) => {}
                () = left => {}
                () = shutdown.announced() => {}
            }
        };
        let deadline = sleep_until(asker.deadline);
        let (mut over, mut deadline) = (std::pin::pin!(over), std::pin::pin!(deadline));
        let mut is_over = false;
        loop {
            {
                // The end of the poller at a stop may be heard before the stop itself.
                let is_stopping = shutdown.is_announced();
                let is_over = is_over || is_stopping;
                let newest = self.newest.borrow_and_update();
                if let Some(answer) = newest.for_client(self.begin, wait.is_asked, is_over) {
                    return Ok(Some(answer));
                }
                if is_stopping {
                    return Err(Cause::Stopping);
                }
                if newest.is_closed {
                    return match &newest.end {
                        _ if asker.half_closed.is_cancelled() => Err(Cause::Abandoned),
                        Some(_) => Ok(None),
                        // It panicked.
                        None => Err(Cause::Internal),
                    };
                }
            }
            tokio::select! {
                changed = self.newest.changed() => changed.map_err(|_| Cause::Internal)?,
                () = &mut over, if !is_over => is_over = true,
                () = &mut deadline => return Err(Cause::Deadline),
            }
        }
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.poller.waiters.remove(self.asker.request);
    }
}

impl Newest {
    /// The answer for a client; `None` if it has to wait. One that `is_patient` waits through failures.
    fn for_client(&self, begin: WaitBegin, is_patient: bool, is_over: bool) -> Option<PolledAnswer> {
        let counts = |answer: &&PolledAnswer| answer.mark.counts_for(begin);
        let end = self.end.as_ref().filter(counts);
        let unfinished = self.unfinished.as_ref().filter(counts);
        let failure = self.failure.as_ref().filter(counts);
        let held = match unfinished {
            Some(_) => unfinished.filter(|_| is_over),
            None => failure.filter(|_| is_over || !is_patient),
        };
        // Where a failure ends it, an answer is better.
        let is_failure = |end: &PolledAnswer| ReadOutcome::of(&end.result) != ReadOutcome::Ended;
        end.map(|end| unfinished.filter(|_| is_failure(end)).unwrap_or(end)).or(held).cloned()
    }
}

/// The time at which Snyk was asked for an answer; `None` for a stored response of another gateway, which is as good as one that
/// was found here.
fn asked_at(result: &FlightResult) -> Option<std::time::Instant> {
    let fetched = result.as_ref().ok()?;
    Some(fetched.asked).filter(|_| fetched.taken != Some(Taken::Entry))
}

/// The time at which another gateway got the answer, if it did.
fn taken_at(result: &FlightResult) -> Option<std::time::Instant> {
    let fetched = result.as_ref().ok()?;
    fetched.taken.map(|_| fetched.arrival.mono)
}

/// A panic while it was locked left it whole: each change is one call.
fn lock(pollers: &PollersByKey) -> MutexGuard<'_, HashMap<CacheKey, Arc<Poller>>> {
    pollers.lock().unwrap_or_else(PoisonError::into_inner)
}
