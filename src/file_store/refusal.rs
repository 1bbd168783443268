//! The reason for which a store sends no bytes.

use http::StatusCode;
use http::response::Parts;
use http_body_util::BodyExt as _;
use tokio::time::{Duration, timeout};

use super::answer::unsatisfied_total;
use super::body::StoreBody;
use super::error::{StoreError, StoreErrorKind};

/// The most that is read of a store's error document, in bytes, and the longest time for it.
const MAX_DOCUMENT: usize = 16 * 1024;
const DOCUMENT_TIME: Duration = Duration::from_secs(5);
/// Longest error code that is repeated.
const MAX_CODE: usize = 64;

/// Reads the reason from status, fields and document.
pub(super) async fn read(head: &Parts, body: StoreBody) -> StoreError {
    use StoreErrorKind as K;
    match head.status {
        StatusCode::PRECONDITION_FAILED => StoreError::of(K::Changed),
        StatusCode::NOT_FOUND | StatusCode::GONE => StoreError::of(K::Gone),
        StatusCode::RANGE_NOT_SATISFIABLE => {
            StoreError::of(K::OutOfRange { total: unsatisfied_total(&head.headers) })
        }
        StatusCode::BAD_REQUEST | StatusCode::FORBIDDEN => {
            let document = document(body).await;
            let kind = if is_expired(&document) { K::Expired } else { K::Refused(head.status) };
            StoreError { code: code(&document), ..StoreError::of(kind) }
        }
        status => StoreError::of(K::Refused(status)),
    }
}

/// The start of the document. One that breaks off says what it says.
async fn document(mut body: StoreBody) -> Vec<u8> {
    let mut text = Vec::new();
    let reading = async {
        while text.len() < MAX_DOCUMENT {
            let Some(Ok(frame)) = body.frame().await else { break };
            text.extend_from_slice(frame.data_ref().map_or(&[][..], |data| data));
        }
    };
    let _ = timeout(DOCUMENT_TIME, reading).await;
    text.truncate(MAX_DOCUMENT);
    text
}

/// True for the words of Google (`ExpiredToken`), of S3 and its temporary credentials (`AccessDenied` with "Request has
/// expired", `ExpiredToken`) and of R2 (`ExpiredRequest`).
fn is_expired(document: &[u8]) -> bool {
    match element(document, "Code") {
        Some(b"ExpiredToken" | b"ExpiredRequest") => true,
        Some(b"AccessDenied") => {
            let message = element(document, "Message").unwrap_or_default().to_ascii_lowercase();
            memchr::memmem::find(&message, b"expired").is_some()
        }
        _ => false,
    }
}

/// The store's code, where it is a plain word. Its message may repeat parts of the link, and is never repeated.
fn code(document: &[u8]) -> Option<String> {
    let code = element(document, "Code")?;
    let is_plain = code.len() <= MAX_CODE && code.iter().all(u8::is_ascii_alphanumeric);
    is_plain.then(|| String::from_utf8_lossy(code).into_owned())
}

/// The text of the first element `name` of an XML document.
fn element<'d>(document: &'d [u8], name: &str) -> Option<&'d [u8]> {
    let (open, close) = (format!("<{name}>"), format!("</{name}>"));
    let start = memchr::memmem::find(document, open.as_bytes())? + open.len();
    let text = &document[start..];
    Some(&text[..memchr::memmem::find(text, close.as_bytes())?])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn xml(code: &str, message: &str) -> Vec<u8> {
        format!("<?xml version='1.0' encoding='UTF-8'?><Error><Code>{code}</Code><Message>{message}</Message><StringToSign>GET s3cret</StringToSign></Error>").into_bytes()
    }

    #[test]
    fn dead_links_are_told_from_other_refusals() {
        for (document, expected) in [
            (xml("ExpiredToken", "Invalid argument."), true),
            (xml("ExpiredToken", "The provided token has expired."), true),
            (xml("AccessDenied", "Request has expired"), true),
            (xml("ExpiredRequest", "Request has expired"), true),
            (xml("AccessDenied", "Access Denied"), false),
            (xml("AccessDenied", ""), false),
            (xml("SignatureDoesNotMatch", "Request has expired"), false),
            (xml("InvalidArgument", "expired"), false),
            (b"<Code>ExpiredToken".to_vec(), false),
            (b"Request has expired".to_vec(), false),
            (Vec::new(), false),
        ] {
            assert_eq!(is_expired(&document), expected, "{}", String::from_utf8_lossy(&document));
        }
    }

    #[test]
    fn only_a_plain_code_is_repeated() {
        assert_eq!(code(&xml("SignatureDoesNotMatch", "s3cret")).as_deref(), Some("SignatureDoesNotMatch"));
        let long = "A".repeat(MAX_CODE + 1);
        for bad in ["", "https://a/?sig=s3cret", "a b", "\u{1b}[2J", long.as_str()] {
            assert_eq!(code(&xml(bad, "")).unwrap_or_default(), "", "{bad}");
        }
    }
}
