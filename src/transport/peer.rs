//! The other end of a client connection, as far as the connection itself tells.

use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::SystemTime;

use rustls_pki_types::CertificateDer;
use x509_parser::objects::{oid_registry, oid2abbrev};
use x509_parser::prelude::{ASN1Time, FromDer as _, GeneralName, X509Certificate, X509Name};

use super::Connection;

/// The other end of a connection.
#[derive(Debug, Clone)]
pub struct Peer {
    /// The way it came in.
    pub via: Via,
    /// The client certificate, verified by TLS.
    pub certificate: Option<Arc<Certificate>>,
    /// True if it showed a certificate that is no longer valid.
    pub is_refused: bool,
    /// The connection itself.
    pub connection: Arc<Connection>,
}

/// The way a connection came in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Via {
    /// A listener on a loopback address: only this machine reaches it.
    Loopback(SocketAddr),
    /// A Unix socket; who connected, where the system tells.
    Unix(Option<User>),
    /// A listener that other machines reach.
    Network(SocketAddr),
}

/// A user of this machine, as the kernel knows the other end of a Unix socket (`SO_PEERCRED`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct User {
    /// User id.
    pub uid: u32,
    /// Primary group id.
    pub gid: u32,
}

impl Via {
    /// The peer's address, where it has one.
    pub(crate) const fn address(&self) -> Option<SocketAddr> {
        match self {
            Self::Loopback(address) | Self::Network(address) => Some(*address),
            Self::Unix(_) => None,
        }
    }

    /// The address to count a peer by; an IPv6 peer counts by its /64, which one host may hold whole.
    pub(crate) fn counted_as(&self) -> Option<IpAddr> {
        Some(match self.address()?.ip().to_canonical() {
            IpAddr::V6(v6) if !v6.is_loopback() => {
                let [a, b, c, d, ..] = v6.segments();
                IpAddr::V6([a, b, c, d, 0, 0, 0, 0].into())
            }
            other @ (IpAddr::V4(_) | IpAddr::V6(_)) => other,
        })
    }
}

/// The identity in a client certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Certificate {
    /// `uri:…` and `dns:…` for each subject alternative name (RFC 5280 §4.2.1.6), `subject:…` for the
    /// subject as RFC 4514 writes it (`openssl x509 -noout -subject -nameopt RFC2253`).
    pub names: Vec<String>,
    /// When it begins and ends to be valid.
    pub valid: (SystemTime, SystemTime),
}

impl Certificate {
    /// Reads a certificate that was verified; `None` when it cannot be read.
    pub(crate) fn read(der: &CertificateDer<'_>) -> Option<Self> {
        let (_, certificate) = X509Certificate::from_der(der).ok()?;
        let mut names = Vec::new();
        if let Some(alternatives) = certificate.subject_alternative_name().ok()? {
            for name in &alternatives.value.general_names {
                if let GeneralName::URI(uri) = name {
                    names.push(format!("uri:{uri}"));
                } else if let GeneralName::DNSName(host) = name {
                    names.push(format!("dns:{}", host.to_ascii_lowercase()));
                }
            }
        }
        names.extend(subject(certificate.subject()).map(|subject| format!("subject:{subject}")));
        let validity = certificate.validity();
        Some(Self { names, valid: (time(validity.not_before), time(validity.not_after)) })
    }
}

/// A time of a certificate or a revocation list; what is before 1970 begins then.
pub(super) fn time(at: ASN1Time) -> SystemTime {
    let seconds = u64::try_from(at.timestamp()).unwrap_or(0);
    SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(seconds)
}

/// A distinguished name as text, its special characters escaped (RFC 4514 §2.4), so that no value can
/// look like another attribute. `None` when it is empty or has a value that is no text.
fn subject(name: &X509Name<'_>) -> Option<String> {
    let mut parts = Vec::new();
    for rdn in name.iter() {
        let mut attributes = Vec::new();
        for attribute in rdn.iter() {
            let oid = attribute.attr_type();
            let kind = oid2abbrev(oid, oid_registry()).map_or_else(|_| oid.to_id_string(), str::to_owned);
            attributes.push(format!("{kind}={}", escaped(attribute.as_str().ok()?)));
        }
        parts.push(attributes.join("+"));
    }
    parts.reverse();
    (!parts.is_empty()).then(|| parts.join(","))
}

fn escaped(value: &str) -> String {
    let last = value.chars().count().saturating_sub(1);
    let mut text = String::with_capacity(value.len());
    for (i, c) in value.chars().enumerate() {
        match c {
            '"' | '+' | ',' | ';' | '<' | '>' | '\\' => text.extend(['\\', c]),
            '#' if i == 0 => text.push_str("\\#"),
            ' ' if i == 0 || i == last => text.push_str("\\ "),
            c if c.is_control() => {
                let mut bytes = [0; 4];
                for byte in c.encode_utf8(&mut bytes).bytes() {
                    let _ = write!(text, "\\{byte:02X}");
                }
            }
            c => text.push(c),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_value_of_a_subject_can_look_like_another_attribute() {
        assert_eq!(escaped("a, O=b"), "a\\, O=b");
        assert_eq!(escaped(" #x+\"y\" "), "\\ #x\\+\\\"y\\\"\\ ");
        assert_eq!(escaped("#1\n"), "\\#1\\0A");
    }

    #[test]
    fn an_ipv6_peer_counts_by_its_network() {
        let counted = |text: &str| Via::Network(text.parse().expect("an address")).counted_as();
        assert_eq!(counted("[2001:db8::1]:1"), counted("[2001:db8::ffff]:2"));
        assert_ne!(counted("[2001:db8::1]:1"), counted("[2001:db8:0:1::1]:1"));
        assert_eq!(counted("[::ffff:10.0.0.1]:1"), counted("10.0.0.1:9"));
    }
}
