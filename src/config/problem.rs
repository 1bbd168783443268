//! The problems of a configuration.

use std::fmt;

/// A problem, its place, and what to write instead.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// `exportgate.toml:12`, `EXPORTGATE_LISTEN`, `--listen` or another source.
    pub place: String,
    /// The key; may be empty.
    pub key: String,
    /// The problem and its remedy. Never a secret.
    pub what: String,
}

impl Problem {
    pub(super) fn new(place: &str, key: &str, what: impl Into<String>) -> Self {
        Self { place: place.to_owned(), key: key.to_owned(), what: what.into() }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { place, key, what } = self;
        if key.is_empty() { write!(f, "{place}: {what}") } else { write!(f, "{place}: {key}: {what}") }
    }
}

/// All problems of a configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problems(pub Vec<Problem>);

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the configuration is not valid")?;
        self.0.iter().try_for_each(|problem| write!(f, "\n  {problem}"))
    }
}

impl std::error::Error for Problems {}
