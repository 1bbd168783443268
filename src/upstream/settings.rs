//! The settings of the upstream.

use std::path::PathBuf;
use std::time::Duration;

use http::uri::{Authority, Scheme};
use http::{HeaderName, Uri};

/// `[upstream]`.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The API root, without `/rest` or `/v1`.
    pub root: Root,
    /// A PEM file of certificates to trust instead of the platform's.
    pub ca_file: Option<PathBuf>,
    /// Longest wait for TCP, a proxy's CONNECT and TLS together.
    pub connect_timeout: Duration,
    /// A connection that gives no sign of life is closed after so long.
    pub dead_after: Duration,
    /// Longest wait for the response header section, beyond `connect_timeout`.
    pub header_timeout: Duration,
    /// Longest time one attempt may take in all.
    pub request_timeout: Duration,
    /// Largest answer of an export call, in bytes.
    pub max_answer: usize,
    /// Client fields that go up besides the standard ones; they join the cache key.
    pub forward_headers: Vec<HeaderName>,
    /// The `version` that is filled in where a client sent none.
    pub default_version: Option<String>,
}

/// The upstream's root: scheme, authority and, behind another gateway, a path prefix.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Root {
    /// `https`, or `http` for loopback and hosts allowed by name.
    pub scheme: Scheme,
    /// Host and, where it is not the scheme's own, port.
    pub authority: Authority,
    /// Empty, or a path that starts with a slash and does not end with one.
    pub prefix: String,
}

impl Root {
    /// Its host, as a URI.
    pub(crate) fn uri(&self) -> Uri {
        let uri = Uri::builder().scheme(self.scheme.clone()).authority(self.authority.clone());
        uri.path_and_query("/").build().unwrap_or_default()
    }
}

impl std::fmt::Display for Root {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}://{}{}", self.scheme, self.authority, self.prefix)
    }
}
