//! Opening connections: resolve the name, try its addresses (RFC 8305), have a proxy open a tunnel, speak TLS.

use std::collections::HashMap;
use std::fmt;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use http::Uri;
use hyper_rustls::MaybeHttpsStream;
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout_at};
use tokio_rustls::TlsConnector;

use super::proxy::{Proxies, TunnelRefused};
use super::resolve::{AddressCheck, Resolver};
use crate::error_text::BoxError;

/// A connection that requests can be sent on.
pub(super) type UpstreamStream = MaybeHttpsStream<TokioIo<TcpStream>>;

/// Delay before the next address is tried beside the last (recommended by RFC 8305 §5).
const ATTEMPT_DELAY: Duration = Duration::from_millis(250);
/// Time for which an address's failure is remembered.
const FAILURE_MEMORY: Duration = Duration::from_mins(10);
/// Idle time after which a connection is probed.
const KEEPALIVE: Duration = Duration::from_mins(1);

/// Opens connections.
pub(super) struct Connector {
    pub(super) tls: TlsConnector,
    pub(super) proxies: Proxies,
    pub(super) resolver: Resolver,
    /// The addresses that may be connected to; without it, all.
    pub(super) check: Option<AddressCheck>,
    /// Longest time for name, TCP, tunnel and TLS together.
    pub(super) limit: Duration,
    /// Longest time for which sent data may stay unacknowledged (`TCP_USER_TIMEOUT`).
    pub(super) unacknowledged: Duration,
    pub(super) failures: AddressFailures,
}

/// The steps of opening a connection, each as the one that failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConnectStage {
    /// The name was not resolved.
    Resolve,
    /// No address of the name may be connected to.
    Address,
    /// No address took a TCP connection.
    Connect,
    /// The proxy opened no tunnel.
    Tunnel,
    /// No TLS.
    Tls,
}

/// No connection was opened, so that no request was sent.
#[derive(Debug)]
pub struct ConnectError {
    /// The step that failed.
    pub stage: ConnectStage,
    /// The proxy, where it is the proxy that failed.
    proxy: Option<String>,
    /// The destination, as `HOST:PORT`.
    host: String,
    source: BoxError,
}

/// The connection was not open in time.
#[derive(Debug, thiserror::Error)]
#[error("not within {} ms", .0.as_millis())]
pub(super) struct TimedOut(Duration);

impl ConnectError {
    /// The proxy that failed, as `HOST:PORT (VARIABLE)`.
    #[must_use]
    pub fn proxy(&self) -> Option<&str> {
        self.proxy.as_deref()
    }

    /// The status with which the proxy refused to open a tunnel.
    #[must_use]
    pub fn refused_with(&self) -> Option<http::StatusCode> {
        self.source.downcast_ref::<TunnelRefused>().map(|refused| refused.0)
    }

    /// True if it timed out.
    #[must_use]
    pub fn is_timeout(&self) -> bool {
        self.source.is::<TimedOut>()
    }
}

impl fmt::Display for ConnectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.proxy {
            Some(proxy) => write!(f, "the proxy {proxy}: ")?,
            None => write!(f, "{}: ", self.host)?,
        }
        f.write_str(match self.stage {
            ConnectStage::Resolve => "host name was not resolved",
            ConnectStage::Address => "no connection is allowed",
            ConnectStage::Connect => "connection failed",
            ConnectStage::Tunnel => "no tunnel opened",
            ConnectStage::Tls => "TLS handshake failed",
        })
    }
}

impl std::error::Error for ConnectError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&*self.source)
    }
}

impl Connector {
    /// One without a proxy that connects to any address. What acknowledges nothing after twice `dead_after` is closed.
    pub(super) fn to_any(tls: ClientConfig, limit: Duration, dead_after: Duration) -> Self {
        Self {
            tls: TlsConnector::from(Arc::new(tls)),
            proxies: Proxies::One(None),
            resolver: Resolver::System,
            check: None,
            limit,
            unacknowledged: 2 * dead_after,
            failures: AddressFailures::default(),
        }
    }

