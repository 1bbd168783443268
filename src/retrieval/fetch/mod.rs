//! One fetch: the question of a flight on its way to Snyk, until the flight has its result.

mod fleet;
mod trial;

use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use tokio::time::sleep;

use super::answer::{Cause, Fetched, NoAnswer, Sending};
use super::attempt::{self, Draft};
use super::fleet_starts::{StartKey, start_made};
use super::flights::Leader;
use super::question::{Asker, Question};
use super::verdict::{CredentialVerdict, Repeat};
use super::{Retrieval, fields, response_fields};
use crate::cache::{self, CacheKey, Entry, NotStored};
use crate::credential::{Authorization, Unavailable};
use crate::export::Id;
use crate::journal::Attempt;
use crate::upstream::{UpstreamAnswer, UpstreamErrorKind};

use fleet::Elsewhere;
pub(super) use fleet::{FleetLead, Sought};
use trial::Trial;

/// The result of a flight.
pub(super) type FlightResult = Result<Arc<Fetched>, NoAnswer>;

/// A fetch. It runs as a task of its own to its end, whoever leaves meanwhile.
pub(super) struct Fetch {
    pub(super) retrieval: Arc<Retrieval>,
    pub(super) question: Question,
    /// The one who caused it.
    pub(super) asker: Arc<Asker>,
    /// The key under which the answer may be stored.
    pub(super) key: Option<CacheKey>,
    /// The key under which equal starts may share the answer.
    pub(super) start: Option<StartKey>,
    /// The answers of other gateways that it takes.
    pub(super) sought: Sought,
    pub(super) leader: Leader<FlightResult>,
}

impl Fetch {
    /// Gets the answer and completes the flight. The record is committed before anybody is answered, also from the cache.
    pub(super) async fn run(mut self) {
        let purges = self.retrieval.cache.purges();
        // 0. Look for what other gateways have.
        let (lead, purges) = match &self.retrieval.fleet {
            None => (None, purges),
            Some(_) => match Box::pin(self.look_elsewhere()).await {
                Elsewhere::Found(fetched) => return self.hand_on(fetched, purges),
                Elsewhere::Left(no_answer) => return self.leader.complete(Err(no_answer)),
                // Whatever was purged by now, it is asked for after that.
                Elsewhere::Ask(lead) => (lead, self.retrieval.cache.purges()),
            },
        };
        self.leader.asks();
        if self.sought.is_polled() {
            self.retrieval.metrics.polled();
        }

        // 1. Ask. It is large: boxed, it is not moved about with what is spawned.
        let trial = match Box::pin(self.ask()).await {
            Ok(trial) => trial,
            Err(no_answer) => return self.fail(lead, no_answer).await,
        };

        // 2. Judge whether it may be stored.
        let id = trial.attempt.id;
        let (mut attempt, result) = self.result(trial);
        attempt.kept = attempt.kept.filter(|_| purges == self.retrieval.cache.purges());

        // 3. Record it. An answer that will be stored may be joined until it is: a client that comes
        //    meanwhile finds either the flight or the stored response; a start is kept with its record. Any other
        //    is over now, so that nobody gets an answer that had come before it asked.
        let entry = result.as_ref().ok().and_then(|fetched| fetched.entry.clone());
        let is_kept = entry.is_some() || attempt.kept.is_some();
        let mut clients = if is_kept { self.leader.answered() } else { self.leader.close() };
        if matches!(&result, Err(NoAnswer { cause: Cause::Upstream(UpstreamErrorKind::Abandoned), .. })) {
            // A client that has closed one half, and is there all the same, gets nothing of Snyk's.
            clients.clear();
        }
        if self.question.is_start() && !result.as_ref().is_ok_and(|fetched| fetched.began.is_some()) {
            // It fails its own caller only.
            clients.retain(|client| client.request == self.asker.request);
        }
        let made = start_made(&attempt);
        //    An export that Snyk has begun is answered in any case: a client that is told nothing of it begins another.
        if let Err(no_answer) = self.retrieval.record(attempt, clients).await
            && !self.question.is_start()
        {
            return self.fail(lead, no_answer).await;
        }

        // 4. Give it to the other gateways, store it, and record those who came meanwhile.
        let is_storable = match lead {
            Some(lead) => lead.land(&self, &result).await,
            None => true,
        };
        if let Some((entry, key)) = entry.zip(self.key).filter(|_| is_storable) {
            self.retrieval.cache.store(&key, entry, purges);
        }
        if let (Some(start), Some((made, on_record))) = (self.start, &made) {
            self.retrieval.put_start(start, made, on_record).await;
        }
        let late = self.leader.close();
        if let Err(no_answer) = self.retrieval.record_late(id, late).await
            && !self.question.is_start()
        {
            return self.leader.complete(Err(no_answer));
        }
        self.leader.complete(result);
    }

