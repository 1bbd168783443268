//! The client of the file stores: the hosts and addresses that it asks, what it sends, and what it makes of answers.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use exportgate::error_text::error_text;
use exportgate::file_store::{
    FileStore, Settings, StoreAnswer, StoreError, StoreErrorKind, StoreRange, TransferLimits,
};
use exportgate::transport::Resolver;
use http::StatusCode;
use http_body_util::BodyExt as _;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use super::support::keep_secret;
use super::support::upstream::{Answer, Upstream};

const HOST: &str = "bucket.storage.googleapis.com";
const QUERY: &str = "X-Goog-SignedHeaders=host&X-Goog-Signature=f11e5s3cret";

fn settings() -> Settings {
    Settings {
        hosts: vec!["storage.googleapis.com".parse().unwrap(), "*.storage.googleapis.com".parse().unwrap()],
        origins: Vec::new(),
        private_addresses: Vec::new(),
        resolver: Resolver::System,
        ca_file: None,
        connect_timeout: Duration::from_secs(20),
        idle_timeout: Duration::from_secs(20),
        transfers: TransferLimits { all: 1, per_client: 1 },
    }
}

/// A client of a store in the clear, and a link to an object of it.
async fn store(
    script: impl Fn(usize, u32) -> Answer + Send + Sync + 'static,
) -> (Upstream, FileStore, String) {
    let upstream = Upstream::http1(script).await;
    let settings = Settings { origins: vec![upstream.url.parse().unwrap()], ..settings() };
    let link = format!("{}/b/data_1_1_0.csv?{QUERY}", upstream.url);
    (upstream, FileStore::new(settings).unwrap(), link)
}

async fn get(store: &FileStore, link: &str, range: &StoreRange) -> Result<StoreAnswer, StoreError> {
    keep_secret(["f11e5s3cret".to_owned()]);
    let link = store.link(link).unwrap();
    assert!(!format!("{link:?}").contains("s3cret"));
    let answer = store.get(&link, range).await;
    if let Err(error) = &answer {
        let shown = format!("{error:?} {}", error_text(error));
        assert!(!shown.contains("s3cret") && !shown.contains("data_1_1_0"), "{shown}");
    }
    answer
}

async fn whole(store: &FileStore, link: &str) -> Result<StoreAnswer, StoreError> {
    get(store, link, &StoreRange::default()).await
}

async fn read(answer: StoreAnswer) -> Result<String, StoreErrorKind> {
    let body = answer.body.collect().await.map_err(|error| error.kind)?;
    Ok(String::from_utf8(body.to_bytes().to_vec()).unwrap())
}

/// A resolver that gives one list of addresses after another, and then the last one again.
fn resolver(lists: &[&[SocketAddr]]) -> Resolver {
    let lists: VecDeque<Vec<SocketAddr>> = lists.iter().map(|list| list.to_vec()).collect();
    let lists = Mutex::new(lists);
    Resolver::Own(Arc::new(move |_, _| {
        let mut lists = lists.lock().unwrap();
        if lists.len() > 1 { lists.pop_front().unwrap() } else { lists[0].clone() }
    }))
}

/// A store with a certificate for [`HOST`], and where it is.
async fn secure_store() -> (Upstream, SocketAddr, TempDir, PathBuf) {
    let answer = "HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nA,B\n";
    let upstream = Upstream::https1(HOST, move |_, _| Answer { bytes: answer.into(), closes: true }).await;
    let directory = TempDir::new().unwrap();
    let ca = directory.path().join("ca.pem");
    std::fs::write(&ca, &upstream.ca_pem).unwrap();
    let address = upstream.url.strip_prefix("https://").unwrap().parse().unwrap();
    (upstream, address, directory, ca)
}

