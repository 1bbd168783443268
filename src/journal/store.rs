//! The handle through which the gateway records what it did.
//!
//! [`Journal::record`] resolves when the record is committed, so that an answer sent after it can always be found. A
//! journal that is slow holds an answer up for `journal.max_wait`, one that is known to fail not at all: the record waits
//! in memory then. Whether the answer leaves before its record is on disk is the gateway's decision
//! ([`OnFailure`](super::OnFailure)).

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use prometheus_client::metrics::histogram::Histogram;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, timeout, timeout_at};
use tracing::error;
use uuid::Uuid;

use super::command::{Confirm, WriterCommand};
use super::fault::Unrecorded;
use super::named::{NamedChange, NamedJob, NamedRow};
use super::record::{Attempt, Served};
use super::sends::RecordedSends;
use super::settings::Settings;
use super::ship::Shipping;
use super::starts::{ForgottenStarts, FoundStart, StartCommand, StartSearch};
use super::transfer::TransferRecord;
use super::writer::{Job, RETRY, Writer, WriterContext};
use crate::clock::{Clock, Now};

/// Longest that a stop waits for the thread: what is queued is a moment's work for a disk that works.
const CLOSE_WAIT: Duration = Duration::from_secs(5);
/// The same where it is known not to work.
const CLOSE_WAIT_FAILING: Duration = Duration::from_secs(1);

/// The journal. Clones share one writer thread.
#[derive(Debug, Clone)]
pub struct Journal(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    queue: mpsc::Sender<Job>,
    shared: WriterContext,
    path: PathBuf,
    max_wait: Duration,
    shipping: Option<Shipping>,
    thread: Mutex<Option<Thread>>,
}

/// The writer's thread.
#[derive(Debug)]
struct Thread {
    handle: JoinHandle<()>,
    /// Resolves, as an error, when the thread is at its end.
    ended: oneshot::Receiver<()>,
}

impl Journal {
    /// Starts the writer. Never fails: a file that cannot be opened is a failing journal, tried again.
    #[must_use]
    pub fn open(settings: Settings, clock: Clock) -> Self {
        Self::open_with_retry(settings, clock, RETRY)
    }

    /// [`Journal::open`], trying again after `retry`.
    pub(super) fn open_with_retry(settings: Settings, clock: Clock, retry: Duration) -> Self {
        let of_shipping = clock.clone();
        Self::start(settings, of_shipping, move |settings, shared, queue| {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_time()
                .build()
                .unwrap_or_else(|error| panic!("the journal's thread cannot start: {error}"));
            let writer = Writer::new(settings.clone(), clock.clone(), retry, shared.clone());
            runtime.block_on(writer.run(queue));
        })
    }

    /// Runs `body` on the writer's thread, and again where it panics.
    pub(super) fn start(
        settings: Settings,
        clock: Clock,
        body: impl Fn(&Settings, &WriterContext, &mut mpsc::Receiver<Job>) + Send + 'static,
    ) -> Self {
        let (queue, mut jobs) = mpsc::channel(settings.max_pending);
        let (path, max_wait) = (settings.path.clone(), settings.max_wait);
        let shared = WriterContext::default();
        let ship = settings.ship.clone();
        let shipping = ship.map(|ship| Shipping::new(ship, path.clone(), clock, Arc::clone(&shared.noted)));
        let of_thread = shared.clone();
        let (end, ended) = oneshot::channel::<()>();
        let run = move || {
            let _end = end;
            while catch_unwind(AssertUnwindSafe(|| body(&settings, &of_thread, &mut jobs))).is_err() {
                of_thread.health.panicked();
                error!("journal thread panicked and restarts; please report this");
                thread::sleep(RETRY);
            }
        };
        let handle = thread::Builder::new().name("journal".to_owned()).spawn(run);
        let handle = handle.inspect_err(|error| {
            shared.health.fails();
            error!(%error, "journal thread not started; raise the limit on threads and restart");
        });
        let thread = Mutex::new(handle.ok().map(|handle| Thread { handle, ended }));
        Self(Arc::new(Inner { queue, shared, path, max_wait, shipping, thread }))
    }

    /// Records an attempt and the clients that it answered. `Ok` means committed; after [`Unrecorded::Failing`] it is written
    /// when that is possible, unless too many wait.
    pub async fn record(&self, attempt: Attempt, served: Vec<Served>) -> Result<(), Unrecorded> {
        self.submit(WriterCommand::Attempt(Box::new(attempt), served)).await
    }

