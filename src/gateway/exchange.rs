//! One client request and its answer: the header fields, the log event, the metrics and (in `spans`) the span are
//! rendered from this value, so that they cannot disagree.

use std::fmt::Write as _;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::SystemTime;

use http::{HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode};
use uuid::Uuid;

use super::failure::{Failure, FailureKind};
use super::forward::Sending;
use super::reply::{CACHE_STATUS, PLACE, REQUEST_ID};
use super::{Gateway, fields, reply};
use crate::cache::Entry;
use crate::clock::Now;
use crate::export::{Id, ScopeKind};
use crate::route::Route;
use crate::telemetry::EXCHANGE;
use crate::telemetry::metrics::{Answered, Metrics, Served};
use crate::telemetry::trace::Trace;
use crate::transport::{Body, Via};

const ATTEMPTS: HeaderName = HeaderName::from_static("exportgate-attempts");
const QUEUED_MS: HeaderName = HeaderName::from_static("exportgate-queued-ms");

/// What is known of one exchange; it fills as the request goes its way.
#[derive(Debug)]
pub(super) struct Exchange {
    /// The `Exportgate-Request-Id`.
    pub(super) id: Uuid,
    /// When the request came.
    pub(super) started: Now,
    /// Who sent it.
    pub(super) client: Arc<str>,
    /// From where, where that is an address.
    pub(super) address: Option<IpAddr>,
    pub(super) method: Method,
    pub(super) operation: &'static str,
    pub(super) scope: Option<(ScopeKind, Id)>,
    pub(super) export: Option<Id>,
    /// How it was answered.
    pub(super) outcome: Outcome,
    /// The attempt that the answer came from.
    pub(super) attempt: Option<Uuid>,
    /// How that came to be sent.
    pub(super) sending: Option<Sending>,
    /// The `Age` of a stored answer, in seconds.
    age: Option<u64>,
    /// Its place in a trace, where it is traced.
    pub(super) trace: Option<Trace>,
    /// The place of the attempt that another client's traced request made for it.
    pub(super) fetched: Option<Trace>,
}

/// How a request was answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    /// By ourselves, without the cache or the upstream.
    Own,
    /// From the cache.
    Hit {
        /// Seconds of freshness left.
        ttl: u64,
        /// Whether the links' end is not certain.
        uncertain: bool,
    },
    /// From the cache, past its freshness.
    Stale {
        /// Seconds that its freshness is over.
        for_seconds: u64,
        /// Why, where asking was tried.
        detail: Option<&'static str>,
    },
    /// By the upstream.
    Forwarded {
        /// Why the cache did not answer.
        why: Why,
        /// The upstream's status, where it gave one.
        status: Option<StatusCode>,
        /// Whether the answer was stored.
        stored: bool,
        /// Why a finished export was not.
        not_stored: Option<&'static str>,
        /// Whether another client's request fetched it.
        collapsed: bool,
    },
}

impl Outcome {
    /// A request that goes upstream, and has no answer yet.
    pub(super) const fn forwarded(why: Why, collapsed: bool) -> Self {
        Self::Forwarded { why, status: None, stored: false, not_stored: None, collapsed }
    }
}

/// Why a request went upstream (the `fwd` parameter, RFC 9211 §2.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Why {
    /// Nothing is stored for it.
    UriMiss,
    /// What is stored is not fresh.
    Stale,
    /// What is stored is fresh, but the client's directives forbid it.
    Request,
    /// It is none of the calls that are stored.
    Bypass,
    /// It is no GET.
    Method,
}

impl Why {
    const fn as_str(self) -> &'static str {
        match self {
            Self::UriMiss => "uri-miss",
            Self::Stale => "stale",
            Self::Request => "request",
            Self::Bypass => "bypass",
            Self::Method => "method",
        }
    }
}

/// An exchange that has no answer yet. Where it is dropped, its client has left.
pub(super) struct Unanswered {
    exchange: Exchange,
    gateway: Arc<Gateway>,
    is_answered: bool,
}

impl Unanswered {
    pub(super) const fn new(exchange: Exchange, gateway: Arc<Gateway>) -> Self {
        Self { exchange, gateway, is_answered: false }
    }

    /// It, on its way.
    pub(super) const fn exchange(&mut self) -> &mut Exchange {
        &mut self.exchange
    }

    /// It has its answer.
    pub(super) const fn answered(&mut self) -> &mut Exchange {
        self.is_answered = true;
        &mut self.exchange
    }
}

impl Drop for Unanswered {
    /// hyper drops what it has nobody to tell: there is no other place to see it.
    fn drop(&mut self) {
        if !self.is_answered {
            self.gateway.was_left(&self.exchange);
        }
    }
}

