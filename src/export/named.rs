//! Named exports: their names, and the calls for them. Snyk does not have them.

use std::fmt;
use std::sync::Arc;

use super::files::FilesTarget;
use super::id::Scope;

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

/// A call for a named export.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamedCall {
    /// The name.
    pub name: ExportName,
    /// Its target.
    pub target: NamedTarget,
    /// The owner of the export, once the name was looked up.
    pub scope: Option<Scope>,
}

/// The state of a named export, or its files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NamedTarget {
    /// The state.
    State,
    /// The list of files, or one file.
    Files(FilesTarget),
}

impl NamedCall {
    /// Reads `/named/{name}`, alone or with `/files`, `/files/{n}.csv` or `/table.csv` behind it.
    pub(crate) fn parse(path: &str) -> Option<Self> {
        let rest = path.strip_prefix("/named/")?;
        let (name, target) = match FilesTarget::split(rest) {
            Some((name, target)) => (name, NamedTarget::Files(target)),
            None => (rest, NamedTarget::State),
        };
        Some(Self { name: ExportName::parse(name)?, target, scope: None })
    }
}
