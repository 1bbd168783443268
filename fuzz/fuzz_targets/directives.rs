//! `Cache-Control` and `Pragma`: `cache::Directives`.
//!
//! The input is lines `name:value`, as they stand in a message.

#![no_main]

use exportgate::cache::Directives;
use http::header::CACHE_CONTROL;
use http::{HeaderMap, HeaderName, HeaderValue};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let mut fields = HeaderMap::new();
    for line in data.split(|b| *b == b'\n') {
        let mut parts = line.splitn(2, |b| *b == b':');
        let (Some(name), Some(value)) = (parts.next(), parts.next()) else { continue };
        if let (Ok(name), Ok(value)) = (HeaderName::from_bytes(name), HeaderValue::from_bytes(value)) {
            fields.append(name, value);
        }
    }
    let (request, response) = (Directives::of_request(&fields), Directives::of_response(&fields));

    // `Pragma` counts in requests without `Cache-Control`, and as `no-cache` only.
    let lines: Vec<Vec<u8>> =
        fields.get_all(CACHE_CONTROL).iter().map(|value| value.as_bytes().to_ascii_lowercase()).collect();
    if lines.is_empty() {
        assert_eq!(response, Directives::default());
        assert_eq!(request, Directives { no_cache: request.no_cache, ..response });
    } else {
        assert_eq!(request, response);
    }

    // Nothing is found that is not there, and in lines without quotes everything that is.
    let seen = |word: &str| lines.iter().any(|line| line.windows(word.len()).any(|w| w == word.as_bytes()));
    let plain = |word: &str| {
        lines
            .iter()
            .filter(|line| !line.contains(&b'"'))
            .any(|line| line.split(|b| *b == b',').any(|member| member.trim_ascii() == word.as_bytes()))
    };
    for (word, found) in [
        ("no-cache", response.no_cache),
        ("no-store", response.no_store),
        ("private", response.private),
        ("only-if-cached", response.only_if_cached),
    ] {
        assert!(!found || seen(word), "{word} was found");
        assert!(found || !plain(word), "{word} was missed");
    }
    for (word, found) in
        [("max-age", response.max_age), ("s-maxage", response.s_maxage), ("min-fresh", response.min_fresh)]
    {
        assert!(found.is_none() || seen(word), "{word} was found");
        assert!(found.is_some() || !plain(word), "{word} was missed");
    }

    // What is said in another case is the same.
    let mut loud = HeaderMap::new();
    for value in fields.get_all(CACHE_CONTROL) {
        let value = HeaderValue::from_bytes(&value.as_bytes().to_ascii_uppercase()).expect("a value");
        loud.append(CACHE_CONTROL, value);
    }
    assert_eq!(Directives::of_response(&loud), response);

    // One more line, or member of a line, only ever makes it stricter, whatever came before.
    let strict = "no-store, no-cache, max-age=0, s-maxage=0, min-fresh=18446744073709551615, private";
    let added = |found: Directives| {
        assert!(found.no_store && found.no_cache && found.private, "{found:?}");
        assert_eq!((found.max_age, found.s_maxage), (Some(0), Some(0)));
        assert_eq!(found.min_fresh, Some(u64::MAX));
        assert_eq!(found.only_if_cached, response.only_if_cached);
    };
    let mut more = fields.clone();
    more.append(CACHE_CONTROL, HeaderValue::from_static(strict));
    added(Directives::of_response(&more));
    let mut longer = fields.clone();
    longer.remove(CACHE_CONTROL);
    for value in fields.get_all(CACHE_CONTROL) {
        let value = [value.as_bytes(), b",", strict.as_bytes()].concat();
        longer.append(CACHE_CONTROL, HeaderValue::from_bytes(&value).expect("a value"));
    }
    if !lines.is_empty() {
        let found = Directives::of_response(&longer);
        assert!(found.no_store && found.no_cache && found.private, "{found:?}");
        assert_eq!((found.max_age, found.s_maxage), (Some(0), Some(0)));
    }
});
