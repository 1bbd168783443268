//! The calls of the API, and which of them a fault or a count is about.

use std::str::FromStr;

use super::Seen;

/// Which calls a fault or a count is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// All API calls.
    All,
    /// Start calls.
    Starts,
    /// All calls of an org or group: `orgs/<id>` or `groups/<id>`.
    Scope(String),
    /// Job status and results of an export, by its id.
    Export(String),
    /// Calls whose path begins so, such as `/v1/`.
    Path(String),
}

impl Target {
    pub(super) fn includes(&self, seen: &Seen) -> bool {
        let call = Call::of(seen);
        match self {
            Self::All => true,
            Self::Starts => call.is_some_and(|call| matches!(call.operation, Operation::Start)),
            Self::Scope(scope) => {
                let own = seen.path().strip_prefix("/rest/").and_then(|path| path.strip_prefix(scope));
                own.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
            }
            Self::Export(id) => call.as_ref().and_then(Call::export) == Some(id),
            Self::Path(prefix) => seen.path().starts_with(prefix),
        }
    }
}

impl FromStr for Target {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let is_id =
            |id: &str| !id.is_empty() && id.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b));
        match text.split_once('/') {
            Some(("", _)) => Ok(Self::Path(text.to_owned())),
            Some(("orgs" | "groups", id)) if is_id(id) => Ok(Self::Scope(text.to_owned())),
            None if text == "starts" => Ok(Self::Starts),
            None if is_id(text) => Ok(Self::Export(text.to_owned())),
            _ => Err(format!("{text}: expected starts, orgs/ID, groups/ID, the ID of an export, or /PATH")),
        }
    }
}

/// A call of the Export API.
#[derive(Debug)]
pub(super) struct Call {
    /// `orgs/<id>` or `groups/<id>`.
    pub(super) scope: String,
    pub(super) operation: Operation,
}

/// What a call asks for, and of which export.
#[derive(Debug)]
pub(super) enum Operation {
    Start,
    JobStatus(String),
    Results(String),
}

impl Call {
    /// `None` for any other part of the API.
    pub(super) fn of(seen: &Seen) -> Option<Self> {
        let parts: Vec<&str> = seen.path().strip_prefix("/rest/")?.split('/').collect();
        let [kind @ ("orgs" | "groups"), id, rest @ ..] = parts.as_slice() else { return None };
        let operation = match (seen.method.as_str(), rest) {
            ("POST", ["export"]) => Operation::Start,
            ("GET", ["jobs", "export", export] | ["export", "jobs", export]) => {
                Operation::JobStatus((*export).to_owned())
            }
            ("GET", ["export", export]) => Operation::Results((*export).to_owned()),
            _ => return None,
        };
        Some(Self { scope: format!("{kind}/{id}"), operation })
    }

    /// The export that it names.
    pub(super) fn export(&self) -> Option<&str> {
        match &self.operation {
            Operation::Start => None,
            Operation::JobStatus(export) | Operation::Results(export) => Some(export),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_name_their_calls() {
        let seen = |method: &str, target: &str| Seen {
            at: std::time::Instant::now(),
            method: method.to_owned(),
            target: target.to_owned(),
            headers: vec![],
            body: bytes::Bytes::new(),
            version: http::Version::HTTP_11,
        };
        let calls = [
            seen("POST", "/rest/orgs/a/export?version=1"),
            seen("GET", "/rest/orgs/a/export/e?version=1"),
            seen("GET", "https://localhost:1/rest/orgs/ab/jobs/export/e?version=1"),
            seen("GET", "/rest/orgs/a/projects"),
            seen("GET", "/v1/org/a"),
        ];
        for (text, expected) in [
            ("starts", [true, false, false, false, false]),
            ("orgs/a", [true, true, false, true, false]),
            ("e", [false, true, true, false, false]),
            ("/v1/", [false, false, false, false, true]),
        ] {
            let target: Target = text.parse().expect("a target");
            assert_eq!(calls.each_ref().map(|seen| target.includes(seen)), expected, "{text}");
        }
        assert!(calls.iter().all(|seen| Target::All.includes(seen)));
        for text in ["", "orgs/", "orgs/a/b", "users/a", "a b"] {
            assert!(text.parse::<Target>().is_err(), "{text:?}");
        }
    }
}
