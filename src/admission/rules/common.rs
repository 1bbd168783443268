//! The rules of a lane whose limits many machines share: the own part first, then grants of the common part.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::super::budget::{Limit, TOLD_FOR};
use super::super::common::{
    CommonAnswer, CommonCall, CommonPart, CommonRoom, CommonSettings, EngineNews, HoldNews, WHOLE,
};
use super::super::slots::SlotId;
use super::{QueueEntry, Rules};
use crate::circuit::Admits;

/// A hold that differs by less from the one that is known is the same.
const SAME_HOLD: Duration = Duration::from_millis(500);

/// The part of the limits that a request is sent of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LimitPart {
    Own,
    Common,
}

impl Rules {
    /// The lane begins to work. If it does not know what was sent before, an own part begins as spent.
    pub(crate) fn begin(&mut self, now: Instant) {
        let Some(settings) = &self.settings.common else { return };
        let is_spent = settings.has_others && !self.has_history;
        let own_from = if is_spent { now + settings.longest } else { now };
        self.common = Some(CommonPart::new(settings, own_from));
    }

    /// The common part of the limits.
    pub(crate) fn common_settings(&self) -> Option<CommonSettings> {
        self.settings.common.clone()
    }

    /// This machine's own parts of the limits that Snyk told: of each as much as is left of ours, by the window of which the
    /// least is left.
    pub(super) fn own_parts(&mut self, told: Vec<Limit>, now: Instant) -> Vec<Limit> {
        let Some(common) = self.settings.common.as_ref().filter(|_| !told.is_empty()) else { return told };
        for limit in told {
            let ours = common.undivided.iter().find(|ours| ours.window == limit.window);
            if let Some(ours) = ours {
                self.told.learn(limit, *ours, now + TOLD_FOR);
            }
        }
        let part = u64::from(self.told.least(now));
        let own = |own: &Limit| {
            let most = u64::from(own.most) * part / u64::from(WHOLE);
            Limit { most: u32::try_from(most).unwrap_or(own.most), ..*own }
        };
        self.settings.limits.iter().map(own).collect()
    }

    /// The part of the common limits, in thousandths, that Snyk allows.
    pub(crate) fn told_part(&self, now: Instant) -> u32 {
        self.told.least(now)
    }

    /// The room for one more request, or the time at which there may be some.
    pub(super) fn room(&self, now: Instant) -> Result<LimitPart, Option<Instant>> {
        let own = self.own_free(now);
        let Some(common) = &self.common else {
            return if own <= now { Ok(LimitPart::Own) } else { Err(Some(own)) };
        };
        // One probe for all machines: the engine says whose it is.
        let needs_grant = common.is_granting() && self.backoff.circuit.admits(now) == Admits::Probe;
        if own <= now && !needs_grant {
            return Ok(LimitPart::Own);
        }
        let own = if needs_grant { None } else { Some(own) };
        match common.room(now) {
            CommonRoom::Granted => Ok(LimitPart::Common),
            CommonRoom::Ask | CommonRoom::Unknown | CommonRoom::Away => Err(own),
            CommonRoom::At(at) => Err(Some(own.map_or(at, |own| own.min(at)))),
        }
    }

    /// The time at which there may be room: `now`, or later.
    pub(super) fn room_from(&self, now: Instant) -> Instant {
        let own = self.own_free(now);
        let Some(common) = &self.common else { return own };
        match common.room(now) {
            CommonRoom::Granted | CommonRoom::Ask | CommonRoom::Unknown => now,
            CommonRoom::At(at) => own.min(at),
            CommonRoom::Away => own,
        }
    }

    /// The time at which the own part has room. It is spread, so that some of it is left when the engine goes away.
    fn own_free(&self, now: Instant) -> Instant {
        let free = self.budget.paced(now);
        match self.common.as_ref().map(CommonPart::own_from) {
            None => free,
            Some(None) => now + self.longest(),
            Some(Some(from)) => free.max(from),
        }
    }

    fn longest(&self) -> Duration {
        self.settings.common.as_ref().map_or(Duration::ZERO, |common| common.longest)
    }

    /// Counts the request in `slot`, of the part that has room.
    pub(super) fn spend(&mut self, slot: SlotId, now: Instant) {
        let room = self.room(now);
        let common = self.common.as_mut().filter(|_| room == Ok(LimitPart::Common));
        let until = common.and_then(|common| common.take(now));
        if until.is_none() {
            self.budget.spend(now, now);
        }
        if let Some(running) = self.slots.get_mut(slot) {
            running.common_until = until;
        }
    }

