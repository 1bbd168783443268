//! What clients do with their connections: they keep them and pause, speak through other proxies, ask with HEAD,
//! upload what is refused, close one half, and leave.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

use exportgate::fake::{Fake, Fault, Settings, State};
use http::Method;
use serde_json::Value;
use tempfile::TempDir;

use crate::support::h2::{
    BAD_REQUEST, Connection, DATA, END_HEADERS, END_STREAM, HEADERS, OK, RST_STREAM, fields, frame, get,
};
use crate::support::program::Program;
use crate::support::raw::{DEADLINE, ask, connect, poll, reset, rest};
use crate::support::{ORG, START, V, World, keep_secret, results, scope};

/// The real program in front of a fake with one finished export.
struct Served {
    fake: Fake,
    program: Program,
    home: TempDir,
}

impl Served {
    async fn with(settings: &[(&str, &str)]) -> Self {
        let fake = Fake::start(Settings::default()).await.unwrap();
        fake.put_export(&scope(), "e1", State::Finished);
        let home = TempDir::new().unwrap();
        let program = Program::serve(home.path(), &fake, &[], settings);
        Self { fake, program, home }
    }

    fn address(&self) -> SocketAddr {
        self.program.address
    }

    fn connect(&self) -> TcpStream {
        connect(self.address()).unwrap().into_inner()
    }

    /// The log events of exchanges with this status.
    fn exchanges(&self, status: u64) -> Vec<Value> {
        let log = std::fs::read_to_string(self.program.log()).unwrap_or_default();
        let events = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        events
            .filter(|event| {
                event["http.response.status_code"].is_u64() && event["http.response.status_code"] == status
            })
            .collect()
    }

    fn end(mut self) {
        assert_eq!(self.program.terminate(), Some(0));
        keep_secret(self.fake.signatures());
    }
}

fn request(method: &str, target: &str) -> String {
    format!("{method} {target} HTTP/1.1\r\nhost: localhost\r\n\r\n")
}

