//! Requests in flight and their followers: equal questions at one time cost one request.
//!
//! The fetch holds the [`Leader`] (it is a task of its own, so that no client can cancel or slow it for the
//! others). Everybody who asks, the first included, waits on a [`Follower`]. Closing the flight takes it off the
//! map and names its followers; nobody can join it after that. Completing it hands out the result. A leader that
//! is dropped (its task panicked) ends the wait of everybody with `None`.

use std::collections::HashMap;
use std::future::Future;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::time::sleep;
use uuid::Uuid;

use super::polls::Waiters;
use super::question::Newness;
use crate::cache::CacheKey;
use crate::journal::Served;

/// A client that has closed its half of the connection counts as waiting for this long.
pub(crate) const HALF_CLOSED_GRACE: Duration = Duration::from_secs(1);

/// The flights of one gateway, by their questions. `T` is their result.
#[derive(Debug)]
pub(super) struct Flights<T> {
    by_key: Arc<Mutex<HashMap<CacheKey, Arc<Flight<T>>>>>,
    max_followers: usize,
    /// True if flights look at what other gateways have first.
    look: bool,
}

#[derive(Debug)]
struct Flight<T> {
    result: watch::Sender<Option<T>>,
    /// True once its answer is there and only being recorded and stored.
    is_answered: AtomicBool,
    /// True while it may end with an answer that another gateway had before.
    is_looking: AtomicBool,
    /// Notified when somebody left and nobody waits any more.
    left: Notify,
    members: Mutex<HashMap<Uuid, Membership>>,
    /// The client that caused it.
    cause: Option<Arc<str>>,
    /// True if it began ahead of its first follower.
    is_ahead: bool,
}

/// One that waits for a flight.
#[derive(Debug, Clone)]
pub(super) enum Member {
    Client(Served),
    /// A poller, for all who wait with it; named by the request in whose name it asks.
    Poller(Uuid, Arc<Waiters>),
}

impl Member {
    fn request(&self) -> Uuid {
        match self {
            Self::Client(served) => served.request,
            Self::Poller(request, _) => *request,
        }
    }

    fn client(&self) -> Option<&Arc<str>> {
        match self {
            Self::Client(served) => Some(&served.client),
            Self::Poller(..) => None,
        }
    }

    fn served(self) -> Vec<Served> {
        match self {
            Self::Client(served) => vec![served],
            Self::Poller(_, waiters) => waiters.served(),
        }
    }
}

/// A member of a flight and its presence.
#[derive(Debug)]
struct Membership {
    member: Member,
    presence: Presence,
}

/// The presence of a member, as far as is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Presence {
    Waits,
    /// It has closed its half of the connection: it may wait, or be gone.
    HalfClosed,
    /// It has been so for a while: most of those are gone.
    Left,
}

/// True if somebody waits, as far as is known.
fn somebody_waits(members: &HashMap<Uuid, Membership>) -> bool {
    members.values().any(|member| member.presence != Presence::Left)
}

/// The part of an asker in a flight.
#[derive(Debug)]
pub(super) enum Role<T> {
    /// Nobody asks this yet: fetch it, and wait like everybody.
    Leader(Leader<T>, Follower<T>),
    /// It is being fetched.
    Follower(Follower<T>),
    /// It is being fetched and too many wait for it already.
    Full,
}

impl<T> Role<T> {
    /// The leader of a flight that nobody else can join.
    pub(super) fn alone(member: Member) -> Self {
        let (leader, follower) = Leader::start(None, member);
        Self::Leader(leader, follower)
    }

    /// Has `lead` run a new flight. The follower, and true if another leads; `None` if too many wait.
    pub(super) fn follow(self, lead: impl FnOnce(Leader<T>)) -> Option<(Follower<T>, bool)> {
        match self {
            Self::Full => None,
            Self::Follower(follower) => Some((follower, true)),
            Self::Leader(leader, follower) => {
                lead(leader);
                Some((follower, false))
            }
        }
    }
}

impl<T: Clone> Flights<T> {
    /// No flights yet; at most `max_followers` may wait for one. With `look` they look first for what other gateways have.
    pub(super) fn new(max_followers: usize, look: bool) -> Self {
        Self { by_key: Arc::default(), max_followers, look }
    }

