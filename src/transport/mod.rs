//! The HTTP client to other hosts: connections (TCP, a corporate proxy's tunnel, TLS), their pool, and what may be said of a
//! request that got no answer.

mod checked;
mod client;
mod connect;
mod gather;
mod identity;
mod memory;
mod peer;
mod pinned;
mod pool;
mod proxy;
mod resolve;
mod server_tls;
mod streamed;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Either, Full, Limited};
use rustls::client::WantsClientCert;
use rustls::{ClientConfig, ConfigBuilder, RootCertStore};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;

use crate::error_text::BoxError;

pub use checked::CheckedBody;
pub use client::{HttpClient, ManyHosts, RequestError, client};
pub use connect::{ConnectError, ConnectStage};
pub use gather::{BodySource, GatherError};
pub use identity::ClientIdentity;
pub use memory::{Connection, Memory, SMALL};
pub use peer::{Certificate, Peer, User, Via};
pub use pinned::{Pin, pinned};
pub use pool::{NoRoom, Room};
pub use proxy::{BadProxy, Proxy};
pub use resolve::{AddressCheck, Resolver};
pub use server_tls::{BadTls, HandshakeSettings, PreparedTls, ServerTls, Settings as ServerTlsSettings};
pub use streamed::{StreamTimeout, Streamed};

/// A message's body, in either direction: one that we hold, or one that streams through.
pub type Body = Either<Full<Bytes>, Streamed>;

/// Largest response header section, in bytes. hyper holds to it roughly; who sends checks it exactly.
pub const MAX_RESPONSE_HEAD: usize = 64 * 1024;

/// The client could not be made.
#[derive(Debug, thiserror::Error)]
pub enum TransportError {
    /// `upstream.ca_file` cannot be read or holds no certificate.
    #[error("{}: no usable certificate in it", path.display())]
    CaFile {
        /// The file.
        path: PathBuf,
        /// Why.
        source: Option<rustls_pki_types::pem::Error>,
    },
    /// Our certificate or its key cannot be read.
    #[error("{}: not usable as a client's certificate or its key", path.display())]
    Identity {
        /// The file.
        path: PathBuf,
        /// Why.
        source: rustls_pki_types::pem::Error,
    },
    /// The platform has no root certificates.
    #[error("this machine has no root certificates: install ca-certificates, or name a ca_file")]
    NoRoots,
    /// The TLS library refused its settings.
    #[error("TLS")]
    Tls(#[from] rustls::Error),
    /// The environment names a proxy that cannot be used.
    #[error(transparent)]
    Proxy(#[from] BadProxy),
}

/// A small answer could not be fetched.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// It did not come in time.
    #[error("no answer within {} ms", .0.as_millis())]
    Timeout(Duration),
    /// No connection, or no HTTP.
    #[error("no answer")]
    Exchange(#[from] RequestError),
    /// The body broke off or is too large.
    #[error("the answer cannot be read")]
    Body(#[source] BoxError),
}

/// Fetches something small that is not Snyk's API (keys, an access token), bounded in size and time.
/// Redirects are not followed.
///
/// # Errors
/// [`FetchError`].
pub async fn fetch(
    client: &HttpClient,
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

/// A connection that is for no HTTP: it sends at once, and breaks where what it sent is not acknowledged for `unacknowledged`, so
/// that a dead machine is found.
///
/// # Errors
/// The name has no address, or none can be connected to.
#[cfg(any(feature = "postgres", feature = "shared"))]
pub(crate) async fn tcp_stream(
    host: &str,
    port: u16,
    unacknowledged: Duration,
) -> std::io::Result<tokio::net::TcpStream> {
    let stream = tokio::net::TcpStream::connect((host, port)).await?;
    stream.set_nodelay(true)?;
    socket2::SockRef::from(&stream).set_tcp_user_timeout(Some(unacknowledged))?;
    Ok(stream)
}

/// Speaks TLS on an open connection to `host` that is for no HTTP, and shows `identity` there.
///
/// # Errors
/// The roots cannot be read, or the handshake fails.
#[cfg(any(feature = "postgres", feature = "shared"))]
pub(crate) async fn tls_stream(
    stream: tokio::net::TcpStream,
    host: &str,
    ca_file: Option<&Path>,
    identity: Option<&ClientIdentity>,
) -> Result<tokio_rustls::client::TlsStream<tokio::net::TcpStream>, BoxError> {
    let builder = builder(roots(ca_file)?)?;
    let config = match identity {
        Some(identity) => identity.show(builder)?,
        None => builder.with_no_client_auth(),
    };
    let name = rustls_pki_types::ServerName::try_from(host.to_owned())?;
    Ok(tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, stream).await?)
}

/// TLS for HTTP, with the platform's roots, or with those in `ca_file` alone.
fn tls(ca_file: Option<&Path>) -> Result<ClientConfig, TransportError> {
    let mut config = builder(roots(ca_file)?)?.with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

/// TLS 1.2 and 1.3.
fn builder(roots: RootCertStore) -> Result<ConfigBuilder<ClientConfig, WantsClientCert>, TransportError> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    Ok(builder.with_root_certificates(roots))
}

fn roots(ca_file: Option<&Path>) -> Result<RootCertStore, TransportError> {
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
    Ok(roots)
}
