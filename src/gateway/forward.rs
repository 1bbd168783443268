//! The part of the path that talks to the upstream: one attempt, its record, and what is kept of it.

use std::sync::Arc;

use bytes::Bytes;
use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderValue, StatusCode};
use http_body_util::{Either, Full};
use hyper::body::Incoming;
use uuid::Uuid;

use super::failure::{Failure, FailureKind};
use super::{Gateway, fields};
use crate::cache::{self, Entry, Key, Lead, Member, Peek};
use crate::clock::Now;
use crate::journal::{Attempt, OnFailure, Served};
use crate::route::{ExportCall, Id, OtherCall};
use crate::transport::Body;
use crate::upstream::{Answer, Outgoing};

/// What a flight brings.
pub(super) type Landed = Result<Arc<Landing>, Failure>;

/// An answer of the upstream, as every client of the flight gets it.
#[derive(Debug)]
pub(super) struct Landing {
    /// The attempt that fetched it.
    pub(super) attempt: Uuid,
    /// Its status.
    pub(super) status: StatusCode,
    /// Its end-to-end fields.
    pub(super) fields: HeaderMap,
    /// Its body.
    pub(super) body: Bytes,
    /// The stored response that was made of it.
    pub(super) entry: Option<Arc<Entry>>,
}

/// A request that is ready to go up, and for whom.
#[derive(Debug)]
pub(super) struct Errand {
    /// Who asks, and under which request id.
    pub(super) member: Member,
    /// The fields, but for the credential.
    pub(super) fields: HeaderMap,
    /// `Via`, with us in it.
    pub(super) via: HeaderValue,
    /// The id to send to Snyk.
    pub(super) sent_id: Uuid,
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
        // 1. Ask.
        let mut attempt = self.attempt(&errand, call.method().as_str(), call.operation.as_str());
        attempt.scope_kind = Some(call.scope.kind.as_str());
        attempt.scope_id = Some(call.scope.id.as_str().to_owned());
        attempt.export_id = call.operation.export().map(|id| id.as_str().to_owned());
        let sent = self.clock.now();
        let body = Either::Left(Full::new(body));
        let outgoing = self.outgoing(call.method(), call.target(), errand, body);
        let answer = self.upstream.ask(outgoing).await;
        let received = self.clock.now();

        // 2. See what came, and whether it may be stored.
        let peek = answer.as_ref().ok().and_then(|answer| Peek::of(&answer.body));
        note(&mut attempt, &answer, peek.as_ref());
        attempt.latency = received.mono.saturating_duration_since(sent.mono);
        let id = attempt.id;
        let landed = answer.map_err(Failure::from).map(|answer| {
            let entry =
                store_as.as_ref().and_then(|_| self.entry(&answer, peek.as_ref(), (sent, received), id));
            let fields = fields::end_to_end(answer.fields, self.upstream.root());
            Arc::new(Landing { attempt: id, status: answer.status, fields, body: answer.body, entry })
        });

        // 3. Record it. An answer that will be stored may be joined until it is: a client that comes
        //    meanwhile finds either the flight or the stored response. Any other is over now, so that
        //    nobody gets an answer that had come before it asked.
        let stored = landed.as_ref().ok().and_then(|landing| landing.entry.clone()).zip(store_as);
        let members = if stored.is_some() { lead.take_members() } else { lead.close() };
        let recorded = self.journal.record(attempt, served(members)).await;
        if recorded.is_err() && self.on_journal_failure == OnFailure::Refuse {
            return lead.land(Err(FailureKind::Journal.into()));
        }

