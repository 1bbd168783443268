//! Limits on open connections: in all, and from one address of another machine.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::counters::{Counters, count};

type ByAddress = Arc<Mutex<HashMap<IpAddr, usize>>>;

/// The places for connections.
#[derive(Debug)]
pub(super) struct Places {
    counters: Arc<Counters>,
    by_address: ByAddress,
    /// True if the last connection was refused. Each change is logged once.
    full: AtomicBool,
}

/// A connection's place, given back when dropped.
#[derive(Debug)]
pub(super) struct Place {
    counters: Arc<Counters>,
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
    pub(super) fn new(counters: Arc<Counters>) -> Self {
        Self { counters, by_address: Arc::default(), full: AtomicBool::new(false) }
    }

    /// Takes a place for a connection. It counts for `address`, if there is one.
    pub(super) fn take(
        &self,
        address: Option<IpAddr>,
        max: usize,
        max_per_address: usize,
    ) -> Result<Place, NoPlace> {
        self.counters.max.store(max, Ordering::Relaxed);
        let more = |open: usize| (open < max).then_some(open + 1);
        if self.counters.open.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).is_err() {
            count(&self.counters.full);
            if !self.full.swap(true, Ordering::Relaxed) {
                tracing::warn!(
                    "connection limit reached (listener.max_connections); refusing new connections with 503"
                );
            }
            return Err(NoPlace::InAll);
        }
        if self.full.swap(false, Ordering::Relaxed) {
            tracing::info!("below the connection limit again; accepting new connections");
        }
        let mut place = Place { counters: Arc::clone(&self.counters), counted: None };
        if let Some(address) = address {
            let mut by_address = self.by_address.lock().unwrap_or_else(PoisonError::into_inner);
            let taken = by_address.entry(address).or_insert(0);
            if *taken >= max_per_address {
                count(&self.counters.address_full);
                return Err(NoPlace::OfAddress);
            }
            *taken += 1;
            if *taken == max_per_address {
                tracing::warn!(
                    client.address = %address,
                    "connection limit of an address reached (listener.max_connections_per_address); refusing its new connections with 429"
                );
            }
            place.counted = Some((address, Arc::clone(&self.by_address)));
        }
        Ok(place)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.counters.open.fetch_sub(1, Ordering::Relaxed);
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
        let places = Places::new(Arc::default());
        let (a, b) = (Some(IpAddr::from([192, 0, 2, 1])), Some(IpAddr::from([192, 0, 2, 2])));
        let first = places.take(a, 3, 2).expect("a place");
        let _second = places.take(a, 3, 2).expect("a place");
        assert_eq!(places.take(a, 3, 2).err(), Some(NoPlace::OfAddress));
        let _third = places.take(b, 3, 2).expect("a place");
        assert_eq!(places.take(b, 3, 2).err(), Some(NoPlace::InAll));
        drop(first);
        assert!(places.take(a, 3, 2).is_ok());
        assert_eq!(places.by_address.lock().expect("no panic").len(), 2);
    }
}
