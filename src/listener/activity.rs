//! Whether an HTTP/2 connection is used: requests that are being answered, and answers that are taken.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use tokio::sync::Notify;
use tokio::time::timeout;

use crate::transport::Body;

/// How much of an answer is handed on at a time, in bytes: HTTP/2's smallest limit for a frame.
const PIECE: usize = 16_384;

/// What is being done for a connection.
#[derive(Debug, Default)]
pub(super) struct Activity {
    running: AtomicUsize,
    changed: Notify,
}

impl Activity {
    /// Something that we do, not the client, and that takes as long as it takes.
    pub(super) fn begin(self: &Arc<Self>) -> Busy {
        self.running.fetch_add(1, Ordering::AcqRel);
        self.changed.notify_one();
        Busy(Arc::clone(self))
    }

    /// Resolves when nothing was done, and nothing taken, for so long.
    pub(super) async fn idle_for(&self, limit: Duration) {
        loop {
            let is_idle = self.running.load(Ordering::Acquire) == 0;
            let waited = timeout(limit, self.changed.notified()).await;
            if is_idle && waited.is_err() && self.running.load(Ordering::Acquire) == 0 {
                return;
            }
        }
    }
}

/// While it lives, the connection is not idle.
#[derive(Debug)]
pub(super) struct Busy(Arc<Activity>);

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.running.fetch_sub(1, Ordering::AcqRel);
        self.0.changed.notify_one();
    }
}

/// An answer's body that notes each time that its client took a piece. hyper asks for the next one only
/// when the client's window has room for it, so that one who takes nothing is not mistaken for one who
/// takes an answer slowly.
#[derive(Debug)]
pub(super) struct Taken {
    body: Body,
    left: Bytes,
    activity: Arc<Activity>,
    /// Set while it is the upstream that is waited for.
    waiting: Option<Busy>,
}

impl Taken {
    pub(super) fn new(body: Body, activity: Arc<Activity>) -> Self {
        Self { body, left: Bytes::new(), activity, waiting: None }
    }
}

impl http_body::Body for Taken {
    type Data = Bytes;
    type Error = <Body as http_body::Body>::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        if self.left.is_empty() {
            let polled = Pin::new(&mut self.body).poll_frame(cx);
            if polled.is_pending() && self.waiting.is_none() {
                self.waiting = Some(self.activity.begin());
            }
            let next = ready!(polled);
            self.waiting = None;
            match next.map(|frame| frame.map(Frame::into_data)) {
                Some(Ok(Ok(data))) => self.left = data,
                Some(Ok(Err(other))) => return Poll::Ready(Some(Ok(other))),
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                None => return Poll::Ready(None),
            }
        }
        self.activity.changed.notify_one();
        let piece = self.left.len().min(PIECE);
        Poll::Ready(Some(Ok(Frame::data(self.left.split_to(piece)))))
    }

    fn is_end_stream(&self) -> bool {
        self.left.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let (inner, left) = (self.body.size_hint(), self.left.len() as u64);
        let mut hint = SizeHint::new();
        hint.set_lower(inner.lower() + left);
        if let Some(upper) = inner.upper() {
            hint.set_upper(upper + left);
        }
        hint
    }
}
