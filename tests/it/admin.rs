//! Looking after the gateway: who may, what they see, and what they may do.

use std::time::Duration;

use bytes::Bytes;
use exportgate::fake::{Fault, Settings, State};
use exportgate::transport;
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt as _, Either, Full};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::access::{Known, replace};
use crate::support::doors::Door;
use crate::support::{Flags, Got, ORG, V, World, artefacts, flag, keep_secret, results, scope};

const ADMIN_TOKEN: &str = "adm1n-0f-the-g4teway-0123456789";

/// Keeps what an admin call gave where secrets are searched for.
fn keep(got: &Got) {
    let name = format!("admin-{}.txt", uuid::Uuid::new_v4().simple());
    std::fs::write(artefacts().join(name), &got.body).unwrap();
}

async fn ask(world: &World, method: Method, target: &str, fields: &[(&str, &str)]) -> Got {
    let got = world.send(method, &format!("{}{target}", world.admin), fields, "").await;
    keep(&got);
    got
}

async fn look(world: &World, target: &str) -> Got {
    ask(world, Method::GET, target, &[]).await
}

/// The code of an admin error.
fn code(got: &Got) -> String {
    got.json()["error"]["code"].as_str().expect("a code").to_owned()
}

/// A world with one finished export that is stored.
async fn stored(flags: Flags) -> World {
    let world = World::with(Settings::default(), flags).await;
    world.fake.put_export(&scope(), "e1", State::Finished);
    assert_eq!(world.get(&results("e1")).await.status, StatusCode::OK);
    assert!(world.get(&results("e1")).await.is_hit());
    world
}

#[tokio::test]
async fn probes_give_the_bare_status_to_anybody_by_any_name() {
    keep_secret([ADMIN_TOKEN.to_owned()]);
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("token");
    std::fs::write(&file, ADMIN_TOKEN).unwrap();
    let world = World::with(Settings::default(), vec![flag("admin.token_file", file.display())]).await;
    for path in ["/livez", "/readyz"] {
        let got = ask(&world, Method::GET, path, &[("host", "10.1.2.3:7081"), ("origin", "https://x")]).await;
        assert_eq!((got.status, got.field("content-type")), (StatusCode::OK, "text/plain; charset=utf-8"));
        assert!(got.body.len() < 10, "{got:?}");
        let head = ask(&world, Method::HEAD, path, &[]).await;
        assert_eq!((head.status, head.body.len()), (StatusCode::OK, 0));
        let post = ask(&world, Method::POST, path, &[]).await;
        assert_eq!((post.status, post.field("allow")), (StatusCode::METHOD_NOT_ALLOWED, "GET, HEAD"));
    }
    world.stop().await;
}

#[tokio::test]
async fn what_is_stored_is_listed_without_links_and_purged() {
    let world = stored(vec![]).await;
    world.fake.put_export(&scope(), "e2", State::Finished);
    world.get(&results("e2")).await;
    let listed = look(&world, "/api/exports").await.json();
    assert_eq!(listed["total"], 2);
    let first = &listed["exports"][1];
    assert_eq!((first["export_id"].as_str(), first["hits"].as_u64()), (Some("e1"), Some(1)));
    assert_eq!(first["scope_id"], ORG);
    assert_eq!(first["query"], V);
    assert!(first["fresh_for_s"].as_u64().unwrap() > 2_000);
    assert_eq!(look(&world, "/api/exports?limit=1").await.json()["exports"].as_array().unwrap().len(), 1);

    let gone = ask(&world, Method::DELETE, &format!("/api/exports/{ORG}/e1"), &[]).await;
    assert_eq!(gone.json()["purged"], 1);
    assert!(!world.get(&results("e1")).await.is_hit());
    assert!(world.get(&results("e2")).await.is_hit());
    let other = ask(&world, Method::DELETE, "/api/exports/another/e1", &[]).await;
    assert_eq!(other.json()["purged"], 0);
    let none = ask(&world, Method::DELETE, &format!("/api/exports/{ORG}/e1%20"), &[]).await;
    assert_eq!((none.status, code(&none).as_str()), (StatusCode::BAD_REQUEST, "bad_id"));
    // An id's case does not matter where it is a UUID's.
    world.get(&results("e1")).await;
    let gone = ask(&world, Method::DELETE, &format!("/api/exports/{}/e1", ORG.to_uppercase()), &[]).await;
    assert_eq!(gone.json()["purged"], 1);
    world.get(&results("e1")).await;
    assert_eq!(ask(&world, Method::DELETE, "/api/exports", &[]).await.json()["purged"], 2);
    assert_eq!(look(&world, "/api/exports").await.json()["total"], 0);
    world.stop().await;
}