    /// Opens a connection to the host of `uri`.
    ///
    /// # Errors
    /// [`ConnectError`].
    pub(super) async fn connect(&self, uri: &Uri) -> Result<UpstreamStream, ConnectError> {
        let deadline = Instant::now() + self.limit;
        let is_tls = uri.scheme_str() == Some("https");
        let host = uri.host().unwrap_or_default();
        let name = host.trim_matches(['[', ']']);
        let port = uri.port_u16().unwrap_or(if is_tls { 443 } else { 80 });
        let target = format!("{host}:{port}");
        let failed = |stage, proxy: Option<String>, source| ConnectError {
            stage,
            proxy: proxy.filter(|_| stage != ConnectStage::Tls),
            host: target.clone(),
            source,
        };
        let proxy = self.proxies.to(uri).map_err(|e| failed(ConnectStage::Tunnel, None, e.into()))?;
        let shown = proxy.as_ref().map(ToString::to_string);
        let failed = |stage, source| failed(stage, shown.clone(), source);

        let (hop, hop_port) = proxy.as_ref().map_or((name, port), |proxy| (&proxy.host, proxy.port));
        let addresses = async { Ok(self.resolver.resolve(hop, hop_port).await?) };
        let addresses =
            self.in_time(deadline, addresses).await.map_err(|e| failed(ConnectStage::Resolve, e))?;
        // A proxy resolves the name itself.
        let addresses = match self.check.as_ref().filter(|_| proxy.is_none()) {
            None => addresses,
            Some(check) => {
                check.allowed(name, addresses).map_err(|e| failed(ConnectStage::Address, e.into()))?
            }
        };

        let racing = async { Ok(self.race(self.failures.order(addresses)).await?) };
        let (tcp, attempt) =
            self.in_time(deadline, racing).await.map_err(|e| failed(ConnectStage::Connect, e))?;

        let tcp = match &proxy {
            None => tcp,
            Some(proxy) => {
                let tunnel = proxy.tunnel(tcp, &target);
                self.in_time(deadline, tunnel).await.map_err(|e| failed(ConnectStage::Tunnel, e))?
            }
        };
        let stream = if is_tls {
            let handshake = async {
                let name = ServerName::try_from(name.to_owned())?;
                Ok(self.tls.connect(name, TokioIo::new(TokioIo::new(tcp))).await?)
            };
            self.in_time(deadline, handshake).await.map_err(|e| failed(ConnectStage::Tls, e))?.into()
        } else {
            TokioIo::new(tcp).into()
        };
        attempt.succeeded();
        Ok(stream)
    }

    async fn in_time<T>(
        &self,
        deadline: Instant,
        work: impl Future<Output = Result<T, BoxError>>,
    ) -> Result<T, BoxError> {
        timeout_at(deadline, work).await.unwrap_or_else(|_| Err(TimedOut(self.limit).into()))
    }

    /// Connects to one address after another, each [`ATTEMPT_DELAY`] after the one before or as soon as that has failed.
    /// The first connection wins (RFC 8305 §5).
    async fn race(&self, addresses: Vec<SocketAddr>) -> io::Result<(TcpStream, AddressAttempt<'_>)> {
        let mut addresses = addresses.into_iter();
        let mut running = FuturesUnordered::new();
        let mut last = io::Error::from(io::ErrorKind::AddrNotAvailable);
        loop {
            running.extend(addresses.next().map(|address| self.open(address)));
            tokio::select! {
                ended = running.next() => match ended {
                    Some(Ok(opened)) => return Ok(opened),
                    Some(Err(error)) => last = error,
                    None => return Err(last),
                },
                () = sleep(ATTEMPT_DELAY), if addresses.len() > 0 => {}
            }
        }
    }

    async fn open(&self, address: SocketAddr) -> io::Result<(TcpStream, AddressAttempt<'_>)> {
        let attempt = AddressAttempt { failures: &self.failures, address, succeeded: false };
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let socket = SockRef::from(&stream);
        socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(KEEPALIVE))?;
        socket.set_tcp_user_timeout(Some(self.unacknowledged))?;
        Ok((stream, attempt))
    }
}

