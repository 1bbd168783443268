#![expect(clippy::unwrap_used, reason = "tests")]

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tempfile::TempDir;
use uuid::Uuid;

use super::*;
use crate::clock::Clock;

mod failing;
mod outbox;
mod search;
mod transfers;

fn settings(path: &Path) -> Settings {
    Settings {
        path: path.to_owned(),
        durability: Durability::Process,
        on_failure: OnFailure::Serve,
        // A busy machine is no hanging disk.
        max_wait: Duration::from_secs(10),
        max_pending: 100,
        max_age: Duration::from_hours(24),
        max_rows: 1_000_000,
        ship: None,
    }
}

fn journal(path: &Path) -> Journal {
    Journal::open_with_retry(settings(path), Clock::system(), Duration::from_millis(1))
}

fn attempt(n: u128) -> Attempt {
    Attempt {
        id: Uuid::from_u128(n),
        started: Clock::system().now().wall,
        latency: Duration::from_millis(12),
        upstream: Arc::from("https://api.snyk.io"),
        credential: Arc::from("default"),
        api: "rest",
        request: Uuid::from_u128(1_000 + n),
        client: Arc::from("alice"),
        sent_id: Uuid::from_u128(2_000 + n),
        received_id: Some(format!("returned-{n}")),
        scope_kind: Some("org"),
        scope_id: Some("o1".into()),
        export_id: Some(format!("e{n}")),
        operation: "results",
        method: "GET".into(),
        status: Some(if n.is_multiple_of(2) { 200 } else { 503 }),
        export_status: Some("FINISHED".into()),
        bytes: Some(10),
        version_requested: None,
        version_served: None,
        lifecycle: None,
        deprecation: None,
        sunset: None,
        number: 1,
        queued: Duration::ZERO,
        waited_for: None,
        error: None,
        kept: None,
    }
}

fn served(n: u128, client: &str) -> Served {
    Served { request: Uuid::from_u128(n), client: Arc::from(client) }
}

fn count(path: &Path, query: &Query) -> usize {
    find(path, &Query { limit: 100_000, ..query.clone() }).unwrap().len()
}

#[tokio::test]
async fn a_start_has_a_thousand_other_clients_on_record() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("journal.db");
    let journal = journal(&path);
    let many = |from: u128| (from..from + 600).map(|n| served(n, "bob")).collect::<Vec<_>>();
    for (n, operation, rows) in [(1, "start", 1_000), (2, "results", 1_200)] {
        journal.record(Attempt { operation, ..attempt(n) }, many(10_000)).await.unwrap();
        journal.serve(Uuid::from_u128(n), many(20_000)).await.unwrap();
        let id = Some(Uuid::from_u128(2_000 + n).to_string());
        let found = find(&path, &Query { id, limit: 1, ..Query::default() }).unwrap();
        assert_eq!(found[0].clients, rows, "{operation}");
    }
    journal.close().await;
}

#[tokio::test]
async fn what_was_recorded_is_found_by_every_id_and_filter() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("deep/journal.db");
    let journal = journal(&path);
    for n in 1..=4 {
        journal.record(attempt(n), vec![served(1_000 + n, "alice"), served(9_000 + n, "bob")]).await.unwrap();
    }
    journal.serve(Uuid::from_u128(2), vec![served(77, "carol")]).await.unwrap();
    assert_eq!(journal.serve(Uuid::from_u128(99), vec![]).await, Err(Unrecorded::NoAttempt));
    let by_id = |id: String| count(&path, &Query { id: Some(id), ..Query::default() });
    for id in [1_002, 9_002, 77, 2_002].map(|n| Uuid::from_u128(n).to_string().to_uppercase()) {
        assert_eq!(by_id(id.clone()), 1, "{id}");
    }
    assert_eq!(by_id("RETURNED-3".into()), 1);
    assert_eq!(by_id("unknown".into()), 0);
    let with = |query: Query| count(&path, &query);
    assert_eq!(with(Query { export: Some("e1".into()), ..Query::default() }), 1);
    assert_eq!(with(Query { org: Some("o1".into()), ..Query::default() }), 4);
    assert_eq!(with(Query { group: Some("o1".into()), ..Query::default() }), 0);
    assert_eq!(with(Query { client: Some("carol".into()), ..Query::default() }), 1);
    assert_eq!(with(Query { status: Some("5xx".parse().unwrap()), ..Query::default() }), 2);
    assert_eq!(with(Query { status: Some("200".parse().unwrap()), ..Query::default() }), 2);
    assert_eq!(with(Query { status: Some(StatusFilter::Error), ..Query::default() }), 0);
    let later = Some(Clock::system().now().wall + Duration::from_mins(1));
    assert_eq!(with(Query { since: later, ..Query::default() }), 0);
    assert_eq!(with(Query { until: later, ..Query::default() }), 4);
    let newest = find(&path, &Query { limit: 1, ..Query::default() }).unwrap();
    assert_eq!((newest[0].export_id.as_deref(), newest[0].clients), (Some("e4"), 2));
    journal.close().await;
    assert_eq!(journal.record(attempt(5), vec![]).await, Err(Unrecorded::Closed));
}

