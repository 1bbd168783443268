//! How Snyk is spared: the rules in simulated time against the fake's exact limiter, and the whole gateway through
//! the door.

#![expect(clippy::print_stdout, reason = "figures are told, not asserted")]

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::time::{Duration, Instant};

use exportgate::admission::{
    BackoffSettings, Bucket, Candidate, Grant, LaneSettings, Limit, QueueId, Rules, SendOutcome, Step,
};
use exportgate::fake::Limiter;

const fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn settings() -> LaneSettings {
    let limit = |most, window| Limit { most, window: seconds(window) };
    LaneSettings {
        limits: vec![limit(160, 1), limit(1_620, 60), limit(97_200, 3_600)],
        account: vec![limit(160, 1), limit(1_620, 60), limit(97_200, 3_600)],
        common: None,
        starts: None,
        margin: Duration::from_millis(250),
        backoff: BackoffSettings { usual: seconds(60), most: seconds(600), ramp: 10 },
        max_wait: seconds(10),
        max_waiting: 10_000,
        max_running: 64,
        several_clients: false,
    }
}

fn candidate(client: &str, deadline: Instant) -> Candidate {
    Candidate { client: client.into(), weight: 1, start: None, deadline, is_put_back: false }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    /// A client asks.
    Asks(usize),
    /// A send of a client comes back.
    Ends(usize, Grant, bool),
    /// The rules wanted to be asked again.
    Wake,
}

/// Clients that ask again the moment they are answered, in simulated time.
struct World {
    now: Instant,
    begin: Instant,
    events: BinaryHeap<Reverse<(Instant, u64, Event)>>,
    count: u64,
    rules: Rules,
    snyk: Limiter,
    answered: u32,
    too_many: u32,
    down: bool,
    wake: Option<Instant>,
    queued: HashMap<QueueId, (usize, Instant)>,
    /// How long each answered request of each client waited for its turn.
    waited: Vec<Vec<Duration>>,
    refused: Vec<u32>,
    sends: Vec<Instant>,
    probes: Vec<Instant>,
}

impl World {
    fn new(settings: LaneSettings, clients: usize) -> Self {
        let begin = Instant::now();
        let mut world = Self {
            now: begin,
            begin,
            events: BinaryHeap::new(),
            count: 0,
            rules: Rules::new(settings),
            snyk: Limiter::default(),
            answered: 0,
            too_many: 0,
            down: false,
            wake: None,
            queued: HashMap::new(),
            waited: vec![Vec::new(); clients],
            refused: vec![0; clients],
            sends: Vec::new(),
            probes: Vec::new(),
        };
        for client in 0..clients {
            world.at(begin, Event::Asks(client));
        }
        world
    }

    fn at(&mut self, at: Instant, event: Event) {
        self.count += 1;
        self.events.push(Reverse((at, self.count, event)));
    }

    fn run(&mut self, length: Duration, name: impl Fn(usize) -> String, latency: Duration) {
        let end = self.begin + length;
        while let Some(Reverse((at, _, event))) = self.events.pop() {
            if at >= end {
                self.at(at, event);
                break;
            }
            self.now = at;
            match event {
                Event::Asks(client) => {
                    let candidate = candidate(&name(client), at + seconds(90));
                    match self.rules.enqueue(candidate, at) {
                        Ok(id) => {
                            self.queued.insert(id, (client, at));
                        }
                        Err(no) => {
                            self.refused[client] += 1;
                            self.at(at + no.retry_after, Event::Asks(client));
                        }
                    }
                }
                Event::Ends(client, send, admitted) => {
                    let outcome = match (self.down, admitted) {
                        (true, _) => SendOutcome::Failed,
                        (false, false) => SendOutcome::TooMany {
                            retry_after: Some(seconds(60)),
                            bucket: Bucket::Unknown,
                            jitter: Duration::ZERO,
                        },
                        (false, true) => SendOutcome::Answered,
                    };
                    self.rules.ended(send, &outcome, at);
                    self.at(at, Event::Asks(client));
                }
                Event::Wake => {}
            }
            loop {
                match self.rules.next_step(self.now) {
                    Step::Admit { id, grant } => {
                        assert!(self.rules.confirm(grant.slot, self.now));
                        let (client, since) = self.queued.remove(&id).expect("a place in the queue");
                        self.waited[client].push(self.now - since);
                        self.sends.push(self.now);
                        if grant.is_probe {
                            self.probes.push(self.now);
                        }
                        let ms = u64::try_from((self.now - self.begin).as_millis()).unwrap();
                        let admitted = self.snyk.admit(1_620, ms);
                        self.answered += u32::from(admitted);
                        self.too_many += u32::from(!admitted);
                        self.at(self.now + latency, Event::Ends(client, grant, admitted));
                    }
                    Step::Refuse(id, no) => {
                        let (client, _) = self.queued.remove(&id).expect("a place in the queue");
                        self.refused[client] += 1;
                        self.at(self.now + no.retry_after, Event::Asks(client));
                    }
                    Step::Wait(at) => {
                        // One wake-up that is early enough will do.
                        if self.wake.is_none_or(|wake| wake <= self.now || at < wake) {
                            self.wake = Some(at);
                            self.at(at, Event::Wake);
                        }
                        break;
                    }
                    Step::Evict(slot) => panic!("{slot:?} was not abandoned"),
                    Step::Idle => break,
                }
            }
        }
    }
}

