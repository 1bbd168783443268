//! The ends of signed links. A link is a bearer secret: it is only looked at here, and never kept or printed.

use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use percent_encoding::percent_decode_str;
use serde::Deserialize;
use time::format_description::well_known::Iso8601;
use time::{Date, OffsetDateTime};

/// Snyk signs no link for longer (`url_expiration_seconds` is 3,600 at the most): a link that does not show when it was
/// signed was signed this long before its end at the earliest.
const LONGEST_LIFE: Duration = Duration::from_hours(1);
/// The last second that a time can be written for (RFC 3339 has four digits of year). What claims to live
/// longer is not believed.
const LAST: Duration = Duration::from_secs(253_402_300_799);
/// `CloudFront` pads its policies, others that copy it may not.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &base64::alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// A summary of a document's links, by the clock that signed them. It takes the same memory for any number of links.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Links {
    /// The number of links.
    pub(crate) count: usize,
    /// The first end that one shows.
    pub(crate) end: Option<SystemTime>,
    /// The latest time at which one was signed, of those that show it.
    pub(crate) signed: Option<SystemTime>,
    /// Some link cannot have been signed before.
    pub(crate) not_before: Option<SystemTime>,
    /// The shortest life, from signing to the end.
    pub(crate) life: Option<Duration>,
    /// One shows no end, or one that cannot be read.
    pub(crate) is_unreadable: bool,
    /// One was signed by something that can end sooner: temporary credentials, a stored access policy.
    pub(crate) is_revocable: bool,
    /// One is signed for more header fields than `Host`, which nobody but its maker knows.
    pub(crate) signs_fields: bool,
}

impl Links {
    /// Takes one more link into account.
    pub(crate) fn add(&mut self, link: &str) {
        let Terms { end, signed, is_unreadable, is_revocable, signs_fields, .. } = Terms::by(link);
        self.count += 1;
        self.is_unreadable |= is_unreadable || end.is_none();
        self.is_revocable |= is_revocable;
        self.signs_fields |= signs_fields;
        let Some(end) = end else { return };
        self.end = first(self.end, Some(end));
        self.signed = self.signed.max(signed);
        self.not_before = self.not_before.max(signed.or(end.checked_sub(LONGEST_LIFE)));
        let life = signed.map_or(LONGEST_LIFE, |signed| end.duration_since(signed).unwrap_or_default());
        self.life = first(self.life, Some(life));
    }

    /// True if every end is known for certain. Without links nothing says how long an answer is good.
    pub(crate) fn are_certain(&self) -> bool {
        self.count > 0 && !self.is_unreadable && !self.is_revocable
    }
}

/// A statement about the end of a link, by the name of its parameter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Term {
    /// The time of signing: S3 V4 and all that copy it (Google, OSS, TOS, …), to be read with [`Term::Life`].
    Date,
    /// The life from then, in seconds.
    Life,
    /// The start of its life: Azure (`st`, and `skt` of its key), Akamai (`st`).
    Start,
    /// Its end, as Unix seconds or ISO 8601: S3 V2, Google V2, `CloudFront`, OSS, OBS, Bunny (`Expires`), Azure
    /// (`se`, and `ske` of its key), Akamai (`exp`), Swift (`temp_url_expires`).
    End,
    /// Both, as Unix seconds: Tencent's `start;end`.
    Period,
    /// `CloudFront`'s custom policy.
    Policy,
    /// Something else can end it sooner.
    Revocable,
    /// The header fields that must be sent with it: names, with `;` between them.
    SignedFields,
}

impl Term {
    fn of(name: &str) -> Option<Self> {
        let mut lower = [0; 32];
        let lower = lower.get_mut(..name.len())?;
        lower.copy_from_slice(name.as_bytes());
        lower.make_ascii_lowercase();
        Some(match &*lower {
            b"st" | b"skt" => Self::Start,
            b"se" | b"ske" | b"exp" => Self::End,
            b"si" => Self::Revocable,
            b"policy" => Self::Policy,
            b"q-sign-time" | b"q-key-time" => Self::Period,
            lower if lower.ends_with(b"security-token") => Self::Revocable,
            lower if lower.ends_with(b"-signedheaders") => Self::SignedFields,
            lower if lower.starts_with(b"x-") && lower.ends_with(b"-date") => Self::Date,
            lower if lower.starts_with(b"x-") && lower.ends_with(b"-expires") => Self::Life,
            // What a store is to answer with says nothing of the link.
            lower if lower.starts_with(b"response-") => return None,
            lower if lower.windows(5).any(|part| part == b"expir") => Self::End,
            _ => return None,
        })
    }

