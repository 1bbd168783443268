//! The state of the journal, which everybody reads without asking its thread.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};

use prometheus_client::metrics::histogram::Histogram;

/// Seconds that a commit takes: some ten microseconds, or what an fsync takes.
const COMMIT_SECONDS: [f64; 10] = [0.000_05, 0.0001, 0.0005, 0.001, 0.005, 0.01, 0.05, 0.1, 1.0, 5.0];
/// Bytes of a page, SQLite's default.
const PAGE: u64 = 4_096;

#[derive(Debug)]
pub(super) struct JournalHealth {
    failing: AtomicBool,
    pub(super) dropped: AtomicU64,
    pub(super) written: AtomicU64,
    pub(super) commits: AtomicU64,
    pub(super) panics: AtomicU64,
    /// Records that the thread has taken and not written yet.
    pub(super) in_hand: AtomicUsize,
    /// Pages of the write-ahead log, as of the last commit.
    pub(super) log_pages: Arc<AtomicU32>,
    /// A reader keeps the log from being begun anew.
    pub(super) is_held_open: AtomicBool,
    /// Seconds that commits took.
    pub(super) durations: Histogram,
}

impl Default for JournalHealth {
    fn default() -> Self {
        Self {
            failing: AtomicBool::default(),
            dropped: AtomicU64::default(),
            written: AtomicU64::default(),
            commits: AtomicU64::default(),
            panics: AtomicU64::default(),
            in_hand: AtomicUsize::default(),
            log_pages: Arc::default(),
            is_held_open: AtomicBool::default(),
            durations: Histogram::new(COMMIT_SECONDS),
        }
    }
}

impl JournalHealth {
    pub(super) fn is_failing(&self) -> bool {
        self.failing.load(Ordering::SeqCst)
    }

    /// Notes that records cannot be written. `true` if that is news.
    pub(super) fn fails(&self) -> bool {
        !self.failing.swap(true, Ordering::SeqCst)
    }

    /// Notes that records are written. `true` if that is news.
    pub(super) fn works(&self) -> bool {
        // A load in the usual case: everybody reads this.
        self.is_failing() && self.failing.swap(false, Ordering::SeqCst)
    }

    /// Notes that the thread panicked; what it had in hand is lost.
    pub(super) fn panicked(&self) {
        self.fails();
        self.panics.fetch_add(1, Ordering::Relaxed);
        let lost = self.in_hand.swap(0, Ordering::Relaxed);
        self.dropped.fetch_add(lost as u64, Ordering::Relaxed);
    }

    pub(super) fn log_bytes(&self) -> u64 {
        u64::from(self.log_pages.load(Ordering::Relaxed)) * PAGE
    }
}
