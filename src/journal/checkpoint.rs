//! Moving the write-ahead log into the file, on a thread of its own: that writes much and waits for the disk, and a
//! record that is to be committed meanwhile must not wait with it.
//!
//! The log is begun anew at a commit where all of it was moved and nobody reads it. What is committed while the thread
//! moves the log is not moved with it, so where commits follow one another without a pause, that does not come about.
//! From [`MOST_PAGES`] on the thread that commits moves the log itself, before the next commit, and the other one is
//! not told to any more. SQLite lets one connection at a time do it and tells a second one that it did nothing: the
//! two threads wait for each other, and what another process was in the way of is tried again after the next commit.

use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};

use rusqlite::hooks::Wal;
use rusqlite::{Connection, OpenFlags};
use tracing::{debug, info, warn};

use super::fault::JournalFault;
use super::health::JournalHealth;
use super::schema;

/// Pages of write-ahead log after which they are moved into the file, and after as many more again.
const PAGES: u32 = 1_000;
/// Pages after which the thread that commits does it: 8 MiB. The file is synced only where all of the log was moved, so
/// the longer the log, the longer that takes.
const MOST_PAGES: u32 = 2_048;
/// Pages after which a reader that keeps them is worth a word: 16 MiB, which no search of ours takes long enough for.
const HELD_PAGES: u32 = 4_096;

/// The checkpoints of one open file.
#[derive(Debug)]
pub(super) struct Checkpoints {
    health: Arc<JournalHealth>,
    /// Length of the log, in pages, at which the thread does its next checkpoint.
    next: u32,
    /// Length at which the committing thread does it. It grows while a reader keeps the log from being moved.
    own: u32,
    /// Wakes the thread.
    wanted: Option<SyncSender<()>>,
    thread: Option<JoinHandle<()>>,
    /// Held by the one of the two threads that moves the log.
    moving: Arc<Mutex<()>>,
}

impl Checkpoints {
    /// Takes over from SQLite what follows the commits of `connection`, which has the file at `path` open.
    pub(super) fn of(
        connection: &mut Connection,
        path: &Path,
        health: &Arc<JournalHealth>,
    ) -> Result<Self, JournalFault> {
        let seen = Arc::clone(&health.log_pages);
        connection.wal_hook(Some(move |_: &mut Wal, pages| {
            seen.store(u32::try_from(pages).unwrap_or(0), Ordering::Relaxed);
            Ok(())
        }))?;
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let second = Connection::open_with_flags(path, flags)?;
        // This reads the file, without which it is not known to have a log.
        schema::check(&second)?;
        let (wanted, waits) = sync_channel(1);
        let moving = Arc::new(Mutex::new(()));
        let held = Arc::clone(&moving);
        let thread =
            thread::Builder::new().name("checkpoint".to_owned()).spawn(move || run(&second, &waits, &held));
        // Without the thread, the log grows until the one that commits does it.
        let thread = thread.inspect_err(|error| debug!(%error, "journal checkpoint thread not started")).ok();
        let health = Arc::clone(health);
        Ok(Self { health, next: PAGES, own: MOST_PAGES, wanted: Some(wanted), thread, moving })
    }

    /// Has the log moved where it is long; `true` where the caller must do it ([`Checkpoints::here`]).
    pub(super) fn are_due(&mut self) -> bool {
        let pages = self.health.log_pages.load(Ordering::Relaxed);
        if pages < PAGES {
            (self.next, self.own) = (PAGES, MOST_PAGES);
            self.is_held_open(false);
            return false;
        }
        if pages >= MOST_PAGES {
            return pages >= self.own;
        }
        if pages >= self.next {
            self.next = pages + PAGES;
            if let Some(wanted) = &self.wanted {
                // One that is under way is enough.
                let _ = wanted.try_send(());
            }
        }
        false
    }

    /// Moves the log here, through the connection that commits.
    pub(super) fn here(&mut self, connection: &Connection) -> rusqlite::Result<()> {
        let _moving = self.moving.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(left) = checkpoint(connection)? {
            // What is left is kept by a reader, for a while.
            let pages = self.health.log_pages.load(Ordering::Relaxed);
            self.own = pages + PAGES;
            if left > 0 && pages >= HELD_PAGES {
                self.is_held_open(true);
            }
        }
        Ok(())
    }

