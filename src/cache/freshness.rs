//! The freshness of answers, and the reasons not to store one (pure).
//!
//! Snyk sends no freshness of its own: an answer is as good as the links in it. So freshness ends at
//! the earliest link's end less a margin, whatever else is said, and earlier where something asks for
//! it (docs/decisions/0003-freshness.md).

use std::time::{Duration, Instant, SystemTime};

use http::header::{AGE, CONTENT_ENCODING, CONTENT_TYPE, DATE};
use http::{HeaderMap, HeaderName, StatusCode};

use super::directives::{Directives, varies_by_more_than_the_key};
use super::not_stored::NotStored;
use super::settings::Settings;
use crate::clock::Now;
use crate::export::{Document, Links};

/// A link that dies sooner is as good as dead.
pub(super) const LEAST_LIFE: Duration = Duration::from_mins(1);
/// Clocks that differ by no more agree: `Date` has whole seconds, and a host is seldom further off.
const TOLERANCE: Duration = Duration::from_mins(1);

/// A whole upstream answer, as it came.
#[derive(Debug, Clone, Copy)]
pub struct WholeAnswer<'a> {
    /// Its status.
    pub status: StatusCode,
    /// Its fields.
    pub fields: &'a HeaderMap,
    /// The length of its body.
    pub body_len: usize,
    /// Its document, if it is an export's.
    pub document: Option<&'a Document>,
    /// The time that its request was sent.
    pub sent: Now,
    /// The time of its last byte.
    pub received: Now,
}

/// The end of a stored response's freshness. Both clocks must agree that it is (see [`crate::clock`]).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Freshness {
    /// Fresh before this wall time.
    pub until: SystemTime,
    /// Fresh before this monotonic time.
    pub until_mono: Instant,
    /// The end of the first link, in our own wall time; `None` if a link does not say.
    pub links_end: Option<SystemTime>,
    /// The same as its signer wrote it.
    pub signed_end: Option<SystemTime>,
    /// True if `cache.default_age` set the limit, because a link's end is not certain.
    pub uncertain: bool,
}

/// The end of an answer that another gateway stored, as the engine counts it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ToldEnd {
    /// Fresh before this.
    pub(crate) fresh: Instant,
    /// Its links live until then.
    pub(crate) life: Instant,
    /// The end of its first link, as its signer wrote it.
    pub(crate) signed: Option<SystemTime>,
    /// True if the end of its links is not certain.
    pub(crate) is_uncertain: bool,
}

impl Freshness {
    /// The freshness of an answer that another gateway stored, and that is `age` old: it ends with the first of what the engine
    /// counts, what the links show by our own clock, and what our own settings allow. `None` where it has ended.
    pub(crate) fn told(end: ToldEnd, age: Duration, now: Now, settings: &Settings) -> Option<Self> {
        let ToldEnd { fresh, life, signed, is_uncertain: uncertain } = end;
        let mut lifetime = fresh.saturating_duration_since(now.mono);
        lifetime = lifetime.min(settings.max_age.saturating_sub(age));
        if uncertain {
            lifetime = lifetime.min(settings.default_age.saturating_sub(age));
        }
        let alive = signed.map(|signed| {
            let by_wall = signed.duration_since(now.wall).unwrap_or_default();
            by_wall.min(life.saturating_duration_since(now.mono))
        });
        if let Some(alive) = alive {
            lifetime = lifetime.min(less_margin(alive, settings.link_margin));
        }
        (!lifetime.is_zero()).then(|| Self {
            until: now.wall + lifetime,
            until_mono: now.mono + lifetime,
            links_end: alive.map(|alive| now.wall + alive),
            signed_end: signed,
            uncertain,
        })
    }
}

/// Of a link's last minutes, half are for whoever reads it.
fn less_margin(left: Duration, margin: Duration) -> Duration {
    left.saturating_sub(margin.min((left / 2).max(LEAST_LIFE)))
}

