//! One stored response.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use aws_lc_rs::digest::{SHA256, digest};
use bytes::Bytes;
use http::header::ETAG;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use uuid::Uuid;

use super::directives::Directives;
use super::freshness::{Freshness, LEAST_LIFE, ToldEnd};
use super::portable::PortableAnswer;
use super::settings::Settings;
use crate::clock::Now;
use crate::transport::Room;

/// Bytes that an entry takes besides its key, its body and its fields: this, what moka holds for it (its place in the
/// map, in the order of use and in the timer), and what allocators round up. Measured (`benches/growth/run.sh entries`),
/// but for what holds the room of its body, which is counted.
const OVERHEAD: usize = 800;
/// Bytes that a field takes besides its name and its value: its place in the map and in the map's index. Measured with those
/// of Snyk; a name that is not in `NAMES` takes some 40 more.
const PER_FIELD: usize = 112;
/// Names of stored fields that are not HTTP's own. Those that are static take no memory in each entry, and a hit copies them
/// without counting references, which the cores of a machine would take from one another.
static NAMES: [HeaderName; 8] = [
    HeaderName::from_static("cache-status"),
    HeaderName::from_static("exportgate-links-expire"),
    HeaderName::from_static("exportgate-request-id"),
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("snyk-request-id"),
    HeaderName::from_static("snyk-version-lifecycle-stage"),
    HeaderName::from_static("snyk-version-requested"),
    HeaderName::from_static("snyk-version-served"),
];
/// Seconds between two tries to fetch an entry ahead.
const RETRY_AHEAD: u64 = 10;

/// A stored response, as it is replayed.
pub struct Entry {
    /// Its status.
    pub status: StatusCode,
    /// Its end-to-end fields.
    pub fields: HeaderMap,
    /// Its body.
    pub body: Bytes,
    /// The room that was held for its body until it was stored.
    pub(super) reservation: Room,
    /// Its strong validator (RFC 9110 §8.8.3), made from the body.
    pub etag: HeaderValue,
    /// The attempt that fetched it.
    pub attempt: Uuid,
    freshness: Freshness,
    received: Now,
    /// `Age` when it arrived, in seconds.
    initial_age: u64,
    /// Seconds after its arrival when it was last fetched ahead; 0 for never.
    refreshed: AtomicU64,
    hits: AtomicU64,
}

/// An answer as it is to be stored.
pub struct Whole {
    /// Its status.
    pub status: StatusCode,
    /// Its fields, as clients get them.
    pub fields: HeaderMap,
    /// Its body: all of a piece of memory.
    pub body: Bytes,
    /// The room that is held for it.
    pub reservation: Room,
    /// Its validator, from [`etag`].
    pub etag: HeaderValue,
    /// `Age` when it arrived; it counts whole seconds.
    pub age: Duration,
}

/// A stored response on its way to other gateways.
pub(crate) struct PortableEntry {
    pub(crate) bytes: Vec<u8>,
    /// Time until it is not fresh any more.
    pub(crate) fresh: Duration,
    /// Time until its first link dies.
    pub(crate) life: Duration,
}

/// The times of a stored response that came from another gateway, by our monotonic clock.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PortedTimes {
    /// The time at which it was given to the others.
    pub(crate) landed: Instant,
    /// Fresh before this.
    pub(crate) fresh: Instant,
    /// Its links live until then.
    pub(crate) life: Instant,
}

impl Entry {
    /// Makes an entry of an answer that was received at `received`.
    #[must_use]
    pub fn new(whole: Whole, freshness: Freshness, received: Now, attempt: Uuid) -> Self {
        let Whole { status, fields, body, reservation, etag, age: initial_age } = whole;
        let fields = compact(&fields);
        Self {
            status,
            fields,
            body,
            reservation,
            etag,
            attempt,
            freshness,
            received,
            initial_age: initial_age.as_secs(),
            refreshed: AtomicU64::new(0),
            hits: AtomicU64::new(0),
        }
    }

