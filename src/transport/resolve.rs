//! The addresses of names, and the check of those that may be connected to.

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use tokio::net::lookup_host;

/// The addresses of a name and a port.
type NameLookup = dyn Fn(&str, u16) -> Vec<SocketAddr> + Send + Sync;

/// True if a host may be reached at an address.
type Decision = dyn Fn(&str, IpAddr) -> bool + Send + Sync;

/// The source of the addresses of names. Clones share it.
#[derive(Clone, Default)]
pub enum Resolver {
    /// The system's resolver.
    #[default]
    System,
    /// A function of tests.
    Own(Arc<NameLookup>),
}

impl Resolver {
    pub(super) async fn resolve(&self, name: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
        match self {
            Self::System => Ok(lookup_host((name, port)).await?.collect()),
            Self::Own(resolve) => Ok(resolve(name, port)),
        }
    }
}

impl fmt::Debug for Resolver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::System => "System",
            Self::Own(_) => "Own",
        })
    }
}

/// Decides of a host and one of its addresses whether it may be connected to.
#[derive(Clone)]
pub struct AddressCheck(Arc<Decision>);

/// No address of a name may be connected to.
#[derive(Debug, thiserror::Error)]
#[error("its addresses are not allowed: {}", shown(.0))]
pub(super) struct AddressesRefused(Vec<SocketAddr>);

impl AddressCheck {
    /// One that goes by `check`.
    pub fn new(check: impl Fn(&str, IpAddr) -> bool + Send + Sync + 'static) -> Self {
        Self(Arc::new(check))
    }

    /// The addresses that may be connected to.
    pub(super) fn allowed(
        &self,
        host: &str,
        addresses: Vec<SocketAddr>,
    ) -> Result<Vec<SocketAddr>, AddressesRefused> {
        let (allowed, refused): (Vec<_>, Vec<_>) =
            addresses.into_iter().partition(|address| (self.0)(host, address.ip()));
        if allowed.is_empty() && !refused.is_empty() { Err(AddressesRefused(refused)) } else { Ok(allowed) }
    }
}

impl fmt::Debug for AddressCheck {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AddressCheck")
    }
}

fn shown(addresses: &[SocketAddr]) -> String {
    let texts: Vec<String> = addresses.iter().take(8).map(|address| address.ip().to_string()).collect();
    texts.join(", ")
}
