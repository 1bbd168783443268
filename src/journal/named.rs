//! The states of named exports: one row for each name and question, changed by one process at a time.
//!
//! Invariant: a state changes only in a transaction in which the process holds the lease of its row. A lease ends by the
//! clock, and its fence grows with every new holder, so that whoever was suspended meanwhile changes nothing any more.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use rusqlite::{Connection, OptionalExtension as _, params};
use uuid::Uuid;

use super::record::{NOT_PROCESSED, unix_ms};

/// Length of a lease.
const LEASE: Duration = Duration::from_secs(30);
/// A lease is renewed when less than this is left of it.
const RENEWED_AT: Duration = Duration::from_secs(20);
/// A lease that would end even later was made before the clock went back.
const AHEAD: Duration = Duration::from_secs(1);
/// Rows that no process has had for so long are deleted: Snyk has deleted their files.
const FORGOTTEN_AFTER: Duration = Duration::from_hours(7 * 24);
/// Snyk's window of starts.
const STARTS_WINDOW: Duration = Duration::from_hours(1);

/// The key of a row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamedKey {
    /// The name.
    pub name: String,
    /// The digest of the question.
    pub question: String,
}

/// A row within a transaction, for whoever holds its lease.
pub struct NamedView<'a> {
    /// The state; `None` in a new row.
    pub state: Option<&'a str>,
    /// The time, after the wait for the file's lock.
    pub now: SystemTime,
    /// The start calls of a credential in the last hour, of all processes, and those that other rows have claimed.
    pub starts: &'a dyn Fn(&str) -> u32,
}

impl fmt::Debug for NamedView<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NamedView").field("state", &self.state).finish_non_exhaustive()
    }
}

/// A row after a transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamedRow {
    /// The state; `None` before the first one.
    pub state: Option<String>,
    /// The number of the holder.
    pub fence: i64,
    /// True if the lease is ours, so that the change was made.
    pub is_held: bool,
}

type StateChange = Box<dyn Fn(&NamedView<'_>) -> Option<String> + Send>;

/// A change of a row, to be made where the lease is or becomes ours.
pub struct NamedChange {
    /// The row.
    pub key: NamedKey,
    /// This process.
    pub holder: Uuid,
    /// The fence that the lease must have, for a change that goes on with something.
    pub fence: Option<i64>,
    /// True if the lease ends with it. It changes nothing where it is not ours.
    pub is_last: bool,
    /// Gives the new state, or nothing to leave it.
    pub change: StateChange,
}

impl fmt::Debug for NamedChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NamedChange").field("key", &self.key).finish_non_exhaustive()
    }
}

/// A change on its way to the writer, and the row that it leaves.
#[derive(Debug)]
pub(super) struct NamedJob {
    pub(super) change: NamedChange,
    pub(super) row: Arc<Mutex<Option<NamedRow>>>,
}

struct Lease {
    holder: String,
    fence: i64,
    until_ms: i64,
    state: Option<String>,
}

impl NamedJob {
    /// Makes the change, within the transaction of the caller.
    pub(super) fn run(&self, connection: &Connection, now: SystemTime) -> rusqlite::Result<()> {
        let row = apply(&self.change, connection, now)?;
        *self.row.lock().unwrap_or_else(PoisonError::into_inner) = Some(row);
        Ok(())
    }
}

fn apply(change: &NamedChange, connection: &Connection, now: SystemTime) -> rusqlite::Result<NamedRow> {
    let NamedChange { key, holder, .. } = change;
    let holder = holder.to_string();
    let before = find(connection, key)?;
    let now_ms = unix_ms(now);
    let is_ours = before.as_ref().is_some_and(|lease| lease.holder == holder);
    let (is_free, fence) = match &before {
        None => (true, 1),
        Some(lease) if is_ours => (true, lease.fence),
        Some(lease) => (!is_running(lease, now_ms), lease.fence.saturating_add(1)),
    };
    let state = before.as_ref().and_then(|lease| lease.state.clone());
    let is_free = is_free && (is_ours || !change.is_last);
    if !is_free || change.fence.is_some_and(|expected| expected != fence) {
        let fence = before.map_or(0, |lease| lease.fence);
        return Ok(NamedRow { state, fence, is_held: false });
    }
    let starts = |credential: &str| starts(connection, key, credential, now).unwrap_or(u32::MAX);
    let view = NamedView { state: state.as_deref(), now, starts: &starts };
    let new = (change.change)(&view);
    let left = before.as_ref().map_or(0, |lease| lease.until_ms.saturating_sub(now_ms));
    // A clock that went back leaves a lease that seems too long.
    let is_fresh = left >= span_ms(RENEWED_AT) && left <= span_ms(LEASE);
    if new.is_some() || !is_ours || !is_fresh || change.is_last {
        let until_ms = now_ms + if change.is_last { 0 } else { span_ms(LEASE) };
        let row = NamedRow { state: new.or(state), fence, is_held: true };
        put(connection, key, &Lease { holder, fence, until_ms, state: row.state.clone() })?;
        if before.is_none() {
            let mut forget =
                connection.prepare_cached("DELETE FROM named_exports WHERE lease_until_ms < ?1")?;
            forget.execute([now_ms - span_ms(FORGOTTEN_AFTER)])?;
        }
        return Ok(row);
    }
    Ok(NamedRow { state, fence, is_held: true })
}

