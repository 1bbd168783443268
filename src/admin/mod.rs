//! The admin API: health, metrics, stored exports, request ids, and a page that shows them.
//!
//! It has a listener of its own, so that it answers while clients have taken all their connections. It reads the state of
//! the other parts and changes nothing but by a purge. Nothing that it shows holds a credential, a link or a body.

mod answer;
mod api;
mod events;
mod expiry;
mod exposition;
mod families;
mod guard;
mod health;
mod named;
mod page;
mod parts;
mod purge;
pub(crate) mod report;
mod status;

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use arc_swap::ArcSwap;
use http::header::{ACCEPT, CACHE_CONTROL};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::{Either, Full};
use hyper::body::Incoming;
use tokio::sync::Semaphore;

use crate::clock::Now;
use crate::credential::Credentials;
use crate::downloads::Downloads;
use crate::export::Id;
use crate::journal;
use crate::listener::{self, Counters};
use crate::named::Named;
use crate::purge::Purger;
use crate::retrieval::{self, Retrieval};
use crate::shared::Shared;
use crate::telemetry::history::History;
use crate::transport::{Body, Memory, Peer, ServerTlsSettings};
use crate::watched_file::Watched;

pub(crate) use expiry::Expiry;
pub(crate) use guard::token_in;

use answer::{
    AdminRefusal, BAD_ID, FULL, NO_SUCH_CALL, NOTHING, PLAIN_TEXT, document, json_answer, method_not_allowed,
    only, refused, short, whole,
};
use health::HealthHistory;
use report::ConfigReport;

/// Interval of the samples for the histories.
const SAMPLE_INTERVAL: Duration = Duration::from_secs(1);
/// Most searches at once, in the journal or in what is stored.
const MAX_SEARCHES: usize = 4;
/// Refused calls that are logged within a minute.
const MAX_LINES: u32 = 20;
const MINUTE: Duration = Duration::from_mins(1);
/// Most pages that are kept up to date at once.
const MAX_EVENTS: usize = 16;

/// `[admin]`.
#[derive(Debug, Clone)]
pub struct AdminSettings {
    /// Its listener; `None` for none.
    pub listener: Option<listener::Settings>,
    /// Certificate and key of its listener.
    pub tls: Option<ServerTlsSettings>,
    /// The file with the token of callers.
    pub token_file: Option<PathBuf>,
    /// The authority for certificates that stand for the token.
    pub client_ca: Option<PathBuf>,
    /// Time of the warning before a certificate, revocation list or key ends.
    pub warn_before: Duration,
    /// True for the default address: another gateway on this machine may have it.
    pub is_default: bool,
}

/// The configuration in force, as far as this part needs it.
#[derive(Debug)]
pub(crate) struct InForce {
    /// Redacted, for `/api/config`.
    pub(crate) config: ConfigReport,
    /// Names besides `localhost` and loopback addresses that `Host` may have on a loopback address.
    pub(crate) hosts: Vec<String>,
    /// Clients get 503 while the journal cannot be written.
    pub(crate) refuses: bool,
    /// The keys that have changed, and take effect after a restart only.
    pub(crate) waiting: Vec<String>,
}

/// The other parts, to be read from.
#[derive(Debug)]
pub(crate) struct Views {
    pub(crate) parts: retrieval::Parts,
    pub(crate) retrieval: Arc<Retrieval>,
    pub(crate) downloads: Downloads,
    pub(crate) named: Named,
    pub(crate) purger: Purger,
    pub(crate) memory: Memory,
    /// The engine that many machines share, where there is one.
    pub(crate) shared: Option<Shared>,
    pub(crate) credentials: Arc<Credentials>,
    /// The place of the records.
    pub(crate) journal: journal::Settings,
    /// The connections of clients.
    pub(crate) clients: Arc<Counters>,
    pub(crate) addresses: Vec<listener::Address>,
    pub(crate) expiry: Expiry,
    /// All files that are read again while the gateway runs.
    pub(crate) watched: Arc<Mutex<Vec<Arc<Watched>>>>,
}

