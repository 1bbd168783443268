//! What the configuration says about stored responses.

use std::time::Duration;

use super::not_stored::NotStored;

/// `[cache]`.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Most bytes (bodies, fields and keys) that stored responses may take in all.
    pub max_bytes: u64,
    /// Largest body that is stored, in bytes.
    pub max_entry: usize,
    /// How long before its first link dies a stored response stops being fresh, if that is not more than half of what
    /// the link has left.
    pub link_margin: Duration,
    /// Longest freshness lifetime of any stored response.
    pub max_age: Duration,
    /// Longest freshness lifetime where a link's end is not known; zero stores none of these.
    pub default_age: Duration,
    /// What of the upstream's fields does not keep an answer from being stored.
    pub ignore: Vec<NotStored>,
    /// Whether an entry is fetched again ahead of its end.
    pub refresh_ahead: bool,
    /// Most clients that may wait for one request in flight.
    pub max_followers: usize,
}
