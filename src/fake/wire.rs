//! A connection that can be made to say raw bytes, to send what no HTTP library would.

use std::future::Future as _;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::watch;
use tokio::time::Sleep;

/// Bytes that come before anything else that would be written.
#[derive(Debug, Clone)]
pub(super) struct Raw {
    pub(super) bytes: Vec<u8>,
    pub(super) then: Then,
}

/// What follows raw bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Then {
    /// The end of the connection.
    End,
    /// The same again, after a pause.
    Repeat,
    /// What would have been written.
    GoOn,
}

/// The service's end of the switch.
#[derive(Debug, Clone, Default)]
pub(super) struct Switch {
    raw: Arc<Mutex<Option<Raw>>>,
    flushes: watch::Sender<u64>,
}

impl Switch {
    pub(super) fn write(&self, raw: Raw) {
        *self.raw.lock().unwrap_or_else(PoisonError::into_inner) = Some(raw);
    }

    fn clear(&self) {
        *self.raw.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    fn armed(&self) -> Option<Raw> {
        self.raw.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// So often was everything that was written sent off.
    pub(super) fn flushes(&self) -> u64 {
        *self.flushes.borrow()
    }

    /// Resolves when that was done more often than `before`.
    pub(super) async fn flushed_since(&self, before: u64) {
        let _ = self.flushes.subscribe().wait_for(|flushes| *flushes > before).await;
    }
}

/// The stream with the switch in it.
pub(super) struct Wire<S> {
    inner: S,
    switch: Switch,
    written: usize,
    pause: Option<Pin<Box<Sleep>>>,
}

impl<S> Wire<S> {
    pub(super) fn new(inner: S, switch: Switch) -> Self {
        Self { inner, switch, written: 0, pause: None }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Wire<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Wire<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let Some(raw) = self.switch.armed() else { return Pin::new(&mut self.inner).poll_write(cx, buf) };
        loop {
            if let Some(pause) = &mut self.pause {
                ready!(pause.as_mut().poll(cx));
                self.pause = None;
            }
            while self.written < raw.bytes.len() {
                let rest = &raw.bytes[self.written..];
                let wrote = ready!(Pin::new(&mut self.inner).poll_write(cx, rest))?;
                self.written += wrote;
            }
            ready!(Pin::new(&mut self.inner).poll_flush(cx))?;
            match raw.then {
                Then::End => {
                    ready!(Pin::new(&mut self.inner).poll_shutdown(cx))?;
                    return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
                }
                Then::Repeat => {
                    self.written = 0;
                    self.pause = Some(Box::pin(tokio::time::sleep(Duration::from_millis(20))));
                }
                Then::GoOn => {
                    self.switch.clear();
                    self.written = 0;
                    return Pin::new(&mut self.inner).poll_write(cx, buf);
                }
            }
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(Pin::new(&mut self.inner).poll_flush(cx))?;
        self.switch.flushes.send_modify(|flushes| *flushes += 1);
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}