    /// Joins the flight of `key`, or starts one, unless `stored` finds that an earlier one has ended
    /// since the cache was looked at. A result is stored before its flight is taken off the map, so that under
    /// the map's lock one of the two is seen. An asker that wants an answer made after it asked joins no flight whose answer
    /// is there already; it leads one that nobody else can join. One that does not take any answer joins none that may end
    /// with what another gateway had; it leads or joins one beside it, which asks Snyk.
    ///
    /// # Errors
    /// The stored response that `stored` found.
    pub(super) fn join<S>(
        &self,
        key: &CacheKey,
        member: Member,
        newness: Newness,
        stored: impl FnOnce() -> Option<S>,
    ) -> Result<Role<T>, S> {
        let mut by_key = lock(&self.by_key);
        let is_looking = |flight: &Arc<Flight<T>>| flight.is_looking.load(Ordering::Acquire);
        let beside =
            (newness != Newness::Any && by_key.get(key).is_some_and(is_looking)).then(|| key.beside());
        let look = self.look && newness != Newness::Anew && beside.is_none();
        let key = beside.as_ref().unwrap_or(key);
        if let Some(flight) = by_key.get(key) {
            if newness == Newness::Anew && flight.is_answered.load(Ordering::Acquire) {
                return Ok(Role::alone(member));
            }
            if lock(&flight.members).len() > self.max_followers {
                return Ok(Role::Full);
            }
            return Ok(Role::Follower(Follower::join(flight, member)));
        }
        if let Some(stored) = stored() {
            return Err(stored);
        }
        let (leader, follower) = Leader::start(Some((Arc::clone(&self.by_key), key.clone())), member);
        leader.flight.is_looking.store(look, Ordering::Release);
        by_key.insert(key.clone(), Arc::clone(&leader.flight));
        Ok(Role::Leader(leader, follower))
    }

    /// Starts a flight for nobody, unless there is one of `key`; later askers may join it.
    pub(super) fn lead_ahead(&self, key: &CacheKey) -> Option<Leader<T>> {
        let mut by_key = lock(&self.by_key);
        if by_key.contains_key(key) {
            return None;
        }
        let leader = Leader::of(Some((Arc::clone(&self.by_key), key.clone())), None);
        leader.flight.is_looking.store(self.look, Ordering::Release);
        by_key.insert(key.clone(), Arc::clone(&leader.flight));
        Some(leader)
    }

    /// True if `client` caused the flight of `key` and has left it since.
    pub(super) fn was_left_by(&self, key: &str, client: &Arc<str>) -> bool {
        let by_key = lock(&self.by_key);
        let Some(flight) = by_key.get(key) else { return false };
        flight.cause.as_ref() == Some(client)
            && !lock(&flight.members)
                .values()
                .any(|one| one.member.client() == Some(client) && one.presence == Presence::Waits)
    }

    /// The number of clients that wait for certain, over all flights that can be joined.
    pub(super) fn waiting(&self) -> usize {
        let waiting = |flight: &Arc<Flight<T>>| {
            let members = lock(&flight.members);
            members
                .values()
                .filter(|one| one.member.client().is_some() && one.presence == Presence::Waits)
                .count()
        };
        lock(&self.by_key).values().map(waiting).sum()
    }
}

type OnMap<T> = (Arc<Mutex<HashMap<CacheKey, Arc<Flight<T>>>>>, CacheKey);

/// The right to fetch, and the duty to complete the flight.
#[derive(Debug)]
pub(super) struct Leader<T> {
    flight: Arc<Flight<T>>,
    on_map: Option<OnMap<T>>,
}

impl<T> Leader<T> {
    fn start(on_map: Option<OnMap<T>>, member: Member) -> (Self, Follower<T>) {
        let leader = Self::of(on_map, Some(&member));
        let follower = Follower::join(&leader.flight, member);
        (leader, follower)
    }

    fn of(on_map: Option<OnMap<T>>, first: Option<&Member>) -> Self {
        let flight = Arc::new(Flight {
            result: watch::Sender::new(None),
            is_answered: AtomicBool::new(false),
            is_looking: AtomicBool::new(false),
            left: Notify::new(),
            members: Mutex::default(),
            cause: first.and_then(Member::client).cloned(),
            is_ahead: first.is_none(),
        });
        Self { flight, on_map }
    }

    /// Resolves when the last follower has left, or may have.
    pub(super) async fn abandoned(&self) {
        self.flight.left.notified().await;
    }

    /// Resolves when all followers have left; the flight is off the map then.
    pub(super) async fn given_up(&mut self) {
        // They may have left during an earlier try. A flight that began ahead has had none.
        if !self.flight.is_ahead && self.give_up() {
            return;
        }
        loop {
            self.abandoned().await;
            if self.give_up() {
                return;
            }
        }
    }

    /// True if nobody waits.
    pub(super) fn is_abandoned(&self) -> bool {
        !somebody_waits(&lock(&self.flight.members))
    }

