//! Does one pure part of the path again and again, so that callgrind can count what one time takes.
//!
//! `benches/instructions/run.sh` starts it; `cargo bench` leaves it out.
//!
//!     instructions PART TIMES
//!
//! PART is `route`, `key`, `document-1`, `document-4`, `document-100` (links), `freshness` or `entry`: a stored response found,
//! judged, and its fields copied for the answer.

mod parts;

use std::hint::black_box;
use std::sync::Arc;

use bytes::Bytes;
use exportgate::cache::{self, Cache, CacheKey, Directives};
use exportgate::clock::Clock;
use exportgate::export::Document;
use exportgate::route::recognise;
use http::{HeaderMap, Method};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn repeat<T>(times: u64, mut part: impl FnMut() -> T) {
    for _ in 0..times {
        black_box(part());
    }
}

fn document(times: u64, links: usize) {
    let body = parts::document(links);
    repeat(times, || Document::of(black_box(&body)));
}

fn freshness(times: u64) {
    let (body, fields, settings) = (parts::document(4), parts::fields(), parts::settings(1 << 20));
    let document = Document::of(&body);
    let answer = parts::answer(&fields, &body, document.as_ref(), Clock::system().now());
    repeat(times, || cache::assess(black_box(&answer), &settings));
}

fn entry(times: u64) {
    let (call, settings, now) = (parts::call(), parts::settings(1 << 20), Clock::system().now());
    let key = CacheKey::text(parts::UPSTREAM, parts::CREDENTIAL, &call, &HeaderMap::new());
    let cache = Cache::new(&settings);
    let entry = parts::entry(Bytes::from(parts::document(4)), &settings, now);
    cache.store(&CacheKey::from(key.clone()), Arc::new(entry), cache.purges());
    let directives = Directives::of_request(&HeaderMap::new());
    repeat(times, || {
        let entry = cache.find(black_box(&key)).expect("it is stored");
        assert!(entry.is_fresh(now) && entry.satisfies(&directives, now), "it is of use");
        (entry.fields.clone(), entry.body.clone(), entry.age(now), entry.ttl(now))
    });
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [part, times] = arguments.as_slice() else { panic!("instructions PART TIMES") };
    let times = times.parse().expect("a number");
    match part.as_str() {
        "route" => {
            let uri = parts::uri();
            repeat(times, || recognise(&Method::GET, black_box(&uri), false));
        }
        "key" => {
            let (call, fields) = (parts::call(), HeaderMap::new());
            repeat(times, || CacheKey::text(parts::UPSTREAM, parts::CREDENTIAL, black_box(&call), &fields));
        }
        "document-1" => document(times, 1),
        "document-4" => document(times, 4),
        "document-100" => document(times, 100),
        "freshness" => freshness(times),
        "entry" => entry(times),
        other => panic!("no such part: {other}"),
    }
}
