//! `Cache-Control` (RFC 9111 §5.2), of requests and of responses.

use http::HeaderMap;
use http::header::{CACHE_CONTROL, PRAGMA, VARY};

/// The directives that matter here. A directive with a field list (`private="x"`) counts as the whole
/// (RFC 9111 §5.2.2.4 allows it); a number that is none counts as zero, the careful reading (§4.2.1).
#[expect(clippy::struct_excessive_bools, reason = "each is a directive of its own in the RFC")]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Directives {
    /// `no-cache`, or `Pragma: no-cache` in a request without `Cache-Control`.
    pub no_cache: bool,
    /// `no-store`.
    pub no_store: bool,
    /// `private` (responses).
    pub private: bool,
    /// `only-if-cached` (requests).
    pub only_if_cached: bool,
    /// `max-age`, in seconds.
    pub max_age: Option<u64>,
    /// `s-maxage`, in seconds (responses).
    pub s_maxage: Option<u64>,
    /// `min-fresh`, in seconds (requests).
    pub min_fresh: Option<u64>,
}

impl Directives {
    /// Those of a request.
    #[must_use]
    pub fn of_request(fields: &HeaderMap) -> Self {
        if !fields.contains_key(CACHE_CONTROL) {
            let mut directives = Self::default();
            if !fields.contains_key(PRAGMA) {
                return directives;
            }
            directives.no_cache = lists(fields, &PRAGMA).any(|(name, _)| name == "no-cache");
            return directives;
        }
        Self::of_response(fields)
    }

    /// Those of a response.
    #[must_use]
    pub fn of_response(fields: &HeaderMap) -> Self {
        let mut found = Self::default();
        for (name, value) in lists(fields, &CACHE_CONTROL) {
            let seconds = || Some(value.trim_matches('"').parse().unwrap_or(0));
            match name.as_str() {
                "no-cache" => found.no_cache = true,
                "no-store" => found.no_store = true,
                "private" => found.private = true,
                "only-if-cached" => found.only_if_cached = true,
                "max-age" => found.max_age = found.max_age.min(seconds()).or_else(seconds),
                "s-maxage" => found.s_maxage = found.s_maxage.min(seconds()).or_else(seconds),
                "min-fresh" => found.min_fresh = found.min_fresh.max(seconds()),
                _ => {}
            }
        }
        found
    }
}

/// True if `Vary` names something that may differ between two requests with one cache key (RFC 9111 §4.1). Requests go
/// up with fixed fields, those that are in the key, and no others; so only what we add to each is not fixed: `Via` and
/// the request id. `*` stands for what is in no field at all (RFC 9110 §12.5.5).
pub(super) fn varies_by_more_than_the_key(fields: &HeaderMap) -> bool {
    let is_free =
        |name: &str| ["*", "via", "snyk-request-id"].iter().any(|free| name.eq_ignore_ascii_case(free));
    let varies = |names: &str| names.split(',').map(str::trim).any(is_free);
    fields.get_all(VARY).iter().any(|value| value.to_str().map_or(true, varies))
}

/// The comma-separated `name[=value]` members of every line of a field; commas in quoted strings do not
/// count (RFC 9110 §5.6.4). A line whose quotes do not close is read both ways, so that nothing in it is
/// missed.
fn lists(fields: &HeaderMap, name: &http::HeaderName) -> impl Iterator<Item = (String, String)> {
    fields.get_all(name).iter().flat_map(|value| {
        let text = String::from_utf8_lossy(value.as_bytes()).into_owned();
        let (mut quoted, mut escaped) = (false, false);
        let mut parts = vec![String::new()];
        for c in text.chars() {
            let ends = c == ',' && !quoted;
            match c {
                _ if std::mem::take(&mut escaped) => {}
                '\\' if quoted => escaped = true,
                '"' => quoted = !quoted,
                _ => {}
            }
            if ends {
                parts.push(String::new());
            } else if let Some(part) = parts.last_mut() {
                part.push(c);
            }
        }
        if quoted {
            parts.extend(text.split(',').map(str::to_owned));
        }
        parts.into_iter().map(|member| {
            let (name, value) = member.split_once('=').unwrap_or((&member, ""));
            (name.trim().to_ascii_lowercase(), value.trim().to_owned())
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(value: &'static str) -> Directives {
        let mut fields = HeaderMap::new();
        fields.insert(CACHE_CONTROL, http::HeaderValue::from_static(value));
        Directives::of_request(&fields)
    }

    #[test]
    fn directives_are_read_whatever_their_spelling() {
        assert!(request("No-Cache").no_cache);
        assert!(request("max-age=3 , no-store").no_store);
        assert!(request("private=\"a, no-store\"").private);
        assert!(!request("private=\"a, no-store\"").no_store);
        assert!(request("ext=\"\\\"\", no-store").no_store);
        assert!(request("ext=\"x, no-store").no_store);
        assert_eq!(request("max-age=30, max-age=10").max_age, Some(10));
        assert_eq!(request("max-age=x").max_age, Some(0));
        assert_eq!(request("min-fresh=\"60\"").min_fresh, Some(60));
        assert_eq!(request("").max_age, None);
    }

    #[test]
    fn pragma_counts_only_without_cache_control() {
        let mut fields = HeaderMap::new();
        fields.insert(PRAGMA, http::HeaderValue::from_static("no-cache"));
        assert!(Directives::of_request(&fields).no_cache);
        fields.insert(CACHE_CONTROL, http::HeaderValue::from_static("max-age=5"));
        assert!(!Directives::of_request(&fields).no_cache);
    }

    #[test]
    fn vary_matters_only_on_what_differs_between_requests_with_one_key() {
        let vary = |values: &[&'static str]| {
            let values = values.iter().map(|value| (VARY, http::HeaderValue::from_static(value)));
            varies_by_more_than_the_key(&values.collect())
        };
        for fixed in [&[][..], &["Accept-Encoding, Origin"], &["Cookie", "Accept-Language,,x-tenant"], &[""]]
        {
            assert!(!vary(fixed), "{fixed:?}");
        }
        for free in [&["*"][..], &["accept, *"], &["origin", "VIA"], &["Snyk-Request-Id"]] {
            assert!(vary(free), "{free:?}");
        }
        let mut fields = HeaderMap::new();
        fields.insert(VARY, http::HeaderValue::from_bytes(b"or\xffgin").expect("a value"));
        assert!(varies_by_more_than_the_key(&fields));
    }
}
