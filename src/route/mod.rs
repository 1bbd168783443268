//! Which call a request is: method, path and query become a [`Route`], or a named refusal.
//!
//! This is a closed grammar. Ids and query pairs are parsed into values, and the upstream's path and
//! query are written from those values, so that no byte of the client's target is ever copied. What
//! is not recognised is refused; nothing is normalised and let through.

mod other;
mod package;

use std::fmt::Write as _;
use std::sync::Arc;

use http::{Method, Uri};
use memchr::memchr;

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
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Org => "org",
            Self::Group => "group",
        }
    }

    const fn collection(self) -> &'static str {
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
    #[must_use]
    pub fn parse(segment: &str) -> Option<Self> {
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

/// What a byte is that is none of a grammar's.
const FOREIGN: u8 = 1;
/// What an upper-case letter is.
const UPPER_CASE: u8 = 2;

/// The bytes of ids.
const OF_IDS: [u8; 256] = table(b"-_");

/// The ASCII letters and digits, and `more`; all others are foreign.
const fn table(more: &[u8]) -> [u8; 256] {
    let mut table = [FOREIGN; 256];
    let mut b = 0;
    while b < 128_u8 {
        if b.is_ascii_alphanumeric() {
            table[b as usize] = if b.is_ascii_uppercase() { UPPER_CASE } else { 0 };
        }
        b += 1;
    }
    let mut at = 0;
    while at < more.len() {
        table[more[at] as usize] = 0;
        at += 1;
    }
    table
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

/// What an export call asks for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Operation {
    /// Start an export (POST).
    Start,
    /// How far an export's job is (GET).
    JobStatus(Id),
    /// The links of an export (GET).
    Results(Id),
}

impl Operation {
    /// `start`, `job-status` or `results`.
    #[must_use]
    pub const fn as_str(&self) -> &'static str {
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

    const fn method(&self) -> Method {
        match self {
            Self::Start => Method::POST,
            Self::JobStatus(_) | Self::Results(_) => Method::GET,
        }
    }

    /// Whether `method` asks for it: HEAD asks as GET does, but for the body (RFC 9110 §9.1, §9.3.2).
    fn takes(&self, method: &Method) -> bool {
        let own = self.method();
        *method == own || (*method == Method::HEAD && own == Method::GET)
    }
}

/// One of the six export calls.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExportCall {
    /// Whose export.
    pub scope: Scope,
    /// What is asked.
    pub operation: Operation,
    /// The query, in canonical form.
    pub query: Query,
}

impl ExportCall {
    /// The method that goes up: each operation has exactly one.
    #[must_use]
    pub const fn method(&self) -> Method {
        self.operation.method()
    }

    /// Whether one answer serves all who ask the same.
    #[must_use]
    pub fn is_shared(&self) -> bool {
        self.operation != Operation::Start
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
    #[must_use]
    pub fn target_len(&self) -> usize {
        "/rest/groups//jobs/export/".len() + 2 * Id::MAX + self.query.len()
    }
}

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

/// What a request asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Route {
    /// One of the six export calls.
    Export(ExportCall),
    /// Anything else below `/rest/`, `/v1/` or `/api/v1/`.
    Other(OtherCall),
}

impl Route {
    /// The orgs and groups that it is about.
    #[must_use]
    pub fn scopes(&self) -> &[Scope] {
        match self {
            Self::Export(call) => std::slice::from_ref(&call.scope),
            Self::Other(call) => &call.scopes,
        }
    }
}

/// Why a request is no call that we answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
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
/// A [`Refusal`] for everything that is not one of the six export calls, or, with `forward_other`,
/// not a clean path below `/rest/`, `/v1/` or `/api/v1/`.
pub fn recognise(method: &Method, uri: &Uri, forward_other: bool) -> Result<Route, Refusal> {
    if *method == Method::CONNECT {
        return Err(Refusal::Method { allow: if forward_other { OTHER_METHODS } else { "GET, HEAD, POST" } });
    }
    let query = uri.query().unwrap_or_default();
    // What has one of the six shapes has no segment but known words and ids: there is nothing else to check.
    if let Some((scope, operation)) = export_path(uri.path()) {
        if !operation.takes(method) {
            let allow = if operation == Operation::Start { "POST" } else { "GET, HEAD" };
            return Err(Refusal::Method { allow });
        }
        return Ok(Route::Export(ExportCall { scope, operation, query: Query::parse(query)? }));
    }
    if !forward_other {
        check_path(uri.path())?;
        return Err(Refusal::Unknown);
    }
    let path = other::path(uri.path())?;
    // A lenient server might take another spelling of an export call for one; it must not pass as another.
    let spelling = other::lenient(&path);
    let below_api = path.starts_with("/rest/") || path.starts_with("/v1/");
    if export_path(&spelling).is_some() || !below_api {
        return Err(Refusal::Unknown);
    }
    if !OTHER_METHODS.split(", ").any(|known| known == method.as_str()) {
        return Err(Refusal::Method { allow: OTHER_METHODS });
    }
    check_percent(query).ok_or(Refusal::Query)?;
    let scopes = other::scopes(&path);
    let target = if query.is_empty() { path } else { format!("{path}?{query}") };
    Ok(Route::Other(OtherCall { method: method.clone(), target, scopes }))
}

