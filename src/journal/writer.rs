//! The thread that owns the file: takes what waits, commits it as one group, then answers everybody.
//!
//! There is no timer in front of a commit. A record that finds the thread idle is committed at once;
//! while a commit runs, others gather and become the next group, so that groups grow exactly as far as
//! the disk is slow. A group that could not be written is kept and written again, and what comes meanwhile stays in the
//! queue. Invariant: `failing` is set before anybody hears of the failure, and cleared before anybody hears of success.

use std::mem;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tokio::sync::{Notify, mpsc, oneshot};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};

use super::command::WriterCommand;
use super::database::Database;
use super::fault::{JournalFault, Unrecorded};
use super::health::JournalHealth;
use super::prune::{self, Schedule};
use super::sends::{SendsListener, SendsReader};
use super::settings::Settings;
use crate::clock::Clock;

/// Most commands in one transaction.
const GROUP: usize = 256;
/// Longest wait of a failing writer for the file's lock: those who ask meanwhile wait too.
const PATIENCE_FAILING: Duration = Duration::from_millis(100);
/// A failing writer tries again this often, with traffic or without.
pub(super) const RETRY: Duration = Duration::from_secs(1);

/// Time between two updates of the file's statistics.
const OPTIMIZE: Duration = Duration::from_hours(1);

/// A command and the one who waits for it.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) command: WriterCommand,
    pub(super) done: Option<oneshot::Sender<Result<(), Unrecorded>>>,
}

/// The state that the thread and the handles share.
#[derive(Debug, Clone, Default)]
pub(super) struct WriterContext {
    pub(super) health: Arc<JournalHealth>,
    pub(super) sends: Arc<SendsListener>,
    /// Told when records are committed.
    pub(super) noted: Arc<Notify>,
    /// Asks the thread to write what is queued and to end.
    pub(super) close: CancellationToken,
}

/// The file is either open and good, or to be opened again.
#[derive(Debug)]
enum FileState {
    Open(Database),
    Closed { retry_at: Instant },
}

/// The thread's own state.
#[derive(Debug)]
pub(super) struct Writer {
    settings: Settings,
    clock: Clock,
    retry: Duration,
    shared: WriterContext,
    state: FileState,
    /// Taken off the queue, and not written yet.
    group: Vec<Job>,
    schedule: Schedule,
    optimize_at: Instant,
    sends: SendsReader,
}

impl Writer {
    pub(super) fn new(settings: Settings, clock: Clock, retry: Duration, shared: WriterContext) -> Self {
        let now = clock.now().mono;
        let (state, schedule) = (FileState::Closed { retry_at: now }, Schedule::new(now));
        let sends = SendsReader::default();
        Self { settings, clock, retry, shared, state, group: Vec::new(), schedule, optimize_at: now, sends }
    }

    /// Serves until asked to close, or until every handle is gone.
    pub(super) async fn run(mut self, queue: &mut mpsc::Receiver<Job>) {
        self.maintain();
        let close = self.shared.close.clone();
        loop {
            let is_closing = close.is_cancelled();
            if is_closing {
                queue.close();
            }
            let wait = if is_closing { Duration::ZERO } else { self.wait() };
            // One group at a time: what waits behind it in the queue is bounded.
            let has_room = self.group.is_empty();
            let taking = async {
                if has_room {
                    queue.recv_many(&mut self.group, GROUP).await
                } else {
                    std::future::pending().await
                }
            };
            // A wait of zero still takes what is there first: maintenance never overtakes records.
            let taken = tokio::select! {
                () = close.cancelled(), if !is_closing => continue,
                taken = timeout(wait, taking) => taken,
            };
            if taken == Ok(0) {
                break;
            }
            if !self.group.is_empty() && (is_closing || self.is_due()) {
                self.commit();
            } else {
                self.keep();
            }
            if is_closing && !self.group.is_empty() {
                // That was the last try.
                break;
            }
            self.maintain();
        }
        self.end(queue);
    }

