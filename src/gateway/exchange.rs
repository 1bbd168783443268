//! One client request and its answer: the header fields, the log event, the metrics and (in `spans`) the span are
//! rendered from this value, so that they cannot disagree.

use std::fmt::Write as _;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::SystemTime;

use http::header::{AGE, VARY};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode};
use uuid::Uuid;

use super::failure::{Failure, FailureKind, NoFile};
use super::wait::{PREFER, PREFERENCE_APPLIED};
use super::{Gateway, refused_start};
use crate::access::Principal;
use crate::cache;
use crate::clock::Now;
use crate::export::{FilesTarget, Id, ScopeKind};
use crate::files::{FilesError, FilesErrorKind};
use crate::retrieval::{
    AnswerParts, CACHE_STATUS, Cause, Forward, ForwardReason, NoAnswer, Origin, PLACEHOLDER, Passed, Payload,
    REQUEST_ID, RefusedStart, Retrieved, SNYK_REQUEST_ID, Sending, StartRefusal, retry_after,
};
use crate::route::Route;
use crate::telemetry::metrics::{Metrics, RequestOutcome, RequestSample};
use crate::telemetry::trace::{Trace, Traces};
use crate::transport::{Streamed, Via};

const ATTEMPTS: HeaderName = HeaderName::from_static("exportgate-attempts");
const QUEUED_MS: HeaderName = HeaderName::from_static("exportgate-queued-ms");

/// The facts of one exchange; they fill in as the request goes its way.
#[derive(Debug)]
pub(super) struct Exchange {
    /// The `Exportgate-Request-Id`.
    pub(super) id: Uuid,
    /// The arrival of the request.
    pub(super) started: Now,
    /// The client that sent it.
    pub(super) client: Arc<str>,
    /// From where, where that is an address.
    pub(super) address: Option<IpAddr>,
    pub(super) method: Method,
    pub(super) operation: &'static str,
    pub(super) scope: Option<(ScopeKind, Id)>,
    pub(super) export: Option<Id>,
    /// The file, where one is asked for.
    pub(super) file: Option<FilesTarget>,
    /// The `snyk-request-id` of the results that its files come from.
    pub(super) snyk_id: Option<HeaderValue>,
    /// The origin of its answer; none if we made it ourselves.
    pub(super) origin: Option<Origin>,
    /// The attempt that the answer came from.
    pub(super) attempt: Option<Uuid>,
    /// Advice to whoever asked for a start that was refused.
    pub(super) refused: Option<Arc<RefusedStart>>,
    /// The last try of that attempt's request.
    pub(super) sending: Option<Sending>,
    /// The preference to wait that is applied, in seconds.
    pub(super) preference: Option<u64>,
    /// True if it waited for the end of an export.
    pub(super) is_waited: bool,
    /// The arrival of an answer that was waited for.
    arrival: Option<Now>,
    /// Its place in a trace, where it is traced.
    pub(super) trace: Option<Trace>,
    /// The place of the attempt that another client's traced request made for it.
    pub(super) fetched: Option<Trace>,
}

/// The end of an exchange.
#[derive(Debug, Clone, Copy)]
pub(super) struct Conclusion<'a> {
    pub(super) now: Now,
    /// The status of the answer; none if the client left before.
    pub(super) answered: Option<StatusCode>,
    /// The fields of the answer.
    pub(super) fields: &'a HeaderMap,
    pub(super) failure: Option<&'a Failure>,
}

impl Conclusion<'_> {
    /// The status for log and trace: 499, nginx's word, for a client that left.
    pub(super) fn status(&self) -> StatusCode {
        self.answered.or_else(|| StatusCode::from_u16(499).ok()).unwrap_or(StatusCode::BAD_REQUEST)
    }

    pub(super) fn code(&self) -> Option<&'static str> {
        self.failure.map(|failure| failure.kind.answer().code)
    }
}

