//! Stopping: signals that everybody can see, and a count of what is still running.
//!
//! It is *announced* first (not ready any more, clients are led elsewhere), then the *doors are closed* (no new
//! connections), then it has *begun* (no new requests), and is *over* when there is no time left.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// `[shutdown]`: how long stopping may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// Between the announcement and the beginning.
    pub delay: Duration,
    /// Between the beginning and the end of what is in flight.
    pub drain: Duration,
}

/// Everything that is spawned is spawned here, so that a drain waits for it.
#[derive(Debug, Clone, Default)]
pub struct Shutdown {
    announced: CancellationToken,
    /// The same, for those who look at each request.
    is_announced: Arc<AtomicBool>,
    doors_closed: CancellationToken,
    begun: CancellationToken,
    over: CancellationToken,
    /// Nothing runs any more that was waited for.
    drained: CancellationToken,
    tasks: TaskTracker,
}

impl Shutdown {
    /// Nothing runs yet and nobody has asked to stop.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Runs `task`; a drain waits for it.
    pub fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.tasks.spawn(task);
    }

    /// Says that everybody will be asked to stop in a moment: clients are led elsewhere, and served still.
    pub fn announce(&self) {
        self.is_announced.store(true, Ordering::SeqCst);
        self.announced.cancel();
    }

    /// Tells whether it was said, at the price of a load.
    pub(crate) fn announcement(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.is_announced)
    }

    /// Resolves when it was said.
    pub async fn announced(&self) {
        self.announced.cancelled().await;
    }

    /// True once it was said.
    pub(crate) fn is_announced(&self) -> bool {
        self.is_announced.load(Ordering::SeqCst)
    }

    /// Has no more connections accepted. Who has just come in may ask still.
    pub fn close_doors(&self) {
        self.announce();
        self.doors_closed.cancel();
    }

    /// Resolves when no more connections are to be accepted.
    pub async fn doors_closed(&self) {
        self.doors_closed.cancelled().await;
    }

    /// Asks everybody to stop.
    pub fn begin(&self) {
        self.close_doors();
        self.begun.cancel();
    }

    /// Resolves when somebody has asked to stop.
    pub async fn begun(&self) {
        self.begun.cancelled().await;
    }

    /// Says that there is no time left: what waits for others is to end now.
    pub fn end(&self) {
        self.begin();
        self.over.cancel();
    }

    /// Runs `task`, which others need until they have ended: a drain does not wait for it, and ends it.
    pub fn spawn_helper(&self, task: impl Future<Output = ()> + Send + 'static) {
        let over = self.drained.clone();
        #[expect(clippy::disallowed_methods, reason = "it ends with the drain, which must not wait for it")]
        tokio::spawn(async move {
            over.run_until_cancelled(task).await;
        });
    }

    /// Resolves when there is no time left.
    pub async fn over(&self) {
        self.over.cancelled().await;
    }

    /// Runs `work` to its end, unless there is no time left before; then `None`.
    pub async fn in_time<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        self.over.run_until_cancelled(work).await
    }

    /// Waits until nothing runs any more, at most for `limit`; whether that was reached.
    pub async fn finished(&self, limit: Duration) -> bool {
        self.tasks.close();
        tokio::time::timeout(limit, self.tasks.wait()).await.is_ok()
    }

    /// Ends the helpers: nobody needs them any more.
    pub fn release(&self) {
        self.drained.cancel();
    }
}