fn start_target() -> String {
    format!("/orgs/{ORG}/export?{V}")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_of_http_2_may_say_its_host_as_an_intermediary_does() {
    let served = Served::with(&[("EXPORTGATE_LISTENER_H2C", "true")]).await;
    let target = results("e1");
    let line = [(":method", "GET"), (":scheme", "http"), (":path", target.as_str())];
    for (more, expected) in [
        (&[("host", "localhost")][..], OK),
        (&[("host", "localhost:7080")], OK),
        (&[(":authority", "localhost"), ("host", "localhost")], OK),
        (&[(":authority", "localhost"), ("host", "127.0.0.1")], BAD_REQUEST),
        (&[("host", "localhost"), ("host", "localhost")], BAD_REQUEST),
        (&[("host", "user@localhost")], BAD_REQUEST),
        (&[("host", "")], BAD_REQUEST),
        (&[], BAD_REQUEST),
    ] {
        let mut connection = Connection::open(served.connect(), &[]);
        let block = fields(&[&line[..], more].concat());
        assert!(connection.send(&frame(HEADERS, END_HEADERS | END_STREAM, 1, &block)));
        let answer = connection.find(|frame| frame.kind == HEADERS).expect("an answer");
        assert!(answer.payload.starts_with(expected), "{more:?}: {:?}", answer.payload);
    }
    assert_eq!(served.fake.hits().results, 1);
    served.end();
}

#[tokio::test(flavor = "multi_thread")]
async fn head_is_answered_as_get_is_but_for_the_body() {
    let world = World::new().await;
    world.fake.put_export(&scope(), "e1", State::Finished);
    for export in ["e1", "none"] {
        for target in [results(export), format!("/orgs/{ORG}/jobs/export/{export}?{V}")] {
            let head = world.send(Method::HEAD, &target, &[], "").await;
            let hits = world.fake.hits().api();
            let got = world.get(&target).await;
            assert_eq!((head.status, head.body.len()), (got.status, 0), "{target}");
            assert_eq!(head.field("content-length"), got.body.len().to_string(), "{target}");
            for name in ["content-type", "etag", "exportgate-links-expire"] {
                assert_eq!(head.field(name), got.field(name), "{target}: {name}");
            }
            // It is the same request to the cache.
            assert_eq!(
                (got.is_hit(), world.fake.hits().api() - hits),
                (export == "e1", u64::from(export != "e1"))
            );
            let again = world.send(Method::HEAD, &target, &[], "").await;
            assert_eq!((again.is_hit(), again.body.len()), (export == "e1", 0), "{target}");
        }
    }
    assert!(world.fake.requests().iter().all(|seen| seen.method == "GET"));
    let etag = world.get(&results("e1")).await.field("etag").to_owned();
    let fresh = world.send(Method::HEAD, &results("e1"), &[("if-none-match", &etag)], "").await;
    assert_eq!(fresh.status, 304);
    for (method, target, allow) in
        [(Method::PUT, results("e1"), "GET, HEAD"), (Method::HEAD, start_target(), "POST")]
    {
        let refused = world.send(method, &target, &[], "").await;
        assert_eq!((refused.status.as_u16(), refused.field("allow")), (405, allow));
    }
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn head_has_no_body_in_http_2_either() {
    let served = Served::with(&[("EXPORTGATE_LISTENER_H2C", "true")]).await;
    let mut connection = Connection::open(served.connect(), &[]);
    // An answer of Snyk's, one from the cache, and a refusal.
    for (stream, target) in [(1, results("e1")), (3, results("e1")), (5, "/nowhere".to_owned())] {
        let block = crate::support::h2::block("HEAD", &target);
        assert!(connection.send(&frame(HEADERS, END_HEADERS | END_STREAM, stream, &block)));
        let answer = connection.find(|frame| [HEADERS, DATA].contains(&frame.kind)).expect("an answer");
        assert_eq!((answer.kind, answer.stream), (HEADERS, stream));
        assert!(answer.flags & END_STREAM != 0, "{target}: a body follows");
    }
    served.end();
}

#[tokio::test(flavor = "multi_thread")]
async fn who_leaves_before_the_answer_has_a_line_in_the_log() {
    let served = Served::with(&[("EXPORTGATE_LISTENER_H2C", "true")]).await;
    served.fake.fault(Fault::Hang, None);
    let mut first = served.connect();
    first.write_all(request("GET", &results("e1")).as_bytes()).unwrap();
    served.fake.wait_for_hits(1).await;
    reset(first);
    let mut second = Connection::open(served.connect(), &[]);
    assert!(second.send(&get(1, &results("e2"))));
    served.fake.wait_for_hits(2).await;
    assert!(second.send(&frame(RST_STREAM, 0, 1, &8_u32.to_be_bytes())));
    let events = poll("both lines", || Some(served.exchanges(499)).filter(|events| events.len() == 2));
    for export in ["e1", "e2"] {
        let event = events.iter().find(|event| event["export.id"] == export).expect("its line");
        assert_eq!(event["error.code"], "abandoned");
        assert_eq!(event["export.operation"], "results");
        assert!(event["duration_ms"].as_f64().is_some());
    }
    drop(second);
    served.end();
}

/// Sends a whole request, then reads: what comes up to the end of the connection, if all of it was taken.
fn upload(address: SocketAddr, head: &str, body: usize) -> Vec<u8> {
    let mut stream = connect(address).unwrap().into_inner();
    stream.write_all(head.as_bytes()).unwrap();
    let piece = vec![b'x'; 1 << 16];
    for _ in 0..body >> 16 {
        stream.write_all(&piece).expect("it takes all of it");
    }
    stream.shutdown(Shutdown::Write).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).expect("no reset");
    answer
}

/// Processor time of the program, in ticks of 10 ms.
fn processor_time(served: &Served) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", served.program.child.id())).unwrap();
    let (_, fields) = stat.rsplit_once(") ").unwrap();
    let fields: Vec<&str> = fields.split(' ').collect();
    fields[11..13].iter().map(|ticks| ticks.parse::<u64>().unwrap()).sum()
}

/// Read a byte at a time, it took 5.9 s.
#[tokio::test(flavor = "multi_thread")]
async fn an_upload_is_read_in_pieces() {
    let served = Served::with(&[]).await;
    let size = 1 << 20;
    let head = format!(
        "POST {} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: {size}\r\n\r\n",
        start_target()
    );
    let before = processor_time(&served);
    let answer = upload(served.address(), &head, size);
    // It is no JSON, which Snyk says.
    assert!(answer.starts_with(b"HTTP/1.1 400"), "{}", String::from_utf8_lossy(&answer));
    assert_eq!(served.fake.hits().start, 1);
    let spent = processor_time(&served) - before;
    assert!(spent < 200, "{spent} ticks");
    served.end();
}

