//! The body of a store's answer: it ends only where the answer does, and not without progress.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use tokio::time::{Sleep, sleep};

use super::error::{StoreError, StoreErrorKind};
use crate::transport::CheckedBody;

/// The bytes of an answer. Its idle time runs only while we wait for the store, not while nobody asks for more.
#[derive(Debug)]
pub struct StoreBody {
    body: CheckedBody,
    /// Bytes that are to come, where the answer says how many.
    left: Option<u64>,
    idle_timeout: Duration,
    idle: Pin<Box<Sleep>>,
    is_waiting: bool,
}

impl StoreBody {
    pub(super) fn new(body: CheckedBody, idle_timeout: Duration) -> Self {
        let idle = Box::pin(sleep(idle_timeout));
        Self { body, left: None, idle_timeout, idle, is_waiting: false }
    }

    /// Holds the body to this many bytes.
    pub(super) fn of_length(self, left: Option<u64>) -> Self {
        Self { left, ..self }
    }

    /// Counts `data`; an error if it is more than the answer said.
    fn count(&mut self, data: &Bytes) -> Result<(), StoreError> {
        if let Some(left) = &mut self.left {
            let after = left.checked_sub(data.len() as u64);
            *left = after.ok_or_else(|| StoreError::of(StoreErrorKind::BadAnswer))?;
        }
        Ok(())
    }
}

impl Body for StoreBody {
    type Data = Bytes;
    type Error = StoreError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, StoreError>>> {
        let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(cx) else {
            if !std::mem::replace(&mut self.is_waiting, true) {
                let idle_timeout = self.idle_timeout;
                self.idle.as_mut().set(sleep(idle_timeout));
            }
            ready!(self.idle.as_mut().poll(cx));
            return Poll::Ready(Some(Err(StoreError::of(StoreErrorKind::Timeout))));
        };
        self.is_waiting = false;
        Poll::Ready(match frame {
            Some(Err(error)) => Some(Err(StoreError::by(StoreErrorKind::BrokenOff, error))),
            Some(Ok(frame)) => {
                let counted = frame.data_ref().map_or(Ok(()), |data| self.count(data));
                Some(counted.map(|()| frame))
            }
            None if self.left.is_some_and(|left| left > 0) => {
                Some(Err(StoreError::of(StoreErrorKind::BrokenOff)))
            }
            None => None,
        })
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream() && self.left.is_none_or(|left| left == 0)
    }

    fn size_hint(&self) -> SizeHint {
        self.left.map_or_else(|| self.body.size_hint(), SizeHint::with_exact)
    }
}
