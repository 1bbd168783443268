//! What bodies may take in memory, over all connections and on one, and that who takes none of an answer does not keep
//! it there. The limits are those of `deploy`: 384 MiB beside one tool, 768 MiB for a team.

use std::collections::HashMap;
use std::io::{BufReader, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use exportgate::fake::{Fake, Fault, Settings, State};
use tempfile::TempDir;

use crate::access::Known;
use crate::isolation::clients;
use crate::support::h2::{
    Connection, DATA, END_STREAM, GOAWAY, HEADERS, INITIAL_WINDOW, OK, RST_STREAM, SETTINGS, WINDOW_UPDATE,
    frame, get, post,
};
use crate::support::program::Program;
use crate::support::raw::{ask, connect, large_export, narrow, peak_memory, poll, rest};
use crate::support::upstream::{Answer, Upstream};
use crate::support::{ORG, START, V, World, flag, keep_secret, results, scope};

/// The memory of the sidecar in `deploy`, in MiB.
const SIDECAR: usize = 384;
/// `CANCEL` (RFC 9113 §7).
const CANCEL: u32 = 8;

struct Served {
    fake: Fake,
    program: Program,
    _home: TempDir,
}

impl Served {
    /// The program before a fake with exports `0` to `count` whose documents have so many bytes.
    async fn with(settings: &[(&str, &str)], count: usize, bytes: usize) -> Self {
        let fake = Fake::start(Settings::default()).await.unwrap();
        fake.put_export(&scope(), "e1", State::Finished);
        let large = large_export(bytes);
        for n in 0..count {
            fake.put_export(&scope(), &n.to_string(), large.clone());
        }
        let home = TempDir::new().unwrap();
        let settings: Vec<_> =
            [("EXPORTGATE_LISTENER_H2C", "true")].iter().chain(settings).copied().collect();
        let program = Program::serve(home.path(), &fake, &[], &settings);
        Self { fake, program, _home: home }
    }

    fn connect(&self) -> BufReader<TcpStream> {
        connect(self.program.address).unwrap()
    }

    fn h2(&self, settings: &[(u16, u32)]) -> Connection {
        Connection::open(self.connect().into_inner(), settings)
    }

    /// Asks for an export, takes the status, and then nothing.
    fn begin(&self, export: usize) -> (u16, TcpStream) {
        let mut stream = narrow(self.program.address, Ipv4Addr::LOCALHOST).unwrap();
        let target = results(&export.to_string());
        write!(stream, "GET {target} HTTP/1.1\r\nhost: localhost\r\n\r\n").unwrap();
        let mut line = [0; 12];
        stream.read_exact(&mut line).unwrap();
        (std::str::from_utf8(&line[9..]).unwrap().parse().unwrap(), stream)
    }

    /// A series of the metrics.
    fn metric(&self, name: &str) -> f64 {
        let mut stream = connect(self.program.admin()).unwrap().into_inner();
        stream.write_all(b"GET /metrics HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").unwrap();
        let text = String::from_utf8(rest(&stream)).unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.expect("the series").parse().unwrap()
    }

    #[expect(clippy::print_stdout, reason = "the figures are for whoever reads the test's output")]
    fn end(mut self, what: &str, most: usize) {
        let peak = peak_memory(self.program.child.id());
        println!("{what}: {peak} MiB at most");
        assert!(peak < most, "{what}: {peak} MiB");
        // Nothing is held for anybody who has left.
        poll("all of it is given back", || (self.metric("exportgate_buffered_bytes") == 0.0).then_some(()));
        assert_eq!(self.program.terminate(), Some(0));
        keep_secret(self.fake.signatures());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn ordinary_readers_of_large_answers_all_get_them() {
    // What is built for debugging takes its time with large documents.
    let served = Served::with(&[("EXPORTGATE_QUEUE_MAX_WAIT", "80s")], 64, 7_000_000).await;
    let address = served.program.address;
    let readers: Vec<_> = (0..64)
        .map(|n| {
            std::thread::spawn(move || {
                let stream = TcpStream::connect(address).unwrap();
                stream.set_read_timeout(Some(Duration::from_secs(90))).unwrap();
                ask(&mut BufReader::new(stream), &results(&n.to_string())).unwrap()
            })
        })
        .collect();
    for reader in readers {
        let (status, length) = reader.join().unwrap();
        assert!(status == 200 && length > 7_000_000, "{status}, {length} bytes");
    }
    served.end("64 readers of different answers of 7 MB", SIDECAR);
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_readers_of_large_answers_hold_no_more_than_they_may_and_others_are_served() {
    // 15 MB are more than `cache.max_entry`: nothing but the readers holds them.
    let settings = [("EXPORTGATE_QUEUE_MAX_WAIT", "1s"), ("EXPORTGATE_LISTENER_SEND_TIMEOUT", "1m")];
    let served = Served::with(&settings, 120, 15_000_000).await;
    let slow: Vec<(u16, TcpStream)> = std::thread::scope(|scope| {
        let served = &served;
        let begun: Vec<_> = (0..120).map(|n| scope.spawn(move || served.begin(n))).collect();
        begun.into_iter().map(|begun| begun.join().unwrap()).collect()
    });
    let taken = slow.iter().filter(|(status, _)| *status == 200).count();
    assert!((1..8).contains(&taken), "{taken}");
    assert!(slow.iter().all(|(status, _)| [200, 503].contains(status)));
    // Polls and starts go on beside them.
    let mut good = served.connect();
    for _ in 0..20 {
        assert_eq!(ask(&mut good, &results("e1")).unwrap().0, 200);
        assert_eq!(ask(&mut good, &results("none")).unwrap().0, 404);
    }
    // Who finds no room is told so; when somebody has left, there is room.
    let mut refused = served.connect();
    assert_eq!(ask(&mut refused, &results("0")).unwrap().0, 503);
    drop(slow);
    poll("there is room again", || (ask(&mut refused, &results("0")).unwrap().0 == 200).then_some(()));
    served.end("120 slow readers of 15 MB", SIDECAR);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_is_stored_no_more_counts_while_it_is_read() {
    let settings = [("EXPORTGATE_CACHE_MAX_BYTES", "4MiB"), ("EXPORTGATE_QUEUE_MAX_WAIT", "100ms")];
    let served = Served::with(&settings, 40, 3_000_000).await;
    let mut slow = Vec::new();
    // Each puts the one before it out of the cache.
    let refused = (0..40).find(|n| {
        let (status, stream) = served.begin(*n);
        slow.push(stream);
        status == 503
    });
    let refused = refused.expect("there is no room for all of them");
    let held = served.metric("exportgate_buffered_bytes");
    let most = served.metric("exportgate_buffered_max_bytes");
    assert!(held > 0.5 * most && held <= most, "{refused}: {held} of {most}");
    drop(slow);
    served.end("answers that went out of the cache", SIDECAR);
}

/// Uploads a body without an end on each of so many streams, as far as the other end takes it; how many were refused.
fn upload(connection: &mut Connection, streams: u32, bytes: usize) -> usize {
    let target = format!("/orgs/{ORG}/export?{V}");
    let ids: Vec<u32> = (0..streams).map(|n| 2 * n + 1).collect();
    for id in &ids {
        assert!(connection.send(&post(*id, &target)));
    }
    // RFC 9113 §6.9: what may be sent on the connection (0) and on each stream.
    let mut windows: HashMap<u32, usize> = ids.iter().map(|id| (*id, 0)).collect();
    windows.insert(0, 65_535);
    let mut left: HashMap<u32, usize> = ids.iter().map(|id| (*id, bytes)).collect();
    let mut refused = 0;
    while !left.is_empty() {
        for (id, left) in &mut left {
            let piece = (*left).min(windows[id]).min(windows[&0]).min(16_384);
            if piece > 0 {
                assert!(connection.send(&frame(DATA, 0, *id, &vec![b' '; piece])));
                *left -= piece;
                *windows.get_mut(id).unwrap() -= piece;
                *windows.get_mut(&0).unwrap() -= piece;
            }
        }
        left.retain(|_, left| *left > 0);
        let Some(next) = connection.next() else { break };
        match next.kind {
            SETTINGS if next.flags == 0 => {
                let initial =
                    next.payload.chunks(6).find(|setting| setting[..2] == INITIAL_WINDOW.to_be_bytes());
                let initial =
                    initial.map_or(65_535, |setting| u32::from_be_bytes(setting[2..].try_into().unwrap()));
                for id in &ids {
                    *windows.get_mut(id).unwrap() += initial as usize;
                }
            }
            WINDOW_UPDATE => {
                let more = u32::from_be_bytes(next.payload[..].try_into().unwrap()) as usize;
                *windows.entry(next.stream).or_default() += more;
            }
            HEADERS => {
                assert!(!next.payload.starts_with(OK));
                left.remove(&next.stream);
                refused += 1;
            }
            GOAWAY => break,
            _ => {}
        }
    }
    refused
}

#[tokio::test(flavor = "multi_thread")]
async fn starts_that_do_not_end_hold_no_more_than_they_may() {
    let settings = [("EXPORTGATE_QUEUE_MAX_WAIT", "1s"), ("EXPORTGATE_LISTENER_BODY_TIMEOUT", "1m")];
    let served = Served::with(&settings, 0, 0).await;
    let idle = peak_memory(served.program.child.id());
    let uploads: Vec<_> = (0..8)
        .map(|_| {
            let mut connection = served.h2(&[]);
            std::thread::spawn(move || (upload(&mut connection, 128, 900_000), connection))
        })
        .collect();
    let uploads: Vec<_> = uploads.into_iter().map(|upload| upload.join().unwrap()).collect();
    let refused: usize = uploads.iter().map(|(refused, _)| refused).sum();
    assert!(refused > 8 * 128 - 64, "{refused}");
    // A start of the usual size has room beside them.
    let mut stream = served.connect().into_inner();
    write!(
        stream,
        "POST /orgs/{ORG}/export?{V} HTTP/1.1\r\nhost: localhost\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{START}",
        START.len()
    )
    .unwrap();
    assert!(rest(&stream).starts_with(b"HTTP/1.1 202"));
    drop(uploads);
    served.end("8 connections with 128 unfinished starts each", idle + 150);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_whose_answer_is_not_taken_is_reset_and_its_connection_goes_on() {
    let served = Served::with(&[("EXPORTGATE_LISTENER_SEND_TIMEOUT", "500ms")], 3, 1 << 20).await;
    let mut connection = served.h2(&[(INITIAL_WINDOW, 0)]);
    // One takes nothing, one all but the end, one goes on.
    let (_, whole) = ask(&mut served.connect(), &results("1")).unwrap();
    for (stream, export) in [(1, "0"), (3, "1")] {
        assert!(connection.send(&get(stream, &results(export))));
    }
    let window = |stream: u32, bytes: usize| {
        frame(WINDOW_UPDATE, 0, stream, &u32::try_from(bytes).unwrap().to_be_bytes())
    };
    assert!(connection.send(&[window(0, 1 << 24), window(3, whole - 1)].concat()));
    let (mut reset, mut id, begun) = (Vec::new(), 5, Instant::now());
    while reset.len() < 2 {
        assert!(begun.elapsed() < Duration::from_secs(20), "only {reset:?} were reset");
        // The connection is in use all the time.
        assert!(connection.send(&[get(id, &results("e1")), window(id, 1 << 20)].concat()));
        loop {
            let next = connection.next().expect("the connection goes on");
            if next.kind == RST_STREAM {
                assert_eq!(next.code(), CANCEL);
                reset.push(next.stream);
            } else if next.stream == id && next.flags & END_STREAM != 0 {
                break;
            }
        }
        id += 2;
        std::thread::park_timeout(Duration::from_millis(20));
    }
    reset.sort_unstable();
    assert_eq!(reset, [1, 3]);
    drop(connection);
    served.end("streams that were reset", SIDECAR);
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_without_a_window_hold_no_more_than_they_may() {
    let settings = [("EXPORTGATE_QUEUE_MAX_WAIT", "1s"), ("EXPORTGATE_LISTENER_SEND_TIMEOUT", "1m")];
    let served = Served::with(&settings, 250, 7_000_000).await;
    let mut connections: Vec<_> = (0..5).map(|_| served.h2(&[(INITIAL_WINDOW, 0)])).collect();
    for (at, connection) in connections.iter_mut().enumerate() {
        for n in 0..50 {
            let stream = u32::try_from(2 * n + 1).unwrap();
            assert!(connection.send(&get(stream, &results(&(50 * at + n).to_string()))));
        }
    }
    let mut refused = 0;
    for connection in &mut connections {
        for _ in 0..50 {
            let answer = connection.find(|frame| frame.kind == HEADERS).expect("an answer");
            refused += usize::from(!answer.payload.starts_with(OK));
        }
    }
    assert!(refused > 100, "{refused}");
    drop(connections);
    served.end("250 streams with a window of 0", SIDECAR);
}

/// Bytes that the kernel holds of what this port has sent and nobody has taken, over all its connections.
fn unsent(port: u16) -> usize {
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let fields = table.lines().skip(1).map(|line| line.split_whitespace().collect::<Vec<_>>());
    let ours = fields.filter(|fields| fields[1].ends_with(&format!(":{port:04X}")));
    ours.map(|fields| usize::from_str_radix(fields[4].split(':').next().unwrap(), 16).unwrap()).sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_taken_does_not_wait_in_the_kernel() {
    let served = Served::with(&[], 1, 7_000_000).await;
    let readers: Vec<_> = (0..10)
        .map(|_| {
            let mut stream = served.connect().into_inner();
            write!(stream, "GET {} HTTP/1.1\r\nhost: localhost\r\n\r\n", results("0")).unwrap();
            stream.read_exact(&mut [0; 12]).unwrap();
            stream
        })
        .collect();
    // It is full when nothing more goes in for a while.
    let mut before = 0;
    let full = poll("the kernel takes no more", || {
        std::thread::park_timeout(Duration::from_millis(300));
        let now = unsent(served.program.address.port());
        (now == std::mem::replace(&mut before, now) && now > 0).then_some(now)
    });
    assert!(full < 10 * 512 * 1_024, "{full} bytes");
    drop(readers);
    served.end("10 readers that stop", SIDECAR);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_connection_cannot_take_all_there_is() {
    let settings =
        [("EXPORTGATE_QUEUE_MAX_WAIT", "500ms"), ("EXPORTGATE_LISTENER_MAX_BUFFERED_PER_CONNECTION", "2MiB")];
    let served = Served::with(&settings, 4, 900_000).await;
    let mut connection = served.h2(&[(INITIAL_WINDOW, 0)]);
    for n in 0..4 {
        assert!(connection.send(&get(2 * n + 1, &results(&n.to_string()))));
    }
    let answers: Vec<_> = (0..4).map(|_| connection.find(|frame| frame.kind == HEADERS).unwrap()).collect();
    let refused = answers.iter().filter(|answer| !answer.payload.starts_with(OK)).count();
    assert_eq!(refused, 2);
    // Other connections have room for the same answers.
    let mut other = served.connect();
    for n in 0..4 {
        assert_eq!(ask(&mut other, &results(&n.to_string())).unwrap().0, 200);
    }
    // Small ones are nothing to it.
    assert!(connection.send(&get(101, &results("e1"))));
    let answer = connection.find(|frame| frame.kind == HEADERS && frame.stream == 101).unwrap();
    assert!(answer.payload.starts_with(OK));
    drop(connection);
    served.end("one connection", SIDECAR);
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_clients_of_streamed_answers_do_not_stop_the_connection_to_snyk() {
    let world = World::with(Settings::default(), vec![flag("routes.other", "forward")]).await;
    world.fake.put_export(&scope(), "e1", State::Word("PENDING".into()));
    assert_eq!(world.get(&results("e1")).await.status, 200);
    let seen = world.fake.requests();
    assert_eq!(seen[0].version, http::Version::HTTP_2, "several requests share a connection");
    world.fake.fault(Fault::Oversize(16 << 20), Some(8));
    let exportgate::listener::Address::Tcp(address) = world.addresses[0] else { panic!("a TCP address") };
    let slow: Vec<_> = (0..8)
        .map(|n| {
            let mut stream = narrow(address, Ipv4Addr::LOCALHOST).unwrap();
            write!(stream, "GET /rest/orgs/{ORG}/issues{n} HTTP/1.1\r\nhost: localhost\r\n\r\n").unwrap();
            stream.read_exact(&mut [0; 12]).unwrap();
            stream
        })
        .collect();
    let target = results("e1");
    for _ in 0..20 {
        let got = world.get(&target);
        let got = tokio::time::timeout(Duration::from_secs(20), got).await.expect("it is answered");
        assert_eq!(got.status, 200);
    }
    drop(slow);
    world.stop().await;
}

/// An answer whose length is not announced, with so many bytes; it ends, or more is to come.
fn unannounced(bytes: usize, ends: bool) -> Answer {
    let head = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ntransfer-encoding: chunked";
    let end = if ends { "0\r\n\r\n" } else { "" };
    Answer::of(format!("{head}\r\n\r\n{bytes:x}\r\n{}\r\n{end}", " ".repeat(bytes)))
}

/// Begins a start of which 5 KB come.
fn dribble(address: SocketAddr, authorization: &str) -> TcpStream {
    let mut stream = connect(address).unwrap().into_inner();
    let head = format!("host: localhost\r\n{authorization}transfer-encoding: chunked");
    let body = " ".repeat(5 * 1_024);
    write!(stream, "POST /orgs/{ORG}/export?{V} HTTP/1.1\r\n{head}\r\n\r\n1400\r\n{body}\r\n").unwrap();
    stream
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_that_stall_leave_room_for_others_whose_length_is_not_announced() {
    let upstream = Upstream::http1(|number, _| unannounced(100_000, number >= 8)).await;
    let fake = Fake::start(Settings::default()).await.unwrap();
    let world = World::before(fake, &upstream.url, vec![flag("queue.max_wait", "1s")]).await;
    let address = world.root.trim_start_matches("http://").parse().unwrap();
    let stalled: Vec<_> = (0..8)
        .map(|n| {
            let mut stream = connect(address).unwrap().into_inner();
            write!(stream, "GET {} HTTP/1.1\r\nhost: localhost\r\n\r\n", results(&n.to_string())).unwrap();
            stream
        })
        .collect();
    poll("all of them are asked", || (upstream.requests() == 8).then_some(()));
    for _ in 0..3 {
        assert_eq!(world.get(&results("good")).await.body.len(), 100_000);
    }
    drop(stalled);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn starts_that_dribble_leave_room_for_polls() {
    let served = Served::with(&[("EXPORTGATE_QUEUE_MAX_WAIT", "1s")], 0, 0).await;
    let dribbling: Vec<_> = (0..200).map(|_| dribble(served.program.address, "")).collect();
    poll("they have come", || (served.metric("exportgate_buffered_bytes") >= 200.0 * 5_120.0).then_some(()));
    let mut good = served.connect();
    for _ in 0..20 {
        assert_eq!(ask(&mut good, &results("none")).unwrap().0, 404);
    }
    drop(dribbling);
    served.end("200 starts that dribble", SIDECAR);
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_one_client_holds_there_is_room_for_another() {
    const STALLED: usize = 4;
    const SLOW: usize = 8;
    let upstream = Upstream::http1(|number, _| match number {
        ..STALLED => unannounced(100_000, false),
        _ if number < STALLED + SLOW => {
            let body = " ".repeat(15_000_000);
            Answer::of(format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len()))
        }
        _ => unannounced(if number % 2 == 0 { 100 } else { 100_000 }, true),
    })
    .await;
    let known = Known::new();
    let (mut flags, keys) = clients(&known, &[("greedy", ""), ("other", "")]);
    flags.push(flag("queue.max_wait", "20s"));
    let fake = Fake::start(Settings::default()).await.unwrap();
    let world = World::before(fake, &upstream.url, flags).await;
    let address = world.root.trim_start_matches("http://").parse().unwrap();
    let authorization = format!("authorization: {}\r\n", keys[0]);
    let mut held = Vec::new();
    for n in 0..STALLED + SLOW {
        let mut stream = narrow(address, Ipv4Addr::LOCALHOST).unwrap();
        let target = results(&n.to_string());
        write!(stream, "GET {target} HTTP/1.1\r\nhost: localhost\r\n{authorization}\r\n").unwrap();
        held.push(stream);
        poll("it is asked", || (upstream.requests() > n).then_some(()));
    }
    held.extend((0..200).map(|_| dribble(address, &authorization)));
    for _ in 0..6 {
        let begun = Instant::now();
        let got = world.get_with(&results("good"), &[("authorization", &keys[1])]).await;
        assert_eq!(got.status, 200);
        assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
    }
    drop(held);
    world.stop().await;
}
