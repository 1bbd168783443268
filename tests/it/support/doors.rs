//! Clients that come in by any door: plain, TLS with or without a certificate, a Unix socket.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use http::{Method, Request};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;

use super::pki::Identity;
use super::{Got, START};

type Failed = Box<dyn std::error::Error + Send + Sync>;

/// Where a client comes in.
#[derive(Clone)]
pub(crate) enum Door {
    Plain(SocketAddr),
    Tls(SocketAddr, Arc<ClientConfig>),
    Unix(PathBuf),
}

/// A connection that requests can be sent on, one after another.
pub(crate) enum Connection {
    H1(http1::SendRequest<Full<Bytes>>),
    H2(http2::SendRequest<Full<Bytes>>),
}

/// What a client trusts, shows and speaks.
pub(crate) fn tls_client(ca_pem: &str, identity: Option<&Identity>, alpn: &[&[u8]]) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(ca_pem.as_bytes()).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots);
    let mut config = match identity {
        None => builder.with_no_client_auth(),
        Some(identity) => {
            builder.with_client_auth_cert(vec![identity.certificate.clone()], identity.key()).unwrap()
        }
    };
    config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
    Arc::new(config)
}

impl Door {
    pub(crate) async fn connect(&self) -> Result<Connection, Failed> {
        match self {
            Self::Plain(address) => h1(TcpStream::connect(address).await?).await,
            Self::Unix(path) => h1(UnixStream::connect(path).await?).await,
            Self::Tls(address, config) => {
                let stream = TcpStream::connect(address).await?;
                let name = "localhost".try_into()?;
                let stream = TlsConnector::from(Arc::clone(config)).connect(name, stream).await?;
                if stream.get_ref().1.alpn_protocol() == Some(b"h2") {
                    let (sender, connection) =
                        http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await?;
                    tokio::spawn(connection);
                    return Ok(Connection::H2(sender));
                }
                h1(stream).await
            }
        }
    }

    /// One request on a connection of its own.
    pub(crate) async fn send(
        &self,
        method: Method,
        target: &str,
        fields: &[(&str, &str)],
    ) -> Result<Got, Failed> {
        self.connect().await?.send(method, target, fields).await
    }

    pub(crate) async fn get(&self, target: &str, fields: &[(&str, &str)]) -> Got {
        self.send(Method::GET, target, fields).await.expect("an answer")
    }
}

async fn h1<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(stream: S) -> Result<Connection, Failed> {
    let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    Ok(Connection::H1(sender))
}

impl Connection {
    pub(crate) async fn send(
        &mut self,
        method: Method,
        target: &str,
        fields: &[(&str, &str)],
    ) -> Result<Got, Failed> {
        let uri = match self {
            Self::H1(_) => target.to_owned(),
            Self::H2(_) => format!("https://localhost{target}"),
        };
        let mut request = Request::builder().method(&method).uri(uri);
        if let Self::H1(_) = self {
            request = request.header("host", "localhost");
        }
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        let body = if method == Method::POST { START } else { "" };
        let request = request.body(Full::from(body))?;
        let (head, body) = match self {
            Self::H1(sender) => {
                sender.ready().await?;
                sender.send_request(request).await?
            }
            Self::H2(sender) => {
                sender.ready().await?;
                sender.send_request(request).await?
            }
        }
        .into_parts();
        let body = body.collect().await?.to_bytes();
        Ok(Got { status: head.status, fields: head.headers, body })
    }
}
