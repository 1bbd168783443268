//! Equal starts (pure; 0014): their key, the wish to share one, and the answer as it is kept and given again.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use aws_lc_rs::digest::{Context, SHA256};
use bytes::Bytes;
use http::header::{ACCEPT, AGE, CONTENT_LOCATION, CONTENT_TYPE, LOCATION, RETRY_AFTER, USER_AGENT};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};

use super::answer::Fetched;
use super::fields::retry_after;
use super::question::Question;
use super::response_fields::{PLACEHOLDER, end_to_end};
use crate::cache::Directives;
use crate::clock::Now;
use crate::export::{Document, Id, normal_form};
use crate::journal::{FoundStart, KeptStart};
use crate::upstream::{Root, UpstreamAnswer};

/// Largest answer that is kept, in bytes. Snyk's has some 500.
const MOST_BYTES: usize = 64 * 1024;
/// Snyk takes a start as either of these, to the same end.
const JSON_TYPES: [&str; 2] = ["application/json", "application/vnd.api+json"];
/// Fields of an answer that are kept, besides those of versions and of locations.
const KEPT_FIELDS: [&str; 5] = ["content-type", "snyk-request-id", "retry-after", "deprecation", "sunset"];
/// A parameter whose name has one of these may be a credential: those of signed links do.
const SECRET_NAMES: [&str; 4] = ["signature", "sig", "token", "credential"];

/// `[starts]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ShareSettings {
    /// Greatest age of an equal start that answers whoever does not say otherwise.
    pub(crate) share: Duration,
    /// The same where a client asks for it, and while starts are held.
    pub(crate) share_max: Duration,
}

/// The greatest age of an equal start that an asker takes; zero for none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ShareWish {
    pub(super) age: Duration,
    /// The same while starts are held.
    pub(super) held: Duration,
}

impl ShareSettings {
    pub(super) fn wish(&self, directives: &Directives) -> ShareWish {
        let Self { share, share_max } = *self;
        if directives.no_cache || directives.no_store {
            return ShareWish { age: Duration::ZERO, held: Duration::ZERO };
        }
        match directives.max_age.map(Duration::from_secs) {
            Some(wanted) => {
                let age = wanted.min(share.max(share_max));
                ShareWish { age, held: age }
            }
            None => ShareWish { age: share, held: share.max(share_max) },
        }
    }

    /// True if some start may share another.
    pub(super) fn is_on(&self) -> bool {
        !(self.share.is_zero() && self.share_max.is_zero())
    }
}

/// The key of a start at `upstream`: equal starts have equal keys.
pub(super) fn start_key(question: &Question, upstream: &str) -> [u8; 32] {
    let mut fields = question.fields.clone();
    fields.remove(ACCEPT);
    fields.remove(USER_AGENT);
    if is_json(&fields) {
        fields.remove(CONTENT_TYPE);
    } else {
        // None at all is not the same as either of the two.
        fields.append(CONTENT_TYPE, HeaderValue::from_static(""));
    }
    let mut digest = Context::new(&SHA256);
    digest.update(&question.credential.account());
    digest.update(Question { fields, ..question.clone() }.key(upstream).as_bytes());
    // No field is an empty line, so this is the end of the key.
    let form = normal_form(&question.body);
    let kind = if form.is_some() { "\n\njson\n" } else { "\n\nbytes\n" };
    digest.update(kind.as_bytes());
    digest.update(form.as_ref().map_or(&*question.body, String::as_bytes));
    let mut key = [0; 32];
    key.copy_from_slice(digest.finish().as_ref());
    key
}

/// True if the body is JSON by its type, and its type says no more than that.
fn is_json(fields: &HeaderMap) -> bool {
    let mut types = fields.get_all(CONTENT_TYPE).iter().map(|value| {
        let mut parts = value.to_str().unwrap_or_default().split(';').map(str::trim);
        let essence = parts.next().unwrap_or_default();
        JSON_TYPES.iter().any(|json| essence.eq_ignore_ascii_case(json))
            && parts.all(|parameter| parameter.eq_ignore_ascii_case("charset=utf-8"))
    });
    types.next() == Some(true) && types.next().is_none()
}