/// The longest shape: `orgs/ID/jobs/export/ID`.
const MOST_SEGMENTS: usize = 5;

/// The six shapes, with or without `/rest`, and `export/jobs/{id}` as a second spelling of job status.
fn export_path(path: &str) -> Option<(Scope, Operation)> {
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

/// Refuses what some server might read as another path: dot segments, empty segments, and every byte
/// but RFC 3986's unreserved ones.
fn check_path(path: &str) -> Result<(), Refusal> {
    let Some(below_root) = path.strip_prefix('/') else { return Err(Refusal::TargetForm) };
    let bytes = below_root.as_bytes();
    let mut start = 0;
    // Byte by byte: each request pays for it.
    for at in 0..=bytes.len() {
        let is_end = at == bytes.len();
        if !is_end && bytes[at] != b'/' {
            if !is_unreserved_byte(bytes[at]) {
                return Err(Refusal::Path);
            }
            continue;
        }
        let segment = below_root.get(start..at).ok_or(Refusal::Path)?;
        let is_inner_gap = segment.is_empty() && !is_end;
        if is_inner_gap || segment == "." || segment == ".." {
            return Err(Refusal::Path);
        }
        start = at + 1;
    }
    Ok(())
}

const fn is_unreserved_byte(b: u8) -> bool {
    UNRESERVED[b as usize] & FOREIGN == 0
}

/// RFC 3986 §2.3.
const UNRESERVED: [u8; 256] = table(b"-._~");

/// Percent-decodes `text`; `None` when an encoding is broken or a control or raw non-ASCII byte is in it.
fn check_percent(text: &str) -> Option<Vec<u8>> {
    let mut decoded = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        let value = match byte {
            b'%' => hex(bytes.next()?)? << 4 | hex(bytes.next()?)?,
            0x21..=0x7e => byte,
            _ => return None,
        };
        if value.is_ascii_control() {
            return None;
        }
        decoded.push(value);
    }
    Some(decoded)
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).and_then(|value| u8::try_from(value).ok())
}

/// The query of an export call in canonical form: pairs in the order of their names, stably, each
/// percent-encoded in one way (RFC 3986 §6.2.2). It is both what goes up and part of the cache key, so
/// that the upstream sees nothing that the key does not.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Query(Vec<(String, Option<String>)>);

impl Query {
    /// Parses a raw query. Repeated and unknown names pass: they are the upstream's to judge.
    fn parse(raw: &str) -> Result<Self, Refusal> {
        let mut pairs = Vec::new();
        let mut rest = Some(raw);
        while let Some(raw) = rest {
            let (pair, behind) = split_at(raw, b'&');
            rest = behind;
            if !pair.is_empty() {
                let (name, value) = split_at(pair, b'=');
                pairs.push((canonical(name)?, value.map(canonical).transpose()?));
            }
        }
        pairs.sort_by(|(a, _), (b, _)| a.cmp(b));
        Ok(Self(pairs))
    }

    /// Writes it behind `text`, with its question mark.
    fn write(&self, text: &mut String) {
        for (at, (name, value)) in self.0.iter().enumerate() {
            text.push(if at == 0 { '?' } else { '&' });
            text.push_str(name);
            if let Some(value) = value {
                text.push('=');
                text.push_str(value);
            }
        }
    }

    /// Its length as it is written.
    fn len(&self) -> usize {
        let value = |value: &Option<String>| value.as_ref().map_or(0, |value| value.len() + 1);
        self.0.iter().map(|(name, of)| name.len() + 1 + value(of)).sum()
    }

    /// The `version` that is asked for: the first, where it came more than once.
    #[must_use]
    pub fn version(&self) -> Option<&str> {
        self.0.iter().find(|(name, _)| name == "version").and_then(|(_, value)| value.as_deref())
    }

    /// Adds `version` where the client sent none.
    pub fn default_version(&mut self, version: &str) {
        if !self.0.iter().any(|(name, _)| name == "version") {
            let at = self.0.partition_point(|(name, _)| name.as_str() < "version");
            self.0.insert(at, ("version".to_owned(), Some(version.to_owned())));
        }
    }
}

/// What is before the first `delimiter`, and what is behind it, where there is one.
fn split_at(text: &str, delimiter: u8) -> (&str, Option<&str>) {
    match memchr(delimiter, text.as_bytes()) {
        Some(at) => (&text[..at], Some(&text[at + 1..])),
        None => (text, None),
    }
}

