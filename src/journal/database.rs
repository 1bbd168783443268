//! The open journal: one group of records is one transaction.
//!
//! Invariant: what [`Database::write`] returned `Ok` for is committed.

use std::path::PathBuf;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, SystemTime};

use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags, OptionalExtension, params};

use uuid::Uuid;
use uuid::fmt::Hyphenated;

use super::checkpoint::Checkpoints;
use super::command::WriterCommand;
use super::fault::JournalFault;
use super::file::{self, Identity};
use super::health::JournalHealth;
use super::record::{Attempt, Served, capped, unix_ms};
use super::schema;
use super::sends::{self, SendsListener, SendsReader};
use super::settings::{Durability, Settings};
use super::ship::outbox;
use super::starts;
use super::transfer;
use crate::clock::Clock;

/// The write-ahead log is cut back to this size after a checkpoint.
const LOG_LIMIT_BYTES: i64 = 16 * 1024 * 1024;
/// Statements that are kept prepared: more than there are.
const STATEMENTS: usize = 32;
/// Most tries to enter WAL mode, 20 ms apart: SQLite does not wait by itself there.
const WAL_TRIES: u32 = 50;

/// An open journal file.
#[derive(Debug)]
pub(super) struct Database {
    pub(super) connection: Connection,
    path: PathBuf,
    identity: Option<Identity>,
    checkpoints: Box<Checkpoints>,
}

impl Database {
    /// Opens the file, making it if needed. `patience` bounds the wait for its lock.
    pub(super) fn open(
        settings: &Settings,
        patience: Duration,
        health: &Arc<JournalHealth>,
    ) -> Result<Self, JournalFault> {
        let path = settings.path.clone();
        file::create(&path)?;
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
        // Plans do not depend on the values that are bound: without this, a new value has a statement prepared anew.
        connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
        connection.set_prepared_statement_cache_capacity(STATEMENTS);
        connection.pragma_update(None, "journal_size_limit", LOG_LIMIT_BYTES)?;
        schema::create(&mut connection)?;
        if settings.ship.is_some() {
            outbox::follow(&connection)?;
        }
        let checkpoints = Box::new(Checkpoints::of(&mut connection, &path, health)?);
        let identity = file::identity(&path);
        Ok(Self { connection, path, identity, checkpoints })
    }

    /// Updates the statistics by which searches choose their index, from a sample of rows.
    pub(super) fn optimize(&self) -> Result<(), JournalFault> {
        Ok(self.connection.execute_batch("PRAGMA analysis_limit = 1000; PRAGMA optimize = 0x10002")?)
    }

    /// Bounds the wait for the file's lock from now on.
    pub(super) fn set_patience(&self, patience: Duration) -> Result<(), JournalFault> {
        Ok(self.connection.busy_timeout(patience)?)
    }

    /// True if the path still leads to the open file. Records in a deleted file would be lost.
    pub(super) fn is_in_place(&self) -> bool {
        file::identity(&self.path) == self.identity
    }

