//! How the gateway is looked after: health, metrics, what is stored, the request ids, and a page that shows it.
//!
//! It has a listener of its own, so that it answers while clients have taken all their connections. It reads what
//! the other parts say of themselves and changes nothing but what is stored (a purge). Nothing that it shows holds
//! a credential, a link or a body.

mod api;
mod board;
mod events;
mod exposition;
mod guard;
mod page;
mod status;

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use arc_swap::ArcSwap;
use bytes::Bytes;
use http::header::{ACCEPT, ALLOW, CACHE_CONTROL, CONTENT_TYPE, WWW_AUTHENTICATE};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::{Either, Full};
use hyper::body::Incoming;
use serde_json::{Value, json};
use tokio::sync::Semaphore;

use crate::cache::Cache;
use crate::clock::{Clock, Now};
use crate::credential::Credentials;
use crate::expiry::Expiring;
use crate::export::Id;
use crate::files::Watched;
use crate::journal::Journal;
use crate::listener::{self, Counters};
use crate::shutdown::Shutdown;
use crate::telemetry::history::History;
use crate::telemetry::metrics::Metrics;
use crate::telemetry::trace::Traces;
use crate::transport::{Body, Memory, Peer, ServerTlsSettings};
use crate::upstream::Upstream;

use board::Board;

/// How often the parts are looked at, for their histories.
const LOOK: Duration = Duration::from_secs(1);
/// Most searches at once, in the journal or in what is stored.
const MAX_SEARCHES: usize = 4;
/// Refused calls that are logged within a minute.
const MAX_LINES: u32 = 20;
const MINUTE: Duration = Duration::from_mins(1);
/// Most pages that are kept up to date at once.
const MAX_EVENTS: usize = 16;

/// `[admin]`.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Its listener; `None` for none.
    pub listener: Option<listener::Settings>,
    /// What it speaks TLS with.
    pub tls: Option<ServerTlsSettings>,
    /// A file with the token that callers present.
    pub token_file: Option<PathBuf>,
    /// Who signs certificates that stand for the token.
    pub client_ca: Option<PathBuf>,
    /// Time of the warning before a certificate, revocation list or key ends.
    pub warn_before: Duration,
    /// Whether the address is the default one: another gateway on this machine may have it.
    pub is_default: bool,
}

/// What may change while it runs.
#[derive(Debug)]
pub struct Shown {
    /// The configuration in force, redacted, as `/api/config` shows it.
    pub config: Value,
    /// Names by which a loopback address may be asked, besides `localhost` and loopback addresses.
    pub hosts: Vec<String>,
    /// Whether answers are refused while the journal cannot be written.
    pub refuses: bool,
    /// The keys that have changed, and take effect after a restart only.
    pub waiting: Vec<String>,
}

/// What is looked at.
#[derive(Debug)]
pub struct Views {
    /// The clock.
    pub clock: Clock,
    /// What is stored.
    pub cache: Cache,
    /// What bodies hold.
    pub memory: Memory,
    /// Where requests go.
    pub upstream: Upstream,
    /// The credentials.
    pub credentials: Arc<Credentials>,
    /// The journal.
    pub journal: Journal,
    /// Its file.
    pub journal_path: PathBuf,
    /// Where spans go, if anywhere.
    pub traces: Option<Traces>,
    /// What the request path counts.
    pub metrics: Arc<Metrics>,
    /// What the clients' listener counts.
    pub clients: Arc<Counters>,
    /// Where it listens.
    pub addresses: Vec<listener::Address>,
    /// Everything in force that has an end.
    pub expiring: Expirings,
    /// How the files that are followed fare.
    pub watched: Arc<Mutex<Vec<Arc<Watched>>>>,
    /// How many clients wait for answers that are on their way.
    pub followers: Followers,
    /// Whether a stop was announced, and whether it has begun.
    pub shutdown: Shutdown,
}

/// Counts the clients that wait for answers that are on their way.
pub struct Followers(pub Box<dyn Fn() -> usize + Send + Sync>);

impl std::fmt::Debug for Followers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", (self.0)())
    }
}

/// Lists the certificates, revocation lists and clients' keys in force that have an end.
pub struct Expirings(pub Box<dyn Fn() -> Vec<Expiring> + Send + Sync>);

impl std::fmt::Debug for Expirings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?}", (self.0)())
    }
}

