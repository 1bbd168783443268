//! When a signed link dies (pure). A link is only ever looked at here; it is never kept or printed.

use std::time::{Duration, SystemTime};

/// What a link says about its end, in the clock of the one who signed it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// It dies at this time.
    At(SystemTime),
    /// It dies then at the latest: the credential that signed it is temporary and can end sooner.
    AtLatest(SystemTime),
    /// It shows no end in a form that we know.
    Unknown,
}

/// Reads the end of `link`: Google Cloud Storage V4 and S3 V4 (`X-…-Date` and `X-…-Expires`), S3 V2 and
/// CloudFront (`Expires`, Unix seconds), Azure (`se`, RFC 3339). Where several are shown, the earliest.
pub(super) fn end_of(link: &str) -> End {
    let query = link.split_once('?').map_or("", |(_, query)| query);
    let query = query.split_once('#').map_or(query, |(query, _)| query);
    let mut temporary = false;
    let (mut goog, mut amz) = ((None, None), (None, None));
    let mut ends = Vec::new();
    for (name, value) in form_urlencoded::parse(query.as_bytes()) {
        match &*name.to_ascii_lowercase() {
            "x-goog-date" => goog.0 = Some(value),
            "x-goog-expires" => goog.1 = Some(value),
            "x-amz-date" => amz.0 = Some(value),
            "x-amz-expires" => amz.1 = Some(value),
            "x-amz-security-token" => temporary = true,
            "expires" => ends.push(unix_seconds(&value)),
            "se" => ends.push(humantime::parse_rfc3339_weak(&value).ok()),
            _ => {}
        }
    }
    for (date, expires) in [goog, amz] {
        if date.is_some() || expires.is_some() {
            ends.push(date.zip(expires).and_then(|(date, expires)| dated(&date, &expires)));
        }
    }
    // A form that we know with a value that we do not must not count as no end at all.
    let Some(Some(end)) = ends.into_iter().min() else { return End::Unknown };
    if temporary { End::AtLatest(end) } else { End::At(end) }
}

/// `20260212T200947Z` and a number of seconds.
fn dated(date: &str, expires: &str) -> Option<SystemTime> {
    let at = |range| date.get(range);
    let rfc3339 =
        format!("{}-{}-{}T{}:{}:{}Z", at(0..4)?, at(4..6)?, at(6..8)?, at(9..11)?, at(11..13)?, at(13..15)?);
    let in_basic_format = date.len() == 16 && at(8..9)? == "T" && at(15..16)? == "Z";
    let signed = humantime::parse_rfc3339(&rfc3339).ok().filter(|_| in_basic_format)?;
    signed.checked_add(Duration::from_secs(expires.parse().ok()?))
}

fn unix_seconds(value: &str) -> Option<SystemTime> {
    SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(value.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> SystemTime {
        humantime::parse_rfc3339(text).expect("a time")
    }

    #[test]
    fn each_known_form_shows_its_end() {
        let base = "https://files.example/data_1_1_0.csv";
        for (query, expected) in [
            (
                "X-Goog-Date=20260212T200947Z&X-Goog-Expires=3600&X-Goog-Signature=ab",
                End::At(at("2026-02-12T21:09:47Z")),
            ),
            ("X-Amz-Date=20260212T200947Z&X-Amz-Expires=60", End::At(at("2026-02-12T20:10:47Z"))),
            ("x-amz-date=20260212T200947Z&x-amz-expires=60", End::At(at("2026-02-12T20:10:47Z"))),
            (
                "X-Amz-Date=20260212T200947Z&X-Amz-Expires=60&X-Amz-Security-Token=t",
                End::AtLatest(at("2026-02-12T20:10:47Z")),
            ),
            ("AWSAccessKeyId=a&Expires=1770930587&Signature=s", End::At(at("2026-02-12T21:09:47Z"))),
            ("sv=2022&se=2026-02-12T21%3A09%3A47Z&sig=s", End::At(at("2026-02-12T21:09:47Z"))),
            // The earliest of several counts.
            (
                "X-Amz-Date=20260212T200947Z&X-Amz-Expires=60&Expires=1770930587",
                End::At(at("2026-02-12T20:10:47Z")),
            ),
            ("", End::Unknown),
            ("X-Goog-Expires=3600", End::Unknown),
            ("X-Goog-Date=yesterday&X-Goog-Expires=3600", End::Unknown),
            ("X-Goog-Date=20260212T200947Z&X-Goog-Expires=99999999999999999999", End::Unknown),
            ("X-Goog-Date=20260212T200947Z&X-Goog-Expires=3600&Expires=soon", End::Unknown),
            ("Expires=18446744073709551615", End::Unknown),
        ] {
            assert_eq!(end_of(&format!("{base}?{query}")), expected, "{query}");
        }
        assert_eq!(end_of(base), End::Unknown);
    }
}
