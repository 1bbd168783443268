//! Permissions and limits of a client (pure).

use std::collections::BTreeSet;
use std::time::Duration;

use crate::export::{Id, Operation, ScopeKind};
use crate::route::Route;

/// The permissions and limits of a client. The default allows nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Policy {
    /// Allowed orgs.
    pub orgs: AllowedIds,
    /// Allowed groups.
    pub groups: AllowedIds,
    /// Allowed operations.
    pub operations: BTreeSet<Class>,
    /// Most requests in any minute.
    pub requests_per_minute: Option<u32>,
    /// Most concurrent requests.
    pub concurrent_requests: Option<u32>,
    /// Its weight when requests to Snyk are queued; 0 counts as 1.
    pub share: u32,
    /// Its wait for the end of an export where it asks for none; `None` is `wait.unasked`.
    pub wait_unasked: Option<Duration>,
}

/// Some ids, or all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AllowedIds {
    /// `"*"`.
    All,
    /// Just these.
    Some(BTreeSet<Id>),
}

impl Default for AllowedIds {
    fn default() -> Self {
        Self::Some(BTreeSet::new())
    }
}

impl AllowedIds {
    fn has(&self, id: &Id) -> bool {
        match self {
            Self::All => true,
            Self::Some(ids) => ids.contains(id),
        }
    }
}

/// The classes of operations.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Class {
    /// Job status and results, and what `Files` allows.
    Read,
    /// The files of an export, without their links: access ends with the policy, for a link outlives it.
    Files,
    /// Start an export.
    Start,
    /// Calls that `routes.other` allows.
    Other,
}

impl Class {
    pub(crate) const fn of(route: &Route) -> Self {
        match route {
            Route::Export(call) => match call.operation {
                Operation::Start => Self::Start,
                Operation::JobStatus(_) | Operation::Results(_) => Self::Read,
            },
            Route::Files(_) | Route::Named(_) => Self::Files,
            Route::Other(_) => Self::Other,
        }
    }

    /// Its value in the clients file.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Files => "files",
            Self::Start => "start",
            Self::Other => "other",
        }
    }
}

/// The key of the clients file that does not allow a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PolicyError {
    /// `operations` lacks its class.
    Operation(Class),
    /// `orgs` or `groups` lacks its scope.
    Scope(ScopeKind),
    /// Its path names no scope, and the client is limited to some.
    Unscoped,
}

impl PolicyError {
    /// The rule in words.
    pub(crate) const fn rule(self) -> &'static str {
        match self {
            Self::Operation(Class::Read) => "operations does not hold \"read\"",
            Self::Operation(Class::Files) => "operations holds neither \"files\" nor \"read\"",
            Self::Operation(Class::Start) => "operations does not hold \"start\"",
            Self::Operation(Class::Other) => "operations does not hold \"other\"",
            Self::Scope(ScopeKind::Org) => "orgs does not hold this org",
            Self::Scope(ScopeKind::Group) => "groups does not hold this group",
            Self::Unscoped => {
                "the path names no org or group, which needs orgs = [\"*\"] and groups = [\"*\"]"
            }
        }
    }
}

impl Policy {
    /// Checks a call.
    pub(crate) fn decide(&self, route: &Route) -> Result<(), PolicyError> {
        self.allowing(Class::of(route))?;
        let scopes = route.scopes();
        if scopes.is_empty() && (self.orgs != AllowedIds::All || self.groups != AllowedIds::All) {
            return Err(PolicyError::Unscoped);
        }
        let outside = scopes.iter().find(|scope| match scope.kind {
            ScopeKind::Org => !self.orgs.has(&scope.id),
            ScopeKind::Group => !self.groups.has(&scope.id),
        });
        outside.map_or(Ok(()), |scope| Err(PolicyError::Scope(scope.kind)))
    }

    /// The class in `operations` that allows `asked`: whoever sees the links may have the files.
    pub(crate) fn allowing(&self, asked: Class) -> Result<Class, PolicyError> {
        let includes = |class: &Class| *class == asked || (asked, *class) == (Class::Files, Class::Read);
        self.operations.iter().copied().find(includes).ok_or(PolicyError::Operation(asked))
    }
}

#[cfg(test)]
mod tests {
    use http::Method;

    use super::*;
    use crate::route::recognise;

