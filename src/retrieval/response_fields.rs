//! Header fields of answers on their way to clients and into the cache (pure).
//!
//! Everything passes but what belongs to the connection (RFC 9110 §7.6.1), to the upstream's own origin, or to us.

use std::str::FromStr;
use std::time::SystemTime;

use http::header::{
    AGE, CACHE_CONTROL, CONNECTION, CONTENT_LENGTH, CONTENT_LOCATION, ETAG, EXPIRES, Entry, LINK, LOCATION,
    PRAGMA,
};
use http::{HeaderMap, HeaderName, HeaderValue, Uri};

use crate::cache::Freshness;
use crate::listener::KEEP_ALIVE;
use crate::upstream::Root;

/// Fields of the connection, of the upstream's own origin (a cookie, or a promise about its TLS, is not
/// ours to hand on), and lengths, which hyper writes.
const DROPPED: [&str; 17] = [
    "connection",
    "keep-alive",
    "proxy-connection",
    "proxy-authenticate",
    "proxy-authentication-info",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "content-length",
    "set-cookie",
    "alt-svc",
    "strict-transport-security",
    "clear-site-data",
    "nel",
    "report-to",
    "public-key-pins",
];

/// Lists whose members say by name which intermediary did what (RFC 9211 §2, RFC 9209 §2).
const NAMED_MEMBERS: [&str; 2] = ["cache-status", "proxy-status"];

/// Ask again each time, with the validator: so a purge or a revoked right works at once.
const ASK_AGAIN: HeaderValue = HeaderValue::from_static("private, no-cache");
/// Names this request, on every answer.
pub(crate) const REQUEST_ID: HeaderName = HeaderName::from_static("exportgate-request-id");
/// RFC 9211.
pub(crate) const CACHE_STATUS: HeaderName = HeaderName::from_static("cache-status");
const LINKS_EXPIRE: HeaderName = HeaderName::from_static("exportgate-links-expire");
/// Stands where a value of each answer's own will be.
pub(crate) const PLACEHOLDER: &str = "-";

/// The end-to-end fields of an answer, as clients get them.
pub(super) fn end_to_end(mut fields: HeaderMap, root: &Root) -> HeaderMap {
    let nominated: Vec<HeaderName> = fields
        .get_all(CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|names| names.split(','))
        .filter_map(|name| HeaderName::from_str(name.trim()).ok())
        .collect();
    let ours = fields.keys().filter(|name| name.as_str().starts_with("exportgate-")).cloned();
    for name in nominated.into_iter().chain(ours.collect::<Vec<_>>()) {
        fields.remove(name);
    }
    for name in DROPPED {
        fields.remove(name);
    }
    for name in NAMED_MEMBERS {
        drop_our_members(&mut fields, name);
    }
    for name in [LOCATION, CONTENT_LOCATION] {
        if let Some(local) = fields.get(&name).and_then(|value| path_absolute(value.as_bytes(), root)) {
            fields.insert(name, local);
        }
    }
    if let Entry::Occupied(mut links) = fields.entry(LINK) {
        for value in links.iter_mut() {
            if let Some(local) = value.to_str().ok().and_then(|links| local_links(links, root)) {
                *value = local;
            }
        }
    }
    fields
}

/// Takes away the members of a list (RFC 9651 §3.1) that are called as we are: nobody else says what we did. A value whose
/// quotes do not match is taken away whole, since it may be read in two ways.
fn drop_our_members(fields: &mut HeaderMap, name: &'static str) {
    if !fields.contains_key(name) {
        return;
    }
    let values: Vec<HeaderValue> = fields.get_all(name).iter().filter_map(without_our_members).collect();
    fields.remove(name);
    for value in values {
        fields.append(name, value);
    }
}

fn without_our_members(value: &HeaderValue) -> Option<HeaderValue> {
    let (mut is_quoted, mut is_escaped) = (false, false);
    let members = value.as_bytes().split(|byte| {
        let was_escaped = std::mem::replace(&mut is_escaped, false);
        match byte {
            b'\\' if is_quoted && !was_escaped => is_escaped = true,
            b'"' if !was_escaped => is_quoted = !is_quoted,
            _ => {}
        }
        *byte == b',' && !is_quoted
    });
    let is_ours = |member: &&[u8]| {
        let name = member.split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii();
        name.strip_prefix(b"\"").and_then(|name| name.strip_suffix(b"\"")).unwrap_or(name) == b"exportgate"
    };
    let kept: Vec<&[u8]> = members.map(<[u8]>::trim_ascii).filter(|member| !is_ours(member)).collect();
    HeaderValue::from_bytes(&kept.join(&b", "[..])).ok().filter(|value| !is_quoted && !value.is_empty())
}