    /// The same for other gateways; `None` if it is not fresh.
    pub(crate) fn to_portable(&self, now: Now) -> Option<PortableEntry> {
        let fresh = self.freshness.until.duration_since(now.wall).unwrap_or_default();
        let fresh = fresh.min(self.freshness.until_mono.saturating_duration_since(now.mono));
        let life = self.life(now).unwrap_or(fresh);
        let answer = PortableAnswer {
            status: self.status,
            attempt: self.attempt,
            fields: self.fields.clone(),
            body: self.body.clone(),
            age: now.mono.saturating_duration_since(self.received.mono),
            initial_age: self.initial_age,
            signed_end: self.freshness.signed_end,
            is_uncertain: self.freshness.uncertain,
            is_unfinished: false,
        };
        (!fresh.is_zero()).then(|| PortableEntry { bytes: answer.to_bytes(), fresh, life })
    }

    /// Makes an entry of one that came from another gateway, with the room that is held for its body; `None` if it is not fresh.
    pub(crate) fn of_portable(
        answer: PortableAnswer,
        reservation: Room,
        times: PortedTimes,
        now: Now,
        settings: &Settings,
    ) -> Option<Self> {
        let PortedTimes { landed, fresh, life } = times;
        let age = now.mono.saturating_duration_since(landed) + answer.age;
        let (signed, is_uncertain) = (answer.signed_end, answer.is_uncertain);
        let freshness = Freshness::told(ToldEnd { fresh, life, signed, is_uncertain }, age, now, settings)?;
        let received = Now { wall: now.wall.checked_sub(age)?, mono: now.mono.checked_sub(age)? };
        let whole = Whole {
            status: answer.status,
            etag: answer.fields.get(ETAG)?.clone(),
            fields: answer.fields,
            body: answer.body,
            reservation,
            age: Duration::from_secs(answer.initial_age),
        };
        Some(Self::new(whole, freshness, received, answer.attempt))
    }

    /// Time until its first link dies, by both clocks; `None` if a link does not say.
    pub(crate) fn life(&self, now: Now) -> Option<Duration> {
        let end = self.freshness.links_end?;
        let whole = end.duration_since(self.received.wall).unwrap_or_default();
        let lived = now.mono.saturating_duration_since(self.received.mono);
        Some(end.duration_since(now.wall).unwrap_or_default().min(whole.saturating_sub(lived)))
    }

    /// Counts that it was served.
    pub fn count_hit(&self) {
        self.hits.fetch_add(1, Ordering::Relaxed);
    }

    /// Number of times that it was served.
    pub(crate) fn hits(&self) -> u64 {
        self.hits.load(Ordering::Relaxed)
    }

    /// The time of its arrival.
    pub(crate) fn received(&self) -> SystemTime {
        self.received.wall
    }

    /// Its arrival, by both clocks.
    #[must_use]
    pub fn arrival(&self) -> Now {
        self.received
    }

    /// True if it is fresh by both clocks.
    #[must_use]
    pub fn is_fresh(&self, now: Now) -> bool {
        now.wall < self.freshness.until && now.mono < self.freshness.until_mono
    }

    /// True if it is of use past its freshness: its links are certain to live for a while, by both clocks.
    pub(crate) fn links_live(&self, now: Now) -> bool {
        let Some(end) = self.freshness.links_end.filter(|_| !self.freshness.uncertain) else { return false };
        let end = end - LEAST_LIFE;
        let lived = now.mono.saturating_duration_since(self.received.mono);
        now.wall < end && self.received.wall + lived < end
    }

