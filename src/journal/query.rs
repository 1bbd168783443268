//! Finding records, while the gateway runs or not.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::{Duration, SystemTime};

use rusqlite::types::Value;
use rusqlite::{Connection, OpenFlags, params_from_iter};

use super::database::unix_ms;
use super::fault::Fault;
use super::row::Row;
use super::schema;

/// How many steps of SQLite's machine between two looks at the clock.
const STEPS: i32 = 10_000;
/// How long to wait for a writer that holds the file.
const PATIENCE: Duration = Duration::from_secs(2);

/// What to look for; everything given must match.
#[derive(Debug, Clone, Default)]
pub struct Query {
    /// The export's id. Of this and of the other ids, one that is a UUID may be given by its first eight
    /// characters, or more of them.
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
    /// Longest that it may take; without, as long as it takes.
    pub within: Option<Duration>,
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
    /// A directory above it may not be looked into.
    #[error("the journal at {} cannot be looked at: run this as the user of the gateway, or with sudo", path.display())]
    Hidden {
        /// Where it is.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
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
    match path.try_exists() {
        Ok(true) => {}
        Ok(false) => return Err(QueryError::Missing(path.to_owned())),
        Err(source) => return Err(QueryError::Hidden { path: path.to_owned(), source }),
    }
    search(path, query).map_err(|fault| QueryError::Unreadable {
        path: path.to_owned(),
        advice: fault.advice(),
        source: Box::new(fault),
    })
}

fn search(path: &Path, query: &Query) -> Result<Vec<Row>, Fault> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut connection = Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(query.within.unwrap_or(PATIENCE).min(PATIENCE))?;
    if let Some(within) = query.within {
        let began = tokio::time::Instant::now();
        connection.progress_handler(STEPS, Some(move || began.elapsed() > within))?;
    }
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
    if let Some(export) = &query.export {
        all.push(is_or_begins("export_id", export, &mut values));
    }
    for (kind, scope) in [("org", &query.org), ("group", &query.group)] {
        if let Some(scope) = scope {
            let is_it = is_or_begins("scope_id", scope, &mut values);
            all.push(format!("{is_it} AND scope_kind = '{kind}'"));
        }
    }
    let mut bind = |value| {
        values.push(value);
        format!("?{}", values.len())
    };
    if let Some(client) = &query.client {
        let client = bind(Value::Text(client.clone()));
        all.push(format!("seq IN (SELECT attempt FROM served WHERE client = {client})"));
    }
    match query.status {
        None => {}
        Some(StatusFilter::Exactly(status)) => {
            let status = bind(Value::Integer(i64::from(status)));
            all.push(format!("status / 100 = {status} / 100 AND status = {status}"));
        }
        Some(StatusFilter::Class(class)) => {
            all.push(format!("status / 100 = {}", bind(Value::Integer(i64::from(class)))));
        }
        Some(StatusFilter::Error) => all.push("(error IS NOT NULL OR status IS NULL)".to_owned()),
    }
    for (relation, time) in [(">=", query.since), ("<", query.until)] {
        if let Some(time) = time {
            all.push(format!("started_ms {relation} {}", bind(Value::Integer(unix_ms(time)))));
        }
    }
    if let Some(any) = &query.id {
        all.push(is_any(&any.to_ascii_lowercase(), &mut values));
    }
    (all.join(" AND "), values)
}

/// Whether one of a record's ids is `id`; or the beginning of a UUID, whether one begins with it, those of the
/// export and its scope too, for these are what the table shortens.
fn is_any(id: &str, values: &mut Vec<Value>) -> String {
    let mut is = |column| is_or_begins(column, id, values);
    let mut any = format!(
        "seq IN (SELECT seq FROM attempts WHERE {}
            UNION SELECT seq FROM attempts WHERE {}
            UNION SELECT seq FROM attempts WHERE received_id <> sent_id AND {}
            UNION SELECT attempt FROM served WHERE {}",
        is("request_id"),
        is("sent_id"),
        is("received_id COLLATE NOCASE"),
        is("request_id")
    );
    if begins_a_uuid(id) {
        let (export, scope) = (is("export_id"), is("scope_id"));
        let _ = write!(
            any,
            "
            UNION SELECT seq FROM attempts WHERE {export}
            UNION SELECT seq FROM attempts WHERE {scope}"
        );
    }
    any.push(')');
    any
}

/// The condition that `column` is `id`, or begins with it, where that is the beginning of a UUID.
fn is_or_begins(column: &str, id: &str, values: &mut Vec<Value>) -> String {
    let mut bind = |text: String| {
        values.push(Value::Text(text));
        format!("?{}", values.len())
    };
    let lower = id.to_ascii_lowercase();
    if !begins_a_uuid(&lower) {
        return format!("{column} = {}", bind(canonical(id)));
    }
    // A range is read off the index, which LIKE is not; nothing in a UUID comes after "f".
    let (first, end) = (bind(lower.clone()), bind(format!("{lower}g")));
    let begins = format!("{column} >= {first} AND {column} < {end}");
    // Ids that are no UUIDs are kept as they were written.
    if lower == id { begins } else { format!("({column} = {} OR ({begins}))", bind(id.to_owned())) }
}

/// Whether `id` is the beginning of a UUID in lower case, and long enough to be told from others.
fn begins_a_uuid(id: &str) -> bool {
    let fits = |(at, byte): (usize, u8)| match at {
        8 | 13 | 18 | 23 => byte == b'-',
        _ => matches!(byte, b'0'..=b'9' | b'a'..=b'f'),
    };
    (8..36).contains(&id.len()) && id.bytes().enumerate().all(fits)
}

/// An id as the gateway records it: one in UUID form in lower case.
fn canonical(id: &str) -> String {
    crate::route::Id::parse(id).map_or_else(|| id.to_owned(), |id| id.as_str().to_owned())
}
