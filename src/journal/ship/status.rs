//! The state of the shipping, for people.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::error::ShipError;
use super::outbox::OutboxSize;
use super::settings::ShipSettings;
use crate::clock::Now;

/// The state of the shipping.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShipStatus {
    /// The database takes records.
    pub is_up: bool,
    /// The reason that it does not; `None` also before the first connection.
    pub failure: Option<String>,
    /// Records that wait.
    pub rows: u64,
    /// Age of the oldest one.
    pub oldest: Duration,
    /// Records that were shipped since the start.
    pub shipped: u64,
    /// Records that were given up since the start: beyond `journal.ship_max_rows`, or deleted here before they were shipped.
    pub dropped: u64,
    /// Failures since the start.
    pub failures: u64,
}

#[derive(Debug, Default)]
struct Seen {
    is_up: bool,
    failure: Option<String>,
    size: OutboxSize,
    is_dropping: bool,
}

#[derive(Debug, Default)]
pub(super) struct ShipLog {
    seen: Mutex<Seen>,
    shipped: AtomicU64,
    dropped: AtomicU64,
    failures: AtomicU64,
}

impl ShipLog {
    pub(super) fn connected(&self, settings: &ShipSettings) {
        let mut seen = self.lock();
        seen.failure = None;
        if !std::mem::replace(&mut seen.is_up, true) {
            tracing::info!("journal shipped to the {settings}");
        }
    }

    pub(super) fn failed(&self, settings: &ShipSettings, error: &ShipError) {
        self.failures.fetch_add(1, Ordering::Relaxed);
        let text = format!("{error}{}", error.advice());
        let mut seen = self.lock();
        let was_up = std::mem::replace(&mut seen.is_up, false);
        if was_up || seen.failure.as_ref() != Some(&text) {
            tracing::warn!(error = text, "journal not shipped to the {settings}; records wait in the outbox");
        }
        seen.failure = Some(text);
    }

    pub(super) fn is_up(&self) -> bool {
        self.lock().is_up
    }

    pub(super) fn is_failing(&self) -> bool {
        self.lock().failure.is_some()
    }

    pub(super) fn shipped(&self, rows: usize) {
        self.shipped.fetch_add(rows as u64, Ordering::Relaxed);
    }

    /// Counts records that are not there and never will be.
    pub(super) fn dropped(&self, rows: u64, why: &str) {
        self.dropped.fetch_add(rows, Ordering::Relaxed);
        if !std::mem::replace(&mut self.lock().is_dropping, true) {
            tracing::error!(
                records = rows,
                "journal records dropped from the outbox, and missing in the database: {why}"
            );
        }
    }

    pub(super) fn measured(&self, size: OutboxSize) {
        let mut seen = self.lock();
        seen.size = size;
        if size.rows == 0 {
            seen.is_dropping = false;
        }
    }

    pub(super) fn status(&self, now: Now) -> ShipStatus {
        let seen = self.lock();
        let now_ms = super::super::record::unix_ms(now.wall);
        let age = |oldest: i64| Duration::from_millis(u64::try_from(now_ms - oldest).unwrap_or(0));
        ShipStatus {
            is_up: seen.is_up,
            failure: seen.failure.clone(),
            rows: seen.size.rows,
            oldest: seen.size.oldest_ms.map_or(Duration::ZERO, age),
            shipped: self.shipped.load(Ordering::Relaxed),
            dropped: self.dropped.load(Ordering::Relaxed),
            failures: self.failures.load(Ordering::Relaxed),
        }
    }

    /// A panic while it was locked left it whole: each change is one value.
    fn lock(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