    /// True if this reader should fetch it again ahead of its end: it is in the last tenth of its freshness,
    /// and nobody did within `RETRY_AHEAD`.
    pub(crate) fn wants_refresh(&self, now: Now) -> bool {
        let lifetime = self.freshness.until.duration_since(self.received.wall).unwrap_or_default();
        if !self.is_fresh(now) || self.ttl(now) > lifetime.as_secs() / 10 {
            return false;
        }
        let second = now.mono.saturating_duration_since(self.received.mono).as_secs().max(1);
        let last = self.refreshed.load(Ordering::Relaxed);
        let due = last == 0 || second >= last + RETRY_AHEAD;
        due && self.refreshed.compare_exchange(last, second, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }

    /// Seconds that its freshness is over; negative `ttl` (RFC 9211 §2.6).
    pub(crate) fn stale_for(&self, now: Now) -> u64 {
        let by_wall = now.wall.duration_since(self.freshness.until).unwrap_or_default();
        by_wall.max(now.mono.saturating_duration_since(self.freshness.until_mono)).as_secs()
    }

    /// True if the client's directives let this (fresh) response answer it (RFC 9111 §5.2.1).
    /// `max-age=0` always asks again; `min-fresh` asks for links that are good for so many seconds more.
    #[must_use]
    pub fn satisfies(&self, directives: &Directives, now: Now) -> bool {
        let good_until = self.freshness.links_end.unwrap_or(self.freshness.until);
        let good_for = good_until.duration_since(now.wall).unwrap_or_default().as_secs();
        !directives.no_cache
            && directives.max_age.is_none_or(|most| self.age(now) < most)
            && directives.min_fresh.is_none_or(|least| good_for >= least)
    }

    /// The `Age` field's value, in seconds (RFC 9111 §4.2.3).
    #[must_use]
    pub fn age(&self, now: Now) -> u64 {
        let by_wall = now.wall.duration_since(self.received.wall).unwrap_or_default();
        let resident = by_wall.max(now.mono.saturating_duration_since(self.received.mono));
        self.initial_age + resident.as_secs()
    }

    /// Seconds of freshness left.
    #[must_use]
    pub fn ttl(&self, now: Now) -> u64 {
        let by_wall = self.freshness.until.duration_since(now.wall).unwrap_or_default();
        by_wall.min(self.freshness.until_mono.saturating_duration_since(now.mono)).as_secs()
    }

    /// The end of its first link; `None` if a link does not say.
    pub(crate) fn links_end(&self) -> Option<SystemTime> {
        self.freshness.links_end
    }

    /// True if `cache.default_age` limits it, because a link's end is not certain.
    pub(crate) fn is_uncertain(&self) -> bool {
        self.freshness.uncertain
    }

    /// Time after its arrival for which it is of any use.
    pub(super) fn links_live_for(&self) -> Duration {
        let end = self.freshness.links_end.unwrap_or(self.freshness.until);
        end.duration_since(self.received.wall).unwrap_or_default()
    }

    /// The bytes that it takes.
    pub(super) fn weight(&self) -> usize {
        let fields = self.fields.iter().map(|(name, value)| name.as_str().len() + value.len() + PER_FIELD);
        self.body.len() + fields.sum::<usize>() + OVERHEAD
    }
}

impl std::fmt::Debug for Entry {
    /// Says nothing of the body: its links are bearer secrets.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Entry")
            .field("status", &self.status)
            .field("bytes", &self.body.len())
            .finish_non_exhaustive()
    }
}

/// The same fields in memory of their own: those that came from a connection are slices of its buffer, which is larger.
fn compact(fields: &HeaderMap) -> HeaderMap {
    let mut text: Bytes = fields.values().flat_map(HeaderValue::as_bytes).copied().collect();
    let copy = |(name, value): (&HeaderName, &HeaderValue)| {
        let slice = text.split_to(value.len());
        // What is a value already cannot fail.
        let mut copy = HeaderValue::from_maybe_shared(slice).unwrap_or_else(|_| value.clone());
        copy.set_sensitive(value.is_sensitive());
        (NAMES.iter().find(|known| *known == name).unwrap_or(name).clone(), copy)
    };
    let compact: HeaderMap = fields.iter().map(copy).collect();
    // A copy has room for what it holds and no more.
    HeaderMap::clone(&compact)
}

/// Half of a SHA-256 in hex: equal exactly where the bytes are.
#[must_use]
pub fn etag(body: &[u8]) -> HeaderValue {
    use std::fmt::Write as _;
    let mut text = String::with_capacity(34);
    text.push('"');
    for byte in &digest(&SHA256, body).as_ref()[..16] {
        let _ = write!(text, "{byte:02x}");
    }
    text.push('"');
    HeaderValue::try_from(text).unwrap_or_else(|_| HeaderValue::from_static("\"-\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_the_same_in_memory_of_their_own() {
        let head = Bytes::from(vec![b'x'; 64 * 1024]);
        let mut fields = HeaderMap::new();
        for (name, range) in [("a", 0..3), ("b", 3..3), ("a", 4..9)] {
            let value = HeaderValue::from_maybe_shared(head.slice(range)).expect("a value");
            fields.append(HeaderName::from_static(name), value);
        }
        fields.get_mut("b").expect("a value").set_sensitive(true);
        let compact = compact(&fields);
        assert_eq!(compact, fields);
        assert!(compact["b"].is_sensitive() && !compact["a"].is_sensitive());
        drop(fields);
        assert!(head.is_unique(), "the buffer of a connection is not held");
    }
}