        // 4. Store it, and record those who came meanwhile.
        if let Some((entry, key)) = stored {
            self.cache.store(key, entry);
            let late = lead.close();
            if !late.is_empty() {
                let _ = self.journal.serve(id, served(late)).await;
            }
        }
        lead.land(landed);
    }

    /// Sends a call that is no export call and lands its head; the body streams. Its record is committed
    /// before the head leaves, and tells the bytes where the head announces them.
    pub(super) async fn pass_through(
        self: Arc<Self>,
        call: OtherCall,
        errand: Errand,
        body: Incoming,
    ) -> Result<(Uuid, http::Response<Incoming>), Failure> {
        let mut attempt = self.attempt(&errand, call.method.as_str(), "other");
        let members = vec![errand.member.clone()];
        let sent = self.clock.now();
        let outgoing = self.outgoing(call.method, call.target, errand, Either::Right(body));
        let answer = self.upstream.open(outgoing).await;
        attempt.latency = self.clock.now().mono.saturating_duration_since(sent.mono);
        match &answer {
            Ok(response) => {
                note_head(&mut attempt, response.status(), response.headers());
                attempt.bytes = hyper::body::Body::size_hint(response.body()).exact();
            }
            Err(failed) => attempt.error = Some(failed.kind.as_str()),
        }
        let id = attempt.id;
        let recorded = self.journal.record(attempt, served(members)).await;
        if recorded.is_err() && self.on_journal_failure == OnFailure::Refuse {
            return Err(FailureKind::Journal.into());
        }
        Ok((id, answer?))
    }

    fn outgoing(&self, method: http::Method, target: String, errand: Errand, body: Body) -> Outgoing {
        let mut fields = errand.fields;
        fields.insert(http::header::VIA, errand.via);
        if let Ok(id) = HeaderValue::try_from(errand.sent_id.to_string()) {
            fields.insert(fields::SNYK_REQUEST_ID, id);
        }
        fields.insert(AUTHORIZATION, self.credential.authorization());
        Outgoing { method, target, fields, body }
    }

    /// The stored response that `answer` becomes, if it may be stored.
    fn entry(
        &self,
        answer: &Answer,
        peek: Option<&Peek>,
        (sent, received): (Now, Now),
        attempt: Uuid,
    ) -> Option<Arc<Entry>> {
        let Answer { status, fields, body } = answer;
        let seen = cache::Answer { status: *status, fields, body_len: body.len(), peek, sent, received };
        let freshness = match cache::assess(&seen, &self.cache_settings) {
            Ok(freshness) => freshness,
            Err(why) => {
                tracing::debug!(attempt.id = %attempt, cache.not_stored = ?why, "not stored");
                return None;
            }
        };
        let fields = fields::for_replay(fields::end_to_end(fields.clone(), self.upstream.root()));
        let entry = Entry::new((*status, fields, body.clone()), freshness, received, attempt);
        Some(Arc::new(entry))
    }

    fn attempt(&self, errand: &Errand, method: &str, operation: &'static str) -> Attempt {
        Attempt {
            id: Uuid::now_v7(),
            started: self.clock.now().wall,
            latency: std::time::Duration::ZERO,
            upstream: Arc::clone(&self.upstream_name),
            credential: Arc::clone(&self.credential.name),
            request: errand.member.request,
            client: Arc::clone(&errand.member.client),
            sent_id: errand.sent_id,
            received_id: None,
            scope_kind: None,
            scope_id: None,
            export_id: None,
            operation,
            method: method.to_owned(),
            status: None,
            export_status: None,
            bytes: None,
            version_requested: None,
            version_served: None,
            lifecycle: None,
            deprecation: None,
            sunset: None,
            error: None,
        }
    }
}

fn note(attempt: &mut Attempt, answer: &Result<Answer, crate::upstream::Failed>, peek: Option<&Peek>) {
    match answer {
        Ok(answer) => {
            note_head(attempt, answer.status, &answer.fields);
            attempt.bytes = Some(answer.body.len() as u64);
            attempt.export_status = peek.map(|peek| peek.status.clone());
            if attempt.export_id.is_none() {
                // The answer to a start names the export that it began.
                let id = peek.and_then(|peek| Id::parse(peek.id.as_deref()?));
                attempt.export_id = id.map(|id| id.as_str().to_owned());
            }
        }
        Err(failed) => {
            attempt.error = Some(failed.kind.as_str());
            if let Some((status, fields)) = failed.head.as_deref() {
                note_head(attempt, *status, fields);
            }
        }
    }
}

fn note_head(attempt: &mut Attempt, status: StatusCode, answer: &HeaderMap) {
    attempt.status = Some(status.as_u16());
    attempt.received_id = fields::text(answer, "snyk-request-id");
    attempt.version_requested = fields::text(answer, "snyk-version-requested");
    attempt.version_served = fields::text(answer, "snyk-version-served");
    attempt.lifecycle = fields::text(answer, "snyk-version-lifecycle-stage");
    attempt.deprecation = fields::text(answer, "deprecation");
    attempt.sunset = fields::text(answer, "sunset");
}

fn served(members: Vec<Member>) -> Vec<Served> {
    members.into_iter().map(|Member { request, client }| Served { request, client }).collect()
}