    /// Notes whether a reader keeps the log, and logs it where that is news.
    fn is_held_open(&self, is_held: bool) {
        if self.health.is_held_open.swap(is_held, Ordering::Relaxed) == is_held {
            return;
        }
        if is_held {
            warn!(
                log.bytes = self.health.log_bytes(),
                to_do = "end the program that reads it (sqlite3 with a pager, a backup that stands still)",
                "journal checkpoint blocked: a program keeps reading the journal, and the write-ahead log grows until it ends"
            );
        } else {
            info!("journal checkpoint done: no program blocks it any more");
        }
    }

    /// Ends the thread.
    pub(super) fn end(mut self) {
        self.wanted = None;
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

/// Moves as much of the log as can be moved without waiting for anybody, and returns how many pages are left; nothing
/// where another connection is at it.
fn checkpoint(connection: &Connection) -> rusqlite::Result<Option<i64>> {
    connection.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |row| {
        let (is_busy, all, moved): (bool, i64, i64) = (row.get(0)?, row.get(1)?, row.get(2)?);
        Ok((!is_busy).then_some(all - moved))
    })
}

fn run(connection: &Connection, wanted: &Receiver<()>, moving: &Mutex<()>) {
    while wanted.recv().is_ok() {
        let _moving = moving.lock().unwrap_or_else(PoisonError::into_inner);
        // What keeps failing shows when the thread that commits does it.
        if let Err(error) = checkpoint(connection) {
            debug!(%error, "journal checkpoint failed");
        }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use std::sync::Barrier;

    use tempfile::TempDir;

    use super::*;

    /// An open file that takes half a MiB with each commit, and what moves its log.
    fn open(dir: &TempDir) -> (Connection, Checkpoints) {
        let path = dir.path().join("journal.db");
        let mut connection = Connection::open(&path).unwrap();
        connection.pragma_update(None, "journal_mode", "WAL").unwrap();
        schema::create(&mut connection).unwrap();
        connection.execute_batch("CREATE TABLE filling (piece BLOB)").unwrap();
        let checkpoints = Checkpoints::of(&mut connection, &path, &Arc::default()).unwrap();
        (connection, checkpoints)
    }

    fn commit(connection: &Connection) {
        connection.execute("INSERT INTO filling VALUES (zeroblob(524288))", []).unwrap();
    }

    /// Commits and does what the committing thread does after it; how long the log was then.
    fn commit_and_look(connection: &Connection, checkpoints: &mut Checkpoints) -> u32 {
        commit(connection);
        let pages = checkpoints.health.log_pages.load(Ordering::Relaxed);
        if checkpoints.are_due() {
            checkpoints.here(connection).unwrap();
        }
        pages
    }

    #[test]
    fn the_thread_that_commits_bounds_the_log_whatever_the_other_one_does() {
        for has_thread in [false, true] {
            let dir = TempDir::new().unwrap();
            let (connection, mut checkpoints) = open(&dir);
            if !has_thread {
                checkpoints.wanted = None;
            }
            let longest = (0..200).map(|_| commit_and_look(&connection, &mut checkpoints)).max();
            assert!(longest < Some(MOST_PAGES + 200), "{longest:?}");
            checkpoints.end();
        }
    }

    static AT_IT: Barrier = Barrier::new(2);
    static LET_GO: Barrier = Barrier::new(2);

    #[test]
    fn what_another_connection_was_in_the_way_of_is_done_later() {
        let dir = TempDir::new().unwrap();
        let (connection, mut checkpoints) = open(&dir);
        checkpoints.wanted = None;
        // A full one takes the lock of those that move the log, and waits here for who is writing.
        let mut other = Connection::open(dir.path().join("journal.db")).unwrap();
        other.query_row("SELECT count(*) FROM attempts", [], |_| Ok(())).unwrap();
        let wait = |_| {
            AT_IT.wait();
            LET_GO.wait();
            false
        };
        other.busy_handler(Some(wait)).unwrap();
        connection.execute_batch("BEGIN IMMEDIATE").unwrap();
        let other =
            thread::spawn(move || other.query_row("PRAGMA wal_checkpoint(FULL)", [], |_| Ok(())).unwrap());
        AT_IT.wait();
        connection.execute_batch("COMMIT").unwrap();
        (0..20).for_each(|_| commit(&connection));
        assert!(checkpoints.are_due());
        checkpoints.here(&connection).unwrap();
        assert!(checkpoints.are_due(), "nothing was moved");
        LET_GO.wait();
        other.join().unwrap();
        checkpoints.here(&connection).unwrap();
        assert!(!checkpoints.are_due());
        assert!(commit_and_look(&connection, &mut checkpoints) < PAGES, "begun anew");
    }
}
