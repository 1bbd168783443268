//! Strict framing of messages from a peer: a message that was cut never looks whole, and one whose end is not certain is
//! refused.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, TRANSFER_ENCODING};
use http::{Response, Version};
use hyper::body::{Body, Frame, Incoming, SizeHint};

use crate::error_text::BoxError;

/// A body that a peer sends. It ends only where its message does, and it has no trailers.
///
/// hyper takes `RST_STREAM(NO_ERROR)` for the end of a body, which is right for a response whose end has come already
/// (RFC 9113 §8.1). Envoy resets with that code at any time, so that here an HTTP/2 body must have ended with
/// `END_STREAM`. (h2 compares what came with `Content-Length` then; with HTTP/1.1, hyper does all of this.)
///
/// Trailers are dropped: nobody of ours reads them, and they have passed none of the checks of a header section (RFC 9110
/// §6.5.1).
#[derive(Debug)]
pub struct CheckedBody {
    body: Incoming,
    must_end_stream: bool,
}

/// The peer reset the stream within the body.
#[derive(Debug, thiserror::Error)]
#[error("the HTTP/2 stream was reset (NO_ERROR) before the body had ended")]
struct CutOff;

impl CheckedBody {
    /// The body of a message of `version`.
    pub(crate) fn new(body: Incoming, version: Version) -> Self {
        Self { body, must_end_stream: version == Version::HTTP_2 }
    }
}

impl Body for CheckedBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        loop {
            return Poll::Ready(match ready!(Pin::new(&mut self.body).poll_frame(cx)) {
                Some(Ok(frame)) if frame.is_trailers() => continue,
                Some(frame) => Some(frame.map_err(Into::into)),
                None if self.must_end_stream && !self.body.is_end_stream() => Some(Err(CutOff.into())),
                None => None,
            });
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// True if a response has a status of HTTP's (RFC 9110 §15), and its end is certain (RFC 9112 §6.1, §6.3).
///
/// hyper reads a body to the end of the connection where `Transfer-Encoding` does not end in `chunked`, takes other codings
/// before it for part of the content, and prefers it to `Content-Length`. Proxies that differ here can be made to
/// disagree about where a response ends, so that only plain `chunked` without a length is taken.
pub(super) fn is_sound<B>(response: &Response<B>) -> bool {
    let fields = response.headers();
    let mut codings = fields.get_all(TRANSFER_ENCODING).iter();
    let is_framed = match (codings.next(), codings.next()) {
        (None, _) => true,
        (Some(coding), None) => {
            coding.as_bytes().eq_ignore_ascii_case(b"chunked") && !fields.contains_key(CONTENT_LENGTH)
        }
        (Some(_), Some(_)) => false,
    };
    // 1xx are no final responses; a 101, which nobody asked for, would make something else of the connection.
    is_framed && (200..600).contains(&response.status().as_u16())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_response_whose_end_or_status_is_not_certain_is_refused() {
        for (status, fields, expected) in [
            (200, &[][..], true),
            (204, &[], true),
            (599, &[("content-length", "5")], true),
            (200, &[("transfer-encoding", "chunked")], true),
            (200, &[("transfer-encoding", "Chunked")], true),
            (200, &[("transfer-encoding", "gzip, chunked")], false),
            (200, &[("transfer-encoding", "gzip"), ("transfer-encoding", "chunked")], false),
            (200, &[("transfer-encoding", "chunked"), ("transfer-encoding", "chunked")], false),
            (200, &[("transfer-encoding", "identity")], false),
            (200, &[("transfer-encoding", "chunked"), ("content-length", "5")], false),
            (101, &[], false),
            (600, &[], false),
            (999, &[], false),
        ] {
            let mut response = Response::builder().status(status);
            for (name, value) in fields {
                response = response.header(*name, *value);
            }
            assert_eq!(is_sound(&response.body(()).expect("a response")), expected, "{status} {fields:?}");
        }
    }
}
