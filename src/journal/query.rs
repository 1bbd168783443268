//! Finding records, while the gateway runs or not.

use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::{Duration, SystemTime};

use rusqlite::types::Value;
use rusqlite::{Connection, OpenFlags, OptionalExtension, params_from_iter};

use super::database::unix_ms;
use super::fault::Fault;
use super::row::Row;
use super::schema;

/// How many steps of SQLite's machine between two looks at the clock.
const STEPS: i32 = 10_000;
/// How many rows of each index are counted to see which has the fewest: some milliseconds' worth.
const PROBED: u32 = 20_000;
/// To how many ids the beginning of one is resolved: more than one is rare.
const MOST_IDS: usize = 16;
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
    let plan = Plan::of(&connection, query)?;
    let columns = Row::COLUMNS;
    let found = format!(
        "SELECT {columns} FROM requests WHERE seq IN ({}) ORDER BY started DESC, seq DESC LIMIT {}",
        plan.seqs(query.limit),
        query.limit
    );
    let mut select = connection.prepare(&found)?;
    let rows = select.query_map(params_from_iter(plan.values), Row::read)?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}

/// How records are found: read off an index, the newest first, each looked at for the other conditions, until there
/// are enough. SQLite keeps no statistics here, and would guess which index leads to the fewest rows; so they are
/// counted first, up to [`PROBED`] each.
#[derive(Debug, Default)]
struct Plan {
    values: Vec<Value>,
    /// What a row `a` of `attempts` must meet besides.
    filters: Vec<String>,
    /// The times that are looked for, of a column `started_ms`.
    times: Vec<String>,
    /// Where rows are read from: together they have all that are looked for.
    arms: Vec<Arm>,
}

/// How the rows that meet one condition are found.
#[derive(Debug)]
struct Way {
    /// Where they are read from; none where nothing but time leads to them.
    arms: Vec<Arm>,
    /// The condition, of a row `a` of `attempts` that was found another way.
    filter: String,
}

/// One index and the rows of it that are read.
#[derive(Debug, Clone)]
struct Arm {
    /// A table, and the index that it is read by.
    from: String,
    /// What selects the rows.
    condition: String,
    /// The table that has the times in the order of the index.
    table: char,
}

impl Arm {
    /// Reads `attempts` by `index`.
    fn attempts(index: &str, condition: String) -> Self {
        Self { from: format!("attempts a INDEXED BY attempts_{index}"), condition, table: 'a' }
    }

    /// Reads `served` by `index`, and its attempts.
    fn served(index: &str, condition: String) -> Self {
        let from = format!("served s INDEXED BY served_{index} CROSS JOIN attempts a ON a.seq = s.attempt");
        Self { from, condition, table: 's' }
    }
}

impl Plan {
    fn of(connection: &Connection, query: &Query) -> rusqlite::Result<Self> {
        let mut plan = Self::default();
        for (relation, time) in [(">=", query.since), ("<", query.until)] {
            if let Some(time) = time {
                let time = plan.bind(Value::Integer(unix_ms(time)));
                plan.times.push(format!("started_ms {relation} {time}"));
            }
        }
        let mut ways = Vec::new();
        if let Some(any) = &query.id {
            // What is looked for by its id is few: no other way is better.
            ways.push(Way {
                arms: plan.any_id(connection, &any.to_ascii_lowercase())?,
                filter: String::new(),
            });
        }
        if let Some(export) = &query.export {
            let is_it = plan.is_one(connection, "export_id", export)?;
            ways.push(Way { arms: vec![Arm::attempts("export", is_it.clone())], filter: is_it });
        }
        if let Some(status) = query.status {
            ways.push(plan.status(status));
        }
        if let Some(client) = &query.client {
            let client = plan.bind(Value::Text(client.clone()));
            let (caused, joined) =
                (format!("a.client = {client} AND a.answered = 1"), format!("s.client = {client}"));
            // The plus keeps the index of clients out of it: those of one attempt are few, those of a client are not.
            let filter = format!(
                "(({caused}) OR EXISTS (SELECT 1 FROM served s WHERE s.attempt = a.seq AND +{joined}))"
            );
            ways.push(Way {
                arms: vec![Arm::attempts("client", caused), Arm::served("client", joined)],
                filter,
            });
        }
        for (kind, scope) in [("org", &query.org), ("group", &query.group)] {
            if let Some(scope) = scope {
                let is_it = plan.is_one(connection, "scope_id", scope)?;
                let is_it = format!("{is_it} AND a.scope_kind = '{kind}'");
                ways.push(Way { arms: vec![Arm::attempts("scope", is_it.clone())], filter: is_it });
            }
        }
        let best = if query.id.is_some() { Some(0) } else { plan.shortest(connection, &ways)? };
        plan.arms = match best {
            Some(best) => ways.swap_remove(best).arms,
            None => vec![Arm::attempts("started", "true".to_owned())],
        };
        plan.filters = ways.into_iter().map(|way| way.filter).collect();
        Ok(plan)
    }