fn is_running(lease: &Lease, now_ms: i64) -> bool {
    let left = lease.until_ms.saturating_sub(now_ms);
    left > 0 && left <= span_ms(LEASE + AHEAD)
}

fn find(connection: &Connection, key: &NamedKey) -> rusqlite::Result<Option<Lease>> {
    let mut select = connection.prepare_cached(
        "SELECT holder, fence, lease_until_ms, state FROM named_exports WHERE name = ?1 AND question = ?2",
    )?;
    let found = select.query_row([&key.name, &key.question], |row| {
        Ok(Lease { holder: row.get(0)?, fence: row.get(1)?, until_ms: row.get(2)?, state: row.get(3)? })
    });
    found.optional()
}

fn put(connection: &Connection, key: &NamedKey, lease: &Lease) -> rusqlite::Result<()> {
    let mut put = connection.prepare_cached(
        "INSERT INTO named_exports (name, question, holder, fence, lease_until_ms, state)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6)
         ON CONFLICT DO UPDATE SET holder = ?3, fence = ?4, lease_until_ms = ?5, state = ?6",
    )?;
    let Lease { holder, fence, until_ms, state } = lease;
    put.execute(params![key.name, key.question, holder, fence, until_ms, state])?;
    Ok(())
}

/// Counts the start calls of the last hour that Snyk may have seen, and the claims of other rows that have none yet.
///
/// Times after the next hour are from before the clock went back.
fn starts(
    connection: &Connection,
    key: &NamedKey,
    credential: &str,
    now: SystemTime,
) -> rusqlite::Result<u32> {
    let not_processed = NOT_PROCESSED.join("', '");
    let counts = format!("operation = 'start' AND coalesce(error, '') NOT IN ('{not_processed}')");
    let mut count = connection.prepare_cached(&format!(
        "SELECT (SELECT count(*) FROM attempts
            WHERE started_ms > ?1 AND started_ms < ?2 AND credential = ?3 AND {counts})
         + (SELECT count(*) FROM (SELECT name, question, state ->> '$.claimed.at_ms' AS at_ms,
                state ->> '$.claimed.credential' AS credential, state ->> '$.claimed.request' AS request
                FROM (SELECT name, question, iif(json_valid(state), state, '{{}}') AS state FROM named_exports))
            WHERE at_ms > ?1 AND at_ms < ?2 AND credential = ?3 AND (name <> ?4 OR question <> ?5)
                AND NOT EXISTS (SELECT 1 FROM attempts WHERE request_id = request AND {counts}))",
    ))?;
    let [since, until] = [now.checked_sub(STARTS_WINDOW), now.checked_add(STARTS_WINDOW)];
    let (since, until) = (since.map_or(i64::MIN, unix_ms), until.map_or(i64::MAX, unix_ms));
    count.query_row(params![since, until, credential, key.name, key.question], |row| row.get(0))
}