    /// The longest time between two sends, where they are spread evenly.
    pub(super) fn interval(&self, now: Instant) -> Duration {
        let common =
            self.settings.common.as_ref().filter(|_| self.common.as_ref().is_some_and(CommonPart::is_up));
        let Some(common) = common else { return self.budget.interval(now) };
        common.limits.iter().map(|limit| limit.window / limit.most.max(1)).max().unwrap_or_default()
    }

    /// True if there is a call to the engine to be made.
    pub(crate) fn has_call(&self, now: Instant) -> bool {
        self.common.as_ref().is_some_and(CommonPart::has_news) || self.wanted(now) > 0
    }

    /// The call to the engine to be made now.
    pub(crate) fn take_call(&mut self, now: Instant) -> Option<CommonCall> {
        match self.common.as_mut()?.take_news() {
            Some(HoldNews::Began) => {
                if let Some(until) = self.backoff.circuit.until(now) {
                    return Some(CommonCall::Hold(until.saturating_duration_since(now)));
                }
            }
            Some(HoldNews::Ended) => return Some(CommonCall::EndHold),
            None => {}
        }
        let wanted = self.wanted(now);
        if wanted == 0 {
            return None;
        }
        self.common.as_mut()?.asked();
        Some(CommonCall::Reserve(wanted))
    }

    /// Number of grants to ask for: one for each request that waits for nothing else.
    fn wanted(&self, now: Instant) -> u32 {
        let may_ask = self.common.as_ref().is_some_and(|common| common.may_ask(now));
        if !may_ask || self.queue.len() == 0 || self.room(now).is_ok() {
            return 0;
        }
        let most = match self.backoff.circuit.admits(now) {
            Admits::All => self.settings.max_running.saturating_sub(self.slots.len()),
            Admits::Probe => 1,
            Admits::NoneBefore(_) | Admits::NoneBeforeProbe => 0,
        };
        let is_held = |scope: &Arc<str>| self.starts.get(scope).is_some_and(|starts| starts.free(now) > now);
        let waits = |entry: &&QueueEntry| {
            !entry.candidate.start.as_ref().is_some_and(is_held) && self.has_slot_for(&entry.candidate.client)
        };
        u32::try_from(self.queue.iter().filter(waits).take(most).count()).unwrap_or(u32::MAX)
    }

    /// Takes the engine's answer to a call; `None` where it failed.
    pub(crate) fn answered(&mut self, answer: Option<CommonAnswer>, now: Instant) {
        if let Some(common) = &mut self.common {
            common.answered(answer, now);
        }
        // Who has a grant may use it: in a hold, it is the probe.
        if let Some(answer) = answer.filter(|answer| answer.granted == 0 && !answer.hold.is_zero()) {
            self.hold(Some(answer.hold), now);
        }
    }

    /// Takes news of the engine. After a backoff all machines share one ramp.
    pub(crate) fn heard(&mut self, news: EngineNews, now: Instant) {
        let longest = self.longest();
        if let Some(common) = &mut self.common {
            common.heard(news, longest, now);
        }
        if let EngineNews::Up { members, .. } = news {
            self.backoff.settings.ramp = self.settings.backoff.ramp.div_ceil(members.max(1));
        }
    }