/// The addresses that failed, with the time of each failure.
#[derive(Debug, Default)]
pub(super) struct AddressFailures(Mutex<HashMap<SocketAddr, Instant>>);

impl AddressFailures {
    /// The order to try them in: by turns of each family (RFC 8305 §4), those that failed last at the end. Within that it
    /// stays as the system's resolver has it (RFC 6724).
    fn order(&self, addresses: Vec<SocketAddr>) -> Vec<SocketAddr> {
        let count = addresses.len();
        let first_is_v6 = addresses.first().is_some_and(SocketAddr::is_ipv6);
        let (first, second): (Vec<_>, Vec<_>) =
            addresses.into_iter().partition(|address| address.is_ipv6() == first_is_v6);
        let (mut first, mut second) = (first.into_iter(), second.into_iter());
        let mut ordered: Vec<_> = (0..count).flat_map(|_| [first.next(), second.next()]).flatten().collect();
        let failures = self.lock();
        ordered.sort_by_key(|address| failures.get(address).copied());
        ordered
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<SocketAddr, Instant>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A try of one address. It counts as failed unless the whole connection came about: also where another address was
/// faster, or TLS failed.
struct AddressAttempt<'a> {
    failures: &'a AddressFailures,
    address: SocketAddr,
    succeeded: bool,
}

impl AddressAttempt<'_> {
    fn succeeded(mut self) {
        self.succeeded = true;
        self.failures.lock().remove(&self.address);
    }
}