#[tokio::test]
async fn ids_are_found_by_the_part_of_them_that_the_table_shows() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("journal.db");
    let journal = journal(&path);
    let export = "7c1e0000-0000-4000-8000-0000000000aa";
    let one = Attempt {
        request: "01990000-1111-7000-8000-000000000001".parse().unwrap(),
        received_id: Some("FEED1234-0000-4000-8000-000000000009".to_owned()),
        scope_id: Some("825e79b7-0073-44c3-a5ea-e0aa8a3dbf38".to_owned()),
        export_id: Some(export.to_owned()),
        ..attempt(1)
    };
    let follower =
        Served { request: "01aabbcc-1111-7000-8000-000000000002".parse().unwrap(), ..served(1, "bob") };
    journal.record(one, vec![follower]).await.unwrap();
    // No UUIDs: these are found whole alone.
    let other = Attempt { export_id: Some("DEADBEEF99".to_owned()), ..attempt(2) };
    journal.record(other, Vec::new()).await.unwrap();
    let by = |id: &str| count(&path, &Query { id: Some(id.to_owned()), ..Query::default() });
    for begins in ["01990000", "01990000-1111-7", "01AABBCC", "feed1234", "7c1e0000", "825E79B7-0073"] {
        assert_eq!(by(begins), 1, "{begins}");
    }
    for none in ["0199000", "01990001", "01990000-2", "returned", "%", "________", "01990000_1111"] {
        assert_eq!(by(none), 0, "{none}");
    }
    let exports = |id: &str| count(&path, &Query { export: Some(id.to_owned()), ..Query::default() });
    for (id, found) in
        [(export, 1), ("7C1E0000", 1), ("7c1e", 0), ("DEADBEEF99", 1), ("deadbeef99", 0), ("DEADBEEF", 0)]
    {
        assert_eq!(exports(id), found, "{id}");
    }
    let org =
        Query { org: Some("825e79b7".to_owned()), export: Some("7c1e0000".to_owned()), ..Query::default() };
    assert_eq!(count(&path, &org), 1);
    assert_eq!(count(&path, &Query { org: None, group: org.org.clone(), ..org }), 0);
}

#[tokio::test]
async fn two_processes_share_one_file() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("journal.db");
    let (a, b) = (journal(&path), journal(&path));
    let writes = (1..=200).map(|n| {
        let journal = if n % 2 == 0 { a.clone() } else { b.clone() };
        async move { journal.record(attempt(n), vec![served(n, "alice")]).await }
    });
    let results = futures_util::future::join_all(writes).await;
    assert!(results.iter().all(Result::is_ok));
    assert!(a.commits() < 100, "what waits is committed as a group");
    assert_eq!(count(&path, &Query::default()), 200);
}

#[tokio::test]
async fn a_newer_schema_is_refused_untouched() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("journal.db");
    let first = journal(&path);
    first.record(attempt(1), vec![]).await.unwrap();
    first.close().await;
    rusqlite::Connection::open(&path).unwrap().pragma_update(None, "user_version", 99).unwrap();
    let second = journal(&path);
    assert_eq!(second.record(attempt(2), vec![]).await, Err(Unrecorded::Failing));
    assert!(find(&path, &Query::default()).is_err());
}

