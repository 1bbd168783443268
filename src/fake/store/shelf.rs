//! The state of the store besides its script: faults to come, links that died early, objects that changed.

use std::collections::{HashMap, HashSet};

use super::super::{KEPT, Seen};
use super::{StoreFault, StoreRequest};

/// A fault that is to come, and how often; without an end where that is not said.
#[derive(Debug)]
pub(in super::super) struct StorePlan {
    /// The part, from 1; all where not set.
    pub(in super::super) part: Option<u32>,
    pub(in super::super) fault: StoreFault,
    pub(in super::super) times: Option<u32>,
}

#[derive(Debug, Default)]
pub(in super::super) struct Shelf {
    pub(in super::super) plans: Vec<StorePlan>,
    pub(in super::super) requests: Vec<StoreRequest>,
    /// Signatures of links that are dead before their time.
    pub(super) dead: HashSet<String>,
    /// By path, the number of changes of an object.
    changes: HashMap<String, u64>,
    /// Links that were signed.
    serial: u64,
}

impl Shelf {
    /// Keeps a request; its place in the log.
    pub(super) fn note(&mut self, seen: &Seen) -> usize {
        if self.requests.len() < KEPT {
            let (export, part) = place(seen.path()).unwrap_or_default();
            self.requests.push(StoreRequest { seen: seen.clone(), export, part, status: 0 });
        }
        self.requests.len() - 1
    }

    pub(super) fn changes(&self, path: &str) -> u64 {
        self.changes.get(path).copied().unwrap_or(0)
    }

    pub(in super::super) fn change(&mut self, path: &str) {
        *self.changes.entry(path.to_owned()).or_default() += 1;
    }

    /// The number of the next link: two links to one object that are signed in one second differ.
    pub(super) fn next_serial(&mut self) -> u64 {
        self.serial += 1;
        self.serial
    }

    /// Uses up all faults of `part` that are wanted.
    pub(super) fn take(&mut self, part: u32, is_wanted: impl Fn(&StoreFault) -> bool) -> Vec<StoreFault> {
        let due = self.due(part, is_wanted);
        let mut taken: Vec<StoreFault> = due.into_iter().rev().map(|index| self.spend(index)).collect();
        taken.reverse();
        taken
    }

    /// Uses up the first such fault.
    pub(super) fn take_first(
        &mut self,
        part: u32,
        is_wanted: impl Fn(&StoreFault) -> bool,
    ) -> Option<StoreFault> {
        let first = self.due(part, is_wanted).into_iter().next()?;
        Some(self.spend(first))
    }

    /// Uses up such a fault with the lowest position.
    pub(super) fn take_nearest(
        &mut self,
        part: u32,
        is_wanted: impl Fn(&StoreFault) -> bool,
    ) -> Option<StoreFault> {
        let due = self.due(part, is_wanted);
        let nearest = due.into_iter().min_by_key(|index| self.plans[*index].fault.position())?;
        Some(self.spend(nearest))
    }

    fn due(&self, part: u32, is_wanted: impl Fn(&StoreFault) -> bool) -> Vec<usize> {
        let is_due = |plan: &StorePlan| plan.part.is_none_or(|own| own == part) && is_wanted(&plan.fault);
        (0..self.plans.len()).filter(|index| is_due(&self.plans[*index])).collect()
    }

    fn spend(&mut self, index: usize) -> StoreFault {
        let plan = &mut self.plans[index];
        let fault = plan.fault.clone();
        if let Some(left) = &mut plan.times {
            *left = left.saturating_sub(1);
            if *left == 0 {
                self.plans.remove(index);
            }
        }
        fault
    }
}

/// The path of a part of an export.
pub(in super::super) fn path(export: &str, part: u32) -> String {
    format!("/files/{export}/data_1_{part}_0.csv")
}

/// The export and the part of a path.
pub(super) fn place(path: &str) -> Option<(String, u32)> {
    let (export, name) = path.strip_prefix("/files/")?.split_once('/')?;
    let part = name.strip_prefix("data_1_")?.strip_suffix("_0.csv")?.parse().ok()?;
    Some((export.to_owned(), part))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_several_cuts_the_nearest_is_used_up_first() {
        let mut shelf = Shelf::default();
        for at in [20, 10] {
            shelf.plans.push(StorePlan { part: None, fault: StoreFault::Cut(at), times: Some(1) });
        }
        shelf.plans.push(StorePlan { part: Some(2), fault: StoreFault::Cut(5), times: None });
        let mut next = |part| shelf.take_nearest(part, |fault| fault.end().is_some());
        assert_eq!(next(1), Some(StoreFault::Cut(10)));
        assert_eq!(next(2), Some(StoreFault::Cut(5)));
        assert_eq!(next(2), Some(StoreFault::Cut(5)));
        assert_eq!(next(1), Some(StoreFault::Cut(20)));
        assert_eq!(next(1), None);
    }

    #[test]
    fn a_path_names_its_export_and_part() {
        assert_eq!(place(&path("e1", 12)), Some(("e1".to_owned(), 12)));
        assert_eq!(place("/files/e1/other.csv"), None);
    }
}
