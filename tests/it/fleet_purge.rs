//! A purge reaches all gateways that share an engine, and names those that it has not reached.

#![expect(clippy::print_stdout, reason = "figures are told")]

use std::time::{Duration, Instant};

use exportgate::fake::{Fake, Settings, State};
use http::Method;
use serde_json::Value;

use crate::support::engine::Engine;
use crate::support::program::exportgate;
use crate::support::relay::EngineRelay;
use crate::support::{Got, ORG, World, flag, results, scope};

const GATEWAYS: usize = 3;

/// Gateways in this process, before one fake, each with a network of its own to one engine.
struct Group {
    engine: Engine,
    relays: Vec<EngineRelay>,
    worlds: Vec<World>,
}

impl Group {
    async fn start(purge_wait: &str) -> Self {
        let engine = Engine::start(&[]);
        let (mut relays, mut worlds) = (Vec::new(), Vec::<World>::new());
        for _ in 0..GATEWAYS {
            let relay = EngineRelay::to(&engine.socket());
            let fake = Fake::start(Settings::default()).await.unwrap();
            let mut flags = vec![
                flag("shared.url", relay.url()),
                flag("shared.gateways", 4),
                flag("shared.purge_wait", purge_wait),
                // A busy machine is no engine that is away.
                flag("shared.timeout", "1s"),
                // A second shows what a minute would.
                flag("budget.per_second", 600),
                flag("budget.per_minute", 36_000),
                flag("budget.per_hour", 2_160_000),
            ];
            let upstream = worlds.first().map_or_else(|| fake.url(), |first| first.fake.url());
            if let Some(first) = worlds.first() {
                flags.push(flag("upstream.ca_file", first.directory.path().join("ca.pem").display()));
            }
            worlds.push(World::before(fake, &upstream, flags).await);
            relays.push(relay);
        }
        let group = Self { engine, relays, worlds };
        for export in ["e1", "e2"] {
            group.fake().put_export(&scope(), export, State::Finished);
        }
        group.up(GATEWAYS).await;
        group
    }

    fn fake(&self) -> &Fake {
        &self.worlds[0].fake
    }

    /// Resolves when the first so many gateways are the members, as all of them know.
    async fn up(&self, members: usize) {
        for world in &self.worlds[..members] {
            wait_for(|| async {
                let shared = status(world).await;
                shared["members"] == members && shared["state"] != "alone"
            })
            .await;
        }
    }

    /// All gateways have both exports.
    async fn fill(&self) {
        for world in &self.worlds {
            for export in ["e1", "e2"] {
                assert_eq!(world.get(&results(export)).await.status, 200);
            }
            assert_eq!(stored(world).await, ["e1", "e2"]);
        }
    }

    async fn purge(&self, what: &str) -> Got {
        let target = format!("{}/api/exports{what}", self.worlds[0].admin);
        self.worlds[0].send(Method::DELETE, &target, &[], "").await
    }

    async fn purge_one(&self) -> Got {
        self.purge(&format!("/{ORG}/e1")).await
    }

    async fn stop(self) {
        for world in self.worlds {
            world.stop().await;
        }
    }
}

async fn wait_for<F: Future<Output = bool>>(mut is_so: impl FnMut() -> F) {
    let waiting = async {
        while !is_so().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_mins(1), waiting).await.expect("it comes");
}

async fn status(world: &World) -> Value {
    world.get(&format!("{}/api/status", world.admin)).await.json()["shared"].clone()
}

/// The exports that are stored, by name.
async fn stored(world: &World) -> Vec<String> {
    let listed = world.get(&format!("{}/api/exports", world.admin)).await.json();
    let ids = listed["exports"].as_array().unwrap_or_else(|| panic!("{listed}")).iter();
    let mut ids: Vec<_> = ids.map(|export| export["export_id"].as_str().unwrap().to_owned()).collect();
    ids.sort();
    ids
}

