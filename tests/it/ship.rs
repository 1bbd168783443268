//! The journal in one place: what was answered is in the database, once, whatever ends or stands still meanwhile; and searches ask
//! it.

use std::collections::HashSet;
use std::path::Path;
use std::process::Output;
use std::sync::Mutex;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use exportgate::fake::{Fake, Fault, Script, Settings, State};
use http::{Method, StatusCode};
use tempfile::TempDir;

use crate::kill::{ask, targets};
use crate::support::pki::Authority;
use crate::support::postgres::Postgres;
use crate::support::program::{Program, exportgate};
use crate::support::raw::poll;
use crate::support::{Flags, ORG, START, TOKEN, V, World, flag, keep_file, results, scope};

fn shipping(database: &Postgres) -> Flags {
    let password = database.password_file().display().to_string();
    vec![
        flag("journal.ship_to", database.url()),
        flag("journal.ship_password_file", password),
        flag("journal.ship_timeout", "1s"),
    ]
}

/// A start, a miss, hits, clients that wait for one flight, a failure, and a poll.
async fn traffic(world: &World) {
    world.fake.put_export(&scope(), "e1", State::Finished);
    world.fake.put_export(&scope(), "7c1e0000-0000-4000-8000-000000000000", State::Word("PENDING".into()));
    world.send(Method::POST, &format!("/orgs/{ORG}/export?{V}"), &[], START).await;
    let e1 = results("e1");
    futures_util::future::join_all((0..5).map(|_| world.get(&e1))).await;
    world.get(&results("7c1e0000-0000-4000-8000-000000000000")).await;
    world.fake.fault(Fault::Status(404), Some(1));
    assert_eq!(world.get(&results("gone")).await.status, StatusCode::NOT_FOUND);
    world.fake.fault(Fault::Reset, Some(3));
    world.get(&results("broken")).await;
}

/// All that is on record in the file, and all that is in the database, in order.
fn both(journal: &Path, database: &Postgres) -> [Vec<String>; 2] {
    let connection = rusqlite::Connection::open(journal).unwrap();
    let columns = [
        "id",
        "started_ms",
        "latency_us",
        "request_id",
        "client",
        "coalesce(received_id, '')",
        "coalesce(export_id, '')",
        "coalesce(status, 0)",
        "coalesce(error, '')",
        "coalesce(bytes, 0)",
        "coalesce(export_status, '')",
        "try",
        "CASE WHEN answered = TRUE THEN 1 ELSE 0 END",
    ]
    .join(" || '|' || ");
    let all = format!(
        "SELECT {columns} FROM attempts a
         UNION ALL SELECT a.id || '|' || s.request_id || '|' || s.client FROM served s JOIN attempts a ON JOINED
         UNION ALL SELECT request_id || '|' || file || '|' || bytes || '|' || outcome FROM transfers"
    );
    let local = all.replace("JOINED", "a.seq = s.attempt");
    let mut select = connection.prepare(&local).unwrap();
    let here = select.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect();
    let shipped = all.replace("JOINED", "a.id = s.attempt");
    let shipped = ["attempts a", "served s", "transfers"]
        .iter()
        .fold(shipped, |text, table| text.replace(&format!(" {table}"), &format!(" exportgate.{table}")));
    let there = database.sql(&shipped).lines().map(str::to_owned).collect();
    [here, there].map(|mut rows: Vec<String>| {
        rows.sort_unstable();
        rows
    })
}

