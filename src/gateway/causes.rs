//! The table of causes: the answer to a request that got no answer to its question.

use std::time::Duration;

use http::StatusCode;

use super::error_reply::{ErrorReply, no_room, reply, too_many, unavailable};
use crate::admission::{AdmissionRefusal, Level, Obstacle};
use crate::credential::Unavailable;
use crate::retrieval::Cause;
use crate::upstream::UpstreamErrorKind;

/// Advice where Snyk may have processed the request.
const LOOK_FIRST: &str =
    "Try a GET again. After a POST, look for the export first: Snyk may have started it.";

pub(super) fn of_cause(cause: Cause) -> ErrorReply {
    use StatusCode as S;
    match cause {
        Cause::Unavailable(unavailable) => no_credential_now(unavailable),
        Cause::CredentialRejected => reply(
            S::BAD_GATEWAY,
            "http_request_denied",
            "upstream_credential_rejected",
            "Snyk refuses the gateway's credential",
            "Your own key is fine. Ask who runs the gateway to replace its Snyk credential.",
        ),
        Cause::Echo => reply(
            S::BAD_GATEWAY,
            "http_protocol_error",
            "upstream_echoes_credential",
            "The upstream's answer held the gateway's credential and was withheld",
            "Check that upstream.url is Snyk's API: what answers there echoes requests.",
        ),
        Cause::OnlyIfCached => reply(
            S::GATEWAY_TIMEOUT,
            "proxy_internal_response",
            "not_cached",
            "No stored response can answer this request",
            "The request said only-if-cached; send it without to ask Snyk.",
        ),
        Cause::TooManyFollowers => unavailable(
            "connection_limit_reached",
            "too_many_waiting",
            "Too many clients wait for this answer already",
            "Try again in a moment, or raise cache.max_followers.",
        ),
        Cause::Deadline => reply(
            S::GATEWAY_TIMEOUT,
            "http_response_timeout",
            "deadline",
            "The gateway had no answer in time",
            "Try again; the request may still be on its way. The limit is listener.request_timeout.",
        ),
        Cause::Journal => unavailable(
            "proxy_internal_error",
            "journal_unavailable",
            "The gateway cannot record requests and is set to refuse them then",
            "Tell who runs the gateway to look at its log: the journal's disk or file needs fixing.",
        ),
        Cause::NotAdmitted(refusal) => not_admitted(refusal),
        Cause::Upstream(kind) => upstream(kind),
        Cause::Abandoned => abandoned(),
        Cause::Stopping => unavailable(
            "proxy_internal_response",
            "gateway_stopped",
            "The gateway stops, and Snyk had not answered yet",
            "Wait again as Retry-After says: another process of the gateway may be there by then.",
        )
        .after(Duration::from_secs(1)),
        Cause::Internal => reply(
            S::INTERNAL_SERVER_ERROR,
            "proxy_internal_error",
            "internal",
            "The gateway has a fault",
            "Report this with the request id; the gateway's log has the cause.",
        ),
    }
}

/// Only who has closed its half of the connection gets this: others have left.
fn abandoned() -> ErrorReply {
    unavailable(
        "proxy_internal_response",
        "abandoned",
        "You closed your half of the connection, and another request needed this one's place",
        "Keep it open until the answer is there: the request was taken for one that nobody waits for.",
    )
}

fn no_credential_now(reason: Unavailable) -> ErrorReply {
    let denied = |code, title, detail| unavailable("http_request_denied", code, title, detail);
    match reason {
        Unavailable::Locked { .. } => denied(
            "upstream_credential_locked",
            "Snyk refuses the gateway's credential, and is not asked with it for a while",
            "Your own key is fine. Ask who runs the gateway to replace its Snyk credential.",
        ),
        Unavailable::ScopeRefused { .. } => denied(
            "upstream_credential_refused_for_scope",
            "Snyk refuses the gateway's credential for this org or group",
            "Your own key is fine. Check the id; if it is right, ask who runs the gateway for a Snyk credential that may read it.",
        ),
        Unavailable::NoToken { .. } => denied(
            "upstream_credential_unavailable",
            "The gateway has no access token for Snyk at the moment",
            "Try again as Retry-After says. The gateway's log tells why its token endpoint gives none.",
        ),
    }
    .after(reason.retry_after())
}

