//! Requests on their way, and who waits for them: equal questions in flight cost one request.
//!
//! The first to ask *leads*: it is given a [`Lead`], which the fetch keeps (a task of its own, so that
//! no client can cancel or slow it for the others). Everybody, the first included, waits on a
//! [`Waiter`]. Closing the flight takes it off the map and tells who is waiting; nobody can join it
//! after that. Landing it hands out the answer. A lead that is dropped (its task panicked) ends the
//! wait of everybody with `None`.

use std::collections::HashMap;
use std::future::Future;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::time::sleep;
use uuid::Uuid;

use super::key::Key;

/// How long a client that has closed its half of the connection is taken for one that waits.
pub const HALF_CLOSED: Duration = Duration::from_secs(1);

/// The flights of one gateway, by what they ask. `T` is what lands.
#[derive(Debug)]
pub struct Flights<T> {
    by_key: Arc<Mutex<HashMap<Key, Arc<Flight<T>>>>>,
    max_followers: usize,
}

/// A client that waits for a flight.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// The client's request id.
    pub request: Uuid,
    /// The client's name.
    pub client: Arc<str>,
}

#[derive(Debug)]
struct Flight<T> {
    landed: watch::Sender<Option<T>>,
    /// Whether its answer is there already, and only being recorded and stored.
    arrived: AtomicBool,
    /// Told when somebody left and nobody waits any more.
    left: Notify,
    members: Mutex<HashMap<Uuid, Place>>,
    /// The client that caused it.
    leader: Option<Arc<str>>,
}

/// Of a member.
#[derive(Debug)]
struct Place {
    client: Arc<str>,
    presence: Presence,
}

/// Whether a member is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Presence {
    Waits,
    /// It has closed its half of the connection: it may wait, or be gone.
    HalfClosed,
    /// It has been so for a while: most of those are gone.
    Left,
}

/// Whether somebody waits, as far as is known.
fn somebody_waits(members: &HashMap<Uuid, Place>) -> bool {
    members.values().any(|place| place.presence != Presence::Left)
}

/// How a request gets its answer.
#[derive(Debug)]
pub enum Boarding<T> {
    /// Nobody asks this yet: fetch it, and wait like everybody.
    Lead(Lead<T>, Waiter<T>),
    /// It is being fetched.
    Follow(Waiter<T>),
    /// It is being fetched and too many wait for it already.
    Full,
}

impl<T: Clone> Flights<T> {
    /// No flights yet; at most `max_followers` may wait for one.
    #[must_use]
    pub fn new(max_followers: usize) -> Self {
        Self { by_key: Arc::default(), max_followers }
    }

    /// Joins the flight of `key`, or starts one, unless `stored` finds that an earlier one has landed
    /// since the cache was looked at. A flight is stored before it is taken off the map, so that under
    /// the map's lock one of the two is seen. Who wants an answer that was made after it asked (`anew`)
    /// joins no flight whose answer is there already; it leads one that nobody else can join.
    ///
    /// # Errors
    /// What `stored` found.
    pub fn board<S>(
        &self,
        key: &Key,
        (member, anew): (Member, bool),
        stored: impl FnOnce() -> Option<S>,
    ) -> Result<Boarding<T>, S> {
        let mut by_key = lock(&self.by_key);
        if let Some(flight) = by_key.get(key) {
            if anew && flight.arrived.load(Ordering::Acquire) {
                let (lead, waiter) = Lead::start(None, member);
                return Ok(Boarding::Lead(lead, waiter));
            }
            if lock(&flight.members).len() > self.max_followers {
                return Ok(Boarding::Full);
            }
            return Ok(Boarding::Follow(Waiter::join(flight, member)));
        }
        if let Some(stored) = stored() {
            return Err(stored);
        }
        let (lead, waiter) = Lead::start(Some((Arc::clone(&self.by_key), key.clone())), member);
        by_key.insert(key.clone(), Arc::clone(&lead.flight));
        Ok(Boarding::Lead(lead, waiter))
    }

    /// Starts a flight for nobody, unless there is one of `key`: who comes meanwhile may join it.
    #[must_use]
    pub fn ahead(&self, key: &Key) -> Option<Lead<T>> {
        let mut by_key = lock(&self.by_key);
        if by_key.contains_key(key) {
            return None;
        }
        let lead = Lead::of(Some((Arc::clone(&self.by_key), key.clone())), None);
        by_key.insert(key.clone(), Arc::clone(&lead.flight));
        Some(lead)
    }

    /// Whether `client` caused the flight of `key` and has left it since.
    #[must_use]
    pub fn was_left_by(&self, key: &str, client: &Arc<str>) -> bool {
        let by_key = lock(&self.by_key);
        let Some(flight) = by_key.get(key) else { return false };
        flight.leader.as_ref() == Some(client)
            && !lock(&flight.members)
                .values()
                .any(|place| place.client == *client && place.presence == Presence::Waits)
    }

