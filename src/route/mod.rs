//! From a request to a call: method, path and query become a [`Route`], or a named refusal.
//!
//! This is a closed grammar. Ids and query pairs are parsed into values, and the upstream's path and
//! query are written from those values, so that no byte of the client's target is ever copied. What
//! is not recognised is refused; nothing is normalised and let through.

mod other;
mod package;

use http::{Method, Uri};

use crate::export::text::{check_percent, is_unreserved_byte};
use crate::export::{CallQuery, ExportCall, FilesCall, FilesPath, NamedCall, Operation, Scope, parse_path};

/// A call that is no export call and is passed on as it is (`routes.other = "forward"`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OtherCall {
    /// The request's method.
    pub method: Method,
    /// Path and query below the upstream's root; the path begins with `/rest/` or `/v1/`, and its packages are written
    /// anew.
    pub target: String,
    /// The orgs and groups that the path names; none where it does not begin with one, or where what it
    /// names is no id.
    pub scopes: Vec<Scope>,
}

/// The call that a request makes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Route {
    /// One of the six export calls.
    Export(ExportCall),
    /// A call for the files of an export, which the gateway serves itself.
    Files(FilesCall),
    /// A call for a named export.
    Named(NamedCall),
    /// Anything else below `/rest/`, `/v1/` or `/api/v1/`.
    Other(OtherCall),
}

impl Route {
    /// The orgs and groups that it is about.
    pub(crate) fn scopes(&self) -> &[Scope] {
        match self {
            Self::Export(call) => std::slice::from_ref(&call.scope),
            Self::Files(call) => std::slice::from_ref(&call.scope),
            Self::Named(call) => call.scope.as_slice(),
            Self::Other(call) => &call.scopes,
        }
    }
}

/// The reason that a request is no call that we answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RouteError {
    /// The target has no path (RFC 9112 §3.2: not in origin-form).
    TargetForm,
    /// The path has a dot segment, an empty segment, or a byte outside the closed grammar.
    Path,
    /// The query has a control byte, a broken percent-encoding or an encoded delimiter.
    Query,
    /// Nothing is served at this path.
    Unknown,
    /// The path is served, by these methods only.
    Method {
        /// The `Allow` field.
        allow: &'static str,
    },
}

/// The methods that `routes.other = "forward"` passes on.
const OTHER_METHODS: &str = "GET, HEAD, POST, PUT, PATCH, DELETE";

/// Recognises a request by its method, path and query.
///
/// # Errors
/// A [`RouteError`] for everything that is not one of the six export calls or a call for files, or, with
/// `forward_other`, not a clean path below `/rest/`, `/v1/` or `/api/v1/`.
pub fn recognise(method: &Method, uri: &Uri, forward_other: bool) -> Result<Route, RouteError> {
    if *method == Method::CONNECT {
        return Err(RouteError::Method {
            allow: if forward_other { OTHER_METHODS } else { "GET, HEAD, POST" },
        });
    }
    let query = uri.query().unwrap_or_default();
    // What has one of the six shapes has no segment but known words and ids: there is nothing else to check.
    if let Some((scope, operation)) = parse_path(uri.path()) {
        if !operation.takes(method) {
            let allow = if operation == Operation::Start { "POST" } else { "GET, HEAD" };
            return Err(RouteError::Method { allow });
        }
        return Ok(Route::Export(ExportCall {
            scope,
            operation,
            query: CallQuery::parse(query).ok_or(RouteError::Query)?,
        }));
    }
    if let Some(FilesPath { scope, export, target }) = FilesPath::parse(uri.path()) {
        if !FilesCall::takes(method) {
            return Err(RouteError::Method { allow: "GET, HEAD" });
        }
        let query = CallQuery::parse(query).ok_or(RouteError::Query)?;
        return Ok(Route::Files(FilesCall { scope, export, target, query, name: None }));
    }
    if let Some(call) = NamedCall::parse(uri.path()) {
        if !FilesCall::takes(method) {
            return Err(RouteError::Method { allow: "GET, HEAD" });
        }
        // A name stands for all of the question: tools that add a query to every address are no reason to refuse.
        check_percent(query).ok_or(RouteError::Query)?;
        return Ok(Route::Named(call));
    }
    if !forward_other {
        check_path(uri.path())?;
        return Err(RouteError::Unknown);
    }
    let path = other::path(uri.path())?;
    // A lenient server might take another spelling of such a call for one; it must not pass as another.
    let spelling = other::lenient(&path);
    let below_api = path.starts_with("/rest/") || path.starts_with("/v1/");
    let is_disguised = parse_path(&spelling).is_some() || FilesPath::parse(&spelling).is_some();
    if is_disguised || !below_api {
        return Err(RouteError::Unknown);
    }
    if !OTHER_METHODS.split(", ").any(|known| known == method.as_str()) {
        return Err(RouteError::Method { allow: OTHER_METHODS });
    }
    check_percent(query).ok_or(RouteError::Query)?;
    let scopes = other::scopes(&path);
    let target = if query.is_empty() { path } else { format!("{path}?{query}") };
    Ok(Route::Other(OtherCall { method: method.clone(), target, scopes }))
}

