//! The settings of the request path. They may be replaced while it runs; a request goes by those that were in force
//! when it came.

use std::time::Duration;

use http::HeaderName;
use tokio::time::Instant;

use crate::clock::Now;
use crate::{listener, upstream};

/// `[routes]`: the answer to calls that are no export calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Routes {
    /// Answered 404 by us.
    ExportsOnly,
    /// Forwarded under `/rest/…` and `/v1/…`.
    Everything,
}

/// The settings of the request path.
#[derive(Debug)]
pub struct Settings<'a> {
    /// `[routes]`.
    pub routes: Routes,
    /// `[listener]`.
    pub listener: &'a listener::Settings,
    /// `[upstream]`.
    pub upstream: &'a upstream::Settings,
}

/// The settings that requests go by.
#[derive(Debug)]
pub(super) struct Rules {
    pub(super) forward_other: bool,
    /// Client fields that go up besides the standard ones; they are part of the cache key.
    pub(super) forward_headers: Vec<HeaderName>,
    pub(super) default_version: Option<String>,
    /// Longest request target, in bytes.
    pub(super) max_target: usize,
    /// Largest body of a start call, in bytes.
    pub(super) max_body: usize,
    pub(super) body_timeout: Duration,
    pub(super) request_timeout: Duration,
    pub(super) linger_timeout: Duration,
    /// Most of an unwanted body that is read, in bytes.
    pub(super) max_discarded: usize,
}

impl Rules {
    /// The deadline of a request that came at `started`.
    pub(super) fn deadline(&self, started: Now) -> Instant {
        Instant::from_std(started.mono) + self.request_timeout
    }
}

impl From<&Settings<'_>> for Rules {
    fn from(settings: &Settings<'_>) -> Self {
        let Settings { routes, listener, upstream } = settings;
        Self {
            forward_other: *routes == Routes::Everything,
            forward_headers: upstream.forward_headers.clone(),
            default_version: upstream.default_version.clone(),
            max_target: listener.max_target,
            max_body: listener.max_body,
            body_timeout: listener.body_timeout,
            request_timeout: listener.request_timeout,
            linger_timeout: listener.linger_timeout,
            max_discarded: listener.max_discarded,
        }
    }
}
