//! Row D1 of the attack catalogue and what of D2 is HTTP/2's: floods of frames, tables that blow up, and
//! clients that open a connection and do nothing with it, against the real program. Each time a good
//! client works beside, on connections of its own.

use std::io::Write as _;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use exportgate::fake::{Fake, Settings};
use tempfile::TempDir;

use crate::support::h2::{
    ACK, CONTINUATION, Connection, DATA, END_HEADERS, END_STREAM, GOAWAY, HEADERS, INITIAL_WINDOW, OK, PING,
    PREFACE, REFUSED_STREAM, RST_STREAM, SETTINGS, TOO_LARGE, WINDOW_UPDATE, block, field, frame, get, post,
};
use crate::support::program::Program;
use crate::support::raw::{Good, connect, large_export, narrow, peak_memory, rest};
use crate::support::{ORG, V, keep_secret, results, scope};

/// What a flood may cost in memory, in MiB.
const MEMORY: usize = 48;

/// The program, a good client that works all along, and how much memory it took before.
struct Siege {
    fake: Fake,
    program: Program,
    good: Good,
    memory: usize,
    _home: TempDir,
}

impl Siege {
    async fn begin(settings: &[(&str, &str)]) -> Self {
        let fake = Fake::start(Settings::default()).await.unwrap();
        fake.put_export(&scope(), "e1", exportgate::fake::State::Finished);
        let home = TempDir::new().unwrap();
        let settings: Vec<_> =
            [("EXPORTGATE_LISTENER_H2C", "true")].iter().chain(settings).copied().collect();
        let program = Program::serve(home.path(), &fake, &[], &settings);
        let good = Good::begin(program.address);
        good.answered_more(50);
        let memory = peak_memory(program.child.id());
        Self { fake, program, good, memory, _home: home }
    }

    fn connect(&self, settings: &[(u16, u32)]) -> Connection {
        Connection::open(connect(self.program.address).unwrap().into_inner(), settings)
    }

    /// Sends what `flood` makes of 0, 1, 2… until the connection ends, and says how often it was sent.
    fn flood(&self, most: u32, flood: impl Fn(u32) -> Vec<u8>) -> u32 {
        let stream = narrow(self.program.address, Ipv4Addr::LOCALHOST).unwrap();
        let mut connection = Connection::open(stream, &[]);
        let sent = (0..most).take_while(|at| connection.send(&flood(*at))).count();
        // Where all of it was taken, the end is still to come.
        connection.rest();
        u32::try_from(sent).unwrap()
    }

    /// The good client is still served, and memory was bounded; that is told.
    #[expect(clippy::print_stdout, reason = "the figures are for whoever reads the test's output")]
    fn end(mut self, what: &str) {
        self.good.answered_more(50);
        let answers = self.good.end().len();
        let grown = peak_memory(self.program.child.id()) - self.memory;
        println!("{what}: {grown} MiB more, {answers} good answers meanwhile");
        assert!(grown <= MEMORY, "{what}: {grown} MiB more");
        assert_eq!(self.program.terminate(), Some(0));
        keep_secret(self.fake.signatures());
    }
}

