//! The outbox: the records that the database of many gateways does not have yet.
//!
//! Triggers of the writer's own connection put a record's id there in the transaction of the record, so that none is forgotten,
//! whatever happens to the process. A record that changes gets a new and higher number: what was shipped before the change is not
//! taken for what is there after it. Numbers are never used twice.

use std::path::Path;
use std::time::Duration;

use rusqlite::types::ValueRef;
use rusqlite::{Connection, OptionalExtension as _};
use serde_json::{Map, Value};
use time::OffsetDateTime;
use uuid::Uuid;

use super::super::fault::JournalFault;
use super::super::find;

/// Most records of one batch.
pub(super) const BATCH: usize = 256;
/// Longest wait for a writer that holds the file.
const PATIENCE: Duration = Duration::from_secs(2);

/// The table, and the triggers that live as long as the connection.
const FOLLOW: &str = "
PRAGMA temp_store = MEMORY;
CREATE TABLE IF NOT EXISTS main.outbox (
    n          INTEGER PRIMARY KEY AUTOINCREMENT,
    kind       TEXT NOT NULL,
    id         TEXT NOT NULL,
    request    TEXT NOT NULL,
    started_ms INTEGER NOT NULL,
    UNIQUE (id, request, kind)
) STRICT;
CREATE TEMP TRIGGER ship_new AFTER INSERT ON main.attempts BEGIN
    DELETE FROM outbox WHERE id = NEW.id AND request = '' AND kind = 'attempts';
    INSERT INTO outbox (kind, id, request, started_ms) VALUES ('attempts', NEW.id, '', NEW.started_ms);
END;
CREATE TEMP TRIGGER ship_changed AFTER UPDATE ON main.attempts BEGIN
    DELETE FROM outbox WHERE id = NEW.id AND request = '' AND kind = 'attempts';
    INSERT INTO outbox (kind, id, request, started_ms) VALUES ('attempts', NEW.id, '', NEW.started_ms);
END;
CREATE TEMP TRIGGER ship_served AFTER INSERT ON main.served BEGIN
    INSERT INTO outbox (kind, id, request, started_ms)
        SELECT 'served', id, NEW.request_id, NEW.started_ms FROM attempts WHERE seq = NEW.attempt;
END;
CREATE TEMP TRIGGER ship_transfer AFTER INSERT ON main.transfers BEGIN
    INSERT INTO outbox (kind, id, request, started_ms)
        VALUES ('transfers', NEW.request_id, NEW.seq, NEW.started_ms);
END;
";

/// The table of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) enum ShipTable {
    Attempts,
    Served,
    Transfers,
}

impl ShipTable {
    pub(super) const ALL: [Self; 3] = [Self::Attempts, Self::Served, Self::Transfers];

    fn named(kind: &str) -> Self {
        Self::ALL.into_iter().find(|table| table.as_str() == kind).unwrap_or(Self::Attempts)
    }

    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Attempts => "attempts",
            Self::Served => "served",
            Self::Transfers => "transfers",
        }
    }

    /// Reads a record by the two ids of its row in the outbox. `caused` is the request whose id tells the month.
    fn select(self) -> &'static str {
        match self {
            Self::Attempts => "SELECT *, request_id AS caused FROM attempts WHERE id = ?1 AND ?2 = ''",
            Self::Served => {
                "SELECT a.id AS attempt, s.request_id, s.client, s.started_ms, a.request_id AS caused
                 FROM attempts a JOIN served s ON s.attempt = a.seq WHERE a.id = ?1 AND s.request_id = ?2"
            }
            Self::Transfers => {
                "SELECT *, request_id AS caused FROM transfers WHERE request_id = ?1 AND seq = CAST(?2 AS INTEGER)"
            }
        }
    }
}

/// A record to be shipped.
#[derive(Debug, Clone)]
pub(in super::super) struct ShipRow {
    pub(in super::super) table: ShipTable,
    /// The first day of the month of its partition. It never changes, for it is the month of a request's id.
    pub(super) month: String,
    /// Its columns.
    pub(in super::super) columns: Map<String, Value>,
}

/// The oldest records that wait.
#[derive(Debug, Default)]
pub(in super::super) struct ShipBatch {
    /// The number of the last one.
    pub(in super::super) last: i64,
    pub(in super::super) rows: Vec<ShipRow>,
    /// Those that were deleted here before they were shipped.
    pub(in super::super) lost: usize,
}

/// The state of the outbox.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(in super::super) struct OutboxSize {
    pub(in super::super) rows: u64,
    /// The time of the oldest record, in milliseconds since 1970.
    pub(super) oldest_ms: Option<i64>,
}

/// Has all records of `connection` from now on noted in the outbox.
pub(in super::super) fn follow(connection: &Connection) -> rusqlite::Result<()> {
    connection.execute_batch(FOLLOW)
}

/// Takes the rows up to `last` off.
pub(in super::super) fn forget(connection: &Connection, last: i64) -> rusqlite::Result<()> {
    connection.prepare_cached("DELETE FROM outbox WHERE n <= ?1")?.execute([last]).map(drop)
}