/// Answers those who look after the gateway.
#[derive(Debug)]
pub struct Admin {
    settings: Settings,
    views: Views,
    own: Arc<Counters>,
    started: Now,
    shown: ArcSwap<Shown>,
    page_policy: HeaderValue,
    board: Mutex<Board>,
    history: Mutex<History>,
    searches: Arc<Semaphore>,
    events: Arc<Semaphore>,
    /// How many calls were refused since the beginning of a minute.
    refusals: Mutex<(Instant, u32)>,
}

/// Why a call is not answered as asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Refusal {
    status: StatusCode,
    code: &'static str,
    title: &'static str,
    detail: &'static str,
    allow: Option<&'static str>,
}

const fn refusal(
    status: StatusCode,
    code: &'static str,
    title: &'static str,
    detail: &'static str,
) -> Refusal {
    Refusal { status, code, title, detail, allow: None }
}

const NO_SUCH_CALL: Refusal = refusal(
    StatusCode::NOT_FOUND,
    "unknown_route",
    "There is no such call",
    "GET /api/openapi.json lists the calls.",
);
const BAD_ID: Refusal = refusal(
    StatusCode::BAD_REQUEST,
    "bad_id",
    "This is no org's, group's or export's id",
    "Use ids as exportgate exports prints them: letters, digits, hyphens and underscores.",
);
const BUSY: Refusal = refusal(
    StatusCode::SERVICE_UNAVAILABLE,
    "too_many_callers",
    "Too many ask this at the same time",
    "Try again in a moment, or close other pages.",
);

impl Refusal {
    const fn allowing(self, allow: &'static str) -> Self {
        Self { allow: Some(allow), ..self }
    }
}

const fn method_not_allowed(allow: &'static str) -> Refusal {
    refusal(
        StatusCode::METHOD_NOT_ALLOWED,
        "method_not_allowed",
        "The call has no such method",
        "Use a method that Allow names.",
    )
    .allowing(allow)
}

impl Admin {
    /// Looks at `views`. `own` is what its own listener counts.
    #[must_use]
    pub fn new(settings: Settings, views: Views, own: Arc<Counters>, shown: Shown) -> Self {
        let started = views.clock.now();
        Self {
            started,
            settings,
            views,
            own,
            shown: ArcSwap::from_pointee(shown),
            page_policy: page::policy().unwrap_or(NOTHING),
            board: Mutex::default(),
            history: Mutex::default(),
            searches: Arc::new(Semaphore::new(MAX_SEARCHES)),
            events: Arc::new(Semaphore::new(MAX_EVENTS)),
            refusals: Mutex::new((started.mono, 0)),
        }
    }

    /// Takes what changed.
    pub fn set(&self, shown: Shown) {
        self.shown.store(Arc::new(shown));
    }

