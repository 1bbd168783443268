//! Tables, parts, manifests and their places.

use std::io::Read as _;
use std::os::unix::fs::PermissionsExt as _;
use std::process::Stdio;

use super::stub::{EXPORT, StubGateway};
use super::{Desk, GROUP, Ran, sample, sha256};
use crate::support::{ORG, program::exportgate};

const WHOLE: &str = "3c69641e1bfba3b9c31f0e938c3e24304ac5a791affe3b121fd1e5abf2daf237";

#[test]
fn one_command_gives_one_proven_table_with_its_manifest() {
    let desk = Desk::before(StubGateway::of(&["a1", "a2", "a3"]));
    desk.gateway.stub().polls = 2;
    let ran = desk
        .run(&[])
        .ended(0, "complete: 5 rows, 592 bytes; 3 parts, each proven by length, checksum (CRC32C)");
    assert!(ran.out.is_empty() && ran.err.contains("written: issues.csv"), "{}", ran.err);
    assert_eq!(sha256(&desk.file("issues.csv")), WHOLE);
    let mode = desk.home.path().join("issues.csv").metadata().unwrap().permissions().mode();
    let probe = desk.home.path().join("probe");
    std::fs::write(&probe, "").unwrap();
    assert_eq!(mode, probe.metadata().unwrap().permissions().mode(), "the umask decides");
    assert!(!desk.has(".issues.csv.exportgate"), "the state has gone");
    let manifest = desk.manifest();
    assert_eq!((&manifest["export"], &manifest["output"]["sha256"]), (&EXPORT.into(), &WHOLE.into()));
    assert_eq!((&manifest["output"]["rows"], &manifest["parts"][2]["rows"]), (&5.into(), &2.into()));
    let calls: Vec<&str> =
        manifest["calls"].as_array().unwrap().iter().map(|call| call["call"].as_str().unwrap()).collect();
    assert_eq!(&calls[..4], ["start", "files", "files", "files"]);
    assert_eq!(calls.len(), 7);
    assert!(manifest["calls"].as_array().unwrap().iter().all(|call| call["snyk_request_id"].is_string()));
    let stub = desk.gateway.stub();
    assert_eq!(stub.starts, 1);
    assert!(stub.heads.iter().all(|head| !head.contains("authorization")));
}

#[test]
fn the_body_is_the_one_of_snyks_document() {
    let desk = Desk::before(StubGateway::of(&["a1"]));
    let args = [
        "issues",
        "--group",
        GROUP,
        "--filter",
        "issue_status=Open,Resolved",
        "--filter",
        "empty_project_tags=only",
    ];
    let more = ["--columns", "CVE, SCORE", "--updated-until", "2026-01-31", "--include-deleted"];
    desk.run(&[&args[..], &more].concat()).ended(0, "complete");
    let stub = desk.gateway.stub();
    let body: serde_json::Value = serde_json::from_str(&stub.bodies[0]).unwrap();
    let attributes = &body["data"]["attributes"];
    assert_eq!(body["data"]["type"], "resource");
    assert_eq!(attributes["formats"], serde_json::json!(["csv"]));
    assert_eq!(attributes["columns"], serde_json::json!(["CVE", "SCORE"]));
    let filters = &attributes["filters"];
    assert_eq!(filters["orgs"], serde_json::json!([ORG]));
    assert_eq!(filters["issue_status"], serde_json::json!(["Open", "Resolved"]));
    assert_eq!(filters["empty_project_tags"], "only");
    assert_eq!(filters["updated"], serde_json::json!({"to": "2026-01-31T00:00:00Z"}));
    assert!(filters["introduced"]["from"].as_str().unwrap().ends_with("T00:00:00Z"));
    let target = format!("post /rest/groups/{GROUP}/export?version=2024-10-15&include_deleted=true http");
    assert!(stub.heads[0].starts_with(&target), "{}", stub.heads[0]);
}

#[test]
fn a_dry_run_shows_the_request_and_sends_nothing() {
    let desk = Desk::before(StubGateway::of(&["a1"]));
    let ran = desk.run(&["--dry-run"]).ended(0, "");
    let text = String::from_utf8(ran.out).unwrap();
    assert!(text.contains(&format!("POST /rest/orgs/{ORG}/export?version=2024-10-15")), "{text}");
    assert!(
        text.contains("through the gateway http://127.0.0.1") && text.contains("\"introduced\""),
        "{text}"
    );
    assert!(desk.gateway.stub().seen.is_empty() && !desk.has("issues.csv"));
}

