//! What is counted is true, bounded and documented.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::io::Write as _;
use std::net::TcpStream;
use std::path::Path;

use exportgate::fake::{Fault, Script, Settings, State};
use exportgate::listener::Address;
use exportgate::shared::SealKeys;
use http::{Method, StatusCode};

use crate::support::raw::{DEADLINE, reset};
use crate::support::{Flags, ORG, START, V, World, artefacts, flag, keep_secret, results, scope};

async fn metrics(world: &World, accept: &str) -> String {
    let target = format!("{}/metrics", world.admin);
    let got = world.send(Method::GET, &target, &[("accept", accept)], "").await;
    assert_eq!(got.status, StatusCode::OK);
    std::fs::write(artefacts().join(format!("metrics-{}.txt", uuid::Uuid::new_v4().simple())), &got.body)
        .unwrap();
    String::from_utf8(got.body.to_vec()).unwrap()
}

/// The value of a series, named as it is written.
fn value(text: &str, series: &str) -> f64 {
    let found = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' ')?.parse().ok());
    found.unwrap_or_else(|| panic!("no {series} in\n{text}"))
}

/// One of each: a start, a PENDING poll, a miss, hits, an error of Snyk's, a denial and an answer of our own.
async fn traffic(world: &World) {
    world.fake.put_export(&scope(), "e1", State::Finished);
    world.fake.put_export(&scope(), "pending", State::Word("PENDING".into()));
    world.send(Method::POST, &format!("/orgs/{ORG}/export?{V}"), &[], START).await;
    for export in ["pending", "e1", "e1", "e1"] {
        world.get(&results(export)).await;
    }
    world.fake.fault(Fault::Status(404), Some(1));
    world.get(&results("gone")).await;
    world.get_with(&results("e1"), &[("origin", "https://page.example")]).await;
    world.get("/nothing").await;
    world.send(Method::DELETE, &format!("{}/api/exports", world.admin), &[], "").await;
}

#[tokio::test]
async fn each_request_and_attempt_is_counted_once() {
    let world = World::new().await;
    traffic(&world).await;
    let text = metrics(&world, "*/*").await;
    for (series, expected) in [
        ("exportgate_requests_total{operation=\"start\",outcome=\"uncached\"}", 1.0),
        ("exportgate_requests_total{operation=\"results\",outcome=\"miss\"}", 3.0),
        ("exportgate_requests_total{operation=\"results\",outcome=\"hit\"}", 2.0),
        ("exportgate_requests_total{operation=\"none\",outcome=\"denied\"}", 1.0),
        ("exportgate_requests_total{operation=\"none\",outcome=\"failed\"}", 1.0),
        ("exportgate_errors_total{code=\"unknown_route\"}", 1.0),
        ("exportgate_upstream_attempts_total{operation=\"results\",result=\"2xx\"}", 2.0),
        ("exportgate_upstream_attempts_total{operation=\"results\",result=\"4xx\"}", 1.0),
        ("exportgate_upstream_attempts_total{operation=\"start\",result=\"2xx\"}", 1.0),
        ("exportgate_upstream_duration_seconds_count{operation=\"results\"}", 3.0),
        ("exportgate_request_duration_seconds_count{outcome=\"hit\"}", 2.0),
        ("exportgate_served_freshness_seconds_count", 2.0),
        ("exportgate_cache_removals_total{cause=\"purged\"}", 1.0),
        ("exportgate_cache_entries", 0.0),
        ("exportgate_journal_records_total{result=\"written\"}", 4.0),
        ("exportgate_journal_records_total{result=\"dropped\"}", 0.0),
        ("exportgate_budget_used{credential=\"default\",window=\"1h\"}", 4.0),
        ("exportgate_budget_limit{credential=\"default\",window=\"1m\"}", 1_620.0),
        ("exportgate_breaker_state{state=\"closed\"}", 1.0),
        ("exportgate_ready", 1.0),
        ("exportgate_connections{listener=\"data\"}", 1.0),
    ] {
        assert!((value(&text, series) - expected).abs() < 0.001, "{series}: {}", value(&text, series));
    }
    assert!(value(&text, "process_resident_memory_bytes") > 1_000_000.0);
    let open = metrics(&world, "application/openmetrics-text; version=1.0.0").await;
    assert!(open.ends_with("# EOF\n"));
    world.stop().await;
}

