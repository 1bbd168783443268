//! The client for what wrk and h2load cannot ask: requests at a constant rate, many at once, each entry once,
//! handshakes. Prints one line of JSON.
//!
//! `benches/peers/run.sh` starts it; `cargo bench` leaves it out.
//!
//!     load fill PREFIX SUFFIX COUNT CONNECTIONS     PREFIX, a number of 12 digits and SUFFIX, each once
//!     load rate URL RATE SECONDS CONNECTIONS        times count from when a request was due, not from when it left
//!     load mixed URL OTHER EVERY RATE SECONDS CONNECTIONS
//!                                                   the same, but each EVERYth (0: none) asks OTHER, where a number of 12
//!                                                   digits takes the place of `@`; the times of these are not shown
//!     load burst URL CONNECTIONS                    one request each, at once
//!     load handshakes URL CA SECONDS CONNECTIONS full|resumed
//!
//! `--field "Name: value"` comes last and adds a field to each request.

#![expect(
    clippy::disallowed_methods,
    clippy::print_stdout,
    reason = "a program of its own: it ends by itself, and its output is its result"
)]

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::future::join_all;
use http::header::HOST;
use http::{HeaderName, HeaderValue, Request, StatusCode, Uri};
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use rustls::HandshakeKind;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::Barrier;
use tokio::sync::mpsc;
use tokio_rustls::TlsConnector;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// From this long before a request is due, its time is awaited by looking at the clock again and again: tokio's timers
/// count whole milliseconds. The client has a core of its own.
const CLOSE: Duration = Duration::from_millis(2);

type Sender = SendRequest<Empty<Bytes>>;
type Field = Option<(HeaderName, HeaderValue)>;

#[derive(Clone)]
struct Target {
    uri: Uri,
    field: Field,
}

impl Target {
    fn request(&self) -> Request<Empty<Bytes>> {
        let path = self.uri.path_and_query().expect("a path").as_str();
        let authority = self.uri.authority().expect("an authority").as_str();
        let mut request = Request::get(path).header(HOST, authority).body(Empty::new()).expect("a request");
        if let Some((name, value)) = &self.field {
            request.headers_mut().insert(name, value.clone());
        }
        request
    }

    async fn dial(&self) -> TcpStream {
        let stream = TcpStream::connect(self.uri.authority().expect("an authority").as_str()).await;
        let stream = stream.expect("a connection");
        stream.set_nodelay(true).expect("no delay");
        stream
    }

    async fn connect(&self) -> Sender {
        speak(self.dial().await).await
    }
}

async fn speak(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) -> Sender {
    let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.expect("HTTP");
    tokio::spawn(connection);
    sender
}

/// Whether the answer came whole and is a 200.
async fn ask(sender: &mut Sender, request: Request<Empty<Bytes>>) -> bool {
    if sender.ready().await.is_err() {
        return false;
    }
    let Ok(answer) = sender.send_request(request).await else { return false };
    let good = answer.status() == StatusCode::OK;
    answer.into_body().collect().await.is_ok() && good
}

/// Prints what was measured: the time of each request, none where it failed.
fn report(times: Vec<Option<Duration>>, seconds: Duration) {
    report_with(times, seconds, "");
}

/// The same, with `more` members.
fn report_with(times: Vec<Option<Duration>>, seconds: Duration, more: &str) {
    let all = times.len();
    let mut times: Vec<Duration> = times.into_iter().flatten().collect();
    times.sort_unstable();
    let errors = all - times.len();
    // In thousandths. A share of 1 is the last.
    let at = |share: usize| {
        times
            .get((times.len() * share / 1_000).min(times.len().saturating_sub(1)))
            .map_or(0.0, Duration::as_secs_f64)
            * 1e3
    };
    println!(
        r#"{{"requests":{},"errors":{errors},"seconds":{:.6},"p50_ms":{:.4},"p99_ms":{:.4},"p999_ms":{:.4},"max_ms":{:.4}{more}}}"#,
        times.len(),
        seconds.as_secs_f64(),
        at(500),
        at(990),
        at(999),
        at(1_000)
    );
}

