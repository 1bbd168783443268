//! Signed links: making them in the form of each store, and checking them when a file is fetched.

use std::fmt::Write as _;

use aws_lc_rs::hmac;

/// How links are signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum LinkForm {
    /// Google Cloud Storage V4.
    GcsV4,
    /// S3 V4.
    S3V4,
    /// S3 V4, signed with temporary credentials.
    S3V4Temporary,
    /// S3 V4, of Cloudflare's R2.
    R2,
    /// S3 V2.
    S3V2,
    /// `CloudFront`.
    CloudFront,
    /// Azure.
    Azure,
    /// A link that shows no end.
    NoExpiry,
    /// No links at all.
    NoLinks,
    /// `results: [{}]`, as in the published example.
    EmptyObjects,
}

/// The signing of a link.
#[derive(Debug, Clone, Copy)]
pub(super) struct Signing {
    /// Its time (Unix seconds).
    pub(super) at: u64,
    /// Lifetime of the link, in seconds.
    pub(super) seconds: u64,
    /// Its number: links that are signed in one second differ.
    pub(super) serial: u64,
}

/// The reason for which a link must not be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LinkProblem {
    Unsigned,
    Mismatch,
    Expired,
}

/// Signs `path`; gives the query and the signature in it.
pub(super) fn sign(key: &hmac::Key, form: LinkForm, path: &str, signing: &Signing) -> (String, String) {
    let Signing { at, seconds, serial } = *signing;
    let end = if form == LinkForm::NoExpiry { 0 } else { at + seconds };
    let serial = format!("{serial:08x}");
    let signature = signature(key, path, end, &serial);
    let date = basic(at);
    let day = &date[..8];
    let query = match form {
        LinkForm::GcsV4 => format!(
            "X-Goog-Algorithm=GOOG4-RSA-SHA256&X-Goog-Credential=exporter%40fake.example%2F{day}%2Fauto%2Fstorage%2Fgoog4_request&X-Goog-Date={date}&X-Goog-Expires={seconds}&X-Goog-SignedHeaders=host&X-Goog-Signature={signature}"
        ),
        LinkForm::S3V4 | LinkForm::S3V4Temporary | LinkForm::R2 => {
            let is_temporary = form == LinkForm::S3V4Temporary;
            let temporary = if is_temporary { "&X-Amz-Security-Token=temporary" } else { "" };
            let region = if form == LinkForm::R2 { "auto" } else { "us-east-1" };
            format!(
                "X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=FAKE%2F{day}%2F{region}%2Fs3%2Faws4_request&X-Amz-Date={date}&X-Amz-Expires={seconds}{temporary}&X-Amz-SignedHeaders=host&X-Amz-Signature={signature}"
            )
        }
        LinkForm::S3V2 => format!("AWSAccessKeyId=FAKE&Expires={end}&Signature={signature}"),
        LinkForm::CloudFront => format!("Expires={end}&Signature={signature}&Key-Pair-Id=FAKE"),
        LinkForm::Azure => {
            let end = rfc3339(end).replace(':', "%3A");
            format!("sv=2022-11-02&se={end}&sr=b&sp=r&sig={signature}")
        }
        LinkForm::NoExpiry | LinkForm::NoLinks | LinkForm::EmptyObjects => format!("sig={signature}"),
    };
    (query, signature)
}

/// The signature of the link `path?query`, if it may be used at `now`.
pub(super) fn check(key: &hmac::Key, path: &str, query: &str, now: u64) -> Result<String, LinkProblem> {
    let pairs: Vec<(String, String)> = form_urlencoded::parse(query.as_bytes()).into_owned().collect();
    let value = |names: &[&str]| {
        pairs.iter().find(|(name, _)| names.contains(&name.as_str())).map(|(_, value)| value.as_str())
    };
    let given =
        value(&["X-Goog-Signature", "X-Amz-Signature", "Signature", "sig"]).ok_or(LinkProblem::Unsigned)?;
    let dated = value(&["X-Goog-Date", "X-Amz-Date"]).and_then(from_basic);
    let seconds = value(&["X-Goog-Expires", "X-Amz-Expires"]).and_then(|text| text.parse::<u64>().ok());
    let absolute = value(&["Expires"]).and_then(|text| text.parse::<u64>().ok());
    let azure = value(&["se"]).and_then(unix);
    let end = dated.zip(seconds).map(|(date, seconds)| date + seconds).or(absolute).or(azure);
    let serial = given.split_at_checked(given.len().saturating_sub(8)).map_or("", |(_, serial)| serial);
    if signature(key, path, end.unwrap_or(0), serial) != given {
        return Err(LinkProblem::Mismatch);
    }
    if end.is_some_and(|end| end <= now) { Err(LinkProblem::Expired) } else { Ok(given.to_owned()) }
}

/// As long as one of S3's, and with the serial number at its end.
fn signature(key: &hmac::Key, path: &str, end: u64, serial: &str) -> String {
    let tag = hmac::sign(key, format!("{path}\n{end}\n{serial}").as_bytes());
    let hex = tag.as_ref()[..28].iter().fold(String::new(), |mut hex, byte| {
        let _ = write!(hex, "{byte:02x}");
        hex
    });
    hex + serial
}

fn rfc3339(at: u64) -> String {
    let time = std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(at);
    humantime::format_rfc3339_seconds(time).to_string()
}

fn basic(at: u64) -> String {
    rfc3339(at).replace(['-', ':'], "")
}

fn unix(text: &str) -> Option<u64> {
    let time = humantime::parse_rfc3339(text).ok()?;
    time.duration_since(std::time::SystemTime::UNIX_EPOCH).ok().map(|since| since.as_secs())
}

fn from_basic(text: &str) -> Option<u64> {
    let (y, rest) = text.split_at_checked(4)?;
    let part = |range| rest.get(range);
    unix(&format!("{y}-{}-{}T{}:{}:{}Z", part(0..2)?, part(2..4)?, part(5..7)?, part(7..9)?, part(9..11)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_of_every_form_work_until_they_end() {
        let key = hmac::Key::new(hmac::HMAC_SHA256, b"key");
        let now = 1_770_000_000;
        for form in [
            LinkForm::GcsV4,
            LinkForm::S3V4,
            LinkForm::S3V4Temporary,
            LinkForm::R2,
            LinkForm::S3V2,
            LinkForm::CloudFront,
            LinkForm::Azure,
        ] {
            let signing = Signing { at: now, seconds: 60, serial: 1 };
            let (query, signature) = sign(&key, form, "/f", &signing);
            assert_eq!(check(&key, "/f", &query, now + 59), Ok(signature.clone()), "{form:?}");
            assert_eq!(check(&key, "/f", &query, now + 60), Err(LinkProblem::Expired), "{form:?}");
            assert_eq!(check(&key, "/g", &query, now), Err(LinkProblem::Mismatch), "{form:?}");
            let (_, next) = sign(&key, form, "/f", &Signing { serial: 2, ..signing });
            assert_ne!(next, signature, "{form:?}");
        }
        let (query, signature) =
            sign(&key, LinkForm::NoExpiry, "/f", &Signing { at: now, seconds: 60, serial: 1 });
        assert_eq!(check(&key, "/f", &query, now * 2), Ok(signature));
        assert_eq!(check(&key, "/f", "", now), Err(LinkProblem::Unsigned));
    }
}
