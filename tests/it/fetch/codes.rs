//! Each exit code once, and errors that say what to do.

use std::time::Duration;

use super::stub::{Refusal, StubGateway, StubPart};
use super::{Desk, GROUP, Ran, sample};
use crate::support::{ORG, program::exportgate};

fn refusal(ending: &'static str, status: u16, code: &'static str) -> Refusal {
    Refusal { ending, status, code, retry_after: None, times: 1 }
}

fn desk(refusals: Vec<Refusal>) -> Desk {
    let gateway = StubGateway::of(&["d1"]);
    gateway.stub().refusals = refusals;
    Desk::before(gateway)
}

#[test]
fn failed_is_1() {
    let desk = desk(vec![]);
    let dead = "http://127.0.0.1:1";
    let mut command = exportgate(desk.home.path());
    command.current_dir(desk.home.path()).args(["fetch", "--via", dead, "--org", ORG, "--since", "all"]);
    Ran::of(command.output().unwrap()).ended(1, "no gateway answers at http://127.0.0.1:1: is it running?");
    assert!(!desk.has(".issues.csv.exportgate"), "nothing is there to go on with");
    let desk = self::desk(vec![refusal("/files", 404, "unknown_route")]);
    desk.run(&[]).ended(1, "the gateway serves no files");
}

#[test]
fn usage_is_2() {
    let desk = desk(vec![refusal("/export", 400, "")]);
    desk.run(&[]).ended(2, "the export was not started: T: D (400)");
    let fetch = |args: &[&str]| {
        let mut command = exportgate(desk.home.path());
        command.current_dir(desk.home.path()).args(["fetch", "--via", &desk.gateway.url]);
        Ran::of(command.args(args).output().unwrap())
    };
    fetch(&["--since", "30d"]).ended(2, "add --group ID or --org ID");
    fetch(&["--org", ORG]).ended(2, "add --since 30d");
    fetch(&["--org", ORG, "--org", GROUP, "--since", "30d"]).ended(2, "add --group ID");
    fetch(&["--org", "my-org", "--since", "30d"]).ended(2, "must be an ID such as");
    fetch(&["--org", ORG, "--since", "3 weeks"]).ended(2, "a span back such as 30d");
    fetch(&["--org", ORG, "--since", "30d", "--filter", "issue_stat=Open"])
        .ended(2, "did you mean issue_status?");
    fetch(&["--org", ORG, "--since", "30d", "--columns", "CVE,,SCORE"]).ended(2, "has an empty name");
    fetch(&["--org", ORG, "--since", "2026-02-01", "--until", "2026-01-31"])
        .ended(2, "is later than --until");
    fetch(&["--org", ORG, "--updated-since", "1d", "--updated-until", "2d"])
        .ended(2, "is later than --updated-until");
    fetch(&["--org", ORG, "--body", "/none"]).ended(2, "--body /none");
    fetch(&["--org", ORG, "--since", "30d", "--key-file", "/none"]).ended(2, "--key-file /none");
    let mut direct = exportgate(desk.home.path());
    direct.current_dir(desk.home.path()).args(["fetch", "--org", ORG, "--since", "30d"]);
    let ran = Ran::of(direct.output().unwrap()).ended(2, "no Snyk credential: set SNYK_TOKEN");
    assert!(ran.err.contains("neither --via nor SNYK_API names a gateway"), "{}", ran.err);
    assert_eq!(desk.gateway.stub().starts, 0);
}

#[test]
fn unfinished_is_3_and_the_next_run_starts_nothing() {
    let desk = desk(vec![]);
    desk.gateway.stub().polls = 1_000;
    desk.run(&["--timeout", "2s"]).ended(3, "run the same command again; it goes on");
    let state: serde_json::Value =
        serde_json::from_slice(&desk.file(".issues.csv.exportgate/state.json")).unwrap();
    assert_eq!(state["export"], super::stub::EXPORT);
    desk.run(&["--timeout", "2s", "--filter", "cve=X"]).ended(2, "--restart");
    desk.gateway.stub().polls = 0;
    desk.run(&[]).ended(0, "going on with export");
    assert_eq!(desk.gateway.stub().starts, 1);
}

#[test]
fn a_status_that_nobody_knows_is_waited_for_with_one_warning() {
    let desk = desk(vec![]);
    (desk.gateway.stub().polls, desk.gateway.stub().is_word_unknown) = (2, true);
    let ran = desk.run(&[]).ended(0, "complete");
    assert_eq!(ran.err.matches("is a word that is not known").count(), 1, "{}", ran.err);
}

