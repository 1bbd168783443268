//! The tables, and how a file of an earlier version becomes one of this version.
//!
//! `PRAGMA user_version` counts the migrations that a file has had; `PRAGMA application_id` says that
//! the file is ours, so that a wrong path never puts our tables into somebody else's database. A
//! migration that was released is never edited: a change is a new one at the end.

use rusqlite::{Connection, TransactionBehavior};

use super::fault::JournalFault;

/// `exgt`: marks a SQLite file as a journal of this gateway.
pub(super) const APPLICATION_ID: i64 = 0x6578_6774;

/// One step per schema version, oldest first.
pub(super) const MIGRATIONS: &[&str] = &[V1, V2, V3, V4];

/// Times are whole milliseconds (small, and quick to compare); the view `requests` shows them as text.
///
/// Every index that answers a search ends with `started_ms`, so that "the newest N" is read off its end
/// without sorting, and carries `status`, so that a filter on it needs no visit to the table. An id that
/// came back as it was sent is found by `sent_id`, so only other ids are indexed again.
const V1: &str = "
CREATE TABLE attempts (
    seq               INTEGER PRIMARY KEY,
    id                TEXT NOT NULL UNIQUE,
    started_ms        INTEGER NOT NULL,
    latency_us        INTEGER NOT NULL,
    upstream          TEXT NOT NULL,
    credential        TEXT NOT NULL,
    request_id        TEXT NOT NULL,
    client            TEXT NOT NULL,
    sent_id           TEXT NOT NULL,
    received_id       TEXT,
    scope_kind        TEXT,
    scope_id          TEXT,
    export_id         TEXT,
    operation         TEXT NOT NULL,
    method            TEXT NOT NULL,
    status            INTEGER,
    export_status     TEXT,
    bytes             INTEGER,
    version_requested TEXT,
    version_served    TEXT,
    lifecycle         TEXT,
    deprecation       TEXT,
    sunset            TEXT,
    error             TEXT
) STRICT;
CREATE INDEX attempts_started ON attempts (started_ms);
CREATE INDEX attempts_request ON attempts (request_id);
CREATE INDEX attempts_sent ON attempts (sent_id);
CREATE INDEX attempts_received ON attempts (received_id COLLATE NOCASE)
    WHERE received_id <> sent_id;
CREATE INDEX attempts_export ON attempts (export_id, started_ms, status) WHERE export_id IS NOT NULL;
CREATE INDEX attempts_scope ON attempts (scope_id, scope_kind, started_ms, status)
    WHERE scope_id IS NOT NULL;
CREATE INDEX attempts_client ON attempts (client, started_ms, status);
CREATE INDEX attempts_status ON attempts (status / 100, started_ms, status);
CREATE INDEX attempts_error ON attempts (started_ms) WHERE error IS NOT NULL OR status IS NULL;

CREATE TABLE served (
    attempt    INTEGER NOT NULL REFERENCES attempts (seq) ON DELETE CASCADE,
    request_id TEXT NOT NULL,
    client     TEXT NOT NULL,
    started_ms INTEGER NOT NULL,
    PRIMARY KEY (attempt, request_id)
) STRICT, WITHOUT ROWID;
CREATE INDEX served_request ON served (request_id);
CREATE INDEX served_client ON served (client, started_ms, attempt);

CREATE VIEW requests AS
SELECT strftime('%Y-%m-%dT%H:%M:%fZ', a.started_ms / 1000.0, 'unixepoch') AS started,
       a.latency_us / 1000.0 AS latency_ms, a.operation, a.method, a.scope_kind, a.scope_id, a.export_id,
       a.status, a.export_status, a.error, a.received_id, a.sent_id, a.request_id, a.client,
       (SELECT count(*) FROM served s WHERE s.attempt = a.seq) AS clients,
       a.upstream, a.credential, a.bytes, a.version_requested, a.version_served, a.lifecycle,
       a.deprecation, a.sunset, a.id, a.seq
FROM attempts a;
";

/// The requests of the last hour by credential; the reason of a request's wait, and the number of its try.
const V2: &str = "
CREATE TABLE sends (
    seq        INTEGER PRIMARY KEY AUTOINCREMENT,
    credential TEXT NOT NULL,
    process    TEXT NOT NULL,
    at_ms      INTEGER NOT NULL,
    count      INTEGER NOT NULL,
    start      TEXT
) STRICT;
CREATE INDEX sends_credential ON sends (credential, seq);
CREATE INDEX sends_at ON sends (at_ms);
ALTER TABLE attempts ADD COLUMN try INTEGER NOT NULL DEFAULT 1;
ALTER TABLE attempts ADD COLUMN queued_us INTEGER NOT NULL DEFAULT 0;
ALTER TABLE attempts ADD COLUMN waited_for TEXT;
DROP VIEW requests;
CREATE VIEW requests AS
SELECT strftime('%Y-%m-%dT%H:%M:%fZ', a.started_ms / 1000.0, 'unixepoch') AS started,
       a.latency_us / 1000.0 AS latency_ms, a.operation, a.method, a.scope_kind, a.scope_id, a.export_id,
       a.status, a.export_status, a.error, a.received_id, a.sent_id, a.request_id, a.client,
       (SELECT count(*) FROM served s WHERE s.attempt = a.seq) AS clients,
       a.try, a.queued_us / 1000.0 AS queued_ms, a.waited_for,
       a.upstream, a.credential, a.bytes, a.version_requested, a.version_served, a.lifecycle,
       a.deprecation, a.sunset, a.id, a.seq
