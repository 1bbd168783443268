//! The table of files: the answer to a request that got no file.

use std::time::Duration;

use http::StatusCode;

use super::causes::of_cause;
use super::error_reply::{ErrorReply, denied, not_found, reply, unavailable};
use super::failure::NoFile;
use super::reply::NEXT_LOOK;
use crate::downloads::CutReason;
use crate::files::FilesErrorKind;
use crate::named::NoExport;
use crate::retrieval::Cause;
use crate::upstream::UpstreamErrorKind;

pub(super) fn no_file(why: NoFile) -> ErrorReply {
    let sent = |status, code, title, detail| reply(status, "http_request_error", code, title, detail);
    match why {
        NoFile::Failed(kind) => failed(kind),
        NoFile::SnykAnswered { status, retry_after } => snyk_answered(status, retry_after),
        NoFile::Named(NoExport::NotYet) => unavailable(
            "proxy_internal_response",
            "not_finished",
            "The first export of this name is not made yet",
            "Ask again as Retry-After says, or with Prefer: wait=55. GET /named/NAME tells the last failure, if there was one.",
        )
        .after(NEXT_LOOK),
        NoFile::Named(NoExport::Gone) => reply(
            StatusCode::GONE,
            "http_request_denied",
            "named_export_gone",
            "No new export was made for three days, and Snyk has deleted the files of the last one",
            "Ask who runs the gateway: GET /named/NAME tells the last failure.",
        ),
        NoFile::Cut(reason) => cut(reason),
        NoFile::Unsatisfiable(_) => sent(
            StatusCode::RANGE_NOT_SATISFIABLE,
            "range_not_satisfiable",
            "The file has no byte of this range",
            "Content-Range has the size of the file; send a Range within it, or none.",
        ),
        NoFile::LengthUnknown => sent(
            StatusCode::HTTP_VERSION_NOT_SUPPORTED,
            "http_version_too_old",
            "HTTP/1.0 cannot show where this file ends",
            "Ask over HTTP/1.1 or HTTP/2: the store decodes this file while it sends it, so that its length is not known before.",
        ),
        NoFile::PreconditionFailed => sent(
            StatusCode::PRECONDITION_FAILED,
            "precondition_failed",
            "The file is not the version that If-Match names",
            "Ask without If-Match, and begin the download anew.",
        ),
    }
}

fn failed(kind: FilesErrorKind) -> ErrorReply {
    use FilesErrorKind as K;
    use StatusCode as S;
    let with = |status, error, title, detail| reply(status, error, kind.code(), title, detail);
    let store = |title, detail| with(S::BAD_GATEWAY, "http_protocol_error", title, detail);
    let bad_gateway = |title, detail| with(S::BAD_GATEWAY, "proxy_internal_response", title, detail);
    let no_table =
        |title| bad_gateway(title, "Download the parts: the path with /files at its end lists them.");
    match kind {
        // Not reached: `Exchange::no_files` answers these from the failure or the status that they carry.
        K::NoResults | K::SnykAnswered => of_cause(Cause::Internal),
        K::Stopped => stopped(),
        K::ResultsUnreadable => store(
            "Snyk's answer is no export's document",
            "Check that upstream.url is Snyk's API; if it is, report the snyk-request-id of this answer to Snyk's support.",
        ),
        K::PartsMissing => store(
            "Snyk says that the export is finished, but lists no part, or one part twice",
            "Ask again with Cache-Control: no-cache. If it lasts, start a new export, and report the snyk-request-id of this answer to Snyk's support.",
        ),
        K::NotFinished { retry_after, .. } => not_finished(kind).after(retry_after.unwrap_or(NEXT_LOOK)),
        K::ExportFailed => bad_gateway(
            "The export failed at Snyk",
            "Start a new one. Snyk's support wants the snyk-request-id of this answer.",
        ),
        K::NoSuchFile => not_found(
            kind.code(),
            "The export has no such part",
            "GET the path with /files at its end: it lists the parts.",
        ),
        K::FileGone => with(
            S::GONE,
            "http_request_denied",
            "The file is no longer at Snyk's store",
            "Snyk keeps files for three days. Start a new export.",
        ),
        K::HostNotAllowed => with(
            S::BAD_GATEWAY,
            "destination_ip_prohibited",
            "The link leads to a host or an address that the gateway may not ask",
            "Ask who runs the gateway to look at its log. If the host is Snyk's store, it belongs in files.hosts.",
        ),
        K::StoreRefused => store(
            "Snyk's file store refuses the link, also after it was renewed",
            "Try again. If it lasts, compare the clock of the gateway with the time, then start a new export.",
        ),
        K::StoreUnreachable => with(
            S::BAD_GATEWAY,
            "destination_unavailable",
            "Snyk's file store was not reached",
            "Check that the gateway may reach the host of the links, directly or by HTTPS_PROXY. Its log names the host.",
        ),
        K::StoreTimeout => with(
            S::GATEWAY_TIMEOUT,
            "http_response_timeout",
            "Snyk's file store made no progress in time",
            "Try again. The limit is files.idle_timeout.",
        ),
        K::LinkMissing => store(
            "Snyk's answer has no link for this file",
            "Ask again in a moment. If it lasts, start a new export.",
        ),
        K::ColumnsDiffer => no_table("The parts of the export have different columns: they make no table"),
        K::HeaderTooLong => no_table("The header row of a part is too long to make a table"),
        K::NotCsv => no_table("A part is no CSV that can be joined with the others"),
        K::FilesBusy => unavailable(
            "connection_limit_reached",
            kind.code(),
            "As many files are being transferred as may be at once",
            "Wait for one to end. The limits are files.max_transfers and files.max_transfers_per_client.",
        )
        .after(Duration::from_secs(1)),
        K::ObjectChanged => {
            store("The file changed at Snyk's store while it was read", "Ask again for the whole file.")
        }
        K::NotProven => store(
            "The file from Snyk's store is not whole, or not what the store announced",
            "Ask again. If it lasts, start a new export.",
        ),
    }
}

