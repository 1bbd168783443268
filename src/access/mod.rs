//! Who calls us.

use std::sync::Arc;

use http::header::{HOST, ORIGIN};
use http::request::Parts;
use http::uri::Authority;
use http::{HeaderValue, Version};

/// Who sent a request, as the journal and the log name them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Principal {
    /// The client's name.
    pub name: Arc<str>,
}

impl Principal {
    /// Whoever can reach a loopback address or our Unix socket.
    #[must_use]
    pub fn local() -> Self {
        Self { name: "local".into() }
    }
}

/// Why a request is nobody's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unidentified {
    /// It does not say, exactly once and in a valid form, which host it is for (RFC 9110 §7.2,
    /// RFC 9112 §3.2, RFC 9113 §8.3.1).
    Host,
    /// It has an `Origin` (RFC 6454 §7): a web page makes a browser send it, from wherever that page is.
    WebPage,
    /// Its target is in absolute-form (RFC 9112 §3.2.2), which is for forward proxies.
    TargetForm,
}

/// Identifies who sent a request. Listeners are loopback addresses and Unix sockets only, so that this
/// is always the local principal.
///
/// # Errors
/// [`Unidentified`].
pub fn identify(parts: &Parts) -> Result<Principal, Unidentified> {
    if parts.headers.contains_key(ORIGIN) {
        return Err(Unidentified::WebPage);
    }
    let mut hosts = parts.headers.get_all(HOST).iter();
    let host = hosts.next().map(authority_of).transpose()?;
    if hosts.next().is_some() {
        return Err(Unidentified::Host);
    }
    let authority = match (parts.version >= Version::HTTP_2, parts.uri.authority(), host) {
        (false, Some(_), _) if parts.uri.scheme().is_some() => return Err(Unidentified::TargetForm),
        // CONNECT's target is an authority without a scheme; the route refuses it.
        (false, _, Some(host)) => host,
        (true, Some(authority), None) => authority.clone(),
        (true, Some(authority), Some(host)) if host == *authority => host,
        _ => return Err(Unidentified::Host),
    };
    if authority.as_str().contains('@') || authority.host().is_empty() {
        return Err(Unidentified::Host);
    }
    Ok(Principal::local())
}

fn authority_of(host: &HeaderValue) -> Result<Authority, Unidentified> {
    Authority::try_from(host.as_bytes()).map_err(|_| Unidentified::Host)
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    fn parts(version: Version, uri: &str, hosts: &[&str]) -> Parts {
        let mut request = Request::builder().version(version).uri(uri);
        for host in hosts {
            request = request.header(HOST, *host);
        }
        request.body(()).expect("a request").into_parts().0
    }

    #[test]
    fn exactly_one_sound_host_is_needed() {
        let h1 = |uri, hosts: &[&str]| identify(&parts(Version::HTTP_11, uri, hosts)).is_ok();
        assert!(h1("/", &["localhost:7080"]));
        assert!(h1("/", &["[::1]:7080"]));
        for bad in [&[][..], &["a", "a"], &[""], &["a b"], &["user@a"], &["a/b"], &["a:b:c"]] {
            assert!(!h1("/", bad), "{bad:?}");
        }
        assert!(!h1("http://localhost/", &["localhost"]));
        let mut page = parts(Version::HTTP_11, "/", &["localhost"]);
        page.headers.insert(ORIGIN, HeaderValue::from_static("https://page.example"));
        assert_eq!(identify(&page), Err(Unidentified::WebPage));
        let h2 = |hosts: &[&str]| identify(&parts(Version::HTTP_2, "http://a:1/", hosts)).is_ok();
        assert!(h2(&[]));
        assert!(h2(&["a:1"]));
        assert!(!h2(&["b"]));
    }
}