fn start() -> String {
    format!("/orgs/{ORG}/export?{V}")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_opens_and_resets_streams_is_cut_off() {
    let siege = Siege::begin(&[]).await;
    let before = siege.fake.hits().api();
    let sent = siege.flood(20_000, |at| {
        let stream = 2 * at + 1;
        let reset = frame(RST_STREAM, 0, stream, &8_u32.to_be_bytes());
        [get(stream, &results(&format!("none-{}", at % 8))), reset].concat()
    });
    assert!(sent < 20_000, "all were taken");
    let asked = siege.fake.hits().api() - before;
    siege.end(&format!("rapid reset, ended after {sent} streams, {asked} calls upstream with the good ones"));
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_that_are_reset_after_they_were_looked_at_leave_nothing_behind() {
    let siege = Siege::begin(&[("EXPORTGATE_LISTENER_MAX_STREAMS", "10")]).await;
    let mut connection = siege.connect(&[]);
    for at in 0..1_000_u32 {
        let stream = 2 * at + 1;
        // The answer to the ping shows that the stream was seen: this is no reset that h2 counts.
        let seen = [get(stream, &results("e1")), frame(PING, 0, 0, &u64::from(at).to_be_bytes())].concat();
        assert!(connection.send(&seen));
        let pong = connection.find(|frame| frame.kind == PING && frame.flags & ACK != 0).expect("a pong");
        assert_eq!(pong.payload, u64::from(at).to_be_bytes());
        assert!(connection.send(&frame(RST_STREAM, 0, stream, &8_u32.to_be_bytes())));
    }
    // None of them has kept its place.
    assert!(connection.send(&get(2_001, &results("e1"))));
    let answer = connection.find(|frame| frame.kind == HEADERS && frame.stream == 2_001);
    assert!(answer.is_some_and(|frame| frame.payload.starts_with(OK)));
    drop(connection);
    siege.end("1,000 resets of streams that were looked at");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_makes_us_reset_streams_is_cut_off() {
    let siege = Siege::begin(&[]).await;
    let mut sent = Vec::new();
    for (kind, payload) in [
        // Nothing, or more than there can be (RFC 9113 §6.9): errors of the stream, not of the connection.
        (WINDOW_UPDATE, 0_u32.to_be_bytes().to_vec()),
        (WINDOW_UPDATE, 0x7fff_ffff_u32.to_be_bytes().to_vec()),
    ] {
        sent.push(siege.flood(20_000, |at| {
            let stream = 2 * at + 1;
            [post(stream, &start()), frame(kind, 0, stream, &payload)].concat()
        }));
    }
    // A body after the end of the request (§5.1).
    sent.push(siege.flood(20_000, |at| {
        let stream = 2 * at + 1;
        [get(stream, &results("e1")), frame(DATA, 0, stream, b"more")].concat()
    }));
    assert!(sent.iter().all(|sent| *sent < 20_000), "{sent:?}");
    assert_eq!(siege.fake.hits().start, 0);
    siege.end(&format!("MadeYouReset in three ways, ended after {sent:?} streams"));
}

#[tokio::test(flavor = "multi_thread")]
async fn continuations_without_an_end_are_cut_off() {
    let siege = Siege::begin(&[]).await;
    let begin = |at: u32| {
        let first = frame(HEADERS, END_STREAM, 1, &block("GET", &results("e1")));
        if at == 0 { first } else { Vec::new() }
    };
    let empty = siege.flood(1_000_000, |at| [begin(at), frame(CONTINUATION, 0, 1, b"")].concat());
    let one = field(false, "x", "y");
    let short = siege.flood(1_000_000, |at| [begin(at), frame(CONTINUATION, 0, 1, &one)].concat());
    let piece = field(false, "x", &"y".repeat(16_000));
    let long = siege.flood(100_000, |at| [begin(at), frame(CONTINUATION, 0, 1, &piece)].concat());
    // One field that never ends: nothing can be thrown away before its last byte.
    let open = [&[0x00, 0x01, b'x', 0x7f, 0xff, 0xff, 0xff, 0x7f][..], &[b'y'; 15_000]].concat();
    let endless = siege.flood(100_000, |at| {
        [begin(at), frame(CONTINUATION, 0, 1, if at == 0 { &open } else { &[b'y'; 15_000] })].concat()
    });
    assert!(empty < 1_000_000 && short < 1_000_000 && long < 100_000 && endless < 100_000);
    siege.end(&format!(
        "CONTINUATION: ended after {empty} empty, {short} short, {long} long, {endless} of one"
    ));
}

#[tokio::test(flavor = "multi_thread")]
async fn settings_and_pings_that_are_not_listened_to_are_cut_off() {
    let siege = Siege::begin(&[("EXPORTGATE_LISTENER_SEND_TIMEOUT", "500ms")]).await;
    let settings = frame(SETTINGS, 0, 0, &[0, 4, 0, 1, 0, 0]);
    let pings = frame(PING, 0, 0, b"12345678");
    let mut sent = Vec::new();
    for (flood, most) in [(settings, 1_000), (pings, 1_000)] {
        let hundred = flood.repeat(1_000);
        sent.push(siege.flood(most, |_| hundred.clone()));
        assert!(sent.iter().all(|sent| *sent < most), "all were taken");
    }
    siege.end(&format!("SETTINGS and PING, unread: ended after {sent:?} thousand"));
}

#[tokio::test(flavor = "multi_thread")]
async fn settings_and_pings_that_are_listened_to_end_with_the_idle_time() {
    let settings =
        [("EXPORTGATE_LISTENER_IDLE_TIMEOUT", "500ms"), ("EXPORTGATE_LISTENER_SEND_TIMEOUT", "500ms")];
    let siege = Siege::begin(&settings).await;
    for flood in [frame(SETTINGS, 0, 0, &[]), frame(PING, 0, 0, b"12345678")] {
        let mut connection = siege.connect(&[]);
        let reading = Connection(connection.0.try_clone().unwrap());
        let reading = std::thread::spawn(|| reading.rest());
        while connection.send(&flood) {}
        let acks = reading.join().unwrap().iter().filter(|frame| frame.flags & ACK != 0).count();
        assert!(acks > 0);
    }
    siege.end("SETTINGS and PING, read");
}

#[tokio::test(flavor = "multi_thread")]
async fn data_that_brings_nothing_is_cut_off() {
    let siege = Siege::begin(&[]).await;
    let begin = |at: u32| if at == 0 { post(1, &start()) } else { Vec::new() };
    let empty = siege.flood(1_000_000, |at| [begin(at), frame(DATA, 0, 1, b"")].concat());
    // Empty but for its padding (§6.1: PADDED, and how much).
    let padded = siege.flood(1_000_000, |at| [begin(at), frame(DATA, 0x8, 1, &[3, 0, 0, 0])].concat());
    assert!(empty < 1_000_000 && padded < 1_000_000, "{empty} {padded}");
    assert_eq!(siege.fake.hits().start, 0);
    siege.end(&format!("empty DATA: ended after {empty}, with padding {padded}"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_small_block_that_stands_for_many_fields_is_refused() {
    let siege = Siege::begin(&[]).await;
    let answer = |block: &[u8]| {
        let mut connection = siege.connect(&[]);
        for (at, piece) in block.chunks(16_000).enumerate() {
            let is_last = (at + 1) * 16_000 >= block.len();
            let kind = if at == 0 { HEADERS } else { CONTINUATION };
            let flags = if is_last { END_HEADERS } else { 0 } | if at == 0 { END_STREAM } else { 0 };
            if !connection.send(&frame(kind, flags, 1, piece)) {
                break;
            }
        }
        connection.find(|frame| [HEADERS, RST_STREAM, GOAWAY].contains(&frame.kind))
    };
    let request = block("GET", &results("e1"));
    let refused = |what: &str, more: Vec<u8>| {
        // The connection may also have ended before the answer could be read.
        if let Some(frame) = answer(&[request.clone(), more].concat()) {
            let is_refusal = frame.kind != HEADERS || frame.payload.starts_with(TOO_LARGE);
            assert!(is_refusal, "{what}: {frame:?}");
        }
    };
    // An entry of nearly the whole table, and one byte for each time that it is meant: 60 MB of fields.
    refused("a bomb", [field(true, "x", &"y".repeat(4_000)), vec![0xbe; 15_000]].concat());
    refused(
        "large fields",
        (0..100).flat_map(|at| field(false, &format!("x{at}"), &"y".repeat(4_000))).collect(),
    );
    refused("a field", field(false, "x", &"y".repeat(70_000)));
    // Within the size that is allowed, but more than `listener.max_headers`.
    refused("many fields", (0..200).flat_map(|at| field(false, &format!("x{at}"), "y")).collect());
    refused("one field often", field(false, "x", "y").repeat(200));
    let fine = (0..50).flat_map(|at| field(false, &format!("x{at}"), "y"));
    let fine = answer(&request.iter().copied().chain(fine).collect::<Vec<u8>>());
    assert!(fine.is_some_and(|frame| frame.kind == HEADERS && frame.payload.starts_with(OK)));

    // A bomb in each of many streams.
    let mut connection = siege.connect(&[]);
    let bomb = [request.clone(), field(true, "x", &"y".repeat(4_000)), vec![0xbe; 10_000]].concat();
    let taken = (0..2_000_u32)
        .take_while(|at| connection.send(&frame(HEADERS, END_HEADERS | END_STREAM, 2 * at + 1, &bomb)))
        .count();
    drop(connection);
    siege.end(&format!("header lists; {taken} bombs on one connection"));
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_over_the_limit_are_refused_and_who_does_not_heed_it_is_cut_off() {
    let siege = Siege::begin(&[("EXPORTGATE_LISTENER_MAX_STREAMS", "10")]).await;
    let mut connection = siege.connect(&[]);
    for at in 0..25_u32 {
        assert!(connection.send(&post(2 * at + 1, &start())));
    }
    for at in 10..25_u32 {
        let refused = connection.find(|frame| frame.kind == RST_STREAM).expect("it is still there");
        assert_eq!((refused.stream, refused.code()), (2 * at + 1, REFUSED_STREAM));
    }
    // The ten that are open are served as ever.
    for at in 0..10_u32 {
        assert!(connection.send(&frame(DATA, END_STREAM, 2 * at + 1, b"{}")));
        let answer = connection.find(|frame| frame.kind == HEADERS).expect("an answer");
        assert_eq!(answer.stream, 2 * at + 1);
    }
    assert_eq!(siege.fake.hits().start, 10);
    drop(connection);
    let sent = siege.flood(20_000, |at| post(2 * at + 1, &start()));
    assert!(sent < 20_000, "all were taken");
    siege.end(&format!("more streams than may be: ended after {sent}"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_without_a_window_holds_neither_memory_nor_its_connection() {
    let settings =
        [("EXPORTGATE_LISTENER_IDLE_TIMEOUT", "500ms"), ("EXPORTGATE_LISTENER_SEND_TIMEOUT", "500ms")];
    let siege = Siege::begin(&settings).await;
    siege.fake.put_export(&scope(), "large", large_export(1 << 20));
    let mut connections = Vec::new();
    for _ in 0..5 {
        let mut connection = siege.connect(&[(INITIAL_WINDOW, 0)]);
        for at in 0..100_u32 {
            assert!(connection.send(&get(2 * at + 1, &results("large"))));
        }
        connections.push(connection);
    }
    for connection in connections {
        let frames = connection.rest();
        assert!(frames.iter().any(|frame| frame.kind == HEADERS && frame.payload.starts_with(OK)));
        assert!(frames.iter().all(|frame| frame.kind != DATA || frame.payload.is_empty()));
    }
    siege.end("500 answers of 1 MiB that nobody takes");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_takes_its_answer_slowly_gets_all_of_it() {
    let settings = [("EXPORTGATE_LISTENER_IDLE_TIMEOUT", "1s"), ("EXPORTGATE_LISTENER_SEND_TIMEOUT", "1s")];
    let siege = Siege::begin(&settings).await;
    siege.fake.put_export(&scope(), "large", large_export(512 << 10));
    let mut connection = siege.connect(&[(INITIAL_WINDOW, 16_384)]);
    assert!(connection.send(&get(1, &results("large"))));
    let (mut taken, begun) = (0, Instant::now());
    loop {
        let piece = connection.find(|frame| frame.kind == DATA);
        let piece = piece.unwrap_or_else(|| panic!("cut off after {taken} bytes and {:?}", begun.elapsed()));
        taken += piece.payload.len();
        if piece.flags & END_STREAM != 0 {
            break;
        }
        // Slow enough that the whole outlasts both limits together, and each piece neither.
        std::thread::park_timeout(Duration::from_millis(100));
        let more = u32::try_from(piece.payload.len()).unwrap().to_be_bytes();
        let wider = [frame(WINDOW_UPDATE, 0, 0, &more), frame(WINDOW_UPDATE, 0, 1, &more)].concat();
        assert!(connection.send(&wider), "cut off after {taken} bytes");
    }
    assert!(taken > 512 << 10);
    drop(connection);
    siege.end("a slow but steady client");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_is_not_used_is_closed_in_time() {
    let settings = [
        ("EXPORTGATE_LISTENER_HEADER_TIMEOUT", "300ms"),
        ("EXPORTGATE_LISTENER_IDLE_TIMEOUT", "300ms"),
        ("EXPORTGATE_LISTENER_SEND_TIMEOUT", "300ms"),
        ("EXPORTGATE_LISTENER_BODY_TIMEOUT", "300ms"),
    ];
    let siege = Siege::begin(&settings).await;
    let h2 = |more: &[u8]| [PREFACE, &frame(SETTINGS, 0, 0, b""), more].concat();
    let h1 = format!("GET {} HTTP/1.1\r\nhost: localhost\r\n\r\n", results("e1")).into_bytes();
    let cases = [
        ("nothing", vec![]),
        ("one byte", b"P".to_vec()),
        ("a part of the preface", b"PRI * ".to_vec()),
        ("its first line", PREFACE[..16].to_vec()),
        ("all of it but a byte", PREFACE[..23].to_vec()),
        ("the preface", PREFACE.to_vec()),
        ("a part of a frame", h2(b"")[..29].to_vec()),
        ("a connection without a request", h2(b"")),
        ("a part of a request", h2(&frame(HEADERS, END_STREAM, 1, &block("GET", "/")))),
        ("a request", h2(&get(1, &results("e1")))),
        ("a body that does not come", h2(&post(1, &start()))),
        ("a part of a request of HTTP/1.1", h1[..20].to_vec()),
        ("a request of HTTP/1.1", h1),
    ];
    let opened: Vec<_> = cases
        .iter()
        .map(|(_, sent)| {
            let mut stream = narrow(siege.program.address, Ipv4Addr::LOCALHOST).unwrap();
            stream.write_all(sent).unwrap();
            stream
        })
        .collect();
    for ((what, _), stream) in cases.iter().zip(opened) {
        let is_answered = rest(&stream).windows(8).any(|bytes| bytes == b"FINISHED");
        assert_eq!(is_answered, what.starts_with("a request"), "{what}");
    }
    siege.end("connections without a use");
}
