//! One connection from its first byte to its end: TLS, HTTP/1.1 or HTTP/2, and the limits on both.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::{http1, http2};
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls_pki_types::CertificateDer;
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::{sleep, timeout};
use tokio_io_timeout::TimeoutStream;
use tokio_rustls::TlsAcceptor;

use super::counters::count;
use super::h1::{self, H1Stream, Progress};
use super::h2::{self, Run, Streams};
use super::refusal::{PLAIN_HTTP, refuse};
use super::remote::{CertifiedPeer, RemoteEnd};
use super::{Counters, Respond, Settings};
use crate::clock::Clock;
use crate::shutdown::Shutdown;
use crate::transport::{Certificate, Connection, Peer, ServerTls, User, Via};

/// The client preface of HTTP/2 with prior knowledge (RFC 9113 §3.4).
const H2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// The first byte of a TLS handshake (RFC 8446 §5.1).
const TLS_HANDSHAKE: u8 = 0x16;
/// Time for the first request of a new connection when a stop begins.
const FIRST_REQUEST: Duration = Duration::from_secs(1);
/// Time for the last answers of connections after the drain time.
const LAST_ANSWERS: Duration = Duration::from_secs(1);
/// Largest header block list that HTTP/2's table may hold for a client, in bytes.
const MAX_HEADER_TABLE: u32 = 4_096;
/// Most unsent bytes of an answer in the kernel (`TCP_NOTSENT_LOWAT`).
const UNSENT: u32 = 131_072;
/// HTTP/2 flow control windows of a stream and of a connection, in bytes. The connection's is larger, so that a stream
/// whose body waits leaves room for the others.
const STREAM_WINDOW: u32 = 32_768;
const CONNECTION_WINDOW: u32 = 131_072;
/// Most bytes of an HTTP/2 answer that hyper buffers for a client. They count as taken, so it is little.
const SEND_BUFFER: usize = 65_536;

/// The settings and parts that every connection needs.
#[derive(Debug, Clone)]
pub(super) struct Serving {
    pub(super) settings: Arc<Settings>,
    pub(super) tls: Option<ServerTls>,
    pub(super) clock: Clock,
    pub(super) shutdown: Shutdown,
    pub(super) counters: Arc<Counters>,
}

impl Serving {
    /// Serves a connection without TLS.
    pub(super) async fn tcp(self, stream: TcpStream, via: Via, respond: impl Respond) {
        prepare(&stream);
        let other = RemoteEnd::plain(via, self.connection());
        if !self.settings.h2c {
            return self.h1(stream, other, respond).await;
        }
        let mut stream = stream;
        let Ok(Ok(first)) = timeout(self.settings.header_timeout, beginning(&mut stream)).await else {
            tracing::debug!("connection closed: no data within listener.header_timeout");
            return;
        };
        let is_h2 = first == H2_PREFACE;
        // Both protocols read what was read already once more.
        let (read, write) = stream.into_split();
        let stream = tokio::io::join(io::Cursor::new(first).chain(read), write);
        if is_h2 {
            self.h2(stream, other, respond).await;
        } else {
            self.h1(stream, other, respond).await;
        }
    }

    /// Serves a connection on a Unix socket.
    pub(super) async fn unix(self, stream: UnixStream, respond: impl Respond) {
        let user = stream.peer_cred().ok().map(|user| User { uid: user.uid(), gid: user.gid() });
        let other = RemoteEnd::plain(Via::Unix(user), self.connection());
        self.h1(stream, other, respond).await;
    }

    /// Serves a connection with TLS.
    pub(super) async fn tls(self, stream: TcpStream, via: Via, respond: impl Respond) {
        prepare(&stream);
        let Some(tls) = self.tls.clone() else { return };
        let loaded = tls.now();
        let handshake = async {
            let mut first = [0];
            if stream.peek(&mut first).await? == 1 && first[0] != TLS_HANDSHAKE {
                count(&self.counters.plain_http);
                refuse(stream, &PLAIN_HTTP, self.clock.now().wall).await;
                return Ok(None);
            }
            TlsAcceptor::from(Arc::clone(&loaded.config)).accept(stream).await.map(Some)
        };
        let stream = match timeout(self.settings.handshake_timeout, handshake).await {
            Ok(Ok(Some(stream))) => {
                count(&self.counters.handshakes);
                stream
            }
            Ok(Ok(None)) => return,
            Ok(Err(error)) => {
                count(&self.counters.handshakes_failed);
                tracing::debug!(error = crate::error_text::error_text(&error), "TLS handshake failed");
                return;
            }
            Err(_) => {
                count(&self.counters.handshakes_timed_out);
                tracing::debug!("TLS handshake timed out (listener.handshake_timeout)");
                return;
            }
        };
        let session = stream.get_ref().1;
        let is_h2 = session.alpn_protocol() == Some(b"h2");
        let chain: Vec<CertificateDer<'static>> = session
            .peer_certificates()
            .unwrap_or_default()
            .iter()
            .cloned()
            .map(CertificateDer::into_owned)
            .collect();
        let connection = self.connection();
        let other = if let Some(first) = chain.first() {
            let certificate = Certificate::read(first).map(Arc::new);
            let peer = Peer { via, certificate, is_refused: false, connection };
            let clock = self.clock.clone();
            RemoteEnd::Certified(Box::new(CertifiedPeer::new(peer, chain, tls, loaded, clock)))
        } else {
            RemoteEnd::plain(via, connection)
        };
        if is_h2 {
            self.h2(stream, other, respond).await;
        } else {
            self.h1(stream, other, respond).await;
        }
    }

