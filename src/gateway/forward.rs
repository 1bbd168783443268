//! The part of the path that talks to the upstream: one attempt, its record, and what is kept of it.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use http_body_util::{Either, Full};
use tokio::time::Instant;
use uuid::Uuid;

use super::answer::{self, Garbled};
use super::document::{self, Document};
use super::failure::{Failure, FailureKind};
use super::verdict::TryResult;
use super::{Gateway, fields, reply, spans};
use crate::access::Permit;
use crate::admission::{
    Api, CallKind, Candidate, Evidence, Lane, Obstacle, RateFields, RequestEnd, RequestSlot, Resource,
    SendOutcome,
};
use crate::cache::{self, Entry, Key, Lead, Member, NotStored, Peek};
use crate::clock::Now;
use crate::credential::{Credential, Presented, Unavailable};
use crate::journal::{Attempt, OnFailure, Reservation, Served, Unrecorded};
use crate::route::{ExportCall, Operation, OtherCall};
use crate::telemetry::drift::Kind;
use crate::telemetry::metrics::Attempted;
use crate::telemetry::trace::Trace;
use crate::transport::Streamed;
use crate::upstream::{Answer, Failed, FailedKind, Outgoing};

/// A request that is sent later than this after it was put on record is put on record again: other processes may have
/// counted it out of their windows by then. The windows' margin is longer.
const LATE: Duration = Duration::from_millis(100);
/// After a longer wait in the queue, the credential is looked at again: an access token may have ended.
const LONG_QUEUE: Duration = Duration::from_secs(1);

/// What a flight brings.
pub(super) type Landed = Result<Arc<Landing>, Failure>;

/// An answer of the upstream, as every client of the flight gets it.
#[derive(Debug)]
pub(super) struct Landing {
    /// The attempt that fetched it.
    pub(super) attempt: Uuid,
    /// That attempt's place in a trace.
    pub(super) trace: Option<Trace>,
    /// How it came to be sent.
    pub(super) sending: Sending,
    /// Its status.
    pub(super) status: StatusCode,
    /// Its end-to-end fields.
    pub(super) fields: HeaderMap,
    /// Its body.
    pub(super) body: Bytes,
    /// The stored response that was made of it.
    pub(super) entry: Option<Arc<Entry>>,
    /// Why a finished export was not stored.
    pub(super) not_stored: Option<&'static str>,
}

/// How an answer came to be asked for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sending {
    /// How many tries it took.
    pub(super) tries: u32,
    /// How long the last of them waited for its turn.
    pub(super) queued: Duration,
    /// What it waited for.
    pub(super) waited_for: Option<&'static str>,
}

impl Sending {
    const fn of(attempt: &Attempt) -> Self {
        Self { tries: attempt.number, queued: attempt.queued, waited_for: attempt.waited_for }
    }
}

/// A request that is ready to go up, and for whom.
#[derive(Debug, Clone)]
pub(super) struct Errand {
    /// Who asks, and under which request id.
    pub(super) member: Member,
    /// The fields, but for the credential.
    pub(super) fields: HeaderMap,
    /// `Via`, with us in it.
    pub(super) via: HeaderValue,
    /// The id to send to Snyk.
    pub(super) sent_id: Uuid,
    /// The credential to present.
    pub(super) credential: Arc<Credential>,
    /// The place among its client's requests, held until this has ended.
    pub(super) permit: Arc<Permit>,
    /// Its client's share, where sending is short.
    pub(super) share: u32,
    /// Until when its client waits.
    pub(super) deadline: Instant,
    /// The place of its request in a trace, where that is traced.
    pub(super) trace: Option<Trace>,
}

impl Errand {
    fn candidate(&self, start: Option<Arc<str>>) -> Candidate {
        let client = Arc::clone(&self.member.client);
        Candidate {
            client,
            weight: self.share,
            start,
            deadline: self.deadline.into_std(),
            is_put_back: false,
        }
    }

    fn lane(&self, api: Api) -> Lane {
        Lane { credential: Arc::clone(&self.credential.name), api }
    }
}

/// One request to Snyk, what came of it, and its record in the making.
struct Asked {
    attempt: Attempt,
    answer: Result<Answer, Failure>,
    document: Document,
    sent: Now,
    received: Now,
}

