//! Snyk as the benches need it: fast, and counting. The scripted fake of the tests signs and remembers too much for
//! that.
//!
//! `benches/peers/run.sh` starts it; `cargo bench` leaves it out.
//!
//!     upstream LISTEN
//!
//! - `GET …/export/ID`: a finished export, 3.8 KB with links that live an hour; a second later where the ID begins
//!   with `e`.
//! - `GET …/jobs/export/ID`: `PENDING`.
//! - `POST …/export`: 202 with a new ID.
//! - `GET /count`: how many requests of each kind came, with the bench's credential. Others get 401.

#![expect(
    clippy::disallowed_methods,
    reason = "a program of its own: it drains nothing and has a clock of its own"
)]

use std::convert::Infallible;
use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE, DATE};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// What the gateways are to present, and clients never do.
const CREDENTIAL: &str = "token bench-credential";
const SIZE: usize = 3_800;

struct Shared {
    links: String,
    results: AtomicU64,
    status: AtomicU64,
    starts: AtomicU64,
    refused: AtomicU64,
}

impl Shared {
    fn new() -> Self {
        let now = humantime::format_rfc3339_seconds(SystemTime::now()).to_string().replace(['-', ':'], "");
        let day = &now[..8];
        let mut links = String::new();
        for part in 0..4 {
            let comma = if part == 0 { "" } else { "," };
            let signature = format!("{:064x}", 0x9e37_79b9_7f4a_7c15_u64.wrapping_mul(part + 1)).repeat(8);
            let _ = write!(
                links,
                r#"{comma}{{"url":"https://storage.googleapis.com/export-bucket/data_1_{part}_0.csv?X-Goog-Algorithm=GOOG4-RSA-SHA256&X-Goog-Credential=exporter%40bench.iam.gserviceaccount.com%2F{day}%2Fauto%2Fstorage%2Fgoog4_request&X-Goog-Date={now}&X-Goog-Expires=3600&X-Goog-SignedHeaders=host&X-Goog-Signature={signature}","file_size":1328,"row_count":3}}"#
            );
        }
        let zero = || AtomicU64::new(0);
        Self { links, results: zero(), status: zero(), starts: zero(), refused: zero() }
    }

    fn finished(&self, id: &str) -> Bytes {
        let mut text = String::with_capacity(SIZE);
        let _ = write!(
            text,
            r#"{{"jsonapi":{{"version":"1.0"}},"data":{{"id":"{id}","type":"resource","attributes":{{"created":"2026-11-24T09:00:00Z","finished":"2026-11-24T09:01:00Z","formats":["csv"],"row_count":12,"status":"FINISHED","results":[{}]}}}},"links":{{"self":"/orgs/bench/export/{id}"}}}}"#,
            self.links
        );
        // White space at the end is part of no document, and makes the size what it should be.
        while text.len() < SIZE {
            text.push(' ');
        }
        text.into()
    }
}

fn pending(id: &str) -> Bytes {
    let mut text = String::with_capacity(256);
    let _ = write!(
        text,
        r#"{{"jsonapi":{{"version":"1.0"}},"data":{{"id":"{id}","type":"export","attributes":{{"created":"2026-11-24T09:00:00Z","status":"PENDING"}}}},"links":{{"self":"/orgs/bench/jobs/export/{id}"}}}}"#
    );
    text.into()
}

/// The fields that Snyk puts on every answer.
fn respond(status: StatusCode, asked: &HeaderMap, body: Bytes) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = status;
    let fields = response.headers_mut();
    let id = HeaderName::from_static("snyk-request-id");
    let unset = HeaderValue::from_static("7d444840-9dc0-41d1-b245-5ffdce74fad2");
    fields.insert(id.clone(), asked.get(&id).cloned().unwrap_or(unset));
    fields.insert(CONTENT_TYPE, HeaderValue::from_static("application/vnd.api+json"));
    fields.insert("snyk-version-requested", HeaderValue::from_static("2024-10-15"));
    fields.insert("snyk-version-served", HeaderValue::from_static("2024-10-15"));
    fields.insert("snyk-version-lifecycle-stage", HeaderValue::from_static("ga"));
    let date = httpdate::fmt_http_date(SystemTime::now());
    fields.insert(DATE, HeaderValue::from_str(&date).expect("a date"));
    response
}

async fn answer(shared: &Shared, request: Request<Incoming>) -> Response<Full<Bytes>> {
    let (asked, body) = request.into_parts();
    let path = asked.uri.path();
    if path == "/count" {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let text = format!(
            r#"{{"results":{},"status":{},"starts":{},"refused":{}}}"#,
            read(&shared.results),
            read(&shared.status),
            read(&shared.starts),
            read(&shared.refused)
        );
        return Response::new(Full::new(text.into()));
    }
    let fields = &asked.headers;
    if fields.get(AUTHORIZATION).is_none_or(|given| given.as_bytes() != CREDENTIAL.as_bytes()) {
        shared.refused.fetch_add(1, Ordering::Relaxed);
        return respond(StatusCode::UNAUTHORIZED, fields, Bytes::new());
    }
    let (scope, id) = path.rsplit_once('/').unwrap_or_default();
    if asked.method == Method::POST && id == "export" {
        let _ = body.collect().await;
        let count = shared.starts.fetch_add(1, Ordering::Relaxed);
        return respond(
            StatusCode::ACCEPTED,
            fields,
            pending(&format!("10000000-0000-4000-8000-{count:012}")),
        );
    }
    if scope.ends_with("/jobs/export") {
        shared.status.fetch_add(1, Ordering::Relaxed);
        return respond(StatusCode::OK, fields, pending(id));
    }
    if scope.ends_with("/export") {
        shared.results.fetch_add(1, Ordering::Relaxed);
        if id.starts_with('e') {
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        return respond(StatusCode::OK, fields, shared.finished(id));
    }
    respond(StatusCode::NOT_FOUND, fields, Bytes::new())
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let listen = std::env::args().nth(1).expect("upstream LISTEN");
    let listener = TcpListener::bind(listen).await.expect("a listener");
    let shared = Arc::new(Shared::new());
    loop {
        let Ok((stream, _)) = listener.accept().await else { continue };
        let shared = Arc::clone(&shared);
        tokio::spawn(async move {
            let _ = stream.set_nodelay(true);
            let answering =
                service_fn(|request| async { Ok::<_, Infallible>(answer(&shared, request).await) });
            let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), answering).await;
        });
    }
}