#[tokio::test]
async fn what_was_asked_for_before_a_purge_is_not_stored_after_it() {
    let world = World::new().await;
    world.fake.put_export(&scope(), "e1", State::Finished);
    let gate = world.fake.hold();
    let (target, before) = (results("e1"), world.fake.hits().results);
    let asking = async { world.get(&target).await };
    // The request has reached Snyk when the purge comes.
    let purging = async {
        while world.fake.hits().results == before {
            tokio::task::yield_now().await;
        }
        ask(&world, Method::DELETE, "/api/exports", &[]).await;
        drop(gate);
    };
    let (got, ()) = futures_util::future::join(asking, purging).await;
    assert_eq!(got.status, StatusCode::OK);
    assert!(!world.get(&target).await.is_hit());
    assert!(world.get(&target).await.is_hit());
    world.stop().await;
}

#[tokio::test]
async fn all_but_probes_and_the_page_needs_the_token() {
    keep_secret([ADMIN_TOKEN.to_owned()]);
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("token");
    std::fs::write(&file, format!("{ADMIN_TOKEN}\n")).unwrap();
    let world = stored(vec![flag("admin.token_file", file.display())]).await;
    let bearer = format!("Bearer {ADMIN_TOKEN}");
    for target in [
        "/metrics",
        "/api/status",
        "/api/events",
        "/api/exports",
        "/api/requests",
        "/api/budget",
        "/api/config",
        "/openapi.json",
        "/api/openapi.json",
    ] {
        let none = look(&world, target).await;
        assert_eq!(
            (none.status, code(&none).as_str()),
            (StatusCode::UNAUTHORIZED, "unauthorized"),
            "{target}"
        );
        assert!(none.field("www-authenticate").starts_with("Bearer"), "{target}");
        for wrong in ["Bearer wrong-wrong-wrong-wrong", "Basic x", &bearer[..bearer.len() - 1]] {
            let got = ask(&world, Method::GET, target, &[("authorization", wrong)]).await;
            assert_eq!(got.status, StatusCode::UNAUTHORIZED, "{target} {wrong}");
        }
        if target != "/api/events" {
            let got = ask(&world, Method::GET, target, &[("authorization", &bearer)]).await;
            assert_eq!(got.status, StatusCode::OK, "{target}");
        }
    }
    assert_eq!(ask(&world, Method::DELETE, "/api/exports", &[]).await.status, StatusCode::UNAUTHORIZED);
    assert!(world.get(&results("e1")).await.is_hit());
    assert_eq!(look(&world, "/").await.status, StatusCode::OK);

    // It may be replaced at any time; one that could be guessed, or cannot be read, lets nobody in.
    for (content, status) in [
        ("another-token-of-the-admin", StatusCode::UNAUTHORIZED),
        ("short", StatusCode::SERVICE_UNAVAILABLE),
        ("", StatusCode::SERVICE_UNAVAILABLE),
    ] {
        std::fs::write(&file, content).unwrap();
        let got = ask(&world, Method::GET, "/api/status", &[("authorization", &bearer)]).await;
        assert_eq!(got.status, status, "{content}");
        let given = format!("Bearer {content}");
        let got = ask(&world, Method::GET, "/api/status", &[("authorization", &given)]).await;
        assert_eq!(got.status == StatusCode::OK, content.starts_with("another"), "{content}");
    }
    std::fs::remove_file(&file).unwrap();
    let got = ask(&world, Method::GET, "/api/status", &[("authorization", &bearer)]).await;
    assert_eq!(code(&got), "token_unreadable");
    world.stop().await;
}

