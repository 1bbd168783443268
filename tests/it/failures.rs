//! The upstream, the journal and clients go wrong: each gets the right status, document and record.

use std::io::{Read as _, Write as _};
use std::time::{Duration, Instant};

use exportgate::fake::{Fake, Fault, Settings, State};
use http::Method;

use crate::support::{ORG, START, V, World, flag, results, scope};

fn impatient() -> crate::support::Flags {
    vec![
        flag("upstream.connect_timeout", "400ms"),
        flag("upstream.header_timeout", "400ms"),
        flag("upstream.request_timeout", "800ms"),
        flag("upstream.max_answer", "1MiB"),
        flag("cache.max_entry", "1MiB"),
        flag("retry.max", 0),
        flag("breaker.failures", 1_000),
        flag("breaker.sample", 1_000),
    ]
}

/// One GET; its status and code, which must also be what the journal and `Proxy-Status` say.
async fn fails(world: &World, name: &str) -> (u16, String) {
    let begun = Instant::now();
    let got = world.get(&results("e1")).await;
    // The limits are under a second; their defaults are a minute and more.
    assert!(begun.elapsed() < Duration::from_secs(30), "{name}");
    assert!(got.status.is_server_error(), "{name}: {got:?}");
    let code = got.code();
    assert_eq!(got.field("proxy-status"), format!("exportgate; error={code}"), "{name}");
    assert_eq!(got.cache(), "exportgate; fwd=uri-miss", "{name}");
    let record = world.records().into_iter().next().expect("a record");
    assert_eq!(record.error.as_deref(), Some(code.as_str()), "{name}");
    assert_eq!(record.request_id, got.field("exportgate-request-id"), "{name}");
    (got.status.as_u16(), code)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_answer_is_a_clean_error_with_a_record() {
    let world = World::with(Settings::default(), impatient()).await;
    world.fake.put_export(&scope(), "e1", State::Finished);
    for (fault, status, code) in [
        (Fault::Reset, 502, "connection_terminated"),
        (Fault::ResetMidBody, 502, "http_response_incomplete"),
        (Fault::Hang, 504, "http_response_timeout"),
        (Fault::HangMidBody, 504, "http_response_timeout"),
        (Fault::Oversize(10_000_000), 502, "http_response_body_size"),
    ] {
        let name = format!("{fault:?}");
        world.fake.fault(fault, Some(1));
        assert_eq!(fails(&world, &name).await, (status, code.to_owned()), "{name}");
    }
    // Where the head had come, its status and Snyk's id are on record.
    let cut: Vec<_> = world.records().into_iter().filter(|row| row.status == Some(200)).collect();
    assert_eq!(cut.len(), 3);
    assert!(cut.iter().all(|row| row.received_id.is_some()));
    assert!(world.get(&results("e1")).await.cache().ends_with("stored"));
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_http_is_a_clean_error_with_a_record() {
    // Raw bytes need HTTP/1.1, which a plain upstream speaks.
    let plain = Settings { tls: false, ..Settings::default() };
    let world = World::with(plain, impatient()).await;
    world.fake.put_export(&scope(), "e1", State::Finished);
    for (fault, status, code) in [
        (Fault::Garbage, 502, "http_protocol_error"),
        (Fault::BadChunk, 502, "http_response_incomplete"),
        (Fault::SwitchingProtocols, 502, "http_protocol_error"),
        (Fault::EndlessContinue, 504, "http_response_timeout"),
        (Fault::BigHeaders(100_000), 502, "http_response_header_section_size"),
        (Fault::Reset, 502, "connection_terminated"),
        (Fault::ResetMidBody, 502, "http_response_incomplete"),
    ] {
        let name = format!("{fault:?}");
        world.fake.fault(fault, Some(1));
        assert_eq!(fails(&world, &name).await, (status, code.to_owned()), "{name}");
    }
    assert!(world.get(&results("e1")).await.cache().ends_with("stored"));
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_that_is_not_there_is_told_apart() {
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let refused = format!("https://{}", closed.local_addr().unwrap());
    drop(closed);
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let hangs = format!("https://{}", silent.local_addr().unwrap());
    for (upstream, status, code) in [
        (refused.as_str(), 502, "connection_refused"),
        (hangs.as_str(), 504, "connection_timeout"),
        ("https://no-such-host.invalid", 502, "dns_error"),
    ] {
        let fake = Fake::start(Settings::default()).await.unwrap();
        let world = World::before(fake, upstream, impatient()).await;
        assert_eq!(fails(&world, upstream).await, (status, code.to_owned()), "{upstream}");
        world.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_certificate_gets_no_byte_of_a_request() {
    // Signed by nobody that we trust.
    let (fake, other) =
        (Fake::start(Settings::default()).await.unwrap(), Fake::start(Settings::default()).await.unwrap());
    let directory = tempfile::TempDir::new().unwrap();
    let ca = directory.path().join("other.pem");
    std::fs::write(&ca, other.ca_pem()).unwrap();
    let mut flags = impatient();
    flags.push(flag("upstream.ca_file", ca.display()));
    let url = fake.url();
    let world = World::before(fake, &url, flags).await;
    assert_eq!(fails(&world, "other CA").await, (502, "tls_certificate_error".to_owned()));
    assert_eq!(world.fake.hits().api(), 0);
    world.stop().await;
    // Over, or not begun.
    for years in [(2000, 2001), (2200, 2201)] {
        let settings = Settings { valid: Some(years), ..Settings::default() };
        let world = World::with(settings, impatient()).await;
        assert_eq!(fails(&world, "another time").await, (502, "tls_certificate_error".to_owned()));
        assert_eq!(world.fake.hits().api(), 0);
        world.stop().await;
    }
    // Made for another name.
    let elsewhere = Settings { listen: "127.0.0.2:0".parse().unwrap(), ..Settings::default() };
    let world = World::with(elsewhere, impatient()).await;
    assert_eq!(fails(&world, "other name").await, (502, "tls_certificate_error".to_owned()));
    assert_eq!(world.fake.hits().api(), 0);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_is_never_repeated() {
    let world = World::with(Settings::default(), impatient()).await;
    for fault in [Fault::Status(503), Fault::Hang, Fault::Reset] {
        world.fake.fault(fault, Some(1));
        let before = world.fake.hits().start;
        let got = world.send(Method::POST, &format!("/{}/export?{V}", scope()), &[], START).await;
        assert!(got.status.is_server_error());
        assert_eq!(world.fake.hits().start, before + 1);
    }
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_sent_is_recorded_although_its_client_left() {
    let world = std::sync::Arc::new(World::new().await);
    let gate = world.fake.hold();
    let asking = tokio::spawn({
        let world = std::sync::Arc::clone(&world);
        async move { world.send(Method::POST, &format!("/orgs/{ORG}/export?{V}"), &[], START).await }
    });
    world.fake.wait_for_hits(1).await;
    asking.abort();
    let _ = asking.await;
    drop(gate);
    let world = std::sync::Arc::into_inner(world).unwrap();
    let journal = world.journal();
    // A stop waits for what is in flight; the journal is whole after it.
    let directory = world.stop_keeping().await;
    let query = exportgate::journal::Query { limit: 10, ..Default::default() };
    let rows = exportgate::journal::find(&journal, &query).unwrap();
    assert_eq!((rows.len(), rows[0].status), (1, Some(202)));
    drop(directory);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_journal_that_cannot_be_written_stops_answers_only_where_it_should() {
    for (mode, status, hits) in [("serve", 404, 2), ("refuse", 503, 0)] {
        let directory = tempfile::TempDir::new().unwrap();
        // A directory stands where the file should be.
        let flags = vec![flag("journal.path", directory.path().display()), flag("journal.on_failure", mode)];
        let world = World::with(Settings::default(), flags).await;
        // In `refuse`, the first may find a journal that has not failed yet; no answer leaves all the same.
        assert_eq!(world.get(&results("e1")).await.status, status, "{mode}");
        assert_eq!(world.get(&results("e1")).await.status, status, "{mode}");
        assert!(world.fake.hits().api() <= hits.max(1), "{mode}");
        world.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_have_limits_of_size_and_time() {
    let flags = vec![flag("listener.max_body", "1KiB"), flag("listener.body_timeout", "300ms")];
    let world = World::with(Settings::default(), flags).await;
    let start = format!("/orgs/{ORG}/export?{V}");
    let large = world.send(Method::POST, &start, &[], &"x".repeat(1_025)).await;
    assert_eq!((large.status.as_u16(), large.code().as_str()), (413, "body_too_large"));
    let long = world.get(&format!("/orgs/{ORG}/export/e1?x={}", "y".repeat(9_000))).await;
    assert_eq!((long.status.as_u16(), long.code().as_str()), (414, "target_too_long"));
    // A body that is announced and never comes.
    let mut stream = std::net::TcpStream::connect(world.root.trim_start_matches("http://")).unwrap();
    write!(stream, "POST {start} HTTP/1.1\r\nhost: localhost\r\ncontent-length: 5\r\n\r\nab").unwrap();
    let mut answer = String::new();
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let _ = stream.read_to_string(&mut answer);
    assert!(answer.starts_with("HTTP/1.1 408"), "{answer}");
    assert_eq!(world.fake.hits().api(), 0);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_in_flight_when_the_drain_is_over_is_recorded() {
    let world = World::with(Settings::default(), vec![flag("shutdown.drain", "200ms")]).await;
    world.fake.fault(Fault::Hang, None);
    let journal = world.journal();
    let start = format!("/orgs/{ORG}/export?{V}");
    let asked = world.send(Method::POST, &start, &[], START);
    let stopping = async {
        world.fake.wait_for_hits(1).await;
        world.begin_stop();
    };
    let (answer, ()) = tokio::join!(asked, stopping);
    // The client is told; above all, the start is on record.
    assert_eq!((answer.status.as_u16(), answer.code().as_str()), (503, "gateway_stopped"));
    let directory = world.stop_keeping().await;
    let query = exportgate::journal::Query { limit: 10, ..Default::default() };
    let rows = exportgate::journal::find(&journal, &query).unwrap();
    assert_eq!((rows.len(), rows[0].error.as_deref()), (1, Some("gateway_stopped")));
    assert_eq!(rows[0].version_requested.as_deref(), Some("2024-10-15"));
    drop(directory);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_link_beyond_all_time_is_an_uncertain_one_and_no_fault_of_ours() {
    let world = World::new().await;
    for (export, query) in [
        ("ms", "Expires=1795000000000"),
        ("long", "X-Goog-Date=20260101T000000Z&X-Goog-Expires=999999999999&X-Goog-Signature=ab"),
    ] {
        let document = format!(
            r#"{{"data":{{"attributes":{{"status":"FINISHED","results":[{{"url":"https://files.test/x?{query}"}}]}}}}}}"#
        );
        let headers = vec![("content-type".to_owned(), "application/json".to_owned())];
        world.fake.put_export(&scope(), export, State::Raw { status: 200, headers, body: document.into() });
        for hit in [false, true] {
            let got = world.get(&results(export)).await;
            assert_eq!((got.status.as_u16(), got.is_hit()), (200, hit), "{export}");
            assert!(got.field("exportgate-links-expire").is_empty(), "{export}");
        }
    }
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_upstream_says_of_itself_is_written_down_only_where_it_is_plain() {
    let world = World::new().await;
    let link = "https://files.test/x?X-Goog-Signature=5161a7e0f";
    crate::support::keep_secret(["5161a7e0f".to_owned()]);
    for name in ["snyk-request-id", "snyk-version-served", "sunset", "deprecation"] {
        world.fake.fault(Fault::ExtraHeader(name.into(), link.into()), Some(1));
        world.get(&results("e1")).await;
    }
    let document = format!(r#"{{"data":{{"attributes":{{"status":"{link}"}}}}}}"#);
    let headers = vec![("content-type".to_owned(), "application/json".to_owned())];
    world.fake.put_export(&scope(), "odd", State::Raw { status: 200, headers, body: document.into() });
    world.get(&results("odd")).await;
    let told = format!("{:?}", world.records());
    assert!(!told.contains("files.test"), "{told}");
    assert_eq!(told.matches("(unreadable)").count(), 3, "{told}");
    world.stop().await;
}
