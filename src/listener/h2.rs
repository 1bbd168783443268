//! HTTP/2's side of a connection: idle connections, and clients that do not read the answer of a stream.

use std::cell::Cell;
use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body::{Frame, SizeHint};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::rt::Executor;
use hyper::service::service_fn;
use hyper_util::rt::TokioExecutor;
use tokio::sync::Notify;
use tokio::time::{Sleep, sleep, timeout};

use super::Respond;
use super::remote::RemoteEnd;
use crate::transport::Body;

/// Size of the pieces in which an answer is handed to hyper, in bytes: HTTP/2's smallest limit for a frame.
const PIECE: usize = 16_384;

/// The streams of a connection: it idles while there is none.
#[derive(Debug, Default)]
pub(super) struct Streams {
    open: AtomicUsize,
    changed: Notify,
}

impl Streams {
    fn open(self: &Arc<Self>) -> OpenStream {
        self.open.fetch_add(1, Ordering::AcqRel);
        self.changed.notify_one();
        OpenStream(Arc::clone(self))
    }

    /// Resolves when there was no stream for so long; `first` is the time for the first one to come.
    pub(super) async fn idle_for(&self, first: Duration, later: Duration) {
        let mut limit = first;
        loop {
            let is_idle = self.open.load(Ordering::Acquire) == 0;
            match timeout(limit, self.changed.notified()).await {
                Ok(()) => limit = later,
                Err(_) if is_idle && self.open.load(Ordering::Acquire) == 0 => return,
                Err(_) => {}
            }
        }
    }
}

/// While it lives, its stream is open.
#[derive(Debug)]
struct OpenStream(Arc<Streams>);

impl Drop for OpenStream {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::AcqRel);
        self.0.changed.notify_one();
    }
}

/// The progress of a stream's answer.
#[derive(Debug, Clone, Copy, Default)]
struct Taking {
    /// Pieces that were handed to hyper.
    pieces: u64,
    /// True if the client is waited for: hyper has a piece, and no room for it in the client's window.
    is_clients_turn: bool,
}

tokio::task_local! {
    /// Of the stream whose task runs. hyper has no other way from an answer's body to its stream.
    static TAKING: Cell<Taking>;
}

/// Runs the streams of a connection, and resets those whose clients take none of their answers for `send_timeout`.
#[derive(Debug, Clone)]
pub(super) struct Run {
    pub(super) streams: Arc<Streams>,
    pub(super) send_timeout: Duration,
}

impl<F: Future<Output = ()> + Send + 'static> Executor<F> for Run {
    fn execute(&self, stream: F) {
        let (open, send_timeout) = (self.streams.open(), self.send_timeout);
        TokioExecutor::new().execute(TAKING.scope(Cell::default(), async move {
            let _open = open;
            while_taken(stream, send_timeout).await;
        }));
    }
}

/// Runs a stream to its end, or until its client has taken nothing of its answer for `limit`. hyper resets a stream
/// that is dropped (CANCEL), and forgets what was buffered for it.
async fn while_taken(stream: impl Future<Output = ()>, limit: Duration) {
    let mut stream = pin!(stream);
    let mut timer: Option<Pin<Box<Sleep>>> = None;
    let mut runs_for = None;
    poll_fn(move |cx| {
        if stream.as_mut().poll(cx).is_ready() {
            return Poll::Ready(());
        }
        let taking = TAKING.with(Cell::get);
        if !taking.is_clients_turn {
            runs_for = None;
            return Poll::Pending;
        }
        let timer = timer.get_or_insert_with(|| Box::pin(sleep(limit)));
        if runs_for != Some(taking.pieces) {
            runs_for = Some(taking.pieces);
            timer.set(sleep(limit));
        }
        ready!(timer.as_mut().poll(cx));
        tracing::debug!("stream reset: no write progress for listener.send_timeout");
        Poll::Ready(())
    })
    .await;
}

/// An answer's body, handed on in pieces as the client's window has room for them. hyper asks for the next piece when
/// it could hand on the last, so who takes nothing is told from who takes an answer slowly.
#[derive(Debug)]
pub(super) struct PacedBody {
    body: Body,
    left: Bytes,
    /// True if it is handed on in several pieces.
    is_split: bool,
}

/// Notes the side that a stream waits for. Outside of a stream's task there is nobody to read it.
fn note(is_clients_turn: bool) {
    let _ = TAKING.try_with(|taking| {
        let pieces = taking.get().pieces + u64::from(is_clients_turn);
        taking.set(Taking { pieces, is_clients_turn });
    });
}

impl http_body::Body for PacedBody {
    type Data = Bytes;
    type Error = <Body as http_body::Body>::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        if self.left.is_empty() {
            let polled = Pin::new(&mut self.body).poll_frame(cx);
            if polled.is_pending() {
                // It is the upstream that is waited for.
                note(false);
            }
            match ready!(polled).map(|frame| frame.map(Frame::into_data)) {
                Some(Ok(Ok(data))) => self.left = data,
                Some(Ok(Err(other))) => return Poll::Ready(Some(Ok(other))),
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                None => return Poll::Ready(None),
            }
        }
        note(true);
        let piece = match self.left.len() {
            more if more > PIECE => {
                self.is_split = true;
                PIECE
            }
            // The last byte goes alone: it finds room when all before it has gone out, so that a client cannot keep the
            // end of an answer, and with it the whole, waiting where nobody looks any more.
            rest if rest > 1 && self.is_split => rest - 1,
            rest => rest,
        };
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

/// Answers requests, whose fields nobody counted yet.
pub(super) fn answering(
    respond: impl Respond,
    other: RemoteEnd,
    max_headers: usize,
) -> impl hyper::service::HttpService<Incoming, ResBody = PacedBody, Error = Infallible, Future: Send + 'static>
{
    service_fn(move |request: Request<Incoming>| {
        let fields = request.headers().len();
        let answer = (fields <= max_headers).then(|| respond(request, other.now()));
        async move {
            let answer = if let Some(answer) = answer {
                answer.await
            } else {
                tracing::debug!(fields, "request refused: more header fields than listener.max_headers");
                let mut refusal = Response::new(Body::Left(Full::default()));
                *refusal.status_mut() = StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE;
                refusal
            };
            Ok::<_, Infallible>(answer.map(|body| PacedBody { body, left: Bytes::new(), is_split: false }))
        }
    })
}
