//! The choice of a credential's slot for a scope, by Snyk's answers (pure; takes `now`).
//!
//! Snyk may answer 401 for one org that lacks a plan or a region while the credential is good elsewhere. So a refusal
//! counts against its scope first: that scope is asked again once in a `probe_interval`. The whole slot is locked where scopes
//! that were accepted lately are refused, or where nothing was accepted lately. Then one request in a `probe_interval` is
//! let through to see whether the value is good again.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Unavailable;
use crate::circuit::{Admits, Circuit, ProbeCandidate, ProbeOrder};
use crate::export::Scope;

/// So many refusals of a scope in a row count as its answer.
const STRIKES: u32 = 2;
/// So many scopes that were accepted lately must be refused to show that the value is bad.
const WITNESSES: usize = 2;
/// An acceptance counts for so long.
const LATELY: Duration = Duration::from_mins(5);
/// Most scopes that are remembered for a slot.
const SCOPES: usize = 10_000;

/// The slot for a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pick {
    /// An open slot.
    Use(usize),
    /// A locked slot, for this request alone.
    Probe(usize),
}

/// Snyk's last word on one scope.
#[derive(Debug, Clone, Copy)]
enum ScopeVerdict {
    Accepted { at: Instant },
    Refused { strikes: u32, until: Instant },
}

#[derive(Debug, Default)]
struct SlotHealth {
    is_filled: bool,
    lock: Circuit,
    /// The first request for a scope that was accepted may be the probe without waiting for the pause.
    may_probe_early: bool,
    order: ProbeOrder,
    scopes: HashMap<Option<Scope>, ScopeVerdict>,
    /// Scopes that were accepted lately and were refused since; any acceptance clears it.
    witnesses: HashSet<Option<Scope>>,
    /// Last reading of its source because of a refusal.
    renewed_at: Option<Instant>,
}

/// The slots of one credential.
#[derive(Debug)]
pub(super) struct CredentialHealth {
    slots: Vec<SlotHealth>,
    probe_interval: Duration,
}

impl CredentialHealth {
    pub(super) fn new(filled: &[bool], probe_interval: Duration) -> Self {
        let slot = |is_filled: &bool| SlotHealth { is_filled: *is_filled, ..SlotHealth::default() };
        Self { slots: filled.iter().map(slot).collect(), probe_interval }
    }

    /// Picks a slot for a request of `client` for `scope` at `now`. A probe takes its turn.
    pub(super) fn pick(
        &mut self,
        scope: Option<&Scope>,
        client: &Arc<str>,
        now: Instant,
    ) -> Result<Pick, Unavailable> {
        let mut refused: Option<Duration> = None;
        for (at, slot) in self.slots.iter_mut().enumerate().filter(|(_, slot)| slot.is_open()) {
            match slot.scopes.get_mut(&scope.cloned()) {
                Some(ScopeVerdict::Refused { strikes, until }) if *strikes >= STRIKES => {
                    if now < *until {
                        let wait = until.saturating_duration_since(now);
                        refused = Some(refused.map_or(wait, |soonest| soonest.min(wait)));
                        continue;
                    }
                    // This request asks again, and the next one an interval later.
                    *until = now + self.probe_interval;
                    return Ok(Pick::Use(at));
                }
                _ => return Ok(Pick::Use(at)),
            }
        }
        if let Some(retry_after) = refused {
            return Err(Unavailable::ScopeRefused { retry_after });
        }
        let mut soonest = self.probe_interval;
        for (at, slot) in self.slots.iter_mut().enumerate().filter(|(_, slot)| slot.is_filled) {
            match slot.probe(scope, client, self.probe_interval, now) {
                None => return Ok(Pick::Probe(at)),
                Some(wait) => soonest = soonest.min(wait),
            }
        }
        Err(Unavailable::Locked { retry_after: soonest })
    }