#[tokio::test]
async fn a_bad_link_opens_no_connection() {
    let (upstream, address, _directory, ca) = secure_store().await;
    let settings = Settings { ca_file: Some(ca), resolver: resolver(&[&[address]]), ..settings() };
    let store = FileStore::new(settings).unwrap();
    for link in [
        "https://127.0.0.1/a",
        "https://169.254.169.254/latest/meta-data/",
        "https://[::1]/a",
        "https://[::ffff:10.0.0.1]/a",
        "https://storage.googleapis.com.evil.test/a",
        "https://storage.googleapis.com@evil.test/a",
        "https://user:password@storage.googleapis.com/a",
        "https://evil.test#@storage.googleapis.com/a",
        "https://storage.googleapis.com:8443/a",
        "http://storage.googleapis.com/a",
    ] {
        assert!(store.link(link).is_err(), "{link}");
    }
    // A good name that leads to a bad address.
    let error = whole(&store, &format!("https://{HOST}/a?{QUERY}")).await.unwrap_err();
    assert_eq!(error.kind, StoreErrorKind::AddressNotAllowed);
    assert!(error_text(&error).contains("127.0.0.1"), "{}", error_text(&error));
    for bad in ["10.0.0.1", "169.254.169.254", "::1", "::ffff:10.0.0.1", "64:ff9b::a00:1", "fd00:ec2::254"] {
        let bad = SocketAddr::new(bad.parse().unwrap(), 443);
        let settings = Settings { resolver: resolver(&[&[bad]]), ..self::settings() };
        let store = FileStore::new(settings).unwrap();
        let error = whole(&store, &format!("https://{HOST}/a?{QUERY}")).await.unwrap_err();
        assert_eq!(error.kind, StoreErrorKind::AddressNotAllowed, "{bad}");
    }
    assert_eq!((upstream.connections(), upstream.requests()), (0, 0));
}

#[tokio::test]
async fn a_name_that_leads_elsewhere_later_is_checked_each_time() {
    let (upstream, good, _directory, ca) = secure_store().await;
    let inner = TcpListener::bind("127.0.0.2:0").await.unwrap();
    let bad = inner.local_addr().unwrap();
    // To this gateway 127.0.0.1 is public, and 127.0.0.2 is not.
    let private_addresses = vec!["127.0.0.1/32".parse().unwrap()];
    let resolver = resolver(&[&[good], &[bad], &[bad, good]]);
    let settings = Settings { ca_file: Some(ca), private_addresses, resolver, ..settings() };
    let store = FileStore::new(settings.clone()).unwrap();
    let link = format!("https://{HOST}/a?{QUERY}");
    assert_eq!(read(whole(&store, &link).await.unwrap()).await.unwrap(), "A,B\n");
    assert_eq!(whole(&store, &link).await.unwrap_err().kind, StoreErrorKind::AddressNotAllowed);
    assert_eq!(upstream.connections(), 1);
    // Of several addresses only the good one is connected to.
    assert_eq!(read(whole(&store, &link).await.unwrap()).await.unwrap(), "A,B\n");
    assert_eq!((upstream.connections(), upstream.requests()), (2, 2));
    let none = tokio::time::timeout(Duration::ZERO, inner.accept()).await;
    assert!(none.is_err(), "a connection to {bad}");

    // Settings that are reloaded count from then on.
    store.set(Settings { private_addresses: Vec::new(), ..settings.clone() });
    assert_eq!(whole(&store, &link).await.unwrap_err().kind, StoreErrorKind::AddressNotAllowed);
    store.set(Settings { hosts: Vec::new(), ..settings });
    assert!(store.link(&link).is_err());
    assert_eq!(upstream.connections(), 2);
}

#[tokio::test]
async fn a_store_must_prove_its_name() {
    let (upstream, address, _directory, ca) = secure_store().await;
    let private_addresses = vec!["127.0.0.0/8".parse().unwrap()];
    let resolver = resolver(&[&[address]]);
    let settings = Settings { ca_file: Some(ca), private_addresses, resolver, ..settings() };
    let store = FileStore::new(settings).unwrap();
    let error = whole(&store, &format!("https://other.storage.googleapis.com/a?{QUERY}")).await.unwrap_err();
    assert_eq!(error.kind, StoreErrorKind::Unreachable);
    assert!(error_text(&error).contains("certificate"), "{}", error_text(&error));
    assert_eq!(upstream.requests(), 0);
}

