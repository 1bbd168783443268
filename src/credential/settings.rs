//! What the configuration says about the Snyk credential.

use std::path::PathBuf;
use std::time::Duration;

use crate::secret::Secret;

/// `[credential]` and `SNYK_TOKEN`.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The name that stands for this credential in cache keys, logs and the journal.
    pub name: String,
    /// Where the value comes from.
    pub source: Source,
    /// The `Authorization` scheme word.
    pub scheme: Scheme,
    /// How often a token file is read again.
    pub reload_interval: Duration,
}

/// Where a credential's value comes from.
#[derive(Debug, Clone)]
pub enum Source {
    /// Given once, in `SNYK_TOKEN`.
    Fixed(Secret),
    /// A file that holds the token and may be replaced at any time.
    File(PathBuf),
}

/// Snyk's `Authorization` scheme words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scheme {
    /// API tokens.
    Token,
    /// OAuth access tokens.
    Bearer,
}

impl Scheme {
    /// The word as it is sent.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Token => "token",
            Self::Bearer => "bearer",
        }
    }
}
