//! The part of a lane's limits that many machines have in common, as one of them sees it (pure; takes `now`; 0016).
//!
//! The lane's own budget is this machine's own part. It is used first. Where it is short, grants of the common part are asked
//! for, one for each request that waits; each is used within a short time, or thrown away. Without an engine there is the own
//! part alone.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use super::budget::Limit;

/// The common part of a lane's limits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommonSettings {
    /// Its limits: those that bind.
    pub limits: Vec<Limit>,
    /// The limits before they were divided.
    pub undivided: Vec<Limit>,
    /// Added to the length of every window, besides the time for which a grant lives.
    pub margin: Duration,
    /// The longest window, with all that is added to it: an own part that is new begins as spent for so long.
    pub longest: Duration,
    /// True if others may have used this machine's own part before: it is one of several.
    pub has_others: bool,
}

/// A call to the engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CommonCall {
    /// Asks for so many grants.
    Reserve(u32),
    /// Tells that Snyk has refused (429), and the time for which nobody is to send.
    Hold(Duration),
    /// Tells that the probe after a hold was good.
    EndHold,
}

/// The engine's answer to a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CommonAnswer {
    /// Number of grants.
    pub granted: u32,
    /// The time by which they must be used.
    pub until: Instant,
    /// The time at which more may fit.
    pub free: Instant,
    /// The time left of a hold of all machines.
    pub hold: Duration,
}

/// News of the engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EngineNews {
    /// It answers.
    Up {
        /// True if this machine has an own part.
        has_own: bool,
        /// Number of machines: they share the ramp after a backoff.
        members: u32,
    },
    /// It does not.
    Alone,
}

/// All of a limit, in thousandths.
pub(super) const WHOLE: u32 = 1_000;

/// Lower limits that Snyk told, as parts of ours (in thousandths) by window, and their ends.
#[derive(Debug, Default)]
pub(super) struct ToldParts(HashMap<Duration, (u32, Instant)>);

impl ToldParts {
    /// Learns what is left of our limit for a window.
    pub(super) fn learn(&mut self, told: Limit, ours: Limit, until: Instant) {
        let part = u64::from(told.most) * u64::from(WHOLE) / u64::from(ours.most.max(1));
        match u32::try_from(part) {
            Ok(part) if part < WHOLE => drop(self.0.insert(told.window, (part, until))),
            _ => drop(self.0.remove(&told.window)),
        }
    }

    /// The part that all windows keep to.
    pub(super) fn least(&self, now: Instant) -> u32 {
        let parts = self.0.values().filter(|(_, until)| *until > now).map(|(part, _)| *part);
        parts.min().unwrap_or(WHOLE)
    }
}

/// Pause after a call that failed.
const AFTER_FAILURE: Duration = Duration::from_millis(100);

/// The room of the common part for one more request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum CommonRoom {
    /// A grant.
    Granted,
    /// Grants can be asked for, or are being asked for.
    Ask,
    /// Nothing before this time.
    At(Instant),
    /// It is not known yet.
    Unknown,
    /// Nobody to ask.
    Away,
}

/// The common part, and the right to an own one.
#[derive(Debug)]
pub(super) struct CommonPart {
    /// True if all is divided into own parts, so that there is nothing to ask for.
    is_empty: bool,
    /// True if the engine answers; `None` before anything is known.
    engine: Option<bool>,
    is_asked: bool,
    /// The times by which the grants must be used, the earliest first.
    grants: VecDeque<Instant>,
    free: Option<Instant>,
    /// The time from which on the own part may be used; `None` where there is none.
    own_from: Option<Instant>,
    /// News of a hold, to be told.
    told: Option<HoldNews>,
    /// News that is being told.
    telling: Option<HoldNews>,
}

/// News of a hold that the others do not know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum HoldNews {
    Began,
    Ended,
}