#[tokio::test]
async fn a_store_receives_the_allowed_fields_and_no_other() {
    let tag = "HTTP/1.1 200 OK\r\netag: \"v1\"\r\ncontent-length: 4\r\n\r\nA,B\n";
    let rest = "HTTP/1.1 206 Partial Content\r\netag: \"v1\"\r\ncontent-range: bytes 2-3/4\r\ncontent-length: 2\r\n\r\nB\n";
    let (upstream, store, link) =
        store(move |request, _| Answer::of(if request == 0 { tag } else { rest })).await;
    let first = whole(&store, &link).await.unwrap();
    let if_match = first.tag.clone();
    assert_eq!((first.position, first.total), (0, Some(4)));
    assert_eq!(read(first).await.unwrap(), "A,B\n");
    let range = StoreRange { from: 2, to: None, if_match };
    let second = get(&store, &link, &range).await.unwrap();
    assert_eq!((second.position, second.length, second.total), (2, Some(2), Some(4)));
    assert_eq!(read(second).await.unwrap(), "B\n");

    let lines = |head: &str| -> Vec<String> {
        let mut lines: Vec<String> = head.trim_end().lines().map(str::to_owned).collect();
        lines[1..].sort();
        lines
    };
    let host = upstream.url.replace("http://", "host: ");
    let agent = format!("user-agent: exportgate/{}", env!("CARGO_PKG_VERSION"));
    let target = format!("get /b/data_1_1_0.csv?{} http/1.1", QUERY.to_ascii_lowercase());
    let usual = [target.as_str(), "accept-encoding: identity", &host, &agent];
    let ranged =
        [target.as_str(), "accept-encoding: identity", &host, "if-match: \"v1\"", "range: bytes=2-", &agent];
    let heads = upstream.heads();
    assert_eq!(lines(&heads[0]), usual);
    assert_eq!(lines(&heads[1]), ranged);
    assert_eq!((heads.len(), upstream.connections()), (2, 1), "the connection is used again");
}

#[tokio::test]
async fn each_refusal_has_its_kind() {
    use StoreErrorKind as K;
    let refused = |status: u16| K::Refused(StatusCode::from_u16(status).unwrap());
    let xml = |code: &str, message: &str| {
        format!(
            "<?xml version='1.0'?><Error><Code>{code}</Code><Message>{message}</Message><Details>GET /b/data_1_1_0.csv f11e5s3cret</Details></Error>"
        )
    };
    let elsewhere = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let location = format!("location: http://{}/", elsewhere.local_addr().unwrap());
    let long = format!("{}{}", " ".repeat(16 * 1024), xml("ExpiredToken", "x"));
    for (status, field, body, expected, code) in [
        (400, "", xml("ExpiredToken", "Invalid argument."), K::Expired, Some("ExpiredToken")),
        (403, "", xml("AccessDenied", "Request has expired"), K::Expired, Some("AccessDenied")),
        (403, "", xml("ExpiredRequest", "Request has expired"), K::Expired, Some("ExpiredRequest")),
        (403, "", xml("AccessDenied", "Access Denied"), refused(403), Some("AccessDenied")),
        (403, "", xml("SignatureDoesNotMatch", "f11e5s3cret"), refused(403), Some("SignatureDoesNotMatch")),
        (400, "", xml("/b/data_1_1_0.csv", "Request has expired"), refused(400), None),
        (403, "", long, refused(403), None),
        (404, "", xml("NoSuchKey", ""), K::Gone, None),
        (410, "", String::new(), K::Gone, None),
        (412, "", xml("PreconditionFailed", ""), K::Changed, None),
        (416, "content-range: bytes */0", String::new(), K::OutOfRange { total: Some(0) }, None),
        (416, "content-range: bytes */300", String::new(), K::OutOfRange { total: Some(300) }, None),
        (416, "", String::new(), K::OutOfRange { total: None }, None),
        (301, location.as_str(), String::new(), refused(301), None),
        (302, location.as_str(), String::new(), refused(302), None),
        (307, location.as_str(), String::new(), refused(307), None),
        (401, "", String::new(), refused(401), None),
        (429, "", String::new(), refused(429), None),
        (503, "", xml("SlowDown", ""), refused(503), None),
        (204, "", String::new(), refused(204), None),
    ] {
        let field = if field.is_empty() { String::new() } else { format!("{field}\r\n") };
        let length =
            if status == 204 { String::new() } else { format!("content-length: {}\r\n", body.len()) };
        let answer = format!("HTTP/1.1 {status} x\r\n{field}{length}\r\n{body}");
        let (upstream, store, link) = store(move |_, _| Answer::of(answer.clone())).await;
        let error = whole(&store, &link).await.unwrap_err();
        assert_eq!((error.kind, error.code.as_deref()), (expected, code), "{status} {body}");
        assert_eq!(error.kind.passes(), status == 429 || status == 503, "{status}");
        assert_eq!(upstream.requests(), 1);
    }
    let none = tokio::time::timeout(Duration::ZERO, elsewhere.accept()).await;
    assert!(none.is_err(), "a redirect was followed");
}