/// The answer to a start as it is kept; `None` if it began no export for certain, or may not be written down.
pub(super) fn kept(
    key: [u8; 32],
    answer: &UpstreamAnswer,
    document: Option<&Document>,
    root: &Root,
) -> Option<KeptStart> {
    let document = document.filter(|document| document.id.is_some() && document.links.count == 0);
    let is_kept =
        answer.status == StatusCode::ACCEPTED && document.is_some() && answer.body.len() <= MOST_BYTES;
    // In its normal form no escape hides anything.
    if !is_kept || has_secret(&normal_form(&answer.body)?) {
        return None;
    }
    let fields = end_to_end(answer.fields.clone(), root);
    let mut lines = Vec::new();
    for (name, value) in fields.iter().filter(|(name, value)| is_field_kept(name, value)) {
        lines.extend([name.as_str().as_bytes(), b": ", value.as_bytes(), b"\n"].concat());
    }
    Some(KeptStart { key, fields: lines, body: Bytes::copy_from_slice(&answer.body) })
}

/// True if `text` has a query-like parameter whose name is one of a credential.
fn has_secret(text: &str) -> bool {
    text.split(['?', '&']).skip(1).filter_map(|parameter| parameter.split_once('=')).any(|(name, _)| {
        let name = name.to_ascii_lowercase();
        SECRET_NAMES.iter().any(|secret| name.contains(secret))
    })
}

/// True if a field may be written down: it is known to hold no link and no credential.
fn is_field_kept(name: &HeaderName, value: &HeaderValue) -> bool {
    if [LOCATION, CONTENT_LOCATION].contains(name) {
        return value.to_str().is_ok_and(is_plain_path);
    }
    let is_known = KEPT_FIELDS.contains(&name.as_str()) || name.as_str().starts_with("snyk-version-");
    is_known && !value.as_bytes().contains(&b'?')
}

/// True for a path on us without a query, or with Snyk's `version` alone.
fn is_plain_path(reference: &str) -> bool {
    let (path, query) = reference.split_once('?').unwrap_or((reference, "version="));
    let is_version = |text: &str| text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-~".contains(&b));
    path.starts_with('/') && query.strip_prefix("version=").is_some_and(is_version)
}

/// The answer of a start that is on record, to be given again at `now`.
pub(super) fn given_again(found: FoundStart, now: Now) -> Arc<Fetched> {
    let mut fields = HeaderMap::new();
    for line in found.kept.fields.split(|byte| *byte == b'\n') {
        let Some(colon) = line.windows(2).position(|pair| pair == b": ") else { continue };
        let name = HeaderName::from_bytes(&line[..colon]);
        if let (Ok(name), Ok(value)) = (name, HeaderValue::from_bytes(&line[colon + 2..])) {
            fields.append(name, value);
        }
    }
    let age = age(found.made, now);
    let left = retry_after(&fields).unwrap_or_default().as_secs().saturating_sub(age.as_secs()).max(1);
    fields.insert(RETRY_AFTER, HeaderValue::from(left));
    fields.insert(AGE, HeaderValue::from_static(PLACEHOLDER));
    Arc::new(Fetched {
        attempt: found.attempt,
        trace: None,
        sending: None,
        taken: None,
        asked: now.mono,
        is_unfinished: false,
        arrival: Now { wall: found.made, mono: now.mono.checked_sub(age).unwrap_or(now.mono) },
        status: StatusCode::ACCEPTED,
        fields,
        body: found.kept.body,
        began: Id::parse(&found.export_id),
        entry: None,
        not_stored: None,
    })
}

pub(super) fn age(made: SystemTime, now: Now) -> Duration {
    now.wall.duration_since(made).unwrap_or_default()
}
