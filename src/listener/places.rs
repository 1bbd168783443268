//! How many connections there may be: in all, and from one address of another machine.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

type ByAddress = Arc<Mutex<HashMap<IpAddr, usize>>>;

/// The places for connections.
#[derive(Debug)]
pub(super) struct Places {
    free: Arc<Semaphore>,
    per_address: usize,
    by_address: ByAddress,
    /// Whether the last connection found no place: each change is said once.
    full: AtomicBool,
}

/// A connection's place, given back when dropped.
#[derive(Debug)]
pub(super) struct Place {
    _in_all: OwnedSemaphorePermit,
    counted: Option<(IpAddr, ByAddress)>,
}

/// Why there is no place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NoPlace {
    /// `listener.max_connections`.
    InAll,
    /// `listener.max_connections_per_address`.
    OfAddress,
}

impl Places {
    pub(super) fn new(in_all: usize, per_address: usize) -> Self {
        Self {
            free: Arc::new(Semaphore::new(in_all)),
            per_address,
            by_address: Arc::default(),
            full: AtomicBool::new(false),
        }
    }

    /// Takes a place for a connection; `address` where it counts by one.
    pub(super) fn take(&self, address: Option<IpAddr>) -> Result<Place, NoPlace> {
        let Ok(in_all) = Arc::clone(&self.free).try_acquire_owned() else {
            if !self.full.swap(true, Ordering::Relaxed) {
                tracing::warn!("listener.max_connections is reached: more are answered 503");
            }
            return Err(NoPlace::InAll);
        };
        if self.full.swap(false, Ordering::Relaxed) {
            tracing::info!("there are places for connections again");
        }
        let mut place = Place { _in_all: in_all, counted: None };
        if let Some(address) = address {
            let mut by_address = self.by_address.lock().unwrap_or_else(PoisonError::into_inner);
            let count = by_address.entry(address).or_insert(0);
            if *count >= self.per_address {
                return Err(NoPlace::OfAddress);
            }
            *count += 1;
            if *count == self.per_address {
                tracing::warn!(
                    client.address = %address,
                    "listener.max_connections_per_address is reached: more of its connections are answered 429"
                );
            }
            place.counted = Some((address, Arc::clone(&self.by_address)));
        }
        Ok(place)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let Some((address, by_address)) = &self.counted else { return };
        let mut by_address = by_address.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = by_address.get_mut(address) {
            *count -= 1;
            if *count == 0 {
                by_address.remove(address);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_counted_in_all_and_by_address_and_given_back() {
        let places = Places::new(3, 2);
        let (a, b) = (Some(IpAddr::from([192, 0, 2, 1])), Some(IpAddr::from([192, 0, 2, 2])));
        let first = places.take(a).expect("a place");
        let _second = places.take(a).expect("a place");
        assert_eq!(places.take(a).err(), Some(NoPlace::OfAddress));
        let _third = places.take(b).expect("a place");
        assert_eq!(places.take(b).err(), Some(NoPlace::InAll));
        drop(first);
        assert!(places.take(a).is_ok());
        assert_eq!(places.by_address.lock().expect("no panic").len(), 2);
    }
}