#[test]
fn fifty_clients_that_poll_as_fast_as_they_can_never_see_a_429_and_lock_themselves_out_without_us() {
    let mut world = World::new(settings(), 50);
    world.run(seconds(180), |client| format!("c{client}"), Duration::from_millis(50));
    assert_eq!(world.too_many, 0);
    // And nothing of the limit is wasted: three minutes' worth, the first one's from its first second.
    assert!(world.answered >= 3 * 1_620 * 95 / 100, "{}", world.answered);
    // The same clients alone: over the limit within seconds, and out for good, for they keep knocking.
    let mut snyk = Limiter::default();
    let (mut answered_later, mut refused) = (0, 0);
    for tick in 0..3_600 {
        for _ in 0..50 {
            let admitted = snyk.admit(1_620, 50 * tick);
            refused += u32::from(!admitted);
            answered_later += u32::from(admitted && tick >= 1_200);
        }
    }
    println!(
        "with exportgate: {} answered, {} times 429; without: {refused} times 429",
        world.answered, world.too_many
    );
    assert!(refused > 100_000 && answered_later == 0, "{refused} {answered_later}");
}

#[test]
fn a_small_client_waits_no_more_than_its_fair_interval_beside_a_greedy_one() {
    // A hundred callers of one client, and one of another.
    let mut world = World::new(settings(), 101);
    world.run(
        seconds(180),
        |client| if client < 100 { "greedy".into() } else { "small".into() },
        Duration::from_millis(50),
    );
    let mut waited: Vec<Duration> = world.waited[100].clone();
    waited.sort_unstable();
    let p95 = waited[waited.len() * 95 / 100];
    // Two clients share 1,620 a minute: one turn every 74 ms each; the minute's edge adds its own wait.
    let interval = seconds(60) / 810;
    let beyond = waited.iter().filter(|waited| **waited > 2 * interval).count();
    assert!(beyond * 20 <= waited.len(), "p95 {p95:?}, {beyond} of {}", waited.len());
    assert_eq!(world.too_many, 0);
}

#[test]
fn one_429_holds_all_sends_then_one_probe_then_a_ramp() {
    let mut world = World::new(settings(), 30);
    // The second second's requests are under way.
    world.run(Duration::from_millis(1_270), |client| format!("c{client}"), Duration::from_millis(50));
    let held_at = world.now;
    let under_way = world.events.iter().find_map(|Reverse((_, _, event))| match event {
        Event::Ends(_, send, _) => Some(*send),
        Event::Asks(_) | Event::Wake => None,
    });
    let too_many =
        SendOutcome::TooMany { retry_after: Some(seconds(30)), bucket: Bucket::Unknown, jitter: seconds(1) };
    world.rules.ended(under_way.expect("a request under way"), &too_many, held_at);
    world.sends.clear();
    world.run(seconds(60), |client| format!("c{client}"), Duration::from_millis(50));
    let first = world.sends[0];
    assert!(first >= held_at + seconds(31), "{:?}", first - held_at);
    assert_eq!(world.probes, [first]);
    // Nothing else until the probe is back; then 10 in the first second, 20 in the second.
    let back = first + Duration::from_millis(50);
    let in_second = |n: u64| {
        world.sends.iter().filter(|at| **at >= back + seconds(n) && **at < back + seconds(n + 1)).count()
    };
    assert!(world.sends[1] >= back);
    assert_eq!([in_second(0), in_second(1), in_second(2)], [10, 20, 40]);
}
