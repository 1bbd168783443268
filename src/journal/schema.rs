//! The tables of a journal.
//!
//! `PRAGMA application_id` says that the file is ours, so that a wrong path never puts our tables into somebody else's
//! database; `PRAGMA user_version` is their version. Once a version is released, its tables change by a migration alone.

use rusqlite::{Connection, TransactionBehavior};

use super::fault::JournalFault;

/// `exgt`: marks a SQLite file as a journal of this gateway.
const APPLICATION_ID: i64 = 0x6578_6774;

/// The version of the tables, as `PRAGMA user_version`.
const VERSION: i64 = 1;

/// Times are whole milliseconds (small, and quick to compare); the view `requests` shows them as text.
///
/// Each index is one more tree to write to for each record, so there are few, and those of a request that is sent hold nothing
/// that its answer changes. An index that answers a search ends with `started_ms`: the newest rows are read off its end. An id
/// that was sent is the attempt's own, unless the client chose it; one that came back as it was sent has no entry of its own; a
/// 200 is found by its time. The request that caused an attempt is nearly always answered by it: `answered` says so, and
/// `served` has the others. Transfers of files are few beside the requests: a search reads them by their time.
/// The state of a named export is a JSON document: it is read and written whole.
const TABLES: &str = "
CREATE TABLE attempts (
    seq               INTEGER PRIMARY KEY,
    id                TEXT NOT NULL UNIQUE,
    started_ms        INTEGER NOT NULL,
    latency_us        INTEGER NOT NULL,
    upstream          TEXT NOT NULL,
    credential        TEXT NOT NULL,
    api               TEXT NOT NULL,
    request_id        TEXT NOT NULL,
    client            TEXT NOT NULL,
    answered          INTEGER NOT NULL,
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
    error             TEXT,
    try               INTEGER NOT NULL,
    queued_us         INTEGER NOT NULL,
    waited_for        TEXT
) STRICT;
CREATE INDEX attempts_started ON attempts (started_ms);
CREATE INDEX attempts_request ON attempts (request_id);
CREATE INDEX attempts_sent ON attempts (sent_id) WHERE sent_id <> id;
CREATE INDEX attempts_received ON attempts (received_id COLLATE NOCASE) WHERE received_id <> sent_id;
CREATE INDEX attempts_export ON attempts (export_id, started_ms) WHERE export_id IS NOT NULL;
CREATE INDEX attempts_scope ON attempts (scope_id, scope_kind, started_ms) WHERE scope_id IS NOT NULL;
CREATE INDEX attempts_client ON attempts (client, started_ms) WHERE answered = 1;
CREATE INDEX attempts_status ON attempts (status / 100, started_ms, status) WHERE status <> 200;
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
       a.answered + (SELECT count(*) FROM served s WHERE s.attempt = a.seq) AS clients,
       a.try, a.queued_us / 1000.0 AS queued_ms, a.waited_for,
       a.upstream, a.credential, a.bytes, a.version_requested, a.version_served, a.lifecycle,
       a.deprecation, a.sunset, a.id, a.seq
FROM attempts a;

CREATE TABLE transfers (
    seq         INTEGER PRIMARY KEY,
    started_ms  INTEGER NOT NULL,
    duration_us INTEGER NOT NULL,
    request_id  TEXT NOT NULL,
    client      TEXT NOT NULL,
    scope_kind  TEXT NOT NULL,
    scope_id    TEXT NOT NULL,
    export_id   TEXT NOT NULL,
    file        TEXT NOT NULL,
    host        TEXT,
    range_first INTEGER,
    range_last  INTEGER,
    bytes       INTEGER NOT NULL,
    resumes     INTEGER NOT NULL,
    renewals    INTEGER NOT NULL,
    outcome     TEXT NOT NULL
) STRICT;
CREATE INDEX transfers_started ON transfers (started_ms);

CREATE TABLE named_exports (
    name           TEXT NOT NULL,
    question       TEXT NOT NULL,
    holder         TEXT NOT NULL,
    fence          INTEGER NOT NULL,
    lease_until_ms INTEGER NOT NULL,
    state          TEXT,
    PRIMARY KEY (name, question)
) STRICT, WITHOUT ROWID;

CREATE TABLE starts (
    attempt    INTEGER PRIMARY KEY REFERENCES attempts (seq) ON DELETE CASCADE,
    key        BLOB NOT NULL,
    made_ms    INTEGER NOT NULL,
    scope_kind TEXT NOT NULL,
    scope_id   TEXT NOT NULL,
    export_id  TEXT NOT NULL,
    finished   INTEGER NOT NULL,
    fields     BLOB NOT NULL,
    body       BLOB NOT NULL
) STRICT;
CREATE INDEX starts_key ON starts (key, made_ms);
CREATE INDEX starts_export ON starts (export_id);
";

/// Checks that a file may be read and written. `false` if it is empty.
pub(super) fn check(connection: &Connection) -> Result<bool, JournalFault> {
    let application: i64 = connection.pragma_query_value(None, "application_id", |row| row.get(0))?;
    let found: i64 = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
    if application == APPLICATION_ID {
        return if found <= VERSION { Ok(true) } else { Err(JournalFault::Newer { found, known: VERSION }) };
    }
    let is_empty: bool =
        connection.query_row("SELECT NOT EXISTS (SELECT 1 FROM sqlite_schema)", [], |row| row.get(0))?;
    if application == 0 && found == 0 && is_empty { Ok(false) } else { Err(JournalFault::Foreign) }
}

/// Makes the tables of an empty file, all or none.
pub(super) fn create(connection: &mut Connection) -> Result<(), JournalFault> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    // Checked again under the lock: another process may have made them while this one waited.
    if !check(&transaction)? {
        transaction.execute_batch(TABLES)?;
        transaction.pragma_update(None, "application_id", APPLICATION_ID)?;
        transaction.pragma_update(None, "user_version", VERSION)?;
    }
    transaction.commit()?;
    Ok(())
}

/// Writes the version again: a write that changes nothing, and fails where writing does.
pub(super) fn touch(connection: &mut Connection) -> rusqlite::Result<()> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    transaction.pragma_update(None, "user_version", VERSION)?;
    transaction.commit()
}
