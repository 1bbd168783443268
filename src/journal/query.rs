//! Finding records, while the gateway runs or not.

use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::{Duration, SystemTime};

use rusqlite::types::Value;
use rusqlite::{Connection, OpenFlags, params_from_iter};

use super::database::unix_ms;
use super::fault::Fault;
use super::row::Row;
use super::schema;

/// How long to wait for a writer that holds the file.
const PATIENCE: Duration = Duration::from_secs(2);

/// What to look for; everything given must match.
#[derive(Debug, Clone, Default)]
pub struct Query {
    /// The export's id.
    pub export: Option<String>,
    /// The org's id.
    pub org: Option<String>,
    /// The group's id.
    pub group: Option<String>,
    /// A client that was answered.
    pub client: Option<String>,
    /// Any id: a client's request id, or the `snyk-request-id` as sent or as returned.
    pub id: Option<String>,
    /// What came back.
    pub status: Option<StatusFilter>,
    /// Sent at this time or later.
    pub since: Option<SystemTime>,
    /// Sent before this time.
    pub until: Option<SystemTime>,
    /// Most records, the newest first.
    pub limit: u32,
}

/// What came back: `404`, `5xx`, or `error` for no whole answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StatusFilter {
    /// This status.
    Exactly(u16),
    /// This hundred.
    Class(u16),
    /// No whole answer.
    Error,
}

/// A time: as RFC 3339 writes it (`2026-02-12T20:00:00Z`), or a distance before `now` (`2h`).
///
/// # Errors
/// What it must be.
pub fn moment(text: &str, now: SystemTime) -> Result<SystemTime, &'static str> {
    let ago = |ago| now.checked_sub(ago).unwrap_or(SystemTime::UNIX_EPOCH);
    humantime::parse_rfc3339_weak(text)
        .or_else(|_| humantime::parse_duration(text).map(ago))
        .map_err(|_| "must be a UTC time such as 2026-02-12T20:00:00Z, or a distance such as 2h")
}

/// The text is no status filter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("must be a status such as 404, a class such as 5xx, or \"error\" for no whole answer")]
pub struct StatusFilterError;

impl FromStr for StatusFilter {
    type Err = StatusFilterError;

    fn from_str(text: &str) -> Result<Self, StatusFilterError> {
        let digit = |text: &str| text.parse::<u16>().ok().filter(|class| (1..=5).contains(class));
        if text == "error" {
            Ok(Self::Error)
        } else if let Some(class) = text.strip_suffix("xx") {
            digit(class).map(Self::Class).ok_or(StatusFilterError)
        } else {
            let status = text.parse().ok().filter(|status| (100..600).contains(status));
            status.map(Self::Exactly).ok_or(StatusFilterError)
        }
    }
}

/// Why nothing can be looked for.
#[derive(Debug, thiserror::Error)]
pub enum QueryError {
    /// There is no journal at this place.
    #[error("there is no journal at {}: give --journal PATH, or the gateway's own --config", .0.display())]
    Missing(PathBuf),
    /// The file cannot be read.
    #[error("the journal at {} cannot be read ({advice})", path.display())]
    Unreadable {
        /// Where it is.
        path: PathBuf,
        /// What to do.
        advice: &'static str,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// Finds records in the file at `path`, newest first.
///
/// # Errors
/// [`QueryError`].
pub fn find(path: &Path, query: &Query) -> Result<Vec<Row>, QueryError> {
    if !path.exists() {
        return Err(QueryError::Missing(path.to_owned()));
    }
    search(path, query).map_err(|fault| QueryError::Unreadable {
        path: path.to_owned(),
        advice: fault.advice(),
        source: Box::new(fault),
    })
}

fn search(path: &Path, query: &Query) -> Result<Vec<Row>, Fault> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(PATIENCE)?;
    schema::check(&connection)?;
    let (conditions, values) = conditions(query);
    let columns = Row::COLUMNS;
    let found = format!(
        "SELECT {columns} FROM requests WHERE seq IN
            (SELECT seq FROM attempts WHERE {conditions} ORDER BY started_ms DESC, seq DESC LIMIT {})
         ORDER BY started DESC, seq DESC",
        query.limit
    );
    let mut select = connection.prepare(&found)?;
    let rows = select.query_map(params_from_iter(values), Row::read)?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}

/// The conditions on `attempts`, each of them answered by an index, and their values.
fn conditions(query: &Query) -> (String, Vec<Value>) {
    let mut all = vec!["true".to_owned()];
    let mut values = Vec::new();
    let mut add = |condition: &str, value: Value| {
        values.push(value);
        all.push(condition.replace('?', &format!("?{}", values.len())));
    };
    let lower = |text: &String| Value::Text(text.to_ascii_lowercase());
    let id = |text: &String| Value::Text(canonical(text));
    if let Some(export) = &query.export {
        add("export_id = ?", id(export));
    }
    if let Some(org) = &query.org {
        add("scope_id = ? AND scope_kind = 'org'", id(org));
    }
    if let Some(group) = &query.group {
        add("scope_id = ? AND scope_kind = 'group'", id(group));
    }
    if let Some(client) = &query.client {
        let served = "seq IN (SELECT attempt FROM served WHERE client = ?)";
        add(served, Value::Text(client.clone()));
    }
    if let Some(any) = &query.id {
        add(
            "seq IN (SELECT seq FROM attempts WHERE request_id = ?
                UNION SELECT seq FROM attempts WHERE sent_id = ?
                UNION SELECT seq FROM attempts WHERE received_id <> sent_id AND received_id = ? COLLATE NOCASE
                UNION SELECT attempt FROM served WHERE request_id = ?)",
            lower(any),
        );
    }
    match query.status {
        None => {}
        Some(StatusFilter::Exactly(status)) => {
            add("status / 100 = ? / 100 AND status = ?", Value::Integer(i64::from(status)));
        }
        Some(StatusFilter::Class(class)) => add("status / 100 = ?", Value::Integer(i64::from(class))),
        Some(StatusFilter::Error) => add("(error IS NOT NULL OR status IS NULL) AND ?", Value::Integer(1)),
    }
    if let Some(since) = query.since {
        add("started_ms >= ?", Value::Integer(unix_ms(since)));
    }
    if let Some(until) = query.until {
        add("started_ms < ?", Value::Integer(unix_ms(until)));
    }
    (all.join(" AND "), values)
}

/// An id as the gateway records it: one in UUID form in lower case.
fn canonical(id: &str) -> String {
    crate::route::Id::parse(id).map_or_else(|| id.to_owned(), |id| id.as_str().to_owned())
}
