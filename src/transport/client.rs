//! The client with its pool, and what an error says about a request.

use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, Uri};
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use hyper_util::client::legacy;
use hyper_util::client::legacy::connect::capture_connection;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use rustls::ClientConfig;
use tower::service_fn;
use tower::util::BoxCloneSyncService;

use super::checked::{self, CheckedBody};
use super::connect::{Connector, UpstreamStream};
use super::proxy::{Proxies, Proxy, ProxyVariables};
use super::resolve::{AddressCheck, Resolver};
use super::{Body, MAX_RESPONSE_HEAD, TransportError};
use crate::error_text::{BoxError, find};

/// Idle connections are dropped before a load balancer's usual minute is over.
const POOL_IDLE: Duration = Duration::from_secs(45);
/// Default time in which a dead HTTP/2 connection is noticed.
const DEAD_AFTER: Duration = Duration::from_secs(5);

/// HTTP/2 flow control windows of a stream and of a connection, in bytes. The connection's is larger: answers that wait
/// (for room in memory, or for a slow client of a streamed one) leave room for the others.
const STREAM_WINDOW: u32 = 256 * 1024;
const CONNECTION_WINDOW: u32 = 32 * 1024 * 1024;

/// The client with its pool of connections.
#[derive(Debug, Clone)]
pub struct HttpClient {
    pool: legacy::Client<BoxCloneSyncService<Uri, UpstreamStream, BoxError>, TrackedBody>,
    proxy: Option<Arc<str>>,
}

/// The settings of a client that asks many hosts.
#[derive(Debug, Clone)]
pub struct ManyHosts {
    /// A PEM file of certificates to trust instead of the platform's.
    pub ca_file: Option<PathBuf>,
    /// Longest time for name, TCP, tunnel and TLS together.
    pub connect_timeout: Duration,
    /// The source of addresses.
    pub resolver: Resolver,
    /// The addresses that may be connected to.
    pub check: AddressCheck,
}

/// A request got no response.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    /// No connection was opened, so that nothing was sent.
    #[error(transparent)]
    Connect(legacy::Error),
    /// The peer has not processed it, by its own word, or it was not sent: it may be sent again, whatever it is.
    #[error("the request was not processed")]
    NotProcessed(#[source] legacy::Error),
    /// The exchange failed otherwise. The peer may have processed the request.
    #[error(transparent)]
    Failed(legacy::Error),
    /// The response has a status or a framing that HTTP does not have.
    #[error("the response has no sound status or framing")]
    Unsound,
}

/// The client for `destination`, with [`HttpClient::new`]'s usual limits.
///
/// # Errors
/// See [`TransportError`].
pub fn client(
    destination: &Uri,
    ca_file: Option<&Path>,
    connect_timeout: Duration,
) -> Result<HttpClient, TransportError> {
    HttpClient::new(destination, ca_file, connect_timeout, DEAD_AFTER)
}