/// The admin API and its state.
#[derive(Debug)]
pub(crate) struct Admin {
    settings: AdminSettings,
    views: Views,
    /// The counters of the admin listener.
    own: Arc<Counters>,
    started: Now,
    in_force: ArcSwap<InForce>,
    page_policy: HeaderValue,
    history_of_health: Mutex<HealthHistory>,
    traffic: Mutex<History>,
    searches: Arc<Semaphore>,
    events: Arc<Semaphore>,
    refusals: Mutex<RefusalCount>,
}

/// The refused calls of the current minute.
#[derive(Debug)]
struct RefusalCount {
    since: Instant,
    count: u32,
}

impl Admin {
    /// `own` are the counters of the admin listener.
    pub(crate) fn new(settings: AdminSettings, views: Views, own: Arc<Counters>, in_force: InForce) -> Self {
        let started = views.parts.clock.now();
        Self {
            started,
            settings,
            views,
            own,
            in_force: ArcSwap::from_pointee(in_force),
            page_policy: page::policy().unwrap_or(NOTHING),
            history_of_health: Mutex::default(),
            traffic: Mutex::default(),
            searches: Arc::new(Semaphore::new(MAX_SEARCHES)),
            events: Arc::new(Semaphore::new(MAX_EVENTS)),
            refusals: Mutex::new(RefusalCount { since: started.mono, count: 0 }),
        }
    }

    pub(crate) fn set(&self, in_force: InForce) {
        self.in_force.store(Arc::new(in_force));
    }

