//! Files through the gateway: what the store and Snyk are asked, what comes out, and that nothing that is not whole looks so.

use std::error::Error as _;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use exportgate::fake::{
    Fake, HashField, Lie, LinkForm, PartSource, Script, Settings, State, Stated, StoreFault, StoreScript,
    TagField,
};
use exportgate::listener::Address;
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt as _, Empty};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::support::{Flags, Got, ORG, V, World, flag, results, scope};

const MB: u64 = 1_000_000;
/// The table of a1, a2 and a3.
const TABLE: &str = "3c69641e1bfba3b9c31f0e938c3e24304ac5a791affe3b121fd1e5abf2daf237";

/// The SHA-256 of `data`, as text.
fn sha256(data: &[u8]) -> String {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, data);
    digest.as_ref().iter().fold(String::new(), |text, byte| format!("{text}{byte:02x}"))
}

fn part(number: u32) -> String {
    format!("/rest/orgs/{ORG}/export/e1/files/{number}.csv?{V}")
}

fn table() -> String {
    format!("/rest/orgs/{ORG}/export/e1/table.csv?{V}")
}

fn samples(names: &[&str]) -> StoreScript {
    StoreScript { parts: PartSource::samples(names), ..StoreScript::default() }
}

fn made(size: u64) -> StoreScript {
    StoreScript { parts: vec![PartSource::made(size, 1)], ..StoreScript::default() }
}

async fn world(store: StoreScript) -> World {
    let script = Script { store, ..Script::default() };
    with(script, vec![]).await
}

async fn with(script: Script, flags: Flags) -> World {
    // Without TLS: each request to a store has a connection of its own.
    let fake = Fake::start(Settings { tls: false, script, ..Settings::default() }).await.unwrap();
    let upstream = fake.url();
    let world = World::before(fake, &upstream, flags).await;
    world.fake.put_export(&scope(), "e1", State::Finished);
    world
}

/// Bytes of an answer, read to the end of its connection.
struct Raw {
    status: u16,
    length: Option<u64>,
    body: Vec<u8>,
}

impl Raw {
    /// True if no client can take it for whole.
    fn is_cut(&self) -> bool {
        self.length.is_some_and(|length| (self.body.len() as u64) < length)
    }
}

async fn raw(address: SocketAddr, target: &str) -> Raw {
    let request = format!("GET {target} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
    answer_to(address, &request).await.expect("a head")
}

/// `None` if the connection ended before an answer.
async fn answer_to(address: SocketAddr, request: &str) -> Option<Raw> {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut all = Vec::new();
    // However it ends.
    let _ = stream.read_to_end(&mut all).await;
    let end = all.windows(4).position(|four| four == b"\r\n\r\n")? + 4;
    let body = all.split_off(end);
    let head = String::from_utf8(all).unwrap();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok());
    Some(Raw { status: head[9..12].parse().unwrap(), length, body })
}

fn address(world: &World) -> SocketAddr {
    match &world.addresses[0] {
        Address::Tcp(address) => *address,
        Address::Tls(_) | Address::Unix(_) | Address::Systemd => panic!("no plain TCP"),
    }
}

/// The ranges that the store answered with bytes.
fn ranges(fake: &Fake) -> Vec<String> {
    let answered = fake.store_requests().into_iter().filter(|request| matches!(request.status, 200 | 206));
    answered.map(|request| request.range().unwrap_or("whole").to_owned()).collect()
}

fn asked(world: &World) -> (u64, usize) {
    (world.fake.hits().results, world.fake.store_requests().len())
}