impl CommonPart {
    /// The own part may be used from `own_from` on.
    pub(super) fn new(settings: &CommonSettings, own_from: Instant) -> Self {
        Self {
            is_empty: settings.limits.iter().any(|limit| limit.most == 0),
            engine: None,
            is_asked: false,
            grants: VecDeque::new(),
            free: None,
            own_from: Some(own_from),
            told: None,
            telling: None,
        }
    }

    pub(super) fn is_up(&self) -> bool {
        self.engine == Some(true)
    }

    /// True if grants can be asked for.
    pub(super) fn is_granting(&self) -> bool {
        self.is_up() && !self.is_empty
    }

    /// The time from which on the own part may be used.
    pub(super) const fn own_from(&self) -> Option<Instant> {
        self.own_from
    }

    /// True if there is an own part to be used now.
    pub(super) fn owns(&self, now: Instant) -> bool {
        self.own_from.is_some_and(|from| from <= now)
    }

    /// A hold has ended: there may be room at once.
    pub(super) const fn look_again(&mut self) {
        self.free = None;
    }

    pub(super) fn room(&self, now: Instant) -> CommonRoom {
        match (self.grants.back(), self.free) {
            (Some(until), _) if *until > now => CommonRoom::Granted,
            _ if self.engine.is_none() => CommonRoom::Unknown,
            _ if !self.is_granting() => CommonRoom::Away,
            (_, Some(free)) if free > now => CommonRoom::At(free),
            _ => CommonRoom::Ask,
        }
    }

    /// Takes the grant that ends first; gives the time by which it must be used.
    pub(super) fn take(&mut self, now: Instant) -> Option<Instant> {
        while self.grants.front().is_some_and(|until| *until <= now) {
            self.grants.pop_front();
        }
        self.grants.pop_front()
    }

    /// A grant was not used.
    pub(super) fn give_back(&mut self, until: Instant) {
        let at = self.grants.partition_point(|other| *other <= until);
        self.grants.insert(at, until);
    }

    /// There is news of a hold for the others.
    pub(super) const fn tell(&mut self, news: HoldNews) {
        self.told = Some(news);
    }

    /// The news to be told now. It is told again if its call fails.
    pub(super) fn take_news(&mut self) -> Option<HoldNews> {
        self.telling = if self.is_up() { self.told.take() } else { None };
        self.telling
    }

    pub(super) fn has_news(&self) -> bool {
        self.is_up() && self.told.is_some()
    }

    /// True if grants may be asked for.
    pub(super) fn may_ask(&self, now: Instant) -> bool {
        !self.is_asked && self.room(now) == CommonRoom::Ask
    }

    /// Grants are being asked for.
    pub(super) const fn asked(&mut self) {
        self.is_asked = true;
    }

    /// Takes the answer to a call; `None` where it failed.
    pub(super) fn answered(&mut self, answer: Option<CommonAnswer>, now: Instant) {
        self.is_asked = false;
        let telling = self.telling.take();
        let Some(answer) = answer else {
            self.told = self.told.or(telling);
            self.free = Some(now + AFTER_FAILURE);
            return;
        };
        for _ in 0..answer.granted {
            self.give_back(answer.until);
        }
        self.free = Some(answer.free);
    }

    /// Takes news of the engine. An own part that is given begins as spent, for `longest`.
    pub(super) fn heard(&mut self, news: EngineNews, longest: Duration, now: Instant) {
        let EngineNews::Up { has_own, .. } = news else {
            self.engine = Some(false);
            return;
        };
        if !self.is_up() {
            (self.engine, self.free) = (Some(true), None);
        }
        self.own_from = if has_own { self.own_from.or(Some(now + longest)) } else { None };
    }
}

/// The longest window that is kept in common. All that was sent before is out of the windows after it.
const LONGEST: Duration = Duration::from_mins(1);

