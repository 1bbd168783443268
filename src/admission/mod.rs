//! Permission to send: the rate limit, the queue, the slots, the backoff after a 429, the circuit breakers and the
//! allowance for retries (0006, 0009).
//!
//! [`Admission::acquire`] lets one request through. Just before it is sent it is confirmed (`LaneSlot::confirmation`),
//! in the transaction that puts it on record: so no window of Snyk's is exceeded by all processes on one journal.
//!
//! The decisions are pure and take `now`: `rules` (of one lane), `budget` (Snyk's windows), `fair_queue`, `slots`,
//! `backoff`, `circuits`, `retry`. `queue` waits and wakes.

mod backoff;
mod budget;
mod calls;
mod candidate;
mod circuits;
mod common;
mod fair_queue;
mod queue;
mod rate_fields;
mod retry;
mod rules;
mod settings;
mod slots;
mod starts;
mod status;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use tokio::sync::Notify;

use crate::circuit::CircuitStatus;
use crate::clock::{Clock, Now};

use circuits::{CircuitChange, Circuits, Probes};
use queue::LaneSlot;
use retry::Retries;

pub use backoff::BackoffSettings;
pub use budget::Limit;
pub use candidate::{AdmissionRefusal, Candidate, Level, Obstacle, QueueId};
pub use circuits::{BreakerSettings, Evidence, Resource};
pub(crate) use common::kept_in_common;
pub use common::{CommonAnswer, CommonCall, CommonSettings, EngineNews};
pub use queue::{Confirmation, Queue};
pub(crate) use rate_fields::limits_told;
pub use rate_fields::{Bucket, CallKind, RateFields};
pub use retry::RetrySettings;
pub use rules::{Grant, Rules, SendOutcome, Step};
pub use settings::{LaneSettings, Settings};
pub use slots::SlotId;
pub use status::LaneStatus;

/// Snyk's two APIs. Each has limits of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Api {
    /// `/rest`.
    Rest,
    /// `/v1`.
    V1,
}

impl Api {
    /// Its name, in the journal too.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Rest => "rest",
            Self::V1 => "v1",
        }
    }
}

/// The requests that Snyk counts together: those with one credential to one API.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lane {
    /// The credential's name.
    pub credential: Arc<str>,
    /// The API.
    pub api: Api,
}

impl Lane {
    fn of(credentials: &[Arc<str>]) -> impl Iterator<Item = Self> {
        let lane = |credential: &Arc<str>, api| Self { credential: Arc::clone(credential), api };
        credentials.iter().flat_map(move |name| [lane(name, Api::Rest), lane(name, Api::V1)])
    }
}

impl std::fmt::Display for Lane {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.credential)?;
        if self.api == Api::V1 { f.write_str(" v1") } else { Ok(()) }
    }
}

/// The queue of each lane.
pub type Queues = HashMap<Lane, Arc<Queue>>;

/// A request that another process sent.
#[derive(Debug, Clone)]
pub struct SentElsewhere {
    /// The lane that it counts in.
    pub lane: Lane,
    /// The time, by our monotonic clock.
    pub at: Instant,
    /// The scope of a start call.
    pub start: Option<Arc<str>>,
}

/// The end of one request.
#[derive(Debug, Clone, Default)]
pub struct RequestEnd {
    /// For the lane's backoff.
    pub outcome: SendOutcome,
    /// The rate fields of the answer.
    pub rate: RateFields,
    /// The part of the API that it was of.
    pub kind: CallKind,
    /// For the circuits; `None` where it is tried again.
    pub evidence: Evidence,
}

/// The right to send one request, and the duty to say how it ended. Dropped without, it has ended without an answer.
#[derive(Debug)]
pub struct RequestSlot {
    /// Its slot in its lane.
    pub lane: LaneSlot,
    circuits: CircuitPass,
}

/// A request's part in the circuits.
#[derive(Debug)]
struct CircuitPass {
    admission: Admission,
    resource: Option<Resource>,
    probes: Probes,
    /// The end of the request, as it counts when this is dropped.
    evidence: Evidence,
}

