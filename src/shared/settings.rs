//! The settings of the shared engine.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use super::SealKeys;

/// The engine's address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EngineAddress {
    /// A host, its port, and TLS or not.
    Tcp {
        /// The host.
        host: String,
        /// The port.
        port: u16,
        /// True for TLS.
        is_tls: bool,
    },
    /// A Unix socket.
    Unix(PathBuf),
}

impl fmt::Display for EngineAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { host, port, is_tls } => {
                let scheme = if *is_tls { "rediss" } else { "redis" };
                if host.contains(':') {
                    write!(f, "{scheme}://[{host}]:{port}")
                } else {
                    write!(f, "{scheme}://{host}:{port}")
                }
            }
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// `[shared]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// The engine's address.
    pub address: EngineAddress,
    /// The number of its database.
    pub database: i64,
    /// The user; empty for the default one.
    pub user: String,
    /// The file with the password, read at each connection.
    pub password_file: Option<PathBuf>,
    /// The authorities to trust instead of the platform's.
    pub ca_file: Option<PathBuf>,
    /// The beginning of all names on the engine.
    pub prefix: String,
    /// Most gateways that have an own part.
    pub gateways: u32,
    /// Longest silence of a member, after which its place is free: the longest window of a ledger.
    pub silence: Duration,
    /// Longest wait for an answer.
    pub timeout: Duration,
    /// The file with the keys that seal, read at the start.
    pub key_file: Option<PathBuf>,
    /// The keys that seal what can be read there. Without them budget, holds and purges are shared, and nothing else.
    pub seal: Option<SealKeys>,
    /// Longest silence of the gateway that leads a flight, before another one leads.
    pub lease: Duration,
    /// Largest finished export that is kept there, in bytes.
    pub max_entry: usize,
}
