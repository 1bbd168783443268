//! The HTTP client to the upstream: TCP, a corporate proxy's tunnel, TLS and the connection pool.

mod peer;
mod server_tls;
mod streamed;

use std::fmt;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::Uri;
use http_body_util::{BodyExt, Either, Full, Limited};
use hyper_rustls::{HttpsConnectorBuilder, MaybeHttpsStream};
use hyper_util::client::legacy;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::connect::dns::{GaiResolver, Name};
use hyper_util::client::legacy::connect::proxy::Tunnel;
use hyper_util::client::proxy::matcher::Matcher;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use tokio::net::TcpStream;
use tower::util::BoxCloneSyncService;
use tower::{Service, ServiceExt, service_fn};

pub use peer::{Certificate, Peer, User, Via};
pub use server_tls::{BadTls, Loaded, Prepared as PreparedTls, ServerTls, Settings as ServerTlsSettings};
pub use streamed::{StreamTimeout, Streamed};

/// A message's body, in either direction: one that we hold, or one that streams through.
pub type Body = Either<Full<Bytes>, Streamed>;

/// The client with its pool.
pub type Client = legacy::Client<Connector, Body>;

type BoxError = Box<dyn std::error::Error + Send + Sync>;
type Connector = BoxCloneSyncService<Uri, MaybeHttpsStream<TokioIo<TcpStream>>, BoxError>;

/// Idle connections are dropped before a load balancer's usual minute is over.
const POOL_IDLE: Duration = Duration::from_secs(45);
/// Largest response header section, in bytes. hyper holds to it roughly; who sends checks it exactly.
pub const MAX_RESPONSE_HEAD: usize = 64 * 1024;

/// Why no client could be made.
#[derive(Debug, thiserror::Error)]
pub enum TransportError {
    /// `upstream.ca_file` cannot be read or holds no certificate.
    #[error("{}: no usable certificate in it", path.display())]
    CaFile {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: Option<rustls_pki_types::pem::Error>,
    },
    /// The platform has no root certificates.
    #[error("this machine has no root certificates: install ca-certificates, or name a ca_file")]
    NoRoots,
    /// The TLS library refused its settings.
    #[error("TLS")]
    Tls(#[from] rustls::Error),
    /// `HTTPS_PROXY` is of a kind that is not spoken.
    #[error("HTTPS_PROXY is a {scheme} proxy; only http:// proxies are supported")]
    Proxy {
        /// The scheme it has.
        scheme: String,
    },
}

/// The connection was not made in time.
#[derive(Debug, thiserror::Error)]
#[error("no connection within {} ms", .0.as_millis())]
pub struct ConnectTimeout(Duration);

/// The upstream's name has no address.
#[derive(Debug)]
pub struct DnsFailed(std::io::Error);

impl fmt::Display for DnsFailed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the upstream's name was not resolved")
    }
}

impl std::error::Error for DnsFailed {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.0)
    }
}

/// A small answer could not be fetched.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// It did not come in time.
    #[error("no answer within {} ms", .0.as_millis())]
    Timeout(Duration),
    /// No connection, or no HTTP.
    #[error("no answer")]
    Exchange(#[from] legacy::Error),
    /// The body broke off or is too large.
    #[error("the answer cannot be read")]
    Body(#[source] BoxError),
}

/// Asks for something small that is not Snyk's API (keys, an access token), bounded in size and time.
/// Redirects are not followed.
///
/// # Errors
/// [`FetchError`].
pub async fn fetch(
    client: &Client,
    request: http::Request<Body>,
    limit: usize,
    time: Duration,
) -> Result<(http::StatusCode, Bytes), FetchError> {
    let exchange = async {
        let (head, body) = client.request(request).await?.into_parts();
        let body = Limited::new(body, limit).collect().await.map_err(FetchError::Body)?;
        Ok((head.status, body.to_bytes()))
    };
    tokio::time::timeout(time, exchange).await.unwrap_or(Err(FetchError::Timeout(time)))
}

/// Makes the client for `upstream`; `connect_timeout` covers name, TCP, tunnel and TLS together.
///
/// # Errors
/// See [`TransportError`].
pub fn client(
    upstream: &Uri,
    ca_file: Option<&Path>,
    connect_timeout: Duration,
) -> Result<Client, TransportError> {
    let https =
        HttpsConnectorBuilder::new().with_tls_config(tls(ca_file)?).https_or_http().enable_all_versions();
    let mut tcp = HttpConnector::new_with_resolver(service_fn(resolve));
    tcp.enforce_http(false);
    tcp.set_nodelay(true);
    tcp.set_keepalive(Some(Duration::from_mins(1)));
    let over_tls = upstream.scheme_str() == Some("https");
    let connector = match Matcher::from_env().intercept(upstream).filter(|_| over_tls) {
        None => within(connect_timeout, https.wrap_connector(tcp)),
        Some(proxy) => {
            if let Some(scheme) = proxy.uri().scheme_str().filter(|scheme| *scheme != "http") {
                return Err(TransportError::Proxy { scheme: scheme.to_owned() });
            }
            let mut tunnel = Tunnel::new(proxy.uri().clone(), tcp);
            if let Some(auth) = proxy.basic_auth() {
                tunnel = tunnel.with_auth(auth.clone());
            }
            within(connect_timeout, https.wrap_connector(tunnel))
        }
    };
    Ok(legacy::Client::builder(TokioExecutor::new())
        .timer(TokioTimer::new())
        .pool_timer(TokioTimer::new())
        .pool_idle_timeout(POOL_IDLE)
        .http1_max_buf_size(MAX_RESPONSE_HEAD)
        .http2_max_header_list_size(u32::try_from(MAX_RESPONSE_HEAD).unwrap_or(u32::MAX))
        .http2_keep_alive_interval(Duration::from_secs(20))
        .build(connector))
}

async fn resolve(name: Name) -> Result<impl Iterator<Item = std::net::SocketAddr>, DnsFailed> {
    GaiResolver::new().call(name).await.map_err(DnsFailed)
}

/// Bounds the whole of a connector's work.
fn within<C>(limit: Duration, connector: C) -> Connector
where
    C: Service<Uri, Response = MaybeHttpsStream<TokioIo<TcpStream>>> + Clone + Send + Sync + 'static,
    C::Error: Into<BoxError>,
    C::Future: Send,
{
    BoxCloneSyncService::new(service_fn(move |uri| bounded(limit, connector.clone().oneshot(uri))))
}

async fn bounded<T, E: Into<BoxError>>(
    limit: Duration,
    connecting: impl Future<Output = Result<T, E>>,
) -> Result<T, BoxError> {
    match tokio::time::timeout(limit, connecting).await {
        Ok(connected) => connected.map_err(Into::into),
        Err(_) => Err(ConnectTimeout(limit).into()),
    }
}

/// TLS 1.2 and 1.3 with the platform's roots, or with those in `ca_file` alone.
fn tls(ca_file: Option<&Path>) -> Result<ClientConfig, TransportError> {
    let mut roots = RootCertStore::empty();
    if let Some(path) = ca_file {
        let failed = |source| TransportError::CaFile { path: path.to_owned(), source };
        for certificate in CertificateDer::pem_file_iter(path).map_err(|error| failed(Some(error)))? {
            roots.add(certificate.map_err(|error| failed(Some(error)))?)?;
        }
        if roots.is_empty() {
            return Err(failed(None));
        }
    } else {
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        if roots.is_empty() {
            return Err(TransportError::NoRoots);
        }
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(config)
}
