//! One budget of bytes for the bodies that are held in memory: what is gathered of start calls and of Snyk's answers,
//! and answers until their clients have taken them.
//!
//! What is held travels with its bytes, and is given back when the last reference to them goes, wherever that is (in a
//! write buffer of hyper's, say). A stored answer counts for `cache.max_bytes` instead, as long as it is stored. Small
//! bodies have a part of their own, so that polls do not wait behind large answers. Who holds some of it may wait for
//! the other part, and who holds some of that waits for no more: so no two bodies wait for each other.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

/// Largest body that is a small one, in bytes.
pub const SMALL: usize = 64 * 1024;
/// The part of the budget that is for small bodies: one in so many.
const SMALL_PART: usize = 4;

/// A number of bytes that may be held.
#[derive(Debug)]
struct Pool {
    free: Semaphore,
    /// Bytes that are held beyond `max`.
    debt: AtomicUsize,
    max: usize,
}

impl Pool {
    fn new(max: usize) -> Self {
        let max = max.min(Semaphore::MAX_PERMITS);
        Self { free: Semaphore::new(max), debt: AtomicUsize::new(0), max }
    }

    /// Waits for room. What is larger than all of it waits for all of it.
    async fn take(self: &Arc<Self>, bytes: usize, max_wait: Duration) -> Result<Share, NoRoom> {
        let permits = u32::try_from(bytes.min(self.max)).unwrap_or(u32::MAX);
        let taken = timeout(max_wait, self.free.acquire_many(permits)).await;
        taken.map_err(|_| NoRoom)?.map_err(|_| NoRoom)?.forget();
        Ok(self.share(permits as usize))
    }

    /// Takes what is held already, whether there is room or not.
    fn charge(&self, bytes: usize) {
        let taken = self.free.forget_permits(bytes);
        self.debt.fetch_add(bytes - taken, Ordering::Relaxed);
    }

    fn give_back(&self, bytes: usize) {
        let paid = |debt: usize| Some(debt - debt.min(bytes));
        let debt = self.debt.fetch_update(Ordering::Relaxed, Ordering::Relaxed, paid).unwrap_or_default();
        self.free.add_permits(bytes - debt.min(bytes));
    }

    fn share(self: &Arc<Self>, bytes: usize) -> Share {
        Share { pool: Arc::clone(self), bytes, counts: AtomicBool::new(true) }
    }

    fn held(&self) -> usize {
        self.max.saturating_sub(self.free.available_permits()) + self.debt.load(Ordering::Relaxed)
    }
}

/// Bytes of a pool, given back when dropped.
#[derive(Debug)]
pub(super) struct Share {
    pool: Arc<Pool>,
    bytes: usize,
    /// Whether they count at the moment.
    counts: AtomicBool,
}

impl Share {
    /// Whether it is room for `bytes`, or all there can be.
    pub(super) fn is_enough_for(&self, bytes: usize) -> bool {
        self.bytes >= bytes.min(self.pool.max)
    }

    /// Gives back what is more than `bytes`.
    pub(super) fn shrink_to(&mut self, bytes: usize) {
        let kept = self.bytes.min(bytes);
        self.pool.give_back(self.bytes - kept);
        self.bytes = kept;
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        if *self.counts.get_mut() {
            self.pool.give_back(self.bytes);
        }
    }
}

/// What is held for a body; that of one that was not gathered is nothing.
#[derive(Debug, Clone, Default)]
pub struct Reservation(Option<Arc<Share>>);

impl Reservation {
    pub(super) fn of(share: Option<Share>) -> Self {
        Self(share.map(Arc::new))
    }

    /// It counts elsewhere from now on: it is stored.
    pub fn suspend(&self) {
        if let Some(share) = self.0.as_deref().filter(|share| share.counts.swap(false, Ordering::Relaxed)) {
            share.pool.give_back(share.bytes);
        }
    }

    /// It counts here again, whether there is room or not: it is stored no more, and clients may still read it.
    pub fn resume(&self) {
        if let Some(share) = self.0.as_deref().filter(|share| !share.counts.swap(true, Ordering::Relaxed)) {
            share.pool.charge(share.bytes);
        }
    }
}

