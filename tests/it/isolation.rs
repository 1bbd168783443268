//! What happens to one client, export, org or API is not taken for the state of all.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use exportgate::access::key::{Digest, generate};
use exportgate::fake::{Fake, Fault, PartSource, RateFields, Script, Settings, State, StoreScript, Target};
use http::Method;

use crate::access::Known;
use crate::support::{Flags, Got, ORG, START, V, World, flag, keep_secret, results, scope};

const OTHER: &str = "00000000-1111-4222-8333-444444444444";
const THIRD: &str = "00000000-1111-4222-8333-555555555555";

async fn start(world: &World, org: &str) -> Got {
    world.send(Method::POST, &format!("/orgs/{org}/export?{V}"), &[], START).await
}

fn of(org: &str, export: &str) -> String {
    format!("/orgs/{org}/export/{export}?{V}")
}

fn retry_after(got: &Got) -> u64 {
    got.field("retry-after").parse().expect("seconds")
}

/// A world with an unfinished export `good` in another org than the tests' own.
async fn world(flags: Flags) -> World {
    let world = World::with(Settings::default(), flags).await;
    world.fake.put_export(&format!("orgs/{OTHER}"), "good", State::Word("PENDING".into()));
    world.fake.put_export(&scope(), "bad", State::Word("PENDING".into()));
    world
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_start_holds_its_scope_alone_whatever_ends_meanwhile() {
    for starts in [1, 2] {
        let world = world(vec![]).await;
        world.fake.fault_at(Target::Starts, Fault::Delay(Duration::from_millis(300)), None);
        world.fake.fault_at(Target::Starts, Fault::TooManyRequests { retry_after: 3_600 }, None);
        let starting = futures_util::future::join_all((0..starts).map(|_| start(&world, ORG)));
        let meanwhile = async {
            world.fake.wait_for_hits(starts).await;
            assert_eq!(world.get(&of(OTHER, "good")).await.status, 200);
        };
        let (refused, ()) = tokio::join!(starting, meanwhile);
        assert!(refused.iter().all(|got| got.status == 429), "{refused:?}");
        // Reads go on, of this scope too.
        assert_eq!(world.get(&of(OTHER, "good")).await.status, 200);
        assert_eq!(world.get(&results("bad")).await.status, 200);
        // Its starts wait, and are told Snyk's own time.
        let held = start(&world, ORG).await;
        assert_eq!((held.status.as_u16(), held.code().as_str()), (429, "backoff"));
        assert!((3_590..=3_600).contains(&retry_after(&held)), "{}", retry_after(&held));
        assert_eq!(world.fake.hits().start, starts);
        // Those of another scope are asked.
        assert_eq!(start(&world, OTHER).await.status, 429);
        assert_eq!(world.fake.hits().start, starts + 1);
        world.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_export_that_always_fails_leaves_the_others_alone() {
    for fault in [Fault::Status(504), Fault::NoHealthyUpstream, Fault::Reset, Fault::ResetMidBody] {
        let world = Arc::new(world(vec![flag("retry.pause", "1ms")]).await);
        world.fake.fault_at(Target::Export("bad".into()), fault.clone(), None);
        let polling_bad = tokio::spawn({
            let world = Arc::clone(&world);
            async move {
                let mut codes = Vec::new();
                for _ in 0..60 {
                    codes.push(world.get(&results("bad")).await.status.as_u16());
                }
                codes
            }
        });
        let mut polls = 0;
        while !polling_bad.is_finished() {
            assert_eq!(world.get(&of(OTHER, "good")).await.status, 200, "{fault:?}");
            assert_eq!(start(&world, OTHER).await.status, 202, "{fault:?}");
            polls += 1;
        }
        assert!(polls > 1);
        let bad = polling_bad.await.unwrap();
        assert!(bad.iter().all(|status| (500..=504).contains(status)), "{bad:?}");
        if fault == Fault::Status(504) {
            // Snyk's own answers are passed on, each of them.
            assert!(bad.iter().all(|status| *status == 504), "{bad:?}");
        } else {
            // What brings no answer of Snyk's is asked no more than once a pause, after ten failures.
            let code = world.get(&results("bad")).await.code();
            assert_eq!(code, "circuit_open_for_export", "{fault:?}");
        }
        Arc::into_inner(world).unwrap().stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_host_is_asked_once_a_pause_also_where_one_export_is_all_that_is_asked() {
    let flags =
        |pause: &str| vec![flag("breaker.failures", 3), flag("breaker.pause", pause), flag("retry.max", 0)];
    // A host that takes connections and breaks them.
    let world = world(flags("200ms")).await;
    world.fake.fault(Fault::Disconnect, None);
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(2) {
        assert!(world.get(&results("bad")).await.status.is_server_error());
    }
    let most = 3 + u64::try_from(begun.elapsed().as_millis() / 200).unwrap() + 1;
    let hits = world.fake.hits().api();
    assert!((4..=most).contains(&hits), "{hits}, at most {most}");
    // And it is found again.
    world.fake.clear_faults();
    while world.get(&results("bad")).await.status != 200 {}
    assert_eq!(world.get(&of(OTHER, "good")).await.status, 200);
    world.stop().await;
    // One that takes none.
    let gone = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let fake = Fake::start(Settings::default()).await.unwrap();
    let world = World::before(fake, &format!("https://{gone}"), flags("1m")).await;
    for _ in 0..3 {
        assert_eq!(world.get(&results("e1")).await.code(), "connection_refused");
    }
    for target in [results("e1"), of(OTHER, "e2")] {
        assert_eq!(world.get(&target).await.code(), "circuit_open");
    }
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_scopes_that_fail_together_open_the_hosts_circuit_and_a_good_one_is_the_probe() {
    let flags = vec![flag("breaker.failures", 4), flag("breaker.pause", "300ms"), flag("retry.max", 0)];
    let world = world(flags).await;
    for org in [ORG, THIRD] {
        world.fake.fault_at(Target::Scope(format!("orgs/{org}")), Fault::NoHealthyUpstream, None);
    }
    for org in [ORG, THIRD, ORG, THIRD] {
        assert_eq!(world.get(&of(org, "e1")).await.status, 503);
    }
    assert_eq!(world.get(&of(OTHER, "good")).await.code(), "circuit_open");
    // The bad ones knock all the time, and the good one comes through all the same.
    while world.get(&of(OTHER, "good")).await.status != 200 {
        for org in [ORG, THIRD] {
            assert_eq!(world.get(&of(org, "e1")).await.status, 503);
        }
    }
    assert_eq!(world.fake.hits_of(&Target::Scope(format!("orgs/{ORG}"))).api(), 2);
    for _ in 0..20 {
        assert_eq!(world.get(&of(OTHER, "good")).await.status, 200);
        assert_eq!(world.get(&of(ORG, "e1")).await.status, 503);
    }
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_401_for_one_org_does_not_lock_the_credential_for_the_others() {
    let world = world(vec![]).await;
    assert_eq!(world.get(&of(OTHER, "good")).await.status, 200);
    for org in [ORG, THIRD] {
        world.fake.fault_at(Target::Scope(format!("orgs/{org}")), Fault::Status(401), None);
    }
    for _ in 0..40 {
        for org in [ORG, THIRD] {
            let refused = world.get(&of(org, "e1")).await;
            assert!([502, 503].contains(&refused.status.as_u16()));
        }
        assert_eq!(world.get(&of(OTHER, "good")).await.status, 200);
    }
    let refused = world.get(&results("e1")).await;
    assert_eq!(refused.code(), "upstream_credential_refused_for_scope");
    assert!((1..=60).contains(&retry_after(&refused)));
    // Each of them costs Snyk two requests, and one a minute from then on.
    for org in [ORG, THIRD] {
        assert_eq!(world.fake.hits_of(&Target::Scope(format!("orgs/{org}"))).api(), 2);
    }
    // A value that Snyk takes nowhere is locked for all, at the price of a few requests.
    world.fake.accept(&["another"]);
    let before = world.fake.hits().api();
    for n in 0..20 {
        assert!(world.get(&of(OTHER, "good")).await.status.is_server_error());
        assert!(world.get(&of(&format!("new-{n}"), "e1")).await.status.is_server_error());
    }
    assert_eq!(world.get(&of(OTHER, "good")).await.code(), "upstream_credential_locked");
    let cost = world.fake.hits().api() - before;
    assert!(cost <= 6, "{cost}");
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_v1_and_other_buckets_say_is_not_about_exports() {
    let world = world(vec![flag("routes.other", "forward")]).await;
    let budget = async || {
        let status = world.get(&format!("{}/api/budget", world.admin)).await.json();
        status["credentials"][0].clone()
    };
    // A 429 of /v1 is about /v1.
    world.fake.fault_at(Target::Path("/v1/".into()), Fault::TooManyRequests { retry_after: 1_800 }, Some(1));
    assert_eq!(world.get("/v1/org/a/projects").await.status, 429);
    assert_eq!(world.get(&of(OTHER, "good")).await.status, 200);
    assert_eq!(world.get("/v1/org/a/projects").await.code(), "backoff");
    // Its calls are counted by its own windows.
    let now = budget().await;
    assert_eq!(now["windows"][1]["used"], 1);
    assert_eq!(
        (&now["v1"]["windows"][1]["limit"], &now["v1"]["windows"][1]["used"]),
        (&2_000.into(), &1.into())
    );
    // A smaller bucket of another call is that call's.
    let issues = format!("/rest/orgs/{OTHER}/issues?{V}");
    let at = Target::Path(format!("/rest/orgs/{OTHER}/issues"));
    let used_up = RateFields { remaining: 0, ..RateFields::low() };
    world.fake.fault_at(at.clone(), Fault::RateFields(used_up.clone()), Some(1));
    assert_eq!(world.get(&issues).await.status, 200);
    world.fake.fault_at(at.clone(), Fault::TooManyRequests { retry_after: 60 }, Some(1));
    world.fake.fault_at(at.clone(), Fault::RateFields(used_up), Some(1));
    assert_eq!(world.get(&issues).await.status, 429);
    assert_eq!(world.get(&of(OTHER, "good")).await.status, 200);
    assert_eq!(budget().await["windows"][1]["limit"], 1_620);
    assert_eq!(budget().await["backoff"]["state"], "none");
    // Failures of other calls open nothing, whoever makes them.
    for fault in [Fault::Status(503), Fault::NoHealthyUpstream, Fault::Reset] {
        world.fake.fault_at(at.clone(), fault, Some(15));
        for _ in 0..15 {
            assert!(world.get(&issues).await.status.is_server_error());
        }
        assert_eq!(world.get(&of(OTHER, "good")).await.status, 200);
    }
    // What names no bucket, in a 429 of the REST API, may be the account's: then everything is held.
    world.fake.fault_at(at, Fault::TooManyRequests { retry_after: 60 }, Some(1));
    assert_eq!(world.get(&issues).await.status, 429);
    assert_eq!(world.get(&of(OTHER, "good")).await.code(), "backoff");
    world.stop().await;
}

/// A world with clients of these names, each with `policy`; and their keys.
async fn with_clients(known: &Known, policies: &[(&str, &str)], more: Flags) -> (World, Vec<String>) {
    let (mut flags, keys) = clients(known, policies);
    flags.extend(more);
    (World::with(Settings::default(), flags).await, keys)
}

/// The flags for clients of these names, each with `policy`; and their keys.
pub(crate) fn clients(known: &Known, policies: &[(&str, &str)]) -> (Flags, Vec<String>) {
    let mut clients = String::new();
    let mut keys = Vec::new();
    for (name, policy) in policies {
        let key = generate().unwrap().to_string();
        keep_secret([key.clone()]);
        let digest = Digest::of(&key).to_hex();
        let _ = write!(
            clients,
            "[clients.{name}]\nkeys = ['sha256:{digest}']\norgs = ['*']\noperations = ['read', 'start']\n{policy}\n"
        );
        keys.push(format!("token {key}"));
    }
    (known.flags(&clients), keys)
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_of_one_client_that_hang_leave_slots_for_another() {
    let known = Known::new();
    let more = vec![flag("queue.max_wait", "2s"), flag("upstream.header_timeout", "20s")];
    let (world, keys) = with_clients(&known, &[("greedy", ""), ("small", "")], more).await;
    let world = Arc::new(world);
    world.fake.put_export(&format!("orgs/{OTHER}"), "good", State::Word("PENDING".into()));
    world.fake.fault_at(Target::Scope(scope()), Fault::Hang, None);
    let hanging: Vec<_> = (0..80)
        .map(|n| {
            let (world, key) = (Arc::clone(&world), keys[0].clone());
            tokio::spawn(async move {
                world.get_with(&results(&format!("hang-{n}")), &[("authorization", &key)]).await
            })
        })
        .collect();
    world.fake.wait_for_hits(48).await;
    for _ in 0..10 {
        let got = world.get_with(&of(OTHER, "good"), &[("authorization", &keys[1])]).await;
        assert_eq!(got.status, 200);
    }
    assert_eq!(world.fake.hits_of(&Target::Scope(scope())).api(), 48);
    for task in hanging {
        task.abort();
        let _ = task.await;
    }
    Arc::into_inner(world).unwrap().stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_whose_orgs_are_refused_does_not_keep_the_probes_of_a_locked_credential() {
    let known = Known::new();
    let more = vec![flag("credential.probe_interval", "1s")];
    let (world, keys) = with_clients(&known, &[("bad", ""), ("good", "")], more).await;
    world.fake.put_export(&format!("orgs/{OTHER}"), "good", State::Word("PENDING".into()));
    // Each of them is new, so that nothing is known against it.
    let orgs: Vec<String> = (0..400).map(|n| format!("{n:08}-0000-4000-8000-000000000000")).collect();
    for org in &orgs {
        world.fake.fault_at(Target::Scope(format!("orgs/{org}")), Fault::Status(401), None);
    }
    let bad = async {
        for org in &orgs {
            world.get_with(&of(org, "e1"), &[("authorization", &keys[0])]).await;
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("the probes went to the client whose orgs are refused");
    };
    let good = async {
        while world.fake.hits().api() < 2 {
            tokio::task::yield_now().await;
        }
        let ask = async || world.get_with(&of(OTHER, "good"), &[("authorization", &keys[1])]).await;
        while ask().await.status != 200 {
            tokio::time::sleep(Duration::from_millis(700)).await;
        }
        // It is open for all from now on.
        assert_eq!(ask().await.status, 200);
    };
    tokio::select! {
        () = bad => {}
        () = good => {}
    }
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_that_hangs_after_a_429_does_not_hold_the_others() {
    let known = Known::new();
    let (world, keys) = with_clients(
        &known,
        &[("bad", ""), ("good", "")],
        vec![flag("queue.max_wait", "1s"), flag("shutdown.drain", "1s")],
    )
    .await;
    world.fake.put_export(&format!("orgs/{OTHER}"), "good", State::Word("PENDING".into()));
    let good = async || world.get_with(&of(OTHER, "good"), &[("authorization", &keys[1])]).await;
    world.fake.fault_at(Target::All, Fault::TooManyRequests { retry_after: 2 }, Some(1));
    assert_eq!(good().await.status, 429);
    // The first request after the pause hangs.
    world.fake.fault_at(Target::Scope(scope()), Fault::Hang, None);
    let hanging_key = [("authorization", keys[0].as_str())];
    let begun = Instant::now();
    let hanging = async {
        while world.fake.hits_of(&Target::Scope(scope())).api() == 0 {
            world.get_with(&results("hangs"), &hanging_key).await;
        }
    };
    let polling = async {
        while world.fake.hits_of(&Target::Scope(scope())).api() == 0 {
            tokio::task::yield_now().await;
        }
        while good().await.status != 200 {}
    };
    tokio::select! {
        () = hanging => panic!("it hangs"),
        () = polling => {}
    }
    assert!(begun.elapsed() < Duration::from_secs(25), "{:?}", begun.elapsed());
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_that_pass_through_give_their_slots_back_when_their_clients_have_left() {
    let flags = vec![
        flag("routes.other", "forward"),
        flag("queue.max_running", 2),
        flag("queue.max_wait", "20s"),
        flag("shutdown.drain", "1s"),
    ];
    let world = world(flags).await;
    let issues = |n: u32| format!("/rest/orgs/{ORG}/issues/{n}?{V}");
    world.fake.fault_at(Target::Path(format!("/rest/orgs/{ORG}/issues")), Fault::Hang, None);
    for n in 1..=2 {
        ask_and_leave(&world, &issues(n), &[], n.into()).await;
    }
    let begun = Instant::now();
    assert_eq!(world.get(&of(OTHER, "good")).await.status, 200);
    assert!(begun.elapsed() < Duration::from_secs(15), "{:?}", begun.elapsed());
    world.stop().await;
}

/// Asks, and leaves when `hits` requests have reached the fake.
async fn ask_and_leave(world: &World, target: &str, fields: &[(&str, &str)], hits: u64) {
    tokio::select! {
        got = world.get_with(target, fields) => panic!("{got:?}"),
        () = world.fake.wait_for_hits(hits) => {}
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn reads_that_nobody_waits_for_end_when_their_slots_are_needed_and_starts_do_not() {
    let flags = vec![flag("queue.max_running", 2), flag("queue.max_wait", "20s")];
    let world = world(flags).await;
    world.fake.fault_at(Target::Scope(scope()), Fault::Hang, Some(2));
    ask_and_leave(&world, &results("left"), &[], 1).await;
    tokio::select! {
        got = start(&world, ORG) => panic!("{got:?}"),
        () = world.fake.wait_for_hits(2) => {}
    }
    // Both slots are in use. Who comes gets that of the read, in some seconds.
    let begun = Instant::now();
    assert_eq!(world.get(&of(OTHER, "good")).await.status, 200);
    assert!(begun.elapsed() < Duration::from_secs(15), "{:?}", begun.elapsed());
    let records = world.records();
    let abandoned: Vec<_> = records.iter().filter(|row| row.error.as_deref() == Some("abandoned")).collect();
    assert_eq!(abandoned.len(), 1, "{records:?}");
    assert_eq!((abandoned[0].export_id.as_deref(), abandoned[0].clients), (Some("left"), 0));
    // The start's slot is not taken.
    let budget = world.get(&format!("{}/api/budget", world.admin)).await.json();
    assert_eq!(budget["credentials"][0]["running"], 1);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_comes_back_in_time_joins_its_own_request_also_at_its_limit() {
    let known = Known::new();
    let (world, keys) = with_clients(&known, &[("one", "concurrent_requests = 1")], vec![]).await;
    world.fake.put_export(&scope(), "e1", State::Word("PENDING".into()));
    let fields = [("authorization", keys[0].as_str())];
    let gate = world.fake.hold();
    ask_and_leave(&world, &results("e1"), &fields, 1).await;
    world.wait_for_followers(0).await;
    // Anything else is over its limit: what it left runs still.
    let other = async || world.get_with(&results("e2"), &fields).await;
    while world.get_with(&results("e2"), &fields).await.status != 429 {}
    assert_eq!(other().await.code(), "client_concurrency");
    let target = results("e1");
    let again = world.get_with(&target, &fields);
    let release = async {
        world.wait_for_followers(1).await;
        // A second one beside it is over the limit again.
        assert_eq!(world.get_with(&results("e1"), &fields).await.code(), "client_concurrency");
        drop(gate);
    };
    let (again, ()) = tokio::join!(again, release);
    assert_eq!((again.status.as_u16(), world.fake.hits().api()), (200, 1));
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn fetching_ahead_takes_no_place_of_the_reader() {
    let known = Known::new();
    let (world, keys) = with_clients(&known, &[("one", "concurrent_requests = 1")], vec![]).await;
    let fields = [("authorization", keys[0].as_str())];
    for n in 0..3 {
        let export = format!("e{n}");
        world.fake.put_export(&scope(), &export, State::Finished);
        assert!(world.get_with(&results(&export), &fields).await.cache().ends_with("stored"));
    }
    // The last tenth of 45 minutes.
    world.clock.step_wall(42 * 60);
    let gate = world.fake.hold();
    for n in [0, 1, 2, 0, 1, 2] {
        let got = world.get_with(&results(&format!("e{n}")), &fields).await;
        assert!(got.is_hit(), "{} {}", got.status, got.cache());
    }
    world.fake.wait_for_hits(6).await;
    drop(gate);
    world.stop().await;
}

#[tokio::test]
async fn a_credential_that_snyk_refuses_leaves_the_gateway_ready() {
    let world = World::new().await;
    world.fake.put_export(&scope(), "stored", State::Finished);
    assert_eq!(world.get(&results("stored")).await.status, 200);
    world.fake.accept(&["another"]);
    for _ in 0..3 {
        world.get(&results("e1")).await;
    }
    let look = async |path: &str| world.get(&format!("{}{path}", world.admin)).await;
    let status = look("/api/status").await.json();
    let part = status["parts"].as_array().unwrap().iter().find(|part| part["name"] == "credential default");
    assert_eq!(part.unwrap()["state"], "degraded");
    assert_eq!(status["state"], "degraded");
    let ready = look("/readyz").await;
    assert_eq!((ready.status.as_u16(), &ready.body[..]), (200, &b"degraded\n"[..]));
    // What is stored is served, and the answer that says so reaches clients.
    assert!(world.get(&results("stored")).await.is_hit());
    assert_eq!(world.get(&results("e1")).await.code(), "upstream_credential_locked");
    world.stop().await;
}

#[tokio::test]
async fn a_large_document_does_not_hold_up_the_runtime() {
    let parts = vec![PartSource::bytes("A\n1\n"); 12_000];
    let script = Script { store: StoreScript { parts, ..StoreScript::default() }, ..Script::default() };
    let world = World::with(Settings { script, ..Settings::default() }, vec![]).await;
    world.fake.put_export(&scope(), "large", State::Finished);
    let body = {
        // The fake makes its links on this thread too: they are made once, and given out whole.
        let made = world.get(&results("large")).await;
        assert!(made.body.len() > 3_000_000, "{}", made.body.len());
        made
    };
    let headers = vec![("content-type".to_owned(), "application/vnd.api+json".to_owned())];
    world.fake.put_export(&scope(), "again", State::Raw { status: 200, headers, body: body.body });
    let target = results("again");
    let (mut longest, mut last) = (Duration::ZERO, Instant::now());
    let begun = last;
    let got = {
        let mut getting = std::pin::pin!(world.get(&target));
        loop {
            tokio::select! {
                got = &mut getting => break got,
                () = tokio::task::yield_now() => {
                    longest = longest.max(last.elapsed());
                    last = Instant::now();
                }
            }
        }
    };
    assert!(got.cache().ends_with("stored"), "{}", got.cache());
    assert!(longest * 4 < begun.elapsed(), "{longest:?} of {:?}", begun.elapsed());
    world.stop().await;
}
