//! Accepting connections and speaking HTTP to clients, within limits.

mod settings;

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixListener};
use tokio::sync::Semaphore;

use crate::shutdown::Shutdown;
use crate::transport::Body;

pub use settings::{Address, Settings};

/// How an HTTP/2 connection with prior knowledge begins (RFC 9113 §3.4).
const H2_PREFACE: &[u8] = b"PRI * HTTP/2.0";
/// HTTP/2 limits against floods; streams a client may have open at once.
const MAX_STREAMS: u32 = 128;
/// After an accept failed (say, no file descriptor is left), how long to wait.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// An address could not be taken.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address}")]
pub struct BindError {
    /// Which address.
    pub address: Address,
    /// Why.
    pub source: io::Error,
}

/// The sockets that clients connect to.
#[derive(Debug)]
pub struct Listener {
    sockets: Vec<Socket>,
    settings: Arc<Settings>,
}

#[derive(Debug)]
enum Socket {
    Tcp(TcpListener),
    Unix(UnixListener, PathBuf),
}

/// Answers one request; never fails.
pub trait Respond: Fn(Request<Incoming>) -> Self::Answer + Clone + Send + Sync + 'static {
    /// The answer, some time later.
    type Answer: Future<Output = Response<Body>> + Send + 'static;
}

impl<F, A> Respond for F
where
    F: Fn(Request<Incoming>) -> A + Clone + Send + Sync + 'static,
    A: Future<Output = Response<Body>> + Send + 'static,
{
    type Answer = A;
}

impl Listener {
    /// Takes all addresses. A machine without IPv6 has no `[::1]`: that one is left out, as long as
    /// another address is there.
    ///
    /// # Errors
    /// The first address that cannot be taken.
    pub async fn bind(settings: Settings) -> Result<Self, BindError> {
        let mut sockets = Vec::new();
        for address in &settings.listen {
            match bind(address).await {
                Ok(socket) => sockets.push(socket),
                Err(source)
                    if source.kind() == io::ErrorKind::AddrNotAvailable && settings.listen.len() > 1 =>
                {
                    tracing::warn!(server.address = %address, "not on this machine: left out");
                }
                Err(source) => return Err(BindError { address: address.clone(), source }),
            }
        }
        Ok(Self { sockets, settings: Arc::new(settings) })
    }

    /// The addresses that were taken; a port 0 is a real one here.
    #[must_use]
    pub fn addresses(&self) -> Vec<Address> {
        let address = |socket: &Socket| match socket {
            Socket::Tcp(tcp) => tcp.local_addr().ok().map(Address::Tcp),
            Socket::Unix(_, path) => Some(Address::Unix(path.clone())),
        };
        self.sockets.iter().filter_map(address).collect()
    }

    /// Serves until a stop is asked for, then lets requests in flight finish within the drain time.
    pub async fn serve(self, respond: impl Respond, shutdown: &Shutdown) {
        let graceful = Arc::new(GracefulShutdown::new());
        let permits = Arc::new(Semaphore::new(self.settings.max_connections));
        let accepting = self.sockets.into_iter().map(|socket| {
            let connections = Connections {
                settings: Arc::clone(&self.settings),
                graceful: Arc::clone(&graceful),
                permits: Arc::clone(&permits),
                shutdown: shutdown.clone(),
                respond: respond.clone(),
            };
            connections.accept_all(socket)
        });
        futures_util::future::join_all(accepting).await;
        if let Some(graceful) = Arc::into_inner(graceful) {
            let drained = tokio::time::timeout(self.settings.drain, graceful.shutdown()).await;
            if drained.is_err() {
                tracing::warn!("requests were still in flight when the drain time was over");
            }
        }
    }
}

/// What each connection needs.
struct Connections<R> {
    settings: Arc<Settings>,
    graceful: Arc<GracefulShutdown>,
    permits: Arc<Semaphore>,
    shutdown: Shutdown,
    respond: R,
}