    /// The state of slot `at`: `in_use`, `ready`, `locked` or `empty`.
    pub(super) fn state(&self, at: usize) -> &'static str {
        let slot = &self.slots[at];
        if !slot.is_filled {
            "empty"
        } else if !slot.is_open() {
            "locked"
        } else if self.open() == Some(at) {
            "in_use"
        } else {
            "ready"
        }
    }

    /// Number of scopes for which Snyk refuses the value of slot `at`.
    pub(super) fn refused_scopes(&self, at: usize) -> usize {
        let is_refused = |verdict: &&ScopeVerdict| matches!(verdict, ScopeVerdict::Refused { strikes, .. } if *strikes >= STRIKES);
        self.slots[at].scopes.values().filter(is_refused).count()
    }

    /// The first slot that is not locked.
    pub(super) fn open(&self) -> Option<usize> {
        self.slots.iter().position(SlotHealth::is_open)
    }

    /// The first slot but `but` that is not locked, and not refused for `scope`.
    pub(super) fn open_but(&self, but: usize, scope: Option<&Scope>) -> Option<usize> {
        let serves = |slot: &SlotHealth| {
            slot.is_open() && !matches!(slot.scopes.get(&scope.cloned()), Some(ScopeVerdict::Refused { .. }))
        };
        self.slots.iter().enumerate().position(|(at, slot)| at != but && serves(slot))
    }

    /// Snyk accepted the value of slot `at` for `scope`. Only a probe opens a locked slot: other answers may be to requests
    /// that were sent before it was locked. Returns true if the slot was opened.
    pub(super) fn accepted(
        &mut self,
        at: usize,
        scope: Option<&Scope>,
        is_probe: bool,
        now: Instant,
    ) -> bool {
        let slot = &mut self.slots[at];
        let was_open = slot.is_open();
        if !is_probe && !was_open {
            return false;
        }
        slot.lock.close(None, now);
        slot.note(scope, ScopeVerdict::Accepted { at: now }, now);
        slot.witnesses.clear();
        slot.renewed_at = None;
        !was_open
    }

    /// True if slot `at` is not locked and Snyk accepted its value lately, for any scope.
    pub(super) fn is_accepted_elsewhere(&self, at: usize, now: Instant) -> bool {
        self.slots[at].is_open() && self.slots[at].accepts_any(now)
    }

    /// True if the last refusal was the one that paused `scope`.
    pub(super) fn was_refused_now(&self, at: usize, scope: Option<&Scope>) -> bool {
        let verdict = self.slots[at].scopes.get(&scope.cloned());
        self.slots[at].is_open()
            && matches!(verdict, Some(ScopeVerdict::Refused { strikes, .. }) if *strikes == STRIKES)
    }

    /// Forgets the verdicts on slot `at`, which has a new value.
    pub(super) fn renewed(&mut self, at: usize) {
        self.slots[at] = SlotHealth { is_filled: true, ..SlotHealth::default() };
    }

    /// The probe of slot `at` brought no verdict. A probe that was sent counts against the interval all the same.
    pub(super) fn lose_probe(&mut self, at: usize, was_sent: bool, now: Instant) {
        if was_sent {
            self.slots[at].lock.open(self.probe_interval, now);
        } else {
            self.slots[at].lock.lose_probe(now);
        }
    }

    /// True if the source of slot `at` may be read for a newer value after a refusal: once in a `probe_interval`,
    /// unless Snyk accepted a value since. Otherwise a source whose values Snyk always refuses would never be locked.
    pub(super) fn may_renew(&mut self, at: usize, now: Instant) -> bool {
        let last = &mut self.slots[at].renewed_at;
        if last.is_some_and(|last| now.saturating_duration_since(last) < self.probe_interval) {
            return false;
        }
        *last = Some(now);
        true
    }

    /// Snyk refused the value of slot `at` for `scope`. Returns true if that locks the slot.
    pub(super) fn refused(&mut self, at: usize, scope: Option<&Scope>, is_probe: bool, now: Instant) -> bool {
        let other_is_open = self.open_but(at, scope).is_some();
        let until = now + self.probe_interval;
        let slot = &mut self.slots[at];
        let key = scope.cloned();
        let (strikes, was_accepted) = match slot.scopes.get(&key) {
            Some(ScopeVerdict::Refused { strikes, .. }) => (strikes + 1, false),
            Some(ScopeVerdict::Accepted { at }) => (1, now.saturating_duration_since(*at) < LATELY),
            None => (1, false),
        };
        // Another slot answers meanwhile: one refusal is enough.
        let strikes = if other_is_open { strikes.max(STRIKES) } else { strikes };
        slot.note(scope, ScopeVerdict::Refused { strikes, until }, now);
        if was_accepted {
            slot.witnesses.insert(key);
        }
        if !slot.is_open() {
            if is_probe {
                slot.lock.open(self.probe_interval, now);
                slot.order.opened();
            }
            return false;
        }
        let is_bad = slot.witnesses.len() >= WITNESSES || !slot.accepts_any(now) && slot.is_refused(strikes);
        if is_bad {
            slot.lock.open(self.probe_interval, now);
            slot.may_probe_early = true;
            slot.order.opened();
        }
        is_bad
    }
}