    fn bind(&mut self, value: Value) -> String {
        self.values.push(value);
        format!("?{}", self.values.len())
    }

    /// Which way has the fewest rows; `None` where there is nothing to read but the newest.
    fn shortest(&self, connection: &Connection, ways: &[Way]) -> rusqlite::Result<Option<usize>> {
        let ways = || ways.iter().enumerate().filter(|(_, way)| !way.arms.is_empty());
        if ways().count() < 2 {
            return Ok(ways().next().map(|(place, _)| place));
        }
        let mut best = (None, i64::MAX);
        for (place, way) in ways() {
            let mut rows = 0;
            for arm in &way.arms {
                let (from, condition) = (&arm.from, self.with_times(arm));
                let count =
                    format!("SELECT count(*) FROM (SELECT 1 FROM {from} WHERE {condition} LIMIT {PROBED})");
                let mut count = connection.prepare(&count)?;
                let needed = self.values.iter().take(count.parameter_count());
                rows += count.query_row(params_from_iter(needed), |row| row.get::<_, i64>(0))?;
            }
            if rows < best.1 {
                best = (Some(place), rows);
            }
        }
        Ok(best.0)
    }

    fn with_times(&self, arm: &Arm) -> String {
        let times = self.times.iter().map(|time| format!(" AND {}.{time}", arm.table));
        times.fold(arm.condition.clone(), |all, time| all + &time)
    }

    /// Selects the `seq` of the newest records, as many as `limit` from each arm.
    fn seqs(&self, limit: u32) -> String {
        let filters = self.filters.iter().fold(String::new(), |all, filter| all + " AND " + filter);
        let arms = self.arms.iter().map(|arm| {
            let (from, condition, table) = (&arm.from, self.with_times(arm), arm.table);
            // An attempt can have answered many requests that are looked for, and is to be counted once.
            let (seq, once) = match table {
                's' => ("attempt", "GROUP BY s.started_ms, s.attempt"),
                _ => ("seq", ""),
            };
            format!(
                "SELECT seq FROM (SELECT a.seq AS seq FROM {from} WHERE {condition}{filters} {once}
                    ORDER BY {table}.started_ms DESC, {table}.{seq} DESC LIMIT {limit})"
            )
        });
        let arms: Vec<_> = arms.collect();
        arms.join(" UNION ")
    }

    /// A status is looked for in an index of those that are not 200. Nearly all are: they, and with them their class,
    /// are found soon by any other way.
    fn status(&mut self, status: StatusFilter) -> Way {
        let (class, exactly, is_rare) = match status {
            StatusFilter::Exactly(status) => {
                let exactly = self.bind(Value::Integer(i64::from(status)));
                (status / 100, format!(" AND a.status = {exactly}"), status != 200)
            }
            StatusFilter::Class(class) => (class, String::new(), class != 2),
            StatusFilter::Error => {
                let filter = "(a.error IS NOT NULL OR a.status IS NULL)".to_owned();
                return Way { arms: vec![Arm::attempts("error", filter.clone())], filter };
            }
        };
        let filter = format!("a.status / 100 = {class}{exactly}");
        let arm = is_rare.then(|| Arm::attempts("status", format!("a.status <> 200 AND {filter}")));
        Way { arms: arm.into_iter().collect(), filter }
    }

    /// Where one of a record's ids is `id`; or the beginning of a UUID, where one begins with it, those of the
    /// export and its scope too, for these are what the table shortens.
    fn any_id(&mut self, connection: &Connection, id: &str) -> rusqlite::Result<Vec<Arm>> {
        let mut is = |column| is_or_begins(column, id, &mut self.values);
        let mut arms = vec![
            Arm::attempts("request", is("a.request_id")),
            Arm::attempts("sent", is("a.sent_id")),
            Arm::attempts(
                "received",
                format!("a.received_id <> a.sent_id AND {}", is("a.received_id COLLATE NOCASE")),
            ),
            Arm::served("request", is("s.request_id")),
        ];
        if begins_a_uuid(id) {
            arms.push(Arm::attempts("export", self.is_one(connection, "export_id", id)?));
            let scope = self.is_one(connection, "scope_id", id)?;
            let of = |kind| Arm::attempts("scope", format!("{scope} AND a.scope_kind = '{kind}'"));
            arms.extend(["org", "group"].map(of));
        }
        Ok(arms)
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
    crate::export::Id::parse(id).map_or_else(|| id.to_owned(), |id| id.as_str().to_owned())
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    /// How SQLite finds the records.
    fn explained(query: &Query) -> String {
        let mut connection = Connection::open_in_memory().unwrap();
        schema::migrate(&mut connection).unwrap();
        let plan = Plan::of(&connection, query).unwrap();
        let explain = format!("EXPLAIN QUERY PLAN {}", plan.seqs(50));
        let mut explain = connection.prepare(&explain).unwrap();
        let steps = explain.query_map(params_from_iter(&plan.values), |row| row.get("detail")).unwrap();
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