    /// Records more clients that an attempt on record answered. `Ok` means committed; else as with [`Journal::record`].
    pub async fn serve(&self, attempt: Uuid, served: Vec<Served>) -> Result<(), Unrecorded> {
        self.submit(WriterCommand::Serve(attempt, served)).await
    }

    /// Records the transfer of a file. Nobody waits for it: its answer has left.
    pub fn transferred(&self, transfer: TransferRecord) {
        let _ = self.leave(Job { command: WriterCommand::Transfer(Box::new(transfer)), done: None });
    }

    /// The newest start on record with this key, at most `max_age` old and still of use.
    pub async fn find_start(&self, key: [u8; 32], max_age: Duration) -> Option<FoundStart> {
        let search = StartSearch { key, max_age, found: Arc::default() };
        let found = Arc::clone(&search.found);
        // A journal that does not work knows of none.
        self.submit(WriterCommand::Start(StartCommand::Find(search))).await.ok()?;
        found.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Forgets the starts of exports of which `is_forgotten` is true, given the ids of their org or group and their own. Where
    /// the journal does not work at the moment, it does so later.
    pub async fn forget_starts(&self, is_forgotten: impl Fn(&str, &str) -> bool + Send + 'static) {
        let forgotten = ForgottenStarts(Box::new(is_forgotten));
        let _ = self.submit(WriterCommand::Start(StartCommand::Forget(forgotten))).await;
    }

    /// A place on record for the request that is attempt `id`, not taken yet.
    #[must_use]
    pub fn reservation(&self, id: Uuid) -> AttemptReservation {
        AttemptReservation { journal: self.clone(), id, is_open: false }
    }

    /// Calls `listener` with the requests of other processes, within the transaction that puts our own requests on record,
    /// before it is decided whether these may be sent.
    pub fn on_sends(&self, listener: impl Fn(&RecordedSends) + Send + Sync + 'static) {
        self.0.shared.sends.set(Box::new(listener));
    }

    /// Changes the row of a named export where its lease is or becomes ours, and gives the row.
    ///
    /// # Errors
    /// The journal does not command at the moment.
    pub async fn change_named(&self, change: NamedChange) -> Result<NamedRow, Unrecorded> {
        let row = Arc::new(Mutex::new(None));
        self.submit(WriterCommand::Named(NamedJob { change, row: Arc::clone(&row) })).await?;
        row.lock().unwrap_or_else(PoisonError::into_inner).take().ok_or(Unrecorded::Failing)
    }

    /// The shipping of the records to the database of many gateways, where there is one.
    #[must_use]
    pub fn shipping(&self) -> Option<&Shipping> {
        self.0.shipping.as_ref()
    }

    /// Takes the records up to `last` off the outbox.
    pub(super) async fn shipped(&self, last: i64) -> Result<(), Unrecorded> {
        self.submit(WriterCommand::Shipped(last)).await
    }

    /// Reads the requests of other processes, and waits for it as long as for a record.
    pub async fn look(&self) {
        // What cannot be read now is read with the first record.
        let _ = self.submit(WriterCommand::Look).await;
    }

    /// Calls the listener with all requests of the last hour, at the next reading.
    pub fn recall(&self) {
        self.0.shared.sends.recall();
    }

    /// True if the last try to write failed, or a write takes too long.
    #[must_use]
    pub fn is_failing(&self) -> bool {
        self.0.shared.health.is_failing()
    }

    /// Number of calls that went unrecorded since the start.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.0.shared.health.dropped.load(Ordering::Relaxed)
    }

    /// Number of calls that were written since the start.
    #[must_use]
    pub fn written(&self) -> u64 {
        self.0.shared.health.written.load(Ordering::Relaxed)
    }

    /// Number of records that wait to be written.
    #[must_use]
    pub fn queued(&self) -> usize {
        let in_hand = self.0.shared.health.in_hand.load(Ordering::Relaxed);
        self.0.queue.max_capacity() - self.0.queue.capacity() + in_hand
    }

    /// Seconds that commits took.
    #[must_use]
    pub fn commit_durations(&self) -> Histogram {
        self.0.shared.health.durations.clone()
    }

    /// Number of groups that were committed since the start.
    #[must_use]
    pub fn commits(&self) -> u64 {
        self.0.shared.health.commits.load(Ordering::Relaxed)
    }

    /// Number of panics of the writer's thread since the start.
    #[must_use]
    pub fn panics(&self) -> u64 {
        self.0.shared.health.panics.load(Ordering::Relaxed)
    }

    /// Size of the write-ahead log, in bytes.
    #[must_use]
    pub fn log_bytes(&self) -> u64 {
        self.0.shared.health.log_bytes()
    }

