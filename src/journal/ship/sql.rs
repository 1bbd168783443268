//! The statements for the database. Its tables are in `schema.sql`.

use super::super::query::Query;
use super::super::record::unix_ms;
use super::super::row::Row;
use super::super::search::{
    Dialect, MOST_IDS, ResolvedId, Search, SearchSource, SearchTable, SearchValue, canonical,
};
use super::super::transfer::TransferQuery;
use super::outbox::ShipTable;

/// The format of the tables. Another one is another version's.
pub(super) const FORMAT: i32 = 1;

/// The SQL that makes the tables.
pub const SCHEMA: &str = include_str!("schema.sql");

/// An attempt that is there is changed by a later state of it alone: one that is complete is later than one that is not, then one
/// that was sent later, then one that answered somebody. So it does not matter in which order states arrive, and how often.
const INSERT_ATTEMPTS: &str = "
INSERT INTO exportgate.attempts AS a
SELECT * FROM json_populate_recordset(NULL::exportgate.attempts, $1::text::json)
ON CONFLICT (id, month) DO UPDATE SET (started_ms, latency_us, answered, received_id, export_id, status, export_status, bytes,
    version_served, lifecycle, deprecation, sunset, error, queued_us, waited_for)
  = (excluded.started_ms, excluded.latency_us, excluded.answered, excluded.received_id, excluded.export_id, excluded.status,
    excluded.export_status, excluded.bytes, excluded.version_served, excluded.lifecycle, excluded.deprecation, excluded.sunset,
    excluded.error, excluded.queued_us, excluded.waited_for)
WHERE (excluded.status IS NOT NULL OR excluded.error IS NOT NULL, excluded.started_ms, excluded.answered)
    > (a.status IS NOT NULL OR a.error IS NOT NULL, a.started_ms, a.answered)";

const INSERT_SERVED: &str = "
INSERT INTO exportgate.served SELECT * FROM json_populate_recordset(NULL::exportgate.served, $1::text::json)
ON CONFLICT DO NOTHING";

const INSERT_TRANSFERS: &str = "
INSERT INTO exportgate.transfers SELECT * FROM json_populate_recordset(NULL::exportgate.transfers, $1::text::json)
ON CONFLICT DO NOTHING";

/// Its version, and the settings with which it may lose what it has confirmed.
pub(super) const LOOK: &str = "
SELECT 'version ' || current_setting('server_version')
UNION ALL SELECT 'BAD ' || name || ' is off' FROM pg_settings
    WHERE name IN ('fsync', 'full_page_writes', 'synchronous_commit') AND setting = 'off'
UNION ALL SELECT 'BAD it is a replica' WHERE pg_is_in_recovery()";

const DIALECT: Dialect = Dialect {
    parameter: '$',
    answered: "a.answered",
    received: "lower(a.received_id)",
    serves: "s.attempt = a.id AND s.month = a.month",
};

/// Inserts the records of a table, given as one array in JSON.
pub(super) fn insert(table: ShipTable) -> &'static str {
    match table {
        ShipTable::Attempts => INSERT_ATTEMPTS,
        ShipTable::Served => INSERT_SERVED,
        ShipTable::Transfers => INSERT_TRANSFERS,
    }
}

/// Selects the ids in a column from the first value up to the second one, each of them once: some more than [`MOST_IDS`] at
/// the most.
pub(super) fn resolve(column: &str) -> String {
    let next = |after: &str| {
        format!(
            "SELECT {column} AS id FROM exportgate.attempts WHERE {column} {after} AND {column} < $2 ORDER BY {column} LIMIT 1"
        )
    };
    let (first, more) = (next(">= $1"), next("> found.id"));
    format!(
        "WITH RECURSIVE found AS (({first}) UNION ALL SELECT ({more}) FROM found WHERE found.id IS NOT NULL)
         SELECT id FROM found WHERE id IS NOT NULL LIMIT {}",
        MOST_IDS + 1
    )
}

/// Selects requests as JSON, the newest first.
pub(super) fn requests(query: &Query, ids: &[ResolvedId]) -> (String, Vec<SearchValue>) {
    let search = Search::of(query, ids, &DIALECT);
    let limit = query.limit;
    // Each source gives its newest rows by an index of its own.
    let one = |source: &SearchSource| {
        let (columns, from) = match source.table {
            SearchTable::Attempts => ("a.started_ms, a.id, a.month", "exportgate.attempts a"),
            SearchTable::Served => (
                "DISTINCT s.started_ms, s.attempt, s.month",
                "exportgate.served s JOIN exportgate.attempts a ON a.id = s.attempt AND a.month = s.month",
            ),
        };
        let condition = search.condition(source).replace("FROM served", "FROM exportgate.served");
        let newest = format!("ORDER BY 1 DESC, 2 DESC, 3 DESC LIMIT {limit}");
        // Asked for the newest of few rows, the planner may read all rows by their time instead of an index on the id.
        let newest = if source.is_few { "" } else { &*newest };
        format!("(SELECT {columns} FROM {from} WHERE {condition} {newest})")
    };
    let all = search.sources.iter().map(one).collect::<Vec<_>>().join(" UNION ");
    let text = format!(
        "SELECT to_json(r)::text FROM (
            SELECT {} FROM exportgate.requests
                JOIN (SELECT * FROM ({all}) every (started_ms, id, month) ORDER BY 1 DESC, 2 DESC, 3 DESC LIMIT {limit}) found USING (id, month)
            ORDER BY found.started_ms DESC, id DESC LIMIT {limit}) r",
        Row::COLUMNS
    );
    (text, search.values)
}

/// Selects transfers as JSON, the newest first.
pub(super) fn transfers(query: &TransferQuery) -> (String, Vec<SearchValue>) {
    let mut values = Vec::new();
    let mut filters = vec!["true".to_owned()];
    let mut filter = |condition: &str, value: SearchValue| {
        values.push(value);
        filters.push(condition.replace('?', &format!("${}", values.len())));
    };
    if let Some(id) = &query.id {
        filter("(request_id = ? OR export_id = ?)", SearchValue::Text(canonical(id)));
    }
    if let Some(client) = &query.client {
        filter("client = ?", SearchValue::Text(client.clone()));
    }
    for (condition, time) in [("started_ms >= ?", query.since), ("started_ms < ?", query.until)] {
        if let Some(time) = time {
            filter(condition, SearchValue::Number(unix_ms(time)));
        }
    }
    let text = format!(
        "SELECT to_json(r)::text FROM (
            SELECT to_char(timestamp 'epoch' + started_ms * interval '1 millisecond', 'YYYY-MM-DD\"T\"HH24:MI:SS.MS\"Z\"') AS started,
                duration_us / 1000.0 AS duration_ms, request_id, client, scope_kind, scope_id, export_id, file, host,
                range_first, range_last, bytes, resumes, renewals, outcome
            FROM exportgate.transfers WHERE {} ORDER BY started_ms DESC, request_id DESC LIMIT {}) r",
        filters.join(" AND "),
        query.limit
    );
    (text, values)
}