/// Decides whether `candidate` is stored and how long it is fresh.
///
/// # Errors
/// The first reason against storing it.
pub fn assess(candidate: &WholeAnswer<'_>, settings: &Settings) -> Result<Freshness, NotStored> {
    let document = finished(candidate, settings)?;
    let told = told(candidate.fields, &settings.ignore)?;
    let links = remaining(&document.links, candidate, settings.link_margin);
    let mut lifetime = settings.max_age.min(told);
    if let Some(Remaining { fresh, .. }) = links {
        lifetime = lifetime.min(fresh);
    }
    if lifetime.is_zero() {
        return Err(NotStored::LinksEnding);
    }
    let uncertain = !document.links.are_certain() || links.is_some_and(|links| !links.is_certain);
    if uncertain {
        lifetime = lifetime.min(settings.default_age);
    }
    if lifetime.is_zero() {
        return Err(NotStored::Uncertain);
    }
    let received = candidate.received;
    Ok(Freshness {
        until: received.wall + lifetime,
        until_mono: received.mono + lifetime,
        links_end: links.map(|links| received.wall + links.alive),
        signed_end: document.links.end,
        uncertain,
    })
}

/// The document, if it is a finished export's.
fn finished<'a>(candidate: &WholeAnswer<'a>, settings: &Settings) -> Result<&'a Document, NotStored> {
    let is_finished = candidate.document.is_some_and(Document::is_finished);
    if candidate.status != StatusCode::OK {
        return Err(if is_finished { NotStored::Status } else { NotStored::NotFinished });
    }
    if candidate.body_len > settings.max_entry {
        return Err(NotStored::TooLarge);
    }
    match candidate.document {
        Some(document) if document.status.is_some() && !is_finished => Err(NotStored::NotFinished),
        Some(document) if is_finished && is_plain_json(candidate.fields) => Ok(document),
        _ => Err(NotStored::NotExport),
    }
}

/// The rest of the links' lives when an answer arrives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Remaining {
    /// Time until they should be handed out no more.
    fresh: Duration,
    /// Time until the first of them dies.
    alive: Duration,
    /// True if a clock vouches for it.
    is_certain: bool,
}

/// The rest of the links' lives, by the clock that is right: `Date`, as long as no link was signed after it;
/// else our own; and never more than they had when they were signed. Where nothing tells which of two clocks is
/// right, the one counts by which the links end first, unless the margin makes up for the difference.
fn remaining(links: &Links, candidate: &WholeAnswer<'_>, margin: Duration) -> Option<Remaining> {
    let (end, life) = links.end.zip(links.life)?;
    let left = |now: SystemTime| end.duration_since(now).unwrap_or_default().min(life);
    let ours = left(candidate.received.wall);
    let was_signed_after = |clock: SystemTime| links.not_before.is_some_and(|at| at > clock + TOLERANCE);
    let less_margin = |left| less_margin(left, margin);
    let by = |left: Duration, is_certain| Remaining { fresh: less_margin(left), alive: left, is_certain };

    let Some(date) = date(candidate.fields).filter(|date| !was_signed_after(*date)) else {
        return Some(by(ours, !was_signed_after(candidate.received.wall)));
    };
    // `Date` is read to our disadvantage: it has whole seconds, so that up to one more has passed, and was written when
    // the request was sent at the earliest. An `Age` says that a cache on the way held the answer, and for how long.
    let on_the_way = candidate.received.mono.saturating_duration_since(candidate.sent.mono);
    let theirs = left(date + Duration::from_secs(1) + age(candidate.fields) + on_the_way);
    let is_confirmed = links.signed.is_some_and(|signed| signed + TOLERANCE >= date);
    if is_confirmed || theirs <= ours {
        return Some(by(theirs, true));
    }
    let makes_up = theirs.saturating_sub(less_margin(theirs));
    let trusted = if theirs.saturating_sub(ours) <= makes_up { theirs } else { ours };
    Some(Remaining { alive: ours, ..by(trusted, true) })
}

