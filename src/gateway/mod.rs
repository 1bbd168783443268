//! The request path: every request goes through [`Gateway::respond`], top to bottom as far as it goes without
//! waiting, and from there on in `later`.

mod answer;
mod document;
mod exchange;
mod failure;
mod fields;
mod forward;
mod later;
mod reply;
mod rules;
mod spans;
mod via;

use std::future::{Ready, ready};
use std::pin::Pin;
use std::sync::Arc;

use arc_swap::ArcSwap;
use bytes::Bytes;
use futures_util::future::Either;
use http::header::{CONNECTION, VIA};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Version};
use hyper::body::{Body as _, Incoming};
use uuid::Uuid;

use crate::access::{Access, Exceeded, NotPermitted, Permit, Principal};
use crate::cache::{Cache, Directives, Entry, Flights, Key, Member};
use crate::clock::Clock;
use crate::credential::{Credential, Credentials};
use crate::export::{ExportCall, Operation};
use crate::journal::{Journal, OnFailure};
use crate::listener::KEEP_ALIVE;
use crate::route::{self, OtherCall, Route};
use crate::shutdown::Shutdown;
use crate::telemetry::metrics::Metrics;
use crate::telemetry::trace::Traces;
use crate::transport::{Body, CheckedBody, Memory, Peer, SMALL};
use crate::upstream::host::Resource;
use crate::upstream::{Api, FailedKind, Lane, Upstream};

use exchange::{Exchange, Unanswered, Why};
use failure::{Failure, FailureKind};
use forward::{Errand, Landed};
use later::Asked;
use rules::Rules;
use via::Keep;

pub use rules::{Routes, Settings};

/// An answer: at hand, or on its way.
pub type Answering = Either<Ready<Response<Body>>, Pin<Box<dyn Future<Output = Response<Body>> + Send>>>;

/// What a gateway works with.
#[derive(Debug)]
pub struct Collaborators {
    /// The clock.
    pub clock: Clock,
    /// The upstream.
    pub upstream: Upstream,
    /// Who calls, and what they may do.
    pub access: Arc<Access>,
    /// The credentials.
    pub credentials: Arc<Credentials>,
    /// The journal.
    pub journal: Journal,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// Where spans go, where requests are traced.
    pub traces: Option<Traces>,
    /// Where bodies are gathered.
    pub memory: Memory,
    /// Where tasks run.
    pub shutdown: Shutdown,
}

/// Everything between a request and its answer.
#[derive(Debug)]
pub struct Gateway {
    clock: Clock,
    upstream: Upstream,
    upstream_name: Arc<str>,
    access: Arc<Access>,
    credentials: Arc<Credentials>,
    journal: Journal,
    metrics: Arc<Metrics>,
    traces: Option<Traces>,
    cache: Cache,
    flights: Flights<Landed>,
    memory: Memory,
    shutdown: Shutdown,
    rules: ArcSwap<Rules>,
    /// Our name in `Via`: one for each instance, so that a loop is seen and a chain is not.
    pseudonym: String,
    /// The name of clients that are not known (yet).
    unknown: Arc<str>,
}

impl Gateway {
    /// Puts a gateway together.
    #[must_use]
    pub fn new(settings: &Settings<'_>, with: Collaborators) -> Self {
        Self {
            upstream_name: with.upstream.root().to_string().into(),
            clock: with.clock,
            upstream: with.upstream,
            access: with.access,
            credentials: with.credentials,
            journal: with.journal,
            metrics: with.metrics,
            traces: with.traces,
            cache: Cache::new(settings.cache),
            flights: Flights::new(settings.cache.max_followers),
            memory: with.memory,
            shutdown: with.shutdown,
            rules: ArcSwap::from_pointee(settings.into()),
            unknown: "unknown".into(),
            pseudonym: format!("{}{:08x}", via::PSEUDONYM, Uuid::new_v4().as_fields().0),
        }
    }

    /// Goes by other settings from now on. `cache.max_bytes` and `cache.max_followers` stay as they are.
    pub fn set(&self, settings: &Settings<'_>) {
        self.rules.store(Arc::new(settings.into()));
    }

    /// What is stored.
    #[must_use]
    pub fn cache(&self) -> Cache {
        self.cache.clone()
    }