/// A `Link` field (RFC 8288 §3) whose references to the upstream are paths on us: the next page must not lead past us.
/// Everything else of it stays; `None` where all of it does. A `<` in a quoted parameter begins no link.
fn local_links(links: &str, root: &Root) -> Option<HeaderValue> {
    let (mut written, mut rest) = (String::with_capacity(links.len()), links);
    while let Some(at) = rest.find(['<', '"']) {
        let is_quote = rest[at..].starts_with('"');
        let (before, behind) = rest.split_at(at + 1);
        let end = if is_quote { end_of_quoted(behind)? } else { behind.find('>')? };
        let inner = &behind[..end];
        let local = path_absolute(inner.as_bytes(), root).filter(|_| !is_quote);
        written.push_str(before);
        written.push_str(local.as_ref().and_then(|local| local.to_str().ok()).unwrap_or(inner));
        rest = &behind[end..];
        // What ends it must not begin another.
        let (delimiter, behind) = rest.split_at(1);
        written.push_str(delimiter);
        rest = behind;
    }
    written.push_str(rest);
    (written != links).then(|| HeaderValue::try_from(written).ok()).flatten()
}

/// The end of the quoted string that has begun (RFC 9110 §5.6.4).
fn end_of_quoted(text: &str) -> Option<usize> {
    let mut is_escaped = false;
    text.bytes().position(|b| {
        let ends = b == b'"' && !is_escaped;
        is_escaped = b == b'\\' && !is_escaped;
        ends
    })
}

/// An absolute reference to the upstream as a path on us; `None` for any other (RFC 3986 §4.2).
fn path_absolute(reference: &[u8], root: &Root) -> Option<HeaderValue> {
    let uri = Uri::try_from(reference).ok()?;
    let same_scheme = uri.scheme()? == &root.scheme;
    let default_port = if root.scheme == http::uri::Scheme::HTTPS { 443 } else { 80 };
    let authority = uri.authority()?;
    let same_host = authority.host().eq_ignore_ascii_case(root.authority.host());
    let port = |authority: &http::uri::Authority| authority.port_u16().unwrap_or(default_port);
    if !(same_scheme && same_host && port(authority) == port(&root.authority)) {
        return None;
    }
    let target = uri.path_and_query()?.as_str();
    let below = target.strip_prefix(&root.prefix).filter(|below| below.starts_with('/'))?;
    // A second slash would make it the name of another host (RFC 3986 §4.2).
    if below[1..].starts_with(['/', '\\']) {
        return None;
    }
    HeaderValue::from_str(below).ok()
}

/// Takes away fields about one exchange with the upstream rather than its answer: a replay must not repeat them.
fn for_replay(mut fields: HeaderMap) -> HeaderMap {
    let about_one: Vec<HeaderName> = fields
        .keys()
        .filter(|name| name.as_str().starts_with("x-ratelimit-") || name.as_str() == "retry-after")
        .cloned()
        .collect();
    for name in about_one {
        fields.remove(name);
    }
    fields.remove(CONTENT_LENGTH);
    fields
}

/// The fields of a stored response, as every client gets them; made once, when it is stored. Those that differ from
/// client to client have a placeholder already, so that a copy need not grow.
pub(super) fn for_storing(fields: HeaderMap, etag: &HeaderValue, freshness: &Freshness) -> HeaderMap {
    let mut fields = for_replay(fields);
    describe_stored(&mut fields, etag, freshness.links_end);
    let placeholder = HeaderValue::from_static(PLACEHOLDER);
    for name in [AGE, KEEP_ALIVE, REQUEST_ID] {
        fields.insert(name, placeholder.clone());
    }
    // A value that looks like our placeholder is no cache's (RFC 9211 §2).
    if fields.get_all(&CACHE_STATUS).iter().all(|value| value == PLACEHOLDER) {
        fields.insert(CACHE_STATUS, placeholder);
    }
    fields
}

