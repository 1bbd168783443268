//! Sending a request to Snyk and reading what comes back.

pub mod backoff;
pub mod budget;
mod error;
pub mod gate;
pub mod host;
pub mod pacer;
mod queue;
pub mod retry;
mod settings;
mod slots;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use http::header::CONTENT_LENGTH;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri};
use http_body_util::Limited;
use hyper::body::Body as _;
use tokio::sync::Notify;
use tokio::time::error::Elapsed;
use tokio::time::{Instant, timeout_at};

use crate::transport::{
    Body, CheckedBody, Client, GatherError, MAX_RESPONSE_HEAD, Memory, RequestError, Reservation, Source,
    Streamed, TransportError,
};

use crate::circuit::Standing;

use gate::{Asking, Kind, NoTurn, Outcome, Told};
use host::{Broken, Change, Evidence, Host, Probes, Resource};
use pacer::{Pacer, Pass};
use retry::Allowance;

pub use error::{UpstreamError, UpstreamErrorKind};
pub use settings::{Root, Settings, Sparing};

/// The upstream: one root, one connection pool.
#[derive(Debug, Clone)]
pub struct Upstream {
    root: Root,
    client: Client,
    bounds: Arc<ArcSwap<Bounds>>,
    pacers: Arc<ArcSwap<Pacers>>,
    host: Arc<Mutex<Host>>,
    /// The host's circuit opened: nobody needs to wait for a turn.
    opened: Arc<Notify>,
    retries: Arc<Mutex<(Allowance, retry::Settings)>>,
    proxy_failed: Arc<Mutex<Option<UpstreamErrorKind>>>,
    memory: Memory,
}

/// The limits of one request, in time and size.
#[derive(Debug)]
struct Bounds {
    /// Connecting and waiting for the head each have their limit; only the first knows when it ends.
    head_timeout: Duration,
    request_timeout: Duration,
    max_answer: usize,
}

impl From<&Settings> for Bounds {
    fn from(settings: &Settings) -> Self {
        Self {
            head_timeout: settings.connect_timeout + settings.header_timeout,
            request_timeout: settings.request_timeout,
            max_answer: settings.max_answer,
        }
    }
}

/// Snyk's two APIs. Each has limits of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Api {
    /// `/rest`.
    Rest,
    /// `/v1`.
    V1,
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

/// Who gives turns in each lane.
pub type Pacers = HashMap<Lane, Arc<Pacer>>;

/// The end of one request.
#[derive(Debug)]
pub struct End {
    /// For the lane's backoff.
    pub outcome: Outcome,
    /// What the rate fields of the answer say.
    pub told: Told,
    /// The part of the API that it was of.
    pub kind: Kind,
    /// For the circuits; `None` where it is tried again.
    pub evidence: Evidence,
}

/// The right to send one request, and the duty to say how it ended. Dropped without, it has ended without an answer.
#[derive(Debug)]
pub struct Admitted {
    /// Its turn in its lane.
    pub pass: Pass,
    circuits: Circuits,
}

/// A request's part in the circuits.
#[derive(Debug)]
struct Circuits {
    upstream: Upstream,
    resource: Option<Resource>,
    probes: Probes,
    is_ended: bool,
}

impl Admitted {
    /// Whether much depends on what it gets: it is the first request after a pause.
    #[must_use]
    pub const fn is_probe(&self) -> bool {
        self.pass.is_probe() || self.circuits.probes.is_any()
    }

    /// Notes how the request ended.
    pub fn ended(self, end: End) {
        let Self { pass, mut circuits } = self;
        pass.ended(end.outcome, &end.told, end.kind);
        circuits.end(end.evidence);
    }
}

