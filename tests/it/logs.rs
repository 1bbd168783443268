//! Every exchange is logged once, in order, as long as somebody reads the log; the gateway works on where nobody does.

use std::io::{BufRead as _, BufReader, Read as _};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, ChildStderr};
use std::time::{Duration, Instant};

use exportgate::fake::{Fake, Settings, State};
use serde_json::Value;
use tempfile::TempDir;

use crate::support::program::Program;
use crate::support::{raw, results, scope};

const INFO: [(&str, &str); 1] = [("RUST_LOG", "info")];

fn events(log: &Path) -> Vec<Value> {
    let log = std::fs::read_to_string(log).unwrap_or_default();
    let whole = log.rsplit_once('\n').map_or("", |(whole, _)| whole);
    whole.lines().map(|line| serde_json::from_str(line).expect("an object")).collect()
}

/// The exports that exchanges were about.
fn told(log: &Path) -> Vec<String> {
    let exports = events(log).into_iter().filter(|event| event["http.response.status_code"].is_u64());
    exports.map(|event| event["export.id"].as_str().expect("an export").to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_exchange_is_told_while_it_runs_and_none_is_lost_at_its_end() {
    let fake = Fake::start(Settings::default()).await.unwrap();
    let home = TempDir::new().unwrap();
    let mut program = Program::serve(home.path(), &fake, &[], &INFO);
    let mut connection = raw::connect(program.address).unwrap();
    let mut asked = Vec::new();
    for number in 0..300 {
        let export = format!("e{number}");
        fake.put_export(&scope(), &export, State::Finished);
        assert_eq!(raw::ask(&mut connection, &results(&export)).unwrap().0, 200);
        asked.push(export);
        if number == 0 {
            // Nothing comes behind it.
            raw::poll("its line", || (told(&program.log()) == asked).then_some(()));
        }
    }
    drop(connection);
    assert_eq!(program.terminate(), Some(0));
    assert_eq!(told(&program.log()), asked);
    let events = events(&program.log());
    assert_eq!(events.last().expect("an event")["message"], "stopped");
    for event in events {
        let event = event.as_object().expect("an object");
        for key in ["timestamp", "level", "message", "target"] {
            assert!(event.get(key).is_some_and(Value::is_string), "{event:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_stops_it_at_once_is_told_of_every_exchange_too() {
    let fake = Fake::start(Settings::default()).await.unwrap();
    let home = TempDir::new().unwrap();
    let mut program = Program::serve(home.path(), &fake, &[], &INFO);
    fake.put_export(&scope(), "first", State::Finished);
    let mut connection = raw::connect(program.address).unwrap();
    assert_eq!(raw::ask(&mut connection, &results("first")).unwrap().0, 200);
    // A request that holds the stop up, and one that no longer comes in.
    let gate = fake.hold();
    let hits = fake.hits().api();
    let address = program.address;
    let held = std::thread::spawn(move || {
        let mut connection = raw::connect(address).unwrap();
        let _ = raw::ask(&mut connection, &results("held"));
    });
    fake.wait_for_hits(hits + 1).await;
    let pid = program.child.id().to_string();
    let signal = || {
        let sent = std::process::Command::new("kill").args(["-TERM", &pid]).status();
        assert!(sent.unwrap().success());
    };
    signal();
    raw::poll("the stop", || {
        let has_begun = |event: &Value| event["message"].as_str().is_some_and(|m| m.starts_with("shutdown:"));
        events(&program.log()).iter().any(has_begun).then_some(())
    });
    program.terminate();
    drop(gate);
    held.join().unwrap();
    let mut told = told(&program.log());
    told.sort();
    assert_eq!(told, ["first", "held"]);
}

/// A program whose log is read only where the test does so.
struct Unread {
    child: Child,
    log: BufReader<ChildStderr>,
    address: SocketAddr,
    admin: SocketAddr,
}

impl Unread {
    fn start(home: &Path, fake: &Fake, env: &[(&str, &str)]) -> Self {
        let mut child = Program::command(home, fake, env).spawn().expect("the program starts");
        let mut log = BufReader::new(child.stderr.take().expect("its standard error"));
        let mut address_in = |message: &str| loop {
            let mut line = String::new();
            assert!(log.read_line(&mut line).expect("a line") > 0, "it ended");
            let event: Value = serde_json::from_str(&line).expect("an object");
            if event["message"].as_str().is_some_and(|text| text.starts_with(message)) {
                break event["server.address"]
                    .as_str()
                    .and_then(|text| text.parse().ok())
                    .expect("an address");
            }
        };
        let (address, admin) = (address_in("listening"), address_in("admin listener"));
        Self { child, log, address, admin }
    }

    fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        let sent = std::process::Command::new("kill").args([&format!("-{name}"), &pid]).status();
        assert!(sent.unwrap().success());
    }

    /// Asks the admin listener on a new connection.
    fn admin(&self, path: &str) -> u16 {
        raw::ask(&mut raw::connect(self.admin).unwrap(), path).unwrap().0
    }
}

impl Drop for Unread {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_nobody_reads_stops_nothing_and_what_is_lost_is_counted() {
    const HITS: usize = 5_000;
    let fake = Fake::start(Settings::default()).await.unwrap();
    let home = TempDir::new().unwrap();
    fake.put_export(&scope(), "e1", State::Finished);
    let buffer = [("RUST_LOG", "info"), ("EXPORTGATE_LOG_MAX_BUFFER", "64KiB")];
    let mut program = Unread::start(home.path(), &fake, &buffer);
    let mut connection = raw::connect(program.address).unwrap();
    let mut hit = || assert_eq!(raw::ask(&mut connection, &results("e1")).unwrap().0, 200);
    (0..HITS).for_each(|_| hit());
    assert_eq!((program.admin("/livez"), program.admin("/readyz")), (200, 200));

    // The reader is back: what it gets and what it is said to have lost is all there was.
    let (mut exchanges, mut dropped) = (0, 0);
    while exchanges + dropped < HITS {
        let mut line = String::new();
        program.log.read_line(&mut line).expect("a line");
        let event: Value = serde_json::from_str(&line).expect("an object");
        exchanges += usize::from(event["http.response.status_code"].is_u64());
        if let Some(count) = event["log.lines_dropped"].as_u64() {
            assert_eq!(event["level"], "WARN");
            dropped += usize::try_from(count).unwrap();
        }
    }
    assert_eq!(exchanges + dropped, HITS);
    assert!(exchanges > 100 && dropped > 1_000, "{exchanges} {dropped}");

    // It leaves again, and the program ends in its time, with nobody to say so to.
    (0..HITS).for_each(|_| hit());
    drop(connection);
    program.signal("TERM");
    let begun = Instant::now();
    let status = raw::poll("its end", || program.child.try_wait().unwrap());
    assert_eq!(status.code(), Some(0));
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    let mut rest = String::new();
    program.log.read_to_string(&mut rest).expect("text");
    assert!(rest.contains("\"request\"") && !rest.contains("\"stopped\""));
}