impl Exchange {
    /// A request that just came.
    pub(super) fn begin(started: Now, method: &Method, via: Via, unknown: &Arc<str>) -> Self {
        Self {
            id: request_id(started),
            started,
            client: Arc::clone(unknown),
            address: via.address().map(|address| address.ip()),
            method: method.clone(),
            operation: "none",
            scope: None,
            export: None,
            outcome: Outcome::Own,
            attempt: None,
            sending: None,
            age: None,
            trace: None,
            fetched: None,
        }
    }

    /// Notes what is asked.
    pub(super) fn asks(&mut self, route: &Route) {
        match route {
            Route::Export(call) => {
                self.operation = call.operation.as_str();
                self.scope = Some((call.scope.kind, call.scope.id.clone()));
                self.export = call.operation.export().cloned();
            }
            Route::Other(_) => self.operation = "other",
        }
    }

    /// Answers from the cache, and notes it.
    pub(super) fn hit(&mut self, entry: &Entry, client: &HeaderMap) -> Response<Body> {
        let now = self.started;
        self.outcome = Outcome::Hit { ttl: entry.ttl(now), uncertain: entry.is_uncertain() };
        self.replay(entry, client, now)
    }

    fn replay(&mut self, entry: &Entry, client: &HeaderMap, now: Now) -> Response<Body> {
        self.attempt = Some(entry.attempt);
        self.age = Some(entry.age(now));
        entry.count_hit();
        reply::hit(entry, client)
    }

    /// Answers with what is past its freshness, and notes it: because nothing may be asked now, or, with
    /// `detail`, after asking failed.
    pub(super) fn stale(
        &mut self,
        entry: &Entry,
        client: &HeaderMap,
        now: Now,
        detail: Option<&'static str>,
    ) -> Response<Body> {
        self.outcome = Outcome::Stale { for_seconds: entry.stale_for(now), detail };
        self.replay(entry, client, now)
    }

    /// Adds our own fields: `Exportgate-Request-Id` to every answer, `Cache-Status` (RFC 9211) where the
    /// cache was asked, `Age` to a stored answer.
    pub(super) fn stamp(&self, fields: &mut HeaderMap) {
        let mut id = [0; uuid::fmt::Hyphenated::LENGTH];
        let mut id = HeaderValue::from_str(self.id.as_hyphenated().encode_lower(&mut id)).ok();
        if let Some(id) = &mut id {
            // It is no secret, but it never comes again, and would push out of HTTP/2's table what does. This has it
            // written as a literal (RFC 7541 §6.2.3).
            id.set_sensitive(true);
        }
        let mut status = self.cache_status().and_then(|text| HeaderValue::from_str(&text).ok());
        let mut age = self.age.map(HeaderValue::from);
        if age.is_some() {
            // The places that were kept for them when it was stored: one walk is cheaper than three look-ups.
            for (name, value) in fields.iter_mut().filter(|(_, value)| value.as_bytes() == PLACE) {
                let ours = match name.as_str() {
                    "age" => &mut age,
                    "exportgate-request-id" => &mut id,
                    "cache-status" => &mut status,
                    _ => continue,
                };
                if let Some(ours) = ours.take() {
                    *value = ours;
                }
            }
        }
        if let Some(id) = id {
            fields.insert(REQUEST_ID, id);
        }
        if let Some(status) = status {
            // Behind what gateways before us said (RFC 9211 §2).
            fields.append(CACHE_STATUS, status);
        }
        if let Some(sending) = self.sending {
            fields.insert(ATTEMPTS, HeaderValue::from(sending.tries));
            let mut queued = sending.queued.as_millis().to_string();
            if let Some(waited_for) = sending.waited_for {
                let _ = write!(queued, "; for={waited_for}");
            }
            if let Ok(value) = HeaderValue::try_from(queued) {
                fields.insert(QUEUED_MS, value);
            }
        }
    }

    /// How it was answered, in a word.
    pub(super) fn served(&self, failure: Option<&Failure>) -> Served {
        match (failure.map(|failure| failure.kind), self.outcome) {
            (Some(kind), _) if kind.is_denial() => Served::Denied,
            (Some(FailureKind::Abandoned), _) => Served::Abandoned,
            (Some(_), _) | (None, Outcome::Own) => Served::Own,
            (None, Outcome::Hit { .. }) => Served::Hit,
            (None, Outcome::Stale { .. }) => Served::Stale,
            (None, Outcome::Forwarded { collapsed: true, .. }) => Served::Collapsed,
            (None, Outcome::Forwarded { why: Why::Bypass | Why::Method, .. }) => Served::Bypass,
            (None, Outcome::Forwarded { .. }) => Served::Miss,
        }
    }

    /// Counts it; without a status, it had no answer.
    pub(super) fn count(
        &self,
        metrics: &Metrics,
        now: Now,
        (status, failure): (Option<StatusCode>, Option<&Failure>),
    ) {
        metrics.answered(&Answered {
            operation: self.operation,
            served: self.served(failure),
            status: status.map(|status| status.as_u16()),
            code: failure.filter(|_| status.is_some()).map(|failure| failure.kind.told().code),
            fresh_for: if let Outcome::Hit { ttl, .. } = self.outcome { Some(ttl) } else { None },
            duration: now.mono.saturating_duration_since(self.started.mono),
        });
    }