/// A request that is to be sent, and its record in the making.
struct Draft<'a> {
    errand: &'a Errand,
    /// `None` for a call that is no export call.
    call: Option<&'a ExportCall>,
    attempt: Attempt,
    presented: Presented,
}

/// A call that is no export call, let through and on record.
pub(super) struct Clearance {
    slot: RequestSlot,
    attempt: Attempt,
    presented: Presented,
}

/// An export call as it is sent once.
struct ExportRequest<'a> {
    call: &'a ExportCall,
    errand: &'a Errand,
    attempt: Attempt,
    body: Bytes,
}

impl Gateway {
    /// Fetches the answer to an export call and lands it. Runs as a task of its own to its end, whoever
    /// leaves meanwhile. Its record is committed before anybody is answered, also from the cache.
    pub(super) async fn fetch(
        self: Arc<Self>,
        call: ExportCall,
        (errand, body): (Errand, Bytes),
        store_as: Option<Key>,
        mut lead: Lead<Landed>,
    ) {
        // 1. Ask, in turn; again, where that may help. It is large: what is spawned is not moved about with it.
        let before = self.cache.asked();
        let asked = match Box::pin(self.ask(&call, &errand, &body, &mut lead)).await {
            Ok(asked) => asked,
            Err(failure) => return lead.land(Err(failure)),
        };
        let Asked { attempt, answer, document, sent, received } = asked;

        // 2. See whether it may be stored.
        let id = attempt.id;
        let sending = Sending::of(&attempt);
        let landed = answer.map(|answer| {
            let (entry, not_stored) = match store_as.as_ref() {
                None => (None, None),
                Some(key) => match self.entry(&answer, &document, (sent, received), id) {
                    Ok(entry) if self.cache.has_room_for(key, &entry) => (Some(entry), None),
                    Ok(_) => (None, self.not_stored(NotStored::TooLarge)),
                    Err(why) => (None, self.not_stored(why)),
                },
            };
            let fields = fields::end_to_end(answer.fields, self.upstream.root());
            Arc::new(Landing {
                attempt: id,
                trace: errand.trace.as_ref().map(|trace| trace.child(id)),
                sending,
                status: answer.status,
                fields,
                body: answer.body,
                entry,
                not_stored,
            })
        });
        let landed = landed.map_err(|failure| Failure { attempt: Some(id), ..failure });

        // 3. Record it. An answer that will be stored may be joined until it is: a client that comes
        //    meanwhile finds either the flight or the stored response. Any other is over now, so that
        //    nobody gets an answer that had come before it asked.
        let stored = landed.as_ref().ok().and_then(|landing| landing.entry.clone()).zip(store_as);
        let mut members = if stored.is_some() { lead.arrived() } else { lead.close() };
        if matches!(&landed, Err(failure) if failure.kind == FailureKind::Upstream(FailedKind::Abandoned)) {
            // Who has closed one half, and is there all the same, gets nothing of Snyk's.
            members.clear();
        }
        //    An export that Snyk has begun is answered in any case: a client that is told nothing of it begins another.
        let recorded = self.must_be_recorded(self.journal.record(attempt, served(members)).await);
        if let Err(failure) = recorded
            && call.operation != Operation::Start
        {
            return lead.land(Err(failure));
        }

        // 4. Store it, and record those who came meanwhile.
        if let Some((entry, key)) = stored {
            self.cache.store(&key, entry, before);
            let late = lead.close();
            if !late.is_empty()
                && let Err(failure) = self.must_be_recorded(self.journal.serve(id, served(late)).await)
            {
                return lead.land(Err(failure));
            }
        }
        lead.land(landed);
    }

