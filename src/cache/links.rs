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

/// The last second that a time can be written for (RFC 3339 has four digits of year). What claims to live
/// longer is not believed.
const LAST: Duration = Duration::from_secs(253_402_300_799);

/// Reads the end of `link`: Google Cloud Storage V4 and S3 V4 (`X-…-Date` and `X-…-Expires`), S3 V2 and
/// CloudFront (`Expires`, Unix seconds), Azure (`se`, and `ske` of its key; RFC 3339). Where several are
/// shown, also one twice, the earliest; where one of them cannot be read, that is the latest.
pub(super) fn end_of(link: &str) -> End {
    let link = link.split_once('#').map_or(link, |(link, _)| link);
    let query = link.split_once('?').map_or("", |(_, query)| query);
    let mut uncertain = false;
    let (mut goog, mut amz) = ((Vec::new(), Vec::new()), (Vec::new(), Vec::new()));
    let mut ends = Vec::new();
    for (name, value) in form_urlencoded::parse(query.as_bytes()) {
        match &*name.to_ascii_lowercase() {
            "x-goog-date" => goog.0.push(value),
            "x-goog-expires" => goog.1.push(value),
            "x-amz-date" => amz.0.push(value),
            "x-amz-expires" => amz.1.push(value),
            "x-amz-security-token" => uncertain = true,
            "expires" => ends.push(unix_seconds(&value)),
            "se" | "ske" => ends.push(humantime::parse_rfc3339_weak(&value).ok()),
            _ => {}
        }
    }
    for (dates, lives) in [goog, amz] {
        if dates.is_empty() != lives.is_empty() {
            ends.push(None);
        }
        ends.extend(dates.iter().flat_map(|date| lives.iter().map(move |life| dated(date, life))));
    }
    let written = |end: &SystemTime| *end <= SystemTime::UNIX_EPOCH + LAST;
    let readable: Vec<SystemTime> = ends.iter().flatten().copied().filter(written).collect();
    uncertain |= readable.len() < ends.len();
    match readable.into_iter().min() {
        None => End::Unknown,
        Some(end) if uncertain => End::AtLatest(end),
        Some(end) => End::At(end),
    }
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
            // What cannot be read beside what can makes that the latest.
            (
                "X-Goog-Date=20260212T200947Z&X-Goog-Expires=3600&Expires=soon",
                End::AtLatest(at("2026-02-12T21:09:47Z")),
            ),
            ("Expires=1770930587&se=2099-01-01", End::AtLatest(at("2026-02-12T21:09:47Z"))),
            // Twice, in either order.
            (
                "X-Goog-Date=20260212T200947Z&X-Goog-Expires=60&X-Goog-Expires=3600",
                End::At(at("2026-02-12T20:10:47Z")),
            ),
            ("se=2026-02-12T21%3A09%3A47Z&ske=2026-02-12T20%3A10%3A47Z", End::At(at("2026-02-12T20:10:47Z"))),
            // Beyond what can be written: milliseconds, or nonsense.
            ("Expires=1770930587000", End::Unknown),
            ("X-Goog-Date=20260212T200947Z&X-Goog-Expires=999999999999", End::Unknown),
            ("Expires=18446744073709551615", End::Unknown),
        ] {
            assert_eq!(end_of(&format!("{base}?{query}")), expected, "{query}");
        }
        assert_eq!(end_of(base), End::Unknown);
        assert_eq!(end_of(&format!("{base}#x?Expires=1770930587")), End::Unknown);
    }
}
