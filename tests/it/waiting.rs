//! `Prefer: wait`: who waits is answered when the export has ended or the time is over, and all wait with one poller.

use std::io::Write as _;
use std::net::TcpStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use exportgate::access::key::{Digest, generate};
use exportgate::fake::{Fake, Fault, Settings, State, Target};
use futures_util::future::join_all;
use http::Method;
use tempfile::TempDir;

use crate::fetch::stub::EXPORT;
use crate::support::program::{Program, exportgate};
use crate::support::raw::{self, connect, peak_memory, poll, read_answer, reset};
use crate::support::{Flags, Got, ORG, START, V, World, flag, keep_secret, results, scope};

fn job(export: &str) -> String {
    format!("/orgs/{ORG}/jobs/export/{export}?{V}")
}

fn pending() -> State {
    State::Word("PENDING".to_owned())
}

async fn world(flags: Flags) -> Arc<World> {
    let world = World::with(Settings::default(), flags).await;
    world.fake.put_export(&scope(), "e1", pending());
    Arc::new(world)
}

async fn end(world: Arc<World>) {
    Arc::into_inner(world).expect("nobody asks any more").stop().await;
}

/// Asks in a task of its own.
fn asking(world: &Arc<World>, target: String, fields: &[(&str, &str)]) -> tokio::task::JoinHandle<Got> {
    let world = Arc::clone(world);
    let fields: Vec<(String, String)> =
        fields.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
    tokio::spawn(async move {
        let fields: Vec<(&str, &str)> = fields.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
        world.get_with(&target, &fields).await
    })
}

