//! Checks of every request before its sender is identified: one valid `Host`, origin-form, no web page; on
//! loopback and Unix sockets nothing that a browser or a forged request could send.

use http::request::Parts;
use http::uri::Authority;
use http::{HeaderMap, HeaderValue, Version};

use super::{IdentifyError, Settings};
use crate::transport::Via;

/// The header fields that are checked, read in one pass: every request pays for it.
#[derive(Default)]
struct GuardedFields<'a> {
    host: FieldValues<'a>,
    coding: FieldValues<'a>,
    length: FieldValues<'a>,
    /// A web page sent it: `Origin`, or `Sec-Fetch-Site` other than `none` (which means a person).
    is_from_page: bool,
    /// Another proxy forwarded it.
    is_forwarded: bool,
}

/// The values of a field that may have one value.
#[derive(Default)]
struct FieldValues<'a> {
    first: Option<&'a HeaderValue>,
    has_more: bool,
}

impl<'a> FieldValues<'a> {
    const fn add(&mut self, value: &'a HeaderValue) {
        match self.first {
            None => self.first = Some(value),
            Some(_) => self.has_more = true,
        }
    }
}

impl<'a> GuardedFields<'a> {
    fn of(fields: &'a HeaderMap) -> Self {
        let mut seen = Self::default();
        for (name, value) in fields {
            match name.as_str() {
                "host" => seen.host.add(value),
                "transfer-encoding" => seen.coding.add(value),
                "content-length" => seen.length.add(value),
                "origin" => seen.is_from_page = true,
                "sec-fetch-site" => seen.is_from_page |= value != "none",
                "forwarded" | "x-forwarded-for" | "x-forwarded-host" | "x-real-ip" => {
                    seen.is_forwarded = true;
                }
                _ => {}
            }
        }
        seen
    }
}

/// Checks a request that came in `via`.
pub(super) fn check(parts: &Parts, via: Via, settings: &Settings) -> Result<(), IdentifyError> {
    let seen = GuardedFields::of(&parts.headers);
    framing(parts.version, &seen)?;
    let authority = target_authority(parts, &seen.host)?;
    let host = sound_host(&authority)?;
    if seen.is_from_page {
        return Err(IdentifyError::WebPage);
    }
    if let Some((name, value)) = &settings.required_header {
        let mut given = parts.headers.get_all(name).iter();
        let (first, more) = (given.next(), given.next());
        let right = first.is_some_and(|first| value.as_ref().is_none_or(|value| value == first));
        if !right || more.is_some() {
            return Err(IdentifyError::RequiredHeader);
        }
    }
    match via {
        Via::Network(_) => return Ok(()),
        Via::Unix(_) => {}
        Via::Loopback(_) if is_ours(host, &settings.hosts) => {}
        Via::Loopback(_) => return Err(IdentifyError::ForeignHost),
    }
    if seen.is_forwarded && !settings.allow_forwarded {
        return Err(IdentifyError::Forwarded);
    }
    Ok(())
}

/// Refuses lengths that another server could read otherwise (RFC 9112 §6): what is no plain chunked coding,
/// what HTTP/1.0 does not have, and numbers that are not written plainly.
fn framing(
    version: Version,
    GuardedFields { coding: codings, length: lengths, .. }: &GuardedFields<'_>,
) -> Result<(), IdentifyError> {
    let (coding, length) = (codings.first, lengths.first);
    if version >= Version::HTTP_2 || (coding.is_none() && length.is_none()) {
        return Ok(());
    }
    let plain_coding = coding.is_none_or(|coding| {
        version == Version::HTTP_11 && coding.as_bytes().eq_ignore_ascii_case(b"chunked")
    });
    let plain_length = length.is_none_or(|length| {
        let digits = length.as_bytes();
        digits.iter().all(u8::is_ascii_digit)
            && (digits == b"0" || digits.first().is_some_and(|d| *d != b'0'))
    });
    let one_of_each = !codings.has_more && !lengths.has_more;
    let one_of_both = coding.is_none() || length.is_none();
    let sound = plain_coding && plain_length && one_of_each && one_of_both;
    sound.then_some(()).ok_or(IdentifyError::Framing)
}

