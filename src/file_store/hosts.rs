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
pub struct Origin {
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

impl FromStr for Origin {
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

impl Origin {
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
            rest => rest.strip_prefix(':')?.parse().ok().filter(|port| *port != 0)?,
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

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { scheme, host, port } = self;
        let (open, close) = if host.contains(':') { ("[", "]") } else { ("", "") };
        write!(f, "{scheme}://{open}{host}{close}:{port}")
    }
}

/// True for a label of a host name (RFC 1123 §2.1; an underscore stands in some bucket names).
fn is_label(label: &str) -> bool {
    let is_plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'_';
    !label.is_empty() && label.len() <= 63 && label.bytes().all(is_plain)
}
