//! The calls of a turn, through the same doors as those of clients: the start, the wait for its end, and the proof.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, StatusCode};
use http_body_util::BodyExt as _;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::columns::TableScan;
use super::failure::{NoStart, TurnError};
use super::state::{PendingExport, ProvenTable, unix_ms};
use super::turn::TurnTask;
use crate::access::Permit;
use crate::cache::Directives;
use crate::clock::Now;
use crate::export::{
    API_VERSION, CallQuery, Document, ExportCall, ExportParts, ExportProgress, FileName, Id, Operation,
};
use crate::files::{Ask, Conditions, FileAnswer, FilesError, FilesErrorKind};
use crate::retrieval::{Asker, Cause, Question, Retrieved, Wait, Wanted, retry_after};

/// Our name among the clients.
pub(super) const CLIENT: &str = "exportgate";
/// The gateway itself asks, and nobody has passed its request on.
const VIA: HeaderValue = HeaderValue::from_static("1.1 exportgate");
/// Longest wait for one answer.
const PATIENCE: Duration = Duration::from_mins(1);
/// Longest wait for the end of an export before the turn looks at the clock.
const WAIT: Duration = Duration::from_secs(10);
/// The pause after a wait that did not bring the end: it may have ended early.
const PAUSE: Duration = Duration::from_secs(5);
/// Seconds before the proof is tried again, where that may help.
const PROOF_PAUSES: [u64; 2] = [10, 60];

/// The progress of an export, as one look shows it.
enum JobProgress {
    Running,
    Finished,
}

impl TurnTask {
    /// Starts an export; gives its id.
    pub(super) async fn start(&self, request: Uuid) -> Result<Id, NoStart> {
        let now = self.parts().clock.now();
        let failed = |reason: &str| NoStart::Failed(reason.to_owned());
        let start = self.export.settings.question.start(now.wall);
        let start = start.map_err(|_| failed("the range of time is empty"))?;
        let call =
            ExportCall::of_target(&start.target).ok_or_else(|| failed("the start call is not sound"))?;
        let mut fields = HeaderMap::new();
        fields.insert(CONTENT_TYPE, HeaderValue::from_static("application/vnd.api+json"));
        fields.insert(ACCEPT, HeaderValue::from_static("*/*"));
        let body = Bytes::from(start.body.to_string());
        let question = self.question(call, fields, body).ok_or_else(|| failed(NO_CREDENTIAL))?;
        // A turn makes an export of its own: it takes no equal start's, not in a hold of starts either.
        let directives = Directives { no_cache: true, ..Directives::default() };
        let wanted = Wanted { directives, ..Wanted::default() };
        let asker = Asker { request, ..asker(now) };
        let retrieved = match self.parts().retrieval.get(question, asker, wanted, now).await {
            Ok(retrieved) => retrieved,
            Err(no_answer) if is_unsent(no_answer.cause) => {
                let wait = if let Cause::NotAdmitted(refusal) = no_answer.cause {
                    refusal.retry_after
                } else {
                    Duration::ZERO
                };
                return Err(NoStart::NotSent { reason: words(no_answer.cause), wait });
            }
            Err(no_answer) => return Err(NoStart::Failed(words(no_answer.cause))),
        };
        let answer = retrieved.parts();
        match answer.status {
            StatusCode::ACCEPTED => {
                let id = Document::of(answer.body).and_then(|document| Id::parse(&document.id?));
                id.ok_or_else(|| failed("Snyk's answer to the start call names no export"))
            }
            StatusCode::TOO_MANY_REQUESTS => {
                let wait = retry_after(answer.fields).unwrap_or_default();
                Err(NoStart::NotSent { reason: "Snyk's starts are used up (429)".to_owned(), wait })
            }
            status => Err(failed(&format!("Snyk answered the start call with {}", status.as_u16()))),
        }
    }

