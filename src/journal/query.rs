//! The filters of a search for records, and the reasons that one fails.

use std::path::PathBuf;
use std::str::FromStr;
use std::time::{Duration, SystemTime};

/// The filters of a search; all that are given must match.
#[derive(Debug, Clone, Default)]
pub struct Query {
    /// The export's id. Of this and of the other ids, one that is a UUID may be given by its first eight
    /// characters, or more of them.
    pub export: Option<String>,
    /// The org's id.
    pub org: Option<String>,
    /// The group's id.
    pub group: Option<String>,
    /// A client that was answered.
    pub client: Option<String>,
    /// Any id: a client's request id, or the `snyk-request-id` as sent or as returned.
    pub id: Option<String>,
    /// The result.
    pub status: Option<StatusFilter>,
    /// Sent at this time or later.
    pub since: Option<SystemTime>,
    /// Sent before this time.
    pub until: Option<SystemTime>,
    /// Most records, the newest first.
    pub limit: u32,
    /// Longest that it may take; without, as long as it takes.
    pub within: Option<Duration>,
}

/// A filter by result: `404`, `5xx`, or `error` for no whole answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StatusFilter {
    /// This status.
    Exactly(u16),
    /// This hundred.
    Class(u16),
    /// No whole answer.
    Error,
}

/// A time: as RFC 3339 writes it (`2026-02-12T20:00:00Z`), or a distance before `now` (`2h`).
///
/// # Errors
/// The forms that a time may have.
pub fn moment(text: &str, now: SystemTime) -> Result<SystemTime, &'static str> {
    let ago = |ago| now.checked_sub(ago).unwrap_or(SystemTime::UNIX_EPOCH);
    humantime::parse_rfc3339_weak(text)
        .or_else(|_| humantime::parse_duration(text).map(ago))
        .map_err(|_| "must be a UTC time such as 2026-02-12T20:00:00Z, or a distance such as 2h")
}

/// The text is no status filter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("must be a status such as 404, a class such as 5xx, or \"error\" for no whole answer")]
pub struct StatusFilterError;

impl FromStr for StatusFilter {
    type Err = StatusFilterError;

    fn from_str(text: &str) -> Result<Self, StatusFilterError> {
        let digit = |text: &str| text.parse::<u16>().ok().filter(|class| (1..=5).contains(class));
        if text == "error" {
            Ok(Self::Error)
        } else if let Some(class) = text.strip_suffix("xx") {
            digit(class).map(Self::Class).ok_or(StatusFilterError)
        } else {
            let status = text.parse().ok().filter(|status| (100..600).contains(status));
            status.map(Self::Exactly).ok_or(StatusFilterError)
        }
    }
}

/// The reason that a search failed.
#[derive(Debug, thiserror::Error)]
pub enum QueryError {
    /// There is no journal at this place.
    #[error("there is no journal at {}: give --journal PATH, or the gateway's own --config", .0.display())]
    Missing(PathBuf),
    /// A directory above it may not be looked into.
    #[error("the journal at {} cannot be looked at: run this as the user of the gateway, or with sudo", path.display())]
    Hidden {
        /// Its path.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// The file cannot be read.
    #[error("the journal at {} cannot be read ({advice})", path.display())]
    Unreadable {
        /// Its path.
        path: PathBuf,
        /// The remedy.
        advice: &'static str,
        /// The cause.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}
