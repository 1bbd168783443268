//! Transfers of files are on record in a table of their own.

use super::super::{TransferQuery, TransferRecord, find_transfers, schema};
use super::*;

fn transfer(n: u128, client: &str) -> TransferRecord {
    TransferRecord {
        started: Clock::system().now().wall,
        duration: Duration::from_millis(7),
        request: Uuid::from_u128(n),
        client: Arc::from(client),
        scope_kind: "org",
        scope_id: "o1".into(),
        export_id: format!("e{n}"),
        file: "table".into(),
        host: Some(Arc::from("storage.example")),
        range: Some(3..=9),
        bytes: 7,
        resumes: 1,
        renewals: 2,
        outcome: "range",
    }
}

fn all() -> TransferQuery {
    TransferQuery { limit: 1_000, ..TransferQuery::default() }
}

#[tokio::test]
async fn a_transfer_is_found_and_is_no_request_to_snyk() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("journal.db");
    let journal = journal(&path);
    journal.transferred(transfer(1, "alice"));
    journal.transferred(transfer(2, "bob"));
    journal.record(attempt(1), vec![]).await.unwrap();
    let rows = find_transfers(&path, &all()).unwrap();
    assert_eq!(rows.len(), 2);
    let row = &rows[1];
    assert_eq!((&*row.client, &*row.file, row.host.as_deref()), ("alice", "table", Some("storage.example")));
    assert_eq!((row.range_first, row.range_last, row.bytes), (Some(3), Some(9), 7));
    assert_eq!((row.resumes, row.renewals, &*row.outcome), (1, 2, "range"));
    assert!((row.duration_ms - 7.0).abs() < f64::EPSILON && row.started.ends_with('Z'));
    let one = |query| find_transfers(&path, &query).unwrap().len();
    assert_eq!(one(TransferQuery { id: Some(row.request_id.clone()), ..all() }), 1);
    assert_eq!(one(TransferQuery { id: Some("e2".into()), ..all() }), 1);
    assert_eq!(one(TransferQuery { client: Some("bob".into()), ..all() }), 1);
    assert_eq!(one(TransferQuery { client: Some("bob".into()), id: Some("e1".into()), ..all() }), 0);
    assert_eq!(one(TransferQuery { until: Some(Clock::system().now().wall), ..all() }), 2);
    assert_eq!(one(TransferQuery { since: Some(Clock::system().now().wall), ..all() }), 0);
    assert_eq!(count(&path, &Query::default()), 1);
    journal.close().await;
}

#[test]
fn transfers_are_pruned_by_the_limits_of_the_journal() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("journal.db");
    let mut connection = rusqlite::Connection::open(&path).unwrap();
    schema::create(&mut connection).unwrap();
    let clock = Clock::system();
    for n in 0..200 {
        super::super::transfer::insert(&connection, &transfer(n, "alice")).unwrap();
    }
    let fewer = Settings { max_rows: 150, ..settings(&path) };
    let prune_all = |settings: &Settings| while prune::prune(&connection, settings, clock.now()).unwrap() {};
    prune_all(&fewer);
    assert_eq!(find_transfers(&path, &all()).unwrap().len(), 150);
    let old =
        TransferRecord { started: clock.now().wall - Duration::from_hours(25), ..transfer(300, "alice") };
    super::super::transfer::insert(&connection, &old).unwrap();
    prune_all(&settings(&path));
    let left = find_transfers(&path, &all()).unwrap();
    assert!(left.len() == 150 && !left.iter().any(|row| row.export_id == "e300"), "{}", left.len());
}
