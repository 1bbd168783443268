//! The judgement of an upstream answer (pure). It is made once for each attempt; credential, admission, retry, cache and
//! drift all go by it.

use std::time::{Duration, SystemTime};

use http::{HeaderMap, StatusCode};

use super::fields;
use super::try_result::TryResult;
use crate::admission::{Bucket, CallKind, Evidence, RateFields, RequestEnd, SendOutcome, limits_told};
use crate::cache::{self, Freshness, NotStored, WholeAnswer};
use crate::export::Document;
use crate::telemetry::drift;
use crate::upstream::UpstreamErrorKind;

/// The upstream's reply to one attempt.
#[derive(Debug)]
pub(super) enum Reply<'a> {
    /// A whole answer.
    Whole(WholeAnswer<'a>),
    /// The head of an answer that streams.
    Head(StatusCode, &'a HeaderMap),
    /// An answer with the gateway's credential in it.
    Echo,
    /// No whole answer.
    Failed(UpstreamErrorKind),
}

/// The judgement of one attempt.
#[derive(Debug)]
pub(super) struct Verdict {
    /// For the credential.
    pub(super) credential: CredentialVerdict,
    /// For the retry.
    pub(super) repeat: Repeat,
    /// For the cache: the freshness, or the reason not to store it.
    pub(super) storing: Result<Freshness, NotStored>,
    /// Signs that Snyk is not as we know it, in plain words.
    pub(super) drift: Vec<(drift::DriftKind, String)>,
    end: RequestEnd,
}

/// The judgement of the credential that was presented.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum CredentialVerdict {
    /// Snyk took it.
    Accepted,
    /// Snyk refused it.
    Refused,
    /// Nothing: 400 and 404 may be given for the version, 429 and 5xx for anything, before it is looked at.
    Unknown,
}

/// The way to send a request again, as far as the answer allows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Repeat {
    /// Not at all.
    Never,
    /// With another value of the credential.
    WithOtherCredential,
    /// After the backoff that a 429 brings.
    AfterBackoff,
    /// At once: Snyk closes its connections in ordinary operation, and has not processed it.
    AtOnce,
    /// After a pause, for a failure that may pass.
    AfterPause,
}

impl Verdict {
    /// Judges `reply` to a call of `kind`, received at `now`.
    pub(super) fn of(kind: CallKind, reply: &Reply<'_>, now: SystemTime, settings: &cache::Settings) -> Self {
        let head = match reply {
            Reply::Whole(candidate) => Some((candidate.status, candidate.fields)),
            Reply::Head(status, fields) => Some((*status, *fields)),
            Reply::Echo | Reply::Failed(_) => None,
        };
        let result = match (reply, head) {
            (Reply::Failed(failed), _) => TryResult::Failed(*failed),
            (_, Some((status, _))) => TryResult::Status(status.as_u16()),
            // It was there and answered, whatever we make of that.
            (_, None) => TryResult::Status(200),
        };
        let is_snyks = head.is_some_and(|(_, fields)| fields.contains_key(fields::SNYK_REQUEST_ID));
        let rate = head.map_or(Some(RateFields::default()), |(_, fields)| rate(fields));
        let mut drift = head.map_or_else(Vec::new, |(_, fields)| announcements(fields));
        if rate.is_none() {
            let detail = "the X-Ratelimit-Limit of an answer is not understood";
            drift.push((drift::DriftKind::RateFields, detail.to_owned()));
        }
        if let Reply::Whole(WholeAnswer { status: StatusCode::OK, document: Some(document), .. }) = reply {
            drift.extend(surprises(document));
        }
        Self {
            credential: head
                .map_or(CredentialVerdict::Unknown, |(status, _)| CredentialVerdict::after(status)),
            repeat: Repeat::of(kind, result),
            storing: match reply {
                Reply::Whole(candidate) => cache::assess(candidate, settings),
                Reply::Head(..) | Reply::Echo | Reply::Failed(_) => Err(NotStored::NotFinished),
            },
            drift,
            end: RequestEnd {
                outcome: outcome(reply, head, now),
                rate: rate.unwrap_or_default(),
                kind,
                evidence: result.evidence(is_snyks),
            },
        }
    }

    /// The end of the attempt, for admission. One that is repeated says nothing yet of host and export.
    pub(super) fn end(&self, is_repeated: bool) -> RequestEnd {
        let evidence = if is_repeated { Evidence::None } else { self.end.evidence };
        RequestEnd { evidence, ..self.end.clone() }
    }
}

impl CredentialVerdict {
    fn after(status: StatusCode) -> Self {
        match status {
            StatusCode::UNAUTHORIZED => Self::Refused,
            status if status.is_success() => Self::Accepted,
            _ => Self::Unknown,
        }
    }
}

impl Repeat {
    /// A read may be repeated after anything that may pass, a start only if Snyk has certainly not processed it as well. No
    /// other call is repeated.
    fn of(kind: CallKind, result: TryResult) -> Self {
        let is_read = kind == CallKind::Read;
        match result {
            _ if kind == CallKind::Other => Self::Never,
            TryResult::Status(401) if is_read => Self::WithOtherCredential,
            TryResult::Status(429) if is_read => Self::AfterBackoff,
            TryResult::Failed(UpstreamErrorKind::NotProcessed) => Self::AtOnce,
            _ if !result.is_passing() => Self::Never,
            TryResult::Failed(failed) if is_read || failed.is_not_processed() => Self::AfterPause,
            TryResult::Status(_) if is_read => Self::AfterPause,
            TryResult::Status(_) | TryResult::Failed(_) => Self::Never,
        }
    }
}

