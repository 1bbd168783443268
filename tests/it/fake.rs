//! The fake Snyk by itself, on the wire: its documents are those that were recorded from Snyk's, and each fault is
//! what its name says.

use std::time::{Duration, Instant};

use exportgate::fake::{Fake, Fault, Hits, JobStatus, Settings, State, Target};
use h2::Reason;
use http::Request;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::support::h2::{
    Connection, DATA, END_STREAM, Frame, GOAWAY, HEADERS, RST_STREAM, block, field, frame,
};
use crate::support::raw::connect;
use crate::support::{ORG, START, V, scope};

const OTHER: &str = "0d0a3b5e-5d0b-4b0e-9c8d-6f3a2b1c0d9e";

async fn plain() -> Fake {
    let fake = Fake::start(Settings { tls: false, ..Settings::default() }).await.unwrap();
    fake.put_export(&scope(), "e1", State::Finished);
    fake.put_export(&scope(), "e2", State::Finished);
    fake
}

async fn open(fake: &Fake, method: &str, target: &str, body: &str) -> TcpStream {
    let mut stream = TcpStream::connect(fake.address()).await.unwrap();
    let length = body.len();
    let head = format!(
        "{method} {target} HTTP/1.1\r\nhost: x\r\nauthorization: token t\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n"
    );
    stream.write_all((head + body).as_bytes()).await.unwrap();
    stream
}

/// All that comes, until the connection ends.
async fn say(fake: &Fake, method: &str, target: &str, body: &str) -> String {
    let mut all = Vec::new();
    // However it ends.
    let _ = open(fake, method, target, body).await.read_to_end(&mut all).await;
    String::from_utf8_lossy(&all).into_owned()
}

async fn get(fake: &Fake, target: &str) -> String {
    say(fake, "GET", target, "").await
}

async fn start(fake: &Fake, body: &str) -> String {
    say(fake, "POST", &format!("/rest/orgs/{ORG}/export?{V}"), body).await
}

fn status(answer: &str) -> &str {
    answer.get(9..12).unwrap_or_default()
}

fn document(answer: &str) -> Value {
    serde_json::from_str(answer.split_once("\r\n\r\n").unwrap().1).unwrap()
}

fn target(export: &str) -> String {
    format!("/rest/orgs/{ORG}/export/{export}?{V}")
}

fn job(export: &str) -> String {
    format!("/rest/orgs/{ORG}/jobs/export/{export}?{V}")
}