/// The names of the gateways that have applied a purge, or have not.
fn names(purged: &Got, has_applied: bool) -> Vec<String> {
    let gateways = purged.json()["gateways"].as_array().unwrap().clone();
    let those = gateways.iter().filter(|gateway| gateway["applied"] == has_applied);
    those.map(|gateway| gateway["name"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_purge_is_applied_by_all_gateways_before_it_is_answered() {
    let group = Group::start("8s").await;
    group.fill().await;
    let purged = group.purge_one().await;
    assert_eq!((purged.status, &purged.json()["purged"]), (200.try_into().unwrap(), &1.into()));
    assert_eq!(names(&purged, true).len(), GATEWAYS, "{:?}", purged.body);
    for world in &group.worlds {
        assert_eq!(stored(world).await, ["e2"]);
        assert_eq!(status(world).await["purges"], 1);
    }
    group.fill().await;
    let purged = group.purge("").await;
    assert_eq!((purged.status, names(&purged, true).len()), (200.try_into().unwrap(), GATEWAYS));
    for world in &group.worlds {
        assert!(stored(world).await.is_empty());
    }
    group.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_on_its_way_to_another_gateway_is_not_stored_after_a_purge() {
    let group = Group::start("8s").await;
    let other = &group.worlds[1];
    for what in [format!("/{ORG}/e1"), String::new()] {
        let hits = group.fake().requests().len() as u64;
        let gate = group.fake().hold();
        let target = results("e1");
        let asked = other.get(&target);
        let purged = async {
            group.fake().wait_for_hits(hits + 1).await;
            let purged = group.purge(&what).await;
            assert_eq!(names(&purged, true).len(), GATEWAYS, "{:?}", purged.body);
            drop(gate);
        };
        let (answer, ()) = tokio::join!(asked, purged);
        assert_eq!(answer.status, 200, "its client has it");
        assert!(stored(other).await.is_empty(), "{what}");
    }
    group.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn at_no_point_of_a_flight_does_a_purge_leave_something_stored() {
    let group = Group::start("8s").await;
    let other = &group.worlds[1];
    let mut judged = 0;
    for round in 0..80 {
        let hits = group.fake().requests().len();
        let target = results("e1");
        let purged = async {
            // From the arrival at Snyk until after the answer was stored.
            tokio::time::sleep(Duration::from_micros(round * 150)).await;
            let is_on_its_way = group.fake().requests().len() > hits;
            assert_eq!(names(&group.purge_one().await, true).len(), GATEWAYS);
            is_on_its_way
        };
        let (answer, is_on_its_way) = tokio::join!(other.get(&target), purged);
        assert_eq!(answer.status, 200);
        if is_on_its_way {
            judged += 1;
            assert!(stored(other).await.is_empty(), "round {round}");
        }
        let everything = group.purge("").await;
        assert_eq!(everything.status, 200);
    }
    assert!(judged >= 20, "{judged}");
    group.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_that_is_cut_off_is_named_and_purges_when_it_is_back() {
    let group = Group::start("300ms").await;
    group.fill().await;
    let cut_off = &group.worlds[2];
    let name = status(cut_off).await["name"].as_str().unwrap().to_owned();
    group.relays[2].cut();
    let admin = group.worlds[0].admin.clone();
    let purge = move || {
        let home = tempfile::TempDir::new().unwrap();
        exportgate(home.path()).args(["purge", ORG, "e1", "--admin", &admin]).output().unwrap()
    };
    let output = tokio::task::spawn_blocking(purge).await.unwrap();
    let [said, failed] = [output.stdout, output.stderr].map(|text| String::from_utf8(text).unwrap());
    assert_eq!(output.status.code(), Some(1), "{said}{failed}");
    assert!(said.starts_with("Purged 1 entry.\nApplied by 2 of 3 gateways: "), "{said}");
    assert!(failed.contains(&name) && !said.contains(&name), "{said}{failed}");
    assert!(cut_off.get(&results("e1")).await.is_hit(), "it cannot know");
    group.relays[2].heal();
    wait_for(|| async { stored(cut_off).await == ["e2"] }).await;
    group.up(GATEWAYS).await;
    let purged = group.purge_one().await;
    assert_eq!((purged.status, names(&purged, false)), (200.try_into().unwrap(), vec![]));
    group.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_is_lost_is_found_by_its_number() {
    let group = Group::start("8s").await;
    group.fill().await;
    group.relays[2].lose_messages(true);
    let purged = group.purge_one().await;
    assert_eq!(names(&purged, true).len(), GATEWAYS, "{:?}", purged.body);
    assert_eq!(group.relays[2].lost(), 1, "it went by the message");
    assert_eq!(stored(&group.worlds[2]).await, ["e2"]);
    group.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_that_cannot_know_what_was_purged_purges_everything() {
    for lost in ["the list", "the engine"] {
        let mut group = Group::start("100ms").await;
        group.fill().await;
        group.relays[2].cut();
        let purged = group.purge_one().await;
        assert_eq!((purged.status.as_u16(), names(&purged, false).len()), (504, 1), "{:?}", purged.body);
        if lost == "the list" {
            assert_eq!(group.engine.ask(&["DEL", "exportgate:purges"]), "1");
        } else {
            group.engine.kill();
            group.engine.restart();
            // Those that know of the purge tell the new engine.
            group.up(2).await;
        }
        group.relays[2].heal();
        wait_for(|| async { stored(&group.worlds[2]).await.is_empty() }).await;
        for world in &group.worlds[..2] {
            assert_eq!(stored(world).await, ["e2"], "{lost}");
        }
        group.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_purge_without_the_engine_is_this_gateways_alone_says_so_and_is_told_later() {
    let mut group = Group::start("100ms").await;
    group.fill().await;
    group.engine.kill();
    let purged = group.purge_one().await;
    assert_eq!(
        (purged.status.as_u16(), &purged.json()["error"]["code"]),
        (504, &"shared_engine_away".into())
    );
    assert_eq!(stored(&group.worlds[0]).await, ["e2"]);
    assert_eq!(stored(&group.worlds[1]).await, ["e1", "e2"]);
    // It is told when the engine is back.
    group.engine.restart();
    let told = async {
        while stored(&group.worlds[1]).await != ["e2"] {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), told).await.expect("the others purge");
    assert_eq!(stored(&group.worlds[0]).await, ["e2"]);
    group.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_purge_waits_for_a_gateway_that_has_stopped() {
    let mut group = Group::start("8s").await;
    group.fill().await;
    group.worlds.pop().unwrap().stop().await;
    let purged = group.purge_one().await;
    assert_eq!((purged.status.as_u16(), names(&purged, true).len()), (200, 2), "{:?}", purged.body);
    group.stop().await;
}

/// The time from the call to the last gateway's word. `EXPORTGATE_FLEET=snyk` for more of them.
#[tokio::test(flavor = "multi_thread")]
async fn a_purge_reaches_the_last_gateway_in_no_time() {
    let rounds = if std::env::var("EXPORTGATE_FLEET").is_ok() { 1_000 } else { 50 };
    let group = Group::start("8s").await;
    let mut times = Vec::new();
    for _ in 0..rounds {
        let begun = Instant::now();
        let purged = group.purge_one().await;
        times.push(begun.elapsed());
        assert_eq!(names(&purged, true).len(), GATEWAYS, "{:?}", purged.body);
    }
    times.sort_unstable();
    println!(
        "purges: p50 {:?}, p99 {:?}, longest {:?}",
        times[rounds / 2],
        times[rounds * 99 / 100],
        times[rounds - 1]
    );
    // A message that is lost takes up to a second; a busy machine takes its time.
    assert!(times[rounds / 2] < Duration::from_millis(500), "{times:?}");
    group.stop().await;
}