    /// Snyk refused another machine (429): nobody sends for so long. `None` where that has ended.
    pub(crate) fn hold(&mut self, left: Option<Duration>, now: Instant) {
        if let Some(left) = left {
            let known = self.backoff.circuit.until(now).unwrap_or(now);
            if now + left > known + SAME_HOLD {
                self.backoff.refused(Some(left), false, Duration::ZERO, now);
            }
            return;
        }
        if let Some(common) = &mut self.common {
            common.look_again();
        }
        if self.backoff.circuit.admits(now) != Admits::All {
            self.backoff.answered(true, now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::backoff::BackoffSettings;
    use super::super::super::candidate::{Candidate, Obstacle};
    use super::super::super::rate_fields::{Bucket, CallKind, RateFields};
    use super::super::super::settings::LaneSettings;
    use super::super::{Grant, SendOutcome, Step};
    use super::*;

    const fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    const fn up(has_own: bool) -> EngineNews {
        EngineNews::Up { has_own, members: 2 }
    }

    /// The rules of a gateway whose own part is two requests in a second.
    fn rules(is_proven: bool, now: Instant) -> Rules {
        let limit = |most| vec![Limit { most, window: seconds(1) }];
        let common = CommonSettings {
            limits: limit(10),
            undivided: limit(20),
            margin: Duration::ZERO,
            longest: seconds(60),
            has_others: true,
        };
        let mut rules = Rules::new(LaneSettings {
            limits: limit(2),
            common: Some(common),
            account: limit(20),
            starts: None,
            margin: Duration::ZERO,
            backoff: BackoffSettings { usual: seconds(60), most: seconds(600), ramp: 10 },
            max_wait: seconds(10),
            max_waiting: 100,
            max_running: 64,
            several_clients: false,
        });
        if is_proven {
            rules.sent_elsewhere(None, now.checked_sub(seconds(5)).expect("a time"), now);
        }
        rules.begin(now);
        rules
    }

    /// Gives the rules an own part of so many requests in a second.
    fn rules_own(rules: &mut Rules, most: u32) {
        rules.budget.set_limits(vec![Limit { most, window: seconds(1) }]);
    }

    fn ask(rules: &mut Rules, now: Instant) {
        let deadline = now + seconds(600);
        let candidate =
            Candidate { client: "c".into(), weight: 1, start: None, deadline, is_put_back: false };
        rules.enqueue(candidate, now).expect("it may wait");
    }

    fn sends(rules: &mut Rules, now: Instant) -> Vec<Grant> {
        let next = || match rules.next_step(now) {
            Step::Admit { grant, .. } => Some(grant),
            Step::Evict(_) | Step::Refuse(..) | Step::Wait(_) | Step::Idle => None,
        };
        std::iter::from_fn(next).collect()
    }

    fn answer(granted: u32, now: Instant) -> CommonAnswer {
        CommonAnswer { granted, until: now + seconds(1), free: now, hold: Duration::ZERO }
    }

    #[test]
    fn the_own_part_comes_first_and_the_common_part_is_asked_for_all_that_wait_in_one_call() {
        let now = Instant::now();
        let mut rules = rules(true, now);
        (0..7).for_each(|_| ask(&mut rules, now));
        assert_eq!(sends(&mut rules, now).len(), 2);
        assert_eq!(rules.take_call(now), None);
        rules.heard(up(true), now);
        assert_eq!(rules.take_call(now), Some(CommonCall::Reserve(5)));
        // The next batch gathers meanwhile.
        ask(&mut rules, now);
        assert!(!rules.has_call(now));
        rules.answered(Some(answer(4, now)), now);
        let granted = sends(&mut rules, now);
        assert_eq!(granted.len(), 4);
        assert_eq!(rules.take_call(now), Some(CommonCall::Reserve(2)));
        // A grant that is not used in time is none, and one that was not used is another request's.
        rules.answered(None, now);
        assert!(!rules.has_call(now));
        assert!(!rules.confirm(granted[0].slot, now + seconds(1)));
        assert!(rules.confirm(granted[1].slot, now));
        rules.ended(granted[2], &SendOutcome::Failed, now);
        assert_eq!(sends(&mut rules, now).len(), 1);
    }

    #[test]
    fn without_a_history_the_own_part_begins_as_spent() {
        let now = Instant::now();
        let mut rules = rules(false, now);
        rules.heard(EngineNews::Alone, now);
        assert_eq!(rules.room(now), Err(Some(now + seconds(60))));
        ask(&mut rules, now + seconds(59));
        assert!(sends(&mut rules, now + seconds(59)).is_empty());
        assert_eq!(sends(&mut rules, now + seconds(60)).len(), 1);
    }

    #[test]
    fn an_own_part_that_is_taken_away_sends_nothing_more() {
        let now = Instant::now();
        let mut rules = rules(true, now);
        ask(&mut rules, now);
        let sent = sends(&mut rules, now);
        rules.heard(up(false), now);
        assert!(!rules.confirm(sent[0].slot, now));
        ask(&mut rules, now);
        assert!(sends(&mut rules, now).is_empty());
        assert_eq!(rules.take_call(now), Some(CommonCall::Reserve(1)));
    }

    #[test]
    fn a_hold_is_told_and_heard_and_its_probe_needs_a_grant() {
        let now = Instant::now();
        let (mut first, mut second) = (rules(true, now), rules(true, now));
        for rules in [&mut first, &mut second] {
            rules.heard(up(true), now);
            ask(rules, now);
        }
        let refused = sends(&mut first, now);
        let (bucket, jitter) = (Bucket::Account, Duration::ZERO);
        let outcome = SendOutcome::TooMany { retry_after: Some(seconds(5)), bucket, jitter };
        first.ended(refused[0], &outcome, now);
        assert_eq!(first.take_call(now), Some(CommonCall::Hold(seconds(5))));
        // It is told again where nobody has heard it.
        first.answered(None, now);
        assert_eq!(first.take_call(now), Some(CommonCall::Hold(seconds(5))));
        first.answered(Some(answer(0, now)), now);
        assert_eq!(first.take_call(now), None);
        second.hold(Some(seconds(5)), now);
        assert!(sends(&mut second, now).is_empty() && second.take_call(now).is_none());
        // Its time is over: there is an own part, and yet who probes is the engine's word.
        let later = now + seconds(5);
        assert!(sends(&mut second, later).is_empty());
        assert_eq!(second.take_call(later), Some(CommonCall::Reserve(1)));
        let hold = seconds(5);
        let granted = CommonAnswer { granted: 1, until: later + seconds(1), free: later + hold, hold };
        second.answered(Some(granted), later);
        let probe = sends(&mut second, later);
        assert!(probe[0].is_probe);
        second.ended(probe[0], &SendOutcome::Answered, later);
        assert_eq!(second.take_call(later), Some(CommonCall::EndHold));
        // The other one hears of the end; before, it would have waited for the probe.
        first.answered(Some(CommonAnswer { granted: 0, ..granted }), later);
        ask(&mut first, later);
        assert!(sends(&mut first, later).is_empty());
        first.hold(None, later);
        // A ramp of ten in the first second is five for each of two.
        rules_own(&mut first, 20);
        (0..9).for_each(|_| ask(&mut first, later));
        assert_eq!(sends(&mut first, later).len(), 5);
    }

    #[test]
    fn a_lower_limit_of_snyks_lowers_the_own_part_and_the_common_one_alike() {
        let now = Instant::now();
        let mut rules = rules(true, now);
        let told = |most| {
            let limits = vec![Limit { most, window: seconds(1) }];
            RateFields { limits, ..RateFields::default() }
        };
        assert_eq!(rules.told_part(now), 1_000);
        // Ten of twenty: less than ours, and more than the own part.
        rules.learn(&told(10), CallKind::Read, now);
        assert_eq!(rules.told_part(now), 500);
        (0..3).for_each(|_| ask(&mut rules, now));
        assert_eq!(sends(&mut rules, now).len(), 1);
        assert_eq!(rules.told_part(now + TOLD_FOR), 1_000);
        rules.learn(&told(40), CallKind::Read, now);
        assert_eq!(rules.told_part(now), 1_000);
        rules.learn(&RateFields::default(), CallKind::Read, now);
        assert_eq!(sends(&mut rules, now).len(), 1);
    }

    #[test]
    fn where_all_is_own_a_probe_is_own_too() {
        let now = Instant::now();
        let mut rules = rules(true, now);
        rules.settings.common.as_mut().expect("a common part").limits[0].most = 0;
        rules.begin(now);
        rules.heard(up(true), now);
        rules.hold(Some(seconds(5)), now);
        (0..3).for_each(|_| ask(&mut rules, now + seconds(5)));
        assert!(sends(&mut rules, now + seconds(5))[0].is_probe);
        assert_eq!(rules.take_call(now + seconds(5)), None);
    }

    #[test]
    fn who_asks_before_the_engine_is_known_waits_for_it() {
        let now = Instant::now();
        let mut rules = rules(false, now);
        ask(&mut rules, now);
        rules.heard(up(true), now);
        assert_eq!(rules.take_call(now), Some(CommonCall::Reserve(1)));
    }

    #[test]
    fn nobody_is_refused_for_the_own_part_while_the_common_part_has_room() {
        let now = Instant::now();
        let mut rules = rules(false, now);
        rules.heard(up(false), now);
        ask(&mut rules, now);
        let closed = CommonAnswer { granted: 0, until: now, free: now + seconds(30), hold: Duration::ZERO };
        assert_eq!(rules.take_call(now), Some(CommonCall::Reserve(1)));
        rules.answered(Some(closed), now);
        let candidate = Candidate {
            client: "c".into(),
            weight: 1,
            start: None,
            deadline: now + seconds(10),
            is_put_back: false,
        };
        let refused = rules.enqueue(candidate, now).expect_err("it would wait in vain");
        assert_eq!((refused.obstacle, refused.retry_after), (Obstacle::Budget, seconds(30)));
    }
}
