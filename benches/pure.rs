//! The pure parts of the path: recognising a request, its cache key, reading a document and deciding
//! its freshness.

mod parts;

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use exportgate::cache::{self, CacheKey};
use exportgate::clock::Clock;
use exportgate::export::Document;
use exportgate::route::recognise;
use http::{HeaderMap, Method};

fn pure(c: &mut Criterion) {
    let uri = parts::uri();
    c.bench_function("route", |b| b.iter(|| recognise(&Method::GET, black_box(&uri), false)));

    let call = parts::call();
    let fields = HeaderMap::new();
    c.bench_function("key", |b| {
        b.iter(|| CacheKey::text(parts::UPSTREAM, parts::CREDENTIAL, black_box(&call), &fields));
    });

    let settings = parts::settings(1 << 20);
    let fields = parts::fields();
    let now = Clock::system().now();
    for links in [1, 4, 100] {
        let body = parts::document(links);
        c.bench_function(&format!("document, {links} links, {} bytes", body.len()), |b| {
            b.iter(|| Document::of(black_box(&body)));
        });
        let document = Document::of(&body);
        let answer = parts::answer(&fields, &body, document.as_ref(), now);
        c.bench_function(&format!("freshness, {links} links"), |b| {
            b.iter(|| cache::assess(black_box(&answer), &settings));
        });
    }
}

criterion_group!(benches, pure);
criterion_main!(benches);
