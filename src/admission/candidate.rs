//! The requests that ask to be sent, and the reasons to keep them waiting.

use std::sync::Arc;
use std::time::{Duration, Instant};

/// A request that asks to be sent.
#[derive(Debug, Clone)]
pub struct Candidate {
    /// The client.
    pub client: Arc<str>,
    /// Its share.
    pub weight: u32,
    /// The scope of a start call; `None` for any other call.
    pub start: Option<Arc<str>>,
    /// Latest end of its wait, whatever `queue.max_wait` is.
    pub deadline: Instant,
    /// True if it was let through before, and had to be put back: it stands before its client's others.
    pub is_put_back: bool,
}

/// The id of a request in the queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct QueueId(pub(super) u64);

/// The reason that a request waits, or is not sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Obstacle {
    /// Snyk's limit, by our own count.
    Budget,
    /// The backoff after a 429.
    Backoff,
    /// Too many run.
    Concurrency,
    /// Too many wait.
    Queue,
    /// A circuit is open.
    Circuit(Level),
}

/// The level of a circuit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    /// All requests.
    Host,
    /// Those of one org or group.
    Scope,
    /// Those of one export, or the starts of one scope.
    Export,
}

impl Obstacle {
    /// A word for log, journal and fields.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Budget => "budget",
            Self::Backoff => "backoff",
            Self::Concurrency => "concurrency",
            Self::Queue => "queue",
            Self::Circuit(_) => "circuit",
        }
    }
}

/// A request that may not be sent now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AdmissionRefusal {
    /// The reason.
    pub obstacle: Obstacle,
    /// Time after which another try may succeed.
    pub retry_after: Duration,
}
