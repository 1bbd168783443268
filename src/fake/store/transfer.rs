//! The bytes of an answer, as they leave.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::Frame;
use tokio::sync::watch;

use super::super::Shared;
use super::super::answers::{Body, BoxError};
use super::super::wire::Switch;
use super::sending::Sending;
use super::{StoreFault, StoreLoad};

/// Most bytes that are handed over at once.
const CHUNK: u64 = 64 * 1024;
/// Time for what was handed over to leave before the connection breaks off.
const LEAVING: Duration = Duration::from_millis(20);

/// A request whose answer has not ended.
pub(super) struct Running(watch::Sender<StoreLoad>);

impl Running {
    pub(super) fn begin(load: watch::Sender<StoreLoad>) -> Self {
        load.send_modify(|load| {
            load.received += 1;
            load.running += 1;
            load.most_running = load.most_running.max(load.running);
        });
        Self(load)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.send_modify(|load| load.running -= 1);
    }
}

/// An answer on its way.
pub(super) struct Transfer {
    sending: Sending,
    at: u64,
    end: u64,
    shared: Arc<Shared>,
    switch: Switch,
    running: Running,
    /// The connection's flushes when the last bytes were handed over.
    flushes: u64,
}

impl Transfer {
    pub(super) fn new(sending: Sending, shared: &Arc<Shared>, switch: Switch, running: Running) -> Self {
        let ((at, end), flushes) = (sending.span(), switch.flushes());
        Self { sending, at, end, shared: Arc::clone(shared), switch, running, flushes }
    }

    pub(super) fn into_body(self) -> Body {
        let frames = stream::unfold(Some(self), |transfer| async {
            let mut transfer = transfer?;
            match transfer.next().await {
                Ok(None) => None,
                Ok(Some(bytes)) => Some((Ok(Frame::data(bytes)), Some(transfer))),
                Err(error) => Some((Err(error), None)),
            }
        });
        StreamBody::new(frames).boxed_unsync()
    }

    async fn next(&mut self) -> Result<Option<Bytes>, BoxError> {
        if self.sending.expire.is_some_and(|at| at <= self.at) {
            self.sending.expire = None;
            self.shared.stage().shelf.dead.insert(self.sending.signature.clone());
        }
        let stop = self.sending.end.as_ref().and_then(StoreFault::end);
        if stop.is_some_and(|stop| stop <= self.at) {
            return self.break_off().await;
        }
        if self.at == self.end {
            return Ok(None);
        }
        let limits = [Some(self.end), stop, self.sending.expire, Some(self.at + CHUNK)];
        let mut until = limits.into_iter().flatten().min().unwrap_or(self.end);
        if let Some(rate) = self.sending.rate {
            until = until.min(self.at + (rate / 20).max(1));
            tokio::time::sleep(
                Duration::from_secs(until - self.at) / u32::try_from(rate).unwrap_or(u32::MAX),
            )
            .await;
        }
        let bytes = self.read(usize::try_from(until - self.at).unwrap_or(0));
        (self.at, self.flushes) = (until, self.switch.flushes());
        self.running.0.send_modify(|load| load.bytes += bytes.len() as u64);
        Ok(Some(bytes))
    }

    fn read(&self, most: usize) -> Bytes {
        let bytes = self.sending.part.read(self.at, most, self.sending.is_changed());
        let flip = self.sending.flip.and_then(|flip| usize::try_from(flip.checked_sub(self.at)?).ok());
        match flip.filter(|flip| *flip < bytes.len()) {
            None => bytes,
            Some(flip) => {
                let mut bytes = bytes.to_vec();
                bytes[flip] ^= 1;
                bytes.into()
            }
        }
    }

    async fn break_off(&mut self) -> Result<Option<Bytes>, BoxError> {
        match self.sending.end {
            Some(StoreFault::Stall(_)) => std::future::pending().await,
            Some(StoreFault::Change(_)) => self.shared.stage().shelf.change(&self.sending.path),
            _ => {}
        }
        // All that came before is on its way: how far the answer came is exact.
        self.switch.flushed_since(self.flushes).await;
        tokio::time::sleep(LEAVING).await;
        Err("told to break off".into())
    }
}
