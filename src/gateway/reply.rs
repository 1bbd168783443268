//! Answers to clients, made of what the cache, the upstream or a failure gives.

use std::time::SystemTime;

use bytes::Bytes;
use http::header::{
    AGE, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, ETAG, EXPIRES, IF_NONE_MATCH, PRAGMA,
};
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode};
use http_body::Body as _;
use http_body_util::{Either, Full};
use serde_json::json;
use uuid::Uuid;

use super::failure::Failure;
use crate::cache::{Entry, Freshness};
use crate::listener::KEEP_ALIVE;
use crate::transport::{Body, Streamed};

/// Ask again each time, with the validator: so a purge or a revoked right works at once.
const ASK_AGAIN: HeaderValue = HeaderValue::from_static("private, no-cache");
/// Our documents are data: a browser that is made to show one must do nothing with it.
const NOTHING: HeaderValue = HeaderValue::from_static("default-src 'none'; frame-ancestors 'none'; sandbox");
/// How to say who you are (RFC 9110 §11.6.1, RFC 6750 §3); keys are bearer tokens.
const CHALLENGE: HeaderValue = HeaderValue::from_static("Bearer realm=\"exportgate\"");
const JSON_API: HeaderValue = HeaderValue::from_static("application/vnd.api+json");
/// Names this request, on every answer.
pub(super) const REQUEST_ID: HeaderName = HeaderName::from_static("exportgate-request-id");
/// RFC 9211.
pub(super) const CACHE_STATUS: HeaderName = HeaderName::from_static("cache-status");
const LINKS_EXPIRE: HeaderName = HeaderName::from_static("exportgate-links-expire");
/// Stands where a value of each answer's own will be.
pub(super) const PLACE: &[u8] = b"-";
const A_PLACE: HeaderValue = HeaderValue::from_static("-");

/// The fields of a stored response, as every client gets them; made once, when it is stored. Those that differ from
/// client to client have a place already, so that a copy need not grow.
pub(super) fn for_storing(mut fields: HeaderMap, etag: &HeaderValue, freshness: &Freshness) -> HeaderMap {
    say_what_is_stored(&mut fields, etag, freshness.links_end);
    fields.insert(AGE, A_PLACE);
    fields.insert(KEEP_ALIVE, A_PLACE);
    fields.insert(REQUEST_ID, A_PLACE);
    // What looks like our place is no cache's (RFC 9211 §2).
    if fields.get_all(&CACHE_STATUS).iter().all(|value| value == A_PLACE) {
        fields.insert(CACHE_STATUS, A_PLACE);
    }
    fields
}

/// What we say of an answer that is stored, in place of what the upstream said.
fn say_what_is_stored(fields: &mut HeaderMap, etag: &HeaderValue, links_end: Option<SystemTime>) {
    fields.remove(EXPIRES);
    fields.remove(PRAGMA);
    fields.insert(CACHE_CONTROL, ASK_AGAIN);
    fields.insert(ETAG, etag.clone());
    if let Some(end) = links_end {
        let text = humantime::format_rfc3339_seconds(end).to_string();
        if let Ok(value) = HeaderValue::try_from(text) {
            fields.insert(LINKS_EXPIRE, value);
        }
    }
}

/// A stored response, replayed (RFC 9111 §4); its places are still to be filled.
pub(super) fn hit(entry: &Entry, client: &HeaderMap) -> Response<Body> {
    conditional(entry, entry.fields.clone(), client)
}

/// An answer that was just stored; `fields` are the upstream's own.
pub(super) fn stored(entry: &Entry, mut fields: HeaderMap, client: &HeaderMap) -> Response<Body> {
    say_what_is_stored(&mut fields, &entry.etag, entry.links_end());
    conditional(entry, fields, client)
}

/// All of it, or that the client has it already.
fn conditional(entry: &Entry, mut fields: HeaderMap, client: &HeaderMap) -> Response<Body> {
    if has_current(client, &entry.etag) {
        fields.remove(CONTENT_TYPE);
        fields.remove(CONTENT_ENCODING);
        return whole(StatusCode::NOT_MODIFIED, fields, Bytes::new());
    }
    whole(entry.status, fields, entry.body.clone())
}

/// Whether `If-None-Match` names `etag` (RFC 9110 §13.1.2; the comparison is weak).
fn has_current(client: &HeaderMap, etag: &HeaderValue) -> bool {
    client.get_all(IF_NONE_MATCH).iter().any(|value| {
        let tags = value.as_bytes().split(|&b| b == b',').map(<[u8]>::trim_ascii);
        tags.into_iter().any(|tag| tag == b"*" || tag.strip_prefix(b"W/").unwrap_or(tag) == etag.as_bytes())
    })
}

/// An answer that we hold whole.
pub(super) fn whole(status: StatusCode, fields: HeaderMap, body: Bytes) -> Response<Body> {
    let mut response = Response::new(Either::Left(Full::new(body)));
    *response.status_mut() = status;
    *response.headers_mut() = fields;
    response
}

/// The answer to HEAD, of what GET would be answered with: the same fields (RFC 9110 §9.3.2).
pub(super) fn without_body(mut response: Response<Body>) -> Response<Body> {
    if let Either::Left(whole) = response.body()
        && response.status() != StatusCode::NOT_MODIFIED
    {
        let length = HeaderValue::from(whole.size_hint().lower());
        response.headers_mut().insert(CONTENT_LENGTH, length);
        *response.body_mut() = Either::Left(Full::default());
    }
    response
}

/// An answer that streams through.
pub(super) fn streamed(status: StatusCode, fields: HeaderMap, body: Streamed) -> Response<Body> {
    let mut response = Response::new(Either::Right(body));
    *response.status_mut() = status;
    *response.headers_mut() = fields;
    response
}

/// An error document of our own, in Snyk's shape, and `Proxy-Status` (RFC 9209).
pub(super) fn failure(failure: &Failure, request: Uuid) -> Response<Body> {
    let told = failure.kind.told();
    let proxy = failure.proxy().map_or_else(String::new, |proxy| format!(" The proxy is {proxy}."));
    let document = json!({
        "jsonapi": { "version": "1.0" },
        "errors": [{
            "id": request.to_string(),
            "status": told.status.as_str(),
            "code": told.code,
            "title": told.title,
            "detail": format!("{}{proxy}", told.detail),
            "meta": { "source": "exportgate", "request_id": request.to_string() },
        }],
    });
    let mut fields = HeaderMap::new();
    fields.insert(CONTENT_TYPE, JSON_API);
    fields.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    fields.insert("x-content-type-options", HeaderValue::from_static("nosniff"));
    if let Ok(status) = HeaderValue::try_from(format!("exportgate; error={}", told.proxy_error)) {
        fields.insert("proxy-status", status);
    }
    fields.insert("content-security-policy", NOTHING);
    fields.insert("referrer-policy", HeaderValue::from_static("no-referrer"));
    if told.status == StatusCode::UNAUTHORIZED {
        fields.insert(http::header::WWW_AUTHENTICATE, CHALLENGE);
    }
    if let Some(seconds) = told.retry_after {
        fields.insert(http::header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    if told.close {
        fields.insert(http::header::CONNECTION, HeaderValue::from_static("close"));
    }
    if let Some(allow) = told.allow {
        fields.insert(http::header::ALLOW, HeaderValue::from_static(allow));
    }
    whole(told.status, fields, Bytes::from(document.to_string()))
}
