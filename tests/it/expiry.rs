//! What has an end is told before it: our certificate, revocation lists, clients' keys.

use std::path::Path;
use std::time::{Duration, SystemTime};

use exportgate::access::key::{Digest, generate};
use exportgate::fake::{Fake, Settings};
use serde_json::Value;
use tempfile::TempDir;

use crate::access::{Known, replace};
use crate::support::doors::Door;
use crate::support::pki::Authority;
use crate::support::program::{Program, exportgate};
use crate::support::raw::DEADLINE;
use crate::support::{ORG, TOKEN, V, World, flag, keep_secret};

const DAY: Duration = Duration::from_hours(24);
const DAY_S: i64 = 86_400;

/// A certificate and its key in files of `directory`, from so many days on to so many days on.
fn certificate(directory: &Path, (begins, ends): (i64, i64)) -> [String; 2] {
    let identity = Authority::new("servers").server_for("localhost", (days(begins), days(ends)));
    let [certificate, key] = ["server.pem", "server.key"].map(|name| directory.join(name));
    std::fs::write(&key, &identity.key_pem).unwrap();
    replace(&certificate, &identity.certificate_pem);
    [certificate, key].map(|path| path.display().to_string())
}

fn days(from_now: i64) -> SystemTime {
    let by = DAY * u32::try_from(from_now.abs()).unwrap();
    if from_now < 0 { SystemTime::now() - by } else { SystemTime::now() + by }
}

/// The state and the detail of a part; `None` where there is no such part.
async fn part(world: &World, name: &str) -> Option<(String, String)> {
    let status = world.get(&format!("{}/api/status", world.admin)).await.json();
    let part = status["parts"].as_array().unwrap().iter().find(|part| part["name"] == name)?.clone();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    // The whole is as bad as its parts, and ready for all that.
    assert_eq!(status["state"] == "ready", part["state"] == "ok");
    assert_eq!(world.get(&format!("{}/readyz", world.admin)).await.status, 200);
    Some((text(&part["state"]), text(&part["detail"])))
}