impl Circuits {
    fn end(&mut self, evidence: Evidence) {
        self.is_ended = true;
        let (upstream, resource) = (&self.upstream, self.resource.as_ref());
        let change = lock(&upstream.host).ended(resource, self.probes, evidence, std::time::Instant::now());
        match change {
            Change::None => {}
            Change::Opened => {
                tracing::error!(upstream.url = %upstream.root, "circuit breaker opened: the upstream keeps failing; pausing all requests for breaker.pause");
                upstream.opened.notify_waiters();
            }
            Change::ScopeOpened | Change::ExportOpened => {
                let scope = resource.map(|resource| resource.scope.id.as_str());
                let export = resource.filter(|_| change == Change::ExportOpened);
                let export = export.and_then(|resource| Some(resource.export.as_ref()?.as_str()));
                tracing::warn!(
                    export.scope.id = scope,
                    export.id = export,
                    "circuit breaker opened for one export, org or group: it keeps failing; others go on"
                );
            }
            Change::Closed => {
                tracing::info!(upstream.url = %upstream.root, "circuit breaker closed: the upstream answers again");
                upstream.pacers.load().values().for_each(|pacer| pacer.ramp());
            }
        }
    }
}

impl Drop for Circuits {
    fn drop(&mut self) {
        if !self.is_ended {
            self.end(Evidence::None);
        }
    }
}

/// A request to the upstream: everything in it was made by us.
#[derive(Debug)]
pub struct UpstreamRequest {
    /// The method.
    pub method: Method,
    /// Path and query below the root.
    pub target: String,
    /// All fields but `Host`, which the client makes of the root.
    pub fields: HeaderMap,
    /// The body.
    pub body: Body,
}

/// A whole answer.
#[derive(Debug)]
pub struct UpstreamAnswer {
    /// Its status.
    pub status: StatusCode,
    /// Its fields, as they came.
    pub fields: HeaderMap,
    /// Its body.
    pub body: Bytes,
    /// The room that is held for it.
    pub reservation: Reservation,
}

impl Upstream {
    /// Makes the connection pool; connects to nothing yet. Answers are gathered in `memory`.
    ///
    /// # Errors
    /// See [`TransportError`].
    pub fn new(
        settings: &Settings,
        sparing: &Sparing,
        credentials: &[Arc<str>],
        memory: Memory,
    ) -> Result<Self, TransportError> {
        let root = settings.root.clone();
        Ok(Self {
            client: Client::new(
                &root.uri(),
                settings.ca_file.as_deref(),
                settings.connect_timeout,
                settings.dead_after,
            )?,
            root,
            bounds: Arc::new(ArcSwap::from_pointee(settings.into())),
            pacers: Arc::new(ArcSwap::from_pointee(
                Lane::of(credentials).map(|lane| (lane.clone(), Pacer::new(&lane, sparing))).collect(),
            )),
            host: Arc::new(Mutex::new(Host::new(sparing.breaker))),
            opened: Arc::default(),
            retries: Arc::new(Mutex::new((Allowance::new(sparing.retry.percent), sparing.retry))),
            proxy_failed: Arc::default(),
            memory,
        })
    }

    /// Who gives turns in each lane.
    #[must_use]
    pub fn pacers(&self) -> Arc<Pacers> {
        self.pacers.load_full()
    }

    /// Goes by other settings from now on (root, certificates and connecting stay), and gives turns for `credentials`.
    /// The pacers that are new are given back: they must be run. One that is gone gives no more turns, and ends when
    /// nobody waits for it.
    pub fn set(&self, settings: &Settings, sparing: &Sparing, credentials: &[Arc<str>]) -> Pacers {
        self.bounds.store(Arc::new(settings.into()));
        self.memory.set_max_wait(sparing.rest.max_wait);
        lock(&self.host).set(sparing.breaker);
        {
            let mut retries = lock(&self.retries);
            retries.0.set(sparing.retry.percent);
            retries.1 = sparing.retry;
        }
        let (before, mut new) = (self.pacers(), Pacers::new());
        let mut all = Pacers::new();
        for lane in Lane::of(credentials) {
            let pacer = if let Some(pacer) = before.get(&lane) {
                pacer.set(sparing.gate(lane.api).clone());
                Arc::clone(pacer)
            } else {
                let pacer = Pacer::new(&lane, sparing);
                new.insert(lane.clone(), Arc::clone(&pacer));
                pacer
            };
            all.insert(lane, pacer);
        }
        before.iter().filter(|(lane, _)| !all.contains_key(lane)).for_each(|(_, pacer)| pacer.retire());
        self.pacers.store(Arc::new(all));
        new
    }

