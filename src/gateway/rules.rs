//! The settings of the request path. They may be replaced while it runs; a request goes by those that were in force
//! when it came.

use tokio::time::Instant;

use super::wait::WaitSettings;
use crate::clock::Now;
use crate::{listener, upstream};

/// The settings of the request path.
#[derive(Debug)]
pub struct Settings {
    /// `routes.other`: true if calls that are no export calls are forwarded.
    pub forward_other: bool,
    /// `[listener]`.
    pub listener: listener::Settings,
    /// `[upstream]`.
    pub upstream: upstream::Settings,
    /// `[wait]`.
    pub wait: WaitSettings,
}

impl Settings {
    /// The deadline of a request that came at `started`.
    pub(super) fn deadline(&self, started: Now) -> Instant {
        Instant::from_std(started.mono) + self.listener.request_timeout
    }
}
