//! The handle through which the gateway records what it did.
//!
//! [`Journal::record`] resolves when the record is committed, so that an answer sent after it can always
//! be found. A journal that cannot be written says so at once and never holds an answer up; whether the
//! answer leaves unrecorded is the gateway's decision ([`OnFailure`](super::OnFailure)).

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, SystemTime};

use prometheus_client::metrics::histogram::Histogram;
use tokio::sync::{mpsc, oneshot};
use tracing::error;
use uuid::Uuid;

use super::database::{Ledgers, Work};
use super::fault::Unrecorded;
use super::record::{Attempt, Served};
use super::sends::{News, Sends};
use super::settings::Settings;
use super::writer::{Command, Health, Job, RETRY, Writer};
use crate::clock::Clock;

/// Longest that sends wait to be written down: a journal in trouble does not hold them up.
const SPEND_WAIT: Duration = Duration::from_millis(500);
/// Longest that the first look at what was sent waits: for a file of an earlier version to be brought to this one. Without
/// it, a start would begin with a budget that forgets the last hour.
const FIRST_WAIT: Duration = Duration::from_mins(1);
/// Most records that wait for the writer; beyond it, callers wait to queue.
const QUEUE: usize = 1_024;

/// What the writer's thread shares with the handles.
pub(super) type Shared = (Arc<Health>, Arc<Ledgers>);

/// The journal. Clones share one writer thread.
#[derive(Debug, Clone)]
pub struct Journal(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    sender: mpsc::Sender<Command>,
    health: Arc<Health>,
    ledgers: Arc<Ledgers>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Journal {
    /// Starts the writer. Never fails: a file that cannot be opened is a failing journal, tried again.
    #[must_use]
    pub fn open(settings: Settings, clock: Clock) -> Self {
        Self::open_with_retry(settings, clock, RETRY)
    }

    /// [`Journal::open`], trying again after `retry`.
    pub(super) fn open_with_retry(settings: Settings, clock: Clock, retry: Duration) -> Self {
        Self::start(move |(health, ledgers), receiver| {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_time()
                .build()
                .unwrap_or_else(|error| panic!("the journal's thread cannot start: {error}"));
            runtime.block_on(Writer::new(settings, (clock, retry), (health, ledgers)).run(receiver));
        })
    }

    /// Runs `body` on the writer's thread. Its death shows as failing and fails whoever waits.
    pub(super) fn start(body: impl FnOnce(Shared, mpsc::Receiver<Command>) + Send + 'static) -> Self {
        let (sender, receiver) = mpsc::channel(QUEUE);
        let health = Arc::new(Health::default());
        let ledgers = Arc::new(Ledgers::default());
        let (shared, for_body) = (Arc::clone(&health), (Arc::clone(&health), Arc::clone(&ledgers)));
        let guarded = move || {
            if catch_unwind(AssertUnwindSafe(|| body(for_body, receiver))).is_err() {
                shared.failing.store(true, Ordering::SeqCst);
                error!("the journal's thread died: restart exportgate and report this");
            }
        };
        let thread = thread::Builder::new().name("journal".to_owned()).spawn(guarded);
        let thread = thread.inspect_err(|error| {
            health.failing.store(true, Ordering::SeqCst);
            error!(%error, "the journal's thread cannot be started: raise the limit on threads and restart");
        });
        Self(Arc::new(Inner { sender, health, ledgers, thread: Mutex::new(thread.ok()) }))
    }

    /// Records an attempt and whom it answered. `Ok` means committed.
    pub async fn record(&self, attempt: Attempt, served: Vec<Served>) -> Result<(), Unrecorded> {
        self.submit(Work::Attempt(Box::new(attempt), served)).await
    }

    /// Records whom an attempt that is on record answered since. `Ok` means committed.
    pub async fn serve(&self, attempt: Uuid, served: Vec<Served>) -> Result<(), Unrecorded> {
        self.submit(Work::Serve(attempt, served)).await
    }

    /// Where the sends of the credential that is called `credential` at `upstream` are noted.
    #[must_use]
    pub fn sends(&self, upstream: &str, credential: &str) -> Arc<Sends> {
        let sends = Arc::new(Sends::new(upstream, credential));
        self.0.ledgers.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::clone(&sends));
        sends
    }

    /// Writes down that `count` requests are about to be sent at `at` (by the wall clock), and the scopes of the
    /// `starts` among them, and tells what is known then. What the journal cannot write at the
    /// moment is written with what comes later. With a `count` of 0 this looks what was sent before, and waits longer.
    pub async fn spend(&self, sends: &Sends, (count, starts): (u32, Vec<Arc<str>>), at: SystemTime) -> News {
        sends.note((count, &starts), at);
        sends.ask();
        let written = self.submit(Work::Sends);
        let wait = if count == 0 { FIRST_WAIT } else { SPEND_WAIT };
        if tokio::time::timeout(wait, written).await.is_err() {
            tracing::warn!("the journal is slow: sends go up before they are written down");
        }
        sends.news(at)
    }

    /// Whether the last try to write failed.
    #[must_use]
    pub fn is_failing(&self) -> bool {
        self.0.health.failing.load(Ordering::SeqCst)
    }

    /// How many calls went unrecorded since the start.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.0.health.dropped.load(Ordering::Relaxed)
    }

    /// How many calls were written since the start.
    #[must_use]
    pub fn written(&self) -> u64 {
        self.0.health.written.load(Ordering::Relaxed)
    }

    /// How many records wait to be written.
    #[must_use]
    pub fn queued(&self) -> usize {
        self.0.sender.max_capacity() - self.0.sender.capacity()
    }

    /// Seconds that commits took.
    #[must_use]
    pub fn commit_durations(&self) -> Histogram {
        self.0.health.durations.clone()
    }

    /// How many groups were committed since the start.
    #[must_use]
    pub fn commits(&self) -> u64 {
        self.0.health.commits.load(Ordering::Relaxed)
    }

    /// Writes what is queued, moves the log into the file and ends the thread. Later calls are refused.
    pub async fn close(&self) {
        let (done, closed) = oneshot::channel();
        if self.0.sender.send(Command::Close(done)).await.is_ok() {
            // Resolves, as an error, when the thread drops the sender on its way out.
            drop(closed.await);
        }
        let thread = self.0.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread {
            // The thread has nothing left to do, so this waits for its exit only; a panic was logged.
            drop(thread.join());
        }
    }

    async fn submit(&self, work: Work) -> Result<(), Unrecorded> {
        let (done, answer) = oneshot::channel();
        if self.0.sender.send(Command::Write(Job { work, done })).await.is_err() {
            return Err(self.lost());
        }
        answer.await.unwrap_or_else(|_| Err(self.lost()))
    }

    /// The thread is gone, and with it the writer's own count.
    fn lost(&self) -> Unrecorded {
        self.0.health.failing.store(true, Ordering::SeqCst);
        self.0.health.dropped.fetch_add(1, Ordering::Relaxed);
        Unrecorded::Closed
    }
}
