//! The thread that owns the file: takes what waits, commits it as one group, then answers everybody.
//!
//! There is no timer in front of a commit. A record that finds the thread idle is committed at once;
//! while a commit runs, others gather and become the next group, so that groups grow exactly as far as
//! the disk is slow. Invariant: `failing` is set before anybody hears of the failure, and cleared before
//! anybody hears of success.

use std::mem;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use prometheus_client::metrics::histogram::Histogram;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;
use tracing::{debug, error, info, warn};

use super::database::{Database, Ledgers, Work};
use super::fault::{Fault, Unrecorded};
use super::prune::{self, Schedule};
use super::sends::Sends;
use super::settings::Settings;
use super::store::Shared;
use crate::clock::{Clock, Now};

/// Most pieces of work in one transaction.
const GROUP: usize = 256;
/// Seconds that a commit takes: some ten microseconds, or what an fsync takes.
const COMMIT_SECONDS: [f64; 10] = [0.000_05, 0.0001, 0.0005, 0.001, 0.005, 0.01, 0.05, 0.1, 1.0, 5.0];
/// How long a healthy writer waits for the file's lock.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long a failing writer waits for it: those who ask meanwhile wait too.
const PATIENCE_FAILING: Duration = Duration::from_millis(100);
/// A failing writer tries again this often, with traffic or without.
pub(super) const RETRY: Duration = Duration::from_secs(1);

/// What callers see of the writer without asking it.
#[derive(Debug)]
pub(super) struct Health {
    pub(super) failing: AtomicBool,
    pub(super) dropped: AtomicU64,
    pub(super) written: AtomicU64,
    pub(super) commits: AtomicU64,
    /// Seconds that commits took.
    pub(super) durations: Histogram,
}

impl Default for Health {
    fn default() -> Self {
        let none = || AtomicU64::new(0);
        let durations = Histogram::new(COMMIT_SECONDS);
        Self { failing: AtomicBool::new(false), dropped: none(), written: none(), commits: none(), durations }
    }
}

/// What the thread is told.
#[derive(Debug)]
pub(super) enum Command {
    /// Write this, then answer.
    Write(Job),
    /// Write what is queued, then end; the sender is dropped when the file is closed.
    Close(oneshot::Sender<()>),
}

/// A piece of work and who waits for it.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) work: Work,
    pub(super) done: oneshot::Sender<Result<(), Unrecorded>>,
}

/// The file is either open and good, or to be opened again.
#[derive(Debug)]
enum State {
    Open(Database),
    Closed { retry_at: Instant },
}

/// The thread's own state.
#[derive(Debug)]
pub(super) struct Writer {
    settings: Settings,
    clock: Clock,
    retry: Duration,
    health: Arc<Health>,
    ledgers: Arc<Ledgers>,
    state: State,
    schedule: Schedule,
}

impl Writer {
    pub(super) fn new(
        settings: Settings,
        (clock, retry): (Clock, Duration),
        (health, ledgers): Shared,
    ) -> Self {
        let now = clock.now().mono;
        let (state, schedule) = (State::Closed { retry_at: now }, Schedule::new(now));
        Self { settings, clock, retry, health, ledgers, state, schedule }
    }

    /// Serves until told to close, or until every handle is gone.
    pub(super) async fn run(mut self, mut receiver: mpsc::Receiver<Command>) {
        let mut closing = Vec::new();
        let mut commands = Vec::with_capacity(GROUP);
        self.maintain();
        loop {
            // A wait of zero still takes what is there first: maintenance never overtakes records.
            let taken = timeout(self.wait(), receiver.recv_many(&mut commands, GROUP)).await;
            if taken == Ok(0) {
                break;
            }
            let mut jobs = Vec::with_capacity(commands.len());
            for command in commands.drain(..) {
                match command {
                    Command::Write(job) => jobs.push(job),
                    Command::Close(done) => {
                        receiver.close();
                        closing.push(done);
                    }
                }
            }
            if !jobs.is_empty() {
                self.commit(jobs);
            }
            self.maintain();
        }
        self.end();
    }

    /// Until when there is nothing to do but to wait for records.
    fn wait(&self) -> Duration {
        let now = self.clock.now().mono;
        match self.state {
            State::Open(_) => self.schedule.wait(now),
            State::Closed { retry_at } => retry_at.saturating_duration_since(now),
        }
    }

    /// Writes one group and answers everybody in it.
    fn commit(&mut self, jobs: Vec<Job>) {
        let Now { mono: began, wall } = self.clock.now();
        let written = self.is_due().then(|| {
            let ledgers = self.ledgers();
            self.using(|database| database.write(jobs.iter().map(|job| &job.work), (&ledgers, wall)))
        });
        let Some(Ok(on_record)) = written else {
            if let Some(Err(fault)) = &written {
                self.failed(fault);
            }
            self.count_dropped(jobs.iter().filter(|job| is_record(job)).count());
            return answer(jobs, std::iter::repeat(Err(Unrecorded::Failing)));
        };
        self.health.commits.fetch_add(1, Ordering::Relaxed);
        let took = self.clock.now().mono.saturating_duration_since(began);
        self.health.durations.observe(took.as_secs_f64());
        self.works();
        let attempts = jobs.iter().filter(|job| matches!(job.work, Work::Attempt(..))).count();
        self.schedule.wrote((attempts, jobs.iter().map(|job| job.work.rows()).sum()));
        let records = || jobs.iter().zip(&on_record).filter(|(job, _)| is_record(job));
        let kept = records().filter(|(_, found)| **found).count();
        self.health.written.fetch_add(u64::try_from(kept).unwrap_or(u64::MAX), Ordering::Relaxed);
        self.count_dropped(records().count() - kept);
        let results =
            on_record.into_iter().map(|found| if found { Ok(()) } else { Err(Unrecorded::NoAttempt) });
        answer(jobs, results);
    }