fn not_finished(kind: FilesErrorKind) -> ErrorReply {
    let title = if let FilesErrorKind::NotFinished { is_unknown: true, .. } = kind {
        "Snyk's status of the export is a word that the gateway does not know"
    } else {
        "The export is not finished"
    };
    let detail = "Ask again as Retry-After says, or with Prefer: wait=55 to be answered when it is finished.";
    unavailable("proxy_internal_response", kind.code(), title, detail)
}

/// Snyk's own answer is withheld: a client that may have files alone gets no link, from whatever answer.
fn snyk_answered(status: StatusCode, retry_after: Option<u64>) -> ErrorReply {
    let is_login = status == StatusCode::UNAUTHORIZED || status == StatusCode::PROXY_AUTHENTICATION_REQUIRED;
    let is_error = (status.is_client_error() && !is_login) || status.is_server_error();
    let status = if is_error { status } else { StatusCode::BAD_GATEWAY };
    let title = match status {
        StatusCode::NOT_FOUND => "Snyk does not know this export, or not any more",
        StatusCode::FORBIDDEN => "Snyk does not allow the gateway's credential this export",
        StatusCode::TOO_MANY_REQUESTS => "Rate limited by Snyk (429)",
        _ => "Snyk gave no results of this export",
    };
    let detail = "This is the status of Snyk's answer. Look at the ids and the version; Snyk's support wants the snyk-request-id.";
    let answer = reply(status, "http_request_denied", "upstream_answered", title, detail);
    ErrorReply { retry_after, ..answer }
}

fn stopped() -> ErrorReply {
    of_cause(Cause::Upstream(UpstreamErrorKind::Stopped))
}

/// The answer to a download that was cut before it began.
fn cut(reason: CutReason) -> ErrorReply {
    match reason {
        CutReason::Revoked => denied(
            "forbidden",
            "The gateway's policy does not allow you this any more",
            "Ask who runs the gateway: `exportgate check --as CLIENT METHOD PATH` names the rule.",
        ),
        CutReason::Purged => unavailable(
            "proxy_internal_response",
            "export_purged",
            "The export was purged while its file was looked for",
            "Ask again.",
        )
        .after(Duration::from_secs(1)),
        CutReason::Stopped => stopped(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_answer_is_documented() {
        use FilesErrorKind as K;
        let kinds = [
            K::ResultsUnreadable,
            K::PartsMissing,
            K::NotFinished { retry_after: None, is_unknown: false },
            K::NotFinished { retry_after: None, is_unknown: true },
            K::ExportFailed,
            K::NoSuchFile,
            K::FileGone,
            K::HostNotAllowed,
            K::StoreRefused,
            K::StoreUnreachable,
            K::StoreTimeout,
            K::LinkMissing,
            K::ColumnsDiffer,
            K::HeaderTooLong,
            K::NotCsv,
            K::FilesBusy,
            K::ObjectChanged,
            K::NotProven,
        ];
        let read = |name: &str| {
            std::fs::read_to_string(format!("{}/{name}", env!("CARGO_MANIFEST_DIR"))).expect("a file of ours")
        };
        let (document, readme) = (read("docs/openapi.json"), read("README.md"));
        let not_found = NoFile::SnykAnswered { status: StatusCode::NOT_FOUND, retry_after: None };
        let others = [
            not_found,
            NoFile::Named(NoExport::NotYet),
            NoFile::Named(NoExport::Gone),
            NoFile::Cut(CutReason::Revoked),
            NoFile::Cut(CutReason::Purged),
            NoFile::Cut(CutReason::Stopped),
            NoFile::Unsatisfiable(0),
            NoFile::PreconditionFailed,
            NoFile::LengthUnknown,
        ];
        for why in kinds.map(NoFile::Failed).into_iter().chain(others) {
            let answer = no_file(why);
            assert!(document.contains(&format!("\"{}\"", answer.code)), "{}", answer.code);
            assert!(readme.contains(&format!("`{}`", answer.code)), "{}", answer.code);
            assert!(answer.status.is_client_error() || answer.status.is_server_error(), "{}", answer.code);
        }
    }

    #[test]
    fn a_status_of_snyks_is_passed_on_where_it_is_an_error_of_the_question() {
        for (theirs, ours) in
            [(303, 502), (200, 502), (401, 502), (403, 403), (404, 404), (429, 429), (503, 503)]
        {
            let status = StatusCode::from_u16(theirs).expect("a status");
            let answer = snyk_answered(status, Some(7));
            assert_eq!((answer.status.as_u16(), answer.retry_after), (ours, Some(7)), "{theirs}");
        }
    }
}
