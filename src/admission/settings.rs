//! What the configuration says about admission.

use super::Api;
use super::circuits::BreakerSettings;
use super::retry::RetrySettings;
use super::rules::LaneSettings;

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