/// Its connection is reset while its request is under way.
#[tokio::test]
async fn who_leaves_is_counted() {
    let world = World::new().await;
    world.fake.put_export(&scope(), "e1", State::Finished);
    world.fake.fault(Fault::Hang, None);
    let Address::Tcp(address) = world.addresses[0] else { panic!("a TCP address") };
    let mut stream = TcpStream::connect(address).unwrap();
    write!(stream, "GET {} HTTP/1.1\r\nHost: localhost\r\n\r\n", results("e1")).unwrap();
    tokio::time::timeout(DEADLINE, world.fake.wait_for_hits(1)).await.expect("it is asked for");
    reset(stream);
    let counted = async {
        let series = "exportgate_requests_total{operation=\"results\",outcome=\"client_left\"}";
        let target = format!("{}/metrics", world.admin);
        loop {
            let got = world.send(Method::GET, &target, &[], "").await;
            if value(std::str::from_utf8(&got.body).unwrap(), series) > 0.0 {
                break;
            }
        }
    };
    tokio::time::timeout(DEADLINE, counted).await.expect("it is counted");
    world.stop().await;
}

#[tokio::test]
async fn no_label_comes_from_a_request() {
    let world = World::new().await;
    let before = metrics(&world, "*/*").await;
    for n in 0..50 {
        world.get_with(&results(&format!("export-{n}")), &[("user-agent", &format!("agent-{n}"))]).await;
        world.get(&format!("/path-{n}")).await;
    }
    let after = metrics(&world, "*/*").await;
    let series = |text: &str| {
        let names =
            text.lines().filter(|line| !line.starts_with('#')).filter_map(|line| line.rsplit_once(' '));
        names.map(|(name, _)| name.to_owned()).collect::<BTreeSet<String>>()
    };
    let new: Vec<String> = series(&after).difference(&series(&before)).cloned().collect();
    assert_eq!(new, ["exportgate_errors_total{code=\"unknown_route\"}"]);
    world.stop().await;
}

/// Writes what the metrics say of themselves as a page.
fn page(open_metrics: &str) -> String {
    #[derive(Default)]
    struct Family {
        kind: String,
        help: String,
        labels: BTreeMap<String, BTreeSet<String>>,
    }
    let mut families: BTreeMap<String, Family> = BTreeMap::new();
    for line in open_metrics.lines() {
        let mut words = line.splitn(4, ' ');
        match (words.next(), words.next(), words.next(), words.next()) {
            (Some("#"), Some("TYPE"), Some(name), Some(kind)) => {
                kind.clone_into(&mut families.entry(name.to_owned()).or_default().kind);
            }
            (Some("#"), Some("HELP"), Some(name), Some(help)) => {
                help.clone_into(&mut families.entry(name.to_owned()).or_default().help);
            }
            _ => {}
        }
    }
    for line in open_metrics.lines().filter(|line| !line.starts_with('#')) {
        let Some((name, rest)) = line.split_once('{') else { continue };
        let bare = ["_total", "_bucket", "_count", "_sum"].iter().find_map(|end| name.strip_suffix(end));
        let found = bare.filter(|bare| families.contains_key(*bare)).unwrap_or(name);
        let Some(family) = families.get_mut(found) else { continue };
        for pair in rest.split_once('}').map_or("", |(labels, _)| labels).split(',') {
            if let Some((label, value)) = pair.split_once('=').filter(|(label, _)| *label != "le") {
                family.labels.entry(label.to_owned()).or_default().insert(value.trim_matches('"').to_owned());
            }
        }
    }
    let mut text = String::from(
        "# Metrics\n\nWhat `/metrics` of the admin listener gives. This page is generated from a running gateway, and a\n\
         test keeps it true. No label holds an id, a path or anything else of a request; `credential` and `name` are names in\n\
         the configuration, `code` is one of the error codes of the README.\n\n\
         | name | kind | labels | meaning |\n|---|---|---|---|\n",
    );
    for (name, Family { kind, help, labels }) in families {
        let total = if kind == "counter" { "_total" } else { "" };
        let labels: Vec<String> = labels
            .into_iter()
            .map(|(label, values)| match label.as_str() {
                "credential" | "code" | "version" | "name" => format!("`{label}`"),
                _ => format!("`{label}`: {}", values.into_iter().collect::<Vec<_>>().join(" ")),
            })
            .collect();
        let _ = writeln!(text, "| `{name}{total}` | {kind} | {} | {help} |", labels.join("; "));
    }
    text
}