#[tokio::test(flavor = "multi_thread")]
async fn who_uploads_what_is_refused_sees_the_refusal() {
    // Time enough for a machine that is busy.
    let served = Served::with(&[("EXPORTGATE_LISTENER_LINGER_TIMEOUT", "1m")]).await;
    let size = 8 << 20;
    let head = |line: &str, more: &str| {
        format!("{line} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n{more}\r\n")
    };
    let length = format!("content-length: {size}\r\n");
    let chunk = format!("transfer-encoding: chunked\r\n\r\n{size:x}");
    for (case, expected) in [
        (head(&format!("POST {}", start_target()), &length), 413),
        (head(&format!("POST {}", start_target()), &chunk), 413),
        (head("POST /nowhere", &length), 404),
        (head(&format!("PUT {}", start_target()), &length), 405),
        (head(&format!("POST {}", start_target()), &format!("origin: null\r\n{length}")), 403),
        (head(&format!("GET {}", results("e1")), &length), 200),
        (head(&format!("POST {}", start_target()), &format!("x : y\r\n{length}")), 400),
    ] {
        let answer = upload(served.address(), &case, size);
        let line = String::from_utf8_lossy(&answer[..answer.len().min(12)]).into_owned();
        assert_eq!(line, format!("HTTP/1.1 {expected}"), "{case}");
        let head = String::from_utf8_lossy(&answer).to_lowercase();
        assert!(head.contains("connection: close"), "{head}");
    }
    assert_eq!(served.fake.hits().start, 0);
    served.end();
}

