//! The address of an admin listener: a URL or a Unix socket.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;

use http::Uri;

use super::AdminError;
use crate::access::is_ours;
use crate::listener::Address;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum AdminAddress {
    Url(Box<Uri>),
    Unix(PathBuf),
}

impl AdminAddress {
    pub(crate) fn parse(text: &str) -> Result<Self, &'static str> {
        const EXAMPLE: &str =
            "must be a URL such as http://127.0.0.1:7081 or https://gateway.example:7081, or unix:/path";
        if let Some(path) = text.strip_prefix("unix:") {
            return if path.starts_with('/') { Ok(Self::Unix(path.into())) } else { Err(EXAMPLE) };
        }
        let uri: Uri = text.parse().map_err(|_| EXAMPLE)?;
        let is_web = matches!(uri.scheme_str(), Some("http" | "https"));
        let is_bare = matches!(uri.path(), "" | "/") && uri.query().is_none();
        let has_user = uri.authority().is_some_and(|authority| authority.as_str().contains('@'));
        if is_web && is_bare && !has_user { Ok(Self::Url(Box::new(uri))) } else { Err(EXAMPLE) }
    }

    /// The address, from the same machine, of a gateway with `address` in `admin.listen`.
    pub(super) fn of(address: &Address) -> Result<Self, AdminError> {
        let (scheme, address) = match address {
            Address::Unix(path) => return Ok(Self::Unix(path.clone())),
            Address::Systemd => return Err(AdminError::NotSet),
            Address::Tcp(address) => ("http", here(*address)?),
            Address::Tls(address) => ("https", here(*address)?),
        };
        let uri = Uri::builder().scheme(scheme).authority(address.to_string()).path_and_query("/").build();
        uri.map(|uri| Self::Url(Box::new(uri))).map_err(|_| AdminError::NotSet)
    }

    /// True if others could read what is sent there.
    pub(in crate::cli) fn is_open(&self) -> bool {
        match self {
            Self::Unix(_) => false,
            Self::Url(uri) => {
                let is_local = is_ours(uri.host().unwrap_or_default(), &[]);
                uri.scheme_str() != Some("https") && !is_local
            }
        }
    }
}

impl fmt::Display for AdminAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Url(uri) => {
                write!(f, "{}://", uri.scheme_str().unwrap_or_default())?;
                f.write_str(uri.authority().map_or("", |authority| authority.as_str()))
            }
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// The address at which a listener is reached from its own machine.
fn here(address: SocketAddr) -> Result<SocketAddr, AdminError> {
    if address.port() == 0 {
        return Err(AdminError::FreePort);
    }
    let ip = match address.ip() {
        ip if !ip.is_unspecified() => ip,
        IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
    };
    Ok(SocketAddr::new(ip, address.port()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_admin_listener_is_a_url_or_a_socket() {
        for (text, shown) in [
            ("http://127.0.0.1:7081", "http://127.0.0.1:7081"),
            ("https://gateway.example:7081/", "https://gateway.example:7081"),
            ("unix:/run/exportgate/admin.sock", "unix:/run/exportgate/admin.sock"),
        ] {
            assert_eq!(AdminAddress::parse(text).map(|place| place.to_string()).as_deref(), Ok(shown));
        }
        for bad in
            ["127.0.0.1:7081", "ftp://x", "unix:sock", "http://u:p@x", "http://x/path", "http://x/?q", ""]
        {
            assert!(AdminAddress::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_token_goes_nowhere_in_the_clear() {
        let is_open = |text: &str| AdminAddress::parse(text).map(|place| place.is_open());
        for here in ["http://127.0.0.1:1", "http://[::1]:1", "http://localhost:1", "unix:/s", "https://x:1"] {
            assert_eq!(is_open(here), Ok(false), "{here}");
        }
        for there in ["http://10.0.0.1:1", "http://localhost.example:1", "http://127.0.0.1.example"] {
            assert_eq!(is_open(there), Ok(true), "{there}");
        }
    }

    #[test]
    fn the_configured_address_is_asked_on_this_machine() {
        let place = |text: &str, made: fn(SocketAddr) -> Address| {
            AdminAddress::of(&made(text.parse().expect("an address"))).map(|place| place.to_string())
        };
        assert_eq!(place("127.0.0.1:7081", Address::Tcp).expect("a place"), "http://127.0.0.1:7081");
        assert_eq!(place("0.0.0.0:7081", Address::Tls).expect("a place"), "https://127.0.0.1:7081");
        assert_eq!(place("[::]:7081", Address::Tls).expect("a place"), "https://[::1]:7081");
        assert!(matches!(place("127.0.0.1:0", Address::Tcp), Err(AdminError::FreePort)));
    }
}