    /// True if `c` ends a value of this term: `;` and `~` delimit pairs too, but stand in some values.
    fn is_behind(self, c: char) -> bool {
        match c {
            '&' | '?' | '"' | '\'' | '<' | '>' => true,
            '/' | '~' => self != Self::Policy,
            ';' => !matches!(self, Self::Period | Self::SignedFields),
            c => c.is_whitespace(),
        }
    }
}

/// The terms that one link shows.
#[derive(Debug, Default, PartialEq, Eq)]
struct Terms {
    /// The first end.
    end: Option<SystemTime>,
    /// The latest time of signing.
    signed: Option<SystemTime>,
    /// The first date and the shortest life from then, which make an end together.
    date: Option<SystemTime>,
    life: Option<Duration>,
    is_unreadable: bool,
    is_revocable: bool,
    signs_fields: bool,
}

impl Terms {
    /// Reads `NAME=value` wherever it stands: in the query or the path, delimited by `&`, `&amp;`, `;` or `~`, plain or
    /// percent-encoded, alone or in a token. What is found too much only ever makes the end earlier, or uncertain.
    fn by(link: &str) -> Self {
        // A fragment never leaves the client.
        let link = link.split_once('#').map_or(link, |(link, _)| link);
        let text = percent_decode_str(link).decode_utf8_lossy();
        let (mut shown, mut rest) = (Self::default(), &*text);
        while let Some((before, behind)) = rest.split_once('=') {
            rest = behind;
            let is_of_name = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
            let name = before.rsplit(|c| !is_of_name(c)).next().unwrap_or_default();
            let Some(term) = Term::of(name) else { continue };
            let value;
            (value, rest) = rest.split_at(rest.find(|c| term.is_behind(c)).unwrap_or(rest.len()));
            shown.take(term, value);
        }
        match (shown.date, shown.life) {
            (None, None) => {}
            (date, life) => shown.ends(date.zip(life).and_then(|(date, life)| date.checked_add(life))),
        }
        shown
    }

    fn take(&mut self, term: Term, value: &str) {
        match term {
            Term::Date => {
                let at = instant(value);
                self.is_unreadable |= at.is_none();
                self.date = first(self.date, at);
                self.begins(at);
            }
            Term::Life => {
                let life = seconds(value);
                self.is_unreadable |= life.is_none();
                self.life = first(self.life, life);
            }
            Term::Start => self.begins(instant(value)),
            Term::End => self.ends(instant(value)),
            Term::Policy => self.ends(policy_end(value)),
            Term::Revocable => self.is_revocable = true,
            Term::SignedFields => self.signs_fields |= !value.eq_ignore_ascii_case("host"),
            Term::Period => {
                let mut times = value.split(';').map(unix_seconds);
                self.begins(times.next().flatten());
                self.ends(times.next().flatten());
            }
        }
    }

    fn begins(&mut self, at: Option<SystemTime>) {
        self.signed = self.signed.max(at.filter(is_written));
    }

    fn ends(&mut self, at: Option<SystemTime>) {
        let at = at.filter(is_written);
        self.is_unreadable |= at.is_none();
        self.end = first(self.end, at);
    }
}

fn is_written(at: &SystemTime) -> bool {
    *at <= SystemTime::UNIX_EPOCH + LAST
}

/// The first of both, or the one that is there.
fn first<T: Ord>(one: Option<T>, other: Option<T>) -> Option<T> {
    one.into_iter().chain(other).min()
}

/// A time as Unix seconds or in ISO 8601, basic or extended: with its zone, or the date alone, which stands for that
/// day's first moment in UTC, as with Azure.
fn instant(text: &str) -> Option<SystemTime> {
    if text.bytes().all(|b| b.is_ascii_digit()) {
        return unix_seconds(text);
    }
    let text = text.to_ascii_uppercase();
    if text.contains('T') {
        return OffsetDateTime::parse(&text, &Iso8601::PARSING).ok().map(SystemTime::from);
    }
    Date::parse(&text, &Iso8601::PARSING).ok().map(|date| date.midnight().assume_utc().into())
}

