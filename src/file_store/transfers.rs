//! The transfers that run, of all clients and of each.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::TransferLimits;

/// Counts transfers. Clones share the count.
#[derive(Debug, Clone, Default)]
pub struct Transfers(Arc<Mutex<TransferCounts>>);

#[derive(Debug, Default)]
struct TransferCounts {
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
        if running.by_name.get(name).is_some_and(|own| *own >= limits.per_client) {
            return Err(TransfersFull::OfClient);
        }
        *running.by_name.entry(Arc::clone(name)).or_default() += 1;
        running.all += 1;
        Ok(Transfer { of: self.clone(), name: Arc::clone(name) })
    }

    /// The number of transfers that run.
    #[must_use]
    pub fn running(&self) -> usize {
        self.lock().all
    }

    fn lock(&self) -> MutexGuard<'_, TransferCounts> {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transfers_are_counted_until_they_end() {
        let (transfers, limits) = (Transfers::default(), TransferLimits { all: 3, per_client: 2 });
        let (one, other): (Arc<str>, Arc<str>) = ("one".into(), "other".into());
        let first = transfers.begin(&one, limits).expect("room");
        let second = transfers.begin(&one, limits).expect("room");
        assert_eq!(transfers.begin(&one, limits).err(), Some(TransfersFull::OfClient));
        let third = transfers.begin(&other, limits).expect("room");
        assert_eq!(transfers.begin(&other, limits).err(), Some(TransfersFull::All));
        assert_eq!(transfers.running(), 3);
        drop(first);
        assert!(transfers.begin(&one, limits).is_ok());
        drop((second, third));
        assert_eq!(transfers.running(), 0);
        // Nothing is kept of those that transfer nothing.
        assert!(transfers.lock().by_name.is_empty());
    }
}
