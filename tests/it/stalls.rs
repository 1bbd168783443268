//! A journal that is locked, hangs or is kept open by a reader holds no answer up and loses no record.

use std::time::{Duration, Instant};

use exportgate::fake::{Fake, Settings, State};
use exportgate::journal::{Query, find};
use http::{Method, StatusCode};
use rusqlite::Connection;
use tempfile::TempDir;

use crate::support::program::Program;
use crate::support::{Flags, Got, ORG, START, V, World, flag, raw, results, scope};

/// No answer may take longer: the journal's 500 ms, and time for a busy machine.
const SOON: Duration = Duration::from_secs(3);

async fn journaled(mut flags: Flags) -> World {
    flags.push(flag("journal.max_wait", "500ms"));
    let world = World::with(Settings::default(), flags).await;
    world.fake.put_export(&scope(), "e1", State::Finished);
    assert_eq!(world.get(&results("e1")).await.status, StatusCode::OK);
    world
}

async fn start(world: &World) -> Got {
    world.send(Method::POST, &format!("/orgs/{ORG}/export?{V}"), &[], START).await
}

async fn ready(world: &World) -> (u16, String) {
    let got = world.get(&format!("{}/readyz", world.admin)).await;
    (got.status.as_u16(), String::from_utf8(got.body.to_vec()).unwrap().trim_end().to_owned())
}

async fn journal(world: &World) -> serde_json::Value {
    world.get(&format!("{}/api/status", world.admin)).await.json()["journal"].clone()
}

/// Waits until the journal works and so many records are in it.
async fn recovered(world: &World, records: usize) {
    let begun = Instant::now();
    while world.records().len() < records || journal(world).await["failing"] == true {
        assert!(begun.elapsed() < raw::DEADLINE, "{} records", world.records().len());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!((world.records().len(), &journal(world).await["dropped"]), (records, &0.into()));
    assert_eq!(ready(world).await, (200, "ready".to_owned()));
}

/// Has each insert of an attempt take so many steps.
fn hang(journal: &std::path::Path, steps: &str) {
    let connection = Connection::open(journal).unwrap();
    let view = format!(
        "CREATE VIEW slow AS WITH RECURSIVE c (x) AS (SELECT 1 UNION ALL SELECT x FROM c {steps})
             SELECT count(*) AS n FROM c;
         CREATE TRIGGER slow_insert BEFORE INSERT ON attempts BEGIN SELECT n FROM slow; END;"
    );
    connection.execute_batch(&view).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_journal_that_another_program_locks_holds_no_answer_up_and_loses_no_record() {
    let world = journaled(vec![]).await;
    let other = Connection::open(world.journal()).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let begun = Instant::now();
    assert_eq!(start(&world).await.status, StatusCode::ACCEPTED);
    assert_eq!(world.get(&results("e2")).await.status, StatusCode::NOT_FOUND);
    assert_eq!(world.get(&results("e3")).await.status, StatusCode::NOT_FOUND);
    assert!(begun.elapsed() < SOON, "{:?}", begun.elapsed());
    assert_eq!(ready(&world).await, (200, "degraded".to_owned()));
    assert_eq!(journal(&world).await["queued"], 3);
    other.execute_batch("COMMIT").unwrap();
    recovered(&world, 4).await;
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_keeps_its_answer_where_answers_without_a_record_are_refused() {
    let world = journaled(vec![flag("journal.on_failure", "refuse")]).await;
    let other = Connection::open(world.journal()).unwrap();
    // It works when the start is sent, so Snyk begins the export, and fails when the answer is there.
    let hold = world.fake.hold();
    let (started, ()) = tokio::join!(start(&world), async {
        world.fake.wait_for_hits(2).await;
        other.execute_batch("BEGIN IMMEDIATE").unwrap();
        drop(hold);
    });
    assert_eq!(started.status, StatusCode::ACCEPTED);
    let hits = world.fake.hits().api();
    for refused in [start(&world).await, world.get(&results("e2")).await] {
        assert_eq!((refused.status.as_u16(), refused.code().as_str()), (503, "journal_unavailable"));
    }
    assert_eq!(world.fake.hits().api(), hits);
    assert_eq!(ready(&world).await, (503, "not_ready".to_owned()));
    other.execute_batch("COMMIT").unwrap();
    recovered(&world, 2).await;
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_that_takes_long_holds_no_answer_up_and_is_made_in_the_end() {
    let world = journaled(vec![]).await;
    hang(&world.journal(), "LIMIT 10000000");
    let begun = Instant::now();
    assert_eq!(start(&world).await.status, StatusCode::ACCEPTED);
    assert_eq!(world.get(&results("e2")).await.status, StatusCode::NOT_FOUND);
    assert!(begun.elapsed() < SOON, "{:?}", begun.elapsed());
    recovered(&world, 3).await;
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_that_hangs_is_logged_once_and_a_stop_ends_in_its_time() {
    let fake = Fake::start(Settings::default()).await.unwrap();
    let home = TempDir::new().unwrap();
    let journal = home.path().join("journal.db");
    let path = journal.to_string_lossy().into_owned();
    let mut program = Program::serve(home.path(), &fake, &["--journal", &path], &[("RUST_LOG", "info")]);
    let mut connection = raw::connect(program.address).unwrap();
    assert_eq!(raw::ask(&mut connection, &results("e1")).unwrap().0, 404);
    hang(&journal, "");
    let begun = Instant::now();
    for export in ["e2", "e3", "e4"] {
        assert_eq!(raw::ask(&mut connection, &results(export)).unwrap().0, 404);
    }
    assert!(begun.elapsed() < SOON, "{:?}", begun.elapsed());
    let mut admin = raw::connect(program.admin()).unwrap();
    assert_eq!(raw::ask(&mut admin, "/readyz").unwrap().0, 200);
    drop((connection, admin));
    let begun = Instant::now();
    assert_eq!(program.terminate(), Some(0));
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    let log = std::fs::read_to_string(program.log()).unwrap();
    assert_eq!(log.matches("journal write timed out").count(), 1, "{log}");
    assert_eq!(log.matches("\"records\":3").count(), 1, "{log}");
    assert_eq!(find(&journal, &Query { limit: 10, ..Query::default() }).unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_is_left_open_is_shown_while_it_keeps_the_log_growing() {
    let world = journaled(vec![]).await;
    let part = async || {
        let status = world.get(&format!("{}/api/status", world.admin)).await.json();
        let parts = status["parts"].as_array().unwrap().clone();
        parts.into_iter().find(|part| part["name"] == "journal").unwrap()
    };
    let reader = Connection::open(world.journal()).unwrap();
    reader.execute_batch("BEGIN; SELECT count(*) FROM attempts").unwrap();
    let mut asked = 0;
    let mut miss = async || {
        asked += 1;
        assert_eq!(world.get(&results(&format!("x{asked}"))).await.status, StatusCode::NOT_FOUND);
        assert!(asked < 2_000, "never");
    };
    while part().await["state"] == "ok" {
        miss().await;
    }
    let detail = part().await["detail"].as_str().unwrap().to_owned();
    assert!(detail.contains("read transaction") && detail.contains("MiB"), "{detail}");
    assert_eq!(ready(&world).await, (200, "degraded".to_owned()));
    assert!(journal(&world).await["log_bytes"].as_u64().unwrap() >= 16 << 20);
    drop(reader);
    while part().await["state"] != "ok" {
        miss().await;
    }
    world.stop().await;
}