fn unix_seconds(text: &str) -> Option<SystemTime> {
    SystemTime::UNIX_EPOCH.checked_add(seconds(text)?)
}

fn seconds(text: &str) -> Option<Duration> {
    let is_number = text.bytes().all(|b| b.is_ascii_digit());
    is_number.then(|| text.parse().ok().map(Duration::from_secs)).flatten()
}

/// The first end in a custom policy of `CloudFront`, whose base64 has `-`, `_` and `~` for `+`, `=` and `/`.
fn policy_end(value: &str) -> Option<SystemTime> {
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct CustomPolicy {
        statement: Vec<Statement>,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Statement {
        condition: Condition,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Condition {
        date_less_than: Epoch,
    }
    #[derive(Deserialize)]
    struct Epoch {
        #[serde(rename = "AWS:EpochTime")]
        seconds: u64,
    }
    let standard: String = value
        .chars()
        .map(|c| match c {
            '-' => '+',
            '_' => '=',
            '~' => '/',
            c => c,
        })
        .collect();
    let policy: CustomPolicy = serde_json::from_slice(&BASE64.decode(standard).ok()?).ok()?;
    let ends = policy.statement.iter().map(|statement| statement.condition.date_less_than.seconds);
    SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(ends.min()?))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(text: &str) -> SystemTime {
        humantime::parse_rfc3339(text).expect("a time")
    }

    /// The end that `link` shows; with `~` before it where it may be sooner.
    fn end_of(link: &str) -> String {
        let mut links = Links::default();
        links.add(link);
        let end = links.end.map_or("unknown".to_owned(), |end| humantime::format_rfc3339(end).to_string());
        if links.are_certain() || links.end.is_none() { end } else { format!("~{end}") }
    }

    /// `CloudFront`'s own example of a custom policy, as it is sent.
    fn policy(json: &str) -> String {
        base64::engine::general_purpose::STANDARD
            .encode(json)
            .replace('+', "-")
            .replace('=', "_")
            .replace('/', "~")
    }

    const GOOG: &str = "X-Goog-Date=20260212T200947Z&X-Goog-Expires=3600&X-Goog-Signature=ab";
    const AN_HOUR_ON: &str = "2026-02-12T21:09:47Z";

    #[test]
    fn a_link_that_is_signed_for_more_than_host_is_seen() {
        for (fields, expected) in [
            ("X-Goog-SignedHeaders=host", false),
            ("X-Amz-SignedHeaders=Host", false),
            ("", false),
            ("X-Goog-SignedHeaders=host%3Bx-goog-content-sha256", true),
            ("X-Amz-SignedHeaders=host;range", true),
            ("X-Amz-SignedHeaders=content-type%3Bhost", true),
            ("X-Amz-SignedHeaders=", true),
        ] {
            let mut links = Links::default();
            links.add(&format!("https://h/a?{fields}&{GOOG}"));
            assert_eq!((links.signs_fields, links.are_certain()), (expected, true), "{fields}");
        }
    }

    /// Each public form, with an end of 21:09:47.
    fn known() -> Vec<String> {
        let custom = policy(
            r#"{"Statement":[{"Resource":"https://d.cloudfront.net/*?>>>","Condition":{"IpAddress":{"AWS:SourceIp":"192.0.2.0/24"},"DateGreaterThan":{"AWS:EpochTime":1770926987},"DateLessThan":{"AWS:EpochTime":1770930587}}}]}"#,
        );
        [
            GOOG,
            // S3 V4; also R2, MinIO, Backblaze, IBM, Spaces.
            "X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Date=20260212T200947Z&X-Amz-Expires=3600&X-Amz-SignedHeaders=host",
            "x-oss-signature-version=OSS4-HMAC-SHA256&x-oss-date=20260212T200947Z&x-oss-expires=3600",
            "X-Tos-Date=20260212T200947Z&X-Tos-Expires=3600",
            // S3 V2, Google V2, OSS and OBS, CloudFront's canned policy, Cloud CDN.
            "AWSAccessKeyId=a&Expires=1770930587&Signature=s%3D",
            "GoogleAccessId=a@b&Expires=1770930587&Signature=s",
            "OSSAccessKeyId=a&Expires=1770930587&Signature=s",
            "Expires=1770930587&Signature=s&Key-Pair-Id=K",
            "URLPrefix=aHR0cHM_&Expires=1770930587&KeyName=k&Signature=s",
            "Edge-Cache-Token=URLPrefix=aHR0cHM_~Expires=1770930587~KeyName=k~Signature=s",
            "sv=2022-11-02&st=2026-02-12T20%3A09%3A47Z&se=2026-02-12T21%3A09%3A47Z&sr=b&sp=r&sig=s%3D",
            "se=2026-02-12T21:09:47.0000000Z&sig=s",
            "se=2026-02-12T23:09:47%2B02:00&sig=s",
            "se=2026-02-12T23:09:47+02:00&sig=s",
            "se=2026-02-12T20:09:47-01:00&sig=s",
            "q-sign-algorithm=sha1&q-ak=a&q-sign-time=1770926987;1770930587&q-key-time=1770926987%3B1770930587",
            "hdnts=st=1770926987~exp=1770930587~acl=/*~hmac=ab",
            "hdnts=exp%3D1770930587%7Eacl%3D%2F*%7Ehmac%3Dab",
            "token=t&expires=1770930587&token_path=%2F",
            "temp_url_sig=s&temp_url_expires=1770930587",
            "temp_url_sig=s&temp_url_expires=2026-02-12T21:09:47Z",
            &format!("Policy={custom}&Signature=s~-_&Key-Pair-Id=K"),
        ]
        .map(|query| format!("https://files.example/data_1_1_0.csv?{query}"))
        .into_iter()
        .chain([
            "https://files.example/bcdn_token=t&expires=1770930587&token_path=%2F/data.csv".to_owned(),
            "https://files.example/exp=1770930587~acl=*~hmac=ab/data.csv".to_owned(),
            "https://files.example/data.csv;expires=1770930587;sig=s".to_owned(),
            format!("https://go.example/?to=https%3A%2F%2Ffiles.example%2Fx%3F{}", encoded(GOOG)),
        ])
        .collect()
    }

    fn encoded(text: &str) -> String {
        percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC).to_string()
    }

    #[test]
    fn each_known_form_shows_its_end() {
        for link in known() {
            assert_eq!(end_of(&link), AN_HOUR_ON, "{link}");
        }
    }

    #[test]
    fn what_is_less_usual_ends_early_or_is_uncertain() {
        let base = "https://files.example/data_1_1_0.csv";
        for (query, expected) in [
            ("se=2026-02-12T21:09Z", "2026-02-12T21:09:00Z"),
            ("se=2026-02-12T23:09%2B0200", "2026-02-12T21:09:00Z"),
            ("se=2026-02-12", "2026-02-12T00:00:00Z"),
            ("se=2026-02-12t21:09:47z", AN_HOUR_ON),
            // Whose zone is it?
            ("se=2026-02-12T21:09:47", "unknown"),
            ("se=tomorrow", "unknown"),
            // A stored policy, a token or a key that can end sooner.
            ("si=policy&se=2026-02-12T21:09:47Z", "~2026-02-12T21:09:47Z"),
            ("si=policy&sig=s", "unknown"),
            ("se=2026-02-12T21%3A09%3A47Z&ske=2026-02-12T20%3A10%3A47Z", "2026-02-12T20:10:47Z"),
            (&format!("{GOOG}&X-Amz-Security-Token=t"), "~2026-02-12T21:09:47Z"),
            ("Expires=1770930587&security-token=t", "~2026-02-12T21:09:47Z"),
            // The earliest of several counts, also of one twice.
            ("X-Amz-Date=20260212T200947Z&X-Amz-Expires=60&Expires=1770930587", "2026-02-12T20:10:47Z"),
            ("X-Goog-Date=20260212T200947Z&X-Goog-Expires=60&X-Goog-Expires=3600", "2026-02-12T20:10:47Z"),
            ("q-sign-time=1770926987;1770930587&q-key-time=1770926987;1770927000", "2026-02-12T20:10:00Z"),
            // What cannot be read beside what can makes that the latest.
            (&format!("{GOOG}&Expires=soon"), "~2026-02-12T21:09:47Z"),
            ("Expires=1770930587&se=2099-13-01", "~2026-02-12T21:09:47Z"),
            ("Expires=1770930587&Policy=x", "~2026-02-12T21:09:47Z"),
            ("X-Amz-Date=20260212T200947Z&Expires=1770930587", "~2026-02-12T21:09:47Z"),
            // What the store is to answer with is no end.
            (&format!("{GOOG}&response-expires=never"), AN_HOUR_ON),
            ("", "unknown"),
            ("X-Goog-Expires=3600", "unknown"),
            ("X-Goog-Date=yesterday&X-Goog-Expires=3600", "unknown"),
            ("X-Goog-Date=20260212T200947Z&X-Goog-Expires=99999999999999999999", "unknown"),
            ("X-Goog-Date=20260212T200947Z&X-Goog-Expires=+60", "unknown"),
            (&format!("Policy={}", policy(r#"{"Statement":[]}"#)), "unknown"),
            ("verify=1770930587-mac", "unknown"),
            // Beyond what can be written: milliseconds, or nonsense.
            ("Expires=1770930587000", "unknown"),
            ("X-Goog-Date=20260212T200947Z&X-Goog-Expires=999999999999", "unknown"),
            ("Expires=18446744073709551615", "unknown"),
        ] {
            assert_eq!(end_of(&format!("{base}?{query}")), expected, "{query}");
        }
        assert_eq!(end_of(base), "unknown");
        assert_eq!(end_of(&format!("{base}#x?Expires=1770930587")), "unknown");
    }

    #[test]
    fn links_are_taken_together_to_their_disadvantage() {
        let mut links = Links::default();
        assert!(!links.are_certain());
        links.add(&format!("https://a/?{GOOG}"));
        let (signed, end) = (at("2026-02-12T20:09:47Z"), at(AN_HOUR_ON));
        let hour = Duration::from_hours(1);
        assert_eq!((links.signed, links.not_before, links.life), (Some(signed), Some(signed), Some(hour)));
        links.add("https://a/?X-Amz-Date=20260212T200900Z&X-Amz-Expires=600");
        let first = at("2026-02-12T20:19:00Z");
        assert_eq!((links.end, links.signed, links.life), (Some(first), Some(signed), Some(hour / 6)));
        links.add("https://a/?Expires=1770934187");
        assert_eq!((links.end, links.not_before, links.are_certain()), (Some(first), Some(end), true));
        links.add("https://a/");
        assert_eq!((links.end, links.count, links.is_unreadable), (Some(first), 4, true));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(1_000))]

        /// Whatever is done to a link but to the digits of its times: it shows no later end.
        #[test]
        fn no_mutation_of_a_known_link_gives_a_later_end(
            which in 0..known().len(),
            spelling in 0..7_usize,
            cut in any::<prop::sample::Index>(),
            noise in "[a-z=&;~/?%+ .:_-]{0,6}",
            places in prop::collection::vec(any::<prop::sample::Index>(), 0..3),
        ) {
            let link = known().swap_remove(which);
            let (head, tail) = link.split_at("https://files.example/".len());
            let tail = match spelling {
                0 => tail.to_uppercase(),
                1 if !tail.contains("Policy") => tail.to_lowercase(),
                2 => tail.replace('&', "&amp;"),
                3 => tail.replace('&', ";"),
                4 => tail.replace('?', "/"),
                5 => encoded(tail),
                6 => tail[..cut.index(tail.len() + 1)].to_owned(),
                _ => tail.to_owned(),
            };
            let mut bytes = tail.into_bytes();
            for place in places {
                // Between two digits it would make another number of them.
                let at = place.index(bytes.len() + 1);
                let is_digit = |at: Option<usize>| at.and_then(|at| bytes.get(at)).is_some_and(u8::is_ascii_hexdigit);
                if !(is_digit(at.checked_sub(1)) || is_digit(Some(at))) {
                    bytes.splice(at..at, noise.bytes());
                }
            }
            let mutated = format!("{head}{}", String::from_utf8(bytes).expect("ASCII"));
            let mut links = Links::default();
            links.add(&mutated);
            prop_assert!(links.end.is_none_or(|end| end <= at(AN_HOUR_ON)), "{mutated}: {links:?}");
            prop_assert!(links.end.is_some() || links.is_unreadable);
        }
    }
}
