//! One budget of bytes for the bodies that are held in memory: what is gathered of start calls and of Snyk's answers,
//! and answers until their clients have taken them.
//!
//! A reservation travels with its bytes. It is given back when the last reference to them goes, wherever that is (in a
//! write buffer of hyper's, say). A stored answer counts for `cache.max_bytes` instead, as long as it is stored. Small
//! bodies have a part of their own, so that polls do not wait behind large answers. With several clients, each may hold
//! half of either part.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use bytes::Bytes;
use tokio_util::sync::CancellationToken;

use super::pool::{Need, NoRoom, Pool, Share, Size, lock};

/// Largest body that is a small one, in bytes.
pub const SMALL: usize = 64 * 1024;
/// The part of the budget that is for small bodies: one in so many.
const SMALL_PART: usize = 4;
/// Divisor of each part for one client, if there are several.
const CLIENT_PART: usize = 2;

/// An answer's bytes, and the room that is held for them on their connection.
struct Untaken {
    bytes: Bytes,
    _on_connection: Option<Share>,
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
    pub(crate) fn new(max: usize) -> Self {
        Self { half_closed: CancellationToken::new(), untaken: Pool::new(max, max) }
    }
}

/// A part of the budget, with the shares of the clients that hold some of it.
#[derive(Debug)]
struct MemoryPart {
    whole: Arc<Pool>,
    clients: Mutex<HashMap<Arc<str>, Weak<Pool>>>,
    largest: usize,
}

impl MemoryPart {
    fn new(max: usize, largest: usize) -> Arc<Self> {
        Arc::new(Self { whole: Pool::new(max, largest), clients: Mutex::default(), largest })
    }

    fn of(&self, client: &Arc<str>) -> Arc<Pool> {
        let mut clients = lock(&self.clients);
        clients.get(client).and_then(Weak::upgrade).unwrap_or_else(|| {
            clients.retain(|_, pool| pool.strong_count() > 0);
            let pool = Pool::new(self.whole.max / CLIENT_PART, self.largest);
            clients.insert(Arc::clone(client), Arc::downgrade(&pool));
            pool
        })
    }
}

/// The budget.
#[derive(Debug, Clone)]
pub struct Memory {
    small: Arc<MemoryPart>,
    large: Arc<MemoryPart>,
    /// In milliseconds.
    max_wait: Arc<AtomicU64>,
    several_clients: Arc<AtomicBool>,
}

impl Memory {
    /// A budget of `max` bytes for bodies of up to `largest`.
    pub(crate) fn new(max: usize, largest: usize) -> Self {
        let small = max / SMALL_PART;
        Self {
            small: MemoryPart::new(small, SMALL),
            large: MemoryPart::new(max - small, largest),
            max_wait: Arc::default(),
            several_clients: Arc::default(),
        }
    }

    /// Sets the longest wait for room. With several clients, each leaves room for the others.
    pub fn set(&self, max_wait: Duration, several_clients: bool) {
        let millis = u64::try_from(max_wait.as_millis()).unwrap_or(u64::MAX);
        self.max_wait.store(millis, Ordering::Relaxed);
        self.several_clients.store(several_clients, Ordering::Relaxed);
    }

    fn max_wait(&self) -> Duration {
        Duration::from_millis(self.max_wait.load(Ordering::Relaxed))
    }

    /// The bytes that are held, and the limit.
    pub(crate) fn held(&self) -> (usize, usize) {
        (self.small.whole.held() + self.large.whole.held(), self.small.whole.max + self.large.whole.max)
    }

    /// Room for nothing yet, in the part for bodies of so many bytes.
    fn share(&self, client: &Arc<str>, bytes: usize) -> Share {
        let part = if bytes <= SMALL { &self.small } else { &self.large };
        let of_client = self.several_clients.load(Ordering::Relaxed).then(|| part.of(client));
        Share::of(&part.whole, of_client.as_ref())
    }

    /// Waits for room for `bytes` in all, and holds what there is meanwhile.
    pub(super) async fn room(
        &self,
        share: &mut Option<Share>,
        client: &Arc<str>,
        need: Need,
    ) -> Result<(), NoRoom> {
        match share {
            Some(share) if (share.bytes() <= SMALL) == (need.bytes <= SMALL) => {
                share.wait(need, self.max_wait()).await
            }
            share => {
                let mut other = self.share(client, need.bytes);
                other.wait(need, self.max_wait()).await?;
                *share = Some(other);
                Ok(())
            }
        }
    }

    /// Takes room, whether there is any or not.
    pub(super) fn room_at_once(&self, client: &Arc<str>, bytes: usize) -> Share {
        let mut share = self.share(client, bytes);
        share.set(bytes);
        share
    }

    /// Waits for room on a connection, for `bytes` in all.
    pub(super) async fn room_on(
        &self,
        connection: &Connection,
        share: &mut Option<Share>,
        need: Need,
    ) -> Result<(), NoRoom> {
        let share = share.get_or_insert_with(|| Share::of(&connection.untaken, None));
        share.wait(need, self.max_wait()).await
    }

