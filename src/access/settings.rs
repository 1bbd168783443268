//! Settings of access.

use std::path::PathBuf;
use std::time::Duration;

use http::{HeaderName, HeaderValue, Uri};

use super::clients::ClientSettings;
use super::token::TokenRules;

/// `[access]` and `[oidc]`.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The clients; `None` without a clients file: then every caller is `local`.
    pub clients: Option<Vec<ClientSettings>>,
    /// Hosts that a loopback listener answers for, besides `localhost` and loopback addresses.
    pub hosts: Vec<String>,
    /// True if loopback and Unix sockets accept requests that another proxy forwarded.
    pub allow_forwarded: bool,
    /// A header field that every request must have, and its value if one is set.
    pub required_header: Option<(HeaderName, Option<HeaderValue>)>,
    /// True if a denied call is answered as if its target did not exist.
    pub hide: bool,
    /// Most failed authentications of one address in a minute.
    pub max_failures: u32,
    /// Accept HTTP Basic for files (`files.basic`).
    pub files_basic: bool,
    /// `[oidc]`; `None` without an issuer.
    pub tokens: Option<Tokens>,
}

/// `[oidc]`.
#[derive(Debug, Clone)]
pub struct Tokens {
    /// Claims and algorithms that a token must have.
    pub rules: TokenRules,
    /// The source of the issuer's keys.
    pub keys: KeySource,
}

/// The source of an issuer's keys.
#[derive(Debug, Clone)]
pub enum KeySource {
    /// In a file.
    File(PathBuf),
    /// At a URL.
    Url {
        /// The URL of the JWK set.
        url: Uri,
        /// PEM certificates to trust instead of the platform's.
        ca_file: Option<PathBuf>,
        /// A file with a bearer token to send, as Kubernetes requires.
        token_file: Option<PathBuf>,
        /// Time between two fetches.
        refresh: Duration,
    },
}
