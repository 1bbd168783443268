//! Everything that can go wrong with a request, and one table of what the client is told.

use std::error::Error;
use std::sync::Arc;

use http::StatusCode;

use super::via::BadVia;
use crate::access::Unidentified;
use crate::route::Refusal;
use crate::upstream::{Failed, FailedKind};

/// A request that gets an answer of our own instead of the upstream's.
#[derive(Debug, Clone)]
pub(super) struct Failure {
    /// Which kind; the table makes the answer of it.
    pub(super) kind: FailureKind,
    /// What the libraries say; for the log only.
    pub(super) source: Option<Arc<dyn Error + Send + Sync>>,
}

/// The kinds of failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FailureKind {
    /// No sound `Host`.
    Host,
    /// A web page sent it.
    WebPage,
    /// `Via` cannot be read.
    Via,
    /// This very instance is on the request's way already.
    Loop,
    /// The request is no call that we answer.
    Refused(Refusal),
    /// The target is longer than `listener.max_target`.
    TargetTooLong,
    /// The body is larger than `listener.max_body`.
    BodyTooLarge,
    /// The body did not come within `listener.body_timeout`.
    BodyTimeout,
    /// The body broke off.
    BodyIncomplete,
    /// `only-if-cached` and nothing fresh is stored.
    OnlyIfCached,
    /// `cache.max_followers` wait for this answer already.
    TooManyFollowers,
    /// No answer within `listener.request_timeout`.
    Deadline,
    /// The journal cannot be written and `journal.on_failure` is `refuse`.
    Journal,
    /// The upstream gave no whole answer.
    Upstream(FailedKind),
    /// A fault of our own.
    Internal,
}

impl From<FailureKind> for Failure {
    fn from(kind: FailureKind) -> Self {
        Self { kind, source: None }
    }
}

impl From<Unidentified> for FailureKind {
    fn from(why: Unidentified) -> Self {
        match why {
            Unidentified::Host => Self::Host,
            Unidentified::WebPage => Self::WebPage,
            Unidentified::TargetForm => Self::Refused(Refusal::TargetForm),
        }
    }
}

impl From<BadVia> for FailureKind {
    fn from(why: BadVia) -> Self {
        match why {
            BadVia::Loop => Self::Loop,
            BadVia::Malformed => Self::Via,
        }
    }
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        FailureKind::Refused(refusal).into()
    }
}

impl From<Failed> for Failure {
    fn from(failed: Failed) -> Self {
        Self { kind: FailureKind::Upstream(failed.kind), source: failed.source.map(Arc::from) }
    }
}

/// What a client is told. All of it is fixed text: nothing of the request is echoed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Told {
    /// The status.
    pub(super) status: StatusCode,
    /// The error type for `Proxy-Status` (RFC 9209 §2.3).
    pub(super) proxy_error: &'static str,
    /// The stable word that programs can compare.
    pub(super) code: &'static str,
    /// What happened.
    pub(super) title: &'static str,
    /// What to do.
    pub(super) detail: &'static str,
    /// The `Allow` field, with 405.
    pub(super) allow: Option<&'static str>,
}

const fn told(
    status: StatusCode,
    proxy_error: &'static str,
    code: &'static str,
    title: &'static str,
    detail: &'static str,
) -> Told {
    Told { status, proxy_error, code, title, detail, allow: None }
}

