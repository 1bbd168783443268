//! The calls for named exports. Snyk does not have them.

use super::files::FilesTarget;
use super::id::{ExportName, Scope};

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
