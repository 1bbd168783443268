//! A signed link: a bearer secret, of which only the host may be shown.

use std::fmt;
use std::time::SystemTime;

use aws_lc_rs::digest::{SHA256, digest};
use http::Uri;

use super::Settings;
use super::hosts::StoreOrigin;
use crate::export::Links;

/// Longest link, in bytes.
const MAX_LINK: usize = 16 * 1024;

/// A link that may be asked.
#[derive(Clone)]
pub struct Link {
    pub(super) uri: Uri,
    host: String,
    end: Option<SystemTime>,
    object: ObjectId,
}

/// The identity of the object that a link leads to. It stays the same when the link is signed anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ObjectId([u8; 16]);

/// A link that must not be asked. None of its text is kept but a sound host.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LinkError {
    /// No URL, or a longer one than any store's.
    #[error("a link is no URL of a file store")]
    NotUrl,
    /// A user name, a password or a fragment is in it.
    #[error("a link has a user name, a password or a fragment")]
    Decorated,
    /// It does not begin with `https:`, or names another port.
    #[error("a link to {0} is not https on port 443 (files.origins names exceptions)")]
    NotHttps(String),
    /// Its host is none that `files.hosts` names.
    #[error("a link leads to {0}, which files.hosts does not name")]
    HostNotAllowed(String),
}

impl Link {
    /// Reads a link.
    pub(super) fn parse(text: &str, settings: &Settings) -> Result<Self, LinkError> {
        if text.len() > MAX_LINK || !text.bytes().all(|b| b.is_ascii_graphic()) {
            return Err(LinkError::NotUrl);
        }
        let uri: Uri = text.parse().map_err(|_| LinkError::NotUrl)?;
        let authority = uri.authority().ok_or(LinkError::NotUrl)?;
        if text.contains('#') || authority.as_str().contains('@') {
            return Err(LinkError::Decorated);
        }
        let origin = StoreOrigin::of(&uri).ok_or(LinkError::NotUrl)?;
        if !settings.origins.contains(&origin) {
            let StoreOrigin { scheme, host, port } = &origin;
            if !settings.hosts.iter().any(|pattern| pattern.matches(host)) {
                return Err(LinkError::HostNotAllowed(host.clone()));
            }
            if scheme != "https" || *port != 443 {
                return Err(LinkError::NotHttps(host.clone()));
            }
        }
        let mut links = Links::default();
        links.add(text);
        let object = ObjectId::of(&origin, uri.path());
        Ok(Self { host: origin.host, end: links.end, object, uri })
    }

    /// The host that it leads to.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The end that it shows, by the clock of the store.
    #[must_use]
    pub fn end(&self) -> Option<SystemTime> {
        self.end
    }

    /// The object that it leads to.
    #[must_use]
    pub fn object(&self) -> ObjectId {
        self.object
    }
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Link({}, redacted)", self.host)
    }
}

/// For others it is an opaque name.
impl fmt::Display for ObjectId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", u128::from_be_bytes(self.0))
    }
}