/// The host that a request names (RFC 9110 §7.2, RFC 9112 §3.2, RFC 9113 §8.3.1).
///
/// # Errors
/// When it names none, or not in a valid form.
pub fn authority(parts: &Parts) -> Result<Authority, IdentifyError> {
    let authority = target_authority(parts, &GuardedFields::of(&parts.headers).host)?;
    sound_host(&authority)?;
    Ok(authority)
}

fn target_authority(parts: &Parts, hosts: &FieldValues<'_>) -> Result<Authority, IdentifyError> {
    if hosts.has_more {
        return Err(IdentifyError::Host);
    }
    let host = hosts.first.map(authority_of).transpose()?;
    match (parts.version >= Version::HTTP_2, parts.uri.authority(), host) {
        (false, Some(_), _) if parts.uri.scheme().is_some() => Err(IdentifyError::TargetForm),
        (true, Some(authority), None) => Ok(authority.clone()),
        (true, Some(authority), Some(host)) if host == *authority => Ok(host),
        // The target of CONNECT in HTTP/1.1 is an authority without a scheme; the route refuses it. An intermediary may
        // translate HTTP/1.1 to HTTP/2 and keep `Host` instead of `:authority`.
        (false, _, Some(host)) | (true, None, Some(host)) => Ok(host),
        _ => Err(IdentifyError::Host),
    }
}

/// The host of an authority: not empty, without user information.
fn sound_host(authority: &Authority) -> Result<&str, IdentifyError> {
    let host = authority.host();
    let sound = !host.is_empty() && !authority.as_str().contains('@');
    sound.then_some(host).ok_or(IdentifyError::Host)
}

fn authority_of(host: &HeaderValue) -> Result<Authority, IdentifyError> {
    Authority::try_from(host.as_bytes()).map_err(|_| IdentifyError::Host)
}

/// True if a name means this machine without DNS, or is in `named`: DNS rebinding uses any other name.
#[must_use]
pub fn is_ours(host: &str, named: &[String]) -> bool {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    host.eq_ignore_ascii_case("localhost")
        || bare.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
        || named.iter().any(|name| name.eq_ignore_ascii_case(host))
}

#[cfg(test)]
mod tests {
    use http::{HeaderName, Request};

    use super::*;