impl SlotHealth {
    fn is_open(&self) -> bool {
        self.is_filled && self.lock.is_closed()
    }

    /// Takes the probe of a locked slot for a request of `client` for `scope`; else returns the time until one is due.
    fn probe(
        &mut self,
        scope: Option<&Scope>,
        client: &Arc<str>,
        interval: Duration,
        now: Instant,
    ) -> Option<Duration> {
        let verdict = self.scopes.get(&scope.cloned());
        let was_accepted = matches!(verdict, Some(ScopeVerdict::Accepted { .. }));
        let candidate =
            ProbeCandidate { client, is_failing: matches!(verdict, Some(ScopeVerdict::Refused { .. })) };
        if was_accepted && std::mem::take(&mut self.may_probe_early) && self.lock.until(now).is_some() {
            self.lock.close(None, now);
            self.lock.open(Duration::ZERO, now);
        }
        let wait = match self.lock.admits(now) {
            Admits::All | Admits::Probe => {
                let due = self.lock.probe_due_for(now);
                if due.is_some_and(|due| self.order.is_left_to_others(candidate, due, interval)) {
                    interval
                } else {
                    self.lock.pass(now);
                    self.order.probed(client);
                    return None;
                }
            }
            Admits::NoneBefore(at) => at.saturating_duration_since(now),
            Admits::NoneBeforeProbe => interval,
        };
        self.order.refused(candidate);
        Some(wait)
    }

    fn note(&mut self, scope: Option<&Scope>, verdict: ScopeVerdict, now: Instant) {
        if self.scopes.len() >= SCOPES && !self.scopes.contains_key(&scope.cloned()) {
            self.scopes.retain(|_, verdict| match verdict {
                ScopeVerdict::Accepted { at } => now.saturating_duration_since(*at) < LATELY,
                ScopeVerdict::Refused { until, .. } => *until > now,
            });
            if self.scopes.len() >= SCOPES {
                return;
            }
        }
        self.scopes.insert(scope.cloned(), verdict);
    }

    /// True if Snyk's last verdict on any scope is a recent acceptance.
    fn accepts_any(&self, now: Instant) -> bool {
        let accepts = |verdict: &ScopeVerdict| match verdict {
            ScopeVerdict::Accepted { at } => now.saturating_duration_since(*at) < LATELY,
            ScopeVerdict::Refused { .. } => false,
        };
        self.scopes.values().any(accepts)
    }