fn word(got: &Got) -> String {
    let word = got.json()["data"]["attributes"]["status"].as_str().map(str::to_owned);
    word.unwrap_or_else(|| panic!("no word of an export: {got:?}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unfinished_export_is_answered_at_the_end_of_the_wait_and_a_finished_one_at_once() {
    let world = world(vec![]).await;
    let plain = world.get(&job("e1")).await;
    assert_eq!(
        (plain.status.as_u16(), plain.field("retry-after"), plain.field("preference-applied")),
        (200, "5", "")
    );
    let before = world.fake.hits().api();

    let begun = Instant::now();
    let got = world.get_with(&job("e1"), &[("prefer", "respond-async, wait=5")]).await;
    let took = begun.elapsed();
    // More than 0.3 s late is the machine.
    assert!(took >= Duration::from_millis(4_990) && took < Duration::from_secs(8), "{took:?}");
    assert_eq!((got.status.as_u16(), got.body.len()), (200, plain.body.len()));
    assert_eq!((word(&got).as_str(), got.field("preference-applied")), ("PENDING", "wait=5"));
    assert_eq!((got.field("vary"), got.field("retry-after")), ("prefer", ""));
    assert!(got.field("age").parse::<u64>().unwrap() <= 2, "{got:?}");
    assert_eq!(world.fake.hits().api() - before, 4, "at 0, 1, 2 and 4 seconds");
    assert!(got.cache().starts_with("exportgate; fwd=uri-miss; fwd-status=200"), "{}", got.cache());

    // It is told of the end as soon as that is known; a stored answer is one, too.
    world.fake.put_export(&scope(), "e1", State::Finished);
    let begun = Instant::now();
    for is_hit in [false, true] {
        let got = world.get_with(&results("e1"), &[("prefer", "wait=99999")]).await;
        assert_eq!((got.status.as_u16(), got.is_hit()), (200, is_hit));
        assert_eq!((word(&got).as_str(), got.field("preference-applied")), ("FINISHED", "wait=55"));
    }
    let unknown = world.get_with(&results("none"), &[("prefer", "wait=30")]).await;
    assert_eq!((unknown.status.as_u16(), unknown.field("preference-applied")), (404, "wait=30"));
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
    end(world).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn wishes_that_cannot_be_read_or_met_are_ignored() {
    let world = world(vec![flag("wait.max", "1s")]).await;
    for fields in [
        &[("prefer", "wait=soon")][..],
        &[("prefer", "wait=")],
        &[("prefer", "wait=-1, wait=5")],
        &[("prefer", "wait=5"), ("cache-control", "no-store")],
    ] {
        let before = world.fake.hits().api();
        let got = world.get_with(&job("e1"), fields).await;
        assert_eq!((got.status.as_u16(), got.field("preference-applied")), (200, ""), "{fields:?}");
        assert_eq!(world.fake.hits().api(), before + 1, "{fields:?}");
    }
    let cached =
        world.get_with(&job("e1"), &[("prefer", "wait=5"), ("cache-control", "only-if-cached")]).await;
    assert_eq!((cached.status.as_u16(), cached.code().as_str()), (504, "not_cached"));
    // Too long a wait is cut. Who wants a new answer gets one in any case: each is newer than its request.
    for fields in [
        &[("prefer", "wait=\"99999\"")][..],
        &[("prefer", "wait=7"), ("cache-control", "no-cache")],
        &[("prefer", "wait=7"), ("cache-control", "max-age=0")],
    ] {
        let got = world.get_with(&job("e1"), fields).await;
        assert_eq!(
            (word(&got).as_str(), got.field("preference-applied")),
            ("PENDING", "wait=1"),
            "{fields:?}"
        );
    }
    let no = world.get_with(&job("e1"), &[("prefer", "wait=0")]).await;
    assert_eq!((word(&no).as_str(), no.field("preference-applied")), ("PENDING", "wait=0"));
    let head = world.send(Method::HEAD, &job("e1"), &[("prefer", "wait=1")], "").await;
    assert_eq!((head.status.as_u16(), head.field("preference-applied")), (200, "wait=1"));
    // A start waits for nothing.
    let start =
        world.send(Method::POST, &format!("/orgs/{ORG}/export?{V}"), &[("prefer", "wait=1")], START).await;
    assert_eq!((start.status.as_u16(), start.field("preference-applied")), (202, ""));
    // Nor does HTTP/1.0 differ.
    let mut old = connect(world.root["http://".len()..].parse().unwrap()).unwrap();
    write!(old.get_mut(), "GET {} HTTP/1.0\r\nhost: localhost\r\nprefer: wait=1\r\n\r\n", job("e1")).unwrap();
    let text = tokio::task::spawn_blocking(move || raw::rest(old.get_ref())).await.unwrap();
    assert!(String::from_utf8_lossy(&text).contains("preference-applied: wait=1\r\n"));
    end(world).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_waiters_and_pollers_cost_a_few_reads() {
    let script = exportgate::fake::Script { polls: 0, seconds: 10.0, ..Default::default() };
    let fake = Settings { script, ..Settings::default() };
    let world = Arc::new(World::with(fake, vec![flag("wait.unasked", "20s")]).await);
    world.fake.put_export(&scope(), "e1", pending());
    let begun = Instant::now();
    let started = world.send(Method::POST, &format!("/orgs/{ORG}/export?{V}"), &[], START).await.json();
    let export = started["data"]["id"].as_str().unwrap().to_owned();
    let waiters: Vec<_> = (0..170).map(|_| asking(&world, job(&export), &[("prefer", "wait=55")])).collect();
    let pollers = (0..30).map(|n| {
        let world = Arc::clone(&world);
        tokio::spawn(async move {
            tokio::time::sleep(Duration::from_millis(n * 33)).await;
            while begun.elapsed() < Duration::from_secs(20) {
                let got = world.get(&results("e1")).await;
                assert_eq!((word(&got).as_str(), got.field("preference-applied")), ("PENDING", ""));
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        })
    });
    let pollers: Vec<_> = pollers.collect();
    for got in join_all(waiters).await {
        assert_eq!(word(&got.unwrap()), "FINISHED");
    }
    let (finished, took) = (world.fake.hits().job_status, begun.elapsed());
    assert!((4..=7).contains(&finished), "{finished} reads in {took:?}");
    let records = world.records();
    let last = records.iter().find(|row| row.operation == "job-status").unwrap();
    assert_eq!(last.clients, 170, "who is answered is on record");
    for poller in pollers {
        poller.await.unwrap();
    }
    let polled = world.fake.hits().results;
    assert!((4..=10).contains(&polled), "{polled}");
    end(world).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_answers_all_who_wait_within_a_second() {
    let world = world(vec![]).await;
    let waiters: Vec<_> = (0..200).map(|_| asking(&world, job("e1"), &[("prefer", "wait=55")])).collect();
    world.wait_for_waits(200).await;
    // One read may be on its way that began before the last of them came; the next one is for all, and over when the one
    // behind it begins.
    world.fake.wait_for_hits(world.fake.hits().api() + 3).await;
    let begun = Instant::now();
    world.announce_stop();
    let answers = join_all(waiters).await;
    let took = begun.elapsed();
    assert!(took < Duration::from_secs(1), "{took:?}");
    for got in answers {
        let got = got.unwrap();
        assert_eq!((word(&got).as_str(), got.field("preference-applied")), ("PENDING", "wait=55"));
    }
    // There is no wait any more.
    let got = world.get_with(&job("e1"), &[("prefer", "wait=55")]).await;
    assert_eq!(word(&got), "PENDING");
    end(world).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_before_the_first_answer_says_when_to_come_back() {
    let world = world(vec![]).await;
    let gate = world.fake.hold();
    let waiter = asking(&world, job("e1"), &[("prefer", "wait=55")]);
    world.wait_for_waits(1).await;
    world.announce_stop();
    let got = waiter.await.unwrap();
    assert_eq!(got.status, 503, "{got:?}");
    assert!(!got.field("retry-after").is_empty());
    drop(gate);
    end(world).await;
}

/// A clients file with one client.
struct OneClient {
    directory: TempDir,
    key: String,
}

impl OneClient {
    fn new(rules: &str) -> Self {
        let key = generate().unwrap().to_string();
        keep_secret([key.clone()]);
        let client = Self { directory: TempDir::new().unwrap(), key };
        client.write(&client.key, rules);
        client
    }

    fn write(&self, key: &str, rules: &str) {
        let digest = Digest::of(key).to_hex();
        let text = format!("[clients.one]\nkeys = ['sha256:{digest}']\n{rules}\n");
        std::fs::write(self.directory.path().join("clients.toml"), text).unwrap();
    }

    async fn world(&self) -> Arc<World> {
        let path = self.directory.path().join("clients.toml");
        world(vec![flag("access.clients_file", path.display()), flag("access.reload_interval", "10ms")]).await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_loses_the_permission_or_the_key_while_waiting_gets_nothing() {
    let allowed = format!("orgs = ['{ORG}']\noperations = ['read']");
    for (target, fields) in [(results("e1"), "files"), (format!("/orgs/{ORG}/export/e1/files?{V}"), "start")]
    {
        for (takes_key, status) in [(false, 403), (true, 401)] {
            let client = OneClient::new(&allowed);
            let world = client.world().await;
            let token = format!("token {}", client.key);
            let waiter = asking(&world, target.clone(), &[("authorization", &token), ("prefer", "wait=20")]);
            world.wait_for_waits(1).await;
            if takes_key {
                let other = generate().unwrap().to_string();
                keep_secret([other.clone()]);
                client.write(&other, &allowed);
            } else {
                client.write(&client.key, &format!("orgs = ['{ORG}']\noperations = ['{fields}']"));
            }
            while world.get_with(&target, &[("authorization", &token)]).await.status != status {}
            world.fake.put_export(&scope(), "e1", State::Finished);
            let got = waiter.await.unwrap();
            assert_eq!(got.status, status, "{got:?}");
            assert!(!String::from_utf8_lossy(&got.body).contains("FINISHED"));
            for field in ["cache-status", "snyk-request-id", "exportgate-attempts", "exportgate-queued-ms"] {
                assert_eq!(got.field(field), "", "{field} tells of the answer");
            }
            end(world).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn waits_take_no_place_among_the_requests_of_their_client() {
    let rules = format!("orgs = ['{ORG}']\nconcurrent_requests = 1\nwait_unasked = '30s'");
    let client = OneClient::new(&rules);
    let world = client.world().await;
    let token = format!("token {}", client.key);
    let fields = [("authorization", token.as_str())];
    let mut waiters = Vec::new();
    for count in 1..=5 {
        waiters.push(asking(&world, results("e1"), &fields));
        world.wait_for_waits(count).await;
    }
    assert_eq!(world.get_with(&results("none"), &fields).await.status, 404);
    world.fake.put_export(&scope(), "e1", State::Finished);
    for got in join_all(waiters).await {
        let got = got.unwrap();
        assert_eq!((word(&got).as_str(), got.field("preference-applied")), ("FINISHED", ""));
    }
    end(world).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn files_wait_for_the_end_of_their_export() {
    let world = world(vec![]).await;
    let table = format!("/orgs/{ORG}/export/e1/table.csv?{V}");
    let index = format!("/orgs/{ORG}/export/e1/files?{V}");
    let none = world.get_with(&table, &[("prefer", "wait=1")]).await;
    assert_eq!((none.status.as_u16(), none.code().as_str()), (503, "not_finished"));
    assert_eq!((none.field("retry-after"), none.field("preference-applied")), ("5", "wait=1"));
    let waiters: Vec<_> =
        [table, index].into_iter().map(|target| asking(&world, target, &[("prefer", "wait=30")])).collect();
    world.wait_for_waits(2).await;
    world.fake.put_export(&scope(), "e1", State::Finished);
    for got in join_all(waiters).await {
        let got = got.unwrap();
        assert_eq!((got.status.as_u16(), got.field("preference-applied")), (200, "wait=30"), "{got:?}");
        assert!(got.field("age").is_empty());
    }
    end(world).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_429_and_a_few_failures_do_not_end_a_wait() {
    let world = world(vec![flag("retry.max", 0)]).await;
    world.fake.fault_at(Target::All, Fault::Status(500), Some(2));
    let waiter = asking(&world, job("e1"), &[("prefer", "wait=30")]);
    world.fake.wait_for_hits(3).await;
    world.fake.put_export(&scope(), "e1", State::Finished);
    assert_eq!(word(&waiter.await.unwrap()), "FINISHED");
    end(world).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_is_gone_is_waited_for_no_more_and_the_figures_say_so() {
    let world = world(vec![]).await;
    let address = world.root["http://".len()..].parse().unwrap();
    let mut gone = connect(address).unwrap().into_inner();
    write!(gone, "GET {} HTTP/1.1\r\nhost: localhost\r\nprefer: wait=55\r\n\r\n", job("e1")).unwrap();
    world.wait_for_waits(1).await;
    let metrics = || async { world.get(&format!("{}/metrics", world.admin)).await };
    let text = |got: &Got| String::from_utf8(got.body.to_vec()).unwrap();
    assert!(text(&metrics().await).contains("exportgate_waiting_clients 1"));
    let status = world.get(&format!("{}/api/status", world.admin)).await.json();
    assert_eq!((&status["queue"]["waits"], &status["queue"]["pollers"]), (&1.into(), &1.into()));
    reset(gone);
    world.wait_for_waits(0).await;

    // One that has closed its half has the answer that is there, within the grace.
    let half = connect(address).unwrap();
    write!(half.get_ref(), "GET {} HTTP/1.1\r\nhost: localhost\r\nprefer: wait=55\r\n\r\n", job("e1"))
        .unwrap();
    half.get_ref().shutdown(std::net::Shutdown::Write).unwrap();
    let begun = Instant::now();
    let mut half = half;
    let (status, _) = tokio::task::spawn_blocking(move || read_answer(&mut half)).await.unwrap().unwrap();
    assert_eq!(status, 200);
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
    let after = text(&metrics().await);
    assert!(after.contains("exportgate_waiting_clients 0"));
    assert!(after.contains("exportgate_requests_total{operation=\"job-status\",outcome=\"waited\"} 1\n"));
    end(world).await;
}

#[tokio::test(flavor = "multi_thread")]
#[expect(clippy::print_stdout, reason = "the figure is for whoever reads the test's output")]
async fn a_thousand_waiters_take_little_memory() {
    let fake = Fake::start(Settings::default()).await.unwrap();
    fake.put_export(&scope(), "e1", pending());
    let home = TempDir::new().unwrap();
    let settings = [("EXPORTGATE_LISTENER_MAX_CONNECTIONS_PER_ADDRESS", "2000"), ("RUST_LOG", "info")];
    let mut program = Program::serve(home.path(), &fake, &[], &settings);
    let (address, pid) = (program.address, program.child.id());
    let wait = |stream: &mut TcpStream| {
        write!(stream, "GET {} HTTP/1.1\r\nhost: localhost\r\nprefer: wait=55\r\n\r\n", job("e1")).unwrap();
    };
    let mut first = connect(address).unwrap();
    assert_eq!(raw::ask(&mut first, &job("e1")).unwrap().0, 200);
    let before = peak_memory(pid);
    let mut waiters: Vec<_> = (0..1_000).map(|_| connect(address).unwrap()).collect();
    for waiter in &mut waiters {
        wait(waiter.get_mut());
    }
    let mut admin = connect(program.admin()).unwrap();
    poll("all wait", || {
        write!(admin.get_mut(), "GET /api/status HTTP/1.1\r\nhost: localhost\r\n\r\n").unwrap();
        let status: serde_json::Value = serde_json::from_slice(&read_answer(&mut admin).unwrap().1).unwrap();
        (status["queue"]["waits"] == 1_000).then_some(())
    });
    let taken = peak_memory(pid) - before;
    println!("a thousand waiters: {taken} MiB");
    assert!(taken <= 30, "{taken} MiB");
    fake.put_export(&scope(), "e1", State::Finished);
    for waiter in &mut waiters {
        assert_eq!(read_answer(waiter).unwrap().0, 200);
    }
    assert_eq!(program.terminate(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn fetch_waits_at_a_gateway_for_the_end_of_its_export() {
    let world = world(vec![]).await;
    world.fake.put_export(&scope(), EXPORT, pending());
    let home = TempDir::new().unwrap();
    let mut command = exportgate(home.path());
    command.current_dir(home.path()).env_remove("RUST_LOG");
    command.args(["fetch", "--via", &world.root, "--org", ORG, "--export", EXPORT, "-o", "issues.csv"]);
    let run = tokio::task::spawn_blocking(move || command.output().unwrap());
    world.wait_for_waits(1).await;
    world.fake.put_export(&scope(), EXPORT, State::Finished);
    let output = run.await.unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(home.path().join("issues.csv").exists());
    end(world).await;
}