fn wait_until_all_is_there(journal: &Path, database: &Postgres) {
    let until = Instant::now() + Duration::from_mins(2);
    loop {
        let [here, there] = both(journal, database);
        if here == there && !here.is_empty() {
            return;
        }
        if Instant::now() > until {
            let missing: Vec<_> = here.iter().filter(|row| !there.contains(row)).take(5).collect();
            let strange: Vec<_> = there.iter().filter(|row| !here.contains(row)).take(5).collect();
            panic!("{} here, {} there; missing {missing:?}; strange {strange:?}", here.len(), there.len());
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn requests(home: &Path, database: &Postgres, args: &[&str]) -> Output {
    let mut command = exportgate(home);
    command.arg("requests").envs(database.variables()).args(args);
    command.output().unwrap()
}

fn said(output: &Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout.clone()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_answered_is_there_and_is_found_there_as_in_the_file() {
    let database = Postgres::start();
    let world = World::with(Settings::default(), shipping(&database)).await;
    traffic(&world).await;
    wait_until_all_is_there(&world.journal(), &database);

    let home = world.directory.path();
    let journal = world.journal().display().to_string();
    let id = world.records()[0].sent_id.clone();
    let request = world.records()[0].request_id.to_uppercase();
    let filters: Vec<Vec<&str>> = vec![
        vec![],
        vec!["--export", "e1"],
        vec!["--export", "7c1e0000"],
        vec!["--export", "7C1E0000-0000-4000-8000-000000000000"],
        vec!["--org", "825e79b7"],
        vec!["--group", ORG],
        vec!["--client", "local"],
        vec!["--client", "nobody"],
        vec!["--client", "local", "--export", "e1"],
        vec!["--id", &id],
        vec!["--id", &id[..8]],
        vec!["--id", &request],
        vec!["--id", "825e79b7"],
        vec!["--id", &id, "--client", "local", "--status", "error"],
        vec!["--status", "404"],
        vec!["--status", "2xx"],
        vec!["--status", "200"],
        vec!["--status", "error"],
        vec!["--since", "1h", "--until", "2026-01-01T00:00:00Z"],
        vec!["--since", "2020-01-01T00:00:00Z"],
        vec!["--limit", "2"],
        vec!["--support"],
        vec!["--format", "csv"],
    ];
    let mut found = 0;
    for filter in filters {
        let json = if filter.iter().any(|word| ["--support", "--format"].contains(word)) {
            &[][..]
        } else {
            &["--format", "json"]
        };
        let args = [&filter, json].concat();
        let output = requests(home, &database, &args);
        assert!(output.stderr.is_empty(), "{filter:?}: {}", String::from_utf8_lossy(&output.stderr));
        let local = requests(home, &database, &[&args, &["--journal", &journal][..]].concat());
        assert_eq!(said(&output), said(&local), "{filter:?}");
        found += usize::from(output.stdout.len() > 5);
    }
    assert!(found > 15, "{found}");

    let target = format!("{}/api/requests?export=e1", world.admin);
    let answer = world.send(Method::GET, &target, &[], "").await.json();
    assert_eq!(
        (answer["searched"].as_str(), answer["requests"].as_array().unwrap().len()),
        (Some("database"), 1)
    );
    let status = world.send(Method::GET, &format!("{}/api/status", world.admin), &[], "").await.json();
    assert_eq!(status["shipping"]["up"], true, "{status}");
    let metrics = world.send(Method::GET, &format!("{}/metrics", world.admin), &[], "").await;
    assert!(String::from_utf8_lossy(&metrics.body).contains("exportgate_journal_ship_up 1"));

    // Nothing that is worth anything is in its files.
    let body = world.get(&results("e1")).await.body;
    let body = String::from_utf8(body.to_vec()).unwrap();
    let link = body.split('"').find(|text| text.starts_with("https://")).expect("a link").to_owned();
    let signature = link.rsplit(['=', '&']).next().unwrap().to_owned();
    assert!(signature.len() > 20, "{link}");
    database.sql("CHECKPOINT");
    let path = link.split('?').next().unwrap().splitn(4, '/').last().unwrap();
    for (secret, must_be_there) in
        [(TOKEN, false), (database.password(), false), (&*signature, false), (path, false), (&*id, true)]
    {
        let searched =
            std::process::Command::new("grep").args(["-rlaF", secret]).arg(database.data()).output().unwrap();
        assert_eq!(
            !searched.stdout.is_empty(),
            must_be_there,
            "{secret}: {}",
            String::from_utf8_lossy(&searched.stdout)
        );
    }
    world.stop().await;
}

/// How often a gateway is killed.
fn rounds() -> usize {
    std::env::var("EXPORTGATE_SHIP_ROUNDS").ok().and_then(|text| text.parse().ok()).unwrap_or(10)
}

#[tokio::test(flavor = "multi_thread")]
#[expect(clippy::print_stdout, reason = "figures are told")]
async fn kills_of_the_gateway_while_the_database_stands_still_lose_nothing_and_double_nothing() {
    let mut database = Postgres::start();
    let fake = Fake::start(Settings { script: Script::default(), ..Settings::default() }).await.unwrap();
    fake.put_export(&scope(), "pending", State::Word("PENDING".into()));
    let home = TempDir::new().unwrap();
    let journal = home.path().join("journal.db");
    let mut answered: HashSet<String> = HashSet::new();
    for round in 0..rounds() {
        let path = journal.to_string_lossy().into_owned();
        let variables = database.variables();
        let mut env: Vec<(&str, &str)> =
            variables.iter().map(|(name, value)| (*name, value.as_str())).collect();
        env.extend([
            ("EXPORTGATE_JOURNAL_MAX_WAIT", "10s"),
            ("EXPORTGATE_BUDGET_SHARE", "1"),
            ("RUST_LOG", "info"),
        ]);
        let mut program = Program::serve(home.path(), &fake, &["--journal", &path], &env);
        let targets = targets(&fake, round, 10);
        let received = Mutex::new(Vec::new());
        let (told, tells) = mpsc::channel();
        let address = program.address;
        std::thread::scope(|scope| {
            for _ in 0..4 {
                let (targets, received, told) = (&targets, &received, told.clone());
                scope.spawn(move || ask(address, targets, received, &told));
            }
            for count in 0..(20 + 7 * (round % 10)) {
                tells.recv().expect("answers come, whatever the database does");
                // At a different moment each time.
                if count == 3 * (round % 7) {
                    match round % 3 {
                        // It stands still until the middle of the next round: gateways are killed and start meanwhile.
                        0 => database.signal_all("STOP"),
                        1 => {
                            database.signal_all("CONT");
                            database.stop("QUIT");
                        }
                        _ => {}
                    }
                }
            }
            program.kill();
        });
        answered.extend(received.into_inner().unwrap().into_iter().filter(|(_, hit)| !hit).map(|(id, _)| id));
        if round % 3 == 1 {
            database.restart();
        }
    }
    database.signal_all("CONT");
    // It is back: a gateway that starts on this disk ships the rest.
    let variables = database.variables();
    let env: Vec<(&str, &str)> = variables.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let path = journal.to_string_lossy().into_owned();
    let _program = Program::serve(home.path(), &fake, &["--journal", &path], &env);
    wait_until_all_is_there(&journal, &database);
    let there = database.sql(
        "SELECT request_id FROM exportgate.attempts WHERE answered UNION ALL SELECT request_id FROM exportgate.served",
    );
    let there: Vec<&str> = there.lines().collect();
    let once: HashSet<&str> = there.iter().copied().collect();
    assert_eq!(there.len(), once.len(), "no row is there twice");
    let missing: Vec<&String> = answered.iter().filter(|id| !once.contains(id.as_str())).collect();
    assert!(missing.is_empty(), "{} of {} are missing: {missing:?}", missing.len(), answered.len());
    assert_eq!(database.sql("SELECT count(*) - count(DISTINCT id) FROM exportgate.attempts"), "0");
    assert!(answered.len() > 10 * rounds(), "{}", answered.len());
    println!("{} kills, {} answers from Snyk, {} rows there", rounds(), answered.len(), there.len());
    keep_file(&journal);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_gateways_ship_to_one_database_and_the_one_that_is_gone_is_found() {
    let database = Postgres::start();
    let one = World::with(Settings::default(), shipping(&database)).await;
    let other = World::with(Settings::default(), shipping(&database)).await;
    one.fake.put_export(&scope(), "of-one", State::Finished);
    other.fake.put_export(&scope(), "of-other", State::Finished);
    one.get(&results("of-one")).await;
    other.get(&results("of-other")).await;
    // It ends with its disk; what it had is shipped before its end.
    let gone = one.records()[0].clone();
    one.stop().await;
    wait_for_rows(&database, 2);
    let target = |query: &str| format!("{}/api/requests?{query}", other.admin);
    let both = other.send(Method::GET, &target(""), &[], "").await.json();
    assert_eq!(both["requests"].as_array().unwrap().len(), 2, "{both}");
    let block = other.send(Method::GET, &target("export=of-one&format=support"), &[], "").await;
    let block = String::from_utf8(block.body.to_vec()).unwrap();
    assert!(block.contains(gone.received_id.as_deref().unwrap()), "{block}");
    other.stop().await;
}

fn wait_for_rows(database: &Postgres, count: usize) {
    let counted = "SELECT count(*) FROM exportgate.attempts";
    poll("rows in the database", || (database.sql(counted) == count.to_string()).then_some(()));
}

#[tokio::test(flavor = "multi_thread")]
async fn no_request_waits_for_a_database_that_stands_still_and_searches_say_so() {
    let database = Postgres::start();
    let world = World::with(Settings::default(), shipping(&database)).await;
    world.fake.put_export(&scope(), "pending", State::Word("PENDING".into()));
    world.get(&results("pending")).await;
    wait_until_all_is_there(&world.journal(), &database);
    database.signal_all("STOP");
    let begun = Instant::now();
    for _ in 0..20 {
        assert_eq!(world.get(&results("pending")).await.status, StatusCode::OK);
    }
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());

    let target = format!("{}/api/requests?limit=100", world.admin);
    let answer = world.send(Method::GET, &target, &[], "").await.json();
    assert_eq!(
        (answer["searched"].as_str(), answer["requests"].as_array().unwrap().len()),
        (Some("file"), 21)
    );
    assert!(answer["note"].as_str().unwrap().contains("no answer in time"), "{answer}");
    let home = world.directory.path();
    let mut command = exportgate(home);
    command.env("EXPORTGATE_JOURNAL_PATH", world.journal()).envs(database.variables());
    let output = command.args(["requests", "--format", "json"]).output().unwrap();
    assert!(String::from_utf8_lossy(&output.stderr).contains("was not searched"), "{output:?}");
    assert!(serde_json::from_str::<serde_json::Value>(&said(&output)).unwrap().is_array());

    let state =
        async || world.send(Method::GET, &format!("{}/api/status", world.admin), &[], "").await.json();
    let until = Instant::now() + Duration::from_secs(20);
    let degraded = loop {
        let status = state().await;
        if status["shipping"]["up"] == false {
            break status;
        }
        assert!(Instant::now() < until, "{status}");
    };
    let part = degraded["parts"]
        .as_array()
        .unwrap()
        .iter()
        .find(|part| part["name"] == "journal in one place")
        .cloned();
    assert_eq!(part.unwrap()["state"], "degraded");
    assert_eq!(
        world.send(Method::GET, &format!("{}/readyz", world.admin), &[], "").await.status,
        StatusCode::OK
    );
    database.signal_all("CONT");
    wait_until_all_is_there(&world.journal(), &database);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_outbox_is_bounded_and_what_is_dropped_is_counted() {
    let mut database = Postgres::start();
    database.stop("INT");
    let mut flags = shipping(&database);
    flags.push(flag("journal.ship_max_rows", 20));
    let world = World::with(Settings::default(), flags).await;
    world.fake.put_export(&scope(), "pending", State::Word("PENDING".into()));
    for _ in 0..50 {
        world.get(&results("pending")).await;
    }
    let target = format!("{}/api/status", world.admin);
    let until = Instant::now() + Duration::from_secs(20);
    loop {
        let status = world.send(Method::GET, &target, &[], "").await.json();
        let shipping = &status["shipping"];
        if shipping["dropped"] == 30 && shipping["waiting"] == 20 {
            break;
        }
        assert!(Instant::now() < until, "{status}");
    }
    database.restart();
    wait_for_rows(&database, 20);
    // The newest are there.
    let newest = &world.records()[0].sent_id;
    assert_eq!(database.sql(&format!("SELECT count(*) FROM exportgate.attempts WHERE id = '{newest}'")), "1");
    let metrics = world.send(Method::GET, &format!("{}/metrics", world.admin), &[], "").await;
    let metrics = String::from_utf8_lossy(&metrics.body).into_owned();
    assert!(metrics.contains("exportgate_journal_shipped_records_total{result=\"dropped\"} 30"), "{metrics}");
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tables_of_another_format_are_left_alone() {
    let database = Postgres::start();
    database.sql("UPDATE exportgate.format SET number = 2");
    let world = World::with(Settings::default(), shipping(&database)).await;
    world.fake.put_export(&scope(), "e1", State::Finished);
    world.get(&results("e1")).await;
    let answer = world.send(Method::GET, &format!("{}/api/requests", world.admin), &[], "").await.json();
    assert!(answer["note"].as_str().unwrap().contains("format 2"), "{answer}");
    assert_eq!(answer["requests"].as_array().unwrap().len(), 1);
    let status =
        || async { world.send(Method::GET, &format!("{}/api/status", world.admin), &[], "").await.json() };
    let until = Instant::now() + Duration::from_secs(20);
    while !status().await.to_string().contains("format 2") {
        assert!(Instant::now() < until);
    }
    assert_eq!(database.sql("SELECT count(*) FROM exportgate.attempts"), "0");
    database.sql("UPDATE exportgate.format SET number = 1");
    wait_until_all_is_there(&world.journal(), &database);
    world.stop().await;
}

/// A record that the database refuses for what it is must not keep the others.
#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_the_database_takes_for_invalid_is_dropped_alone() {
    let database = Postgres::start();
    database.sql("ALTER TABLE exportgate.attempts ALTER COLUMN upstream DROP NOT NULL");
    database.sql(
        "CREATE FUNCTION public.refuse() RETURNS trigger LANGUAGE plpgsql AS
            $$ BEGIN IF NEW.export_id = 'bad' THEN RAISE EXCEPTION USING ERRCODE = '22P05'; END IF; RETURN NEW; END $$;
         CREATE TRIGGER refuse BEFORE INSERT ON exportgate.attempts FOR EACH ROW EXECUTE FUNCTION public.refuse();",
    );
    let world = World::with(Settings::default(), shipping(&database)).await;
    for export in ["bad", "good"] {
        world.fake.put_export(&scope(), export, State::Finished);
        world.get(&results(export)).await;
    }
    wait_for_rows(&database, 1);
    assert_eq!(database.sql("SELECT export_id FROM exportgate.attempts"), "good");
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn records_follow_the_last_answers_while_the_gateway_drains() {
    let database = Postgres::start();
    let fake = Fake::start(Settings::default()).await.unwrap();
    fake.put_export(&scope(), "pending", State::Word("PENDING".into()));
    let home = TempDir::new().unwrap();
    let journal = home.path().join("journal.db");
    let path = journal.display().to_string();
    let variables = database.variables();
    let env: Vec<(&str, &str)> = variables.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let mut program = Program::serve(home.path(), &fake, &["--journal", &path], &env);
    let received = Mutex::new(Vec::new());
    let (told, tells) = mpsc::channel();
    let address = program.address;
    let targets = [results("pending")];
    std::thread::scope(|scope| {
        let received = &received;
        let targets = &targets;
        scope.spawn(move || ask(address, targets, received, &told));
        for _ in 0..30 {
            tells.recv().expect("answers come");
        }
        assert_eq!(program.terminate(), Some(0));
    });
    let [here, there] = both(&journal, &database);
    assert!(here.len() >= 30, "{here:?}");
    assert_eq!(here, there);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_look_tells_what_to_set_and_rights_are_those_that_are_needed() {
    let database = Postgres::start();
    let fake = Fake::start(Settings::default()).await.unwrap();
    let home = TempDir::new().unwrap();
    std::fs::write(home.path().join("ca.pem"), fake.ca_pem()).unwrap();
    let look = |database: &Postgres, more: &[(&str, &str)]| {
        let mut command = exportgate(home.path());
        command.args(["check", "--live", "--upstream", &fake.url()]).env("SNYK_TOKEN", TOKEN);
        command.env("EXPORTGATE_UPSTREAM_CA_FILE", home.path().join("ca.pem"));
        command.envs(database.variables()).envs(more.iter().copied());
        let output = command.output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        (
            output.status.success(),
            said.lines().find(|line| line.contains("journal in one place")).unwrap_or_default().to_owned(),
        )
    };
    let (is_good, line) = look(&database, &[]);
    assert!(line.contains("version 15") && line.contains("format 1"), "{line}");
    assert!(is_good);
    assert_eq!(database.sql("SELECT count(*) FROM exportgate.attempts"), "0");

    let wrong = home.path().join("wrong");
    std::fs::write(&wrong, "not it").unwrap();
    let (is_good, line) =
        look(&database, &[("EXPORTGATE_JOURNAL_SHIP_PASSWORD_FILE", wrong.to_str().unwrap())]);
    assert!(
        !is_good && line.contains("password authentication failed") && !line.contains("not it"),
        "{line}"
    );
    database.sql("REVOKE exportgate_writer FROM gate");
    let (is_good, line) = look(&database, &[]);
    assert!(!is_good && line.contains("exportgate_writer"), "{line}");
    let bare = Postgres::empty(&[]);
    let (is_good, line) = look(&bare, &[]);
    assert!(!is_good && line.contains("exportgate journal schema"), "{line}");
    let hasty = Postgres::empty(&["fsync=off"]);
    let schema = exportgate(home.path()).args(["journal", "schema"]).output().unwrap();
    hasty.sql(&String::from_utf8(schema.stdout).unwrap());
    hasty.sql("GRANT exportgate_writer TO gate");
    let (is_good, line) = look(&hasty, &[]);
    assert!(!is_good && line.contains("fsync is off"), "{line}");

    // The gateway's login adds, and can neither delete nor drop; months that are too old go.
    database.sql("GRANT exportgate_writer TO gate");
    database.sql_as_gate("SELECT exportgate.prepare('2020-01-01'), exportgate.prepare(now()::date)").unwrap();
    for refused in [
        "DELETE FROM exportgate.attempts",
        "DROP TABLE exportgate.attempts_2020_01",
        "UPDATE exportgate.format SET keep = '1 day'",
    ] {
        assert!(database.sql_as_gate(refused).is_err(), "{refused}");
    }
    assert_eq!(database.sql_as_gate("SELECT exportgate.forget()").unwrap(), "3");
    assert_eq!(
        database.sql(
            "SELECT count(*) FROM pg_inherits i JOIN pg_class c ON c.oid = inhrelid WHERE relkind = 'r'"
        ),
        "3"
    );
    // The SQL may be run again.
    let again = exportgate(home.path()).args(["journal", "schema"]).output().unwrap();
    database.sql(&String::from_utf8(again.stdout).unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn another_machine_is_reached_by_tls_with_a_certificate_that_is_checked() {
    let authority = Authority::new("Database");
    let mut database = Postgres::start();
    database.serve_tls(&authority);
    let world = World::with(Settings::default(), {
        let ca = database.data().join("ca.pem").display().to_string();
        let mut flags = shipping(&database);
        flags[0] = flag("journal.ship_to", database.tls_url());
        flags.push(flag("journal.ship_ca_file", ca));
        flags
    })
    .await;
    world.fake.put_export(&scope(), "e1", State::Finished);
    world.get(&results("e1")).await;
    wait_until_all_is_there(&world.journal(), &database);
    world.stop().await;

    let other = Authority::new("Other");
    let strange = database.data().join("strange.pem");
    std::fs::write(&strange, other.pem()).unwrap();
    let mut flags = shipping(&database);
    flags[0] = flag("journal.ship_to", database.tls_url());
    flags.push(flag("journal.ship_ca_file", strange.display()));
    let world = World::with(Settings::default(), flags).await;
    world.fake.put_export(&scope(), "e2", State::Finished);
    world.get(&results("e2")).await;
    let answer = world.send(Method::GET, &format!("{}/api/requests", world.admin), &[], "").await.json();
    assert!(answer["note"].as_str().unwrap().contains("certificate"), "{answer}");
    assert_eq!(database.sql("SELECT count(*) FROM exportgate.attempts"), "1");
    world.stop().await;
}
