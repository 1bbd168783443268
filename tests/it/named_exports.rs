//! Named exports: made by themselves, proven before they are served, and never a gap between two of them.

use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use exportgate::access::key::{Digest, generate};
use exportgate::fake::{Fake, Fault, PartSource, Script, Settings, StoreFault, StoreScript, Target};
use exportgate::transport;
use http::Request;
use http_body_util::{BodyExt as _, Either, Full};
use serde_json::Value;
use tempfile::TempDir;

use crate::fetch::Ran;
use crate::support::doors::Door;
use crate::support::program::{Program, exportgate};
use crate::support::raw::DEADLINE;
use crate::support::{Flags, Got, ORG, TOKEN, V, World, flag, keep_secret};

/// A little more than two hours, so that a turn is due whatever its delay.
pub(crate) const TURN: i64 = 2 * 3600 + 6 * 60;

fn samples(names: &[&str]) -> StoreScript {
    StoreScript { parts: PartSource::samples(names), ..StoreScript::default() }
}

pub(crate) async fn fake() -> Fake {
    let script = Script { polls: 1, store: samples(&["a1", "a2", "a3"]), ..Script::default() };
    Fake::start(Settings { tls: false, script, ..Settings::default() }).await.unwrap()
}

/// One export, `crit`, of the tests' org.
pub(crate) fn named(more: Flags) -> Flags {
    let mut flags = vec![flag("exports.crit.scope", format!("org/{ORG}")), flag("exports.crit.since", "90d")];
    flags.extend(more);
    flags
}

async fn world(more: Flags) -> World {
    let fake = fake().await;
    let upstream = fake.url();
    World::before(fake, &upstream, named(more)).await
}

/// Another process before the same Snyk, with its journal at the same place.
async fn beside(fake: &Fake, journal: &std::path::Path, more: Flags) -> World {
    let of_its_own = Fake::start(Settings { tls: false, ..Settings::default() }).await.unwrap();
    let place = vec![flag("journal.path", journal.display()), flag("files.origins", fake.url())];
    World::before(of_its_own, &fake.url(), named(place.into_iter().chain(more).collect())).await
}