#[tokio::test]
async fn the_journal_is_bounded_by_rows_and_age() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("journal.db");
    let first = journal(&path);
    for n in 1..=50 {
        first.record(attempt(n), vec![served(n, "alice")]).await.unwrap();
    }
    first.close().await;
    let clock = Clock::system();
    let connection = rusqlite::Connection::open(&path).unwrap();
    let fewer = Settings { max_rows: 20, ..settings(&path) };
    assert!(!prune::prune(&connection, &fewer, clock.now()).unwrap());
    assert_eq!(count(&path, &Query::default()), 20);
    let later = Clock::movable();
    later.step_wall(2 * 24 * 3_600);
    assert!(!prune::prune(&connection, &fewer, later.now()).unwrap());
    assert_eq!(count(&path, &Query::default()), 0);
    let left: i64 = connection.query_row("SELECT count(*) FROM served", [], |row| row.get(0)).unwrap();
    assert_eq!(left, 0);
}

#[tokio::test]
async fn a_journal_that_is_written_to_without_a_pause_is_bounded_too() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("journal.db");
    let fewer = Settings { max_rows: 200, ..settings(&path) };
    let journal = Journal::open(fewer, Clock::system());
    let writes = (1..=6_000).map(|n| journal.record(attempt(n), vec![served(n, "bob")]));
    assert!(futures_util::future::join_all(writes).await.iter().all(Result::is_ok));
    assert!(count(&path, &Query::default()) < 1_500);
}

/// The sends that a journal tells of: how many at each reading, those of the last hour as less than none.
fn readings(journal: &Journal) -> Arc<Mutex<Vec<i64>>> {
    let readings = Arc::new(Mutex::new(Vec::new()));
    let told = Arc::clone(&readings);
    journal.on_sends(move |sends| {
        let count = |sends: &Vec<RecordedSend>| i64::try_from(sends.len()).unwrap();
        told.lock().unwrap().push(match sends {
            RecordedSends::News(sends) => count(sends),
            RecordedSends::Hour(sends) => -count(sends),
        });
    });
    readings
}

async fn reserve(journal: &Journal, n: u128, may: bool) -> AttemptReservation {
    let mut reservation = journal.reservation(Uuid::from_u128(n));
    assert_eq!(reservation.make(&attempt(n), Box::new(move |_| may)).await, Ok(may));
    reservation
}

#[tokio::test]
async fn each_process_is_told_once_of_what_others_sent_before_it_decides_and_never_of_its_own() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("journal.db");
    let (a, b) = (journal(&path), journal(&path));
    let (by_a, by_b) = (readings(&a), readings(&b));
    for n in 1..=3 {
        reserve(&a, n, true).await.sent();
    }
    assert!(by_a.lock().unwrap().is_empty());
    let seen = Arc::clone(&by_b);
    let mut reservation = b.reservation(Uuid::from_u128(4));
    let confirm = move |_| *seen.lock().unwrap() == [3];
    assert_eq!(reservation.make(&attempt(4), Box::new(confirm)).await, Ok(true));
    reservation.sent();
    // One that may not be sent is not there.
    drop(reserve(&a, 5, false).await);
    assert_eq!(*by_a.lock().unwrap(), [1]);
    // The answer of one that is known is no other send.
    a.record(attempt(1), vec![]).await.unwrap();
    drop(reserve(&b, 6, false).await);
    assert_eq!(*by_b.lock().unwrap(), [3]);
    b.recall();
    drop(reserve(&b, 6, false).await);
    assert_eq!(*by_b.lock().unwrap(), [3, -4]);
    // One that is late is told again, as of then.
    reserve(&a, 3, true).await.sent();
    drop(reserve(&b, 6, false).await);
    assert_eq!(*by_b.lock().unwrap(), [3, -4, 1]);
    a.close().await;
    b.close().await;
    let again = journal(&path);
    let by_again = readings(&again);
    drop(reserve(&again, 7, false).await);
    assert_eq!(*by_again.lock().unwrap(), [4]);
}

