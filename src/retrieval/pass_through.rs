//! Calls that are no export calls (`routes.other = "forward"`): streamed, recorded when the head is there, never stored,
//! shared or repeated.

use std::sync::Arc;

use http::header::HeaderMap;
use http::{Response, StatusCode};
use http_body_util::Either;
use hyper::body::Body as _;
use tokio::sync::oneshot;
use tokio::time::{sleep, timeout_at};
use uuid::Uuid;

use super::answer::{Cause, Forward, ForwardReason, NoAnswer, Sending};
use super::attempt::{self, Draft};
use super::flights::HALF_CLOSED_GRACE;
use super::question::Asker;
use super::verdict::{CredentialVerdict, Reply, Verdict};
use super::{Retrieval, fields, record, response_fields};
use crate::admission::{Api, CallKind, RequestSlot};
use crate::credential::Credential;
use crate::journal::Attempt;
use crate::route::OtherCall;
use crate::transport::{CheckedBody, Streamed};
use crate::upstream::{UpstreamError, UpstreamErrorKind, UpstreamRequest};

/// A call to pass through.
#[derive(Debug)]
pub(crate) struct PassThrough {
    pub(crate) call: OtherCall,
    pub(crate) credential: Arc<Credential>,
    /// Fields that go up besides our own.
    pub(crate) fields: HeaderMap,
    pub(crate) body: CheckedBody,
}

/// The answer to such a call.
#[derive(Debug)]
pub(crate) struct Passed {
    pub(crate) attempt: Uuid,
    pub(crate) sending: Sending,
    pub(crate) forward: Forward,
    /// The head with its end-to-end fields, and the body as it comes.
    pub(crate) response: Response<Streamed>,
}

impl Retrieval {
    /// Passes a call through for `asker`.
    ///
    /// # Errors
    /// [`NoAnswer`].
    pub(crate) async fn pass_through(
        self: &Arc<Self>,
        request: PassThrough,
        asker: Asker,
    ) -> Result<Passed, NoAnswer> {
        self.refuse_unrecorded()?;
        let (retrieval, deadline) = (Arc::clone(self), asker.deadline);
        let (mut result, passed) = oneshot::channel();
        self.shutdown.spawn(async move {
            // The request of a client that leaves the queue is not sent. One that leaves later gets nothing, and the record
            // is made all the same.
            let half_closed = asker.half_closed.clone();
            let left = async {
                let half_closed = async {
                    half_closed.cancelled().await;
                    sleep(HALF_CLOSED_GRACE).await;
                };
                tokio::select! {
                    () = result.closed() => {}
                    () = half_closed => {}
                }
            };
            let passed = Box::pin(retrieval.pass(request, asker, left)).await;
            let _ = result.send(passed);
        });
        let passed = match timeout_at(deadline, passed).await {
            Err(_) => Err(Cause::Deadline.into()),
            Ok(passed) => passed.unwrap_or_else(|_| Err(Cause::Internal.into())),
        };
        passed.map_err(|no_answer| NoAnswer {
            forward: Some(Forward::new(ForwardReason::Bypass, false)),
            ..no_answer
        })
    }