impl ObjectId {
    fn of(origin: &StoreOrigin, path: &str) -> Self {
        let mut id = [0; 16];
        id.copy_from_slice(&digest(&SHA256, format!("{origin}{path}").as_bytes()).as_ref()[..16]);
        Self(id)
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;
    use crate::file_store::TransferLimits;

    fn settings() -> Settings {
        let hosts = ["storage.googleapis.com", "*.storage.googleapis.com", "*.s3.*.amazonaws.com"];
        Settings {
            hosts: hosts.map(|host| host.parse().expect("a pattern")).to_vec(),
            origins: vec![
                "http://127.0.0.1:9000".parse().expect("an origin"),
                "https://minio.example:9443".parse().expect("an origin"),
            ],
            private_addresses: Vec::new(),
            resolver: crate::transport::Resolver::System,
            ca_file: None,
            connect_timeout: Duration::from_secs(1),
            idle_timeout: Duration::from_secs(1),
            transfers: TransferLimits { all: 1, per_client: 1 },
        }
    }

    fn link(text: &str) -> Result<Link, LinkError> {
        Link::parse(text, &settings())
    }

    #[test]
    fn a_link_to_a_store_shows_its_host_and_its_end_alone() {
        let text = "https://bucket.storage.googleapis.com/a/data_1_1_0.csv?X-Goog-Date=20260212T200947Z&X-Goog-Expires=3600&X-Goog-Signature=abcdef";
        let one = link(text).expect("a link");
        assert_eq!(one.host(), "bucket.storage.googleapis.com");
        assert_eq!(one.end(), Some(UNIX_EPOCH + Duration::from_secs(1_770_930_587)));
        assert_eq!(format!("{one:?}"), "Link(bucket.storage.googleapis.com, redacted)");
        let anew = link(&text.replace("200947", "210000").replace("abcdef", "fedcba")).expect("a link");
        assert_eq!(anew.object(), one.object());
        let other = link(&text.replace("data_1_1_0", "data_1_1_1")).expect("a link");
        assert_ne!(other.object(), one.object());
        for text in [
            "https://bucket.s3.eu-central-1.amazonaws.com/a?X-Amz-Expires=1",
            "https://STORAGE.googleapis.com:443/a",
            "http://127.0.0.1:9000/a",
            "https://minio.example:9443/a",
        ] {
            assert!(link(text).is_ok(), "{text}");
        }
    }

    #[test]
    fn any_other_link_is_refused_without_repeating_it() {
        let other = |host: &str| LinkError::HostNotAllowed(host.to_owned());
        let plain = |host: &str| LinkError::NotHttps(host.to_owned());
        for (text, expected) in [
            ("https://127.0.0.1/s3cret", other("127.0.0.1")),
            ("https://169.254.169.254/latest/meta-data/", other("169.254.169.254")),
            ("https://[::1]/s3cret", other("::1")),
            ("https://[::ffff:10.0.0.1]/s3cret", other("::ffff:10.0.0.1")),
            ("https://2130706433/s3cret", other("2130706433")),
            ("https://0x7f.1/s3cret", other("0x7f.1")),
            ("https://storage.googleapis.com.evil.test/s3cret", other("storage.googleapis.com.evil.test")),
            ("https://storage.googleapis.com:8443/s3cret", plain("storage.googleapis.com")),
            ("https://storage.googleapis.com:80/s3cret", plain("storage.googleapis.com")),
            ("http://storage.googleapis.com/s3cret", plain("storage.googleapis.com")),
            ("http://storage.googleapis.com:443/s3cret", plain("storage.googleapis.com")),
            ("https://storage.googleapis.com@evil.test/s3cret", LinkError::Decorated),
            ("https://user:s3cret@storage.googleapis.com/", LinkError::Decorated),
            ("https://storage.googleapis.com:443@evil.test/s3cret", LinkError::Decorated),
            ("https://evil.test#@storage.googleapis.com/s3cret", LinkError::Decorated),
            ("https://storage.googleapis.com/a#s3cret", LinkError::Decorated),
            ("https://storage.googleapis.com./s3cret", LinkError::NotUrl),
            ("https://storage.googleapis.com:/s3cret", LinkError::NotUrl),
            ("https://storage.googleapis.com:+443/s3cret", LinkError::NotUrl),
            ("https://storage.googleapis.com%2eevil.test/s3cret", LinkError::NotUrl),
            ("https://evil.test\\@storage.googleapis.com/s3cret", LinkError::NotUrl),
            ("https://storage.googleapis.com /s3cret", LinkError::NotUrl),
            ("https://storage.googleapis.com/s3cret\r\nx: y", LinkError::NotUrl),
            ("https:///s3cret", LinkError::NotUrl),
            ("//storage.googleapis.com/s3cret", LinkError::NotUrl),
            ("/s3cret", LinkError::NotUrl),
            ("file:///etc/s3cret", LinkError::NotUrl),
            ("ftp://storage.googleapis.com/s3cret", LinkError::NotUrl),
            ("https://st\u{f6}rage.googleapis.com/s3cret", LinkError::NotUrl),
            ("", LinkError::NotUrl),
            // An origin is named with its scheme and port.
            ("https://127.0.0.1:9000/s3cret", other("127.0.0.1")),
            ("http://127.0.0.1:9001/s3cret", other("127.0.0.1")),
            ("http://[::ffff:127.0.0.1]:9000/s3cret", other("::ffff:127.0.0.1")),
            ("https://minio.example/s3cret", other("minio.example")),
        ] {
            let error = link(text).expect_err(text);
            assert_eq!(error, expected, "{text}");
            assert!(!format!("{error} {error:?}").contains("s3cret"), "{text}");
        }
        let long = format!("https://storage.googleapis.com/{}", "a".repeat(MAX_LINK));
        assert_eq!(link(&long).expect_err("too long"), LinkError::NotUrl);
    }
}
