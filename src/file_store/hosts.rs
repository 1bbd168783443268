//! The hosts that links may name.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use http::Uri;

/// Longest name of a host (RFC 1035 §2.3.4).
const MAX_HOST: usize = 253;

/// Domains that stand for all of a vendor's customers and services: a pattern must say more than that.
const SHARED: [&str; 2] = ["amazonaws.com", "googleapis.com"];

/// A host by its whole labels, where `*` stands for exactly one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostPattern(String);

/// A store besides the usual ones, as `SCHEME://HOST:PORT` (RFC 6454).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoreOrigin {
    /// `http` or `https`.
    pub scheme: String,
    /// A name, or an address without brackets.
    pub host: String,
    /// Its port.
    pub port: u16,
}

impl HostPattern {
    /// True if it stands for `host`, in lower case.
    #[must_use]
    pub fn matches(&self, host: &str) -> bool {
        let mut labels = host.split('.');
        let fits = |pattern: &str| labels.next().is_some_and(|label| pattern == "*" || pattern == label);
        self.0.split('.').all(fits) && labels.next().is_none()
    }
}

impl FromStr for HostPattern {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let text = text.to_ascii_lowercase();
        let example = "write a name such as \"storage.googleapis.com\" or \"*.s3.*.amazonaws.com\"";
        let labels: Vec<&str> = text.split('.').collect();
        let is_sound = labels.iter().all(|label| *label == "*" || is_label(label));
        let ends_in_names = labels.len() > 1 && labels.iter().rev().take(2).all(|label| *label != "*");
        if text.parse::<IpAddr>().is_ok() {
            return Err(format!("{text} is an address: name it in files.origins"));
        }
        if !is_sound || !ends_in_names || text.len() > MAX_HOST {
            return Err(format!(
                "one of them is no host name with at least two labels at its end: {example}"
            ));
        }
        let own = SHARED.iter().find_map(|shared| text.strip_suffix(shared));
        if own.is_some_and(|own| own.split('.').all(|label| label.is_empty() || label == "*")) {
            return Err(format!("{text} stands for more than a file store: {example}"));
        }
        Ok(Self(text))
    }
}

impl fmt::Display for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for StoreOrigin {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || {
            "one of them is no origin: write it like https://minio.example:9000, without a path".to_owned()
        };
        let uri: Uri = text.parse().map_err(|_| wrong())?;
        let origin = Self::of(&uri).ok_or_else(wrong)?;
        let is_alone = uri.path_and_query().is_none_or(|path| path.as_str() == "/") && !text.contains('#');
        if is_alone { Ok(origin) } else { Err(wrong()) }
    }
}

impl StoreOrigin {
    /// The origin of `uri`; none where it has no host that a store can have, or a user name.
    pub(super) fn of(uri: &Uri) -> Option<Self> {
        let (scheme, authority) = (uri.scheme_str()?, uri.authority()?);
        let usual = match scheme {
            "https" => 443,
            "http" => 80,
            _ => return None,
        };
        // Besides a host there may be a port, and nothing else.
        let port = match authority.as_str().strip_prefix(authority.host())? {
            "" => usual,
            rest => port_number(rest.strip_prefix(':')?)?,
        };
        let host = authority.host().to_ascii_lowercase();
        let bracketed = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        let host = match bracketed {
            Some(address) => address.parse::<std::net::Ipv6Addr>().ok()?.to_string(),
            None => Some(host).filter(|host| host.len() <= MAX_HOST && host.split('.').all(is_label))?,
        };
        Some(Self { scheme: scheme.to_owned(), host, port })
    }
}

impl fmt::Display for StoreOrigin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { scheme, host, port } = self;
        let (open, close) = if host.contains(':') { ("[", "]") } else { ("", "") };
        write!(f, "{scheme}://{open}{host}{close}:{port}")
    }
}

/// A port: digits alone, and not 0.
fn port_number(text: &str) -> Option<u16> {
    let is_number = text.bytes().all(|b| b.is_ascii_digit());
    text.parse().ok().filter(|port| is_number && *port != 0)
}

/// True for a label of a host name (RFC 1123 §2.1; an underscore stands in some bucket names).
fn is_label(label: &str) -> bool {
    let is_plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'_';
    !label.is_empty() && label.len() <= 63 && label.bytes().all(is_plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_stands_for_whole_labels() {
        for (pattern, host, expected) in [
            ("storage.googleapis.com", "storage.googleapis.com", true),
            ("storage.googleapis.com", "storage.googleapis.com.evil.test", false),
            ("storage.googleapis.com", "evilstorage.googleapis.com", false),
            ("storage.googleapis.com", "a.storage.googleapis.com", false),
            ("*.storage.googleapis.com", "a.storage.googleapis.com", true),
            ("*.storage.googleapis.com", "storage.googleapis.com", false),
            ("*.storage.googleapis.com", "a.b.storage.googleapis.com", false),
            ("*.S3.*.AmazonAWS.com", "bucket.s3.eu-central-1.amazonaws.com", true),
            ("*.s3.*.amazonaws.com", "bucket.ec2.eu-central-1.amazonaws.com", false),
            ("*.s3.*.amazonaws.com", "s3.eu-central-1.amazonaws.com", false),
            ("s3.*.amazonaws.com", "s3.eu-central-1.amazonaws.com", true),
            ("s3.*.amazonaws.com", "s3.eu-central-1.amazonaws.com.cn", false),
            ("files.corp.example", "files.corp.example.", false),
        ] {
            let pattern: HostPattern = pattern.parse().expect("a pattern");
            assert_eq!(pattern.matches(host), expected, "{pattern} {host}");
        }
    }

    #[test]
    fn a_pattern_that_says_too_little_is_refused() {
        for text in [
            "",
            "*",
            "com",
            "*.com",
            "a.*",
            "a.*.com",
            "*.amazonaws.com",
            "*.*.amazonaws.com",
            "amazonaws.com",
            "*.googleapis.com",
            "s3*.example.com",
            "https://a.example",
            "a.example:443",
            "a.example/x",
            "user@a.example",
            "a..example",
            "127.0.0.1",
            "::1",
        ] {
            assert!(text.parse::<HostPattern>().is_err(), "{text}");
        }
    }

    #[test]
    fn an_origin_is_scheme_host_and_port_alone() {
        for (text, expected) in [
            ("https://minio.example:9443", "https://minio.example:9443"),
            ("http://minio.example", "http://minio.example:80"),
            ("https://MINIO.example/", "https://minio.example:443"),
            ("http://127.0.0.1:9000", "http://127.0.0.1:9000"),
            ("http://[0:0::1]:9000", "http://[::1]:9000"),
        ] {
            let origin: StoreOrigin = text.parse().expect(text);
            assert_eq!(origin.to_string(), expected);
        }
        for text in [
            "minio.example:9000",
            "ftp://minio.example",
            "https://user@minio.example",
            "https://minio.example:",
            "https://minio.example:0",
            "https://minio.example:99999",
            "https://minio.example/bucket",
            "https://minio.example/?a",
            "https://minio.example/#a",
            "https://*.example",
            "https://",
        ] {
            assert!(text.parse::<StoreOrigin>().is_err(), "{text}");
        }
    }
}
