//! The record of a file's transfer, written when it has ended, and the search for them. It is no request to Snyk: budget
//! and support block do not read it. Nothing of a link but its host is in it.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rusqlite::types::Value;
use rusqlite::{Connection, params, params_from_iter};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::fault::JournalFault;
use super::find;
use super::query::QueryError;
use super::record::{capped, unix_ms};
use super::search;

/// A transfer that has ended.
#[derive(Debug, Clone)]
pub struct TransferRecord {
    /// The arrival of its request.
    pub started: SystemTime,
    /// From then to its end.
    pub duration: Duration,
    /// `Exportgate-Request-Id` of its request.
    pub request: Uuid,
    /// The client.
    pub client: Arc<str>,
    /// `org` or `group`.
    pub scope_kind: &'static str,
    /// The org's or group's id.
    pub scope_id: String,
    /// The export's id.
    pub export_id: String,
    /// The number of the part, or `table`.
    pub file: String,
    /// Host of the file store; `None` if it was not asked.
    pub host: Option<Arc<str>>,
    /// First and last byte of a range; `None` for the whole file.
    pub range: Option<std::ops::RangeInclusive<u64>>,
    /// Bytes that were sent to the client.
    pub bytes: u64,
    /// Requests to the store that went on after a break.
    pub resumes: u32,
    /// Times that a link was renewed.
    pub renewals: u32,
    /// The outcome in a word.
    pub outcome: &'static str,
}

/// A transfer, as it is read. Field names are those of the JSON and CSV that `exportgate transfers` prints.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TransferRow {
    /// The arrival of its request (RFC 3339, UTC).
    pub started: String,
    /// From then to its end, in milliseconds.
    pub duration_ms: f64,
    /// `Exportgate-Request-Id` of its request.
    pub request_id: String,
    /// The client.
    pub client: String,
    /// `org` or `group`.
    pub scope_kind: String,
    /// The org's or group's id.
    pub scope_id: String,
    /// The export's id.
    pub export_id: String,
    /// The number of the part, or `table`.
    pub file: String,
    /// Host of the file store.
    pub host: Option<String>,
    /// The first byte of a range.
    pub range_first: Option<i64>,
    /// The last byte of a range.
    pub range_last: Option<i64>,
    /// Bytes that were sent to the client.
    pub bytes: i64,
    /// Requests to the store that went on after a break.
    pub resumes: u32,
    /// Times that a link was renewed.
    pub renewals: u32,
    /// The outcome in a word.
    pub outcome: String,
}

/// The filters of a search for transfers; all that are given must match.
#[derive(Debug, Clone, Default)]
pub struct TransferQuery {
    /// The `Exportgate-Request-Id` or the export's id.
    pub id: Option<String>,
    /// The client.
    pub client: Option<String>,
    /// Started at this time or later.
    pub since: Option<SystemTime>,
    /// Started before this time.
    pub until: Option<SystemTime>,
    /// Most records, the newest first.
    pub limit: u32,
}

/// Puts a transfer on record.
pub(super) fn insert(connection: &Connection, transfer: &TransferRecord) -> rusqlite::Result<()> {
    let mut insert = connection.prepare_cached(
        "INSERT INTO transfers (started_ms, duration_us, request_id, client, scope_kind, scope_id, export_id, file,
            host, range_first, range_last, bytes, resumes, renewals, outcome)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15)",
    )?;
    let number = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
    insert.execute(params![
        unix_ms(transfer.started),
        i64::try_from(transfer.duration.as_micros()).unwrap_or(i64::MAX),
        transfer.request.to_string(),
        capped(&transfer.client),
        transfer.scope_kind,
        capped(&transfer.scope_id),
        capped(&transfer.export_id),
        capped(&transfer.file),
        transfer.host.as_deref().map(capped),
        transfer.range.as_ref().map(|range| number(*range.start())),
        transfer.range.as_ref().map(|range| number(*range.end())),
        number(transfer.bytes),
        transfer.resumes,
        transfer.renewals,
        transfer.outcome,
    ])?;
    Ok(())
}

/// Finds transfers in the file at `path`, newest first.
///
/// # Errors
/// [`QueryError`].
pub fn find_transfers(path: &Path, query: &TransferQuery) -> Result<Vec<TransferRow>, QueryError> {
    find::reading(path, || select(path, query))
}

fn select(path: &Path, query: &TransferQuery) -> Result<Vec<TransferRow>, JournalFault> {
    let connection = find::open(path, None)?;
    let mut values = Vec::new();
    let mut filters = vec!["true".to_owned()];
    let mut filter = |condition: &str, value: Value| {
        values.push(value);
        filters.push(condition.replace('?', &format!("?{}", values.len())));
    };
    if let Some(id) = &query.id {
        filter("? IN (request_id, export_id)", Value::Text(search::canonical(id)));
    }
    if let Some(client) = &query.client {
        filter("client = ?", Value::Text(client.clone()));
    }
    for (condition, time) in [("started_ms >= ?", query.since), ("started_ms < ?", query.until)] {
        if let Some(time) = time {
            filter(condition, Value::Integer(unix_ms(time)));
        }
    }
    let mut select = connection.prepare(&format!(
        "SELECT *, strftime('%Y-%m-%dT%H:%M:%fZ', started_ms / 1000.0, 'unixepoch') AS started
         FROM transfers WHERE {} ORDER BY started_ms DESC, seq DESC LIMIT {}",
        filters.join(" AND "),
        query.limit
    ))?;
    let rows = select.query_map(params_from_iter(values), TransferRow::read)?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}

impl TransferRow {
    fn read(row: &rusqlite::Row<'_>) -> rusqlite::Result<Self> {
        #[expect(clippy::cast_precision_loss, reason = "a duration for people")]
        let duration_ms = row.get::<_, i64>("duration_us")? as f64 / 1_000.0;
        Ok(Self {
            started: row.get("started")?,
            duration_ms,
            request_id: row.get("request_id")?,
            client: row.get("client")?,
            scope_kind: row.get("scope_kind")?,
            scope_id: row.get("scope_id")?,
            export_id: row.get("export_id")?,
            file: row.get("file")?,
            host: row.get("host")?,
            range_first: row.get("range_first")?,
            range_last: row.get("range_last")?,
            bytes: row.get("bytes")?,
            resumes: row.get("resumes")?,
            renewals: row.get("renewals")?,
            outcome: row.get("outcome")?,
        })
    }
}