    /// Longest wait for records, until there is something else to do.
    fn wait(&self) -> Duration {
        let now = self.clock.now().mono;
        match self.state {
            FileState::Open(_) => self.schedule.wait(now),
            FileState::Closed { retry_at } => retry_at.saturating_duration_since(now),
        }
    }

    /// Writes the group and answers everybody in it.
    fn commit(&mut self) {
        let mut group = mem::take(&mut self.group);
        // Who did not wait for its record any more has been sent without, or will not be.
        let is_for_somebody =
            |job: &Job| matches!(job.command, WriterCommand::Reserve(..) | WriterCommand::Named(_));
        group.retain(|job| !is_for_somebody(job) || job.is_awaited());
        let records = group.iter().filter(|job| job.command.is_record()).count();
        self.shared.health.in_hand.store(records, Ordering::Relaxed);
        let began = self.clock.now().mono;
        let (clock, shared) = (self.clock.clone(), self.shared.clone());
        let mut sends = mem::take(&mut self.sends);
        let commands = group.iter().map(|job| &job.command);
        let written = self.using(|database| database.write(commands, &clock, &mut sends, &shared.sends));
        self.sends = sends;
        match written {
            Ok(on_record) => {
                let took = self.clock.now().mono.saturating_duration_since(began);
                self.shared.health.durations.observe(took.as_secs_f64());
                self.written(group, &on_record);
            }
            Err(fault) => {
                self.group = group;
                self.failed(&fault);
                if fault.is_in_the_data() {
                    self.give_up(&fault);
                }
                self.keep();
            }
        }
    }

    /// Answers everybody in a group that is committed; `on_record` says whose attempt is on record.
    fn written(&mut self, group: Vec<Job>, on_record: &[bool]) {
        self.works();
        if group.iter().any(|job| !matches!(job.command, WriterCommand::Shipped(_))) {
            self.shared.noted.notify_one();
        }
        let attempts = group
            .iter()
            .filter(|job| matches!(job.command, WriterCommand::Attempt(..) | WriterCommand::Transfer(_)))
            .count();
        self.schedule.wrote(attempts, group.iter().map(|job| job.command.rows()).sum());
        let health = &self.shared.health;
        health.commits.fetch_add(1, Ordering::Relaxed);
        health.in_hand.store(0, Ordering::Relaxed);
        for (mut job, found) in group.into_iter().zip(on_record) {
            if job.command.rows() > 0 {
                let count = if *found { &health.written } else { &health.dropped };
                count.fetch_add(1, Ordering::Relaxed);
            }
            job.answer(if *found { Ok(()) } else { Err(Unrecorded::NoAttempt) });
        }
    }

    /// Keeps the records of the group for the next try, and tells everybody who waits.
    fn keep(&mut self) {
        for job in &mut self.group {
            job.answer(Err(Unrecorded::Failing));
        }
        self.group.retain(|job| job.command.is_record());
        self.shared.health.in_hand.store(self.group.len(), Ordering::Relaxed);
    }

    /// Drops records that SQLite refuses for what they are: they would be in the way for ever.
    fn give_up(&mut self, fault: &JournalFault) {
        self.keep();
        error!(
            records = self.group.len(),
            cause = fault.error_text(),
            "journal records rejected by SQLite and dropped; please report this"
        );
        self.drop_records(self.group.len());
        self.group.clear();
    }

    /// Between groups: a failing writer tries again, a working one prunes, when it is time.
    fn maintain(&mut self) {
        if matches!(self.state, FileState::Closed { .. }) || self.shared.health.is_failing() {
            // What is kept is the next try.
            if self.group.is_empty() && self.is_due() {
                match self.using(Database::probe) {
                    Ok(()) => self.works(),
                    Err(fault) => self.failed(&fault),
                }
            }
            return;
        }
        if let FileState::Open(database) = &mut self.state
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
        let patience = self.patience();
        let is_old = now.mono >= self.optimize_at;
        if is_old {
            self.optimize_at = now.mono + OPTIMIZE;
        }
        let pruned = self.using(|database| {
            // Another process at work is no reason to wait: the next chunk is soon enough.
            database.set_patience(Duration::ZERO)?;
            let done = prune::prune_owed(&database.connection, &settings, now, &mut owed)
                .and_then(|more| if is_old { database.optimize().map(|()| more) } else { Ok(more) });
            let more = match done {
                Err(fault) if fault.is_busy() => false,
                other => other?,
            };
            database.set_patience(patience)?;
            Ok(more)
        });
        match pruned {
            Ok(more) => self.schedule.pruned(now.mono, more, owed),
            Err(fault) => self.failed(&fault),
        }
    }

