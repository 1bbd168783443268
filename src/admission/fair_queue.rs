//! The queue of one lane: fair between clients by weight, first come first served within one (pure).
//!
//! Start-time fair queueing: each client has a clock that a send moves on by one over its weight, and the client
//! with the earliest clock is next. One that was away begins at the others' time, so that absence saves nothing up.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

/// Step of a client's clock for a send at weight 1.
const STEP: u64 = 1 << 20;

/// The waiting, by client.
#[derive(Debug)]
pub(super) struct FairQueue<T> {
    clients: BTreeMap<Arc<str>, Line<T>>,
    /// The clock of the client that was next last.
    time: u64,
}

#[derive(Debug)]
struct Line<T> {
    clock: u64,
    weight: u32,
    waiting: VecDeque<T>,
}

impl<T> Default for FairQueue<T> {
    fn default() -> Self {
        Self { clients: BTreeMap::new(), time: 0 }
    }
}

impl<T> FairQueue<T> {
    pub(super) fn len(&self) -> usize {
        self.clients.values().map(|line| line.waiting.len()).sum()
    }

    /// Puts `item` at the end of its client's line.
    pub(super) fn push(&mut self, client: &Arc<str>, weight: u32, item: T) {
        let time = self.time;
        let line = self.clients.entry(Arc::clone(client)).or_insert_with(|| Line {
            clock: time,
            weight: 1,
            waiting: VecDeque::new(),
        });
        line.weight = weight.max(1);
        line.waiting.push_back(item);
    }

    /// Puts one that was taken back to the front of its client's line, as if it had not been.
    pub(super) fn put_back(&mut self, client: &Arc<str>, weight: u32, item: T) {
        let is_known = self.clients.contains_key(client);
        self.push(client, weight, item);
        if let Some(line) = self.clients.get_mut(client) {
            line.waiting.rotate_right(1);
            if is_known {
                line.clock = line.clock.saturating_sub(STEP / u64::from(line.weight));
            }
        }
    }

    /// Takes who is next of those that `may` go.
    pub(super) fn pop(&mut self, may: impl Fn(&T) -> bool) -> Option<T> {
        let mut lines: Vec<(u64, &Arc<str>)> =
            self.clients.iter().map(|(name, line)| (line.clock, name)).collect();
        lines.sort_unstable();
        let (name, at) = lines.into_iter().find_map(|(_, name)| {
            let at = self.clients[name].waiting.iter().position(&may)?;
            Some((Arc::clone(name), at))
        })?;
        let line = self.clients.get_mut(&name)?;
        let item = line.waiting.remove(at)?;
        self.time = self.time.max(line.clock);
        line.clock = line.clock.max(self.time) + STEP / u64::from(line.weight);
        self.forget();
        Some(item)
    }

    /// Takes the one out that `gone` names.
    pub(super) fn remove(&mut self, gone: impl Fn(&T) -> bool) -> Option<T> {
        let removed = self.clients.values_mut().find_map(|line| {
            let at = line.waiting.iter().position(&gone)?;
            line.waiting.remove(at)
        });
        self.forget();
        removed
    }

    /// Looks at everybody who waits.
    pub(super) fn iter(&self) -> impl Iterator<Item = &T> {
        self.clients.values().flat_map(|line| &line.waiting)
    }

    /// Forgets clients that do not wait and are not ahead of the others: they would begin at the same time anew.
    fn forget(&mut self) {
        let time = self.time;
        self.clients.retain(|_, line| !line.waiting.is_empty() || line.clock > time);
        if self.len() == 0 {
            self.clients.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> Arc<str> {
        text.into()
    }

    #[test]
    fn a_greedy_client_does_not_delay_a_small_one() {
        let (greedy, small) = (name("greedy"), name("small"));
        let mut queue = FairQueue::default();
        for n in 0..1_000 {
            queue.push(&greedy, 1, ("greedy", n));
        }
        for n in 0..3 {
            queue.push(&small, 1, ("small", n));
        }
        let order: Vec<_> = (0..6).filter_map(|_| queue.pop(|_| true)).collect();
        assert_eq!(
            order,
            [("greedy", 0), ("small", 0), ("greedy", 1), ("small", 1), ("greedy", 2), ("small", 2)]
        );
        // Who comes back has saved nothing up, and waits for no more than one turn.
        for _ in 0..100 {
            queue.pop(|_| true);
        }
        queue.push(&small, 1, ("small", 3));
        queue.push(&small, 1, ("small", 4));
        let order: Vec<_> = (0..4).filter_map(|_| queue.pop(|_| true)).map(|(who, _)| who).collect();
        assert_eq!(order.iter().filter(|who| **who == "small").count(), 2, "{order:?}");
    }

    #[test]
    fn weights_are_shares() {
        let mut queue = FairQueue::default();
        for n in 0..100 {
            queue.push(&name("three"), 3, (3, n));
            queue.push(&name("one"), 1, (1, n));
        }
        let first: Vec<_> = (0..40).filter_map(|_| queue.pop(|_| true)).collect();
        let threes = first.iter().filter(|(weight, _)| *weight == 3).count();
        assert!((29..=31).contains(&threes), "{threes}");
    }

    #[test]
    fn who_may_not_go_holds_nobody_up_and_who_leaves_frees_its_place() {
        let mut queue = FairQueue::default();
        for (client, item) in [("a", "start"), ("a", "read"), ("b", "start")] {
            queue.push(&name(client), 1, item);
        }
        assert_eq!(queue.pop(|item| *item == "read"), Some("read"));
        assert_eq!(queue.pop(|item| *item == "read"), None);
        assert_eq!([(); 2].map(|()| queue.remove(|item| *item == "start")), [Some("start"); 2]);
        assert!(queue.len() == 0 && queue.clients.is_empty());
    }
}