/// The time that the upstream's own fields let a shared cache keep an answer (RFC 9111 §3, §5.2.2), in so far as they
/// say something of this one: a lifetime of zero, or in the past, stands on every answer of many an edge and says
/// nothing of these links. That a request carries `Authorization` does not forbid it (§3.5): it is the gateway's own,
/// and the policy decides who may ask.
fn told(fields: &HeaderMap, ignored: &[NotStored]) -> Result<Duration, NotStored> {
    let directives = Directives::of_response(fields);
    for (is_said, why) in [
        (directives.no_store, NotStored::NoStore),
        (directives.private, NotStored::Private),
        (directives.no_cache, NotStored::NoCache),
        (varies_by_more_than_the_key(fields), NotStored::Vary),
    ] {
        if is_said && !ignored.contains(&why) {
            return Err(why);
        }
    }
    let lifetime = directives.s_maxage.or(directives.max_age).map(Duration::from_secs);
    let left = lifetime.map(|lifetime| lifetime.saturating_sub(age(fields)));
    Ok(left.filter(|left| !left.is_zero()).unwrap_or(Duration::MAX))
}

/// The `Age` field; zero where there is none. Of several the largest counts, and a number that is too large
/// to be read is the largest of all (RFC 9111 §1.2.2).
pub(crate) fn age(fields: &HeaderMap) -> Duration {
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

fn date(fields: &HeaderMap) -> Option<SystemTime> {
    httpdate::parse_http_date(fields.get(DATE)?.to_str().ok()?).ok()
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

    const MIN: i64 = 60;

    fn settings() -> Settings {
        Settings {
            max_bytes: 1 << 20,
            max_entry: 1 << 16,
            link_margin: Duration::from_mins(15),
            max_age: Duration::from_mins(55),
            default_age: Duration::from_mins(10),
            ignore: Vec::new(),
            refresh_ahead: true,
            max_followers: 10,
        }
    }

    /// The right time in these tests, seconds since the epoch.
    const NOW: i64 = 1_800_000_000;

    fn wall(seconds: i64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds.unsigned_abs())
    }

    /// The time of our clocks; the wall clock is `off` seconds wrong.
    fn now(off: i64) -> Now {
        let mono = crate::clock::Clock::system().now().mono;
        Now { wall: wall(NOW + off), mono }
    }

    fn json(extra: &[(&'static str, &str)]) -> HeaderMap {
        let mut fields = HeaderMap::new();
        fields.insert(CONTENT_TYPE, HeaderValue::from_static("application/vnd.api+json; charset=utf-8"));
        for (name, value) in extra {
            fields.append(*name, HeaderValue::from_str(value).expect("a value"));
        }
        fields
    }

    fn finished(links: &[String]) -> Document {
        let mut document = Document { status: Some("FINISHED".into()), id: None, links: Links::default() };
        for link in links {
            document.links.add(link);
        }
        document
    }

    /// A link that says no more than when it dies, so many seconds from now.
    fn dies(after: i64) -> String {
        format!("https://a/?Expires={}", NOW + after)
    }

    /// One that was signed then, by a signer whose clock is right, and lives so long.
    fn signed(after: i64, lives: i64) -> String {
        let at = humantime::format_rfc3339_seconds(wall(NOW + after)).to_string();
        format!("https://a/?X-Goog-Date={}&X-Goog-Expires={lives}", at.replace(['-', ':'], ""))
    }

    fn assessed(fields: &HeaderMap, document: &Document, received: Now) -> Result<Freshness, NotStored> {
        let status = StatusCode::OK;
        assess(
            &WholeAnswer { status, fields, body_len: 10, document: Some(document), sent: received, received },
            &settings(),
        )
    }

    /// The lifetime in seconds, or why there is none.
    fn lifetime(fields: &HeaderMap, links: &[String]) -> Result<i64, NotStored> {
        let fresh = assessed(fields, &finished(links), now(0))?;
        Ok(fresh.until.duration_since(wall(NOW)).expect("later").as_secs().cast_signed())
    }

    #[test]
    fn freshness_ends_at_the_first_link_less_the_margin() {
        let dying = |minutes: &[i64]| {
            lifetime(&json(&[]), &minutes.iter().map(|m| dies(m * MIN)).collect::<Vec<_>>())
        };
        assert_eq!(dying(&[60, 40, 50]), Ok(25 * MIN));
        // Longer than Snyk signs links for: then our clock is behind, for all that is known.
        assert_eq!(dying(&[600]), Ok(10 * MIN));
        assert_eq!(lifetime(&json(&[]), &[signed(0, 600 * MIN)]), Ok(55 * MIN));
        // At most half is given away, and the last minute always.
        assert_eq!(dying(&[15]), Ok(15 * MIN / 2));
        assert_eq!(lifetime(&json(&[]), &[dies(90)]), Ok(30));
        assert_eq!(dying(&[1]), Err(NotStored::LinksEnding));
        assert_eq!(dying(&[60, 0]), Err(NotStored::LinksEnding));
        assert_eq!(dying(&[60, -10]), Err(NotStored::LinksEnding));
        // The last times that there are.
        for (far, expected) in [
            ("253402300799", Err(NotStored::LinksEnding)),
            ("9223372036854775807", Ok(10 * MIN)),
            ("18446744073709551615", Ok(10 * MIN)),
        ] {
            let link = format!("https://a/?st={far}&Expires={far}&exp={}", NOW + 60 * MIN);
            assert_eq!(lifetime(&json(&[]), &[link]), expected, "{far}");
        }
    }

    #[test]
    fn an_uncertain_end_is_capped_by_the_default_age() {
        let temporary = format!("{}&X-Amz-Security-Token=t", dies(60 * MIN));
        let unknown = || "https://a/".to_owned();
        assert_eq!(lifetime(&json(&[]), &[]), Ok(10 * MIN));
        assert_eq!(lifetime(&json(&[]), &[dies(60 * MIN), unknown()]), Ok(10 * MIN));
        assert_eq!(lifetime(&json(&[]), &[temporary]), Ok(10 * MIN));
        // A known end still counts beside an unknown one.
        assert_eq!(lifetime(&json(&[]), &[dies(20 * MIN), unknown()]), Ok(10 * MIN));
        assert_eq!(lifetime(&json(&[]), &[dies(10 * MIN), unknown()]), Ok(5 * MIN));
    }

    #[test]
    fn our_clock_may_be_off_by_as_much_as_the_margin_makes_up_for() {
        for off in [-600_i64, -1, 0, 1, 600] {
            let date = httpdate::fmt_http_date(wall(NOW));
            for link in [dies(60 * MIN), signed(0, 60 * MIN)] {
                let fresh =
                    assessed(&json(&[("date", &date)]), &finished(&[link]), now(off)).expect("stored");
                assert_eq!(fresh.until, wall(NOW + off + 45 * MIN - 1), "{off}");
            }
        }
    }

    /// Our clock and `Date` are right, two hours behind or two hours ahead; the links' store goes by the right time.
    #[test]
    fn no_clock_that_is_off_makes_freshness_end_late() {
        const OFF: [i64; 3] = [-7_200, 0, 7_200];
        let links =
            [dies(60 * MIN), signed(0, 60 * MIN), signed(-5 * MIN, 60 * MIN), signed(-30 * MIN, 60 * MIN)];
        for (at, link) in links.iter().enumerate() {
            let document = finished(std::slice::from_ref(link));
            let true_end = document.links.end.expect("an end").duration_since(wall(NOW)).expect("later");
            for (ours, theirs) in OFF.iter().flat_map(|ours| OFF.map(|theirs| (*ours, theirs))) {
                let name = format!("{at}: ours {ours}, Snyk's {theirs}");
                let date = httpdate::fmt_http_date(wall(NOW + theirs));
                let received = now(ours);
                let fresh = assessed(&json(&[("date", &date)]), &document, received);
                let Ok(fresh) = fresh else {
                    assert!(ours > 0 || theirs > 0, "{name}");
                    continue;
                };
                let until = fresh.until.duration_since(received.wall).expect("later");
                // Where nothing shows the right time, only the default age may be left.
                assert!(
                    until < true_end || fresh.uncertain && until <= settings().default_age,
                    "{name}: {fresh:?}"
                );
                let alive = fresh.links_end.expect("an end").duration_since(received.wall).expect("later");
                assert!(alive <= true_end + TOLERANCE || fresh.uncertain, "{name}: {fresh:?}");
                assert_eq!(fresh.uncertain, ours < 0 && theirs < 0, "{name}");
            }
        }
    }

    #[test]
    fn a_time_on_the_way_and_in_a_cache_is_taken_off() {
        let (sent, date) = (now(0), httpdate::fmt_http_date(wall(NOW)));
        let later = Duration::from_secs(20);
        let received = Now { wall: sent.wall + later, mono: sent.mono + later };
        let document = finished(&[signed(0, 60 * MIN)]);
        let fields = json(&[("date", &date), ("age", "100")]);
        let status = StatusCode::OK;
        let answer =
            WholeAnswer { status, fields: &fields, body_len: 10, document: Some(&document), sent, received };
        let fresh = assess(&answer, &settings()).expect("stored");
        assert_eq!(fresh.until, wall(NOW + 45 * MIN - 101));
    }

    #[test]
    fn the_upstreams_own_fields_count_where_they_can_mean_this_answer() {
        let lifetime = |fields: &[(&'static str, &str)]| lifetime(&json(fields), &[dies(60 * MIN)]);
        for (name, value, why) in [
            ("cache-control", "no-store", NotStored::NoStore),
            ("cache-control", "private", NotStored::Private),
            ("cache-control", "private=\"x\"", NotStored::Private),
            ("cache-control", "no-cache", NotStored::NoCache),
            ("vary", "*", NotStored::Vary),
        ] {
            assert_eq!(lifetime(&[(name, value)]), Err(why), "{value}");
        }
        for (name, value) in [
            ("cache-control", "max-age=0"),
            ("cache-control", "max-age=x"),
            ("cache-control", "s-maxage=0, max-age=5"),
            ("expires", "0"),
            ("expires", "Thu, 01 Jan 1970 00:00:00 GMT"),
            ("pragma", "no-cache"),
            ("vary", "Authorization"),
        ] {
            assert_eq!(lifetime(&[(name, value)]), Ok(45 * MIN), "{value}");
        }
        assert_eq!(lifetime(&[("cache-control", "max-age=90"), ("age", "30")]), Ok(60));
        assert_eq!(lifetime(&[("cache-control", "s-maxage=5, max-age=90")]), Ok(5));
    }

    #[test]
    fn what_is_ignored_forbids_nothing() {
        let (fields, all) =
            (json(&[("cache-control", "private, no-store")]), vec![NotStored::Private, NotStored::NoStore]);
        assert_eq!(told(&fields, &all), Ok(Duration::MAX));
        assert_eq!(told(&fields, &all[..1]), Err(NotStored::NoStore));
    }

    #[test]
    fn only_a_whole_finished_export_in_plain_json_is_stored() {
        let end = || vec![dies(60 * MIN)];
        for word in ["PENDING", "STARTED", "ERRORED", "ERROR", "finished", "FINISHED ", ""] {
            let document = Document { status: Some(word.into()), ..finished(&end()) };
            assert_eq!(assessed(&json(&[]), &document, now(0)), Err(NotStored::NotFinished), "{word}");
            let html = json(&[("content-encoding", "br")]);
            assert_eq!(assessed(&html, &document, now(0)), Err(NotStored::NotFinished), "{word}");
        }
        let gzip = json(&[("content-encoding", "gzip")]);
        assert_eq!(lifetime(&gzip, &end()), Err(NotStored::NotExport));
        let mut html = json(&[]);
        html.insert(CONTENT_TYPE, HeaderValue::from_static("text/html"));
        assert_eq!(lifetime(&html, &end()), Err(NotStored::NotExport));
        let fields = json(&[]);
        let document = finished(&end());
        let answer = WholeAnswer {
            status: StatusCode::PARTIAL_CONTENT,
            fields: &fields,
            body_len: 1 << 20,
            document: Some(&document),
            sent: now(0),
            received: now(0),
        };
        assert_eq!(assess(&answer, &settings()), Err(NotStored::Status));
        assert_eq!(
            assess(&WholeAnswer { document: None, ..answer }, &settings()),
            Err(NotStored::NotFinished)
        );
        // What is too large is not read.
        let ok = WholeAnswer { status: StatusCode::OK, document: None, ..answer };
        assert_eq!(assess(&ok, &settings()), Err(NotStored::TooLarge));
        assert_eq!(assess(&WholeAnswer { body_len: 10, ..ok }, &settings()), Err(NotStored::NotExport));
    }
}