    /// Waits for room for an answer on its client's connection, and holds that until it was taken.
    ///
    /// # Errors
    /// [`NoRoom`].
    pub async fn until_taken(&self, connection: &Connection, bytes: Bytes) -> Result<Bytes, NoRoom> {
        let mut on_connection = None;
        self.room_on(connection, &mut on_connection, Need { bytes: bytes.len(), size: Size::Known }).await?;
        Ok(Bytes::from_owner(Untaken { bytes, _on_connection: on_connection }))
    }
}

#[cfg(test)]
mod tests {
    use http_body::Body;
    use http_body_util::{BodyExt as _, Full, StreamBody};

    use super::*;
    use crate::error_text::BoxError;
    use crate::transport::{BodySource, GatherError};

    const WAIT: Duration = Duration::from_millis(20);

    fn client(name: &str) -> Arc<str> {
        name.into()
    }

    fn memory(max: usize) -> Memory {
        let memory = Memory::new(max, 1 << 20);
        memory.set(WAIT, false);
        memory
    }

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
        let memory = memory(4 << 20);
        for (length, announced) in [(1, true), (100, false), (70_000, true), (900_000, false), (0, false)] {
            let gathered = if announced {
                memory
                    .gather(Full::new(Bytes::from(vec![b'x'; length])), BodySource::Upstream, &client("a"))
                    .await
            } else {
                memory.gather(limited(length, 1 << 20), BodySource::Upstream, &client("a")).await
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
        let memory = memory(4 << 20);
        let a = client("a");
        let large = |n: usize| memory.gather(Full::new(Bytes::from(vec![b'x'; n])), BodySource::Upstream, &a);
        let (first, _) = large(2 << 20).await.expect("there is room");
        assert!(matches!(large(2 << 20).await, Err(GatherError::NoRoom(_))));
        let (_small, _) =
            memory.gather(pieces(&[1_000]), BodySource::Upstream, &client("a")).await.expect("there is room");
        let waiting = large(2 << 20);
        let (second, ()) = tokio::join!(waiting, async move { drop(first) });
        // What is larger than all of it has it alone.
        drop(second);
        let (_whole, _) = large(5 << 20).await.expect("there is room");
        assert!(matches!(large(SMALL + 1).await, Err(GatherError::NoRoom(_))));
    }

    #[tokio::test]
    async fn what_cannot_be_repeated_has_room_while_it_is_small() {
        let memory = memory(4 * SMALL);
        let body = |n: usize| Full::new(Bytes::from(vec![b'x'; n]));
        let (full, _) =
            memory.gather(body(SMALL), BodySource::Upstream, &client("a")).await.expect("there is room");
        assert!(memory.gather(body(1), BodySource::Upstream, &client("a")).await.is_err());
        let (over, _) = memory
            .gather(body(1_000), BodySource::UpstreamOnce, &client("a"))
            .await
            .expect("it needs no room");
        drop(full);
        // What is held beyond the limit is missing until it is given back.
        assert!(memory.gather(body(SMALL), BodySource::Upstream, &client("a")).await.is_err());
        drop(over);
        assert!(memory.gather(body(SMALL), BodySource::Upstream, &client("a")).await.is_ok());
        assert_eq!(memory.held().0, 0);
    }

    #[tokio::test]
    async fn what_is_stored_counts_elsewhere_until_it_is_stored_no_more() {
        let memory = memory(4 << 20);
        let body = || Full::new(Bytes::from(vec![b'x'; 2 << 20]));
        let (first, held) =
            memory.gather(body(), BodySource::Upstream, &client("a")).await.expect("there is room");
        held.suspend();
        held.suspend();
        assert_eq!(memory.held().0, 0);
        let (second, _) =
            memory.gather(body(), BodySource::Upstream, &client("a")).await.expect("there is room");
        held.resume();
        held.resume();
        assert_eq!(memory.held().0, 4 << 20);
        drop((first, held, second));
        assert_eq!(memory.held().0, 0);
    }

    #[tokio::test]
    async fn a_connection_has_a_limit_of_its_own() {
        let (memory, connection) = (memory(64 << 20), Connection::new(1 << 20));
        let body = |n: usize| Full::new(Bytes::from(vec![b'x'; n]));
        let sent = || BodySource::Client(&connection);
        let (first, _) = memory.gather(body(900_000), sent(), &client("a")).await.expect("there is room");
        assert!(memory.gather(body(900_000), sent(), &client("a")).await.is_err());
        assert!(memory.until_taken(&connection, Bytes::from(vec![0; 900_000])).await.is_err());
        drop(first);
        let answer =
            memory.until_taken(&connection, Bytes::from(vec![0; 900_000])).await.expect("there is room");
        assert!(memory.gather(body(900_000), sent(), &client("a")).await.is_err());
        drop(answer.slice(1..));
        drop(answer);
        assert!(memory.gather(body(900_000), sent(), &client("a")).await.is_ok());
        assert!(body(1).collect().await.is_ok());
    }
}