    /// Takes the flight off the map if nobody waits for it any more; false if somebody does.
    pub(super) fn give_up(&mut self) -> bool {
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

    /// True if it may end with an answer that another gateway has.
    pub(super) fn looks(&self) -> bool {
        self.flight.is_looking.load(Ordering::Acquire)
    }

    /// Notes that Snyk is to be asked.
    pub(super) fn asks(&self) {
        self.flight.is_looking.store(false, Ordering::Release);
    }

    /// Notes that the answer is there; the followers so far.
    pub(super) fn answered(&self) -> Vec<Served> {
        self.flight.is_answered.store(true, Ordering::Release);
        self.take_members()
    }

    /// The followers that were not taken before.
    fn take_members(&self) -> Vec<Served> {
        let members = lock(&self.flight.members).drain().collect::<Vec<_>>();
        members.into_iter().flat_map(|(_, one)| one.member.served()).collect()
    }

    /// Takes the flight off the map, so that nobody can join it any more; the followers that were not taken before.
    pub(super) fn close(&mut self) -> Vec<Served> {
        if let Some((map, key)) = self.on_map.take() {
            lock(&map).remove(&key);
        }
        self.take_members()
    }

    /// Hands `result` to all followers.
    pub(super) fn complete(mut self, result: T) {
        self.close();
        self.flight.result.send_replace(Some(result));
    }
}

impl<T> Drop for Leader<T> {
    fn drop(&mut self) {
        self.close();
        // The followers of a completed flight have the result; of any other, the wait ends with nothing.
        self.flight.result.send_if_modified(|_| true);
    }
}

/// A wait for the result of a flight.
#[derive(Debug)]
pub(super) struct Follower<T> {
    flight: Arc<Flight<T>>,
    result: watch::Receiver<Option<T>>,
    request: Uuid,
}

impl<T> Follower<T> {
    fn join(flight: &Arc<Flight<T>>, member: Member) -> Self {
        let request = member.request();
        lock(&flight.members).insert(request, Membership { member, presence: Presence::Waits });
        Self { result: flight.result.subscribe(), flight: Arc::clone(flight), request }
    }
}

impl<T: Clone> Follower<T> {
    /// Waits for the result; `None` if there will be none. A client that has `half_closed` its connection gets the result
    /// too, but counts after a while as one that has left.
    pub(super) async fn result(mut self, half_closed: impl Future<Output = ()>) -> Option<T> {
        let (flight, request) = (Arc::clone(&self.flight), self.request);
        let leaving = async {
            half_closed.await;
            flight.note(request, Presence::HalfClosed);
            sleep(HALF_CLOSED_GRACE).await;
            flight.note(request, Presence::Left);
        };
        tokio::select! {
            biased;
            changed = self.result.changed() => changed.ok()?,
            () = leaving => self.result.changed().await.ok()?,
        }
        self.result.borrow_and_update().clone()
    }
}

impl<T> Flight<T> {
    fn note(&self, request: Uuid, presence: Presence) {
        self.change(|members| {
            if let Some(member) = members.get_mut(&request) {
                member.presence = presence;
            }
        });
    }