    /// Asks Snyk, in turn. A read is asked once more where the credential was refused and another value is at
    /// hand, where it failed on the way, and after a 429 whose backoff it can wait for. A start is only asked again where Snyk
    /// has certainly not processed it.
    async fn ask(
        &self,
        call: &ExportCall,
        errand: &Errand,
        body: &Bytes,
        lead: &mut Lead<Landed>,
    ) -> Result<Asked, Failure> {
        let (credential, scope) = (&errand.credential, Some(&call.scope));
        let client = &errand.member.client;
        let present = || async {
            credential.present(scope, client, self.clock.now()).await.map_err(FailureKind::Unavailable)
        };
        let mut presented = present().await?;
        let is_read = call.method() == Method::GET;
        let (mut may_replay, mut may_wait, mut may_resend) = (is_read, is_read, true);
        let (mut number, mut tries) = (0, 0);
        let mut last: Option<Asked> = None;
        loop {
            let mut draft = self.draft(call, errand, presented);
            draft.attempt.number = number + 1;
            if let Some(before) = &last {
                self.must_be_recorded(self.journal.record(before.attempt.clone(), Vec::new()).await)?;
                draft.attempt.sent_id = Uuid::new_v4();
            }
            let slot = match (self.admitted(&mut draft, lead).await, last.take()) {
                (Ok(slot), _) => slot,
                // What the last try brought is better than nothing; a 401 is ours, not the client's.
                (Err(_), Some(mut last)) => {
                    if last.attempt.status == Some(StatusCode::UNAUTHORIZED.as_u16()) {
                        last.answer = Err(rejected(credential, &draft.presented, self.clock.now()).into());
                    }
                    return Ok(last);
                }
                (Err(failure), None) => return Err(failure),
            };
            (number, tries) = (number + 1, tries + 1);
            if tries == 1 {
                self.admission.sent_first();
            }
            presented = draft.presented;
            presented.sent();
            let request = ExportRequest { call, errand, attempt: draft.attempt, body: body.clone() };
            let mut asked = self.ask_once(request, &presented, &slot, lead).await;
            let left = errand.deadline.saturating_duration_since(Instant::now());
            let failed = failed_kind(&asked);
            let may_repeat = is_read || failed.is_some_and(FailedKind::is_not_processed);
            // A probe decides for others too: it is not repeated before its answer is heard.
            let again = Some(came(&asked)).filter(|_| may_repeat && !slot.is_probe());
            let again =
                again.filter(|result| result.is_passing()).and_then(|_| self.admission.retry(tries, left));
            let resends = failed == Some(FailedKind::NotProcessed) && std::mem::take(&mut may_resend);
            slot.end(self.end_of(&asked, call, again.is_some() || resends));
            let status = asked.answer.as_ref().ok().map(|answer| answer.status);
            if status.is_some_and(speaks_for_the_credential) {
                credential.accepted(&presented, self.clock.now());
            }
            if status == Some(StatusCode::UNAUTHORIZED) {
                let other = credential.refused(&presented, self.clock.now(), true).await;
                let Some(other) = other.filter(|_| std::mem::take(&mut may_replay)) else {
                    asked.answer = Err(rejected(credential, &presented, self.clock.now()).into());
                    return Ok(asked);
                };
                (presented, tries) = (other, 0);
            } else if let Some(pause) = again {
                tokio::time::sleep(pause).await;
            } else if resends {
                // Snyk closes its connections in ordinary operation: there is nothing to wait for.
            } else if status == Some(StatusCode::TOO_MANY_REQUESTS) && std::mem::take(&mut may_wait) {
                // The backoff is known by now: whether the wait for it fits is the queue's to say.
                tries = 0;
            } else {
                return Ok(asked);
            }
            last = Some(asked);
        }
    }

    /// The end of a request, for the lane and the circuits. One that is made again says nothing yet of host and export.
    fn end_of(&self, asked: &Asked, call: &ExportCall, is_made_again: bool) -> RequestEnd {
        let is_start = call.operation == Operation::Start;
        let is_snyks = asked.attempt.received_id.is_some();
        RequestEnd {
            outcome: outcome(asked),
            rate: asked.answer.as_ref().map(|answer| self.rate(&answer.fields)).unwrap_or_default(),
            kind: if is_start { CallKind::Start } else { CallKind::Read },
            evidence: if is_made_again { Evidence::None } else { came(asked).evidence(is_snyks) },
        }
    }

    /// A request for an export call, and its record in the making.
    fn draft<'a>(&self, call: &'a ExportCall, errand: &'a Errand, presented: Presented) -> Draft<'a> {
        let mut attempt =
            self.attempt(errand, errand.sent_id, (call.method().as_str(), call.operation.as_str()));
        attempt.scope_kind = Some(call.scope.kind.as_str());
        attempt.scope_id = Some(call.scope.id.as_str().to_owned());
        attempt.export_id = call.operation.export().map(|id| id.as_str().to_owned());
        attempt.version_requested = call.query.version().map(fields::plain);
        Draft { errand, call: Some(call), attempt, presented }
    }

