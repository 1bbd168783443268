//! The settings of the file store's client.

use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;

use super::hosts::{HostPattern, StoreOrigin};
use crate::transport::Resolver;

/// `[files]`, as far as it is about the stores.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The hosts that links may name.
    pub hosts: Vec<HostPattern>,
    /// Stores besides these: on another port, without TLS, or by address.
    pub origins: Vec<StoreOrigin>,
    /// Networks that names may lead to although they are not public.
    pub private_addresses: Vec<IpNet>,
    /// The source of addresses. No key names another than the system's.
    pub resolver: Resolver,
    /// A PEM file of certificates to trust instead of the platform's.
    pub ca_file: Option<PathBuf>,
    /// Longest wait for name, TCP, a proxy's CONNECT and TLS together.
    pub connect_timeout: Duration,
    /// Longest time without progress of the store.
    pub idle_timeout: Duration,
    /// The most transfers at once.
    pub transfers: TransferLimits,
}

/// The most transfers at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TransferLimits {
    /// Of all clients together.
    pub all: usize,
    /// Of one client.
    pub per_client: usize,
}
