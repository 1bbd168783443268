//! The rest of the request path, for what is not answered at once.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;

use bytes::Bytes;
use http::header::{CONNECTION, EXPECT};
use http::request::Parts;
use http::{HeaderValue, Response, StatusCode, Version};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::Body as _;
use tokio::sync::oneshot;
use tokio::task::yield_now;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::exchange::{Exchange, Outcome, Unanswered, Why};
use super::failure::{Failure, FailureKind};
use super::forward::{Errand, Landed};
use super::rules::Rules;
use super::{Ask, Decided, Gateway, Missed, Next, fields, is_large, reply};
use crate::cache::{Boarding, Entry, HALF_CLOSED, Waiter};
use crate::export::ExportCall;
use crate::route::OtherCall;
use crate::transport::{Body, CheckedBody, GatherError, NoRoom, Peer, Source, Streamed};

/// How often more of an unwanted body is looked for: hyper hands it over in pieces of what it has read.
const LOOKS: usize = 8;

/// A request, and what it goes by.
pub(super) struct Asked {
    pub(super) parts: Parts,
    /// Until it is passed on.
    pub(super) body: Option<CheckedBody>,
    pub(super) rules: Arc<Rules>,
    pub(super) peer: Arc<Peer>,
}

impl Gateway {
    /// Answers a request that has to wait. It is counted also where its client leaves before, even before this
    /// begins.
    pub(super) async fn respond_later(
        self: Arc<Self>,
        mut unanswered: Unanswered,
        mut asked: Asked,
        next: Next,
    ) -> Response<Body> {
        let answer = self.answer_later(unanswered.exchange(), &mut asked, next).await;
        let answer = match answer {
            Ok(response) => self.make_room(response, &asked.peer).await,
            Err(failure) => Err(failure),
        };
        let Asked { parts, body, rules, .. } = asked;
        let unread = match body {
            Some(mut body) if !body.is_end_stream() => (!discard(&mut body, &parts).await).then_some(body),
            _ => None,
        };
        let mut response = self.finish(unanswered.answered(), parts.version, answer);
        match unread {
            // hyper resets the stream when the body goes, which some clients take for an answer that was cut.
            Some(body) if parts.version == Version::HTTP_2 => {
                let mut rest = Limited::new(body, rules.max_discarded);
                let discarding = async move { while let Some(Ok(_)) = rest.frame().await {} };
                let discarding = timeout(rules.linger_timeout, discarding);
                self.shutdown.spawn(async move { drop(discarding.await) });
            }
            // The rest of the body stands in the way of the next request (RFC 9112 §9.3). The listener discards it.
            Some(_) => {
                response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
            }
            None => {}
        }
        response
    }