    /// Asks Snyk, when it is admitted, and again where the verdict has it that this may help.
    async fn ask(&mut self) -> Result<Trial, NoAnswer> {
        let retrieval = Arc::clone(&self.retrieval);
        let Question { call, credential, .. } = &self.question;
        let now = retrieval.clock.now();
        let mut presented = attempt::present(credential, Some(call), &self.asker.client, now).await?;
        // The repeats that were made, of those that help once.
        let mut made = Vec::new();
        let (mut number, mut tries) = (0, 0);
        let mut last: Option<Trial> = None;
        loop {
            let mut attempt = self.attempt(number + 1);
            if let Some(before) = &last {
                // It is on record, with its outcome, before the next one is.
                retrieval.record(before.attempt.clone(), Vec::new()).await?;
                attempt.sent_id = attempt.id;
            }
            let mut draft = Draft {
                asker: &self.asker,
                credential: &self.question.credential,
                call: Some(&self.question.call),
                attempt,
                presented,
            };
            let slot = match retrieval.admit(&mut draft, self.leader.given_up()).await {
                Ok(slot) => slot,
                // The answer of the last try is better than none.
                Err(no_answer) => return last.ok_or(no_answer),
            };
            let attempt = draft.attempt;
            presented = draft.presented;
            (number, tries) = (number + 1, tries + 1);
            if tries == 1 {
                retrieval.admission.sent_first();
            }
            let mut trial = self.send(attempt, &presented, &slot).await;
            let (repeat, credential) = (trial.verdict.repeat, trial.verdict.credential);
            // A probe decides for others too: it is not repeated before its answer is heard.
            let pause = self.pause(repeat, tries).filter(|_| !slot.is_probe());
            let is_new = !made.contains(&repeat);
            let is_at_once = repeat == Repeat::AtOnce && is_new;
            slot.end(trial.verdict.end(pause.is_some() || is_at_once));
            let other = self.judge_credential(&presented, credential).await;
            if credential == CredentialVerdict::Refused {
                trial.answer = Err(self.rejected(&presented).into());
            }
            match (repeat, pause, other) {
                (Repeat::WithOtherCredential, _, Some(other)) if is_new => (presented, tries) = (other, 0),
                (Repeat::AfterPause, Some(pause), _) => sleep(pause).await,
                (Repeat::AtOnce, ..) if is_new => {}
                // The backoff is known by now: admission decides whether the wait for it is too long.
                (Repeat::AfterBackoff, ..) if is_new => tries = 0,
                _ => return Ok(trial),
            }
            made.push(repeat);
            last = Some(trial);
        }
    }

    /// The cause that askers get for a 401: it is about our credential, not theirs, and Snyk may take it elsewhere.
    fn rejected(&self, presented: &Authorization) -> Cause {
        let retry_after =
            self.question.credential.refused_for_scope_alone(presented, self.retrieval.clock.now());
        retry_after.map_or(Cause::CredentialRejected, |retry_after| {
            Cause::Unavailable(Unavailable::ScopeRefused { retry_after })
        })
    }

