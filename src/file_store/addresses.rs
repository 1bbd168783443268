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
    let [a, b, c, d, e, f, g, h] = address.segments();
    let of = |high: u16, low: u16| Ipv4Addr::from((u32::from(high) << 16) | u32::from(low));
    match (a, b) {
        (0x64, 0xff9b) if [c, d, e, f] == [0; 4] => Some(of(g, h)),
        (0x2002, _) => Some(of(b, c)),
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