    /// How many wait for certain, over all flights that can be joined.
    #[must_use]
    pub fn waiting(&self) -> usize {
        let waiting = |flight: &Arc<Flight<T>>| {
            lock(&flight.members).values().filter(|place| place.presence == Presence::Waits).count()
        };
        lock(&self.by_key).values().map(waiting).sum()
    }

    /// Starts a flight that nobody else can join.
    #[must_use]
    pub fn alone(&self, member: Member) -> (Lead<T>, Waiter<T>) {
        Lead::start(None, member)
    }
}

type OnMap<T> = (Arc<Mutex<HashMap<Key, Arc<Flight<T>>>>>, Key);

/// The right to fetch, and the duty to land.
#[derive(Debug)]
pub struct Lead<T> {
    flight: Arc<Flight<T>>,
    on_map: Option<OnMap<T>>,
}

impl<T> Lead<T> {
    fn start(on_map: Option<OnMap<T>>, member: Member) -> (Self, Waiter<T>) {
        let lead = Self::of(on_map, Some(Arc::clone(&member.client)));
        let waiter = Waiter::join(&lead.flight, member);
        (lead, waiter)
    }

    fn of(on_map: Option<OnMap<T>>, leader: Option<Arc<str>>) -> Self {
        let flight = Arc::new(Flight {
            landed: watch::Sender::new(None),
            arrived: AtomicBool::new(false),
            left: Notify::new(),
            members: Mutex::default(),
            leader,
        });
        Self { flight, on_map }
    }

    /// Resolves when the last of those who waited has left, or may have.
    pub async fn abandoned(&self) {
        self.flight.left.notified().await;
    }

    /// Whether nobody waits.
    #[must_use]
    pub fn is_abandoned(&self) -> bool {
        !somebody_waits(&lock(&self.flight.members))
    }

    /// Takes the flight off the map if nobody waits for it any more; whether that is so.
    pub fn give_up(&mut self) -> bool {
        let map = self.on_map.as_ref().map(|(map, key)| (Arc::clone(map), key.clone()));
        let guard = map.as_ref().map(|(map, key)| (lock(map), key));
        if somebody_waits(&lock(&self.flight.members)) {
            return false;
        }
        if let Some((mut by_key, key)) = guard {
            by_key.remove(key);
        }
        self.on_map = None;
        true
    }

    /// Says that the answer is there, and tells who waits now.
    #[must_use]
    pub fn arrived(&self) -> Vec<Member> {
        self.flight.arrived.store(true, Ordering::Release);
        self.take_members()
    }

    /// Those who wait now and were not taken before.
    fn take_members(&self) -> Vec<Member> {
        let members = lock(&self.flight.members).drain().collect::<Vec<_>>();
        members.into_iter().map(|(request, place)| Member { request, client: place.client }).collect()
    }

    /// Takes the flight off the map, so that nobody can join it any more, and tells who waits that was
    /// not taken before.
    pub fn close(&mut self) -> Vec<Member> {
        if let Some((map, key)) = self.on_map.take() {
            lock(&map).remove(&key);
        }
        self.take_members()
    }

    /// Hands `answer` to everybody who waits.
    pub fn land(mut self, answer: T) {
        self.close();
        self.flight.landed.send_replace(Some(answer));
    }
}

impl<T> Drop for Lead<T> {
    fn drop(&mut self) {
        self.close();
        // A landed flight's waiters hold the answer; of any other, the wait ends with nothing.
        self.flight.landed.send_if_modified(|_| true);
    }
}

/// A place among those who wait for a flight.
#[derive(Debug)]
pub struct Waiter<T> {
    flight: Arc<Flight<T>>,
    landed: watch::Receiver<Option<T>>,
    request: Uuid,
}

impl<T> Waiter<T> {
    fn join(flight: &Arc<Flight<T>>, member: Member) -> Self {
        let request = member.request;
        lock(&flight.members).insert(request, Place { client: member.client, presence: Presence::Waits });
        Self { landed: flight.landed.subscribe(), flight: Arc::clone(flight), request }
    }
}

impl<T: Clone> Waiter<T> {
    /// Waits until the flight lands; `None` when it never will. Who has `half_closed` the connection gets what lands, and
    /// counts after a while as one that has left.
    pub async fn landed(mut self, half_closed: impl Future<Output = ()>) -> Option<T> {
        let (flight, request) = (Arc::clone(&self.flight), self.request);
        let leaving = async {
            half_closed.await;
            flight.note(request, Presence::HalfClosed);
            sleep(HALF_CLOSED).await;
            flight.note(request, Presence::Left);
        };
        tokio::select! {
            biased;
            landed = self.landed.changed() => landed.ok()?,
            () = leaving => self.landed.changed().await.ok()?,
        }
        self.landed.borrow_and_update().clone()
    }
}

impl<T> Flight<T> {
    fn note(&self, request: Uuid, presence: Presence) {
        self.change(|members| {
            if let Some(place) = members.get_mut(&request) {
                place.presence = presence;
            }
        });
    }

