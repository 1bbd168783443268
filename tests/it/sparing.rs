//! Snyk is spared, through the door: retries, waits and backoff, the budget across restarts and processes, an upstream
//! that fails, and what is served meanwhile.

use std::sync::Arc;
use std::time::Duration;

use exportgate::fake::{Fake, Fault, Settings, State};
use http::Method;

use crate::support::{Flags, ORG, START, V, World, flag, results, scope};

/// The times between sends, the oldest first, by the journal.
fn sent(world: &World) -> Vec<Duration> {
    let times = world.records().into_iter().rev();
    let times: Vec<_> = times.map(|row| humantime::parse_rfc3339(&row.started).unwrap()).collect();
    times.windows(2).map(|pair| pair[1].duration_since(pair[0]).unwrap_or_default()).collect()
}

async fn start(world: &World, org: &str) -> crate::support::Got {
    // No equal start is to stand in for one that is held.
    let new = [("cache-control", "no-cache")];
    world.send(Method::POST, &format!("/orgs/{org}/export?{V}"), &new, START).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_that_failed_on_the_way_is_tried_again_and_each_try_is_on_record() {
    let world = World::with(Settings::default(), vec![flag("retry.pause", "1ms")]).await;
    world.fake.put_export(&scope(), "e1", State::Word("PENDING".into()));
    for fault in [Fault::Status(502), Fault::Status(503), Fault::Status(504), Fault::Reset] {
        let before = world.fake.hits().api();
        world.fake.fault(fault.clone(), Some(2));
        let got = world.get(&results("e1")).await;
        assert_eq!((got.status.as_u16(), got.field("exportgate-attempts")), (200, "3"), "{fault:?}");
        assert_eq!(world.fake.hits().api() - before, 3, "{fault:?}");
        let records = world.records();
        let tries: Vec<_> =
            records[..3].iter().map(|row| (row.number, row.request_id == records[0].request_id)).collect();
        assert_eq!(tries, [(3, true), (2, true), (1, true)]);
        assert_ne!(records[0].sent_id, records[1].sent_id);
        // Those that answered nobody are on record all the same.
        assert_eq!(records[..3].iter().map(|row| row.clients).collect::<Vec<_>>(), [1, 0, 0]);
    }
    // A start is not, whatever came.
    for fault in [Fault::Status(503), Fault::Reset] {
        let before = world.fake.hits().start;
        world.fake.fault(fault, Some(1));
        assert!(start(&world, ORG).await.status.is_server_error());
        assert_eq!(world.fake.hits().start, before + 1);
    }
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failure_that_another_try_does_not_mend_is_not_tried_again() {
    let (fake, other) =
        (Fake::start(Settings::default()).await.unwrap(), Fake::start(Settings::default()).await.unwrap());
    let directory = tempfile::TempDir::new().unwrap();
    let ca = directory.path().join("other.pem");
    std::fs::write(&ca, other.ca_pem()).unwrap();
    let url = fake.url();
    let flags = vec![flag("retry.pause", "1ms"), flag("upstream.ca_file", ca.display())];
    let world = World::before(fake, &url, flags).await;
    assert_eq!(world.get(&results("e1")).await.code(), "tls_certificate_error");
    assert_eq!(start(&world, ORG).await.code(), "tls_certificate_error");
    assert_eq!(world.records().iter().map(|row| row.number).collect::<Vec<_>>(), [1, 1]);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn retries_are_a_tenth_of_what_is_sent() {
    let flags =
        vec![flag("retry.pause", "1ms"), flag("breaker.failures", 10_000), flag("breaker.sample", 10_000)];
    let world = World::with(Settings::default(), flags).await;
    world.fake.fault(Fault::Status(503), None);
    for n in 0..200 {
        assert_eq!(world.get(&results(&format!("e{n}"))).await.status, 503);
    }
    let hits = world.fake.hits().api();
    assert!((200 + 20..=200 + 10 + 20).contains(&hits), "{hits}");
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_429_nothing_is_sent_until_its_time_is_over_and_who_can_wait_does() {
    let world = World::new().await;
    world.fake.put_export(&scope(), "e1", State::Word("PENDING".into()));
    world.fake.put_export(&scope(), "stored", State::Finished);
    assert!(world.get(&results("stored")).await.cache().ends_with("stored"));
    world.fake.fault(Fault::TooManyRequests { retry_after: 1 }, Some(1));
    let asking = (0..20).map(|n| {
        let (world, target) = (&world, results(&format!("e{n}")));
        async move { world.get(&target).await.status.as_u16() }
    });
    let target = results("e1");
    let first = world.get(&target);
    let others = async {
        world.fake.wait_for_hits(2).await;
        // What is stored is served meanwhile.
        assert!(world.get(&results("stored")).await.is_hit());
        futures_util::future::join_all(asking).await
    };
    let (first, others) = tokio::join!(first, others);
    assert_eq!((first.status.as_u16(), first.field("exportgate-attempts")), (200, "2"));
    assert!(
        first.field("exportgate-queued-ms").ends_with("for=backoff"),
        "{}",
        first.field("exportgate-queued-ms")
    );
    assert!(others.iter().all(|status| [200, 404].contains(status)), "{others:?}");
    // The 429, then a second of nothing, then one probe, and no other before it was back.
    let gaps = sent(&world);
    let pause = gaps.iter().position(|gap| *gap >= Duration::from_secs(1)).expect("a pause");
    assert!(gaps[..pause].len() <= 2, "{gaps:?}");
    assert_eq!(world.fake.hits().api(), 1 + 1 + 1 + 19, "{gaps:?}");
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_429_that_is_too_long_to_wait_for_is_told_and_an_absurd_one_is_capped() {
    let world =
        World::with(Settings::default(), vec![flag("backoff.max", "2s"), flag("queue.max_wait", "500ms")])
            .await;
    world.fake.put_export(&scope(), "e1", State::Word("PENDING".into()));
    world.fake.fault(Fault::TooManyRequests { retry_after: 561_600 }, Some(1));
    // Snyk's own answer, for it was asked.
    let told = world.get(&results("e1")).await;
    assert_eq!((told.status.as_u16(), told.field("retry-after")), (429, "561600"));
    // Ours from then on: no more than a day, though we ask again when backoff.max is over.
    let ours = world.get(&results("e1")).await;
    assert_eq!((ours.status.as_u16(), ours.code().as_str()), (429, "backoff"));
    assert_eq!(ours.field("retry-after"), "86400");
    assert_eq!(world.fake.hits().api(), 1);
    while world.get(&results("e1")).await.status == 429 {}
    assert_eq!(world.fake.hits().api(), 2);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_start_stops_the_starts_of_its_scope_and_nothing_else() {
    let script = exportgate::fake::Script { starts_per_hour: Some(1), ..Default::default() };
    let world = World::with(Settings { script, ..Settings::default() }, vec![]).await;
    assert_eq!(start(&world, ORG).await.status, 202);
    assert_eq!(start(&world, ORG).await.status, 429);
    for _ in 0..20 {
        let held = start(&world, ORG).await;
        assert_eq!((held.status.as_u16(), held.code().as_str()), (429, "backoff"));
        // Snyk's own time, counted down.
        assert!((3_500..=3_600).contains(&held.field("retry-after").parse::<u64>().unwrap()));
        assert_eq!(world.get(&results("e1")).await.status, 404);
    }
    assert_eq!(world.fake.hits().start, 2);
    // Another scope's starts are its own.
    assert_eq!(start(&world, "another").await.status, 429);
    assert_eq!(world.fake.hits().start, 3);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn snyks_rate_fields_lower_the_budget_and_nonsense_changes_nothing() {
    // Another machine uses the same account: of a limit of 40, nothing is left.
    let script = exportgate::fake::Script { requests_per_minute: Some(40), ..Default::default() };
    let world =
        World::with(Settings { script, ..Settings::default() }, vec![flag("queue.max_wait", "0s")]).await;
    for nonsense in ["many", "160, x;w=1", ";;;"] {
        world.fake.fault(Fault::ReplaceHeader("x-ratelimit-limit".into(), nonsense.into()), Some(1));
        assert_eq!(world.get(&results("e1")).await.status, 404);
    }
    world.fake.fault(Fault::ReplaceHeader("x-ratelimit-remaining".into(), "0".into()), Some(1));
    assert_eq!(world.get(&results("e1")).await.status, 404);
    let asked = world.fake.hits().api();
    assert_eq!(world.get(&results("e2")).await.code(), "budget");
    assert_eq!(world.fake.hits().api(), asked);
    world.stop().await;
}

/// Five requests a minute, and no patience.
fn little() -> Flags {
    vec![flag("budget.per_minute", 5), flag("queue.max_wait", "100ms")]
}

#[tokio::test(flavor = "multi_thread")]
async fn the_budget_is_never_exceeded_and_the_answer_says_when() {
    let world = World::with(Settings::default(), little()).await;
    world.fake.put_export(&scope(), "stored", State::Finished);
    assert!(world.get(&results("stored")).await.cache().ends_with("stored"));
    let (mut codes, mut waits) = (Vec::new(), Vec::new());
    for n in 0..20 {
        let got = world.get(&results(&format!("e{n}"))).await;
        if got.status == 429 {
            waits.push(got.field("retry-after").parse::<u64>().unwrap());
            codes.push(got.code());
        }
        // Hits cost nothing.
        assert!(world.get(&results("stored")).await.is_hit());
    }
    assert!(world.fake.hits().api() <= 5, "{}", world.fake.hits().api());
    // The first may come when the next turn is, and each later one a turn after it, up to a minute more.
    assert!((1..=61).contains(&waits[0]) && waits.iter().all(|wait| *wait <= 122), "{waits:?}");
    assert!(waits[1] >= waits[0] + 10 && waits[2] >= waits[1] + 10, "{waits:?}");
    assert!(codes.len() >= 15 && codes.iter().all(|code| code == "budget"), "{codes:?}");
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_and_a_second_process_know_what_was_sent() {
    let fake = Fake::start(Settings::default()).await.unwrap();
    let upstream = fake.url();
    let ca = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(ca.path(), fake.ca_pem()).unwrap();
    let shared = tempfile::TempDir::new().unwrap();
    let flags = || {
        let mut flags = vec![flag("budget.per_minute", 6), flag("queue.max_wait", "0s")];
        flags.push(flag("upstream.ca_file", ca.path().display()));
        flags.push(flag("journal.path", shared.path().join("journal.db").display()));
        flags
    };
    let another = || async { Fake::start(Settings { tls: false, ..Settings::default() }).await.unwrap() };
    let first = World::before(another().await, &upstream, flags()).await;
    // Half of it at once; the rest would be spread over the minute.
    for n in 0..3 {
        assert_eq!(first.get(&results(&format!("e{n}"))).await.status, 404);
    }
    let second = World::before(another().await, &upstream, flags()).await;
    let mut statuses = Vec::new();
    for n in 0..10 {
        statuses.push(second.get(&results(&format!("f{n}"))).await.status.as_u16());
    }
    assert_eq!(statuses, [429; 10]);
    first.stop().await;
    second.stop().await;
    let third = World::before(another().await, &upstream, flags()).await;
    assert_eq!(third.get(&results("g")).await.code(), "budget");
    assert_eq!(fake.hits().api(), 3);
    third.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_leaves_the_queue_frees_its_place_and_is_not_sent() {
    let flags =
        vec![flag("budget.per_minute", 2), flag("queue.max_waiting", 1), flag("queue.max_wait", "5m")];
    let world = World::with(Settings::default(), flags).await;
    assert_eq!(world.get(&results("e1")).await.status, 404);
    for n in 0..5 {
        let target = results(&format!("left{n}"));
        let leaving = world.get(&target);
        tokio::select! {
            got = leaving => panic!("it should wait: {got:?}"),
            () = world.wait_for_queued(1) => {}
        }
        world.wait_for_queued(0).await;
    }
    // One place, and it is taken.
    let (waiting, more) = (results("waits"), results("more"));
    let waiting = world.get(&waiting);
    tokio::select! {
        got = waiting => panic!("it should wait: {got:?}"),
        got = async {
            world.wait_for_queued(1).await;
            world.get(&more).await
        } => assert_eq!((got.status.as_u16(), got.code().as_str()), (503, "too_many_queued")),
    }
    assert_eq!(world.fake.hits().api(), 1);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_knows_what_was_started() {
    let fake = Fake::start(Settings { tls: false, ..Settings::default() }).await.unwrap();
    let directory = tempfile::TempDir::new().unwrap();
    let world = async || {
        let flags =
            vec![flag("budget.starts", 1), flag("journal.path", directory.path().join("j.db").display())];
        let unused = Fake::start(Settings { tls: false, ..Settings::default() }).await.unwrap();
        World::before(unused, &fake.url(), flags).await
    };
    let first = world().await;
    assert_eq!(start(&first, ORG).await.status, 202);
    assert_eq!(start(&first, ORG).await.code(), "budget");
    first.stop().await;
    let second = world().await;
    assert_eq!(start(&second, ORG).await.code(), "budget");
    assert_eq!(start(&second, "another").await.status, 202);
    assert_eq!(fake.hits().start, 2);
    second.stop().await;
}

fn of(org: &str, export: &str) -> String {
    format!("/orgs/{org}/export/{export}?{V}")
}

fn fragile() -> Flags {
    vec![
        flag("retry.max", 0),
        flag("breaker.failures", 3),
        flag("breaker.pause", "300ms"),
        flag("backoff.ramp", 5),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_that_keeps_failing_is_left_alone_and_found_again() {
    let world = World::with(Settings::default(), fragile()).await;
    world.fake.put_export(&scope(), "stored", State::Finished);
    assert!(world.get(&results("stored")).await.cache().ends_with("stored"));
    world.fake.fault(Fault::Reset, None);
    // All that was answered well lately fails, and so do others: one org's failures could be that org's alone.
    let anew = world.get_with(&results("stored"), &[("cache-control", "no-cache")]).await;
    assert_eq!(anew.code(), "connection_terminated");
    for org in ["a", "b"] {
        assert_eq!(world.get(&of(org, "e1")).await.code(), "connection_terminated");
    }
    let asked = world.fake.hits().api();
    let open = world.get(&results("e1")).await;
    assert_eq!((open.status.as_u16(), open.code().as_str()), (503, "circuit_open"));
    assert_eq!(open.field("retry-after"), "1");
    assert_eq!(start(&world, ORG).await.code(), "circuit_open");
    assert_eq!(world.fake.hits().api(), asked);
    assert!(world.get(&results("stored")).await.is_hit());
    // A failed probe opens it again, a good one closes it.
    while world.fake.hits().api() == asked {
        world.get(&results("e1")).await;
    }
    assert_eq!(world.get(&results("e1")).await.code(), "circuit_open");
    world.fake.clear_faults();
    while world.get(&results("e1")).await.status != 404 {}
    assert_eq!(world.get(&results("e1")).await.status, 404);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_probe_that_echoes_the_credential_shows_that_the_upstream_is_there() {
    let world = World::with(Settings::default(), fragile()).await;
    world.fake.fault(Fault::Reset, Some(3));
    for _ in 0..3 {
        assert_eq!(world.get(&results("e1")).await.code(), "connection_terminated");
    }
    world.fake.fault(Fault::ReplaceHeader("x-echo".into(), crate::support::TOKEN.into()), Some(1));
    while world.get(&results("e1")).await.code() != "upstream_echoes_credential" {}
    assert_eq!(world.get(&results("e1")).await.status, 404);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_clients_of_a_dead_upstream_are_all_answered_and_come_back_in_a_ramp() {
    let world = Arc::new(World::with(Settings::default(), fragile()).await);
    world.fake.fault(Fault::Reset, None);
    let ask = |round: usize| {
        let world = Arc::clone(&world);
        async move {
            let asking = (0..1_000).map(|n| {
                let (world, target) =
                    (Arc::clone(&world), of(&format!("org-{}", n % 10), &format!("r{round}-{n}")));
                tokio::spawn(async move { world.get(&target).await.status.as_u16() })
            });
            let mut statuses = Vec::new();
            for asked in asking.collect::<Vec<_>>() {
                statuses.push(asked.await.unwrap());
            }
            statuses
        }
    };
    let down = ask(0).await;
    assert!(down.iter().all(|status| [502, 503].contains(status)));
    // Those that were under way when it opened, and few more.
    assert!(world.fake.hits().api() <= 2 * 64, "{}", world.fake.hits().api());
    world.fake.clear_faults();
    while world.get(&results("probe")).await.status != 404 {}
    let before = world.records().len();
    let back = ask(1).await;
    assert!(back.iter().all(|status| [404, 429].contains(status)), "{back:?}");
    // In the first second after the probe not more than the ramp allows, whatever waits.
    let records = world.records();
    let mut times: Vec<_> = records[..records.len() - before]
        .iter()
        .map(|row| humantime::parse_rfc3339(&row.started).unwrap())
        .collect();
    times.sort_unstable();
    let first_second =
        times.iter().filter(|at| at.duration_since(times[0]).unwrap() < Duration::from_millis(900)).count();
    assert!(first_second <= 5 + 10, "{first_second}");
    world.wait_for_queued(0).await;
    world.wait_for_followers(0).await;
    Arc::into_inner(world).unwrap().stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_past_its_freshness_is_served_while_snyk_fails_until_its_links_die() {
    let world = World::with(
        Settings::default(),
        vec![flag("retry.max", 0), flag("breaker.failures", 10_000), flag("breaker.sample", 10_000)],
    )
    .await;
    world.fake.put_export(&scope(), "e1", State::Finished);
    let stored = world.get(&results("e1")).await;
    assert!(stored.cache().ends_with("stored"));
    // Links live an hour; less the margin it is fresh for 45 minutes.
    world.clock.step_wall(46 * 60);
    for fault in [Fault::Status(503), Fault::Status(500), Fault::Reset] {
        world.fake.fault(fault.clone(), Some(1));
        let stale = world.get(&results("e1")).await;
        assert_eq!((stale.status.as_u16(), &stale.body), (200, &stored.body), "{fault:?}");
        assert_eq!(stale.cache(), "exportgate; fwd=stale; detail=stale-if-error", "{fault:?}");
        assert!(!stale.field("age").is_empty());
    }
    // Who asks for a new answer gets the truth; so does everybody else where Snyk can say something.
    world.fake.fault(Fault::Status(503), Some(1));
    assert_eq!(world.get_with(&results("e1"), &[("cache-control", "no-cache")]).await.status, 503);
    world.fake.fault(Fault::Status(404), Some(1));
    assert_eq!(world.get(&results("e1")).await.status, 404);
    // In a backoff nothing is even tried.
    world.fake.fault(Fault::TooManyRequests { retry_after: 3_000 }, Some(1));
    assert!(world.get(&results("e1")).await.cache().contains("stale"));
    let asked = world.fake.hits().api();
    let held = world.get(&results("e1")).await;
    let ttl: i64 = held.cache().strip_prefix("exportgate; hit; ttl=").expect("a hit").parse().unwrap();
    assert!(held.status == 200 && (-130..=-60).contains(&ttl), "{ttl}");
    // Never with dead links.
    world.clock.step_wall(14 * 60);
    assert_eq!(world.get(&results("e1")).await.status, 429);
    assert_eq!(world.fake.hits().api(), asked);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn links_that_die_while_snyk_is_asked_or_may_be_dead_are_not_served_stale() {
    let flags = || vec![flag("retry.max", 0)];
    let world = World::with(Settings::default(), flags()).await;
    world.fake.put_export(&scope(), "e1", State::Finished);
    assert!(world.get(&results("e1")).await.cache().ends_with("stored"));
    // Alive for two minutes more when it is asked for, and dead when Snyk's failure is there.
    world.clock.step_wall(58 * 60);
    world.fake.fault(Fault::Status(503), Some(2));
    let gate = world.fake.hold();
    let target = results("e1");
    let (late, ()) = tokio::join!(world.get(&target), async {
        world.fake.wait_for_hits(2).await;
        world.clock.step_wall(3 * 60);
        drop(gate);
    });
    assert_eq!(late.status, 503);
    world.stop().await;

    // Of one of two links it is not known when it dies.
    let world = World::with(Settings::default(), flags()).await;
    let end = std::time::SystemTime::now() + Duration::from_hours(1);
    let end = end.duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    let body = format!(
        r#"{{"data":{{"attributes":{{"finished":"2024-11-25T10:21:01Z","results":[{{"url":"https://s/a?Expires={end}"}},{{"url":"https://s/b"}}],"status":"FINISHED"}},"id":"e1","type":"resource"}},"jsonapi":{{"version":"1.0"}}}}"#
    );
    let headers = vec![("content-type".into(), "application/vnd.api+json".into())];
    world.fake.put_export(&scope(), "e1", State::Raw { status: 200, headers, body: body.into() });
    assert!(world.get(&results("e1")).await.cache().ends_with("stored"));
    assert!(world.get(&results("e1")).await.cache().ends_with("detail=links-end-uncertain"));
    world.clock.step_wall(11 * 60);
    world.fake.fault(Fault::Status(503), Some(1));
    assert_eq!(world.get(&results("e1")).await.status, 503);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_busy_export_is_fetched_ahead_of_its_end_once_for_all_readers() {
    let world = World::new().await;
    world.fake.put_export(&scope(), "e1", State::Finished);
    let ttl =
        |got: &crate::support::Got| -> i64 { got.cache().split("ttl=").nth(1).unwrap().parse().unwrap() };
    assert!(world.get(&results("e1")).await.cache().ends_with("stored"));
    world.fake.step_clock(42 * 60);
    world.clock.step_wall(42 * 60);
    let gate = world.fake.hold();
    for _ in 0..50 {
        let hit = world.get(&results("e1")).await;
        assert!(hit.is_hit() && ttl(&hit) < 270, "{}", hit.cache());
    }
    world.fake.wait_for_hits(2).await;
    drop(gate);
    while ttl(&world.get(&results("e1")).await) < 2_000 {}
    assert_eq!(world.fake.hits().api(), 2);
    world.stop().await;
}
