//! Answers to clients, made of what the cache, the upstream or a failure gives.

use std::time::Duration;

use bytes::Bytes;
use http::header::{
    CACHE_CONTROL, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, IF_NONE_MATCH, RETRY_AFTER,
    WWW_AUTHENTICATE,
};
use http::{HeaderMap, HeaderValue, Response, StatusCode};
use http_body::Body as _;
use http_body_util::{Either, Full};
use serde_json::json;
use uuid::Uuid;

use super::failure::{Challenge, Failure, FailureKind, NoFile};
use super::refused_start;
use crate::access::IdentifyError;
use crate::cache::Entry;
use crate::retrieval::{Payload, RefusedStart, Retrieved, describe_stored};
use crate::transport::Body;

/// Our documents are data: a browser that is made to show one must do nothing with it.
const NOTHING: HeaderValue = HeaderValue::from_static("default-src 'none'; frame-ancestors 'none'; sandbox");
/// The way to authenticate (RFC 9110 §11.6.1, RFC 6750 §3); keys are bearer tokens.
const BEARER: HeaderValue = HeaderValue::from_static("Bearer realm=\"exportgate\"");
/// RFC 7617. It comes first: who knows it alone may look no further.
const BASIC: HeaderValue = HeaderValue::from_static("Basic realm=\"exportgate\"");
const JSON_API: HeaderValue = HeaderValue::from_static("application/vnd.api+json");

/// The `Retry-After` of an unfinished answer that has none.
pub(super) const NEXT_LOOK: Duration = Duration::from_secs(5);

/// The answer to an export call, for a client with these request fields. A stored response is replayed (RFC 9111 §4); its
/// placeholders are still to be filled.
pub(super) fn retrieved(retrieved: &Retrieved, client: &HeaderMap) -> Response<Body> {
    match &retrieved.answer {
        Payload::Stored(entry) => conditional(entry, entry.fields.clone(), client),
        Payload::Fetched(fetched) => {
            let mut fields = fetched.fields.clone();
            let Some(entry) = &fetched.entry else {
                // So that no tool has to guess. Who has waited may ask again at once.
                if fetched.is_unfinished && !retrieved.is_waited {
                    fields.entry(RETRY_AFTER).or_insert(HeaderValue::from(NEXT_LOOK.as_secs()));
                }
                return whole(fetched.status, fields, fetched.body.clone());
            };
            describe_stored(&mut fields, &entry.etag, entry.links_end());
            conditional(entry, fields, client)
        }
    }
}

/// All of it, or 304 if the client has it already.
fn conditional(entry: &Entry, mut fields: HeaderMap, client: &HeaderMap) -> Response<Body> {
    if has_current(client, &entry.etag) {
        fields.remove(CONTENT_TYPE);
        fields.remove(CONTENT_ENCODING);
        return whole(StatusCode::NOT_MODIFIED, fields, Bytes::new());
    }
    whole(entry.status, fields, entry.body.clone())
}

/// True if `If-None-Match` names `etag` (RFC 9110 §13.1.2; the comparison is weak).
fn has_current(client: &HeaderMap, etag: &HeaderValue) -> bool {
    client.get_all(IF_NONE_MATCH).iter().any(|value| {
        let tags = value.as_bytes().split(|&b| b == b',').map(<[u8]>::trim_ascii);
        tags.into_iter().any(|tag| tag == b"*" || tag.strip_prefix(b"W/").unwrap_or(tag) == etag.as_bytes())
    })
}

fn whole(status: StatusCode, fields: HeaderMap, body: Bytes) -> Response<Body> {
    let mut response = Response::new(Either::Left(Full::new(body)));
    *response.status_mut() = status;
    *response.headers_mut() = fields;
    response
}

/// Marks an answer to HEAD whose length GET would not have either.
#[derive(Debug, Clone, Copy)]
pub(super) struct LengthUnknown;

/// The answer to HEAD, of what GET would be answered with: the same fields (RFC 9110 §9.3.2).
pub(super) fn without_body(mut response: Response<Body>) -> Response<Body> {
    if let Either::Left(whole) = response.body()
        && response.status() != StatusCode::NOT_MODIFIED
        && !response.headers().contains_key(CONTENT_LENGTH)
        && response.extensions().get::<LengthUnknown>().is_none()
    {
        let length = HeaderValue::from(whole.size_hint().lower());
        response.headers_mut().insert(CONTENT_LENGTH, length);
        *response.body_mut() = Either::Left(Full::default());
    }
    response
}

/// Has a browser do nothing with an answer of ours, and no page of another origin read it.
pub(super) fn protect(fields: &mut HeaderMap) {
    fields.insert("x-content-type-options", HeaderValue::from_static("nosniff"));
    fields.insert("content-security-policy", NOTHING);
    fields.insert("referrer-policy", HeaderValue::from_static("no-referrer"));
    fields.insert("cross-origin-resource-policy", HeaderValue::from_static("same-origin"));
}

/// An error document of our own, in Snyk's shape, and `Proxy-Status` (RFC 9209).
pub(super) fn failure(failure: &Failure, request: Uuid, refused: Option<&RefusedStart>) -> Response<Body> {
    let answer = failure.kind.answer();
    let proxy = failure.proxy().map_or_else(String::new, |proxy| format!(" The proxy is {proxy}."));
    let mut error = json!({
        "id": request.to_string(),
        "status": answer.status.as_str(),
        "code": answer.code,
        "title": answer.title,
        "detail": format!("{}{proxy}", answer.detail),
        "meta": { "source": "exportgate", "request_id": request.to_string() },
    });
    if let Some(refused) = refused {
        refused_start::describe(refused, &mut error);
    }
    let document = json!({ "jsonapi": { "version": "1.0" }, "errors": [error] });
    let mut fields = HeaderMap::new();
    fields.insert(CONTENT_TYPE, JSON_API);
    fields.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    protect(&mut fields);
    if let Ok(status) = HeaderValue::try_from(format!("exportgate; error={}", answer.proxy_error)) {
        fields.insert("proxy-status", status);
    }
    if let FailureKind::Unidentified(IdentifyError::Unknown(_), challenge) = failure.kind {
        if challenge == Challenge::Basic {
            fields.append(WWW_AUTHENTICATE, BASIC);
        }
        fields.append(WWW_AUTHENTICATE, BEARER);
    }
    if let Some(seconds) = answer.retry_after {
        fields.insert(RETRY_AFTER, HeaderValue::from(seconds));
    }
    if answer.close {
        fields.insert(http::header::CONNECTION, HeaderValue::from_static("close"));
    }
    if let FailureKind::NoFile(NoFile::Unsatisfiable(size)) = failure.kind
        && let Ok(range) = HeaderValue::try_from(format!("bytes */{size}"))
    {
        fields.insert(http::header::CONTENT_RANGE, range);
    }
    if let Some(allow) = answer.allow {
        fields.insert(http::header::ALLOW, HeaderValue::from_static(allow));
    }
    whole(answer.status, fields, Bytes::from(document.to_string()))
}
