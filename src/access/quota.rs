//! Limits of clients' requests, and of failed authentications by address (pure counting; takes `now`).

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

const MINUTE: Duration = Duration::from_mins(1);
/// Most addresses whose failures are counted; beyond it, the least recent are forgotten.
const MAX_ADDRESSES: usize = 10_000;

/// The requests of one client. They survive a reload of the clients file.
#[derive(Debug, Default)]
pub struct Usage {
    running: AtomicU32,
    /// Times of the requests of the last minute, the oldest first.
    recent: Mutex<VecDeque<Instant>>,
}

/// The limit that a client has reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QuotaError {
    /// `requests_per_minute`.
    PerMinute {
        /// Time until the next request is allowed.
        retry_after: Duration,
    },
    /// `concurrent_requests`.
    AtOnce,
}

impl QuotaError {
    pub(crate) const fn retry_after(self) -> Duration {
        match self {
            Self::PerMinute { retry_after } => retry_after,
            Self::AtOnce => Duration::from_secs(1),
        }
    }
}

/// A place among a client's concurrent requests, released when dropped.
#[derive(Debug)]
pub struct Permit(UsagePlace);

#[derive(Debug)]
enum UsagePlace {
    /// None is taken.
    Unlimited,
    Own(Arc<Usage>),
    /// Released when all who share it have dropped it.
    Shared(Arc<Permit>),
}

impl Permit {
    pub(crate) fn unlimited() -> Self {
        Self(UsagePlace::Unlimited)
    }

    /// Another holder of the same place.
    pub(crate) fn share(&mut self) -> Self {
        let shared = Arc::new(std::mem::replace(self, Self::unlimited()));
        *self = Self(UsagePlace::Shared(Arc::clone(&shared)));
        Self(UsagePlace::Shared(shared))
    }

    /// Gives the place back for as long as the result lives: who only waits takes none.
    pub(crate) fn lend(&self) -> LentPlace<'_> {
        let usage = match &self.0 {
            UsagePlace::Unlimited => None,
            UsagePlace::Own(usage) => Some(usage),
            UsagePlace::Shared(shared) => return shared.lend(),
        };
        if let Some(usage) = usage {
            usage.running.fetch_sub(1, Ordering::AcqRel);
        }
        LentPlace(usage)
    }
}

/// A place that is given back for a while. It is taken again whether it is free or not: its request was admitted.
#[derive(Debug)]
pub(crate) struct LentPlace<'a>(Option<&'a Arc<Usage>>);

impl Drop for LentPlace<'_> {
    fn drop(&mut self) {
        if let Some(usage) = self.0 {
            usage.running.fetch_add(1, Ordering::AcqRel);
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if let UsagePlace::Own(usage) = &self.0 {
            usage.running.fetch_sub(1, Ordering::AcqRel);
        }
    }
}

impl Usage {
    /// Counts a request at `now`. At most `per_minute` are allowed in any 60 seconds; refused ones do not count.
    pub(super) fn admit(
        self: &Arc<Self>,
        per_minute: Option<u32>,
        at_once: Option<u32>,
        now: Instant,
    ) -> Result<Permit, QuotaError> {
        let more =
            |running: u32| at_once.is_none_or(|most| running < most).then(|| running.saturating_add(1));
        if self.running.fetch_update(Ordering::AcqRel, Ordering::Acquire, more).is_err() {
            return Err(QuotaError::AtOnce);
        }
        // From here on, every return releases the place.
        let permit = Permit(UsagePlace::Own(Arc::clone(self)));
        self.count(per_minute, now)?;
        Ok(permit)
    }

    /// Counts a request at `now` that takes no place: it joins a concurrent request of its client.
    pub(super) fn join(&self, per_minute: Option<u32>, now: Instant) -> Result<Permit, QuotaError> {
        self.count(per_minute, now)?;
        Ok(Permit::unlimited())
    }

    fn count(&self, per_minute: Option<u32>, now: Instant) -> Result<(), QuotaError> {
        if let Some(most) = per_minute {
            let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
            while recent.front().is_some_and(|at| now.saturating_duration_since(*at) >= MINUTE) {
                recent.pop_front();
            }
            if recent.len() >= most as usize {
                let oldest =
                    recent.get(recent.len().saturating_sub(most.max(1) as usize)).copied().unwrap_or(now);
                let retry_after = MINUTE.saturating_sub(now.saturating_duration_since(oldest));
                return Err(QuotaError::PerMinute { retry_after });
            }
            recent.push_back(now);
        }
        Ok(())
    }
}