/// How many of a kind are not good, as the metrics have it.
async fn expiring(world: &World, kind: &str) -> f64 {
    let got = world.get(&format!("{}/metrics", world.admin)).await;
    let series = format!("exportgate_expiring{{kind=\"{kind}\"}} ");
    let text = String::from_utf8(got.body.to_vec()).unwrap();
    text.lines().find_map(|line| line.strip_prefix(&series)).expect("a series").parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn our_own_certificate_degrades_the_gateway_before_it_ends_and_before_it_begins() {
    let directory = TempDir::new().unwrap();
    let [certificate, key] = certificate(directory.path(), (-1, 100));
    let flags = vec![flag("tls.certificate", &certificate), flag("tls.key", key)];
    let world = World::with(Settings::default(), flags).await;
    for (steps, state, verb) in [
        (0, "ok", "valid until "),
        (80, "ok", "valid until "),
        (10, "degraded", " ends on "),
        (11, "degraded", " ended on "),
        (-105, "degraded", " is not valid before "),
        (10, "ok", "valid until "),
    ] {
        world.clock.step_wall(steps * DAY_S);
        let (is, detail) = part(&world, "certificate").await.expect("a part");
        assert!(is == state && detail.contains(verb), "{is} {detail}");
        assert!(state == "ok" || detail.contains(&format!("tls.certificate ({certificate})")), "{detail}");
        assert_eq!(expiring(&world, "certificate").await > 0.5, state != "ok");
    }
    world.stop().await;
    let plain = World::new().await;
    assert!(part(&plain, "certificate").await.is_none() && expiring(&plain, "certificate").await < 0.5);
    plain.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revocation_list_that_will_turn_every_client_away_is_told_before() {
    let known = Known::new();
    let clients =
        format!("[clients.certified]\ncertificates = ['uri:spiffe://test/certified']\norgs = ['{ORG}']\n");
    let flags = known.flags(&clients);
    let list = known.authority.revocations_within(&[], (days(-4), days(4)));
    std::fs::write(known.path("crl.pem"), list).unwrap();
    let world = World::with(Settings::default(), flags).await;
    let target = format!("/orgs/{ORG}/export/e1?{V}");
    let Door::Tls(address, _) = world.door(1, Some(&known.tls(None))) else { panic!("TLS") };
    let door = Door::Tls(address, known.tls(Some(&known.certificate)));
    assert_eq!(door.get(&target, &[]).await.status, 404);
    assert_eq!(part(&world, "certificate").await.expect("a part").0, "ok");
    world.clock.step_wall(3 * DAY_S);
    let (state, detail) = part(&world, "certificate").await.expect("a part");
    let name = format!("tls.client_crl ({}) ends on ", known.path("crl.pem").display());
    assert!(state == "degraded" && detail.contains(&name), "{detail}");
    assert!(
        detail.contains("revokes every client certificate") && detail.contains("a newer one"),
        "{detail}"
    );
    assert!(expiring(&world, "client_crl").await > 0.5);
    // A newer one is all that it takes.
    replace(&known.path("crl.pem"), &known.authority.revocations_within(&[], (days(0), days(30))));
    let is_taken = async { while expiring(&world, "client_crl").await > 0.5 {} };
    tokio::time::timeout(DEADLINE, is_taken).await.expect("the newer one is taken");
    assert_eq!(part(&world, "certificate").await.expect("a part").0, "ok");
    world.stop().await;
}

/// The end of a trust anchor counts for nothing (RFC 5280 §6.1.1 (d)), which may surprise.
#[tokio::test(flavor = "multi_thread")]
async fn an_authority_that_has_ended_is_trusted_still_and_that_is_told() {
    let mut known = Known::new();
    known.authority = Authority::of_old("old");
    known.certificate = known.authority.client(7, Some("spiffe://test/certified"), "certified");
    let certified = "certificates = ['uri:spiffe://test/certified']";
    let flags = known.flags(&format!("[clients.certified]\n{certified}\norgs = ['{ORG}']\n"));
    let world = World::with(Settings::default(), flags).await;
    let door = world.door(1, Some(&known.tls(Some(&known.certificate))));
    assert_eq!(door.get(&format!("/orgs/{ORG}/export/e1?{V}"), &[]).await.status, 404);
    let (state, detail) = part(&world, "certificate").await.expect("a part");
    let told = format!("tls.client_ca ({}) ended on 2001-01-01T00:00:00Z", known.path("ca.pem").display());
    assert!(state == "degraded" && detail.starts_with(&told), "{detail}");
    assert!(expiring(&world, "client_ca").await > 0.5 && expiring(&world, "certificate").await < 0.5);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_whose_last_key_ends_is_told_before_it_is_turned_away() {
    let directory = TempDir::new().unwrap();
    let file = directory.path().join("clients.toml");
    let key = generate().unwrap().to_string();
    keep_secret([key.clone()]);
    let digest = Digest::of(&key).to_hex();
    let until = |days_on: i64| humantime::format_rfc3339_seconds(days(days_on)).to_string();
    let client = |name: &str, keys: &str| format!("[clients.{name}]\nkeys = [{keys}]\norgs = ['{ORG}']\n");
    let other = "1".repeat(64);
    let clients = client("nightly", &format!("'sha256:{digest} until {}'", until(20)))
        + &client("lasting", &format!("'sha256:{other} until {}', 'sha256:{}'", until(1), "2".repeat(64)));
    std::fs::write(&file, clients).unwrap();
    let flags = vec![flag("access.clients_file", file.display())];
    let world = World::with(Settings::default(), flags).await;
    let authorization = format!("token {key}");
    let asked = async || {
        let target = format!("/orgs/{ORG}/export/e1?{V}");
        world.get_with(&target, &[("authorization", &authorization)]).await.status
    };
    assert_eq!((asked().await.as_u16(), part(&world, "clients").await), (404, None));
    for (steps, status, verb) in [(10, 404, "ends on"), (11, 401, "ended on")] {
        world.clock.step_wall(steps * DAY_S);
        assert_eq!(asked().await, status);
        let (state, detail) = part(&world, "clients").await.expect("a part");
        assert_eq!(state, "degraded");
        assert!(detail.contains(&format!("the last of clients.nightly.keys {verb}")), "{detail}");
        assert!(detail.contains("exportgate key new") && !detail.contains("lasting"), "{detail}");
        assert!(expiring(&world, "client_keys").await > 0.5);
    }
    world.stop().await;
}

/// They have no end, but an issuer replaces its keys, and then nobody is known by the old ones.
#[tokio::test(flavor = "multi_thread")]
async fn an_issuers_keys_that_cannot_be_fetched_any_more_are_told() {
    let directory = TempDir::new().unwrap();
    let clients = directory.path().join("clients.toml");
    std::fs::write(&clients, "[clients.a]\ntokens = ['sub=a']\n").unwrap();
    let flags = vec![
        flag("access.clients_file", clients.display()),
        flag("oidc.issuer", "https://issuer.test"),
        flag("oidc.audience", "exportgate"),
        flag("oidc.jwks_url", "http://127.0.0.1:1/keys"),
    ];
    let world = World::with(Settings::default(), flags).await;
    let is_told = async {
        loop {
            let (state, detail) = part(&world, "configuration").await.expect("a part");
            if state != "ok" {
                return (state, detail);
            }
        }
    };
    let (state, detail) = tokio::time::timeout(DEADLINE, is_told).await.expect("it is told");
    assert!(state == "degraded" && detail.starts_with("jwks: the last good one is in force; "), "{detail}");
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_has_ended_is_logged_at_the_start_and_when_it_is_replaced_by_such() {
    let fake = Fake::start(Settings::default()).await.unwrap();
    let home = TempDir::new().unwrap();
    let [cert, key] = certificate(home.path(), (-30, -1));
    let env = [
        ("EXPORTGATE_TLS_CERTIFICATE", cert.as_str()),
        ("EXPORTGATE_TLS_KEY", key.as_str()),
        ("EXPORTGATE_ACCESS_RELOAD_INTERVAL", "10ms"),
    ];
    let program = Program::serve(home.path(), &fake, &[], &env);
    let line = |level: &str, message: &str| {
        crate::support::raw::poll(message, || {
            let log = std::fs::read_to_string(program.log()).ok()?;
            let events = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
            let mut found = events.filter(|event| event["message"] == message && event["level"] == level);
            Some(found.next()?["detail"].as_str().unwrap().to_owned())
        })
    };
    let ended = line("ERROR", "expired");
    assert!(ended.starts_with(&format!("tls.certificate ({cert}) ended on ")), "{ended}");
    certificate(home.path(), (-90, 3));
    assert!(line("WARN", "expires soon").contains(" ends on "));
    certificate(home.path(), (3, 90));
    assert!(line("ERROR", "not valid yet").contains(" is not valid before "));
}

#[test]
fn check_says_until_when_the_certificate_is_valid_and_who_cannot_get_in_any_more() {
    let home = TempDir::new().unwrap();
    let check = |args: &[&str], env: &[(&str, &str)]| {
        let mut command = exportgate(home.path());
        let output = command.arg("check").args(args).env("SNYK_TOKEN", TOKEN).envs(env.iter().copied());
        let output = output.output().unwrap();
        (output.status.code(), String::from_utf8(output.stdout).unwrap())
    };
    for (life, told) in [
        ((-1, 100), ") is valid until "),
        ((-90, 3), "WARNING: tls.certificate ("),
        ((-90, -3), ") ended on "),
        ((3, 90), ") is not valid before "),
    ] {
        let [certificate, key] = certificate(home.path(), life);
        let env = [("EXPORTGATE_TLS_CERTIFICATE", certificate.as_str()), ("EXPORTGATE_TLS_KEY", &key)];
        let (code, text) = check(&[], &env);
        assert!(code == Some(0) && text.contains(told), "{told} in {text}");
    }
    let key = |n: u32, until: &str| format!("'sha256:{}{until}'", n.to_string().repeat(64));
    let until = |days_on: i64| format!(" until {}", humantime::format_rfc3339_seconds(days(days_on)));
    let client = |name: &str, keys: &[String], more: &str| {
        format!("[clients.{name}]\nkeys = [{}]\norgs = ['*']\n{more}\n", keys.join(", "))
    };
    let clients = client("good", &[key(1, ""), key(2, &until(-3))], "")
        + &client("over", &[key(3, &until(-9)), key(4, &until(-3))], "")
        + &client("soon", &[key(5, &until(3))], "")
        + &client("otherwise", &[key(6, &until(-3))], "certificates = ['dns:otherwise']")
        + &client("long", &[key(7, &until(300))], "");
    let file = home.path().join("clients.toml");
    std::fs::write(&file, clients).unwrap();
    let env = [("EXPORTGATE_ACCESS_CLIENTS_FILE", file.to_str().unwrap())];
    let (code, text) = check(&[], &env);
    assert_eq!(code, Some(0), "{text}");
    for (name, told) in [("over", "ended on"), ("soon", "ends on"), ("otherwise", "ended on")] {
        assert!(text.contains(&format!("WARNING: the last of clients.{name}.keys {told}")), "{text}");
    }
    assert!(!text.contains("clients.good") && !text.contains("clients.long"), "{text}");
    for (name, code, told) in [
        ("good", 0, vec!["key 2 of 2 in clients.good.keys ended on", "allowed"]),
        (
            "over",
            1,
            vec![
                "key 1 of 2",
                "key 2 of 2",
                "refused: 401, all keys in clients.over.keys have ended",
                "key new --client over",
            ],
        ),
        ("soon", 0, vec!["key 1 of 1 in clients.soon.keys ends on", "allowed"]),
        ("otherwise", 0, vec!["all of its keys have ended: only certificates", "allowed"]),
        ("long", 0, vec!["allowed"]),
    ] {
        let (is, text) = check(&["--as", name, "GET", &format!("/orgs/{ORG}/export/e1")], &env);
        assert_eq!(is, Some(code), "{text}");
        assert!(told.iter().all(|told| text.contains(told)), "{told:?} in {text}");
        assert!(name != "long" || !text.contains("key 1"), "{text}");
    }
}
