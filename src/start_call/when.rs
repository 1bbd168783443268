//! Times of a question: a date, RFC 3339, a span back from now, or `all`.
//!
//! A span back is floored (days to 00:00Z, hours to the hour), so that equal questions of one day or hour make equal bodies.

use std::fmt;
use std::time::{Duration, SystemTime};

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

const HOUR: u64 = 3600;
const DAY: u64 = 24 * HOUR;

/// A time as it was typed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum When {
    At(SystemTime),
    DaysAgo(u64),
    HoursAgo(u64),
    /// Before everything.
    All,
}

impl When {
    pub(crate) fn parse(text: &str) -> Result<Self, &'static str> {
        const FORMS: &str = "must be a date (2026-01-31), RFC 3339 (2026-01-31T08:00:00Z), a span back such as 30d or 12h, or all";
        if text == "all" {
            return Ok(Self::All);
        }
        let span = |text: &str| text.parse().ok().filter(|count| (1..=36_500).contains(count));
        if let Some(days) = text.strip_suffix('d') {
            return span(days).map(Self::DaysAgo).ok_or(FORMS);
        }
        if let Some(hours) = text.strip_suffix('h') {
            return span(hours).map(Self::HoursAgo).ok_or(FORMS);
        }
        let is_date = text.len() == 10;
        let full = if is_date { format!("{text}T00:00:00Z") } else { text.to_owned() };
        OffsetDateTime::parse(&full, &Rfc3339).map(|at| Self::At(at.into())).map_err(|_| FORMS)
    }

    /// The time in UTC, with whole seconds, as it stands in a body.
    pub(crate) fn at(self, now: SystemTime) -> String {
        let floored = |count: u64, unit: u64| {
            let now = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
            let seconds = (now - now % unit).saturating_sub(count * unit);
            SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
        };
        let at = match self {
            Self::At(at) => at.max(SystemTime::UNIX_EPOCH),
            Self::DaysAgo(days) => floored(days, DAY),
            Self::HoursAgo(hours) => floored(hours, HOUR),
            Self::All => SystemTime::UNIX_EPOCH,
        };
        humantime::format_rfc3339_seconds(at).to_string()
    }
}

impl fmt::Display for When {
    /// The time as it was typed: a span stays a span.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::At(_) => f.write_str(&self.at(SystemTime::UNIX_EPOCH)),
            Self::DaysAgo(days) => write!(f, "{days}d"),
            Self::HoursAgo(hours) => write!(f, "{hours}h"),
            Self::All => f.write_str("all"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str, now: &str) -> String {
        let now = humantime::parse_rfc3339(now).expect("a time");
        When::parse(text).expect("a time").at(now)
    }

    #[test]
    fn times_are_written_in_utc_and_spans_are_floored() {
        for (text, expected) in [
            ("2026-01-31", "2026-01-31T00:00:00Z"),
            ("2026-01-31T08:00:00Z", "2026-01-31T08:00:00Z"),
            ("2026-01-31T08:00:00.75+02:00", "2026-01-31T06:00:00Z"),
            ("30d", "2026-10-29T00:00:00Z"),
            ("12h", "2026-11-27T20:00:00Z"),
            ("all", "1970-01-01T00:00:00Z"),
        ] {
            assert_eq!(at(text, "2026-11-28T08:00:01Z"), expected, "{text}");
        }
        assert_eq!(at("30d", "2026-11-28T08:00:01Z"), at("30d", "2026-11-28T08:59:59Z"));
        assert_eq!(at("12h", "2026-11-28T08:00:01Z"), at("12h", "2026-11-28T08:59:59Z"));
        assert_ne!(at("12h", "2026-11-28T08:59:59Z"), at("12h", "2026-11-28T09:00:00Z"));
    }

    #[test]
    fn other_texts_are_refused() {
        for text in ["", "30", "0d", "-1d", "3m", "yesterday", "2026-02-30", "2026-1-1", "99999d", "d"] {
            assert!(When::parse(text).is_err(), "{text}");
        }
    }
}