    const LOOPBACK: Via =
        Via::Loopback(std::net::SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 1));

    fn parts(version: Version, uri: &str, fields: &[(&str, &str)]) -> Parts {
        let mut request = Request::builder().version(version).uri(uri);
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        request.body(()).expect("a request").into_parts().0
    }

    fn settings() -> Settings {
        Settings {
            clients: None,
            hosts: vec!["gate.internal".to_owned()],
            allow_forwarded: false,
            required_header: None,
            hide: false,
            max_failures: 1,
            files_basic: false,
            tokens: None,
        }
    }

    fn h1(via: Via, fields: &[(&str, &str)], settings: &Settings) -> Result<(), IdentifyError> {
        check(&parts(Version::HTTP_11, "/", fields), via, settings)
    }

    #[test]
    fn exactly_one_sound_host_is_needed() {
        let network = Via::Network(([192, 0, 2, 1], 1).into());
        let settings = settings();
        assert_eq!(h1(network, &[("host", "any.example:7080")], &settings), Ok(()));
        for bad in [
            &[][..],
            &[("host", "a"), ("host", "a")],
            &[("host", "")],
            &[("host", "a b")],
            &[("host", "u@a")],
            &[("host", "a/b")],
            &[("host", "a:b:c")],
        ] {
            assert_eq!(h1(network, bad, &settings), Err(IdentifyError::Host), "{bad:?}");
        }
        let absolute = parts(Version::HTTP_11, "http://a/", &[("host", "a")]);
        assert_eq!(check(&absolute, network, &settings), Err(IdentifyError::TargetForm));
        let h2 = |fields: &[(&str, &str)]| {
            check(&parts(Version::HTTP_2, "http://a:1/", fields), network, &settings)
        };
        assert_eq!(h2(&[]), Ok(()));
        assert_eq!(h2(&[("host", "a:1")]), Ok(()));
        assert_eq!(h2(&[("host", "b")]), Err(IdentifyError::Host));
        let h2_without_authority =
            |fields: &[(&str, &str)]| check(&parts(Version::HTTP_2, "/", fields), network, &settings);
        assert_eq!(h2_without_authority(&[("host", "a:1")]), Ok(()));
        for bad in [&[][..], &[("host", "a"), ("host", "a")], &[("host", "")], &[("host", "u@a")]] {
            assert_eq!(h2_without_authority(bad), Err(IdentifyError::Host), "{bad:?}");
        }
    }

    #[test]
    fn a_length_that_can_be_read_in_two_ways_is_refused() {
        let settings = settings();
        let with = |name, value| [("host", "localhost"), (name, value)];
        for (name, value) in [
            ("transfer-encoding", "gzip, chunked"),
            ("transfer-encoding", ",chunked"),
            ("transfer-encoding", "chunked,"),
            ("content-length", "010"),
            ("content-length", "+1"),
            ("content-length", "1, 1"),
            ("content-length", ""),
        ] {
            assert_eq!(h1(LOOPBACK, &with(name, value), &settings), Err(IdentifyError::Framing), "{value}");
        }
        for (name, value) in
            [("transfer-encoding", "Chunked"), ("content-length", "0"), ("content-length", "10")]
        {
            assert_eq!(h1(LOOPBACK, &with(name, value), &settings), Ok(()), "{value}");
        }
        let old = parts(Version::HTTP_10, "/", &with("transfer-encoding", "chunked"));
        assert_eq!(check(&old, LOOPBACK, &settings), Err(IdentifyError::Framing));
    }

    #[test]
    fn on_loopback_only_names_of_this_machine_are_answered() {
        let settings = settings();
        for ours in
            ["localhost:7080", "LOCALHOST", "127.0.0.1:1", "127.9.9.9", "[::1]:7080", "Gate.Internal:1"]
        {
            assert_eq!(h1(LOOPBACK, &[("host", ours)], &settings), Ok(()), "{ours}");
        }
        for foreign in
            ["evil.example", "localhost.evil.example", "127.0.0.1.evil.example", "10.0.0.1", "[::2]"]
        {
            assert_eq!(
                h1(LOOPBACK, &[("host", foreign)], &settings),
                Err(IdentifyError::ForeignHost),
                "{foreign}"
            );
        }
        assert_eq!(h1(Via::Unix(None), &[("host", "any.example")], &settings), Ok(()));
    }

    #[test]
    fn what_a_browser_or_another_proxy_sends_is_refused_by_its_reason() {
        let mut settings = settings();
        let with = |name, value| [("host", "localhost"), (name, value)];
        assert_eq!(h1(LOOPBACK, &with("origin", "null"), &settings), Err(IdentifyError::WebPage));
        for site in ["same-origin", "same-site", "cross-site"] {
            assert_eq!(h1(LOOPBACK, &with("sec-fetch-site", site), &settings), Err(IdentifyError::WebPage));
        }
        assert_eq!(h1(LOOPBACK, &with("sec-fetch-site", "none"), &settings), Ok(()));
        let twice = [("host", "localhost"), ("sec-fetch-site", "none"), ("sec-fetch-site", "cross-site")];
        assert_eq!(h1(LOOPBACK, &twice, &settings), Err(IdentifyError::WebPage));
        for name in ["x-forwarded-for", "forwarded", "x-real-ip", "x-forwarded-host"] {
            assert_eq!(h1(LOOPBACK, &with(name, "x"), &settings), Err(IdentifyError::Forwarded), "{name}");
            assert_eq!(
                h1(Via::Unix(None), &with(name, "x"), &settings),
                Err(IdentifyError::Forwarded),
                "{name}"
            );
        }
        settings.allow_forwarded = true;
        assert_eq!(h1(LOOPBACK, &with("x-forwarded-for", "x"), &settings), Ok(()));
        let name = HeaderName::from_static("x-gate");
        settings.required_header = Some((name.clone(), None));
        assert_eq!(h1(LOOPBACK, &with("accept", "x"), &settings), Err(IdentifyError::RequiredHeader));
        assert_eq!(h1(LOOPBACK, &with("x-gate", "any"), &settings), Ok(()));
        settings.required_header = Some((name, Some(HeaderValue::from_static("yes"))));
        assert_eq!(h1(LOOPBACK, &with("x-gate", "any"), &settings), Err(IdentifyError::RequiredHeader));
        assert_eq!(h1(LOOPBACK, &with("x-gate", "yes"), &settings), Ok(()));
    }
}
