//! Rows P, H, F and C of the attack catalogue over raw sockets against the real program: whatever is
//! sent, the upstream sees nothing but the six operations with sane ids and our own credential.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use exportgate::fake::{Fake, Seen, Settings};
use tempfile::TempDir;

use crate::support::program::Program;
use crate::support::{ORG, TOKEN, V, keep_secret};

/// Sends raw bytes and reads what comes until the program closes; an empty answer is a closed connection.
fn raw(address: SocketAddr, bytes: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(address).expect("it accepts");
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    // The program may close before everything is written: that is an answer too.
    let _ = stream.write_all(bytes);
    let mut answer = Vec::new();
    let mut chunk = [0; 16_384];
    loop {
        match stream.read(&mut chunk) {
            Ok(0) => return answer,
            Ok(n) => answer.extend_from_slice(&chunk[..n]),
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => return answer,
            Err(error) => panic!("a hang ({error}) after {:?}", String::from_utf8_lossy(bytes)),
        }
    }
}

fn status(answer: &[u8]) -> u16 {
    let text = String::from_utf8_lossy(answer.get(..12).unwrap_or_default()).into_owned();
    text.strip_prefix("HTTP/1.1 ").and_then(|code| code.parse().ok()).unwrap_or(0)
}

fn request(target: &str) -> Vec<u8> {
    format!("GET {target} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").into_bytes()
}

/// Whether a request that the upstream saw is one of ours: a known operation, sane ids, one credential.
fn is_sound(seen: &Seen) -> bool {
    let target = seen
        .target
        .split_once("://")
        .map_or(seen.target.as_str(), |(_, rest)| &rest[rest.find('/').unwrap_or(0)..]);
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let parts: Vec<&str> = path.split('/').collect();
    let sane = |id: &str| {
        (1..=64).contains(&id.len())
            && id.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-')
    };
    let known = match (seen.method.as_str(), &parts[..]) {
        ("POST", ["", "rest", "orgs" | "groups", id, "export"]) => sane(id),
        (
            "GET",
            ["", "rest", "orgs" | "groups", id, "export", e]
            | ["", "rest", "orgs" | "groups", id, "jobs", "export", e],
        ) => sane(id) && sane(e),
        _ => false,
    };
    let one_credential = seen.header("authorization") == [format!("token {TOKEN}")];
    let no_other = [
        "session-token",
        "cookie",
        "transfer-encoding",
        "upgrade",
        "x-forwarded-for",
        "session_token",
        "x-original-url",
    ]
    .iter()
    .all(|name| seen.header(name).is_empty());
    let plain_query = query.bytes().all(|b| (0x21..0x7f).contains(&b));
    known && one_credential && no_other && plain_query
}

/// Path tricks, each to be put in several places (rows P1, P2, C2).
fn tricks() -> Vec<String> {
    let mut tricks: Vec<String> = [
        "..",
        ".",
        "%2e%2e",
        "%2E.",
        ".%2e",
        "%252e%252e",
        "%25252e",
        "..%2f",
        "%2f",
        "%2F..",
        "%5c",
        "..%5c",
        "\\",
        "..\\",
        "..;",
        "..;/",
        ";x=1",
        ";.js",
        "a;b",
        "//",
        "/",
        "/./",
        "/../",
        "%00",
        "%09",
        "%0d%0a",
        "%20",
        "%7f",
        "%c0%ae",
        "%c0%af",
        "%e0%80%af",
        "%ff",
        "%u002e",
        "%zz",
        "%",
        "%4",
        "*",
        "~",
        "@",
        ":",
        "!",
        "$",
        "'",
        "(",
        ")",
        "+",
        ",",
        "=",
        "&",
        "x.css",
        "x.js",
        "x%3f",
        "x%23",
        "\u{e9}",
        "\u{2025}",
        "\u{ff0e}\u{ff0e}",
        "\u{2028}",
        "\t",
        "{x}",
        "[x]",
        "<x>",
        "\"",
        "^",
        "`",
        "|",
        "x/y",
        "jobs",
        "export",
        "rest",
        "orgs",
        "self",
        "..%00/",
        "%2e%2e%2f%2e%2e%2f",
        "..%c0%af",
        "....//",
        "..../",
    ]
    .map(str::to_owned)
    .to_vec();
    tricks.push("x".repeat(65));
    tricks.push("x".repeat(5_000));
    tricks
}

