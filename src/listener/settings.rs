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
    /// Whether addresses that other machines reach may be served without TLS.
    pub allow_plain_http: bool,
    /// Whether clients are known: without, nothing is served that other machines reach.
    pub has_clients: bool,
    /// Most connections at once, over all addresses.
    pub max_connections: usize,
    /// Most connections at once from one address of another machine.
    pub max_connections_per_address: usize,
    /// Longest that a TLS handshake may take.
    pub handshake_timeout: Duration,
    /// Longest wait for a connection's first request, and for the rest of a header section.
    pub header_timeout: Duration,
    /// How long a connection may idle between two requests.
    pub idle_timeout: Duration,
    /// Longest wait for a request's body.
    pub body_timeout: Duration,
    /// Longest that a client may take none of an answer.
    pub send_timeout: Duration,
    /// Longest that what is left of a request's body is read and discarded before its connection is closed.
    pub linger_timeout: Duration,
    /// Most that is so discarded, in bytes.
    pub max_discarded: usize,
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
    /// Most memory for bodies that are gathered and for answers that are not taken yet, in bytes.
    pub max_buffered: usize,
    /// The same for those of one connection.
    pub max_buffered_per_connection: usize,
    /// Most HTTP/2 streams that a connection may have open.
    pub max_streams: u32,
    /// Most HTTP/2 streams that a client may reset before they were looked at.
    pub max_reset_streams: usize,
    /// The mode of Unix sockets.
    pub unix_mode: u32,
    /// User and group that Unix sockets belong to.
    pub unix_owner: (Option<u32>, Option<u32>),
}

/// One place to listen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// A TCP address without TLS; port 0 takes a free one.
    Tcp(SocketAddr),
    /// A TCP address with TLS, written `tls:…`.
    Tls(SocketAddr),
    /// A Unix socket, written `unix:/path`.
    Unix(PathBuf),
    /// The sockets that systemd passed, written `systemd`.
    Systemd,
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Tcp(address) => write!(f, "{address}"),
            Self::Tls(address) => write!(f, "tls:{address}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Systemd => f.write_str("systemd"),
        }
    }
}
