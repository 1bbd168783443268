//! The requests that are under way with one credential, by client (pure; takes `now`).

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A read that all its clients have left keeps its slot at least for so long: they may come back.
const LEFT_ALONE: Duration = Duration::from_secs(5);
/// A client may use this many times the slots that are free. So one client alone takes three quarters, and the next one
/// finds a slot.
const SHARE_OF_FREE: usize = 3;

/// Names one request that is under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SlotId(u64);

/// A request that has a slot.
#[derive(Debug)]
pub(super) struct Running {
    client: Arc<str>,
    /// The scope of a start call.
    pub(super) start: Option<Arc<str>>,
    /// The time at which the budget counts it.
    pub(super) counted: Option<Instant>,
    /// The time by which it must be sent, where it has a grant of the common part: the own budget does not count it then.
    pub(super) common_until: Option<Instant>,
    /// True if it was confirmed: it counts from then on, whether it is sent or not.
    pub(super) is_confirmed: bool,
    /// The time since which nobody waits for it.
    abandoned: Option<Instant>,
}

/// The slots of one credential.
#[derive(Debug, Default)]
pub(super) struct Slots {
    running: HashMap<SlotId, Running>,
    last: u64,
}

impl Slots {
    /// Number of slots in use.
    pub(super) fn len(&self) -> usize {
        self.running.len()
    }

    /// True if `client` may use one more of `most`. Where there are `several` clients, one leaves slots free for the others.
    pub(super) fn admit(&self, client: &Arc<str>, most: usize, several: bool) -> bool {
        let free = most.saturating_sub(self.len());
        let used = self.running.values().filter(|running| running.client == *client).count();
        free > 0 && (!several || used < free.saturating_mul(SHARE_OF_FREE))
    }

    /// Takes a slot for a request of `client`; `start` is the scope of a start call.
    pub(super) fn take(&mut self, client: &Arc<str>, start: Option<&Arc<str>>, now: Instant) -> SlotId {
        self.last += 1;
        let slot = SlotId(self.last);
        self.running.insert(
            slot,
            Running {
                client: Arc::clone(client),
                start: start.cloned(),
                counted: Some(now),
                common_until: None,
                is_confirmed: false,
                abandoned: None,
            },
        );
        slot
    }

    /// Gives a slot back.
    pub(super) fn free(&mut self, slot: SlotId) -> Option<Running> {
        self.running.remove(&slot)
    }

    /// The request in `slot`.
    pub(super) fn get_mut(&mut self, slot: SlotId) -> Option<&mut Running> {
        self.running.get_mut(&slot)
    }

    /// Notes since when nobody waits for the request in `slot`; `None` where somebody does again.
    pub(super) fn abandon(&mut self, slot: SlotId, since: Option<Instant>) {
        if let Some(running) = self.running.get_mut(&slot) {
            running.abandoned = since;
        }
    }

    /// The abandoned request that may be ended first, and from when on.
    pub(super) fn abandoned(&self) -> Option<(Instant, SlotId)> {
        let ends =
            self.running.iter().filter_map(|(slot, running)| Some((running.abandoned? + LEFT_ALONE, *slot)));
        ends.min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The slots that each of `clients` gets of 64, all of them greedy, one after the other.
    fn taken(clients: &[&str], several: bool) -> Vec<usize> {
        let mut slots = Slots::default();
        let take = |client: &&str| {
            let client = Arc::from(*client);
            std::iter::from_fn(|| {
                slots.admit(&client, 64, several).then(|| slots.take(&client, None, Instant::now()))
            })
            .count()
        };
        clients.iter().map(take).collect()
    }

    #[test]
    fn a_greedy_client_leaves_slots_for_others_where_there_are_others() {
        assert_eq!(taken(&["a"], false), [64]);
        assert_eq!(taken(&["a", "b", "c"], true), [48, 12, 3]);
        assert_eq!(taken(&["a", "b", "c", "d", "e"], true)[3..], [1, 0]);
    }

    #[test]
    fn a_single_slot_is_anybodys() {
        let (mut slots, a) = (Slots::default(), Arc::from("a"));
        assert!(slots.admit(&a, 1, true));
        let slot = slots.take(&a, None, Instant::now());
        assert!(!slots.admit(&a, 1, true));
        assert!(slots.free(slot).is_some());
        assert!(slots.admit(&a, 1, true));
    }

    #[test]
    fn the_request_that_was_abandoned_first_is_ended_first_unless_somebody_came_back() {
        let (mut slots, a, now) = (Slots::default(), Arc::from("a"), Instant::now());
        let [first, second] = [(); 2].map(|()| slots.take(&a, None, now));
        assert_eq!(slots.abandoned(), None);
        slots.abandon(first, Some(now));
        slots.abandon(second, Some(now + Duration::from_secs(1)));
        assert_eq!(slots.abandoned(), Some((now + LEFT_ALONE, first)));
        slots.abandon(first, None);
        assert_eq!(slots.abandoned().map(|(_, slot)| slot), Some(second));
        assert!(slots.free(second).is_some());
        assert_eq!((slots.len(), slots.abandoned()), (1, None));
    }
}
