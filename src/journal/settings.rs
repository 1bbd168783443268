//! The settings of the journal.

use std::path::PathBuf;
use std::time::Duration;

use super::ship::ShipSettings;

/// `[journal]`.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The SQLite file.
    pub path: PathBuf,
    /// The failures that a committed record survives.
    pub durability: Durability,
    /// The fate of answers while records cannot be written.
    pub on_failure: OnFailure,
    /// Longest that an answer waits for its record.
    pub max_wait: Duration,
    /// Most records that wait in memory; more are dropped.
    pub max_pending: usize,
    /// Longest time for which records are kept.
    pub max_age: Duration,
    /// Most attempts that are kept.
    pub max_rows: u64,
    /// The database of many gateways, where there is one.
    pub ship: Option<ShipSettings>,
}

/// The failures that a committed record survives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// The end of the process, however it ends.
    Process,
    /// Also a power cut, at the price of an fsync per group.
    Power,
}

/// The fate of answers while records cannot be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnFailure {
    /// They leave, and their records follow.
    Serve,
    /// Clients get 503.
    Refuse,
}
