//! Row D2 of the attack catalogue: slow clients by the thousand, clients that take nothing, handshakes
//! that stop, and more connections than there are places, against the real program while a good client
//! works.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;

use exportgate::fake::{Fake, Settings, State};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tempfile::TempDir;

use crate::support::program::Program;
use crate::support::raw::{Good, ask, connect, large_export, narrow, peak_memory, poll, rest};
use crate::support::{ORG, V, World, flag, keep_secret, results, scope};

/// How many slow clients there are.
const SLOW: u64 = 5_000;
/// How many threads play them.
const THREADS: u64 = 8;
/// What each of them may cost in memory, in KiB: as much as its head may be large.
const MEMORY: usize = 64;

async fn fake() -> Fake {
    let fake = Fake::start(Settings::default()).await.unwrap();
    fake.put_export(&scope(), "e1", State::Finished);
    fake
}

/// How many slow clients this machine lets us have: each is a file of ours and one of the program.
#[expect(clippy::print_stdout, reason = "a smaller test must be seen")]
fn affordable() -> u64 {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum }).unwrap();
    // The other tests of this process need files too.
    let files = limit.maximum.unwrap_or(u64::MAX).saturating_sub(2_000);
    if files < SLOW {
        println!(
            "######## ONLY {files} SLOW CLIENTS, NOT {SLOW}: raise the hard limit of open files ########"
        );
    }
    files.min(SLOW)
}

/// A client that goes on so slowly that it never ends.
struct Slow {
    stream: TcpStream,
    kind: u64,
}

impl Slow {
    /// The `at`th, from an address of its own: a third each sends its head, sends its body, takes its
    /// answer slowly.
    fn begin(address: SocketAddr, at: u64) -> Self {
        let [.., a, b] = at.to_be_bytes();
        let mut stream = narrow(address, Ipv4Addr::new(127, 1, a, b)).expect("it accepts");
        let kind = at % 3;
        let begun = match kind {
            0 => format!("GET {} HTTP/1.1\r\nhost: localhost\r\nx: ", results("e1")),
            1 => format!(
                "POST /orgs/{ORG}/export?{V} HTTP/1.1\r\nhost: localhost\r\ncontent-length: 100000\r\n\r\n"
            ),
            _ => format!("GET {} HTTP/1.1\r\nhost: localhost\r\n\r\n", results("large")),
        };
        stream.write_all(begun.as_bytes()).expect("it takes this much");
        if kind == 2 {
            stream.read_exact(&mut [0]).expect("an answer begins");
        }
        stream.set_nonblocking(true).unwrap();
        Self { stream, kind }
    }

    /// Goes on a little; whether the connection is there.
    fn go_on(&mut self) -> bool {
        let mut byte = [b'x'];
        let (gone_on, mut rest) = (&mut self.stream, [0]);
        match self.kind {
            0 | 1 => {
                gone_on.write(&byte).is_ok()
                    && gone_on.read(&mut rest).is_err_and(|e| e.kind() == std::io::ErrorKind::WouldBlock)
            }
            _ => gone_on.read(&mut byte).is_ok_and(|n| n == 1),
        }
    }
}

/// Plays `range` of the slow clients until `done`; how many were still there at the end.
fn play(address: SocketAddr, range: std::ops::Range<u64>, began: &dyn Fn(), done: &Receiver<()>) -> usize {
    let mut clients: Vec<Slow> = Vec::new();
    for at in range {
        clients.push(Slow::begin(address, at));
        began();
    }
    while let Err(RecvTimeoutError::Timeout) = done.recv_timeout(Duration::from_millis(500)) {
        clients.retain_mut(Slow::go_on);
    }
    clients.retain_mut(Slow::go_on);
    clients.len()
}

fn p99(mut taken: Vec<Duration>) -> Duration {
    taken.sort_unstable();
    taken[taken.len() * 99 / 100]
}