    fn cache_status(&self) -> Option<String> {
        let mut text = String::with_capacity(64);
        text.push_str("exportgate");
        match self.outcome {
            Outcome::Own => return None,
            Outcome::Hit { ttl, uncertain } => {
                text.push_str("; hit; ttl=");
                text.push_str(itoa::Buffer::new().format(ttl));
                if uncertain {
                    text.push_str("; detail=links-end-uncertain");
                }
            }
            Outcome::Stale { for_seconds, detail: None } => {
                let _ = write!(text, "; hit; ttl=-{for_seconds}");
            }
            Outcome::Stale { detail: Some(detail), .. } => {
                let _ = write!(text, "; fwd=stale; detail={detail}");
            }
            Outcome::Forwarded { why, status, stored, not_stored, collapsed } => {
                let _ = write!(text, "; fwd={}", why.as_str());
                if let Some(status) = status {
                    let _ = write!(text, "; fwd-status={}", status.as_u16());
                }
                text.push_str(if stored { "; stored" } else { "" });
                text.push_str(if collapsed { "; collapsed" } else { "" });
                if let Some(reason) = not_stored {
                    text.extend(["; detail=", reason]);
                }
            }
        }
        Some(text)
    }

    /// Writes the one log event of this exchange. Everything in it is ours or was parsed; of the answer,
    /// only its status, length and Snyk's id.
    pub(super) fn log(&self, now: Now, status: StatusCode, answer: &HeaderMap, failure: Option<&Failure>) {
        let (cache, why) = match self.outcome {
            Outcome::Own => ("none", None),
            Outcome::Hit { .. } => ("hit", None),
            Outcome::Stale { .. } => ("stale", Some("stale")),
            Outcome::Forwarded { why, collapsed: true, .. } => ("collapsed", Some(why.as_str())),
            Outcome::Forwarded { why, .. } => ("forwarded", Some(why.as_str())),
        };
        let not_stored =
            if let Outcome::Forwarded { not_stored, .. } = self.outcome { not_stored } else { None };
        let error = failure.map(|failure| failure.kind.told().code);
        // A method may be as long as a head.
        let method = Some(self.method.as_str()).filter(|method| method.len() <= 32).unwrap_or("(long)");
        let reason = failure.and_then(|failure| failure.kind.reason());
        let cause =
            failure.and_then(|failure| failure.source.as_deref()).map(|error| crate::chain::chain(error));
        let attempt = self.attempt.or(failure.and_then(|failure| failure.attempt));
        macro_rules! event {
            ($level:ident) => {
                tracing::$level!(
                    target: EXCHANGE,
                    {
                    exchange.id = %self.id,
                    client.name = %self.client,
                    client.address = self.address.map(tracing::field::display),
                    http.request.method = method,
                    http.response.status_code = status.as_u16(),
                    export.operation = self.operation,
                    export.scope.kind = self.scope.as_ref().map(|(kind, _)| kind.as_str()),
                    export.scope.id = self.scope.as_ref().map(|(_, id)| id.as_str()),
                    export.id = self.export.as_ref().map(Id::as_str),
                    cache.status = cache,
                    cache.fwd = why,
                    cache.not_stored = not_stored,
                    snyk.request.id = fields::text(answer, fields::SNYK_REQUEST_ID),
                    attempt.id = attempt.map(tracing::field::display),
                    attempt.tries = self.sending.map(|sending| sending.tries),
                    queue.duration_ms = self.sending.map(|sending| sending.queued.as_secs_f64() * 1_000.0),
                    queue.reason = self.sending.and_then(|sending| sending.waited_for),
                    error.code = error,
                    error.reason = reason,
                    error.cause = cause,
                    duration_ms = millis(now, self.started)
                    },
                    "exchange"
                )
            };
        }
        match failure.map(|failure| failure.kind) {
            // A flood of these is told once.
            Some(FailureKind::TooManyFailures(_)) => event!(debug),
            Some(FailureKind::OnlyIfCached) => event!(info),
            _ if status.is_server_error() => event!(warn),
            _ => event!(info),
        }
    }
}

/// Names a request: a version 7 UUID (RFC 9562 §5.7). It is no secret, so its random bits need not come from the
/// system, which each request would wait for.
fn request_id(now: Now) -> Uuid {
    let since_1970 = now.wall.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let mut random = [0; 10];
    fastrand::fill(&mut random);
    let millis = u64::try_from(since_1970.as_millis()).unwrap_or(u64::MAX);
    uuid::Builder::from_unix_timestamp_millis(millis, &random).into_uuid()
}

fn millis(now: Now, since: Now) -> f64 {
    now.mono.saturating_duration_since(since.mono).as_secs_f64() * 1_000.0
}
