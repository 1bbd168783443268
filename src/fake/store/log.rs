//! The requests that came to the store, and its load.

use super::super::Seen;

/// A request for a part, as it was received, and the status of its answer.
#[derive(Debug, Clone)]
pub struct StoreRequest {
    /// The request.
    pub seen: Seen,
    /// The export whose part was asked for; empty where the path is none of ours.
    pub export: String,
    /// The part, from 1; 0 where the path is none of ours.
    pub part: u32,
    /// The status of the answer; 0 where none was given.
    pub status: u16,
}

impl StoreRequest {
    /// `Range`, such as `bytes=0-65535`; none for the whole object.
    #[must_use]
    pub fn range(&self) -> Option<&str> {
        self.seen.header("range").first().copied()
    }

    /// `If-Match`.
    #[must_use]
    pub fn if_match(&self) -> Option<&str> {
        self.seen.header("if-match").first().copied()
    }
}

/// The store's load.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct StoreLoad {
    /// Requests that were received.
    pub received: u64,
    /// Requests whose answers have not ended.
    pub running: u64,
    /// The most that were running at once.
    pub most_running: u64,
    /// Bytes of parts that were handed to the connections.
    pub bytes: u64,
}
