//! The bodies of clients' requests, and the memory for large answers.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;

use bytes::Bytes;
use http::header::EXPECT;
use http::{Response, Version};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::Body as _;
use tokio::task::yield_now;
use tokio::time::timeout;

use super::failure::{Failure, FailureKind};
use super::{ClientRequest, Gateway};
use crate::retrieval::Cause;
use crate::transport::{Body, BodySource, CheckedBody, GatherError, NoRoom, Peer, SMALL};

/// The number of looks for more of an unwanted body: hyper hands it over in pieces of what it has read.
const LOOKS: usize = 8;

impl Gateway {
    /// Reads the body of a start, bounded in size and time, and in the memory that it takes.
    pub(super) async fn read_body(
        &self,
        request: &mut ClientRequest,
        client: &Arc<str>,
    ) -> Result<Bytes, Failure> {
        let ClientRequest { body, rules, peer, .. } = request;
        let body = body.as_mut().ok_or(Cause::Internal)?;
        if body.size_hint().lower() > rules.listener.max_body as u64 {
            return Err(FailureKind::BodyTooLarge.into());
        }
        let source = BodySource::Client(&peer.connection);
        let gathering = self.memory.gather(Limited::new(body, rules.listener.max_body), source, client);
        match timeout(rules.listener.body_timeout, gathering).await {
            Err(_) => Err(FailureKind::BodyTimeout.into()),
            Ok(Err(GatherError::NoRoom(_))) => Err(FailureKind::NoRoom.into()),
            Ok(Err(GatherError::Body(error))) if error.is::<LengthLimitError>() => {
                Err(FailureKind::BodyTooLarge.into())
            }
            Ok(Err(GatherError::Body(error))) => {
                Err(Failure { source: Some(error.into()), ..FailureKind::BodyIncomplete.into() })
            }
            Ok(Ok((body, _held))) => Ok(body),
        }
    }

    /// Waits for room for a large answer on its connection, and holds it until the client has taken the answer.
    pub(super) async fn make_room(
        &self,
        response: Response<Body>,
        peer: &Peer,
    ) -> Result<Response<Body>, Failure> {
        let (head, body) = response.into_parts();
        let body = body.collect().await.map_err(|_| Cause::Internal)?.to_bytes();
        let body =
            self.memory.until_taken(&peer.connection, body).await.map_err(|NoRoom| FailureKind::NoRoom)?;
        Ok(Response::from_parts(head, Body::Left(Full::new(body))))
    }

    /// Discards the rest of a body that nobody wanted. False if it still stands in the way of the connection's next
    /// request (RFC 9112 §9.3).
    pub(super) async fn discard(&self, mut body: CheckedBody, request: &ClientRequest) -> bool {
        if discard_received(&mut body, request).await {
            return true;
        }
        let is_http2 = request.parts.version == Version::HTTP_2;
        if is_http2 {
            // hyper resets the stream when the body goes, which some clients take for an answer that was cut.
            let mut rest = Limited::new(body, request.rules.listener.max_discarded);
            let discarding = async move { while let Some(Ok(_)) = rest.frame().await {} };
            let discarding = timeout(request.rules.listener.linger_timeout, discarding);
            self.shutdown.spawn(async move { drop(discarding.await) });
        }
        is_http2
    }
}

/// True if an answer counts on its connection until it was taken. One that streams is never held whole.
pub(super) fn is_large(response: &Response<Body>) -> bool {
    matches!(response.body(), Body::Left(whole) if whole.size_hint().lower() > SMALL as u64)
}

/// Discards the part of a body that has been received already, so that its connection can be kept; true if that was all
/// of it.
async fn discard_received(body: &mut CheckedBody, request: &ClientRequest) -> bool {
    // A client that waits for 100 (Continue) is not told to go on.
    let looks = if request.parts.headers.contains_key(EXPECT) { 0 } else { LOOKS };
    for _ in 0..looks {
        match poll_fn(|cx| Poll::Ready(Pin::new(&mut *body).poll_frame(cx))).await {
            Poll::Ready(None) => return true,
            Poll::Ready(Some(Ok(_))) if body.is_end_stream() => return true,
            Poll::Ready(Some(Ok(_))) => {}
            Poll::Ready(Some(Err(_))) => return false,
            // hyper hands over more when it is its turn.
            Poll::Pending => yield_now().await,
        }
    }
    false
}