/// The outcome for the backoff. Bucket and jitter are the lane's to fill in.
fn outcome(reply: &Reply<'_>, head: Option<(StatusCode, &HeaderMap)>, now: SystemTime) -> SendOutcome {
    match (reply, head) {
        (_, Some((StatusCode::TOO_MANY_REQUESTS, fields))) => SendOutcome::TooMany {
            retry_after: pause_asked_for(fields, now),
            bucket: Bucket::Unknown,
            jitter: Duration::ZERO,
        },
        // It answered, and we had no room for it.
        (_, Some(_)) | (Reply::Echo | Reply::Failed(UpstreamErrorKind::NoRoom), None) => {
            SendOutcome::Answered
        }
        (Reply::Failed(_) | Reply::Whole(_) | Reply::Head(..), None) => SendOutcome::Failed,
    }
}

/// The pause that a 429 asks for: `Retry-After` (RFC 9110 §10.2.3), or the time to the reset.
fn pause_asked_for(fields: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let text = |name: &str| fields.get(name).and_then(|value| value.to_str().ok());
    let reset = || text("x-ratelimit-reset")?.trim().parse().ok().map(Duration::from_secs);
    text("retry-after").and_then(|text| retry_after(text, now)).or_else(reset)
}

/// Reads `Retry-After`: seconds, or a date.
fn retry_after(text: &str, now: SystemTime) -> Option<Duration> {
    let seconds = text.trim().parse().ok().map(Duration::from_secs);
    let until = || httpdate::parse_http_date(text).ok();
    seconds.or_else(|| Some(until()?.duration_since(now).unwrap_or_default()))
}

/// The rate fields of an answer; `None` if they are not understood. `X-Ratelimit-Remaining` is about the window whose
/// limit comes first.
fn rate(fields: &HeaderMap) -> Option<RateFields> {
    let text = |name: &str| fields.get(name).and_then(|value| value.to_str().ok());
    let number = |name: &str| text(name)?.trim().parse::<u32>().ok();
    let Some(limits) = text("x-ratelimit-limit") else { return Some(RateFields::default()) };
    Some(RateFields {
        limits: limits_told(limits)?,
        first: limits.split([',', ';']).next().and_then(|first| first.trim().parse().ok()),
        remaining: number("x-ratelimit-remaining"),
        reset: number("x-ratelimit-reset").map(|seconds| Duration::from_secs(seconds.into())),
    })
}

/// The end of an API version, as its answers announce it.
fn announcements(fields: &HeaderMap) -> Vec<(drift::DriftKind, String)> {
    let version = || {
        let served = fields::text(fields, "snyk-version-served");
        served.unwrap_or_else(|| "(no version)".to_owned())
    };
    let deprecated = fields::text(fields, "deprecation").map(|since| {
        (drift::DriftKind::Deprecation, format!("version {}: deprecated since {since}", version()))
    });
    let ending = fields::text(fields, "sunset")
        .map(|end| (drift::DriftKind::Sunset, format!("version {}: ends {end}", version())));
    deprecated.into_iter().chain(ending).collect()
}

/// The parts of an export's document that are not as we know them.
fn surprises(document: &Document) -> impl Iterator<Item = (drift::DriftKind, String)> {
    let word = document.unknown_status();
    let word = word.map(|word| (drift::DriftKind::StatusWord, format!("status {}", fields::plain(word))));
    let export = || document.id.as_deref().map_or_else(|| "(no id)".to_owned(), fields::plain);
    let of_links = [
        (document.links.is_unreadable, drift::DriftKind::LinkForm, "does not say when it ends"),
        (
            document.links.signs_fields,
            drift::DriftKind::SignedFields,
            "is signed for more header fields than Host: a file store refuses it",
        ),
    ];
    let of_links = of_links.into_iter().filter(|(is_seen, ..)| *is_seen);
    word.into_iter()
        .chain(of_links.map(move |(_, kind, what)| (kind, format!("a link of export {} {what}", export()))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_repeated_only_where_that_is_safe_and_may_help() {
        use CallKind::{Other, Read, Start};
        for (result, read, start) in [
            (TryResult::Status(200), Repeat::Never, Repeat::Never),
            (TryResult::Status(401), Repeat::WithOtherCredential, Repeat::Never),
            (TryResult::Status(429), Repeat::AfterBackoff, Repeat::Never),
            (TryResult::Status(503), Repeat::AfterPause, Repeat::Never),
            (TryResult::Status(500), Repeat::Never, Repeat::Never),
            (TryResult::Failed(UpstreamErrorKind::NotProcessed), Repeat::AtOnce, Repeat::AtOnce),
            (TryResult::Failed(UpstreamErrorKind::Refused), Repeat::AfterPause, Repeat::AfterPause),
            (TryResult::Failed(UpstreamErrorKind::Terminated), Repeat::AfterPause, Repeat::Never),
            (TryResult::Failed(UpstreamErrorKind::ResponseTimeout), Repeat::Never, Repeat::Never),
            // Not processed, and no other try does better.
            (TryResult::Failed(UpstreamErrorKind::TlsCertificate), Repeat::Never, Repeat::Never),
            (TryResult::Failed(UpstreamErrorKind::ProxyStatus(407)), Repeat::Never, Repeat::Never),
        ] {
            assert_eq!((Repeat::of(Read, result), Repeat::of(Start, result)), (read, start), "{result:?}");
            assert_eq!(Repeat::of(Other, result), Repeat::Never, "{result:?}");
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