#[tokio::test(flavor = "multi_thread")]
#[expect(clippy::print_stdout, reason = "the figures are for whoever reads the test's output")]
async fn thousands_of_slow_clients_cost_only_their_own_connections() {
    let slow = affordable();
    let fake = fake().await;
    fake.put_export(&scope(), "large", large_export(256 << 10));
    let home = TempDir::new().unwrap();
    // So long that none of them is cut off before the end.
    let settings = [
        ("EXPORTGATE_LISTENER_HEADER_TIMEOUT", "5m"),
        ("EXPORTGATE_LISTENER_BODY_TIMEOUT", "5m"),
        ("EXPORTGATE_LISTENER_SEND_TIMEOUT", "5m"),
        ("EXPORTGATE_LISTENER_REQUEST_TIMEOUT", "5m"),
    ];
    let mut program = Program::serve(home.path(), &fake, &[], &settings);
    let (address, pid) = (program.address, program.child.id());
    let asked = |target: &str| ask(&mut connect(address).unwrap(), target).unwrap();
    assert!(asked(&results("large")).1 > 256 << 10);

    let quiet = Good::begin(address);
    quiet.answered_more(1_200);
    let quiet = p99(quiet.end());
    let before = peak_memory(pid);

    let (began, begins) = channel();
    let played: Vec<_> = (0..THREADS)
        .map(|thread| {
            let (done, is_done) = channel();
            let (began, range) = (began.clone(), slow * thread / THREADS..slow * (thread + 1) / THREADS);
            let began = move || began.send(()).unwrap();
            (done, std::thread::spawn(move || play(address, range, &began, &is_done)))
        })
        .collect();
    // This one works while they come, the next while they are all there.
    let meanwhile = Good::begin(address);
    for _ in 0..slow {
        begins.recv_timeout(Duration::from_secs(30)).expect("each of them gets a place");
    }
    let meanwhile = meanwhile.end().len();
    let loaded = Good::begin(address);
    loaded.answered_more(1_200);
    let loaded = p99(loaded.end());
    let left: usize = played
        .into_iter()
        .map(|(done, played)| {
            drop(done);
            played.join().unwrap()
        })
        .sum();
    assert_eq!(left as u64, slow, "none was cut off before its time");

    let grown = peak_memory(pid) - before;
    let ratio = loaded.as_secs_f64() / quiet.as_secs_f64();
    println!(
        "{slow} slow clients: {grown} MiB more ({before} before); p99 {quiet:?} quiet, {loaded:?} under load \
         ({ratio:.2} times); {meanwhile} good answers while they came"
    );
    assert!(grown * 1_024 <= MEMORY * usize::try_from(slow).unwrap(), "{grown} MiB more");
    assert_eq!(asked(&results("e1")).0, 200);
    assert_eq!(fake.hits().start, 0);
    assert_eq!(program.terminate(), Some(0));
    keep_secret(fake.signatures());
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_heads_and_bodies_end_with_their_time() {
    let fake = fake().await;
    let home = TempDir::new().unwrap();
    let settings =
        [("EXPORTGATE_LISTENER_HEADER_TIMEOUT", "500ms"), ("EXPORTGATE_LISTENER_BODY_TIMEOUT", "500ms")];
    let mut program = Program::serve(home.path(), &fake, &[], &settings);
    let good = Good::begin(program.address);
    for (kind, expected) in [(0, ""), (1, "HTTP/1.1 408 ")] {
        let mut slow = Slow::begin(program.address, kind);
        // However steadily it goes on: it is the whole that has its time.
        poll("a slow client is cut off", || {
            std::thread::park_timeout(Duration::from_millis(20));
            (!slow.go_on()).then_some(())
        });
        slow.stream.set_nonblocking(false).unwrap();
        let answer = rest(&slow.stream);
        // One byte of it was read already.
        assert!(expected.contains(&String::from_utf8_lossy(&answer[..answer.len().min(10)])[..]));
    }
    good.answered_more(20);
    good.end();
    assert_eq!(fake.hits().start, 0);
    assert_eq!(program.terminate(), Some(0));
    keep_secret(fake.signatures());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_takes_none_of_its_answer_loses_its_place_to_others() {
    let fake = fake().await;
    fake.put_export(&scope(), "large", large_export(6 << 20));
    let home = TempDir::new().unwrap();
    let settings =
        [("EXPORTGATE_LISTENER_MAX_CONNECTIONS", "4"), ("EXPORTGATE_LISTENER_SEND_TIMEOUT", "500ms")];
    let mut program = Program::serve(home.path(), &fake, &[], &settings);
    let address = program.address;
    let mut good = connect(address).unwrap();
    let (_, whole) = ask(&mut good, &results("large")).unwrap();
    assert!(whole > 6 << 20);
    let begin_taking = || {
        let mut stream = narrow(address, Ipv4Addr::LOCALHOST).unwrap();
        write!(stream, "GET {} HTTP/1.1\r\nhost: localhost\r\n\r\n", results("large")).unwrap();
        let mut answer = [0; 12];
        stream.read_exact(&mut answer).unwrap();
        (&answer == b"HTTP/1.1 200").then_some(stream)
    };
    let stalled: Vec<TcpStream> = (0..3).map(|_| begin_taking().expect("a place is free")).collect();
    // All places are taken now, and each that is free again was one of theirs.
    let mut freed = Vec::new();
    while freed.len() < 3 {
        assert_eq!(ask(&mut good, &results("e1")).unwrap().0, 200);
        freed.push(poll("a place is free again", || {
            let mut other = connect(address).unwrap();
            ask(&mut other, &results("e1")).is_ok_and(|(status, _)| status == 200).then_some(other)
        }));
    }
    for stream in &stalled {
        let got = rest(stream).len();
        assert!(got < whole, "{got} of {whole} bytes");
    }
    assert_eq!(ask(&mut good, &results("e1")).unwrap().0, 200);
    assert_eq!(program.terminate(), Some(0));
    keep_secret(fake.signatures());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_without_a_place_is_told_so_and_never_hangs() {
    let fake = fake().await;
    let home = TempDir::new().unwrap();
    let settings = [("EXPORTGATE_LISTENER_MAX_CONNECTIONS", "4")];
    let mut program = Program::serve(home.path(), &fake, &[], &settings);
    let address = program.address;
    let mut placed: Vec<_> = (0..4).map(|_| connect(address).unwrap()).collect();
    for connection in &mut placed {
        assert_eq!(ask(connection, &results("e1")).unwrap().0, 200);
    }
    let request = format!("GET {} HTTP/1.1\r\nhost: localhost\r\n\r\n", results("e1"));
    for said in ["", request.as_str(), &request.repeat(1_000)] {
        let mut stream = connect(address).unwrap().into_inner();
        // It may be told before it has said everything.
        let _ = stream.write_all(said.as_bytes());
        let answer = String::from_utf8(rest(&stream)).unwrap();
        let (head, document) = answer.split_once("\r\n\r\n").expect("a whole answer");
        assert!(head.starts_with("HTTP/1.1 503 ") && head.contains("connection: close"), "{head}");
        let document: serde_json::Value = serde_json::from_str(document).expect("JSON");
        assert_eq!(document["errors"][0]["code"], "too_many_connections");
        let told = document["errors"][0]["detail"].as_str().unwrap();
        assert!(told.contains("listener.max_connections"), "{told}");
    }
    // A crowd is told or turned away, each of them; those inside notice nothing.
    let crowd: Vec<_> = (0..500).map(|_| connect(address).unwrap().into_inner()).collect();
    for connection in &mut placed {
        assert_eq!(ask(connection, &results("e1")).unwrap().0, 200);
    }
    let told = crowd.iter().filter(|stream| rest(stream).starts_with(b"HTTP/1.1 503 ")).count();
    assert!(told > 0);
    placed.pop();
    poll("the place that was given back", || {
        ask(&mut connect(address).unwrap(), &results("e1")).is_ok_and(|got| got.0 == 200).then_some(())
    });
    assert_eq!(program.terminate(), Some(0));
    keep_secret(fake.signatures());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handshake_that_stops_is_ended() {
    let directory = TempDir::new().unwrap();
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let (certificate, key) = (directory.path().join("tls.pem"), directory.path().join("tls.key"));
    std::fs::write(&certificate, made.cert.pem()).unwrap();
    std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
    let flags = vec![
        flag("listen", "tls:127.0.0.1:0"),
        flag("tls.certificate", certificate.display()),
        flag("tls.key", key.display()),
        flag("listener.handshake_timeout", "300ms"),
    ];
    let world = World::with(Settings::default(), flags).await;
    let address: SocketAddr = world.root.strip_prefix("https://").unwrap().parse().unwrap();
    let stalled = tokio::task::spawn_blocking(move || {
        // Nothing; a record's first byte; a ClientHello that says it is longer than it is.
        for said in [&b""[..], b"\x16", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"] {
            let mut stream = connect(address).unwrap().into_inner();
            stream.write_all(said).unwrap();
            let got = rest(&stream);
            // At most an alert (RFC 8446 §6).
            assert!(got.is_empty() || got[0] == 0x15, "{got:?}");
        }
        // The door is open: who speaks no TLS at all is told so.
        let mut stream = connect(address).unwrap().into_inner();
        stream.write_all(b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n").unwrap();
        assert!(rest(&stream).starts_with(b"HTTP/1.1 400 "));
    });
    stalled.await.unwrap();
    world.stop().await;
}
