//! Clients that ask the gateways of a fleet, and what came of it.

use std::cell::Cell;
use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::future::join_all;
use http::{Request, StatusCode, Uri};
use http_body_util::{BodyExt as _, Either, Full};
use serde_json::Value;
use uuid::Uuid;

use super::process::GatewayPlaces;
use super::{ORG, VERSION};
use crate::clock::Clock;
use crate::error_text::BoxError;
use crate::fake::{Fake, State};
use crate::journal::{Query, find};
use crate::transport::{self, HttpClient};

const CONNECT: Duration = Duration::from_secs(5);
/// Pause of a client whose gateway is gone.
const PAUSE: Duration = Duration::from_millis(10);
/// The greedy clients of each gateway.
const GREEDY: usize = 8;
const SECOND: Duration = Duration::from_secs(1);
/// The margin of the windows, less what is rounded in records.
const MARGIN: Duration = Duration::from_millis(248);
const MOST_ROWS: u32 = 1_000_000;

/// A gateway, as clients see it.
pub(super) struct GatewayDoor {
    pub(super) root: String,
    pub(super) admin: String,
    journal: PathBuf,
    clients: HttpClient,
    admins: HttpClient,
}

impl GatewayDoor {
    pub(super) fn new(GatewayPlaces { root, admin, journal }: GatewayPlaces) -> Result<Self, BoxError> {
        let clients = transport::client(&root.parse()?, None, CONNECT)?;
        let admins = transport::client(&admin.parse()?, None, CONNECT)?;
        Ok(Self { root, admin, journal, clients, admins })
    }

    async fn results(&self, export: &Uuid) -> Result<(StatusCode, Bytes), BoxError> {
        get(&self.clients, &format!("{}/orgs/{ORG}/export/{export}?{VERSION}", self.root)).await
    }

    /// The state of the engine, as this gateway tells it.
    pub(super) async fn shared(&self) -> Result<Value, BoxError> {
        let (_, body) = get(&self.admins, &format!("{}/api/status", self.admin)).await?;
        Ok(serde_json::from_slice::<Value>(&body)?["shared"].take())
    }

    /// The number of requests to Snyk on record.
    fn sent(&self) -> Result<usize, BoxError> {
        Ok(find(&self.journal, &Query { limit: MOST_ROWS, ..Query::default() })?.len())
    }
}

async fn get(client: &HttpClient, target: &str) -> Result<(StatusCode, Bytes), BoxError> {
    let request = Request::get(target.parse::<Uri>()?).body(Either::Left(Full::new(Bytes::new())))?;
    let (head, body) = client.request(request).await?.into_parts();
    Ok((head.status, body.collect().await?.to_bytes()))
}

/// The answers to one question.
pub(super) struct OneAnswer {
    pub(super) good: usize,
    /// Different bodies.
    pub(super) bodies: usize,
    /// Requests that Snyk got.
    pub(super) upstream: u64,
}

/// All clients ask the same at the same time, and Snyk takes `pause` to answer.
pub(super) async fn one_question(
    doors: &[GatewayDoor],
    clients: usize,
    fake: &Fake,
    pause: Duration,
) -> OneAnswer {
    let export = finished(fake);
    let before = fake.hits().results;
    let gate = fake.hold();
    let asking = join_all((0..clients).map(|client| doors[client % doors.len()].results(&export)));
    let opening = async {
        tokio::time::sleep(pause).await;
        drop(gate);
    };
    let (answers, ()) = tokio::join!(asking, opening);
    let good: Vec<Bytes> = answers
        .into_iter()
        .filter_map(|answer| answer.ok().filter(|(status, _)| *status == StatusCode::OK))
        .map(|(_, body)| body)
        .collect();
    let bodies = good.iter().collect::<HashSet<_>>().len();
    OneAnswer { good: good.len(), bodies, upstream: fake.hits().results - before }
}

