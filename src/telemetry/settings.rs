//! The settings of logs.

/// `[log]`.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Format of the events.
    pub format: Format,
    /// A `tracing` filter, as in `RUST_LOG` (which comes first).
    pub filter: String,
    /// Most bytes of lines that wait to be written; more are dropped.
    pub max_buffer: usize,
}

/// Format of log events on standard error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// Text on a terminal, JSON otherwise.
    Auto,
    /// One readable line an event.
    Text,
    /// One JSON object an event.
    Json,
}
