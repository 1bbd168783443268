//! Sending a request to Snyk and reading what comes back.

pub mod breaker;
pub mod budget;
mod failed;
pub mod gate;
pub mod hold;
pub mod pacer;
mod queue;
pub mod retry;
mod settings;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt, Limited};
use hyper::body::{Body as _, Incoming};
use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};

use crate::transport::{Body, Client, MAX_RESPONSE_HEAD, Streamed, TransportError, client};

use breaker::{Breaker, Change, Lets};
use gate::{Asking, NoTurn};
use pacer::{Pacer, Pass};
use retry::Allowance;

pub use failed::{Failed, FailedKind};
pub use settings::{Root, Settings, Sparing};

/// The upstream: one root, one connection pool.
#[derive(Debug, Clone)]
pub struct Upstream {
    root: Root,
    client: Client,
    bounds: Arc<ArcSwap<Bounds>>,
    /// By the credential's name.
    pacers: Arc<ArcSwap<Pacers>>,
    breaker: Arc<Mutex<Breaker>>,
    /// It opened: nobody needs to wait for a turn.
    opened: Arc<Notify>,
    retries: Arc<Mutex<(Allowance, retry::Settings)>>,
}

/// How long one request may take, and how large its answer may be.
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

/// Who gives turns, by the credential's name.
pub type Pacers = HashMap<Arc<str>, Arc<Pacer>>;

/// A request as it goes up: everything in it was made by us.
#[derive(Debug)]
pub struct Outgoing {
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
pub struct Answer {
    /// Its status.
    pub status: StatusCode,
    /// Its fields, as they came.
    pub fields: HeaderMap,
    /// Its body.
    pub body: Bytes,
}

impl Upstream {
    /// Makes the connection pool; connects to nothing yet.
    ///
    /// # Errors
    /// See [`TransportError`].
    pub fn new(
        settings: &Settings,
        sparing: &Sparing,
        credentials: Vec<Arc<str>>,
    ) -> Result<Self, TransportError> {
        let root = settings.root.clone();
        let authority = root.authority.as_str();
        let uri = Uri::builder().scheme(root.scheme.clone()).authority(authority).path_and_query("/").build();
        let uri = uri.unwrap_or_default();
        Ok(Self {
            client: client(&uri, settings.ca_file.as_deref(), settings.connect_timeout)?,
            root,
            bounds: Arc::new(ArcSwap::from_pointee(settings.into())),
            pacers: Arc::new(ArcSwap::from_pointee(
                credentials
                    .into_iter()
                    .map(|name| (Arc::clone(&name), Pacer::new(name, sparing.gate.clone())))
                    .collect(),
            )),
            breaker: Arc::new(Mutex::new(Breaker::new(sparing.breaker))),
            opened: Arc::default(),
            retries: Arc::new(Mutex::new((Allowance::new(sparing.retry.percent), sparing.retry))),
        })
    }

    /// Who gives turns for each credential.
    #[must_use]
    pub fn pacers(&self) -> Arc<Pacers> {
        self.pacers.load_full()
    }

    /// Goes by other settings from now on (root, certificates and connecting stay), and gives turns for `credentials`.
    /// The pacers that are new are given back: they must be run. One that is gone gives no more turns, and ends when
    /// nobody waits for it.
    pub fn set(&self, settings: &Settings, sparing: &Sparing, credentials: Vec<Arc<str>>) -> Pacers {
        self.bounds.store(Arc::new(settings.into()));
        lock(&self.breaker).set(sparing.breaker);
        {
            let mut retries = lock(&self.retries);
            retries.0.set(sparing.retry.percent);
            retries.1 = sparing.retry;
        }
        let (before, mut new) = (self.pacers(), Pacers::new());
        let mut all = Pacers::new();
        for (name, pacer) in &*before {
            if credentials.contains(name) {
                pacer.set(sparing.gate.clone());
                all.insert(Arc::clone(name), Arc::clone(pacer));
            } else {
                pacer.retire();
            }
        }
        for name in credentials.into_iter().filter(|name| !before.contains_key(name)) {
            let pacer = Pacer::new(Arc::clone(&name), sparing.gate.clone());
            new.insert(Arc::clone(&name), Arc::clone(&pacer));
            all.insert(name, pacer);
        }
        self.pacers.store(Arc::new(all));
        new
    }

    /// How many requests wait for their turn.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.pacers.load().values().map(|pacer| pacer.waiting()).sum()
    }

    /// How the circuit breaker stands, and how long that lasts, where it is known.
    #[must_use]
    pub fn breaker(&self) -> (&'static str, Duration) {
        lock(&self.breaker).standing(std::time::Instant::now())
    }

    /// Waits for a turn to send with the credential that is called `credential`.
    ///
    /// # Errors
    /// [`NotNow`].
    pub async fn turn(&self, credential: &str, asking: Asking) -> Result<Pass, NotNow> {
        let broken = || match lock(&self.breaker).lets(std::time::Instant::now()) {
            Lets::None { retry_after } => Err(NotNow::Broken { retry_after }),
            Lets::All | Lets::Probe => Ok(()),
        };
        let opened = self.opened.notified();
        broken()?;
        let pacers = self.pacers.load_full();
        let pacer = pacers.get(credential).ok_or(NotNow::Broken { retry_after: Duration::ZERO })?;
        let pass = tokio::select! {
            biased;
            pass = pacer.turn(asking) => pass.map_err(NotNow::NoTurn)?,
            () = opened => return Err(broken().err().unwrap_or(NotNow::Broken { retry_after: Duration::ZERO })),
        };
        let now = std::time::Instant::now();
        let mut breaker = lock(&self.breaker);
        if let Lets::None { retry_after } = breaker.lets(now) {
            return Err(NotNow::Broken { retry_after });
        }
        breaker.sent(now);
        Ok(pass)
    }

