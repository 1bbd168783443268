//! The documents that Snyk answers with.

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use serde_json::{Value, json};
use uuid::Uuid;

pub(super) type BoxError = Box<dyn std::error::Error + Send + Sync>;
pub(super) type Body = UnsyncBoxBody<Bytes, BoxError>;

pub(super) fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed_unsync()
}

pub(super) fn respond(status: u16, content_type: &str, body: impl Into<Bytes>) -> Response<Body> {
    let mut response = Response::new(full(body));
    *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    set(response.headers_mut(), "content-type", content_type);
    response
}

pub(super) fn set(fields: &mut HeaderMap, name: &str, value: &str) {
    if let (Ok(name), Ok(value)) = (name.parse::<HeaderName>(), HeaderValue::from_str(value)) {
        fields.append(name, value);
    }
}

pub(super) fn document(status: u16, value: &Value) -> Response<Body> {
    respond(status, "application/vnd.api+json", value.to_string())
}

pub(super) fn error(status: u16, title: &str, detail: &str) -> Response<Body> {
    let id = Uuid::new_v4().to_string();
    let error = json!({"id": id, "status": status.to_string(), "code": "SNYK-0000", "title": title, "detail": detail});
    document(status, &json!({"jsonapi": {"version": "1.0"}, "errors": [error]}))
}

/// A bucket's own refusal.
pub(super) fn bucket_error(status: u16, code: &str) -> Response<Body> {
    let xml = format!("<?xml version='1.0' encoding='UTF-8'?><Error><Code>{code}</Code></Error>");
    respond(status, "application/xml; charset=UTF-8", xml)
}

/// The answer to a start call.
pub(super) fn started(scope: &str, export: &str, (now, version): (&str, &str)) -> Response<Body> {
    let own = format!("/{scope}/export/{export}?version={version}");
    let mut response = document(
        202,
        &json!({
            "jsonapi": {"version": "1.0"},
            "data": {"id": export, "type": "export", "attributes": {"created": now.trim_end_matches('Z'), "status": "PENDING"}},
            "links": {"self": own},
        }),
    );
    set(
        response.headers_mut(),
        "content-location",
        &format!("/rest/{scope}/jobs/export/{export}?version={version}"),
    );
    set(response.headers_mut(), "retry-after", "1");
    response
}

/// The answer to a GET of an export.
pub(super) fn export(
    scope: &str,
    export: &str,
    (status, now): (&str, &str),
    results: Option<Vec<Value>>,
) -> Response<Body> {
    let mut attributes = json!({"created": now, "formats": ["csv"], "status": status});
    if let Some(results) = results {
        attributes["finished"] = json!(now);
        attributes["row_count"] = json!(3 * results.len());
        attributes["results"] = json!(results);
    }
    document(
        200,
        &json!({
            "jsonapi": {"version": "1.0"},
            "data": {"id": export, "type": "resource", "attributes": attributes},
            "links": {"self": format!("/{scope}/export/{export}")},
        }),
    )
}

/// The file behind a link.
pub(super) const CSV: &str =
    "ISSUE_ID,SEVERITY,PROJECT\nfake-1,high,shop\nfake-2,medium,shop\nfake-3,low,site\n";