/// Refuses what some server might read as another path: dot segments, empty segments, and every byte
/// but RFC 3986's unreserved ones.
fn check_path(path: &str) -> Result<(), RouteError> {
    if !path.starts_with('/') {
        return Err(RouteError::TargetForm);
    }
    let is_sound = |segment: &str| ![".", ".."].contains(&segment) && segment.bytes().all(is_unreserved_byte);
    if path.contains("//") || !path.split('/').all(is_sound) {
        return Err(RouteError::Path);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const ORG: &str = "825e79b7-0073-44c3-a5ea-e0aa8a3dbf38";

    fn get(target: &str) -> Result<Route, RouteError> {
        recognise(&Method::GET, &target.parse().expect("a URI"), false)
    }

    fn target(route: Result<Route, RouteError>) -> String {
        match route {
            Ok(Route::Export(call)) => call.target(),
            Ok(Route::Files(call)) => format!("{:?} of {}", call.target, call.results().target()),
            Ok(Route::Named(call)) => format!("{:?} of {}", call.target, call.name),
            Ok(Route::Other(call)) => call.target,
            Err(refusal) => format!("{refusal:?}"),
        }
    }

    #[test]
    fn each_spelling_of_a_call_has_one_target() {
        let upper = ORG.to_uppercase();
        for (spelling, expected) in [
            (format!("/orgs/{ORG}/export/E1?version=1"), format!("/rest/orgs/{ORG}/export/E1?version=1")),
            (
                format!("/rest/orgs/{upper}/export/E1?version=1"),
                format!("/rest/orgs/{ORG}/export/E1?version=1"),
            ),
            (format!("/orgs/{ORG}/jobs/export/E1"), format!("/rest/orgs/{ORG}/jobs/export/E1")),
            (format!("/orgs/{ORG}/export/jobs/E1"), format!("/rest/orgs/{ORG}/jobs/export/E1")),
            ("/groups/g/export/e?b=2&a=1&b=1&&".to_owned(), "/rest/groups/g/export/e?a=1&b=2&b=1".to_owned()),
            (
                "/groups/g/export/e?a=%7e%2f[x]&k".to_owned(),
                "/rest/groups/g/export/e?a=~%2F%5Bx%5D&k".to_owned(),
            ),
        ] {
            assert_eq!(target(get(&spelling)), expected, "{spelling}");
        }
    }

    #[test]
    fn files_are_named_below_the_results_of_their_export() {
        let results = format!("/rest/orgs/{ORG}/export/E1");
        for (spelling, expected) in [
            (format!("/rest/orgs/{ORG}/export/E1/files"), format!("Index of {results}")),
            (
                format!("/orgs/{}/export/E1/files/1.csv", ORG.to_uppercase()),
                format!("File(Part(1)) of {results}"),
            ),
            (
                format!("/orgs/{ORG}/export/E1/files/999999.csv?x=1&version=2"),
                format!("File(Part(999999)) of {results}?version=2&x=1"),
            ),
            (format!("/orgs/{ORG}/export/E1/table.csv?"), format!("File(Table) of {results}")),
            ("/groups/g/export/files/files".to_owned(), "Index of /rest/groups/g/export/files".to_owned()),
            // Not a list of files: an export, and the second spelling of job status.
            ("/groups/g/export/files".to_owned(), "/rest/groups/g/export/files".to_owned()),
            ("/groups/g/export/jobs/files".to_owned(), "/rest/groups/g/jobs/export/files".to_owned()),
        ] {
            assert_eq!(target(get(&spelling)), expected, "{spelling}");
            let head = recognise(&Method::HEAD, &spelling.parse().expect("a URI"), true);
            assert_eq!(target(head), expected, "{spelling}");
        }
        for path in [
            "/orgs/a/export/e/files/",
            "/orgs/a/export/e/files/0.csv",
            "/orgs/a/export/e/files/01.csv",
            "/orgs/a/export/e/files/1000000.csv",
            "/orgs/a/export/e/files/1.csv/",
            "/orgs/a/export/e/files/1.CSV",
            "/orgs/a/export/e/files/1",
            "/orgs/a/export/e/files/.csv",
            "/orgs/a/export/e/files/table.csv",
            "/orgs/a/export/e/1.csv",
            "/orgs/a/export/e/Files",
            "/orgs/a/export/files/1.csv",
            "/orgs/a/export/table.csv",
            "/orgs/a/export/jobs/files/1.csv",
            "/orgs/a/export/jobs/table.csv",
            "/orgs/a/jobs/export/e/files",
            "/orgs/a/jobs/export/e/table.csv",
            "/export/e/files",
        ] {
            assert_eq!(get(path), Err(RouteError::Unknown), "{path}");
        }
        for (method, forward_other) in
            [(Method::POST, false), (Method::DELETE, true), (Method::OPTIONS, true)]
        {
            let refused =
                recognise(&method, &"/orgs/a/export/e/table.csv".parse().expect("a URI"), forward_other);
            assert_eq!(refused, Err(RouteError::Method { allow: "GET, HEAD" }), "{method}");
        }
        assert_eq!(get("/orgs/a/export/e/table.csv?x=%00"), Err(RouteError::Query));
        for path in
            ["/orgs/a/export/e/files/%31.csv", "/orgs/a/export/e/files/+1.csv", "/orgs/a/export/e//files"]
        {
            assert_eq!(get(path), Err(RouteError::Path), "{path}");
        }
    }

    #[test]
    fn a_named_export_has_a_strict_name() {
        for (path, expected) in [
            ("/named/open-criticals", "State of open-criticals"),
            ("/named/a/files", "Files(Index) of a"),
            ("/named/0_x/files/12.csv?a=1", "Files(File(Part(12))) of 0_x"),
            ("/named/files/table.csv", "Files(File(Table)) of files"),
        ] {
            assert_eq!(target(get(path)), expected, "{path}");
        }
        let long = format!("/named/{}", "x".repeat(65));
        for path in [
            "/named",
            "/named/",
            "/named/A",
            "/named/-a",
            "/named/_a",
            "/named/a.b",
            "/named/a/x",
            &long,
            "/rest/named/a",
        ] {
            assert_eq!(get(path), Err(RouteError::Unknown), "{path}");
        }
        for path in ["/named/%61", "/named/a//files", "/named/../a"] {
            assert_eq!(get(path), Err(RouteError::Path), "{path}");
        }
        let post = recognise(&Method::POST, &"/named/a".parse().expect("a URI"), true);
        assert_eq!(post, Err(RouteError::Method { allow: "GET, HEAD" }));
    }

    #[test]
    fn everything_else_is_refused_by_name() {
        let long = format!("/orgs/{}/export/e", "x".repeat(65));
        for (path, expected) in [
            ("/orgs/a/export/jobs", RouteError::Unknown),
            ("/orgs/a/export/e/", RouteError::Unknown),
            ("/orgs/a/export/e/x", RouteError::Unknown),
            ("/orgs/a/export/x.css", RouteError::Unknown),
            (long.as_str(), RouteError::Unknown),
            ("/rest/rest/orgs/a/export/e", RouteError::Unknown),
            ("/restorgs/a/export/e", RouteError::Unknown),
            ("/v1/orgs", RouteError::Unknown),
            ("/", RouteError::Unknown),
            ("/orgs/a/export/../e", RouteError::Path),
            ("/orgs/./a/export/e", RouteError::Path),
            ("/orgs//a/export/e", RouteError::Path),
            ("//orgs/a/export/e", RouteError::Path),
            ("/orgs/a/export/%2e%2e", RouteError::Path),
            ("/orgs/a/export/e;x=1", RouteError::Path),
            ("/orgs/a/export/e%00", RouteError::Path),
            ("/orgs/a/export/e?x=%00", RouteError::Query),
            ("/orgs/a/export/e?x=%26y", RouteError::Query),
            ("/orgs/a/export/e?x=%3D", RouteError::Query),
            ("/orgs/a/export/e?x=%23", RouteError::Query),
            ("/orgs/a/export/e?x=%zz", RouteError::Query),
            ("/orgs/a/export/e?x=%4", RouteError::Query),
        ] {
            assert_eq!(get(path), Err(expected), "{path}");
        }
        let post = recognise(&Method::POST, &"/orgs/a/export/e".parse().expect("a URI"), false);
        assert_eq!(post, Err(RouteError::Method { allow: "GET, HEAD" }));
        let trace = recognise(&Method::TRACE, &"/orgs/a/export".parse().expect("a URI"), true);
        assert_eq!(trace, Err(RouteError::Method { allow: "POST" }));
    }

    #[test]
    fn other_calls_pass_only_where_they_are_clean_and_allowed() {
        let other = |path: &str| target(recognise(&Method::DELETE, &path.parse().expect("a URI"), true));
        assert_eq!(other("/v1/org/a%20b/x?cursor=a%3Db%26c"), "/v1/org/a%20b/x?cursor=a%3Db%26c");
        assert_eq!(other("/rest/orgs/a/issues/pkg:npm@1.0.0"), "/rest/orgs/a/issues/pkg:npm@1.0.0");
        for bad in ["/v1/a%2fb", "/v1/%2e%2e/x", "/v1/a%5cb", "/v1/%252e", "/v1/..;/x", "/v1/a//b", "/v1/%ff"]
        {
            assert_eq!(other(bad), "Path", "{bad}");
        }
        assert_eq!(other("/v2/x"), "Unknown");
        for disguised in [
            "/rest/orgs/a/export/",
            "/rest/orgs/a/Export",
            "/rest/ORGS/a/export/e",
            "/rest/orgs/a/%65xport",
            "/rest/orgs/a/export/e/Files/1.csv",
            "/rest/orgs/a/export/e/table.csv/",
        ] {
            assert_eq!(other(disguised), "Unknown", "{disguised}");
        }
        assert_eq!(other("/v1/x?a=%00"), "Query");
    }
}