/// A gateway that has all that is counted: TLS, an access token, a slot that waits, traffic of each kind.
#[tokio::test]
async fn all_of_it_is_documented() {
    let known = crate::access::Known::new();
    let (next, secret) = (known.path("next"), known.path("secret"));
    std::fs::write(&next, crate::support::TOKEN).unwrap();
    std::fs::write(&secret, "metr1cs-0f-a-secret").unwrap();
    keep_secret(["metr1cs-0f-a-secret".to_owned()]);
    let seal = known.path("seal.key");
    let seal_key = SealKeys::generate().unwrap();
    std::fs::write(&seal, format!("{}\n", *seal_key)).unwrap();
    keep_secret([seal_key.to_string()]);
    let tls = |flags: Flags| {
        flags.into_iter().filter(|(key, ..)| key.starts_with("tls.") || key.starts_with("oidc."))
    };
    let mut flags: Flags = tls(known.flags("")).collect();
    flags.extend([
        flag("listen", "127.0.0.1:0,tls:127.0.0.1:0"),
        flag("access.clients_file", known.path("clients.toml").display()),
        flag("access.reload_interval", "10ms"),
        flag("credential.client_id", "svc-1"),
        flag("credential.client_secret_file", secret.display()),
        flag("credential.next.token_file", next.display()),
        // No engine is there, and all of the budget is this gateway's own.
        flag("shared.url", "unix:/nonexistent/engine.sock"),
        flag("shared.gateways", 1),
        flag("shared.own", 1),
        flag("shared.key_file", seal.display()),
        flag("exports.weekly.scope", format!("org/{ORG}")),
        flag("exports.weekly.since", "all"),
    ]);
    let digest = exportgate::access::key::Digest::of(&known.key).to_hex();
    let clients =
        format!("[clients.keyed]\nkeys = ['sha256:{digest}']\norgs = '*'\noperations = ['read', 'start']\n");
    std::fs::write(known.path("clients.toml"), clients).unwrap();
    let script = Script { oauth_secret: Some("metr1cs-0f-a-secret".to_owned()), ..Script::default() };
    let world = World::with(Settings { script, ..Settings::default() }, flags).await;
    world.fake.put_export(&scope(), "e1", State::Finished);
    let key = format!("token {}", known.key);
    let as_client = [("authorization", key.as_str())];
    for export in ["e1", "e1", "e1", "none"] {
        world.get_with(&results(export), &as_client).await;
    }
    world.get("/nothing").await;
    let named = async { while !metrics(&world, "*/*").await.contains("exportgate_named_rows") {} };
    tokio::time::timeout(DEADLINE, named).await.expect("the named export is made");
    let text = page(&metrics(&world, "application/openmetrics-text").await);
    let made = Path::new(env!("CARGO_TARGET_TMPDIR"));
    // For Prometheus itself to judge.
    std::fs::write(made.join("metrics.txt"), metrics(&world, "*/*").await).unwrap();
    std::fs::write(made.join("metrics.md"), &text).unwrap();
    let kept = std::fs::read_to_string("docs/metrics.md").unwrap_or_default();
    let made = made.join("metrics.md");
    assert!(
        kept == text,
        "docs/metrics.md is not what the gateway says: cp {} docs/metrics.md",
        made.display()
    );
    world.stop().await;
}
