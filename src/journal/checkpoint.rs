//! Moving the write-ahead log into the file, on a thread of its own: that writes much and waits for the disk, and a
//! record that is to be committed meanwhile must not wait with it.
//!
//! The log is begun anew where all of it was moved and nobody reads it. Where that does not come about (commits follow
//! one another without a pause), the log grows to [`MOST_PAGES`], and the thread that commits moves the rest itself.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{self, JoinHandle};

use rusqlite::hooks::Wal;
use rusqlite::{Connection, OpenFlags};
use tracing::debug;

use super::fault::Fault;
use super::schema;

/// Pages of write-ahead log after which they are moved into the file, and after as many more again.
const PAGES: u32 = 1_000;
/// Pages after which the thread that commits does it: 8 MiB. The file is synced only where all of the log was moved, so
/// the longer the log, the longer that takes.
const MOST_PAGES: u32 = 2_048;

/// What moves the log of one open file.
#[derive(Debug)]
pub(super) struct Checkpoints {
    /// How long the log is, as of the last commit.
    pages: Arc<AtomicU32>,
    /// How many pages it has when the thread is told next.
    next: u32,
    /// From how many pages on the thread that commits does it: a reader may keep the log as it is.
    own: u32,
    /// Tells the thread to.
    wanted: Option<SyncSender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Checkpoints {
    /// Takes over from SQLite what follows the commits of `connection`, which has the file at `path` open.
    pub(super) fn of(connection: &mut Connection, path: &Path) -> Result<Self, Fault> {
        let pages = Arc::new(AtomicU32::new(0));
        let seen = Arc::clone(&pages);
        connection.wal_hook(Some(move |_: &mut Wal, pages| {
            seen.store(u32::try_from(pages).unwrap_or(0), Ordering::Relaxed);
            Ok(())
        }))?;
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let second = Connection::open_with_flags(path, flags)?;
        // This reads the file, without which it is not known to have a log.
        schema::check(&second)?;
        let (wanted, waits) = sync_channel(1);
        let thread = thread::Builder::new().name("checkpoint".to_owned()).spawn(move || run(&second, &waits));
        // Without the thread, the log grows until the one that commits does it.
        let thread = thread.inspect_err(|error| debug!(%error, "no thread for the journal's log")).ok();
        Ok(Self { pages, next: PAGES, own: MOST_PAGES, wanted: Some(wanted), thread })
    }

    /// Has the log moved where it is long; `true` where the caller must do it.
    pub(super) fn are_due(&mut self) -> bool {
        let pages = self.pages.load(Ordering::Relaxed);
        if pages < PAGES {
            (self.next, self.own) = (PAGES, MOST_PAGES);
            return false;
        }
        if pages >= self.own {
            self.own = pages + PAGES;
            return true;
        }
        if pages < self.next {
            return false;
        }
        self.next = pages + PAGES;
        if let Some(wanted) = &self.wanted {
            // One that is under way is enough.
            let _ = wanted.try_send(());
        }
        false
    }

    /// Ends the thread.
    pub(super) fn end(mut self) {
        self.wanted = None;
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

/// Moves as much of the log as can be moved without waiting for anybody.
pub(super) fn checkpoint(connection: &Connection) -> rusqlite::Result<()> {
    connection.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(()))
}

fn run(connection: &Connection, wanted: &Receiver<()>) {
    while wanted.recv().is_ok() {
        // What keeps failing shows when the thread that commits does it.
        if let Err(error) = checkpoint(connection) {
            debug!(%error, "the journal's log could not be moved into its file");
        }
    }
}