impl RequestSlot {
    /// True if it is the first request after a pause: others depend on its outcome.
    pub(crate) const fn is_probe(&self) -> bool {
        self.lane.is_probe() || self.circuits.probes.is_any()
    }

    /// Notes how the request ended.
    pub fn end(mut self, end: RequestEnd) {
        self.circuits.evidence = end.evidence;
        self.lane.end = end;
    }
}

impl Drop for CircuitPass {
    fn drop(&mut self) {
        let (admission, resource) = (&self.admission, self.resource.as_ref());
        let change = lock(&admission.circuits).ended(resource, self.probes, self.evidence, admission.now());
        let upstream = &admission.upstream;
        let scope = resource.map(|resource| resource.scope.id.as_str());
        let export = resource.and_then(|resource| Some(resource.export.as_ref()?.as_str()));
        match change {
            CircuitChange::None => {}
            CircuitChange::Opened => {
                tracing::error!(upstream.url = %upstream, "circuit breaker opened: the upstream keeps failing; pausing all requests for breaker.pause");
                admission.opened.notify_waiters();
            }
            CircuitChange::ScopeOpened => {
                tracing::warn!(
                    export.scope.id = scope,
                    "circuit breaker opened for an org or group: its exports keep failing; others go on"
                );
            }
            CircuitChange::ExportOpened => {
                tracing::warn!(
                    export.scope.id = scope,
                    export.id = export,
                    "circuit breaker opened for an export: it keeps failing; others go on"
                );
            }
            CircuitChange::PartClosed => {
                tracing::info!(
                    export.scope.id = scope,
                    export.id = export,
                    "circuit breaker closed for an export, org or group: it answers again"
                );
            }
            CircuitChange::Closed => {
                tracing::info!(upstream.url = %upstream, "circuit breaker closed: the upstream answers again");
                admission.queues.load().values().for_each(|queue| queue.ramp());
            }
        }
    }
}

/// Lets requests through to one upstream. Clones share everything.
#[derive(Debug, Clone)]
pub struct Admission {
    /// The upstream's root, for the log.
    upstream: Arc<str>,
    clock: Clock,
    queues: Arc<ArcSwap<Queues>>,
    circuits: Arc<Mutex<Circuits>>,
    /// The host's circuit opened: nobody needs to wait in a queue.
    opened: Arc<Notify>,
    retries: Arc<Mutex<Retries>>,
}

impl Admission {
    /// Has a queue for each of `credentials` and each API.
    pub(crate) fn new(
        upstream: Arc<str>,
        clock: Clock,
        settings: &Settings,
        credentials: &[Arc<str>],
    ) -> Self {
        let queue = |lane: Lane| {
            let queue = Queue::new(&lane, settings.lane(lane.api).clone(), clock.clone(), true);
            (lane, queue)
        };
        let queues = Lane::of(credentials).map(queue).collect();
        Self {
            upstream,
            clock,
            queues: Arc::new(ArcSwap::from_pointee(queues)),
            circuits: Arc::new(Mutex::new(Circuits::new(settings.breaker))),
            opened: Arc::default(),
            retries: Arc::new(Mutex::new(Retries::new(settings.retry))),
        }
    }

    /// The queue of each lane.
    pub(crate) fn queues(&self) -> Arc<Queues> {
        self.queues.load_full()
    }

    /// Goes by other settings from now on, and has queues for `credentials`. The new queues are returned: they must be
    /// run, and told of the last hour. A queue whose credential is gone admits no more requests, and ends when nobody waits in it.
    pub(crate) fn set(&self, settings: &Settings, credentials: &[Arc<str>]) -> Queues {
        lock(&self.circuits).set(settings.breaker);
        lock(&self.retries).settings = settings.retry;
        let (before, mut new) = (self.queues(), Queues::new());
        let mut all = Queues::new();
        for lane in Lane::of(credentials) {
            let queue = if let Some(queue) = before.get(&lane) {
                queue.set(settings.lane(lane.api).clone());
                Arc::clone(queue)
            } else {
                let settings = settings.lane(lane.api).clone();
                let queue = Queue::new(&lane, settings, self.clock.clone(), false);
                new.insert(lane.clone(), Arc::clone(&queue));
                queue
            };
            all.insert(lane, queue);
        }
        before.iter().filter(|(lane, _)| !all.contains_key(lane)).for_each(|(_, queue)| queue.retire());
        self.queues.store(Arc::new(all));
        new
    }