    /// Samples health and traffic for their histories; never ends.
    pub(crate) async fn sample_always(&self) {
        let mut ticks = tokio::time::interval(SAMPLE_INTERVAL);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            lock(&self.history_of_health).note(&self.parts(), self.now().wall);
            self.sample();
        }
    }

    fn sample(&self) {
        let totals = self.views.parts.metrics.totals();
        lock(&self.traffic).sample(totals, self.views.parts.clock.now().wall);
    }

    /// Answers a call.
    pub(crate) async fn respond(
        self: Arc<Self>,
        request: Request<Incoming>,
        peer: Arc<Peer>,
    ) -> Response<Body> {
        let (parts, _) = request.into_parts();
        let answer = self.answer(&parts, &peer).await;
        let response = answer.unwrap_or_else(|refusal| {
            if !self.is_worth_a_line() {
                return refused(&refusal);
            }
            tracing::info!(
                target: "exportgate::admin",
                {
                http.request.method = short(&parts.method),
                http.response.status_code = refusal.status.as_u16(),
                client.address = peer.via.address().map(|address| tracing::field::display(address.ip())),
                error.code = refusal.code
                },
                "admin call refused"
            );
            refused(&refusal)
        });
        finish(response, &parts.method)
    }

    /// Answers a probe, and refuses any other call: all connections but those in reserve are taken.
    pub(crate) fn respond_to_probe(&self, request: &Request<Incoming>) -> Response<Body> {
        let is_get = only(request.method(), "").is_ok();
        let response = match self.probed(request.uri().path()).filter(|_| is_get) {
            Some((status, word)) => whole(status, PLAIN_TEXT, word),
            None => refused(&FULL),
        };
        finish(response, request.method())
    }

    /// True for the first refusals of a minute: anybody can have a call refused, and must not fill the log.
    fn is_worth_a_line(&self) -> bool {
        let now = self.now().mono;
        let mut refusals = lock(&self.refusals);
        if now.saturating_duration_since(refusals.since) >= MINUTE {
            *refusals = RefusalCount { since: now, count: 0 };
        }
        refusals.count += 1;
        if refusals.count == MAX_LINES + 1 {
            tracing::warn!(
                target: "exportgate::admin",
                "too many refused admin calls: not logging more of them this minute"
            );
        }
        refusals.count <= MAX_LINES
    }

    async fn answer(
        self: &Arc<Self>,
        parts: &http::request::Parts,
        peer: &Peer,
    ) -> Result<Response<Body>, AdminRefusal> {
        let path = parts.uri.path();
        // A kubelet probes with an address as Host and without a credential.
        if let Some((status, word)) = self.probed(path) {
            only(&parts.method, "GET, HEAD")?;
            return Ok(whole(status, PLAIN_TEXT, word));
        }
        // The page holds no data: it fetches that with the token.
        if path == "/" {
            only(&parts.method, "GET, HEAD")?;
            return Ok(page::response(&self.page_policy));
        }
        guard::admit(parts, peer, &self.settings, &self.in_force.load().hosts).await?;
        let target: Vec<&str> = path.split('/').skip(1).collect();
        if let ["api", "exports", rest @ ..] = target.as_slice() {
            return self.exports(parts, rest, peer).await;
        }
        only(&parts.method, "GET, HEAD")?;
        match target.as_slice() {
            ["metrics"] => Ok(self.metrics(&parts.headers)),
            ["openapi.json"] => Ok(document(include_str!("../../docs/openapi.json"))),
            ["api", "openapi.json"] => Ok(document(include_str!("../../docs/openapi-admin.json"))),
            ["api", "status"] => Ok(json_answer(&self.status())),
            ["api", "events"] => self.follow(),
            ["api", "budget"] => Ok(json_answer(&self.budget())),
            ["api", "config"] => Ok(json_answer(&self.in_force.load().config)),
            ["api", "requests"] => self.requests(parts.uri.query().unwrap_or_default()).await,
            _ => Err(NO_SUCH_CALL),
        }
    }

    /// The answer to a probe; `None` for another path. Liveness depends on nothing but that somebody answers.
    pub(crate) fn probed(&self, path: &str) -> Option<(StatusCode, &'static str)> {
        match path {
            "/livez" => Some((StatusCode::OK, "ok\n")),
            "/readyz" => {
                let readiness = self.readiness(&self.parts());
                let status =
                    if readiness.is_ready() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
                Some((status, readiness.line()))
            }
            _ => None,
        }
    }

    /// Lists or purges stored exports.
    async fn exports(
        &self,
        parts: &http::request::Parts,
        rest: &[&str],
        peer: &Peer,
    ) -> Result<Response<Body>, AdminRefusal> {
        let what = match (&parts.method, rest) {
            (&Method::GET | &Method::HEAD, []) => {
                return Ok(json_answer(&self.stored(parts.uri.query().unwrap_or_default()).await?));
            }
            (&Method::DELETE, []) => None,
            (&Method::DELETE, [scope, export]) => Some((*scope, *export)),
            (_, []) => return Err(method_not_allowed("GET, HEAD, DELETE")),
            (_, [_, _]) => return Err(method_not_allowed("DELETE")),
            _ => return Err(NO_SUCH_CALL),
        };
        let what = what.map(|(scope, export)| Id::parse(scope).zip(Id::parse(export)).ok_or(BAD_ID));
        self.purge(what.transpose()?, peer.via.address()).await
    }

    fn metrics(&self, fields: &HeaderMap) -> Response<Body> {
        let accepted = fields.get(ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let (kind, text) = exposition::of(self, accepted.contains("application/openmetrics-text"));
        whole(StatusCode::OK, kind, text)
    }

    fn now(&self) -> Now {
        self.views.parts.clock.now()
    }
}

/// Adds the fields that every answer has.
fn finish(mut response: Response<Body>, method: &Method) -> Response<Body> {
    let fields = response.headers_mut();
    fields.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    fields.insert("x-content-type-options", HeaderValue::from_static("nosniff"));
    fields.insert("referrer-policy", HeaderValue::from_static("no-referrer"));
    fields.insert("cross-origin-resource-policy", HeaderValue::from_static("same-origin"));
    fields.insert("cross-origin-opener-policy", HeaderValue::from_static("same-origin"));
    fields.entry("content-security-policy").or_insert(NOTHING);
    if method == Method::HEAD {
        *response.body_mut() = Either::Left(Full::default());
    }
    response
}

/// A time in UTC as RFC 3339 writes it; empty beyond the year 9999.
fn time(at: SystemTime) -> String {
    use std::fmt::Write as _;
    let mut text = String::new();
    let _ = write!(text, "{}", humantime::format_rfc3339_seconds(at));
    text
}

/// A panic while it was locked left it whole: each change is one call.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