#[tokio::test]
async fn pages_of_other_sites_reach_nothing() {
    let world = stored(vec![flag("access.hosts", "gate.internal")]).await;
    let own = world.admin.strip_prefix("http://").unwrap().to_owned();
    let origin = format!("http://{own}");
    for (fields, good) in [
        (vec![("host", "rebound.example:7081")], false),
        (vec![("host", "gate.internal")], true),
        (vec![("host", "localhost")], true),
        (vec![("origin", "https://evil.example")], false),
        (vec![("origin", "null")], false),
        (vec![("origin", origin.as_str())], true),
        (vec![("sec-fetch-site", "cross-site")], false),
        (vec![("sec-fetch-site", "same-site")], false),
        (vec![("sec-fetch-site", "same-origin"), ("origin", origin.as_str())], true),
        (vec![("sec-fetch-site", "none")], true),
        (vec![("sec-fetch-site", "none"), ("sec-fetch-site", "cross-site")], false),
    ] {
        for target in ["/api/status", "/metrics", "/api/requests"] {
            let got = ask(&world, Method::GET, target, &fields).await;
            let expected = if good { StatusCode::OK } else { StatusCode::FORBIDDEN };
            assert_eq!(got.status, expected, "{target} {fields:?}");
        }
        if !good {
            let got = ask(&world, Method::DELETE, "/api/exports", &fields).await;
            assert_eq!(got.status, StatusCode::FORBIDDEN, "{fields:?}");
        }
    }
    assert!(world.get(&results("e1")).await.is_hit());
    world.stop().await;
}

#[tokio::test]
async fn the_page_and_every_answer_say_what_a_browser_may_do() {
    let world = World::new().await;
    let page = look(&world, "/").await;
    let policy = page.field("content-security-policy");
    assert!(policy.starts_with("default-src 'none'; style-src 'sha256-"), "{policy}");
    assert!(policy.contains("frame-ancestors 'none'"), "{policy}");
    for target in ["/", "/api/status", "/metrics", "/nothing"] {
        let got = look(&world, target).await;
        assert_eq!(got.field("cache-control"), "no-store", "{target}");
        assert_eq!(got.field("x-content-type-options"), "nosniff", "{target}");
        assert!(got.field("content-security-policy").contains("default-src 'none'"), "{target}");
    }
    assert_eq!(code(&look(&world, "/nothing").await), "unknown_route");
    assert_eq!(code(&look(&world, "/api/exports/a").await), "unknown_route");
    let put = ask(&world, Method::PUT, "/api/exports", &[]).await;
    assert_eq!((put.status, put.field("allow")), (StatusCode::METHOD_NOT_ALLOWED, "GET, HEAD, DELETE"));
    world.stop().await;
}

#[tokio::test]
async fn it_is_not_ready_from_the_first_moment_of_stopping_and_serves_on_for_the_delay() {
    let world = stored(vec![flag("shutdown.delay", "300ms")]).await;
    assert_eq!(look(&world, "/readyz").await.status, StatusCode::OK);
    world.announce_stop();
    let got = look(&world, "/readyz").await;
    assert_eq!((got.status, &got.body[..]), (StatusCode::SERVICE_UNAVAILABLE, &b"stopping\n"[..]));
    assert_eq!(look(&world, "/livez").await.status, StatusCode::OK);
    let got = world.get(&results("e1")).await;
    assert!(got.is_hit());
    assert_eq!(got.field("connection"), "close");
    // It ends by itself; nobody begins the stop but the delay.
    world.ended().await;
}

