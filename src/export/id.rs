//! Ids, names, orgs and groups.

use std::fmt;
use std::sync::Arc;

use super::text::{FOREIGN, OF_IDS, UPPER_CASE};

/// The two kinds of tenant an export belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ScopeKind {
    /// `/orgs/{id}`.
    Org,
    /// `/groups/{id}`.
    Group,
}

impl ScopeKind {
    /// `org` or `group`, as logs and the journal say it.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Org => "org",
            Self::Group => "group",
        }
    }

    pub(super) const fn collection(self) -> &'static str {
        match self {
            Self::Org => "orgs",
            Self::Group => "groups",
        }
    }
}

/// An id in a path: 1 to 64 of `A-Z a-z 0-9 _ -`; one in UUID form is in lower case.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Id(Arc<str>);

impl Id {
    /// Longest id, in bytes.
    pub const MAX: usize = 64;

    /// Parses a path segment; `None` when it is no id. A UUID in its 8-4-4-4-12 form is
    /// lower-cased, because Snyk and RFC 9562 §4 compare them without case.
    pub(crate) fn parse(segment: &str) -> Option<Self> {
        if !(1..=Self::MAX).contains(&segment.len()) {
            return None;
        }
        // Without a branch for each byte: every request pays for it.
        let seen = segment.bytes().fold(0, |seen, b| seen | OF_IDS[usize::from(b)]);
        (seen & FOREIGN == 0).then(|| {
            if seen & UPPER_CASE != 0 && is_hyphenated_uuid(segment) {
                Self(segment.to_ascii_lowercase().into())
            } else {
                Self(segment.into())
            }
        })
    }

    /// The id's text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

fn is_hyphenated_uuid(text: &str) -> bool {
    text.len() == 36
        && text.bytes().enumerate().all(|(i, b)| match i {
            8 | 13 | 18 | 23 => b == b'-',
            _ => b.is_ascii_hexdigit(),
        })
}

/// An org or a group.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Scope {
    /// Which of the two.
    pub kind: ScopeKind,
    /// Its id.
    pub id: Id,
}

/// The name of an export: 1 to 64 of `a-z 0-9 - _`, the first one a letter or a digit.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ExportName(Arc<str>);

impl ExportName {
    /// The grammar in words.
    pub(crate) const GRAMMAR: &str =
        "1 to 64 of a-z, 0-9, \"-\" and \"_\", and begin with a letter or a digit";

    /// Parses a path segment.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let is_plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
        let is_name = (1..=64).contains(&text.len())
            && text.bytes().all(|b| is_plain(b) || b == b'-' || b == b'_')
            && text.bytes().next().is_some_and(is_plain);
        is_name.then(|| Self(text.into()))
    }

    /// Its text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ExportName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