fn span_ms(span: Duration) -> i64 {
    i64::try_from(span.as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::schema;

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000 + seconds)
    }

    fn change(holder: u128, fence: Option<i64>, to: Option<&'static str>) -> NamedChange {
        let key = NamedKey { name: "a".to_owned(), question: "q".to_owned() };
        let change = Box::new(move |_: &NamedView<'_>| to.map(str::to_owned));
        NamedChange { key, holder: Uuid::from_u128(holder), fence, is_last: false, change }
    }

    #[test]
    fn a_state_changes_only_under_the_lease_of_its_row() {
        let mut connection = Connection::open_in_memory().expect("a database");
        schema::create(&mut connection).expect("tables");
        let run = |change: NamedChange, seconds| apply(&change, &connection, at(seconds)).expect("a row");
        let row = |state: Option<&str>, fence, is_held| NamedRow {
            state: state.map(str::to_owned),
            fence,
            is_held,
        };
        assert_eq!(run(change(1, None, Some("x")), 0), row(Some("x"), 1, true));
        assert_eq!(run(change(2, None, Some("y")), 29), row(Some("x"), 1, false));
        // The holder goes on after its lease has ended, where nobody has taken it.
        assert_eq!(run(change(1, Some(1), Some("z")), 100), row(Some("z"), 1, true));
        assert_eq!(run(change(2, None, None), 130), row(Some("z"), 2, true));
        assert_eq!(run(change(1, Some(1), Some("late")), 131), row(Some("z"), 2, false));
        assert_eq!(run(change(1, Some(1), Some("late")), 200), row(Some("z"), 2, false));
        assert_eq!(run(change(1, None, None), 200), row(Some("z"), 3, true));
        assert_eq!(run(change(2, Some(2), Some("late")), 400), row(Some("z"), 3, false));
    }

    #[test]
    fn a_lease_ends_with_its_last_change_and_with_a_clock_that_goes_back() {
        let mut connection = Connection::open_in_memory().expect("a database");
        schema::create(&mut connection).expect("tables");
        let run = |change: NamedChange, seconds| {
            let row = apply(&change, &connection, at(seconds)).expect("a row");
            (row.fence, row.is_held)
        };
        let last = |holder| NamedChange { is_last: true, ..change(holder, None, None) };
        assert_eq!(run(change(1, None, Some("x")), 1_000), (1, true));
        assert_eq!(run(last(2), 1_000), (1, false));
        assert_eq!(run(change(2, None, None), 1_000), (1, false));
        assert_eq!(run(change(2, None, None), 999), (1, false));
        assert_eq!(run(change(2, None, None), 998), (2, true));
        assert_eq!(run(last(2), 999), (2, true));
        assert_eq!(run(last(1), 999), (2, false));
        assert_eq!(run(change(1, None, None), 999), (3, true));
    }

    #[test]
    fn starts_count_that_snyk_may_have_seen_and_claims_of_others_that_have_none_yet() {
        let mut connection = Connection::open_in_memory().expect("a database");
        schema::create(&mut connection).expect("tables");
        let attempt = |n: i64, request: &str, error: Option<&str>, seconds| {
            let insert = "INSERT INTO attempts (id, started_ms, latency_us, upstream, credential, api, request_id, client,
                answered, sent_id, operation, method, error, try, queued_us)
                VALUES (?1, ?2, 0, '', 'main', '', ?3, '', 1, '', 'start', 'POST', ?4, 1, 0)";
            let row = params![n.to_string(), unix_ms(at(seconds)), request, error];
            connection.execute(insert, row).expect("a row");
        };
        let claim = |name: &str, request: &str| {
            let state = format!(
                r#"{{"claimed": {{"at_ms": {}, "request": "{request}", "credential": "main"}}}}"#,
                unix_ms(at(9_000))
            );
            let key = NamedKey { name: name.to_owned(), question: "q".to_owned() };
            let lease = Lease { holder: String::new(), fence: 1, until_ms: 0, state: Some(state) };
            put(&connection, &key, &lease).expect("a row");
        };
        let own = NamedKey { name: "a".to_owned(), question: "q".to_owned() };
        let count = |seconds| starts(&connection, &own, "main", at(seconds)).expect("a count");
        for (n, error) in (0..).zip(NOT_PROCESSED) {
            attempt(n, "r", Some(error), 9_000);
        }
        assert_eq!(count(9_000), 0);
        attempt(100, "r", None, 9_000);
        attempt(101, "r", Some("http_response_timeout"), 9_000);
        assert_eq!((count(9_000), count(12_601), count(1_000)), (2, 0, 0));
        for (name, request) in [("a", "own"), ("b", "queued"), ("c", "refused"), ("d", "sent")] {
            claim(name, request);
        }
        attempt(102, "refused", Some("connection_refused"), 9_000);
        assert_eq!((count(9_000), count(12_601)), (5, 0));
        attempt(103, "sent", None, 9_000);
        assert_eq!(count(9_000), 5);
        assert_eq!(starts(&connection, &own, "other", at(9_000)), Ok(0));
    }
}