    fn route(method: &Method, path: &str) -> Route {
        recognise(method, &path.parse().expect("a URI"), true).expect("a route")
    }

    fn some(ids: &[&str]) -> AllowedIds {
        AllowedIds::Some(ids.iter().filter_map(|id| Id::parse(id)).collect())
    }

    #[test]
    fn files_are_allowed_without_links_and_links_with_files() {
        let may = |class, path: &str| {
            let operations = BTreeSet::from([class]);
            let policy = Policy { orgs: some(&["a"]), operations, ..Policy::default() };
            policy.decide(&route(&Method::GET, path))
        };
        for path in ["/orgs/a/export/e/files", "/orgs/a/export/e/files/1.csv", "/orgs/a/export/e/table.csv"] {
            assert_eq!(may(Class::Files, path), Ok(()), "{path}");
            assert_eq!(may(Class::Read, path), Ok(()), "{path}");
            for other in [Class::Start, Class::Other] {
                assert_eq!(may(other, path), Err(PolicyError::Operation(Class::Files)), "{path}");
            }
            let elsewhere = path.replace("/a/", "/b/");
            assert_eq!(may(Class::Files, &elsewhere), Err(PolicyError::Scope(ScopeKind::Org)), "{path}");
        }
        for path in ["/orgs/a/export/e", "/orgs/a/jobs/export/e", "/orgs/a/export/jobs/e"] {
            assert_eq!(may(Class::Files, path), Err(PolicyError::Operation(Class::Read)), "{path}");
        }
    }

    #[test]
    fn nothing_is_allowed_that_is_not_named() {
        let everything = BTreeSet::from([Class::Read, Class::Start, Class::Other]);
        let limited = Policy { orgs: some(&["a"]), operations: everything.clone(), ..Policy::default() };
        let all = Policy {
            orgs: AllowedIds::All,
            groups: AllowedIds::All,
            operations: everything,
            ..Policy::default()
        };
        let reader = Policy { operations: BTreeSet::from([Class::Read]), ..all.clone() };
        let org = Err(PolicyError::Scope(ScopeKind::Org));
        let group = Err(PolicyError::Scope(ScopeKind::Group));
        for (policy, method, path, expected) in [
            (&limited, Method::GET, "/orgs/a/export/e", Ok(())),
            (&limited, Method::POST, "/orgs/a/export", Ok(())),
            (&limited, Method::GET, "/orgs/b/export/e", org),
            (&limited, Method::GET, "/groups/a/export/e", group),
            (&limited, Method::GET, "/rest/orgs/a/issues", Ok(())),
            (&limited, Method::GET, "/v1/org/a/projects", Ok(())),
            (&limited, Method::GET, "/v1/org/b/projects", org),
            (&limited, Method::GET, "/v1/ORG/b/projects", org),
            (&limited, Method::GET, "/v1/%6frg/b/projects", org),
            (&limited, Method::GET, "/v1/org/%62/projects", org),
            (&limited, Method::GET, "/rest/orgs/a/x/orgs/b", org),
            (&limited, Method::GET, "/rest/groups/g/orgs/a", group),
            (&limited, Method::GET, "/rest/self", Err(PolicyError::Unscoped)),
            (&limited, Method::GET, "/rest/orgs", Err(PolicyError::Unscoped)),
            (&limited, Method::GET, "/rest/orgs/", Err(PolicyError::Unscoped)),
            (&limited, Method::GET, "/rest/orgs/a%20b/x", Err(PolicyError::Unscoped)),
            (&limited, Method::GET, "/rest/x/orgs/a", Err(PolicyError::Unscoped)),
            (&limited, Method::GET, "/rest/orgs/a/groups/b%20c", Err(PolicyError::Unscoped)),
            (&limited, Method::POST, "/v1/reporting/issues", Err(PolicyError::Unscoped)),
            (&all, Method::POST, "/v1/reporting/issues", Ok(())),
            (&all, Method::GET, "/groups/a/export/e", Ok(())),
            (&reader, Method::POST, "/orgs/a/export", Err(PolicyError::Operation(Class::Start))),
            (&reader, Method::GET, "/rest/self", Err(PolicyError::Operation(Class::Other))),
            (&Policy::default(), Method::GET, "/orgs/a/export/e", Err(PolicyError::Operation(Class::Read))),
        ] {
            assert_eq!(policy.decide(&route(&method, path)), expected, "{method} {path}");
        }
    }
}
