//! Equal starts of gateways with a journal each, on a real engine: one for all of them (0020).

use std::collections::BTreeSet;

use exportgate::fake::{Fake, Fault, Settings, Target};
use futures_util::future::join_all;

use crate::fleet_named::{Team, member};
use crate::starts::{id, start};
use crate::support::engine::Engine;
use crate::support::{Got, ORG, START, V, World, flag};

const SHARED: &str = "exportgate; hit; detail=shared-start";

/// Gateways that share starts of the last quarter of an hour, and are members of a fleet.
async fn team(count: usize) -> Team {
    let plain = || Fake::start(Settings { tls: false, ..Settings::default() });
    let mut team = Team::of(Engine::start(&[]), plain().await.unwrap());
    for _ in 0..count {
        let mut flags = team.flags();
        flags.extend([flag("starts.share", "15m"), flag("shared.lease", "1s")]);
        let world = World::before(plain().await.unwrap(), &team.fake.url(), flags).await;
        member(&world).await;
        team.worlds.push(world);
    }
    team
}

async fn read(world: &World, export: &str) -> Got {
    world.get(&format!("/orgs/{ORG}/jobs/export/{export}?{V}")).await
}

#[tokio::test(flavor = "multi_thread")]
async fn equal_starts_at_three_gateways_are_one_and_whoever_wants_a_new_one_gets_it() {
    let team = team(3).await;
    let gate = team.fake.hold();
    let at_once = join_all((0..30).map(|n| start(&team.worlds[n % 3], "", START)));
    let opening = async {
        for world in &team.worlds {
            world.wait_for_followers(10).await;
        }
        team.fake.wait_for_hits(1).await;
        drop(gate);
    };
    let (all, ()) = tokio::join!(at_once, opening);
    let ids: BTreeSet<String> = all.iter().map(id).collect();
    assert_eq!((ids.len(), team.starts()), (1, 1));
    assert_eq!(all.iter().filter(|got| got.cache() == SHARED).count(), 20);
    let same: BTreeSet<&str> = all.iter().map(|got| got.field("snyk-request-id")).collect();
    assert_eq!(same.len(), 1);
    for world in &team.worlds {
        assert_eq!(start(world, "", START).await.cache(), SHARED);
    }
    // A new one is the newest for all, also where an older one is on record.
    let new = id(&start(&team.worlds[1], "no-cache", START).await);
    assert!(!ids.contains(&new));
    for world in &team.worlds {
        assert_eq!(id(&start(world, "", START).await), new);
    }
    let other = START.replace("issues", "issues2");
    let made = id(&start(&team.worlds[0], "no-cache", &other).await);
    assert_eq!(id(&start(&team.worlds[2], "", &other).await), made);
    assert_eq!(team.starts(), 3);
    // Nothing of it can be read on the engine, nor moved to another place.
    let names = team.engine.ask(&["KEYS", "exportgate:s:*"]);
    let names: Vec<&str> = names.lines().collect();
    assert_eq!(names.len(), 2);
    for name in &names {
        let kept = team.engine.ask(&["HGETALL", name]);
        assert!(!kept.contains(&made) && !kept.contains(&new) && !kept.contains("snyk"), "{kept}");
    }
    let swap = "local a = redis.call('HGET', KEYS[1], 'start'); redis.call('HSET', KEYS[1], 'start', redis.call('HGET', KEYS[2], 'start'));
        return redis.call('HSET', KEYS[2], 'start', a)";
    team.engine.ask(&["EVAL", swap, "2", names[0], names[1]]);
    assert_ne!(id(&start(&team.worlds[1], "", &other).await), new);
    assert_eq!(team.starts(), 4);
    team.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_whose_export_failed_or_was_purged_answers_at_no_gateway() {
    let team = team(3).await;
    let made = id(&start(&team.worlds[0], "", START).await);
    assert_eq!(id(&start(&team.worlds[1], "", START).await), made);
    let jobs = Target::Path(format!("/rest/orgs/{ORG}/jobs/"));
    team.fake.fault_at(jobs, Fault::Errored, Some(1));
    assert_eq!(read(&team.worlds[1], &made).await.status, 200);
    // Also where it is on record.
    let second = id(&start(&team.worlds[0], "", START).await);
    assert_eq!((second != made, team.starts()), (true, 2));
    assert_eq!(id(&start(&team.worlds[2], "", START).await), second);
    // All that is kept of an export is in one hash, and its start goes with it.
    let hashes = team.engine.ask(&["KEYS", "exportgate:x:*"]);
    for name in hashes.lines() {
        team.engine.ask(&["DEL", name]);
    }
    assert_ne!(id(&start(&team.worlds[1], "", START).await), second);
    assert_eq!(team.starts(), 3);
    team.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failure_is_its_own_gateways() {
    let team = team(2).await;
    team.fake.fault_at(Target::Starts, Fault::Status(400), Some(1));
    let gate = team.fake.hold();
    let opening = async {
        for world in &team.worlds {
            world.wait_for_followers(1).await;
        }
        team.fake.wait_for_hits(1).await;
        drop(gate);
    };
    let (one, other, ()) =
        tokio::join!(start(&team.worlds[0], "", START), start(&team.worlds[1], "", START), opening);
    let mut statuses = [one.status.as_u16(), other.status.as_u16()];
    statuses.sort_unstable();
    assert_eq!((statuses, team.starts()), ([202, 400], 2));
    team.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_engine_each_gateway_shares_its_own_starts() {
    let mut team = team(2).await;
    let before = id(&start(&team.worlds[0], "", START).await);
    team.engine.kill();
    for world in &team.worlds {
        let made = id(&start(world, "", START).await);
        assert_eq!(id(&start(world, "", START).await), made);
    }
    // The one that had none on record sent one more, as it would have without an engine.
    assert_eq!((team.starts(), id(&start(&team.worlds[0], "", START).await)), (2, before));
    team.engine.restart();
    member(&team.worlds[0]).await;
    team.stop().await;
}
