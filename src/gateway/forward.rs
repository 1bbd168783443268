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
use super::{Gateway, fields, reply, spans};
use crate::access::Permit;
use crate::cache::{self, Entry, Key, Lead, Member, NotStored};
use crate::clock::Now;
use crate::credential::{Credential, Presented};
use crate::export::{Document as ExportDocument, ExportCall, Operation};
use crate::journal::{Attempt, OnFailure, Served, Unrecorded};
use crate::route::OtherCall;
use crate::telemetry::drift::Kind;
use crate::telemetry::metrics::Attempted;
use crate::telemetry::trace::Trace;
use crate::transport::Streamed;
use crate::upstream::gate::{Asking, Kind as CallKind, Outcome, Told, Why};
use crate::upstream::host::{Evidence, Resource};
use crate::upstream::retry::Came;
use crate::upstream::{Admitted, Answer, Api, End, Failed, FailedKind, Lane, Outgoing};

/// After a longer wait for a turn, the credential is looked at again: an access token may have ended.
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
    fn of(admitted: &Admitted, tries: u32) -> Self {
        let pass = &admitted.pass;
        Self { tries, queued: pass.queued, waited_for: pass.why.map(Why::as_str) }
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
    fn asking(&self, start: Option<Arc<str>>) -> Asking {
        let client = Arc::clone(&self.member.client);
        Asking { client, weight: self.share, start, deadline: self.deadline.into_std() }
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

/// An export call as it is sent once.
struct ExportRequest<'a> {
    call: &'a ExportCall,
    errand: &'a Errand,
    sent_id: Uuid,
    body: Bytes,
    sending: Sending,
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
        let sending =
            Sending { tries: attempt.number, queued: attempt.queued, waited_for: attempt.waited_for };
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
    /// hand, where it failed on the way, and after a 429 whose hold it can wait for. A start is only asked again where Snyk
    /// has certainly not processed it.
    async fn ask(
        &self,
        call: &ExportCall,
        errand: &Errand,
        body: &Bytes,
        lead: &mut Lead<Landed>,
    ) -> Result<Asked, Failure> {
        let (credential, scope) = (&errand.credential, Some(&call.scope));
        let present =
            || async { credential.present(scope, self.clock.now()).await.map_err(FailureKind::Unavailable) };
        let mut presented = present().await?;
        let is_read = call.method() == Method::GET;
        let (mut sent_id, mut may_replay, mut may_wait) = (errand.sent_id, is_read, is_read);
        let mut may_resend = true;
        let (mut number, mut tries) = (0, 0);
        let mut last: Option<Asked> = None;
        loop {
            let admitted = match (self.turn(call, errand, lead).await, last.take()) {
                (Ok(admitted), before) => {
                    if let Some(before) = before {
                        self.must_be_recorded(self.journal.record(before.attempt, Vec::new()).await)?;
                        sent_id = Uuid::new_v4();
                    }
                    admitted
                }
                // What the last try brought is better than nothing; a 401 is ours, not the client's.
                (Err(_), Some(mut last)) => {
                    if last.attempt.status == Some(StatusCode::UNAUTHORIZED.as_u16()) {
                        last.answer = Err(FailureKind::CredentialRejected.into());
                    }
                    return Ok(last);
                }
                (Err(failure), None) => return Err(failure),
            };
            if admitted.pass.queued > LONG_QUEUE {
                presented = present().await?;
            }
            (number, tries) = (number + 1, tries + 1);
            if tries == 1 {
                self.upstream.sent_first();
            }
            let sending = Sending::of(&admitted, number);
            presented.sent();
            let request = ExportRequest { call, errand, sent_id, body: body.clone(), sending };
            let mut asked = self.ask_once(request, &presented, &admitted, lead).await;
            let left = errand.deadline.saturating_duration_since(Instant::now());
            let failed = failed_kind(&asked);
            let may_repeat = is_read || failed.is_some_and(FailedKind::is_not_processed);
            // A probe decides for others too: it is not repeated before its answer is heard.
            let again = Some(came(&asked)).filter(|_| may_repeat && !admitted.is_probe());
            let again = again.and_then(|came| self.upstream.retry(came, tries, left));
            let resends = failed == Some(FailedKind::NotProcessed) && std::mem::take(&mut may_resend);
            admitted.ended(self.end_of(&asked, call, again.is_some() || resends));
            let status = asked.answer.as_ref().ok().map(|answer| answer.status);
            if status.is_some_and(speaks_for_the_credential) {
                credential.accepted(&presented, self.clock.now());
            }
            if status == Some(StatusCode::UNAUTHORIZED) {
                let other = credential.refused(&presented, self.clock.now(), true).await;
                let Some(other) = other.filter(|_| std::mem::take(&mut may_replay)) else {
                    asked.answer = Err(FailureKind::CredentialRejected.into());
                    return Ok(asked);
                };
                (presented, tries) = (other, 0);
            } else if let Some(pause) = again {
                tokio::time::sleep(pause).await;
            } else if resends {
                // Snyk closes its connections in ordinary operation: there is nothing to wait for.
            } else if status == Some(StatusCode::TOO_MANY_REQUESTS) && std::mem::take(&mut may_wait) {
                // The backoff is known by now: whether the wait for it fits is the gate's to say.
                tries = 0;
            } else {
                return Ok(asked);
            }
            last = Some(asked);
        }
    }

    /// The end of a request, for the lane and the circuits. One that is made again says nothing yet of host and export.
    fn end_of(&self, asked: &Asked, call: &ExportCall, is_made_again: bool) -> End {
        let is_start = call.operation == Operation::Start;
        let is_snyks = asked.attempt.received_id.is_some();
        End {
            outcome: outcome(asked),
            told: asked.answer.as_ref().map(|answer| self.rate(&answer.fields)).unwrap_or_default(),
            kind: if is_start { CallKind::Start } else { CallKind::Read },
            evidence: if is_made_again { Evidence::None } else { came(asked).evidence(is_snyks) },
        }
    }

    /// Waits for a turn to send; ends where nobody waits for the answer any more.
    async fn turn(
        &self,
        call: &ExportCall,
        errand: &Errand,
        lead: &mut Lead<Landed>,
    ) -> Result<Admitted, Failure> {
        let is_start = call.operation == Operation::Start;
        let scope = || format!("{} {}", call.scope.kind.as_str(), call.scope.id.as_str()).into();
        let asking = errand.asking(is_start.then(scope));
        let lane = errand.lane(Api::Rest);
        let turn = self.upstream.turn(&lane, Some(Resource::from(call)), asking);
        let (mut turn, began) = (std::pin::pin!(turn), Instant::now());
        loop {
            tokio::select! {
                admitted = turn.as_mut() => {
                    return admitted.map_err(|why| {
                        self.metrics.waited(began.elapsed());
                        FailureKind::NotNow(why).into()
                    });
                }
                () = lead.abandoned() => {
                    if lead.give_up() {
                        self.metrics.waited(began.elapsed());
                        return Err(FailureKind::Abandoned.into());
                    }
                }
            }
        }
    }

    /// Sends an export call once, and makes its record.
    async fn ask_once(
        &self,
        request: ExportRequest<'_>,
        presented: &Presented,
        admitted: &Admitted,
        lead: &mut Lead<Landed>,
    ) -> Asked {
        let ExportRequest { call, errand, sent_id, body, sending } = request;
        let mut attempt = self.attempt(errand, sent_id, (call.method().as_str(), call.operation.as_str()));
        (attempt.number, attempt.queued) = (sending.tries, sending.queued);
        attempt.waited_for = sending.waited_for;
        attempt.scope_kind = Some(call.scope.kind.as_str());
        attempt.scope_id = Some(call.scope.id.as_str().to_owned());
        attempt.export_id = call.operation.export().map(|id| id.as_str().to_owned());
        attempt.version_requested = call.query.version().map(fields::plain);
        let sent = self.clock.now();
        let outgoing = Outgoing {
            method: call.method(),
            target: call.target(),
            fields: outgoing_fields(errand, sent_id, presented),
            body: Either::Left(Full::new(body)),
        };
        // It is large, and moved about.
        let asking = Box::pin(self.shutdown.in_time(self.upstream.ask(outgoing)));
        let answer =
            if call.is_shared() { while_needed(asking, admitted, lead).await } else { Ok(asking.await) };
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

    /// Waits for a turn of a call that is no export call.
    pub(super) async fn turn_of_other(&self, call: &OtherCall, errand: &Errand) -> Result<Admitted, Failure> {
        let began = Instant::now();
        let api = if call.target.starts_with("/v1/") { Api::V1 } else { Api::Rest };
        let turn = self.upstream.turn(&errand.lane(api), None, errand.asking(None)).await;
        turn.map_err(|why| {
            self.metrics.waited(began.elapsed());
            FailureKind::NotNow(why).into()
        })
    }

    /// Sends a call that is no export call and lands its head; the body streams. Its record is committed
    /// before the head leaves, and tells the bytes where the head announces them. It is never replayed,
    /// and a 401 does not lock the credential: some of Snyk's other calls answer so for what a tenant has
    /// not bought.
    pub(super) async fn pass_through(
        self: Arc<Self>,
        call: OtherCall,
        (errand, body): (Errand, Streamed),
        admitted: Admitted,
    ) -> Result<(Uuid, Sending, http::Response<Streamed>), Failure> {
        let presented =
            errand.credential.present_unlocked(self.clock.now()).await.map_err(FailureKind::Unavailable)?;
        let mut attempt = self.attempt(&errand, errand.sent_id, (call.method.as_str(), "other"));
        let sending = Sending::of(&admitted, 1);
        (attempt.queued, attempt.waited_for) = (sending.queued, sending.waited_for);
        if let Some(scope) = call.scopes.first() {
            attempt.scope_kind = Some(scope.kind.as_str());
            attempt.scope_id = Some(scope.id.as_str().to_owned());
        }
        let uploads = !hyper::body::Body::is_end_stream(&body);
        let sent = self.clock.now();
        let outgoing = Outgoing {
            method: call.method,
            target: call.target,
            fields: outgoing_fields(&errand, errand.sent_id, &presented),
            body: Either::Right(body),
        };
        let answer = self.shutdown.in_time(self.upstream.open(outgoing)).await;
        let answer = answer.unwrap_or_else(|| Err(Failed::of(FailedKind::Stopped)));
        attempt.latency = self.clock.now().mono.saturating_duration_since(sent.mono);
        let (end, came) = match &answer {
            Ok(response) => {
                let (status, fields) = (response.status(), response.headers());
                let is_snyks = fields.contains_key(fields::SNYK_REQUEST_ID);
                let outcome = answer::outcome(status, fields, self.clock.now().wall);
                ((outcome, self.rate(fields)), Came::Status(status.as_u16()).evidence(is_snyks))
            }
            Err(failed) => ((Outcome::Failed, Told::default()), Came::Failed(failed.kind).evidence(false)),
        };
        // What its client uploads may have failed it, or kept it from an answer: that says nothing of the upstream.
        let evidence = if answer.is_ok() || !uploads { came } else { Evidence::None };
        admitted.ended(End { outcome: end.0, told: end.1, kind: CallKind::Other, evidence });
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
    fn rate(&self, answer: &HeaderMap) -> Told {
        answer::rate(answer).unwrap_or_else(|Garbled| {
            let what = "the X-Ratelimit-Limit of an answer is not understood";
            self.metrics.drifted(Kind::RateFields, what, self.clock.now().wall);
            Told::default()
        })
    }

    /// Counts and traces an attempt, and counts what it shows of Snyk.
    fn tell(&self, attempt: &Attempt, errand: &Errand, (peek, now): (Option<&ExportDocument>, Now)) {
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
        let seen =
            cache::Answer { status: *status, fields, body_len: body.len(), document: peek, sent, received };
        let freshness = cache::assess(&seen, &self.rules.load().cache)?;
        let fields = fields::for_replay(fields::end_to_end(fields.clone(), self.upstream.root()));
        let age = cache::age(&fields);
        let etag = document.etag.clone().ok_or(NotStored::NotExport)?;
        let fields = self.cache.pack(&reply::for_storing(fields, &etag, &freshness));
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
    admitted: &Admitted,
    lead: &mut Lead<Landed>,
) -> Result<T, Failed> {
    let mut work = std::pin::pin!(work);
    loop {
        tokio::select! {
            done = work.as_mut() => return Ok(done),
            () = lead.abandoned() => {
                if lead.is_abandoned() {
                    admitted.pass.abandon();
                }
            }
            () = admitted.pass.slot_needed() => {
                // Somebody may have come back.
                if lead.give_up() {
                    return Err(Failed::of(FailedKind::Abandoned));
                }
            }
        }
    }
}

/// What a send came to, as far as the gate is concerned.
fn outcome(asked: &Asked) -> Outcome {
    match &asked.answer {
        Ok(answer) => answer::outcome(answer.status, &answer.fields, asked.received.wall),
        Err(Failure { kind: FailureKind::Echo | FailureKind::Upstream(FailedKind::NoRoom), .. }) => {
            Outcome::Answered
        }
        Err(_) => Outcome::Failed,
    }
}

/// What a try of an export call came to.
fn came(asked: &Asked) -> Came {
    match (&asked.answer, failed_kind(asked)) {
        (Ok(answer), _) => Came::Status(answer.status.as_u16()),
        (Err(_), Some(kind)) => Came::Failed(kind),
        // It was there and answered, whatever we make of that.
        (Err(_), None) => Came::Status(200),
    }
}

fn failed_kind(asked: &Asked) -> Option<FailedKind> {
    match asked.answer {
        Err(Failure { kind: FailureKind::Upstream(kind), .. }) => Some(kind),
        _ => None,
    }
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
