//! Stored responses: their keys, their freshness, and the memory that they take.
//!
//! moka bounds the memory and drops an entry when its links are dead; whether an entry is *fresh* is
//! decided here at each read, because moka's clock is monotonic and the links' is not. Requests in flight
//! are a map of their own (`retrieval::flights`): they share an answer without storing it, which moka's
//! loaders cannot do.

mod directives;
mod entry;
mod freshness;
mod key;
mod not_stored;
mod portable;
mod settings;
mod stored;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use foldhash::quality::RandomState;
use moka::Expiry;
use moka::notification::RemovalCause;
use moka::policy::EvictionPolicy;

use crate::export::Id;

pub use directives::Directives;
pub use entry::{Entry, Whole, etag};
pub(crate) use entry::{PortableEntry, PortedTimes};
pub(crate) use freshness::age;
pub use freshness::{Freshness, WholeAnswer, assess};
pub use key::CacheKey;
pub use not_stored::NotStored;
pub(crate) use portable::PortableAnswer;
pub use settings::Settings;
pub(crate) use stored::StoredResponse;

/// The store of finished exports: least recently used, bounded by bytes.
#[derive(Debug, Clone)]
pub struct Cache {
    /// Its hash is quick and has a seed of its own, but is no `SipHash`. That is enough: only what is stored can
    /// collide, each key that is stored cost a request to Snyk, and `cache.max_bytes` bounds them all.
    entries: moka::sync::Cache<CacheKey, Arc<Entry>, RandomState>,
    removals: Arc<Removals>,
    /// Counts purges.
    purges: Arc<AtomicU64>,
    max_bytes: u64,
}

/// The number of entries that were removed, by reason.
#[derive(Debug, Default)]
pub struct Removals {
    /// Their links were dead.
    pub expired: AtomicU64,
    /// `cache.max_bytes` was reached.
    pub size: AtomicU64,
    /// A newer answer took their place.
    pub replaced: AtomicU64,
    /// Somebody purged them.
    pub purged: AtomicU64,
}

/// The number of purges so far: an answer to a request that was sent before a purge is not stored after it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Purges(u64);

impl Cache {
    /// An empty store of at most `settings.max_bytes`.
    #[must_use]
    pub fn new(settings: &Settings) -> Self {
        let removals = Arc::new(Removals::default());
        let counted = Arc::clone(&removals);
        let entries = moka::sync::Cache::builder()
            .max_capacity(settings.max_bytes)
            .weigher(|key: &CacheKey, entry: &Arc<Entry>| {
                u32::try_from(weight(key, entry)).unwrap_or(u32::MAX)
            })
            // TinyLFU would not admit a new export into a cache of often-read ones.
            .eviction_policy(EvictionPolicy::lru())
            .expire_after(UntilLinksEnd)
            .eviction_listener(move |_, entry: Arc<Entry>, cause| {
                // Its readers may hold it still.
                entry.reservation.resume();
                let count = match cause {
                    RemovalCause::Expired => &counted.expired,
                    RemovalCause::Size => &counted.size,
                    RemovalCause::Replaced => &counted.replaced,
                    RemovalCause::Explicit => &counted.purged,
                };
                count.fetch_add(1, Ordering::Relaxed);
            })
            .build_with_hasher(RandomState::default());
        Self { entries, removals, purges: Arc::default(), max_bytes: settings.max_bytes }
    }

    /// The entry under `key`, fresh or not.
    #[must_use]
    pub fn find(&self, key: &str) -> Option<Arc<Entry>> {
        self.entries.get(key)
    }

    /// True if `entry` alone fits into `max_bytes`.
    pub(crate) fn has_room_for(&self, key: &CacheKey, entry: &Entry) -> bool {
        weight(key, entry) as u64 <= self.max_bytes
    }

    /// To be read before a request is sent whose answer may be stored.
    #[must_use]
    pub fn purges(&self) -> Purges {
        Purges(self.purges.load(Ordering::SeqCst))
    }

    /// Stores `entry`, in place of an older one, unless there was a purge since `before`.
    pub fn store(&self, key: &CacheKey, entry: Arc<Entry>, before: Purges) {
        if before == self.purges() {
            entry.reservation.suspend();
            self.entries.insert(key.clone(), entry);
            // moka puts off what goes in its place, and would hold a multiple of `max_bytes` meanwhile.
            self.entries.run_pending_tasks();
            if before != self.purges() {
                self.entries.invalidate(key);
            }
        }
    }

    /// Purges an export of an org or group (results and job status). Returns the number of entries.
    #[must_use = "it may have been none"]
    pub fn purge(&self, scope: &Id, export: &Id) -> usize {
        self.purges.fetch_add(1, Ordering::SeqCst);
        let keys = self.entries.iter().filter(|(key, _)| {
            stored::call(key)
                .is_some_and(|call| call.scope.id == *scope && call.operation.export() == Some(export))
        });
        let keys: Vec<_> = keys.map(|(key, _)| key).collect();
        self.remove(&keys)
    }

    fn remove(&self, keys: &[Arc<CacheKey>]) -> usize {
        for key in keys {
            self.entries.invalidate(&**key);
        }
        keys.len()
    }

    /// Purges everything. Returns the number of entries.
    #[must_use = "it may have been none"]
    pub fn purge_all(&self) -> usize {
        self.purges.fetch_add(1, Ordering::SeqCst);
        let keys: Vec<_> = self.entries.iter().map(|(key, _)| key).collect();
        self.remove(&keys)
    }

    /// The stored responses, the newest first. Never a body: links are bearer secrets.
    pub(crate) fn stored(&self) -> Vec<StoredResponse> {
        let mut all: Vec<StoredResponse> =
            self.entries.iter().filter_map(|(key, entry)| StoredResponse::of(&key, entry)).collect();
        all.sort_by_key(|one| std::cmp::Reverse(one.entry.received()));
        all
    }

    /// The number of entries and their bytes, after moka's pending tasks.
    #[must_use]
    pub fn size(&self) -> (u64, u64) {
        self.entries.run_pending_tasks();
        (self.entries.entry_count(), self.entries.weighted_size())
    }

    /// `cache.max_bytes`.
    pub(crate) fn max_bytes(&self) -> u64 {
        self.max_bytes
    }

    /// The number of entries that were removed, by reason.
    pub(crate) fn removals(&self) -> &Removals {
        &self.removals
    }
}

fn weight(key: &CacheKey, entry: &Entry) -> usize {
    key.weight() + entry.weight()
}

/// Frees an entry when its links are dead; freshness ends earlier.
struct UntilLinksEnd;

impl Expiry<CacheKey, Arc<Entry>> for UntilLinksEnd {
    fn expire_after_create(&self, _key: &CacheKey, entry: &Arc<Entry>, _at: Instant) -> Option<Duration> {
        Some(entry.links_live_for())
    }

    fn expire_after_update(
        &self,
        _key: &CacheKey,
        entry: &Arc<Entry>,
        _at: Instant,
        _left: Option<Duration>,
    ) -> Option<Duration> {
        Some(entry.links_live_for())
    }
}