    /// How many requests wait for their turn.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.pacers.load().values().map(|pacer| pacer.waiting()).sum()
    }

    /// The state of the host's circuit, and how many exports have a circuit that is not closed.
    #[must_use]
    pub fn circuit(&self) -> (Standing, usize) {
        let host = lock(&self.host);
        (host.standing(std::time::Instant::now()), host.broken_exports())
    }

    /// Waits for a turn to send a request about `resource` in `lane`.
    ///
    /// # Errors
    /// [`NotNow`].
    pub async fn turn(
        &self,
        lane: &Lane,
        resource: Option<Resource>,
        asking: Asking,
    ) -> Result<Admitted, NotNow> {
        let opened = self.opened.notified();
        self.check(resource.as_ref())?;
        let pacers = self.pacers.load_full();
        let pacer = pacers.get(lane).ok_or(NotNow::NoTurn(pacer::NO_ANSWER))?;
        let pass = tokio::select! {
            biased;
            pass = pacer.turn(asking) => pass.map_err(NotNow::NoTurn)?,
            () = opened => {
                self.check(resource.as_ref())?;
                return Err(NotNow::NoTurn(pacer::NO_ANSWER));
            }
        };
        let now = std::time::Instant::now();
        let mut host = lock(&self.host);
        host.check(resource.as_ref(), now).map_err(NotNow::Broken)?;
        let probes = host.sent(resource.as_ref(), now);
        drop(host);
        Ok(Admitted {
            pass,
            circuits: Circuits { upstream: self.clone(), resource, probes, is_ended: false },
        })
    }

    fn check(&self, resource: Option<&Resource>) -> Result<(), NotNow> {
        let mut host = lock(&self.host);
        let broken = host.check(resource, std::time::Instant::now());
        broken.inspect_err(|broken| host.refused(resource, *broken)).map_err(NotNow::Broken)
    }

    /// Whether it is known that nothing about `resource` is sent in `lane` at the moment.
    #[must_use]
    pub fn is_held(&self, lane: &Lane, resource: &Resource) -> bool {
        lock(&self.host).check(Some(resource), std::time::Instant::now()).is_err()
            || self.pacers.load().get(lane).is_some_and(|pacer| pacer.is_held())
    }

    /// The pause before another try of a read that came to this, if there is to be one. `left` is the time that its
    /// client still waits.
    pub fn retry(&self, came: retry::Came, tries: u32, left: Duration) -> Option<Duration> {
        let mut retries = lock(&self.retries);
        let (allowance, settings) = &mut *retries;
        let pause = retry::pause(came, tries, fastrand::f64(), left, settings)?;
        allowance.take().then_some(pause)
    }

    /// Counts a request that is sent for the first time: so many more retries may follow.
    pub fn sent_first(&self) {
        lock(&self.retries).0.sent();
    }

    /// The proxy that requests go through, as `HOST:PORT (VARIABLE)`, and how it failed last, where it fails.
    #[must_use]
    pub fn proxy(&self) -> Option<(&str, Option<UpstreamErrorKind>)> {
        Some((self.client.proxy()?, *lock(&self.proxy_failed)))
    }

    /// The root of the upstream.
    #[must_use]
    pub fn root(&self) -> &Root {
        &self.root
    }

    /// Sends a request and reads the whole answer, bounded in time and size.
    ///
    /// # Errors
    /// [`UpstreamError`], with the head where it had come.
    pub async fn ask(&self, request: UpstreamRequest) -> Result<UpstreamAnswer, UpstreamError> {
        let deadline = Instant::now() + self.bounds.load().request_timeout;
        let source = if request.method == Method::GET { Source::Upstream } else { Source::UpstreamOnce };
        let (head, body) = self.send(request, deadline).await?.into_parts();
        let (status, fields) = (head.status, head.headers);
        match self.read(body, source, deadline).await {
            Ok((body, reservation)) => Ok(UpstreamAnswer { status, fields, body, reservation }),
            Err(failed) => Err(UpstreamError { head: Some(Box::new((status, fields))), ..failed }),
        }
    }

    /// Sends a request and gives the head as soon as it is there; the body streams, for as long as one request may take.
    ///
    /// # Errors
    /// [`UpstreamError`].
    pub async fn open(&self, request: UpstreamRequest) -> Result<Response<Streamed>, UpstreamError> {
        let deadline = Instant::now() + self.bounds.load().request_timeout;
        let response = self.send(request, deadline).await?;
        Ok(response.map(|body| Streamed::new(body, deadline)))
    }

    async fn send(
        &self,
        from: UpstreamRequest,
        deadline: Instant,
    ) -> Result<Response<CheckedBody>, UpstreamError> {
        let Root { scheme, authority, prefix } = &self.root;
        let mut request = Request::new(from.body);
        *request.method_mut() = from.method;
        *request.headers_mut() = from.fields;
        if request.body().is_end_stream()
            && [Method::POST, Method::PUT, Method::PATCH].contains(request.method())
        {
            // A method that has a content says also that it is empty (RFC 9110 §8.6); hyper does so over HTTP/2 alone.
            request.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from_static("0"));
        }
        *request.uri_mut() = Uri::builder()
            .scheme(scheme.clone())
            .authority(authority.clone())
            .path_and_query(format!("{prefix}{}", from.target))
            .build()
            .map_err(|error| UpstreamError {
                source: Some(error.into()),
                ..UpstreamError::of(UpstreamErrorKind::Protocol)
            })?;
        let head_by = deadline.min(Instant::now() + self.bounds.load().head_timeout);
        let response = timeout_at(head_by, self.client.request(request)).await;
        self.note_proxy(&response);
        match response {
            Err(_) => Err(UpstreamError::of(UpstreamErrorKind::ResponseTimeout)),
            Ok(Err(error)) => {
                let kind = error::before_head(&error);
                Err(UpstreamError { source: Some(error.into()), ..UpstreamError::of(kind) })
            }
            Ok(Ok(response)) if head_len(response.headers()) > MAX_RESPONSE_HEAD => {
                Err(UpstreamError::of(UpstreamErrorKind::HeadTooLarge))
            }
            Ok(Ok(response)) => Ok(response),
        }
    }

    /// Notes whether the proxy works, where there is one.
    fn note_proxy(&self, response: &Result<Result<Response<CheckedBody>, RequestError>, Elapsed>) {
        let Some(_) = self.client.proxy() else { return };
        let failed = match response {
            Err(_) => return,
            Ok(Ok(_)) => None,
            Ok(Err(error)) => Some(error::before_head(error)).filter(|kind| kind.is_proxys()),
        };
        *lock(&self.proxy_failed) = failed;
    }

    async fn read(
        &self,
        body: CheckedBody,
        source: Source<'_>,
        deadline: Instant,
    ) -> Result<(Bytes, Reservation), UpstreamError> {
        let max_answer = self.bounds.load().max_answer;
        if body.size_hint().lower() > max_answer as u64 {
            return Err(UpstreamError::of(UpstreamErrorKind::TooLarge));
        }
        let gathering = self.memory.gather(Limited::new(body, max_answer), source);
        match timeout_at(deadline, gathering).await {
            Err(_) => Err(UpstreamError::of(UpstreamErrorKind::ResponseTimeout)),
            Ok(Err(GatherError::NoRoom(_))) => Err(UpstreamError::of(UpstreamErrorKind::NoRoom)),
            Ok(Err(GatherError::Body(error))) => {
                let kind = error::in_body(&*error);
                Err(UpstreamError { source: Some(error), ..UpstreamError::of(kind) })
            }
            Ok(Ok(gathered)) => Ok(gathered),
        }
    }
}

/// Nothing is sent at the moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotNow {
    /// A circuit is open.
    Broken(Broken),
    /// The budget, a hold or the queue stand in the way.
    NoTurn(NoTurn),
}

/// A panic while it was locked left it whole: each change is one call.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The bytes of a header section, as RFC 9113 §6.5.2 counts them.
fn head_len(fields: &HeaderMap) -> usize {
    fields.iter().map(|(name, value)| name.as_str().len() + value.len() + 32).sum()
}