    /// Counts what other processes sent: news, or all of the last hour (`is_hour`), for new queues.
    pub fn learn(&self, sends: &[SentElsewhere], is_hour: bool, now: Now) {
        for (lane, queue) in &**self.queues.load() {
            queue.learn(sends.iter().filter(|sent| sent.lane == *lane), is_hour, now.mono);
        }
    }

    /// Number of requests that wait in the queues.
    pub(crate) fn waiting(&self) -> usize {
        self.queues.load().values().map(|queue| queue.waiting()).sum()
    }

    /// The state of the host's circuit.
    pub(crate) fn circuit(&self) -> CircuitStatus {
        lock(&self.circuits).standing(self.now())
    }

    /// Number of exports whose circuit is not closed.
    pub(crate) fn open_exports(&self) -> usize {
        lock(&self.circuits).broken_exports()
    }

    /// Waits until a request about `resource` may be sent in `lane`.
    ///
    /// # Errors
    /// [`AdmissionRefusal`].
    pub async fn acquire(
        &self,
        lane: &Lane,
        resource: Option<Resource>,
        candidate: Candidate,
    ) -> Result<RequestSlot, AdmissionRefusal> {
        let opened = self.opened.notified();
        let client = Arc::clone(&candidate.client);
        self.check(resource.as_ref(), &client)?;
        let queues = self.queues.load_full();
        let queue = queues.get(lane).ok_or(queue::NO_QUEUE)?;
        let slot = tokio::select! {
            biased;
            slot = queue.acquire(candidate) => slot?,
            () = opened => {
                self.check(resource.as_ref(), &client)?;
                return Err(queue::NO_QUEUE);
            }
        };
        let now = self.now();
        let mut circuits = lock(&self.circuits);
        circuits.check(resource.as_ref(), &client, now)?;
        let probes = circuits.sent(resource.as_ref(), &client, now);
        drop(circuits);
        let circuits = CircuitPass { admission: self.clone(), resource, probes, evidence: Evidence::None };
        Ok(RequestSlot { lane: slot, circuits })
    }

    fn check(&self, resource: Option<&Resource>, client: &Arc<str>) -> Result<(), AdmissionRefusal> {
        let mut circuits = lock(&self.circuits);
        let checked = circuits.check(resource, client, self.now());
        checked.inspect_err(|refusal| circuits.refused(resource, client, *refusal))
    }

    /// True if it is known that nothing of `client` about `resource` is sent in `lane` at the moment.
    pub(crate) fn is_paused(&self, lane: &Lane, resource: &Resource, client: &Arc<str>) -> bool {
        lock(&self.circuits).check(Some(resource), client, self.now()).is_err()
            || self.queues.load().get(lane).is_some_and(|queue| queue.is_backing_off())
    }

    /// The time left of a backoff that holds the starts of `scope`.
    pub(crate) fn starts_pause(&self, lane: &Lane, scope: &Arc<str>) -> Option<Duration> {
        self.queues.load().get(lane)?.starts_pause(scope)
    }

    /// The pause before another try of a failed read, if the allowance has one. `left` is the time that its client still
    /// waits.
    pub(crate) fn retry(&self, tries: u32, left: Duration) -> Option<Duration> {
        lock(&self.retries).next(tries, fastrand::f64(), left)
    }

    /// Counts a request that is sent for the first time: so many more retries may follow.
    pub fn sent_first(&self) {
        lock(&self.retries).sent();
    }

    fn now(&self) -> Instant {
        self.clock.now().mono
    }
}

/// A panic while it was locked left it whole: each change is one call.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