    /// The pause before a retry, if there is to be one.
    fn pause(&self, repeat: Repeat, tries: u32) -> Option<Duration> {
        if repeat != Repeat::AfterPause {
            return None;
        }
        let now = self.retrieval.clock.now().mono;
        let left = self.asker.deadline.into_std().saturating_duration_since(now);
        self.retrieval.admission.retry(tries, left)
    }

    /// Tells the credential; its other value, if the one that was presented was refused.
    async fn judge_credential(
        &self,
        presented: &Authorization,
        standing: CredentialVerdict,
    ) -> Option<Authorization> {
        let (credential, now) = (&self.question.credential, self.retrieval.clock.now());
        match standing {
            CredentialVerdict::Accepted => {
                credential.accepted(presented, now);
                None
            }
            CredentialVerdict::Refused => credential.refused(presented, now, true).await,
            CredentialVerdict::Unknown => None,
        }
    }

    fn attempt(&self, number: u32) -> Attempt {
        let Question { call, credential, .. } = &self.question;
        Attempt {
            number,
            operation: call.operation.as_str(),
            method: call.method().as_str().to_owned(),
            scope_kind: Some(call.scope.kind.as_str()),
            scope_id: Some(call.scope.id.as_str().to_owned()),
            export_id: call.operation.export().map(|id| id.as_str().to_owned()),
            version_requested: call.query.version().map(fields::plain),
            ..self.retrieval.attempt(&self.asker, credential)
        }
    }

    /// The record to write, and the result of the flight.
    fn result(&self, trial: Trial) -> (Attempt, FlightResult) {
        let stored = self.stored_response(&trial);
        let Trial { attempt, answer, is_unfinished, sent, received: arrival, .. } = trial;
        let id = attempt.id;
        let began = attempt.export_id.as_deref().filter(|_| self.question.is_start()).and_then(Id::parse);
        let fetched = |answer: UpstreamAnswer| {
            let (entry, not_stored) = match stored {
                Ok(entry) => (Some(entry), None),
                Err(why) => (None, self.retrieval.count_not_stored(why)),
            };
            Arc::new(Fetched {
                attempt: id,
                trace: self.asker.trace.as_ref().map(|trace| trace.child(id)),
                sending: Some(Sending::of(&attempt)),
                taken: None,
                asked: sent.mono,
                arrival,
                is_unfinished,
                status: answer.status,
                fields: response_fields::end_to_end(answer.fields, self.retrieval.upstream.root()),
                began: began.filter(|_| answer.status == StatusCode::ACCEPTED),
                body: answer.body,
                entry,
                not_stored,
            })
        };
        let result = answer.map(fetched).map_err(|none| NoAnswer { attempt: Some(id), ..none });
        (attempt, result)
    }

    /// The stored response that the answer becomes.
    fn stored_response(&self, trial: &Trial) -> Result<Arc<Entry>, NotStored> {
        let (Some(key), Ok(answer)) = (&self.key, &trial.answer) else {
            return Err(NotStored::NotFinished);
        };
        let freshness = trial.verdict.storing?;
        let etag = trial.etag.clone().ok_or(NotStored::NotExport)?;
        let cache = &self.retrieval.cache;
        let fields = response_fields::end_to_end(answer.fields.clone(), self.retrieval.upstream.root());
        let whole = cache::Whole {
            status: answer.status,
            age: cache::age(&fields),
            fields: response_fields::for_storing(fields, &etag, &freshness),
            body: answer.body.clone(),
            reservation: answer.reservation.clone(),
            etag,
        };
        let entry = Entry::new(whole, freshness, trial.received, trial.attempt.id);
        if cache.has_room_for(key, &entry) { Ok(Arc::new(entry)) } else { Err(NotStored::TooLarge) }
    }
}
