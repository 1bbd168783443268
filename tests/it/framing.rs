//! What an upstream really sends: cut answers, framings in doubt, requests that it did not process. Each is checked at the
//! client's end, in the journal, and by what was sent.

use std::io::Write as _;

use exportgate::fake::{Fake, Fault, Settings, State};
use http::Method;
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tempfile::TempDir;

use crate::support::h2::{
    self, DATA, END_HEADERS, END_STREAM, GOAWAY, HEADERS, OK, REFUSED_STREAM, RST_STREAM, field, frame,
};
use crate::support::raw;
use crate::support::upstream::{Answer, Upstream};
use crate::support::{Flags, ORG, START, TOKEN, V, World, flag, keep_secret, results, scope};

const NO_ERROR: u32 = 0;
const INTERNAL_ERROR: u32 = 2;
const CANCEL: u32 = 8;
const PENDING: &str = r#"{"data":{"attributes":{"status":"PENDING"}}}"#;
/// It would be stored, were it whole.
const FINISHED: &str = r#"{"data":{"attributes":{"status":"FINISHED","results":[{}]}}}"#;

fn reset(stream: u32, code: u32) -> Vec<u8> {
    frame(RST_STREAM, 0, stream, &code.to_be_bytes())
}

fn go_away(last: u32) -> Vec<u8> {
    frame(GOAWAY, 0, 0, &[last.to_be_bytes(), NO_ERROR.to_be_bytes()].concat())
}

/// A head with this `Content-Length`, and data.
fn begun(stream: u32, length: Option<usize>, data: &str) -> Vec<u8> {
    let mut block = OK.to_vec();
    block.extend(field(false, "content-type", "application/json"));
    block
        .extend(length.map(|length| field(false, "content-length", &length.to_string())).unwrap_or_default());
    let head = frame(HEADERS, END_HEADERS, stream, &block);
    [head, frame(DATA, 0, stream, data.as_bytes())].concat()
}

fn ended(stream: u32) -> Vec<u8> {
    frame(DATA, END_STREAM, stream, &[])
}

fn whole(stream: u32, data: &str) -> Answer {
    Answer::of([begun(stream, Some(data.len()), data), ended(stream)].concat())
}

fn whole_http1(data: &str) -> Answer {
    let length = data.len();
    Answer::of(format!(
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n{data}"
    ))
}

/// A gateway in front of `upstream` that sends each request once, as far as it may.
async fn before(upstream: &Upstream, mut flags: Flags) -> World {
    let directory = TempDir::new().unwrap();
    if !upstream.ca_pem.is_empty() {
        let ca = directory.path().join("ca.pem");
        std::fs::write(&ca, &upstream.ca_pem).unwrap();
        flags.push(flag("upstream.ca_file", ca.display()));
    }
    flags.extend([flag("retry.max", 0), flag("breaker.failures", 1_000)]);
    flags.push(flag("routes.other", "forward"));
    World::before(Fake::start(Settings::default()).await.unwrap(), &upstream.url, flags).await
}

