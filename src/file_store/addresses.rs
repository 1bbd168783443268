//! Addresses that are not public (pure), after IANA's registries of special-purpose addresses.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// True if a connection to `address` may be opened for a link to `host`. An address that stands in the link itself is there
/// because `files.origins` names it.
pub(super) fn may_be_asked(host: &str, address: IpAddr, private: &[IpNet]) -> bool {
    host.parse::<IpAddr>().is_ok() || is_allowed(address.to_canonical(), private)
}

fn is_allowed(address: IpAddr, private: &[IpNet]) -> bool {
    private.iter().any(|network| network.contains(&address))
        || match address {
            IpAddr::V4(address) => !NOT_PUBLIC_V4.iter().any(|network| network.contains(&address)),
            IpAddr::V6(address) => match embedded(address) {
                Some(inner) => is_allowed(inner.into(), private),
                None => {
                    PUBLIC_V6.contains(&address)
                        && !NOT_PUBLIC_V6.iter().any(|network| network.contains(&address))
                }
            },
        }
}

/// The IPv4 address that a translator (RFC 6052) or a 6to4 router (RFC 3056) sends to.
fn embedded(address: Ipv6Addr) -> Option<Ipv4Addr> {
    match address.octets() {
        [0, 0x64, 0xff, 0x9b, 0, 0, 0, 0, 0, 0, 0, 0, inner @ ..] => Some(Ipv4Addr::from(inner)),
        [0x20, 0x02, a, b, c, d, ..] => Some(Ipv4Addr::new(a, b, c, d)),
        _ => None,
    }
}

const fn v4(a: u8, b: u8, c: u8, d: u8, prefix: u8) -> Ipv4Net {
    Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, d), prefix)
}

const fn v6(a: u16, b: u16, prefix: u8) -> Ipv6Net {
    Ipv6Net::new_assert(Ipv6Addr::new(a, b, 0, 0, 0, 0, 0, 0), prefix)
}

const NOT_PUBLIC_V4: [Ipv4Net; 17] = [
    v4(0, 0, 0, 0, 8),
    v4(10, 0, 0, 0, 8),
    v4(100, 64, 0, 0, 10),
    v4(127, 0, 0, 0, 8),
    // Azure's host of each machine, which answers on a public address.
    v4(168, 63, 129, 16, 32),
    v4(169, 254, 0, 0, 16),
    v4(172, 16, 0, 0, 12),
    v4(192, 0, 0, 0, 24),
    v4(192, 0, 2, 0, 24),
    v4(192, 88, 99, 0, 24),
    v4(192, 168, 0, 0, 16),
    v4(198, 18, 0, 0, 15),
    v4(198, 51, 100, 0, 24),
    v4(203, 0, 113, 0, 24),
    v4(224, 0, 0, 0, 4),
    v4(240, 0, 0, 0, 4),
    v4(255, 255, 255, 255, 32),
];

/// Global unicast: all others (loopback, ULA, link-local, multicast and what is not assigned) are not public.
const PUBLIC_V6: Ipv6Net = v6(0x2000, 0, 3);
/// Protocol assignments with Teredo, documentation.
const NOT_PUBLIC_V6: [Ipv6Net; 3] = [v6(0x2001, 0, 23), v6(0x2001, 0xdb8, 32), v6(0x3fff, 0, 20)];

#[cfg(test)]
mod tests {
    use super::*;

    fn is_asked(host: &str, address: &str, private: &[&str]) -> bool {
        let private: Vec<IpNet> = private.iter().map(|text| text.parse().expect("a network")).collect();
        may_be_asked(host, address.parse().expect("an address"), &private)
    }

    #[test]
    fn only_public_addresses_are_asked() {
        for address in [
            "0.0.0.0",
            "0.1.2.3",
            "10.0.0.1",
            "10.255.255.255",
            "100.64.0.1",
            "100.100.100.200",
            "100.127.255.255",
            "127.0.0.1",
            "127.255.255.254",
            "168.63.129.16",
            "169.254.169.254",
            "172.16.0.1",
            "172.31.255.255",
            "192.0.0.192",
            "192.0.2.1",
            "192.168.1.1",
            "198.18.0.1",
            "198.19.255.255",
            "198.51.100.1",
            "203.0.113.1",
            "224.0.0.1",
            "239.255.255.255",
            "240.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::127.0.0.1",
            "::8.8.8.8",
            "::ffff:10.0.0.1",
            "::ffff:127.0.0.1",
            "::ffff:169.254.169.254",
            "64:ff9b::10.0.0.1",
            "64:ff9b::169.254.169.254",
            "64:ff9b:1::8.8.8.8",
            "64:ff9b::1:808:808",
            "100::1",
            "2001::1",
            "2001:db8::1",
            "2002:a00:1::",
            "2002:7f00:1::1",
            "2002:a9fe:a9fe::1",
            "3fff::1",
            "4000::1",
            "5f00::1",
            "fc00::1",
            "fd00:ec2::254",
            "fe80::1",
            "fec0::1",
            "ff02::1",
        ] {
            assert!(!is_asked("files.example", address, &[]), "{address}");
        }
        for address in [
            "8.8.8.8",
            "9.255.255.255",
            "11.0.0.0",
            "100.63.255.255",
            "100.128.0.0",
            "172.15.255.255",
            "172.32.0.0",
            "223.255.255.255",
            "142.250.0.1",
            "::ffff:8.8.8.8",
            "64:ff9b::8.8.8.8",
            "2002:808:808::1",
            "2001:4860:4860::8888",
            "2600:1f00::1",
            "2a00:1450:4001::1",
        ] {
            assert!(is_asked("files.example", address, &[]), "{address}");
        }
    }

    #[test]
    fn private_networks_are_asked_where_they_are_named() {
        for (address, network, expected) in [
            ("10.20.1.1", "10.20.0.0/16", true),
            ("10.21.1.1", "10.20.0.0/16", false),
            ("::ffff:10.20.1.1", "10.20.0.0/16", true),
            ("64:ff9b::10.20.1.1", "10.20.0.0/16", true),
            ("fd12::1", "fd12::/16", true),
            ("fd13::1", "fd12::/16", false),
            ("127.0.0.1", "127.0.0.1/32", true),
            ("127.0.0.2", "127.0.0.1/32", false),
        ] {
            assert_eq!(is_asked("files.example", address, &[network]), expected, "{address} {network}");
        }
        // Such a link was allowed by its address.
        assert!(is_asked("127.0.0.1", "127.0.0.1", &[]) && is_asked("::1", "::1", &[]));
    }
}