    /// Writes a group in one transaction, after reading what others sent meanwhile. For each piece of work: `true` if its
    /// attempt is on record.
    pub(super) fn write<'a>(
        &mut self,
        commands: impl Iterator<Item = &'a WriterCommand>,
        clock: &Clock,
        sends: &mut SendsReader,
        listener: &SendsListener,
    ) -> Result<Vec<bool>, JournalFault> {
        let connection = &self.connection;
        let group = Group::begin(connection)?;
        // The wait for the file's lock is over: from here on nobody else writes.
        let now = clock.now();
        let (mut on_record, mut has_read) = (Vec::new(), false);
        // Read the sends of others first: after our insert, the rows beyond the last known one include ours.
        let mut read = |sends: &mut SendsReader| {
            if std::mem::replace(&mut has_read, true) {
                return Ok(());
            }
            sends.read(connection, self.identity, now.wall, listener)
        };
        for command in commands {
            on_record.push(match command {
                WriterCommand::Attempt(attempt, served) => {
                    let is_answered = served.iter().any(|one| one.request == attempt.request);
                    // Its reservation inserted it, unless the journal did not work then.
                    if !complete(connection, attempt, is_answered)? {
                        read(sends)?;
                        insert(connection, attempt, attempt.started, is_answered)?;
                    }
                    starts::note(connection, attempt, now.wall)?;
                    // The ids are our own, one for each request, so an equal one is the same client's.
                    let others = || served.iter().filter(|one| one.request != attempt.request);
                    others().next().is_none() || insert_served(connection, attempt.id, others())?
                }
                WriterCommand::Serve(attempt, served) => insert_served(connection, *attempt, served.iter())?,
                WriterCommand::Reserve(attempt, confirm) => {
                    read(sends)?;
                    let may_be_sent = (confirm.0)(now);
                    if may_be_sent {
                        insert(connection, attempt, now.wall, false)?;
                    }
                    may_be_sent
                }
                WriterCommand::Named(job) => job.run(connection, now.wall).map(|()| true)?,
                WriterCommand::Look => read(sends).map(|()| true)?,
                WriterCommand::Start(command) => command.run(connection, now.wall).map(|()| true)?,
                WriterCommand::Transfer(transfer) => {
                    transfer::insert(connection, transfer)?;
                    true
                }
                WriterCommand::Shipped(last) => outbox::forget(connection, *last).map(|()| true)?,
                WriterCommand::Withdraw(attempt) => {
                    let mut withdraw = connection.prepare_cached(
                        "UPDATE attempts SET error = 'not_sent' WHERE id = ?1 AND status IS NULL AND error IS NULL",
                    )?;
                    withdraw.execute([Text::of(*attempt).as_str()])? > 0
                }
            });
        }
        let newest = if has_read { Some(sends::newest(connection)?) } else { None };
        group.commit()?;
        if let Some(newest) = newest {
            sends.committed(newest);
        }
        Ok(on_record)
    }

    /// Fails if the file cannot be written.
    pub(super) fn probe(&mut self) -> Result<(), JournalFault> {
        Ok(schema::touch(&mut self.connection)?)
    }

    /// True if the caller must move the write-ahead log into the file. A shorter log is left to the other thread.
    pub(super) fn wants_checkpoint(&mut self) -> bool {
        self.checkpoints.are_due()
    }

    /// Moves the write-ahead log into the file, as far as nobody reads it.
    pub(super) fn checkpoint(&mut self) -> Result<(), JournalFault> {
        Ok(self.checkpoints.here(&self.connection)?)
    }

    /// Moves the write-ahead log into the file and closes it.
    pub(super) fn close(self) -> Result<(), JournalFault> {
        self.checkpoints.end();
        self.connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))?;
        self.connection.close().map_err(|(_, error)| JournalFault::from(error))
    }
}

/// A transaction that writes, of statements that are prepared once; undone where it is dropped before its end.
#[derive(Debug)]
pub(super) struct Group<'a>(&'a Connection);

impl<'a> Group<'a> {
    /// Waits for the lock and begins.
    pub(super) fn begin(connection: &'a Connection) -> rusqlite::Result<Self> {
        connection.prepare_cached("BEGIN IMMEDIATE")?.execute([])?;
        Ok(Self(connection))
    }

    /// Makes it last.
    pub(super) fn commit(self) -> rusqlite::Result<()> {
        self.0.prepare_cached("COMMIT")?.execute([]).map(drop)
    }
}

impl Drop for Group<'_> {
    fn drop(&mut self) {
        if !self.0.is_autocommit() {
            // Where this fails too, the connection is closed after it, which undoes it as well.
            drop(self.0.execute_batch("ROLLBACK"));
        }
    }
}

/// The text of an id, without an allocation.
struct Text([u8; Hyphenated::LENGTH]);

impl Text {
    fn of(id: Uuid) -> Self {
        let mut text = [0; Hyphenated::LENGTH];
        id.hyphenated().encode_lower(&mut text);
        Self(text)
    }

    fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).unwrap_or_default()
    }
}

/// Puts an attempt on record. One that is on record already, and is sent later than it says, becomes the newest row, so that
/// other processes read it again.
fn insert(
    connection: &Connection,
    attempt: &Attempt,
    started: SystemTime,
    is_answered: bool,
) -> rusqlite::Result<()> {
    let mut insert = connection.prepare_cached(
        "INSERT INTO attempts (id, started_ms, latency_us, upstream, credential, request_id, client, sent_id,
            received_id, scope_kind, scope_id, export_id, operation, method, status, export_status, bytes,
            version_requested, version_served, lifecycle, deprecation, sunset, error, try, queued_us, waited_for,
            answered, api)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19, ?20, ?21,
            ?22, ?23, ?24, ?25, ?26, ?27, ?28)
         ON CONFLICT (id) DO UPDATE SET
            seq = (SELECT max(seq) + 1 FROM attempts), started_ms = excluded.started_ms",
    )?;
    insert.execute(params![
        Text::of(attempt.id).as_str(),
        unix_ms(started),
        micros(attempt.latency),
        capped(&attempt.upstream),
        capped(&attempt.credential),
        Text::of(attempt.request).as_str(),
        capped(&attempt.client),
        Text::of(attempt.sent_id).as_str(),
        attempt.received_id.as_deref().map(capped),
        attempt.scope_kind,
        attempt.scope_id.as_deref().map(capped),
        attempt.export_id.as_deref().map(capped),
        attempt.operation,
        capped(&attempt.method),
        attempt.status,
        attempt.export_status.as_deref().map(capped),
        size(attempt.bytes),
        attempt.version_requested.as_deref().map(capped),
        attempt.version_served.as_deref().map(capped),
        attempt.lifecycle.as_deref().map(capped),
        attempt.deprecation.as_deref().map(capped),
        attempt.sunset.as_deref().map(capped),
        attempt.error,
        attempt.number,
        micros(attempt.queued),
        attempt.waited_for,
        is_answered,
        attempt.api,
    ])?;
    Ok(())
}

