//! Finding records in the file, while the gateway runs or not.

use std::path::Path;
use std::time::Duration;

use rusqlite::types::Value;
use rusqlite::{Connection, OpenFlags, OptionalExtension, params_from_iter};

use super::fault::JournalFault;
use super::query::{Query, QueryError};
use super::row::Row;
use super::schema;
use super::search::{
    self, BeginningOfId, Dialect, MOST_IDS, ResolvedId, Search, SearchSource, SearchTable, SearchValue,
};
use crate::clock::Clock;

/// Steps of SQLite's machine between two looks at the clock.
const STEPS: i32 = 10_000;
/// Longest wait for a writer that holds the file.
const PATIENCE: Duration = Duration::from_secs(2);

/// Finds records in the file at `path`, newest first.
///
/// # Errors
/// [`QueryError`].
pub fn find(path: &Path, query: &Query) -> Result<Vec<Row>, QueryError> {
    reading(path, || select(path, query))
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
        let now = || Clock::system().now().mono;
        let end = now() + within;
        connection.progress_handler(STEPS, Some(move || now() > end))?;
    }
    schema::check(&connection)?;
    Ok(connection)
}

fn select(path: &Path, query: &Query) -> Result<Vec<Row>, JournalFault> {
    let connection = open(path, query.within)?;
    let ids = resolved(&connection, query)?;
    let search = Search::of(query, &ids, &SQLITE);
    let columns = Row::COLUMNS;
    let found = format!(
        "SELECT {columns} FROM requests WHERE seq IN ({}) ORDER BY started DESC, seq DESC LIMIT {}",
        seqs(&search, query.limit),
        query.limit
    );
    let mut select = connection.prepare(&found)?;
    let rows = select.query_map(params_from_iter(values(&search)), Row::read)?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}

fn values(search: &Search) -> impl Iterator<Item = Value> {
    search.values.iter().map(|value| match value {
        SearchValue::Text(text) => Value::Text(text.clone()),
        SearchValue::Number(number) => Value::Integer(*number),
    })
}

/// Selects the `seq` of the newest records.
fn seqs(search: &Search, limit: u32) -> String {
    let one = |source: &SearchSource| {
        let (from, started) = match source.table {
            SearchTable::Attempts => ("attempts a", "a.started_ms"),
            SearchTable::Served => ("served s JOIN attempts a ON a.seq = s.attempt", "s.started_ms"),
        };
        let condition = search.condition(source);
        format!("SELECT a.seq AS seq, {started} AS started_ms FROM {from} WHERE {condition}")
    };
    // An attempt can have answered many requests that are looked for, and is counted once.
    let all = search.sources.iter().map(one).collect::<Vec<_>>().join(" UNION ");
    format!("SELECT seq FROM ({all} ORDER BY started_ms DESC, seq DESC LIMIT {limit})")
}

/// The ids that begin as those of the query do.
fn resolved(connection: &Connection, query: &Query) -> rusqlite::Result<Vec<ResolvedId>> {
    let one = |asked: BeginningOfId| {
        let column = asked.column;
        let mut next = connection.prepare(&format!(
            "SELECT {column} FROM attempts WHERE {column} >= ?1 AND {column} < ?2 ORDER BY {column} LIMIT 1"
        ))?;
        let (mut first, mut ids) = (asked.text.clone(), Vec::new());
        while ids.len() <= MOST_IDS
            && let Some(found) =
                next.query_row((&first, asked.end()), |row| row.get::<_, String>(0)).optional()?
        {
            // What comes right after it.
            first = format!("{found}\u{1}");
            ids.push(found);
        }
        Ok(ResolvedId { asked, ids })
    };
    search::beginnings(query).into_iter().map(one).collect()
}

const SQLITE: Dialect = Dialect {
    parameter: '?',
    answered: "a.answered = 1",
    received: "a.received_id COLLATE NOCASE",
    serves: "s.attempt = a.seq",
};

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    /// SQLite's plan of a search.
    fn explained(query: &Query) -> String {
        let mut connection = Connection::open_in_memory().unwrap();
        schema::create(&mut connection).unwrap();
        let search = Search::of(query, &[], &SQLITE);
        let explain = format!("EXPLAIN QUERY PLAN {}", seqs(&search, 50));
        let mut explain = connection.prepare(&explain).unwrap();
        let steps = explain.query_map(params_from_iter(values(&search)), |row| row.get("detail")).unwrap();
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
