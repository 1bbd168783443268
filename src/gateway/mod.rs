//! The request path: every request goes through [`Gateway::respond`], top to bottom.

mod answer;
mod exchange;
mod failure;
mod fields;
mod forward;
mod reply;
mod rules;
mod spans;
mod via;

use arc_swap::ArcSwap;
use bytes::Bytes;
use http::header::{CONNECTION, VIA};
use http::request::Parts;
use http::{Request, Response, StatusCode, Version};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::{Body as _, Incoming};
use std::sync::Arc;
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout, timeout_at};
use uuid::Uuid;

use crate::access::{Access, Permit};
use crate::cache::{Boarding, Cache, Directives, Entry, Flights, Key, Member, Waiter};
use crate::clock::Clock;
use crate::credential::{Credential, Credentials};
use crate::journal::{Journal, OnFailure};
use crate::route::{self, ExportCall, Operation, OtherCall, Route};
use crate::shutdown::Shutdown;
use crate::telemetry::metrics::Metrics;
use crate::telemetry::trace::Traces;
use crate::transport::{Body, Peer, Streamed};
use crate::upstream::Upstream;

use exchange::{Exchange, Outcome, Unanswered, Why};
use failure::{Failure, FailureKind};
use forward::{Errand, Landed};
use rules::Rules;
use via::Keep;

