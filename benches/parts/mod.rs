//! What the benches of the pure parts have in common: one call, one document, one stored response.

#![allow(dead_code, reason = "some of the benches have use for a part of it only")]

use std::time::Duration;

use bytes::Bytes;
use exportgate::cache::{self, Entry, Settings, Whole, WholeAnswer};
use exportgate::clock::Now;
use exportgate::export::{Document, ExportCall};
use exportgate::route::{Route, recognise};
use http::header::{CACHE_CONTROL, CONTENT_TYPE, DATE};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri};
use uuid::Uuid;

pub(crate) const UPSTREAM: &str = "https://api.snyk.io";
pub(crate) const CREDENTIAL: &str = "default";
const TARGET: &str = "/orgs/825e79b7-0073-44c3-a5ea-e0aa8a3dbf38/export/4d593250-aaf3-48ec-9bf0-93597b7a1ce2?version=2024-10-15";

/// What a client asks for.
pub(crate) fn uri() -> Uri {
    TARGET.parse().expect("a URI")
}

/// The same, read.
pub(crate) fn call() -> ExportCall {
    let Ok(Route::Export(call)) = recognise(&Method::GET, &uri(), false) else {
        unreachable!("an export call")
    };
    call
}

/// A finished export of `parts` files, signed as Google Cloud Storage does.
pub(crate) fn document(parts: usize) -> Vec<u8> {
    let link = format!(
        "https://storage.example/export/data_1_1_0.csv?X-Goog-Algorithm=GOOG4-RSA-SHA256&X-Goog-Credential=a%40b%2Fgoog4_request&X-Goog-Date=20991231T235959Z&X-Goog-Expires=3600&X-Goog-SignedHeaders=host&X-Goog-Signature={}",
        "0123456789abcdef".repeat(32)
    );
    let results: Vec<_> =
        (0..parts).map(|_| serde_json::json!({"url": link, "file_size": 1_328, "row_count": 3})).collect();
    serde_json::json!({"data": {"attributes": {"status": "FINISHED", "results": results}}})
        .to_string()
        .into_bytes()
}

pub(crate) fn settings(max_bytes: u64) -> Settings {
    Settings {
        max_bytes,
        max_entry: 1 << 20,
        link_margin: Duration::from_mins(15),
        max_age: Duration::from_mins(55),
        default_age: Duration::from_mins(10),
        ignore: Vec::new(),
        refresh_ahead: true,
        max_followers: 1,
    }
}

/// The fields of an answer that are looked at.
pub(crate) fn fields() -> HeaderMap {
    let mut fields = HeaderMap::new();
    fields.insert(CONTENT_TYPE, HeaderValue::from_static("application/vnd.api+json"));
    fields.insert(DATE, HeaderValue::from_static("Mon, 23 Nov 2026 19:00:00 GMT"));
    fields
}

/// The answer whose freshness is decided.
pub(crate) fn answer<'a>(
    fields: &'a HeaderMap,
    body: &[u8],
    document: Option<&'a Document>,
    now: Now,
) -> WholeAnswer<'a> {
    WholeAnswer { status: StatusCode::OK, fields, body_len: body.len(), document, sent: now, received: now }
}

/// The fields of a stored response, read off a connection as hyper does it: values are slices of one buffer.
fn stored_fields(etag: &HeaderValue) -> HeaderMap {
    const FIELDS: [(&str, &str); 12] = [
        ("content-type", "application/vnd.api+json"),
        ("date", "Mon, 23 Nov 2026 19:00:00 GMT"),
        ("snyk-request-id", "7d444840-9dc0-41d1-b245-5ffdce74fad2"),
        ("snyk-version-requested", "2024-10-15"),
        ("snyk-version-served", "2024-10-15"),
        ("snyk-version-lifecycle-stage", "ga"),
        ("x-content-type-options", "nosniff"),
        ("x-frame-options", "deny"),
        ("exportgate-links-expire", "2099-12-31T23:59:59Z"),
        ("age", "-"),
        ("exportgate-request-id", "-"),
        ("cache-status", "-"),
    ];
    let head = Bytes::from(FIELDS.map(|(_, value)| value).concat());
    let (mut fields, mut at) = (HeaderMap::new(), 0);
    for (name, value) in FIELDS {
        let value = head.slice(at..at + value.len());
        at += value.len();
        let name = HeaderName::from_bytes(name.as_bytes()).expect("a name");
        fields.insert(name, HeaderValue::from_maybe_shared(value).expect("a value"));
    }
    fields.insert(CACHE_CONTROL, HeaderValue::from_static("private, no-cache"));
    fields.insert(http::header::ETAG, etag.clone());
    fields
}

/// A stored response with this body, as the gateway makes it.
pub(crate) fn entry(body: Bytes, settings: &Settings, now: Now) -> Entry {
    let document = document(4);
    let (asked, read) = (fields(), Document::of(&document));
    let freshness =
        cache::assess(&answer(&asked, &body, read.as_ref(), now), settings).expect("it is stored");
    let etag = cache::etag(&body);
    let fields = stored_fields(&etag);
    let reservation = exportgate::transport::Room::default();
    let whole = Whole { status: StatusCode::OK, fields, body, reservation, etag, age: Duration::ZERO };
    Entry::new(whole, freshness, now, Uuid::now_v7())
}
