//! The answers of the admin listener, and its refusals.

use bytes::Bytes;
use http::header::{ALLOW, CONTENT_TYPE, WWW_AUTHENTICATE};
use http::{HeaderValue, Method, Response, StatusCode};
use http_body_util::{Either, Full};
use serde::Serialize;

use super::report::{ErrorReport, ErrorText};
use crate::transport::Body;

/// Our documents are data: a browser that is made to show one must do nothing with it.
pub(super) const NOTHING: HeaderValue =
    HeaderValue::from_static("default-src 'none'; frame-ancestors 'none'; sandbox");

pub(super) const NO_SUCH_CALL: AdminRefusal = AdminRefusal::new(
    StatusCode::NOT_FOUND,
    "unknown_route",
    "Not found",
    "GET /api/openapi.json lists the calls.",
);
pub(super) const BAD_ID: AdminRefusal = AdminRefusal::new(
    StatusCode::BAD_REQUEST,
    "bad_id",
    "The id of the scope or export is not valid",
    "Use ids as exportgate exports prints them: letters, digits, hyphens and underscores.",
);
pub(super) const BUSY: AdminRefusal = AdminRefusal::new(
    StatusCode::SERVICE_UNAVAILABLE,
    "too_many_callers",
    "Too many calls at the same time",
    "Try again in a moment, or close other pages.",
);

pub(super) const FULL: AdminRefusal = AdminRefusal::new(
    StatusCode::SERVICE_UNAVAILABLE,
    "too_many_connections",
    "The admin listener has too many connections",
    "Try again in a moment, or raise admin.max_connections.",
);

pub(super) const PLAIN_TEXT: &str = "text/plain; charset=utf-8";

/// A call that is not answered as asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct AdminRefusal {
    pub(super) status: StatusCode,
    pub(super) code: &'static str,
    title: &'static str,
    detail: &'static str,
    allow: Option<&'static str>,
}

impl AdminRefusal {
    pub(super) const fn new(
        status: StatusCode,
        code: &'static str,
        title: &'static str,
        detail: &'static str,
    ) -> Self {
        Self { status, code, title, detail, allow: None }
    }

    pub(super) const fn bad_query(title: &'static str, detail: &'static str) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "bad_query", title, detail)
    }
}

pub(super) const fn method_not_allowed(allow: &'static str) -> AdminRefusal {
    let refusal = AdminRefusal::new(
        StatusCode::METHOD_NOT_ALLOWED,
        "method_not_allowed",
        "Method not allowed",
        "Use a method that Allow names.",
    );
    AdminRefusal { allow: Some(allow), ..refusal }
}

pub(super) fn only(method: &Method, allow: &'static str) -> Result<(), AdminRefusal> {
    if [Method::GET, Method::HEAD].contains(method) { Ok(()) } else { Err(method_not_allowed(allow)) }
}

/// The method for the log: it may be as long as a head.
pub(super) fn short(method: &Method) -> &str {
    Some(method.as_str()).filter(|method| method.len() <= 32).unwrap_or("(long)")
}

pub(super) fn refused(refusal: &AdminRefusal) -> Response<Body> {
    let AdminRefusal { status, code, title, detail, allow } = *refusal;
    let error = ErrorText { code: code.into(), title: title.into(), detail: detail.into() };
    let mut response = json_answer(&ErrorReport { error });
    *response.status_mut() = status;
    if let Some(allow) = allow {
        response.headers_mut().insert(ALLOW, HeaderValue::from_static(allow));
    }
    if status == StatusCode::UNAUTHORIZED {
        let challenge = HeaderValue::from_static("Bearer realm=\"exportgate admin\"");
        response.headers_mut().insert(WWW_AUTHENTICATE, challenge);
    }
    response
}

pub(super) fn json_answer(report: &impl Serialize) -> Response<Body> {
    // Our own types: their keys are text, and nothing in them can fail.
    whole(StatusCode::OK, "application/json", serde_json::to_vec(report).unwrap_or_default())
}

pub(super) fn document(text: &'static str) -> Response<Body> {
    whole(StatusCode::OK, "application/json", text)
}

pub(super) fn whole(status: StatusCode, kind: &'static str, body: impl Into<Bytes>) -> Response<Body> {
    let mut response = Response::new(Either::Left(Full::new(body.into())));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}