fn assert_whole(got: &Got, expected: &Bytes) {
    assert_eq!(got.status, StatusCode::OK);
    assert_eq!(got.field("content-length"), expected.len().to_string());
    assert!(got.body == expected, "{} bytes differ", got.body.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_whole_part_costs_one_read_and_one_request() {
    let world = world(made(4 * MB)).await;
    let file = PartSource::made(4 * MB, 1);
    let got = world.get(&part(1)).await;
    assert_whole(&got, &file.to_bytes());
    assert_eq!((asked(&world), ranges(&world.fake)), ((1, 1), vec!["whole".to_owned()]));
    assert_eq!(got.field("exportgate-rows"), file.rows().to_string());
    assert!(got.field("repr-digest").starts_with("crc32c=:"));
    assert!(!got.field("snyk-request-id").is_empty());
    // The next one is a hit.
    assert_whole(&world.get(&part(1)).await, &file.to_bytes());
    assert_eq!(asked(&world), (1, 2));
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn fifty_downloads_at_dying_links_read_the_results_anew_once() {
    let world = world(made(300_000)).await;
    assert_eq!(world.get(&results("e1")).await.status, 200);
    world.clock.step_wall(3_570);
    world.fake.step_clock(3_570);
    let (file, target) = (PartSource::made(300_000, 1).to_bytes(), part(1));
    let all = futures_util::future::join_all((0..50).map(|_| world.get(&target))).await;
    for got in &all {
        assert_whole(got, &file);
    }
    assert_eq!(asked(&world), (2, 50));
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn links_live_a_minute_more_than_they_may_leave() {
    let world = world(made(1_000)).await;
    assert_eq!(world.get(&results("e1")).await.status, 200);
    // Past the freshness: whoever takes links away gets new ones, and files use the old ones.
    world.clock.step_wall(3_500);
    world.fake.step_clock(3_500);
    assert_eq!(world.get(&part(1)).await.status, 200);
    assert_eq!(world.fake.hits().results, 1);
    assert!(!world.get(&results("e1")).await.is_hit());
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_link_is_renewed_once_for_everybody() {
    for link_form in [LinkForm::GcsV4, LinkForm::S3V4, LinkForm::R2] {
        let store = made(100_000);
        let world = with(Script { store, link_form, ..Script::default() }, vec![]).await;
        world.fake.store_fault(StoreFault::Expired, Some(1));
        let file = PartSource::made(100_000, 1).to_bytes();
        assert_whole(&world.get(&part(1)).await, &file);
        assert_eq!(asked(&world), (2, 2), "{link_form:?}");

        world.fake.store_fault(StoreFault::Expired, Some(50));
        let held = world.fake.hold_store();
        let all = async {
            let target = part(1);
            futures_util::future::join_all((0..50).map(|_| world.get(&target))).await
        };
        let letting = async {
            world.fake.wait_for_store(|load| load.running == 50).await;
            drop(held);
        };
        let (all, ()) = tokio::join!(all, letting);
        for got in &all {
            assert_whole(got, &file);
        }
        assert_eq!(asked(&world), (3, 102), "{link_form:?}");
        world.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_link_that_is_always_refused_costs_two_reads_and_two_requests() {
    let world = world(made(1_000)).await;
    world.fake.store_fault(StoreFault::Expired, None);
    let got = world.get(&part(1)).await;
    assert_eq!((got.status.as_u16(), got.code().as_str()), (502, "store_refused"));
    assert_eq!(asked(&world), (2, 2));
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_breaks_off_is_resumed_with_new_links_under_one_length() {
    let world = world(made(3 * MB)).await;
    world.fake.store_fault(StoreFault::Cut(MB), Some(1));
    world.fake.store_fault(StoreFault::Expire(MB - 1), Some(1));
    world.fake.store_fault(StoreFault::Cut(2 * MB), Some(1));
    let got = world.get(&part(1)).await;
    assert_whole(&got, &PartSource::made(3 * MB, 1).to_bytes());
    assert_eq!(ranges(&world.fake), ["whole", "bytes=1000000-", "bytes=2000000-"]);
    assert_eq!(world.fake.hits().results, 2);
    let resumes = world.fake.store_requests().into_iter().filter(|request| request.range().is_some());
    resumes.for_each(|request| assert!(request.if_match().is_some_and(|tag| tag.starts_with('"'))));
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_order_of_parts_after_a_break_mixes_nothing() {
    let parts = vec![PartSource::made(MB, 1), PartSource::made(MB, 900_000)];
    let world = world(StoreScript { parts: parts.clone(), ..StoreScript::default() }).await;
    assert_eq!(world.get(&results("e1")).await.status, 200);
    world.fake.script(|script| script.store.lies.push(Lie::Order(vec![2, 1])));
    world.fake.store_fault_at(1, StoreFault::Cut(500_000), Some(1));
    world.fake.store_fault_at(1, StoreFault::Expire(400_000), Some(1));
    assert_whole(&world.get(&part(1)).await, &parts[0].to_bytes());
    assert_eq!(world.fake.hits().results, 2);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_proven_never_looks_whole() {
    let size = 3 * MB;
    let s3 = |store| Script { store, link_form: LinkForm::S3V4, ..Script::default() };
    let wrong = |lie| StoreScript { lies: vec![lie], ..made(size) };
    let more = |stated| Lie::FileSize { part: None, stated };
    for (name, script, fault) in [
        ("changed", Script { store: made(size), ..Script::default() }, Some(StoreFault::Change(MB))),
        ("flipped", Script { store: made(size), ..Script::default() }, Some(StoreFault::Flip(7))),
        (
            "hash",
            Script { store: StoreScript { hash: HashField::Wrong, ..made(size) }, ..Script::default() },
            None,
        ),
        ("file_size", s3(wrong(more(Stated::More(1)))), None),
    ] {
        let world = with(script, vec![]).await;
        if let Some(fault) = fault {
            world.fake.store_fault(fault, None);
        }
        let got = raw(address(&world), &part(1)).await;
        assert_eq!(got.status, 200, "{name}");
        assert!(got.is_cut(), "{name}: {} of {:?}", got.body.len(), got.length);
        assert!(!world.fake.store_requests().is_empty(), "{name}");
        world.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_fails_before_its_first_byte_has_left_is_answered_by_its_reason() {
    let wrong = |size| StoreScript { hash: HashField::Wrong, ..made(size) };
    for (store, fault, code) in [
        (wrong(1_000), None, "not_proven"),
        (wrong(64 * 1024), None, "not_proven"),
        (samples(&["i1"]), None, "not_proven"),
        (made(MB), Some(StoreFault::Cut(50_000)), "store_unreachable"),
    ] {
        let world = world(store).await;
        if let Some(fault) = fault {
            world.fake.store_fault(fault, None);
        }
        let got = world.get(&part(1)).await;
        assert_eq!((got.status.as_u16(), got.code().as_str()), (502, code));
        assert!(!got.field("snyk-request-id").is_empty());
        world.stop().await;
    }
    // A table begins with its first part.
    let world = world(StoreScript { hash: HashField::Wrong, ..samples(&["a1", "a2"]) }).await;
    assert_eq!(world.get(&table()).await.code(), "not_proven");
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_remembered_of_an_export_goes_with_its_purge() {
    let world = world(samples(&["a1", "a2", "a3"])).await;
    world.fake.put_export(&scope(), "e2", State::Finished);
    let other = table().replace("e1", "e2");
    let look = async |target: &str| world.send(Method::HEAD, target, &[], "").await.status;
    for target in [&table(), &other, &table(), &other] {
        assert_eq!(look(target).await, 200);
    }
    assert_eq!(asked(&world), (2, 6));
    let purge = format!("{}/api/exports/{ORG}/e1", world.admin);
    assert_eq!(world.send(Method::DELETE, &purge, &[], "").await.status, 200);
    assert_eq!((look(&other).await, asked(&world)), (StatusCode::OK, (2, 6)));
    assert_eq!((look(&table()).await, asked(&world)), (StatusCode::OK, (3, 9)));
    let purge = format!("{}/api/exports", world.admin);
    assert_eq!(world.send(Method::DELETE, &purge, &[], "").await.status, 200);
    assert_eq!((look(&other).await, asked(&world)), (StatusCode::OK, (4, 12)));
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn snyks_numbers_are_doubted_where_the_hash_holds() {
    let lies = vec![
        Lie::RowCount { part: None, stated: Stated::More(1) },
        Lie::FileSize { part: None, stated: Stated::More(1) },
    ];
    let world = world(StoreScript { lies, ..made(100_000) }).await;
    assert_whole(&world.get(&part(1)).await, &PartSource::made(100_000, 1).to_bytes());
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_has_as_many_rows_as_snyk_announced_or_a_stronger_proof() {
    let world = world(samples(&["a1", "a2", "a3"])).await;
    let index = world.get(&part(1).replace("/1.csv", "")).await.json();
    assert_eq!(index["row_count"], 5);
    world.fake.script(|script| script.store.lies.push(Lie::TotalRows(Stated::More(1))));
    world.fake.put_export(&scope(), "e2", State::Finished);
    assert_eq!(sha256(&world.get(&table().replace("e1", "e2")).await.body), TABLE, "the hash holds");
    world.stop().await;
    // Two large parts that nothing but their lengths proves.
    let lies = [Lie::FileSize { part: None, stated: Stated::Absent }, Lie::TotalRows(Stated::More(1))];
    let store =
        StoreScript { parts: PartSource::made_table(2, MB), lies: lies.into(), ..StoreScript::default() };
    let world = with(Script { store, link_form: LinkForm::S3V4, ..Script::default() }, vec![]).await;
    let got = raw(address(&world), &table()).await;
    assert!(got.status == 200 && got.is_cut(), "{} of {:?}", got.body.len(), got.length);
    assert_eq!(world.get(&part(2)).await.status, 200, "its parts are as whole as ever");
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_part_that_brings_no_byte_to_a_table_is_proven_too() {
    // An empty part, and one that is its header alone.
    for (names, empty) in [(["a1", "h1"], 2), (["h1", "a1"], 1), (["a1", "b1"], 2), (["h1", "h1"], 2)] {
        let lies = vec![Lie::FileSize { part: Some(empty), stated: Stated::More(9_000_000) }];
        let store = StoreScript { lies, ..samples(&names) };
        let world = with(Script { store, link_form: LinkForm::S3V4, ..Script::default() }, vec![]).await;
        for target in [&part(empty), &table()] {
            let got = world.get(target).await;
            assert_eq!((got.status.as_u16(), got.code().as_str()), (502, "not_proven"), "{names:?} {target}");
        }
        world.fake.script(|script| script.store.lies.clear());
        world.fake.put_export(&scope(), "e2", State::Finished);
        assert_eq!(world.get(&table().replace("e1", "e2")).await.status, 200, "{names:?}");
        world.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_answers_200_each_time_makes_no_loop() {
    let world = world(made(2 * MB)).await;
    world.fake.store_fault(StoreFault::IgnoreRange, None);
    world.fake.store_fault(StoreFault::Cut(MB), Some(1));
    assert_whole(&world.get(&part(1)).await, &PartSource::made(2 * MB, 1).to_bytes());
    assert_eq!(world.fake.store_requests().len(), 2);
    world.fake.store_fault(StoreFault::Cut(MB), None);
    assert!(raw(address(&world), &part(1)).await.is_cut());
    assert_eq!(world.fake.store_requests().len(), 6);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_part_that_the_store_decodes_has_no_length_and_no_ranges() {
    let world = world(samples(&["a1", "a2"])).await;
    world.fake.store_fault(StoreFault::Transcode, None);
    let [a1, a2] = ["a1", "a2"].map(|name| PartSource::samples(&[name]).remove(0).to_bytes());
    for fields in [&[][..], &[("range", "bytes=5-9")]] {
        let got = world.get_with(&part(1), fields).await;
        assert_eq!((got.status.as_u16(), got.field("content-length"), got.body == a1), (200, "", true));
        assert_eq!((got.field("accept-ranges"), got.field("repr-digest")), ("none", ""));
    }
    let got = world.get(&table()).await;
    assert_eq!((got.field("content-length"), got.body.len()), ("", a1.len() + a2.len() - 60));
    // HEAD claims no length, and HTTP/1.0, where a cut file would look whole, gets none.
    for (request, status, body) in
        [("HEAD # HTTP/1.1", "200", 0), ("GET # HTTP/1.0", "505", usize::MAX), ("HEAD # HTTP/1.0", "200", 0)]
    {
        let request = request.replace('#', &part(1));
        let whole = format!("{request}\r\nhost: localhost\r\nconnection: close\r\n\r\n");
        let got = answer_to(address(&world), &whole).await.expect("a head");
        assert_eq!(got.status.to_string(), status, "{request}");
        assert!(
            status == "505" || (got.length.is_none() && got.body.len() == body),
            "{request}: {:?}",
            got.length
        );
    }
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_is_one_header_and_all_rows_and_any_range_of_it_is_the_slice() {
    let world = world(samples(&["a1", "a2", "a3"])).await;
    let whole = world.get(&table()).await;
    assert_eq!((whole.body.len(), sha256(&whole.body).as_str()), (592, TABLE));
    assert_eq!((whole.field("content-length"), whole.field("exportgate-rows")), ("592", "5"));
    // One look at each part, and one request for all of it.
    assert_eq!(asked(&world), (1, 6));
    for first in (0..592).step_by(53) {
        for last in (first..592).step_by(47).chain([591]) {
            let got = world.get_with(&table(), &[("range", &format!("bytes={first}-{last}"))]).await;
            assert_eq!(got.status, StatusCode::PARTIAL_CONTENT);
            assert_eq!(got.field("content-range"), format!("bytes {first}-{last}/592"));
            assert_eq!(got.body, whole.body[first..=last], "{first}-{last}");
            assert_eq!(got.field("etag"), whole.field("etag"));
        }
    }
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tables_of_all_samples_are_as_the_design_has_them() {
    let own = |name: &'static str| PartSource::samples(&[name]).remove(0).to_bytes();
    for (names, expected) in [
        (&["d1", "d2"][..], Bytes::from_static(b"A,B\n1,x\n2,y\n")),
        (&["e1", "e2"], Bytes::from_static(b"A,B\n1,x\n2,y\n")),
        (&["c1"], own("c1")),
        (&["g1"], own("g1")),
        (&["j1"], own("j1")),
        (&["k1"], own("k1")),
        (&["h1"], Bytes::new()),
        (&["h1", "b1"], own("b1")),
        (&[], Bytes::new()),
    ] {
        let world = world(samples(names)).await;
        assert_whole(&world.get(&table()).await, &expected);
        world.stop().await;
    }
    let world = world(samples(&["a1", "b1", "a2"])).await;
    let got = world.get(&table()).await;
    assert_eq!((got.body.len(), got.field("exportgate-rows")), (363, "3"));
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_makes_no_table_says_so_and_its_parts_are_there() {
    let long = Bytes::from(format!("{},B\n1,x\n", "A".repeat(70_000)));
    let parts = |names: &[&str]| PartSource::samples(names);
    for (parts, code) in [
        (parts(&["f1", "f2"]), "columns_differ"),
        (parts(&["f1", "f3"]), "columns_differ"),
        (vec![PartSource::bytes(long)], "header_too_long"),
    ] {
        let first = parts[0].to_bytes();
        let world = world(StoreScript { parts, ..StoreScript::default() }).await;
        let got = world.get(&table()).await;
        assert_eq!((got.status.as_u16(), got.code().as_str()), (502, code));
        assert_whole(&world.get(&part(1)).await, &first);
        world.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_finished_export_that_lists_no_parts_or_one_twice_is_no_table() {
    let index = part(1).replace("/1.csv", "");
    let stated = |rows| Lie::TotalRows(Stated::Is(serde_json::json!(rows)));
    for (names, lies, is_empty) in [
        (&["a1"][..], vec![Lie::NoResults], false),
        (&[], vec![Lie::NoResults], false),
        (&["a1"], vec![Lie::Order(vec![])], false),
        (&["a1", "a2", "a3"], vec![Lie::Order(vec![1, 1, 3])], false),
        (&[], vec![stated(serde_json::json!("5"))], false),
        (&[], vec![], true),
        (&[], vec![stated(serde_json::json!(null))], true),
        (&[], vec![Lie::TotalRows(Stated::Absent)], true),
    ] {
        let world = world(StoreScript { lies: lies.clone(), ..samples(names) }).await;
        for target in [&table(), &index] {
            let got = world.get(target).await;
            let expected = if is_empty { (200, "") } else { (502, "results_unreadable") };
            let code = if is_empty { String::new() } else { got.code() };
            assert_eq!((got.status.as_u16(), code.as_str()), expected, "{lies:?}");
            assert!(
                is_empty || String::from_utf8_lossy(&got.body).contains("lists no part, or one part twice")
            );
        }
        if !is_empty {
            world.fake.script(|script| script.store = samples(&["a1"]));
            let got = world.get_with(&table(), &[("cache-control", "no-cache")]).await;
            assert_whole(&got, &PartSource::samples(&["a1"])[0].to_bytes());
        }
        world.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cell_longer_than_what_is_held_back_and_a_large_table_come_whole() {
    let cell = format!("A,B\n1,\"{}\n\"\n", "x\"\"y\n".repeat(14_000));
    let parts = vec![PartSource::bytes(cell.clone()), PartSource::bytes(cell.clone())];
    let world = world(StoreScript { parts, ..StoreScript::default() }).await;
    let expected = Bytes::from(format!("{cell}{}", &cell[4..]));
    assert_whole(&world.get(&table()).await, &expected);
    // Two looks at each large part.
    assert_eq!(asked(&world), (1, 6));
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_parts_are_looked_at_once_and_eight_together() {
    let parts: Vec<_> = (0..2_000).map(|row| PartSource::bytes(format!("A,B\n{row},x\n"))).collect();
    let world = world(StoreScript { parts, ..StoreScript::default() }).await;
    assert_eq!(world.get(&part(7)).await.status, 200);
    assert_eq!(asked(&world), (1, 1));
    let target = table();
    let head = || world.send(Method::HEAD, &target, &[], "");
    let both = futures_util::future::join(head(), head());
    let (one, other) = both.await;
    assert_eq!(one.fields.get("etag"), other.fields.get("etag"));
    assert_eq!((asked(&world), world.fake.store_load().most_running <= 16), ((1, 2_001), true));
    let got = world.get_with(&table(), &[("range", "bytes=0-9")]).await;
    assert_eq!((got.body.as_ref(), asked(&world)), (&b"A,B\n0,x\n1,"[..], (1, 2_003)));
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn conditions_are_answered_from_what_is_known_and_a_tag_outlives_its_link() {
    let world = world(made(200_000)).await;
    let file = PartSource::made(200_000, 1).to_bytes();
    let tag = world.get(&part(1)).await.field("etag").to_owned();
    assert!(tag.starts_with('"'));
    for (method, fields, status) in [
        (Method::HEAD, vec![], 200),
        (Method::GET, vec![("if-none-match", tag.as_str())], 304),
        (Method::GET, vec![("if-match", "\"x\"")], 412),
        (Method::GET, vec![("range", "bytes=200000-")], 416),
        (Method::GET, vec![("range", "bytes=5-9"), ("if-range", tag.as_str())], 206),
        (Method::GET, vec![("range", "bytes=5-9"), ("if-range", "\"x\"")], 200),
        (Method::GET, vec![("range", "bytes=5-9,20-30")], 200),
    ] {
        let got = world.send(method, &part(1), &fields, "").await;
        assert_eq!(got.status, status, "{fields:?}");
        match status {
            200 if !got.body.is_empty() => assert!(got.body == file),
            206 => assert_eq!(got.body, file[5..=9]),
            416 => assert_eq!(got.field("content-range"), "bytes */200000"),
            _ => {}
        }
    }
    // One look, and the three that got bytes.
    assert_eq!(asked(&world), (1, 5));
    world.clock.step_wall(7_200);
    world.fake.step_clock(7_200);
    let again = world.get_with(&part(1), &[("range", "bytes=199990-"), ("if-range", &tag)]).await;
    assert_eq!((again.status.as_u16(), again.field("etag")), (206, tag.as_str()));
    assert_eq!(again.body, file[199_990..]);
    // Another object is another file.
    world.fake.change_object("e1", 1);
    let other = world.get_with(&part(1), &[("range", "bytes=5-9"), ("if-range", &tag)]).await;
    assert_eq!((other.status.as_u16(), other.body.len(), other.field("etag") == tag), (200, 200_000, false));
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_export_without_files_says_why() {
    let world = world(samples(&["a1"])).await;
    for (state, status, code) in [
        (State::Word("PENDING".into()), 503, "not_finished"),
        (State::Word("ELSE".into()), 503, "status_unknown"),
        (State::Word("ERRORED".into()), 502, "export_failed"),
        (State::Word("ERROR".into()), 502, "export_failed"),
    ] {
        world.fake.put_export(&scope(), "e1", state);
        for target in [part(1), table(), part(1).replace("/1.csv", "")] {
            let got = world.get(&target).await;
            assert_eq!((got.status.as_u16(), got.code().as_str()), (status, code), "{target}");
            assert_eq!(got.field("retry-after").is_empty(), status != 503);
        }
    }
    world.fake.put_export(&scope(), "e1", State::Finished);
    for (number, status) in [(0, 404), (1, 200), (2, 404)] {
        assert_eq!(world.get(&part(number)).await.status, status, "{number}");
    }
    world.fake.store_fault(StoreFault::Status(404), Some(1));
    let got = world.get(&part(1)).await;
    assert_eq!((got.status.as_u16(), got.code().as_str()), (410, "file_gone"));
    world
        .fake
        .script(|script| script.store.lies.push(Lie::Entry { part: None, value: serde_json::json!({}) }));
    let got = world.get_with(&part(1), &[("cache-control", "no-cache")]).await;
    assert_eq!((got.status.as_u16(), got.code().as_str()), (502, "link_missing"));
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn transfers_of_one_client_are_limited() {
    let flags = vec![flag("files.max_transfers_per_client", 2)];
    let world = with(Script { store: made(1_000), ..Script::default() }, flags).await;
    let held = world.fake.hold_store();
    let target = part(1);
    let two = futures_util::future::join(world.get(&target), world.get(&target));
    let third = async {
        world.fake.wait_for_store(|load| load.running == 2).await;
        let got = world.get(&target).await;
        assert_eq!((got.status.as_u16(), got.code().as_str()), (503, "files_busy"));
        drop(held);
    };
    let ((one, other), ()) = tokio::join!(two, third);
    assert_eq!((one.status.as_u16(), other.status.as_u16()), (200, 200));
    assert_eq!(world.get(&target).await.status, 200);
    world.stop().await;
}

/// Resolves when no answer of the store runs any more.
async fn store_is_idle(world: &World) {
    let idle = world.fake.wait_for_store(|load| load.received > 0 && load.running == 0);
    tokio::time::timeout(Duration::from_secs(30), idle).await.expect("the store is left alone");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_http_2_stream_is_reset_where_the_proof_fails() {
    let store = StoreScript { hash: HashField::Wrong, ..made(MB) };
    let flags = vec![flag("listener.h2c", "true")];
    let world = with(Script { store, ..Script::default() }, flags).await;
    let stream = TcpStream::connect(address(&world)).await.unwrap();
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    let connection = tokio::spawn(connection);
    let request = Request::get(format!("http://localhost{}", part(1))).body(Empty::<Bytes>::new()).unwrap();
    sender.ready().await.unwrap();
    let answer = sender.send_request(request).await.unwrap();
    assert_eq!(
        (answer.status(), answer.headers()["content-length"].as_bytes()),
        (StatusCode::OK, &b"1000000"[..])
    );
    let (mut body, mut bytes) = (answer.into_body(), 0);
    let error = loop {
        match body.frame().await.expect("no end") {
            Ok(frame) => bytes += frame.data_ref().map_or(0, Bytes::len),
            Err(error) => break error,
        }
    };
    let reset = error.source().and_then(|source| source.downcast_ref::<h2::Error>());
    assert!(reset.is_some_and(h2::Error::is_reset), "{error:?}");
    assert!(bytes <= 1_000_000 - 64 * 1024, "{bytes}");
    drop(sender);
    let _ = connection.await;
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_store_is_left_when_the_client_leaves_or_takes_nothing() {
    let flags = vec![flag("files.idle_timeout", "300ms")];
    let world = with(Script { store: made(64 * MB), ..Script::default() }, flags).await;
    let request = format!("GET {} HTTP/1.1\r\nhost: localhost\r\n\r\n", part(1));
    let mut taking_nothing = TcpStream::connect(address(&world)).await.unwrap();
    taking_nothing.write_all(request.as_bytes()).await.unwrap();
    store_is_idle(&world).await;
    assert!(world.fake.store_load().bytes < 64 * MB);
    drop(taking_nothing);

    world.fake.store_fault(StoreFault::Rate(500_000), None);
    let mut leaving = TcpStream::connect(address(&world)).await.unwrap();
    leaving.write_all(request.as_bytes()).await.unwrap();
    leaving.read_exact(&mut vec![0; 50_000]).await.unwrap();
    assert_eq!(world.fake.store_load().running, 1);
    drop(leaving);
    store_is_idle(&world).await;
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_falls_silent_is_asked_again_for_the_rest() {
    let flags = vec![flag("files.idle_timeout", "300ms")];
    let world = with(Script { store: made(MB), ..Script::default() }, flags).await;
    world.fake.store_fault(StoreFault::Stall(400_000), Some(1));
    assert_whole(&world.get(&part(1)).await, &PartSource::made(MB, 1).to_bytes());
    assert_eq!(ranges(&world.fake), ["whole", "bytes=400000-"]);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_gateway_goes_on_where_one_stopped() {
    let one = world(made(MB)).await;
    let file = PartSource::made(MB, 1).to_bytes();
    let snyk = one.fake.url();
    let unused = Fake::start(Settings { tls: false, ..Settings::default() }).await.unwrap();
    let other = World::before(unused, &snyk, vec![flag("files.origins", &snyk)]).await;
    for target in [part(1), table()] {
        let first = one.get_with(&target, &[("range", "bytes=0-399999")]).await;
        let rest = [("range", "bytes=400000-"), ("if-range", first.field("etag"))];
        let rest = other.get_with(&target, &rest).await;
        assert_eq!((first.status.as_u16(), rest.status.as_u16()), (206, 206));
        assert!([first.body, rest.body].concat() == file);
    }
    other.stop().await;
    one.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_object_that_cannot_be_known_again_is_not_resumed() {
    for (link_form, is_known) in [(LinkForm::GcsV4, true), (LinkForm::S3V4, false)] {
        let store = StoreScript { tag: TagField::Weak, ..made(MB) };
        let world = with(Script { store, link_form, ..Script::default() }, vec![]).await;
        world.fake.store_fault(StoreFault::Cut(400_000), Some(1));
        let got = raw(address(&world), &part(1)).await;
        assert_eq!(got.is_cut(), !is_known, "{link_form:?}");
        let requests = world.fake.store_requests();
        assert_eq!(requests.len(), if is_known { 2 } else { 1 });
        assert!(requests.iter().all(|request| request.if_match().is_none()));
        // An object without any mark has no tag of ours, and no ranges.
        let got = world.get_with(&part(1), &[("range", "bytes=0-9")]).await;
        assert_eq!(got.status.as_u16(), if is_known { 206 } else { 200 });
        assert_eq!(got.field("etag").is_empty(), !is_known);
        world.stop().await;
    }
}