    /// Waits until a request may be sent; ends where nobody waits for the answer any more.
    async fn admitted(&self, draft: &mut Draft<'_>, lead: &mut Lead<Landed>) -> Result<RequestSlot, Failure> {
        let began = self.clock.now().mono;
        let mut admitted = std::pin::pin!(self.admit(draft));
        loop {
            tokio::select! {
                slot = admitted.as_mut() => return slot,
                () = lead.abandoned() => {
                    if lead.give_up() {
                        self.metrics.waited(self.clock.now().mono.saturating_duration_since(began));
                        return Err(FailureKind::Abandoned.into());
                    }
                }
            }
        }
    }

    /// Waits until a request may be sent, and puts it on record: from then on it counts for every process, whatever becomes of
    /// this one. The only place where requests are let through.
    async fn admit(&self, draft: &mut Draft<'_>) -> Result<RequestSlot, Failure> {
        let began = self.clock.now().mono;
        let Draft { errand, call, attempt, presented } = draft;
        let is_start = call.is_some_and(|call| call.operation == Operation::Start);
        let scope =
            |call: &ExportCall| format!("{} {}", call.scope.kind.as_str(), call.scope.id.as_str()).into();
        let mut candidate = errand.candidate(call.filter(|_| is_start).map(scope));
        let lane = errand.lane(if attempt.api == Api::V1.as_str() { Api::V1 } else { Api::Rest });
        let mut reservation = self.journal.reservation(attempt.id);
        loop {
            let slot = self.admission.acquire(&lane, call.map(Resource::from), candidate).await;
            let slot = slot.map_err(|refusal| {
                self.metrics.waited(self.clock.now().mono.saturating_duration_since(began));
                FailureKind::NotAdmitted(refusal)
            })?;
            attempt.queued += slot.lane.queued;
            attempt.waited_for = attempt.waited_for.or(slot.lane.obstacle.map(Obstacle::as_str));
            if slot.lane.queued > LONG_QUEUE {
                let credential = &errand.credential;
                *presented = match call {
                    Some(call) => {
                        let client = &errand.member.client;
                        credential.present(Some(&call.scope), client, self.clock.now()).await
                    }
                    None => credential.present_unlocked(self.clock.now()).await,
                }
                .map_err(FailureKind::Unavailable)?;
            }
            if self.reserve(&slot, attempt, &mut reservation).await? {
                reservation.sent();
                return Ok(slot);
            }
            candidate = slot.put_back();
        }
    }

    /// Puts a request on record that has a slot. `false` where it may not be sent any more: other processes have used a window
    /// up meanwhile, or a 429 came. Where the journal does not work, this process counts for itself.
    async fn reserve(
        &self,
        slot: &RequestSlot,
        attempt: &mut Attempt,
        reservation: &mut Reservation,
    ) -> Result<bool, Failure> {
        for _ in 0..2 {
            match reservation.make(attempt, slot.confirmation()).await {
                Ok(true) => {
                    let now = self.clock.now();
                    attempt.started = now.wall;
                    if slot.lane.age(now.mono) <= LATE {
                        return Ok(true);
                    }
                    // The others count it too early: it is put on record again, as of now.
                }
                Ok(false) => return Ok(false),
                Err(error) => {
                    self.must_be_recorded(Err(error))?;
                    break;
                }
            }
        }
        let now = self.clock.now();
        attempt.started = now.wall;
        Ok(slot.confirmation()(now))
    }