    /// Waits until an export is finished, with the clients that wait for it. Trouble on the way is no end of the export.
    pub(super) async fn wait(&self, pending: &PendingExport) -> Result<(), TurnError> {
        loop {
            let now = self.parts().clock.now();
            let question = self.question_of(pending, Operation::JobStatus)?;
            let wait = Some(Wait { until: now.mono + WAIT, is_asked: true });
            let wanted = Wanted { wait, ..Wanted::default() };
            let answer = self.parts().retrieval.get(question, asker(now), wanted, now).await;
            if let Ok(answer) = answer
                && let JobProgress::Finished = progress(&answer)?
            {
                return Ok(());
            }
            // Its time may have been set right meanwhile.
            let state = self.export.state();
            let shown = state.as_ref().and_then(|state| state.pending.as_ref());
            let shown = shown.filter(|shown| shown.id == pending.id).unwrap_or(pending);
            if shown.is_too_old(unix_ms(self.parts().clock.now().wall)) {
                return Err(TurnError::new("the export was not finished within an hour"));
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Reads the whole table once; each of its parts is proven on the way.
    pub(super) async fn prove(&self, pending: &PendingExport) -> Result<ProvenTable, TurnError> {
        let mut pauses = PROOF_PAUSES.into_iter();
        loop {
            let error = match self.read_table(pending).await? {
                Ok(table) => return Ok(table),
                Err(error) => error,
            };
            match pauses.next().filter(|_| may_pass(error)) {
                Some(pause) => tokio::time::sleep(Duration::from_secs(pause)).await,
                None if error == FilesErrorKind::ExportFailed => return Err(TurnError::errored()),
                None => return Err(TurnError::new(format!("the table was not proven ({})", error.code()))),
            }
        }
    }

    async fn read_table(
        &self,
        pending: &PendingExport,
    ) -> Result<Result<ProvenTable, FilesErrorKind>, TurnError> {
        let now = self.parts().clock.now();
        let question = self.question_of(pending, Operation::Results)?;
        let ask = Ask { question, asker: asker(now), wanted: Wanted::default(), now };
        let opened = self.parts().files.open(ask, FileName::Table, &Conditions::default()).await;
        let answer = match opened {
            Ok(opened) => opened.answer,
            Err(error) => return Ok(Err(error.kind)),
        };
        let FileAnswer::Whole(mut body) = answer else { return Ok(Err(FilesErrorKind::NotProven)) };
        let mut table = TableScan::default();
        while let Some(frame) = body.frame().await {
            match frame {
                Ok(frame) => frame.data_ref().into_iter().for_each(|data| table.feed(data)),
                Err(error) => {
                    let kind = error.downcast_ref::<FilesError>().map(|error| error.kind);
                    return Ok(Err(kind.unwrap_or(FilesErrorKind::NotProven)));
                }
            }
        }
        Ok(Ok(table.end()))
    }

    fn question_of(
        &self,
        pending: &PendingExport,
        operation: impl Fn(Id) -> Operation,
    ) -> Result<Question, TurnError> {
        let id = Id::parse(&pending.id).ok_or_else(|| TurnError::new("the export's id is not sound"))?;
        let mut query = CallQuery::default();
        query.default_version(API_VERSION);
        let call = ExportCall { scope: self.export.scope().clone(), operation: operation(id), query };
        let question = self.question(call, HeaderMap::new(), Bytes::new());
        question.ok_or_else(|| TurnError::new(NO_CREDENTIAL))
    }

    fn question(&self, call: ExportCall, fields: HeaderMap, body: Bytes) -> Option<Question> {
        let credential = self.parts().credentials.choose(std::slice::from_ref(&call.scope))?;
        Some(Question { call, credential, fields, body })
    }
}

const NO_CREDENTIAL: &str = "no credential is for this org or group";

/// The gateway as the one who asks.
fn asker(now: Now) -> Asker {
    Asker {
        request: Uuid::now_v7(),
        client: Arc::from(CLIENT),
        share: 1,
        permit: Permit::unlimited(),
        deadline: Instant::from_std(now.mono) + PATIENCE,
        half_closed: CancellationToken::new(),
        sent_id: None,
        via: VIA,
        trace: None,
    }
}

fn progress(answer: &Retrieved) -> Result<JobProgress, TurnError> {
    let answer = answer.parts();
    // Snyk may send to the results instead of saying it (303).
    if answer.status == StatusCode::SEE_OTHER {
        return Ok(JobProgress::Finished);
    }
    if answer.status == StatusCode::NOT_FOUND || answer.status == StatusCode::FORBIDDEN {
        let text = format!("Snyk answered the job status with {}", answer.status.as_u16());
        return Err(TurnError::new(text));
    }
    let is_ok = answer.status == StatusCode::OK;
    match ExportParts::of(answer.body).filter(|_| is_ok).map(|export| export.progress) {
        Some(ExportProgress::Finished) => Ok(JobProgress::Finished),
        Some(ExportProgress::Failed) => Err(TurnError::errored()),
        Some(ExportProgress::Running | ExportProgress::Unknown) | None => Ok(JobProgress::Running),
    }
}

/// True if the same may work in a while.
fn may_pass(kind: FilesErrorKind) -> bool {
    use FilesErrorKind as K;
    matches!(
        kind,
        K::NoResults
            | K::SnykAnswered
            | K::ResultsUnreadable
            | K::PartsMissing
            | K::NotFinished { .. }
            | K::StoreRefused
            | K::StoreUnreachable
            | K::StoreTimeout
            | K::LinkMissing
            | K::FilesBusy
            | K::ObjectChanged
            | K::NotProven
    )
}

/// True if Snyk has certainly not seen a start.
fn is_unsent(cause: Cause) -> bool {
    match cause {
        Cause::Upstream(kind) => kind.is_not_processed(),
        Cause::NotAdmitted(_)
        | Cause::Journal
        | Cause::Unavailable(_)
        | Cause::CredentialRejected
        | Cause::Stopping
        | Cause::OnlyIfCached
        | Cause::TooManyFollowers => true,
        Cause::Deadline | Cause::Echo | Cause::Abandoned | Cause::Internal => false,
    }
}

/// The cause for the one who runs the gateway.
fn words(cause: Cause) -> String {
    match cause {
        Cause::NotAdmitted(_) => "starts are held, or wait too long".to_owned(),
        Cause::Journal => "the journal cannot be written".to_owned(),
        Cause::Unavailable(_) => "the credential has no value".to_owned(),
        Cause::CredentialRejected => "Snyk refuses the credential (401)".to_owned(),
        Cause::Upstream(kind) => format!("Snyk gave no whole answer ({})", kind.as_str()),
        Cause::Deadline => "Snyk gave no answer within a minute".to_owned(),
        Cause::Echo => "Snyk's answer holds the credential".to_owned(),
        Cause::OnlyIfCached
        | Cause::TooManyFollowers
        | Cause::Abandoned
        | Cause::Stopping
        | Cause::Internal => "the start call was not answered".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use crate::journal::NOT_PROCESSED;
    use crate::upstream::UpstreamErrorKind;

    #[test]
    fn the_journal_counts_no_start_that_snyk_has_not_processed() {
        assert_eq!(UpstreamErrorKind::all().count(), 20);
        for kind in UpstreamErrorKind::all() {
            assert_eq!(NOT_PROCESSED.contains(&kind.as_str()), kind.is_not_processed(), "{kind:?}");
        }
    }
}
