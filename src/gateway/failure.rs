//! Everything that can go wrong with a request, and one table of what the client is told.

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use uuid::Uuid;

use super::via::BadVia;
use crate::access::{Denied, Exceeded, NotPermitted, Reason, Unidentified};
use crate::admission::{AdmissionRefusal, Level, Obstacle, OpenCircuit};
use crate::credential::Unavailable;
use crate::error_text::find;
use crate::route::Refusal;
use crate::transport::ConnectError;
use crate::upstream::{Failed, FailedKind};

/// A request that gets an answer of our own instead of the upstream's.
#[derive(Debug, Clone)]
pub(super) struct Failure {
    /// Which kind; the table makes the answer of it.
    pub(super) kind: FailureKind,
    /// What the libraries say; for the log only.
    pub(super) source: Option<Arc<dyn Error + Send + Sync>>,
    /// The attempt that failed, where one was made.
    pub(super) attempt: Option<Uuid>,
}

/// The kinds of failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FailureKind {
    /// No sound `Host`.
    Host,
    /// How the body ends can be read in two ways.
    Framing,
    /// A web page sent it.
    WebPage,
    /// On a loopback listener, a name that is not this machine's own.
    ForeignHost,
    /// On a loopback listener or a Unix socket, passed on by another proxy.
    Forwarded,
    /// `access.required_header` is missing.
    RequiredHeader,
    /// Nobody known sent it.
    Unauthenticated(Reason),
    /// The same, from an address that failed too often.
    TooManyFailures(Reason),
    /// The policy does not allow it.
    Denied(Denied),
    /// The same, where `access.hide` is set.
    Hidden(Denied),
    /// The client asks more than it may.
    Exceeded(Exceeded),
    /// No credential is for this org or group.
    NoCredential,
    /// There is nothing to present to Snyk.
    Unavailable(Unavailable),
    /// Snyk refused the credential.
    CredentialRejected,
    /// The upstream's answer holds our credential.
    Echo,
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
    /// There is no room in memory for its body, or on its connection for its answer.
    NoRoom,
    /// `only-if-cached` and nothing fresh is stored.
    OnlyIfCached,
    /// `cache.max_followers` wait for this answer already.
    TooManyFollowers,
    /// No answer within `listener.request_timeout`.
    Deadline,
    /// The journal cannot be written and `journal.on_failure` is `refuse`.
    Journal,
    /// Nothing is sent to Snyk at the moment, so that Snyk is spared.
    NotAdmitted(AdmissionRefusal),
    /// All who waited for it have left, or may have: they closed their half of the connection.
    Abandoned,
    /// The upstream gave no whole answer.
    Upstream(FailedKind),
    /// A fault of our own.
    Internal,
}

impl From<FailureKind> for Failure {
    fn from(kind: FailureKind) -> Self {
        Self { kind, source: None, attempt: None }
    }
}

impl From<Unidentified> for FailureKind {
    fn from(why: Unidentified) -> Self {
        match why {
            Unidentified::Host => Self::Host,
            Unidentified::Framing => Self::Framing,
            Unidentified::WebPage => Self::WebPage,
            Unidentified::ForeignHost => Self::ForeignHost,
            Unidentified::Forwarded => Self::Forwarded,
            Unidentified::RequiredHeader => Self::RequiredHeader,
            Unidentified::Unknown(reason) => Self::Unauthenticated(reason),
            Unidentified::TooManyFailures(reason) => Self::TooManyFailures(reason),
            Unidentified::TargetForm => Self::Refused(Refusal::TargetForm),
        }
    }
}

