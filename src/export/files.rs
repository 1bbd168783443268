//! The calls for the files of an export. Snyk does not have them: the gateway serves them itself.

use http::Method;

use super::call::{ExportCall, Operation, parse_path};
use super::id::{ExportName, Id, Scope};
use super::query::CallQuery;

/// The version of Snyk's API that has exports (`version=YYYY-MM-DD`): for what is asked of Snyk on our own account.
pub(crate) const API_VERSION: &str = "2024-10-15";

/// A call for the files of an export.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FilesCall {
    /// The owner of the export.
    pub scope: Scope,
    /// The export.
    pub export: Id,
    /// The list, or one file.
    pub target: FilesTarget,
    /// The query, in canonical form; the results are asked for with it.
    pub query: CallQuery,
    /// The name that it was asked for by.
    pub name: Option<ExportName>,
}

/// The list of an export's files, or one of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FilesTarget {
    /// The list.
    Index,
    /// A file.
    File(FileName),
}

/// The name of a file of an export.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FileName {
    /// A part, by its number, from 1 to [`FileName::MAX_PART`].
    Part(u32),
    /// All parts as one table.
    Table,
}

impl FileName {
    /// The greatest number of a part: six digits.
    pub const MAX_PART: u32 = 999_999;

    /// Reads `{n}.csv`, without leading zeros.
    fn part(text: &str) -> Option<Self> {
        let digits = text.strip_suffix(".csv")?;
        let is_plain =
            matches!(digits.as_bytes(), [b'1'..=b'9', rest @ ..] if rest.iter().all(u8::is_ascii_digit));
        let number = is_plain.then(|| digits.parse().ok()).flatten()?;
        (number <= Self::MAX_PART).then_some(Self::Part(number))
    }
}

/// `table`, or the number of the part: the name in records.
impl std::fmt::Display for FileName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Part(number) => number.fmt(f),
            Self::Table => f.write_str("table"),
        }
    }
}

/// `index`, or the file: its name in records.
impl std::fmt::Display for FilesTarget {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Index => f.write_str("index"),
            Self::File(file) => file.fmt(f),
        }
    }
}

impl FilesTarget {
    /// Splits the end of a path off that names files.
    pub(super) fn split(path: &str) -> Option<(&str, Self)> {
        let (above, last) = path.rsplit_once('/')?;
        Some(match last {
            "files" => (above, Self::Index),
            "table.csv" => (above, Self::File(FileName::Table)),
            part => (above.strip_suffix("/files")?, Self::File(FileName::part(part)?)),
        })
    }

    /// `files`, `file` or `table`: the kind of the call in traces.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Index => "files",
            Self::File(FileName::Part(_)) => "file",
            Self::File(FileName::Table) => "table",
        }
    }
}

impl FilesCall {
    /// True if `method` asks for files.
    pub(crate) fn takes(method: &Method) -> bool {
        *method == Method::GET || *method == Method::HEAD
    }

    /// The call for the results, which have the links of the files.
    #[must_use]
    pub fn results(&self) -> ExportCall {
        ExportCall {
            scope: self.scope.clone(),
            operation: Operation::Results(self.export.clone()),
            query: self.query.clone(),
        }
    }
}

/// The path of a call for files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct FilesPath {
    pub(crate) scope: Scope,
    pub(crate) export: Id,
    pub(crate) target: FilesTarget,
}

impl FilesPath {
    /// Reads the path of the results of an export with `/files`, `/files/{n}.csv` or `/table.csv` behind it.
    pub(crate) fn parse(path: &str) -> Option<Self> {
        let (results, target) = FilesTarget::split(path)?;
        match parse_path(results)? {
            (scope, Operation::Results(export)) => Some(Self { scope, export, target }),
            (_, Operation::Start | Operation::JobStatus(_)) => None,
        }
    }
}