    /// Sends an export call once, and makes its record.
    async fn ask_once(
        &self,
        request: ExportRequest<'_>,
        presented: &Presented,
        slot: &RequestSlot,
        lead: &mut Lead<Landed>,
    ) -> Asked {
        let ExportRequest { call, errand, mut attempt, body } = request;
        let sent = self.clock.now();
        let outgoing = Outgoing {
            method: call.method(),
            target: call.target(),
            fields: outgoing_fields(errand, attempt.sent_id, presented),
            body: Either::Left(Full::new(body)),
        };
        // It is large, and moved about.
        let asking = Box::pin(self.shutdown.in_time(self.upstream.ask(outgoing, &errand.member.client)));
        let answer = if call.is_shared() { while_needed(asking, slot, lead).await } else { Ok(asking.await) };
        let received = self.clock.now();
        attempt.latency = received.mono.saturating_duration_since(sent.mono);
        let stopped = || Err(Failed::of(FailedKind::Stopped));
        let answer = answer.map_or_else(Err, |answer| answer.unwrap_or_else(stopped));
        let document = match &answer {
            // What is too large to be stored is read for nothing but the credential.
            Ok(answer) => {
                let is_storable = answer.body.len() <= self.rules.load().cache.max_entry;
                document::read(&answer.body, presented.secret(), is_storable).await
            }
            Err(_) => Document::default(),
        };
        let fields = answer
            .as_ref()
            .map_or_else(|failed| failed.head.as_ref().map(|head| &head.1), |answer| Some(&answer.fields));
        if document.echoes || fields.is_some_and(|fields| presented.is_in_fields(fields)) {
            attempt.error = Some("credential_echoed");
            self.tell(&attempt, errand, (None, received));
            let document = Document::default();
            return Asked { attempt, answer: Err(FailureKind::Echo.into()), document, sent, received };
        }
        answer::note(&mut attempt, &answer, document.peek.as_ref());
        self.tell(&attempt, errand, (document.peek.as_ref(), received));
        Asked { attempt, answer: answer.map_err(Failure::from), document, sent, received }
    }

    /// Waits until a call that is no export call may be sent.
    pub(super) async fn admit_other(&self, call: &OtherCall, errand: &Errand) -> Result<Clearance, Failure> {
        let presented = errand.credential.present_unlocked(self.clock.now()).await;
        let presented = presented.map_err(FailureKind::Unavailable)?;
        let mut attempt = self.attempt(errand, errand.sent_id, (call.method.as_str(), "other"));
        if call.target.starts_with("/v1/") {
            attempt.api = Api::V1.as_str();
        }
        if let Some(scope) = call.scopes.first() {
            attempt.scope_kind = Some(scope.kind.as_str());
            attempt.scope_id = Some(scope.id.as_str().to_owned());
        }
        let mut draft = Draft { errand, call: None, attempt, presented };
        let slot = self.admit(&mut draft).await?;
        let Draft { attempt, presented, .. } = draft;
        Ok(Clearance { slot, attempt, presented })
    }

    /// Sends a call that is no export call and lands its head; the body streams. Its record is committed
    /// before the head leaves, and tells the bytes where the head announces them. It is never replayed,
    /// and a 401 does not lock the credential: some of Snyk's other calls answer so for what a tenant has
    /// not bought.
    pub(super) async fn pass_through(
        self: Arc<Self>,
        call: OtherCall,
        (errand, body): (Errand, Streamed),
        clearance: Clearance,
        left: impl Future<Output = ()>,
    ) -> Result<(Uuid, Sending, http::Response<Streamed>), Failure> {
        let Clearance { slot, mut attempt, presented } = clearance;
        let sending = Sending::of(&attempt);
        let uploads = !hyper::body::Body::is_end_stream(&body);
        let is_safe = call.method.is_safe();
        let sent = self.clock.now();
        let outgoing = Outgoing {
            method: call.method,
            target: call.target,
            fields: outgoing_fields(&errand, attempt.sent_id, &presented),
            body: Either::Right(body),
        };
        let opening = self.shutdown.in_time(self.upstream.open(outgoing));
        let answer = if is_safe { while_awaited(opening, &slot, left).await } else { Ok(opening.await) };
        let answer = answer.and_then(|answer| answer.unwrap_or_else(|| Err(Failed::of(FailedKind::Stopped))));
        attempt.latency = self.clock.now().mono.saturating_duration_since(sent.mono);
        let (end, came) = match &answer {
            Ok(response) => {
                let (status, fields) = (response.status(), response.headers());
                let is_snyks = fields.contains_key(fields::SNYK_REQUEST_ID);
                let outcome = answer::outcome(status, fields, self.clock.now().wall);
                ((outcome, self.rate(fields)), TryResult::Status(status.as_u16()).evidence(is_snyks))
            }
            Err(failed) => {
                ((SendOutcome::Failed, RateFields::default()), TryResult::Failed(failed.kind).evidence(false))
            }
        };
        // What its client uploads may have failed it, or kept it from an answer: that says nothing of the upstream.
        let evidence = if answer.is_ok() || !uploads { came } else { Evidence::None };
        slot.end(RequestEnd { outcome: end.0, rate: end.1, kind: CallKind::Other, evidence });
        let mut instead = None;
        match &answer {
            Ok(response) if presented.is_in_fields(response.headers()) => {
                attempt.error = Some("credential_echoed");
                instead = Some(FailureKind::Echo);
            }
            Ok(response) => {
                answer::note_head(&mut attempt, response.status(), response.headers());
                attempt.bytes = hyper::body::Body::size_hint(response.body()).exact();
                if response.status() == StatusCode::UNAUTHORIZED {
                    let _ = errand.credential.refused(&presented, self.clock.now(), false).await;
                    instead = Some(FailureKind::CredentialRejected);
                }
            }
            Err(failed) => attempt.error = Some(failed.kind.as_str()),
        }
        self.tell(&attempt, &errand, (None, self.clock.now()));
        let id = attempt.id;
        self.must_be_recorded(self.journal.record(attempt, served(vec![errand.member])).await)?;
        match (instead, answer) {
            (Some(kind), _) => Err(Failure { attempt: Some(id), ..kind.into() }),
            (None, Ok(mut response)) => {
                response.body_mut().hold(errand.permit);
                response.body_mut().withhold(presented.secret());
                Ok((id, sending, response))
            }
            (None, Err(failed)) => Err(Failure { attempt: Some(id), ..failed.into() }),
        }
    }

