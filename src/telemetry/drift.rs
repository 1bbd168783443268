//! Signs that Snyk's API changes: counted, and the last of each kind kept.

use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

use prometheus_client::metrics::counter::Counter;

/// The kinds of changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DriftKind {
    /// A `Deprecation` field (RFC 9745).
    Deprecation,
    /// A `Sunset` field (RFC 8594).
    Sunset,
    /// Another version is served than before, for the same that is asked for.
    Version,
    /// A status word of an export that we do not know.
    StatusWord,
    /// A link whose end we cannot read.
    LinkForm,
    /// A link that is signed for more header fields than `Host`: stores will refuse it.
    SignedFields,
    /// `X-Ratelimit-…` that we cannot read.
    RateFields,
    /// Other columns of a named export.
    Columns,
}

impl DriftKind {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::Deprecation,
        Self::Sunset,
        Self::Version,
        Self::StatusWord,
        Self::LinkForm,
        Self::SignedFields,
        Self::RateFields,
        Self::Columns,
    ];

    /// The label.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Deprecation => "deprecation",
            Self::Sunset => "sunset",
            Self::Version => "version",
            Self::StatusWord => "status_word",
            Self::LinkForm => "link_form",
            Self::SignedFields => "signed_fields",
            Self::RateFields => "rate_fields",
            Self::Columns => "columns",
        }
    }
}

/// The last of a kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DriftSign {
    /// The kind.
    pub kind: DriftKind,
    /// Number of times since the start.
    pub count: u64,
    /// The last time.
    pub last: SystemTime,
    /// The last detail.
    pub detail: String,
}

/// Most versions that are remembered; the least recently requested one goes first.
const VERSIONS: usize = 64;

/// The API version that Snyk serves for a requested one. Each operation has versions of its own.
#[derive(Debug)]
struct Version {
    operation: &'static str,
    requested: String,
    served: String,
}

/// All signs since the start.
#[derive(Debug)]
pub struct Drift {
    by_kind: [Counter; DriftKind::ALL.len()],
    last: Mutex<[Option<(SystemTime, String)>; DriftKind::ALL.len()]>,
    /// The one that was requested last comes first.
    versions: Mutex<Vec<Version>>,
}

impl Drift {
    pub(super) fn new(by_kind: [Counter; DriftKind::ALL.len()]) -> Self {
        Self { by_kind, last: Mutex::default(), versions: Mutex::default() }
    }

    pub(super) fn note(&self, kind: DriftKind, detail: &str, now: SystemTime) {
        if self.by_kind[kind as usize].inc() == 0 {
            tracing::warn!(
                drift.kind = kind.as_str(),
                drift.detail = detail,
                "Snyk's API differs from what exportgate knows (logged once for each kind)"
            );
        }
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        last[kind as usize] = Some((now, detail.to_owned()));
    }

    /// Notes which version was served; the one that was served before, where that was another. That another is served than
    /// was asked for is usual: Snyk recommends to ask for today's.
    pub fn served(&self, operation: &'static str, requested: &str, served: &str) -> Option<String> {
        let mut versions = self.versions.lock().unwrap_or_else(PoisonError::into_inner);
        let known =
            versions.iter().position(|known| known.operation == operation && known.requested == requested);
        if let Some(at) = known {
            versions[..=at].rotate_right(1);
            let before = &mut versions[0].served;
            return (before != served).then(|| std::mem::replace(before, served.to_owned()));
        }
        versions.truncate(VERSIONS - 1);
        let (requested, served) = (requested.to_owned(), served.to_owned());
        versions.insert(0, Version { operation, requested, served });
        None
    }

    /// The kinds that were seen, with the last of each.
    pub(crate) fn signs(&self) -> Vec<DriftSign> {
        let last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let seen = DriftKind::ALL.into_iter().zip(last.iter()).filter_map(|(kind, last)| {
            let (last, detail) = last.clone()?;
            Some(DriftSign { kind, count: self.by_kind[kind as usize].get(), last, detail })
        });
        seen.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bounded_number_of_versions_is_remembered() {
        let drift = Drift::new(DriftKind::ALL.map(|_| Counter::default()));
        assert_eq!(drift.served("results", "a", "1"), None);
        assert_eq!(drift.served("start", "a", "2"), None);
        for other in 0..10 * VERSIONS {
            assert_eq!(drift.served("results", &other.to_string(), "1"), None);
            // What is asked for again and again stays.
            assert_eq!(drift.served("results", "a", "1"), None);
        }
        assert_eq!(drift.versions.lock().expect("sound").len(), VERSIONS);
        assert_eq!(drift.served("results", "a", "2").as_deref(), Some("1"));
        assert_eq!(drift.served("results", "a", "2"), None);
    }
}
