//! A number of bytes that bodies may hold, and their shares of it.
//!
//! A body grows as it comes. One that finds no room waits, holding what it has. So that such bodies do not wait for each
//! other for ever, they leave room for one of them to become as large as it may: that one is in the lane. Who waits is in
//! no order, so that a large body does not stand before a small one.

use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::timeout;

/// A panic while it was locked left it whole: each change is one call.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// There was no room in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no room among the bodies that are held in memory")]
pub struct NoRoom;

/// The knowledge of a body's size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Size {
    /// It needs no more than it asks for.
    Known,
    /// It may need more.
    Grows,
}

/// The room that a body needs.
#[derive(Debug, Clone, Copy)]
pub(super) struct Need {
    /// In all, with the bytes that it has.
    pub(super) bytes: usize,
    pub(super) size: Size,
}

/// A number of bytes that may be held.
#[derive(Debug)]
pub(super) struct Pool {
    pub(super) max: usize,
    /// Bytes that bodies that grow leave free for the body in the lane.
    lane: usize,
    held: Mutex<PoolUse>,
    freed: Notify,
}

#[derive(Debug, Default)]
struct PoolUse {
    all: usize,
    /// By the body in the lane.
    in_lane: usize,
}

impl Pool {
    /// One of `max` bytes, for bodies of up to `largest`.
    pub(super) fn new(max: usize, largest: usize) -> Arc<Self> {
        Arc::new(Self { max, lane: largest.min(max / 2), held: Mutex::default(), freed: Notify::new() })
    }

    pub(super) fn held(&self) -> usize {
        lock(&self.held).all
    }
}

/// Bytes of a pool that a body holds.
#[derive(Debug)]
struct Allocation {
    pool: Arc<Pool>,
    bytes: usize,
    in_lane: bool,
}

impl Allocation {
    fn of(pool: &Arc<Pool>) -> Self {
        Self { pool: Arc::clone(pool), bytes: 0, in_lane: false }
    }

    /// Takes room for `to` bytes in all, if there is any. What is larger than all of the pool can have it alone.
    fn grow(&mut self, to: usize, size: Size) -> bool {
        let mut held = lock(&self.pool.held);
        let others = held.all - self.bytes;
        if others > 0 && others + to > self.pool.max {
            return false;
        }
        let outside = others - if self.in_lane { 0 } else { held.in_lane };
        let has_room = size == Size::Known || outside + to <= self.pool.max - self.pool.lane;
        if self.in_lane || (!has_room && held.in_lane == 0) {
            (held.in_lane, self.in_lane) = (to, true);
        } else if !has_room {
            return false;
        }
        (held.all, self.bytes) = (others + to, to);
        true
    }

    /// Holds `bytes` from now on, in the lane or not, whether there is room for them or not.
    fn set(&mut self, bytes: usize, in_lane: bool) {
        let mut held = lock(&self.pool.held);
        if std::mem::replace(&mut self.in_lane, in_lane) {
            held.in_lane = if in_lane { bytes } else { 0 };
        }
        held.all = held.all - self.bytes + bytes;
        self.bytes = bytes;
        drop(held);
        self.pool.freed.notify_waiters();
    }
}

/// Room for a body, given back when dropped.
#[derive(Debug)]
pub(super) struct Share {
    bytes: usize,
    place: Allocation,
    /// Of what its client may hold.
    of_client: Option<Allocation>,
}

impl Share {
    pub(super) fn of(pool: &Arc<Pool>, of_client: Option<&Arc<Pool>>) -> Self {
        Self { bytes: 0, place: Allocation::of(pool), of_client: of_client.map(Allocation::of) }
    }