    /// Whether it is known that nothing is sent with this credential at the moment.
    #[must_use]
    pub fn is_held(&self, credential: &str) -> bool {
        matches!(lock(&self.breaker).lets(std::time::Instant::now()), Lets::None { .. })
            || self.pacers.load().get(credential).is_some_and(|pacer| pacer.is_held())
    }

    /// Says what came of a send; a try of a read that is to be made again, with the pause before it.
    pub fn ended(
        &self,
        came: retry::Came,
        (tries, left): (u32, Duration),
        is_read: bool,
    ) -> Option<Duration> {
        let change = lock(&self.breaker).ended(came.is_the_upstreams_fault(), std::time::Instant::now());
        match change {
            Change::None => {}
            Change::Opened => {
                tracing::error!(upstream.url = %self.root, "the upstream keeps failing: it is left alone for breaker.pause");
                self.opened.notify_waiters();
            }
            Change::Closed => {
                tracing::info!(upstream.url = %self.root, "the upstream answers again");
                self.pacers.load().values().for_each(|pacer| pacer.ramp());
            }
        }
        let mut retries = lock(&self.retries);
        let (allowance, settings) = &mut *retries;
        if tries == 1 {
            allowance.sent();
        }
        let pause = retry::pause(came, tries, fastrand::f64(), left, settings)
            .filter(|_| is_read && change != Change::Opened)?;
        allowance.take().then_some(pause)
    }

    /// Where requests go.
    #[must_use]
    pub fn root(&self) -> &Root {
        &self.root
    }

    /// Asks and reads the whole answer, bounded in time and size.
    ///
    /// # Errors
    /// [`Failed`], with the head where it had come.
    pub async fn ask(&self, outgoing: Outgoing) -> Result<Answer, Failed> {
        let deadline = Instant::now() + self.bounds.load().request_timeout;
        let (head, body) = self.send(outgoing, deadline).await?.into_parts();
        let (status, fields) = (head.status, head.headers);
        match self.read(body, deadline).await {
            Ok(body) => Ok(Answer { status, fields, body }),
            Err(failed) => Err(Failed { head: Some(Box::new((status, fields))), ..failed }),
        }
    }

    /// Asks and gives the head as soon as it is there; the body streams, for as long as one request may take.
    ///
    /// # Errors
    /// [`Failed`].
    pub async fn open(&self, outgoing: Outgoing) -> Result<Response<Streamed>, Failed> {
        let deadline = Instant::now() + self.bounds.load().request_timeout;
        let response = self.send(outgoing, deadline).await?;
        Ok(response.map(|body| Streamed::new(body, deadline)))
    }

    async fn send(&self, outgoing: Outgoing, deadline: Instant) -> Result<Response<Incoming>, Failed> {
        let Root { scheme, authority, prefix } = &self.root;
        let mut request = Request::new(outgoing.body);
        *request.method_mut() = outgoing.method;
        *request.headers_mut() = outgoing.fields;
        *request.uri_mut() = Uri::builder()
            .scheme(scheme.clone())
            .authority(authority.clone())
            .path_and_query(format!("{prefix}{}", outgoing.target))
            .build()
            .map_err(|error| Failed { source: Some(error.into()), ..Failed::of(FailedKind::Protocol) })?;
        let head_by = deadline.min(Instant::now() + self.bounds.load().head_timeout);
        match timeout_at(head_by, self.client.request(request)).await {
            Err(_) => Err(Failed::of(FailedKind::ResponseTimeout)),
            Ok(Err(error)) => {
                let kind = failed::before_head(&error);
                Err(Failed { source: Some(error.into()), ..Failed::of(kind) })
            }
            // We never ask to upgrade; a 101 would turn the connection into something else.
            Ok(Ok(response)) if response.status().is_informational() => Err(Failed::of(FailedKind::Protocol)),
            Ok(Ok(response)) if head_len(response.headers()) > MAX_RESPONSE_HEAD => {
                Err(Failed::of(FailedKind::HeadTooLarge))
            }
            Ok(Ok(response)) => Ok(response),
        }
    }

    async fn read(&self, body: Incoming, deadline: Instant) -> Result<Bytes, Failed> {
        let max_answer = self.bounds.load().max_answer;
        if body.size_hint().lower() > max_answer as u64 {
            return Err(Failed::of(FailedKind::TooLarge));
        }
        match timeout_at(deadline, Limited::new(body, max_answer).collect()).await {
            Err(_) => Err(Failed::of(FailedKind::ResponseTimeout)),
            Ok(Err(error)) => {
                let kind = failed::in_body(&*error);
                Err(Failed { source: Some(error), ..Failed::of(kind) })
            }
            Ok(Ok(whole)) => Ok(whole.to_bytes()),
        }
    }
}

/// Nothing is sent at the moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotNow {
    /// The upstream keeps failing.
    Broken {
        /// Until it is tried again.
        retry_after: Duration,
    },
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
