//! Before a fake Snyk: directly, and through a gateway that knows its clients.

use std::process::{Command, Stdio};
use std::time::Duration;

use exportgate::access::key::{Digest, generate};
use exportgate::fake::{Fake, Fault, PartSource, Script, Settings, StoreFault, StoreScript};
use exportgate::journal::{Query, find};
use tempfile::TempDir;

use super::{Ran, sha256};
use crate::support::program::{Program, exportgate};
use crate::support::{ORG, TOKEN, keep_file, keep_secret, keep_token_secret};

const WHOLE: &str = "3c69641e1bfba3b9c31f0e938c3e24304ac5a791affe3b121fd1e5abf2daf237";

async fn fake(parts: Vec<PartSource>) -> Fake {
    keep_token_secret();
    let store = StoreScript { parts, ..StoreScript::default() };
    let script = Script { polls: 1, store, ..Script::default() };
    Fake::start(Settings { script, ..Settings::default() }).await.unwrap()
}

/// The variables with which the fake's certificate and its links are taken.
fn env(home: &TempDir, fake: &Fake) -> Vec<(&'static str, String)> {
    let ca = home.path().join("ca.pem");
    std::fs::write(&ca, fake.ca_pem()).unwrap();
    let ca = ca.display().to_string();
    vec![
        ("EXPORTGATE_UPSTREAM_CA_FILE", ca.clone()),
        ("EXPORTGATE_FILES_CA_FILE", ca),
        ("EXPORTGATE_FILES_ORIGINS", fake.url()),
    ]
}

fn fetch(home: &TempDir, fake: &Fake, args: &[&str]) -> Command {
    let mut command = exportgate(home.path());
    command.current_dir(home.path()).env_remove("RUST_LOG").env("SNYK_TOKEN", TOKEN);
    command.envs(env(home, fake)).env("TMPDIR", home.path());
    command.args(["fetch", "--org", ORG, "--since", "30d"]).args(args);
    command
}