pub use rules::{Routes, Settings};

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

    /// Answers a request.
    pub async fn respond(self: Arc<Self>, request: Request<Incoming>, peer: Arc<Peer>) -> Response<Body> {
        let exchange = Exchange::begin(self.clock.now(), request.method(), peer.via, &self.unknown);
        let mut unanswered = Unanswered::new(exchange, &self.metrics, &self.clock);
        let exchange = unanswered.exchange();
        exchange.trace = self.traces.as_ref().and_then(|to| to.begin(exchange.id, None));
        let version = request.version();
        let answer = self.answer(exchange, request, &peer).await;
        let exchange = unanswered.answered();
        let failure = answer.as_ref().err().cloned();
        let mut response = answer.unwrap_or_else(|failure| reply::failure(&failure, exchange.id));
        if version >= Version::HTTP_2 {
            // HTTP/2 has no such field (RFC 9113 §8.2.2).
            response.headers_mut().remove(CONNECTION);
        }
        exchange.stamp(response.headers_mut());
        let now = self.clock.now();
        exchange.count(&self.metrics, now, (response.status(), failure.as_ref()));
        exchange.log(now, response.status(), response.headers(), failure.as_ref());
        if let Some(traces) = &self.traces {
            exchange.trace(traces, now, (response.status(), response.headers()), failure.as_ref());
        }
        response
    }

    /// The path.
    async fn answer(
        self: &Arc<Self>,
        exchange: &mut Exchange,
        request: Request<Incoming>,
        peer: &Peer,
    ) -> Result<Response<Body>, Failure> {
        let rules = self.rules.load_full();
        let deadline = Instant::from_std(exchange.started.mono) + rules.request_timeout;
        let (parts, body) = request.into_parts();

        // 1. See that the request did not come from ourselves, and identify who asks.
        let via_of = |keep| {
            via::append(&parts.headers, parts.version, (&self.pseudonym, keep)).map_err(FailureKind::from)
        };
        if parts.headers.contains_key(VIA) {
            let _ = via_of(Keep::All)?;
        }
        let principal = self.access.identify(&parts, peer, exchange.started).await;
        let principal = principal.map_err(FailureKind::from)?;
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
        let permitted = self.access.permit(&principal, &route, exchange.started.mono);
        let permit = permitted.map_err(|why| FailureKind::not_permitted(why, self.access.hides()))?;
        let credential = self.credentials.choose(route.scopes()).ok_or(FailureKind::NoCredential)?;

        let is_shared = route.is_shared();
        // What goes up is put together only where something goes up.
        let request = exchange.id;
        let (client, trace) = (Arc::clone(&exchange.client), exchange.trace.clone());
        let errand = |permit: Permit| -> Result<Errand, Failure> {
            let keep = if is_shared { Keep::Gateways } else { Keep::All };
            let fields = if is_shared { fields::for_get } else { fields::for_one };
            Ok(Errand {
                member: Member { request, client },
                fields: fields(&parts.headers, &rules.forward_headers),
                via: via_of(keep)?,
                sent_id: fields::request_id(&parts.headers),
                credential: Arc::clone(&credential),
                permit: Arc::new(permit),
                share: principal.share(),
                deadline,
                trace,
            })
        };
        match route {
            Route::Export(mut call) => {
                if let Some(version) = &rules.default_version {
                    call.query.default_version(version);
                }
                // 4. Look up.
                let looked_up = self.look_up(exchange, &call, (&parts, &rules), &credential)?;
                let (errand, looked_up) = match looked_up {
                    Found::Answer(response) => return Ok(response),
                    Found::Ending(response, key) => {
                        self.refresh(&call, errand(permit)?, key);
                        return Ok(response);
                    }
                    Found::Nothing(missed) => (errand(permit)?, missed),
                };
                let body = if is_shared { Bytes::new() } else { Box::pin(read_body(&rules, body)).await? };
                // The permit is held until the answer is there, whoever fetches it.
                let _permit = Arc::clone(&errand.permit);
                let (waiter, stale) = match self.board(exchange, (call, &parts), (errand, body), looked_up)? {
                    Boarded::Answer(response) => return Ok(response),
                    Boarded::Waiting(waiter, stale) => (waiter, stale),
                };
                // 8. Reply.
                let landed = Box::pin(self.landed(exchange, waiter, &parts, deadline)).await;
                // The try took its time; the links must live still.
                let now = self.clock.now();
                match stale.filter(|entry| is_no_use(&landed) && entry.links_live(now)) {
                    Some(entry) => Ok(exchange.stale(&entry, &parts.headers, now, Some("stale-if-error"))),
                    None => landed,
                }
            }
            Route::Other(call) => {
                let body = Streamed::new(body, deadline);
                let errand = errand(permit)?;
                Box::pin(self.other(exchange, call, (errand, body), deadline)).await
            }
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
            let key = Key::text(
                (&self.upstream_name, &credential.cache_name),
                call,
                &rules.forward_headers,
                &parts.headers,
            );
            match self.cache.find(&key) {
                None => (Why::UriMiss, Some(key)),
                Some(entry) if !entry.is_fresh(now) => {
                    // What is past its freshness is of use while Snyk cannot be asked, if its links live.
                    stale = Some(entry)
                        .filter(|entry| entry.links_live(now) && entry.satisfies(&directives, now));
                    if let Some(entry) = &stale
                        && self.upstream.is_held(&credential.name)
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

    /// 5. Collapse: the first to ask has it fetched, everybody waits for it.
    fn board(
        self: &Arc<Self>,
        exchange: &mut Exchange,
        (call, parts): (ExportCall, &Parts),
        (errand, body): (Errand, Bytes),
        Missed { directives, why, key, stale }: Missed,
    ) -> Result<Boarded, Failure> {
        let now = exchange.started;
        let member = errand.member.clone();
        let boarding = key.as_ref().map(|key| {
            let usable = |entry: &Arc<Entry>| entry.is_fresh(now) && entry.satisfies(&directives, now);
            let anew = directives.no_cache || directives.max_age == Some(0);
            self.flights.board(key, (member.clone(), anew), || self.cache.find(key.as_str()).filter(usable))
        });
        let (waiter, lead) = match boarding {
            None => {
                let (lead, waiter) = self.flights.alone(member);
                (waiter, Some(lead))
            }
            Some(Ok(Boarding::Lead(lead, waiter))) => (waiter, Some(lead)),
            Some(Ok(Boarding::Follow(waiter))) => (waiter, None),
            Some(Ok(Boarding::Full)) => return Err(FailureKind::TooManyFollowers.into()),
            Some(Err(entry)) => return Ok(Boarded::Answer(exchange.hit(&entry, &parts.headers))),
        };
        exchange.outcome = Outcome::Forwarded { why, status: None, stored: false, collapsed: lead.is_none() };

        // 6. Forward, 7. record and store: a task of its own, so that no client can cancel it.
        if let Some(lead) = lead {
            self.shutdown.spawn(Arc::clone(self).fetch(call, (errand, body), key, lead));
        }
        Ok(Boarded::Waiting(waiter, stale))
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

    /// Waits for a flight and makes the client's answer of what it brings.
    async fn landed(
        &self,
        exchange: &mut Exchange,
        waiter: Waiter<Landed>,
        parts: &Parts,
        deadline: Instant,
    ) -> Result<Response<Body>, Failure> {
        let landed = timeout_at(deadline, waiter.landed()).await.map_err(|_| FailureKind::Deadline)?;
        let landing = landed.ok_or(FailureKind::Internal)??;
        exchange.attempt = Some(landing.attempt);
        exchange.sending = Some(landing.sending);
        if let Outcome::Forwarded { status, stored, collapsed, .. } = &mut exchange.outcome {
            (*status, *stored) = (Some(landing.status), landing.entry.is_some());
            exchange.fetched = landing.trace.clone().filter(|_| *collapsed);
        }
        let fields = landing.fields.clone();
        Ok(match &landing.entry {
            Some(entry) => reply::stored(entry, fields, &parts.headers),
            None => reply::whole(landing.status, fields, landing.body.clone()),
        })
    }

    /// A call that is no export call: streamed, never stored or shared.
    async fn other(
        self: &Arc<Self>,
        exchange: &mut Exchange,
        call: OtherCall,
        (errand, body): (Errand, Streamed),
        deadline: Instant,
    ) -> Result<Response<Body>, Failure> {
        self.refuse_unrecorded()?;
        exchange.outcome =
            Outcome::Forwarded { why: Why::Bypass, status: None, stored: false, collapsed: false };
        let (mut answer, answered) = oneshot::channel();
        let gateway = Arc::clone(self);
        self.shutdown.spawn(async move {
            // Who leaves while waiting is not sent; who leaves later gets nothing, and the record is made all
            // the same.
            let turn = tokio::select! {
                turn = gateway.turn_of_other(&errand) => turn,
                () = answer.closed() => return,
            };
            let came = match turn {
                Ok(pass) => gateway.pass_through(call, (errand, body), pass).await,
                Err(failure) => Err(failure),
            };
            let _ = answer.send(came);
        });
        let answered = timeout_at(deadline, answered).await.map_err(|_| FailureKind::Deadline)?;
        let (attempt, sending, response) = answered.map_err(|_| FailureKind::Internal)??;
        (exchange.attempt, exchange.sending) = (Some(attempt), Some(sending));
        if let Outcome::Forwarded { status, .. } = &mut exchange.outcome {
            *status = Some(response.status());
        }
        let (head, body) = response.into_parts();
        Ok(reply::streamed(head.status, fields::end_to_end(head.headers, self.upstream.root()), body))
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

/// Reads the body of a start call, bounded in size and time.
async fn read_body(rules: &Rules, body: Incoming) -> Result<Bytes, Failure> {
    if body.size_hint().lower() > rules.max_body as u64 {
        return Err(FailureKind::BodyTooLarge.into());
    }
    let whole = Limited::new(body, rules.max_body).collect();
    match timeout(rules.body_timeout, whole).await {
        Err(_) => Err(FailureKind::BodyTimeout.into()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(FailureKind::BodyTooLarge.into()),
        Ok(Err(error)) => Err(Failure { source: Some(error.into()), ..FailureKind::BodyIncomplete.into() }),
        Ok(Ok(whole)) => Ok(whole.to_bytes()),
    }
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

/// How an export call gets its answer.
enum Boarded {
    /// It was stored a moment ago.
    Answer(Response<Body>),
    /// It is on its way.
    Waiting(Waiter<Landed>, Option<Arc<Entry>>),
}

/// Whether Snyk could not be asked, or gave nothing but its trouble: then an older answer is better than none
/// (RFC 5861 §4).
fn is_no_use(landed: &Result<Response<Body>, Failure>) -> bool {
    match landed {
        Ok(response) => {
            response.status().is_server_error() || response.status() == StatusCode::TOO_MANY_REQUESTS
        }
        Err(failure) => failure.kind.is_about_snyk(),
    }
}
