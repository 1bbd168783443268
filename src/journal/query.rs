//! Finding records, while the gateway runs or not.

use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::{Duration, SystemTime};

use rusqlite::types::Value;
use rusqlite::{Connection, OpenFlags, OptionalExtension, params_from_iter};

use super::fault::JournalFault;
use super::record::unix_ms;
use super::row::Row;
use super::schema;

/// Steps of SQLite's machine between two looks at the clock.
const STEPS: i32 = 10_000;
/// Most ids to which the beginning of one is resolved: more than one is rare.
const MOST_IDS: usize = 16;
/// Longest wait for a writer that holds the file.
const PATIENCE: Duration = Duration::from_secs(2);

/// The filters of a search; all that are given must match.
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
    /// The result.
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

/// A filter by result: `404`, `5xx`, or `error` for no whole answer.
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
/// The forms that a time may have.
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

/// The reason that a search failed.
#[derive(Debug, thiserror::Error)]
pub enum QueryError {
    /// There is no journal at this place.
    #[error("there is no journal at {}: give --journal PATH, or the gateway's own --config", .0.display())]
    Missing(PathBuf),
    /// A directory above it may not be looked into.
    #[error("the journal at {} cannot be looked at: run this as the user of the gateway, or with sudo", path.display())]
    Hidden {
        /// Its path.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// The file cannot be read.
    #[error("the journal at {} cannot be read ({advice})", path.display())]
    Unreadable {
        /// Its path.
        path: PathBuf,
        /// The remedy.
        advice: &'static str,
        /// The cause.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// Finds records in the file at `path`, newest first.
///
/// # Errors
/// [`QueryError`].
pub fn find(path: &Path, query: &Query) -> Result<Vec<Row>, QueryError> {
    reading(path, || search(path, query))
}

/// Reads a journal that is there, by `search`.
pub(super) fn reading<T>(
    path: &Path,
    search: impl FnOnce() -> Result<T, JournalFault>,
) -> Result<T, QueryError> {
    match path.try_exists() {
        Ok(true) => {}
        Ok(false) => return Err(QueryError::Missing(path.to_owned())),
        Err(source) => return Err(QueryError::Hidden { path: path.to_owned(), source }),
    }
    search().map_err(|fault| QueryError::Unreadable {
        path: path.to_owned(),
        advice: fault.advice(),
        source: Box::new(fault),
    })
}

/// Opens a journal to read it.
pub(super) fn open(path: &Path, within: Option<Duration>) -> Result<Connection, JournalFault> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut connection = Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(within.unwrap_or(PATIENCE).min(PATIENCE))?;
    if let Some(within) = within {
        let began = tokio::time::Instant::now();
        connection.progress_handler(STEPS, Some(move || began.elapsed() > within))?;
    }
    schema::check(&connection)?;
    Ok(connection)
}

fn search(path: &Path, query: &Query) -> Result<Vec<Row>, JournalFault> {
    let connection = open(path, query.within)?;
    let search = Search::of(&connection, query)?;
    let columns = Row::COLUMNS;
    let found = format!(
        "SELECT {columns} FROM requests WHERE seq IN ({}) ORDER BY started DESC, seq DESC LIMIT {}",
        search.seqs(query.limit),
        query.limit
    );
    let mut select = connection.prepare(&found)?;
    let rows = select.query_map(params_from_iter(search.values), Row::read)?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}

/// A search. Each of its sources is read from the newest row on, until there are enough; which index is the best for that is
/// SQLite's to choose, by the statistics that the writer keeps.
#[derive(Debug, Default)]
struct Search {
    values: Vec<Value>,
    /// The conditions that a row `a` of `attempts` must meet, whatever source it is from.
    filters: Vec<String>,
    /// The bounds of a column `started_ms`.
    times: Vec<String>,
    /// The sources of rows, which together have all that match.
    sources: Vec<SearchSource>,
}

/// One table and the rows of it that are read.
#[derive(Debug)]
struct SearchSource {
    from: &'static str,
    /// The table whose column `started_ms` is read.
    table: char,
    condition: String,
}

impl SearchSource {
    fn attempts(condition: String) -> Self {
        Self { from: "attempts a", table: 'a', condition }
    }

    /// Reads those who joined, and their attempts.
    fn served(condition: String) -> Self {
        Self { from: "served s JOIN attempts a ON a.seq = s.attempt", table: 's', condition }
    }
}

impl Search {
    fn of(connection: &Connection, query: &Query) -> rusqlite::Result<Self> {
        let mut search = Self::default();
        for (relation, time) in [(">=", query.since), ("<", query.until)] {
            if let Some(time) = time {
                let time = search.bind(Value::Integer(unix_ms(time)));
                search.times.push(format!("started_ms {relation} {time}"));
            }
        }
        if let Some(any) = &query.id {
            search.sources = search.any_id(connection, &any.to_ascii_lowercase())?;
        }
        if let Some(export) = &query.export {
            let is_it = search.is_one(connection, "export_id", export)?;
            search.filters.push(is_it);
        }
        for (kind, scope) in [("org", &query.org), ("group", &query.group)] {
            if let Some(scope) = scope {
                let is_it = search.is_one(connection, "scope_id", scope)?;
                search.filters.push(format!("{is_it} AND a.scope_kind = '{kind}'"));
            }
        }
        if let Some(status) = query.status {
            let status = Self::status(status);
            search.filters.push(status);
        }
        if let Some(client) = &query.client {
            let client = search.bind(Value::Text(client.clone()));
            let (caused, joined) =
                (format!("a.client = {client} AND a.answered = 1"), format!("s.client = {client}"));
            if search.sources.is_empty() {
                search.sources = vec![SearchSource::attempts(caused), SearchSource::served(joined)];
            } else {
                search.filters.push(format!(
                    "(({caused}) OR EXISTS (SELECT 1 FROM served s WHERE s.attempt = a.seq AND {joined}))"
                ));
            }
        }
        if search.sources.is_empty() {
            search.sources.push(SearchSource::attempts("true".to_owned()));
        }
        Ok(search)
    }

    fn bind(&mut self, value: Value) -> String {
        self.values.push(value);
        format!("?{}", self.values.len())
    }

    /// Selects the `seq` of the newest records.
    fn seqs(&self, limit: u32) -> String {
        let sources = self.sources.iter().map(|source| {
            let SearchSource { from, table, condition } = source;
            let times = self.times.iter().map(|time| format!(" AND {table}.{time}"));
            let filters = self.filters.iter().map(|filter| format!(" AND {filter}"));
            let more: String = times.chain(filters).collect();
            format!(
                "SELECT a.seq AS seq, {table}.started_ms AS started_ms FROM {from} WHERE {condition}{more}"
            )
        });
        // An attempt can have answered many requests that are looked for, and is counted once.
        let all = sources.collect::<Vec<_>>().join(" UNION ");
        format!("SELECT seq FROM ({all} ORDER BY started_ms DESC, seq DESC LIMIT {limit})")
    }

    /// The condition of a status. Those that are not 200 have an index of their own; nearly all are 200, and are found soon by
    /// their time.
    fn status(status: StatusFilter) -> String {
        let (class, exactly) = match status {
            StatusFilter::Exactly(status) => (status / 100, format!(" AND a.status = {status}")),
            StatusFilter::Class(class) => (class, String::new()),
            StatusFilter::Error => return "(a.error IS NOT NULL OR a.status IS NULL)".to_owned(),
        };
        let is_rare = !matches!(status, StatusFilter::Exactly(200) | StatusFilter::Class(2));
        let rare = if is_rare { " AND a.status <> 200" } else { "" };
        format!("a.status / 100 = {class}{exactly}{rare}")
    }

    /// The sources of records that have `id`, or an id that begins with it if it is the beginning of a UUID. That is
    /// looked for in the export and its scope too, for the table shortens these.
    fn any_id(&mut self, connection: &Connection, id: &str) -> rusqlite::Result<Vec<SearchSource>> {
        let mut is = |column| is_or_begins(column, id, &mut self.values);
        let received = format!("a.received_id <> a.sent_id AND {}", is("a.received_id COLLATE NOCASE"));
        let mut sources = vec![
            SearchSource::attempts(is("a.request_id")),
            SearchSource::attempts(is("a.id")),
            SearchSource::attempts(format!("a.sent_id <> a.id AND {}", is("a.sent_id"))),
            SearchSource::attempts(received),
            SearchSource::served(is("s.request_id")),
        ];
        if begins_a_uuid(id) {
            sources.push(SearchSource::attempts(self.is_one(connection, "export_id", id)?));
            sources.push(SearchSource::attempts(self.is_one(connection, "scope_id", id)?));
        }
        Ok(sources)
    }

    /// The condition that `column` of `attempts` is `id`, or begins with it, where that is the beginning of a UUID.
    /// It is resolved to the whole id, for an index is in the order of time within one id alone.
    fn is_one(&mut self, connection: &Connection, column: &str, id: &str) -> rusqlite::Result<String> {
        let lower = id.to_ascii_lowercase();
        if !begins_a_uuid(&lower) {
            let id = self.bind(Value::Text(canonical(id)));
            return Ok(format!("a.{column} = {id}"));
        }
        // Ids that are no UUIDs are kept as they were written.
        let mut ids = if lower == id { Vec::new() } else { vec![id.to_owned()] };
        let mut next = connection.prepare(&format!(
            "SELECT {column} FROM attempts WHERE {column} >= ?1 AND {column} < ?2 ORDER BY {column} LIMIT 1"
        ))?;
        let (mut first, end) = (lower.clone(), format!("{lower}g"));
        while ids.len() <= MOST_IDS
            && let Some(found) = next.query_row((&first, &end), |row| row.get::<_, String>(0)).optional()?
        {
            // What comes right after it.
            first = format!("{found}\u{1}");
            ids.push(found);
        }
        drop(next);
        if ids.is_empty() {
            ids.push(lower.clone());
        }
        if ids.len() > MOST_IDS {
            return Ok(is_or_begins(&format!("a.{column}"), &lower, &mut self.values));
        }
        let ids: Vec<_> = ids.into_iter().map(|id| self.bind(Value::Text(id))).collect();
        Ok(match ids.as_slice() {
            [id] => format!("a.{column} = {id}"),
            ids => format!("a.{column} IN ({})", ids.join(", ")),
        })
    }
}

/// The condition that `column` is `id`, or begins with it, where that is the beginning of a UUID in lower case.
fn is_or_begins(column: &str, id: &str, values: &mut Vec<Value>) -> String {
    let mut bind = |text: String| {
        values.push(Value::Text(text));
        format!("?{}", values.len())
    };
    if !begins_a_uuid(id) {
        return format!("{column} = {}", bind(canonical(id)));
    }
    // A range is read off the index, which LIKE is not; nothing in a UUID comes after "f".
    let (first, end) = (bind(id.to_owned()), bind(format!("{id}g")));
    format!("{column} >= {first} AND {column} < {end}")
}

/// True if `id` is the beginning of a UUID in lower case, and long enough to be told from others.
fn begins_a_uuid(id: &str) -> bool {
    let fits = |(at, byte): (usize, u8)| match at {
        8 | 13 | 18 | 23 => byte == b'-',
        _ => matches!(byte, b'0'..=b'9' | b'a'..=b'f'),
    };
    (8..36).contains(&id.len()) && id.bytes().enumerate().all(fits)
}

/// An id as the gateway records it: one in UUID form in lower case.
pub(super) fn canonical(id: &str) -> String {
    crate::export::Id::parse(id).map_or_else(|| id.to_owned(), |id| id.as_str().to_owned())
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    /// SQLite's plan of a search.
    fn explained(query: &Query) -> String {
        let mut connection = Connection::open_in_memory().unwrap();
        schema::create(&mut connection).unwrap();
        let search = Search::of(&connection, query).unwrap();
        let explain = format!("EXPLAIN QUERY PLAN {}", search.seqs(50));
        let mut explain = connection.prepare(&explain).unwrap();
        let steps = explain.query_map(params_from_iter(&search.values), |row| row.get("detail")).unwrap();
        steps.map(Result::<String, _>::unwrap).collect::<Vec<_>>().join("\n")
    }

    #[test]
    fn rare_statuses_are_read_off_their_index_and_others_by_time() {
        for (status, index) in [
            ("200", "SCAN a USING INDEX attempts_started"),
            ("2xx", "SCAN a USING INDEX attempts_started"),
            ("201", "SEARCH a USING COVERING INDEX attempts_status (<expr>=?)"),
            ("202", "SEARCH a USING COVERING INDEX attempts_status (<expr>=?)"),
            ("204", "SEARCH a USING COVERING INDEX attempts_status (<expr>=?)"),
            ("404", "SEARCH a USING COVERING INDEX attempts_status (<expr>=?)"),
            ("5xx", "SEARCH a USING COVERING INDEX attempts_status (<expr>=?)"),
            ("error", "SCAN a USING INDEX attempts_error"),
        ] {
            let explained = explained(&Query { status: status.parse().ok(), ..Query::default() });
            assert!(explained.contains(index), "{status}: {explained}");
            assert!(!explained.contains("B-TREE FOR ORDER BY"), "{status}: {explained}");
        }
    }

    #[test]
    fn what_joined_is_read_in_the_order_of_its_index() {
        let explained = explained(&Query { client: Some("bob".into()), ..Query::default() });
        assert!(explained.contains("SEARCH s USING COVERING INDEX served_client (client=?)"), "{explained}");
        assert!(!explained.contains("GROUP BY"), "{explained}");
    }
}
