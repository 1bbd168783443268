//! What is stored, for how long, who shares a request, and what the answers say about it.

use std::io::Write as _;
use std::sync::Arc;

use bytes::Bytes;
use exportgate::fake::{Fault, LinkForm, PartSource, Script, Settings, State, StoreScript};
use exportgate::journal::Query;
use http::Method;

use crate::support::{START, V, World, flag, results, scope};

async fn finished(script: Script) -> World {
    // What a reader in the last tenth does is another matter.
    let flags = vec![flag("cache.refresh_ahead", "false")];
    let world = World::with(Settings { script, ..Settings::default() }, flags).await;
    world.fake.put_export(&scope(), "e1", State::Finished);
    world
}

#[tokio::test(flavor = "multi_thread")]
async fn an_export_goes_from_its_start_to_a_cached_result() {
    let world = World::new().await;
    let started = world.send(Method::POST, &format!("/rest/{}/export?{V}", scope()), &[], START).await;
    assert_eq!(started.status, 202);
    assert_eq!(started.cache(), "exportgate; fwd=method; fwd-status=202");
    let id = started.json()["data"]["id"].as_str().unwrap().to_owned();
    let mut words = Vec::new();
    for _ in 0..5 {
        let got = world.get(&results(&id)).await;
        words.push((got.json()["data"]["attributes"]["status"].as_str().unwrap().to_owned(), got.is_hit()));
    }
    let expected =
        [("PENDING", false), ("PENDING", false), ("FINISHED", false), ("FINISHED", true), ("FINISHED", true)];
    assert_eq!(words, expected.map(|(word, hit)| (word.to_owned(), hit)));
    assert_eq!(world.fake.hits().results, 3);
    // Both spellings share one entry, in any order of the query.
    assert!(world.get(&format!("/rest{}", results(&id))).await.is_hit());
    // The record of the start names the export that it began.
    let query = Query { export: Some(id), limit: 10, ..Query::default() };
    let found = exportgate::journal::find(&world.journal(), &query).unwrap();
    assert_eq!(found.last().map(|row| row.operation.as_str()), Some("start"));
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hit_replays_the_answer_and_says_what_it_is() {
    let world = finished(Script { requests_per_minute: Some(1_000), ..Script::default() }).await;
    let first = world.get(&results("e1")).await;
    assert!(first.cache().ends_with("fwd=uri-miss; fwd-status=200; stored"), "{}", first.cache());
    assert!(!first.field("x-ratelimit-remaining").is_empty());
    world.clock.step_wall(100);
    let hit = world.get(&results("e1")).await;
    assert_eq!(hit.body, first.body);
    for same in
        ["date", "snyk-request-id", "content-type", "etag", "exportgate-links-expire", "snyk-version-served"]
    {
        assert!(!hit.field(same).is_empty(), "{same}");
        assert_eq!(hit.field(same), first.field(same), "{same}");
    }
    assert_ne!(hit.field("exportgate-request-id"), first.field("exportgate-request-id"));
    assert_eq!(hit.field("x-ratelimit-remaining"), "");
    assert_eq!(hit.field("cache-control"), "private, no-cache");
    let (age, ttl): (u64, u64) =
        (hit.field("age").parse().unwrap(), hit.cache().split("ttl=").nth(1).unwrap().parse().unwrap());
    assert!((100..110).contains(&age) && (2_580..2_600).contains(&ttl), "{age} {ttl}");
    let current = world.get_with(&results("e1"), &[("if-none-match", hit.field("etag"))]).await;
    assert_eq!((current.status.as_u16(), current.body.len()), (304, 0));
    let weak = format!("\"x\", W/{}", hit.field("etag"));
    assert_eq!(world.get_with(&results("e1"), &[("if-none-match", &weak)]).await.status, 304);
    assert_eq!(world.get_with(&results("e1"), &[("if-none-match", "\"x\"")]).await.status, 200);
    assert_eq!(world.fake.hits().api(), 1);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_polls_of_a_pending_export_are_a_thousand_requests() {
    let world = World::new().await;
    world.fake.put_export(&scope(), "e1", State::Word("PENDING".into()));
    for _ in 0..1_000 {
        assert_eq!(world.get(&results("e1")).await.status, 200);
    }
    assert_eq!(world.fake.hits().results, 1_000);
    assert_eq!(world.records().len(), 1_000);
    world.stop().await;
}

/// `count` equal GETs while one request is held upstream; all answers.
async fn together(world: &Arc<World>, target: &str, count: usize) -> Vec<crate::support::Got> {
    let before = world.fake.hits().api();
    let gate = world.fake.hold();
    let (joined, asked) = (Arc::clone(world), target.to_owned());
    let mut asking = Vec::new();
    for _ in 0..count {
        let (world, target) = (Arc::clone(&joined), asked.clone());
        asking.push(tokio::spawn(async move { world.get(&target).await }));
    }
    world.fake.wait_for_hits(before + 1).await;
    // Every client has joined once the gateway has as many waiting as there are clients.
    world.wait_for_followers(count).await;
    drop(gate);
    let mut answers = Vec::new();
    for one in asking {
        answers.push(one.await.unwrap());
    }
    answers
}

#[tokio::test(flavor = "multi_thread")]
async fn five_hundred_equal_questions_in_flight_are_one_request() {
    let world = Arc::new(World::new().await);
    let missing = Bytes::from_static(b"{\"errors\":[]}");
    world.fake.put_export(&scope(), "done", State::Finished);
    world.fake.put_export(&scope(), "pending", State::Word("PENDING".into()));
    world.fake.put_export(&scope(), "broken", State::Raw { status: 500, headers: vec![], body: missing });
    for (export, status) in [("done", 200), ("pending", 200), ("missing", 404), ("broken", 500)] {
        let before = world.fake.hits().api();
        let answers = together(&world, &results(export), 500).await;
        assert_eq!(world.fake.hits().api() - before, 1, "{export}");
        let leaders = answers.iter().filter(|got| !got.cache().ends_with("collapsed")).count();
        assert_eq!(leaders, 1, "{export}");
        for got in &answers {
            assert_eq!(got.status, status, "{export}");
            assert_eq!(
                (&got.body, got.field("snyk-request-id")),
                (&answers[0].body, answers[0].field("snyk-request-id"))
            );
        }
        let newest = &world.records()[0];
        assert_eq!(newest.clients, 500, "{export}");
    }
    // Nothing of an answer that was not stored is used again.
    world.get(&results("pending")).await;
    assert_eq!(world.fake.hits().api(), 5);
    Arc::into_inner(world).unwrap().stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_client_may_leave_and_the_others_are_served() {
    let world = Arc::new(World::new().await);
    world.fake.put_export(&scope(), "e1", State::Finished);
    let gate = world.fake.hold();
    let exportgate::listener::Address::Tcp(address) = world.addresses[0] else { panic!("a TCP address") };
    let mut first = crate::support::raw::connect(address).unwrap().into_inner();
    write!(first, "GET {} HTTP/1.1\r\nhost: localhost\r\n\r\n", results("e1")).unwrap();
    world.fake.wait_for_hits(1).await;
    let others: Vec<_> = (0..499)
        .map(|_| {
            let world = Arc::clone(&world);
            tokio::spawn(async move { world.get(&results("e1")).await })
        })
        .collect();
    world.wait_for_followers(500).await;
    // By a reset: one that only sends no more gets its answer, and is on record.
    crate::support::raw::reset(first);
    world.wait_for_followers(499).await;
    drop(gate);
    for other in others {
        assert_eq!(other.await.unwrap().status, 200);
    }
    assert_eq!(world.fake.hits().api(), 1);
    assert_eq!(world.records()[0].clients, 499);
    Arc::into_inner(world).unwrap().stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_result_is_fresh_until_its_first_link_ends_less_the_margin() {
    // The gateway's clock is right, ten minutes behind, and ten minutes ahead of Snyk's.
    for off in [0_i64, 600, -600] {
        for form in [LinkForm::GcsV4, LinkForm::S3V4, LinkForm::S3V2, LinkForm::CloudFront, LinkForm::Azure] {
            let script = Script {
                link_form: form,
                store: StoreScript { parts: PartSource::issues(3), ..StoreScript::default() },
                link_seconds: vec![3_600, 2_400, 3_000],
                ..Script::default()
            };
            let world = finished(script).await;
            world.clock.step_wall(-off);
            let first = world.get(&results("e1")).await;
            assert!(first.cache().ends_with("stored"), "{form:?} {off}: {}", first.cache());
            // T1 is 2,400 s away; less the margin of 15 minutes that is 1,500 s. `Date` has whole
            // seconds, so that up to two seconds are given away; none is ever taken.
            world.clock.step_wall(1_500 - 3);
            assert!(world.get(&results("e1")).await.is_hit(), "{form:?} {off}");
            world.clock.step_wall(3);
            let late = world.get(&results("e1")).await;
            assert!(late.cache().starts_with("exportgate; fwd=stale"), "{form:?} {off}: {}", late.cache());
            assert_eq!(world.fake.hits().api(), 2);
            world.stop().await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn links_of_a_minute_are_never_stored() {
    let world = World::new().await;
    let body = START.replace(r#""formats""#, r#""url_expiration_seconds":60,"formats""#);
    world.fake.script(|script| script.polls = 0);
    let started = world.send(Method::POST, &format!("/{}/export?{V}", scope()), &[], &body).await;
    let id = started.json()["data"]["id"].as_str().unwrap().to_owned();
    for asked in 1..=3 {
        let got = world.get(&results(&id)).await;
        assert_eq!(got.json()["data"]["attributes"]["status"], "FINISHED");
        assert!(got.cache().ends_with("; detail=links-ending"), "{}", got.cache());
        assert_eq!(world.fake.hits().results, asked);
    }
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_published_example_is_stored_when_finished_and_not_when_pending() {
    let world = World::new().await;
    let published = r#"{"data":{"attributes":{"created":"2024-11-25T10:21:01.584Z","finished":"2024-11-25T10:21:01.584Z","formats":["csv"],"results":[{}],"status":"PENDING"},"id":"d6b640e5-d88c-4c17-9bf0-93597b7a1ce2","type":"resource"},"jsonapi":{"version":"1.0"},"links":{"self":"/orgs/825e79b7-0073-44c3-a5ea-e0aa8a3dbf38/export/4d593250-aaf3-48ec"}}"#;
    let raw = |text: String| State::Raw {
        status: 200,
        headers: vec![("content-type".into(), "application/vnd.api+json".into())],
        body: text.into(),
    };
    world.fake.put_export(&scope(), "e1", raw(published.to_owned()));
    for _ in 0..2 {
        assert!(!world.get(&results("e1")).await.is_hit());
    }
    let done = published.replace("PENDING", "FINISHED");
    world.fake.put_export(&scope(), "e1", raw(done.clone()));
    assert!(world.get(&results("e1")).await.cache().ends_with("stored"));
    let hit = world.get(&results("e1")).await;
    assert_eq!((hit.body.as_ref(), hit.is_hit()), (done.as_bytes(), true));
    // No link says when it dies: ten minutes at the most, and it is said.
    assert!(hit.cache().ends_with("detail=links-end-uncertain"));
    world.clock.step_wall(600);
    assert!(!world.get(&results("e1")).await.is_hit());
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_a_whole_finished_export_is_never_stored() {
    let flags = vec![flag("retry.max", 0)];
    let world = World::with(Settings::default(), flags).await;
    world.fake.put_export(&scope(), "e1", State::Finished);
    let extra = |name: &str, value: &str| Fault::ExtraHeader(name.into(), value.into());
    let faults = [
        Fault::Status(500),
        Fault::Status(404),
        Fault::Status(403),
        Fault::Html,
        Fault::Gzip,
        Fault::Redirect("https://elsewhere.example/".into()),
        Fault::ResetMidBody,
        extra("vary", "*"),
        extra("cache-control", "no-store"),
        extra("cache-control", "private"),
    ];
    // (Tries again are another matter.)
    for fault in faults {
        let name = format!("{fault:?}");
        world.fake.fault(fault, Some(1));
        let got = world.get(&results("e1")).await;
        assert!(!got.cache().contains("stored"), "{name}: {}", got.cache());
    }
    for word in ["PENDING", "STARTED", "ERRORED", "ERROR", "finished", "NEW"] {
        world.fake.put_export(&scope(), "word", State::Word(word.into()));
        assert!(!world.get(&results("word")).await.cache().contains("stored"), "{word}");
    }
    world.fake.put_export(&scope(), "e1", State::Finished);
    assert!(world.get(&results("e1")).await.cache().ends_with("stored"));
    // A job's status is stored by the same rules, apart from the results.
    let job = format!("/{}/jobs/export/e1?{V}", scope());
    assert!(world.get(&job).await.cache().ends_with("stored"));
    assert!(world.get(&format!("/{}/export/jobs/e1?{V}", scope())).await.is_hit());
    world.fake.fault(Fault::TooManyRequests { retry_after: 600 }, Some(1));
    let refused = world.get(&results("e2")).await;
    assert!(refused.status == 429 && !refused.cache().contains("stored"), "{}", refused.cache());
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn client_directives_are_obeyed() {
    let world = finished(Script::default()).await;
    let target = results("e1");
    let ask = async |directives: &str| world.get_with(&target, &[("cache-control", directives)]).await;
    let unknown = ask("only-if-cached").await;
    assert_eq!((unknown.status.as_u16(), unknown.code().as_str()), (504, "not_cached"));
    assert_eq!(world.fake.hits().api(), 0);
    assert!(!ask("no-store").await.cache().contains("stored"));
    let first = ask("max-age=60").await;
    assert!(first.cache().ends_with("stored"));
    assert!(ask("only-if-cached").await.is_hit());
    assert_eq!(ask("no-store").await.cache(), "exportgate; fwd=request; fwd-status=200");
    // A second later the links are signed anew.
    world.fake.step_clock(1);
    let renewed = ask("no-cache").await;
    assert!(renewed.cache().starts_with("exportgate; fwd=request"));
    assert_ne!(renewed.body, first.body);
    assert_eq!(world.get(&target).await.body, renewed.body);
    assert!(world.get_with(&target, &[("pragma", "no-cache")]).await.cache().contains("fwd=request"));
    world.clock.step_wall(100);
    assert!(ask("max-age=200").await.is_hit());
    // 3,600 s of life less 100: links good for 3,400 s more, but not for 3,600.
    assert!(ask("min-fresh=3400").await.is_hit());
    assert!(ask("min-fresh=3600").await.cache().contains("fwd=request"));
    world.clock.step_wall(100);
    assert!(ask("max-age=60").await.cache().contains("fwd=request"));
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_number_of_those_who_wait_is_limited() {
    let fake = Settings::default();
    let world = Arc::new(World::with(fake, vec![flag("cache.max_followers", 1)]).await);
    let gate = world.fake.hold();
    let waiting: Vec<_> = (0..2)
        .map(|_| {
            let world = Arc::clone(&world);
            tokio::spawn(async move { world.get(&results("e1")).await })
        })
        .collect();
    world.wait_for_followers(2).await;
    let refused = world.get(&results("e1")).await;
    assert_eq!((refused.status.as_u16(), refused.code().as_str()), (503, "too_many_waiting"));
    drop(gate);
    for one in waiting {
        assert_eq!(one.await.unwrap().status, 404);
    }
    Arc::into_inner(world).unwrap().stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_finished_results_link_downloads_a_file_and_refuses_a_credential() {
    let world = finished(Script::default()).await;
    let got = world.get(&results("e1")).await;
    let link = got.json()["data"]["attributes"]["results"][0]["url"].as_str().unwrap().to_owned();
    let ca = world.directory.path().join("ca.pem");
    let download = |fields: &'static str| {
        let output = std::process::Command::new("curl")
            .args(["-s", "--cacert", ca.to_str().unwrap(), "-H", fields, &link])
            .output();
        String::from_utf8(output.expect("curl runs").stdout).unwrap()
    };
    assert!(download("accept: text/csv").starts_with("ISSUE_URL,"));
    assert!(download("authorization: token x").contains("InvalidArgument"));
    world.fake.step_clock(3_600);
    assert!(download("accept: text/csv").contains("ExpiredToken"));
    world.stop().await;
}