/// Completes an attempt that is on record; recording the same again changes nothing. `false` if it is not on record.
fn complete(connection: &Connection, attempt: &Attempt, is_answered: bool) -> rusqlite::Result<bool> {
    let id = Text::of(attempt.id);
    // The export's id has an index, which is written to wherever it is set: only a start learns it from the answer.
    if attempt.operation == "start" && attempt.export_id.is_some() {
        let mut set = connection.prepare_cached("UPDATE attempts SET export_id = ?2 WHERE id = ?1")?;
        set.execute(params![id.as_str(), attempt.export_id.as_deref().map(capped)])?;
    }
    let mut complete = connection.prepare_cached(
        "UPDATE attempts SET latency_us = ?2, received_id = ?3, status = ?4, export_status = ?5, bytes = ?6,
            version_served = ?7, lifecycle = ?8, deprecation = ?9, sunset = ?10, error = ?11, queued_us = ?12,
            waited_for = ?13, answered = max(answered, ?14)
         WHERE id = ?1",
    )?;
    let changed = complete.execute(params![
        id.as_str(),
        micros(attempt.latency),
        attempt.received_id.as_deref().map(capped),
        attempt.status,
        attempt.export_status.as_deref().map(capped),
        size(attempt.bytes),
        attempt.version_served.as_deref().map(capped),
        attempt.lifecycle.as_deref().map(capped),
        attempt.deprecation.as_deref().map(capped),
        attempt.sunset.as_deref().map(capped),
        attempt.error,
        micros(attempt.queued),
        attempt.waited_for,
        is_answered,
    ])?;
    Ok(changed > 0)
}

fn micros(time: Duration) -> i64 {
    i64::try_from(time.as_micros()).unwrap_or(i64::MAX)
}

fn size(bytes: Option<u64>) -> Option<i64> {
    bytes.map(|bytes| i64::try_from(bytes).unwrap_or(i64::MAX))
}

/// Records the further clients that an attempt answered; of a start, the first thousand. `false` if it is not on record.
fn insert_served<'a>(
    connection: &Connection,
    attempt: Uuid,
    served: impl Iterator<Item = &'a Served>,
) -> rusqlite::Result<bool> {
    let mut find = connection
        .prepare_cached("SELECT seq, started_ms, operation = 'start' FROM attempts WHERE id = ?1")?;
    let found = find.query_row([Text::of(attempt).as_str()], |row| {
        Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?, row.get::<_, bool>(2)?))
    });
    let Some((seq, started_ms, is_start)) = found.optional()? else { return Ok(false) };
    let room = if is_start { starts::room(connection, seq)? } else { u32::MAX };
    let mut insert = connection.prepare_cached(
        "INSERT INTO served (attempt, request_id, client, started_ms) VALUES (?1, ?2, ?3, ?4)
         ON CONFLICT DO NOTHING",
    )?;
    for (one, _) in served.zip(0..room) {
        insert.execute((seq, Text::of(one.request).as_str(), capped(&one.client), started_ms))?;
    }
    Ok(true)
}

/// Two processes that make the same file at the same time collide here, for moments.
fn enter_wal(connection: &Connection) -> Result<(), JournalFault> {
    let mut tries = 1;
    loop {
        let entered = connection.pragma_update(None, "journal_mode", "WAL").map_err(JournalFault::from);
        match entered {
            Err(fault) if fault.is_busy() && tries < WAL_TRIES => {
                tries += 1;
                thread::sleep(Duration::from_millis(20));
            }
            other => return other,
        }
    }
}
