//! The proxy between us and other hosts, as `HTTPS_PROXY` and `NO_PROXY` name it, and tunnels through it.

use std::collections::HashMap;
use std::fmt;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use http::header::{HOST, PROXY_AUTHORIZATION};
use http::uri::Authority;
use http::{HeaderValue, Request, StatusCode, Uri};
use http_body_util::Empty;
use hyper::client::conn::http1;
use hyper_util::client::proxy::matcher::Matcher;
use hyper_util::rt::TokioIo;
use percent_encoding::percent_decode_str;
use tokio::net::TcpStream;

use super::MAX_RESPONSE_HEAD;
use crate::error_text::BoxError;

/// The variables that name a proxy for HTTPS, in the order in which they count, as with curl.
const NAMED_BY: [&str; 4] = ["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"];

/// The variables that name the exceptions, likewise.
const EXCEPTED_BY: [&str; 2] = ["NO_PROXY", "no_proxy"];

/// A proxy that opens tunnels (RFC 9110 §9.3.6). It prints as `HOST:PORT (VARIABLE)`, without its password.
#[derive(Debug, Clone)]
pub struct Proxy {
    pub(super) host: String,
    pub(super) port: u16,
    authorization: Option<HeaderValue>,
    variable: &'static str,
}

impl fmt::Display for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{} ({})", self.host, self.port, self.variable)
    }
}

/// The choice of the proxy to a destination.
#[derive(Debug, Clone)]
pub(super) enum Proxies {
    /// This one, or none, for the one destination that there is.
    One(Option<Proxy>),
    /// By the environment, for each destination anew.
    ByHost(ProxyVariables),
}