#[tokio::test]
async fn a_broken_journal_is_not_ready_only_where_answers_are_refused_for_it() {
    for (on_failure, status, word) in
        [("serve", StatusCode::OK, "degraded\n"), ("refuse", StatusCode::SERVICE_UNAVAILABLE, "not_ready\n")]
    {
        let nowhere = tempfile::NamedTempFile::new().unwrap();
        let flags = vec![
            flag("journal.path", nowhere.path().join("j.db").display()),
            flag("journal.on_failure", on_failure),
        ];
        let world = World::with(Settings::default(), flags).await;
        world.fake.put_export(&scope(), "e1", State::Finished);
        world.get(&results("e1")).await;
        let got = look(&world, "/readyz").await;
        assert_eq!((got.status, &got.body[..]), (status, word.as_bytes()));
        assert_eq!(look(&world, "/livez").await.status, StatusCode::OK);
        let parts = look(&world, "/api/status").await.json();
        let journal =
            parts["parts"].as_array().unwrap().iter().find(|part| part["name"] == "journal").unwrap();
        assert_ne!(journal["state"], "ok");
        assert!(journal["since"].as_str().unwrap().ends_with('Z'));
        world.stop().await;
    }
}

#[tokio::test]
async fn an_upstream_in_trouble_leaves_it_ready() {
    let world =
        World::with(Settings::default(), vec![flag("breaker.failures", "2"), flag("retry.max", "0")]).await;
    world.fake.fault(Fault::NoHealthyUpstream, Some(2));
    for org in ["a", "b"] {
        world.get(&format!("/orgs/{org}/export/e1?{V}")).await;
    }
    let status = look(&world, "/api/status").await.json();
    assert_eq!(status["budget"]["breaker"]["state"], "open");
    assert_eq!(status["state"], "degraded");
    assert_eq!(look(&world, "/readyz").await.status, StatusCode::OK);
    world.stop().await;
}

#[tokio::test]
async fn request_ids_are_found_and_made_a_block_for_support() {
    let world = stored(vec![]).await;
    let id = world.get(&results("e1")).await.field("snyk-request-id").to_owned();
    let found = look(&world, &format!("/api/requests?id={id}")).await.json();
    assert_eq!(found["requests"][0]["received_id"], id.as_str());
    let found = look(&world, "/api/requests?export=e1&status=2xx&since=1h&limit=5").await.json();
    assert_eq!(found["requests"].as_array().unwrap().len(), 1);
    assert!(look(&world, "/api/requests?export=e9").await.json()["requests"].as_array().unwrap().is_empty());
    let block = look(&world, "/api/requests?export=e1&format=support").await;
    assert_eq!(block.field("content-type"), "text/plain; charset=utf-8");
    assert!(std::str::from_utf8(&block.body).unwrap().contains(&id));
    for bad in [
        "limit=0",
        "limit=x",
        "limit=100000",
        "status=many",
        "since=soon",
        "nothing=1",
        "id=a&id=b",
        "format=xml",
    ] {
        let got = look(&world, &format!("/api/requests?{bad}")).await;
        assert_eq!((got.status, code(&got).as_str()), (StatusCode::BAD_REQUEST, "bad_query"), "{bad}");
    }
    assert_eq!(code(&look(&world, "/api/exports?limit=-1").await), "bad_query");
    world.stop().await;
}

#[tokio::test]
async fn the_configuration_is_shown_without_secrets() {
    let world = World::new().await;
    let config = look(&world, "/api/config").await.json();
    let keys = config["keys"].as_array().unwrap();
    assert!(keys.len() > 80, "{}", keys.len());
    let journal = keys.iter().find(|key| key["name"] == "journal.path").unwrap();
    assert_eq!(journal["source"], "test");
    world.stop().await;
}

