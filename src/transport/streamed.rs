//! A body that streams through us, and the time by which it must have.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use tokio::time::{Instant, Sleep, sleep_until};

use super::BoxError;

/// A body that was not read whole.
#[derive(Debug)]
pub struct Streamed {
    body: Incoming,
    deadline: Pin<Box<Sleep>>,
    held: Held,
}

/// What is given back when the body has ended.
#[derive(Default)]
struct Held(Vec<Box<dyn Send>>);

impl std::fmt::Debug for Held {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} held", self.0.len())
    }
}

/// The body took longer than it may.
#[derive(Debug, thiserror::Error)]
#[error("the body did not end in time")]
pub struct StreamTimeout;

impl Streamed {
    /// Lets `body` stream until `deadline`.
    #[must_use]
    pub fn new(body: Incoming, deadline: Instant) -> Self {
        Self { body, deadline: Box::pin(sleep_until(deadline)), held: Held::default() }
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
        if self.deadline.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Some(Err(StreamTimeout.into())));
        }
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        Poll::Ready(frame.map(|frame| frame.map_err(Into::into)))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
