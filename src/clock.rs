//! The one place that reads the time.
//!
//! Links expire by wall time, which can jump; durations are measured on the monotonic clock, which
//! stops while a machine is suspended. A [`Now`] holds both, read once per request, and everything
//! below the request path is given it instead of reading a clock. Monotonic time is tokio's, which a test can pause.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant, SystemTime};

/// One reading of both clocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Now {
    /// Wall time: what links, `Date` fields and the journal are written in.
    pub wall: SystemTime,
    /// Monotonic time: what ages and time-outs are measured in.
    pub mono: Instant,
}

/// The source of [`Now`]: the system, or (in tests) the system moved by an offset.
#[derive(Debug, Clone, Default)]
pub struct Clock {
    /// Milliseconds added to the wall time; `None` is the system's own time.
    offset_ms: Option<Arc<AtomicI64>>,
}

impl Clock {
    /// The system's clocks.
    #[must_use]
    pub fn system() -> Self {
        Self::default()
    }

    /// Clocks that a test can move with [`Clock::step_wall`].
    #[must_use]
    pub fn movable() -> Self {
        Self { offset_ms: Some(Arc::new(AtomicI64::new(0))) }
    }

    /// Moves the wall time of a [`Clock::movable`] clock by `seconds` (backwards when negative).
    pub fn step_wall(&self, seconds: i64) {
        if let Some(offset) = &self.offset_ms {
            offset.fetch_add(seconds * 1_000, Ordering::SeqCst);
        }
    }

    /// Reads both clocks.
    #[must_use]
    #[expect(clippy::disallowed_methods, reason = "this is the one place that reads the clocks")]
    pub fn now(&self) -> Now {
        let wall = SystemTime::now();
        let mono = tokio::time::Instant::now().into_std();
        let Some(offset) = &self.offset_ms else { return Now { wall, mono } };
        let ms = offset.load(Ordering::SeqCst);
        let by = Duration::from_millis(ms.unsigned_abs());
        Now { wall: if ms < 0 { wall - by } else { wall + by }, mono }
    }
}