FROM attempts a;
";

/// Fewer trees to write to for each record. The request that caused an attempt is nearly always answered by it: the
/// attempt says so itself (`answered`), and `served` holds the others. Rows of before stay as they are, and both
/// forms mean the same. `attempts_client`, which no search used, becomes what finds a client without `served`. A 200 is
/// found soon by the time alone.
///
/// `sends` is read and pruned from one end, by `seq`, so it needs no index.
///
/// Indexes are dropped before the column is added: SQLite checks all of a strict table's then.
const V3: &str = "
DROP INDEX attempts_client;
DROP INDEX attempts_status;
ALTER TABLE attempts ADD COLUMN answered INTEGER NOT NULL DEFAULT 0;
CREATE INDEX attempts_client ON attempts (client, started_ms, status) WHERE answered = 1;
CREATE INDEX attempts_status ON attempts (status / 100, started_ms, status) WHERE status <> 200;
DROP INDEX sends_credential;
DROP INDEX sends_at;
DROP VIEW requests;
CREATE VIEW requests AS
SELECT strftime('%Y-%m-%dT%H:%M:%fZ', a.started_ms / 1000.0, 'unixepoch') AS started,
       a.latency_us / 1000.0 AS latency_ms, a.operation, a.method, a.scope_kind, a.scope_id, a.export_id,
       a.status, a.export_status, a.error, a.received_id, a.sent_id, a.request_id, a.client,
       a.answered + (SELECT count(*) FROM served s WHERE s.attempt = a.seq) AS clients,
       a.try, a.queued_us / 1000.0 AS queued_ms, a.waited_for,
       a.upstream, a.credential, a.bytes, a.version_requested, a.version_served, a.lifecycle,
       a.deprecation, a.sunset, a.id, a.seq
FROM attempts a;
";

/// A request is on record before it is sent, so what was sent with each credential and API is read from the records.
const V4: &str = "
DROP TABLE sends;
ALTER TABLE attempts ADD COLUMN api TEXT NOT NULL DEFAULT 'rest';
";

/// The kind of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FileKind {
    /// A journal of the version that this program writes.
    Current,
    /// Nothing yet: an empty file.
    Empty,
    /// A journal of an earlier version.
    Older,
    /// A journal that a newer program wrote.
    Newer(i64),
    /// A database of something else.
    Foreign,
}

/// The newest version that this program knows.
pub(super) fn version() -> i64 {
    i64::try_from(MIGRATIONS.len()).unwrap_or(i64::MAX)
}

/// Reads the kind of a file, without changing it.
pub(super) fn kind(connection: &Connection) -> rusqlite::Result<FileKind> {
    let application: i64 = connection.pragma_query_value(None, "application_id", |row| row.get(0))?;
    let found: i64 = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
    if application != APPLICATION_ID {
        let empty: bool =
            connection.query_row("SELECT NOT EXISTS (SELECT 1 FROM sqlite_schema)", [], |row| row.get(0))?;
        let ours_to_make = application == 0 && found == 0 && empty;
        return Ok(if ours_to_make { FileKind::Empty } else { FileKind::Foreign });
    }
    Ok(match found.cmp(&version()) {
        std::cmp::Ordering::Less => FileKind::Older,
        std::cmp::Ordering::Equal => FileKind::Current,
        std::cmp::Ordering::Greater => FileKind::Newer(found),
    })
}

/// Refuses what must not be written to.
pub(super) fn check(connection: &Connection) -> Result<FileKind, JournalFault> {
    match kind(connection)? {
        FileKind::Newer(found) => Err(JournalFault::Newer { found, known: version() }),
        FileKind::Foreign => Err(JournalFault::Foreign),
        kind @ (FileKind::Current | FileKind::Older | FileKind::Empty) => Ok(kind),
    }
}

/// Applies the migrations that the file lacks, all or none.
pub(super) fn migrate(connection: &mut Connection) -> Result<(), JournalFault> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    // Checked again under the lock: another process may have migrated while this one waited.
    if check(&transaction)? != FileKind::Current {
        let found: i64 = transaction.pragma_query_value(None, "user_version", |row| row.get(0))?;
        for migration in MIGRATIONS.iter().skip(usize::try_from(found).unwrap_or(0)) {
            transaction.execute_batch(migration)?;
        }
        transaction.pragma_update(None, "application_id", APPLICATION_ID)?;
        transaction.pragma_update(None, "user_version", version())?;
    }
    transaction.commit()?;
    Ok(())
}

/// Writes the version again: a write that changes nothing, and fails where writing does.
pub(super) fn touch(connection: &mut Connection) -> rusqlite::Result<()> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    transaction.pragma_update(None, "user_version", version())?;
    transaction.commit()
}