    /// What the rate fields of an answer say; nothing where they are not understood, which is counted.
    fn rate(&self, answer: &HeaderMap) -> RateFields {
        answer::rate(answer).unwrap_or_else(|Garbled| {
            let what = "the X-Ratelimit-Limit of an answer is not understood";
            self.metrics.drifted(Kind::RateFields, what, self.clock.now().wall);
            RateFields::default()
        })
    }

    /// Counts and traces an attempt, and counts what it shows of Snyk.
    fn tell(&self, attempt: &Attempt, errand: &Errand, (peek, now): (Option<&Peek>, Now)) {
        if let (Some(traces), Some(trace)) = (&self.traces, &errand.trace) {
            spans::attempt(traces, trace, attempt);
        }
        let Attempt { operation, status, latency, queued, .. } = *attempt;
        let status = status.filter(|_| attempt.error.is_none());
        self.metrics.attempted(&Attempted { operation, status, latency, queued });
        for (kind, detail) in answer::drift(attempt, peek, self.metrics.drift()) {
            self.metrics.drifted(kind, &detail, now.wall);
        }
    }

    /// With `journal.on_failure = "refuse"`, no answer leaves that is not on record.
    fn must_be_recorded(&self, recorded: Result<(), Unrecorded>) -> Result<(), Failure> {
        match recorded {
            Err(_) if self.rules.load().on_journal_failure == OnFailure::Refuse => {
                Err(FailureKind::Journal.into())
            }
            _ => Ok(()),
        }
    }

    /// The stored response that `answer` becomes, if it may be stored.
    fn entry(
        &self,
        answer: &Answer,
        document: &Document,
        (sent, received): (Now, Now),
        attempt: Uuid,
    ) -> Result<Arc<Entry>, NotStored> {
        let Answer { status, fields, body, reservation } = answer;
        let peek = document.peek.as_ref();
        let seen = cache::Answer { status: *status, fields, body_len: body.len(), peek, sent, received };
        let freshness = cache::assess(&seen, &self.rules.load().cache)?;
        let fields = fields::for_replay(fields::end_to_end(fields.clone(), self.upstream.root()));
        let age = cache::age(&fields);
        let etag = document.etag.clone().ok_or(NotStored::NotExport)?;
        let fields = reply::for_storing(fields, &etag, &freshness);
        let (body, reservation) = (body.clone(), reservation.clone());
        let whole = cache::Whole { status: *status, fields, body, reservation, etag, age };
        Ok(Arc::new(Entry::new(whole, freshness, received, attempt)))
    }

