//! What grows: a cache of so many entries, a journal of so many records, a file of so many clients. Prints one line of
//! JSON.
//!
//! `benches/growth/run.sh` starts it; `cargo bench` leaves it out.
//!
//!     growth entries COUNT SECONDS     memory of an entry, and what looking one up takes; SECONDS may be 0
//!     growth entries COUNT xTIMES      looks up so often, in `looking_up`, where callgrind counts
//!     growth journal PATH COUNT        writes so many records to it, the last a moment ago
//!     growth commits PATH COUNT        so many more, one at a time
//!     growth clients DIRECTORY COUNT   clients.toml, and keys with a key in each line

#![expect(
    clippy::print_stdout,
    clippy::cast_precision_loss,
    reason = "a program of its own: its output is its result, and its numbers are small"
)]

mod parts;

use std::fmt::Write as _;
use std::hint::black_box;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use exportgate::access::key;
use exportgate::cache::{Cache, CacheKey, Directives};
use exportgate::clock::{Clock, Now};
use exportgate::journal::{Attempt, Durability, Journal, OnFailure, Served, Settings};
use exportgate::route::{Route, recognise};
use futures_util::future::join_all;
use http::{HeaderMap, Method};
use uuid::Uuid;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Small, so that a million fit: a body costs what it is long, and nothing else.
const BODY: usize = 256;
/// Records that are written together: one group of the writer.
const TOGETHER: usize = 256;

/// Resident bytes, and seconds of processor time, of this process.
fn used() -> (u64, f64) {
    let stat = procfs::process::Process::myself().and_then(|process| process.stat()).expect("/proc");
    let seconds = (stat.utime + stat.stime) as f64 / procfs::ticks_per_second() as f64;
    (stat.rss * procfs::page_size(), seconds)
}

fn text(number: u64) -> String {
    let target = format!("/orgs/bench/export/00000000-0000-4000-8000-{number:012}?version=2024-10-15");
    let uri = target.parse().expect("a URI");
    let Ok(Route::Export(call)) = recognise(&Method::GET, &uri, false) else {
        unreachable!("an export call")
    };
    CacheKey::text(parts::UPSTREAM, parts::CREDENTIAL, &call, &HeaderMap::new())
}

/// Finds, judges and copies the entries under `keys`, as a hit does, and keeps what is found so that the next one is
/// not what this one left in the processor's caches.
#[inline(never)]
fn looking_up(cache: &Cache, keys: &[String], times: u64, (now, first): (Now, u64)) {
    let directives = Directives::of_request(&HeaderMap::new());
    for time in 0..times {
        // A prime step visits them all, in no order that memory knows.
        let at = ((first + time) * 7_919) as usize % keys.len();
        let entry = cache.find(&keys[at]).expect("it is stored");
        assert!(entry.is_fresh(now) && entry.satisfies(&directives, now), "it is of use");
        black_box((entry.fields.clone(), entry.body.clone(), entry.age(now), entry.ttl(now)));
    }
}

fn entries(count: u64, lookups: &str) {
    let settings = parts::settings(16 << 30);
    let now = Clock::system().now();
    let cache = Cache::new(&settings);
    // What the first one takes besides itself is no part of each.
    let fill = |number: u64| {
        let entry = parts::entry(Bytes::from(vec![b' '; BODY]), &settings, now);
        cache.store(&CacheKey::from(text(number)), Arc::new(entry), cache.purges());
    };
    fill(count);
    let _ = cache.size();
    let head: usize = {
        let entry = cache.find(&text(count)).expect("it is stored");
        entry.fields.iter().map(|(name, value)| name.as_str().len() + value.len()).sum()
    };
    let (before, began) = used();
    for number in 0..count {
        fill(number);
        // Here nothing else gives moka the time to put things in order.
        if number % 1_024 == 0 {
            let _ = cache.size();
        }
    }
    let (stored, weight) = cache.size();
    assert_eq!(stored, count + 1, "all are stored");
    let (after, filled) = used();
    let keys: Vec<String> = (0..count).map(text).collect();
    let mut lookup_us = 0.0;
    if let Some(times) = lookups.strip_prefix('x') {
        looking_up(&cache, &keys, times.parse().expect("a number"), (now, 0));
    } else {
        let seconds: f64 = lookups.parse().expect("seconds");
        looking_up(&cache, &keys, count.min(100_000), (now, 0));
        let ((_, before), begun, mut times) = (used(), Instant::now(), 0);
        while begun.elapsed().as_secs_f64() < seconds {
            looking_up(&cache, &keys, 10_000, (now, times));
            times += 10_000;
        }
        lookup_us = (used().1 - before) / times.max(1) as f64 * 1e6;
    }
    println!(
        r#"{{"entries":{count},"rss_per_entry":{:.1},"body":{BODY},"head":{head},"key":{},"weight":{:.1},"store_us":{:.2},"lookup_us":{lookup_us:.4}}}"#,
        after.saturating_sub(before) as f64 / count as f64,
        text(0).len(),
        weight as f64 / (count + 1) as f64,
        (filled - began) / count as f64 * 1e6,
    );
}

