//! The state of one lane, for status and metrics.

use std::sync::Arc;
use std::time::Duration;

use crate::circuit::CircuitStatus;

/// The state of one lane, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LaneStatus {
    /// The length of each window, what may be sent in it, and what was.
    pub windows: Vec<(Duration, u32, u32)>,
    /// The backoff after a 429.
    pub backoff: CircuitStatus,
    /// The scopes whose start calls are paused, and the time left.
    pub paused_starts: Vec<(Arc<str>, Duration)>,
    /// Number of requests in the queue.
    pub waiting: usize,
    /// Number of requests that have a slot.
    pub running: usize,
}

impl LaneStatus {
    /// True if anything was sent, or waits.
    pub(crate) fn is_used(&self) -> bool {
        self.waiting > 0 || self.running > 0 || self.windows.iter().any(|(_, _, used)| *used > 0)
    }
}
