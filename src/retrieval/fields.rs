//! Header fields of requests to the upstream, and the fields of its answers that are written down (pure).
//!
//! Fields go up by name: nothing else of a client's can get through.

use std::time::Duration;

use http::header::{
    ACCEPT, ACCEPT_ENCODING, AUTHORIZATION, AsHeaderName, CONTENT_TYPE, RETRY_AFTER, USER_AGENT, VIA,
};
use http::{HeaderMap, HeaderName, HeaderValue};
use uuid::Uuid;

use super::question::Asker;
use crate::credential::Authorization;

/// The id that Snyk's support asks for.
pub(crate) const SNYK_REQUEST_ID: HeaderName = HeaderName::from_static("snyk-request-id");

/// `Retry-After` (RFC 9110 §10.2.3), if it is in seconds.
pub(crate) fn retry_after(fields: &HeaderMap) -> Option<Duration> {
    let seconds = fields.get(RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds))
}

/// Every GET of an export asks for this, whoever asks: a stored or shared answer must suit all.
const ACCEPT_EXPORT: HeaderValue =
    HeaderValue::from_static("application/vnd.api+json, application/json;q=0.9, */*;q=0.8");
const JSON: HeaderValue = HeaderValue::from_static("application/json");
const IDENTITY: HeaderValue = HeaderValue::from_static("identity");
const AGENT: HeaderValue = HeaderValue::from_static(concat!("exportgate/", env!("CARGO_PKG_VERSION")));

/// The fields of a GET of results or job status: the same for every client, but for those `forwarded`, which
/// are in the cache key.
pub(super) fn for_get(forwarded: &HeaderMap) -> HeaderMap {
    let mut fields = HeaderMap::new();
    fields.insert(ACCEPT, ACCEPT_EXPORT);
    fields.insert(ACCEPT_ENCODING, IDENTITY);
    fields.insert(CONTENT_TYPE, JSON);
    fields.insert(USER_AGENT, AGENT);
    replace(&mut fields, forwarded);
    fields
}

/// The fields of a request that is one client's alone: those `taken` over from it.
pub(super) fn for_one(taken: &HeaderMap) -> HeaderMap {
    let mut fields = HeaderMap::new();
    fields.insert(ACCEPT_ENCODING, IDENTITY);
    fields.insert(USER_AGENT, AGENT);
    replace(&mut fields, taken);
    fields
}

/// The same of a start that others may share: nothing that is not in its key may shape it.
pub(super) fn for_equal_starts(mut taken: HeaderMap) -> HeaderMap {
    taken.insert(ACCEPT, ACCEPT_EXPORT);
    taken.insert(USER_AGENT, AGENT);
    taken
}

/// Puts the fields of `other` in place of those of the same names.
fn replace(fields: &mut HeaderMap, other: &HeaderMap) {
    for name in other.keys() {
        fields.remove(name);
    }
    for (name, value) in other {
        fields.append(name, value.clone());
    }
}

/// Completes `fields` with what each request has of its own.
pub(super) fn with_asker(
    mut fields: HeaderMap,
    asker: &Asker,
    id: Uuid,
    presented: &Authorization,
) -> HeaderMap {
    fields.insert(VIA, asker.via.clone());
    if let Ok(id) = HeaderValue::try_from(id.to_string()) {
        fields.insert(SNYK_REQUEST_ID, id);
    }
    fields.insert(AUTHORIZATION, presented.field.clone());
    fields
}

/// A field of an answer as text for the log and the journal: a word, an id, a version or a date. Snyk puts nothing
/// else there; anything else could be a link or a credential, and is not written down.
pub(crate) fn text(fields: &HeaderMap, name: impl AsHeaderName) -> Option<String> {
    let value = fields.get(name)?;
    Some(value.to_str().ok().map_or_else(|| UNREADABLE.to_owned(), plain))
}

/// `text` itself if it is short and plain; else a word that says so.
pub(crate) fn plain(text: &str) -> String {
    let is_plain =
        text.len() <= 64 && text.bytes().all(|b| b.is_ascii_alphanumeric() || b" -_.,:~+@".contains(&b));
    if is_plain { text.to_owned() } else { UNREADABLE.to_owned() }
}

const UNREADABLE: &str = "(unreadable)";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_forwarded_field_is_the_clients_own() {
        let forwarded: HeaderMap = [("x-tenant", "a"), ("x-tenant", "b"), ("accept", "text/html")]
            .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)))
            .into_iter()
            .collect();
        let get = for_get(&forwarded);
        assert_eq!(get.get_all("x-tenant").iter().collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!((&get["accept"], get.len()), (&HeaderValue::from_static("text/html"), 6));
        assert_eq!(for_one(&HeaderMap::new()).len(), 2);
    }
}