    fn connection(&self) -> Arc<Connection> {
        Arc::new(Connection::new(self.settings.max_buffered_per_connection))
    }

    async fn h1<S>(self, stream: S, other: RemoteEnd, respond: impl Respond)
    where
        S: AsyncRead + AsyncWrite + Send + 'static,
    {
        let settings = &self.settings;
        let first_request = sleep(FIRST_REQUEST);
        let progress = Arc::new(Progress::new(settings.idle_timeout, self.shutdown.announcement()));
        let stream = H1Stream::new(
            self.timed(stream),
            settings,
            Arc::clone(&other.now().connection),
            Arc::clone(&progress),
        );
        let connection = http1::Builder::new()
            // The stream sees to both, and to the limits of time on a head and on idling.
            .header_read_timeout(None)
            .half_close(true)
            .max_headers(settings.max_headers)
            .max_header_size(settings.max_head)
            .max_buf_size(settings.max_head)
            .serve_connection(TokioIo::new(stream), h1::answering(respond, other, Arc::clone(&progress)));
        let mut connection = pin!(connection);
        let ended = tokio::select! {
            ended = connection.as_mut() => ended,
            () = self.shutdown.begun() => {
                // A new connection is not closed under its first request.
                let first = async { tokio::select! {
                    () = progress.asked() => {}
                    () = first_request => {}
                }};
                tokio::select! {
                    ended = connection.as_mut() => ended,
                    () = first => {
                        connection.as_mut().graceful_shutdown();
                        self.until_over(connection).await
                    }
                }
            }
        };
        log_end(ended);
    }

    async fn h2<S>(self, stream: S, other: RemoteEnd, respond: impl Respond)
    where
        S: AsyncRead + AsyncWrite + Send + 'static,
    {
        let settings = &self.settings;
        let streams = Arc::new(Streams::default());
        let run = Run { streams: Arc::clone(&streams), send_timeout: settings.send_timeout };
        let connection = http2::Builder::new(run)
            .timer(TokioTimer::new())
            .keep_alive_interval(settings.idle_timeout.min(Duration::from_secs(30)))
            .keep_alive_timeout(settings.header_timeout)
            .max_concurrent_streams(settings.max_streams)
            .max_pending_accept_reset_streams(settings.max_reset_streams)
            .max_local_error_reset_streams(settings.max_reset_streams)
            .header_table_size(MAX_HEADER_TABLE)
            .max_header_list_size(u32::try_from(settings.max_head).unwrap_or(u32::MAX))
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_send_buf_size(SEND_BUFFER)
            .serve_connection(
                TokioIo::new(Box::pin(self.timed(stream))),
                h2::answering(respond, other, settings.max_headers),
            );
        let mut connection = pin!(connection);
        let ended = tokio::select! {
            ended = connection.as_mut() => Some(ended),
            () = self.shutdown.begun() => {
                connection.as_mut().graceful_shutdown();
                Some(self.until_over(connection).await)
            }
            () = streams.idle_for(settings.header_timeout, settings.idle_timeout) => {
                connection.as_mut().graceful_shutdown();
                timeout(settings.send_timeout, connection).await.ok()
            }
        };
        if let Some(ended) = ended {
            log_end(ended);
        }
    }

    /// Drains a connection that was asked to close. After the drain time, only [`LAST_ANSWERS`] are left.
    async fn until_over(&self, connection: impl Future<Output = hyper::Result<()>>) -> hyper::Result<()> {
        let over = async {
            self.shutdown.over().await;
            sleep(LAST_ANSWERS).await;
        };
        tokio::select! {
            ended = connection => ended,
            () = over => Ok(()),
        }
    }

    /// A stream that fails when its client takes nothing for `listener.send_timeout`.
    fn timed<S: AsyncRead + AsyncWrite>(&self, stream: S) -> TimeoutStream<S> {
        let mut stream = TimeoutStream::new(stream);
        stream.set_write_timeout(Some(self.settings.send_timeout));
        stream
    }
}

/// Sends small answers at once, and keeps large ones out of the kernel, which would buffer some 4 MB for a client that
/// reads nothing.
fn prepare(stream: &TcpStream) {
    let _ = stream.set_nodelay(true);
    let _ = SockRef::from(stream).set_tcp_notsent_lowat(UNSENT);
}

/// Reads the first bytes of a connection until they are HTTP/2's preface or cannot be.
/// hyper-util's own detection waits for them without a time limit.
async fn beginning(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let mut first = Vec::with_capacity(H2_PREFACE.len());
    while first.len() < H2_PREFACE.len() && H2_PREFACE.starts_with(&first) {
        let missing = (H2_PREFACE.len() - first.len()) as u64;
        if (&mut *stream).take(missing).read_buf(&mut first).await? == 0 {
            break;
        }
    }
    Ok(first)
}

pub(super) fn via(is_local: bool, peer: SocketAddr) -> Via {
    if is_local { Via::Loopback(peer) } else { Via::Network(peer) }
}

/// Logs a connection's failure, at debug level only: it is the client's business.
fn log_end(end: hyper::Result<()>) {
    if let Err(error) = end {
        tracing::debug!(error = crate::error_text::error_text(&error), "connection failed");
    }
}