impl HttpClient {
    /// Makes the client for `destination`. `connect_timeout` covers name, TCP, tunnel and TLS together. An HTTP/2 connection
    /// that gives no sign of life is closed after `dead_after`, whether requests are on it or not; one whose
    /// peer acknowledges nothing after twice as long.
    ///
    /// # Errors
    /// See [`TransportError`].
    pub fn new(
        destination: &Uri,
        ca_file: Option<&Path>,
        connect_timeout: Duration,
        dead_after: Duration,
    ) -> Result<Self, TransportError> {
        #[expect(
            clippy::disallowed_methods,
            reason = "the conventional variables are read here for every client"
        )]
        let proxy = Proxy::for_destination(destination, |name| std::env::var(name).ok())?;
        let shown = proxy.as_ref().map(|proxy| proxy.to_string().into());
        let connector = Connector {
            proxies: Proxies::One(proxy),
            ..Connector::to_any(super::tls(ca_file)?, connect_timeout, dead_after)
        };
        Ok(Self { proxy: shown, ..Self::over(connector, dead_after) })
    }

    /// Makes a client for any host whose addresses pass a check, over HTTP/1.1. A proxy resolves names itself, so that
    /// addresses behind one are not checked.
    ///
    /// # Errors
    /// See [`TransportError`].
    pub fn to_many(hosts: ManyHosts) -> Result<Self, TransportError> {
        #[expect(clippy::disallowed_methods, reason = "as for one destination")]
        let variables = ProxyVariables::of(|name| std::env::var(name).ok());
        let mut tls = super::tls(hosts.ca_file.as_deref())?;
        tls.alpn_protocols = vec![b"http/1.1".to_vec()];
        let connector = Connector {
            proxies: Proxies::ByHost(variables),
            resolver: hosts.resolver,
            check: Some(hosts.check),
            ..Connector::to_any(tls, hosts.connect_timeout, DEAD_AFTER)
        };
        Ok(Self::over(connector, DEAD_AFTER))
    }

    /// Makes a client that uses no proxy, and trusts the certificates that `tls` does.
    pub(crate) fn direct(tls: ClientConfig, connect_timeout: Duration) -> Self {
        Self::over(Connector::to_any(tls, connect_timeout, DEAD_AFTER), DEAD_AFTER)
    }

    fn over(connector: Connector, dead_after: Duration) -> Self {
        let connector = Arc::new(connector);
        let connector = BoxCloneSyncService::new(service_fn(move |uri: Uri| {
            let connector = Arc::clone(&connector);
            async move { connector.connect(&uri).await.map_err(BoxError::from) }
        }));
        // hyper pings after a silence of the first, and waits for the answer as long as the second.
        let (silence, answer) = (dead_after * 2 / 5, dead_after * 3 / 5);
        let pool = legacy::Client::builder(TokioExecutor::new())
            .timer(TokioTimer::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(POOL_IDLE)
            .http1_max_buf_size(MAX_RESPONSE_HEAD)
            .http2_max_header_list_size(u32::try_from(MAX_RESPONSE_HEAD).unwrap_or(u32::MAX))
            .http2_initial_stream_window_size(STREAM_WINDOW)
            .http2_initial_connection_window_size(CONNECTION_WINDOW)
            .http2_keep_alive_interval(silence)
            .http2_keep_alive_timeout(answer)
            // A connection that died while it was idle is noticed before a request is lost on it.
            .http2_keep_alive_while_idle(true)
            .build(connector);
        Self { pool, proxy: None }
    }

    /// The proxy that it goes through, as `HOST:PORT (VARIABLE)`.
    pub(crate) fn proxy(&self) -> Option<&str> {
        self.proxy.as_deref()
    }

    /// Sends a request and waits for the header section of its response.
    ///
    /// # Errors
    /// [`RequestError`].
    pub async fn request(&self, request: Request<Body>) -> Result<Response<CheckedBody>, RequestError> {
        let is_safe = request.method().is_safe();
        let was_taken = Arc::new(AtomicBool::new(false));
        let mut request = request.map(|body| TrackedBody { body, was_taken: Arc::clone(&was_taken) });
        let connection = capture_connection(&mut request);
        match self.pool.request(request).await {
            Ok(response) if checked::is_sound(&response) => {
                let version = response.version();
                Ok(response.map(|body| CheckedBody::new(body, version)))
            }
            Ok(_) => {
                // What comes next on it may be a part of this response.
                if let Some(connection) = connection.connection_metadata().as_ref() {
                    connection.poison();
                }
                Err(RequestError::Unsound)
            }
            Err(error) if error.is_connect() => Err(RequestError::Connect(error)),
            Err(error) if was_not_processed(&error, is_safe || was_taken.load(Ordering::Relaxed)) => {
                Err(RequestError::NotProcessed(error))
            }
            Err(error) => Err(RequestError::Failed(error)),
        }
    }
}

/// True if it is certain that the peer has not processed a request that failed with `error`:
///
/// - hyper says "canceled" of a request only where it has not begun to send it.
/// - `REFUSED_STREAM` says it of its stream (RFC 9113 §8.7).
/// - `GOAWAY` says it of the streams above the one that it names (RFC 9113 §6.8), and h2 gives its error to those streams.
///   But hyper gives the same error to a request that it has just passed to h2, whichever stream the `GOAWAY` names: where
///   both came together, the peer had seen a third of those requests. Their bodies have not been asked for then, so
///   `is_by_stream`, whether the body was, tells the two apart. (What may be repeated anyway needs no proof.)
fn was_not_processed(error: &legacy::Error, is_by_stream: bool) -> bool {
    let is_canceled = find::<hyper::Error>(error).is_some_and(hyper::Error::is_canceled);
    let is_refused = find::<h2::Error>(error).filter(|error| error.is_remote()).is_some_and(|error| {
        let is_refused = error.is_reset() && error.reason() == Some(h2::Reason::REFUSED_STREAM);
        is_refused || (error.is_go_away() && is_by_stream)
    });
    is_canceled || is_refused
}

/// A request's body that notes whether hyper has asked for it. Its length stays known: a start is sent with `Content-Length`.
#[derive(Debug)]
struct TrackedBody {
    body: Body,
    was_taken: Arc<AtomicBool>,
}

impl HttpBody for TrackedBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        self.was_taken.store(true, Ordering::Relaxed);
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