impl Drop for AddressAttempt<'_> {
    fn drop(&mut self) {
        if !self.succeeded {
            let (mut failures, now) = (self.failures.lock(), Instant::now());
            failures.retain(|_, at| now.saturating_duration_since(*at) < FAILURE_MEMORY);
            failures.insert(self.address, now);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use rustls::RootCertStore;
    use socket2::{Domain, Socket, Type};

    use super::*;
    use crate::transport::proxy::ProxyVariables;

    const HOUR: Duration = Duration::from_hours(1);

    fn connector() -> Connector {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_root_certificates(RootCertStore::empty())
            .with_no_client_auth();
        Connector::to_any(config, HOUR, HOUR)
    }

    fn listener() -> (TcpListener, SocketAddr) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a listener");
        let address = listener.local_addr().expect("an address");
        (listener, address)
    }

    /// An address that answers nothing to who connects: its queue is full.
    fn silent() -> (SocketAddr, impl Sized) {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
        socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).expect("an address");
        socket.listen(0).expect("a listener");
        let address = socket.local_addr().ok().and_then(|address| address.as_socket()).expect("an address");
        let wait = Duration::from_millis(100);
        let connect = || std::net::TcpStream::connect_timeout(&address, wait).ok();
        let queued: Vec<_> = std::iter::from_fn(connect).collect();
        (address, (socket, queued))
    }

    #[tokio::test]
    async fn a_silent_address_costs_a_moment_and_comes_last_from_then_on() {
        let (connector, (silent, _queue), (_listener, good)) = (connector(), silent(), listener());
        let begun = Instant::now();
        let raced = connector.race(connector.failures.order(vec![silent, good])).await;
        let (tcp, attempt) = raced.expect("a connection");
        attempt.succeeded();
        assert_eq!(tcp.peer_addr().expect("an address"), good);
        assert!(begun.elapsed() >= ATTEMPT_DELAY && begun.elapsed() < HOUR / 60);
        assert_eq!(connector.failures.order(vec![silent, good]), [good, silent]);
    }

    #[tokio::test]
    async fn an_address_that_refuses_costs_nothing() {
        let (connector, (_listener, good)) = (connector(), listener());
        let (closing, closed) = listener();
        drop(closing);
        let begun = Instant::now();
        for _ in 0..100 {
            let (tcp, _) = connector.race(vec![closed, good]).await.expect("a connection");
            assert_eq!(tcp.peer_addr().expect("an address"), good);
        }
        assert!(begun.elapsed() < 100 * ATTEMPT_DELAY);
        let error = connector.race(vec![closed]).await.err().expect("no connection");
        assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
        assert!(connector.race(Vec::new()).await.is_err());
    }

    #[tokio::test]
    async fn an_address_that_speaks_no_tls_comes_last_from_then_on() {
        let (connector, (bad, address)) = (connector(), listener());
        let ended = std::thread::spawn(move || drop(bad.accept()));
        let uri = format!("https://{address}/").parse().expect("a URI");
        let error = connector.connect(&uri).await.expect_err("no connection");
        assert_eq!(error.stage, ConnectStage::Tls);
        assert!(ended.join().is_ok());
        let other = SocketAddr::from(([127, 0, 0, 1], 1));
        assert_eq!(connector.failures.order(vec![address, other]), [other, address]);
    }

    #[tokio::test]
    async fn a_proxy_may_be_anywhere_and_checks_the_address_itself() {
        let (proxy, at) = listener();
        let ended = std::thread::spawn(move || drop(proxy.accept()));
        let variables = [("HTTPS_PROXY", format!("http://{at}")), ("NO_PROXY", "inner.test".to_owned())];
        let variables = ProxyVariables::of(|name| {
            variables.iter().find(|(given, _)| *given == name).map(|(_, text)| text.clone())
        });
        assert!(!format!("{variables:?}").contains(&at.to_string()));
        let connector = Connector {
            proxies: Proxies::ByHost(variables),
            resolver: Resolver::Own(Arc::new(|name, port| {
                assert_ne!(name, "files.test");
                vec![SocketAddr::from(([127, 0, 0, 1], port))]
            })),
            check: Some(AddressCheck::new(|_, _| false)),
            ..connector()
        };
        let connect = async |uri: &str| {
            let uri = uri.parse().expect("a URI");
            let error = connector.connect(&uri).await.expect_err("no connection");
            (error.stage, error.proxy().map(str::to_owned))
        };
        let named = Some(format!("{at} (HTTPS_PROXY)"));
        assert_eq!(connect("https://files.test/").await, (ConnectStage::Tunnel, named));
        assert!(ended.join().is_ok());
        assert_eq!(connect("https://inner.test/").await, (ConnectStage::Address, None));
        assert_eq!(connect("http://other.test/").await, (ConnectStage::Address, None));
        assert!(connector.failures.lock().len() <= 1, "only the proxy was connected to");
    }

    #[tokio::test(start_paused = true)]
    async fn addresses_are_tried_by_turns_of_each_family_and_what_failed_last() {
        let addresses = |texts: &[&str]| -> Vec<SocketAddr> {
            texts.iter().map(|text| text.parse().expect("an address")).collect()
        };
        let failures = AddressFailures::default();
        let fail = |address: &str| {
            drop(AddressAttempt { failures: &failures, address: addresses(&[address])[0], succeeded: false });
        };
        let all = addresses(&["[::1]:1", "[::2]:1", "[::3]:1", "1.0.0.1:1", "1.0.0.2:1"]);
        let order = || failures.order(all.clone());
        assert_eq!(order(), addresses(&["[::1]:1", "1.0.0.1:1", "[::2]:1", "1.0.0.2:1", "[::3]:1"]));
        fail("[::1]:1");
        tokio::time::advance(Duration::from_secs(1)).await;
        fail("1.0.0.1:1");
        assert_eq!(order(), addresses(&["[::2]:1", "1.0.0.2:1", "[::3]:1", "[::1]:1", "1.0.0.1:1"]));
        AddressAttempt { failures: &failures, address: all[0], succeeded: false }.succeeded();
        assert_eq!(order()[0], all[0]);
        // Of those that have not failed again for long, nothing is kept.
        tokio::time::advance(FAILURE_MEMORY).await;
        fail("[::2]:1");
        assert_eq!(failures.lock().len(), 1);
        assert_eq!(failures.order(Vec::new()), []);
    }
}