    /// True if the file is open, or it is time to try opening it.
    fn is_due(&self) -> bool {
        match self.state {
            FileState::Open(_) => true,
            FileState::Closed { retry_at } => self.clock.now().mono >= retry_at,
        }
    }

    /// Does something with the file, opened if need be; a failure leaves it closed.
    fn using<T>(
        &mut self,
        act: impl FnOnce(&mut Database) -> Result<T, JournalFault>,
    ) -> Result<T, JournalFault> {
        let closed = FileState::Closed { retry_at: self.clock.now().mono + self.retry };
        let (health, usual) = (Arc::clone(&self.shared.health), self.patience());
        let failing = health.is_failing();
        let patience = if failing { PATIENCE_FAILING } else { usual };
        let mut database = match mem::replace(&mut self.state, closed) {
            FileState::Open(database) if database.is_in_place() => database,
            FileState::Open(moved) => {
                warn!(path = %self.settings.path.display(), "journal file moved or deleted; opening a new one");
                drop(moved);
                Database::open(&self.settings, patience, &health)?
            }
            FileState::Closed { .. } => Database::open(&self.settings, patience, &health)?,
        };
        let done = act(&mut database)?;
        if failing {
            database.set_patience(usual)?;
        }
        self.state = FileState::Open(database);
        Ok(done)
    }

    /// Longest wait of a healthy writer for the file's lock. It ends before `journal.max_wait`, so that the reason is known then.
    fn patience(&self) -> Duration {
        self.settings.max_wait * 4 / 5
    }

    fn failed(&self, fault: &JournalFault) {
        let (path, cause) = (self.settings.path.display(), fault.error_text());
        if self.shared.health.fails() {
            error!(%path, cause, to_do = fault.advice(), "journal write failed; keeping records in memory");
        } else {
            debug!(%path, cause, "journal write failed again");
        }
    }

    fn works(&self) {
        if self.shared.health.works() {
            let (path, dropped) =
                (self.settings.path.display(), self.shared.health.dropped.load(Ordering::Relaxed));
            if dropped > 0 {
                warn!(%path, dropped, "journal writable again; records were lost meanwhile");
            } else {
                info!(%path, "journal writable again");
            }
        }
    }

    fn drop_records(&self, records: usize) {
        self.shared.health.dropped.fetch_add(records as u64, Ordering::Relaxed);
    }

    fn end(mut self, queue: &mut mpsc::Receiver<Job>) {
        while let Ok(job) = queue.try_recv() {
            self.group.push(job);
        }
        let lost = self.group.iter().filter(|job| job.command.is_record()).count();
        if lost > 0 {
            error!(path = %self.settings.path.display(), records = lost, "journal closed while it cannot be written; records are lost");
            self.drop_records(lost);
            self.shared.health.in_hand.store(0, Ordering::Relaxed);
        }
        let FileState::Open(database) = self.state else { return };
        // Whatever fails here, the write-ahead log stays and is taken up at the next start.
        if let Err(fault) = database.set_patience(PATIENCE_FAILING).and_then(|()| database.close()) {
            debug!(cause = fault.error_text(), "journal closed without a checkpoint; the next start does it");
        }
    }
}

impl Job {
    /// True if somebody waits for it.
    fn is_awaited(&self) -> bool {
        self.done.as_ref().is_some_and(|done| !done.is_closed())
    }

    /// Tells whoever waits. That nobody does any more is fine: the record is kept all the same.
    fn answer(&mut self, result: Result<(), Unrecorded>) {
        if let Some(done) = self.done.take() {
            let _ = done.send(result);
        }
    }
}
