//! One request to Snyk: sent once, its answer read and judged.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, StatusCode};
use http_body_util::{Either, Full};
use uuid::Uuid;

use super::super::answer::{Cause, NoAnswer};
use super::super::equal_starts::kept;
use super::super::fleet_starts::StartKey;
use super::super::flights::Leader;
use super::super::question::Question;
use super::super::reading::{self, Reading};
use super::super::verdict::{Reply, Verdict};
use super::super::{fields, record};
use super::{Fetch, FlightResult};
use crate::admission::RequestSlot;
use crate::cache::WholeAnswer;
use crate::clock::Now;
use crate::credential::Authorization;
use crate::export::Document;
use crate::journal::Attempt;
use crate::upstream::{UpstreamAnswer, UpstreamError, UpstreamErrorKind, UpstreamRequest};

/// One request to Snyk and its trial; the record is not written yet.
pub(super) struct Trial {
    pub(super) attempt: Attempt,
    pub(super) answer: Result<UpstreamAnswer, NoAnswer>,
    /// The validator of a finished export's document.
    pub(super) etag: Option<HeaderValue>,
    pub(super) verdict: Verdict,
    /// True if the answer says that the export goes on.
    pub(super) is_unfinished: bool,
    pub(super) sent: Now,
    pub(super) received: Now,
}

impl Fetch {
    /// Sends the request once and judges the answer.
    pub(super) async fn send(
        &mut self,
        mut attempt: Attempt,
        presented: &Authorization,
        slot: &RequestSlot,
    ) -> Trial {
        let retrieval = Arc::clone(&self.retrieval);
        let request = self.upstream_request(attempt.sent_id, presented);
        presented.sent();
        let sent = retrieval.clock.now();
        // It is large, and moved about.
        let asking =
            Box::pin(retrieval.shutdown.in_time(retrieval.upstream.ask(request, &self.asker.client, sent)));
        let answer = if self.question.call.is_shared() {
            while_needed(asking, slot, &mut self.leader).await
        } else {
            Ok(asking.await)
        };
        let answer = answer
            .and_then(|answer| answer.unwrap_or_else(|| Err(UpstreamError::of(UpstreamErrorKind::Stopped))));
        let received = retrieval.clock.now();
        attempt.latency = received.mono.saturating_duration_since(sent.mono);

        let settings = retrieval.settings.load_full();
        let reading = match &answer {
            // A body that is too large to be stored is read for nothing but the credential.
            Ok(UpstreamAnswer { body, .. }) => {
                reading::read(body, presented.secret(), body.len() <= settings.cache.max_entry).await
            }
            Err(_) => Reading::default(),
        };
        let is_echo =
            reading.echoes || fields_of(&answer).is_some_and(|fields| presented.is_in_fields(fields));
        let document = reading.document.as_ref();
        let reply = match &answer {
            _ if is_echo => Reply::Echo,
            Err(failed) => Reply::Failed(failed.kind),
            Ok(UpstreamAnswer { status, fields, body, .. }) => {
                let (status, body_len) = (*status, body.len());
                Reply::Whole(WholeAnswer { status, fields, body_len, document, sent, received })
            }
        };
        let is_unfinished = matches!(&reply, Reply::Whole(WholeAnswer { status: StatusCode::OK, .. }))
            && document.is_some_and(Document::is_unfinished);
        let verdict = Verdict::of(self.question.kind(), &reply, received.wall, &settings.cache);
        if is_echo {
            attempt.error = Some("credential_echoed");
        } else {
            record::note(&mut attempt, &answer, document);
            // The credential may have got another value meanwhile: then the key is another, too.
            if let (Some(StartKey { key, .. }), Ok(answer), Some(_)) =
                (self.start, &answer, &attempt.export_id)
                && retrieval.start_key(&self.question).await == Some(key)
            {
                attempt.kept = kept(key, answer, document, retrieval.upstream.root()).map(Box::new);
            }
        }
        retrieval.observe(&attempt, &self.asker, &verdict, received);
        let answer = if is_echo { Err(Cause::Echo.into()) } else { answer.map_err(NoAnswer::from) };
        Trial { attempt, answer, etag: reading.etag, verdict, is_unfinished, sent, received }
    }

    fn upstream_request(&self, sent_id: Uuid, presented: &Authorization) -> UpstreamRequest {
        let Question { call, fields, body, .. } = &self.question;
        let fields = if call.is_shared() { fields::for_get(fields) } else { fields::for_one(fields) };
        UpstreamRequest {
            method: call.method(),
            target: call.target(),
            fields: fields::with_asker(fields, &self.asker, sent_id, presented),
            body: Either::Left(Full::new(Bytes::clone(body))),
        }
    }
}

/// The fields of an answer, whole or not.
fn fields_of(answer: &Result<UpstreamAnswer, UpstreamError>) -> Option<&HeaderMap> {
    match answer {
        Ok(answer) => Some(&answer.fields),
        Err(failed) => failed.head.as_ref().map(|head| &head.1),
    }
}

/// Does `work`, the asking for an answer, as long as it is needed: one that all clients have left ends when another request
/// needs its slot.
async fn while_needed<T>(
    work: impl Future<Output = T>,
    slot: &RequestSlot,
    leader: &mut Leader<FlightResult>,
) -> Result<T, UpstreamError> {
    let mut work = std::pin::pin!(work);
    loop {
        tokio::select! {
            done = work.as_mut() => return Ok(done),
            () = leader.abandoned() => {
                if leader.is_abandoned() {
                    slot.lane.abandon();
                }
            }
            () = slot.lane.slot_needed() => {
                // Somebody may have come back.
                if leader.give_up() {
                    return Err(UpstreamError::of(UpstreamErrorKind::Abandoned));
                }
            }
        }
    }
}
