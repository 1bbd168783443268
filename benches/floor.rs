//! The least that a cache hit can cost here: hyper, one look-up by path in a moka cache, and nothing else. No log,
//! no limits, no policy, no field beyond the content's type and length.
//!
//! `benches/peers/run.sh` starts it and measures the real ones against it. `cargo bench` leaves it out.
//!
//!     floor LISTEN BODY_FILE ENTRIES [CERTIFICATE KEY]

#![expect(clippy::disallowed_methods, reason = "a program of its own: it drains nothing")]

use std::convert::Infallible;
use std::fs;
use std::sync::Arc;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use moka::sync::Cache;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

type Entries = Cache<String, Bytes>;

fn answer(entries: &Entries, request: &Request<Incoming>) -> Response<Full<Bytes>> {
    let Some(body) = entries.get(request.uri().path()) else {
        let mut missing = Response::new(Full::default());
        *missing.status_mut() = StatusCode::NOT_FOUND;
        return missing;
    };
    let mut response = Response::new(Full::new(body));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/vnd.api+json"));
    response
}

/// The same certificate, versions and protocols as the peers have.
fn tls(certificate: &str, key: &str) -> TlsAcceptor {
    let chain = CertificateDer::pem_file_iter(certificate).expect("a certificate file");
    let chain = chain.collect::<Result<Vec<_>, _>>().expect("certificates");
    let key = PrivateKeyDer::from_pem_file(key).expect("a key");
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("TLS 1.3")
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .expect("a certificate and its key");
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    TlsAcceptor::from(Arc::new(config))
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (listen, body, count, acceptor) = match arguments.as_slice() {
        [listen, body, count] => (listen, body, count, None),
        [listen, body, count, certificate, key] => (listen, body, count, Some(tls(certificate, key))),
        _ => panic!("floor LISTEN BODY_FILE ENTRIES [CERTIFICATE KEY]"),
    };
    let body = Bytes::from(fs::read(body).expect("a body"));
    let count: u64 = count.parse().expect("how many entries");
    let entries = Entries::new(count.max(1_000) * 2);
    for id in 0..count {
        // Each its own, so that memory is touched as it is in the others.
        let path = format!("/rest/orgs/bench/export/00000000-0000-4000-8000-{id:012}");
        entries.insert(path, Bytes::copy_from_slice(&body));
    }
    let listener = TcpListener::bind(listen).await.expect("a listener");
    loop {
        let Ok((stream, _)) = listener.accept().await else { continue };
        let (entries, acceptor) = (entries.clone(), acceptor.clone());
        tokio::spawn(async move {
            let _ = stream.set_nodelay(true);
            let answering = service_fn(move |request| {
                let response = answer(&entries, &request);
                async move { Ok::<_, Infallible>(response) }
            });
            let Some(acceptor) = acceptor else {
                let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), answering).await;
                return;
            };
            let Ok(stream) = acceptor.accept(stream).await else { return };
            let is_h2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
            let io = TokioIo::new(stream);
            let _ = if is_h2 {
                http2::Builder::new(TokioExecutor::new()).serve_connection(io, answering).await
            } else {
                http1::Builder::new().serve_connection(io, answering).await
            };
        });
    }
}
