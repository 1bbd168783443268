//! What the configuration says about logs.

/// `[log]`.
#[derive(Debug, Clone)]
pub struct Settings {
    /// How events are written.
    pub format: Format,
    /// A `tracing` filter, as in `RUST_LOG` (which comes first).
    pub filter: String,
    /// Most bytes of lines that wait to be written; more are dropped.
    pub max_buffer: usize,
}

/// How log events are written to standard error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// Text on a terminal, JSON otherwise.
    Auto,
    /// One readable line an event.
    Text,
    /// One JSON object an event.
    Json,
}