/// An exchange that has no answer yet. Where it is dropped, its client has left.
pub(super) struct Unanswered {
    pub(super) exchange: Exchange,
    pub(super) gateway: Arc<Gateway>,
    pub(super) is_answered: bool,
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
            origin: None,
            attempt: None,
            sending: None,
            refused: None,
            file: None,
            snyk_id: None,
            preference: None,
            is_waited: false,
            arrival: None,
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
            Route::Files(call) => {
                (self.operation, self.file) = ("files", Some(call.target));
                self.scope = Some((call.scope.kind, call.scope.id.clone()));
                self.export = Some(call.export.clone());
            }
            Route::Named(_) => self.operation = "files",
            Route::Other(_) => self.operation = "other",
        }
    }

    /// Notes the client.
    pub(super) fn identify(&mut self, principal: &Principal, traces: Option<&Traces>, fields: &HeaderMap) {
        self.client = Arc::clone(&principal.name);
        // Only known clients say whose trace a request belongs to, and whether it is traced.
        if let Some(traces) = traces {
            self.trace = traces.begin(self.id, Some(fields));
        }
    }

    /// Notes the answer that was retrieved, or how it was tried.
    pub(super) fn retrieved(&mut self, retrieved: Result<Retrieved, NoAnswer>) -> Result<Retrieved, Failure> {
        let retrieved = retrieved.map_err(|none| self.no_answer(none))?;
        self.origin = Some(retrieved.origin);
        self.refused.clone_from(&retrieved.refused);
        self.is_waited |= retrieved.is_waited;
        match &retrieved.answer {
            Payload::Stored(entry) => self.attempt = Some(entry.attempt),
            Payload::Fetched(fetched) => {
                self.attempt = Some(fetched.attempt);
                self.export = fetched.began.clone().or(self.export.take());
                self.sending = fetched.sending;
                self.arrival = Some(fetched.arrival).filter(|_| retrieved.is_waited && self.file.is_none());
                let is_collapsed =
                    matches!(retrieved.origin, Origin::Upstream(forward) if forward.is_collapsed);
                self.fetched = fetched.trace.clone().filter(|_| is_collapsed);
            }
        }
        Ok(retrieved)
    }

    /// Notes the results that the files of an answer come from.
    pub(super) fn files_of(&mut self, results: Retrieved) -> Result<(), Failure> {
        let results = self.retrieved(Ok(results))?;
        self.snyk_id = results.parts().fields.get(SNYK_REQUEST_ID).cloned();
        Ok(())
    }

    /// Notes the answer of the results, where there was one, and gives the reason that there is no file.
    pub(super) fn no_files(&mut self, error: FilesError) -> Failure {
        let FilesError { kind, source, results, no_answer, .. } = error;
        if let Some(no_answer) = no_answer {
            return self.no_answer(*no_answer);
        }
        let mut failure = Failure { source, ..NoFile::Failed(kind).into() };
        if let Some(results) = results {
            let AnswerParts { status, fields, .. } = results.parts();
            if kind == FilesErrorKind::SnykAnswered {
                let retry_after = retry_after(fields).map(|pause| pause.as_secs());
                failure.kind = FailureKind::NoFile(NoFile::SnykAnswered { status, retry_after });
            }
            if let Err(other) = self.files_of(*results) {
                return other;
            }
        }
        failure
    }

    /// Notes the answer that was passed through, or how it was tried.
    pub(super) fn passed(&mut self, passed: Result<Passed, NoAnswer>) -> Result<Response<Streamed>, Failure> {
        let passed = passed.map_err(|none| self.no_answer(none))?;
        self.origin = Some(Origin::Upstream(passed.forward));
        (self.attempt, self.sending) = (Some(passed.attempt), Some(passed.sending));
        Ok(passed.response)
    }

    /// Notes how an answer was tried that did not come.
    fn no_answer(&mut self, no_answer: NoAnswer) -> Failure {
        self.origin = no_answer.forward.map(Origin::Upstream);
        self.refused.clone_from(&no_answer.refused);
        self.is_waited |= no_answer.is_waited;
        no_answer.into()
    }

    /// Forgets the answer that its client may not have any more.
    pub(super) fn forget_answer(&mut self) {
        (self.origin, self.snyk_id, self.sending, self.refused) = (None, None, None, None);
    }

    /// True if the answer came from another gateway for this request.
    pub(super) const fn is_taken(&self) -> bool {
        match self.origin {
            Some(Origin::Fresh { is_taken, .. } | Origin::Upstream(Forward { is_taken, .. })) => is_taken,
            Some(Origin::Stale { .. } | Origin::SharedStart { .. }) | None => false,
        }
    }

    /// The `Age` of a stored answer, in seconds.
    const fn age(&self) -> Option<u64> {
        match self.origin {
            Some(Origin::Fresh { age, .. } | Origin::Stale { age, .. } | Origin::SharedStart { age, .. }) => {
                Some(age)
            }
            Some(Origin::Upstream(_)) | None => None,
        }
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
        let mut age = self.age().map(HeaderValue::from);
        if age.is_some() {
            // The placeholders that were put there when it was stored: one walk is cheaper than three look-ups.
            for (name, value) in
                fields.iter_mut().filter(|(_, value)| value.as_bytes() == PLACEHOLDER.as_bytes())
            {
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
        if let Some(seconds) = self.preference {
            if let Ok(applied) = HeaderValue::try_from(format!("wait={seconds}")) {
                fields.insert(PREFERENCE_APPLIED, applied);
            }
            fields.append(VARY, HeaderValue::from_name(PREFER));
        }
        if let Some(id) = &self.snyk_id {
            fields.insert(SNYK_REQUEST_ID, id.clone());
        }
        if let Some(refused) = &self.refused {
            refused_start::stamp(refused, fields);
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

    /// Adds the `Age` of an answer that came before the end of its wait (RFC 9111 §4.2.3).
    pub(super) fn stamp_age(&self, fields: &mut HeaderMap, now: Now) {
        if let Some(arrival) = self.arrival {
            let waited = now.mono.saturating_duration_since(arrival.mono).as_secs();
            fields.insert(AGE, HeaderValue::from(cache::age(fields).as_secs() + waited));
        }
    }

    /// Its outcome, for the metrics.
    pub(super) fn served(&self, failure: Option<&Failure>) -> RequestOutcome {
        match (failure.map(|failure| failure.kind), self.origin) {
            (Some(kind), _) if kind.is_denial() => RequestOutcome::Denied,
            (Some(FailureKind::NoAnswer(Cause::Abandoned)), _) => RequestOutcome::ClientLeft,
            (Some(_), _) | (None, None) => RequestOutcome::Failed,
            (None, Some(_)) if self.is_waited => RequestOutcome::Waited,
            (None, Some(Origin::Fresh { .. } | Origin::SharedStart { refusal: None, .. })) => {
                RequestOutcome::Hit
            }
            (None, Some(Origin::Stale { .. } | Origin::SharedStart { .. })) => RequestOutcome::Stale,
            (None, Some(Origin::Upstream(Forward { is_collapsed: true, .. }))) => RequestOutcome::Collapsed,
            (None, Some(Origin::Upstream(Forward { reason, .. }))) => match reason {
                ForwardReason::Bypass | ForwardReason::Method => RequestOutcome::Uncached,
                ForwardReason::UriMiss | ForwardReason::Stale | ForwardReason::Request => {
                    RequestOutcome::Miss
                }
            },
        }
    }

    /// Counts it.
    pub(super) fn count(&self, metrics: &Metrics, end: &Conclusion<'_>) {
        metrics.answered(&RequestSample {
            operation: self.operation,
            served: self.served(end.failure),
            status: end.answered.map(|status| status.as_u16()),
            code: end.code().filter(|_| end.answered.is_some()),
            fresh_for: if let Some(Origin::Fresh { ttl, .. }) = self.origin { Some(ttl) } else { None },
            duration: end.now.mono.saturating_duration_since(self.started.mono),
        });
    }

    fn cache_status(&self) -> Option<String> {
        let mut text = String::with_capacity(64);
        text.push_str("exportgate");
        match self.origin? {
            Origin::Fresh { ttl, is_uncertain, is_taken, .. } => {
                text.push_str("; hit; ttl=");
                text.push_str(itoa::Buffer::new().format(ttl));
                if is_taken {
                    text.push_str("; detail=shared");
                } else if is_uncertain {
                    text.push_str("; detail=links-end-uncertain");
                }
            }
            Origin::Stale { seconds, detail: None, .. } => {
                let _ = write!(text, "; hit; ttl=-{seconds}");
            }
            Origin::Stale { detail: Some(detail), .. } => {
                let _ = write!(text, "; fwd=stale; detail={detail}");
            }
            Origin::SharedStart { refusal, .. } => text.push_str(match refusal {
                None => "; hit; detail=shared-start",
                Some(StartRefusal::Held) => "; hit; detail=shared-start-in-hold",
                Some(StartRefusal::BySnyk) => "; fwd=method; fwd-status=429; detail=shared-start-in-hold",
            }),
            Origin::Upstream(Forward { reason, is_collapsed, status, is_stored, not_stored, is_taken }) => {
                let _ = write!(text, "; fwd={}", reason.as_str());
                if let Some(status) = status {
                    let _ = write!(text, "; fwd-status={}", status.as_u16());
                }
                text.push_str(if is_stored { "; stored" } else { "" });
                text.push_str(if is_collapsed { "; collapsed" } else { "" });
                if is_taken {
                    text.push_str("; detail=shared");
                } else if let Some(reason) = not_stored {
                    text.extend(["; detail=", reason]);
                }
            }
        }
        Some(text)
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