#[tokio::test]
async fn a_cut_or_unfitting_answer_never_looks_whole() {
    use StoreErrorKind as K;
    let tail = StoreRange { from: 2, ..StoreRange::default() };
    let from_start = StoreRange::default();
    let ok = "HTTP/1.1 200 OK\r\n";
    let partial = "HTTP/1.1 206 Partial Content\r\ncontent-range: bytes 2-7/8\r\n";
    for (answer, range, expected) in [
        (format!("{ok}content-length: 4\r\n\r\nabcd"), &from_start, Ok("abcd")),
        (format!("{ok}transfer-encoding: chunked\r\n\r\n4\r\nabcd\r\n0\r\n\r\n"), &from_start, Ok("abcd")),
        (format!("{ok}content-length: 4\r\n\r\nabcd"), &tail, Ok("abcd")),
        (format!("{partial}transfer-encoding: chunked\r\n\r\n6\r\ncdefgh\r\n0\r\n\r\n"), &tail, Ok("cdefgh")),
        (format!("{ok}content-length: 5\r\n\r\nabcd"), &from_start, Err(K::BrokenOff)),
        (format!("{ok}transfer-encoding: chunked\r\n\r\n4\r\nabcd\r\n"), &from_start, Err(K::BrokenOff)),
        (format!("{ok}\r\nabcd"), &from_start, Err(K::BadAnswer)),
        (format!("{ok}transfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n"), &from_start, Err(K::BadAnswer)),
        (
            format!("{partial}transfer-encoding: chunked\r\n\r\n5\r\ncdefg\r\n0\r\n\r\n"),
            &tail,
            Err(K::BrokenOff),
        ),
        (
            format!("{partial}transfer-encoding: chunked\r\n\r\n7\r\ncdefghi\r\n0\r\n\r\n"),
            &tail,
            Err(K::BadAnswer),
        ),
        (format!("{partial}content-length: 6\r\n\r\ncdefgh"), &from_start, Err(K::BadAnswer)),
        ("SSH-2.0-OpenSSH_9.2\r\n".to_owned(), &from_start, Err(K::BadAnswer)),
        (String::new(), &from_start, Err(K::Unreachable)),
    ] {
        let bytes = answer.clone();
        let script = move |_, _| Answer { bytes: bytes.clone().into(), closes: true };
        let (_upstream, store, link) = store(script).await;
        let outcome = match get(&store, &link, range).await {
            Err(error) => Err(error.kind),
            Ok(answer) => read(answer).await,
        };
        assert_eq!(outcome.as_deref(), expected.as_ref().copied(), "{answer}");
    }
}

#[tokio::test]
async fn another_object_than_before_is_noticed() {
    let answer = |tag: &str, status: &str| {
        format!("HTTP/1.1 {status}\r\n{tag}content-range: bytes 2-3/4\r\ncontent-length: 2\r\n\r\ncd")
    };
    for (tag, status, expected) in [
        ("etag: \"v1\"\r\n", "206 Partial Content", None),
        ("etag: \"v2\"\r\n", "206 Partial Content", Some(StoreErrorKind::Changed)),
        ("etag: \"v2\"\r\n", "200 OK", Some(StoreErrorKind::Changed)),
        ("etag: W/\"v1\"\r\n", "206 Partial Content", Some(StoreErrorKind::Changed)),
        ("", "206 Partial Content", Some(StoreErrorKind::Changed)),
    ] {
        let first = "HTTP/1.1 200 OK\r\netag: \"v1\"\r\ncontent-length: 0\r\n\r\n".to_owned();
        let second = answer(tag, status);
        let script = move |request, _| Answer::of(if request == 0 { first.clone() } else { second.clone() });
        let (_upstream, store, link) = store(script).await;
        let if_match = whole(&store, &link).await.unwrap().tag;
        let range = StoreRange { from: 2, to: None, if_match };
        let outcome = get(&store, &link, &range).await.err().map(|error| error.kind);
        assert_eq!(outcome, expected, "{tag} {status}");
    }
}

