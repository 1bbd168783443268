//! Signed links: making them in the form of each store, and checking them when a file is fetched.

use std::fmt::Write as _;

use aws_lc_rs::hmac;

/// How links are signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LinkForm {
    /// Google Cloud Storage V4.
    GcsV4,
    /// S3 V4.
    S3V4,
    /// S3 V4, signed with temporary credentials.
    S3V4Temporary,
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

/// Signs `path` for `seconds` from `now` (Unix seconds); gives the query and the signature in it.
pub(super) fn sign(
    key: &hmac::Key,
    form: LinkForm,
    path: &str,
    (now, seconds): (u64, u64),
) -> (String, String) {
    let end = if form == LinkForm::NoExpiry { 0 } else { now + seconds };
    let signature = signature(key, path, end);
    let date = basic(now);
    let day = &date[..8];
    let query = match form {
        LinkForm::GcsV4 => format!(
            "X-Goog-Algorithm=GOOG4-RSA-SHA256&X-Goog-Credential=exporter%40fake.example%2F{day}%2Fauto%2Fstorage%2Fgoog4_request&X-Goog-Date={date}&X-Goog-Expires={seconds}&X-Goog-SignedHeaders=host&X-Goog-Signature={signature}"
        ),
        LinkForm::S3V4 | LinkForm::S3V4Temporary => {
            let temporary = if form == LinkForm::S3V4 { "" } else { "&X-Amz-Security-Token=temporary" };
            format!(
                "X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=FAKE%2F{day}%2Fus-east-1%2Fs3%2Faws4_request&X-Amz-Date={date}&X-Amz-Expires={seconds}{temporary}&X-Amz-SignedHeaders=host&X-Amz-Signature={signature}"
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

/// Whether the link `path?query` may be used at `now`; else why not.
pub(super) fn check(key: &hmac::Key, path: &str, query: &str, now: u64) -> Result<(), &'static str> {
    let pairs: Vec<(String, String)> = form_urlencoded::parse(query.as_bytes()).into_owned().collect();
    let value = |names: &[&str]| {
        pairs.iter().find(|(name, _)| names.contains(&name.as_str())).map(|(_, value)| value.as_str())
    };
    let given =
        value(&["X-Goog-Signature", "X-Amz-Signature", "Signature", "sig"]).ok_or("MissingSecurityHeader")?;
    let dated = value(&["X-Goog-Date", "X-Amz-Date"]).and_then(from_basic);
    let seconds = value(&["X-Goog-Expires", "X-Amz-Expires"]).and_then(|text| text.parse::<u64>().ok());
    let absolute = value(&["Expires"]).and_then(|text| text.parse::<u64>().ok());
    let azure = value(&["se"]).and_then(unix);
    let end = dated.zip(seconds).map(|(date, seconds)| date + seconds).or(absolute).or(azure);
    if signature(key, path, end.unwrap_or(0)) != given {
        return Err("SignatureDoesNotMatch");
    }
    if end.is_some_and(|end| end <= now) { Err("ExpiredToken") } else { Ok(()) }
}

fn signature(key: &hmac::Key, path: &str, end: u64) -> String {
    let tag = hmac::sign(key, format!("{path}\n{end}").as_bytes());
    tag.as_ref().iter().fold(String::new(), |mut hex, byte| {
        let _ = write!(hex, "{byte:02x}");
        hex
    })
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
            LinkForm::S3V2,
            LinkForm::CloudFront,
            LinkForm::Azure,
        ] {
            let (query, _) = sign(&key, form, "/f", (now, 60));
            assert_eq!(check(&key, "/f", &query, now + 59), Ok(()), "{form:?}");
            assert_eq!(check(&key, "/f", &query, now + 60), Err("ExpiredToken"), "{form:?}");
            assert_eq!(check(&key, "/g", &query, now), Err("SignatureDoesNotMatch"), "{form:?}");
        }
        let (query, _) = sign(&key, LinkForm::NoExpiry, "/f", (now, 60));
        assert_eq!(check(&key, "/f", &query, now * 2), Ok(()));
    }
}
