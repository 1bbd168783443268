//! The pure parts of the path: recognising a request, its cache key, peeking at a document and deciding
//! its freshness.

use std::hint::black_box;
use std::time::Duration;

use criterion::{Criterion, criterion_group, criterion_main};
use exportgate::cache::{self, Answer, Key, Peek};
use exportgate::clock::Clock;
use exportgate::route::{Route, recognise};
use http::header::{CONTENT_TYPE, DATE};
use http::{HeaderMap, HeaderValue, Method, StatusCode, Uri};

const TARGET: &str = "/orgs/825e79b7-0073-44c3-a5ea-e0aa8a3dbf38/export/4d593250-aaf3-48ec-9bf0-93597b7a1ce2?version=2024-10-15";

/// A finished export of `parts` files, signed as Google Cloud Storage does.
fn document(parts: usize) -> Vec<u8> {
    let link = format!(
        "https://storage.example/export/data_1_1_0.csv?X-Goog-Algorithm=GOOG4-RSA-SHA256&X-Goog-Credential=a%40b%2Fgoog4_request&X-Goog-Date=20991231T235959Z&X-Goog-Expires=3600&X-Goog-SignedHeaders=host&X-Goog-Signature={}",
        "0123456789abcdef".repeat(32)
    );
    let results: Vec<_> =
        (0..parts).map(|_| serde_json::json!({"url": link, "file_size": 1_328, "row_count": 3})).collect();
    serde_json::json!({"data": {"attributes": {"status": "FINISHED", "results": results}}})
        .to_string()
        .into_bytes()
}

fn pure(c: &mut Criterion) {
    let uri: Uri = TARGET.parse().expect("a URI");
    c.bench_function("route", |b| b.iter(|| recognise(&Method::GET, black_box(&uri), false)));

    let Ok(Route::Export(call)) = recognise(&Method::GET, &uri, false) else {
        unreachable!("an export call")
    };
    let fields = HeaderMap::new();
    c.bench_function("key", |b| {
        b.iter(|| Key::new("https://api.snyk.io", "default", black_box(&call), &[], &fields));
    });

    let settings = cache::Settings {
        max_bytes: 1 << 20,
        max_entry: 1 << 20,
        link_margin: Duration::from_mins(15),
        max_age: Duration::from_mins(55),
        default_age: Duration::from_mins(10),
        refresh_ahead: true,
        max_followers: 1,
    };
    let mut fields = HeaderMap::new();
    fields.insert(CONTENT_TYPE, HeaderValue::from_static("application/vnd.api+json"));
    fields.insert(DATE, HeaderValue::from_static("Mon, 23 Nov 2026 19:00:00 GMT"));
    let now = Clock::system().now();
    for parts in [1, 4, 100] {
        let body = document(parts);
        c.bench_function(&format!("peek, {parts} links, {} bytes", body.len()), |b| {
            b.iter(|| Peek::of(black_box(&body)));
        });
        let peek = Peek::of(&body);
        let answer = Answer {
            status: StatusCode::OK,
            fields: &fields,
            body_len: body.len(),
            peek: peek.as_ref(),
            sent: now,
            received: now,
        };
        c.bench_function(&format!("freshness, {parts} links"), |b| {
            b.iter(|| cache::assess(black_box(&answer), &settings));
        });
    }
}

criterion_group!(benches, pure);
criterion_main!(benches);
