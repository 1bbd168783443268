//! Upstreams that say byte for byte what a test has them say, and a relay that can fall silent.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, UNIX_EPOCH};

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;

use super::h2::{ACK, DATA, END_STREAM, HEADERS, PING, PREFACE, SETTINGS, frame};
use super::pki::{Authority, Identity};

/// What an upstream answers a request with; it closes the connection behind that, or not.
pub(crate) struct Answer {
    pub(crate) bytes: Vec<u8>,
    pub(crate) closes: bool,
}

impl Answer {
    pub(crate) fn of(bytes: impl Into<Vec<u8>>) -> Self {
        Self { bytes: bytes.into(), closes: false }
    }
}

/// Which request it is that a script answers: the first is 0; its stream is 0 with HTTP/1.1.
pub(crate) type Script = dyn Fn(usize, u32) -> Answer + Send + Sync;

/// An upstream with a script.
pub(crate) struct Upstream {
    pub(crate) url: String,
    /// Empty where it speaks HTTP/1.1, in the clear.
    pub(crate) ca_pem: String,
    seen: Arc<Seen>,
}

#[derive(Default)]
struct Seen {
    connections: AtomicUsize,
    requests: AtomicUsize,
    heads: Mutex<Vec<String>>,
}

impl Upstream {
    /// One that speaks HTTP/1.1.
    pub(crate) async fn http1(script: impl Fn(usize, u32) -> Answer + Send + Sync + 'static) -> Self {
        Self::start(None, Arc::new(script)).await
    }

    /// One that speaks HTTP/1.1 over TLS, by this name.
    pub(crate) async fn https1(
        name: &str,
        script: impl Fn(usize, u32) -> Answer + Send + Sync + 'static,
    ) -> Self {
        let authority = Authority::new("a scripted upstream");
        let year = Duration::from_hours(24 * 365);
        let identity = authority.server_for(name, (UNIX_EPOCH + 54 * year, UNIX_EPOCH + 130 * year));
        Self::start(Some(acceptor(&authority, &identity, b"http/1.1")), Arc::new(script)).await
    }

    /// One that speaks HTTP/2 over TLS. Its script is asked for each request that has come whole.
    pub(crate) async fn http2(script: impl Fn(usize, u32) -> Answer + Send + Sync + 'static) -> Self {
        let authority = Authority::new("a scripted upstream");
        let identity = authority.server();
        Self::start(Some(acceptor(&authority, &identity, b"h2")), Arc::new(script)).await
    }

    async fn start(tls: Option<(TlsAcceptor, String)>, script: Arc<Script>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let scheme = if tls.is_some() { "https" } else { "http" };
        let url = format!("{scheme}://{}", listener.local_addr().unwrap());
        let (acceptor, ca_pem) = tls.unzip();
        let seen = Arc::new(Seen::default());
        let counted = Arc::clone(&seen);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                counted.connections.fetch_add(1, Ordering::Relaxed);
                let (acceptor, script, seen) = (acceptor.clone(), Arc::clone(&script), Arc::clone(&counted));
                tokio::spawn(async move {
                    // How a connection ends is the test's matter.
                    let _ = match acceptor {
                        None => speak_http1(stream, &*script, &seen).await,
                        Some(acceptor) => {
                            let stream = acceptor.accept(stream).await?;
                            match stream.get_ref().1.alpn_protocol() {
                                Some(b"h2") => speak_http2(stream, &*script, &seen).await,
                                _ => speak_http1(stream, &*script, &seen).await,
                            }
                        }
                    };
                    std::io::Result::Ok(())
                });
            }
        });
        Self { url, ca_pem: ca_pem.unwrap_or_default(), seen }
    }

    pub(crate) fn connections(&self) -> usize {
        self.seen.connections.load(Ordering::Relaxed)
    }

    pub(crate) fn requests(&self) -> usize {
        self.seen.requests.load(Ordering::Relaxed)
    }

    /// The heads of the requests that came over HTTP/1.1, in lower case; what each ended with over HTTP/2.
    pub(crate) fn heads(&self) -> Vec<String> {
        self.seen.heads.lock().unwrap().clone()
    }
}

