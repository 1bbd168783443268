//! Header fields on their way through, in both directions (pure).
//!
//! Up, fields are made or taken by name: nothing else of a client's can get through. Down, everything
//! passes but what belongs to the connection (RFC 9110 §7.6.1), to the upstream's own origin, or to us.

use std::str::FromStr;

use http::header::{
    ACCEPT, ACCEPT_ENCODING, AsHeaderName, CONNECTION, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_LOCATION,
    CONTENT_TYPE, Entry, LINK, LOCATION, USER_AGENT,
};
use http::{HeaderMap, HeaderName, HeaderValue, Uri};
use uuid::Uuid;

use crate::upstream::Root;

/// The id that Snyk's support asks for.
pub(super) const SNYK_REQUEST_ID: HeaderName = HeaderName::from_static("snyk-request-id");

/// What every GET of an export asks for, whoever asks: a stored or shared answer must suit all.
const ACCEPT_EXPORT: HeaderValue =
    HeaderValue::from_static("application/vnd.api+json, application/json;q=0.9, */*;q=0.8");
const JSON: HeaderValue = HeaderValue::from_static("application/json");
const IDENTITY: HeaderValue = HeaderValue::from_static("identity");
const AGENT: HeaderValue = HeaderValue::from_static(concat!("exportgate/", env!("CARGO_PKG_VERSION")));

/// The client's fields that go up with a request that is its alone. `content-encoding` is there because
/// bodies go byte for byte, and without it an encoded one could not be read.
const PASSED: [HeaderName; 4] = [ACCEPT, CONTENT_TYPE, CONTENT_ENCODING, USER_AGENT];

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

/// The fields of a GET of results or job status: the same for every client, but for `forwarded`, which
/// are in the cache key.
pub(super) fn for_get(client: &HeaderMap, forwarded: &[HeaderName]) -> HeaderMap {
    let mut fields = HeaderMap::new();
    fields.insert(ACCEPT, ACCEPT_EXPORT);
    fields.insert(ACCEPT_ENCODING, IDENTITY);
    fields.insert(CONTENT_TYPE, JSON);
    fields.insert(USER_AGENT, AGENT);
    pass(&mut fields, client, forwarded);
    fields
}

/// The fields of a request that is one client's alone.
pub(super) fn for_one(client: &HeaderMap, forwarded: &[HeaderName]) -> HeaderMap {
    let mut fields = HeaderMap::new();
    fields.insert(ACCEPT_ENCODING, IDENTITY);
    pass(&mut fields, client, &PASSED);
    pass(&mut fields, client, forwarded);
    if !fields.contains_key(USER_AGENT) {
        fields.insert(USER_AGENT, AGENT);
    }
    fields
}

fn pass(fields: &mut HeaderMap, client: &HeaderMap, names: &[HeaderName]) {
    for name in names {
        fields.remove(name);
        for value in client.get_all(name) {
            fields.append(name, value.clone());
        }
    }
}

/// The `snyk-request-id` to send: the client's own when it is one UUID, else a new one, which is no secret and so needs no
/// randomness of the system's.
pub(super) fn request_id(client: &HeaderMap) -> Uuid {
    let new = || uuid::Builder::from_random_bytes(fastrand::u128(..).to_ne_bytes()).into_uuid();
    let mut given = client.get_all(SNYK_REQUEST_ID).iter();
    match (given.next().and_then(|value| value.to_str().ok()), given.next()) {
        (Some(text), None) if text.len() == 36 => Uuid::from_str(text).unwrap_or_else(|_| new()),
        _ => new(),
    }
}

/// A field of an answer as text for the log and the journal: a word, an id, a version or a date. Anything
/// else is not what Snyk puts there; it could be a link or a credential, and is not written down.
pub(super) fn text(fields: &HeaderMap, name: impl AsHeaderName) -> Option<String> {
    let value = fields.get(name)?;
    Some(value.to_str().ok().map_or_else(|| UNREADABLE.to_owned(), plain))
}

/// `text` itself when it is short and plain; else a word that says so.
pub(super) fn plain(text: &str) -> String {
    let is_plain =
        text.len() <= 64 && text.bytes().all(|b| b.is_ascii_alphanumeric() || b" -_.,:~+@".contains(&b));
    if is_plain { text.to_owned() } else { UNREADABLE.to_owned() }
}

const UNREADABLE: &str = "(unreadable)";

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

/// Where the quoted string that has begun ends (RFC 9110 §5.6.4).
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

/// Takes away what is about one exchange with the upstream and not about its answer: a replay must not
/// repeat it.
pub(super) fn for_replay(mut fields: HeaderMap) -> HeaderMap {
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
    fn nothing_of_a_client_goes_up_but_what_is_named() {
        let client = fields(&[
            ("authorization", "token secret"),
            ("session-token", "secret"),
            ("cookie", "a=b"),
            ("connection", "authorization"),
            ("x-forwarded-for", "1.2.3.4"),
            ("accept", "text/html"),
            ("accept-encoding", "gzip"),
            ("user-agent", "curl"),
            ("x-tenant", "t"),
        ]);
        let tenant = [HeaderName::from_static("x-tenant")];
        let get = for_get(&client, &tenant);
        assert_eq!(get.keys_len(), 5);
        assert_eq!(
            (&get["accept"], &get["user-agent"], &get["x-tenant"]),
            (&ACCEPT_EXPORT, &AGENT, &"t".parse().expect("a value"))
        );
        assert_eq!(for_get(&client, &[]), for_get(&HeaderMap::new(), &[]));
        let post = for_one(&client, &[]);
        assert_eq!(post.keys_len(), 3);
        assert_eq!(
            (&post["accept"], &post["user-agent"], &post["accept-encoding"]),
            (&"text/html".parse().expect("a value"), &"curl".parse().expect("a value"), &IDENTITY)
        );
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

    #[test]
    fn a_clients_own_request_id_is_sent_only_when_it_is_a_uuid() {
        let own = "2b3c4d5e-0000-4000-8000-000000000001";
        assert_eq!(request_id(&fields(&[("snyk-request-id", own)])).to_string(), own);
        assert_ne!(
            request_id(&fields(&[("snyk-request-id", "x")])),
            request_id(&fields(&[("snyk-request-id", "x")]))
        );
    }
}
