//! The six export calls, and the paths that spell them.

use http::Method;
use memchr::memchr;

use super::id::{Id, Scope, ScopeKind};
use super::query::CallQuery;

/// The operation of an export call.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Operation {
    /// Start an export (POST).
    Start,
    /// Get the progress of an export's job (GET).
    JobStatus(Id),
    /// Get the links of an export (GET).
    Results(Id),
}

impl Operation {
    /// `start`, `job-status` or `results`.
    pub(crate) const fn as_str(&self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::JobStatus(_) => "job-status",
            Self::Results(_) => "results",
        }
    }

    /// The export's id, where the call names one.
    #[must_use]
    pub const fn export(&self) -> Option<&Id> {
        match self {
            Self::Start => None,
            Self::JobStatus(id) | Self::Results(id) => Some(id),
        }
    }

    /// Its method.
    #[must_use]
    pub const fn method(&self) -> Method {
        match self {
            Self::Start => Method::POST,
            Self::JobStatus(_) | Self::Results(_) => Method::GET,
        }
    }

    /// True if `method` asks for it: HEAD asks as GET does, but for the body (RFC 9110 §9.1, §9.3.2).
    pub(crate) fn takes(&self, method: &Method) -> bool {
        let own = self.method();
        *method == own || (*method == Method::HEAD && own == Method::GET)
    }
}

/// One of the six export calls.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExportCall {
    /// The owner of the export.
    pub scope: Scope,
    /// The operation.
    pub operation: Operation,
    /// The query, in canonical form.
    pub query: CallQuery,
}

impl ExportCall {
    /// The method that goes up: each operation has exactly one.
    #[must_use]
    pub const fn method(&self) -> Method {
        self.operation.method()
    }

    /// True if one answer serves all who ask the same.
    pub(crate) fn is_shared(&self) -> bool {
        self.operation != Operation::Start
    }

    /// Reads a target that [`ExportCall::target`] wrote.
    pub(crate) fn of_target(target: &str) -> Option<Self> {
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let (scope, operation) = parse_path(path)?;
        Some(Self { scope, operation, query: CallQuery::parse(query)? })
    }

    /// The path and query below the upstream's root, written from the parsed parts.
    #[must_use]
    pub fn target(&self) -> String {
        let mut target = String::with_capacity(self.target_len());
        self.write_target(&mut target);
        target
    }

    /// Writes it behind `text`.
    pub fn write_target(&self, text: &mut String) {
        let mut push = |part: &str| text.push_str(part);
        push("/rest/");
        push(self.scope.kind.collection());
        push("/");
        push(self.scope.id.as_str());
        match &self.operation {
            Operation::Start => push("/export"),
            Operation::JobStatus(id) => {
                push("/jobs/export/");
                push(id.as_str());
            }
            Operation::Results(id) => {
                push("/export/");
                push(id.as_str());
            }
        }
        self.query.write(text);
    }

    /// Its length, or a little more.
    pub(crate) fn target_len(&self) -> usize {
        "/rest/groups//jobs/export/".len() + 2 * Id::MAX + self.query.len()
    }
}

/// The longest shape: `orgs/ID/jobs/export/ID`.
const MOST_SEGMENTS: usize = 5;

/// Reads the path of an export call: one of six shapes, with or without `/rest`, and `export/jobs/{id}` as a second
/// spelling of job status.
pub(crate) fn parse_path(path: &str) -> Option<(Scope, Operation)> {
    let below = path.strip_prefix("/rest").filter(|rest| rest.starts_with('/')).unwrap_or(path);
    let mut segments = [""; MOST_SEGMENTS + 1];
    let mut count = 0;
    let mut rest = below.strip_prefix('/')?;
    while count < segments.len() {
        let end = memchr(b'/', rest.as_bytes());
        segments[count] = &rest[..end.unwrap_or(rest.len())];
        count += 1;
        match end {
            Some(end) => rest = &rest[end + 1..],
            None => break,
        }
    }
    let [collection, scope, call @ ..] = &segments[..count] else { return None };
    let kind = match *collection {
        "orgs" => ScopeKind::Org,
        "groups" => ScopeKind::Group,
        _ => return None,
    };
    let operation = match call {
        ["export"] => Operation::Start,
        ["jobs", "export", id] | ["export", "jobs", id] => Operation::JobStatus(Id::parse(id)?),
        ["export", "jobs"] => return None,
        ["export", id] => Operation::Results(Id::parse(id)?),
        _ => return None,
    };
    Some((Scope { kind, id: Id::parse(scope)? }, operation))
}