async fn start(world: &World) -> crate::support::Got {
    world.send(Method::POST, &format!("/orgs/{ORG}/export?{V}"), &[], START).await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_is_cut_is_never_given_out_as_whole() {
    for (name, cut) in [
        (
            "no length",
            (|stream| [begun(stream, None, FINISHED), reset(stream, NO_ERROR)].concat()) as fn(u32) -> _,
        ),
        ("a length", |stream| [begun(stream, Some(1_000), FINISHED), reset(stream, NO_ERROR)].concat()),
        ("all of its length", |stream| {
            [begun(stream, Some(FINISHED.len()), FINISHED), reset(stream, NO_ERROR)].concat()
        }),
        ("no data", |stream| [begun(stream, None, ""), reset(stream, NO_ERROR)].concat()),
        ("cancelled", |stream| [begun(stream, None, FINISHED), reset(stream, CANCEL)].concat()),
        ("an error", |stream| [begun(stream, None, FINISHED), reset(stream, INTERNAL_ERROR)].concat()),
        ("less than its length", |stream| {
            [begun(stream, Some(FINISHED.len() + 1), FINISHED), ended(stream)].concat()
        }),
        ("less, then trailers", |stream| {
            let trailers = field(false, "x-trailer", "1");
            let trailers = frame(HEADERS, END_HEADERS | END_STREAM, stream, &trailers);
            [begun(stream, Some(FINISHED.len() + 1), FINISHED), trailers].concat()
        }),
    ] {
        let upstream =
            Upstream::http2(
                move |number, stream| {
                    if number < 3 { Answer::of(cut(stream)) } else { whole(stream, PENDING) }
                },
            )
            .await;
        let world = before(&upstream, vec![flag("listener.h2c", "true")]).await;
        let got = world.get(&results("e1")).await;
        assert_eq!((got.status.as_u16(), got.code().as_str()), (502, "http_response_incomplete"), "{name}");
        assert_eq!(world.records()[0].error.as_deref(), Some("http_response_incomplete"), "{name}");
        assert_eq!(world.records()[0].status, Some(200), "{name}");
        // What streams through is broken off, for both kinds of clients; only where all of its length has come, it has
        // left before we know how it ends.
        let streamed = world.try_send(Method::GET, "/rest/self", &[], "").await;
        assert_eq!(streamed.is_ok(), name == "all of its length", "{name}");
        over_http2(&world, "/rest/self").await.expect_err(name);
        // Nothing was stored, and the connection is as good as before; what streams has one of its own.
        let next = world.get(&results("e1")).await;
        assert_eq!((next.status.as_u16(), next.body.as_ref()), (200, PENDING.as_bytes()), "{name}");
        assert_eq!((upstream.requests(), upstream.connections()), (4, 2), "{name}");
        world.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reset_behind_the_whole_answer_takes_nothing_of_it() {
    // RFC 9113 §8.1: a server asks so that the rest of an upload is not sent.
    let upstream = Upstream::http2(|_, stream| {
        Answer::of([whole(stream, PENDING).bytes, reset(stream, NO_ERROR)].concat())
    })
    .await;
    let world = before(&upstream, vec![]).await;
    for target in [results("e1").as_str(), "/rest/self"] {
        let got = world.get(target).await;
        assert_eq!((got.status.as_u16(), got.body.as_ref()), (200, PENDING.as_bytes()), "{target}");
    }
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cut_answer_of_a_token_endpoint_is_no_token() {
    let upstream = Upstream::http2(|_, stream| {
        let token = r#"{"access_token":"cut-0ff-70ken","token_type":"bearer","expires_in":3600}"#;
        Answer::of([begun(stream, None, token), reset(stream, NO_ERROR)].concat())
    })
    .await;
    keep_secret(["cut-0ff-70ken".to_owned()]);
    let directory = TempDir::new().unwrap();
    let secret = directory.path().join("secret");
    std::fs::write(&secret, "c11e7-5ec2e7").unwrap();
    let flags =
        vec![flag("credential.client_id", "svc-1"), flag("credential.client_secret_file", secret.display())];
    let world = before(&upstream, flags).await;
    let got = world.get(&results("e1")).await;
    assert_eq!((got.status.as_u16(), got.code().as_str()), (503, "upstream_credential_unavailable"));
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_that_its_client_cuts_is_never_sent_as_whole() {
    // The head is answered with nothing. What follows it, a chunked body, ends like a head where it ends well.
    let upstream =
        Upstream::http1(|number, _| if number == 0 { Answer::of("") } else { whole_http1("{}") }).await;
    let world = before(&upstream, vec![flag("listener.h2c", "true")]).await;
    let address = world.root.trim_start_matches("http://").to_owned();
    let mut client = h2::Connection::open(std::net::TcpStream::connect(address).unwrap(), &[]);
    client.send(&[h2::post(1, "/rest/x"), frame(DATA, 0, 1, b"{}")].concat());
    raw::poll("the head", || (upstream.requests() == 1).then_some(()));
    client.send(&reset(1, NO_ERROR));
    // It is on record before it is sent; the outcome completes its record.
    let record = raw::poll("an outcome", || world.records().pop().filter(|record| record.error.is_some()));
    assert_eq!((record.status, record.error.as_deref()), (None, Some("connection_terminated")));
    assert_eq!(upstream.requests(), 1);
    drop(client);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_that_snyk_certainly_did_not_process_is_sent_again_once() {
    for (name, refusal) in [
        ("a refused stream", (|stream| Answer::of(reset(stream, REFUSED_STREAM))) as fn(u32) -> _),
        ("a GOAWAY below it", |stream| Answer { bytes: go_away(stream - 1), closes: false }),
        ("a GOAWAY below it, and the end", |stream| Answer { bytes: go_away(0), closes: stream > 0 }),
    ] {
        let upstream = Upstream::http2(move |number, stream| {
            if number == 0 { refusal(stream) } else { whole(stream, r#"{"data":{"id":"e1"}}"#) }
        })
        .await;
        let world = before(&upstream, vec![]).await;
        let got = start(&world).await;
        assert_eq!((got.status.as_u16(), got.field("exportgate-attempts")), (200, "2"), "{name}");
        assert_eq!(upstream.requests(), 2, "{name}");
        let records = world.records();
        let told: Vec<_> = records.iter().map(|row| (row.status, row.error.as_deref())).collect();
        assert_eq!(told, [(Some(200), None), (None, Some("not_processed"))], "{name}");
        assert_ne!(records[0].sent_id, records[1].sent_id, "{name}");
        world.stop().await;
        // Not for ever, though nothing of it is processed; and a read is the same.
        let upstream = Upstream::http2(move |_, stream| refusal(stream)).await;
        let world = before(&upstream, vec![]).await;
        let (started, read) = (start(&world).await, world.get(&results("e1")).await);
        for got in [started, read] {
            assert_eq!((got.status.as_u16(), got.code().as_str()), (502, "not_processed"), "{name}");
        }
        assert_eq!((upstream.requests(), world.records().len()), (4, 4), "{name}");
        world.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_that_snyk_may_have_processed_is_never_sent_again() {
    for (name, end) in [
        ("a GOAWAY at it", (|stream| Answer { bytes: go_away(stream), closes: true }) as fn(u32) -> _),
        ("a GOAWAY above it", |_| Answer { bytes: go_away(u32::MAX >> 1), closes: true }),
        ("a reset without an error", |stream| Answer::of(reset(stream, NO_ERROR))),
        ("a cancelled stream", |stream| Answer::of(reset(stream, CANCEL))),
        ("the end of the connection", |_| Answer { bytes: Vec::new(), closes: true }),
        ("a head and a refused stream", |stream| {
            Answer::of([begun(stream, None, "{"), reset(stream, REFUSED_STREAM)].concat())
        }),
        ("a head and a GOAWAY below", |stream| Answer {
            bytes: [begun(stream, None, "{"), go_away(stream - 1)].concat(),
            closes: true,
        }),
    ] {
        let upstream = Upstream::http2(move |_, stream| end(stream)).await;
        let world = before(&upstream, vec![]).await;
        let got = start(&world).await;
        assert_eq!(got.status, 502, "{name}");
        assert!(
            ["connection_terminated", "http_response_incomplete"].contains(&got.code().as_str()),
            "{name}"
        );
        assert_eq!((upstream.requests(), world.records().len()), (1, 1), "{name}");
        world.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_for_which_no_connection_was_opened_is_tried_again() {
    let fake = Fake::start(Settings::default()).await.unwrap();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (url, to) = (format!("https://{}", listener.local_addr().unwrap()), fake.address());
    tokio::spawn(async move {
        // The first ends before it speaks TLS.
        drop(listener.accept().await.unwrap());
        while let Ok((mut client, _)) = listener.accept().await {
            let mut server = tokio::net::TcpStream::connect(to).await.unwrap();
            tokio::spawn(async move { tokio::io::copy_bidirectional(&mut client, &mut server).await });
        }
    });
    let world = World::before(fake, &url, vec![]).await;
    let got = start(&world).await;
    assert_eq!((got.status.as_u16(), world.fake.hits().start), (202, 1));
    let told: Vec<_> = world.records().into_iter().map(|row| (row.status, row.error)).collect();
    assert_eq!(told, [(Some(202), None), (None, Some("destination_unavailable".to_owned()))]);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_whose_framing_or_status_is_in_doubt_is_refused_with_its_connection() {
    for (status, fields) in [
        (200, "transfer-encoding: gzip, chunked\r\n"),
        (200, "transfer-encoding: gzip\r\ntransfer-encoding: chunked\r\n"),
        (200, "transfer-encoding: chunked\r\ncontent-length: 5\r\n"),
        (200, "content-length: 5\r\ntransfer-encoding: chunked\r\n"),
        (200, "transfer-encoding: identity\r\n"),
        (600, "transfer-encoding: chunked\r\n"),
        (999, "transfer-encoding: chunked\r\n"),
    ] {
        let name = format!("{status} {fields}");
        let bad = format!(
            "HTTP/1.1 {status} X\r\ncontent-type: application/json\r\n{fields}\r\n5\r\nhello\r\n0\r\n\r\n"
        );
        let upstream =
            Upstream::http1(
                move |number, _| {
                    if number < 2 { Answer::of(bad.clone()) } else { whole_http1(PENDING) }
                },
            )
            .await;
        let world = before(&upstream, vec![]).await;
        for target in [results("e1").as_str(), "/rest/self"] {
            let got = world.get(target).await;
            assert_eq!((got.status.as_u16(), got.code().as_str()), (502, "http_protocol_error"), "{name}");
        }
        assert_eq!(world.get(&results("e1")).await.body, PENDING, "{name}");
        assert_eq!((upstream.requests(), upstream.connections()), (3, 3), "{name}");
        world.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn trailers_are_not_passed_on_in_either_direction() {
    let answer = format!(
        "HTTP/1.1 200 OK\r\ntrailer: set-cookie, x-echo\r\ntransfer-encoding: chunked\r\n\r\n\
         5\r\nhello\r\n0\r\nset-cookie: a=b\r\nx-echo: token {TOKEN}\r\n\r\n"
    );
    let plain = Upstream::http1(move |_, _| Answer::of(answer.clone())).await;
    let tls = Upstream::http2(|_, stream| {
        let mut trailers = field(false, "set-cookie", "a=b");
        trailers.extend(field(false, "x-echo", TOKEN));
        let trailers = frame(HEADERS, END_HEADERS | END_STREAM, stream, &trailers);
        Answer::of([begun(stream, None, "hello"), trailers].concat())
    })
    .await;
    for upstream in [plain, tls] {
        let world = before(&upstream, vec![flag("listener.h2c", "true")]).await;
        let got = over_http2(&world, "/rest/self").await.unwrap();
        assert!(got.trailers().is_none(), "{:?}", got.trailers());
        assert_eq!(got.to_bytes(), "hello");
        world.stop().await;
    }
    let upstream = Upstream::http2(|_, stream| whole(stream, "{}")).await;
    let world = before(&upstream, vec![]).await;
    let address = world.root.trim_start_matches("http://").to_owned();
    let answer = tokio::task::spawn_blocking(move || {
        let mut client = std::net::TcpStream::connect(address).unwrap();
        write!(
            client,
            "POST /rest/x HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ntrailer: x-late\r\n\
             transfer-encoding: chunked\r\n\r\n2\r\n{{}}\r\n0\r\nx-late: 1\r\n\r\n"
        )
        .unwrap();
        raw::rest(&client)
    });
    assert!(answer.await.unwrap().starts_with(b"HTTP/1.1 200"));
    assert_eq!(upstream.heads(), ["ended by data"]);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_else_speaks_in_our_name() {
    let world = World::new().await;
    world.fake.put_export(&scope(), "e1", State::Finished);
    for (name, value) in [
        (
            "cache-status",
            "other; hit, exportgate; hit; ttl=9, \"exportgate\"; hit;detail=\"a, b\", third;fwd=miss",
        ),
        ("proxy-status", "exportgate; error=dns_error"),
    ] {
        world.fake.fault(Fault::ExtraHeader(name.into(), value.into()), None);
    }
    let first = world.get(&results("e1")).await;
    let second = world.get(&results("e1")).await;
    for (got, ours) in [(first, "exportgate; fwd=uri-miss"), (second, "exportgate; hit")] {
        let told: Vec<_> = got.fields.get_all("cache-status").iter().collect();
        assert_eq!((told.len(), told[0].to_str().unwrap()), (2, "other; hit, third;fwd=miss"));
        assert!(told[1].to_str().unwrap().starts_with(ours), "{told:?}");
        assert_eq!(got.field("proxy-status"), "");
    }
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_body_says_that_it_is_empty() {
    let upstream = Upstream::http1(|_, _| whole_http1("{}")).await;
    let world = before(&upstream, vec![]).await;
    for method in [Method::POST, Method::PUT, Method::PATCH] {
        world.send(method, "/rest/x", &[("content-length", "0")], "").await;
    }
    world.send(Method::POST, &format!("/orgs/{ORG}/export?{V}"), &[], "").await;
    for head in upstream.heads() {
        assert!(head.contains("\r\ncontent-length: 0\r\n"), "{head}");
    }
    for method in [Method::GET, Method::HEAD, Method::DELETE] {
        world.send(method, "/rest/x", &[], "").await;
    }
    assert_eq!(upstream.requests(), 7);
    for head in &upstream.heads()[4..] {
        assert!(!head.contains("content-length"), "{head}");
    }
    world.stop().await;
}

/// Asks over HTTP/2 in the clear: the body, and the trailers.
async fn over_http2(
    world: &World,
    target: &str,
) -> Result<http_body_util::Collected<bytes::Bytes>, hyper::Error> {
    let stream = tokio::net::TcpStream::connect(world.root.trim_start_matches("http://")).await.unwrap();
    let io = TokioIo::new(stream);
    let (mut sender, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await?;
    tokio::spawn(connection);
    let request = http::Request::get(format!("http://localhost{target}"));
    let request = request.body(Full::<bytes::Bytes>::default()).unwrap();
    sender.send_request(request).await?.into_body().collect().await
}
