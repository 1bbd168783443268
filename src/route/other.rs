//! Paths of calls that are no export calls (`routes.other = "forward"`).

use super::{RouteError, package};
use crate::export::text::{check_percent, is_unreserved_byte};
use crate::export::{Id, Scope, ScopeKind};

/// The path of a call that is no export call, as it goes up: `/api/v1/…` as `/v1/…`, packages written anew, everything
/// else as it came.
pub(super) fn path(path: &str) -> Result<String, RouteError> {
    let below_root = path.strip_prefix('/').ok_or(RouteError::TargetForm)?;
    let below_root = below_root.strip_prefix("api/").filter(|v1| v1.starts_with("v1/")).unwrap_or(below_root);
    let segments: Vec<&str> = below_root.split('/').collect();
    let mut written = String::with_capacity(path.len());
    for (at, segment) in segments.iter().enumerate() {
        written.push('/');
        let is_gap = segment.is_empty() && at + 1 < segments.len();
        if is_gap || *segment == "." || *segment == ".." {
            return Err(RouteError::Path);
        }
        if is_clean_segment(segment) {
            written.push_str(segment);
            continue;
        }
        let names_package =
            matches!(segments[..at], ["v1", "test", _] | ["rest", "orgs" | "groups", _, .., "packages"]);
        let package =
            package::purl(segment).or_else(|| names_package.then(|| package::name(segment)).flatten());
        written.push_str(&package.ok_or(RouteError::Path)?);
    }
    Ok(written)
}

/// The org or group that follows `/rest/` or `/v1/`, if one does, and every org or group further
/// on. Names are compared decoded and without case, and the parts of a package apart, as a lenient server might.
pub(super) fn scopes(path: &str) -> Vec<Scope> {
    let parts: Vec<(String, bool)> = path
        .split('/')
        .skip(2)
        .map(decoded)
        .flat_map(|segment| {
            let is_package = segment.contains('/');
            // Those of a package are a path's to whoever decodes and merges its slashes.
            let parts = segment.split('/').filter(|part| !is_package || !part.is_empty());
            parts.map(|part| (part.to_owned(), is_package)).collect::<Vec<_>>()
        })
        .collect();
    let mut found = Vec::new();
    for (at, (part, _)) in parts.iter().enumerate() {
        let kind = match part.to_ascii_lowercase().as_str() {
            "org" | "orgs" => ScopeKind::Org,
            "group" | "groups" => ScopeKind::Group,
            _ if at == 0 => return Vec::new(),
            _ => continue,
        };
        match parts.get(at + 1).map(|(id, is_package)| (Id::parse(id), id.is_empty() || *is_package)) {
            Some((Some(id), _)) => found.push(Scope { kind, id }),
            // A list of what is below the scope before it, or the name of a package.
            None | Some((None, true)) if at > 0 => {}
            None | Some((None, _)) => return Vec::new(),
        }
    }
    found
}

/// A path as a lenient server might read it: decoded, without case, without slashes at its end.
pub(super) fn lenient(path: &str) -> String {
    let segments: Vec<String> = path.split('/').map(decoded).collect();
    segments.join("/").to_ascii_lowercase().trim_end_matches('/').to_owned()
}

/// A segment as who decodes it as often as that changes it reads it.
fn decoded(segment: &str) -> String {
    let once =
        |text: &str| check_percent(text).and_then(|bytes| String::from_utf8(bytes).ok()).unwrap_or_default();
    let text = once(segment);
    // A purl alone has encodings within its encoding.
    if text.contains('%') { once(&text) } else { text }
}

/// A segment of another call: also `: @ ! $ ' ( ) * + , =` and harmless percent-encodings; never an encoded slash,
/// backslash, dot, percent sign or control byte.
fn is_clean_segment(segment: &str) -> bool {
    check_percent(segment).is_some_and(|decoded| {
        std::str::from_utf8(&decoded).is_ok()
            && segment.bytes().all(|b| is_unreserved_byte(b) || b":@!$'()*+,=%".contains(&b))
            && (!segment.contains('%') || !decoded.iter().any(|b| b"/\\%.;".contains(b)))
    })
}

#[cfg(test)]
mod tests {
    use http::Method;

    use super::super::{Route, recognise};

    #[test]
    fn a_package_hides_no_scope() {
        let scopes = |path: &str| match recognise(&Method::GET, &path.parse().expect("a URI"), true) {
            Ok(Route::Other(call)) => {
                call.scopes.iter().map(|scope| scope.id.as_str().to_owned()).collect::<Vec<_>>().join(" ")
            }
            other => format!("{other:?}"),
        };
        for (path, expected) in [
            ("/rest/orgs/a/packages/pkg:npm%2Fx@1/issues", "a"),
            ("/rest/orgs/a/packages/pkg:npm%2Forgs%2Fb/issues", "a b"),
            ("/rest/orgs/a/packages/pkg:npm%2F%256Frgs%2Fb/issues", "a b"),
            ("/rest/orgs/a/packages/pkg:golang%2Fgithub.com%2Forg%2Fx@1/issues", "a"),
            ("/rest/orgs/a/packages/orgs%2Fb", "a b"),
            ("/rest/orgs/packages/export%2Fe", "Err(Path)"),
            ("/rest/pkg:npm%2Forgs%2Fb/orgs/a", ""),
            ("/api/v1/org/a/group/b", "a b"),
            ("/v1/test/npm/%40orgs%2Fb/1", ""),
        ] {
            assert_eq!(scopes(path), expected, "{path}");
        }
    }
}