/// A journal that forgets nothing.
fn journal(path: &Path) -> Journal {
    let settings = Settings {
        path: path.to_owned(),
        durability: Durability::Process,
        on_failure: OnFailure::Refuse,
        max_wait: Duration::from_secs(30),
        max_pending: 10_000,
        ship: None,
        max_age: Duration::from_hours(24 * 3_650),
        max_rows: 1_000_000_000,
    };
    Journal::open(settings, Clock::system())
}

/// The record `number` of `count`: of 50 orgs, 20 clients, an export that is asked for ten times, and one failure in a
/// hundred. They are a second apart, the last of them now.
fn record(number: u64, count: u64, now: Now) -> (Attempt, Vec<Served>) {
    let started = now.wall - Duration::from_secs(count - number);
    let mut attempt = Attempt::new(started, parts::UPSTREAM.into(), parts::CREDENTIAL.into());
    attempt.latency = Duration::from_micros(20_000 + number % 1_000);
    attempt.client = format!("client-{:04}", number % 20).into();
    attempt.request = Uuid::new_v4();
    attempt.scope_kind = Some("org");
    attempt.scope_id = Some(format!("0a0a0a{:02x}-0000-4000-8000-000000000000", number % 50));
    attempt.export_id = Some(format!("{:08x}-0000-4000-8000-{:012}", number / 10, number / 10));
    attempt.operation = if number % 10 == 9 { "results" } else { "job-status" };
    if number % 100 == 99 {
        attempt.error = Some("connection_refused");
    } else {
        attempt.received_id = Some(attempt.sent_id.to_string());
        attempt.status = Some(if number % 100 == 98 { 503 } else { 200 });
        attempt.export_status = Some(if number % 10 == 9 { "FINISHED" } else { "PENDING" }.to_owned());
        attempt.bytes = Some(256);
        attempt.version_requested = Some("2024-10-15".to_owned());
        attempt.version_served = Some("2024-10-15".to_owned());
        attempt.lifecycle = Some("ga".to_owned());
    }
    let served = vec![Served { request: attempt.request, client: Arc::clone(&attempt.client) }];
    (attempt, served)
}

/// One of each kind of id that can be looked for, of a record in the middle.
async fn write_journal(path: &Path, count: u64) {
    let (journal, now, begun) = (journal(path), Clock::system().now(), Instant::now());
    let mut middle = String::new();
    let numbers: Vec<u64> = (0..count).collect();
    for group in numbers.chunks(TOGETHER) {
        let records = group.iter().map(|&number| {
            let (attempt, served) = record(number, count, now);
            if number == count / 2 {
                middle = format!(
                    r#""id":"{}","export":"{}","org":"{}","client":"{}""#,
                    attempt.sent_id,
                    attempt.export_id.as_deref().unwrap_or_default(),
                    attempt.scope_id.as_deref().unwrap_or_default(),
                    attempt.client
                );
            }
            journal.record(attempt, served)
        });
        for done in join_all(records).await {
            done.expect("it is recorded");
        }
    }
    journal.close().await;
    println!(r#"{{"records":{count},"seconds":{:.2},{middle}}}"#, begun.elapsed().as_secs_f64());
}

async fn commits(path: &Path, count: u64) {
    let (journal, now) = (journal(path), Clock::system().now());
    let write = async |number| {
        let (attempt, served) = record(number, count, now);
        journal.record(attempt, served).await.expect("it is recorded");
    };
    write(0).await;
    let (_, before) = used();
    let mut times = Vec::new();
    for number in 0..count {
        let begun = Instant::now();
        write(number).await;
        times.push(begun.elapsed());
    }
    let cpu = (used().1 - before) / count as f64 * 1e6;
    times.sort_unstable();
    let at = |share: f64| times[(times.len() as f64 * share) as usize].as_secs_f64() * 1e6;
    println!(r#"{{"commit_cpu_us":{cpu:.1},"p50_us":{:.1},"p99_us":{:.1}}}"#, at(0.5), at(0.99));
    journal.close().await;
}

fn clients(directory: &Path, count: u64) {
    let (mut clients, mut keys) = (String::new(), String::new());
    for number in 0..count {
        let key = key::generate().expect("random bytes");
        let _ = writeln!(
            clients,
            "[clients.client-{number:04}]\nkeys = [\"sha256:{}\"]\norgs = [\"bench\", \"org-{number}\"]\noperations = [\"read\", \"start\"]\n",
            key::Digest::of(&key).to_hex()
        );
        keys.push_str(&key);
        keys.push('\n');
    }
    std::fs::write(directory.join("clients.toml"), clients).expect("a file");
    std::fs::write(directory.join("keys"), keys).expect("a file");
    println!(r#"{{"clients":{count}}}"#);
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let count = |text: &str| text.parse::<u64>().expect("a number");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    match arguments.as_slice() {
        ["entries", number, lookups] => entries(count(number), lookups),
        ["journal", path, number] => runtime.block_on(write_journal(Path::new(path), count(number))),
        ["commits", path, number] => runtime.block_on(commits(Path::new(path), count(number))),
        ["clients", directory, number] => clients(Path::new(directory), count(number)),
        _ => panic!("growth entries|journal|commits|clients; its first lines say what follows each"),
    }
}