#[test]
fn standard_output_streams_and_a_reader_may_have_enough() {
    let desk = Desk::before(StubGateway::of(&["a1", "a2", "a3"]));
    let ran = desk.run(&["-o", "-"]).ended(0, "complete: 5 rows");
    assert_eq!(sha256(&ran.out), WHOLE);
    let lines =
        desk.run(&["-o", "-", "--format", "jsonl", "--progress", "json"]).ended(0, "\"event\":\"done\"");
    assert_eq!(String::from_utf8(lines.out).unwrap().lines().count(), 5);
    assert!(lines.err.lines().all(|line| line.starts_with('{')), "{}", lines.err);
    // A reader that takes some bytes of many and leaves.
    let many = super::stub::StubPart::of(["A,B\n".to_owned(), "1,x\n".repeat(1 << 20)].concat());
    desk.gateway.stub().parts = vec![many];
    let mut command = desk.command(&["-o", "-", "--progress", "none"]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut some = [0; 4];
    child.stdout.take().unwrap().read_exact(&mut some).unwrap();
    let ran = Ran::of(child.wait_with_output().unwrap()).ended(0, "");
    assert_eq!(ran.err, "");
    // The export stays known, and takes no room.
    let folder = desk.home.path().join(".local/state/exportgate/fetch");
    let state = std::fs::read_dir(folder).unwrap().next().unwrap().unwrap().path();
    assert!(state.join("state.json").exists() && !state.join("part-00001.csv").exists());
    let starts = desk.gateway.stub().starts;
    desk.run(&["-o", "-"]).ended(0, "nothing is started");
    assert_eq!(desk.gateway.stub().starts, starts);
}

#[test]
fn parts_are_kept_in_a_folder() {
    let desk = Desk::before(StubGateway::of(&["f1", "f2"]));
    desk.run(&[]).ended(6, "part 2 has other columns than part 1");
    assert!(!desk.has("issues.csv"));
    desk.run(&["--restart", "--parts", "-o", "parts"]).ended(0, "complete: 2 rows");
    assert_eq!(desk.file("parts/part-0001.csv"), sample("f1"));
    assert_eq!(desk.file("parts/part-0002.csv"), sample("f2"));
    assert!(desk.has("parts/manifest.json") && !desk.has("parts/.exportgate"));
    desk.run(&["--parts", "-o", "parts"]).ended(0, "parts is complete since");
    desk.run(&["--parts", "-o", "parts", "--filter", "cve=X"]).ended(2, "--clobber");
    std::fs::write(desk.home.path().join("parts/part-0003.csv"), "of another export").unwrap();
    let starts = desk.gateway.stub().starts;
    desk.run(&["--parts", "-o", "parts", "--clobber"]).ended(2, "part-0003.csv is no part of this export");
    assert_eq!(desk.file("parts/part-0003.csv"), b"of another export");
    assert_eq!(desk.gateway.stub().starts, starts, "it is refused before the start");
}

#[test]
fn parts_of_the_earlier_export_give_way_to_fewer_ones() {
    let desk = Desk::before(StubGateway::of(&["a1", "a2", "a3"]));
    desk.run(&["--parts", "-o", "parts"]).ended(0, "complete: 5 rows");
    desk.gateway.stub().parts.truncate(2);
    desk.run(&["--parts", "-o", "parts", "--clobber"]).ended(0, "complete");
    assert_eq!(desk.file("parts/part-0001.csv"), sample("a1"));
    assert_eq!(desk.file("parts/part-0002.csv"), sample("a2"));
    assert!(!desk.has("parts/part-0003.csv"), "it would be taken for a part of this export");
}

#[test]
fn a_manifest_takes_the_place_of_nothing_else() {
    let desk = Desk::before(StubGateway::of(&["a1"]));
    for manifest in ["issues.csv", "./issues.csv"] {
        desk.run(&["--manifest", manifest]).ended(2, "is the place of the output");
    }
    let parts = ["--parts", "-o", "parts", "--manifest"];
    desk.run(&[&parts[..], &["parts/part-0001.csv"]].concat()).ended(2, "is the place of the output");
    desk.run(&["--manifest", "missing/m.json"]).ended(2, "missing is no folder");
    for (name, text) in [("notes.txt", "mine"), ("other.json", "{\"question\": 1}")] {
        std::fs::write(desk.home.path().join(name), text).unwrap();
        desk.run(&["--manifest", name]).ended(2, "is no manifest of exportgate fetch");
        assert_eq!(desk.file(name), text.as_bytes());
    }
    assert_eq!(desk.gateway.stub().starts, 0);
    desk.run(&["--manifest", "m.json"]).ended(0, "complete");
    desk.run(&["--manifest", "m.json", "--clobber"]).ended(0, "complete");
    desk.run(&["--manifest", "m.json", "-o", "b.csv"]).ended(2, "is the manifest of issues.csv");
    desk.run(&["--manifest", "m.json", "-o", "b.csv", "--clobber"]).ended(0, "complete");
}

#[test]
fn an_output_that_is_there_is_replaced_only_by_word() {
    let desk = Desk::before(StubGateway::of(&["d1"]));
    std::fs::write(desk.home.path().join("issues.csv"), "old").unwrap();
    desk.run(&[]).ended(2, "issues.csv exists: --clobber replaces it");
    desk.run(&["--skip-existing"]).ended(0, "");
    assert_eq!((desk.file("issues.csv").as_slice(), desk.gateway.stub().starts), (&b"old"[..], 0));
    desk.run(&["--clobber"]).ended(0, "complete");
    assert_eq!(desk.file("issues.csv"), b"A,B\n1,x\n");
    // Nothing is written through a link.
    std::os::unix::fs::symlink(desk.home.path().join("issues.csv"), desk.home.path().join("link.csv"))
        .unwrap();
    desk.run(&["-o", "link.csv", "--clobber"]).ended(2, "symbolic link");
    desk.run(&["-o", "missing/x.csv"]).ended(2, "missing is no folder");
    std::fs::create_dir(desk.home.path().join("out")).unwrap();
    desk.run(&["-o", "out/", "--format", "jsonl", "--manifest", "none"]).ended(0, "out/issues.jsonl");
    assert_eq!(desk.file("out/issues.jsonl"), b"{\"A\":\"1\",\"B\":\"x\"}\n");
    assert_eq!(std::fs::read_dir(desk.home.path().join("out")).unwrap().count(), 1);
}

#[test]
fn nothing_is_read_or_written_through_a_link_in_the_state() {
    let desk = Desk::before(StubGateway::of(&["a1", "a2", "a3"]));
    let state = desk.home.path().join(".issues.csv.exportgate");
    let plant = |name: &str| {
        use std::os::unix::fs::DirBuilderExt as _;
        let _ = std::fs::DirBuilder::new().mode(0o700).create(&state);
        std::os::unix::fs::symlink(desk.home.path().join("mine"), state.join(name)).unwrap();
    };
    std::fs::write(desk.home.path().join("mine"), "mine").unwrap();
    let names = ["state.json.new", "calls.jsonl", "part-00001.partial", "part-00001.json.new", "table"];
    for name in names.into_iter().chain(["state.json", "part-00001.csv", "manifest.json"]) {
        plant(name);
    }
    desk.run(&["--clobber"]).ended(0, "complete");
    assert_eq!((desk.file("mine"), sha256(&desk.file("issues.csv")).as_str()), (b"mine".to_vec(), WHOLE));
    // In the state of a run that goes on, a link is no part, and in the place of the lock it ends the run.
    desk.gateway.stub().parts[2].crc32c = Some(1);
    desk.run(&["--clobber"]).ended(6, "part 3");
    plant("part-00003.partial");
    plant("table");
    desk.gateway.stub().parts[2].crc32c = Some(crc32c::crc32c(&sample("a3")));
    desk.run(&["--clobber"]).ended(1, "part-00003.partial: is a link or no file");
    std::fs::remove_file(state.join("part-00003.partial")).unwrap();
    desk.run(&["--clobber"]).ended(0, "going on with export");
    plant("lock");
    desk.run(&["--clobber"]).ended(1, "lock: is a link or no file");
    assert_eq!((desk.file("mine"), sha256(&desk.file("issues.csv")).as_str()), (b"mine".to_vec(), WHOLE));
}

#[test]
fn an_export_of_others_or_of_before_is_not_started_again() {
    let desk = Desk::before(StubGateway::of(&["a1", "a2", "a3"]));
    let mut command = exportgate(desk.home.path());
    command.current_dir(desk.home.path()).args(["fetch", "--via", &desk.gateway.url, "--org", ORG]);
    let ran =
        Ran::of(command.args(["--export", EXPORT, "-o", "x.csv"]).output().unwrap()).ended(0, "complete");
    assert!(ran.err.contains("nothing is started"), "{}", ran.err);
    assert_eq!((sha256(&desk.file("x.csv")).as_str(), desk.gateway.stub().starts), (WHOLE, 0));
    desk.run(&[]).ended(0, "started export");
    desk.run(&["--clobber", "--max-age", "1h"]).ended(0, "nothing is started");
    assert_eq!(desk.gateway.stub().starts, 1);
    desk.run(&["--clobber", "--max-age", "1h", "--filter", "cve=CVE-2031-0001"]).ended(0, "started export");
    assert_eq!(desk.gateway.stub().starts, 2);
    desk.run(&["--clobber", "--max-age", "1h", "--restart"]).ended(0, "started export");
    // The gateway may know an equal start; whoever begins anew wants none.
    let wishes = desk.gateway.stub().heads.clone().into_iter().filter(|head| head.starts_with("post "));
    let wish =
        |head: String| head.lines().find_map(|line| line.strip_prefix("cache-control: ").map(str::to_owned));
    let wishes: Vec<Option<String>> = wishes.map(wish).collect();
    assert_eq!(wishes, [None, Some("max-age=3600".to_owned()), Some("no-cache".to_owned())]);
}

#[test]
fn an_export_without_parts_is_an_empty_table() {
    let desk = Desk::before(StubGateway::of(&[]));
    desk.run(&[]).ended(0, "complete: 0 rows, 0 bytes; the export has no parts");
    assert_eq!(desk.file("issues.csv"), b"");
}