#[tokio::test]
async fn a_request_is_on_record_before_it_is_sent_and_its_answer_completes_it() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("journal.db");
    let journal = journal(&path);
    let rows = |query: Query| find(&path, &Query { limit: 10, ..query }).unwrap();
    let sent = |n: u128| Query { id: Some(Uuid::from_u128(2_000 + n).to_string()), ..Query::default() };
    let mut unanswered = journal.reservation(Uuid::from_u128(1));
    let before = Attempt { status: None, received_id: None, export_status: None, ..attempt(1) };
    assert_eq!(unanswered.make(&before, Box::new(|_| true)).await, Ok(true));
    unanswered.sent();
    let found = rows(sent(1));
    assert_eq!(
        (found.len(), found[0].status, found[0].error.as_deref(), found[0].clients),
        (1, None, None, 0)
    );
    assert_eq!(rows(Query { status: Some(StatusFilter::Error), ..Query::default() }).len(), 1);
    journal.record(attempt(1), vec![served(1_001, "alice"), served(9, "bob")]).await.unwrap();
    let found = rows(sent(1));
    assert_eq!((found.len(), found[0].status, found[0].clients), (1, Some(503), 2));
    assert_eq!(found[0].received_id.as_deref(), Some("returned-1"));
    // One that is given up says so.
    let mut left = journal.reservation(Uuid::from_u128(2));
    let before = Attempt { status: None, received_id: None, ..attempt(2) };
    assert_eq!(left.make(&before, Box::new(|_| true)).await, Ok(true));
    drop(left);
    journal.close().await;
    assert_eq!(rows(sent(2))[0].error.as_deref(), Some("not_sent"));
}

#[tokio::test]
async fn a_file_that_was_made_anew_is_read_from_its_begin() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("journal.db");
    let ours = journal(&path);
    let told = readings(&ours);
    for n in 1..=3 {
        reserve(&ours, n, true).await.sent();
    }
    for end in ["", "-wal", "-shm"] {
        std::fs::remove_file(format!("{}{end}", path.display())).unwrap();
    }
    let theirs = journal(&path);
    reserve(&theirs, 4, true).await.sent();
    drop(reserve(&ours, 5, false).await);
    assert_eq!(*told.lock().unwrap(), [1]);
}

#[tokio::test]
async fn what_a_clock_dates_more_than_an_hour_away_counts_no_more() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("journal.db");
    let first = journal(&path);
    let now = Clock::system().now().wall;
    for (n, started) in [
        (1, now - Duration::from_mins(59)),
        (2, now - Duration::from_mins(61)),
        (3, now + Duration::from_mins(59)),
        (4, now + Duration::from_mins(61)),
    ] {
        first.record(Attempt { started, ..attempt(n) }, vec![]).await.unwrap();
    }
    first.close().await;
    let second = journal(&path);
    let told = readings(&second);
    drop(reserve(&second, 5, false).await);
    assert_eq!(*told.lock().unwrap(), [2]);
}

#[tokio::test]
async fn the_log_is_moved_into_the_file_and_does_not_grow_without_end() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("journal.db");
    let journal = journal(&path);
    let log = || std::fs::metadata(dir.path().join("journal.db-wal")).map_or(0, |found| found.len());
    let mut longest = 0;
    for round in 0..60_u128 {
        let writes = (1..=200).map(|n| journal.record(attempt(round * 1_000 + n), vec![]));
        assert!(futures_util::future::join_all(writes).await.iter().all(Result::is_ok));
        longest = longest.max(log());
    }
    assert!(std::fs::metadata(&path).unwrap().len() > 1 << 20, "some of it is in the file");
    assert!(longest < 24 << 20, "{longest}");
    // A reader that stays keeps the log, and holds nobody up.
    let reader = rusqlite::Connection::open(&path).unwrap();
    reader.execute_batch("BEGIN; SELECT count(*) FROM attempts;").unwrap();
    for n in 1..=500 {
        journal.record(attempt(1_000_000 + n), vec![]).await.unwrap();
    }
    assert!(journal.is_held_open() && journal.log_bytes() >= 16 << 20, "{}", journal.log_bytes());
    drop(reader);
    let mut more = 0;
    while journal.is_held_open() {
        more += 1;
        journal.record(attempt(2_000_000 + more), vec![]).await.unwrap();
        assert!(more < 2_000);
    }
    journal.close().await;
    assert_eq!(log(), 0);
    assert_eq!(count(&path, &Query::default()) as u128, 12_500 + more);
}
