//! The listener's counters.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// Counts since the start, but for `open`.
#[derive(Debug, Default)]
pub struct Counters {
    /// Connections that are open.
    pub open: AtomicUsize,
    /// `listener.max_connections`, as it is now.
    pub max: AtomicUsize,
    /// Connections that were accepted without TLS.
    pub tcp: AtomicU64,
    /// Connections that were accepted to speak TLS.
    pub tls: AtomicU64,
    /// Connections to Unix sockets.
    pub unix: AtomicU64,
    /// Connections that found no place.
    pub full: AtomicU64,
    /// Connections whose address had too many.
    pub address_full: AtomicU64,
    /// TLS handshakes that ended well.
    pub handshakes: AtomicU64,
    /// TLS handshakes that failed.
    pub handshakes_failed: AtomicU64,
    /// TLS handshakes that took too long.
    pub handshakes_timed_out: AtomicU64,
    /// HTTP without TLS on TLS addresses.
    pub plain_http: AtomicU64,
}

/// Counts one more.
pub(super) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}
