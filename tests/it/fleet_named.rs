//! Named exports of gateways with a journal each, on a real engine: one start a turn for all of them (0020).

use exportgate::fake::Fake;
use exportgate::shared::SealKeys;
use tempfile::TempDir;

use crate::named_exports::{TURN, export_of, fake, made, made_after, named, state};
use crate::support::engine::Engine;
use crate::support::{Flags, World, flag, keep_secret};

/// Gateways before one fake, which share an engine.
pub(crate) struct Team {
    pub(crate) engine: Engine,
    pub(crate) fake: Fake,
    pub(crate) worlds: Vec<World>,
    keys: TempDir,
    seconds: i64,
}

impl Team {
    async fn start(count: usize) -> Self {
        let mut team = Self::of(Engine::with_own_clock(), fake().await);
        for _ in 0..count {
            team.join().await;
        }
        team
    }

    pub(crate) fn of(engine: Engine, fake: Fake) -> Self {
        let keys = TempDir::new().unwrap();
        let key = SealKeys::generate().unwrap();
        std::fs::write(keys.path().join("seal"), key.as_bytes()).unwrap();
        keep_secret([key.to_string()]);
        Self { engine, fake, worlds: Vec::new(), keys, seconds: 0 }
    }

    /// What all of them have: the budget binds in a second alone, and opens after that.
    pub(crate) fn flags(&self) -> Flags {
        vec![
            flag("shared.url", self.engine.url()),
            flag("shared.key_file", self.keys.path().join("seal").display()),
            flag("shared.gateways", 6),
            flag("shared.own", 1),
            // A busy machine is no sick engine.
            flag("shared.timeout", "2s"),
            flag("budget.per_second", 120),
            flag("budget.per_minute", 7_200),
            flag("budget.per_hour", 432_000),
            flag("files.origins", self.fake.url()),
        ]
    }

    async fn join(&mut self) {
        let world = World::before(fake().await, &self.fake.url(), named(self.flags())).await;
        // Before that it would take its turns as late.
        member(&world).await;
        world.clock.step_wall(self.seconds);
        self.worlds.push(world);
    }

    pub(crate) fn starts(&self) -> u64 {
        self.fake.hits().start
    }

    /// All clocks go on; `first` is the first gateway to see it.
    fn step(&mut self, seconds: i64, first: usize) {
        self.seconds += seconds;
        self.fake.step_clock(seconds);
        self.engine.set_clock(self.seconds);
        for at in 0..self.worlds.len() {
            self.worlds[(first + at) % self.worlds.len()].clock.step_wall(seconds);
        }
    }

    /// All serve one export, another one than `before`.
    async fn all_made_after(&self, before: &str) -> String {
        let new = made_after(&self.worlds[0], before).await;
        for world in &self.worlds {
            state(world, |state| export_of(state) == new).await;
        }
        new
    }

    /// The export of the first to serve another one than `before`.
    async fn one_made_after(&self, before: &str) -> String {
        let each = self.worlds.iter().map(|world| Box::pin(made_after(world, before)));
        futures_util::future::select_all(each).await.0
    }

    pub(crate) async fn stop(self) {
        for world in self.worlds {
            world.stop().await;
        }
    }
}

/// Waits until the engine answers a gateway.
pub(crate) async fn member(world: &World) {
    while world.get(&format!("{}/api/status", world.admin)).await.json()["shared"]["place"] == 0 {
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn three_gateways_with_a_journal_each_make_twelve_starts_in_a_day() {
    let mut team = Team::start(3).await;
    // One has a clock that is ahead.
    team.worlds[1].clock.step_wall(20 * 60);
    let mut export = team.all_made_after("").await;
    for turn in 1..12 {
        team.step(TURN, turn);
        export = team.all_made_after(&export).await;
        assert_eq!(team.starts(), turn as u64 + 1);
        for world in &team.worlds {
            let got = world.get("/named/crit/table.csv").await;
            assert_eq!((got.status.as_u16(), got.body.len()), (200, 592));
        }
    }
    // 24 hours are nearly over. A gateway that comes now begins nothing.
    team.step(24 * 3600 - 11 * TURN - 60, 0);
    team.join().await;
    let new = made(&team.worlds[3]).await;
    assert_eq!((new, team.starts()), (export.clone(), 12));
    // Nothing on the engine can be read.
    let rows = team.engine.ask(&["KEYS", "exportgate:n:*"]);
    assert_eq!(rows.lines().count(), 1, "{rows}");
    let row = team.engine.ask(&["HGETALL", &rows]);
    assert!(!row.contains(&export) && !row.contains("crit") && !row.contains("next_turn"), "{row}");
    team.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_that_stops_in_a_turn_leaves_its_export_to_another() {
    let mut team = Team::start(2).await;
    let export = team.all_made_after("").await;
    team.fake.script(|script| script.polls = u32::MAX);
    team.step(TURN, 0);
    team.fake.wait_for_hits(team.fake.hits().api() + 2).await;
    assert_eq!(team.starts(), 2);
    // Either of them may have it.
    let first = team.worlds.remove(0);
    first.stop().await;
    team.fake.script(|script| script.polls = 0);
    let new = made_after(&team.worlds[0], &export).await;
    assert_eq!(team.starts(), 2);
    // And of a new one nothing more is asked.
    team.join().await;
    state(&team.worlds[1], |state| export_of(state) == new).await;
    assert_eq!(team.starts(), 2);
    team.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_engine_each_goes_on_from_what_it_knows_and_after_it_all_go_on_together() {
    let mut team = Team::start(3).await;
    let export = team.all_made_after("").await;
    team.engine.kill();
    // The one that had the turns makes the next in time.
    team.step(TURN, 0);
    let new = team.one_made_after(&export).await;
    assert_eq!(team.starts(), 2);
    // Back and empty, it gets the newest of what they know.
    team.engine.restart();
    for world in &team.worlds {
        state(world, |state| export_of(state) == new).await;
    }
    assert_eq!(team.starts(), 2);
    team.step(TURN, 1);
    let export = team.all_made_after(&new).await;
    assert_eq!(team.starts(), 3);
    // Away for long: each makes its own.
    team.engine.kill();
    team.step(TURN + 11 * 60, 2);
    for world in &team.worlds {
        made_after(world, &export).await;
    }
    assert_eq!(team.starts(), 6);
    team.stop().await;
}
