//! A body that streams through us, and the time by which it must have.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body_util::combinators::UnsyncBoxBody;
use hyper::body::{Body, Frame, SizeHint};
use tokio::sync::mpsc;
use tokio::time::{Instant, Sleep, sleep_until};

use zeroize::Zeroizing;

use super::CheckedBody;
use crate::error_text::BoxError;

/// A body that was not read whole.
#[derive(Debug)]
pub struct Streamed {
    body: From,
    deadline: Option<Pin<Box<Sleep>>>,
    held: BodyGuards,
    withheld: Withheld,
}

/// The origin of a body.
#[derive(Debug)]
enum From {
    /// The other side of a proxied exchange.
    Peer(CheckedBody),
    /// Ourselves, piece by piece.
    Us(mpsc::Receiver<Bytes>),
    /// A body that keeps its own time.
    Timed(UnsyncBoxBody<Bytes, BoxError>),
}

/// A secret that must not be in the body, and the last bytes that went through, for it may be cut in two.
#[derive(Default)]
struct Withheld {
    secret: Zeroizing<Vec<u8>>,
    last: Zeroizing<Vec<u8>>,
}

impl Withheld {
    /// True if the secret is in the bytes that went through, continued by `data`.
    fn is_in(&mut self, data: &[u8]) -> bool {
        if self.secret.is_empty() {
            return false;
        }
        let kept = self.secret.len() - 1;
        let head = &data[..data.len().min(kept)];
        let seam: Zeroizing<Vec<u8>> = Zeroizing::new([self.last.as_slice(), head].concat());
        let found = memchr::memmem::find(&seam, &self.secret).is_some()
            || memchr::memmem::find(data, &self.secret).is_some();
        let tail = if data.len() >= kept { data } else { seam.as_slice() };
        self.last = Zeroizing::new(tail[tail.len().saturating_sub(kept)..].to_vec());
        found
    }
}

impl std::fmt::Debug for Withheld {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Withheld")
    }
}

/// Values that are dropped at the end of the body.
#[derive(Default)]
struct BodyGuards(Vec<Box<dyn Send>>);

impl std::fmt::Debug for BodyGuards {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} held", self.0.len())
    }
}

/// The body took longer than it may.
#[derive(Debug, thiserror::Error)]
#[error("the body did not end in time")]
pub struct StreamTimeout;

/// The body holds what it must not.
#[derive(Debug, thiserror::Error)]
#[error("the body holds the gateway's credential")]
struct Echoed;

impl Streamed {
    /// Lets `body` stream until `deadline`.
    #[must_use]
    pub fn new(body: CheckedBody, deadline: Instant) -> Self {
        Self::of(From::Peer(body), Some(deadline))
    }

    /// A body of our own, that ends when its sender is dropped, or at `deadline`.
    #[must_use]
    pub fn of_pieces(pieces: mpsc::Receiver<Bytes>, deadline: Instant) -> Self {
        Self::of(From::Us(pieces), Some(deadline))
    }

    /// A body that limits its pauses, and not its whole time: a file.
    #[must_use]
    pub fn of_timed(body: UnsyncBoxBody<Bytes, BoxError>) -> Self {
        Self::of(From::Timed(body), None)
    }

    fn of(body: From, deadline: Option<Instant>) -> Self {
        Self {
            body,
            deadline: deadline.map(|deadline| Box::pin(sleep_until(deadline))),
            held: BodyGuards::default(),
            withheld: Withheld::default(),
        }
    }

    /// Breaks the body off rather than let `secret` through.
    pub fn withhold(&mut self, secret: &[u8]) {
        self.withheld.secret = Zeroizing::new(secret.to_vec());
    }

    /// Keeps `guard` until the body has ended or is dropped.
    pub fn hold(&mut self, guard: impl Send + 'static) {
        self.held.0.push(Box::new(guard));
    }
}

impl Body for Streamed {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if self.deadline.as_mut().is_some_and(|deadline| deadline.as_mut().poll(cx).is_ready()) {
            return Poll::Ready(Some(Err(StreamTimeout.into())));
        }
        let frame = match &mut self.body {
            From::Peer(body) => ready!(Pin::new(body).poll_frame(cx)),
            From::Timed(body) => return Pin::new(body).poll_frame(cx),
            From::Us(pieces) => return pieces.poll_recv(cx).map(|piece| Some(Ok(Frame::data(piece?)))),
        };
        if let Some(Ok(frame)) = &frame
            && frame.data_ref().is_some_and(|data| self.withheld.is_in(data))
        {
            tracing::error!("response from Snyk aborted: it contains the gateway's credential");
            return Poll::Ready(Some(Err(Echoed.into())));
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        match &self.body {
            From::Peer(body) => body.is_end_stream(),
            From::Timed(body) => body.is_end_stream(),
            From::Us(_) => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.body {
            From::Peer(body) => body.size_hint(),
            From::Timed(body) => body.size_hint(),
            From::Us(_) => SizeHint::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_found_however_it_is_cut() {
        let secret = b"0123456789abcdef";
        for pieces in [&[16][..], &[1; 16], &[8, 8], &[15, 1], &[3, 10, 3]] {
            let mut withheld =
                Withheld { secret: Zeroizing::new(secret.to_vec()), last: Zeroizing::default() };
            assert!(!withheld.is_in(b"before 0123456789"));
            let (mut found, mut at) = (false, 0);
            for piece in pieces {
                found |= withheld.is_in(&secret[at..at + piece]);
                at += piece;
            }
            assert!(found, "{pieces:?}");
            assert!(
                !Withheld { secret: Zeroizing::new(secret.to_vec()), last: Zeroizing::default() }
                    .is_in(b"0123")
            );
        }
    }
}
