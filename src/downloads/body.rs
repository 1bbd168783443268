//! The body of a download: the file's, until it is cut.

use std::pin::Pin;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio_util::sync::{CancellationToken, DropGuard, WaitForCancellationFutureOwned};

use super::{CutReason, RunningDownload};
use crate::error_text::BoxError;
use crate::files::FileBody;
use crate::telemetry::metrics::Metrics;

/// The content of a file on the way, shared by its body and by the task that ends it.
#[derive(Debug, Clone)]
pub(super) struct SharedBody {
    state: Arc<Mutex<SharedBodyState>>,
    /// Cancelled when nobody takes any more of it.
    taken: CancellationToken,
}

#[derive(Debug)]
struct SharedBodyState {
    /// `None` after the end.
    body: Option<FileBody>,
    /// All of it was taken.
    is_whole: bool,
}

impl SharedBody {
    pub(super) fn new(body: FileBody) -> Self {
        let is_whole = body.size_hint().exact() == Some(0);
        Self {
            state: Arc::new(Mutex::new(SharedBodyState { body: Some(body), is_whole })),
            taken: CancellationToken::new(),
        }
    }

    /// Resolves when nobody takes any more of it.
    pub(super) async fn is_taken(&self) {
        self.taken.cancelled().await;
    }

    /// Ends it; true if all of it was taken.
    pub(super) fn end(&self) -> bool {
        let mut state = self.lock();
        state.body = None;
        state.is_whole
    }

    fn lock(&self) -> MutexGuard<'_, SharedBodyState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The body of a download. When that is cut, it ends in an error.
#[derive(Debug)]
pub(super) struct DownloadBody {
    download: Arc<RunningDownload>,
    content: SharedBody,
    cut: Pin<Box<WaitForCancellationFutureOwned>>,
    metrics: Arc<Metrics>,
    #[expect(dead_code, reason = "it tells that nobody takes any more")]
    taken: DropGuard,
}

/// The download was cut.
#[derive(Debug, thiserror::Error)]
#[error("the download was cut: {}", .0.as_str())]
struct Cut(CutReason);

impl DownloadBody {
    pub(super) fn new(download: Arc<RunningDownload>, content: SharedBody, metrics: Arc<Metrics>) -> Self {
        let cut = Box::pin(download.is_cut.clone().cancelled_owned());
        let taken = content.taken.clone().drop_guard();
        Self { download, content, cut, metrics, taken }
    }
}

impl Body for DownloadBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let why = |download: &RunningDownload| download.cut.get().copied().unwrap_or(CutReason::Stopped);
        if self.cut.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Some(Err(Cut(why(&self.download)).into())));
        }
        let mut state = self.content.lock();
        let Some(body) = &mut state.body else {
            return Poll::Ready(Some(Err(Cut(why(&self.download)).into())));
        };
        let frame = ready!(Pin::new(&mut *body).poll_frame(cx));
        let is_whole = frame.is_none() || body.size_hint().exact() == Some(0);
        state.is_whole = is_whole && !matches!(frame, Some(Err(_)));
        if let Some(bytes) = frame.as_ref().and_then(|frame| frame.as_ref().ok()?.data_ref()) {
            let bytes = bytes.len() as u64;
            self.download.sent.fetch_add(bytes, Ordering::Relaxed);
            self.metrics.sent(bytes);
        }
        Poll::Ready(frame)
    }

    fn size_hint(&self) -> SizeHint {
        self.content.lock().body.as_ref().map_or_else(SizeHint::default, Body::size_hint)
    }
}
