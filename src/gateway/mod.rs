//! The request path. Every request goes through [`Gateway::respond`], top to bottom (decision 0011).

mod body;
mod causes;
mod error_reply;
mod exchange;
mod failure;
mod fields;
mod file_reply;
mod files;
mod log;
mod named;
mod no_file;
mod question;
mod refused_start;
mod reply;
mod rules;
mod spans;
mod table;
mod via;
mod wait;
mod waiting;

use std::sync::Arc;

use arc_swap::ArcSwap;
use http::header::{CONNECTION, VIA};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, Request, Response, Version};
use hyper::body::{Body as _, Incoming};
use uuid::Uuid;

use crate::access::{Access, Permit, PermitError, Principal, QuotaError};
use crate::cache::Directives;
use crate::clock::{Clock, Now};
use crate::credential::Credentials;
use crate::downloads::Downloads;
use crate::files::Files;
use crate::listener::KEEP_ALIVE;
use crate::named::Named;
use crate::retrieval::{Cause, Retrieval, Wanted};
use crate::route::{self, Route};
use crate::shutdown::Shutdown;
use crate::telemetry::metrics::Metrics;
use crate::telemetry::trace::Traces;
use crate::transport::{Body, CheckedBody, Memory, Peer};
use crate::upstream::UpstreamErrorKind;

use body::is_large;
use exchange::{Conclusion, Exchange, Unanswered};
use failure::{Failure, FailureKind};
use files::FilesCaller;
use question::{asker, files_question, pass_through, question};
use via::Keep;
use wait::RequestWait;
use waiting::request_wait;

pub use rules::Settings;
pub use wait::WaitSettings;

/// The parts that a gateway works with.
#[derive(Debug)]
pub struct Collaborators {
    /// The clock.
    pub clock: Clock,
    /// Authentication and policy.
    pub access: Arc<Access>,
    /// The credentials.
    pub credentials: Arc<Credentials>,
    /// The answers.
    pub retrieval: Arc<Retrieval>,
    /// The files.
    pub files: Files,
    /// The downloads.
    pub downloads: Downloads,
    /// The named exports.
    pub named: Named,
    /// The metrics.
    pub metrics: Arc<Metrics>,
    /// The exporter of spans, if requests are traced.
    pub traces: Option<Traces>,
    /// The memory for bodies.
    pub memory: Memory,
    /// The tracker of tasks.
    pub shutdown: Shutdown,
}

/// Everything between a request and its answer.
#[derive(Debug)]
pub struct Gateway {
    clock: Clock,
    access: Arc<Access>,
    credentials: Arc<Credentials>,
    retrieval: Arc<Retrieval>,
    files: Files,
    downloads: Downloads,
    named: Named,
    metrics: Arc<Metrics>,
    traces: Option<Traces>,
    memory: Memory,
    shutdown: Shutdown,
    rules: ArcSwap<Settings>,
    /// Our name in `Via`: one for each instance, so that a loop is seen and a chain is not.
    pseudonym: via::Pseudonym,
    /// The name of clients that are not known (yet).
    unknown: Arc<str>,
}

/// A client's request, and the rules in force when it came.
struct ClientRequest {
    parts: Parts,
    /// Until it is passed on.
    body: Option<CheckedBody>,
    rules: Arc<Settings>,
    peer: Arc<Peer>,
}

impl Gateway {
    /// Puts a gateway together.
    pub(crate) fn new(settings: Settings, with: Collaborators) -> Self {
        Self {
            clock: with.clock,
            access: with.access,
            credentials: with.credentials,
            retrieval: with.retrieval,
            files: with.files,
            downloads: with.downloads,
            named: with.named,
            metrics: with.metrics,
            traces: with.traces,
            memory: with.memory,
            shutdown: with.shutdown,
            rules: ArcSwap::from_pointee(settings),
            unknown: "unknown".into(),
            pseudonym: via::Pseudonym::new(Uuid::new_v4()),
        }
    }

    /// Replaces the settings for requests that come from now on.
    pub fn set(&self, settings: Settings) {
        self.rules.store(Arc::new(settings));
    }

