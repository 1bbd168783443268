//! OAuth access tokens, and what happens when Snyk refuses a credential: with counted calls.

use std::time::Duration;

use exportgate::fake::{Fault, Script, Settings, State};
use futures_util::StreamExt as _;
use http::Method;
use tempfile::TempDir;

use crate::support::{Flags, ORG, START, V, World, flag, keep_secret, results, scope};

const SECRET: &str = "c11e7-5ec2e7-c0ffee-0123456789";

fn oauth(script: Script) -> Settings {
    Settings { script: Script { oauth_secret: Some(SECRET.to_owned()), ..script }, ..Settings::default() }
}

/// A service account whose secret is in a file of `directory`.
fn service_account(directory: &TempDir) -> Flags {
    keep_secret([SECRET.to_owned()]);
    let path = directory.path().join("secret");
    std::fs::write(&path, format!("{SECRET}\n")).unwrap();
    vec![flag("credential.client_id", "svc-1"), flag("credential.client_secret_file", path.display())]
}

fn bearer(world: &World) -> Vec<String> {
    let seen = world.fake.requests();
    seen.iter().map(|seen| seen.header("authorization").concat()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_access_token_is_fetched_once_for_all_who_wait() {
    let directory = TempDir::new().unwrap();
    let fake = exportgate::fake::Fake::start(oauth(Script::default())).await.unwrap();
    fake.token_fault(Fault::Delay(Duration::from_millis(200)), Some(1));
    let upstream = fake.url();
    let world = World::before(fake, &upstream, service_account(&directory)).await;
    let waiting = (0..50).map(|n| {
        let target = results(&format!("e{n}"));
        let world = &world;
        async move { world.get(&target).await.status.as_u16() }
    });
    let statuses = futures_util::future::join_all(waiting).await;
    assert!(statuses.iter().all(|status| *status == 404), "{statuses:?}");
    assert_eq!(world.fake.hits().token, 1);
    let bearers = bearer(&world);
    assert!(bearers.iter().all(|value| value.starts_with("bearer issued-") && *value == bearers[0]));
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_renewed_ahead_of_its_end_and_an_expired_one_is_never_sent() {
    let directory = TempDir::new().unwrap();
    let world =
        World::with(oauth(Script { token_seconds: 2, ..Script::default() }), service_account(&directory))
            .await;
    // The fake refuses a token from its end on: were an expired one sent, an answer would be no 404.
    while world.fake.hits().token < 4 {
        assert_eq!(world.get(&results("e1")).await.status, 404);
    }
    let different: std::collections::BTreeSet<String> = bearer(&world).into_iter().collect();
    assert!(different.len() >= 3, "{}", different.len());
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_token_endpoint_gives_none_nothing_goes_to_snyk() {
    for fault in [
        Fault::Status(500),
        Fault::Reset,
        Fault::Html,
        Fault::Oversize(100_000),
        Fault::Redirect("https://127.0.0.1:1/oauth2/token".to_owned()),
        Fault::Status(401),
    ] {
        let directory = TempDir::new().unwrap();
        let fake = exportgate::fake::Fake::start(oauth(Script::default())).await.unwrap();
        let name = format!("{fault:?}");
        fake.token_fault(fault, None);
        let upstream = fake.url();
        let world = World::before(fake, &upstream, service_account(&directory)).await;
        let got = world.get(&results("e1")).await;
        assert_eq!(
            (got.status.as_u16(), got.code().as_str()),
            (503, "upstream_credential_unavailable"),
            "{name}"
        );
        assert!(got.field("retry-after").parse::<u64>().unwrap() >= 1, "{name}");
        assert_eq!(world.fake.hits().api(), 0, "{name}");
        // A bad answer does not end the tries.
        world.fake.clear_faults();
        while world.get(&results("e1")).await.status != 404 {}
        assert!(world.fake.hits().token >= 2, "{name}");
        world.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_access_token_is_replaced_and_the_read_replayed() {
    let directory = TempDir::new().unwrap();
    let world = World::with(oauth(Script::default()), service_account(&directory)).await;
    world.fake.put_export(&scope(), "e1", State::Word("PENDING".into()));
    for _ in 0..3 {
        assert_eq!(world.get(&results("e1")).await.status, 200);
        world.fake.revoke_tokens();
        assert_eq!(world.get(&results("e1")).await.status, 200);
    }
    assert_eq!(world.fake.hits().token, 4);
    // The refused request and its replay are a record each, with ids of their own.
    let records = world.records();
    let refused = records.iter().filter(|row| row.status == Some(401)).count();
    assert_eq!((records.len(), refused), (9, 3));
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_credential_is_tried_twice_then_left_alone_and_probed() {
    let world = World::with(Settings::default(), vec![flag("credential.probe_interval", "60s")]).await;
    world.fake.accept(&["another"]);
    let first = world.get(&results("e1")).await;
    assert_eq!((first.status.as_u16(), first.code().as_str()), (502, "upstream_credential_rejected"));
    assert!(first.field("www-authenticate").is_empty());
    assert_eq!(world.fake.hits().api(), 2);
    let asking = (0..10_000).map(|n| {
        let (world, target) = (&world, results(&format!("e{n}")));
        async move { world.get(&target).await }
    });
    let mut answers = futures_util::stream::iter(asking).buffer_unordered(64);
    while let Some(got) = answers.next().await {
        assert_eq!((got.status.as_u16(), got.code().as_str()), (503, "upstream_credential_locked"));
        assert!((1..=60).contains(&got.field("retry-after").parse::<u64>().unwrap()));
    }
    drop(answers);
    assert_eq!(world.fake.hits().api(), 2, "a locked credential was used");
    // A start is never replayed; it is not even sent.
    let start = world.send(Method::POST, &format!("/orgs/{ORG}/export?{V}"), &[], START).await;
    assert_eq!(start.status, 503);
    assert_eq!(world.fake.hits().start, 0);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_locked_credential_that_is_good_again_is_found_by_a_probe() {
    let world = World::with(Settings::default(), vec![flag("credential.probe_interval", "200ms")]).await;
    world.fake.accept(&["another"]);
    assert_eq!(world.get(&results("e1")).await.status, 502);
    let before = world.fake.hits().api();
    // The first probe is refused like the requests before it, and is not replayed.
    while world.fake.hits().api() == before {
        world.get(&results("e1")).await;
    }
    assert_eq!(world.fake.hits().api(), before + 1);
    world.fake.accept(&[crate::support::TOKEN]);
    world.fake.put_export(&scope(), "e1", State::Word("PENDING".into()));
    while world.get(&results("e1")).await.status != 200 {}
    assert_eq!(world.get(&results("e1")).await.status, 200);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_account_that_snyk_has_shut_out_is_locked_whatever_tokens_it_gets() {
    let directory = TempDir::new().unwrap();
    let world = World::with(oauth(Script::default()), service_account(&directory)).await;
    world.fake.put_export(&scope(), "e1", State::Word("PENDING".into()));
    assert_eq!(world.get(&results("e1")).await.status, 200);
    let (api, token) = (world.fake.hits().api(), world.fake.hits().token);
    world.fake.fault(Fault::Status(401), None);
    let mut codes = Vec::new();
    for n in 0..200 {
        codes.push(world.get(&results(&format!("e{n}"))).await.code());
    }
    assert_eq!(codes[0], "upstream_credential_rejected");
    assert!(codes[5..].iter().all(|code| code == "upstream_credential_locked"), "{codes:?}");
    assert!(world.fake.hits().api() - api <= 4, "{}", world.fake.hits().api() - api);
    assert_eq!(world.fake.hits().token - token, 1);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_client_can_neither_open_a_locked_credential_nor_take_its_probes() {
    let flags = vec![flag("credential.probe_interval", "200ms"), flag("routes.other", "forward")];
    let world = World::with(Settings::default(), flags).await;
    world.fake.accept(&["another"]);
    assert_eq!(world.get(&results("e1")).await.status, 502);
    let before = world.fake.hits();
    // Calls of routes.other are never probes; what Snyk answers before it looks at the token opens nothing.
    for _ in 0..50 {
        assert_eq!(world.get("/v1/org/a/entitlement").await.code(), "upstream_credential_locked");
    }
    assert_eq!(world.fake.hits().other, before.other);
    world.fake.fault(Fault::Status(400), Some(1));
    while world.get(&results("e1")).await.status != 400 {}
    assert_eq!(world.get(&results("e1")).await.code(), "upstream_credential_locked");
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_next_token_takes_over_without_a_failed_read() {
    let directory = TempDir::new().unwrap();
    let (active, next) = (directory.path().join("active"), directory.path().join("next"));
    std::fs::write(&active, "token-active-0123456789").unwrap();
    keep_secret(
        ["token-active-0123456789", "token-next-0123456789", "token-newer-0123456789"].map(str::to_owned),
    );
    let flags = vec![
        flag("credential.token_file", active.display()),
        flag("credential.next.token_file", next.display()),
        flag("credential.reload_interval", "10ms"),
    ];
    let world = World::with(Settings::default(), flags).await;
    world.fake.put_export(&scope(), "e1", State::Word("PENDING".into()));
    assert_eq!(world.get(&results("e1")).await.status, 200);
    // The next token comes, then the active one is revoked.
    std::fs::write(&next, "token-next-0123456789").unwrap();
    world.fake.accept(&["token-next-0123456789"]);
    let mut statuses = Vec::new();
    while bearer(&world).last().unwrap() != "token token-next-0123456789" {
        statuses.push(world.get(&results("e1")).await.status.as_u16());
    }
    // Until the file was read twice, its token was not known.
    assert_eq!(statuses.last(), Some(&200), "{statuses:?}");
    for _ in 0..20 {
        assert_eq!(world.get(&results("e1")).await.status, 200);
    }
    // A new active token is preferred again.
    world.fake.accept(&["token-newer-0123456789", "token-next-0123456789"]);
    std::fs::write(&active, "token-newer-0123456789").unwrap();
    while bearer(&world).last().unwrap() != "token token-newer-0123456789" {
        assert_eq!(world.get(&results("e1")).await.status, 200);
    }
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_token_in_the_file_is_used_for_the_replay() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("token");
    std::fs::write(&path, "token-old-0123456789").unwrap();
    let flags = vec![flag("credential.token_file", path.display()), flag("credential.reload_interval", "1h")];
    let world = World::with(Settings::default(), flags).await;
    world.fake.put_export(&scope(), "e1", State::Word("PENDING".into()));
    std::fs::write(&path, "token-new-0123456789").unwrap();
    world.fake.accept(&["token-new-0123456789"]);
    assert_eq!(world.get(&results("e1")).await.status, 200);
    assert_eq!(bearer(&world), ["token token-old-0123456789", "token token-new-0123456789"]);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_scope_has_its_credential_and_its_cache() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("eu");
    std::fs::write(&path, "token-of-eu-0123456789").unwrap();
    let flags = vec![
        flag("credentials.eu.token_file", path.display()),
        flag("credentials.eu.orgs", "eu-org"),
        flag("credentials.eu.scheme", "bearer"),
    ];
    let world = World::with(Settings::default(), flags).await;
    for org in ["eu-org", ORG] {
        world.fake.put_export(&format!("orgs/{org}"), "e1", State::Finished);
        assert_eq!(world.get(&format!("/orgs/{org}/export/e1?{V}")).await.status, 200);
    }
    assert_eq!(
        bearer(&world),
        ["bearer token-of-eu-0123456789".to_owned(), format!("token {}", crate::support::TOKEN)]
    );
    let names: Vec<String> = world.records().into_iter().map(|row| row.credential).collect();
    assert_eq!(names, ["default", "eu"]);
    // A refused credential of one scope says nothing of the other's.
    world.fake.accept(&[crate::support::TOKEN]);
    let refused = world.get_with(&format!("/orgs/eu-org/export/e2?{V}"), &[]).await;
    assert_eq!(refused.code(), "upstream_credential_rejected");
    assert_eq!(world.get(&results("e2")).await.status, 404);
    // What is stored is served all the same.
    assert!(world.get(&format!("/orgs/eu-org/export/e1?{V}")).await.is_hit());
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn other_calls_never_lock_the_credential_and_never_show_snyks_401() {
    let world = World::with(Settings::default(), vec![flag("routes.other", "forward")]).await;
    for _ in 0..5 {
        world.fake.fault(Fault::Status(401), Some(1));
        let got = world.get("/v1/org/a/entitlement").await;
        assert_eq!((got.status.as_u16(), got.code().as_str()), (502, "upstream_credential_rejected"));
    }
    assert_eq!(world.fake.hits().other, 5);
    assert_eq!(world.get(&results("e1")).await.status, 404);
    // 403 is the client's to see, and does nothing to the credential.
    world.fake.fault(Fault::Status(403), Some(1));
    assert_eq!(world.get(&results("e1")).await.status, 403);
    assert_eq!(world.get(&results("e1")).await.status, 404);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_that_echoes_the_credential_is_withheld() {
    let world = World::with(Settings::default(), vec![flag("routes.other", "forward")]).await;
    let echo = format!("token {}", crate::support::TOKEN);
    for name in ["x-debug", "snyk-request-id", "sunset"] {
        world.fake.fault(Fault::ExtraHeader(name.to_owned(), echo.clone()), Some(1));
        assert_eq!(world.get(&results("e1")).await.code(), "upstream_echoes_credential");
        world.fake.fault(Fault::ExtraHeader(name.to_owned(), echo.clone()), Some(1));
        assert_eq!(world.get("/rest/self?version=1").await.code(), "upstream_echoes_credential");
    }
    let body = format!(
        "{{\"data\":{{\"attributes\":{{\"status\":\"FINISHED\",\"x\":\"{}\"}}}}}}",
        crate::support::TOKEN
    );
    let headers = vec![("content-type".to_owned(), "application/json".to_owned())];
    world.fake.put_export(&scope(), "e2", State::Raw { status: 200, headers, body: body.into() });
    for _ in 0..2 {
        assert_eq!(world.get(&results("e2")).await.code(), "upstream_echoes_credential");
    }
    world.stop().await;
}