fn paths() -> Vec<String> {
    let mut paths = Vec::new();
    for trick in tricks() {
        for path in [
            format!("/orgs/{trick}/export/e1"),
            format!("/orgs/{ORG}{trick}/export/e1"),
            format!("/orgs/{ORG}/export/{trick}"),
            format!("/orgs/{ORG}/export/e1{trick}"),
            format!("/orgs/{ORG}/export/{trick}/e1"),
            format!("/orgs/{ORG}/{trick}/export/e1"),
            format!("/{trick}/orgs/{ORG}/export/e1"),
            format!("{trick}/orgs/{ORG}/export/e1"),
            format!("/rest{trick}/orgs/{ORG}/export/e1"),
            format!("/rest/{trick}orgs/{ORG}/export/e1"),
            format!("/orgs/{ORG}/jobs{trick}/export/e1"),
            format!("/orgs/{ORG}/export/jobs/{trick}"),
            format!("/orgs/{ORG}/export/e1/{trick}/../../self"),
            format!("/orgs/{ORG}/export/e1?{V}&x={trick}"),
            format!("/orgs/{ORG}/export/e1?{trick}"),
            format!("/groups/{trick}{ORG}/export/{trick}"),
        ] {
            paths.push(path);
        }
    }
    paths
}

/// Heads with each kind of trouble (rows P3, P5, H, F1, F3, D3, D5).
fn heads() -> Vec<Vec<u8>> {
    let target = format!("/orgs/{ORG}/export/e1?{V}");
    let mut heads: Vec<String> = Vec::new();
    for form in [
        "http://gate",
        "https://api.snyk.io",
        "http://user@gate",
        "//gate",
        "gate:80",
        "*",
        "",
        "http://[::1]:80",
        "http://169.254.169.254",
    ] {
        heads.push(format!("GET {form}{target} HTTP/1.1\r\nhost: localhost\r\n\r\n"));
        heads.push(format!("GET {form} HTTP/1.1\r\nhost: localhost\r\n\r\n"));
        heads.push(format!("CONNECT {form} HTTP/1.1\r\nhost: localhost\r\n\r\n"));
    }
    for method in [
        "TRACE", "CONNECT", "PUT", "DELETE", "PATCH", "PRI", "get", "post", "G\u{e9}T", "OPTIONS", "HEAD",
        "PROPFIND",
    ] {
        heads.push(format!("{method} {target} HTTP/1.1\r\nhost: localhost\r\n\r\n"));
        heads.push(format!("{method} /orgs/{ORG}/export?{V} HTTP/1.1\r\nhost: localhost\r\n\r\n"));
    }
    for host in [
        "",
        "host:\r\n",
        "host: localhost\r\nhost: b\r\n",
        "host: localhost\r\nhost: localhost\r\n",
        "host: localhost b\r\n",
        "host: u@a\r\n",
        "host: localhost/b\r\n",
        "host: localhost:b:c\r\n",
        "host: localhost, b\r\n",
        "host: \u{7f}\r\n",
    ] {
        heads.push(format!("GET {target} HTTP/1.1\r\n{host}\r\n"));
    }
    let framing = [
        "content-length: 5\r\ntransfer-encoding: chunked\r\n",
        "content-length: 5, 5\r\n",
        "content-length: 5, 6\r\n",
        "content-length: 5\r\ncontent-length: 6\r\n",
        "content-length: +1\r\n",
        "content-length: 010\r\n",
        "content-length: 0x1\r\n",
        "content-length: -1\r\n",
        "content-length: 99999999999999999999\r\n",
        "transfer-encoding: ,chunked\r\n",
        "transfer-encoding: gzip, chunked\r\n",
        "transfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n",
        "transfer-encoding: chunked, identity\r\n",
        "transfer-encoding: xchunked\r\n",
        "transfer-encoding : chunked\r\n",
        "transfer-encoding:\u{b}chunked\r\n",
        " transfer-encoding: chunked\r\n",
        "x: y\r\n transfer-encoding: chunked\r\n",
        "x\0: y\r\n",
        "x: a\0b\r\n",
        "x y: z\r\n",
        ": z\r\n",
        "x\r\n",
        "x: y\nz: w\r\n",
        "upgrade: h2c\r\nconnection: upgrade\r\nhttp2-settings: AAMAAABk\r\n",
        "upgrade: websocket\r\nconnection: upgrade\r\n",
        "connection: authorization, host\r\n",
        "te: trailers\r\ntrailer: authorization\r\n",
        "expect: 100-continue\r\n",
        "expect: 200-ok\r\n",
        "x-http-method-override: DELETE\r\n",
        "x-original-url: /rest/self\r\nx-rewrite-url: /rest/self\r\n",
        "session_token: x\r\nsession-token: y\r\n",
        "authorization: token a\r\nauthorization: token b\r\n",
        "cookie: a=b\r\nx-forwarded-for: 1.2.3.4\r\n",
        "user-agent: a\u{1b}[31mb\r\n",
    ];
    let smuggled = format!(
        "GET /rest/self HTTP/1.1\r\nhost: localhost\r\n\r\nGET /orgs/{ORG}/../x HTTP/1.1\r\nhost: localhost\r\n\r\n"
    );
    for fields in framing {
        for version in ["1.0", "1.1"] {
            for (method, target) in [("GET", target.as_str()), ("POST", &format!("/orgs/{ORG}/export?{V}"))] {
                for body in [
                    "",
                    "0\r\n\r\n",
                    "5\r\nhello\r\n0\r\n\r\n",
                    "0x1\r\na\r\n0\r\n\r\n",
                    "ffffffffffffffffff\r\n",
                    "hello",
                    smuggled.as_str(),
                ] {
                    heads.push(format!(
                        "{method} {target} HTTP/{version}\r\nhost: localhost\r\n{fields}\r\n{body}"
                    ));
                }
            }
        }
    }
    heads.push(format!("GET {target}\r\n\r\n"));
    heads.push(format!("GET {target} HTTP/0.9\r\n\r\n"));
    heads.push(format!("GET {target} HTTP/2.0\r\nhost: localhost\r\n\r\n"));
    heads.push(format!("GET {target} HTTP/1.1\nhost: localhost\n\n"));
    heads.push("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_owned());
    heads.push("\u{16}\u{3}\u{1}".to_owned());
    heads.push(format!("GET {target} HTTP/1.1\r\nhost: localhost\r\n{}\r\n", "x: y\r\n".repeat(200)));
    heads.push(format!("GET {target} HTTP/1.1\r\nhost: localhost\r\nx: {}\r\n\r\n", "y".repeat(100_000)));
    heads.push(format!("GET /{} HTTP/1.1\r\nhost: localhost\r\n\r\n", "y".repeat(70_000)));
    heads.into_iter().map(String::into_bytes).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_but_the_six_operations_reaches_the_upstream() {
    let fake = Fake::start(Settings::default()).await.unwrap();
    let home = TempDir::new().unwrap();
    let flags = [
        ("EXPORTGATE_LISTENER_HEADER_TIMEOUT", "300ms"),
        ("EXPORTGATE_LISTENER_IDLE_TIMEOUT", "300ms"),
        ("EXPORTGATE_LISTENER_BODY_TIMEOUT", "300ms"),
    ];
    let mut program = Program::serve(home.path(), &fake, &[], &flags);
    let address = program.address;
    let cases: Vec<Vec<u8>> = paths().iter().map(|path| request(path)).chain(heads()).collect();
    assert!(cases.len() >= 2_000, "{}", cases.len());
    let count = cases.len();
    let answered = tokio::task::spawn_blocking(move || {
        let queue = std::sync::Mutex::new(cases.into_iter());
        let answered = std::sync::Mutex::new(Vec::new());
        std::thread::scope(|scope| {
            for _ in 0..16 {
                scope.spawn(|| {
                    loop {
                        let Some(case) = queue.lock().unwrap().next() else { break };
                        let answer = raw(address, &case);
                        answered.lock().unwrap().push((case, answer));
                    }
                });
            }
        });
        answered.into_inner().unwrap()
    })
    .await
    .unwrap();
    assert_eq!(answered.len(), count);
    for (case, answer) in &answered {
        let (case, text) = (String::from_utf8_lossy(case), String::from_utf8_lossy(answer));
        let code = status(answer);
        // A fault of ours would be a 500; what the upstream never sees is refused or closed.
        assert!(code != 500 && code != 502, "{case:?}: {text}");
        assert!(!text.contains(TOKEN), "{case:?}");
    }
    let seen = fake.requests();
    let odd: Vec<_> = seen
        .iter()
        .filter(|seen| !is_sound(seen))
        .map(|seen| (&seen.method, &seen.target, &seen.headers))
        .collect();
    assert!(odd.is_empty(), "{odd:?}");
    // No answer held more responses than the requests that it was sent, and smuggled ones went nowhere.
    assert!(seen.iter().all(|seen| !seen.target.contains("/rest/self")));
    // It is alive and well.
    let answer = raw(address, &request(&format!("/orgs/{ORG}/export/e1?{V}")));
    assert_eq!(status(&answer), 404);
    assert_eq!(program.terminate(), Some(0));
    // Nothing of it could break a line of the log or draw in a terminal.
    let log = std::fs::read_to_string(program.log()).unwrap();
    for line in log.lines() {
        assert!(serde_json::from_str::<serde_json::Value>(line).is_ok(), "{line}");
        assert!(line.chars().all(|c| !c.is_control() && c != '\u{2028}'), "{line}");
    }
    assert!(log.lines().count() > count / 2);
    keep_secret(fake.signatures());
}

#[tokio::test(flavor = "multi_thread")]
async fn each_trick_with_a_path_is_refused_by_its_status() {
    let fake = Fake::start(Settings::default()).await.unwrap();
    let home = TempDir::new().unwrap();
    let program = Program::serve(home.path(), &fake, &[], &[]);
    let base = format!("/orgs/{ORG}/export");
    let oversized = format!("/orgs/{ORG}/export/e?x={}", "y".repeat(9_000));
    let fields = "x: y\r\n".repeat(200);
    let long = format!("x: {}\r\n", "y".repeat(100_000));
    for (case, expected) in [
        (format!("GET {base}/../x HTTP/1.1\r\nhost: localhost\r\n\r\n"), 400),
        (format!("GET {base}/%2e%2e HTTP/1.1\r\nhost: localhost\r\n\r\n"), 400),
        (format!("GET {base}/a%2fb HTTP/1.1\r\nhost: localhost\r\n\r\n"), 400),
        (format!("GET {base}//a HTTP/1.1\r\nhost: localhost\r\n\r\n"), 400),
        (format!("GET {base}/a;x HTTP/1.1\r\nhost: localhost\r\n\r\n"), 400),
        (format!("GET {base}/a?x=%26 HTTP/1.1\r\nhost: localhost\r\n\r\n"), 400),
        (format!("GET {base}/a/ HTTP/1.1\r\nhost: localhost\r\n\r\n"), 404),
        (format!("GET {base}/a.css HTTP/1.1\r\nhost: localhost\r\n\r\n"), 404),
        (format!("GET http://g{base}/a HTTP/1.1\r\nhost: localhost\r\n\r\n"), 400),
        ("GET * HTTP/1.1\r\nhost: localhost\r\n\r\n".to_owned(), 400),
        ("CONNECT g:443 HTTP/1.1\r\nhost: localhost\r\n\r\n".to_owned(), 405),
        (format!("TRACE {base}/a HTTP/1.1\r\nhost: localhost\r\n\r\n"), 405),
        (format!("get {base}/a HTTP/1.1\r\nhost: localhost\r\n\r\n"), 405),
        (format!("GET {base}/a HTTP/1.1\r\n\r\n"), 400),
        (format!("GET {base}/a HTTP/1.1\r\nhost: localhost\r\nhost: localhost\r\n\r\n"), 400),
        (format!("GET {base}/a HTTP/1.1\r\nhost: localhost\r\ncontent-length: +1\r\n\r\n"), 400),
        (format!("GET {base}/a HTTP/1.1\r\nhost: localhost\r\n{fields}\r\n"), 431),
        (format!("GET {base}/a HTTP/1.1\r\nhost: localhost\r\n{long}\r\n"), 431),
        (format!("GET {oversized} HTTP/1.1\r\nhost: localhost\r\n\r\n"), 414),
    ] {
        let case = case.replace("\r\n\r\n", "\r\nconnection: close\r\n\r\n");
        let answer = raw(program.address, case.as_bytes());
        assert_eq!(
            status(&answer),
            expected,
            "{}: {}",
            &case[..case.len().min(200)],
            String::from_utf8_lossy(&answer)
        );
    }
    assert_eq!(fake.hits().api(), 0);
}