    /// True if one scope was refused `strikes` times and that is enough, or enough scopes were refused.
    fn is_refused(&self, strikes: u32) -> bool {
        let refused = self.scopes.values().filter(|verdict| matches!(verdict, ScopeVerdict::Refused { .. }));
        strikes >= STRIKES || refused.count() >= WITNESSES
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::export::{Id, ScopeKind};

    const MINUTE: Duration = Duration::from_mins(1);

    fn client() -> Arc<str> {
        "one".into()
    }

    fn scope(id: &str) -> Scope {
        Scope { kind: ScopeKind::Org, id: Id::parse(id).expect("an id") }
    }

    fn at(begin: Instant, seconds: u64) -> Instant {
        begin + Duration::from_secs(seconds)
    }

    #[test]
    fn a_single_slot_is_locked_at_its_second_refusal_and_probed_once_a_minute() {
        let (mut health, begin, a) = (CredentialHealth::new(&[true], MINUTE), Instant::now(), scope("a"));
        let a = Some(&a);
        assert_eq!(health.pick(a, &client(), begin), Ok(Pick::Use(0)));
        assert!(!health.refused(0, a, false, begin));
        assert_eq!(health.pick(a, &client(), begin), Ok(Pick::Use(0)));
        assert!(health.refused(0, a, false, begin));
        let picks: Vec<Result<Pick, Unavailable>> =
            (1..10_000).map(|n| health.pick(a, &client(), begin + Duration::from_millis(n))).collect();
        assert!(picks.iter().all(|pick| matches!(pick, Err(Unavailable::Locked { .. }))));
        assert_eq!(
            health.pick(a, &client(), at(begin, 59)),
            Err(Unavailable::Locked { retry_after: Duration::from_secs(1) })
        );
        assert_eq!(health.pick(a, &client(), at(begin, 60)), Ok(Pick::Probe(0)));
        assert_eq!(
            health.pick(a, &client(), at(begin, 60)),
            Err(Unavailable::Locked { retry_after: MINUTE })
        );
        assert!(!health.refused(0, a, true, at(begin, 61)));
        assert!(matches!(health.pick(a, &client(), at(begin, 120)), Err(Unavailable::Locked { .. })));
        assert_eq!(health.pick(a, &client(), at(begin, 121)), Ok(Pick::Probe(0)));
        // An answer to a request of before the lock says nothing.
        health.accepted(0, a, false, at(begin, 121));
        assert!(matches!(health.pick(a, &client(), at(begin, 122)), Err(Unavailable::Locked { .. })));
        health.accepted(0, a, true, at(begin, 122));
        assert_eq!(health.pick(a, &client(), at(begin, 122)), Ok(Pick::Use(0)));
    }

    #[test]
    fn orgs_that_are_refused_leave_those_alone_that_are_accepted() {
        let (mut health, begin) = (CredentialHealth::new(&[true], MINUTE), Instant::now());
        let (good, bad, worse) = (scope("good"), scope("bad"), scope("worse"));
        health.accepted(0, Some(&good), false, begin);
        for second in 0..600 {
            let now = at(begin, second);
            for refused in [&bad, &worse] {
                for _ in 0..3 {
                    let pick = health.pick(Some(refused), &client(), now);
                    if pick == Ok(Pick::Use(0)) {
                        assert!(!health.refused(0, Some(refused), false, now));
                    } else {
                        assert!(matches!(pick, Err(Unavailable::ScopeRefused { .. })), "{pick:?}");
                    }
                }
            }
            assert_eq!(health.pick(Some(&good), &client(), now), Ok(Pick::Use(0)));
            if second % 60 == 0 {
                health.accepted(0, Some(&good), false, now);
            }
        }
        assert_eq!(health.refused_scopes(0), 2);
    }

    #[test]
    fn a_refused_org_costs_one_request_a_minute() {
        let (mut health, begin) = (CredentialHealth::new(&[true], MINUTE), Instant::now());
        let (good, bad) = (scope("good"), scope("bad"));
        health.accepted(0, Some(&good), false, begin);
        let mut sent = 0;
        for second in 0..300 {
            if health.pick(Some(&bad), &client(), at(begin, second)) == Ok(Pick::Use(0)) {
                sent += 1;
                health.refused(0, Some(&bad), false, at(begin, second));
            }
            health.accepted(0, Some(&good), false, at(begin, second));
        }
        assert_eq!(sent, 2 + 4);
    }

    #[test]
    fn two_orgs_that_were_accepted_and_are_refused_show_that_the_value_is_bad() {
        let (mut health, now) = (CredentialHealth::new(&[true], MINUTE), Instant::now());
        let [a, b, c, d] = ["a", "b", "c", "d"].map(scope);
        for one in [&a, &b, &c, &d] {
            health.accepted(0, Some(one), false, now);
        }
        assert!(!health.refused(0, Some(&a), false, now));
        assert!(health.refused(0, Some(&b), false, now));
        // One that was accepted is the probe at once, and no more than one.
        assert_eq!(health.pick(Some(&c), &client(), now), Ok(Pick::Probe(0)));
        assert!(matches!(health.pick(Some(&d), &client(), now), Err(Unavailable::Locked { .. })));
        assert!(!health.refused(0, Some(&c), true, now));
        for second in 0..60 {
            for one in [&a, &b, &c, &d] {
                assert!(matches!(
                    health.pick(Some(one), &client(), at(now, second)),
                    Err(Unavailable::Locked { .. })
                ));
            }
        }
        // Then it is one that was not refused.
        assert!(matches!(health.pick(Some(&a), &client(), at(now, 60)), Err(Unavailable::Locked { .. })));
        assert_eq!(health.pick(Some(&d), &client(), at(now, 60)), Ok(Pick::Probe(0)));
        health.accepted(0, Some(&d), true, at(now, 61));
        assert_eq!(health.pick(Some(&d), &client(), at(now, 61)), Ok(Pick::Use(0)));
    }

    #[test]
    fn a_probe_is_for_any_org_where_no_better_one_asks() {
        let (mut health, now, a) = (CredentialHealth::new(&[true], MINUTE), Instant::now(), scope("a"));
        let b = scope("b");
        assert!(!health.refused(0, Some(&a), false, now));
        assert!(health.refused(0, Some(&a), false, now));
        // Another asked meanwhile and does not come back.
        assert!(matches!(health.pick(Some(&b), &client(), at(now, 30)), Err(Unavailable::Locked { .. })));
        assert!(matches!(health.pick(Some(&a), &client(), at(now, 60)), Err(Unavailable::Locked { .. })));
        assert_eq!(health.pick(Some(&a), &client(), at(now, 120)), Ok(Pick::Probe(0)));
        health.lose_probe(0, false, at(now, 121));
        assert_eq!(health.pick(Some(&b), &client(), at(now, 121)), Ok(Pick::Probe(0)));
    }

    #[test]
    fn an_acceptance_between_two_refusals_clears_the_first() {
        let (mut health, now) = (CredentialHealth::new(&[true], MINUTE), Instant::now());
        assert!(!health.refused(0, None, false, now));
        health.accepted(0, None, false, now);
        assert!(!health.refused(0, None, false, now));
        // A source is asked again at once where its value was good meanwhile, else once in a minute.
        assert!(health.may_renew(0, now) && !health.may_renew(0, now));
        health.accepted(0, None, false, now);
        assert!(health.may_renew(0, now));
        assert!(health.may_renew(0, now + MINUTE));
    }

    #[test]
    fn a_slot_without_a_value_is_never_used() {
        let (mut health, now) = (CredentialHealth::new(&[true, false], MINUTE), Instant::now());
        assert!(!health.refused(0, None, false, now));
        assert!(health.refused(0, None, false, now));
        assert!(matches!(health.pick(None, &client(), now), Err(Unavailable::Locked { .. })));
        health.renewed(1);
        assert_eq!(health.pick(None, &client(), now), Ok(Pick::Use(1)));
    }

    #[test]
    fn the_next_slot_takes_over_at_once_and_the_active_one_again_when_renewed() {
        let (mut health, now) = (CredentialHealth::new(&[true, true], MINUTE), Instant::now());
        assert!(health.refused(0, None, false, now));
        assert_eq!(health.pick(None, &client(), now), Ok(Pick::Use(1)));
        assert!(!health.refused(1, None, false, now));
        assert!(health.refused(1, None, false, now));
        assert!(matches!(health.pick(None, &client(), now), Err(Unavailable::Locked { .. })));
        health.renewed(0);
        assert_eq!(health.pick(None, &client(), now), Ok(Pick::Use(0)));
        // Both are probed in turn, one a minute each.
        assert!(!health.refused(0, None, false, now));
        assert!(health.refused(0, None, false, now));
        assert_eq!(health.pick(None, &client(), now + MINUTE), Ok(Pick::Probe(0)));
        assert_eq!(health.pick(None, &client(), now + MINUTE), Ok(Pick::Probe(1)));
        assert!(matches!(health.pick(None, &client(), now + MINUTE), Err(Unavailable::Locked { .. })));
    }

    #[test]
    fn an_org_that_only_the_next_slot_serves_uses_it_and_others_keep_the_first() {
        let (mut health, now) = (CredentialHealth::new(&[true, true], MINUTE), Instant::now());
        let (a, b) = (scope("a"), scope("b"));
        health.accepted(0, Some(&a), false, now);
        assert!(!health.refused(0, Some(&b), false, now));
        assert_eq!(health.pick(Some(&b), &client(), now), Ok(Pick::Use(1)));
        assert_eq!(health.pick(Some(&a), &client(), now), Ok(Pick::Use(0)));
    }
}