async fn fill(prefix: &str, suffix: &str, count: u64, connections: u64, field: Field) {
    let begun = Instant::now();
    let workers = (0..connections).map(|worker| {
        let field = field.clone();
        async move {
            let mut times = Vec::new();
            let mut sender: Option<Sender> = None;
            for number in (worker..count).step_by(usize::try_from(connections).expect("few")) {
                let uri = format!("{prefix}{number:012}{suffix}").parse().expect("a URL");
                let target = Target { uri, field: field.clone() };
                let mut open = match sender.take() {
                    Some(open) => open,
                    None => target.connect().await,
                };
                let begun = Instant::now();
                let good = ask(&mut open, target.request()).await;
                times.push(good.then(|| begun.elapsed()));
                sender = good.then_some(open);
            }
            times
        }
    });
    let times = join_all(workers).await.concat();
    report(times, begun.elapsed());
}

/// A request that is due at a time, and whether its time is to be shown.
type Due = (Instant, Target, bool);

/// What a constant rate came to.
struct Rated {
    times: Vec<Option<Duration>>,
    /// Those that are not shown.
    others: Vec<Option<Duration>>,
    /// By how much requests left too late: pauses of this client, not of the server.
    late: Vec<Duration>,
    took: Duration,
}

async fn rate(wanted: impl Fn(u64) -> (Target, bool), rate: f64, seconds: f64, connections: u64) -> Rated {
    let mut queues = Vec::new();
    let mut workers = Vec::new();
    for _ in 0..connections {
        let (queue, mut due) = mpsc::unbounded_channel::<Due>();
        let mut sender = wanted(1).0.connect().await;
        queues.push(queue);
        workers.push(tokio::spawn(async move {
            let mut times = Vec::new();
            while let Some((due, target, shown)) = due.recv().await {
                let good = ask(&mut sender, target.request()).await;
                times.push((good.then(|| due.elapsed()), shown));
            }
            times
        }));
    }
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a small number")]
    let count = (rate * seconds) as u64;
    let mut late = Vec::new();
    let begun = Instant::now();
    for (number, queue) in (0..count).zip(queues.iter().cycle()) {
        #[expect(clippy::cast_precision_loss, reason = "a small number")]
        let due = begun + Duration::from_secs_f64(number as f64 / rate);
        let (target, shown) = wanted(number);
        loop {
            let left = due.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            } else if left > CLOSE {
                tokio::time::sleep(left.checked_sub(CLOSE).expect("it is longer")).await;
            } else {
                tokio::task::yield_now().await;
            }
        }
        late.push(due.elapsed());
        queue.send((due, target, shown)).expect("a worker");
    }
    drop(queues);
    let all = join_all(workers).await.into_iter().flat_map(|times| times.expect("a worker"));
    let (shown, others): (Vec<_>, Vec<_>) = all.partition(|(_, shown)| *shown);
    let times = |all: Vec<(Option<Duration>, bool)>| all.into_iter().map(|(time, _)| time).collect();
    Rated { times: times(shown), others: times(others), late, took: begun.elapsed() }
}

/// Prints the same as `report`, and what was longer than a pause should be.
fn report_pauses(rated: Rated) {
    const PAUSE: Duration = Duration::from_millis(10);
    let long = |times: &[Option<Duration>]| times.iter().flatten().filter(|time| **time > PAUSE).count();
    let most =
        |times: &[Option<Duration>]| times.iter().flatten().max().map_or(0.0, Duration::as_secs_f64) * 1e3;
    let Rated { times, others, late, took } = rated;
    let late: Vec<_> = late.into_iter().map(Some).collect();
    let failed = others.iter().filter(|time| time.is_none()).count();
    let more = format!(
        r#","over_10_ms":{},"others":{},"others_failed":{failed},"others_max_ms":{:.3},"others_over_10_ms":{},"late_max_ms":{:.3},"late_over_10_ms":{}"#,
        long(&times),
        others.len(),
        most(&others),
        long(&others),
        most(&late),
        long(&late)
    );
    report_with(times, took, &more);
}

async fn burst(target: &Target, connections: usize) {
    let senders = join_all((0..connections).map(|_| target.connect())).await;
    let barrier = Arc::new(Barrier::new(connections + 1));
    let workers: Vec<_> = senders
        .into_iter()
        .map(|mut sender| {
            let (barrier, target) = (Arc::clone(&barrier), target.clone());
            tokio::spawn(async move {
                barrier.wait().await;
                let begun = Instant::now();
                ask(&mut sender, target.request()).await.then(|| begun.elapsed())
            })
        })
        .collect();
    barrier.wait().await;
    let begun = Instant::now();
    let times = join_all(workers).await.into_iter().map(|time| time.expect("a worker")).collect();
    report(times, begun.elapsed());
}

