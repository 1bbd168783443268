//! The settings of admission.

use std::time::Duration;

use super::Api;
use super::backoff::BackoffSettings;
use super::budget::Limit;
use super::circuits::BreakerSettings;
use super::common::CommonSettings;
use super::retry::RetrySettings;

/// The rate limit, the queue, the backoff, retries and circuits.
#[derive(Debug, Clone)]
pub struct Settings {
    /// `[budget]`, `[queue]` and `[backoff]`, for `/rest`.
    pub rest: LaneSettings,
    /// The same for `/v1`, which has limits of its own.
    pub v1: LaneSettings,
    /// `[retry]`.
    pub retry: RetrySettings,
    /// `[breaker]`.
    pub breaker: BreakerSettings,
}

impl Settings {
    pub(super) const fn lane(&self, api: Api) -> &LaneSettings {
        match api {
            Api::Rest => &self.rest,
            Api::V1 => &self.v1,
        }
    }
}

/// `[budget]`, `[queue]` and `[backoff]`, for one credential.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LaneSettings {
    /// Snyk's limits, as far as they are ours.
    pub limits: Vec<Limit>,
    /// The part that many machines have in common; `limits` are this machine's own part then.
    pub common: Option<CommonSettings>,
    /// Snyk's limits of the whole account: rate fields that tell these are about it.
    pub account: Vec<Limit>,
    /// Start calls in an hour and scope; `None` leaves it to Snyk to refuse.
    pub starts: Option<u32>,
    /// Added to the length of every window.
    pub margin: Duration,
    /// The backoff after a 429.
    pub backoff: BackoffSettings,
    /// Longest that a request waits in the queue.
    pub max_wait: Duration,
    /// Most requests that wait.
    pub max_waiting: usize,
    /// Most requests that run.
    pub max_running: usize,
    /// True if there are several clients: then one leaves slots for the others.
    pub several_clients: bool,
}