    fn change(&self, change: impl FnOnce(&mut HashMap<Uuid, Place>)) {
        let somebody_waits = {
            let mut members = lock(&self.members);
            change(&mut members);
            somebody_waits(&members)
        };
        if !somebody_waits {
            self.left.notify_one();
        }
    }
}

impl<T> Drop for Waiter<T> {
    fn drop(&mut self) {
        self.flight.change(|members| {
            members.remove(&self.request);
        });
    }
}

/// A panic while the map was locked left it whole: each change is one call.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use http::HeaderMap;

    use super::*;
    use crate::route::{Route, recognise};

    fn key(export: &str) -> Key {
        let uri = format!("/orgs/o/export/{export}").parse().expect("a URI");
        match recognise(&http::Method::GET, &uri, false) {
            Ok(Route::Export(call)) => Key::new("u", "c", &call, &[], &HeaderMap::new()),
            _ => unreachable!("an export call"),
        }
    }

    fn member(n: u128) -> Member {
        Member { request: Uuid::from_u128(n), client: "test".into() }
    }

    fn board<T: Clone>(flights: &Flights<T>, export: &str, n: u128) -> Boarding<T> {
        let boarded = flights.board(&key(export), (member(n), false), || None::<()>);
        boarded.unwrap_or_else(|()| unreachable!("nothing is stored"))
    }

    #[test]
    fn what_has_landed_meanwhile_is_found_and_a_flight_comes_before_it() {
        let flights = Flights::<u8>::new(10);
        assert!(matches!(flights.board(&key("a"), (member(1), false), || Some("stored")), Err("stored")));
        let _leading = board(&flights, "a", 2);
        assert!(matches!(
            flights.board(&key("a"), (member(3), false), || Some("stored")),
            Ok(Boarding::Follow(_))
        ));
    }

    #[tokio::test]
    async fn followers_get_the_leaders_answer_and_later_ones_lead_again() {
        let flights = Flights::new(10);
        let Boarding::Lead(mut lead, first) = board(&flights, "a", 1) else { panic!("first leads") };
        let Boarding::Follow(second) = board(&flights, "a", 2) else { panic!("second follows") };
        assert!(matches!(board(&flights, "b", 3), Boarding::Lead(..)));
        assert_eq!(lead.close().len(), 2);
        assert!(matches!(board(&flights, "a", 4), Boarding::Lead(..)));
        lead.land(7);
        assert_eq!((first.landed(pending()).await, second.landed(pending()).await), (Some(7), Some(7)));
    }

    #[test]
    fn who_wants_a_new_answer_joins_none_that_is_there_already() {
        let flights = Flights::<u8>::new(10);
        let Boarding::Lead(lead, _first) = board(&flights, "a", 1) else { panic!("first leads") };
        let anew = |n| flights.board(&key("a"), (member(n), true), || None::<()>);
        assert!(matches!(anew(2), Ok(Boarding::Follow(_))));
        let _ = lead.arrived();
        assert!(matches!(anew(3), Ok(Boarding::Lead(..))));
        assert!(matches!(board(&flights, "a", 4), Boarding::Follow(_)));
    }

    #[tokio::test]
    async fn who_leaves_is_not_counted_and_changes_nothing() {
        let flights = Flights::new(10);
        let Boarding::Lead(mut lead, first) = board(&flights, "a", 1) else { panic!("first leads") };
        let Boarding::Follow(second) = board(&flights, "a", 2) else { panic!("second follows") };
        drop(first);
        assert_eq!(lead.close(), vec![member(2)]);
        lead.land(7);
        assert_eq!(second.landed(pending()).await, Some(7));
    }

    #[tokio::test(start_paused = true)]
    async fn who_has_closed_one_half_counts_as_gone_after_a_while_and_gets_what_lands() {
        let flights = Flights::new(10);
        let Boarding::Lead(mut lead, first) = board(&flights, "a", 1) else { panic!("first leads") };
        let Boarding::Follow(second) = board(&flights, "a", 2) else { panic!("second follows") };
        let abandoning = async {
            drop(second);
            lead.abandoned().await;
            assert!(lead.give_up());
            assert!(matches!(board(&flights, "a", 3), Boarding::Lead(..)));
            lead.land(7);
        };
        let (landed, ()) = tokio::join!(first.landed(std::future::ready(())), abandoning);
        assert_eq!(landed, Some(7));
    }

    #[tokio::test]
    async fn a_lost_lead_ends_the_wait() {
        let flights = Flights::<u8>::new(10);
        let Boarding::Lead(lead, first) = board(&flights, "a", 1) else { panic!("first leads") };
        drop(lead);
        assert_eq!(first.landed(pending()).await, None);
        assert!(matches!(board(&flights, "a", 2), Boarding::Lead(..)));
    }

    #[tokio::test]
    async fn the_number_of_followers_is_limited() {
        let flights = Flights::<u8>::new(1);
        let boarded: Vec<_> = (1..=3).map(|n| board(&flights, "a", n)).collect();
        assert!(matches!(boarded.as_slice(), [Boarding::Lead(..), Boarding::Follow(_), Boarding::Full]));
    }
}