    fn change(&self, change: impl FnOnce(&mut HashMap<Uuid, Membership>)) {
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

impl<T> Drop for Follower<T> {
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
    use crate::export::ExportCall;

    fn key(export: &str) -> CacheKey {
        let call = ExportCall::of_target(&format!("/orgs/o/export/{export}")).expect("a call");
        CacheKey::from(CacheKey::text("u", "c", &call, &HeaderMap::new()))
    }

    fn served(n: u128) -> Served {
        Served { request: Uuid::from_u128(n), client: "test".into() }
    }

    fn member(n: u128) -> Member {
        Member::Client(served(n))
    }

    fn join<T: Clone>(flights: &Flights<T>, export: &str, n: u128) -> Role<T> {
        let role = flights.join(&key(export), member(n), Newness::Any, || None::<()>);
        role.unwrap_or_else(|()| unreachable!("nothing is stored"))
    }

    #[test]
    fn a_result_that_was_stored_meanwhile_is_found_and_a_flight_comes_before_it() {
        let flights = Flights::<u8>::new(10, false);
        assert!(matches!(flights.join(&key("a"), member(1), Newness::Any, || Some("stored")), Err("stored")));
        let _leading = join(&flights, "a", 2);
        assert!(matches!(
            flights.join(&key("a"), member(3), Newness::Any, || Some("stored")),
            Ok(Role::Follower(_))
        ));
    }

    #[tokio::test]
    async fn followers_get_the_leaders_answer_and_later_ones_lead_again() {
        let flights = Flights::new(10, false);
        let Role::Leader(mut leader, first) = join(&flights, "a", 1) else { panic!("first leads") };
        let Role::Follower(second) = join(&flights, "a", 2) else { panic!("second follows") };
        assert!(matches!(join(&flights, "b", 3), Role::Leader(..)));
        assert_eq!(leader.close().len(), 2);
        assert!(matches!(join(&flights, "a", 4), Role::Leader(..)));
        leader.complete(7);
        assert_eq!((first.result(pending()).await, second.result(pending()).await), (Some(7), Some(7)));
    }

    #[test]
    fn who_wants_a_new_answer_joins_none_that_is_there_already() {
        let flights = Flights::<u8>::new(10, false);
        let Role::Leader(leader, _first) = join(&flights, "a", 1) else { panic!("first leads") };
        let anew = |n| flights.join(&key("a"), member(n), Newness::Anew, || None::<()>);
        assert!(matches!(anew(2), Ok(Role::Follower(_))));
        let _ = leader.answered();
        assert!(matches!(anew(3), Ok(Role::Leader(..))));
        assert!(matches!(join(&flights, "a", 4), Role::Follower(_)));
    }

    #[test]
    fn who_does_not_take_any_answer_joins_no_flight_that_may_find_one() {
        let flights = Flights::<u8>::new(10, true);
        let join = |n, newness| flights.join(&key("a"), member(n), newness, || None::<()>);
        let Ok(Role::Leader(leader, _first)) = join(1, Newness::Any) else { panic!("first leads") };
        assert!(leader.looks());
        assert!(matches!(join(2, Newness::Any), Ok(Role::Follower(_))));
        // They have one beside it, and share that.
        let Ok(Role::Leader(beside, _second)) = join(3, Newness::Particular) else { panic!("it leads") };
        assert!(!beside.looks());
        assert!(matches!(join(4, Newness::Anew), Ok(Role::Follower(_))));
        // Once Snyk is asked, it is for all.
        leader.asks();
        assert!(matches!(join(5, Newness::Anew), Ok(Role::Follower(_))));
        drop((leader, beside));
        assert!(matches!(join(6, Newness::Anew), Ok(Role::Leader(leader, _)) if !leader.looks()));
    }

    #[tokio::test]
    async fn who_leaves_is_not_counted_and_changes_nothing() {
        let flights = Flights::new(10, false);
        let Role::Leader(mut leader, first) = join(&flights, "a", 1) else { panic!("first leads") };
        let Role::Follower(second) = join(&flights, "a", 2) else { panic!("second follows") };
        drop(first);
        assert_eq!(leader.close(), vec![served(2)]);
        leader.complete(7);
        assert_eq!(second.result(pending()).await, Some(7));
    }

    #[tokio::test(start_paused = true)]
    async fn who_has_closed_one_half_counts_as_gone_after_a_while_and_gets_the_result() {
        let flights = Flights::new(10, false);
        let Role::Leader(mut leader, first) = join(&flights, "a", 1) else { panic!("first leads") };
        let Role::Follower(second) = join(&flights, "a", 2) else { panic!("second follows") };
        let abandoning = async {
            drop(second);
            leader.abandoned().await;
            assert!(leader.give_up());
            assert!(matches!(join(&flights, "a", 3), Role::Leader(..)));
            leader.complete(7);
        };
        let (result, ()) = tokio::join!(first.result(std::future::ready(())), abandoning);
        assert_eq!(result, Some(7));
    }

    #[tokio::test(start_paused = true)]
    async fn another_try_knows_that_all_left_during_an_earlier_one() {
        let flights = Flights::<u8>::new(10, false);
        let Role::Leader(mut leader, first) = join(&flights, "a", 1) else { panic!("first leads") };
        drop(first);
        // The earlier try was told.
        leader.abandoned().await;
        let known = tokio::time::timeout(Duration::from_secs(1), leader.given_up()).await;
        assert!(known.is_ok());
        // Nobody has waited for a flight that began ahead.
        let mut ahead = flights.lead_ahead(&key("b")).expect("no other");
        let known = tokio::time::timeout(Duration::from_secs(1), ahead.given_up()).await;
        assert!(known.is_err());
    }

    #[tokio::test]
    async fn a_lost_lead_ends_the_wait() {
        let flights = Flights::<u8>::new(10, false);
        let Role::Leader(leader, first) = join(&flights, "a", 1) else { panic!("first leads") };
        drop(leader);
        assert_eq!(first.result(pending()).await, None);
        assert!(matches!(join(&flights, "a", 2), Role::Leader(..)));
    }

    #[tokio::test]
    async fn the_number_of_followers_is_limited() {
        let flights = Flights::<u8>::new(1, false);
        let roles: Vec<_> = (1..=3).map(|n| join(&flights, "a", n)).collect();
        assert!(matches!(roles.as_slice(), [Role::Leader(..), Role::Follower(_), Role::Full]));
    }
}