    /// The bytes that it is room for.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    fn grow(&mut self, to: usize, size: Size) -> bool {
        let was_in_lane = self.of_client.as_ref().is_some_and(|place| place.in_lane);
        if self.of_client.as_mut().is_some_and(|place| !place.grow(to, size)) {
            return false;
        }
        if !self.place.grow(to, size) {
            self.of_client.iter_mut().for_each(|place| place.set(self.bytes, was_in_lane));
            return false;
        }
        self.bytes = to;
        true
    }

    /// Waits for room for all of `need`, and keeps its present room meanwhile.
    pub(super) async fn wait(&mut self, need: Need, max_wait: Duration) -> Result<(), NoRoom> {
        let pool = Arc::clone(&self.place.pool);
        let waiting = async {
            loop {
                let mut freed = pin!(pool.freed.notified());
                freed.as_mut().enable();
                if self.grow(need.bytes, need.size) {
                    return;
                }
                freed.await;
            }
        };
        timeout(max_wait, waiting).await.map_err(|_| NoRoom)
    }

    /// Holds `bytes` from now on, of a body that is whole.
    pub(super) fn set(&mut self, bytes: usize) {
        self.bytes = bytes;
        self.count(bytes);
    }

    fn count(&mut self, bytes: usize) {
        // Who waits for either is woken by the second.
        self.of_client.iter_mut().chain([&mut self.place]).for_each(|place| place.set(bytes, false));
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.count(0);
    }
}

/// Room that is held for a body; none for a body that streams.
#[derive(Debug, Clone, Default)]
pub struct Room(Option<Arc<Mutex<Share>>>);

impl Room {
    pub(super) fn of(share: Option<Share>) -> Self {
        Self(share.map(|share| Arc::new(Mutex::new(share))))
    }

    /// It counts elsewhere from now on: it is stored.
    pub fn suspend(&self) {
        self.0.iter().for_each(|share| lock(share).count(0));
    }

    /// It counts here again, whether there is room or not: it is stored no more, and clients may still read it.
    pub fn resume(&self) {
        for mut share in self.0.iter().map(|share| lock(share)) {
            let bytes = share.bytes;
            share.count(bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Size::{Grows, Known};
    use super::*;

    #[test]
    fn bodies_that_grow_leave_room_for_one_of_them_to_end() {
        let pool = Pool::new(100, 40);
        let mut bodies: Vec<_> = (0..4).map(|_| Share::of(&pool, None)).collect();
        assert!(bodies[0].grow(30, Grows) && bodies[1].grow(30, Grows));
        // The third is in the lane, and the only one that goes on.
        assert!(bodies[2].grow(1, Grows) && !bodies[3].grow(1, Grows) && !bodies[0].grow(31, Grows));
        assert!(bodies[2].grow(40, Grows));
        // It leaves the lane when it is whole. Then another becomes whole.
        bodies[2].set(35);
        assert!(bodies[0].grow(31, Grows));
        assert_eq!(pool.held(), 96);
        // What is known needs no lane, but room. What is too large has all of it alone.
        assert!(bodies[3].grow(4, Known) && !bodies[3].grow(5, Known));
        drop(bodies);
        assert_eq!((pool.held(), lock(&pool.held).in_lane), (0, 0));
        // The one in the lane goes on when the others are gone.
        let (mut first, mut second) = (Share::of(&pool, None), Share::of(&pool, None));
        assert!(first.grow(60, Grows) && second.grow(20, Grows));
        drop(first);
        assert!(second.grow(40, Grows));
        drop(second);
        let (mut large, mut other) = (Share::of(&pool, None), Share::of(&pool, None));
        assert!(large.grow(1_000, Known) && !other.grow(1, Known));
    }

    #[test]
    fn what_a_client_may_not_hold_is_not_held_in_either_pool() {
        let (whole, client) = (Pool::new(100, 0), Pool::new(50, 0));
        let mut body = Share::of(&whole, Some(&client));
        assert!(body.grow(50, Known));
        let mut second = Share::of(&whole, Some(&client));
        assert!(!second.grow(1, Known));
        assert!(Share::of(&whole, None).grow(50, Known));
        let mut full = Share::of(&whole, None);
        assert!(full.grow(50, Known));
        body.set(40);
        full.set(60);
        assert!(!second.grow(5, Known));
        assert_eq!((whole.held(), client.held()), (100, 40));
    }

    #[tokio::test]
    async fn who_needs_little_does_not_wait_behind_who_needs_much() {
        let pool = Pool::new(100, 0);
        let mut holder = Share::of(&pool, None);
        assert!(holder.grow(100, Known));
        let (mut much, mut little) = (Share::of(&pool, None), Share::of(&pool, None));
        let wait = Duration::from_millis(100);
        let freeing = async { holder.set(90) };
        let need = |bytes| Need { bytes, size: Known };
        let waited = tokio::join!(much.wait(need(50), wait), little.wait(need(10), wait), freeing);
        assert!(matches!(waited, (Err(NoRoom), Ok(()), ())));
    }
}