    /// Counts that a finished export is not stored, and says once for each reason what to do about it.
    fn not_stored(&self, why: NotStored) -> Option<&'static str> {
        let reason = why.reason()?;
        if self.metrics.not_stored(reason) {
            tracing::warn!(
                cache.not_stored = reason,
                "an answer with a finished export is not stored; {} (said once for each reason)",
                why.remedy()
            );
        }
        Some(reason)
    }

    fn attempt(&self, errand: &Errand, sent_id: Uuid, (method, operation): (&str, &'static str)) -> Attempt {
        let with = (Arc::clone(&self.upstream_name), Arc::clone(&errand.credential.name));
        Attempt {
            request: errand.member.request,
            client: Arc::clone(&errand.member.client),
            operation,
            method: method.to_owned(),
            ..Attempt::new(self.clock.now().wall, with, sent_id)
        }
    }
}

/// Does `work`, the asking for an answer, as long as it is needed: one that all clients have left ends when another request
/// needs its slot.
async fn while_needed<T>(
    work: impl Future<Output = T>,
    slot: &RequestSlot,
    lead: &mut Lead<Landed>,
) -> Result<T, Failed> {
    let mut work = std::pin::pin!(work);
    loop {
        tokio::select! {
            done = work.as_mut() => return Ok(done),
            () = lead.abandoned() => {
                if lead.is_abandoned() {
                    slot.lane.abandon();
                }
            }
            () = slot.lane.slot_needed() => {
                // Somebody may have come back.
                if lead.give_up() {
                    return Err(Failed::of(FailedKind::Abandoned));
                }
            }
        }
    }
}

/// The same for a call with one client, which is gone when `left` resolves.
async fn while_awaited<T>(
    work: impl Future<Output = T>,
    slot: &RequestSlot,
    left: impl Future<Output = ()>,
) -> Result<T, Failed> {
    let abandoned = async {
        left.await;
        slot.lane.abandon();
        slot.lane.slot_needed().await;
    };
    tokio::select! {
        done = work => Ok(done),
        () = abandoned => Err(Failed::of(FailedKind::Abandoned)),
    }
}

/// What a send came to, for the lane.
fn outcome(asked: &Asked) -> SendOutcome {
    match &asked.answer {
        Ok(answer) => answer::outcome(answer.status, &answer.fields, asked.received.wall),
        Err(Failure { kind: FailureKind::Echo | FailureKind::Upstream(FailedKind::NoRoom), .. }) => {
            SendOutcome::Answered
        }
        Err(_) => SendOutcome::Failed,
    }
}

/// What a try of an export call came to.
fn came(asked: &Asked) -> TryResult {
    match (&asked.answer, failed_kind(asked)) {
        (Ok(answer), _) => TryResult::Status(answer.status.as_u16()),
        (Err(_), Some(kind)) => TryResult::Failed(kind),
        // It was there and answered, whatever we make of that.
        (Err(_), None) => TryResult::Status(200),
    }
}

fn failed_kind(asked: &Asked) -> Option<FailedKind> {
    match asked.answer {
        Err(Failure { kind: FailureKind::Upstream(kind), .. }) => Some(kind),
        _ => None,
    }
}

/// What the client is told of a 401: Snyk may take the credential elsewhere.
fn rejected(credential: &Credential, presented: &Presented, now: Now) -> FailureKind {
    credential
        .refused_for_scope_alone(presented, now)
        .map_or(FailureKind::CredentialRejected, |retry_after| {
            FailureKind::Unavailable(Unavailable::ScopeRefused { retry_after })
        })
}

/// The fields of a request as it goes up.
fn outgoing_fields(errand: &Errand, sent_id: Uuid, presented: &Presented) -> HeaderMap {
    let mut fields = errand.fields.clone();
    fields.insert(http::header::VIA, errand.via.clone());
    if let Ok(id) = HeaderValue::try_from(sent_id.to_string()) {
        fields.insert(fields::SNYK_REQUEST_ID, id);
    }
    fields.insert(AUTHORIZATION, presented.field.clone());
    fields
}

/// Whether an answer shows that Snyk took the credential. Others may be given before it is looked at: 400 and
/// 404 for the version, 429 and 5xx for anything.
fn speaks_for_the_credential(status: StatusCode) -> bool {
    status.is_success()
}

fn served(members: Vec<Member>) -> Vec<Served> {
    members.into_iter().map(|Member { request, client }| Served { request, client }).collect()
}
