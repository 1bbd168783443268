//! Equal starts share an export, where the gateway is told to or the client asks for it; and whoever wants a new one gets it.

use std::collections::BTreeSet;
use std::time::Duration;

use exportgate::access::key::{Digest, generate};
use exportgate::fake::{Fake, Fault, Script, Settings, State, Target};
use futures_util::future::join_all;
use http::Method;
use tempfile::TempDir;

use crate::support::upstream::{Answer, Upstream};
use crate::support::{Flags, Got, ORG, START, V, World, flag, keep_secret, scope};

const OTHER: &str = "00000000-1111-4222-8333-444444444444";

fn body(columns: &str) -> String {
    START.replace(r#""dataset":"issues","#, &format!(r#""dataset":"issues","columns":[{columns}],"#))
}

pub(crate) async fn start(world: &World, wish: &str, body: &str) -> Got {
    start_of(world, ORG, wish, body).await
}

async fn start_of(world: &World, org: &str, wish: &str, body: &str) -> Got {
    let fields = [("cache-control", wish), ("content-type", "application/vnd.api+json")];
    let fields = if wish.is_empty() { &fields[1..] } else { &fields[..] };
    world.send(Method::POST, &format!("/orgs/{org}/export?{V}"), fields, body).await
}

pub(crate) fn id(got: &Got) -> String {
    assert_eq!(got.status, 202, "{got:?}");
    got.json()["data"]["id"].as_str().expect("an id").to_owned()
}

/// A gateway that shares starts of the last quarter of an hour.
async fn sharing(mut flags: Flags) -> World {
    flags.insert(0, flag("starts.share", "15m"));
    World::with(Settings::default(), flags).await
}

/// Another gateway before the same upstream, with a journal in `directory`.
async fn another(fake: &Fake, directory: &TempDir, mut flags: Flags) -> World {
    let ca = directory.path().join("ca.pem");
    std::fs::write(&ca, fake.ca_pem()).unwrap();
    flags.extend([
        flag("starts.share", "15m"),
        flag("upstream.ca_file", ca.display()),
        flag("journal.path", directory.path().join("journal.db").display()),
    ]);
    let plain = Fake::start(Settings { tls: false, ..Settings::default() }).await.unwrap();
    World::before(plain, &fake.url(), flags).await
}

#[tokio::test(flavor = "multi_thread")]
async fn equal_starts_are_one_and_arrays_in_another_order_are_another() {
    let world = sharing(vec![]).await;
    let gate = world.fake.hold();
    let body = body(r#""A","B""#);
    let spaced = serde_json::to_string_pretty(&serde_json::from_str::<serde_json::Value>(&body).unwrap());
    let spellings = [body.clone(), spaced.unwrap(), body.replace("issues", "\\u0069ssues")];
    let at_once = join_all((0..20).map(|n| start(&world, "", &spellings[n % 3])));
    let opening = async {
        world.wait_for_followers(20).await;
        drop(gate);
    };
    let (mut all, ()) = tokio::join!(at_once, opening);
    assert_eq!(all.iter().filter(|got| got.cache().ends_with("; collapsed")).count(), 19);
    for n in 0..5 {
        let later = start(&world, "", &spellings[n % 3]).await;
        assert_eq!(later.cache(), "exportgate; hit; detail=shared-start");
        assert!(later.field("age").parse::<u64>().unwrap() < 60);
        assert_eq!(later.field("retry-after"), "1");
        all.push(later);
    }
    let same = |of: fn(&Got) -> String| all.iter().map(of).collect::<BTreeSet<_>>().len();
    assert_eq!((all.len(), same(id), world.fake.hits().start), (25, 1, 1));
    assert_eq!(same(|got| got.field("snyk-request-id").to_owned()), 1);
    assert_eq!(same(|got| got.field("content-location").to_owned()), 1);
    assert_eq!(same(|got| String::from_utf8(got.body.to_vec()).unwrap()), 1);
    // Every client is on record with the one attempt.
    let records = world.records();
    assert_eq!((records.len(), records[0].clients), (1, 25));
    assert_eq!(records[0].export_id.as_deref(), Some(&*id(&all[0])));
    let turned = start(&world, "", &self::body(r#""B","A""#)).await;
    assert_ne!(id(&turned), id(&all[0]));
    assert_eq!(world.fake.hits().start, 2);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_and_another_process_on_the_journal_know_it() {
    let fake = Fake::start(Settings::default()).await.unwrap();
    let directory = TempDir::new().unwrap();
    let first = another(&fake, &directory, vec![]).await;
    let second = another(&fake, &directory, vec![]).await;
    let made = id(&start(&first, "", START).await);
    assert_eq!(id(&start(&second, "", START).await), made);
    first.stop().await;
    second.stop().await;
    let third = another(&fake, &directory, vec![]).await;
    let again = start(&third, "", START).await;
    assert_eq!((id(&again), again.cache()), (made, "exportgate; hit; detail=shared-start"));
    assert_eq!(fake.hits().start, 1);
    third.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_value_of_the_credential_shares_nothing_of_the_one_before() {
    let fake = Fake::start(Settings::default()).await.unwrap();
    let directory = TempDir::new().unwrap();
    let token = directory.path().join("token");
    for (value, posts) in [("first-account-0001", 1), ("second-account-002", 2), ("first-account-0001", 2)] {
        std::fs::write(&token, value).unwrap();
        let world = another(&fake, &directory, vec![flag("credential.token_file", token.display())]).await;
        id(&start(&world, "", START).await);
        assert_eq!(fake.hits().start, posts, "{value}");
        world.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failure_is_its_own_callers_and_after_two_the_rest_get_theirs() {
    for (failures, good, posts) in [(1, 9, 2), (2, 0, 2)] {
        let world = sharing(vec![flag("breaker.failures", 100)]).await;
        world.fake.fault_at(Target::Starts, Fault::Reset, Some(failures));
        let gate = world.fake.hold();
        let at_once = join_all((0..10).map(|_| start(&world, "", START)));
        let opening = async {
            world.wait_for_followers(10).await;
            drop(gate);
        };
        let (all, ()) = tokio::join!(at_once, opening);
        let ids: BTreeSet<String> = all.iter().filter(|got| got.status == 202).map(id).collect();
        assert_eq!(all.iter().filter(|got| got.status == 202).count(), good);
        assert!(all.iter().filter(|got| got.status != 202).all(|got| got.code() == "connection_terminated"));
        assert_eq!((ids.len(), world.fake.hits().start), (good.min(1), posts));
        // The first answered its own caller alone, the second all others.
        let clients: Vec<i64> = world.records().iter().map(|row| row.clients).collect();
        assert_eq!(clients, [9, 1]);
        world.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_waits_no_more_begins_nothing() {
    let world = sharing(vec![flag("listener.request_timeout", "300ms")]).await;
    let gate = world.fake.hold();
    let all = join_all((0..3).map(|_| start(&world, "", START))).await;
    assert!(all.iter().all(|got| got.code() == "deadline"), "{all:?}");
    drop(gate);
    // The start goes on, and its export is there for whoever asks then.
    let later = start(&world, "", START).await;
    assert_eq!((later.status.as_u16(), world.fake.hits().start), (202, 1));
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_wants_a_new_export_gets_one() {
    // By default nothing is shared unasked, and the wish is bounded.
    let world = World::new().await;
    let first = id(&start(&world, "", START).await);
    let second = id(&start(&world, "", START).await);
    assert_ne!(first, second);
    assert_eq!(id(&start(&world, "max-age=60", START).await), second);
    assert_eq!(id(&start(&world, "only-if-cached, max-age=60", START).await), second);
    for forced in ["no-cache", "no-store", "max-age=0", "no-cache, max-age=60"] {
        let before = world.fake.hits().start;
        start(&world, forced, START).await;
        assert_eq!(world.fake.hits().start, before + 1, "{forced}");
    }
    world.clock.step_wall(61);
    let before = world.fake.hits().start;
    start(&world, "max-age=60", START).await;
    assert_eq!(start(&world, "max-age=60, only-if-cached", "other").await.code(), "not_cached");
    assert_eq!(world.fake.hits().start, before + 1);
    world.stop().await;
    // A client takes less than the gateway shares, and joins nothing on its way where it wants a new one.
    let world = sharing(vec![flag("starts.share_max", "0s")]).await;
    let gate = world.fake.hold();
    let (usual, forced, ()) =
        tokio::join!(start(&world, "", START), start(&world, "no-cache", START), async {
            world.fake.wait_for_hits(2).await;
            drop(gate);
        });
    assert_ne!(id(&usual), id(&forced));
    world.clock.step_wall(600);
    assert!(start(&world, "max-age=86400", START).await.is_hit());
    assert!(!start(&world, "max-age=300", START).await.is_hit());
    world.stop().await;
    // Without both, nothing is kept at all.
    let world = World::with(Settings::default(), vec![flag("starts.share_max", "0s")]).await;
    start(&world, "max-age=600", START).await;
    assert!(!start(&world, "max-age=600", START).await.is_hit());
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_differs_in_more_than_spelling_is_not_equal() {
    let world = sharing(vec![flag("upstream.forward_headers", "x-tenant")]).await;
    world.fake.script(|script| script.accept_any_start = true);
    let target = |org: &str, query: &str| format!("/orgs/{org}/export?{V}{query}");
    let large = format!(r#"{{"n":"{}"}}"#, "x".repeat(65_536));
    let spaced = format!("{large} ");
    let mut posts = 0;
    for (target, fields, body) in [
        (target(ORG, ""), &[][..], START),
        (target(OTHER, ""), &[], START),
        (target(ORG, "&include_deleted=true"), &[], START),
        (format!("/groups/{ORG}/export?{V}"), &[], START),
        (target(ORG, ""), &[("x-tenant", "a")], START),
        (target(ORG, ""), &[("content-encoding", "gzip")], START),
        (target(ORG, ""), &[("content-type", "text/plain")], START),
        (target(ORG, ""), &[("content-type", "application/json; charset=utf-16")], START),
        (target(ORG, ""), &[("content-type", "application/json; charset=utf-8; ext=x")], START),
        (target(ORG, ""), &[], r#"{"n":1}"#),
        (target(ORG, ""), &[], r#"{"n":1.0}"#),
        (target(ORG, ""), &[], r#"{"n":1,"n":1}"#),
        (target(ORG, ""), &[], r#"{"n":1, "n":1}"#),
        (target(ORG, ""), &[], ""),
        (target(ORG, ""), &[], " "),
        // So long a body is compared by its bytes.
        (target(ORG, ""), &[], &large),
        (target(ORG, ""), &[], &spaced),
    ] {
        posts += 1;
        for at in 0..2 {
            let got = world.send(Method::POST, &target, fields, body).await;
            assert_eq!((got.status.as_u16(), got.is_hit()), (202, at > 0), "{target} {fields:?} {body}");
        }
        assert_eq!(world.fake.hits().start, posts, "{target} {fields:?} {body}");
    }
    // These say nothing of the question, and do not go up.
    let json = ("content-type", "application/json");
    for (at, field) in [
        ("accept", "text/html"),
        ("user-agent", "x"),
        ("content-type", "Application/vnd.api+json; Charset=UTF-8"),
    ]
    .into_iter()
    .enumerate()
    {
        let mut fields = vec![field, ("via", "1.0 fred")];
        if field.0 != json.0 {
            fields.push(json);
        }
        let got = world.send(Method::POST, &target(ORG, ""), &fields, START).await;
        assert_eq!((got.status.as_u16(), got.is_hit()), (202, at > 0), "{field:?}");
    }
    let seen = world.fake.requests().pop().unwrap();
    assert!(seen.header("accept")[0].starts_with("application/vnd.api+json"), "{seen:?}");
    assert!(seen.header("user-agent")[0].starts_with("exportgate/"), "{seen:?}");
    assert!(!seen.header("via").concat().contains("fred"), "{seen:?}");
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_client_shapes_a_start_that_others_may_get() {
    let world = sharing(vec![]).await;
    for wish in ["no-cache", "max-age=0", "max-age=60", ""] {
        let fields = [
            ("cache-control", wish),
            ("content-type", "application/json"),
            ("accept", "text/html"),
            ("user-agent", "x"),
            ("via", "1.0 fred"),
        ];
        let target = format!("/orgs/{ORG}/export?{V}");
        world.send(Method::POST, &target, &fields, &body(&format!("\"{wish}\""))).await;
        let seen = world.fake.requests().pop().unwrap();
        assert!(seen.header("accept")[0].starts_with("application/vnd.api+json"), "{wish}: {seen:?}");
        assert!(seen.header("user-agent")[0].starts_with("exportgate/"), "{wish}: {seen:?}");
        assert!(!seen.header("via").concat().contains("fred"), "{wish}: {seen:?}");
    }
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_that_is_of_no_use_any_more_is_forgotten() {
    let world = sharing(vec![flag("starts.share", "3d")]).await;
    let read = |org: &str, export: &str| format!("/orgs/{org}/jobs/export/{export}?{V}");
    let mut last = id(&start(&world, "", START).await);
    let purge = |what: String| (Method::DELETE, format!("{}/api/exports{what}", world.admin));
    for what in ["ERRORED", "ERROR", "404", "purged", "purged all", "the clock went back", "30 min"] {
        // What is said of another org's export of this id says nothing of this one.
        world.get(&read(OTHER, &last)).await;
        // Nor does a version that Snyk does not know.
        world.fake.fault(Fault::Status(404), Some(1));
        let unknown = world.get(&read(ORG, &last).replace(V, "version=2001-01-01")).await;
        assert_eq!(unknown.status, 404, "{what}");
        assert_eq!(id(&start(&world, "", START).await), last, "{what}");
        let (method, target) = match what {
            "purged" => purge(format!("/{ORG}/{last}")),
            "purged all" => purge(String::new()),
            _ => (Method::GET, read(ORG, &last)),
        };
        match what {
            "404" => world.fake.fault(Fault::Status(404), Some(1)),
            "ERRORED" | "ERROR" => world.fake.put_export(&scope(), &last, State::Word(what.to_owned())),
            "the clock went back" => world.clock.step_wall(-3_600),
            "30 min" => world.clock.step_wall(1_801),
            _ => {}
        }
        world.send(method, &target, &[], "").await;
        let new = id(&start(&world, "", START).await);
        assert_ne!(new, last, "{what}");
        last = new;
    }
    // One that has finished counts for three days.
    world.fake.put_export(&scope(), &last, State::Finished);
    world.get(&read(ORG, &last)).await;
    world.clock.step_wall(71 * 3_600);
    assert_eq!(id(&start(&world, "", START).await), last);
    world.clock.step_wall(2 * 3_600);
    assert_ne!(id(&start(&world, "", START).await), last);
    world.stop().await;
}

/// An answer whose document has `id` and these attributes.
fn answer(status: &str, id: &str, attributes: &str) -> Answer {
    let body = format!(r#"{{"data":{{{id}"type":"export","attributes":{{{attributes}}}}}}}"#);
    let length = body.len();
    let signed = "https://files.example/1.csv?X-Goog-Signature=ad1f";
    let head = format!(
        "content-type: application/vnd.api+json\r\nx-ratelimit-remaining: 7\r\nx-amz-security-token: ad1f\r\n\
         location: {signed}\r\nlink: <{signed}>; rel=next\r\ncontent-location: /rest/jobs/1"
    );
    Answer::of(format!("HTTP/1.1 {status}\r\n{head}\r\ncontent-length: {length}\r\n\r\n{body}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn only_a_202_with_an_export_and_without_a_link_is_shared() {
    let id = r#""id":"e1","#;
    let link = r#""results":[{"url":"https://files.example/1.csv?X-Amz-Signature=ad1f"}]"#;
    let bare = |name: &str| format!(r#""x":"store.example/a{name}=ad1f""#);
    let (aws, google) = (bare("?X-Amz-Signature"), bare("?a=b\\u0026x-goog-credential"));
    let (azure, other) = (bare("?sv=1&sig"), bare("\\u003faccess_TOKEN"));
    let harmless = bare("?version");
    let large = format!(r#""x":"{}""#, "x".repeat(65_000));
    let over = format!(r#""x":"{}""#, "x".repeat(66_000));
    for (status, id, attributes, is_shared) in [
        ("202 Accepted", id, "", true),
        ("202 Accepted", id, large.as_str(), true),
        ("202 Accepted", id, over.as_str(), false),
        ("202 Accepted", id, link, false),
        ("202 Accepted", id, &aws, false),
        ("202 Accepted", id, &google, false),
        ("202 Accepted", id, &azure, false),
        ("202 Accepted", id, &other, false),
        ("202 Accepted", id, &harmless, true),
        ("202 Accepted", "", "", false),
        ("202 Accepted", r#""id":"not an id","#, "", false),
        ("200 OK", id, "", false),
        ("201 Created", id, "", false),
        ("409 Conflict", id, "", false),
    ] {
        let (owned, attributes) = ((status.to_owned(), id.to_owned()), attributes.to_owned());
        let upstream = Upstream::http1(move |_, _| answer(&owned.0, &owned.1, &attributes)).await;
        let fake = Fake::start(Settings { tls: false, ..Settings::default() }).await.unwrap();
        let world = World::before(fake, &upstream.url, vec![flag("starts.share", "15m")]).await;
        let first = start(&world, "", START).await;
        let second = start(&world, "", START).await;
        assert_eq!((second.is_hit(), upstream.requests()), (is_shared, if is_shared { 1 } else { 2 }));
        assert_eq!((first.status, &first.body), (second.status, &second.body));
        if is_shared {
            let dropped = ["x-ratelimit-remaining", "x-amz-security-token", "location", "link"];
            assert_eq!(dropped.map(|name| second.field(name)), [""; 4]);
            let left = ["retry-after", "content-location"].map(|name| second.field(name));
            assert_eq!(left, ["1", "/rest/jobs/1"]);
        }
        world.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn while_starts_are_held_an_equal_one_stands_in_or_is_named() {
    let script = Script { starts_per_hour: Some(1), ..Script::default() };
    let world = World::with(Settings { script, ..Settings::default() }, vec![]).await;
    let made = id(&start(&world, "", START).await);
    // Snyk's 429 begins the hold; then Snyk is not asked.
    for (cache, posts) in [
        ("exportgate; fwd=method; fwd-status=429; detail=shared-start-in-hold", 2),
        ("exportgate; hit; detail=shared-start-in-hold", 2),
    ] {
        let got = start(&world, "", START).await;
        assert_eq!((id(&got), got.cache(), world.fake.hits().start), (made.clone(), cache, posts));
    }
    let refused = start(&world, "no-cache", START).await;
    assert_eq!((refused.status.as_u16(), refused.code().as_str()), (429, "backoff"));
    assert_eq!(refused.field("exportgate-equal-export"), made);
    let time = humantime::parse_rfc3339(refused.field("exportgate-equal-export-made")).unwrap();
    assert!(world.clock.now().wall.duration_since(time).unwrap() < Duration::from_mins(10));
    let error = &refused.json()["errors"][0];
    assert_eq!(error["meta"]["equal_export"]["id"], *made);
    assert!(error["detail"].as_str().unwrap().contains(&made));
    assert!((3_500..=3_600).contains(&refused.field("retry-after").parse::<u64>().unwrap()));
    // Another question has no equal export.
    let other = start(&world, "", &body(r#""A""#)).await;
    assert_eq!((other.status.as_u16(), other.field("exportgate-equal-export")), (429, ""));
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn snyks_own_429_stays_as_it_is_and_fields_name_the_export() {
    let world = World::new().await;
    let made = id(&start(&world, "", START).await);
    world.fake.fault(Fault::Status(429), Some(1));
    let refused = start(&world, "no-cache", START).await;
    assert_eq!(refused.status, 429);
    assert!(refused.json()["errors"][0]["meta"].is_null(), "Snyk's own");
    assert_eq!(refused.field("exportgate-equal-export"), made);
    // Snyk does not say when: the backoff does.
    assert!((50..=75).contains(&refused.field("retry-after").parse::<u64>().unwrap()), "{refused:?}");
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_may_not_start_there_learns_nothing() {
    let (keys, directory) = ([(); 2].map(|()| generate().unwrap().to_string()), TempDir::new().unwrap());
    keep_secret(keys.iter().flat_map(|key| [key.clone(), key[4..24].to_owned()]));
    let client = |name: &str, key: &str, policy: &str| {
        format!("[clients.{name}]\nkeys = ['sha256:{}']\n{policy}\n", Digest::of(key).to_hex())
    };
    let clients = directory.path().join("clients.toml");
    let mine = client("mine", &keys[0], &format!("orgs = ['{ORG}']\noperations = ['start']"));
    let theirs = client("theirs", &keys[1], &format!("orgs = ['{OTHER}']\noperations = ['start']"));
    std::fs::write(&clients, mine + &theirs).unwrap();
    let world = sharing(vec![flag("access.clients_file", clients.display())]).await;
    let ask = async |key: &str, org: &str| {
        let fields = [("authorization", format!("token {key}"))];
        let fields = fields.each_ref().map(|(name, value)| (*name, value.as_str()));
        world.send(Method::POST, &format!("/orgs/{org}/export?{V}"), &fields, START).await
    };
    let made = id(&ask(&keys[0], ORG).await);
    let denied = ask(&keys[1], ORG).await;
    assert_eq!((denied.status.as_u16(), denied.cache()), (403, ""));
    assert!(!String::from_utf8_lossy(&denied.body).contains(&made));
    assert_ne!(id(&ask(&keys[1], OTHER).await), made);
    assert_eq!(world.fake.hits().start, 2);
    world.stop().await;
}