/// One canonical spelling of a name or value: unreserved bytes plain, other encodings in upper case.
fn canonical(raw: &str) -> Result<String, Refusal> {
    let seen = raw.bytes().fold(0, |seen, b| seen | UNRESERVED[usize::from(b)]);
    if seen & FOREIGN == 0 {
        return Ok(raw.to_owned());
    }
    check_percent(raw).ok_or(Refusal::Query)?;
    let mut text = String::with_capacity(raw.len());
    let mut bytes = raw.bytes();
    while let Some(byte) = bytes.next() {
        if byte == b'%' {
            let digits = (bytes.next().and_then(hex), bytes.next().and_then(hex));
            let (Some(high), Some(low)) = digits else { return Err(Refusal::Query) };
            match high << 4 | low {
                b'&' | b'=' | b'#' => return Err(Refusal::Query),
                value if is_unreserved_byte(value) => text.push(char::from(value)),
                value => push_encoded(&mut text, value),
            }
        } else if is_unreserved_byte(byte) || b"!$'()*+,;:@/?=".contains(&byte) {
            text.push(char::from(byte));
        } else {
            push_encoded(&mut text, byte);
        }
    }
    Ok(text)
}

fn push_encoded(text: &mut String, byte: u8) {
    let _ = write!(text, "%{byte:02X}");
}

#[cfg(test)]
mod tests {
    use super::*;

    const ORG: &str = "825e79b7-0073-44c3-a5ea-e0aa8a3dbf38";

    fn written(query: &Query) -> String {
        let mut text = String::new();
        query.write(&mut text);
        assert_eq!(text.len(), query.len());
        text
    }

    fn get(target: &str) -> Result<Route, Refusal> {
        recognise(&Method::GET, &target.parse().expect("a URI"), false)
    }

    fn target(route: Result<Route, Refusal>) -> String {
        match route {
            Ok(Route::Export(call)) => call.target(),
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
    fn everything_else_is_refused_by_name() {
        let long = format!("/orgs/{}/export/e", "x".repeat(65));
        for (path, expected) in [
            ("/orgs/a/export/jobs", Refusal::Unknown),
            ("/orgs/a/export/e/", Refusal::Unknown),
            ("/orgs/a/export/e/x", Refusal::Unknown),
            ("/orgs/a/export/x.css", Refusal::Unknown),
            (long.as_str(), Refusal::Unknown),
            ("/rest/rest/orgs/a/export/e", Refusal::Unknown),
            ("/restorgs/a/export/e", Refusal::Unknown),
            ("/v1/orgs", Refusal::Unknown),
            ("/", Refusal::Unknown),
            ("/orgs/a/export/../e", Refusal::Path),
            ("/orgs/./a/export/e", Refusal::Path),
            ("/orgs//a/export/e", Refusal::Path),
            ("//orgs/a/export/e", Refusal::Path),
            ("/orgs/a/export/%2e%2e", Refusal::Path),
            ("/orgs/a/export/e;x=1", Refusal::Path),
            ("/orgs/a/export/e%00", Refusal::Path),
            ("/orgs/a/export/e?x=%00", Refusal::Query),
            ("/orgs/a/export/e?x=%26y", Refusal::Query),
            ("/orgs/a/export/e?x=%3D", Refusal::Query),
            ("/orgs/a/export/e?x=%23", Refusal::Query),
            ("/orgs/a/export/e?x=%zz", Refusal::Query),
            ("/orgs/a/export/e?x=%4", Refusal::Query),
        ] {
            assert_eq!(get(path), Err(expected), "{path}");
        }
        let post = recognise(&Method::POST, &"/orgs/a/export/e".parse().expect("a URI"), false);
        assert_eq!(post, Err(Refusal::Method { allow: "GET, HEAD" }));
        let trace = recognise(&Method::TRACE, &"/orgs/a/export".parse().expect("a URI"), true);
        assert_eq!(trace, Err(Refusal::Method { allow: "POST" }));
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
        for disguised in
            ["/rest/orgs/a/export/", "/rest/orgs/a/Export", "/rest/ORGS/a/export/e", "/rest/orgs/a/%65xport"]
        {
            assert_eq!(other(disguised), "Unknown", "{disguised}");
        }
        assert_eq!(other("/v1/x?a=%00"), "Query");
    }

    #[test]
    fn a_default_version_is_filled_in_only_where_none_came() {
        let mut none = Query::parse("a=1&z=2").expect("a query");
        none.default_version("2024-10-15");
        assert_eq!(written(&none), "?a=1&version=2024-10-15&z=2");
        let mut twice = Query::parse("version=1&version=2").expect("a query");
        twice.default_version("3");
        assert_eq!(written(&twice), "?version=1&version=2");
    }
}
