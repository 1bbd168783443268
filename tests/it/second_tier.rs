//! One cache and one flight for all gateways, on a real engine.

use std::time::Duration;

use exportgate::clock::Clock;
use exportgate::shared::{
    self, Claim, Claimed, EngineAddress, FleetNews, Landing, Lead, Place, SealKeys, Shared, export_name,
};

use crate::support::engine::Engine;

const ANY: Option<Duration> = Some(Duration::MAX);
const LIFE: Duration = Duration::from_secs(1_000);

/// A member of a fleet that has a connection.
async fn member(engine: &Engine, key: &str, lease: Duration) -> Shared {
    let settings = shared::Settings {
        address: EngineAddress::Unix(engine.url().trim_start_matches("unix:").into()),
        database: 0,
        user: String::new(),
        password_file: None,
        ca_file: None,
        prefix: "exportgate".to_owned(),
        gateways: 4,
        silence: Duration::from_secs(10),
        timeout: Duration::from_secs(2),
        seal: (!key.is_empty()).then(|| SealKeys::parse(key.as_bytes()).unwrap()),
        lease,
        max_entry: 100,
    };
    let shared = Shared::new(settings, Clock::system(), "a split".to_owned());
    let (news, mut heard) = tokio::sync::mpsc::unbounded_channel();
    shared.on_news(move |one| drop(news.send(one)));
    tokio::spawn(shared.clone().run());
    while !matches!(heard.recv().await, Some(FleetNews::Up { .. })) {}
    shared
}

fn place(question: &str) -> Place {
    Place::of_export("the-org", "the-export", question)
}

fn any() -> Claim<'static> {
    Claim { entry: ANY, follows: true, ..Claim::default() }
}

async fn lead(shared: &Shared, question: &str) -> Lead {
    match shared.claim(&place(question), any()).await {
        Some(Claimed::Lead(lead)) => lead,
        other => panic!("{other:?}"),
    }
}