/// Reads the oldest records that wait, at most so many.
pub(in super::super) fn read(path: &Path, most: usize) -> Result<ShipBatch, JournalFault> {
    let Some(mut connection) = open(path)? else { return Ok(ShipBatch::default()) };
    // One moment for all reads: a record that changes afterwards has a higher number then.
    let moment = connection.transaction()?;
    let mut oldest =
        moment.prepare(&format!("SELECT n, kind, id, request FROM outbox ORDER BY n LIMIT {most}"))?;
    let waiting = oldest.query_map([], |row| {
        let (kind, keys) = (row.get::<_, String>(1)?, [row.get::<_, String>(2)?, row.get(3)?]);
        Ok((row.get::<_, i64>(0)?, ShipTable::named(&kind), keys))
    })?;
    let mut batch = ShipBatch::default();
    for one in waiting {
        let (n, table, keys) = one?;
        batch.last = n;
        let mut select = moment.prepare_cached(table.select())?;
        match select.query_row(keys, |row| ShipRow::read(table, row)).optional()? {
            Some(row) => batch.rows.push(row),
            None => batch.lost += 1,
        }
    }
    Ok(batch)
}

/// Counts what waits.
pub(in super::super) fn size(path: &Path) -> Result<OutboxSize, JournalFault> {
    let Some(connection) = open(path)? else { return Ok(OutboxSize::default()) };
    let rows: i64 = connection.query_row("SELECT count(*) FROM outbox", [], |row| row.get(0))?;
    let oldest = "SELECT started_ms FROM outbox ORDER BY n LIMIT 1";
    let oldest_ms = connection.query_row(oldest, [], |row| row.get(0)).optional()?;
    Ok(OutboxSize { rows: rows.unsigned_abs(), oldest_ms })
}

/// The number of the last of the oldest `count` records.
pub(super) fn number_of(path: &Path, count: u64) -> Result<Option<i64>, JournalFault> {
    let Some(connection) = open(path)? else { return Ok(None) };
    let nth = "SELECT n FROM outbox ORDER BY n LIMIT 1 OFFSET ?1";
    let offset = i64::try_from(count.saturating_sub(1)).unwrap_or(i64::MAX);
    Ok(connection.query_row(nth, [offset], |row| row.get(0)).optional()?)
}

/// Opens the file; `None` where it has no outbox yet.
fn open(path: &Path) -> Result<Option<Connection>, JournalFault> {
    if !path.exists() {
        return Ok(None);
    }
    let connection = find::open(path, Some(PATIENCE))?;
    let has_one: bool = connection.query_row(
        "SELECT EXISTS (SELECT 1 FROM sqlite_schema WHERE name = 'outbox')",
        [],
        |row| row.get(0),
    )?;
    Ok(has_one.then_some(connection))
}

impl ShipRow {
    fn read(table: ShipTable, row: &rusqlite::Row<'_>) -> rusqlite::Result<Self> {
        let mut columns = Map::new();
        for (at, name) in row.as_ref().column_names().enumerate() {
            columns.insert(name.to_owned(), json(row.get_ref(at)?));
        }
        let caused = columns.get("caused").and_then(Value::as_str).unwrap_or_default();
        let started_ms = columns.get("started_ms").and_then(Value::as_i64).unwrap_or_default();
        let month = month(caused, started_ms);
        Ok(Self { table, month, columns })
    }
}

fn json(value: ValueRef<'_>) -> Value {
    match value {
        ValueRef::Integer(number) => number.into(),
        ValueRef::Real(number) => number.into(),
        ValueRef::Text(text) => String::from_utf8_lossy(text).into(),
        ValueRef::Null | ValueRef::Blob(_) => Value::Null,
    }
}

/// The first day of the month in which a request came, by its id; of the time of the record where that tells none.
fn month(request: &str, started_ms: i64) -> String {
    let told = Uuid::parse_str(request).ok().filter(|id| id.get_version_num() == 7);
    let seconds = told.and_then(|id| id.get_timestamp()).map(|time| time.to_unix().0);
    let seconds = seconds.and_then(|seconds| i64::try_from(seconds).ok()).unwrap_or(started_ms / 1_000);
    let day = OffsetDateTime::from_unix_timestamp(seconds).unwrap_or(OffsetDateTime::UNIX_EPOCH);
    format!("{:04}-{:02}-01", day.year(), u8::from(day.month()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_month_is_that_of_the_request_however_late_it_was_sent() {
        // 2026-11-30T23:59:59.999Z
        let request = uuid::Builder::from_unix_timestamp_millis(1_796_083_199_999, &[7; 10]).into_uuid();
        assert_eq!(month(&request.to_string(), 1_796_083_200_500), "2026-11-01");
        assert_eq!(month(&Uuid::from_u128(1).to_string(), 1_796_083_200_500), "2026-12-01");
        assert_eq!(month("no id", 0), "1970-01-01");
    }
}
