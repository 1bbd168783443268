//! The rest of the request path, for what is not answered at once.

use std::sync::Arc;

use bytes::Bytes;
use http::request::Parts;
use http::{Response, StatusCode};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::{Body as _, Incoming};
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout, timeout_at};

use super::exchange::{Exchange, Outcome, Unanswered, Why};
use super::failure::{Failure, FailureKind};
use super::forward::{Errand, Landed};
use super::rules::Rules;
use super::{Ask, Decided, Gateway, Missed, Next, fields, reply};
use crate::cache::{Boarding, Entry, Waiter};
use crate::route::{ExportCall, OtherCall};
use crate::transport::{Body, CheckedBody, Peer, Streamed};

/// A request, and what it goes by.
pub(super) struct Asked {
    pub(super) parts: Parts,
    pub(super) body: Incoming,
    pub(super) rules: Arc<Rules>,
    pub(super) peer: Arc<Peer>,
}

impl Gateway {
    /// Answers a request that has to wait. It is counted also where its client leaves before, even before this
    /// begins.
    pub(super) async fn respond_later(
        self: Arc<Self>,
        mut unanswered: Unanswered,
        asked: Asked,
        next: Next,
    ) -> Response<Body> {
        let version = asked.parts.version;
        let answer = self.answer_later(unanswered.exchange(), asked, next).await;
        self.finish(unanswered.answered(), version, answer)
    }

    async fn answer_later(
        self: &Arc<Self>,
        exchange: &mut Exchange,
        Asked { parts, body, rules, peer }: Asked,
        next: Next,
    ) -> Result<Response<Body>, Failure> {
        let deadline = rules.deadline(exchange.started);
        let ask = match next {
            Next::Ask(ask) => ask,
            Next::Identify => {
                let identified = self.access.identify_anew(&parts, &peer, exchange.started).await;
                let principal = identified.map_err(FailureKind::from)?;
                match self.decide(exchange, (&parts, &rules), &principal)? {
                    Decided::Answered(response) => return Ok(response),
                    Decided::Ask(ask) => ask,
                }
            }
        };
        match *ask {
            Ask::Other(call, errand) => {
                let body = Streamed::new(CheckedBody::new(body, parts.version), deadline);
                self.other(exchange, call, (errand, body), deadline).await
            }
            Ask::Export(call, errand, missed) => {
                let body = CheckedBody::new(body, parts.version);
                let body = if call.is_shared() { Bytes::new() } else { read_body(&rules, body).await? };
                // The permit is held until the answer is there, whoever fetches it.
                let _permit = Arc::clone(&errand.permit);
                let (waiter, stale) = match self.board(exchange, (call, &parts), (errand, body), missed)? {
                    Boarded::Answer(response) => return Ok(response),
                    Boarded::Waiting(waiter, stale) => (waiter, stale),
                };
                // 8. Reply.
                let landed = self.landed(exchange, waiter, &parts, deadline).await;
                // The try took its time; the links must live still.
                let now = self.clock.now();
                match stale.filter(|entry| is_no_use(&landed) && entry.links_live(now)) {
                    Some(entry) => Ok(exchange.stale(&entry, &parts.headers, now, Some("stale-if-error"))),
                    None => landed,
                }
            }
        }
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
        exchange.outcome = Outcome::forwarded(why, lead.is_none());

        // 6. Forward, 7. record and store: a task of its own, so that no client can cancel it.
        if let Some(lead) = lead {
            self.shutdown.spawn(Arc::clone(self).fetch(call, (errand, body), key, lead));
        }
        Ok(Boarded::Waiting(waiter, stale))
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
        if let Outcome::Forwarded { status, stored, not_stored, collapsed, .. } = &mut exchange.outcome {
            (*status, *stored) = (Some(landing.status), landing.entry.is_some());
            *not_stored = landing.not_stored;
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
        exchange.outcome = Outcome::forwarded(Why::Bypass, false);
        let (mut answer, answered) = oneshot::channel();
        let gateway = Arc::clone(self);
        self.shutdown.spawn(async move {
            // Who leaves while waiting is not sent; who leaves later gets nothing, and the record is made all
            // the same.
            let turn = tokio::select! {
                turn = gateway.turn_of_other(&call, &errand) => turn,
                () = answer.closed() => return,
            };
            let came = match turn {
                Ok(admitted) => gateway.pass_through(call, (errand, body), admitted).await,
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
}

/// Reads the body of a start call, bounded in size and time.
async fn read_body(rules: &Rules, body: CheckedBody) -> Result<Bytes, Failure> {
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