/// Full handshakes, or resumed ones: one after the other on each of some workers, with one request each, which also
/// brings the tickets for the next.
async fn handshakes(target: &Target, ca: &str, seconds: f64, connections: u64, resumed: bool) {
    let mut provider = rustls::crypto::aws_lc_rs::default_provider();
    // What all peers can do, so that all do the same work.
    provider.kx_groups = vec![rustls::crypto::aws_lc_rs::kx_group::X25519];
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(ca).expect("a certificate")).expect("a certificate");
    let mut config = rustls::ClientConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("TLS 1.3")
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    if !resumed {
        config.resumption = rustls::client::Resumption::disabled();
    }
    let wanted = if resumed { HandshakeKind::Resumed } else { HandshakeKind::Full };
    let begun = Instant::now();
    let until = begun + Duration::from_secs_f64(seconds);
    let workers = (0..connections).map(|_| {
        // A store of tickets each.
        let mut config = config.clone();
        if resumed {
            config.resumption = rustls::client::Resumption::in_memory_sessions(8);
        }
        let connector = TlsConnector::from(Arc::new(config));
        let target = target.clone();
        async move {
            let mut times = Vec::new();
            let mut first = resumed;
            while Instant::now() < until {
                let stream = target.dial().await;
                let begun = Instant::now();
                let name = ServerName::try_from("localhost").expect("a name");
                let stream = connector.connect(name, stream).await;
                let took = begun.elapsed();
                let kind = stream.as_ref().ok().and_then(|stream| stream.get_ref().1.handshake_kind());
                let mut good = kind == Some(wanted) || first;
                if let Ok(stream) = stream {
                    let mut sender = speak(stream).await;
                    good &= ask(&mut sender, target.request()).await;
                }
                times.push(good.then_some(took));
                first = false;
            }
            times
        }
    });
    let times = join_all(workers).await.concat();
    report(times, begun.elapsed());
}

fn main() {
    let mut arguments: Vec<String> = std::env::args().skip(1).collect();
    let field = arguments.iter().position(|argument| argument == "--field").map(|at| {
        let (name, value) = arguments[at + 1].split_once(": ").expect("Name: value");
        let field = (name.parse().expect("a name"), value.parse().expect("a value"));
        arguments.truncate(at);
        field
    });
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let count = |text: &str| text.parse::<u64>().expect("a number");
    let real = |text: &str| text.parse::<f64>().expect("a number");
    let target = |url: &str| Target { uri: url.parse().expect("a URL"), field: field.clone() };
    // Sockets are looked at after every step: what came while this client counted down to a request is not to wait.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().event_interval(1).build();
    runtime.expect("a runtime").block_on(async {
        match arguments.as_slice() {
            ["fill", prefix, suffix, entries, connections] => {
                fill(prefix, suffix, count(entries), count(connections), field.clone()).await;
            }
            ["rate", url, a_second, seconds, connections] => {
                let target = target(url);
                let wanted = |_| (target.clone(), true);
                let rated = rate(wanted, real(a_second), real(seconds), count(connections)).await;
                report(rated.times, rated.took);
            }
            ["mixed", url, other, every, a_second, seconds, connections] => {
                let (usual, every) = (target(url), count(every));
                let wanted = |number: u64| {
                    if every > 0 && number % every == 0 {
                        (target(&other.replace('@', &format!("{number:012}"))), false)
                    } else {
                        (usual.clone(), true)
                    }
                };
                report_pauses(rate(wanted, real(a_second), real(seconds), count(connections)).await);
            }
            ["burst", url, connections] => {
                burst(&target(url), usize::try_from(count(connections)).expect("few")).await;
            }
            ["handshakes", url, ca, seconds, connections, kind @ ("full" | "resumed")] => {
                handshakes(&target(url), ca, real(seconds), count(connections), *kind == "resumed").await;
            }
            _ => panic!("load fill|rate|mixed|burst|handshakes; its first lines say what follows each"),
        }
    });
}