fn acceptor(authority: &Authority, identity: &Identity, protocol: &[u8]) -> (TlsAcceptor, String) {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![identity.certificate.clone()], identity.key())
        .unwrap();
    config.alpn_protocols = vec![protocol.to_vec()];
    (TlsAcceptor::from(Arc::new(config)), authority.pem())
}

async fn speak_http1<S: AsyncRead + AsyncWrite + Unpin>(
    mut stream: S,
    script: &Script,
    seen: &Seen,
) -> std::io::Result<()> {
    loop {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await?);
        }
        let head = String::from_utf8_lossy(&head).to_ascii_lowercase();
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok());
        stream.read_exact(&mut vec![0; length.unwrap_or(0)]).await?;
        seen.heads.lock().unwrap().push(head);
        let answer = script(seen.requests.fetch_add(1, Ordering::Relaxed), 0);
        stream.write_all(&answer.bytes).await?;
        stream.flush().await?;
        if answer.closes {
            return stream.shutdown().await;
        }
    }
}

async fn speak_http2<S: AsyncRead + AsyncWrite + Unpin>(
    mut stream: S,
    script: &Script,
    seen: &Seen,
) -> std::io::Result<()> {
    stream.read_exact(&mut vec![0; PREFACE.len()]).await?;
    stream.write_all(&frame(SETTINGS, 0, 0, &[])).await?;
    loop {
        let mut head = [0; 9];
        stream.read_exact(&mut head).await?;
        let [a, b, c, kind, flags, id @ ..] = head;
        let mut payload = vec![0; u32::from_be_bytes([0, a, b, c]) as usize];
        stream.read_exact(&mut payload).await?;
        match kind {
            SETTINGS if flags & ACK == 0 => stream.write_all(&frame(SETTINGS, ACK, 0, &[])).await?,
            PING if flags & ACK == 0 => stream.write_all(&frame(PING, ACK, 0, &payload)).await?,
            HEADERS | DATA if flags & END_STREAM != 0 => {
                let ended_by = if kind == DATA { "ended by data" } else { "ended by a header section" };
                seen.heads.lock().unwrap().push(ended_by.to_owned());
                let number = seen.requests.fetch_add(1, Ordering::Relaxed);
                let answer = script(number, u32::from_be_bytes(id));
                stream.write_all(&answer.bytes).await?;
                stream.flush().await?;
                if answer.closes {
                    return stream.shutdown().await;
                }
            }
            _ => {}
        }
    }
}

/// Passes bytes on to `to`, until it is told to be silent: then open connections stay open, and nothing more goes
/// through them. New ones are served.
pub(crate) struct Relay {
    pub(crate) address: SocketAddr,
    silent: watch::Sender<usize>,
    opened: Arc<AtomicUsize>,
    /// How many of its connections their client has closed.
    closed: watch::Receiver<usize>,
}

impl Relay {
    pub(crate) async fn to(to: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (silent, opened) = (watch::Sender::new(0), Arc::new(AtomicUsize::new(0)));
        let (closing, closed) = watch::channel(0);
        let (told, number, closing) = (silent.subscribe(), Arc::clone(&opened), Arc::new(closing));
        tokio::spawn(async move {
            while let Ok((mut client, _)) = listener.accept().await {
                let number = number.fetch_add(1, Ordering::Relaxed);
                let (mut told, closing) = (told.clone(), Arc::clone(&closing));
                tokio::spawn(async move {
                    let mut server = TcpStream::connect(to).await.unwrap();
                    tokio::select! {
                        _ = tokio::io::copy_bidirectional(&mut client, &mut server) => {}
                        () = async { drop(told.wait_for(|silent| *silent > number).await) } => {
                            let _ = tokio::io::copy(&mut client, &mut tokio::io::sink()).await;
                        }
                    }
                    closing.send_modify(|closed| *closed += 1);
                });
            }
        });
        Self { address, silent, opened, closed }
    }

    /// Lets nothing more through the connections that are open.
    pub(crate) fn fall_silent(&self) {
        self.silent.send_replace(self.opened.load(Ordering::Relaxed));
    }

    pub(crate) fn opened(&self) -> usize {
        self.opened.load(Ordering::Relaxed)
    }

    /// Resolves when so many connections have been closed.
    pub(crate) async fn wait_for_closed(&mut self, count: usize) {
        self.closed.wait_for(|closed| *closed >= count).await.unwrap();
    }
}
