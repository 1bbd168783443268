//! One attempt, whatever the call: the only place where a request is admitted, and the only one where its record is
//! written.

use std::sync::Arc;
use std::time::Duration;

use uuid::Uuid;

use super::answer::{Cause, NoAnswer};
use super::question::Asker;
use super::verdict::Verdict;
use super::{Retrieval, span};
use crate::admission::{Api, Lane, Obstacle, RequestSlot, Resource};
use crate::clock::Now;
use crate::credential::{Authorization, Credential};
use crate::export::{ExportCall, Operation, Scope};
use crate::journal::{Attempt, AttemptReservation, OnFailure, Served, Unrecorded};
use crate::telemetry::drift;
use crate::telemetry::metrics::AttemptSample;

/// A request that is sent later than this after it was put on record is put on record again: other processes may have
/// counted it out of their windows by then. The windows' margin is longer.
const LATE: Duration = Duration::from_millis(100);
/// After a longer wait in the queue, the credential is looked at again: an access token may have ended.
const LONG_QUEUE: Duration = Duration::from_secs(1);

/// A request that is to be sent, and its record in the making.
pub(super) struct Draft<'a> {
    pub(super) asker: &'a Asker,
    pub(super) credential: &'a Arc<Credential>,
    /// `None` for a call that is no export call.
    pub(super) call: Option<&'a ExportCall>,
    pub(super) attempt: Attempt,
    pub(super) presented: Authorization,
}

impl Draft<'_> {
    fn lane(&self) -> Lane {
        let api = if self.attempt.api == Api::V1.as_str() { Api::V1 } else { Api::Rest };
        Lane { credential: Arc::clone(&self.credential.name), api }
    }

    /// The scope of a start.
    fn start(&self) -> Option<Arc<str>> {
        let call = self.call.filter(|call| call.operation == Operation::Start)?;
        Some(scope_name(&call.scope))
    }
}

/// The name of a scope for admission.
pub(super) fn scope_name(scope: &Scope) -> Arc<str> {
    format!("{} {}", scope.kind.as_str(), scope.id.as_str()).into()
}

/// The value of `credential` for a call of `client`; for one that is no export call, no probe.
pub(super) async fn present(
    credential: &Arc<Credential>,
    call: Option<&ExportCall>,
    client: &Arc<str>,
    now: Now,
) -> Result<Authorization, NoAnswer> {
    let presented = match call {
        Some(call) => credential.present(Some(&call.scope), client, now).await,
        None => credential.present_unlocked(now).await,
    };
    presented.map_err(|unavailable| Cause::Unavailable(unavailable).into())
}

impl Retrieval {
    /// Waits until the request of `draft` may be sent, and puts it on record; ends when `left` does. The only place where
    /// requests are admitted.
    pub(super) async fn admit(
        &self,
        draft: &mut Draft<'_>,
        left: impl Future<Output = ()>,
    ) -> Result<RequestSlot, NoAnswer> {
        let began = self.clock.now().mono;
        let admitted = tokio::select! {
            biased;
            // It comes first: what nobody waits for takes no slot and is not put on record.
            () = left => Err(Cause::Abandoned.into()),
            admitted = self.acquire(draft) => admitted,
        };
        if let Err(NoAnswer { cause: Cause::NotAdmitted(_) | Cause::Abandoned, .. }) = &admitted {
            self.metrics.waited(self.clock.now().mono.saturating_duration_since(began));
        }
        admitted
    }

    /// Takes a slot and puts the request on record. From then on it counts for every process, whatever becomes of this one.
    async fn acquire(&self, draft: &mut Draft<'_>) -> Result<RequestSlot, NoAnswer> {
        let lane = draft.lane();
        let mut candidate = draft.asker.candidate(draft.start());
        let mut reservation = self.journal.reservation(draft.attempt.id);
        loop {
            let slot = self.admission.acquire(&lane, draft.call.map(Resource::from), candidate).await;
            let slot = slot.map_err(Cause::NotAdmitted)?;
            let attempt = &mut draft.attempt;
            attempt.queued += slot.lane.queued;
            attempt.waited_for = attempt.waited_for.or(slot.lane.obstacle.map(Obstacle::as_str));
            if slot.lane.queued > LONG_QUEUE {
                let Draft { asker, credential, call, .. } = *draft;
                draft.presented = present(credential, call, &asker.client, self.clock.now()).await?;
            }
            if self.reserve(&slot, &mut draft.attempt, &mut reservation).await? {
                reservation.sent();
                return Ok(slot);
            }
            candidate = slot.lane.put_back();
        }
    }