/// An answer's bytes, and the room that is held for them on their connection.
struct Untaken {
    bytes: Bytes,
    _on_connection: Share,
}

impl AsRef<[u8]> for Untaken {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// A client's connection, as far as its requests need to know of it.
#[derive(Debug)]
pub struct Connection {
    /// Cancelled when the client has closed its half while a request was answered: it may have left, or wait.
    pub half_closed: CancellationToken,
    untaken: Arc<Pool>,
}

impl Connection {
    /// One on which bodies of `max` bytes may be held.
    #[must_use]
    pub fn new(max: usize) -> Self {
        Self { half_closed: CancellationToken::new(), untaken: Arc::new(Pool::new(max)) }
    }
}

/// There was no room in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no room among the bodies that are held in memory")]
pub struct NoRoom;

/// The budget.
#[derive(Debug, Clone)]
pub struct Memory {
    small: Arc<Pool>,
    large: Arc<Pool>,
    max_wait: Arc<AtomicU64>,
}

impl Memory {
    /// A budget of `max` bytes, in which room is waited for so long.
    #[must_use]
    pub fn new(max: usize, max_wait: Duration) -> Self {
        let small = max / SMALL_PART;
        let memory = Self {
            small: Arc::new(Pool::new(small)),
            large: Arc::new(Pool::new(max - small)),
            max_wait: Arc::default(),
        };
        memory.set_max_wait(max_wait);
        memory
    }

    /// How long room is waited for from now on.
    pub fn set_max_wait(&self, max_wait: Duration) {
        let millis = u64::try_from(max_wait.as_millis()).unwrap_or(u64::MAX);
        self.max_wait.store(millis, Ordering::Relaxed);
    }

    fn max_wait(&self) -> Duration {
        Duration::from_millis(self.max_wait.load(Ordering::Relaxed))
    }

    /// The bytes that are held, and how many may be.
    #[must_use]
    pub fn held(&self) -> (usize, usize) {
        (self.small.held() + self.large.held(), self.small.max + self.large.max)
    }

    fn pool(&self, bytes: usize) -> &Arc<Pool> {
        if bytes <= SMALL { &self.small } else { &self.large }
    }

    /// Waits for room.
    pub(super) async fn room(&self, bytes: usize) -> Result<Share, NoRoom> {
        self.pool(bytes).take(bytes, self.max_wait()).await
    }

    /// Takes room, whether there is any or not.
    pub(super) fn room_at_once(&self, bytes: usize) -> Share {
        self.pool(bytes).charge(bytes);
        self.pool(bytes).share(bytes)
    }

    /// Waits for room on a connection.
    pub(super) async fn room_on(&self, connection: &Connection, bytes: usize) -> Result<Share, NoRoom> {
        connection.untaken.take(bytes, self.max_wait()).await
    }

    /// Waits for room for an answer on its client's connection, and holds that until it was taken.
    ///
    /// # Errors
    /// [`NoRoom`].
    pub async fn until_taken(&self, connection: &Connection, bytes: Bytes) -> Result<Bytes, NoRoom> {
        let on_connection = self.room_on(connection, bytes.len()).await?;
        Ok(Bytes::from_owner(Untaken { bytes, _on_connection: on_connection }))
    }
}

#[cfg(test)]
mod tests {
    use http_body::Body;
    use http_body_util::{BodyExt as _, Full, StreamBody};

    use super::*;
    use crate::transport::{BoxError, GatherError, Source};

    const WAIT: Duration = Duration::from_millis(20);

    /// A body whose length is not known, and that ends when it was told to.
    fn pieces(pieces: &[usize]) -> impl Body<Data = Bytes, Error = std::convert::Infallible> + use<> {
        let frames: Vec<_> =
            pieces.iter().map(|n| Ok(hyper::body::Frame::data(Bytes::from(vec![b'x'; *n])))).collect();
        StreamBody::new(futures_util::stream::iter(frames))
    }

    fn limited(n: usize, limit: usize) -> impl Body<Data = Bytes, Error = BoxError> {
        http_body_util::Limited::new(pieces(&[n / 2, n - n / 2]), limit)
    }

