//! The open file: making it, and writing one group of records in one transaction.
//!
//! Invariant: what [`Database::write`] returned `Ok` for is committed. The file is readable by its owner
//! alone (0600, new directories 0700), for it names clients and what they asked for.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, SystemTime};

use rusqlite::{Connection, OpenFlags, OptionalExtension, Transaction, TransactionBehavior, named_params};
use uuid::Uuid;

use super::fault::Fault;
use super::record::{Attempt, Served};
use super::schema;
use super::sends::{Sends, Spend};
use super::settings::{Durability, Settings};

/// Longest text that is stored, in characters: an upstream cannot fill the disk through a header.
const TEXT_LIMIT: usize = 256;
/// The write-ahead log is cut back to this size after a checkpoint.
const LOG_LIMIT_BYTES: i64 = 16 * 1024 * 1024;
/// Pages of write-ahead log after which SQLite moves them into the file.
const CHECKPOINT_PAGES: i64 = 1_000;
/// How often entering WAL mode is tried, 20 ms apart: SQLite does not wait by itself there.
const WAL_TRIES: u32 = 50;

/// One thing to write.
#[derive(Debug)]
pub(super) enum Work {
    /// An attempt and whom it answered.
    Attempt(Box<Attempt>, Vec<Served>),
    /// Whom an attempt that is on record answered later.
    Serve(Uuid, Vec<Served>),
    /// What is about to be sent with a credential.
    Spend(Arc<Sends>, Spend),
}

/// An open journal file.
#[derive(Debug)]
pub(super) struct Database {
    pub(super) connection: Connection,
    path: PathBuf,
    identity: Option<Identity>,
}

impl Database {
    /// Opens the file, making and migrating it if needed. `patience` bounds the wait for its lock.
    pub(super) fn open(settings: &Settings, patience: Duration) -> Result<Self, Fault> {
        let path = settings.path.clone();
        create(&path)?;
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let mut connection = Connection::open_with_flags(&path, flags)?;
        connection.busy_timeout(patience)?;
        schema::check(&connection)?;
        enter_wal(&connection)?;
        let synchronous = match settings.durability {
            Durability::Process => "NORMAL",
            Durability::Power => "FULL",
        };
        connection.pragma_update(None, "synchronous", synchronous)?;
        connection.pragma_update(None, "wal_autocheckpoint", CHECKPOINT_PAGES)?;
        connection.pragma_update(None, "journal_size_limit", LOG_LIMIT_BYTES)?;
        schema::migrate(&mut connection)?;
        let identity = identity(&path);
        Ok(Self { connection, path, identity })
    }

    /// Bounds the wait for the file's lock from now on.
    pub(super) fn set_patience(&self, patience: Duration) -> Result<(), Fault> {
        Ok(self.connection.busy_timeout(patience)?)
    }

    /// Whether the path still leads to the open file; writing to one that was deleted would keep nothing.
    pub(super) fn is_in_place(&self) -> bool {
        identity(&self.path) == self.identity
    }

    /// Writes a group in one transaction. For each piece of work: whether its attempt is on record.
    pub(super) fn write<'a>(&mut self, works: impl Iterator<Item = &'a Work>) -> Result<Vec<bool>, Fault> {
        let transaction = self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let mut on_record = Vec::new();
        for work in works {
            let (attempt, served) = match work {
                Work::Attempt(attempt, served) => {
                    insert_attempt(&transaction, attempt)?;
                    (attempt.id, served)
                }
                Work::Serve(attempt, served) => (*attempt, served),
                Work::Spend(sends, spend) => {
                    sends.spend(&transaction, spend)?;
                    on_record.push(true);
                    continue;
                }
            };
            on_record.push(insert_served(&transaction, attempt, served)?);
        }
        transaction.commit()?;
        Ok(on_record)
    }

    /// Sees whether the file can be written.
    pub(super) fn probe(&mut self) -> Result<(), Fault> {
        Ok(schema::touch(&mut self.connection)?)
    }

    /// Moves the write-ahead log into the file and closes it.
    pub(super) fn close(self) -> Result<(), Fault> {
        self.connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))?;
        self.connection.close().map_err(|(_, error)| Fault::from(error))
    }
}

