#![expect(clippy::unwrap_used, reason = "tests")]

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tempfile::TempDir;
use uuid::Uuid;

use super::*;
use crate::clock::Clock;

mod failing;
mod search;

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
    }
}

fn served(n: u128, client: &str) -> Served {
    Served { request: Uuid::from_u128(n), client: Arc::from(client) }
}

fn count(path: &Path, query: &Query) -> usize {
    find(path, &Query { limit: 100_000, ..query.clone() }).unwrap().len()
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

/// What others sent, as one process reads it, by when.
fn counts(sent: &[Sent]) -> Vec<(u32, Option<&str>)> {
    sent.iter().map(|sent| (sent.count, sent.start.as_deref())).collect()
}

#[test]
fn what_is_noted_is_written_with_the_next_group_in_one_row_and_read_by_others_and_after_a_restart() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("journal.db");
    let open =
        || database::Database::open(&settings(&path), Duration::from_secs(1), &Arc::default()).unwrap();
    let sends = |credential| Arc::new(Sends::new("u", credential));
    // Whole milliseconds, as they are kept.
    let now = u64::try_from(database::unix_ms(Clock::system().now().wall)).unwrap();
    let now = std::time::UNIX_EPOCH + Duration::from_millis(now);
    let at = |ms| now + Duration::from_millis(ms);
    let group = |file: &mut database::Database, of: &Arc<Sends>| {
        of.ask();
        file.write(std::iter::empty(), (std::slice::from_ref(of), now)).unwrap();
        of.news(at(1_000))
    };
    let (mut a, mut b, ours, theirs) = (open(), open(), sends("c"), sends("c"));
    let scope: Arc<str> = "org o".into();
    (0..10).for_each(|ms| ours.note((1, &[]), at(ms)));
    ours.note((1, &[scope]), at(10));
    ours.note((1, &[]), at(900));
    // Others do not know of this process yet, and it of none.
    assert_eq!(ours.news(at(1_000)), News::default());
    theirs.note((1, &[]), now);
    assert_eq!(group(&mut b, &theirs).others, []);
    let news = group(&mut a, &ours);
    assert_eq!((news.unwritten, news.processes, counts(&news.others)), (Some(0), 1, vec![(1, None)]));
    ours.note((1, &[]), at(950));
    assert_eq!(ours.news(at(1_000)).unwritten, Some(1));
    // In a while they do not know of it again, and it of them.
    assert_eq!(ours.news(now + Duration::from_mins(11)), News::default());
    let news = group(&mut b, &theirs);
    assert_eq!(counts(&news.others), [(11, None), (1, Some("org o")), (1, None)]);
    assert_eq!((news.processes, news.others[0].at), (1, at(10)));
    // Each is read once, and none of one's own.
    assert_eq!(group(&mut b, &theirs).others, []);
    let _ = group(&mut a, &ours);
    let all = group(&mut open(), &sends("c")).others;
    assert_eq!(all.iter().filter(|sent| sent.start.is_none()).map(|sent| sent.count).sum::<u32>(), 14);
    // Another credential's are another's.
    assert_eq!(group(&mut open(), &sends("d")).others, []);
}

#[tokio::test]
async fn sends_that_could_not_be_written_are_written_when_it_works_again() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("journal.db");
    std::fs::write(&path, "this is a letter, not a database").unwrap();
    let journal = journal(&path);
    let (sends, now) = (journal.sends("u", "c"), Clock::system().now().wall);
    assert_eq!(journal.spend(&sends, (2, Vec::new()), now).await, News::default());
    std::fs::remove_file(&path).unwrap();
    while journal.record(attempt(1), vec![]).await.is_err() {
        tokio::task::yield_now().await;
    }
    assert_eq!(sends.news(now).unwritten, Some(0));
    let other = Journal::open(settings(&path), Clock::system());
    assert_eq!(counts(&other.spend(&other.sends("u", "c"), (0, Vec::new()), now).await.others), [(2, None)]);
}

#[tokio::test]
async fn a_file_of_version_2_keeps_its_rows_and_finds_them() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("journal.db");
    let clock = Clock::system();
    {
        let connection = rusqlite::Connection::open(&path).unwrap();
        connection.execute_batch(schema::MIGRATIONS[..2].concat().as_str()).unwrap();
        connection.pragma_update(None, "application_id", schema::APPLICATION_ID).unwrap();
        connection.pragma_update(None, "user_version", 2).unwrap();
        let ms = database::unix_ms(clock.now().wall);
        connection
            .execute_batch(&format!(
                "INSERT INTO attempts (id, started_ms, latency_us, upstream, credential, request_id, client, sent_id,
                     operation, method, status) VALUES ('i', {ms}, 1, 'u', 'c', 'r', 'alice', 's', 'results', 'GET', 200);
                 INSERT INTO served VALUES (1, 'r', 'alice', {ms}), (1, 'f', 'bob', {ms});
                 INSERT INTO sends (credential, process, at_ms, count) VALUES ('u c', 'p', {ms}, 5)"
            ))
            .unwrap();
    }
    let journal = journal(&path);
    journal.record(attempt(1), vec![served(1_001, "alice"), served(9, "bob")]).await.unwrap();
    let by = |client: &str| count(&path, &Query { client: Some(client.to_owned()), ..Query::default() });
    assert_eq!((by("alice"), by("bob"), by("carol")), (2, 2, 0));
    let rows = find(&path, &Query { limit: 10, ..Query::default() }).unwrap();
    assert_eq!(rows.iter().map(|row| row.clients).collect::<Vec<_>>(), [2, 2]);
    for id in ["r", "f", "s"] {
        assert_eq!(count(&path, &Query { id: Some(id.to_owned()), ..Query::default() }), 1, "{id}");
    }
    let sends = journal.sends("u", "c");
    assert_eq!(counts(&journal.spend(&sends, (0, Vec::new()), clock.now().wall).await.others), [(5, None)]);
}

#[tokio::test]
async fn sends_that_count_no_more_are_forgotten_and_those_of_a_clock_that_was_ahead() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("journal.db");
    let (journal, clock) = (journal(&path), Clock::system());
    journal.record(attempt(1), vec![]).await.unwrap();
    journal.close().await;
    let connection = rusqlite::Connection::open(&path).unwrap();
    let hour = 3_600_000;
    for ms in [30 * hour, -2 * hour, 0] {
        let at = database::unix_ms(clock.now().wall) + ms;
        let insert = "INSERT INTO sends (credential, process, at_ms, count) VALUES ('c', 'p', ?1, 1)";
        connection.execute(insert, [at]).unwrap();
    }
    let left = || connection.query_row("SELECT count(*) FROM sends", [], |row| row.get::<_, i64>(0)).unwrap();
    assert_eq!(left(), 3);
    prune::prune(&connection, &settings(&path), clock.now()).unwrap();
    assert_eq!(left(), 1);
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