#[tokio::test(flavor = "multi_thread")]
async fn snyk_is_asked_directly_with_the_journal_of_serve() {
    let fake = fake(PartSource::samples(&["a1", "a2", "a3"])).await;
    let home = TempDir::new().unwrap();
    let direct = ["--upstream", &fake.url()];
    let ran = fetch(&home, &fake, &direct).output().unwrap();
    Ran::of(ran).ended(0, "complete: 5 rows, 592 bytes; 3 parts, each proven by length, checksum (CRC32C), Snyk's file size, Snyk's number of rows, closed quotes");
    assert_eq!(sha256(&std::fs::read(home.path().join("issues.csv")).unwrap()), WHOLE);
    assert_eq!(fake.hits().start, 1);
    let journal = home.path().join(".local/state/exportgate/journal.db");
    let rows = find(&journal, &Query { limit: 100, ..Query::default() }).unwrap();
    assert!(rows.len() >= 3, "{}", rows.len());
    keep_file(&home.path().join("issues.csv.manifest.json"));
    let manifest = std::fs::read_to_string(home.path().join("issues.csv.manifest.json")).unwrap();
    for secret in fake.signatures().into_iter().chain([TOKEN.to_owned()]) {
        assert!(!manifest.contains(&secret));
    }
    assert!(!manifest.contains("https://"), "{manifest}");
    // The journal knows the export for other outputs too, and how old it is.
    let started = |name: &str| {
        let manifest = std::fs::read(home.path().join(format!("{name}.manifest.json"))).unwrap();
        let manifest: serde_json::Value = serde_json::from_slice(&manifest).unwrap();
        humantime::parse_rfc3339(manifest["started"].as_str().unwrap()).unwrap()
    };
    let again = ["--upstream", &fake.url(), "--max-age", "1h", "-o", "again.csv"];
    let ran = Ran::of(fetch(&home, &fake, &again).output().unwrap()).ended(0, "nothing is started");
    assert!(ran.err.contains("complete: 5 rows"), "{}", ran.err);
    assert!(started("again.csv") <= started("issues.csv") + Duration::from_secs(2));
    let anew = ["--upstream", &fake.url(), "--restart", "-o", "anew.csv"];
    Ran::of(fetch(&home, &fake, &anew).output().unwrap()).ended(0, "started export");
    assert_eq!(fake.hits().start, 2);
    // Nothing is left of the gateway in the process.
    let left = std::fs::read_dir(home.path()).unwrap().flatten().map(|entry| entry.file_name());
    assert!(!left.into_iter().any(|name| name.to_string_lossy().starts_with("exportgate-fetch")));
    keep_secret(fake.signatures());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_is_sent_its_key_and_never_a_snyk_token() {
    let fake = fake(PartSource::samples(&["a1", "a2", "a3"])).await;
    let home = TempDir::new().unwrap();
    let key = generate().unwrap().to_string();
    let clients = home.path().join("clients.toml");
    let digest = Digest::of(&key).to_hex();
    let text = format!(
        "[clients.tool]\nkeys = ['sha256:{digest}']\norgs = ['{ORG}']\noperations = ['start', 'files']\n"
    );
    std::fs::write(&clients, text).unwrap();
    let clients = clients.display().to_string();
    let env: Vec<(&str, String)> =
        env(&home, &fake).into_iter().chain([("EXPORTGATE_ACCESS_CLIENTS_FILE", clients)]).collect();
    let env: Vec<(&str, &str)> = env.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let program = Program::serve(home.path(), &fake, &[], &env);
    let via = format!("http://{}", program.address);
    Ran::of(fetch(&home, &fake, &["--via", &via]).output().unwrap()).ended(4, "--key-file");
    // `SNYK_API` with another host than Snyk's is a gateway too.
    let mut command = fetch(&home, &fake, &[]);
    Ran::of(command.env("SNYK_API", &via).output().unwrap()).ended(4, "no Snyk token is sent");
    assert_eq!(fake.hits().api(), 0);
    let key_file = home.path().join("key");
    std::fs::write(&key_file, &key).unwrap();
    let args = ["--via", &via, "--key-file", key_file.to_str().unwrap()];
    Ran::of(fetch(&home, &fake, &args).output().unwrap()).ended(0, "complete: 5 rows");
    assert_eq!(sha256(&std::fs::read(home.path().join("issues.csv")).unwrap()), WHOLE);
    assert_eq!(fake.hits().start, 1);
    keep_secret(fake.signatures().into_iter().chain([key]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_without_a_gateway_goes_on_after_kills_with_one_start() {
    let parts = PartSource::made_table(3, 2_000_000);
    let expected: Vec<u8> = {
        let whole: Vec<_> = parts.iter().map(PartSource::to_bytes).collect();
        let header = whole[0].iter().position(|byte| *byte == b'\n').unwrap() + 1;
        whole
            .iter()
            .enumerate()
            .flat_map(|(at, part)| part[if at == 0 { 0 } else { header }..].to_vec())
            .collect()
    };
    let fake = fake(parts).await;
    fake.store_fault(StoreFault::Rate(300_000), None);
    let home = TempDir::new().unwrap();
    let direct = ["--upstream", &fake.url()];
    let mut warned = 0;
    for _ in 0..4 {
        let mut child = fetch(&home, &fake, &direct).stderr(Stdio::piped()).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(fastrand::u64(50..1_500)));
        child.kill().unwrap();
        let text = String::from_utf8(child.wait_with_output().unwrap().stderr).unwrap();
        warned += u64::from(text.contains("there may be an export more"));
    }
    for file in std::fs::read_dir(home.path().join(".issues.csv.exportgate")).unwrap().flatten() {
        keep_file(&file.path());
    }
    fake.clear_faults();
    let ran = Ran::of(fetch(&home, &fake, &direct).output().unwrap()).ended(0, "complete");
    warned += u64::from(ran.err.contains("there may be an export more"));
    assert!(std::fs::read(home.path().join("issues.csv")).unwrap() == expected);
    assert!((1..=1 + warned).contains(&fake.hits().start), "{} starts, {warned} said so", fake.hits().start);
    keep_secret(fake.signatures());
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_are_written_for_the_user_of_a_run_without_a_gateway() {
    let fake = fake(PartSource::samples(&["a1"])).await;
    let home = TempDir::new().unwrap();
    let direct = ["--upstream", &fake.url()];
    let mut command = fetch(&home, &fake, &direct);
    let ran = Ran::of(command.env_remove("EXPORTGATE_FILES_ORIGINS").output().unwrap());
    let ran = ran.ended(1, "files.origins (EXPORTGATE_FILES_ORIGINS)");
    assert!(ran.err.contains("a link leads to 127.0.0.1, which files.hosts does not name"), "{}", ran.err);
    assert!(!ran.err.contains("Ask who runs"), "{}", ran.err);
    fake.fault(Fault::Status(401), None);
    let ran = Ran::of(fetch(&home, &fake, &[&direct[..], &["--restart"]].concat()).output().unwrap());
    let ran = ran.ended(4, "Snyk refuses the credential, which is SNYK_TOKEN");
    assert!(!ran.err.contains("Your own key") && !ran.err.contains(TOKEN), "{}", ran.err);
    keep_secret(fake.signatures());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_checksum_of_the_store_is_no_transfer_that_broke_off() {
    keep_token_secret();
    let store = StoreScript {
        parts: PartSource::samples(&["a1"]),
        hash: exportgate::fake::HashField::Wrong,
        ..StoreScript::default()
    };
    let script = Script { polls: 1, store, ..Script::default() };
    let fake = Fake::start(Settings { script, ..Settings::default() }).await.unwrap();
    let home = TempDir::new().unwrap();
    let ran = Ran::of(fetch(&home, &fake, &["--upstream", &fake.url()]).output().unwrap());
    let ran = ran.ended(6, "part 1 could not be proven");
    assert!(ran.err.contains("file transfer aborted") && ran.err.contains("--restart"), "{}", ran.err);
    keep_secret(fake.signatures());
}

#[test]
fn the_fetch_that_the_fake_shows_works() {
    use std::io::{BufRead as _, BufReader};
    let home = TempDir::new().unwrap();
    let mut fake = exportgate(home.path());
    let ca = home.path().join("ca.pem");
    fake.args(["fake-snyk", "--listen", "127.0.0.1:0", "--polls", "1", "--ca-out"]).arg(&ca);
    let mut fake = fake.stdout(Stdio::piped()).spawn().unwrap();
    let lines = BufReader::new(fake.stdout.take().unwrap()).lines();
    let shown = lines.map(Result::unwrap).find(|line| line.contains("exportgate fetch")).unwrap();
    let mut command = exportgate(home.path());
    command.current_dir(home.path()).env_remove("RUST_LOG").env("TMPDIR", home.path());
    for word in shown.split_whitespace().filter(|word| *word != "exportgate") {
        match word.split_once('=') {
            Some((name, value)) => command.env(name, value),
            None => command.arg(word),
        };
    }
    let ran = Ran::of(command.output().unwrap());
    fake.kill().unwrap();
    fake.wait().unwrap();
    ran.ended(0, "complete");
}