/// Describes an answer that is stored, in place of the upstream's own description.
pub(crate) fn describe_stored(fields: &mut HeaderMap, etag: &HeaderValue, links_end: Option<SystemTime>) {
    fields.remove(EXPIRES);
    fields.remove(PRAGMA);
    fields.insert(CACHE_CONTROL, ASK_AGAIN);
    fields.insert(ETAG, etag.clone());
    if let Some(end) = links_end {
        let text = humantime::format_rfc3339_seconds(end).to_string();
        if let Ok(value) = HeaderValue::try_from(text) {
            fields.insert(LINKS_EXPIRE, value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs.iter().map(|(n, v)| (HeaderName::from_static(n), HeaderValue::from_static(v))).collect()
    }

    fn root(prefix: &str) -> Root {
        Root {
            scheme: http::uri::Scheme::HTTPS,
            authority: http::uri::Authority::from_static("api.snyk.io"),
            prefix: prefix.into(),
        }
    }

    #[test]
    fn what_belongs_to_the_connection_or_the_origin_stays_there() {
        let down = end_to_end(
            fields(&[
                ("connection", "x-private, close"),
                ("x-private", "1"),
                ("transfer-encoding", "chunked"),
                ("set-cookie", "session=1"),
                ("alt-svc", "h3=\":443\""),
                ("exportgate-request-id", "forged"),
                ("x-kept", "1"),
            ]),
            &root(""),
        );
        assert_eq!(down, fields(&[("x-kept", "1")]));
    }

    #[test]
    fn no_member_of_a_list_is_called_as_we_are() {
        for (value, kept) in [
            ("exportgate; hit", None),
            ("\"exportgate\";hit , exportgate", None),
            ("a; hit, exportgate; hit; ttl=1,b", Some("a; hit, b")),
            ("a; detail=\"x, exportgate; hit\"", Some("a; detail=\"x, exportgate; hit\"")),
            ("a; detail=\"x\\\", exportgate; hit\"", Some("a; detail=\"x\\\", exportgate; hit\"")),
            ("a; detail=\"x\\\\\", exportgate; hit", Some("a; detail=\"x\\\\\"")),
            ("a; detail=\"x, exportgate; hit", None),
            ("exportgate-edge; hit", Some("exportgate-edge; hit")),
        ] {
            let down = end_to_end(fields(&[("cache-status", value)]), &root(""));
            let down = down.get("cache-status").map(|value| value.to_str().expect("text"));
            assert_eq!(down, kept, "{value}");
        }
    }

    #[test]
    fn references_to_the_upstream_lead_to_us() {
        let local = |text: &'static str, prefix: &str| {
            let down = end_to_end(fields(&[("location", text)]), &root(prefix));
            down["location"].to_str().expect("text").to_owned()
        };
        assert_eq!(
            local("https://API.snyk.io:443/rest/orgs/o/export/e?version=1", ""),
            "/rest/orgs/o/export/e?version=1"
        );
        assert_eq!(local("https://api.snyk.io/snyk/rest/x", "/snyk"), "/rest/x");
        for other in [
            "https://api.snyk.io//evil.example/x",
            "https://evil.example/rest/x",
            "http://api.snyk.io/rest/x",
            "/rest/x",
            "https://api.snyk.io:8443/x",
        ] {
            assert_eq!(local(other, ""), other);
        }
        assert_eq!(local("https://api.snyk.io/snykother/x", "/snyk"), "https://api.snyk.io/snykother/x");
    }

    #[test]
    fn links_to_the_upstream_lead_to_us() {
        for (link, expected) in [
            ("<https://api.snyk.io/v1/x?page=2>; rel=\"next\"", "</v1/x?page=2>; rel=\"next\""),
            (
                "<https://API.snyk.io:443/v1/x?q=a,b;c>;rel=next , <https://api.snyk.io/v1/x>; rel=last",
                "</v1/x?q=a,b;c>;rel=next , </v1/x>; rel=last",
            ),
            (
                r#"<https://docs.example/a,b>; title="<https://api.snyk.io/x>, \"<"; rel=help, <https://api.snyk.io/x>"#,
                r#"<https://docs.example/a,b>; title="<https://api.snyk.io/x>, \"<"; rel=help, </x>"#,
            ),
            // Others, and what cannot be read, stay.
            ("<https://api.snyk.io.evil.example/x>; rel=next", ""),
            ("<http://api.snyk.io/x>; rel=next", ""),
            ("<https://api.snyk.io//evil.example/x>; rel=next", ""),
            ("</v1/x>; rel=next", ""),
            ("<https://api.snyk.io/x", ""),
            ("\"<https://api.snyk.io/x>", ""),
            ("https://api.snyk.io/x; rel=next", ""),
            ("", ""),
        ] {
            let down = end_to_end(fields(&[("link", link)]), &root(""));
            assert_eq!(down["link"], if expected.is_empty() { link } else { expected }, "{link}");
        }
        let two =
            [("link", "<https://api.snyk.io/a>; rel=next"), ("link", "<https://api.snyk.io/b>; rel=last")];
        let down = end_to_end(fields(&two), &root(""));
        assert_eq!(down.get_all("link").iter().collect::<Vec<_>>(), ["</a>; rel=next", "</b>; rel=last"]);
    }
}