#[tokio::test(flavor = "multi_thread")]
async fn who_uploads_by_http_2_what_is_refused_sees_the_refusal() {
    let served = Served::with(&[("EXPORTGATE_LISTENER_H2C", "true")]).await;
    let body = served.home.path().join("body");
    std::fs::write(&body, vec![b'x'; 3 << 20]).unwrap();
    let url = format!("http://localhost:{}{}", served.address().port(), start_target());
    let body = format!("@{}", body.display());
    let mut reset = 0;
    for _ in 0..10 {
        // This one takes a stream that is reset after the answer (RFC 9113 §8.1) for one that failed.
        let args = ["-sS4", "--http2-prior-knowledge", "-m", "20", "-w", "%{http_code}", "-o", "/dev/null"];
        let curl =
            std::process::Command::new("curl").args(args).args(["--data-binary", &body, &url]).output();
        let curl = curl.unwrap();
        let (told, error) = (String::from_utf8_lossy(&curl.stdout), String::from_utf8_lossy(&curl.stderr));
        // It also ends its body early when it sees the head of a refusal, although it has announced more. That is malformed
        // (RFC 9113 §8.1.1), and h2 resets the stream. On a busy machine that can be before the rest of the answer has left.
        if error.contains("PROTOCOL_ERROR") {
            reset += 1;
        } else {
            assert_eq!((&*told, &*error), ("413", ""));
        }
    }
    assert!(reset <= 2, "{reset} of 10 were reset");
    // What does not end is not read for ever.
    let target = start_target();
    let mut connection = Connection::open(served.connect(), &[]);
    let line =
        [(":method", "POST"), (":scheme", "http"), (":authority", "localhost"), (":path", target.as_str())];
    let block = fields(&[&line[..], &[("content-length", "100000000")]].concat());
    assert!(connection.send(&frame(HEADERS, END_HEADERS, 1, &block)));
    let reset = connection.find(|frame| frame.kind == RST_STREAM).expect("it is reset");
    assert_eq!((reset.stream, reset.code()), (1, 0));
    drop(connection);
    served.end();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_left_of_an_upload_is_read_within_bounds() {
    let served = Served::with(&[("EXPORTGATE_LISTENER_LINGER_TIMEOUT", "300ms")]).await;
    let head = format!(
        "POST {} HTTP/1.1\r\nhost: localhost\r\ncontent-length: 100000000000\r\n\r\n",
        start_target()
    );
    // One that stops uploading, and one that never does.
    let mut silent = served.connect();
    silent.write_all(head.as_bytes()).unwrap();
    assert!(rest(&silent).starts_with(b"HTTP/1.1 413"));
    let mut endless = served.connect();
    endless.write_all(head.as_bytes()).unwrap();
    let piece = vec![b'x'; 1 << 16];
    let taken = (0..1 << 14).take_while(|_| endless.write_all(&piece).is_ok()).count();
    assert!(taken < 1 << 14, "1 GiB was taken");
    served.end();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_small_body_that_nobody_wants_does_not_cost_the_connection() {
    let served = Served::with(&[]).await;
    let mut stream = served.connect();
    for framing in
        ["content-length: 5\r\n\r\nhello", "transfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"]
    {
        write!(stream, "POST /nowhere HTTP/1.1\r\nhost: localhost\r\n{framing}").unwrap();
        let mut connection = std::io::BufReader::new(stream);
        let (status, _) = ask(&mut connection, &results("e1")).unwrap();
        assert_eq!(status, 404, "{framing}: the refusal comes first");
        let mut line = [0; 12];
        connection.read_exact(&mut line).unwrap();
        assert_eq!(&line, b"HTTP/1.1 200", "{framing}");
        stream = served.connect();
    }
    served.end();
}

#[tokio::test(flavor = "multi_thread")]
async fn who_closes_one_half_after_the_request_gets_the_answer() {
    let served = Served::with(&[]).await;
    let post = format!(
        "POST {} HTTP/1.1\r\nhost: localhost\r\ncontent-length: {}\r\n\r\n{START}",
        start_target(),
        START.len()
    );
    for (sent, expected) in
        [(request("GET", &results("e1")), 200), (request("GET", &results("e1")), 200), (post, 202)]
    {
        // The answer is still to come when the half is closed.
        let before = served.fake.hits().api();
        let gate = served.fake.hold();
        let is_hit = before > 0 && expected == 200;
        let mut stream = served.connect();
        stream.write_all(sent.as_bytes()).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        if !is_hit {
            let asked = served.fake.wait_for_hits(before + 1);
            tokio::time::timeout(DEADLINE, asked).await.expect("it is asked for");
        }
        drop(gate);
        let answer = rest(&stream);
        assert!(
            answer.starts_with(format!("HTTP/1.1 {expected}").as_bytes()),
            "{:?}",
            String::from_utf8_lossy(&answer)
        );
    }
    // One that ends within its body is no request.
    let mut stream = served.connect();
    stream.write_all(b"POST /orgs/o/export?version=2024-10-15 HTTP/1.1\r\nhost: localhost\r\ncontent-length: 9\r\n\r\n{").unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    assert!(rest(&stream).starts_with(b"HTTP/1.1 400"));
    served.end();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kept_connection_may_pause_longer_than_a_head_may_take() {
    let settings =
        [("EXPORTGATE_LISTENER_HEADER_TIMEOUT", "300ms"), ("EXPORTGATE_LISTENER_IDLE_TIMEOUT", "3s")];
    let served = Served::with(&settings).await;
    let mut connection = connect(served.address()).unwrap();
    for _ in 0..3 {
        assert_eq!(ask(&mut connection, &results("e1")).unwrap().0, 200);
        // Three times as long as a head may take.
        std::thread::park_timeout(Duration::from_millis(900));
    }
    // It idles for so long, and no longer.
    let begun = std::time::Instant::now();
    assert_eq!(ask(&mut connection, &results("e1")).unwrap().0, 200);
    assert!(rest(connection.get_ref()).is_empty());
    assert!(begun.elapsed() >= Duration::from_millis(2_900), "{:?}", begun.elapsed());

    // A head that has begun has the head's time, at once or after a pause; so has a connection's first.
    for is_first in [true, false] {
        let mut connection = connect(served.address()).unwrap();
        if !is_first {
            assert_eq!(ask(&mut connection, &results("e1")).unwrap().0, 200);
            std::thread::park_timeout(Duration::from_millis(900));
        }
        let stream = connection.get_mut();
        stream.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
        let begun = std::time::Instant::now();
        let ended = poll("it is cut off", || {
            let written = stream.write_all(b"x");
            let mut byte = [0];
            let read = stream.read(&mut byte);
            (written.is_err() || read.is_ok_and(|n| n == 0)).then(|| begun.elapsed())
        });
        assert!(ended < Duration::from_millis(2_500), "{is_first}: {ended:?}");
    }
    // So has one that never says anything.
    let begun = std::time::Instant::now();
    assert!(rest(&served.connect()).is_empty());
    assert!(begun.elapsed() < Duration::from_millis(2_500), "{:?}", begun.elapsed());
    served.end();
}

#[tokio::test(flavor = "multi_thread")]
async fn how_long_a_connection_is_kept_is_told() {
    let served = Served::with(&[("EXPORTGATE_LISTENER_H2C", "true")]).await;
    let answer = |sent: &str| {
        let mut stream = served.connect();
        stream.write_all(sent.as_bytes()).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        String::from_utf8(rest(&stream)).unwrap().to_lowercase()
    };
    // An answer of Snyk's, one from the cache, and one of our own.
    for target in [results("e1"), results("e1"), "/nowhere".to_owned()] {
        let kept = answer(&request("GET", &target));
        let told = kept.split_once("keep-alive: timeout=").expect("it is told").1;
        let seconds: u64 = told.split_once("\r\n").unwrap().0.parse().unwrap();
        // Longer than the usual minute, and no habit of anybody's.
        assert!(seconds >= 75 && !seconds.is_multiple_of(5), "{seconds}");
    }
    let closed =
        answer(&format!("GET {} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n", results("e1")));
    assert!(!closed.contains("keep-alive"), "{closed}");
    // HTTP/2 has no such field (RFC 9113 §8.2.2).
    let url = format!("http://localhost:{}{}", served.address().port(), results("e1"));
    let curl = std::process::Command::new("curl").args(["-si4", "--http2-prior-knowledge", &url]).output();
    let answer = String::from_utf8(curl.unwrap().stdout).unwrap().to_lowercase();
    assert!(answer.starts_with("http/2 200") && answer.contains("exportgate; hit"), "{answer}");
    assert!(!answer.contains("keep-alive"), "{answer}");
    served.end();
}
