//! The record of an attempt: what of an answer is written down. All text in it is plain.

use http::{HeaderMap, StatusCode};

use super::fields;
use crate::export::{Document, Id};
use crate::journal::Attempt;
use crate::upstream::{UpstreamAnswer, UpstreamError};

/// Notes a whole answer, or the failure, in the record.
pub(super) fn note(
    attempt: &mut Attempt,
    answer: &Result<UpstreamAnswer, UpstreamError>,
    document: Option<&Document>,
) {
    match answer {
        Ok(answer) => {
            note_head(attempt, answer.status, &answer.fields);
            attempt.bytes = Some(answer.body.len() as u64);
            let status = document.and_then(|document| document.status.as_deref());
            attempt.export_status = status.map(fields::plain);
            if attempt.export_id.is_none() {
                // The answer to a start names the export that it began.
                let id = document.and_then(|document| Id::parse(document.id.as_deref()?));
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

/// Notes the head of an answer in the record.
pub(super) fn note_head(attempt: &mut Attempt, status: StatusCode, answer: &HeaderMap) {
    attempt.status = Some(status.as_u16());
    attempt.received_id = fields::text(answer, fields::SNYK_REQUEST_ID);
    if let Some(requested) = fields::text(answer, "snyk-version-requested") {
        attempt.version_requested = Some(requested);
    }
    attempt.version_served = fields::text(answer, "snyk-version-served");
    attempt.lifecycle = fields::text(answer, "snyk-version-lifecycle-stage");
    attempt.deprecation = fields::text(answer, "deprecation");
    attempt.sunset = fields::text(answer, "sunset");
}