fn not_admitted(refusal: AdmissionRefusal) -> ErrorReply {
    let paused = |code, title, detail| unavailable("destination_unavailable", code, title, detail);
    match refusal.obstacle {
        Obstacle::Budget => too_many(
            "budget",
            "Snyk's limit is used up for the moment",
            "Wait as Retry-After says. Snyk was not asked, so that nobody is locked out of it.",
        ),
        Obstacle::Backoff => too_many(
            "backoff",
            "Rate limited by Snyk (429)",
            "Wait as Retry-After says. Snyk was not asked: asking earlier would prolong it. After a 429 to a start, only the starts of that org or group wait.",
        ),
        Obstacle::Concurrency | Obstacle::Queue => unavailable(
            "connection_limit_reached",
            "too_many_queued",
            "Too many requests wait for Snyk",
            "Wait as Retry-After says, or raise queue.max_running or queue.max_waiting.",
        ),
        Obstacle::Circuit(Level::Host) => paused(
            "circuit_open",
            "Snyk keeps failing; requests pause for a moment",
            "Wait as Retry-After says. The gateway's log tells whether it is Snyk, the network or a proxy that fails.",
        ),
        Obstacle::Circuit(Level::Scope) => paused(
            "circuit_open_for_scope",
            "Snyk keeps failing for this org or group; its requests pause for a moment",
            "Wait as Retry-After says. Other orgs and groups are not affected.",
        ),
        Obstacle::Circuit(Level::Export) => paused(
            "circuit_open_for_export",
            "Snyk keeps failing for this export; its requests pause for a moment",
            "Wait as Retry-After says. Other exports are not affected; start a new one if this one stays open.",
        ),
    }
    .after(refusal.retry_after)
}

fn upstream(kind: UpstreamErrorKind) -> ErrorReply {
    use StatusCode as S;
    use UpstreamErrorKind as K;
    let with = |status, title, detail| reply(status, kind.proxy_error(), kind.as_str(), title, detail);
    let failed = |title, detail| with(S::BAD_GATEWAY, title, detail);
    match kind {
        K::ConnectTimeout => with(
            S::GATEWAY_TIMEOUT,
            "Snyk was not reached in time",
            "Check the network of the gateway, then Snyk's status page. No request was sent.",
        ),
        K::ResponseTimeout => with(S::GATEWAY_TIMEOUT, "Snyk did not answer in time", LOOK_FIRST),
        K::Dns => {
            failed("Snyk's name was not resolved", "Check upstream.url and the machine's name service.")
        }
        K::Refused => failed("Snyk refused the connection", "Check upstream.url, then Snyk's status page."),
        K::Unavailable => {
            failed("Snyk was not reached", "Check the network, HTTPS_PROXY and NO_PROXY of the gateway.")
        }
        K::ProxyDns => failed(
            "The name of the gateway's proxy was not resolved",
            "Check HTTPS_PROXY of the gateway and the machine's name service. Snyk was not asked.",
        ),
        K::ProxyRefused => failed(
            "The gateway's proxy refused the connection",
            "Check HTTPS_PROXY of the gateway, and whether the proxy runs. Snyk was not asked.",
        ),
        K::ProxyUnreachable => failed(
            "The gateway's proxy was not reached, or did not answer",
            "Check HTTPS_PROXY of the gateway and the way to the proxy. Snyk was not asked.",
        ),
        K::ProxyStatus(status) => {
            let (title, detail) = refused_by_proxy(status);
            failed(title, detail)
        }
        K::NotProcessed => failed(
            "Snyk closed the connection before it processed the request",
            "Try again, even a POST: Snyk said that it did not process it.",
        ),
        K::TlsCertificate => failed(
            "The upstream's certificate is not trusted",
            "Behind a proxy that intercepts TLS, set upstream.ca_file to its certificate. No request was sent.",
        ),
        K::TlsProtocol => failed(
            "TLS with the upstream failed",
            "Check that upstream.url names an HTTPS server. No request was sent.",
        ),
        K::Terminated => failed("The connection to Snyk ended before an answer came", LOOK_FIRST),
        K::Incomplete => failed("Snyk's answer broke off", LOOK_FIRST),
        K::TooLarge => failed("Snyk's answer is too large", "Raise upstream.max_answer, or ask for less."),
        K::HeadTooLarge => failed(
            "Snyk's answer has too large a header section",
            "Check that upstream.url is Snyk's API; if it is, report this to Snyk's support.",
        ),
        K::NoRoom => no_room(),
        K::Abandoned => abandoned(),
        K::Stopped => unavailable(
            "proxy_internal_response",
            "gateway_stopped",
            "The gateway stopped before Snyk answered",
            LOOK_FIRST,
        ),
        K::Protocol => {
            failed("The upstream's answer breaks the rules of HTTP", "Check that upstream.url is Snyk's API.")
        }
    }
}

/// A proxy that opens no tunnel to Snyk and answers with `status`.
const fn refused_by_proxy(status: u16) -> (&'static str, &'static str) {
    match status {
        407 => (
            "The gateway's proxy demands a login, or refuses the one that it got (407)",
            "Set HTTPS_PROXY of the gateway to http://USER:PASSWORD@HOST:PORT. Snyk was not asked.",
        ),
        403 => (
            "The gateway's proxy does not let it through to Snyk (403)",
            "Ask who runs the proxy to allow CONNECT to the host of upstream.url. Snyk was not asked.",
        ),
        502..=504 => (
            "The gateway's proxy does not reach Snyk (502, 503 or 504)",
            "Look at the proxy's log: it may not resolve or reach the host of upstream.url. Snyk was not asked.",
        ),
        _ => (
            "The gateway's proxy opens no tunnel to Snyk",
            "Check that HTTPS_PROXY of the gateway names an HTTP proxy; the gateway's log has its status. Snyk was not asked.",
        ),
    }
}