fn entry(value: &[u8]) -> Landing<'_> {
    Landing::Entry { value, fresh: LIFE, life: LIFE, tag: "tag" }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_claim_finds_what_was_landed_and_nothing_that_does_not_open() {
    let engine = Engine::start(&[]);
    let key = SealKeys::generate().unwrap();
    let lease = Duration::from_secs(5);
    let (first, second) = (member(&engine, &key, lease).await, member(&engine, &key, lease).await);
    let leading = lead(&first, "a").await;
    let Some(Claimed::Wait(since)) = second.claim(&place("a"), any()).await else { panic!("it waits") };
    let busy = second.claim(&place("a"), Claim::default()).await;
    assert!(matches!(busy, Some(Claimed::Busy)), "{busy:?}");
    let mut landings = second.landings();
    let (landed, ()) = tokio::join!(first.land(&leading, entry(b"the value")), landings.next(&place("a")));
    assert!(landed.unwrap().is_ours);
    let followed = Claim { since: Some(since), follows: true, ..Claim::default() };
    let Some(Claimed::Entry(kept)) = second.claim(&place("a"), followed).await else { panic!("an entry") };
    assert_eq!(kept.value, b"the value");
    assert!(kept.life.duration_since(kept.landed) <= LIFE);
    // Not for whoever knows it, or wants more of it.
    for claim in [Claim { known: "tag", ..any() }, Claim { least_life: LIFE, ..any() }] {
        let claimed = second.claim(&place("a"), claim).await;
        assert!(matches!(claimed, Some(Claimed::Lead(_))), "{claimed:?}");
        engine.ask(&["HDEL", &hash(), &field(&engine, "flight")]);
    }

    // Swapped, cut off, or sealed by another key: it is none.
    let (life, value) = (field(&engine, "life"), field(&engine, "entry"));
    assert!(second.land(&lead(&second, "b").await, entry(b"another")).await.unwrap().is_ours);
    let copy = "redis.call('HSET', KEYS[1], ARGV[2], redis.call('HGET', KEYS[1], ARGV[1]))";
    let fields = engine.ask(&["HKEYS", &hash()]);
    let others = |kind: &str, not: &str| {
        fields.lines().find(|name| name.starts_with(kind) && *name != not).unwrap().to_owned()
    };
    for (kind, not) in [("entry:", &value), ("life:", &life)] {
        engine.ask(&["EVAL", copy, "1", &hash(), &others(kind, not), not]);
    }
    let swapped = lead(&second, "a").await;
    assert!(second.land(&swapped, entry(b"the value")).await.unwrap().is_ours);
    engine.ask(&["HSET", &hash(), &value, "short"]);
    drop(lead(&second, "a").await);
    let stranger = member(&engine, &SealKeys::generate().unwrap(), lease).await;
    let claimed = stranger.claim(&place("b"), any()).await;
    assert!(matches!(claimed, Some(Claimed::Lead(_))), "{claimed:?}");
    // Without a key there is nothing.
    assert!(member(&engine, "", lease).await.claim(&place("b"), any()).await.is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn other_answers_live_for_those_who_follow_or_poll() {
    let engine = Engine::start(&[]);
    let key = SealKeys::generate().unwrap();
    let shared = member(&engine, &key, Duration::from_secs(5)).await;
    let answer = |is_kept| Landing::Answer { value: b"pending", is_kept };
    let since = |since| Claim { since: Some(since), ..Claim::default() };
    for (landing, is_followed) in [(answer(false), false), (answer(false), true), (Landing::Failed, true)] {
        let leading = lead(&shared, "a").await;
        let mut start = None;
        if is_followed {
            let Some(Claimed::Wait(at)) = shared.claim(&place("a"), any()).await else { panic!("waits") };
            start = Some(at);
        }
        shared.land(&leading, landing).await.unwrap();
        let claim = start.map_or_else(Claim::default, since);
        let claimed = shared.claim(&place("a"), claim).await;
        match landing {
            Landing::Failed => assert!(matches!(claimed, Some(Claimed::Failed)), "{claimed:?}"),
            _ if is_followed => assert!(matches!(claimed, Some(Claimed::Answer(_))), "{claimed:?}"),
            _ => {
                let Some(Claimed::Lead(lead)) = claimed else { panic!("{claimed:?}") };
                shared.land(&lead, Landing::Left).await.unwrap();
            }
        }
    }
    // One that is too large is none.
    let large = [7; 101];
    let leading = lead(&shared, "b").await;
    let Some(Claimed::Wait(at)) = shared.claim(&place("b"), any()).await else { panic!("waits") };
    shared.land(&leading, Landing::Answer { value: &large, is_kept: true }).await.unwrap();
    assert!(matches!(shared.claim(&place("b"), since(at)).await, Some(Claimed::Failed)));
    // A poller takes what is new enough for it.
    let leading = lead(&shared, "c").await;
    shared.land(&leading, answer(true)).await.unwrap();
    let aged = |age| Claim { answer: Some(Duration::from_secs(age)), ..Claim::default() };
    assert!(matches!(shared.claim(&place("c"), aged(60)).await, Some(Claimed::Answer(_))));
    assert!(matches!(shared.claim(&place("c"), aged(0)).await, Some(Claimed::Lead(_))));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_whose_lease_is_gone_or_that_a_purge_has_overtaken_stores_nothing() {
    let engine = Engine::start(&[]);
    let key = SealKeys::generate().unwrap();
    let shared = member(&engine, &key, Duration::from_millis(300)).await;
    // A lease that is renewed lasts.
    let leading = lead(&shared, "a").await;
    let renewing = tokio::time::timeout(Duration::from_secs(1), shared.keep(&leading)).await;
    assert!(renewing.is_err());
    assert!(matches!(shared.claim(&place("a"), any()).await, Some(Claimed::Wait(_))));
    // Another has taken over.
    tokio::time::sleep(Duration::from_millis(350)).await;
    let next = lead(&shared, "a").await;
    let landed = shared.land(&leading, entry(b"late")).await.unwrap();
    assert!(!landed.is_ours && !landed.is_purged);
    assert!(shared.land(&next, entry(b"value")).await.unwrap().is_ours);

    // A purge of the export, and one of everything.
    for all in [false, true] {
        let leading = lead(&shared, "b").await;
        let purges = engine.ask(&["HINCRBY", "exportgate:fleet", "purges", "1"]);
        if all {
            engine.ask(&["HSET", "exportgate:fleet", "purged_all", &purges]);
        } else {
            engine.ask(&["DEL", &hash()]);
        }
        let landed = shared.land(&leading, entry(b"purged")).await.unwrap();
        assert!(!landed.is_ours && landed.is_purged);
        let next = lead(&shared, "b").await;
        assert!(shared.land(&next, entry(b"anew")).await.unwrap().is_ours);
        assert!(matches!(shared.claim(&place("b"), any()).await, Some(Claimed::Entry(_))));
    }
    assert!(engine.ask(&["TTL", &hash()]).parse::<u64>().unwrap() <= 1_000);
}

fn hash() -> String {
    format!("exportgate:x:{}", export_name("the-org", "the-export"))
}

/// The name of the first field of a kind.
fn field(engine: &Engine, kind: &str) -> String {
    let fields = engine.ask(&["HKEYS", &hash()]);
    let found = fields.lines().find(|name| name.starts_with(kind));
    found.unwrap_or_else(|| panic!("no {kind} in {fields}")).to_owned()
}
