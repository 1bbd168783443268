//! What an answer of the upstream says: to the gate that spares it, and to the record.

use std::time::{Duration, SystemTime};

use http::{HeaderMap, StatusCode};

use super::fields;
use crate::export::{Document, Id};
use crate::journal::Attempt;
use crate::telemetry::drift::{Drift, Kind};
use crate::upstream::budget::limits_told;
use crate::upstream::gate::{Bucket, Outcome, Told};
use crate::upstream::{Answer, Failed};

/// Rate fields that are not understood.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Garbled;

/// What of a recorded attempt shows that Snyk is not as we know it; `seen` knows what was served before. All text is
/// plain already.
pub(super) fn drift(attempt: &Attempt, peek: Option<&Document>, seen: &Drift) -> Vec<(Kind, String)> {
    let mut found = Vec::new();
    let version = attempt.version_served.as_deref().unwrap_or("(no version)");
    if let Some(since) = &attempt.deprecation {
        found.push((Kind::Deprecation, format!("version {version}: deprecated since {since}")));
    }
    if let Some(end) = &attempt.sunset {
        found.push((Kind::Sunset, format!("version {version}: ends {end}")));
    }
    // Each of Snyk's other calls has versions of its own, and what is refused may be answered before a version is chosen.
    let is_of_export =
        attempt.operation != "other" && attempt.status.is_some_and(|status| (200..300).contains(&status));
    let asked = attempt.version_requested.as_deref().unwrap_or_default();
    if let Some(served) = attempt.version_served.as_deref().filter(|_| is_of_export)
        && let Some(before) = seen.served(attempt.operation, asked, served)
    {
        let detail = format!("version {asked} was asked for: {served} is served, and {before} was before");
        found.push((Kind::Version, detail));
    }
    let Some(peek) = peek.filter(|_| attempt.status == Some(200)) else { return found };
    if let Some(word) = peek.unknown_status() {
        found.push((Kind::StatusWord, format!("status {}", fields::plain(word))));
    }
    if peek.links.is_unreadable {
        let export = attempt.export_id.as_deref().unwrap_or("(no id)");
        found.push((Kind::LinkForm, format!("a link of export {export} does not say when it ends")));
    }
    found
}

/// What an answer is to the gate. Bucket and jitter are the gate's to say.
pub(super) fn outcome(status: StatusCode, answer: &HeaderMap, now: SystemTime) -> Outcome {
    if status != StatusCode::TOO_MANY_REQUESTS {
        return Outcome::Answered;
    }
    let number =
        |name: &str| answer.get(name).and_then(|value| value.to_str().ok()?.trim().parse::<u64>().ok());
    let asked = answer.get("retry-after").and_then(|value| retry_after(value.to_str().ok()?, now));
    let reset = || number("x-ratelimit-reset").map(Duration::from_secs);
    Outcome::TooMany { retry_after: asked.or_else(reset), bucket: Bucket::Unknown, jitter: Duration::ZERO }
}

/// Reads `Retry-After` (RFC 9110 §10.2.3): seconds, or a date.
fn retry_after(text: &str, now: SystemTime) -> Option<Duration> {
    let seconds = text.trim().parse().ok().map(Duration::from_secs);
    let until = || httpdate::parse_http_date(text).ok();
    seconds.or_else(|| Some(until()?.duration_since(now).unwrap_or_default()))
}

/// What the rate fields of an answer say. `X-Ratelimit-Remaining` is about the window whose limit comes first.
///
/// # Errors
/// [`Garbled`], where the limits are not understood.
pub(super) fn rate(answer: &HeaderMap) -> Result<Told, Garbled> {
    let text = |name: &str| answer.get(name).and_then(|value| value.to_str().ok());
    let number = |name: &str| text(name)?.trim().parse::<u32>().ok();
    let Some(told) = text("x-ratelimit-limit") else { return Ok(Told::default()) };
    Ok(Told {
        limits: limits_told(told).ok_or(Garbled)?,
        first: told.split([',', ';']).next().and_then(|first| first.trim().parse().ok()),
        remaining: number("x-ratelimit-remaining"),
        reset: number("x-ratelimit-reset").map(|seconds| Duration::from_secs(seconds.into())),
    })
}

/// Notes what came in the record.
pub(super) fn note(attempt: &mut Attempt, answer: &Result<Answer, Failed>, peek: Option<&Document>) {
    match answer {
        Ok(answer) => {
            note_head(attempt, answer.status, &answer.fields);
            attempt.bytes = Some(answer.body.len() as u64);
            attempt.export_status = peek.and_then(|peek| peek.status.as_deref()).map(fields::plain);
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

/// The same of a head alone.
pub(super) fn note_head(attempt: &mut Attempt, status: StatusCode, answer: &HeaderMap) {
    attempt.status = Some(status.as_u16());
    attempt.received_id = fields::text(answer, "snyk-request-id");
    if let Some(requested) = fields::text(answer, "snyk-version-requested") {
        attempt.version_requested = Some(requested);
    }
    attempt.version_served = fields::text(answer, "snyk-version-served");
    attempt.lifecycle = fields::text(answer, "snyk-version-lifecycle-stage");
    attempt.deprecation = fields::text(answer, "deprecation");
    attempt.sunset = fields::text(answer, "sunset");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::NotStored;
    use crate::telemetry::metrics::Metrics;

    #[test]
    fn each_reason_not_to_store_is_counted() {
        let metrics = Metrics::default();
        for reason in NotStored::SAID.map(|why| why.reason().expect("a reason")) {
            assert!(metrics.not_stored(reason) && !metrics.not_stored(reason), "{reason}");
        }
    }

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000);
        for (text, seconds) in [
            ("30", Some(30)),
            ("0", Some(0)),
            ("18446744073709551615", Some(u64::MAX)),
            ("Thu, 01 Jan 1970 00:20:00 GMT", Some(200)),
            ("Thu, 01 Jan 1970 00:00:00 GMT", Some(0)),
            ("-5", None),
            ("soon", None),
        ] {
            assert_eq!(retry_after(text, now), seconds.map(Duration::from_secs), "{text}");
        }
    }
}
