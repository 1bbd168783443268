//! The table of failures: the answer to each kind. Those of requests that got no answer to their question are in
//! `causes`, those of files in `no_file`.

use std::time::Duration;

use http::StatusCode;

use super::causes::of_cause;
use super::error_reply::{ErrorReply, bad_request, denied, no_room, not_found, reply, too_many};
use super::failure::{Challenge, FailureKind};
use super::no_file::no_file;
use super::via::BadVia;
use crate::access::{IdentifyError, QuotaError};
use crate::route::RouteError;

impl FailureKind {
    /// The table.
    pub(super) fn answer(self) -> ErrorReply {
        use StatusCode as S;
        match self {
            Self::Unidentified(why, challenge) => unidentified(why, challenge),
            Self::Denied(_) => denied(
                "forbidden",
                "The gateway's policy does not allow you this",
                "Ask who runs the gateway: `exportgate check --as CLIENT METHOD PATH` names the rule.",
            ),
            Self::Hidden(_) => not_found("not_found", "Not found", "Check the path and the ids."),
            Self::Exceeded(exceeded) => exceeded_by(exceeded),
            Self::NoSuchName => not_found(
                "no_such_name",
                "There is no named export of this name for you",
                "Check the name, and ask who runs the gateway: [exports.NAME] is in its configuration.",
            ),
            Self::NoCredential => denied(
                "no_credential",
                "The gateway has no Snyk credential for this org or group",
                "Ask who runs the gateway to add it to [credentials.NAME], or to set one for the rest.",
            ),
            Self::Via(BadVia::Malformed) => bad_request(
                "bad_via",
                "The Via field cannot be read",
                "Send Via as RFC 9110 section 7.6.3 has it, or not at all.",
            ),
            Self::Via(BadVia::Loop) => reply(
                S::BAD_GATEWAY,
                "proxy_loop_detected",
                "loop",
                "The request came back to the gateway that sent it",
                "The gateway's upstream leads back to itself: set upstream.url or upstream.region to Snyk's API.",
            ),
            Self::Route(error) => no_route(error),
            Self::NoAnswer(cause) => of_cause(cause),
            Self::TargetTooLong => reply(
                S::URI_TOO_LONG,
                "http_request_error",
                "target_too_long",
                "The request target is too long",
                "Send a shorter path and query, or raise listener.max_target.",
            ),
            Self::BodyTooLarge => reply(
                S::PAYLOAD_TOO_LARGE,
                "http_request_error",
                "body_too_large",
                "The request body is too large",
                "Send a smaller body, or raise listener.max_body.",
            )
            .closing(),
            Self::BodyTimeout => reply(
                S::REQUEST_TIMEOUT,
                "http_request_error",
                "body_timeout",
                "The request body did not arrive in time",
                "Send the whole body at once, or raise listener.body_timeout.",
            )
            .closing(),
            Self::BodyIncomplete => bad_request(
                "body_incomplete",
                "The request body broke off",
                "Send the body that Content-Length or the chunks announce.",
            )
            .closing(),
            Self::NoRoom => no_room(),
            Self::NoFile(why) => no_file(why),
        }
    }
}

fn unidentified(why: IdentifyError, challenge: Challenge) -> ErrorReply {
    use IdentifyError as I;
    match why {
        I::Host => bad_request(
            "bad_host",
            "The Host field is missing or not valid",
            "Send exactly one Host field with the name and port of the gateway.",
        ),
        I::WebPage => denied(
            "web_page",
            "Requests of web pages are refused",
            "The request has an Origin field, which browsers send for pages; tools send none.",
        ),
        I::Framing => bad_request(
            "bad_framing",
            "Where the body ends is not certain",
            "Send one plain Content-Length, or Transfer-Encoding: chunked, as RFC 9112 section 6 has it.",
        )
        .closing(),
        I::ForeignHost => denied(
            "foreign_host",
            "The Host field names another machine",
            "Use localhost or a loopback address, or add the name to access.hosts.",
        ),
        I::Forwarded => denied(
            "forwarded",
            "Another proxy passed this request on",
            "Where that proxy is to be trusted, set access.allow_forwarded.",
        ),
        I::RequiredHeader => denied(
            "required_header",
            "A field that this gateway asks for is missing",
            "Send the field that access.required_header names.",
        ),
        I::TargetForm => no_route(RouteError::TargetForm),
        I::Unknown(_) => unauthenticated(challenge),
        I::TooManyFailures(_) => too_many(
            "too_many_failures",
            "Your address has failed too often to say who it is",
            "Fix the key; a valid one is accepted at once.",
        )
        .after(Duration::from_mins(1)),
    }
}

fn unauthenticated(challenge: Challenge) -> ErrorReply {
    let detail = match challenge {
        Challenge::Bearer => {
            "Send your exportgate key where a Snyk token would be (Authorization: token KEY), or the JWT or certificate that you are known by."
        }
        Challenge::Basic => {
            "Send your exportgate key as the password of HTTP Basic, with any user name, or as Authorization: token KEY; or the JWT or certificate that you are known by."
        }
    };
    let title = "The gateway does not know who you are";
    reply(StatusCode::UNAUTHORIZED, "http_request_denied", "unauthorized", title, detail)
}

fn exceeded_by(exceeded: QuotaError) -> ErrorReply {
    match exceeded {
        QuotaError::PerMinute { .. } => too_many(
            "client_rate",
            "You have used your requests for this minute",
            "Wait as Retry-After says. The limit is your requests_per_minute at this gateway; Snyk was not asked.",
        ),
        QuotaError::AtOnce => too_many(
            "client_concurrency",
            "You have too many requests running",
            "Wait for one to end. The limit is your concurrent_requests at this gateway; Snyk was not asked.",
        ),
    }
    .after(exceeded.retry_after())
}

fn no_route(error: RouteError) -> ErrorReply {
    use StatusCode as S;
    match error {
        RouteError::TargetForm => bad_request(
            "bad_target",
            "The request target is not in origin-form",
            "Send a path that begins with a slash; the gateway is no forward proxy.",
        ),
        RouteError::Path => bad_request(
            "bad_path",
            "The path has a part that is never passed on",
            "Send plain ids: no dot segments, empty segments, encoded slashes or other encodings.",
        ),
        RouteError::Query => bad_request(
            "bad_query",
            "The query cannot be read",
            "Percent-encode it as RFC 3986 has it, without control bytes or encoded delimiters.",
        ),
        RouteError::Unknown => not_found(
            "unknown_route",
            "The gateway does not serve this path",
            "It serves Snyk's export calls, files of exports and named exports; routes.other = \"forward\" opens the rest of the API.",
        ),
        RouteError::Method { allow } => ErrorReply {
            allow: Some(allow),
            ..reply(
                S::METHOD_NOT_ALLOWED,
                "http_request_denied",
                "method_not_allowed",
                "This path does not take this method",
                "The Allow field names those that it takes.",
            )
        },
    }
}