/// The state of `crit`, once it is as wanted.
pub(crate) async fn state(world: &World, is_wanted: impl Fn(&Value) -> bool) -> Value {
    let looking = async {
        loop {
            let got = world.get("/named/crit").await;
            assert_eq!(got.status, 200);
            let state = got.json();
            if is_wanted(&state) {
                return state;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    if let Ok(state) = tokio::time::timeout(DEADLINE, looking).await {
        return state;
    }
    panic!("{}", world.get("/named/crit").await.json())
}

pub(crate) fn export_of(state: &Value) -> String {
    state["export"].as_str().unwrap_or_default().to_owned()
}

pub(crate) async fn made(world: &World) -> String {
    export_of(&state(world, |state| state["export"].is_string()).await)
}

/// Waits for another export than `before`.
pub(crate) async fn made_after(world: &World, before: &str) -> String {
    export_of(&state(world, |state| state["export"].is_string() && state["export"] != before).await)
}

fn step(world: &World, fake: &Fake, seconds: i64) {
    world.clock.step_wall(seconds);
    fake.step_clock(seconds);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_day_has_twelve_starts_and_the_table_is_there_all_the_time() {
    let world = world(vec![]).await;
    let mut export = made(&world).await;
    let table = world.get("/named/crit/table.csv").await.body;
    assert_eq!(table.len(), 592);
    let (is_over, asked) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let load = {
        let (is_over, asked, table) = (Arc::clone(&is_over), Arc::clone(&asked), table.clone());
        let target = format!("{}/named/crit/table.csv?_={}", world.root, 1);
        tokio::spawn(async move {
            let client =
                transport::client(&"http://x".parse().unwrap(), None, Duration::from_secs(10)).unwrap();
            while !is_over.load(Ordering::SeqCst) {
                let request = Request::get(&target).body(Either::Left(Full::default())).unwrap();
                let (head, body) = client.request(request).await.unwrap().into_parts();
                assert_eq!(head.status, 200);
                assert_eq!(body.collect().await.unwrap().to_bytes(), table);
                asked.fetch_add(1, Ordering::SeqCst);
            }
        })
    };
    for turn in 1..12 {
        step(&world, &world.fake, TURN);
        export = made_after(&world, &export).await;
        assert_eq!(world.fake.hits().start, turn + 1);
    }
    // 24 hours are nearly over.
    step(&world, &world.fake, 24 * 3600 - 11 * TURN - 60);
    is_over.store(true, Ordering::SeqCst);
    load.await.unwrap();
    assert!(asked.load(Ordering::SeqCst) > 50);
    let state = state(&world, |_| true).await;
    assert_eq!((state["stale"].as_bool(), state["rows"].as_u64()), (Some(false), Some(5)));
    assert_eq!(export_of(&state), export);
    assert_eq!(world.fake.hits().start, 12);
    let started = world.records().into_iter().filter(|row| row.operation == "start");
    assert!(started.into_iter().all(|row| row.client == "exportgate" && row.status == Some(202)));
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn after_two_failures_the_old_one_is_served_and_said_so_until_snyk_has_deleted_it() {
    let world = world(vec![]).await;
    let export = made(&world).await;
    let jobs = Target::Path(format!("/rest/orgs/{ORG}/jobs/"));
    world.fake.fault_at(jobs.clone(), Fault::Errored, Some(2));
    step(&world, &world.fake, TURN);
    let failed = |state: &Value| {
        let hits = world.fake.hits().start;
        hits == 3 && state["last_failure"]["reason"].as_str().is_some_and(|why| why.contains("ERRORED"))
    };
    let now = state(&world, failed).await;
    assert_eq!((export_of(&now), now["stale"].as_bool()), (export.clone(), Some(false)));
    assert_eq!(world.get("/named/crit/table.csv").await.status, 200);

    // And so on: nothing comes any more.
    world.fake.fault_at(Target::Starts, Fault::Status(500), None);
    step(&world, &world.fake, 2 * TURN);
    let now = state(&world, |state| state["stale"] == true).await;
    assert_eq!(export_of(&now), export);
    let got = world.get("/named/crit/table.csv").await;
    assert_eq!(got.status, 200);
    let note = got.field("exportgate-export");
    assert!(note.starts_with(&format!("\"{export}\"; age=")) && note.ends_with("; stale"), "{note}");

    step(&world, &world.fake, 3 * 24 * 3600 - 3 * TURN + 60);
    let got = world.get("/named/crit/table.csv").await;
    assert_eq!((got.status.as_u16(), got.code().as_str()), (410, "named_export_gone"));
    world.fake.clear_faults();
    step(&world, &world.fake, TURN);
    made_after(&world, &export).await;
    assert_eq!(world.get("/named/crit/table.csv").await.status, 200);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_proven_is_never_served() {
    let world = world(vec![]).await;
    let export = made(&world).await;
    world.fake.store_fault(StoreFault::Status(404), None);
    step(&world, &world.fake, TURN);
    let now = state(&world, |state| state["last_failure"].is_object()).await;
    assert!(now["last_failure"]["reason"].as_str().unwrap().contains("file_gone"), "{now}");
    assert_eq!((export_of(&now), world.fake.hits().start), (export, 2));
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn before_the_first_export_it_says_when_to_ask_again() {
    let fake = fake().await;
    fake.script(|script| script.polls = u32::MAX);
    let upstream = fake.url();
    let world = World::before(fake, &upstream, named(vec![])).await;
    world.fake.wait_for_hits(2).await;
    for path in ["files", "files/1.csv", "table.csv"] {
        let got = world.get(&format!("/named/crit/{path}")).await;
        assert_eq!((got.status.as_u16(), got.code().as_str()), (503, "not_finished"), "{path}");
        assert!(!got.field("retry-after").is_empty());
    }
    world.fake.script(|script| script.polls = 0);
    made(&world).await;
    let files = world.get("/named/crit/files").await.json();
    let path = files["parts"][1]["path"].as_str().unwrap().to_owned();
    // The list stays with one export, so that its parts cannot come from two.
    assert!(path.starts_with(&format!("/rest/orgs/{ORG}/export/")), "{path}");
    assert_eq!(world.get(&format!("{path}?{V}")).await.status, 200);
    let part = world.get("/named/crit/files/2.csv").await;
    assert_eq!(part.field("content-disposition"), "attachment; filename=\"crit-part-2.csv\"");
    let table = world.get("/named/crit/table.csv").await;
    assert_eq!(table.field("content-disposition"), "attachment; filename=\"crit.csv\"");
    assert_eq!(table.field("cache-control"), "private, no-cache, no-transform");
    let same = world.get_with("/named/crit/table.csv", &[("if-none-match", table.field("etag"))]).await;
    assert_eq!(same.status, 304);
    assert_eq!(world.get("/named/crit/files/4.csv").await.code(), "no_such_file");
    assert_eq!(world.fake.hits().start, 1);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_starts_nothing_anew_and_goes_on_with_what_was_started() {
    let (fake, home) = (fake().await, TempDir::new().unwrap());
    let journal = home.path().join("journal.db");
    let first = beside(&fake, &journal, vec![]).await;
    let export = made(&first).await;
    first.stop().await;
    let second = beside(&fake, &journal, vec![]).await;
    // From the first request on.
    assert_eq!(second.get("/named/crit/table.csv").await.status, 200);
    assert_eq!((made(&second).await, fake.hits().start), (export.clone(), 1));
    // This one is stopped within a turn.
    fake.script(|script| script.polls = u32::MAX);
    let before = fake.hits().api();
    // The lease of the first one ends by the clock.
    step(&second, &fake, TURN);
    fake.wait_for_hits(before + 2).await;
    assert_eq!(fake.hits().start, 2);
    second.stop().await;
    fake.script(|script| script.polls = 0);
    let third = beside(&fake, &journal, vec![]).await;
    // The second one has let go of its lease, which would have 30 seconds more.
    third.clock.step_wall(TURN);
    let soon = Duration::from_secs(15);
    tokio::time::timeout(soon, made_after(&third, &export)).await.expect("it goes on at once");
    assert_eq!(fake.hits().start, 2);
    third.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_processes_on_one_journal_make_one_start_a_turn_and_both_serve() {
    let (fake, home) = (fake().await, TempDir::new().unwrap());
    let journal = home.path().join("journal.db");
    let worlds = [beside(&fake, &journal, vec![]).await, beside(&fake, &journal, vec![]).await];
    let mut export = made(&worlds[0]).await;
    for turn in 1..=4 {
        fake.step_clock(TURN);
        // Each of them is the first to see the new time.
        for at in [turn % 2, (turn + 1) % 2] {
            worlds[at].clock.step_wall(TURN);
        }
        let new = made_after(&worlds[0], &export).await;
        assert_eq!(made_after(&worlds[1], &export).await, new);
        export = new;
        assert_eq!(fake.hits().start, turn as u64 + 1);
    }
    for world in worlds {
        let got = world.get("/named/crit/table.csv").await;
        assert_eq!((got.status.as_u16(), got.body.len()), (200, 592));
        world.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn another_question_has_an_export_of_its_own() {
    let (fake, home) = (fake().await, TempDir::new().unwrap());
    let journal = home.path().join("journal.db");
    let first = beside(&fake, &journal, vec![]).await;
    let export = made(&first).await;
    first.stop().await;
    let filter = vec![flag("exports.crit.filters.issue_status", "Open")];
    let second = beside(&fake, &journal, filter).await;
    assert_ne!(made(&second).await, export);
    assert_eq!(fake.hits().start, 2);
    let body = fake.requests().into_iter().rfind(|seen| seen.method == "POST").unwrap().body;
    let body: Value = serde_json::from_slice(&body).unwrap();
    assert_eq!(body["data"]["attributes"]["filters"]["issue_status"], serde_json::json!(["Open"]));
    second.stop().await;
    let back = beside(&fake, &journal, vec![]).await;
    assert_eq!(made(&back).await, export);
    assert_eq!(fake.hits().start, 2);
    back.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_turn_is_put_off_while_few_starts_are_left_or_starts_are_held() {
    let world = world(vec![flag("exports.reserve", 19), flag("exports.crit.every", "30m")]).await;
    let export = made(&world).await;
    let reason = |word: &'static str| {
        move |state: &Value| state["last_failure"]["reason"].as_str().is_some_and(|why| why.contains(word))
    };
    // All but one are to be left, and one of the last hour is on record.
    step(&world, &world.fake, 32 * 60);
    let now = state(&world, reason("exports.reserve")).await;
    assert_eq!((export_of(&now), world.fake.hits().start), (export.clone(), 1));
    // That one counts no more, but Snyk says no.
    world.fake.fault_at(Target::Starts, Fault::TooManyRequests { retry_after: 1 }, Some(1));
    step(&world, &world.fake, 31 * 60);
    state(&world, reason("429")).await;
    let tried = world.fake.hits().start;
    // No try is counted, and the refused start is one of the hour.
    step(&world, &world.fake, 3600);
    let new = made_after(&world, &export).await;
    assert_eq!((world.fake.hits().start, new != export), (tried + 1, true));
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_reserve_is_left_by_names_whose_turns_come_at_once() {
    let names: Vec<String> = (1..18).map(|n| format!("n{n}")).collect();
    let mut more = vec![flag("exports.reserve", 15)];
    for name in &names {
        more.push((format!("exports.{name}.scope").leak(), format!("org/{ORG}"), "test"));
        more.push((format!("exports.{name}.since").leak(), "90d".to_owned(), "test"));
    }
    let fake = fake().await;
    fake.script(|script| script.polls = u32::MAX);
    let upstream = fake.url();
    let world = World::before(fake, &upstream, named(more)).await;
    let mut put_off = 0;
    for _ in 0..100 {
        put_off = 0;
        for name in names.iter().map(String::as_str).chain(["crit"]) {
            let state = world.get(&format!("/named/{name}")).await.json();
            put_off += usize::from(state["last_failure"].is_object());
        }
        if put_off + usize::try_from(world.fake.hits().start).unwrap() >= 18 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!((world.fake.hits().start, put_off), (5, 13));
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_goes_back_stops_nothing() {
    let (fake, home) = (fake().await, TempDir::new().unwrap());
    let journal = home.path().join("journal.db");
    let first = beside(&fake, &journal, vec![]).await;
    let export = made(&first).await;
    step(&first, &fake, 5 * TURN);
    let export = made_after(&first, &export).await;
    let before = state(&first, |_| true).await;
    step(&first, &fake, -4 * TURN);
    // It counts as made now, and the next turn comes in its time.
    let after = state(&first, |state| state["made"] != before["made"]).await;
    assert!(after["made"].as_str() < before["made"].as_str(), "{after}");
    assert_eq!((export_of(&after), fake.hits().start), (export.clone(), 2));
    step(&first, &fake, TURN);
    let export = made_after(&first, &export).await;
    first.stop().await;
    // The same before a start of the process.
    let second = beside(&fake, &journal, vec![]).await;
    fake.step_clock(-2 * TURN);
    state(&second, |state| state["made"].as_str() < after["made"].as_str()).await;
    step(&second, &fake, TURN);
    made_after(&second, &export).await;
    second.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_of_columns_is_said() {
    let world = world(vec![]).await;
    let export = made(&world).await;
    world.fake.script(|script| script.store = samples(&["d1", "d2"]));
    step(&world, &world.fake, TURN);
    made_after(&world, &export).await;
    let state = state(&world, |state| state["columns_changed"].is_object()).await;
    assert_eq!(state["columns"], serde_json::json!(["A", "B"]));
    assert_eq!(state["columns_changed"]["came"], serde_json::json!(["A", "B"]));
    assert!(state["columns_changed"]["went"].as_array().is_some_and(|went| !went.is_empty()));
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn waits_for_a_name_take_no_place_among_the_requests_of_their_client() {
    let clients = Clients::new();
    let one_request = std::fs::read_to_string(clients.file()).unwrap();
    let one_request = one_request.replace("operations", "concurrent_requests = 1\noperations");
    std::fs::write(clients.file(), one_request).unwrap();
    let fake = fake().await;
    fake.script(|script| script.polls = u32::MAX);
    let upstream = fake.url();
    let flags =
        named(vec![flag("access.clients_file", clients.file()), flag("exports.crit.clients", "dashboard")]);
    let world = World::before(fake, &upstream, flags).await;
    let token = clients.token("dashboard");
    let fields = [("authorization", token.as_str()), ("prefer", "wait=2")];
    let (one, other) = tokio::join!(
        world.get_with("/named/crit/table.csv", &fields),
        world.get_with("/named/crit/table.csv", &fields)
    );
    assert_eq!((one.code().as_str(), other.code().as_str()), ("not_finished", "not_finished"));
    world.stop().await;
}

/// A clients file with clients that may have files of the tests' org, and a stranger.
struct Clients {
    home: TempDir,
    keys: [(&'static str, String); 3],
}

impl Clients {
    fn new() -> Self {
        let keys = ["dashboard", "script", "stranger"].map(|name| (name, generate().unwrap().to_string()));
        let mut text = String::new();
        for (name, key) in &keys {
            keep_secret([key.clone(), STANDARD.encode(format!("x:{key}"))]);
            let org = if *name == "stranger" { "other" } else { ORG };
            let digest = Digest::of(key).to_hex();
            let _ = writeln!(
                text,
                "[clients.{name}]\nkeys = ['sha256:{digest}']\norgs = ['{org}']\noperations = ['files']"
            );
        }
        let home = TempDir::new().unwrap();
        std::fs::write(home.path().join("clients.toml"), text).unwrap();
        Self { home, keys }
    }

    fn file(&self) -> String {
        self.home.path().join("clients.toml").display().to_string()
    }

    fn key(&self, name: &str) -> &str {
        &self.keys.iter().find(|(known, _)| *known == name).unwrap().1
    }

    fn token(&self, name: &str) -> String {
        format!("token {}", self.key(name))
    }
}

/// An error document without the id of its request.
fn anonymous(got: &Got) -> Value {
    let mut document = got.json();
    document["errors"][0]["id"].take();
    document["errors"][0]["meta"]["request_id"].take();
    document
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_a_client_may_not_have_looks_like_none() {
    let clients = Clients::new();
    let world = world(vec![
        flag("access.clients_file", clients.file()),
        flag("exports.crit.clients", "dashboard,stranger"),
        flag("files.basic", "true"),
    ])
    .await;
    let ask = |name: &'static str, path: &'static str| {
        let token = clients.token(name);
        let world = &world;
        async move { world.get_with(path, &[("authorization", &token)]).await }
    };
    let looking = async {
        while ask("dashboard", "/named/crit/table.csv").await.status != 200 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(DEADLINE, looking).await.unwrap();
    let unknown = ask("dashboard", "/named/other/table.csv").await;
    assert_eq!((unknown.status.as_u16(), unknown.code().as_str()), (404, "no_such_name"));
    for client in ["script", "stranger"] {
        for path in ["/named/crit", "/named/crit/files", "/named/crit/table.csv"] {
            let got = ask(client, path).await;
            assert_eq!(
                (got.status, anonymous(&got)),
                (unknown.status, anonymous(&unknown)),
                "{client} {path}"
            );
        }
    }
    // The key as a password, and nobody.
    let basic = format!("Basic {}", STANDARD.encode(format!("x:{}", clients.key("dashboard"))));
    let got = world.get_with("/named/crit/table.csv", &[("authorization", &basic)]).await;
    assert_eq!(got.status, 200);
    let got = world.get("/named/crit").await;
    assert_eq!(got.status, 401);
    assert!(got.field("www-authenticate").contains("Basic"));
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_begins_and_ends_with_a_reload() {
    let home = TempDir::new().unwrap();
    let script = Script { polls: 0, store: samples(&["a1"]), ..Script::default() };
    let fake = Fake::start(Settings { script, ..Settings::default() }).await.unwrap();
    let (config, ca) = (home.path().join("exportgate.toml"), home.path().join("ca.pem"));
    let write = |name: &str| {
        let text = format!(
            "files.origins = [\"{}\"]\nfiles.ca_file = \"{}\"\n[exports.{name}]\nscope = \"org/{ORG}\"\nsince = \"all\"\n",
            fake.url(),
            ca.display()
        );
        crate::access::replace(&config, &text);
    };
    write("one");
    let env = [("EXPORTGATE_CONFIG", config.to_str().unwrap())];
    let mut program = Program::serve(home.path(), &fake, &[], &env);
    let door = Door::Plain(program.address);
    let wait = async |name: &str, status: u16| {
        let path = format!("/named/{name}/table.csv");
        let looking = async {
            while door.get(&path, &[]).await.status != status {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(DEADLINE, looking).await.unwrap();
    };
    wait("one", 200).await;
    assert_eq!(door.get("/named/two/table.csv", &[]).await.status, 404);
    // A download by the name ends with it.
    fake.store_fault(StoreFault::Rate(10), Some(1));
    let reloaded = async {
        fake.wait_for_store(|load| load.running == 1).await;
        write("two");
    };
    let (download, ()) = tokio::join!(door.send(http::Method::GET, "/named/one/table.csv", &[]), reloaded);
    // It is refused if none of it had left.
    assert!(!download.as_ref().is_ok_and(|got| got.status != 403), "{download:?}");
    wait("two", 200).await;
    assert_eq!(door.get("/named/one/table.csv", &[]).await.status, 404);
    assert_eq!(fake.hits().start, 2);
    for (name, code, text) in [("two", 0, "sent to"), ("one", 1, "there is no [exports.one]")] {
        let mut command = exportgate(home.path());
        command.env("SNYK_TOKEN", TOKEN).env("EXPORTGATE_UPSTREAM_URL", fake.url()).arg("check");
        command.args(["--config", config.to_str().unwrap(), "--as", "local", "GET"]);
        let ran = command.arg(format!("/named/{name}/table.csv")).output().unwrap();
        let out = String::from_utf8(ran.stdout).unwrap();
        assert!(ran.status.code() == Some(code) && out.contains(text), "{out} {ran:?}", ran = ran.status);
    }
    // Whoever is killed serves from the first request on when it is back.
    program.kill();
    let program = Program::serve(home.path(), &fake, &[], &env);
    let door = Door::Plain(program.address);
    assert_eq!(door.get("/named/two/table.csv", &[]).await.status, 200);
    assert_eq!(fake.hits().start, 2);
}

/// Runs `exportgate fetch` in `home`.
async fn fetch(home: &std::path::Path, args: &[&str]) -> Ran {
    let mut command = exportgate(home);
    command.current_dir(home).env_remove("RUST_LOG").arg("fetch").args(args);
    Ran::of(tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_fetches_a_named_export_and_starts_nothing() {
    let world = world(vec![]).await;
    let home = TempDir::new().unwrap();
    let via = ["--via", world.root.as_str(), "--progress", "plain"];
    // The first one is waited for.
    fetch(home.path(), &[&["--named", "crit"][..], &via].concat()).await.ended(0, "5 rows, 592 bytes");
    assert_eq!(std::fs::read(home.path().join("crit.csv")).unwrap().len(), 592);
    let manifest = std::fs::read(home.path().join("crit.csv.manifest.json")).unwrap();
    let manifest: Value = serde_json::from_slice(&manifest).unwrap();
    let export = made(&world).await;
    assert_eq!(
        (&manifest["export"], &manifest["question"]["named"]),
        (&export.as_str().into(), &"crit".into())
    );
    assert!(manifest["columns"].as_array().is_some_and(|columns| columns.len() > 2));
    assert_eq!(world.fake.hits().start, 1);
    // A newer one is another table.
    world.fake.script(|script| script.store = samples(&["d1", "d2"]));
    step(&world, &world.fake, TURN);
    made_after(&world, &export).await;
    let again = ["--named", "crit", "--clobber"];
    let fail = ["--columns-changed", "fail"];
    fetch(home.path(), &[&again[..], &fail, &via].concat()).await.ended(6, "came: A, B");
    assert_eq!(std::fs::read(home.path().join("crit.csv")).unwrap().len(), 592);
    fetch(home.path(), &[&again[..], &via].concat()).await.ended(0, "the columns changed since");
    assert_eq!(std::fs::read(home.path().join("crit.csv")).unwrap().len(), 12);
    assert_eq!(world.fake.hits().start, 2);
    fetch(home.path(), &[&["--named", "other"][..], &via].concat()).await.ended(4, "no named export");
    fetch(home.path(), &["--named", "crit"]).await.ended(2, "--named is for a gateway");
    fetch(home.path(), &[&["--named", "crit", "--since", "1d"][..], &via].concat())
        .await
        .ended(2, "cannot be used");
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn they_are_shown_by_the_admin_api_and_in_the_metrics() {
    let world = world(vec![]).await;
    let export = made(&world).await;
    let jobs = Target::Path(format!("/rest/orgs/{ORG}/jobs/"));
    world.fake.fault_at(jobs, Fault::Errored, Some(2));
    step(&world, &world.fake, TURN);
    state(&world, |state| state["last_failure"].is_object()).await;
    world.fake.wait_for_hits(6).await;
    let admin = async |path: &str| world.get(&format!("{}{path}", world.admin)).await;
    for path in ["/api/status", "/api/exports"] {
        let named = admin(path).await.json()["named"].clone();
        assert_eq!((&named[0]["name"], &named[0]["export_id"]), (&"crit".into(), &export.as_str().into()));
        assert!(named[0]["last_failure"].as_str().is_some_and(|why| why.contains("ERRORED")), "{named}");
        assert!(named[0]["age_s"].as_u64() >= Some(7_000));
    }
    let metrics = String::from_utf8(admin("/metrics").await.body.to_vec()).unwrap();
    for series in [
        "exportgate_named_rows{name=\"crit\"} 5",
        "exportgate_named_stale{name=\"crit\"} 0",
        "exportgate_named_turns_total{name=\"crit\",outcome=\"made\"} 1",
        "exportgate_named_column_changes_total{name=\"crit\"} 0",
    ] {
        assert!(metrics.contains(series), "{series} in {metrics}");
    }
    let admin_url = world.admin.clone();
    let home = world.directory.path().to_owned();
    let mut command = exportgate(&home);
    command.args(["exports", "--admin", &admin_url]);
    let shown = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    let shown = String::from_utf8(shown.stdout).unwrap();
    assert!(shown.contains("crit") && shown.contains("ERRORED"), "{shown}");
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_export_of_a_name_is_waited_for() {
    let fake = fake().await;
    fake.script(|script| script.polls = 2);
    let upstream = fake.url();
    let world = World::before(fake, &upstream, named(vec![])).await;
    let table = "/named/crit/table.csv";
    assert_eq!(world.get(table).await.code(), "not_finished");
    // The state is told at once.
    let state = world.get_with("/named/crit", &[("prefer", "wait=30")]).await;
    assert_eq!((state.json()["export"].is_null(), state.field("preference-applied")), (true, ""));
    let got = world.get_with(table, &[("prefer", "wait=30")]).await;
    assert_eq!((got.status.as_u16(), got.body.len()), (200, 592));
    assert_eq!(got.field("preference-applied"), "wait=30");
    world.stop().await;
}