    /// Answers a request. Its exchange begins before the future is polled: a client that leaves before that is recorded
    /// too. This and `answer` are the whole path, top to bottom.
    pub fn respond(
        self: &Arc<Self>,
        request: Request<Incoming>,
        peer: &Arc<Peer>,
    ) -> impl Future<Output = Response<Body>> + Send + use<> {
        let (parts, body) = request.into_parts();
        let mut exchange = Exchange::begin(self.clock.now(), &parts.method, peer.via, &self.unknown);
        exchange.trace = self.traces.as_ref().and_then(|to| to.begin(exchange.id, None));
        let body = Some(CheckedBody::new(body, parts.version));
        let mut request =
            ClientRequest { parts, body, rules: self.rules.load_full(), peer: Arc::clone(peer) };
        let gateway = Arc::clone(self);
        let mut unanswered = Unanswered { exchange, gateway: Arc::clone(self), is_answered: false };
        // A block, and no `async fn`, which would hold its parameters twice: the future of a hit is moved about.
        async move {
            // 1. to 4.
            let answer = gateway.answer(&mut unanswered.exchange, &mut request).await;
            let answer = match gateway.permit_again(&unanswered.exchange, &request) {
                Ok(()) => answer,
                Err(denied) => {
                    unanswered.exchange.forget_answer();
                    Err(denied)
                }
            };

            // 5. Reply: a large answer waits for room on its connection, and the rest of an unwanted body must be out of
            //    the way.
            let answer = match answer {
                Ok(response) if is_large(&response) => {
                    Box::pin(gateway.make_room(response, &request.peer)).await
                }
                answer => answer,
            };
            let is_in_the_way = match request.body.take() {
                Some(body) if !body.is_end_stream() => !Box::pin(gateway.discard(body, &request)).await,
                _ => false,
            };

            // 6. Record the exchange.
            unanswered.is_answered = true;
            let mut response = gateway.finish(&unanswered.exchange, request.parts.version, answer);
            if is_in_the_way {
                // The listener discards it.
                response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
            }
            response
        }
    }

    /// The answer to a request, or the reason that there is none.
    async fn answer(
        &self,
        exchange: &mut Exchange,
        request: &mut ClientRequest,
    ) -> Result<Response<Body>, Failure> {
        // 1. Identify: who asks? A request that came from ourselves is refused first, or a loop would lock a
        //    credential.
        let is_passed_on = request.parts.headers.contains_key(VIA);
        if is_passed_on {
            let _ = self.pseudonym.append(&request.parts, Keep::All)?;
        }
        let principal = self.identify(request, exchange.started).await?;
        exchange.identify(&principal, self.traces.as_ref(), &request.parts.headers);

        // 2. Recognise: which call is it? From here on, only what was parsed counts.
        let route = recognise(request)?;
        exchange.asks(&route);
        let route = self.locate(route, &principal)?;

        // 3. Permit: before the cache is looked at, so that a client that may not know learns nothing. The scope
        //    chooses the credential.
        let permit = self.permit(&principal, &route, request, exchange.started)?;
        let credential = self.credentials.choose(route.scopes()).ok_or(FailureKind::NoCredential)?;
        let directives = Directives::of_request(&request.parts.headers);
        let via = if is_passed_on {
            let is_start_shared = self.retrieval.shares_starts();
            self.pseudonym.append(&request.parts, Keep::of(&route, is_start_shared))?
        } else {
            self.pseudonym.alone(request.parts.version)
        };
        let mut asker = asker(exchange, request, principal.share(), permit, via);
        let wait = request_wait(&route, &principal, request, exchange.started);
        // The request's own time begins after the wait.
        asker.deadline += wait.length(exchange.started.mono);
        let RequestWait { wait, applied: preference } = wait;
        exchange.preference = preference;

        // 4. Get the answer, from the cache, from a request in flight, or from Snyk.
        let wanted = Wanted { directives, wait, ..Wanted::default() };
        match route {
            Route::Export(call) => {
                let mut question = question(call, credential, request);
                if !question.call.is_shared() {
                    self.retrieval.refuse_unrecorded()?;
                    question.body = Box::pin(self.read_body(request, &principal.name)).await?;
                }
                let retrieved = self.retrieval.get(question, asker, wanted, exchange.started).await;
                Ok(reply::retrieved(&exchange.retrieved(retrieved)?, &request.parts.headers))
            }
            Route::Files(call) => {
                let caller = FilesCaller { asker, wanted, holder: principal.holder() };
                Box::pin(self.answer_files_call(exchange, request, call, caller)).await
            }
            Route::Named(call) => {
                let caller = FilesCaller { asker, wanted, holder: principal.holder() };
                Box::pin(self.answer_named(exchange, request, call, caller)).await
            }
            Route::Other(call) => {
                // The body is taken last: if an earlier step fails, `respond` still has it to discard.
                self.retrieval.refuse_unrecorded()?;
                let passed = pass_through(call, credential, request)?;
                let passed = Box::pin(self.retrieval.pass_through(passed, asker)).await;
                Ok(exchange.passed(passed)?.map(Body::Right))
            }
        }
    }
}

