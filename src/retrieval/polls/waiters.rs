//! The clients that wait for the end of one export, and the time at which one of them needs a read.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::watch;
use uuid::Uuid;

use super::super::question::Asker;
use crate::journal::Served;

/// For a client that has no answer, a read begins so long before the end of its wait.
const LAST_CALL: Duration = Duration::from_millis(500);

/// The waiters of one poller.
#[derive(Debug, Default)]
pub(crate) struct Waiters {
    state: Mutex<WaitersState>,
    changed: watch::Sender<()>,
}

#[derive(Debug, Default)]
struct WaitersState {
    by_request: HashMap<Uuid, Waiter>,
    /// The number of reads that were begun.
    reads: u64,
}

/// A read that was begun.
#[derive(Debug)]
pub(crate) struct BegunRead {
    pub(super) number: u64,
    pub(crate) asker: Asker,
    /// An answer that was asked for after this is for all of them, and newer than the last.
    pub(crate) after: Instant,
    /// True if a stored response is for all of them.
    pub(crate) takes_stored: bool,
}

/// A read that has ended.
#[derive(Debug, Clone, Copy)]
pub(super) struct ReadMark {
    pub(super) number: u64,
    /// The time at which Snyk was asked.
    pub(super) asked: Instant,
}

/// The time at which a client came.
#[derive(Debug, Clone, Copy)]
pub(super) struct WaitBegin {
    asked: Instant,
    /// The number of reads that were begun before.
    reads: u64,
}

impl ReadMark {
    /// True if the answer is one for a client: it is on record for it, and was asked for after it.
    pub(super) fn counts_for(self, begin: WaitBegin) -> bool {
        self.number > begin.reads && self.asked >= begin.asked
    }
}

/// A client that waits.
#[derive(Debug)]
pub(crate) struct Waiter {
    pub(super) asker: Arc<Asker>,
    /// The time of its request.
    pub(super) asked: Instant,
    /// The end of its wait.
    pub(super) until: Instant,
    /// The number of reads that were begun before it came.
    reads: u64,
    /// False once it has closed its half of the connection for a while: most of those are gone.
    is_counted: bool,
    /// True if any stored response is good for it.
    takes_stored: bool,
}

impl Waiter {
    pub(crate) fn new(asker: &Arc<Asker>, since: Instant, until: Instant, takes_stored: bool) -> Self {
        Self { asker: Arc::clone(asker), asked: since, until, reads: 0, is_counted: true, takes_stored }
    }

    fn begin(&self) -> WaitBegin {
        WaitBegin { asked: self.asked, reads: self.reads }
    }

    /// The time at which it needs a read at the latest, unless the newest one is for it.
    fn needs_read(&self, newest: Option<ReadMark>) -> Option<Instant> {
        let has_none = newest.is_none_or(|newest| !newest.counts_for(self.begin()));
        has_none.then(|| self.until.checked_sub(LAST_CALL).unwrap_or(self.asked).max(self.asked))
    }
}

impl Waiters {
    pub(super) fn add(&self, waiter: Waiter) -> WaitBegin {
        let mut state = self.lock();
        let waiter = Waiter { reads: state.reads, ..waiter };
        let begin = waiter.begin();
        state.by_request.insert(waiter.asker.request, waiter);
        self.changed.send_replace(());
        begin
    }

    pub(super) fn remove(&self, request: Uuid) {
        self.lock().by_request.remove(&request);
        self.changed.send_replace(());
    }

    /// Counts a client no more: it gets its answer, but nothing is sent for it alone.
    pub(super) fn discount(&self, request: Uuid) {
        if let Some(waiter) = self.lock().by_request.get_mut(&request) {
            waiter.is_counted = false;
        }
        self.changed.send_replace(());
    }

    /// Has a client that has closed its half of the connection wait until `until` at most.
    pub(super) fn shorten(&self, request: Uuid, until: Instant) {
        if let Some(waiter) = self.lock().by_request.get_mut(&request) {
            waiter.until = waiter.until.min(until);
        }
        self.changed.send_replace(());
    }

    /// Hears of those who come and leave.
    pub(super) fn changes(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    /// Resolves when nobody waits for certain.
    pub(crate) async fn all_left(&self) {
        self.until(|| self.is_left()).await;
    }

    /// Resolves when nobody is there.
    pub(super) async fn all_gone(&self) {
        self.until(|| self.lock().by_request.is_empty()).await;
    }

    async fn until(&self, is_so: impl Fn() -> bool) {
        let mut changes = self.changes();
        while !is_so() {
            // It is never closed.
            let _ = changes.changed().await;
        }
    }

    /// True if nobody waits for certain.
    pub(super) fn is_left(&self) -> bool {
        !self.lock().by_request.values().any(|waiter| waiter.is_counted)
    }

    pub(super) fn len(&self) -> usize {
        self.lock().by_request.len()
    }

    /// The time of the next read: `next`, or earlier for a client that leaves before. `None` if nobody waits.
    pub(super) fn due(&self, next: Instant, newest: Option<ReadMark>) -> Option<Instant> {
        let state = self.lock();
        let counted = state.by_request.values().filter(|waiter| waiter.is_counted);
        counted.map(|waiter| waiter.needs_read(newest).map_or(next, |needed| needed.min(next))).min()
    }

    /// Begins a read for all who are there: the asker of it, after the one who came first. `None` if nobody waits. `last` is the
    /// end of the last one.
    pub(super) fn begin_read(&self, last: Option<Instant>) -> Option<BegunRead> {
        let mut state = self.lock();
        let counted = || state.by_request.values().filter(|waiter| waiter.is_counted);
        let first = counted().min_by_key(|waiter| waiter.asked)?;
        let deadline = counted().map(|waiter| waiter.asker.deadline).max()?;
        let asker = first.asker.later(deadline);
        let newest = counted().map(|waiter| waiter.asked).max()?;
        let takes_stored = state.by_request.values().all(|waiter| waiter.takes_stored);
        state.reads += 1;
        let after = last.map_or(newest, |last| last.max(newest));
        Some(BegunRead { number: state.reads, asker, after, takes_stored })
    }

    /// The clients that the read on its way is for.
    pub(crate) fn served(&self) -> Vec<Served> {
        let state = self.lock();
        let are_in = state.by_request.values().filter(|waiter| waiter.reads < state.reads);
        are_in.map(|waiter| waiter.asker.member()).collect()
    }

    /// A panic while it was locked left it whole: each change is one call.
    fn lock(&self) -> MutexGuard<'_, WaitersState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