#[tokio::test]
async fn the_status_comes_again_and_again_until_the_gateway_stops() {
    let world = stored(vec![]).await;
    let client = transport::client(&"http://x".parse().unwrap(), None, Duration::from_secs(5)).unwrap();
    let uri = format!("{}/api/events", world.admin);
    let request = Request::builder().uri(uri).body(Either::Left(Full::new(Bytes::new()))).unwrap();
    let response = client.request(request).await.unwrap();
    assert_eq!(response.headers()["content-type"], "text/event-stream");
    let mut body = response.into_body();
    for _ in 0..2 {
        let frame = body.frame().await.unwrap().unwrap().into_data().unwrap();
        let text = std::str::from_utf8(&frame).unwrap().to_owned();
        let data = text.strip_prefix("event: status\ndata: ").unwrap().strip_suffix("\n\n").unwrap();
        let status: serde_json::Value = serde_json::from_str(data).unwrap();
        assert_eq!(status["totals"]["hit"], 1);
        // A new point may have begun since the hit.
        let points = status["traffic"]["points"].as_array().unwrap();
        assert_eq!(points.iter().filter_map(|point| point["hit"].as_u64()).sum::<u64>(), 1);
    }
    world.stop().await;
    while let Some(frame) = body.frame().await {
        frame.expect("it ends well");
    }
}

#[tokio::test]
async fn probes_are_answered_while_clients_have_taken_all_connections() {
    let world = World::with(Settings::default(), vec![flag("listener.max_connections", "2")]).await;
    let door = world.door(0, None);
    let (mut one, mut two) = (door.connect().await.unwrap(), door.connect().await.unwrap());
    for connection in [&mut one, &mut two] {
        connection.send(Method::GET, "/x", &[]).await.unwrap();
    }
    let exportgate::listener::Address::Tcp(address) = &world.addresses[0] else { panic!("TCP") };
    let mut third = tokio::net::TcpStream::connect(address).await.unwrap();
    let mut refused = [0; 12];
    third.read_exact(&mut refused).await.unwrap();
    assert_eq!(&refused, b"HTTP/1.1 503");
    for path in ["/livez", "/readyz"] {
        assert_eq!(look(&world, path).await.status, StatusCode::OK);
    }
    let status = look(&world, "/api/status").await.json();
    assert_eq!(status["connections"]["open"], 2);
    assert_eq!(status["connections"]["max"], 2);
    world.stop().await;
}