    /// Puts a request on record that has a slot. False if it may not be sent any more: other processes have used a window up
    /// meanwhile, or a 429 came. If the journal does not work, this process counts for itself.
    async fn reserve(
        &self,
        slot: &RequestSlot,
        attempt: &mut Attempt,
        reservation: &mut AttemptReservation,
    ) -> Result<bool, NoAnswer> {
        for _ in 0..2 {
            match reservation.make(attempt, slot.lane.confirmation()).await {
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
        Ok(slot.lane.confirmation()(now))
    }

    /// The record of an attempt that is about to be sent for `asker`.
    pub(super) fn attempt(&self, asker: &Asker, credential: &Credential) -> Attempt {
        let (upstream, credential) = (Arc::clone(&self.upstream_name), Arc::clone(&credential.name));
        let attempt = Attempt::new(self.clock.now().wall, upstream, credential);
        let sent_id = asker.sent_id.unwrap_or(attempt.id);
        Attempt { request: asker.request, client: Arc::clone(&asker.client), sent_id, ..attempt }
    }

    /// Counts and traces an attempt that has ended, and notes what it shows of Snyk.
    pub(super) fn observe(&self, attempt: &Attempt, asker: &Asker, verdict: &Verdict, now: Now) {
        if let (Some(traces), Some(trace)) = (&self.traces, &asker.trace) {
            span::send(traces, trace, attempt);
        }
        let Attempt { operation, status, latency, queued, .. } = *attempt;
        let status = status.filter(|_| attempt.error.is_none());
        self.metrics.attempted(&AttemptSample { operation, status, latency, queued });
        for (kind, detail) in &verdict.drift {
            self.metrics.drifted(*kind, detail, now.wall);
        }
        self.observe_version(attempt, now);
    }

    /// Notes which version was served. Each of Snyk's other calls has versions of its own, and a refusal may come before a
    /// version is chosen.
    fn observe_version(&self, attempt: &Attempt, now: Now) {
        let is_success = attempt.status.is_some_and(|status| (200..300).contains(&status));
        let served = attempt.version_served.as_deref().filter(|_| is_success && attempt.operation != "other");
        let Some(served) = served else { return };
        let requested = attempt.version_requested.as_deref().unwrap_or_default();
        if let Some(before) = self.metrics.drift().served(attempt.operation, requested, served) {
            let detail =
                format!("version {requested} was asked for: {served} is served, and {before} was before");
            self.metrics.drifted(drift::DriftKind::Version, &detail, now.wall);
        }
    }

    /// Writes the record of an attempt and of the clients that it answers.
    ///
    /// # Errors
    /// With `journal.on_failure = "refuse"`, no answer leaves that is not on record.
    pub(super) async fn record(&self, attempt: Attempt, clients: Vec<Served>) -> Result<(), NoAnswer> {
        self.note_fate(&attempt).await;
        self.must_be_recorded(self.journal.record(attempt, clients).await)
    }

    /// Adds clients to a record that is written already.
    pub(super) async fn record_late(&self, attempt: Uuid, clients: Vec<Served>) -> Result<(), NoAnswer> {
        if clients.is_empty() {
            return Ok(());
        }
        self.must_be_recorded(self.journal.serve(attempt, clients).await)
    }

    fn must_be_recorded(&self, recorded: Result<(), Unrecorded>) -> Result<(), NoAnswer> {
        match recorded {
            Err(_) if self.settings.load().on_journal_failure == OnFailure::Refuse => {
                Err(Cause::Journal.into())
            }
            _ => Ok(()),
        }
    }
}
