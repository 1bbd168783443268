//! The listener's settings.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

/// `listen` and `[listener]`.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The addresses to listen on.
    pub listen: Vec<Address>,
    /// Allows HTTP/2 with prior knowledge without TLS.
    pub h2c: bool,
    /// Allows HTTP without TLS on addresses that other machines reach.
    pub allow_plain_http: bool,
    /// True if clients are configured. Without them, only this machine is served.
    pub has_clients: bool,
    /// Most connections at once, over all addresses.
    pub max_connections: usize,
    /// Most connections at once from one address of another machine.
    pub max_connections_per_address: usize,
    /// Longest duration of a TLS handshake.
    pub handshake_timeout: Duration,
    /// Longest wait for a connection's first request, and for the rest of a header section.
    pub header_timeout: Duration,
    /// Longest idle time between two requests.
    pub idle_timeout: Duration,
    /// Longest wait for a request's body.
    pub body_timeout: Duration,
    /// Longest time without write progress of an answer.
    pub send_timeout: Duration,
    /// Longest time for which the rest of a request's body is read and discarded before its connection is closed.
    pub linger_timeout: Duration,
    /// Most bytes that are discarded so.
    pub max_discarded: usize,
    /// Longest wait of a client for an answer.
    pub request_timeout: Duration,
    /// Largest header section, in bytes.
    pub max_head: usize,
    /// Most header fields.
    pub max_headers: usize,
    /// Longest request target, in bytes.
    pub max_target: usize,
    /// Largest body of a start call, in bytes.
    pub max_body: usize,
    /// Most memory for bodies that are being read and answers that are not sent yet, in bytes.
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