    async fn answer_later(
        self: &Arc<Self>,
        exchange: &mut Exchange,
        asked: &mut Asked,
        next: Next,
    ) -> Result<Response<Body>, Failure> {
        let deadline = asked.rules.deadline(exchange.started);
        let ask = match next {
            Next::Take(answer) => return *answer,
            Next::Ask(ask) => ask,
            Next::Identify => {
                let identified = self.access.identify_anew(&asked.parts, &asked.peer, exchange.started).await;
                let principal = identified.map_err(FailureKind::from)?;
                match self.decide(exchange, (&asked.parts, &asked.rules), &principal)? {
                    Decided::Answered(response) => return Ok(response),
                    Decided::Ask(ask) => ask,
                }
            }
        };
        match *ask {
            Ask::Other(call, errand) => self.other(exchange, call, errand, asked).await,
            Ask::Export(call, errand, missed) => {
                let body = if call.is_shared() { Bytes::new() } else { self.read_body(asked).await? };
                // The permit is held until the answer is there, whoever fetches it.
                let _permit = Arc::clone(&errand.permit);
                let boarded = self.board(exchange, (call, &asked.parts), (errand, body), missed)?;
                let (waiter, stale) = match boarded {
                    Boarded::Answer(response) => return Ok(response),
                    Boarded::Waiting(waiter, stale) => (waiter, stale),
                };
                // 8. Reply.
                let landed = self.landed(exchange, waiter, asked, deadline).await;
                // The try took its time; the links must live still.
                let now = self.clock.now();
                match stale.filter(|entry| is_no_use(&landed) && entry.links_live(now)) {
                    Some(entry) => {
                        Ok(exchange.stale(&entry, &asked.parts.headers, now, Some("stale-if-error")))
                    }
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
        asked: &Asked,
        deadline: Instant,
    ) -> Result<Response<Body>, Failure> {
        let landed = timeout_at(deadline, waiter.landed(asked.peer.connection.half_closed.cancelled())).await;
        let landing = landed.map_err(|_| FailureKind::Deadline)?.ok_or(FailureKind::Internal)??;
        exchange.attempt = Some(landing.attempt);
        exchange.sending = Some(landing.sending);
        if let Outcome::Forwarded { status, stored, not_stored, collapsed, .. } = &mut exchange.outcome {
            (*status, *stored) = (Some(landing.status), landing.entry.is_some());
            *not_stored = landing.not_stored;
            exchange.fetched = landing.trace.clone().filter(|_| *collapsed);
        }
        let fields = landing.fields.clone();
        Ok(match &landing.entry {
            Some(entry) => reply::stored(entry, fields, &asked.parts.headers),
            None => reply::whole(landing.status, fields, landing.body.clone()),
        })
    }

    /// A call that is no export call: streamed, never stored or shared.
    async fn other(
        self: &Arc<Self>,
        exchange: &mut Exchange,
        call: OtherCall,
        errand: Errand,
        asked: &mut Asked,
    ) -> Result<Response<Body>, Failure> {
        self.refuse_unrecorded()?;
        exchange.outcome = Outcome::forwarded(Why::Bypass, false);
        let (mut answer, answered) = oneshot::channel();
        let (gateway, deadline) = (Arc::clone(self), errand.deadline);
        let body = asked.body.take().ok_or(FailureKind::Internal)?;
        let (body, half_closed) =
            (Streamed::new(body, deadline), asked.peer.connection.half_closed.clone().cancelled_owned());
        self.shutdown.spawn(async move {
            // Who leaves while waiting is not sent; who leaves later gets nothing, and the record is made all
            // the same.
            let turn = tokio::select! {
                biased;
                turn = gateway.turn_of_other(&call, &errand) => turn,
                () = answer.closed() => return,
                () = async { half_closed.await; sleep(HALF_CLOSED).await } => Err(FailureKind::Abandoned.into()),
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

    /// Reads the body of a start call, bounded in size and time, and in what is held of it in memory.
    async fn read_body(&self, asked: &mut Asked) -> Result<Bytes, Failure> {
        let Asked { body, rules, peer, .. } = asked;
        let body = body.as_mut().ok_or(FailureKind::Internal)?;
        if body.size_hint().lower() > rules.max_body as u64 {
            return Err(FailureKind::BodyTooLarge.into());
        }
        let source = Source::Client(&peer.connection);
        let gathering = self.memory.gather(Limited::new(body, rules.max_body), source);
        match timeout(rules.body_timeout, gathering).await {
            Err(_) => Err(FailureKind::BodyTimeout.into()),
            Ok(Err(GatherError::NoRoom(_))) => Err(FailureKind::NoRoom.into()),
            Ok(Err(GatherError::Body(error))) if error.is::<LengthLimitError>() => {
                Err(FailureKind::BodyTooLarge.into())
            }
            Ok(Err(GatherError::Body(error))) => {
                Err(Failure { source: Some(error.into()), ..FailureKind::BodyIncomplete.into() })
            }
            Ok(Ok((body, _held))) => Ok(body),
        }
    }

    /// Waits for room for a large answer on its connection, and holds it until the client has taken the answer.
    async fn make_room(&self, response: Response<Body>, peer: &Peer) -> Result<Response<Body>, Failure> {
        if !is_large(&response) {
            return Ok(response);
        }
        let (head, body) = response.into_parts();
        let body = body.collect().await.map_err(|_| FailureKind::Internal)?.to_bytes();
        let body =
            self.memory.until_taken(&peer.connection, body).await.map_err(|NoRoom| FailureKind::NoRoom)?;
        Ok(Response::from_parts(head, Body::Left(Full::new(body))))
    }
}

/// Reads and discards what has come already of a body that nobody wanted, so that its connection can be kept; whether
/// that was all of it.
async fn discard(body: &mut CheckedBody, parts: &Parts) -> bool {
    // Who waits for 100 (Continue) is not told to go on.
    let looks = if parts.headers.contains_key(EXPECT) { 0 } else { LOOKS };
    for _ in 0..looks {
        match poll_fn(|cx| Poll::Ready(Pin::new(&mut *body).poll_frame(cx))).await {
            Poll::Ready(None) => return true,
            Poll::Ready(Some(Ok(_))) if body.is_end_stream() => return true,
            Poll::Ready(Some(Ok(_))) => {}
            Poll::Ready(Some(Err(_))) => return false,
            // hyper hands over more when it is its turn.
            Poll::Pending => yield_now().await,
        }
    }
    false
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