impl<R: Respond> Connections<R> {
    /// Accepts until a stop is asked for. At the limit it stops accepting: new connections wait in the
    /// kernel's queue.
    async fn accept_all(self, socket: Socket) {
        loop {
            let next = async {
                let permit = Arc::clone(&self.permits).acquire_owned().await;
                (permit, socket.accept().await)
            };
            let (permit, accepted) = tokio::select! {
                () = self.shutdown.begun() => break,
                next = next => next,
            };
            match accepted {
                Ok(Accepted::Tcp(stream)) => {
                    let _ = stream.set_nodelay(true);
                    let watcher = self.graceful.watcher();
                    let (settings, respond) = (Arc::clone(&self.settings), self.respond.clone());
                    self.shutdown.spawn(async move {
                        let _permit = permit;
                        if settings.h2c && speaks_h2(&stream, settings.header_timeout).await {
                            serve_h2(stream, &settings, respond, watcher).await;
                        } else {
                            serve_h1(stream, &settings, respond, watcher).await;
                        }
                    });
                }
                Ok(Accepted::Unix(stream)) => {
                    let watcher = self.graceful.watcher();
                    let (settings, respond) = (Arc::clone(&self.settings), self.respond.clone());
                    self.shutdown.spawn(async move {
                        let _permit = permit;
                        serve_h1(stream, &settings, respond, watcher).await;
                    });
                }
                Err(error) => {
                    tracing::warn!(error = &error as &dyn std::error::Error, "a connection was not accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }
}

enum Accepted {
    Tcp(TcpStream),
    Unix(tokio::net::UnixStream),
}

impl Socket {
    async fn accept(&self) -> io::Result<Accepted> {
        match self {
            Self::Tcp(tcp) => tcp.accept().await.map(|(stream, _)| Accepted::Tcp(stream)),
            Self::Unix(unix, _) => unix.accept().await.map(|(stream, _)| Accepted::Unix(stream)),
        }
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        if let Self::Unix(_, path) = self {
            let _ = std::fs::remove_file(path);
        }
    }
}

async fn bind(address: &Address) -> io::Result<Socket> {
    match address {
        Address::Tcp(address) => TcpListener::bind(address).await.map(Socket::Tcp),
        Address::Unix(path) => {
            remove_stale(path)?;
            let socket = UnixListener::bind(path)?;
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
            Ok(Socket::Unix(socket, path.clone()))
        }
    }
}

/// Removes a socket that nobody listens on any more; one that is in use, or no socket, is an error.
fn remove_stale(path: &Path) -> io::Result<()> {
    match std::os::unix::net::UnixStream::connect(path) {
        Ok(_) => Err(io::ErrorKind::AddrInUse.into()),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => std::fs::remove_file(path),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

/// Whether the first bytes are HTTP/2's preface. hyper-util's own detection waits for them without a
/// limit of time.
async fn speaks_h2(stream: &TcpStream, limit: Duration) -> bool {
    let mut first = [0; H2_PREFACE.len()];
    let peeked = tokio::time::timeout(limit, async {
        loop {
            let seen = stream.peek(&mut first).await?;
            if seen == 0 || seen == first.len() || !H2_PREFACE.starts_with(&first[..seen]) {
                return io::Result::Ok(seen);
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    matches!(peeked.await, Ok(Ok(seen)) if &first[..seen] == H2_PREFACE)
}

type Watcher = hyper_util::server::graceful::Watcher;

async fn serve_h1<S>(stream: S, settings: &Settings, respond: impl Respond, watcher: Watcher)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(settings.header_timeout)
        .max_headers(settings.max_headers)
        .max_header_size(settings.max_head)
        .max_buf_size(settings.max_head)
        .serve_connection(TokioIo::new(stream), answering(respond));
    log_end(watcher.watch(connection).await);
}

async fn serve_h2(stream: TcpStream, settings: &Settings, respond: impl Respond, watcher: Watcher) {
    let connection = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .keep_alive_interval(settings.header_timeout)
        .max_concurrent_streams(MAX_STREAMS)
        .max_header_list_size(u32::try_from(settings.max_head).unwrap_or(u32::MAX))
        .serve_connection(TokioIo::new(stream), answering(respond));
    log_end(watcher.watch(connection).await);
}

fn answering(
    respond: impl Respond,
) -> impl hyper::service::HttpService<Incoming, ResBody = Body, Error = Infallible, Future: Send + 'static> {
    service_fn(move |request| {
        let answer = respond(request);
        async move { Ok::<_, Infallible>(answer.await) }
    })
}

/// A connection that ends badly is its client's business: said at debug level only.
fn log_end(end: hyper::Result<()>) {
    if let Err(error) = end {
        tracing::debug!(error = &error as &dyn std::error::Error, "a connection ended early");
    }
}