    /// Between groups: a failing writer tries again, a working one prunes, when it is time.
    fn maintain(&mut self) {
        if let State::Closed { .. } = self.state {
            if self.is_due() {
                match self.using(Database::probe) {
                    Ok(()) => self.works(),
                    Err(fault) => self.failed(&fault),
                }
            }
            return;
        }
        if let State::Open(database) = &mut self.state
            && database.wants_checkpoint()
            && let Err(fault) = self.using(Database::checkpoint)
        {
            return self.failed(&fault);
        }
        let now = self.clock.now();
        if !self.schedule.wait(now.mono).is_zero() {
            return;
        }
        let (settings, mut owed) = (self.settings.clone(), self.schedule.owed());
        let pruned = self.using(|database| {
            // Another process at work is no reason to wait: the next chunk is soon enough.
            database.set_patience(Duration::ZERO)?;
            let more = match prune::prune_owed(&database.connection, &settings, now, &mut owed) {
                Err(fault) if fault.is_busy() => false,
                other => other?,
            };
            database.set_patience(PATIENCE)?;
            Ok(more)
        });
        match pruned.and_then(|more| self.write_sends(Duration::ZERO).map(|()| more)) {
            Ok(more) => self.schedule.pruned(now.mono, (more, owed)),
            Err(fault) => self.failed(&fault),
        }
    }

    /// The sends of each credential; those of one that nobody uses any more are let go once they are written.
    fn ledgers(&self) -> Vec<Arc<Sends>> {
        let mut ledgers = self.ledgers.lock().unwrap_or_else(PoisonError::into_inner);
        ledgers.retain(|sends| Arc::strong_count(sends) > 1 || sends.is_due());
        ledgers.clone()
    }

    /// Writes what was sent and is in no group yet: nothing was recorded for a while. Where another process is at work
    /// for longer than `patience`, it is written later.
    fn write_sends(&mut self, patience: Duration) -> Result<(), Fault> {
        let ledgers = self.ledgers();
        if !ledgers.iter().any(|sends| sends.is_due()) {
            return Ok(());
        }
        let now = self.clock.now().wall;
        self.using(|database| {
            database.set_patience(patience)?;
            match database.write(std::iter::empty(), (&ledgers, now)) {
                Err(fault) if fault.is_busy() => {}
                other => drop(other?),
            }
            database.set_patience(PATIENCE)
        })
    }

    /// Whether the file is open, or it is time to try opening it.
    fn is_due(&self) -> bool {
        match self.state {
            State::Open(_) => true,
            State::Closed { retry_at } => self.clock.now().mono >= retry_at,
        }
    }

    /// Does something with the file, opened if need be; a failure leaves it closed.
    fn using<T>(&mut self, act: impl FnOnce(&mut Database) -> Result<T, Fault>) -> Result<T, Fault> {
        let closed = State::Closed { retry_at: self.clock.now().mono + self.retry };
        let failing = self.health.failing.load(Ordering::Relaxed);
        let patience = if failing { PATIENCE_FAILING } else { PATIENCE };
        let mut database = match mem::replace(&mut self.state, closed) {
            State::Open(database) if database.is_in_place() => database,
            State::Open(moved) => {
                warn!(path = %self.settings.path.display(), "the journal's file was moved or deleted; opening anew");
                drop(moved);
                Database::open(&self.settings, patience)?
            }
            State::Closed { .. } => Database::open(&self.settings, patience)?,
        };
        let done = act(&mut database)?;
        if failing {
            database.set_patience(PATIENCE)?;
        }
        self.state = State::Open(database);
        Ok(done)
    }

    fn failed(&self, fault: &Fault) {
        let (path, cause) = (self.settings.path.display(), fault.chain());
        if self.health.failing.swap(true, Ordering::SeqCst) {
            debug!(%path, cause, "the journal still cannot be written");
        } else {
            error!(%path, cause, to_do = fault.advice(), "the journal cannot be written: requests go unrecorded");
        }
    }

    fn works(&self) {
        if self.health.failing.swap(false, Ordering::SeqCst) {
            let dropped = self.health.dropped.load(Ordering::Relaxed);
            info!(path = %self.settings.path.display(), dropped, "the journal can be written again");
        }
    }

    fn count_dropped(&self, records: usize) {
        self.health.dropped.fetch_add(u64::try_from(records).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    fn end(mut self) {
        if matches!(self.state, State::Open(_))
            && let Err(fault) = self.write_sends(PATIENCE_FAILING)
        {
            debug!(cause = fault.chain(), "the last sends are not written");
        }
        let State::Open(database) = self.state else { return };
        // Whatever fails here, the write-ahead log stays and is taken up at the next start.
        if let Err(fault) = database.set_patience(PATIENCE_FAILING).and_then(|()| database.close()) {
            debug!(cause = fault.chain(), "the journal was closed with its log left to be taken up");
        }
    }
}

/// Whether it is a record, and not a count of sends.
fn is_record(job: &Job) -> bool {
    matches!(job.work, Work::Attempt(..) | Work::Serve(..))
}

/// Nobody waiting any more is fine: the record is kept all the same.
fn answer(jobs: Vec<Job>, results: impl Iterator<Item = Result<(), Unrecorded>>) {
    for (job, result) in jobs.into_iter().zip(results) {
        let _ = job.done.send(result);
    }
}
