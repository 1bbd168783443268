//! Through a socket: a hit, a request that goes to the upstream with its record, and a hundred equal ones
//! at once. Client, gateway and fake share this process and its cores, so compare runs, not machines.

use std::time::Duration;

use bytes::Bytes;
use criterion::{Criterion, criterion_group, criterion_main};
use exportgate::app::App;
use exportgate::clock::Clock;
use exportgate::config::{Config, Sources};
use exportgate::fake::{Fake, Settings, State};
use exportgate::shutdown::Shutdown;
use exportgate::transport::{self, HttpClient};
use http::Request;
use http_body_util::{BodyExt, Either, Full};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

async fn get(client: &HttpClient, uri: &str) -> Bytes {
    let request = Request::get(uri)
        .header("authorization", "token x")
        .body(Either::Left(Full::default()))
        .expect("a request");
    let answer = client.request(request).await.expect("an answer");
    answer.into_body().collect().await.expect("a body").to_bytes()
}

fn end_to_end(c: &mut Criterion) {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    let directory = tempfile::TempDir::new().expect("a directory");
    let shutdown = Shutdown::new();
    let (fake, root, running) = runtime.block_on(async {
        let fake = Fake::start(Settings::default()).await.expect("a fake");
        let ca = directory.path().join("ca.pem");
        std::fs::write(&ca, fake.ca_pem()).expect("a CA file");
        let journal = directory.path().join("journal.db").display().to_string();
        let flags = [
            ("listen", "127.0.0.1:0".to_owned()),
            ("upstream.url", fake.url()),
            ("upstream.ca_file", ca.display().to_string()),
            ("journal.path", journal),
            // What is measured is the work, not the wait for Snyk's limit.
            ("budget.per_second", "1000000".to_owned()),
            ("budget.per_minute", "1000000".to_owned()),
            ("budget.per_hour", "10000000".to_owned()),
        ];
        let flags = flags.into_iter().map(|(key, value)| (key, value, "bench")).collect();
        let (config, _) = Config::resolve(&Sources::isolated("token", flags)).expect("a configuration");
        let app = App::bind(config, Clock::system(), shutdown.clone()).await.expect("a gateway");
        let root = format!("http://{}", app.addresses()[0]);
        #[expect(clippy::disallowed_methods, reason = "it ends with the bench")]
        let running = tokio::spawn(app.run());
        (fake, root, running)
    });
    fake.put_export("orgs/o", "done", State::Finished);
    fake.put_export("orgs/o", "pending", State::Word("PENDING".into()));
    let client = transport::client(&"http://x".parse().expect("a URI"), None, Duration::from_secs(5))
        .expect("a client");
    let done = format!("{root}/orgs/o/export/done?version=2024-10-15");
    let pending = format!("{root}/orgs/o/export/pending?version=2024-10-15");
    let direct = transport::client(
        &fake.url().parse().expect("a URI"),
        Some(&directory.path().join("ca.pem")),
        Duration::from_secs(5),
    );
    let direct = direct.expect("a client");

    let mut group = c.benchmark_group("socket");
    group.measurement_time(Duration::from_secs(4)).sample_size(30);
    group.bench_function("hit", |b| b.to_async(&runtime).iter(|| get(&client, &done)));
    group.bench_function("pending, recorded", |b| b.to_async(&runtime).iter(|| get(&client, &pending)));
    let straight = format!("{}/rest/orgs/o/export/pending?version=2024-10-15", fake.url());
    group.bench_function("pending, straight to the fake", |b| {
        b.to_async(&runtime).iter(|| get(&direct, &straight));
    });
    group.bench_function("100 equal at once", |b| {
        b.to_async(&runtime)
            .iter(|| futures_util::future::join_all((0..100).map(|_| get(&client, &pending))));
    });
    group.finish();
    shutdown.begin();
    runtime.block_on(running).expect("the gateway ended well");
}

criterion_group!(benches, end_to_end);
criterion_main!(benches);