impl FailureKind {
    /// The table.
    #[must_use]
    pub(super) fn told(self) -> Told {
        use StatusCode as S;
        match self {
            Self::Host => told(
                S::BAD_REQUEST,
                "http_request_error",
                "bad_host",
                "The Host field is missing or not valid",
                "Send exactly one Host field with the name and port of the gateway.",
            ),
            Self::WebPage => told(
                S::FORBIDDEN,
                "http_request_denied",
                "web_page",
                "Requests of web pages are refused",
                "The request has an Origin field, which browsers send for pages; tools send none.",
            ),
            Self::Via => told(
                S::BAD_REQUEST,
                "http_request_error",
                "bad_via",
                "The Via field cannot be read",
                "Send Via as RFC 9110 section 7.6.3 has it, or not at all.",
            ),
            Self::Loop => told(
                S::BAD_GATEWAY,
                "proxy_loop_detected",
                "loop",
                "The request came back to the gateway that sent it",
                "The gateway's upstream leads back to itself: set upstream.url or upstream.region to Snyk's API.",
            ),
            Self::Refused(refusal) => refused(refusal),
            Self::TargetTooLong => told(
                S::URI_TOO_LONG,
                "http_request_error",
                "target_too_long",
                "The request target is too long",
                "Send a shorter path and query, or raise listener.max_target.",
            ),
            Self::BodyTooLarge => told(
                S::PAYLOAD_TOO_LARGE,
                "http_request_error",
                "body_too_large",
                "The request body is too large",
                "Send a smaller body, or raise listener.max_body.",
            ),
            Self::BodyTimeout => told(
                S::REQUEST_TIMEOUT,
                "http_request_error",
                "body_timeout",
                "The request body did not arrive in time",
                "Send the whole body at once, or raise listener.body_timeout.",
            ),
            Self::BodyIncomplete => told(
                S::BAD_REQUEST,
                "http_request_error",
                "body_incomplete",
                "The request body broke off",
                "Send the body that Content-Length or the chunks announce.",
            ),
            Self::OnlyIfCached => told(
                S::GATEWAY_TIMEOUT,
                "proxy_internal_response",
                "not_cached",
                "No stored response can answer this request",
                "The request said only-if-cached; send it without to ask Snyk.",
            ),
            Self::TooManyFollowers => told(
                S::SERVICE_UNAVAILABLE,
                "connection_limit_reached",
                "too_many_waiting",
                "Too many clients wait for this answer already",
                "Try again in a moment, or raise cache.max_followers.",
            ),
            Self::Deadline => told(
                S::GATEWAY_TIMEOUT,
                "http_response_timeout",
                "deadline",
                "The gateway had no answer in time",
                "Try again; the request may still be on its way. The limit is listener.request_timeout.",
            ),
            Self::Journal => told(
                S::SERVICE_UNAVAILABLE,
                "proxy_internal_error",
                "journal_unavailable",
                "The gateway cannot record requests and is set to refuse them then",
                "Tell who runs the gateway to look at its log: the journal's disk or file needs mending.",
            ),
            Self::Upstream(kind) => upstream(kind),
            Self::Internal => told(
                S::INTERNAL_SERVER_ERROR,
                "proxy_internal_error",
                "internal",
                "The gateway has a fault",
                "Report this with the request id; the gateway's log has the cause.",
            ),
        }
    }
}

fn refused(refusal: Refusal) -> Told {
    use StatusCode as S;
    let bad = |code, title, detail| told(S::BAD_REQUEST, "http_request_error", code, title, detail);
    match refusal {
        Refusal::TargetForm => bad(
            "bad_target",
            "The request target is not in origin-form",
            "Send a path that begins with a slash; the gateway is no forward proxy.",
        ),
        Refusal::Path => bad(
            "bad_path",
            "The path has a part that is never passed on",
            "Send plain ids: no dot segments, empty segments, encoded slashes or other encodings.",
        ),
        Refusal::Query => bad(
            "bad_query",
            "The query cannot be read",
            "Percent-encode it as RFC 3986 has it, without control bytes or encoded delimiters.",
        ),
        Refusal::Unknown => told(
            S::NOT_FOUND,
            "http_request_denied",
            "unknown_route",
            "The gateway does not serve this path",
            "It serves Snyk's export calls; routes.other = \"forward\" opens the rest of the API.",
        ),
        Refusal::Method { allow } => Told {
            allow: Some(allow),
            ..told(
                S::METHOD_NOT_ALLOWED,
                "http_request_denied",
                "method_not_allowed",
                "This path does not take this method",
                "The Allow field names those that it takes.",
            )
        },
    }
}

fn upstream(kind: FailedKind) -> Told {
    use FailedKind as K;
    use StatusCode as S;
    let gateway = |title, detail| told(S::BAD_GATEWAY, kind.as_str(), kind.as_str(), title, detail);
    match kind {
        K::ConnectTimeout | K::ResponseTimeout => told(
            S::GATEWAY_TIMEOUT,
            kind.as_str(),
            kind.as_str(),
            "Snyk did not answer in time",
            "Try a GET again. After a POST, look for the export first: Snyk may have started it.",
        ),
        K::Dns => {
            gateway("Snyk's name was not resolved", "Check upstream.url and the machine's name service.")
        }
        K::Refused => gateway("Snyk refused the connection", "Check upstream.url, then Snyk's status page."),
        K::Unavailable => {
            gateway("Snyk was not reached", "Check the network, HTTPS_PROXY and NO_PROXY of the gateway.")
        }
        K::TlsCertificate => gateway(
            "The upstream's certificate is not trusted",
            "Behind a proxy that opens TLS, set upstream.ca_file to its certificate. No request was sent.",
        ),
        K::TlsProtocol => gateway(
            "TLS with the upstream failed",
            "Check that upstream.url names an HTTPS server. No request was sent.",
        ),
        K::Terminated => gateway(
            "The connection to Snyk ended before an answer came",
            "Try a GET again. After a POST, look for the export first: Snyk may have started it.",
        ),
        K::Incomplete => {
            gateway("Snyk's answer broke off", "Try a GET again; nothing of a broken answer is kept.")
        }
        K::TooLarge => gateway("Snyk's answer is too large", "Raise upstream.max_answer, or ask for less."),
        K::HeadTooLarge => {
            gateway("Snyk's answer has too large a header section", "Report this to Snyk's support.")
        }
        K::Protocol => {
            gateway("What came from the upstream is no HTTP", "Check that upstream.url is Snyk's API.")
        }
    }
}
