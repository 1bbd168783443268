//! Stored responses: what may be kept, for how long, and under which key.
//!
//! moka bounds the memory and drops an entry when its links are dead; whether an entry is *fresh* is
//! decided here at each read, because moka's clock is monotonic and the links' is not. Flights
//! (requests on their way that others may join) are a map of their own: they share an answer without
//! storing it, which moka's loaders cannot do.

mod collapse;
mod directives;
mod entry;
mod freshness;
mod key;
mod links;
mod peek;
mod settings;

use std::sync::Arc;
use std::time::{Duration, Instant};

use moka::Expiry;
use moka::policy::EvictionPolicy;

pub use collapse::{Boarding, Flights, Lead, Member, Waiter};
pub use directives::Directives;
pub use entry::Entry;
pub use freshness::{Answer, Freshness, NotStored, assess};
pub use key::Key;
pub use peek::Peek;
pub use settings::Settings;

/// The store of finished exports: least recently used, bounded by bytes.
#[derive(Debug, Clone)]
pub struct Cache {
    entries: moka::sync::Cache<Key, Arc<Entry>>,
}

impl Cache {
    /// An empty store of at most `settings.max_bytes`.
    #[must_use]
    pub fn new(settings: &Settings) -> Self {
        let entries = moka::sync::Cache::builder()
            .max_capacity(settings.max_bytes)
            .weigher(|key: &Key, entry: &Arc<Entry>| {
                u32::try_from(key.weight() + entry.weight()).unwrap_or(u32::MAX)
            })
            // TinyLFU would not admit a new export into a cache of often-read ones.
            .eviction_policy(EvictionPolicy::lru())
            .expire_after(UntilLinksEnd)
            .build();
        Self { entries }
    }

    /// The entry under `key`, fresh or not.
    #[must_use]
    pub fn find(&self, key: &Key) -> Option<Arc<Entry>> {
        self.entries.get(key)
    }

    /// Stores `entry`, in place of an older one.
    pub fn store(&self, key: Key, entry: Arc<Entry>) {
        self.entries.insert(key, entry);
    }
}

/// Frees an entry when its links are dead; freshness ends earlier.
struct UntilLinksEnd;

impl Expiry<Key, Arc<Entry>> for UntilLinksEnd {
    fn expire_after_create(&self, _key: &Key, entry: &Arc<Entry>, _at: Instant) -> Option<Duration> {
        Some(entry.links_live_for())
    }

    fn expire_after_update(
        &self,
        _key: &Key,
        entry: &Arc<Entry>,
        _at: Instant,
        _left: Option<Duration>,
    ) -> Option<Duration> {
        Some(entry.links_live_for())
    }
}