/// A new export that Snyk has finished.
fn finished(fake: &Fake) -> Uuid {
    let export = Uuid::new_v4();
    fake.put_export(&format!("orgs/{ORG}"), &export.to_string(), State::Finished);
    export
}

/// Greedy clients of all gateways: each asks for one export after another that nobody has asked for. Where a gateway is gone
/// its clients ask the next one.
pub(super) struct Greedy<'a> {
    doors: &'a [GatewayDoor],
    fake: &'a Fake,
    answered: Vec<Cell<usize>>,
    broken: Cell<usize>,
    refused: Cell<usize>,
}

/// The outcome.
pub(super) struct Tally {
    /// Answers, by gateway.
    pub(super) answered: Vec<usize>,
    /// Requests whose gateway ended meanwhile.
    pub(super) broken: usize,
    /// Answers that were no export.
    pub(super) refused: usize,
}

impl<'a> Greedy<'a> {
    pub(super) fn new(doors: &'a [GatewayDoor], fake: &'a Fake) -> Self {
        let answered = doors.iter().map(|_| Cell::new(0)).collect();
        Self { doors, fake, answered, broken: Cell::new(0), refused: Cell::new(0) }
    }

    /// Asks for so long; what is on its way then is given up.
    pub(super) async fn ask_for(&self, length: Duration) {
        let clients = (0..self.doors.len() * GREEDY).map(|client| self.client(client));
        let _ = tokio::time::timeout(length, join_all(clients)).await;
    }

    async fn client(&self, mut at: usize) {
        loop {
            at %= self.doors.len();
            match self.doors[at].results(&finished(self.fake)).await {
                Ok((StatusCode::OK, _)) => add(&self.answered[at]),
                Ok(_) => add(&self.refused),
                Err(_) => {
                    add(&self.broken);
                    at += 1;
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }

    pub(super) fn tally(self) -> Tally {
        let answered = self.answered.iter().map(Cell::get).collect();
        Tally { answered, broken: self.broken.get(), refused: self.refused.get() }
    }
}

fn add(count: &Cell<usize>) {
    count.set(count.get() + 1);
}

/// The requests that the gateways have on record, each.
pub(super) fn on_record(doors: &[GatewayDoor]) -> Result<Vec<usize>, BoxError> {
    doors.iter().map(GatewayDoor::sent).collect()
}

/// The requests that Snyk got.
pub(super) struct Arrivals {
    /// The most within any second, of those that came in time.
    pub(super) most: usize,
    /// Those that were on their way for longer than the margin of the windows: this machine is too busy, and no gateway can keep
    /// them within.
    pub(super) late: usize,
}

impl Arrivals {
    pub(super) fn of(fake: &Fake, doors: &[GatewayDoor]) -> Result<Self, BoxError> {
        let mut started = HashMap::new();
        for door in doors {
            for row in find(&door.journal, &Query { limit: MOST_ROWS, ..Query::default() })? {
                started.insert(row.sent_id, humantime::parse_rfc3339(&row.started)?);
            }
        }
        let now = Clock::system().now();
        let (mut arrivals, mut late) = (Vec::new(), 0);
        for seen in fake.requests() {
            let arrived = now.wall - now.mono.saturating_duration_since(seen.at);
            let id = seen.header("snyk-request-id").first().copied().unwrap_or_default();
            let way = started.get(id).and_then(|started| arrived.duration_since(*started).ok());
            if way.is_some_and(|way| way >= MARGIN) { late += 1 } else { arrivals.push(seen.at) }
        }
        Ok(Self { most: most_in_a_second(arrivals), late })
    }
}

fn most_in_a_second(mut arrivals: Vec<Instant>) -> usize {
    arrivals.sort_unstable();
    let mut first = 0;
    let held = arrivals.iter().enumerate().map(|(last, at)| {
        while at.duration_since(arrivals[first]) >= SECOND {
            first += 1;
        }
        last + 1 - first
    });
    held.max().unwrap_or_default()
}