    /// True if another program's open read keeps the write-ahead log growing.
    #[must_use]
    pub fn is_held_open(&self) -> bool {
        self.0.shared.health.is_held_open.load(Ordering::Relaxed)
    }

    /// Writes what is queued, moves the log into the file and ends the thread, unless that takes too long. Later calls
    /// are refused.
    pub async fn close(&self) {
        self.0.shared.close.cancel();
        let Some(thread) = self.0.thread.lock().unwrap_or_else(PoisonError::into_inner).take() else {
            return;
        };
        let wait = if self.is_failing() { CLOSE_WAIT_FAILING } else { CLOSE_WAIT };
        if timeout(wait, thread.ended).await.is_ok() {
            // The thread has nothing left to do, so this waits for its exit only; a panic was logged.
            drop(thread.handle.join());
        } else {
            let path = self.0.path.display();
            error!(%path, records = self.queued(), "journal not closed in time; records are lost");
        }
    }

    async fn submit(&self, command: WriterCommand) -> Result<(), Unrecorded> {
        let is_record = command.is_record();
        let (done, answer) = oneshot::channel();
        let job = Job { command, done: Some(done) };
        if self.is_failing() {
            // A record is written when that is possible.
            return if is_record { self.leave(job) } else { Err(Unrecorded::Failing) };
        }
        let until = Instant::now() + self.0.max_wait;
        match timeout_at(until, self.0.queue.reserve()).await {
            Ok(Ok(place)) => place.send(job),
            Ok(Err(_)) => return Err(self.lost(is_record, Unrecorded::Closed)),
            Err(_) => {
                self.stalls();
                return Err(self.lost(is_record, Unrecorded::Failing));
            }
        }
        let Ok(written) = timeout_at(until, answer).await else {
            self.stalls();
            return Err(Unrecorded::Failing);
        };
        written.unwrap_or(Err(Unrecorded::Closed))
    }

    /// Leaves a record to be written later.
    fn leave(&self, job: Job) -> Result<(), Unrecorded> {
        match self.0.queue.try_send(job) {
            Ok(()) => Err(Unrecorded::Failing),
            Err(mpsc::error::TrySendError::Full(_)) => Err(self.lost(true, Unrecorded::Failing)),
            Err(mpsc::error::TrySendError::Closed(_)) => Err(self.lost(true, Unrecorded::Closed)),
        }
    }

    /// The writer did not answer in time.
    fn stalls(&self) {
        if self.0.shared.health.fails() {
            error!(
                path = %self.0.path.display(),
                to_do = "check the disk of journal.path (a network file system, a suspended device) and its load",
                "journal write timed out (journal.max_wait); serving requests, keeping records in memory"
            );
        }
    }

    /// Counts a record that will not be written.
    fn lost(&self, is_record: bool, why: Unrecorded) -> Unrecorded {
        self.0.shared.health.fails();
        self.0.shared.health.dropped.fetch_add(u64::from(is_record), Ordering::Relaxed);
        why
    }
}

/// The right to send one request, by its place on record. One that is dropped before [`AttemptReservation::sent`] is marked there as
/// not sent; it counts all the same, for others may have read it.
#[derive(Debug)]
pub struct AttemptReservation {
    journal: Journal,
    id: Uuid,
    /// It may be on record, and is not sent yet.
    is_open: bool,
}

impl AttemptReservation {
    /// Puts `attempt` on record in a transaction that asks `confirm` whether it may still be sent; `false` where it may not.
    /// One that is on record already is dated anew.
    ///
    /// # Errors
    /// The journal does not command at the moment.
    pub async fn make(
        &mut self,
        attempt: &Attempt,
        confirm: Box<dyn Fn(Now) -> bool + Send>,
    ) -> Result<bool, Unrecorded> {
        let command = WriterCommand::Reserve(Box::new(attempt.clone()), Confirm(confirm));
        // It may be written although this is dropped, or has failed by then.
        let was_open = std::mem::replace(&mut self.is_open, true);
        match self.journal.submit(command).await {
            Ok(()) => Ok(true),
            Err(Unrecorded::NoAttempt) => {
                self.is_open = was_open;
                Ok(false)
            }
            Err(error @ (Unrecorded::Failing | Unrecorded::Closed)) => Err(error),
        }
    }

    /// The request is sent now: its record will be completed.
    pub fn sent(mut self) {
        self.is_open = false;
    }
}

impl Drop for AttemptReservation {
    fn drop(&mut self) {
        if self.is_open {
            let command = WriterCommand::Withdraw(self.id);
            // What finds no room stays on record as a request without an answer.
            let _ = self.journal.0.queue.try_send(Job { command, done: None });
        }
    }
}
