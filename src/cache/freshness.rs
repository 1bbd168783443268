//! Whether an answer may be stored, and until when it is fresh (pure).
//!
//! Snyk sends no freshness of its own: an answer is as good as the links in it. So freshness ends at
//! the earliest link's end less a margin, whatever else is said, and earlier where something asks for
//! it.

use std::time::{Duration, Instant, SystemTime};

use http::header::{AGE, CONTENT_ENCODING, CONTENT_TYPE, DATE, EXPIRES};
use http::{HeaderMap, HeaderName, StatusCode};

use super::directives::{Directives, vary_names_only_encodings};
use super::links::End;
use super::peek::Peek;
use super::settings::Settings;
use crate::clock::Now;

/// A whole answer of the upstream, as it came.
#[derive(Debug, Clone, Copy)]
pub struct Answer<'a> {
    /// Its status.
    pub status: StatusCode,
    /// Its fields.
    pub fields: &'a HeaderMap,
    /// The length of its body.
    pub body_len: usize,
    /// What its body says, where it is an export's document.
    pub peek: Option<&'a Peek>,
    /// When its request was sent.
    pub sent: Now,
    /// When its last byte came.
    pub received: Now,
}

/// How long a stored response is fresh. Both clocks must agree that it is (see [`crate::clock`]).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Freshness {
    /// Fresh before this wall time.
    pub until: SystemTime,
    /// Fresh before this monotonic time.
    pub until_mono: Instant,
    /// When the first link dies, in our own wall time; `None` where a link does not say.
    pub links_end: Option<SystemTime>,
    /// Whether `cache.default_age` set the limit, because a link's end is not certain.
    pub uncertain: bool,
}

/// Why an answer is not stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotStored {
    /// Its status is not 200.
    Status,
    /// It is no JSON document of an export, or an encoded one.
    NotExport,
    /// Its status word is not exactly `FINISHED`.
    NotFinished,
    /// It is larger than `cache.max_entry`.
    TooLarge,
    /// The upstream's `Cache-Control`, `Expires` or `Vary` forbids it.
    Forbidden,
    /// Its links die within `cache.link_margin`.
    LinksEnding,
    /// A link's end is not certain and `cache.default_age` is zero.
    Uncertain,
}

/// Decides whether `answer` is stored and how long it is fresh.
///
/// # Errors
/// The first reason against storing it.
pub fn assess(answer: &Answer<'_>, settings: &Settings) -> Result<Freshness, NotStored> {
    if answer.status != StatusCode::OK {
        return Err(NotStored::Status);
    }
    let peek = answer.peek.filter(|_| is_plain_json(answer.fields)).ok_or(NotStored::NotExport)?;
    if peek.status.as_deref().ok_or(NotStored::NotExport)? != "FINISHED" {
        return Err(NotStored::NotFinished);
    }
    if answer.body_len > settings.max_entry {
        return Err(NotStored::TooLarge);
    }
    let allowed = allowed_by_upstream(answer).ok_or(NotStored::Forbidden)?;

    let (links_end, uncertain) = links_end(&peek.ends, upstream_ahead(answer));
    let received = answer.received;
    let mut lifetime = settings.max_age.min(allowed);
    if let Some(end) = links_end {
        let left = end.duration_since(received.wall).unwrap_or_default();
        lifetime = lifetime.min(left.saturating_sub(settings.link_margin));
    }
    if lifetime.is_zero() {
        return Err(NotStored::LinksEnding);
    }
    if uncertain {
        lifetime = lifetime.min(settings.default_age);
    }
    if lifetime.is_zero() {
        return Err(NotStored::Uncertain);
    }
    let until = received.wall + lifetime;
    Ok(Freshness { until, until_mono: received.mono + lifetime, links_end, uncertain })
}

/// The first end of all links in our own wall time, and whether any end is not certain.
fn links_end(ends: &[End], upstream_ahead: Skew) -> (Option<SystemTime>, bool) {
    let mut uncertain = ends.is_empty();
    let mut earliest = None;
    for end in ends {
        let at = match *end {
            End::At(at) => at,
            End::AtLatest(at) => {
                uncertain = true;
                at
            }
            End::Unknown => {
                uncertain = true;
                continue;
            }
        };
        let ours = upstream_ahead.to_ours(at);
        earliest = Some(earliest.map_or(ours, |first: SystemTime| first.min(ours)));
    }
    (earliest, uncertain)
}

/// How far the upstream's clock is ahead of ours, read so that an error only ever shortens a lifetime:
/// `Date` has whole seconds (so up to one more has passed) and was written no earlier than the request
/// was sent. Links are signed in that clock, so that their remaining life is known even when one of
/// the two clocks is wrong.
#[derive(Debug, Clone, Copy)]
enum Skew {
    Ahead(Duration),
    Behind(Duration),
}