#[test]
fn not_authorised_is_4() {
    desk(vec![refusal("/export", 401, "unauthorized")]).run(&[]).ended(4, "--key-file");
    desk(vec![refusal("/export", 403, "forbidden")]).run(&[]).ended(4, "T: D (403)");
    desk(vec![refusal("/export", 502, "upstream_credential_rejected")]).run(&[]).ended(4, "T: D (502)");
    desk(vec![refusal("/files", 403, "forbidden")]).run(&[]).ended(4, "T: D (403)");
    desk(vec![refusal("/1.csv", 401, "unauthorized")]).run(&[]).ended(4, "T: D (401)");
}

#[test]
fn an_export_that_failed_is_5_and_the_next_run_starts_another_one() {
    let desk = desk(vec![refusal("/files", 502, "export_failed")]);
    desk.run(&[]).ended(5, "failed at Snyk");
    desk.run(&[]).ended(0, "started export");
    assert_eq!(desk.gateway.stub().starts, 2);
}

#[test]
fn not_whole_is_6() {
    let desk = desk(vec![]);
    desk.gateway.stub().parts = vec![StubPart::of(sample("i1"))];
    desk.run(&[]).ended(6, "part 1: the file ends within a quoted cell: it was cut");
    desk.gateway.stub().parts = vec![StubPart::of(sample("d1")), StubPart::of(sample("k1"))];
    desk.run(&["--restart", "--format", "jsonl", "-o", "x.jsonl"])
        .ended(6, "part 2, row 1, byte 3 of column B: is not UTF-8");
    assert!(!desk.has("issues.csv") && !desk.has("x.jsonl"));
}

#[test]
fn held_is_7_unless_the_wait_fits() {
    let held = Refusal { retry_after: Some(3_000), ..refusal("/export", 429, "backoff") };
    let desk = desk(vec![held.clone()]);
    desk.run(&["--timeout", "10m"]).ended(7, "Run the same command again in 50m");
    assert_eq!(desk.gateway.stub().starts, 0);
    desk.gateway.stub().refusals = vec![Refusal { retry_after: Some(1), ..held }];
    desk.run(&[]).ended(0, "trying again in 1 s");
    assert_eq!(desk.gateway.stub().starts, 1);
}

#[test]
fn a_signal_ends_the_run_within_a_second_and_the_same_command_goes_on() {
    for (signal, code) in [("-INT", 130), ("-TERM", 143)] {
        let desk = desk(vec![]);
        desk.gateway.stub().parts = vec![StubPart::of("A,B\n1,x\n".repeat(400_000))];
        desk.gateway.stub().slow = Duration::from_millis(20);
        let child = desk.command(&[]).stderr(std::process::Stdio::piped()).spawn().unwrap();
        crate::support::raw::poll("a part on its way", || {
            desk.gateway.stub().seen.iter().any(|line| line.contains(".csv")).then_some(())
        });
        let pid = child.id().to_string();
        assert!(std::process::Command::new("kill").args([signal, &pid]).status().unwrap().success());
        let sent = std::time::Instant::now();
        Ran::of(child.wait_with_output().unwrap()).ended(code, "run the same command again");
        assert!(sent.elapsed() < Duration::from_secs(1), "{:?}", sent.elapsed());
        desk.gateway.stub().slow = Duration::ZERO;
        desk.run(&[]).ended(0, "going on with export");
        assert_eq!(desk.gateway.stub().starts, 1);
    }
}

#[test]
fn two_at_once_on_one_output_are_refused() {
    let desk = desk(vec![]);
    desk.gateway.stub().polls = 1_000;
    let mut first = desk.command(&["--progress", "none"]).spawn().unwrap();
    crate::support::raw::poll("a look at the export", || {
        desk.gateway.stub().seen.iter().any(|line| line.ends_with("/files")).then_some(())
    });
    desk.run(&[]).ended(3, "another exportgate fetch works on this output");
    first.kill().unwrap();
    first.wait().unwrap();
    desk.gateway.stub().polls = 0;
    desk.run(&[]).ended(0, "going on with export");
    assert_eq!(desk.gateway.stub().starts, 1);
}

#[test]
fn a_start_without_an_answer_is_not_said_to_go_on() {
    let desk = desk(vec![]);
    desk.gateway.stub().slow_start = Duration::from_secs(5);
    let ran = desk.run(&["--timeout", "1s"]).ended(1, "its outcome is unknown");
    assert!(!ran.err.contains("starts nothing"), "{}", ran.err);
    desk.gateway.stub().slow_start = Duration::ZERO;
    desk.run(&[]).ended(0, "there may be an export more");
}

#[test]
fn a_start_that_never_reached_snyk_has_started_nothing() {
    let desk = desk(vec![refusal("/export", 502, "connection_refused")]);
    let ran = desk.run(&[]).ended(1, "the export was not started: T: D (502)");
    assert!(!ran.err.contains("may have started"), "{}", ran.err);
    assert!(!desk.has(".issues.csv.exportgate"), "nothing is there to go on with");
    desk.gateway.stub().refusals = vec![refusal("/export", 502, "connection_terminated")];
    desk.run(&[]).ended(1, "Snyk may have started it");
}
