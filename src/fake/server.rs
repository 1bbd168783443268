//! Accepting, and speaking TLS and HTTP.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use rustls_pki_types::PrivatePkcs8KeyDer;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use super::answers::BoxError;
use super::wire::{Switch, Wire};
use super::{Shared, api};

#[expect(clippy::disallowed_methods, reason = "the fake is a program of its own: it ends with its token")]
pub(super) fn spawn(task: impl Future<Output = ()> + Send + 'static) {
    tokio::spawn(task);
}

/// A certificate authority and a certificate for this machine's own names.
pub(super) fn tls(valid: Option<(i32, i32)>) -> Result<(TlsAcceptor, String), BoxError> {
    let mut authority = CertificateParams::new(Vec::new())?;
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    authority.distinguished_name.push(DnType::CommonName, "exportgate fake Snyk");
    let authority = CertifiedIssuer::self_signed(authority, KeyPair::generate()?)?;
    let names = ["localhost", "127.0.0.1", "::1"].map(str::to_owned);
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::new(names)?;
    if let Some((from, until)) = valid {
        params.not_before = rcgen::date_time_ymd(from, 1, 1);
        params.not_after = rcgen::date_time_ymd(until, 1, 1);
    }
    let certificate = params.signed_by(&key, &authority)?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(
            vec![certificate.der().clone()],
            PrivatePkcs8KeyDer::from(key.serialize_der()).into(),
        )?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok((TlsAcceptor::from(Arc::new(config)), authority.pem()))
}

/// Accepts until `running` ends; connections end with it.
pub(super) async fn accept(
    listener: TcpListener,
    acceptor: Option<TlsAcceptor>,
    shared: Arc<Shared>,
    running: CancellationToken,
) {
    while let Some(accepted) = running.run_until_cancelled(listener.accept()).await {
        let Ok((stream, _)) = accepted else { continue };
        let (shared, acceptor, running) = (Arc::clone(&shared), acceptor.clone(), running.clone());
        spawn(async move {
            running.run_until_cancelled(serve(stream, acceptor, shared)).await;
        });
    }
}

async fn serve(stream: TcpStream, acceptor: Option<TlsAcceptor>, shared: Arc<Shared>) {
    let _ = stream.set_nodelay(true);
    if let Some(acceptor) = acceptor {
        let Ok(stream) = acceptor.accept(stream).await else { return };
        let is_http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
        speak(stream, is_http2, shared).await;
    } else {
        // A client that knows beforehand may speak HTTP/2 (RFC 9113 §3.3).
        let mut first = [0; 3];
        let is_http2 = stream.peek(&mut first).await.is_ok() && first == *b"PRI";
        speak(stream, is_http2, shared).await;
    }
}

async fn speak<S>(stream: S, is_http2: bool, shared: Arc<Shared>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let switch = Switch::default();
    let io = TokioIo::new(Wire::new(stream, switch.clone()));
    let requests = AtomicU32::new(0);
    let answering = service_fn(move |request| {
        // Clients number their streams 1, 3, 5… (RFC 9113 §5.1.1).
        let stream = 2 * requests.fetch_add(1, Ordering::Relaxed) + 1;
        api::answer(Arc::clone(&shared), switch.clone(), stream, request)
    });
    // How a connection ends is its client's matter.
    let _ = if is_http2 {
        http2::Builder::new(TokioExecutor::new()).serve_connection(io, answering).await
    } else {
        http1::Builder::new().serve_connection(io, answering).await
    };
}
