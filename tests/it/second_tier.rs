//! One cache and one flight for all gateways, on a real engine.

#![expect(clippy::print_stdout, reason = "figures are told")]

use std::collections::HashSet;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use exportgate::fake::{Fake, Script, Settings, State};
use exportgate::shared::{Claimed, FlightClaim, FlightPlace, Landing, Lead, SealKeys, Shared, export_name};
use tempfile::TempDir;

use crate::support::engine::{Engine, signal};
use crate::support::program::Program;
use crate::support::raw::poll;
use crate::support::{
    Flags, Got, ORG, TOKEN, World, artefacts, flag, keep_file, keep_secret, results, scope,
};

const ANY: Option<Duration> = Some(Duration::MAX);
const LIFE: Duration = Duration::from_secs(1_000);

/// A member of a fleet that has a connection.
async fn member(engine: &Engine, key: &str, lease: Duration) -> Shared {
    let seal = (!key.is_empty()).then(|| SealKeys::parse(key.as_bytes()).unwrap());
    engine.joined(|to| (to.seal, to.lease, to.max_entry) = (seal, lease, 100)).await
}

fn place(question: &str) -> FlightPlace {
    FlightPlace::of_export("the-org", "the-export", question)
}

fn any() -> FlightClaim<'static> {
    FlightClaim { entry: ANY, follows: true, ..FlightClaim::default() }
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
    let busy = second.claim(&place("a"), FlightClaim::default()).await;
    assert!(matches!(busy, Some(Claimed::Busy)), "{busy:?}");
    let mut landings = second.landings();
    let here = place("a");
    let (landed, ()) = tokio::join!(first.land(&leading, entry(b"the value")), landings.next(&here));
    assert!(landed.unwrap().is_ours);
    let followed = FlightClaim { since: Some(since), follows: true, ..FlightClaim::default() };
    let Some(Claimed::Entry(kept)) = second.claim(&place("a"), followed).await else { panic!("an entry") };
    assert_eq!(kept.value, b"the value");
    assert!(kept.life.duration_since(kept.landed) <= LIFE);
    // Not for whoever knows it, or wants more of it.
    for claim in [FlightClaim { known: "tag", ..any() }, FlightClaim { least_life: LIFE, ..any() }] {
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
    let since = |since| FlightClaim { since: Some(since), ..FlightClaim::default() };
    for (landing, is_followed) in [(answer(false), false), (answer(false), true), (Landing::Failed, true)] {
        let leading = lead(&shared, "a").await;
        let mut start = None;
        if is_followed {
            let Some(Claimed::Wait(at)) = shared.claim(&place("a"), any()).await else { panic!("waits") };
            start = Some(at);
        }
        shared.land(&leading, landing).await.unwrap();
        let claim = start.map_or_else(FlightClaim::default, since);
        let claimed = shared.claim(&place("a"), claim).await;
        match landing {
            Landing::Failed => assert!(matches!(claimed, Some(Claimed::Failed)), "{claimed:?}"),
            _ if is_followed => assert!(matches!(claimed, Some(Claimed::Answer(_))), "{claimed:?}"),
            Landing::Answer { .. } | Landing::Entry { .. } | Landing::Left => {
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
    let aged = |age| FlightClaim { answer: Some(Duration::from_secs(age)), ..FlightClaim::default() };
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
    for (all, question) in [(false, "b"), (true, "c")] {
        let leading = lead(&shared, question).await;
        let purges = engine.ask(&["HINCRBY", "exportgate:fleet", "purges", "1"]);
        if all {
            engine.ask(&["HSET", "exportgate:fleet", "purged_all", &purges]);
        } else {
            engine.ask(&["DEL", &hash()]);
        }
        let landed = shared.land(&leading, entry(b"purged")).await.unwrap();
        assert!(!landed.is_ours && landed.is_purged);
        let next = lead(&shared, question).await;
        assert!(shared.land(&next, entry(b"anew")).await.unwrap().is_ours);
        assert!(matches!(shared.claim(&place(question), any()).await, Some(Claimed::Entry(_))));
    }
    drop(lead(&shared, "b").await);
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

/// Gateways that share an engine, in this process, before one fake.
struct Gateways {
    worlds: Vec<Arc<World>>,
    keys: TempDir,
}

impl Gateways {
    async fn start(engine: &Engine, count: usize, flags: &[Flag], script: Script) -> Self {
        Self::each(engine, &vec![flags.to_vec(); count], script).await
    }

    /// Gateways with flags of their own.
    async fn each(engine: &Engine, flags: &[Flags], script: Script) -> Self {
        let keys = TempDir::new().unwrap();
        let key_file = keys.path().join("seal.key");
        let key = SealKeys::generate().unwrap();
        std::fs::write(&key_file, format!("{}\n", *key)).unwrap();
        std::fs::set_permissions(&key_file, std::fs::Permissions::from_mode(0o600)).unwrap();
        keep_secret([key.to_string()]);
        let mut worlds: Vec<Arc<World>> = Vec::new();
        let count = flags.len();
        for flags in flags {
            let mut flags = flags.clone();
            if !flags.iter().any(|(name, ..)| *name == "shared.key_file") {
                flags.push(flag("shared.key_file", key_file.display()));
            }
            if !flags.iter().any(|(name, ..)| *name == "shared.timeout") {
                // A busy machine is no sick engine.
                flags.push(flag("shared.timeout", "2s"));
            }
            // The budget binds in a second alone, and opens after that.
            flags.extend([
                flag("shared.url", engine.url()),
                flag("shared.gateways", count),
                flag("budget.per_second", 100),
                flag("budget.per_minute", 6_000),
                flag("budget.per_hour", 360_000),
            ]);
            let world = if let Some(first) = worlds.first() {
                flags.push(flag("upstream.ca_file", first.directory.path().join("ca.pem").display()));
                let other = Fake::start(Settings::default()).await.unwrap();
                World::before(other, &first.fake.url(), flags).await
            } else {
                World::with(Settings { script: script.clone(), ..Settings::default() }, flags).await
            };
            worlds.push(Arc::new(world));
        }
        let gateways = Self { worlds, keys };
        // Each of them has had an answer.
        for (at, world) in gateways.worlds.iter().enumerate() {
            gateways.fake().put_export(&scope(), &format!("warm-{at}"), State::Finished);
            assert_eq!(world.get(&results(&format!("warm-{at}"))).await.status, 200);
        }
        gateways
    }

    fn fake(&self) -> &Fake {
        &self.worlds[0].fake
    }

    fn hits(&self) -> u64 {
        self.fake().hits().api()
    }

    async fn stop(self) {
        for world in self.worlds {
            Arc::into_inner(world).expect("nobody asks any more").stop().await;
        }
    }
}

type Flag = (&'static str, String, &'static str);

/// Asks in tasks of their own.
fn asking(
    world: &Arc<World>,
    target: &str,
    count: usize,
    prefer: Option<&'static str>,
) -> Vec<tokio::task::JoinHandle<Got>> {
    let ask = || {
        let (world, target) = (Arc::clone(world), target.to_owned());
        tokio::spawn(async move {
            let fields: Vec<_> = prefer.map(|prefer| ("prefer", prefer)).into_iter().collect();
            world.get_with(&target, &fields).await
        })
    };
    (0..count).map(|_| ask()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_of_four_gateways_with_one_question_cost_one_request() {
    let engine = Engine::start(&[]);
    let gateways = Gateways::start(&engine, 4, &[], Script::default()).await;
    let pending = State::Word("PENDING".to_owned());
    for (export, state, clients) in [("done", State::Finished, 500), ("going", pending, 100)] {
        gateways.fake().put_export(&scope(), export, state);
        let before = gateways.hits();
        let gate = gateways.fake().hold();
        let asked: Vec<_> =
            gateways.worlds.iter().flat_map(|world| asking(world, &results(export), clients, None)).collect();
        for world in &gateways.worlds {
            world.wait_for_followers(clients).await;
        }
        followed(&engine, export).await;
        drop(gate);
        let answers = answers(asked).await;
        assert_eq!(gateways.hits() - before, 1, "{export}");
        assert!(answers.iter().all(|got| got.status == 200 && got.body == answers[0].body), "{export}");
        let of = |what: &str| answers.iter().filter(|got| got.cache() == what).count();
        let etags: HashSet<_> = answers.iter().map(|got| got.field("etag").to_owned()).collect();
        if export == "done" {
            let hits = answers.iter().filter(|got| got.cache().ends_with("; detail=shared")).count();
            assert_eq!((hits, etags.len()), (3 * clients, 1), "{}", answers[clients].cache());
        } else {
            assert_eq!(of("exportgate; fwd=uri-miss; fwd-status=200; collapsed; detail=shared"), 3 * clients);
        }
    }
    // The next question about what goes on is one for Snyk.
    let before = gateways.hits();
    assert_eq!(gateways.worlds[1].get(&results("going")).await.status, 200);
    assert_eq!(gateways.hits() - before, 1);
    gateways.stop().await;
}

async fn answers(asked: Vec<tokio::task::JoinHandle<Got>>) -> Vec<Got> {
    let mut answers = Vec::new();
    for one in asked {
        answers.push(one.await.unwrap());
    }
    answers
}

fn export_hash(export: &str) -> String {
    format!("exportgate:x:{}", export_name(ORG, export))
}

/// Resolves when the flight of an export is followed, and all who wait have looked twice.
async fn followed(engine: &Engine, export: &str) {
    poll("a follower", || {
        let all = engine.ask(&["HVALS", &export_hash(export)]);
        all.lines().any(|value| value.ends_with(" 1")).then_some(())
    });
    tokio::time::sleep(Duration::from_millis(600)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stored_response_of_one_gateway_is_a_hit_at_the_others() {
    let engine = Engine::start(&[]);
    let flags = [flag("journal.on_failure", "refuse"), flag("cache.refresh_ahead", "false")];
    let gateways = Gateways::start(&engine, 2, &flags, Script::default()).await;
    let [first, second] = [0, 1].map(|at| &gateways.worlds[at]);
    for export in ["e1", "e2", "e3"] {
        gateways.fake().put_export(&scope(), export, State::Finished);
    }
    let made = first.get(&results("e1")).await;
    first.get(&results("e2")).await;
    let before = gateways.hits();
    let taken = second.get(&results("e1")).await;
    assert_eq!(
        (taken.status.as_u16(), &taken.body, taken.field("etag")),
        (200, &made.body, made.field("etag"))
    );
    for same in ["date", "snyk-request-id", "exportgate-links-expire"] {
        assert_eq!(taken.field(same), made.field(same), "{same}");
    }
    assert!(taken.is_hit() && taken.cache().ends_with("; detail=shared"), "{}", taken.cache());
    assert!((2_600..=2_700).contains(&ttl(&taken)) && taken.field("age").parse::<u64>().unwrap() < 60);
    let again = second.get_with(&results("e1"), &[("if-none-match", made.field("etag"))]).await;
    assert!(again.status == 304 && !again.cache().contains("detail"), "{}", again.cache());
    // Who waits, and who has wishes that it meets.
    let waits = second.get_with(&results("e2"), &[("prefer", "wait=10")]).await;
    assert!(waits.is_hit() && waits.cache().ends_with("; detail=shared"), "{}", waits.cache());
    assert_eq!(gateways.hits(), before);
    first.get(&results("e3")).await;
    let wishes = [("cache-control", "max-age=600, min-fresh=600")];
    assert!(second.get_with(&results("e3"), &wishes).await.is_hit());
    assert_eq!(gateways.hits(), before + 1);
    // Not one that wants it new: it is new for the others, too.
    for fields in [[("cache-control", "no-cache")], [("cache-control", "max-age=0")]] {
        let anew = second.get_with(&results("e1"), &fields).await;
        assert_eq!(anew.cache(), "exportgate; fwd=request; fwd-status=200; stored");
    }
    assert_eq!(gateways.hits(), before + 3);
    let metrics = second.get(&format!("{}/metrics", second.admin)).await.body;
    let metrics = String::from_utf8_lossy(&metrics).into_owned();
    for line in ["exportgate_shared_entries_taken_total 3", "exportgate_shared_entries_stored_total 3"] {
        assert!(metrics.contains(line), "{metrics}");
    }
    gateways.stop().await;
}

fn ttl(got: &Got) -> u64 {
    let ttl = got.cache().split("ttl=").nth(1).unwrap_or_else(|| panic!("no ttl: {}", got.cache()));
    ttl.split(';').next().unwrap().parse().unwrap()
}

/// A leader that is a program, and clients of it and of the others; the request is held at Snyk.
async fn lose_leader(signal_name: &str) {
    let engine = Engine::start(&[]);
    let gateways = Gateways::start(&engine, 3, &[flag("shared.lease", "1s")], Script::default()).await;
    let home = TempDir::new().unwrap();
    let (journal, key_file) = (home.path().join("journal.db"), gateways.keys.path().join("seal.key"));
    let (journal, key_file, url) =
        (journal.display().to_string(), key_file.display().to_string(), engine.url());
    let env = [
        ("EXPORTGATE_JOURNAL_MAX_WAIT", "10s"),
        ("EXPORTGATE_SHARED_URL", url.as_str()),
        ("EXPORTGATE_SHARED_KEY_FILE", &key_file),
        ("EXPORTGATE_SHARED_LEASE", "1s"),
        ("EXPORTGATE_SHARED_TIMEOUT", "2s"),
        ("EXPORTGATE_SHARED_GATEWAYS", "3"),
        ("EXPORTGATE_BUDGET_PER_SECOND", "100"),
        ("EXPORTGATE_BUDGET_PER_MINUTE", "6000"),
        ("EXPORTGATE_BUDGET_PER_HOUR", "360000"),
    ];
    let mut leader = Program::serve(home.path(), gateways.fake(), &["--journal", &journal], &env);
    let of_leader = |export: &str| format!("http://{}{}", leader.address, results(export));
    gateways.fake().put_export(&scope(), "e1", State::Finished);
    assert_eq!(gateways.worlds[0].get(&of_leader("warm-0")).await.status, 200);
    let before = gateways.hits();
    let gate = gateways.fake().hold();
    let mut led = asking(&gateways.worlds[0], &of_leader("e1"), 1, None);
    gateways.fake().wait_for_hits(before + 1).await;
    let asked: Vec<_> =
        gateways.worlds.iter().flat_map(|world| asking(world, &results("e1"), 20, None)).collect();
    followed(&engine, "e1").await;
    assert_eq!(gateways.hits() - before, 1);
    signal(leader.child.id(), signal_name);
    gateways.fake().wait_for_hits(before + 2).await;
    drop(gate);
    assert!(answers(asked).await.iter().all(|got| got.status == 200));
    assert_eq!(gateways.hits() - before, 2);
    let kept = engine.ask(&["HVALS", &export_hash("e1")]);
    if signal_name == "STOP" {
        signal(leader.child.id(), "CONT");
        let own = led.remove(0).await.unwrap();
        assert_eq!(
            (own.status.as_u16(), own.cache()),
            (200, "exportgate; fwd=uri-miss; fwd-status=200; stored")
        );
        assert_eq!(
            engine.ask(&["HVALS", &export_hash("e1")]),
            kept,
            "stored by a leader whose lease was gone"
        );
    } else {
        led.remove(0).abort();
    }
    leader.kill();
    assert_eq!(gateways.hits() - before, 2);
    gateways.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_is_killed_is_taken_over_by_one() {
    Box::pin(lose_leader("KILL")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_was_stopped_stores_nothing_and_answers_its_own_clients() {
    Box::pin(lose_leader("STOP")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn waits_on_three_gateways_cost_about_the_reads_of_one() {
    let engine = Engine::start(&[]);
    let gateways = Gateways::start(&engine, 3, &[], Script::default()).await;
    let put = |state: &State| {
        for export in ["one", "all"] {
            gateways.fake().put_export(&scope(), export, state.clone());
        }
    };
    put(&State::Word("PENDING".to_owned()));
    let mut asked = asking(&gateways.worlds[0], &results("one"), 20, Some("wait=55"));
    for world in &gateways.worlds {
        asked.extend(asking(world, &results("all"), 20, Some("wait=55")));
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    // The time that an export takes.
    tokio::time::sleep(Duration::from_secs(12)).await;
    put(&State::Finished);
    for got in answers(asked).await {
        assert!(String::from_utf8_lossy(&got.body).contains("FINISHED"), "{}", got.cache());
    }
    let seen = gateways.fake().requests();
    let reads = |export: &str| seen.iter().filter(|one| one.path().ends_with(export)).count();
    let (one, all) = (reads("/one"), reads("/all"));
    println!("{all} reads for waits on three gateways, {one} for those on one");
    // Until they have met, each reads for itself: an answer counts for those who had come before it.
    assert!(one >= 4 && all <= one + 4, "{all} reads for three, {one} for one");
    gateways.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_a_clock_shows_freshness_ends_early() {
    let engine = Engine::with_own_clock();
    let flags = [flag("cache.refresh_ahead", "false")];
    let gateways = Gateways::start(&engine, 2, &flags, Script::default()).await;
    let [first, second] = [0, 1].map(|at| &gateways.worlds[at]);
    let hour = 3_600;
    let mut taken = Vec::new();
    for (at, clocks) in
        [[0, 0], [hour, 0], [0, hour], [-hour, 0], [0, -hour], [hour, -hour]].iter().enumerate()
    {
        let export = format!("e{at}");
        gateways.fake().put_export(&scope(), &export, State::Finished);
        first.clock.step_wall(clocks[0]);
        second.clock.step_wall(clocks[1]);
        for world in [first, second] {
            let got = world.get(&results(&export)).await;
            assert_eq!(got.status, 200);
            if got.is_hit() {
                assert!(ttl(&got) <= 2_700, "{clocks:?}: {}", got.cache());
                taken.push(at);
            }
        }
        first.clock.step_wall(-clocks[0]);
        second.clock.step_wall(-clocks[1]);
    }
    // With a clock that is an hour ahead the links look dead.
    assert_eq!(taken, [0, 1, 3, 4, 5]);
    for (at, offset) in [hour, 0, -60, -61].into_iter().enumerate() {
        let export = format!("of-engine-{at}");
        gateways.fake().put_export(&scope(), &export, State::Finished);
        first.get(&results(&export)).await;
        let before = gateways.hits();
        if offset == -61 {
            // By less than its age.
            tokio::time::sleep(Duration::from_millis(2_500)).await;
        }
        engine.set_clock(offset);
        let got = second.get(&results(&export)).await;
        assert_eq!((got.status.as_u16(), gateways.hits() - before), (200, 1), "{offset}: {}", got.cache());
    }
    gateways.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_that_can_be_read_is_on_the_engine() {
    let engine = Engine::start(&[
        "--appendonly",
        "yes",
        "--slowlog-log-slower-than",
        "0",
        "--rdbcompression",
        "no",
        "--slowlog-max-len",
        "5000",
    ]);
    let monitor = artefacts().join(format!("monitor-{}.log", std::process::id()));
    let mut monitoring = engine.monitor(&monitor);
    let gateways = Gateways::start(&engine, 2, &[flag("shared.lease", "1s")], Script::default()).await;
    for (export, state) in [("e1", State::Finished), ("e2", State::Word("PENDING".to_owned()))] {
        gateways.fake().put_export(&scope(), export, state);
        let gate = gateways.fake().hold();
        let asked: Vec<_> =
            gateways.worlds.iter().flat_map(|world| asking(world, &results(export), 2, None)).collect();
        followed(&engine, export).await;
        drop(gate);
        answers(asked).await;
    }
    assert_eq!(engine.ask(&["SAVE"]), "OK");
    let slow = engine.ask(&["SLOWLOG", "GET", "5000"]);
    monitoring.kill().unwrap();
    monitoring.wait().unwrap();
    let read = |path: &Path| String::from_utf8_lossy(&std::fs::read(path).unwrap()).into_owned();
    let mut seen = vec![("SLOWLOG".to_owned(), slow), ("MONITOR".to_owned(), read(&monitor))];
    for file in engine.files() {
        keep_file(&file);
        seen.push((file.display().to_string(), read(&file)));
    }
    assert!(seen.len() >= 4, "a database and a log of commands: {:?}", engine.files());
    assert!(seen.iter().filter(|(_, text)| text.contains("exportgate:x:")).count() >= 4);
    let links = gateways.fake().signatures();
    assert!(!links.is_empty());
    for (place, text) in &seen {
        for secret in links.iter().map(String::as_str).chain([TOKEN, ORG, "https://", "FINISHED", "PENDING"])
        {
            assert!(!text.contains(secret), "{secret} in {place}");
        }
        // The ids are short here: they stand in names alone.
        assert!(!text.contains("export/e1") && !text.contains(":e1"), "{place}");
    }
    gateways.stop().await;

    // Without a key nothing of an answer goes there.
    let engine = Engine::start(&[]);
    let gateways = Gateways::start(&engine, 2, &[flag("shared.key_file", "")], Script::default()).await;
    let before = gateways.hits();
    gateways.fake().put_export(&scope(), "e1", State::Finished);
    for world in &gateways.worlds {
        world.get(&results("e1")).await;
    }
    assert_eq!((gateways.hits() - before, engine.ask(&["KEYS", "exportgate:x:*"]).as_str()), (2, ""));
    gateways.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_that_dies_in_a_flight_holds_nobody_up() {
    for is_killed in [false, true] {
        let mut engine = Engine::start(&[]);
        let flags = [flag("shared.timeout", "250ms")];
        let gateways = Gateways::start(&engine, 2, &flags, Script::default()).await;
        gateways.fake().put_export(&scope(), "e1", State::Finished);
        let before = gateways.hits();
        let gate = gateways.fake().hold();
        let asked: Vec<_> =
            gateways.worlds.iter().flat_map(|world| asking(world, &results("e1"), 10, None)).collect();
        followed(&engine, "e1").await;
        if is_killed {
            engine.kill();
        } else {
            signal(engine.pid(), "STOP");
        }
        let lost = Instant::now();
        // The follower asks for itself.
        gateways.fake().wait_for_hits(before + 2).await;
        drop(gate);
        assert!(answers(asked).await.iter().all(|got| got.status == 200));
        assert!(lost.elapsed() < Duration::from_secs(5), "{:?}", lost.elapsed());
        assert_eq!(gateways.hits() - before, 2);
        gateways.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_entry_near_its_end_is_fetched_again_by_one_gateway() {
    let engine = Engine::start(&[]);
    let gateways = Gateways::start(&engine, 2, &[], Script::default()).await;
    let [first, second] = [0, 1].map(|at| &gateways.worlds[at]);
    gateways.fake().put_export(&scope(), "e1", State::Finished);
    for world in [first, second] {
        assert_eq!(world.get(&results("e1")).await.status, 200);
    }
    // The last tenth.
    let later = 2_600;
    gateways.fake().step_clock(later);
    for world in [first, second] {
        world.clock.step_wall(later);
    }
    let before = gateways.hits();
    let gate = gateways.fake().hold();
    assert!(first.get(&results("e1")).await.is_hit());
    gateways.fake().wait_for_hits(before + 1).await;
    // While one asks, the other leaves it.
    assert!(second.get(&results("e1")).await.is_hit());
    drop(gate);
    poll_hits(first, 2_000).await;
    // The next to try it, ten seconds on, finds what the first one got.
    second.clock.step_wall(-later);
    tokio::time::sleep(Duration::from_secs(11)).await;
    second.clock.step_wall(later);
    poll_hits(second, 2_000).await;
    assert_eq!(gateways.hits() - before, 1);
    gateways.stop().await;
}

/// Asks until a stored response is fresh for so long.
async fn poll_hits(world: &World, fresh_for: u64) {
    let asking = async {
        loop {
            let got = world.get(&results("e1")).await;
            assert!(got.is_hit(), "{}", got.cache());
            if ttl(&got) >= fresh_for {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), asking).await.expect("it is fetched again");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_one_credential_may_see_is_none_of_another_of_the_same_name() {
    let engine = Engine::start(&[]);
    let home = TempDir::new().unwrap();
    let token = home.path().join("token");
    let other = "0ther-0f-the-same-name-0123456789abcdef";
    keep_secret([other.to_owned()]);
    std::fs::write(&token, other).unwrap();
    std::fs::set_permissions(&token, std::fs::Permissions::from_mode(0o600)).unwrap();
    let flags = [vec![], vec![flag("credential.token_file", token.display())]];
    let gateways = Gateways::each(&engine, &flags, Script::default()).await;
    gateways.fake().put_export(&scope(), "e1", State::Finished);
    gateways.fake().put_export(&scope(), "e2", State::Word("PENDING".to_owned()));
    let before = gateways.hits();
    gateways.worlds[0].get(&results("e1")).await;
    let got = gateways.worlds[1].get(&results("e1")).await;
    assert_eq!(got.cache(), "exportgate; fwd=uri-miss; fwd-status=200; stored");
    assert_eq!(gateways.hits() - before, 2);
    // Nor does one follow the other.
    let gate = gateways.fake().hold();
    let asked: Vec<_> =
        gateways.worlds.iter().flat_map(|world| asking(world, &results("e2"), 1, None)).collect();
    gateways.fake().wait_for_hits(before + 4).await;
    drop(gate);
    answers(asked).await;
    gateways.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_a_purge_has_overtaken_stores_nothing_anywhere() {
    let engine = Engine::start(&[]);
    let gateways = Gateways::start(&engine, 1, &[], Script::default()).await;
    gateways.fake().put_export(&scope(), "e1", State::Finished);
    let before = gateways.hits();
    let gate = gateways.fake().hold();
    let asked = asking(&gateways.worlds[0], &results("e1"), 1, None);
    gateways.fake().wait_for_hits(before + 1).await;
    // As the purge of another gateway does, whose message is lost.
    engine.ask(&["HINCRBY", "exportgate:fleet", "purges", "1"]);
    assert_eq!(engine.ask(&["DEL", &export_hash("e1")]), "1");
    drop(gate);
    assert!(answers(asked).await.iter().all(|got| got.status == 200));
    assert_eq!(engine.ask(&["EXISTS", &export_hash("e1")]), "0");
    assert!(!gateways.worlds[0].get(&results("e1")).await.is_hit());
    assert_eq!(gateways.hits() - before, 2);
    gateways.stop().await;
}
