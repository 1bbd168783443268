//! The downloads that run. Each is registered under its client and export before its results are read, so that it ends when
//! its client loses the right or the key that it showed, its export is purged, or time is over at a stop: whatever is registered later was permitted
//! later. A download that is cut ends in an error, and its client never takes it for whole.

mod body;
mod end;

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use http_body_util::BodyExt as _;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::access::{Holder, Permit};
use crate::clock::{Clock, Now};
use crate::export::FilesCall;
use crate::files::{ByteSpan, FileBody};
use crate::journal::Journal;
use crate::shared::PurgedExports;
use crate::shutdown::Shutdown;
use crate::telemetry::metrics::Metrics;
use crate::transport::Streamed;

use body::{DownloadBody, SharedBody};
pub(crate) use end::CutReason;

/// The parts that downloads work with.
#[derive(Debug)]
pub struct DownloadParts {
    pub(crate) clock: Clock,
    pub(crate) journal: Journal,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) shutdown: Shutdown,
}

/// All downloads. Clones share them.
#[derive(Debug, Clone)]
pub struct Downloads(Arc<Registry>);

#[derive(Debug)]
struct Registry {
    parts: DownloadParts,
    /// By request; these ids are in the order of time.
    running: Mutex<BTreeMap<Uuid, Arc<RunningDownload>>>,
}

/// One download.
#[derive(Debug)]
pub(crate) struct RunningDownload {
    pub(crate) request: Uuid,
    pub(crate) holder: Holder,
    pub(crate) call: FilesCall,
    pub(crate) started: Now,
    sent: AtomicU64,
    cut: OnceLock<CutReason>,
    /// Cancelled when it is cut.
    is_cut: CancellationToken,
}

/// A registered download; until it is dropped.
#[derive(Debug)]
pub(crate) struct RegisteredDownload {
    download: Arc<RunningDownload>,
    of: Downloads,
}

/// The stream of a file to a client.
#[derive(Debug)]
pub(crate) struct FileStream {
    pub(crate) body: FileBody,
    /// The range, where it is one.
    pub(crate) span: Option<ByteSpan>,
    /// The place of its client, held until the end.
    pub(crate) permit: Permit,
}

impl Downloads {
    pub(crate) fn new(parts: DownloadParts) -> Self {
        Self(Arc::new(Registry { parts, running: Mutex::default() }))
    }

    /// Registers a download.
    pub(crate) fn begin(
        &self,
        request: Uuid,
        holder: Holder,
        call: &FilesCall,
        started: Now,
    ) -> RegisteredDownload {
        let download = Arc::new(RunningDownload {
            request,
            holder,
            call: call.clone(),
            started,
            sent: AtomicU64::new(0),
            cut: OnceLock::new(),
            is_cut: CancellationToken::new(),
        });
        self.lock().insert(request, Arc::clone(&download));
        RegisteredDownload { download, of: self.clone() }
    }

    /// Cuts the downloads that are not permitted any more.
    pub(crate) fn retain(&self, is_permitted: impl Fn(&RunningDownload) -> bool) {
        self.cut(CutReason::Revoked, |download| !is_permitted(download));
    }

    /// Cuts the downloads of purged exports.
    pub(crate) fn purged(&self, exports: PurgedExports) {
        self.cut(CutReason::Purged, |RunningDownload { call, .. }| {
            exports.has(call.scope.id.as_str(), call.export.as_str())
        });
    }

    fn cut(&self, why: CutReason, which: impl Fn(&RunningDownload) -> bool) {
        for download in self.running().iter().filter(|download| which(download)) {
            download.cut(why);
        }
    }

    /// The downloads that run, the oldest first.
    pub(crate) fn running(&self) -> Vec<Arc<RunningDownload>> {
        self.lock().values().cloned().collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Uuid, Arc<RunningDownload>>> {
        self.0.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl RunningDownload {
    /// Bytes that its client was sent.
    pub(crate) fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    fn cut(&self, why: CutReason) {
        let _ = self.cut.set(why);
        self.is_cut.cancel();
    }
}

impl RegisteredDownload {
    /// Runs `work`, unless the download is cut before; then its reason.
    pub(crate) async fn until_cut<T>(&self, work: impl Future<Output = T>) -> Result<T, CutReason> {
        let done = self.download.is_cut.run_until_cancelled(work).await;
        done.ok_or_else(|| self.download.cut.get().copied().unwrap_or(CutReason::Stopped))
    }

    /// Streams the file, and records the end.
    pub(crate) fn stream(self, FileStream { mut body, span, permit }: FileStream) -> Streamed {
        let shutdown = self.of.0.parts.shutdown.clone();
        let metrics = Arc::clone(&self.of.0.parts.metrics);
        let end = body.take_end();
        let content = SharedBody::new(body);
        let body = DownloadBody::new(Arc::clone(&self.download), content.clone(), metrics);
        let over = shutdown.clone();
        shutdown.spawn(async move {
            let _permit = permit;
            let is_cut = self.download.is_cut.clone();
            tokio::select! {
                () = content.is_taken() => {}
                () = is_cut.cancelled() => {}
                () = over.over() => self.download.cut(CutReason::Stopped),
            }
            // A client that takes nothing must hold nothing: what fills the body ends with it.
            let is_whole = content.end();
            let end = match end {
                Some(end) => end.await.ok(),
                None => None,
            };
            self.record(span, end.as_ref(), is_whole);
        });
        Streamed::of_timed(body.boxed_unsync())
    }
}

impl Drop for RegisteredDownload {
    fn drop(&mut self) {
        self.of.lock().remove(&self.download.request);
    }
}
