//! The answer to a request that failed, and its usual statuses with the error types of RFC 9209.

use std::time::Duration;

use http::StatusCode;

/// The answer to a request that failed. All of it is fixed text: nothing of the request is echoed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ErrorReply {
    /// The status.
    pub(super) status: StatusCode,
    /// The error type for `Proxy-Status` (RFC 9209 §2.3).
    pub(super) proxy_error: &'static str,
    /// The stable word that programs can compare.
    pub(super) code: &'static str,
    /// The failure, in a sentence.
    pub(super) title: &'static str,
    /// The remedy.
    pub(super) detail: &'static str,
    /// The `Allow` field, with 405.
    pub(super) allow: Option<&'static str>,
    /// The `Retry-After` field, in seconds.
    pub(super) retry_after: Option<u64>,
    /// True if the connection ends with this answer.
    pub(super) close: bool,
}

impl ErrorReply {
    /// The same, and the connection ends with it.
    pub(super) const fn closing(self) -> Self {
        Self { close: true, ..self }
    }

    /// The same with `Retry-After`: whole seconds, never too few.
    pub(super) fn after(self, wait: Duration) -> Self {
        let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
        Self { retry_after: Some(seconds.max(1)), ..self }
    }
}

pub(super) const fn reply(
    status: StatusCode,
    proxy_error: &'static str,
    code: &'static str,
    title: &'static str,
    detail: &'static str,
) -> ErrorReply {
    ErrorReply { status, proxy_error, code, title, detail, allow: None, retry_after: None, close: false }
}

/// The request is not sound.
pub(super) const fn bad_request(code: &'static str, title: &'static str, detail: &'static str) -> ErrorReply {
    reply(StatusCode::BAD_REQUEST, "http_request_error", code, title, detail)
}

/// The client may not do this.
pub(super) const fn denied(code: &'static str, title: &'static str, detail: &'static str) -> ErrorReply {
    reply(StatusCode::FORBIDDEN, "http_request_denied", code, title, detail)
}

/// There is nothing of that kind.
pub(super) const fn not_found(code: &'static str, title: &'static str, detail: &'static str) -> ErrorReply {
    reply(StatusCode::NOT_FOUND, "http_request_denied", code, title, detail)
}

/// A limit is reached.
pub(super) const fn too_many(code: &'static str, title: &'static str, detail: &'static str) -> ErrorReply {
    reply(StatusCode::TOO_MANY_REQUESTS, "http_request_denied", code, title, detail)
}

/// The gateway cannot ask Snyk now, for the reason `proxy_error`.
pub(super) const fn unavailable(
    proxy_error: &'static str,
    code: &'static str,
    title: &'static str,
    detail: &'static str,
) -> ErrorReply {
    reply(StatusCode::SERVICE_UNAVAILABLE, proxy_error, code, title, detail)
}

/// `listener.max_buffered`, or its part for one connection.
pub(super) fn no_room() -> ErrorReply {
    unavailable(
        "proxy_internal_error",
        "no_room",
        "The gateway holds as much in memory for clients as it may",
        "Try again in a moment, take answers faster, or raise listener.max_buffered or listener.max_buffered_per_connection.",
    )
    .after(Duration::from_secs(1))
}
