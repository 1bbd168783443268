//! HTTP/1.1's side of a connection: its time limits and their announcement, clients that close one half, and uploads
//! that nobody reads.
//!
//! hyper has one limit for two times: how long a connection idles, and how long a head takes. And while a request is
//! answered, it either takes the end of what a client sends (FIN) for its leaving, or looks at nothing. So the stream
//! between hyper and the socket knows which of its requests a connection is at.

use std::convert::Infallible;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use http::header::{CONNECTION, HeaderName, HeaderValue};
use http::{HeaderMap, Request, Version};
use hyper::body::{Body as _, Incoming};
use hyper::service::service_fn;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::Notify;
use tokio::time::{Instant, Sleep, sleep};
use tokio_io_timeout::TimeoutStream;

use super::remote::RemoteEnd;
use super::{Respond, Settings};
use crate::transport::{Body, Connection};

/// RFC 2068 §19.7.1.1; what agents still go by. `Connection` would have to name it (RFC 9110 §7.6.1), but proxies remove it
/// by its own name (ibid.), and hyper would read that field with each answer.
pub const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const CLOSED: HeaderValue = HeaderValue::from_static("close");

/// The request that a connection is at, and the `Keep-Alive` of its answers.
#[derive(Debug)]
pub(super) struct Progress {
    /// Counts up when a request's head is there, and when all of its answer is: odd while a request is answered.
    step: AtomicU64,
    /// True if more may come of the last request's body, which nobody reads.
    lingers: AtomicBool,
    /// Notified of each request.
    asked: Notify,
    /// True if a stop was announced.
    is_announced: Arc<AtomicBool>,
    /// The `Keep-Alive` of answers.
    told: Option<HeaderValue>,
}

impl Progress {
    pub(super) fn new(idle_timeout: Duration, is_announced: Arc<AtomicBool>) -> Self {
        let told = HeaderValue::try_from(format!("timeout={}", idle_timeout.as_secs())).ok();
        let (step, lingers) = (AtomicU64::new(0), AtomicBool::new(false));
        Self { step, lingers, asked: Notify::new(), is_announced, told }
    }

    /// Resolves when a request came; at once where one came before.
    pub(super) async fn asked(&self) {
        self.asked.notified().await;
    }

    fn step(&self) -> u64 {
        self.step.load(Ordering::Relaxed)
    }

    fn advance(&self) {
        self.step.fetch_add(1, Ordering::Relaxed);
    }
}

/// While it lives, an answer streams.
struct Answering(Arc<Progress>);

impl Drop for Answering {
    fn drop(&mut self) {
        self.0.advance();
    }
}

const fn is_answering(step: u64) -> bool {
    step % 2 == 1
}

/// Answers requests, and says how long the connection is kept where it is.
pub(super) fn answering(
    respond: impl Respond,
    other: RemoteEnd,
    progress: Arc<Progress>,
) -> impl hyper::service::HttpService<Incoming, ResBody = Body, Error = Infallible, Future: Send + 'static> {
    service_fn(move |request: Request<Incoming>| {
        let has_body = !request.body().is_end_stream();
        progress.advance();
        progress.asked.notify_one();
        let is_kept = request.version() == Version::HTTP_11 && !says_close(request.headers());
        // Boxed: it is large, and hyper moves the block below about.
        let answer = Box::pin(respond(request, other.now()));
        let progress = Arc::clone(&progress);
        async move {
            let mut answer = answer.await;
            // A whole answer closes the connection where its request's body was not read.
            let closes = answer.headers().contains_key(CONNECTION);
            let lingers = has_body && (closes || matches!(answer.body(), Body::Right(_)));
            progress.lingers.store(lingers, Ordering::Relaxed);
            match answer.body_mut() {
                Body::Left(_) => progress.advance(),
                // Its request's body may be on its way still.
                Body::Right(streamed) => streamed.hold(Answering(Arc::clone(&progress))),
            }
            let fields = answer.headers_mut();
            let is_announced = progress.is_announced.load(Ordering::Relaxed);
            if is_announced {
                // Its client goes elsewhere with the next request, before this connection is closed under it.
                fields.insert(CONNECTION, CLOSED);
            }
            match &progress.told {
                Some(told) if is_kept && !closes && !is_announced => {
                    fields.insert(KEEP_ALIVE, told.clone());
                }
                // A stored answer may have a place for it.
                _ => {
                    fields.remove(KEEP_ALIVE);
                }
            }
            Ok::<_, Infallible>(answer)
        }
    })
}

/// True if a request asks to close its connection (RFC 9112 §9.6).
fn says_close(fields: &HeaderMap) -> bool {
    let is_close = |option: &[u8]| option.trim_ascii().eq_ignore_ascii_case(b"close");
    fields.get_all(CONNECTION).iter().any(|value| value.as_bytes().split(|b| *b == b',').any(is_close))
}

/// The stream that hyper reads and writes.
pub(super) struct H1Stream<S> {
    inner: Pin<Box<TimeoutStream<S>>>,
    connection: Arc<Connection>,
    progress: Arc<Progress>,
    settings: Arc<Settings>,
    timer: Pin<Box<Sleep>>,
    /// The step that the timer runs for, and true if its head has begun.
    timed: Option<(u64, bool)>,
    /// The step in which something of a head was read.
    begun: Option<u64>,
    /// A byte that was read to see whether the client is still there.
    ahead: Option<u8>,
    /// The client sends nothing more.
    has_ended: bool,
    /// A failure that came behind bytes that were read.
    failure: Option<io::Error>,
    closing: Closing,
}