/// Failed authentications by address, in minutes that begin with the first of them.
#[derive(Debug, Default)]
pub(super) struct Failures {
    by_address: Mutex<HashMap<IpAddr, (Instant, u32)>>,
}

/// The count of an address after a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FailureCount {
    /// Within the limit.
    Within,
    /// The first over the limit in its minute: it is logged.
    FirstOver,
    /// Over the limit.
    Over,
}

impl Failures {
    /// Counts a failure against the limit of `most` per minute and address.
    pub(super) fn count(&self, address: IpAddr, most: u32, now: Instant) -> FailureCount {
        let mut by_address = self.by_address.lock().unwrap_or_else(PoisonError::into_inner);
        if by_address.len() >= MAX_ADDRESSES && !by_address.contains_key(&address) {
            by_address.retain(|_, (since, _)| now.saturating_duration_since(*since) < MINUTE);
            if by_address.len() >= MAX_ADDRESSES {
                // So many addresses fail within a minute that counting each means little.
                by_address.clear();
            }
        }
        let (since, count) = by_address.entry(address).or_insert((now, 0));
        if now.saturating_duration_since(*since) >= MINUTE {
            (*since, *count) = (now, 0);
        }
        *count = count.saturating_add(1);
        match (*count).cmp(&(most + 1)) {
            std::cmp::Ordering::Less => FailureCount::Within,
            std::cmp::Ordering::Equal => FailureCount::FirstOver,
            std::cmp::Ordering::Greater => FailureCount::Over,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_minute_holds_more_than_its_requests() {
        let (usage, begin) = (Arc::new(Usage::default()), Instant::now());
        let admit = |second: u64| usage.admit(Some(2), None, begin + Duration::from_secs(second)).map(drop);
        assert_eq!([admit(0), admit(30)], [Ok(()), Ok(())]);
        let wait = |seconds| Err(QuotaError::PerMinute { retry_after: Duration::from_secs(seconds) });
        assert_eq!([admit(31), admit(59)], [wait(29), wait(1)]);
        assert_eq!([admit(60), admit(61), admit(90)], [Ok(()), wait(29), Ok(())]);
    }

    #[test]
    fn a_place_is_given_back_also_by_who_was_refused() {
        let (usage, now) = (Arc::new(Usage::default()), Instant::now());
        let first = usage.admit(None, Some(1), now).expect("a place");
        assert_eq!(usage.admit(None, Some(1), now).err(), Some(QuotaError::AtOnce));
        drop(first);
        let mut first = usage.admit(None, Some(1), now).expect("a place");
        let second = first.share();
        let third = first.share();
        drop(first);
        drop(third);
        assert_eq!(usage.admit(None, Some(1), now).err(), Some(QuotaError::AtOnce));
        drop(second);
        assert!(usage.admit(Some(0), Some(1), now).is_err());
        assert!(usage.admit(None, Some(1), now).is_ok());
    }

    #[test]
    fn who_waits_takes_no_place_and_has_it_again_afterwards() {
        let (usage, now) = (Arc::new(Usage::default()), Instant::now());
        let mut waiting = usage.admit(None, Some(1), now).expect("a place");
        let shared = waiting.share();
        let lent = waiting.lend();
        let other = usage.admit(None, Some(1), now).expect("the place that is lent");
        drop((lent, other));
        assert_eq!(usage.admit(None, Some(1), now).err(), Some(QuotaError::AtOnce));
        drop((waiting, shared));
        assert!(usage.admit(None, Some(1), now).is_ok());
    }

    #[test]
    fn failures_are_counted_by_address_and_minute_in_bounded_memory() {
        let (failures, begin) = (Failures::default(), Instant::now());
        let home = IpAddr::from([127, 0, 0, 1]);
        let counted: Vec<FailureCount> = (0..4).map(|_| failures.count(home, 2, begin)).collect();
        assert_eq!(
            counted,
            [FailureCount::Within, FailureCount::Within, FailureCount::FirstOver, FailureCount::Over]
        );
        assert_eq!(failures.count([127, 0, 0, 2].into(), 2, begin), FailureCount::Within);
        assert_eq!(failures.count(home, 2, begin + MINUTE), FailureCount::Within);
        for n in 0..30_000_u32 {
            failures.count(IpAddr::from(n.to_be_bytes()), 2, begin);
        }
        assert!(failures.by_address.lock().expect("no panic").len() <= MAX_ADDRESSES);
    }
}
