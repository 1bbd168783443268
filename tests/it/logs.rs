//! Every exchange is told once, while the program runs and at its end, in the order in which they came.

use std::path::Path;

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
    let exports = events(log).into_iter().filter(|event| event["message"] == "exchange");
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
        let has_begun = |event: &Value| event["message"].as_str().is_some_and(|m| m.starts_with("stopping:"));
        events(&program.log()).iter().any(has_begun).then_some(())
    });
    program.terminate();
    drop(gate);
    held.join().unwrap();
    let mut told = told(&program.log());
    told.sort();
    assert_eq!(told, ["first", "held"]);
}
