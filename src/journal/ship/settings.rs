//! The settings of the journal in one place.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

/// The address of the database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DatabaseAddress {
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

impl fmt::Display for DatabaseAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { host, port, .. } if host.contains(':') => write!(f, "[{host}]:{port}"),
            Self::Tcp { host, port, .. } => write!(f, "{host}:{port}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// The keys `journal.ship_…`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShipSettings {
    /// The address of the database.
    pub address: DatabaseAddress,
    /// The user.
    pub user: String,
    /// The name of the database.
    pub database: String,
    /// The file with the password, read at each connection.
    pub password_file: Option<PathBuf>,
    /// The authorities to trust instead of the platform's.
    pub ca_file: Option<PathBuf>,
    /// Most records that wait for the database; the oldest beyond it are given up.
    pub max_rows: u64,
    /// Longest wait for the database.
    pub timeout: Duration,
}

impl fmt::Display for ShipSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "database {} at {}", self.database, self.address)
    }
}