/// The limits that many machines keep. Of an hour each minute keeps its sixtieth, and what a shorter window keeps is left out.
pub(crate) fn kept_in_common(limits: &[Limit]) -> Vec<Limit> {
    let times = |long: &Limit, short: &Limit| {
        let (long, short) = (long.window.as_millis(), short.window.as_millis());
        if short > 0 && long % short == 0 { u32::try_from(long / short).unwrap_or(0) } else { 0 }
    };
    let mut kept: Vec<Limit> = limits.iter().filter(|limit| limit.window <= LONGEST).copied().collect();
    for minute in kept.iter_mut().filter(|limit| limit.window == LONGEST) {
        for long in limits.iter().filter(|limit| limit.window > LONGEST) {
            minute.most = minute.most.min(long.most / times(long, minute).max(1));
        }
    }
    let is_kept = |limit: &Limit| {
        kept.iter().any(|shorter| {
            let times = times(limit, shorter);
            times > 1 && shorter.most.saturating_mul(times) <= limit.most
        })
    };
    kept.iter().filter(|limit| !is_kept(limit)).copied().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(limits: &[(u32, u64)]) -> Vec<Limit> {
        let limit = |&(most, seconds)| Limit { most, window: Duration::from_secs(seconds) };
        limits.iter().map(limit).collect()
    }

    const fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn part(now: Instant) -> CommonPart {
        let (margin, longest) = (Duration::ZERO, seconds(60));
        let (limits, undivided) = (limits(&[(5, 1)]), limits(&[(10, 1)]));
        let settings = CommonSettings { limits, undivided, margin, longest, has_others: true };
        CommonPart::new(&settings, now)
    }

    const fn up(has_own: bool) -> EngineNews {
        EngineNews::Up { has_own, members: 2 }
    }

    #[test]
    fn each_minute_keeps_its_part_of_an_hour_and_no_window_is_kept_twice() {
        let kept = |of: &[(u32, u64)]| kept_in_common(&limits(of));
        assert_eq!(kept(&[(160, 1), (1_620, 60), (97_200, 3_600)]), limits(&[(160, 1), (1_620, 60)]));
        assert_eq!(kept(&[(200, 1), (2_000, 60), (60_000, 3_600)]), limits(&[(200, 1), (1_000, 60)]));
        assert_eq!(kept(&[(10, 1), (600, 60), (36_000, 3_600)]), limits(&[(10, 1)]));
        assert_eq!(kept(&[(10, 1), (600, 60), (35_999, 3_600)]), limits(&[(10, 1), (599, 60)]));
    }

    #[test]
    fn a_grant_is_used_in_its_time_or_thrown_away() {
        let now = Instant::now();
        let mut common = part(now);
        assert_eq!(common.room(now), CommonRoom::Unknown);
        common.heard(up(true), seconds(60), now);
        assert!(common.may_ask(now));
        common.asked();
        assert!(!common.may_ask(now));
        let answer = CommonAnswer { granted: 2, until: now + seconds(1), free: now, hold: Duration::ZERO };
        common.answered(Some(answer), now);
        assert_eq!(common.room(now), CommonRoom::Granted);
        let until = common.take(now).expect("a grant");
        common.give_back(until);
        assert_eq!(common.room(now + seconds(1)), CommonRoom::Ask);
        assert_eq!(common.take(now + seconds(1)), None);
        // Those that are there outlive the engine.
        common.answered(Some(answer), now);
        common.heard(EngineNews::Alone, seconds(60), now);
        assert!(common.take(now).is_some() && common.take(now).is_some());
        assert_eq!(common.room(now), CommonRoom::Away);
    }

    #[test]
    fn an_own_part_that_is_given_anew_begins_as_spent() {
        let now = Instant::now();
        let mut common = part(now);
        common.heard(up(true), seconds(60), now);
        assert_eq!(common.own_from(), Some(now));
        common.heard(up(false), seconds(60), now);
        common.heard(EngineNews::Alone, seconds(60), now);
        assert_eq!(common.own_from(), None);
        common.heard(up(true), seconds(60), now + seconds(5));
        assert_eq!(common.own_from(), Some(now + seconds(65)));
    }
}
