//! One attempt, whatever the call: the only place where a request is admitted, and the only one where its record is
//! written.

use std::sync::Arc;

use uuid::Uuid;

use super::answer::{Cause, NoAnswer, Sending};
use super::flights::Member;
use super::question::Asker;
use super::verdict::Verdict;
use super::{Retrieval, span};
use crate::clock::Now;
use crate::credential::Credential;
use crate::export::{ExportCall, Operation};
use crate::journal::{Attempt, OnFailure, Served, Unrecorded};
use crate::telemetry::drift;
use crate::telemetry::metrics::Attempted;
use crate::upstream::host::Resource;
use crate::upstream::{Admitted, Lane};

impl Retrieval {
    /// Waits in the queue of `lane` until a request may be sent; ends when `left` does. An export call names what its
    /// circuits are about.
    pub(super) async fn admit(
        &self,
        asker: &Asker,
        lane: &Lane,
        call: Option<&ExportCall>,
        left: impl Future<Output = ()>,
    ) -> Result<Admitted, NoAnswer> {
        let began = self.clock.now().mono;
        let start = call.filter(|call| call.operation == Operation::Start);
        let scope = |call: &ExportCall| format!("{} {}", call.scope.kind.as_str(), call.scope.id.as_str());
        let asking = asker.asking(start.map(|call| scope(call).into()));
        let cause = tokio::select! {
            biased;
            turn = self.upstream.turn(lane, call.map(Resource::from), asking) => match turn {
                Ok(admitted) => return Ok(admitted),
                Err(why) => Cause::NotNow(why),
            },
            () = left => Cause::Abandoned,
        };
        self.metrics.waited(self.clock.now().mono.saturating_duration_since(began));
        Err(cause.into())
    }

    /// The record of an attempt that is about to be sent for `asker`.
    pub(super) fn attempt(
        &self,
        asker: &Asker,
        credential: &Credential,
        sent_id: Uuid,
        sending: Sending,
    ) -> Attempt {
        let names = (Arc::clone(&self.upstream_name), Arc::clone(&credential.name));
        Attempt {
            request: asker.request,
            client: Arc::clone(&asker.client),
            number: sending.tries,
            queued: sending.queued,
            waited_for: sending.waited_for,
            ..Attempt::new(self.clock.now().wall, names, sent_id)
        }
    }

    /// Counts and traces an attempt that has ended, and notes what it shows of Snyk.
    pub(super) fn observe(&self, attempt: &Attempt, asker: &Asker, verdict: &Verdict, now: Now) {
        if let (Some(traces), Some(trace)) = (&self.traces, &asker.trace) {
            span::send(traces, trace, attempt);
        }
        let Attempt { operation, status, latency, queued, .. } = *attempt;
        let status = status.filter(|_| attempt.error.is_none());
        self.metrics.attempted(&Attempted { operation, status, latency, queued });
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
            self.metrics.drifted(drift::Kind::Version, &detail, now.wall);
        }
    }

    /// Writes the record of an attempt and of the clients that it answers.
    ///
    /// # Errors
    /// With `journal.on_failure = "refuse"`, no answer leaves that is not on record.
    pub(super) async fn record(&self, attempt: Attempt, clients: Vec<Member>) -> Result<(), NoAnswer> {
        self.must_be_recorded(self.journal.record(attempt, served(clients)).await)
    }

    /// Adds clients to a record that is written already.
    pub(super) async fn record_late(&self, attempt: Uuid, clients: Vec<Member>) -> Result<(), NoAnswer> {
        if clients.is_empty() {
            return Ok(());
        }
        self.must_be_recorded(self.journal.serve(attempt, served(clients)).await)
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

fn served(members: Vec<Member>) -> Vec<Served> {
    members.into_iter().map(|Member { request, client }| Served { request, client }).collect()
}