impl Skew {
    fn to_ours(self, theirs: SystemTime) -> SystemTime {
        match self {
            Self::Ahead(by) => theirs.checked_sub(by).unwrap_or(SystemTime::UNIX_EPOCH),
            Self::Behind(by) => theirs.checked_add(by).unwrap_or(theirs),
        }
    }
}

fn upstream_ahead(answer: &Answer<'_>) -> Skew {
    let Some(date) = date(answer.fields, &DATE) else { return Skew::Ahead(Duration::ZERO) };
    // An `Age` says that a cache on the way held the answer, and for how long.
    let theirs = date + Duration::from_secs(1) + age(answer.fields);
    match theirs.duration_since(answer.sent.wall) {
        Ok(by) => Skew::Ahead(by),
        Err(behind) => Skew::Behind(behind.duration()),
    }
}

/// How long the upstream's own fields let a shared cache keep this answer (RFC 9111 §4.2.1); `None`
/// where they forbid it. That a request carries `Authorization` does not forbid it (§3.5): it is the
/// gateway's own, and the policy decides who may ask.
fn allowed_by_upstream(answer: &Answer<'_>) -> Option<Duration> {
    let directives = Directives::of_response(answer.fields);
    let forbidden = directives.no_store || directives.no_cache || directives.private;
    if forbidden || !vary_names_only_encodings(answer.fields) {
        return None;
    }
    let lifetime = if let Some(seconds) = directives.s_maxage.or(directives.max_age) {
        Duration::from_secs(seconds)
    } else if answer.fields.contains_key(EXPIRES) {
        // An `Expires` that is no date means already expired (RFC 9111 §5.3).
        let expires = date(answer.fields, &EXPIRES)?;
        let from = date(answer.fields, &DATE).unwrap_or(answer.received.wall);
        expires.duration_since(from).ok()?
    } else {
        return Some(Duration::MAX);
    };
    lifetime.checked_sub(age(answer.fields)).filter(|left| !left.is_zero())
}

/// The `Age` field; zero where there is none. Of several the largest counts, and a number that is too large
/// to be read is the largest of all (RFC 9111 §1.2.2).
#[must_use]
pub fn age(fields: &HeaderMap) -> Duration {
    // A year bounds what is added to a date below.
    const MOST: u64 = 31_536_000;
    let seconds = |value: &http::HeaderValue| {
        let digits = value.as_bytes();
        let is_number = !digits.is_empty() && digits.iter().all(u8::is_ascii_digit);
        is_number.then(|| value.to_str().ok().and_then(|text| text.parse().ok()).unwrap_or(MOST))
    };
    let largest = fields.get_all(AGE).iter().filter_map(seconds).max().unwrap_or(0);
    Duration::from_secs(largest.min(MOST))
}

fn date(fields: &HeaderMap, name: &HeaderName) -> Option<SystemTime> {
    httpdate::parse_http_date(fields.get(name)?.to_str().ok()?).ok()
}

