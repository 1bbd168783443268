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
pub(super) fn bucket_error(status: u16, code: &str, message: &str) -> Response<Body> {
    let xml = format!(
        "<?xml version='1.0' encoding='UTF-8'?><Error><Code>{code}</Code><Message>{message}</Message></Error>"
    );
    respond(status, "application/xml; charset=UTF-8", xml)
}

/// The answer to a start call, as recorded.
pub(super) fn started(scope: &str, export: &str, version: &str, time: &str) -> Response<Body> {
    let job = format!("/{scope}/jobs/export/{export}?version={version}");
    let mut response = document(
        202,
        &json!({"data": {
            "attributes": {"created": time.trim_end_matches('Z')},
            "id": export,
            "links": {"self": job},
            "type": "export",
        }}),
    );
    set(response.headers_mut(), "content-location", &format!("/rest{job}"));
    set(response.headers_mut(), "retry-after", "1");
    response
}

/// The answer to a GET of an export.
pub(super) struct ExportDocument<'a> {
    pub(super) scope: &'a str,
    pub(super) id: &'a str,
    pub(super) version: &'a str,
    pub(super) status: &'a str,
    pub(super) time: &'a str,
    /// Of a finished one.
    pub(super) table: Option<Table>,
}

/// The parts and the total of a finished export, as its document states them.
pub(super) struct Table {
    pub(super) rows: Option<Value>,
    pub(super) results: Option<Vec<Value>>,
}

impl ExportDocument<'_> {
    pub(super) fn respond(self) -> Response<Body> {
        let Self { scope, id, version, status, time, table } = self;
        let mut attributes = json!({"created": time, "formats": ["csv"], "status": status});
        if let Some(Table { rows, results }) = table {
            attributes["finished"] = json!(time);
            if let Some(rows) = rows {
                attributes["row_count"] = rows;
            }
            if let Some(results) = results {
                attributes["results"] = json!(results);
            }
        }
        document(
            200,
            &json!({
                "jsonapi": {"version": "1.0"},
                "data": {"id": id, "type": "export", "attributes": attributes},
                "links": {"self": format!("/{scope}/export/{id}?version={version}")},
            }),
        )
    }
}

/// Fields that Snyk puts on every answer, and those that an edge was seen to add.
pub(super) const STANDARD_FIELDS: [&str; 5] = [
    "snyk-request-id",
    "snyk-version-requested",
    "snyk-version-served",
    "snyk-version-lifecycle-stage",
    "date",
];
pub(super) const EDGE_FIELDS: [&str; 4] = ["etag", "expires", "server", "vary"];
