//! What the configuration says about listening.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

/// `listen` and `[listener]`.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Where clients are accepted.
    pub listen: Vec<Address>,
    /// Whether clear-text clients may speak HTTP/2 with prior knowledge.
    pub h2c: bool,
    /// Most connections at once, over all addresses.
    pub max_connections: usize,
    /// Longest wait for a request's header section; also how long a connection may idle.
    pub header_timeout: Duration,
    /// Longest wait for a request's body.
    pub body_timeout: Duration,
    /// Longest a client is kept waiting for an answer.
    pub request_timeout: Duration,
    /// Largest header section, in bytes.
    pub max_head: usize,
    /// Most header fields.
    pub max_headers: usize,
    /// Longest request target, in bytes.
    pub max_target: usize,
    /// Largest body of a start call, in bytes.
    pub max_body: usize,
    /// How long requests in flight may take to finish after a signal to stop.
    pub drain: Duration,
}

/// One place to listen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// A TCP address; port 0 takes a free one.
    Tcp(SocketAddr),
    /// A Unix socket, written `unix:/path`.
    Unix(PathBuf),
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Tcp(address) => write!(f, "{address}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}