impl FailureKind {
    /// What a client is told that may not do what it asks.
    pub(super) fn not_permitted(why: NotPermitted, hides: bool) -> Self {
        match why {
            NotPermitted::Denied(denied) if hides => Self::Hidden(denied),
            NotPermitted::Denied(denied) => Self::Denied(denied),
            NotPermitted::Exceeded(exceeded) => Self::Exceeded(exceeded),
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

impl Failure {
    /// The proxy that failed, as `HOST:PORT (VARIABLE)`.
    pub(super) fn proxy(&self) -> Option<&str> {
        find::<ConnectError>(self.source.as_deref()?)?.proxy()
    }
}

impl From<Failed> for Failure {
    fn from(failed: Failed) -> Self {
        Self { kind: FailureKind::Upstream(failed.kind), source: failed.source.map(Arc::from), attempt: None }
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
    /// The `Retry-After` field, in seconds.
    pub(super) retry_after: Option<u64>,
    /// Whether the connection ends with this answer.
    pub(super) close: bool,
}

impl Told {
    /// With `Retry-After`: whole seconds, never too few.
    fn after(self, wait: Duration) -> Self {
        let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
        Self { retry_after: Some(seconds.max(1)), ..self }
    }
}

const fn told(
    status: StatusCode,
    proxy_error: &'static str,
    code: &'static str,
    title: &'static str,
    detail: &'static str,
) -> Told {
    Told { status, proxy_error, code, title, detail, allow: None, retry_after: None, close: false }
}

impl FailureKind {
    /// Whether who asks is not known, or may not do it.
    pub(super) const fn is_denial(self) -> bool {
        matches!(
            self,
            Self::WebPage
                | Self::ForeignHost
                | Self::Forwarded
                | Self::RequiredHeader
                | Self::Unauthenticated(_)
                | Self::TooManyFailures(_)
                | Self::Denied(_)
                | Self::Hidden(_)
                | Self::Exceeded(_)
                | Self::NoCredential
        )
    }

    /// Whether it is Snyk, or our way to it, that is in trouble.
    pub(super) const fn is_about_snyk(self) -> bool {
        matches!(
            self,
            Self::NotAdmitted(_)
                | Self::Upstream(_)
                | Self::Unavailable(_)
                | Self::CredentialRejected
                | Self::Deadline
        )
    }

    /// Why, in a word or a rule, where the client is not told: for the log.
    pub(super) const fn reason(self) -> Option<&'static str> {
        if let Self::Unauthenticated(reason) | Self::TooManyFailures(reason) = self {
            Some(reason.as_str())
        } else if let Self::Denied(denied) | Self::Hidden(denied) = self {
            Some(denied.rule())
        } else {
            None
        }
    }

    /// The table.
    #[must_use]
    #[expect(clippy::too_many_lines, reason = "a table: a row for each kind")]
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
            Self::Framing => Told {
                close: true,
                ..told(
                    S::BAD_REQUEST,
                    "http_request_error",
                    "bad_framing",
                    "Where the body ends is not certain",
                    "Send one plain Content-Length, or Transfer-Encoding: chunked, as RFC 9112 section 6 has it.",
                )
            },
            Self::ForeignHost => told(
                S::FORBIDDEN,
                "http_request_denied",
                "foreign_host",
                "The Host field names another machine",
                "Use localhost or a loopback address, or add the name to access.hosts.",
            ),
            Self::Forwarded => told(
                S::FORBIDDEN,
                "http_request_denied",
                "forwarded",
                "Another proxy passed this request on",
                "Where that proxy is to be trusted, set access.allow_forwarded.",
            ),
            Self::RequiredHeader => told(
                S::FORBIDDEN,
                "http_request_denied",
                "required_header",
                "A field that this gateway asks for is missing",
                "Send the field that access.required_header names.",
            ),
            Self::Unauthenticated(_) => told(
                S::UNAUTHORIZED,
                "http_request_denied",
                "unauthorized",
                "The gateway does not know who you are",
                "Send your exportgate key where a Snyk token would be (Authorization: token KEY), or the JWT or certificate that you are known by.",
            ),
            Self::TooManyFailures(_) => told(
                S::TOO_MANY_REQUESTS,
                "http_request_denied",
                "too_many_failures",
                "Your address has failed too often to say who it is",
                "Mend the key; a valid one is accepted at once.",
            )
            .after(Duration::from_mins(1)),
            Self::Denied(_) => told(
                S::FORBIDDEN,
                "http_request_denied",
                "forbidden",
                "The gateway's policy does not allow you this",
                "Ask who runs the gateway: `exportgate check --as CLIENT METHOD PATH` names the rule.",
            ),
            Self::Hidden(_) => told(
                S::NOT_FOUND,
                "http_request_denied",
                "not_found",
                "There is nothing here for you",
                "Check the path and the ids.",
            ),
            Self::Exceeded(exceeded) => exceeded_by(exceeded),
            Self::NoCredential => told(
                S::FORBIDDEN,
                "http_request_denied",
                "no_credential",
                "The gateway has no Snyk credential for this org or group",
                "Ask who runs the gateway to add it to [credentials.NAME], or to set one for the rest.",
            ),
            Self::Unavailable(unavailable) => no_credential_now(unavailable),
            Self::CredentialRejected => told(
                S::BAD_GATEWAY,
                "http_request_denied",
                "upstream_credential_rejected",
                "Snyk refuses the gateway's credential",
                "Your own key is fine. Ask who runs the gateway to replace its Snyk credential.",
            ),
            Self::Echo => told(
                S::BAD_GATEWAY,
                "http_protocol_error",
                "upstream_echoes_credential",
                "The upstream's answer held the gateway's credential and was withheld",
                "Check that upstream.url is Snyk's API: what answers there echoes requests.",
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
            Self::BodyTooLarge => Told {
                close: true,
                ..told(
                    S::PAYLOAD_TOO_LARGE,
                    "http_request_error",
                    "body_too_large",
                    "The request body is too large",
                    "Send a smaller body, or raise listener.max_body.",
                )
            },
            Self::BodyTimeout => Told {
                close: true,
                ..told(
                    S::REQUEST_TIMEOUT,
                    "http_request_error",
                    "body_timeout",
                    "The request body did not arrive in time",
                    "Send the whole body at once, or raise listener.body_timeout.",
                )
            },
            Self::BodyIncomplete => Told {
                close: true,
                ..told(
                    S::BAD_REQUEST,
                    "http_request_error",
                    "body_incomplete",
                    "The request body broke off",
                    "Send the body that Content-Length or the chunks announce.",
                )
            },
            Self::NoRoom => no_room(),
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
            Self::NotAdmitted(refusal) => not_admitted(refusal),
            Self::Upstream(kind) => upstream(kind),
            Self::Abandoned => abandoned(),
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

/// Only who has closed its half of the connection gets this: others have left.
fn abandoned() -> Told {
    told(
        StatusCode::SERVICE_UNAVAILABLE,
        "proxy_internal_response",
        "abandoned",
        "You closed your half of the connection, and another request needed this one's place",
        "Keep it open until the answer is there: the request was taken for one that nobody waits for.",
    )
}

/// `listener.max_buffered`, or its part for one connection.
fn no_room() -> Told {
    told(
        StatusCode::SERVICE_UNAVAILABLE,
        "proxy_internal_error",
        "no_room",
        "The gateway holds as much in memory for clients as it may",
        "Try again in a moment, take answers faster, or raise listener.max_buffered or listener.max_buffered_per_connection.",
    )
    .after(Duration::from_secs(1))
}

fn exceeded_by(exceeded: Exceeded) -> Told {
    let too_many =
        |code, title, detail| told(StatusCode::TOO_MANY_REQUESTS, "http_request_denied", code, title, detail);
    match exceeded {
        Exceeded::PerMinute { .. } => too_many(
            "client_rate",
            "You have used your requests for this minute",
            "Wait as Retry-After says. The limit is your requests_per_minute at this gateway; Snyk was not asked.",
        ),
        Exceeded::AtOnce => too_many(
            "client_concurrency",
            "You have too many requests running",
            "Wait for one to end. The limit is your concurrent_requests at this gateway; Snyk was not asked.",
        ),
    }
    .after(exceeded.retry_after())
}

fn no_credential_now(unavailable: Unavailable) -> Told {
    let unavailable_for = |code, title, detail| {
        told(StatusCode::SERVICE_UNAVAILABLE, "http_request_denied", code, title, detail)
    };
    match unavailable {
        Unavailable::Locked { .. } => unavailable_for(
            "upstream_credential_locked",
            "Snyk refuses the gateway's credential, which is being left alone",
            "Your own key is fine. Ask who runs the gateway to replace its Snyk credential.",
        ),
        Unavailable::ScopeRefused { .. } => unavailable_for(
            "upstream_credential_refused_for_scope",
            "Snyk refuses the gateway's credential for this org or group",
            "Your own key is fine. Check the id; if it is right, ask who runs the gateway for a Snyk credential that may read it.",
        ),
        Unavailable::NoToken { .. } => unavailable_for(
            "upstream_credential_unavailable",
            "The gateway has no access token for Snyk at the moment",
            "Try again as Retry-After says. The gateway's log tells why its token endpoint gives none.",
        ),
    }
    .after(unavailable.retry_after())
}

fn not_admitted(refusal: AdmissionRefusal) -> Told {
    let (obstacle, retry_after) = match refusal {
        AdmissionRefusal::Circuit(open) => return circuit_open(open),
        AdmissionRefusal::Queue(refusal) => (refusal.obstacle, refusal.retry_after),
    };
    let spared =
        |code, title, detail| told(StatusCode::TOO_MANY_REQUESTS, "http_request_denied", code, title, detail);
    match obstacle {
        Obstacle::Budget => spared(
            "budget",
            "Snyk's limit is used up for the moment",
            "Wait as Retry-After says. Snyk was not asked, so that nobody is locked out of it.",
        ),
        Obstacle::Backoff => spared(
            "backoff",
            "Rate limited by Snyk (429)",
            "Wait as Retry-After says. Snyk was not asked: asking earlier would prolong it. After a 429 to a start, only the starts of that org or group wait.",
        ),
        Obstacle::Concurrency | Obstacle::Queue => told(
            StatusCode::SERVICE_UNAVAILABLE,
            "connection_limit_reached",
            "too_many_queued",
            "Too many requests wait for Snyk",
            "Wait as Retry-After says, or raise queue.max_running or queue.max_waiting.",
        ),
    }
    .after(retry_after)
}

fn circuit_open(open: OpenCircuit) -> Told {
    let paused = |code, title, detail| {
        told(StatusCode::SERVICE_UNAVAILABLE, "destination_unavailable", code, title, detail)
    };
    match open.level {
        Level::Host => paused(
            "circuit_open",
            "Snyk keeps failing; requests pause for a moment",
            "Wait as Retry-After says. The gateway's log tells whether it is Snyk, the network or a proxy that fails.",
        ),
        Level::Scope => paused(
            "circuit_open_for_scope",
            "Snyk keeps failing for this org or group; its requests pause for a moment",
            "Wait as Retry-After says. Other orgs and groups are not affected.",
        ),
        Level::Export => paused(
            "circuit_open_for_export",
            "Snyk keeps failing for this export; its requests pause for a moment",
            "Wait as Retry-After says. Other exports are not affected; start a new one if this one stays open.",
        ),
    }
    .after(open.retry_after)
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
    let with = |status, title, detail| told(status, kind.proxy_error(), kind.as_str(), title, detail);
    let gateway = |title, detail| with(S::BAD_GATEWAY, title, detail);
    match kind {
        K::ConnectTimeout => with(
            S::GATEWAY_TIMEOUT,
            "Snyk was not reached in time",
            "Check the network of the gateway, then Snyk's status page. No request was sent.",
        ),
        K::ResponseTimeout => with(
            S::GATEWAY_TIMEOUT,
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
        K::ProxyDns => gateway(
            "The name of the gateway's proxy was not resolved",
            "Check HTTPS_PROXY of the gateway and the machine's name service. Snyk was not asked.",
        ),
        K::ProxyRefused => gateway(
            "The gateway's proxy refused the connection",
            "Check HTTPS_PROXY of the gateway, and whether the proxy runs. Snyk was not asked.",
        ),
        K::ProxyUnreachable => gateway(
            "The gateway's proxy was not reached, or did not answer",
            "Check HTTPS_PROXY of the gateway and the way to the proxy. Snyk was not asked.",
        ),
        K::ProxyStatus(407) => gateway(
            "The gateway's proxy demands a login, or refuses the one that it got (407)",
            "Set HTTPS_PROXY of the gateway to http://USER:PASSWORD@HOST:PORT. Snyk was not asked.",
        ),
        K::ProxyStatus(403) => gateway(
            "The gateway's proxy does not let it through to Snyk (403)",
            "Ask who runs the proxy to allow CONNECT to the host of upstream.url. Snyk was not asked.",
        ),
        K::ProxyStatus(502..=504) => gateway(
            "The gateway's proxy does not reach Snyk (502, 503 or 504)",
            "Look at the proxy's log: it may not resolve or reach the host of upstream.url. Snyk was not asked.",
        ),
        K::ProxyStatus(_) => gateway(
            "The gateway's proxy opens no tunnel to Snyk",
            "Check that HTTPS_PROXY of the gateway names an HTTP proxy; the gateway's log has its status. Snyk was not asked.",
        ),
        K::NotProcessed => gateway(
            "Snyk closed the connection before it processed the request",
            "Try again, a POST too: by its own word Snyk has not processed it.",
        ),
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
        K::Incomplete => gateway(
            "Snyk's answer broke off",
            "Try a GET again. After a POST, look for the export first: Snyk may have started it.",
        ),
        K::TooLarge => gateway("Snyk's answer is too large", "Raise upstream.max_answer, or ask for less."),
        K::HeadTooLarge => gateway(
            "Snyk's answer has too large a header section",
            "Check that upstream.url is Snyk's API; if it is, report this to Snyk's support.",
        ),
        K::NoRoom => no_room(),
        K::Abandoned => abandoned(),
        K::Stopped => told(
            S::SERVICE_UNAVAILABLE,
            "proxy_internal_response",
            "gateway_stopped",
            "The gateway stopped before Snyk answered",
            "Try a GET again. After a POST, look for the export first: Snyk may have started it.",
        ),
        K::Protocol => gateway(
            "The upstream's answer breaks the rules of HTTP",
            "Check that upstream.url is Snyk's API.",
        ),
    }
}
