//! Turns that bring no export.

use std::time::Duration;

/// A start that has no export.
#[derive(Debug)]
pub(super) enum NoStart {
    /// Snyk has certainly started nothing. `wait` is what it asked for.
    NotSent { reason: String, wait: Duration },
    /// Snyk refused it, or its outcome is not known.
    Failed(String),
}

/// A turn that ended without a table.
#[derive(Debug)]
pub(super) struct TurnError {
    pub(super) reason: String,
    /// True if another start may help at once.
    pub(super) is_at_once: bool,
}

impl TurnError {
    pub(super) fn new(reason: impl Into<String>) -> Self {
        Self { reason: reason.into(), is_at_once: false }
    }

    pub(super) fn errored() -> Self {
        Self { reason: "the export failed at Snyk (ERRORED)".to_owned(), is_at_once: true }
    }
}
