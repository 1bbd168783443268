//! The settings of the cache.

use std::time::Duration;

use super::not_stored::NotStored;

/// `[cache]`.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Most bytes (bodies, fields and keys) that stored responses may take in all.
    pub max_bytes: u64,
    /// Largest body that is stored, in bytes.
    pub max_entry: usize,
    /// Time before the end of its first link at which a stored response stops being fresh; at most half of the link's rest.
    pub link_margin: Duration,
    /// Longest freshness lifetime of any stored response.
    pub max_age: Duration,
    /// Longest freshness lifetime where a link's end is not known; zero stores none of these.
    pub default_age: Duration,
    /// Reasons not to store an answer that are ignored.
    pub ignore: Vec<NotStored>,
    /// True if entries are fetched again ahead of their end.
    pub refresh_ahead: bool,
    /// Most clients that may wait for one request in flight.
    pub max_followers: usize,
}