    /// Looks at the parts over and over, so that it is known since when they are as they are; never ends.
    pub async fn look(&self) {
        let mut ticks = tokio::time::interval(LOOK);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let _ = self.health();
            self.sample();
        }
    }

    fn sample(&self) {
        let totals = self.views.metrics.totals();
        lock(&self.history).sample(totals, self.views.clock.now().wall);
    }

    /// Answers a call.
    pub async fn respond(self: Arc<Self>, request: Request<Incoming>, peer: Arc<Peer>) -> Response<Body> {
        let (parts, _) = request.into_parts();
        let answer = self.answer(&parts, &peer).await;
        let mut response = answer.unwrap_or_else(|refusal| {
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
                "an admin call was refused"
            );
            refused(&refusal)
        });
        let fields = response.headers_mut();
        fields.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        fields.insert("x-content-type-options", HeaderValue::from_static("nosniff"));
        fields.insert("referrer-policy", HeaderValue::from_static("no-referrer"));
        fields.insert("cross-origin-resource-policy", HeaderValue::from_static("same-origin"));
        fields.insert("cross-origin-opener-policy", HeaderValue::from_static("same-origin"));
        fields.entry("content-security-policy").or_insert(NOTHING);
        if parts.method == Method::HEAD {
            *response.body_mut() = Either::Left(Full::default());
        }
        response
    }

    /// Whether a refusal is logged: so many a minute, for anybody can have a call refused.
    fn is_worth_a_line(&self) -> bool {
        let now = self.now().mono;
        let mut refusals = lock(&self.refusals);
        if now.saturating_duration_since(refusals.0) >= MINUTE {
            *refusals = (now, 0);
        }
        refusals.1 += 1;
        if refusals.1 == MAX_LINES + 1 {
            tracing::warn!(target: "exportgate::admin", "many admin calls are refused: more of this minute are not logged");
        }
        refusals.1 <= MAX_LINES
    }

    async fn answer(
        self: &Arc<Self>,
        parts: &http::request::Parts,
        peer: &Peer,
    ) -> Result<Response<Body>, Refusal> {
        let path = parts.uri.path();
        // What a kubelet asks, with an address as Host and without a credential, gets the bare status.
        if let Some((status, word)) = self.probed(path) {
            only(&parts.method, "GET, HEAD")?;
            return Ok(whole(status, "text/plain; charset=utf-8", word));
        }
        // The page holds no data: it asks for that with the token.
        if path == "/" {
            only(&parts.method, "GET, HEAD")?;
            return Ok(page::response(&self.page_policy));
        }
        guard::admit(parts, peer, (&self.settings, &self.shown.load().hosts)).await?;
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
            ["api", "config"] => Ok(json_answer(&self.shown.load().config)),
            ["api", "requests"] => self.requests(parts.uri.query().unwrap_or_default()).await,
            _ => Err(NO_SUCH_CALL),
        }
    }

    /// The bare status for a probe, and a word for people; nothing for another path. Whether we live depends on
    /// nothing but that somebody answers.
    #[must_use]
    pub fn probed(&self, path: &str) -> Option<(StatusCode, &'static str)> {
        match path {
            "/livez" => Some((StatusCode::OK, "ok\n")),
            "/readyz" => Some(match self.health().readiness() {
                (true, "ready") => (StatusCode::OK, "ready\n"),
                (true, _) => (StatusCode::OK, "degraded\n"),
                (false, "stopping") => (StatusCode::SERVICE_UNAVAILABLE, "stopping\n"),
                (false, _) => (StatusCode::SERVICE_UNAVAILABLE, "not_ready\n"),
            }),
            _ => None,
        }
    }

    /// What is stored, and purges.
    async fn exports(
        &self,
        parts: &http::request::Parts,
        rest: &[&str],
        peer: &Peer,
    ) -> Result<Response<Body>, Refusal> {
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
        let purged = self.purge(what.transpose()?, peer.via.address()).await?;
        Ok(json_answer(&json!({ "purged": purged })))
    }

    fn metrics(&self, fields: &HeaderMap) -> Response<Body> {
        let accepted = fields.get(ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let (kind, text) = exposition::of(self, accepted.contains("application/openmetrics-text"));
        whole(StatusCode::OK, kind, text)
    }

    fn now(&self) -> Now {
        self.views.clock.now()
    }
}

/// Our documents are data: a browser that is made to show one must do nothing with it.
const NOTHING: HeaderValue = HeaderValue::from_static("default-src 'none'; frame-ancestors 'none'; sandbox");

fn only(method: &Method, allow: &'static str) -> Result<(), Refusal> {
    if [Method::GET, Method::HEAD].contains(method) { Ok(()) } else { Err(method_not_allowed(allow)) }
}

/// A method may be as long as a head.
fn short(method: &Method) -> &str {
    Some(method.as_str()).filter(|method| method.len() <= 32).unwrap_or("(long)")
}

fn refused(refusal: &Refusal) -> Response<Body> {
    let Refusal { status, code, title, detail, allow } = refusal;
    let error = json!({ "error": { "code": code, "title": title, "detail": detail } });
    let mut response = json_answer(&error);
    *response.status_mut() = *status;
    if let Some(allow) = allow {
        response.headers_mut().insert(ALLOW, HeaderValue::from_static(allow));
    }
    if *status == StatusCode::UNAUTHORIZED {
        let challenge = HeaderValue::from_static("Bearer realm=\"exportgate admin\"");
        response.headers_mut().insert(WWW_AUTHENTICATE, challenge);
    }
    response
}

fn json_answer(value: &Value) -> Response<Body> {
    whole(StatusCode::OK, "application/json", value.to_string())
}

fn document(text: &'static str) -> Response<Body> {
    whole(StatusCode::OK, "application/json", text)
}

fn whole(status: StatusCode, kind: &'static str, body: impl Into<Bytes>) -> Response<Body> {
    let mut response = Response::new(Either::Left(Full::new(body.into())));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

/// A time as RFC 3339 writes it, in UTC; nothing where it cannot.
fn time(at: SystemTime) -> Value {
    use std::fmt::Write as _;
    let mut text = String::new();
    match write!(text, "{}", humantime::format_rfc3339_seconds(at)) {
        Ok(()) => Value::String(text),
        Err(_) => Value::Null,
    }
}

/// A panic while it was locked left it whole: each change is one call.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
