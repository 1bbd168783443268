//! What the configuration says about access.

use std::path::PathBuf;
use std::time::Duration;

use http::{HeaderName, HeaderValue, Uri};

use super::roster::Described;
use super::token::Expected;

/// `[access]` and `[oidc]`.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The clients; `None` where no roster is configured, and everybody who gets in is local.
    pub clients: Option<Vec<Described>>,
    /// Names by which a loopback listener may be asked, besides `localhost` and loopback addresses.
    pub hosts: Vec<String>,
    /// Whether requests that another proxy passed on are accepted on loopback and Unix sockets.
    pub allow_forwarded: bool,
    /// A field that every request must have; and its value, where one is set.
    pub required_header: Option<(HeaderName, Option<HeaderValue>)>,
    /// Whether who is not allowed something is told that it does not exist.
    pub hide: bool,
    /// Failed attempts a minute and address that are answered as usual.
    pub max_failures: u32,
    /// `[oidc]`, where an issuer is set.
    pub tokens: Option<Tokens>,
}

/// `[oidc]`.
#[derive(Debug, Clone)]
pub struct Tokens {
    /// What a token must say.
    pub expected: Expected,
    /// Where the issuer's keys are.
    pub keys: KeySource,
}

/// Where an issuer's keys are.
#[derive(Debug, Clone)]
pub enum KeySource {
    /// In a file.
    File(PathBuf),
    /// At a URL.
    Url {
        /// Which.
        url: Uri,
        /// PEM certificates to trust there instead of the platform's.
        ca_file: Option<PathBuf>,
        /// A file with a bearer token to present there, as Kubernetes wants it.
        token_file: Option<PathBuf>,
        /// How often the keys are fetched again.
        refresh: Duration,
    },
}