    /// Sends the call when it is admitted, and records its head. The record has a length only if `Content-Length` gave it.
    async fn pass(
        &self,
        request: PassThrough,
        asker: Asker,
        left: impl Future<Output = ()>,
    ) -> Result<Passed, NoAnswer> {
        let PassThrough { call, credential, fields, body } = request;
        let presented = attempt::present(&credential, None, &asker.client, self.clock.now()).await?;
        let api = if call.target.starts_with("/v1/") { Api::V1 } else { Api::Rest };
        let attempt = Attempt {
            api: api.as_str(),
            method: call.method.as_str().to_owned(),
            scope_kind: call.scopes.first().map(|scope| scope.kind.as_str()),
            scope_id: call.scopes.first().map(|scope| scope.id.as_str().to_owned()),
            ..self.attempt(&asker, &credential)
        };
        let mut left = std::pin::pin!(left);
        let mut draft = Draft { asker: &asker, credential: &credential, call: None, attempt, presented };
        let slot = self.admit(&mut draft, left.as_mut()).await?;
        let Draft { mut attempt, presented, .. } = draft;
        let sending = Sending::of(&attempt);
        let uploads = !body.is_end_stream();
        let is_safe = call.method.is_safe();
        let sent = self.clock.now();
        let request = UpstreamRequest {
            method: call.method,
            target: call.target,
            fields: fields::with_asker(fields::for_one(&fields), &asker, attempt.sent_id, &presented),
            body: Either::Right(Streamed::new(body, asker.deadline)),
        };
        let opening = self.shutdown.in_time(self.upstream.open(request, sent));
        let answer = if is_safe { while_awaited(opening, &slot, left).await } else { Ok(opening.await) };
        let answer = answer
            .and_then(|answer| answer.unwrap_or_else(|| Err(UpstreamError::of(UpstreamErrorKind::Stopped))));
        let received = self.clock.now();
        attempt.latency = received.mono.saturating_duration_since(sent.mono);

        // An echoed credential must be found before the answer is judged or recorded.
        let is_echo = answer.as_ref().is_ok_and(|response| presented.is_in_fields(response.headers()));
        let reply = match &answer {
            _ if is_echo => Reply::Echo,
            Ok(response) => Reply::Head(response.status(), response.headers()),
            Err(failed) => Reply::Failed(failed.kind),
        };
        let verdict = Verdict::of(CallKind::Other, &reply, received.wall, &self.settings.load().cache);
        // If the client's own upload broke, the failure is no evidence against the upstream.
        slot.end(verdict.end(answer.is_err() && uploads));
        let answer = note(&mut attempt, answer, is_echo);
        if verdict.credential == CredentialVerdict::Refused {
            // It does not lock the credential: some of Snyk's other calls answer so for products that a tenant has not
            // bought.
            let _ = credential.refused(&presented, self.clock.now(), false).await;
        }
        self.observe(&attempt, &asker, &verdict, self.clock.now());
        let id = attempt.id;
        self.record(attempt, vec![asker.member()]).await?;
        let response = answer.map_err(|no_answer| NoAnswer { attempt: Some(id), ..no_answer })?;
        let (mut head, mut body) = response.into_parts();
        body.hold(asker);
        body.withhold(presented.secret());
        head.headers = response_fields::end_to_end(head.headers, self.upstream.root());
        let forward = Forward { status: Some(head.status), ..Forward::new(ForwardReason::Bypass, false) };
        Ok(Passed { attempt: id, sending, forward, response: Response::from_parts(head, body) })
    }
}

/// Does `work`, the asking for an answer, as long as it is needed: when its client has left, it ends when another request
/// needs its slot.
async fn while_awaited<T>(
    work: impl Future<Output = T>,
    slot: &RequestSlot,
    left: impl Future<Output = ()>,
) -> Result<T, UpstreamError> {
    let abandoned = async {
        left.await;
        slot.lane.abandon();
        slot.lane.slot_needed().await;
    };
    tokio::select! {
        done = work => Ok(done),
        () = abandoned => Err(UpstreamError::of(UpstreamErrorKind::Abandoned)),
    }
}

/// Notes the answer in the record; its response, if the client may have it.
fn note(
    attempt: &mut Attempt,
    answer: Result<Response<Streamed>, UpstreamError>,
    is_echo: bool,
) -> Result<Response<Streamed>, NoAnswer> {
    if is_echo {
        // Nothing of it may reach client, log or journal.
        attempt.error = Some("credential_echoed");
        return Err(Cause::Echo.into());
    }
    let response = answer.inspect_err(|failed| attempt.error = Some(failed.kind.as_str()))?;
    record::note_head(attempt, response.status(), response.headers());
    attempt.bytes = response.body().size_hint().exact();
    if response.status() == StatusCode::UNAUTHORIZED {
        return Err(Cause::CredentialRejected.into());
    }
    Ok(response)
}
