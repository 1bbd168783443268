//! Equal starts (pure; 0014): their key, the wish to share one, and the answer as it is kept and given again.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use aws_lc_rs::digest::{Context, SHA256};
use bytes::Bytes;
use http::header::{ACCEPT, AGE, CONTENT_TYPE, RETRY_AFTER, USER_AGENT};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};

use super::answer::Fetched;
use super::question::Question;
use super::response_fields::{PLACEHOLDER, end_to_end, for_replay};
use crate::cache::Directives;
use crate::clock::Now;
use crate::export::{Document, Id, normal_form};
use crate::journal::{FoundStart, KeptStart};
use crate::upstream::{Root, UpstreamAnswer};

/// Largest answer that is kept, in bytes. Snyk's has some 500.
const MOST_BYTES: usize = 64 * 1024;
/// Snyk takes a start as either of these, to the same end.
const JSON_TYPES: [&str; 2] = ["application/json", "application/vnd.api+json"];

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

/// True if the body is JSON by its type.
fn is_json(fields: &HeaderMap) -> bool {
    let mut types = fields.get_all(CONTENT_TYPE).iter().map(|value| {
        let essence = value.to_str().unwrap_or_default().split(';').next().unwrap_or_default().trim();
        JSON_TYPES.iter().any(|json| essence.eq_ignore_ascii_case(json))
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
    if !is_kept {
        return None;
    }
    let pause = answer.fields.get(RETRY_AFTER).cloned();
    let mut fields = for_replay(end_to_end(answer.fields.clone(), root));
    fields.extend(pause.map(|pause| (RETRY_AFTER, pause)));
    let mut lines = Vec::new();
    for (name, value) in &fields {
        lines.extend([name.as_str().as_bytes(), b": ", value.as_bytes(), b"\n"].concat());
    }
    Some(KeptStart { key, fields: lines, body: Bytes::copy_from_slice(&answer.body) })
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
    let pause: Option<u64> = fields.get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
    let left = pause.unwrap_or_default().saturating_sub(age.as_secs()).max(1);
    fields.insert(RETRY_AFTER, HeaderValue::from(left));
    fields.insert(AGE, HeaderValue::from_static(PLACEHOLDER));
    Arc::new(Fetched {
        attempt: found.attempt,
        trace: None,
        sending: None,
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