    /// How many clients wait for answers that are on their way.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.flights.waiting()
    }

    /// How many requests wait for their turn to be sent.
    #[must_use]
    pub fn queued(&self) -> usize {
        self.upstream.waiting()
    }

    /// Answers a request: at once where nothing need be waited for, as with a hit. Such an answer is counted and
    /// logged when it is made, taken or not.
    pub fn respond(self: &Arc<Self>, request: Request<Incoming>, peer: &Arc<Peer>) -> Answering {
        let (parts, body) = request.into_parts();
        let mut exchange = Exchange::begin(self.clock.now(), &parts.method, peer.via, &self.unknown);
        exchange.trace = self.traces.as_ref().and_then(|to| to.begin(exchange.id, None));
        let rules = self.rules.load_full();
        let next = match self.at_once(&mut exchange, (&parts, &rules), peer) {
            Ok(Step::Answered(response)) if !is_large(&response) && body.is_end_stream() => {
                return Either::Left(ready(self.finish(&exchange, parts.version, Ok(response))));
            }
            Err(failure) if body.is_end_stream() => {
                return Either::Left(ready(self.finish(&exchange, parts.version, Err(failure))));
            }
            Ok(Step::Answered(response)) => Next::Take(Box::new(Ok(response))),
            Err(failure) => Next::Take(Box::new(Err(failure))),
            Ok(Step::Waits(next)) => next,
        };
        let (unanswered, version) = (Unanswered::new(exchange, Arc::clone(self)), parts.version);
        let asked =
            Asked { parts, body: Some(CheckedBody::new(body, version)), rules, peer: Arc::clone(peer) };
        Either::Right(Box::pin(Arc::clone(self).respond_later(unanswered, asked, next)))
    }

    /// The path, as far as it goes without waiting: to the answer, to a refusal, or to what there is to wait for.
    fn at_once(
        self: &Arc<Self>,
        exchange: &mut Exchange,
        (parts, rules): (&Parts, &Rules),
        peer: &Peer,
    ) -> Result<Step, Failure> {
        // 1. See that the request did not come from ourselves, and identify who asks.
        if parts.headers.contains_key(VIA) {
            let _ = self.via(parts, Keep::All)?;
        }
        match self.access.identify(parts, peer, exchange.started) {
            Some(identified) => {
                let principal = identified.map_err(FailureKind::from)?;
                Ok(match self.decide(exchange, (parts, rules), &principal)? {
                    Decided::Answered(response) => Step::Answered(response),
                    Decided::Ask(ask) => Step::Waits(Next::Ask(ask)),
                })
            }
            None => Ok(Step::Waits(Next::Identify)),
        }
    }

    /// The path from there on, for who is known.
    fn decide(
        self: &Arc<Self>,
        exchange: &mut Exchange,
        (parts, rules): (&Parts, &Rules),
        principal: &Principal,
    ) -> Result<Decided, Failure> {
        exchange.client = Arc::clone(&principal.name);
        // Whose trace it belongs to, and whether it is traced, is for those to say who are known.
        if let Some(traces) = &self.traces {
            exchange.trace = traces.begin(exchange.id, Some(&parts.headers));
        }

        // 2. Recognise what is asked. From here on, only what was parsed counts.
        if parts.uri.path_and_query().is_some_and(|target| target.as_str().len() > rules.max_target) {
            return Err(FailureKind::TargetTooLong.into());
        }
        let route = route::recognise(&parts.method, &parts.uri, rules.forward_other)?;
        exchange.asks(&route);

        // 3. Permit it: before the cache is looked at, so that who may not know learns nothing. The permit
        //    is held until the answer is there, and by a fetch until that has ended, whoever leaves.
        let permitted = self.access.permit(principal, &route, exchange.started.mono);
        let credential = self.credentials.choose(route.scopes());
        let permitted = match (permitted, &credential) {
            // The client may ask again for what it asked for before, and left.
            (Err(NotPermitted::Exceeded(Exceeded::AtOnce)), Some(credential))
                if self.has_left(principal, &route, (parts, rules), credential) =>
            {
                self.access.permit_to_join(principal, &route, exchange.started.mono)
            }
            (permitted, _) => permitted,
        };
        let permit = permitted.map_err(|why| FailureKind::not_permitted(why, self.access.hides()))?;
        let credential = credential.ok_or(FailureKind::NoCredential)?;

        let mut call = match route {
            Route::Export(call) => call,
            Route::Other(call) => {
                let errand = self.errand(exchange, (parts, rules), (principal, permit, credential), false)?;
                return Ok(Decided::Ask(Box::new(Ask::Other(call, errand))));
            }
        };
        if let Some(version) = &rules.default_version {
            call.query.default_version(version);
        }

        // 4. Look up.
        let looked_up = self.look_up(exchange, &call, (parts, rules), &credential)?;
        let is_shared = call.is_shared();
        let errand = |exchange: &Exchange, permit| {
            self.errand(exchange, (parts, rules), (principal, permit, credential), is_shared)
        };
        Ok(match looked_up {
            Found::Answer(response) => Decided::Answered(response),
            Found::Ending(response, key) => {
                // It is nobody's request: it takes no place of the reader's.
                self.refresh(&call, errand(exchange, Permit::unlimited())?, key);
                Decided::Answered(response)
            }
            Found::Nothing(missed) => {
                let errand = errand(exchange, permit)?;
                Decided::Ask(Box::new(Ask::Export(call, errand, missed)))
            }
        })
    }

    /// Whether a flight of `principal`'s answers this, that it has left: what it caused holds its place still.
    fn has_left(
        &self,
        principal: &Principal,
        route: &Route,
        (parts, rules): (&Parts, &Rules),
        credential: &Credential,
    ) -> bool {
        let Route::Export(call) = route else { return false };
        let mut call = call.clone();
        if let Some(version) = &rules.default_version {
            call.query.default_version(version);
        }
        call.is_shared()
            && self.flights.was_left_by(&self.key(&call, (parts, rules), credential), &principal.name)
    }

    /// The cache key of a call that is shared.
    fn key(&self, call: &ExportCall, (parts, rules): (&Parts, &Rules), credential: &Credential) -> String {
        let names = (&*self.upstream_name, &*credential.cache_name);
        Key::text(names, call, &rules.forward_headers, &parts.headers)
    }

    /// What goes up, put together only where something goes up.
    fn errand(
        &self,
        exchange: &Exchange,
        (parts, rules): (&Parts, &Rules),
        (principal, permit, credential): (&Principal, Permit, Arc<Credential>),
        is_shared: bool,
    ) -> Result<Errand, Failure> {
        let keep = if is_shared { Keep::Gateways } else { Keep::All };
        let fields = if is_shared { fields::for_get } else { fields::for_one };
        Ok(Errand {
            member: Member { request: exchange.id, client: Arc::clone(&exchange.client) },
            fields: fields(&parts.headers, &rules.forward_headers),
            via: self.via(parts, keep)?,
            sent_id: fields::request_id(&parts.headers),
            credential,
            permit: Arc::new(permit),
            share: principal.share(),
            deadline: rules.deadline(exchange.started),
            trace: exchange.trace.clone(),
        })
    }

    /// The `Via` to send on.
    fn via(&self, parts: &Parts, keep: Keep) -> Result<HeaderValue, Failure> {
        let appended = via::append(&parts.headers, parts.version, (&self.pseudonym, keep));
        Ok(appended.map_err(FailureKind::from)?)
    }

    /// Says how it was answered: in the answer, the metrics, the log and the trace.
    fn finish(
        &self,
        exchange: &Exchange,
        version: Version,
        answer: Result<Response<Body>, Failure>,
    ) -> Response<Body> {
        let (mut response, failure) = match answer {
            Ok(response) => (response, None),
            Err(failure) => (reply::failure(&failure, exchange.id), Some(failure)),
        };
        if version >= Version::HTTP_2 {
            // HTTP/2 has no such fields (RFC 9113 §8.2.2).
            response.headers_mut().remove(CONNECTION);
            response.headers_mut().remove(KEEP_ALIVE);
        }
        exchange.stamp(response.headers_mut());
        let now = self.clock.now();
        exchange.count(&self.metrics, now, (Some(response.status()), failure.as_ref()));
        exchange.log(now, response.status(), response.headers(), failure.as_ref());
        if let Some(traces) = &self.traces {
            exchange.trace(traces, now, (response.status(), response.headers()), failure.as_ref());
        }
        if exchange.method == Method::HEAD { reply::without_body(response) } else { response }
    }

    /// Says that a client left before its answer: in the metrics, the log and the trace.
    fn was_left(&self, exchange: &Exchange) {
        let (now, none) = (self.clock.now(), HeaderMap::new());
        let failure = Failure::from(FailureKind::Abandoned);
        exchange.count(&self.metrics, now, (None, Some(&failure)));
        exchange.log(now, client_left(), &none, Some(&failure));
        if let Some(traces) = &self.traces {
            exchange.trace(traces, now, (client_left(), &none), Some(&failure));
        }
    }

    /// What is stored for an export call, where it answers it. A start is never looked up, stored or shared;
    /// `no-store` says the same of a read.
    fn look_up(
        &self,
        exchange: &mut Exchange,
        call: &ExportCall,
        (parts, rules): (&Parts, &Rules),
        credential: &Credential,
    ) -> Result<Found, Failure> {
        let directives = Directives::of_request(&parts.headers);
        let now = exchange.started;
        let mut stale = None;
        let (why, key) = if call.operation == Operation::Start {
            (Why::Method, None)
        } else if directives.no_store {
            (Why::Request, None)
        } else {
            let key = self.key(call, (parts, rules), credential);
            match self.cache.find(&key) {
                None => (Why::UriMiss, Some(key)),
                Some(entry) if !entry.is_fresh(now) => {
                    // What is past its freshness is of use while Snyk cannot be asked, if its links live.
                    stale = Some(entry)
                        .filter(|entry| entry.links_live(now) && entry.satisfies(&directives, now));
                    if let Some(entry) = &stale
                        && self.is_held(call, credential)
                    {
                        return Ok(Found::Answer(exchange.stale(entry, &parts.headers, now, None)));
                    }
                    (Why::Stale, Some(key))
                }
                Some(entry) if !entry.satisfies(&directives, now) => (Why::Request, Some(key)),
                Some(entry) => {
                    let response = exchange.hit(&entry, &parts.headers);
                    return Ok(if rules.cache.refresh_ahead && entry.wants_refresh(now) {
                        Found::Ending(response, Key::from(key))
                    } else {
                        Found::Answer(response)
                    });
                }
            }
        };
        if directives.only_if_cached {
            return Err(FailureKind::OnlyIfCached.into());
        }
        self.refuse_unrecorded()?;
        Ok(Found::Nothing(Missed { directives, why, key: key.map(Key::from), stale }))
    }

    /// Whether Snyk cannot be asked this at the moment.
    fn is_held(&self, call: &ExportCall, credential: &Credential) -> bool {
        let lane = Lane { credential: Arc::clone(&credential.name), api: Api::Rest };
        self.upstream.is_held(&lane, &Resource::from(call))
    }

    /// Fetches an entry again ahead of its end, once for all its readers, so that none of them waits for it.
    fn refresh(self: &Arc<Self>, call: &ExportCall, errand: Errand, key: Key) {
        // An answer that may not leave is not worth asking for.
        if self.refuse_unrecorded().is_ok()
            && let Some(lead) = self.flights.ahead(&key)
        {
            let errand = Errand { sent_id: Uuid::new_v4(), ..errand };
            let fetching = Arc::clone(self).fetch(call.clone(), (errand, Bytes::new()), Some(key), lead);
            self.shutdown.spawn(fetching);
        }
    }

    /// With `journal.on_failure = "refuse"`, nothing goes upstream that could not be recorded.
    fn refuse_unrecorded(&self) -> Result<(), Failure> {
        let refuses = self.rules.load().on_journal_failure == OnFailure::Refuse && self.journal.is_failing();
        if refuses { Err(FailureKind::Journal.into()) } else { Ok(()) }
    }
}