impl Gateway {
    /// Waits for the newest keys of an issuer, if none that is here signed the token.
    async fn identify(&self, request: &ClientRequest, now: Now) -> Result<Principal, Failure> {
        let ClientRequest { parts, peer, .. } = request;
        let identified = match self.access.identify(parts, peer, now) {
            Some(identified) => identified,
            None => Box::pin(self.access.identify_anew(parts, peer, now)).await,
        };
        Ok(identified.map_err(|why| {
            let kind = FailureKind::from(why);
            if self.access.takes_basic(parts) { kind.for_files() } else { kind }
        })?)
    }

    /// The permit counts until the answer is there. A fetch holds it until that has ended, whoever leaves.
    fn permit(
        &self,
        principal: &Principal,
        route: &Route,
        request: &ClientRequest,
        now: Now,
    ) -> Result<Permit, Failure> {
        let permitted = match self.access.permit(principal, route, now.mono) {
            Err(PermitError::Exceeded(QuotaError::AtOnce)) if self.rejoins(principal, route, request) => {
                self.access.permit_to_join(principal, route, now.mono)
            }
            permitted => permitted,
        };
        Ok(permitted.map_err(|why| self.not_permitted(why, route))?)
    }

    /// True if the client asks again for an answer that it asked for before, and left: that request holds its place still.
    fn rejoins(&self, principal: &Principal, route: &Route, request: &ClientRequest) -> bool {
        self.credentials.choose(route.scopes()).is_some_and(|credential| {
            let question = match route {
                Route::Export(call) => question(call.clone(), credential, request),
                Route::Files(call) => files_question(call, credential, request),
                Route::Named(_) | Route::Other(_) => return false,
            };
            self.retrieval.was_left_by(&question, &principal.name)
        })
    }

    /// Renders the answer and what is known of the exchange: in its fields, the metrics, the log and the trace.
    fn finish(
        &self,
        exchange: &Exchange,
        version: Version,
        answer: Result<Response<Body>, Failure>,
    ) -> Response<Body> {
        let (mut response, failure) = match answer {
            Ok(response) => (response, None),
            Err(failure) => {
                let refused = exchange.refused.as_deref();
                (reply::failure(&failure, exchange.id, refused), Some(failure))
            }
        };
        if version >= Version::HTTP_2 {
            // HTTP/2 has no such fields (RFC 9113 §8.2.2).
            response.headers_mut().remove(CONNECTION);
            response.headers_mut().remove(KEEP_ALIVE);
        }
        let now = self.clock.now();
        if failure.is_none() {
            exchange.stamp_age(response.headers_mut(), now);
        }
        exchange.stamp(response.headers_mut());
        let (answered, fields, failure) = (Some(response.status()), response.headers(), failure.as_ref());
        self.record(exchange, &Conclusion { now, answered, fields, failure });
        if exchange.method == Method::HEAD { reply::without_body(response) } else { response }
    }

    /// Records that a client left before its answer.
    fn was_left(&self, exchange: &Exchange) {
        let (fields, failure) = (&HeaderMap::new(), &Failure::from(Cause::Abandoned));
        let end = Conclusion { now: self.clock.now(), answered: None, fields, failure: Some(failure) };
        self.record(exchange, &end);
    }

    fn record(&self, exchange: &Exchange, end: &Conclusion<'_>) {
        exchange.count(&self.metrics, end);
        exchange.log(end);
        if let Some(traces) = &self.traces {
            exchange.trace(traces, end);
        }
    }
}

/// The call that a request is, or the reason that it is none.
fn recognise(request: &ClientRequest) -> Result<Route, Failure> {
    let ClientRequest { parts, rules, .. } = request;
    if parts.uri.path_and_query().is_some_and(|target| target.as_str().len() > rules.listener.max_target) {
        return Err(FailureKind::TargetTooLong.into());
    }
    Ok(route::recognise(&parts.method, &parts.uri, rules.forward_other)?)
}

/// The answer to a client whose request is no call that we answer: status, code and what to do.
pub(crate) fn text_of(refusal: route::RouteError) -> String {
    let answer = FailureKind::Route(refusal).answer();
    format!("{} {}: {}", answer.status.as_u16(), answer.code, answer.detail)
}

/// Advice to whoever runs the gateway about a request that got no answer from Snyk.
pub(crate) fn advice_on(failed: UpstreamErrorKind) -> &'static str {
    FailureKind::from(Cause::Upstream(failed)).answer().detail
}