/// The progress of closing a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Closing {
    Open,
    /// Our half is closed; so many bytes were read and discarded since.
    Lingering(usize),
}

impl<S: AsyncRead + AsyncWrite> H1Stream<S> {
    /// `stream` fails when its client takes nothing for `listener.send_timeout`.
    pub(super) fn new(
        stream: TimeoutStream<S>,
        settings: &Arc<Settings>,
        connection: Arc<Connection>,
        progress: Arc<Progress>,
    ) -> Self {
        Self {
            inner: Box::pin(stream),
            connection,
            progress,
            settings: Arc::clone(settings),
            timer: Box::pin(sleep(settings.header_timeout)),
            timed: Some((0, true)),
            begun: None,
            ahead: None,
            has_ended: false,
            failure: None,
            closing: Closing::Open,
        }
    }

    /// Waits for more of a head, or for one to begin, as long as that may take.
    fn poll_limit(&mut self, step: u64, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // A connection's first head has its time from the beginning.
        let is_head = step == 0 || self.begun == Some(step);
        if self.timed != Some((step, is_head)) {
            self.timed = Some((step, is_head));
            let limit = if is_head { self.settings.header_timeout } else { self.settings.idle_timeout };
            self.timer.as_mut().reset(Instant::now() + limit);
        }
        ready!(self.timer.as_mut().poll(cx));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }

    /// Sees whether the client of a request that is being answered has closed its half, or is gone. hyper reads nothing
    /// meanwhile but the request's body, and takes over the byte that comes here.
    fn look_ahead(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        let mut byte = [0];
        let mut buffer = ReadBuf::new(&mut byte);
        match self.inner.as_mut().poll_read(cx, &mut buffer) {
            Poll::Pending => {}
            Poll::Ready(Err(error)) => return Err(error),
            Poll::Ready(Ok(())) if buffer.filled().is_empty() => {
                self.has_ended = true;
                self.connection.half_closed.cancel();
            }
            Poll::Ready(Ok(())) => self.ahead = Some(byte[0]),
        }
        if self.ahead.is_some() || self.has_ended {
            // hyper may wait for it.
            cx.waker().wake_by_ref();
        }
        Ok(())
    }

    /// Reads on behind the byte that was read ahead: a body would come a byte at a time.
    fn read_on(&mut self, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) {
        let before = buffer.filled().len();
        if buffer.remaining() == 0 {
            return;
        }
        match self.inner.as_mut().poll_read(cx, buffer) {
            Poll::Ready(Err(error)) => self.failure = Some(error),
            Poll::Ready(Ok(())) if buffer.filled().len() == before => {
                self.has_ended = true;
                self.connection.half_closed.cancel();
            }
            Poll::Ready(Ok(())) | Poll::Pending => {}
        }
    }

    /// True if more may come of a request that was answered, or whose head hyper has refused. Closing the connection would
    /// then be a reset, which takes the answer along (RFC 9112 §9.6).
    fn may_be_sending(&self) -> bool {
        self.begun == Some(self.progress.step()) || self.progress.lingers.load(Ordering::Relaxed)
    }

    /// Reads and discards what still comes, within bounds.
    fn poll_linger(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut piece = [0; 16_384];
        while let Closing::Lingering(discarded) = self.closing {
            let mut buffer = ReadBuf::new(&mut piece);
            match self.inner.as_mut().poll_read(cx, &mut buffer) {
                Poll::Pending => return self.timer.as_mut().poll(cx).map(Ok),
                Poll::Ready(Ok(()))
                    if !buffer.filled().is_empty() && discarded < self.settings.max_discarded =>
                {
                    self.closing = Closing::Lingering(discarded + buffer.filled().len());
                }
                Poll::Ready(_) => break,
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + AsyncWrite> AsyncRead for H1Stream<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let step = this.progress.step();
        let before = buffer.filled().len();
        let polled = if let Some(byte) = this.ahead.take_if(|_| buffer.remaining() > 0) {
            buffer.put_slice(&[byte]);
            this.read_on(cx, buffer);
            Poll::Ready(Ok(()))
        } else if let Some(error) = this.failure.take() {
            Poll::Ready(Err(error))
        } else if this.has_ended {
            return Poll::Ready(Ok(()));
        } else {
            this.inner.as_mut().poll_read(cx, buffer)
        };
        if is_answering(step) {
            return polled;
        }
        if polled.is_pending() {
            return this.poll_limit(step, cx);
        }
        if buffer.filled().len() > before {
            this.begun = Some(step);
        }
        polled
    }
}

impl<S: AsyncRead + AsyncWrite> AsyncWrite for H1Stream<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.inner.as_mut().poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.inner.as_mut().poll_write_vectored(cx, pieces)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    /// hyper flushes each time that it has done what it could.
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        ready!(this.inner.as_mut().poll_flush(cx))?;
        if is_answering(this.progress.step()) && this.ahead.is_none() && !this.has_ended {
            this.look_ahead(cx)?;
        }
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.closing == Closing::Open {
            ready!(this.inner.as_mut().poll_shutdown(cx))?;
            if this.has_ended || !this.may_be_sending() {
                return Poll::Ready(Ok(()));
            }
            this.closing = Closing::Lingering(0);
            this.timer.set(sleep(this.settings.linger_timeout));
        }
        this.poll_linger(cx)
    }
}