#[tokio::test]
async fn a_start_is_answered_as_recorded_and_needs_a_date_filter() {
    let fake = plain().await;
    let answer = start(&fake, START).await;
    assert_eq!(status(&answer), "202");
    let document = document(&answer);
    let id = document["data"]["id"].as_str().unwrap();
    let own = format!("/orgs/{ORG}/jobs/export/{id}?{V}");
    let created = document["data"]["attributes"]["created"].as_str().unwrap();
    // Such as 2026-02-12T20:09:42.693: without a zone.
    assert_eq!((created.len(), created.ends_with('Z')), (23, false), "{created}");
    let expected = json!({"data":
        {"attributes": {"created": created}, "id": id, "links": {"self": own}, "type": "export"}});
    assert_eq!(document, expected);
    let with = |filters: &str| format!(r#"{{"data":{{"attributes":{{"filters":{filters}}}}}}}"#);
    for (body, expected) in [
        (with(r#"{"updated":{"to":"2026-01-01T00:00:00Z"}}"#), "202"),
        (with(r#"{"introduced":{"from":"2026-01-01T00:00:00Z"},"updated":{"from":"","to":""}}"#), "202"),
        (with(r#"{"updated":{"from":"","to":""}}"#), "400"),
        (with(r#"{"severities":["high"]}"#), "400"),
        (r#"{"data":{"attributes":{"introduced":{"from":"2026-01-01T00:00:00Z"}}}}"#.to_owned(), "400"),
        ("{}".to_owned(), "400"),
        ("no JSON".to_owned(), "400"),
    ] {
        assert_eq!(status(&start(&fake, &body).await), expected, "{body}");
    }
    fake.script(|script| script.accept_any_start = true);
    assert_eq!(status(&start(&fake, "{}").await), "202");
}

#[tokio::test]
async fn a_finished_job_has_its_results_in_it_or_leads_to_them() {
    let fake = plain().await;
    let results = |answer: &str| document(answer)["data"]["attributes"]["results"].as_array().map(Vec::len);
    let inline = get(&fake, &job("e1")).await;
    assert_eq!((status(&inline), results(&inline)), ("200", Some(2)));
    fake.script(|script| script.job_status = JobStatus::Plain);
    let answer = get(&fake, &job("e1")).await;
    assert_eq!((status(&answer), results(&answer)), ("200", None));
    assert_eq!(document(&answer)["data"]["attributes"]["status"], "FINISHED");
    fake.script(|script| script.job_status = JobStatus::Redirect);
    let answer = get(&fake, &job("e1")).await;
    assert_eq!(status(&answer), "303");
    assert!(answer.contains(&format!("\r\nlocation: {}\r\n", target("e1"))), "{answer}");
    let answer = get(&fake, &target("e1")).await;
    assert_eq!((status(&answer), results(&answer)), ("200", Some(2)));
}

#[tokio::test]
async fn fields_of_an_edge_and_a_date_apart_from_the_signing_clock() {
    let fake = plain().await;
    fake.script(|script| (script.edge_fields, script.date_offset) = (true, -7_200));
    let answer = get(&fake, &target("e1")).await;
    let value = |name: &str| {
        let line =
            answer.lines().find_map(|line| line.strip_prefix(&format!("{name}: "))).unwrap_or_default();
        line.to_owned()
    };
    assert!(value("etag").starts_with("W/\""));
    assert_eq!((value("server"), value("vary")), ("envoy".to_owned(), "Origin, Accept-Encoding".to_owned()));
    assert_eq!(value("expires"), value("date"));
    let said = httpdate::parse_http_date(&value("date")).unwrap();
    let url = document(&answer)["data"]["attributes"]["results"][0]["url"].as_str().unwrap().to_owned();
    let signed = url.split_once("X-Goog-Date=").unwrap().1[..16].to_owned();
    let [date, time] = [&signed[..8], &signed[9..15]];
    let signed = format!(
        "{}-{}-{}T{}:{}:{}Z",
        &date[..4],
        &date[4..6],
        &date[6..],
        &time[..2],
        &time[2..4],
        &time[4..]
    );
    let signed = humantime::parse_rfc3339(&signed).unwrap();
    assert_eq!(signed.duration_since(said).unwrap(), Duration::from_hours(2));
}

#[tokio::test]
async fn faults_of_http1_are_seen_on_the_wire() {
    let fake = plain().await;
    let snyks = "\r\nsnyk-request-id: ";
    for (name, parts) in [
        ("401", &["HTTP/1.1 401 ", snyks, "application/vnd.api+json", r#""status":"401""#][..]),
        ("504", &["HTTP/1.1 504 ", snyks, r#""status":"504""#]),
        ("600", &["HTTP/1.1 600 ", snyks]),
        ("429:1800", &["HTTP/1.1 429 ", "\r\nretry-after: 1800\r\n", snyks]),
        (
            "no-healthy-upstream",
            &["HTTP/1.1 503 ", "\r\ncontent-type: text/plain\r\n", "\r\nserver: envoy\r\n"],
        ),
        ("errored", &["HTTP/1.1 200 ", r#""status":"ERRORED""#]),
        ("html", &["HTTP/1.1 200 ", "text/html"]),
        ("redirect:https://a/b", &["HTTP/1.1 303 ", "\r\nlocation: https://a/b\r\n"]),
        ("gzip", &["\r\ncontent-encoding: gzip\r\n"]),
        ("oversize:5000", &["xxxxx", r#""status":"FINISHED""#]),
        ("big-headers:5000", &["\r\nx-big: xxxxx"]),
        ("field:cache-status=exportgate; hit", &["\r\ncache-status: exportgate; hit\r\n"]),
        (
            "rate-high",
            &["\r\nx-ratelimit-limit: 160, 160;w=1;name=\"crd|", ", 97200;w=3600;name=\"", "^high\""],
        ),
        ("rate-low", &["\r\nx-ratelimit-limit: 10, 10;w=60;name=\"crd|", "\r\nx-ratelimit-remaining: 9\r\n"]),
        (
            "trailer:set-cookie=a=b",
            &["\r\ntransfer-encoding: chunked\r\n", "\r\n0\r\nset-cookie: a=b\r\n\r\n"],
        ),
        ("delay:30", &["HTTP/1.1 200 ", "FINISHED"]),
        ("reset-mid-body", &["\r\ncontent-length: 1000\r\n", "{\"data\""]),
        ("cut-no-error", &["\r\ntransfer-encoding: chunked\r\n", "{\"data\""]),
        ("garbage", &["this is no HTTP"]),
        ("switching-protocols", &["HTTP/1.1 101 "]),
        ("bad-chunk", &["\r\ntransfer-encoding: chunked\r\n\r\n0x5\r\n"]),
        ("gzip-chunked", &["\r\ntransfer-encoding: gzip, chunked\r\n"]),
        ("length-and-chunked", &["\r\ncontent-length: ", "\r\ntransfer-encoding: chunked\r\n", "FINISHED"]),
    ] {
        fake.fault(name.parse().unwrap(), Some(1));
        let begun = Instant::now();
        let answer = get(&fake, &target("e1")).await;
        for part in parts {
            assert!(answer.contains(part), "{name}: {part:?} is not in {answer}");
        }
        assert_eq!(
            name == "no-healthy-upstream",
            !answer.contains("snyk-") && answer.ends_with("no healthy upstream")
        );
        let is_cut = ["reset-mid-body", "cut-no-error"].contains(&name);
        assert_eq!(is_cut, answer.contains("{\"data\"") && !answer.contains("}}"), "{name}");
        assert!(name != "delay:30" || begun.elapsed() >= Duration::from_millis(30));
    }
    for name in ["reset", "disconnect", "refused-stream", "goaway-before", "goaway-after", "goaway-answered"]
    {
        fake.fault(name.parse().unwrap(), Some(1));
        assert_eq!(get(&fake, &target("e1")).await, "", "{name}");
    }
    for (name, first) in [("hang", ""), ("hang-mid-body", "\r\ncontent-length: 1000\r\n")] {
        fake.fault(name.parse().unwrap(), Some(1));
        let (hits, mut all) = (fake.hits().api(), Vec::new());
        let mut stream = open(&fake, "GET", &target("e1"), "").await;
        fake.wait_for_hits(hits + 1).await;
        let ended = tokio::time::timeout(Duration::from_millis(50), stream.read_to_end(&mut all)).await;
        assert!(ended.is_err() && String::from_utf8_lossy(&all).contains(first), "{name}");
    }
    fake.fault("endless-continue".parse().unwrap(), Some(1));
    let mut stream = open(&fake, "GET", &target("e1"), "").await;
    let mut thrice = [0; 75];
    stream.read_exact(&mut thrice).await.unwrap();
    assert_eq!(thrice, *b"HTTP/1.1 100 Continue\r\n\r\n".repeat(3));
    // All are over.
    assert_eq!(status(&get(&fake, &target("e1")).await), "200");
}

/// Two requests on one connection, the second with `fault`: what came of the second.
async fn second(fake: &Fake, fault: &str) -> Vec<Frame> {
    let address = fake.address();
    let asked = |stream| {
        let fields = field(false, "authorization", "token t");
        frame(HEADERS, END_STREAM | 4, stream, &[block("GET", &target("e1")), fields].concat())
    };
    let (first, second) = (asked(1), asked(3));
    let open = tokio::task::spawn_blocking(move || {
        let mut connection = Connection::open(connect(address).unwrap().into_inner(), &[]);
        assert!(connection.send(&first));
        connection.find(|frame| frame.stream == 1 && frame.flags & END_STREAM != 0).unwrap();
        connection
    });
    let mut connection = open.await.unwrap();
    fake.fault(fault.parse().unwrap(), Some(1));
    let rest = tokio::task::spawn_blocking(move || {
        assert!(connection.send(&second));
        let mut frames = Vec::new();
        // Until the stream or the connection has ended.
        while let Some(frame) = connection.next() {
            let is_last = match frame.kind {
                RST_STREAM => true,
                DATA | HEADERS => frame.flags & END_STREAM != 0,
                _ => false,
            };
            let is_end = frame.stream == 3 && is_last;
            frames.push(frame);
            if is_end {
                break;
            }
        }
        frames
    });
    let mut frames = rest.await.unwrap();
    frames.retain(|frame| frame.stream == 3 || frame.kind == GOAWAY);
    frames
}

#[tokio::test]
async fn faults_of_http2_are_seen_on_the_wire() {
    let fake = plain().await;
    let (no_error, internal_error, refused, cancel) = (0, 2, 7, 8);
    for (name, expected, code) in [
        ("delay:1", &[HEADERS, DATA][..], None),
        ("trailer:set-cookie=a=b", &[HEADERS, DATA, HEADERS], None),
        ("refused-stream", &[RST_STREAM], Some(refused)),
        ("reset", &[RST_STREAM], Some(internal_error)),
        ("cut-no-error", &[HEADERS, DATA, RST_STREAM], Some(no_error)),
        ("cut-cancel", &[HEADERS, DATA, RST_STREAM], Some(cancel)),
        ("disconnect", &[], None),
        ("goaway-before", &[GOAWAY], None),
        ("goaway-after", &[GOAWAY], None),
        ("goaway-answered", &[GOAWAY, HEADERS, DATA], None),
    ] {
        let frames = second(&fake, name).await;
        let kinds: Vec<u8> = frames.iter().map(|frame| frame.kind).collect();
        assert_eq!(kinds, expected, "{name}");
        if let Some(code) = code {
            assert_eq!(frames.last().unwrap().code(), code, "{name}");
        }
        if let Some(go_away) = frames.iter().find(|frame| frame.kind == GOAWAY) {
            let last = if name == "goaway-before" { 1 } else { 3 };
            assert_eq!(go_away.payload, [0, 0, 0, last, 0, 0, 0, 0], "{name}");
        }
    }
}

#[tokio::test]
async fn a_body_that_http2_cuts_has_its_length_declared_or_not() {
    let fake = plain().await;
    let whole = document(&get(&fake, &target("e1")).await).to_string().len();
    for (name, reason, is_declared) in [
        ("cut-no-error", Reason::NO_ERROR, false),
        ("cut-no-error-declared", Reason::NO_ERROR, true),
        ("cut-cancel", Reason::CANCEL, false),
        ("cut-cancel-declared", Reason::CANCEL, true),
    ] {
        fake.fault(name.parse().unwrap(), Some(1));
        let stream = TcpStream::connect(fake.address()).await.unwrap();
        let (client, connection) = h2::client::handshake(stream).await.unwrap();
        tokio::spawn(connection);
        let request = Request::get(format!("http://x{}", target("e1"))).header("authorization", "token t");
        let (answer, _) =
            client.ready().await.unwrap().send_request(request.body(()).unwrap(), true).unwrap();
        let (head, mut body) = answer.await.unwrap().into_parts();
        let length = head.headers.get("content-length").map(|value| value.to_str().unwrap().to_owned());
        assert_eq!(length, is_declared.then(|| whole.to_string()), "{name}");
        assert_eq!(body.data().await.unwrap().unwrap().len(), whole / 2, "{name}");
        assert_eq!(body.data().await.unwrap().unwrap_err().reason(), Some(reason), "{name}");
    }
}

#[tokio::test]
async fn a_fault_and_a_count_are_about_their_target_alone() {
    let fake = plain().await;
    let (other, v1) = (format!("/rest/orgs/{OTHER}/export/e1?{V}"), "/v1/org/x".to_owned());
    for (at, expected) in [
        (Target::All, ["418"; 6]),
        (Target::Starts, ["418", "200", "200", "200", "404", "200"]),
        (Target::Scope(format!("orgs/{OTHER}")), ["202", "200", "200", "200", "418", "200"]),
        (Target::Export("e1".to_owned()), ["202", "418", "418", "200", "418", "200"]),
        (Target::Path("/v1/".to_owned()), ["202", "200", "200", "200", "404", "418"]),
    ] {
        fake.fault_at(at.clone(), Fault::Status(418), None);
        let mut got = vec![status(&start(&fake, START).await).to_owned()];
        for target in [&target("e1"), &job("e1"), &job("e2"), &other, &v1] {
            got.push(status(&get(&fake, target).await).to_owned());
        }
        assert_eq!(got, expected, "{at:?}");
        fake.clear_faults();
    }
    let hits =
        |start, job_status, results, other| Hits { start, job_status, results, other, ..Hits::default() };
    assert_eq!(fake.hits(), hits(5, 10, 10, 5));
    for (at, expected) in [
        (Target::All, fake.hits()),
        (Target::Starts, hits(5, 0, 0, 0)),
        (Target::Scope(scope()), hits(5, 10, 5, 0)),
        (Target::Export("e2".to_owned()), hits(0, 5, 0, 0)),
        (Target::Path("/v1/".to_owned()), hits(0, 0, 0, 5)),
    ] {
        assert_eq!(fake.hits_of(&at), expected, "{at:?}");
    }
    // One that was for the next two of an export is not used up by others.
    fake.fault_at(Target::Export("e2".to_owned()), Fault::Status(504), Some(2));
    let mut got = Vec::new();
    for export in ["e1", "e2", "e1", "e2", "e2"] {
        got.push(status(&get(&fake, &target(export)).await).to_owned());
    }
    assert_eq!(got, ["200", "504", "200", "504", "200"]);
}