#[tokio::test]
async fn probes_are_answered_while_somebody_has_taken_the_admin_listeners_connections() {
    let world = World::with(Settings::default(), vec![flag("admin.max_connections", "2")]).await;
    let address = world.admin.strip_prefix("http://").unwrap();
    let slow = async || {
        let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
        stream.write_all(b"GET / HTTP/1.1\r\n").await.unwrap();
        stream
    };
    let _taken = (slow().await, slow().await);
    let said = async |question: &str| {
        let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
        stream.write_all(question.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    };
    let full = said("GET /api/status HTTP/1.1\r\nhost: localhost\r\n\r\n").await;
    assert!(full.starts_with("HTTP/1.1 503") && full.contains("too_many_connections"), "{full}");
    let live = said("GET /livez HTTP/1.1\r\nhost: 10.0.0.1\r\n\r\n").await;
    assert!(live.starts_with("HTTP/1.1 200 OK") && live.ends_with("\r\n\r\nok\n"), "{live}");
    assert!(said("GET /readyz HTTP/1.1\r\n\r\n").await.ends_with("ready\n"));
    for (other, status) in [
        ("POST /livez HTTP/1.1\r\n\r\n", "503"),
        ("GET /livezz HTTP/1.1\r\n\r\n", "503"),
        ("GET /livez\r\n\r\n", "400"),
        ("\u{0}\r\n\r\n", "400"),
    ] {
        let said = said(other).await;
        assert!(said.starts_with(&format!("HTTP/1.1 {status}")), "{other:?} {said}");
    }
    // Who says nothing is not waited for.
    assert_eq!(said("").await, "");
    world.stop().await;
}

#[tokio::test]
async fn over_tls_a_certificate_may_stand_for_the_token() {
    let known = Known::new();
    let mut flags = known.flags("");
    let ca = known.path("admin-ca.pem");
    std::fs::write(&ca, known.authority.pem()).unwrap();
    flags.extend([flag("admin.listen", "tls:127.0.0.1:0"), flag("admin.client_ca", ca.display())]);
    let world = World::with(Settings::default(), flags).await;
    let address = world.admin.strip_prefix("https://").unwrap().parse().unwrap();
    let door = |identity| Door::Tls(address, known.tls(identity));
    let with = door(Some(&known.certificate)).get("/api/status", &[]).await;
    assert_eq!(with.status, StatusCode::OK);
    let without = door(None);
    assert_eq!(without.get("/api/status", &[]).await.status, StatusCode::UNAUTHORIZED);
    // A kubelet has no certificate.
    assert_eq!(without.get("/readyz", &[]).await.status, StatusCode::OK);
    replace(&ca, &crate::support::pki::Authority::new("another").pem());
    let still_good = async || {
        let mut connection = door(Some(&known.certificate)).connect().await.ok()?;
        connection.send(Method::GET, "/api/status", &[]).await.ok()
    };
    while still_good().await.is_some() {}
    world.stop().await;
}

#[tokio::test]
async fn what_snyk_changes_is_seen() {
    let world = World::new().await;
    world.fake.put_export(&scope(), "odd", State::Word("THINKING".into()));
    world.get(&results("odd")).await;
    let status = look(&world, "/api/status").await.json();
    let drift = status["drift"].as_array().unwrap();
    assert!(
        drift.iter().any(|seen| seen["kind"] == "status_word" && seen["detail"] == "status THINKING"),
        "{drift:?}"
    );
    world.stop().await;
}

#[tokio::test]
async fn a_version_that_is_served_is_drift_only_where_it_was_another_before() {
    let world = World::with(Settings::default(), vec![flag("routes.other", "forward")]).await;
    world.fake.put_export(&scope(), "e", State::Word("PENDING".into()));
    let seen = async || -> Vec<String> {
        let status = look(&world, "/api/status").await.json();
        let drift = status["drift"].as_array().unwrap().iter().filter(|seen| seen["kind"] == "version");
        drift.map(|seen| format!("{} {}", seen["count"], seen["detail"].as_str().unwrap())).collect()
    };
    let ask = async |version: &str| world.get(&format!("/{}/export/e{version}", scope())).await.status;
    let served = |version: &str, times| {
        let fault = Fault::ReplaceHeader("snyk-version-served".into(), version.into());
        world.fake.fault(fault, Some(times));
    };
    // Today's date, as Snyk recommends, and none: what is served is the newest that there is.
    for version in ["?version=2026-11-27", "?version=2026-11-28", "", "?version=2024-10-15"] {
        ask(version).await;
    }
    assert_eq!(seen().await, Vec::<String>::new());
    // Other calls have versions of their own, and what is refused speaks of none.
    served("2023-01-01", 2);
    world.get("/rest/self?version=2024-10-15").await;
    world.get(&format!("/{}/export/none?version=2024-10-15", scope())).await;
    assert_eq!(seen().await, Vec::<String>::new());
    served("2026-12-01", 2);
    for _ in 0..3 {
        assert_eq!(ask("?version=2024-10-15").await, 200);
    }
    // It came, stayed, and went.
    let back = "2 version 2024-10-15 was asked for: 2024-10-15 is served, and 2026-12-01 was before";
    assert_eq!(seen().await, [back]);
    world.stop().await;
}
