//! Purges: this gateway forgets an export, or all of them, and has all gateways that share an engine with it do so (0018).
//!
//! Invariant: what was asked for before a purge is not stored after it, whichever gateway the purge came from.

use std::sync::Arc;
use std::time::Duration;

use crate::downloads::Downloads;
use crate::export::Id;
use crate::files::Files;
use crate::journal::Journal;
use crate::retrieval::Retrieval;
use crate::shared::{EngineError, GatewayPurge, PurgedExports, Shared};

/// Pause before a purge that failed is tried again: there was no thread for it.
const PAUSE: Duration = Duration::from_millis(100);

/// All that keeps something of an export.
#[derive(Debug)]
pub(crate) struct PurgeParts {
    pub(crate) retrieval: Arc<Retrieval>,
    pub(crate) downloads: Downloads,
    pub(crate) files: Files,
    pub(crate) journal: Journal,
    pub(crate) shared: Option<Shared>,
}

/// Purges exports. Clones share everything.
#[derive(Debug, Clone)]
pub(crate) struct Purger(Arc<PurgeParts>);

/// The outcome of a purge.
#[derive(Debug)]
pub(crate) struct Purged {
    /// The entries that were removed here.
    pub(crate) entries: usize,
    /// The gateways that share an engine with this one; none where nothing is shared.
    pub(crate) gateways: Result<Vec<GatewayPurge>, EngineError>,
}

/// No thread could do it.
#[derive(Debug)]
pub(crate) struct NoThread;

impl Purger {
    pub(crate) fn new(parts: PurgeParts) -> Self {
        Self(Arc::new(parts))
    }

    /// Purges an export of an org or group on all gateways; all exports without one.
    pub(crate) async fn everywhere(&self, export: Option<(&Id, &Id)>) -> Result<Purged, NoThread> {
        let exports = export
            .map_or(PurgedExports::All, |(scope, export)| PurgedExports::of(scope.as_str(), export.as_str()));
        // Here first, whatever becomes of the engine. It comes back from there: what was read meanwhile goes, too.
        let entries = self.here(exports).await?;
        let gateways = match &self.0.shared {
            Some(shared) => shared.purge(exports).await,
            None => Ok(Vec::new()),
        };
        Ok(Purged { entries, gateways })
    }

    /// Applies the purges that the engine tells of; never ends.
    pub(crate) async fn follow(self) {
        let Some(shared) = &self.0.shared else { return };
        loop {
            let missed = shared.missed_purges().await;
            for exports in &missed.exports {
                while self.here(*exports).await.is_err() {
                    tokio::time::sleep(PAUSE).await;
                }
            }
            shared.applied(&missed).await;
            let all = missed.exports.contains(&PurgedExports::All);
            tracing::info!(purges = missed.exports.len(), all, "purges of the fleet applied");
        }
    }

    /// Tells that this gateway serves nothing more.
    pub(crate) async fn leave(&self) {
        if let Some(shared) = &self.0.shared {
            shared.leave().await;
        }
    }

    async fn here(&self, exports: PurgedExports) -> Result<usize, NoThread> {
        let parts = Arc::clone(&self.0);
        let work = move || {
            let cache = parts.retrieval.cache();
            let entries = match exports {
                PurgedExports::All => cache.purge_all(),
                one @ PurgedExports::One(_) => {
                    cache.purge(|scope, export| one.has(scope.as_str(), export.as_str()))
                }
            };
            parts.downloads.purged(exports);
            parts.files.purged(exports);
            entries
        };
        let entries = tokio::task::spawn_blocking(work).await.map_err(|_| NoThread)?;
        // After the purge was counted: a start that is under way is not kept.
        self.0.journal.forget_starts(move |scope, export| exports.has(scope, export)).await;
        Ok(entries)
    }
}