/// The variables that name proxies and exceptions. They may hold a password.
#[derive(Clone)]
pub(super) struct ProxyVariables(HashMap<&'static str, String>);

impl Proxies {
    /// The proxy for `destination`.
    ///
    /// # Errors
    /// [`BadProxy`].
    pub(super) fn to(&self, destination: &Uri) -> Result<Option<Proxy>, BadProxy> {
        match self {
            Self::One(proxy) => Ok(proxy.clone()),
            Self::ByHost(ProxyVariables(given)) => {
                Proxy::for_destination(destination, |name| given.get(name).cloned())
            }
        }
    }
}

impl ProxyVariables {
    /// Takes them from an environment.
    pub(super) fn of(variable: impl Fn(&str) -> Option<String>) -> Self {
        let names = NAMED_BY.into_iter().chain(EXCEPTED_BY);
        Self(names.filter_map(|name| Some((name, variable(name)?))).collect())
    }
}

impl fmt::Debug for ProxyVariables {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

/// A variable names no proxy that we can use. Its text may hold a password, and is not repeated.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{variable}: {}", Self::WHAT)]
pub struct BadProxy {
    /// The variable.
    pub variable: &'static str,
}

impl BadProxy {
    /// The form that the variable must have.
    pub const WHAT: &'static str = "must be http://[USER:PASSWORD@]HOST[:PORT]; proxies of another kind (https, socks5) are not supported";
}

/// The proxy refused a tunnel.
#[derive(Debug, thiserror::Error)]
#[error("it answers CONNECT with {0}")]
pub(super) struct TunnelRefused(pub(super) StatusCode);

/// The proxy sent more than its answer.
#[derive(Debug, thiserror::Error)]
#[error("it sends data of its own through the tunnel")]
struct TunnelSpoke;

impl Proxy {
    /// The proxy for `destination`, by the environment that `variable` reads. Only `https` goes through a proxy.
    ///
    /// # Errors
    /// [`BadProxy`], where the variable that counts cannot be read. It is not ignored: going past a proxy is not for us to
    /// decide.
    pub fn for_destination(
        destination: &Uri,
        variable: impl Fn(&str) -> Option<String>,
    ) -> Result<Option<Self>, BadProxy> {
        let set = |name: &str| variable(name).filter(|text| !text.trim().is_empty());
        let named = NAMED_BY.iter().find_map(|name| Some((*name, set(name)?)));
        let Some((name, text)) = named.filter(|_| destination.scheme_str() == Some("https")) else {
            return Ok(None);
        };
        let exceptions = EXCEPTED_BY.iter().find_map(|name| set(name)).unwrap_or_default();
        if is_excepted(destination, &exceptions) {
            return Ok(None);
        }
        Self::parse(text.trim(), name).ok_or(BadProxy { variable: name }).map(Some)
    }

    /// Reads it by hand: people write passwords as they are, and a URL parser would end at a `#`, `/` or `?` in one.
    fn parse(text: &str, variable: &'static str) -> Option<Self> {
        let rest = match text.split_once("://") {
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("http") => rest,
            Some(_) => return None,
            None => text,
        };
        let (login, place) =
            rest.rsplit_once('@').map_or((None, rest), |(login, place)| (Some(login), place));
        let place: Authority = place.split(['/', '?', '#']).next()?.parse().ok()?;
        // Besides a host there may be a port, and nothing else.
        let is_host_alone = place.as_str() == place.host();
        let port = if is_host_alone { 80 } else { place.port_u16()? };
        let host = Some(place.host().trim_matches(['[', ']'])).filter(|host| !host.is_empty())?.to_owned();
        let authorization = login.map(basic).transpose().ok()?;
        Some(Self { host, port, authorization, variable })
    }

    /// Opens a tunnel to `target` (`HOST:PORT`) on a connection to the proxy.
    ///
    /// # Errors
    /// [`TunnelRefused`], or what ended the connection.
    pub(super) async fn tunnel(&self, tcp: TcpStream, target: &str) -> Result<TcpStream, BoxError> {
        let mut request = Request::connect(target).header(HOST, target);
        if let Some(authorization) = &self.authorization {
            request = request.header(PROXY_AUTHORIZATION, authorization);
        }
        let request = request.body(Empty::<Bytes>::new())?;
        let mut client = http1::Builder::new();
        client.max_buf_size(MAX_RESPONSE_HEAD);
        let (mut sender, connection) = client.handshake(TokioIo::new(tcp)).await?;
        let connection = async { connection.with_upgrades().await.map_err(BoxError::from) };
        let answer = async {
            let response = sender.send_request(request).await?;
            if response.status().is_success() {
                Ok(response)
            } else {
                Err(TunnelRefused(response.status()).into())
            }
        };
        let ((), response) = futures_util::future::try_join(connection, answer).await?;
        let tunnel = hyper::upgrade::on(response).await?;
        let parts = tunnel.downcast::<TokioIo<TcpStream>>().map_err(|_| "no tunnel")?;
        if !parts.read_buf.is_empty() {
            return Err(TunnelSpoke.into());
        }
        Ok(parts.io.into_inner())
    }
}

/// `USER:PASSWORD`, percent-encoded or not, as a field (RFC 7617).
fn basic(login: &str) -> Result<HeaderValue, http::header::InvalidHeaderValue> {
    let (user, password) = login.split_once(':').unwrap_or((login, ""));
    let decoded: Vec<u8> =
        percent_decode_str(user).chain(std::iter::once(b':')).chain(percent_decode_str(password)).collect();
    let mut field = HeaderValue::try_from(format!("Basic {}", BASE64_STANDARD.encode(decoded)))?;
    field.set_sensitive(true);
    Ok(field)
}

/// True if `exceptions`, a list as in `NO_PROXY`, names the destination. Its hosts, domains and networks are as with curl.
/// Beyond that, `HOST:PORT` stands for that port alone and `*.DOMAIN` for `.DOMAIN`, as with Go.
fn is_excepted(destination: &Uri, exceptions: &str) -> bool {
    let port = destination.port_u16().unwrap_or(443);
    let hosts = exceptions.split([',', ' ']).filter_map(|entry| {
        let entry = entry.strip_prefix('*').filter(|domain| domain.starts_with('.')).unwrap_or(entry);
        match entry.rsplit_once(':') {
            // What has more colons and no brackets is an IPv6 address.
            Some((host, only)) if !host.contains(':') || host.ends_with(']') => {
                (only.parse() == Ok(port)).then(|| host.trim_matches(['[', ']']))
            }
            _ => Some(entry.trim_matches(['[', ']'])),
        }
    });
    let hosts: Vec<&str> = hosts.collect();
    let any = Matcher::builder().https("http://proxy").no(hosts.join(",")).build();
    any.intercept(destination).is_none()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(pairs: &[(&str, &str)], destination: &str) -> Result<Option<Proxy>, BadProxy> {
        let variable =
            |name: &str| pairs.iter().find(|(given, _)| *given == name).map(|(_, value)| (*value).to_owned());
        Proxy::for_destination(&destination.parse().expect("a URI"), variable)
    }

    #[test]
    fn a_password_may_have_any_character() {
        for (text, place, login) in [
            ("http://proxy.test:3128", "proxy.test:3128", None),
            ("HTTP://proxy.test:3128/", "proxy.test:3128", None),
            ("proxy.test", "proxy.test:80", None),
            ("http://[::1]:8080", "::1:8080", None),
            ("http://user:pass@proxy.test:3128", "proxy.test:3128", Some("user:pass")),
            ("http://user:p%23a%40b@proxy.test:3128", "proxy.test:3128", Some("user:p#a@b")),
            ("http://user:p#a@b/c?d:e@proxy.test:3128/", "proxy.test:3128", Some("user:p#a@b/c?d:e")),
            ("http://user:100%@proxy.test", "proxy.test:80", Some("user:100%")),
            ("http://user@proxy.test", "proxy.test:80", Some("user:")),
        ] {
            let proxy = with(&[("HTTPS_PROXY", text)], "https://api.snyk.io/");
            let proxy = proxy.expect("it can be read").expect("a proxy");
            assert_eq!(proxy.to_string(), format!("{place} (HTTPS_PROXY)"), "{text}");
            let field = login.map(|login| format!("Basic {}", BASE64_STANDARD.encode(login)));
            assert_eq!(
                proxy.authorization.as_ref().map(HeaderValue::as_bytes),
                field.as_deref().map(str::as_bytes)
            );
            assert!(!format!("{proxy:?}").contains("Basic"));
        }
        for text in [
            "https://proxy.test",
            "socks5://proxy.test:1080",
            "http://",
            "http://a b:1",
            "http://proxy:x",
            "http://user:hunter2@",
        ] {
            let error = with(&[("https_proxy", text)], "https://api.snyk.io/").expect_err(text);
            assert_eq!(error, BadProxy { variable: "https_proxy" });
            assert!(!error.to_string().contains("hunter2"));
        }
    }

    #[test]
    fn the_variables_count_in_order_and_for_https_alone() {
        let of = |pairs: &[(&str, &str)], destination: &str| {
            with(pairs, destination).expect("it can be read").map(|proxy| proxy.to_string())
        };
        let all = [("all_proxy", "all"), ("ALL_PROXY", "ALL"), ("https_proxy", "low"), ("HTTPS_PROXY", "up")];
        let named =
            ["all:80 (all_proxy)", "ALL:80 (ALL_PROXY)", "low:80 (https_proxy)", "up:80 (HTTPS_PROXY)"];
        for (n, expected) in named.into_iter().enumerate() {
            assert_eq!(of(&all[..=n], "https://api.snyk.io/").as_deref(), Some(expected));
        }
        assert_eq!(
            of(&[("HTTPS_PROXY", ""), ("ALL_PROXY", "a")], "https://b/").as_deref(),
            Some("a:80 (ALL_PROXY)")
        );
        assert_eq!(of(&all, "http://api.snyk.io/"), None);
        assert_eq!(of(&[], "https://api.snyk.io/"), None);
    }

    #[test]
    fn no_proxy_names_hosts_domains_networks_and_ports() {
        for (exceptions, destination, excepted) in [
            ("api.snyk.io", "https://api.snyk.io/", true),
            ("snyk.io", "https://api.snyk.io/", true),
            (".snyk.io", "https://api.snyk.io/", true),
            ("*.snyk.io", "https://api.snyk.io/", true),
            ("nyk.io", "https://api.snyk.io/", false),
            ("localhost, api.snyk.io", "https://api.snyk.io/", true),
            ("localhost api.snyk.io", "https://api.snyk.io/", true),
            ("*", "https://api.snyk.io/", true),
            ("api.snyk.io:443", "https://api.snyk.io/", true),
            ("api.snyk.io:443", "https://api.snyk.io:8443/", false),
            (".snyk.io:8443", "https://api.snyk.io:8443/", true),
            ("127.0.0.1:8443", "https://127.0.0.1:8443/", true),
            ("127.0.0.1:8443", "https://127.0.0.1:9443/", false),
            ("127.0.0.0/8", "https://127.0.0.1:9443/", true),
            ("::1", "https://[::1]:9443/", true),
            ("[::1]:9443", "https://[::1]:9443/", true),
            ("[::1]:9444", "https://[::1]:9443/", false),
            ("", "https://api.snyk.io/", false),
        ] {
            let found = with(&[("HTTPS_PROXY", "p"), ("NO_PROXY", exceptions)], destination);
            assert_eq!(found.expect("it can be read").is_none(), excepted, "{exceptions} {destination}");
        }
    }
}