#[tokio::test]
async fn what_google_says_of_an_object_is_known() {
    let answer = "HTTP/1.1 200 OK\r\nx-goog-hash: crc32c=yZRlqg==\r\nx-goog-hash: md5=XrY7u+Ae7tCTyyK7j1rNww==\r\nx-goog-generation: 1770926987123456\r\ncontent-length: 11\r\n\r\nhello world";
    let (_upstream, store, link) = store(move |_, _| Answer::of(answer)).await;
    let answer = whole(&store, &link).await.unwrap();
    assert_eq!((answer.crc32c, answer.generation), (Some(0xc994_65aa), Some(1_770_926_987_123_456)));
    assert!(!answer.is_decoded && !answer.is_encoded);
    assert_eq!(read(answer).await.unwrap(), "hello world");
}

#[tokio::test]
async fn an_object_that_the_store_decodes_has_no_length_and_no_hash() {
    let answer = "HTTP/1.1 200 OK\r\nx-goog-hash: crc32c=yZRlqg==\r\nx-goog-stored-content-encoding: gzip\r\nwarning: 214 UploadServer gunzipped\r\ntransfer-encoding: chunked\r\n\r\n4\r\nA,B\n\r\n0\r\n\r\n";
    let (_upstream, store, link) = store(move |_, _| Answer::of(answer)).await;
    let range = StoreRange { from: 2, ..StoreRange::default() };
    let answer = get(&store, &link, &range).await.unwrap();
    assert!(answer.is_decoded);
    assert_eq!((answer.position, answer.total, answer.crc32c), (0, None, None));
    assert_eq!(read(answer).await.unwrap(), "A,B\n");
}

#[tokio::test]
async fn a_store_that_falls_silent_is_left() {
    let head = "HTTP/1.1 200 OK\r\ncontent-length: 8\r\n\r\n";
    for said in ["", "HTTP/1.1 200 OK\r\n", head, &format!("{head}abcd")] {
        let bytes = said.to_owned();
        let upstream = Upstream::http1(move |_, _| Answer::of(bytes.clone())).await;
        let short = Duration::from_millis(100);
        let origins = vec![upstream.url.parse().unwrap()];
        let settings = Settings { origins, connect_timeout: short, idle_timeout: short, ..settings() };
        let store = FileStore::new(settings).unwrap();
        let outcome = match whole(&store, &format!("{}/a?{QUERY}", upstream.url)).await {
            Err(error) => Err(error.kind),
            Ok(answer) => read(answer).await,
        };
        assert_eq!(outcome, Err(StoreErrorKind::Timeout), "{said}");
    }
}

#[tokio::test]
async fn a_client_that_takes_its_time_costs_no_transfer() {
    let answer = "HTTP/1.1 200 OK\r\ncontent-length: 8\r\n\r\nabcdefgh";
    let (_upstream, store, link) = store(move |_, _| Answer::of(answer)).await;
    let answer = whole(&store, &link).await.unwrap();
    tokio::time::pause();
    tokio::time::advance(Duration::from_hours(1)).await;
    tokio::time::resume();
    assert_eq!(read(answer).await.unwrap(), "abcdefgh");
}

#[tokio::test]
async fn transfers_that_nobody_reads_hold_back_no_other() {
    let size = 8 * 1024 * 1024;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut asked = [0; 4096];
                let _ = stream.read(&mut asked).await?;
                let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {size}\r\n\r\n");
                stream.write_all(head.as_bytes()).await?;
                for _ in 0..size / 4096 {
                    stream.write_all(&[b'x'; 4096]).await?;
                }
                std::future::pending::<std::io::Result<()>>().await
            });
        }
    });
    let settings = Settings { origins: vec![url.parse().unwrap()], ..settings() };
    let store = FileStore::new(settings).unwrap();
    let link = format!("{url}/a?{QUERY}");
    let mut unread = Vec::new();
    for _ in 0..50 {
        unread.push(whole(&store, &link).await.unwrap());
    }
    assert_eq!(read(whole(&store, &link).await.unwrap()).await.unwrap().len(), size);
    drop(unread);
}
