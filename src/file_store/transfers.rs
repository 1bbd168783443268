//! The transfers that run, of all clients and of each.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::TransferLimits;

/// Counts transfers. Clones share the count.
#[derive(Debug, Clone, Default)]
pub struct Transfers(Arc<Mutex<Running>>);

#[derive(Debug, Default)]
struct Running {
    all: usize,
    by_name: HashMap<Arc<str>, usize>,
}

/// A transfer that runs, until it is dropped.
#[derive(Debug)]
pub struct Transfer {
    of: Transfers,
    name: Arc<str>,
}

/// The limit that is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TransfersFull {
    /// Of all together.
    #[error("as many files are being transferred as files.max_transfers allows")]
    All,
    /// Of this one.
    #[error("the client transfers as many files as files.max_transfers_per_client allows")]
    OfClient,
}

impl Transfers {
    /// Begins a transfer for `name`.
    ///
    /// # Errors
    /// [`TransfersFull`].
    pub fn begin(&self, name: &Arc<str>, limits: TransferLimits) -> Result<Transfer, TransfersFull> {
        let mut running = self.lock();
        if running.all >= limits.all {
            return Err(TransfersFull::All);
        }
        let own = running.by_name.entry(Arc::clone(name)).or_default();
        if *own >= limits.per_client {
            return Err(TransfersFull::OfClient);
        }
        *own += 1;
        running.all += 1;
        Ok(Transfer { of: self.clone(), name: Arc::clone(name) })
    }

    /// The number of transfers that run.
    #[must_use]
    pub fn running(&self) -> usize {
        self.lock().all
    }

    fn lock(&self) -> MutexGuard<'_, Running> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Transfer {
    fn drop(&mut self) {
        let mut running = self.of.lock();
        running.all -= 1;
        let left = running.by_name.get_mut(&self.name).map(|own| {
            *own -= 1;
            *own
        });
        if left == Some(0) {
            running.by_name.remove(&self.name);
        }
    }
}