/// JSON (also a `+json` type, RFC 6839 §3.1) that is not encoded.
fn is_plain_json(fields: &HeaderMap) -> bool {
    let text = |name: &HeaderName| fields.get(name).map(|value| value.to_str().unwrap_or("?"));
    let media_type = text(&CONTENT_TYPE).unwrap_or_default();
    let media_type = media_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    let is_json = media_type == "application/json"
        || (media_type.starts_with("application/") && media_type.ends_with("+json"));
    is_json && text(&CONTENT_ENCODING).is_none_or(|encoding| encoding.eq_ignore_ascii_case("identity"))
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    const MIN: u64 = 60;

    fn settings() -> Settings {
        Settings {
            max_bytes: 1 << 20,
            max_entry: 1 << 16,
            link_margin: Duration::from_secs(15 * MIN),
            max_age: Duration::from_secs(55 * MIN),
            default_age: Duration::from_secs(10 * MIN),
            refresh_ahead: true,
            max_followers: 10,
        }
    }

    /// Our wall time in these tests, seconds since the epoch.
    const NOW: u64 = 1_800_000_000;

    fn wall(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    fn now() -> Now {
        let mono = crate::clock::Clock::system().now().mono;
        Now { wall: wall(NOW), mono }
    }

    fn json(extra: &[(&'static str, &str)]) -> HeaderMap {
        let mut fields = HeaderMap::new();
        fields.insert(CONTENT_TYPE, HeaderValue::from_static("application/vnd.api+json; charset=utf-8"));
        for (name, value) in extra {
            fields.append(*name, HeaderValue::from_str(value).expect("a value"));
        }
        fields
    }

    fn finished(ends: Vec<End>) -> Peek {
        Peek { status: Some("FINISHED".into()), id: None, ends }
    }

    /// The lifetime in seconds, or why there is none.
    fn lifetime(fields: &HeaderMap, peek: &Peek) -> Result<u64, NotStored> {
        let now = now();
        let answer = Answer {
            status: StatusCode::OK,
            fields,
            body_len: 10,
            peek: Some(peek),
            sent: now,
            received: now,
        };
        assess(&answer, &settings())
            .map(|fresh| fresh.until.duration_since(now.wall).expect("later").as_secs())
    }

    #[test]
    fn freshness_ends_at_the_first_link_less_the_margin() {
        let ends = |minutes: &[u64]| finished(minutes.iter().map(|m| End::At(wall(NOW + m * MIN))).collect());
        assert_eq!(lifetime(&json(&[]), &ends(&[60, 40, 50])), Ok(25 * MIN));
        assert_eq!(lifetime(&json(&[]), &ends(&[600])), Ok(55 * MIN));
        assert_eq!(lifetime(&json(&[]), &ends(&[15])), Err(NotStored::LinksEnding));
        assert_eq!(lifetime(&json(&[]), &ends(&[60, 0])), Err(NotStored::LinksEnding));
    }

    #[test]
    fn an_uncertain_end_is_capped_by_the_default_age() {
        let end = End::At(wall(NOW + 60 * MIN));
        let temporary = End::AtLatest(wall(NOW + 60 * MIN));
        assert_eq!(lifetime(&json(&[]), &finished(vec![])), Ok(10 * MIN));
        assert_eq!(lifetime(&json(&[]), &finished(vec![end, End::Unknown])), Ok(10 * MIN));
        assert_eq!(lifetime(&json(&[]), &finished(vec![temporary])), Ok(10 * MIN));
        // A known end still counts beside an unknown one.
        let soon = End::At(wall(NOW + 20 * MIN));
        assert_eq!(lifetime(&json(&[]), &finished(vec![soon, End::Unknown])), Ok(5 * MIN));
    }

    #[test]
    fn a_clock_that_is_off_changes_no_more_than_the_resolution_of_date() {
        for off in [-600_i64, -1, 0, 1, 600] {
            let theirs = NOW.checked_add_signed(off).expect("a time");
            let date = httpdate::fmt_http_date(wall(theirs));
            let peek = finished(vec![End::At(wall(theirs + 60 * MIN))]);
            assert_eq!(lifetime(&json(&[("date", &date)]), &peek), Ok(45 * MIN - 1), "{off}");
        }
    }

    #[test]
    fn the_upstreams_own_fields_are_honoured() {
        let peek = finished(vec![End::At(wall(NOW + 60 * MIN))]);
        for (name, value) in [
            ("cache-control", "no-store"),
            ("cache-control", "private"),
            ("cache-control", "max-age=0"),
            ("expires", "0"),
            ("vary", "Authorization"),
        ] {
            assert_eq!(lifetime(&json(&[(name, value)]), &peek), Err(NotStored::Forbidden), "{value}");
        }
        assert_eq!(lifetime(&json(&[("cache-control", "max-age=90"), ("age", "30")]), &peek), Ok(60));
        assert_eq!(lifetime(&json(&[("cache-control", "s-maxage=5, max-age=90")]), &peek), Ok(5));
    }

    #[test]
    fn only_a_whole_finished_export_in_plain_json_is_stored() {
        let end = || vec![End::At(wall(NOW + 60 * MIN))];
        for word in ["PENDING", "STARTED", "ERRORED", "ERROR", "finished", "FINISHED ", ""] {
            let peek = Peek { status: Some(word.into()), id: None, ends: end() };
            assert_eq!(lifetime(&json(&[]), &peek), Err(NotStored::NotFinished), "{word}");
        }
        let gzip = json(&[("content-encoding", "gzip")]);
        assert_eq!(lifetime(&gzip, &finished(end())), Err(NotStored::NotExport));
        let mut html = json(&[]);
        html.insert(CONTENT_TYPE, HeaderValue::from_static("text/html"));
        assert_eq!(lifetime(&html, &finished(end())), Err(NotStored::NotExport));
        let fields = json(&[]);
        let peek = finished(end());
        let answer = Answer {
            status: StatusCode::PARTIAL_CONTENT,
            fields: &fields,
            body_len: 1 << 20,
            peek: Some(&peek),
            sent: now(),
            received: now(),
        };
        assert_eq!(assess(&answer, &settings()), Err(NotStored::Status));
        let ok = Answer { status: StatusCode::OK, ..answer };
        assert_eq!(assess(&ok, &settings()), Err(NotStored::TooLarge));
    }
}