/// Records an attempt; recording the same attempt again changes nothing.
fn insert_attempt(transaction: &Transaction<'_>, attempt: &Attempt) -> rusqlite::Result<()> {
    let mut insert = transaction.prepare_cached(
        "INSERT INTO attempts (id, started_ms, latency_us, upstream, credential, request_id, client, sent_id,
            received_id, scope_kind, scope_id, export_id, operation, method, status, export_status, bytes,
            version_requested, version_served, lifecycle, deprecation, sunset, error, try, queued_us, waited_for)
         VALUES (:id, :started, :latency, :upstream, :credential, :request, :client, :sent,
            :received, :scope_kind, :scope, :export, :operation, :method, :status, :export_status, :bytes,
            :version_requested, :version_served, :lifecycle, :deprecation, :sunset, :error, :try, :queued, :waited_for)
         ON CONFLICT (id) DO NOTHING",
    )?;
    insert.execute(named_params! {
        ":id": attempt.id.to_string(),
        ":started": unix_ms(attempt.started),
        ":latency": i64::try_from(attempt.latency.as_micros()).unwrap_or(i64::MAX),
        ":upstream": capped(&attempt.upstream),
        ":credential": capped(&attempt.credential),
        ":request": attempt.request.to_string(),
        ":client": capped(&attempt.client),
        ":sent": attempt.sent_id.to_string(),
        ":received": attempt.received_id.as_deref().map(capped),
        ":scope_kind": attempt.scope_kind,
        ":scope": attempt.scope_id.as_deref().map(capped),
        ":export": attempt.export_id.as_deref().map(capped),
        ":operation": attempt.operation,
        ":method": capped(&attempt.method),
        ":status": attempt.status,
        ":export_status": attempt.export_status.as_deref().map(capped),
        ":bytes": attempt.bytes.map(|bytes| i64::try_from(bytes).unwrap_or(i64::MAX)),
        ":version_requested": attempt.version_requested.as_deref().map(capped),
        ":version_served": attempt.version_served.as_deref().map(capped),
        ":lifecycle": attempt.lifecycle.as_deref().map(capped),
        ":deprecation": attempt.deprecation.as_deref().map(capped),
        ":sunset": attempt.sunset.as_deref().map(capped),
        ":error": attempt.error,
        ":try": attempt.number,
        ":queued": i64::try_from(attempt.queued.as_micros()).unwrap_or(i64::MAX),
        ":waited_for": attempt.waited_for,
    })?;
    Ok(())
}

/// Records whom an attempt answered; `false` when that attempt is not on record.
fn insert_served(transaction: &Transaction<'_>, attempt: Uuid, served: &[Served]) -> rusqlite::Result<bool> {
    let mut find = transaction.prepare_cached("SELECT seq, started_ms FROM attempts WHERE id = ?1")?;
    let found =
        find.query_row([attempt.to_string()], |row| Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?)));
    let Some((seq, started_ms)) = found.optional()? else { return Ok(false) };
    let mut insert = transaction.prepare_cached(
        "INSERT INTO served (attempt, request_id, client, started_ms) VALUES (?1, ?2, ?3, ?4)
         ON CONFLICT DO NOTHING",
    )?;
    for one in served {
        insert.execute((seq, one.request.to_string(), capped(&one.client), started_ms))?;
    }
    Ok(true)
}

/// Milliseconds since 1970, negative before it.
pub(super) fn unix_ms(time: SystemTime) -> i64 {
    let ms = |span: Duration| i64::try_from(span.as_millis()).unwrap_or(i64::MAX);
    match time.duration_since(SystemTime::UNIX_EPOCH) {
        Ok(after) => ms(after),
        Err(before) => -ms(before.duration()),
    }
}

fn capped(text: &str) -> &str {
    text.char_indices().nth(TEXT_LIMIT).map_or(text, |(end, _)| &text[..end])
}

/// Two processes that make the same file at the same time collide here, for moments.
fn enter_wal(connection: &Connection) -> Result<(), Fault> {
    let mut tries = 1;
    loop {
        let entered = connection.pragma_update(None, "journal_mode", "WAL").map_err(Fault::from);
        match entered {
            Err(fault) if fault.is_busy() && tries < WAL_TRIES => {
                tries += 1;
                thread::sleep(Duration::from_millis(20));
            }
            other => return other,
        }
    }
}

/// Makes the file and the directories above it, for the owner alone; leaves what exists as it is.
fn create(path: &Path) -> Result<(), Fault> {
    if let Some(directory) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        create_directory(directory).map_err(|error| Fault::Directory(directory.to_owned(), error))?;
    }
    match create_file(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        other => other.map(drop).map_err(Fault::File),
    }
}

#[cfg(unix)]
fn create_directory(path: &Path) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path)
}

#[cfg(not(unix))]
fn create_directory(path: &Path) -> io::Result<()> {
    fs::create_dir_all(path)
}

#[cfg(unix)]
fn create_file(path: &Path) -> io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt;
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)
}

#[cfg(not(unix))]
fn create_file(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create_new(true).open(path)
}

/// Device and inode: tells a file from another one at the same path.
type Identity = (u64, u64);

#[cfg(unix)]
fn identity(path: &Path) -> Option<Identity> {
    use std::os::unix::fs::MetadataExt;
    fs::metadata(path).ok().map(|found| (found.dev(), found.ino()))
}

#[cfg(not(unix))]
fn identity(path: &Path) -> Option<Identity> {
    path.exists().then_some((0, 0))
}