/// What a client is told whose request is no call that we answer: status, code and what to do.
#[must_use]
pub fn told_of(refusal: route::Refusal) -> String {
    let told = FailureKind::Refused(refusal).told();
    format!("{} {}: {}", told.status.as_u16(), told.code, told.detail)
}

/// Advice to whoever runs the gateway about a request that got no answer from Snyk.
#[must_use]
pub fn advice_on(failed: FailedKind) -> &'static str {
    FailureKind::Upstream(failed).told().detail
}

/// Whether an answer counts on its connection until it was taken. One that streams is never held whole.
fn is_large(response: &Response<Body>) -> bool {
    matches!(response.body(), Body::Left(whole) if whole.size_hint().lower() > SMALL as u64)
}

/// nginx's word for a client that closed its connection before the answer. It is never sent.
fn client_left() -> StatusCode {
    StatusCode::from_u16(499).unwrap_or(StatusCode::BAD_REQUEST)
}

/// What looking up an export call came to.
enum Found {
    /// The cache answers it.
    Answer(Response<Body>),
    /// The same, and it should be fetched again ahead of its end.
    Ending(Response<Body>, Key),
    /// It must be asked for.
    Nothing(Missed),
}

/// An export call that the cache does not answer.
struct Missed {
    directives: Directives,
    why: Why,
    /// Under which key the answer may be shared.
    key: Option<Key>,
    /// What is past its freshness, and of use where Snyk gives nothing better.
    stale: Option<Arc<Entry>>,
}

/// How far a request comes without waiting.
#[expect(clippy::large_enum_variant, reason = "most requests are hits, which need no box this way")]
enum Step {
    /// To its answer.
    Answered(Response<Body>),
    /// To something that takes its time.
    Waits(Next),
}

/// What a request waits for.
enum Next {
    /// The issuer's newest keys: none that is here signed its token.
    Identify,
    /// An answer, of a flight or of Snyk.
    Ask(Box<Ask>),
    /// Room for its answer, or the rest of its body.
    Take(Box<Result<Response<Body>, Failure>>),
}

/// What becomes of a request of somebody who is known.
#[expect(clippy::large_enum_variant, reason = "most requests are hits, which need no box this way")]
enum Decided {
    /// Its answer is at hand.
    Answered(Response<Body>),
    /// It must be asked for.
    Ask(Box<Ask>),
}

/// What is to be asked for.
enum Ask {
    /// An export call.
    Export(ExportCall, Errand, Missed),
    /// Any other call.
    Other(OtherCall, Errand),
}