    #[tokio::test]
    async fn what_is_held_is_given_back_with_the_last_reference() {
        let memory = Memory::new(4 << 20, WAIT);
        for (length, announced) in [(1, true), (100, false), (70_000, true), (900_000, false), (0, false)] {
            let gathered = if announced {
                memory.gather(Full::new(Bytes::from(vec![b'x'; length])), Source::Upstream).await
            } else {
                memory.gather(limited(length, 1 << 20), Source::Upstream).await
            };
            let (bytes, held) = gathered.expect("there is room");
            assert_eq!((bytes.len(), memory.held().0), (length, length));
            let part = bytes.slice(length / 2..);
            drop((bytes, held));
            assert_eq!(memory.held().0, if length == 0 { 0 } else { length });
            drop(part);
            assert_eq!(memory.held().0, 0);
        }
    }

    #[tokio::test]
    async fn small_bodies_have_room_beside_large_ones_and_large_ones_wait() {
        let memory = Memory::new(4 << 20, WAIT);
        let large = |n: usize| memory.gather(Full::new(Bytes::from(vec![b'x'; n])), Source::Upstream);
        let (first, _) = large(2 << 20).await.expect("there is room");
        assert!(matches!(large(2 << 20).await, Err(GatherError::NoRoom(_))));
        let (_small, _) = memory.gather(pieces(&[1_000]), Source::Upstream).await.expect("there is room");
        let waiting = large(2 << 20);
        let (second, ()) = tokio::join!(waiting, async move { drop(first) });
        // What is larger than all of it has it alone.
        drop(second);
        let (_whole, _) = large(5 << 20).await.expect("there is room");
        assert!(matches!(large(SMALL + 1).await, Err(GatherError::NoRoom(_))));
    }

    #[tokio::test]
    async fn what_cannot_be_repeated_has_room_while_it_is_small() {
        let memory = Memory::new(4 * SMALL, WAIT);
        let body = |n: usize| Full::new(Bytes::from(vec![b'x'; n]));
        let (full, _) = memory.gather(body(SMALL), Source::Upstream).await.expect("there is room");
        assert!(memory.gather(body(1), Source::Upstream).await.is_err());
        let (over, _) = memory.gather(body(1_000), Source::UpstreamOnce).await.expect("it needs no room");
        drop(full);
        // What is held beyond the limit is missing until it is given back.
        assert!(memory.gather(body(SMALL), Source::Upstream).await.is_err());
        drop(over);
        assert!(memory.gather(body(SMALL), Source::Upstream).await.is_ok());
        assert_eq!(memory.held().0, 0);
    }

    #[tokio::test]
    async fn what_is_stored_counts_elsewhere_until_it_is_stored_no_more() {
        let memory = Memory::new(4 << 20, WAIT);
        let body = || Full::new(Bytes::from(vec![b'x'; 2 << 20]));
        let (first, held) = memory.gather(body(), Source::Upstream).await.expect("there is room");
        held.suspend();
        held.suspend();
        assert_eq!(memory.held().0, 0);
        let (second, _) = memory.gather(body(), Source::Upstream).await.expect("there is room");
        held.resume();
        held.resume();
        assert_eq!(memory.held().0, 4 << 20);
        drop((first, held, second));
        assert_eq!(memory.held().0, 0);
    }

    #[tokio::test]
    async fn a_connection_has_a_limit_of_its_own() {
        let (memory, connection) = (Memory::new(64 << 20, WAIT), Connection::new(1 << 20));
        let body = |n: usize| Full::new(Bytes::from(vec![b'x'; n]));
        let client = || Source::Client(&connection);
        let (first, _) = memory.gather(body(900_000), client()).await.expect("there is room");
        assert!(memory.gather(body(900_000), client()).await.is_err());
        assert!(memory.until_taken(&connection, Bytes::from(vec![0; 900_000])).await.is_err());
        drop(first);
        let answer =
            memory.until_taken(&connection, Bytes::from(vec![0; 900_000])).await.expect("there is room");
        assert!(memory.gather(body(900_000), client()).await.is_err());
        drop(answer.slice(1..));
        drop(answer);
        assert!(memory.gather(body(900_000), client()).await.is_ok());
        assert!(body(1).collect().await.is_ok());
    }
}
