//! One connection from its first byte to its end: TLS, HTTP/1.1 or HTTP/2, and the limits on both.

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use http::header::CONNECTION;
use http::{HeaderValue, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls_pki_types::CertificateDer;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::Notify;
use tokio::time::{sleep, timeout};
use tokio_io_timeout::TimeoutStream;
use tokio_rustls::TlsAcceptor;

use super::activity::{Activity, Taken};
use super::counters::count;
use super::{Brief, Counters, Respond, Settings};
use crate::clock::Clock;
use crate::shutdown::Shutdown;
use crate::transport::{Body, Certificate, Loaded, Peer, ServerTls, User, Via};

/// How an HTTP/2 connection with prior knowledge begins (RFC 9113 §3.4).
const H2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// The first byte of a TLS handshake (RFC 8446 §5.1).
const TLS_HANDSHAKE: u8 = 0x16;
/// How long a connection that gets no HTTP of ours is listened to after its answer.
const LINGER: Duration = Duration::from_secs(1);
/// After so long, an open connection's certificate is verified again.
const VERIFIED_FOR: Duration = Duration::from_mins(1);
/// How old a connection that has not asked yet must be to be closed when a stop begins.
const FIRST_REQUEST: Duration = Duration::from_secs(1);
/// How long connections have for their last answers when the drain time is over.
const LAST_ANSWERS: Duration = Duration::from_secs(1);
/// Largest header block list that HTTP/2's table may hold for a client, in bytes.
const MAX_HEADER_TABLE: u32 = 4_096;
/// How much of an HTTP/2 answer may wait for its client, in bytes. What waits here counts as taken, so it
/// is little.
const SEND_BUFFER: usize = 65_536;

/// What every connection is served with.
#[derive(Debug, Clone)]
pub(super) struct Serving {
    pub(super) settings: Arc<Settings>,
    pub(super) tls: Option<ServerTls>,
    pub(super) clock: Clock,
    pub(super) shutdown: Shutdown,
    pub(super) counters: Arc<Counters>,
}

/// The other end.
enum Other {
    /// One that showed no certificate.
    Plain(Arc<Peer>),
    /// One that showed one, and what that is worth now.
    Certified(Box<Certified>),
}

struct Certified {
    via: Via,
    tls: ServerTls,
    chain: Vec<CertificateDer<'static>>,
    /// What the certificate was last verified by, and when, and what came of it.
    seen: Mutex<Verified>,
    clock: Clock,
}

struct Verified {
    by: Arc<Loaded>,
    at: Instant,
    peer: Arc<Peer>,
}

impl Other {
    fn plain(via: Via) -> Self {
        Self::Plain(Arc::new(Peer { via, certificate: None, is_refused: false }))
    }

    /// The peer as of now.
    fn now(&self) -> Arc<Peer> {
        match self {
            Self::Plain(peer) => Arc::clone(peer),
            Self::Certified(certified) => certified.now(),
        }
    }
}

impl Certified {
    /// The peer as of now. A connection outlives what its certificate was verified by: it is verified again
    /// when the files were replaced, and once in a while, for they have an end too.
    fn now(&self) -> Arc<Peer> {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let (loaded, now) = (self.tls.now(), self.clock.now());
        if !Arc::ptr_eq(&seen.by, &loaded) || now.mono.saturating_duration_since(seen.at) >= VERIFIED_FOR {
            let certificate = loaded.verify(&self.chain, now.wall);
            let is_refused = certificate.is_none();
            let peer = Arc::new(Peer { via: self.via, certificate, is_refused });
            *seen = Verified { by: loaded, at: now.mono, peer };
        }
        Arc::clone(&seen.peer)
    }
}

impl Serving {
    /// Serves a connection without TLS.
    pub(super) async fn tcp(self, stream: TcpStream, via: Via, respond: impl Respond) {
        let _ = stream.set_nodelay(true);
        let other = Other::plain(via);
        if !self.settings.h2c {
            return self.h1(stream, other, respond).await;
        }
        let mut stream = stream;
        let Ok(Ok(first)) = timeout(self.settings.header_timeout, beginning(&mut stream)).await else {
            tracing::debug!("a connection did not begin within listener.header_timeout");
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
        let other = Other::plain(Via::Unix(user));
        self.h1(stream, other, respond).await;
    }

    /// Serves a connection with TLS.
    pub(super) async fn tls(self, stream: TcpStream, via: Via, respond: impl Respond) {
        let _ = stream.set_nodelay(true);
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
                tracing::debug!(error = crate::chain::chain(&error), "a TLS handshake failed");
                return;
            }
            Err(_) => {
                count(&self.counters.handshakes_timed_out);
                tracing::debug!("a TLS handshake took longer than listener.handshake_timeout");
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
        let other = if let Some(first) = chain.first() {
            let certificate = Certificate::read(first).map(Arc::new);
            let peer = Arc::new(Peer { via, certificate, is_refused: false });
            let seen = Mutex::new(Verified { by: loaded, at: self.clock.now().mono, peer });
            Other::Certified(Box::new(Certified { via, tls, chain, seen, clock: self.clock.clone() }))
        } else {
            Other::plain(via)
        };
        if is_h2 {
            self.h2(stream, other, respond).await;
        } else {
            self.h1(stream, other, respond).await;
        }
    }

    async fn h1<S>(self, stream: S, other: Other, respond: impl Respond)
    where
        S: AsyncRead + AsyncWrite + Send + 'static,
    {
        let settings = &self.settings;
        let (asked, began) = (Arc::new(Notify::new()), tokio::time::Instant::now());
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(settings.header_timeout)
            .max_headers(settings.max_headers)
            .max_header_size(settings.max_head)
            .max_buf_size(settings.max_head)
            .serve_connection(
                self.io(stream),
                answering(respond, other, (self.shutdown.announcement(), Arc::clone(&asked))),
            );
        let mut connection = pin!(connection);
        let ended = tokio::select! {
            ended = connection.as_mut() => ended,
            () = self.shutdown.begun() => {
                // A new connection is not closed under its first request.
                let first = async { tokio::select! {
                    () = asked.notified() => {}
                    () = tokio::time::sleep_until(began + FIRST_REQUEST) => {}
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

    async fn h2<S>(self, stream: S, other: Other, respond: impl Respond)
    where
        S: AsyncRead + AsyncWrite + Send + 'static,
    {
        let settings = &self.settings;
        let activity = Arc::new(Activity::default());
        let watched = (Arc::clone(&activity), settings.max_headers);
        let connection = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .keep_alive_interval(settings.idle_timeout.min(Duration::from_secs(30)))
            .keep_alive_timeout(settings.header_timeout)
            .max_concurrent_streams(settings.max_streams)
            .max_pending_accept_reset_streams(settings.max_reset_streams)
            .max_local_error_reset_streams(settings.max_reset_streams)
            .header_table_size(MAX_HEADER_TABLE)
            .max_header_list_size(u32::try_from(settings.max_head).unwrap_or(u32::MAX))
            .max_send_buf_size(SEND_BUFFER)
            .serve_connection(self.io(stream), answering_h2(respond, other, watched));
        let mut connection = pin!(connection);
        let ended = tokio::select! {
            ended = connection.as_mut() => Some(ended),
            () = self.shutdown.begun() => {
                connection.as_mut().graceful_shutdown();
                Some(self.until_over(connection).await)
            }
            () = activity.idle_for(settings.idle_timeout) => {
                // Streams whose answers the client does not take would keep it open for ever.
                connection.as_mut().graceful_shutdown();
                timeout(settings.send_timeout, connection).await.ok()
            }
        };
        if let Some(ended) = ended {
            log_end(ended);
        }
    }

    /// Lets a connection that is told to end do so; when there is no time left, only for its last answers.
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
    fn io<S: AsyncRead + AsyncWrite>(&self, stream: S) -> TokioIo<Pin<Box<TimeoutStream<S>>>> {
        let mut stream = TimeoutStream::new(stream);
        stream.set_write_timeout(Some(self.settings.send_timeout));
        TokioIo::new(Box::pin(stream))
    }
}

fn answering(
    respond: impl Respond,
    other: Other,
    (announced, asked): (Arc<AtomicBool>, Arc<Notify>),
) -> impl hyper::service::HttpService<Incoming, ResBody = Body, Error = Infallible, Future: Send + 'static> {
    service_fn(move |request| {
        let answer = respond(request, other.now());
        // Kept until somebody looks.
        asked.notify_one();
        let announced = Arc::clone(&announced);
        async move {
            let mut answer = answer.await;
            if announced.load(Ordering::Relaxed) {
                // Its client goes elsewhere with the next request, before this connection is closed under it.
                answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
            }
            Ok::<_, Infallible>(answer)
        }
    })
}

/// The same for HTTP/2, whose connections are watched, and whose fields nobody counted yet.
fn answering_h2(
    respond: impl Respond,
    other: Other,
    (activity, max_headers): (Arc<Activity>, usize),
) -> impl hyper::service::HttpService<Incoming, ResBody = Taken, Error = Infallible, Future: Send + 'static> {
    service_fn(move |request: Request<Incoming>| {
        let busy = activity.begin();
        let activity = Arc::clone(&activity);
        let fields = request.headers().len();
        let answer = (fields <= max_headers).then(|| respond(request, other.now()));
        async move {
            let answer = if let Some(answer) = answer {
                answer.await
            } else {
                tracing::debug!(fields, "a request has more header fields than listener.max_headers");
                let mut refusal = Response::new(Body::Left(Full::default()));
                *refusal.status_mut() = StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE;
                refusal
            };
            drop(busy);
            Ok::<_, Infallible>(answer.map(|body| Taken::new(body, activity)))
        }
    })
}

/// What a connection begins with, as far as it takes to tell whether that is HTTP/2's preface.
/// hyper-util's own detection waits for it without a limit of time.
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

/// An answer to a connection that no HTTP is spoken on.
#[derive(Debug)]
pub(super) struct Refusal {
    status: &'static str,
    code: &'static str,
    title: &'static str,
    detail: &'static str,
    /// `Retry-After`, in seconds.
    retry_after: Option<u32>,
}

/// HTTP without TLS on a TLS address.
pub(super) const PLAIN_HTTP: Refusal = Refusal {
    status: "400 Bad Request",
    code: "tls_needed",
    title: "This address speaks TLS",
    detail: "Use https:// instead of http://.",
    retry_after: None,
};
/// `listener.max_connections`.
pub(super) const FULL: Refusal = Refusal {
    status: "503 Service Unavailable",
    code: "too_many_connections",
    title: "The gateway has too many connections",
    detail: "Try again in a moment, or raise listener.max_connections.",
    retry_after: Some(1),
};
/// `listener.max_connections_per_address`.
pub(super) const FULL_FOR_ADDRESS: Refusal = Refusal {
    status: "429 Too Many Requests",
    code: "too_many_connections_of_address",
    title: "Your address has too many connections",
    detail: "Use fewer connections, or raise listener.max_connections_per_address.",
    retry_after: Some(1),
};

/// Answers what `brief` knows an answer to, else with `refusal`; and closes the connection, in bounded time.
pub(super) async fn answer_briefly(mut stream: TcpStream, brief: &Brief, refusal: &Refusal, now: SystemTime) {
    let asking = async {
        let mut line = [0; 64];
        let mut length = 0;
        // The method and the path are all that matters, and they come first.
        while length < line.len() && !line[..length].contains(&b'\n') {
            match stream.read(&mut line[length..]).await {
                Ok(0) | Err(_) => break,
                Ok(more) => length += more,
            }
        }
        let mut words = std::str::from_utf8(&line[..length]).unwrap_or_default().split(' ');
        let (method, path) = (words.next(), words.next());
        path.filter(|_| method == Some("GET") && words.next().is_some()).and_then(|path| (brief.0)(path))
    };
    let Ok(Some((status, text))) = timeout(LINGER, asking).await else {
        return refuse(stream, refusal, now).await;
    };
    let date = httpdate::fmt_http_date(now);
    let answer = format!(
        "HTTP/1.1 {} {}\r\ndate: {date}\r\ncontent-type: text/plain; charset=utf-8\r\ncache-control: no-store\r\n\
         content-length: {}\r\nconnection: close\r\n\r\n{text}",
        status.as_str(),
        status.canonical_reason().unwrap_or_default(),
        text.len()
    );
    say(stream, answer.as_bytes()).await;
}

/// Writes `refusal` and closes the connection, in bounded time.
pub(super) async fn refuse(stream: TcpStream, refusal: &Refusal, now: SystemTime) {
    let Refusal { status, code, title, detail, retry_after } = refusal;
    let retry_after = retry_after.map_or_else(String::new, |seconds| format!("retry-after: {seconds}\r\n"));
    let date = httpdate::fmt_http_date(now);
    let document = format!(
        "{{\"jsonapi\":{{\"version\":\"1.0\"}},\"errors\":[{{\"status\":\"{}\",\"code\":\"{code}\",\"title\":\"{title}\",\"detail\":\"{detail}\",\"meta\":{{\"source\":\"exportgate\"}}}}]}}",
        &status[..3]
    );
    let answer = format!(
        "HTTP/1.1 {status}\r\ndate: {date}\r\ncontent-type: application/vnd.api+json\r\ncache-control: no-store\r\n\
         x-content-type-options: nosniff\r\ncontent-security-policy: default-src 'none'; frame-ancestors 'none'\r\n\
         referrer-policy: no-referrer\r\n{retry_after}content-length: {}\r\nconnection: close\r\n\r\n{document}",
        document.len()
    );
    say(stream, answer.as_bytes()).await;
}

/// Writes `answer` and closes the connection, in bounded time.
async fn say(mut stream: TcpStream, answer: &[u8]) {
    let saying = async {
        stream.write_all(answer).await?;
        stream.shutdown().await?;
        // What came unread would make the close a reset, which takes the answer along.
        let mut rest = [0; 1_024];
        while stream.read(&mut rest).await? > 0 {}
        io::Result::Ok(())
    };
    let _ = timeout(LINGER, saying).await;
}

/// Where a TCP connection came in.
pub(super) fn via(is_local: bool, peer: SocketAddr) -> Via {
    if is_local { Via::Loopback(peer) } else { Via::Network(peer) }
}

/// A connection that ends badly is its client's business: said at debug level only.
fn log_end(end: hyper::Result<()>) {
    if let Err(error) = end {
        tracing::debug!(error = crate::chain::chain(&error), "a connection ended early");
    }
}

/// Runs `saying` unless too many are being refused already: a flood of refusals is closed without a word.
pub(super) fn refuse_soon(
    refusals: &Arc<tokio::sync::Semaphore>,
    shutdown: &Shutdown,
    saying: impl Future<Output = ()> + Send + 'static,
) {
    if let Ok(permit) = Arc::clone(refusals).try_acquire_owned() {
        shutdown.spawn(async move {
            let _permit = permit;
            saying.await;
        });
    }
}
