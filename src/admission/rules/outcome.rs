//! The end of a request: its slot is free, and its outcome changes the backoff and the budget.

use std::time::{Duration, Instant};

use super::super::budget::Limit;
use super::super::common::HoldNews;
use super::super::rate_fields::{Bucket, CallKind, RateFields};
use super::{Grant, Rules, starts_of};

/// The outcome of a send, for the backoff.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum SendOutcome {
    /// An answer, no 429.
    Answered,
    /// 429.
    TooMany {
        /// `Retry-After`, or until the reset.
        retry_after: Option<Duration>,
        /// The limit that was reached, as far as the rate fields tell (`Rules::bucket`).
        bucket: Bucket,
        /// Added to our own pause, so that many gateways do not come back at once.
        jitter: Duration,
    },
    /// No answer.
    #[default]
    Failed,
}

impl Rules {
    /// Gives the slot of a request back. One that was never confirmed was not sent, and counts no more.
    pub fn ended(&mut self, grant: Grant, outcome: &SendOutcome, now: Instant) {
        let Some(running) = self.slots.free(grant.slot) else { return };
        let mut starts =
            running.start.as_ref().map(|scope| starts_of(&mut self.starts, scope, &self.settings));
        if let Some(at) = running.counted.filter(|_| !running.is_confirmed) {
            match (running.common_until, &mut self.common) {
                (None, _) => self.budget.take_back(at),
                (Some(until), Some(common)) => common.give_back(until),
                (Some(_), None) => {}
            }
            if let Some(starts) = &mut starts {
                starts.budget.take_back(at);
            }
        }
        if let Some(starts) = &mut starts {
            starts.running = starts.running.saturating_sub(1);
        }
        match outcome {
            SendOutcome::Answered => {
                self.backoff.answered(grant.is_probe, now);
                if let Some(starts) = starts {
                    starts.backoff.answered(grant.is_probe_of_starts, now);
                }
                if let Some(common) = self.common.as_mut().filter(|_| grant.is_probe) {
                    common.tell(HoldNews::Ended);
                }
            }
            SendOutcome::TooMany { retry_after, bucket, jitter } => {
                // A start's own quota is another one than the account's, and a bucket of its own is no other call's.
                let is_the_accounts = match bucket {
                    Bucket::Account => true,
                    Bucket::Unknown => starts.is_none(),
                    Bucket::Other => false,
                };
                if let Some(starts) = starts {
                    starts.backoff.refused(*retry_after, grant.is_probe_of_starts, *jitter, now);
                }
                if is_the_accounts {
                    self.backoff.refused(*retry_after, grant.is_probe, *jitter, now);
                    if let Some(common) = &mut self.common {
                        common.tell(HoldNews::Began);
                    }
                } else {
                    self.backoff.answered(grant.is_probe, now);
                }
            }
            SendOutcome::Failed => {
                if grant.is_probe {
                    self.backoff.circuit.lose_probe(now);
                }
                if let Some(starts) = starts.filter(|_| grant.is_probe_of_starts) {
                    starts.backoff.circuit.lose_probe(now);
                }
            }
        }
        self.starts.retain(|_, starts| {
            starts.running > 0 || !starts.backoff.is_over(now) || !starts.budget.is_unused(now)
        });
    }

    /// Learns from the rate fields of an answer.
    ///
    /// Those of an export read are believed, whatever they say: that is what export reads have. Of any other call, a
    /// limit is believed where it is the account's, for the call may have one of its own. `reset` is when the window ends;
    /// nothing is believed for longer than a backoff may last.
    pub fn learn(&mut self, rate: &RateFields, kind: CallKind, now: Instant) {
        let at_most =
            rate.reset.map_or(self.settings.backoff.most, |reset| reset.min(self.settings.backoff.most));
        let is_believed = |limit: &&Limit| kind == CallKind::Read || self.is_the_accounts(**limit);
        let believed: Vec<Limit> = rate.limits.iter().filter(is_believed).copied().collect();
        let first = believed.iter().find(|limit| rate.first == Some(limit.most)).map(|limit| limit.window);
        for limit in self.own_parts(believed, now) {
            let remaining = rate.remaining.filter(|_| first == Some(limit.window));
            self.budget.learn(limit, remaining, at_most, now);
        }
    }

    fn is_the_accounts(&self, told: Limit) -> bool {
        self.settings.account.contains(&told)
    }

    /// The limit that a 429 with these rate fields is about.
    pub(crate) fn bucket(&self, rate: &RateFields, kind: CallKind) -> Bucket {
        let first = rate.limits.iter().find(|limit| rate.first == Some(limit.most));
        match (first, kind) {
            (None, _) => Bucket::Unknown,
            // What holds for one export read holds for all of them, and they are most of what is sent.
            (Some(_), CallKind::Read) => Bucket::Account,
            (Some(limit), CallKind::Start | CallKind::Other) => {
                let is_used_up = rate.remaining.is_none_or(|remaining| remaining == 0);
                if is_used_up && self.is_the_accounts(*limit) { Bucket::Account } else { Bucket::Other }
            }
        }
    }
}
