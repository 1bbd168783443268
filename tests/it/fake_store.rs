//! The fake's store by itself, on the wire: each rule of the stores and each fault is what its name says.

use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use exportgate::fake::{
    Fake, HashField, Lie, LinkForm, PartSource, Script, Settings, State, Stated, StoreFault, StoreScript,
    TagField,
};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::support::{ORG, V, scope};

struct Download {
    head: String,
    body: Vec<u8>,
}

impl Download {
    fn status(&self) -> &str {
        self.head.get(9..12).unwrap_or_default()
    }

    fn fields(&self, name: &str) -> Vec<&str> {
        let lines = self.head.lines().filter_map(|line| line.split_once(": "));
        lines.filter(|(own, _)| *own == name).map(|(_, value)| value).collect()
    }

    fn field(&self, name: &str) -> &str {
        self.fields(name).first().copied().unwrap_or_default()
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

async fn with(store: StoreScript) -> Fake {
    let script = Script { store, ..Script::default() };
    let fake = Fake::start(Settings { tls: false, script, ..Settings::default() }).await.unwrap();
    fake.put_export(&scope(), "e1", State::Finished);
    fake
}

async fn of_parts(parts: Vec<PartSource>) -> Fake {
    with(StoreScript { parts, ..StoreScript::default() }).await
}

async fn open(fake: &Fake, method: &str, target: &str, fields: &str) -> TcpStream {
    let mut stream = TcpStream::connect(fake.address()).await.unwrap();
    let request = format!("{method} {target} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{fields}\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    stream
}

/// All that comes, until the connection ends.
async fn say(fake: &Fake, method: &str, target: &str, fields: &str) -> Download {
    let mut all = Vec::new();
    // However it ends.
    let _ = open(fake, method, target, fields).await.read_to_end(&mut all).await;
    let end = all.windows(4).position(|four| four == b"\r\n\r\n").map_or(0, |at| at + 4);
    let body = all.split_off(end);
    Download { head: String::from_utf8(all).unwrap(), body }
}

async fn get(fake: &Fake, target: &str, fields: &str) -> Download {
    say(fake, "GET", target, fields).await
}

async fn attributes(fake: &Fake) -> Value {
    let target = format!("/rest/orgs/{ORG}/export/e1?{V}");
    let answer = get(fake, &target, "authorization: token t\r\n").await;
    serde_json::from_slice::<Value>(&answer.body).unwrap()["data"]["attributes"].clone()
}

/// Fresh links, without the fake's own origin.
async fn links(fake: &Fake) -> Vec<String> {
    let attributes = attributes(fake).await;
    let results = attributes["results"].as_array().unwrap().iter();
    results.map(|entry| entry["url"].as_str().unwrap().trim_start_matches(&fake.url()).to_owned()).collect()
}

async fn link(fake: &Fake) -> String {
    links(fake).await.swap_remove(0)
}

#[tokio::test]
async fn by_default_it_serves_an_export_of_issues_as_the_results_say() {
    let fake = with(StoreScript::default()).await;
    let attributes = attributes(&fake).await;
    let entries = attributes["results"].as_array().unwrap();
    assert_eq!((entries.len(), &attributes["row_count"]), (2, &json!(50)));
    for (link, entry) in links(&fake).await.iter().zip(entries) {
        let got = get(&fake, link, "").await;
        assert_eq!((got.status(), json!(got.body.len())), ("200", entry["file_size"].clone()));
        assert_eq!((got.field("accept-ranges"), got.field("content-type")), ("bytes", "text/csv"));
        assert_eq!(got.field("content-length"), got.body.len().to_string());
        let crc32c = BASE64_STANDARD.encode(crc32c::crc32c(&got.body).to_be_bytes());
        assert!(got.field("x-goog-hash").starts_with(&format!("crc32c={crc32c},md5=")));
        let mut reader = csv::Reader::from_reader(got.body.as_slice());
        assert_eq!(&reader.headers().unwrap()[0], "ISSUE_URL");
        assert_eq!(json!(reader.records().map(Result::unwrap).count()), entry["row_count"]);
    }
}

#[tokio::test]
async fn samples_and_files_of_a_folder_come_byte_for_byte() {
    let samples = PartSource::samples(&["a1", "a2", "a3", "h1", "k1"]);
    let folder = tempfile::tempdir().unwrap();
    for (number, sample) in samples.iter().enumerate() {
        std::fs::write(folder.path().join(format!("data_1_{}_0.csv", number + 8)), sample.to_bytes())
            .unwrap();
    }
    for parts in [samples.clone(), PartSource::folder(folder.path()).unwrap()] {
        let fake = of_parts(parts).await;
        for (link, sample) in links(&fake).await.iter().zip(&samples) {
            assert_eq!(get(&fake, link, "").await.body, sample.to_bytes());
        }
    }
}

#[tokio::test]
async fn ranges_and_conditions_are_those_of_the_stores() {
    let part = PartSource::made(100_000, 1);
    let (fake, whole) = (of_parts(vec![part.clone(), PartSource::bytes("")]).await, part.to_bytes());
    let [link, empty] = links(&fake).await.try_into().unwrap();
    let tag = get(&fake, &link, "").await.field("etag").to_owned();
    assert!(tag.starts_with('"') && tag.ends_with('"'));
    let (same, other) = (format!("if-match: {tag}\r\n"), "if-match: \"x\"\r\n".to_owned());
    let if_same = format!("if-range: {tag}\r\n");
    for (range, condition, status, of, expected) in [
        ("bytes=0-9", "", "206", "bytes 0-9/100000", &whole[..10]),
        ("bytes=99990-", &same, "206", "bytes 99990-99999/100000", &whole[99_990..]),
        ("bytes=-5", &if_same, "206", "bytes 99995-99999/100000", &whole[99_995..]),
        ("bytes=5-200000", "", "206", "bytes 5-99999/100000", &whole[5..]),
        ("bytes=5-9", "if-range: \"x\"\r\n", "200", "", &whole[..]),
        ("bytes=0-1,5-9", "", "200", "", &whole[..]),
    ] {
        let got = get(&fake, &link, &format!("range: {range}\r\n{condition}")).await;
        assert_eq!((got.status(), got.field("content-range")), (status, of), "{range}");
        assert_eq!((got.body.as_slice(), got.field("etag")), (expected, tag.as_str()), "{range}");
    }
    for (link, fields, status, of) in [
        (&link, "range: bytes=100000-\r\n", "416", "bytes */100000"),
        (&empty, "range: bytes=0-65535\r\n", "416", "bytes */0"),
        (&link, &other, "412", ""),
    ] {
        let got = get(&fake, link, fields).await;
        assert_eq!((got.status(), got.field("content-range")), (status, of));
    }
    // A new link leads to the same object.
    let again = self::link(&fake).await;
    assert_ne!(again, link);
    assert_eq!(get(&fake, &again, "").await.field("etag"), tag);
    let requests = fake.store_requests();
    assert_eq!(requests[1].range(), Some("bytes=0-9"));
    assert_eq!((requests[2].if_match(), requests[2].status, requests[2].part), (Some(&*tag), 206, 1));
    assert_eq!((requests[0].export.as_str(), requests[0].seen.header("host")), ("e1", vec!["x"]));
}

#[tokio::test]
async fn what_is_not_signed_is_refused() {
    let fake = of_parts(PartSource::samples(&["a1"])).await;
    let link = link(&fake).await;
    for (method, target, fields, status, code) in [
        ("HEAD", &link, "", "403", ""),
        ("POST", &link, "content-length: 0\r\n", "403", "<Code>SignatureDoesNotMatch</Code>"),
        ("GET", &link, "authorization: token t\r\n", "400", "<Code>InvalidArgument</Code>"),
        ("GET", &link, "x-amz-meta-a: b\r\n", "403", "<Code>AccessDenied</Code>"),
        (
            "GET",
            &link.replace("X-Goog-Expires=3600", "X-Goog-Expires=3601"),
            "",
            "403",
            "SignatureDoesNotMatch",
        ),
        ("GET", &link.replace("data_1_1_0", "data_1_2_0"), "", "403", "SignatureDoesNotMatch"),
    ] {
        let got = say(&fake, method, target, fields).await;
        assert_eq!(got.status(), status, "{method} {fields}");
        assert!(got.text().contains(code), "{method} {fields}: {}", got.text());
    }
}

#[tokio::test]
async fn dead_links_are_refused_as_each_store_does() {
    for (form, status, expected, has_hash) in [
        (LinkForm::GcsV4, "400", "<Code>ExpiredToken</Code>", true),
        (LinkForm::S3V4, "403", "<Code>AccessDenied</Code><Message>Request has expired</Message>", false),
        (LinkForm::S3V4Temporary, "400", "<Code>ExpiredToken</Code>", false),
        (LinkForm::R2, "403", "<Code>ExpiredRequest</Code>", false),
    ] {
        let fake = of_parts(PartSource::samples(&["a1"])).await;
        fake.script(|script| (script.link_form, script.link_seconds) = (form, vec![60]));
        let link = link(&fake).await;
        let alive = get(&fake, &link, "").await;
        assert_eq!((alive.status(), !alive.field("x-goog-hash").is_empty()), ("200", has_hash), "{form:?}");
        fake.store_fault(StoreFault::Expired, Some(1));
        let refused = get(&fake, &link, "").await;
        assert_eq!(get(&fake, &link, "").await.status(), "200", "{form:?}");
        fake.step_clock(60);
        for got in [refused, get(&fake, &link, "").await] {
            assert_eq!((got.status(), got.field("content-type")), (status, "application/xml; charset=UTF-8"));
            assert!(got.text().contains(expected), "{form:?}: {}", got.text());
        }
    }
}

#[tokio::test]
async fn transfers_are_cut_where_they_are_told_and_a_link_dies_under_way() {
    let part = PartSource::made(3_000_000, 1);
    let (fake, whole) = (of_parts(vec![part.clone()]).await, part.to_bytes());
    for at in [2_000_000, 1_000_000] {
        fake.store_fault(StoreFault::Cut(at), Some(1));
    }
    fake.store_fault(StoreFault::Expire(1_000_000), Some(1));
    let first = link(&fake).await;
    let got = get(&fake, &first, "").await;
    assert_eq!((got.field("content-length"), &got.body[..]), ("3000000", &whole[..1_000_000]));
    let range = format!("range: bytes=1000000-\r\nif-match: {}\r\n", got.field("etag"));
    assert_eq!(get(&fake, &first, &range).await.status(), "400");
    let second = link(&fake).await;
    let got = get(&fake, &second, &range).await;
    assert_eq!((got.status(), &got.body[..]), ("206", &whole[1_000_000..2_000_000]));
    let got = get(&fake, &second, "range: bytes=2000000-\r\n").await;
    assert_eq!((got.status(), &got.body[..]), ("206", &whole[2_000_000..]));
    // Always, and before the first byte.
    fake.store_fault(StoreFault::Cut(0), None);
    for _ in 0..2 {
        let got = get(&fake, &second, "").await;
        assert_eq!((got.status(), got.body.len()), ("200", 0));
    }
}

#[tokio::test]
async fn a_changed_object_has_other_bytes_and_another_tag() {
    let part = PartSource::made(300_000, 1);
    let fake = of_parts(vec![part.clone()]).await;
    fake.store_fault(StoreFault::Change(100_000), Some(1));
    let link = link(&fake).await;
    let old = get(&fake, &link, "").await;
    assert_eq!(old.body.len(), 100_000);
    let range = format!("range: bytes=100000-\r\nif-match: {}\r\n", old.field("etag"));
    assert_eq!(get(&fake, &link, &range).await.status(), "412");
    let new = get(&fake, &link, "").await;
    assert_eq!(new.body.len(), 300_000);
    for name in ["etag", "x-goog-generation", "x-goog-hash"] {
        assert_ne!(old.field(name), new.field(name), "{name}");
    }
    let crc32c = BASE64_STANDARD.encode(crc32c::crc32c(&new.body).to_be_bytes());
    assert!(new.field("x-goog-hash").contains(&crc32c) && new.body[..100_000] != old.body[..]);
}

#[tokio::test]
async fn the_other_faults_are_seen_on_the_wire() {
    let part = PartSource::made(100_000, 1);
    let (fake, whole) = (of_parts(vec![part.clone(); 2]).await, part.to_bytes());
    let [link, second] = links(&fake).await.try_into().unwrap();
    let range = "range: bytes=50000-59999\r\n";
    for (name, status, length) in [
        ("404", "404", None),
        ("503", "503", None),
        ("redirect:http://127.0.0.1/", "302", Some(0)),
        ("ignore-range", "200", Some(100_000)),
        ("shift-range:1", "206", Some(10_000)),
        ("reset", "", Some(0)),
    ] {
        fake.store_fault_at(1, name.parse().unwrap(), Some(1));
        assert_eq!(get(&fake, &second, range).await.status(), "206", "{name} is about the first part");
        let got = get(&fake, &link, range).await;
        assert_eq!(got.status(), status, "{name}");
        assert!(length.is_none_or(|length| length == got.body.len()), "{name}: {}", got.body.len());
        assert!(!name.starts_with("redirect") || got.field("location") == "http://127.0.0.1/");
        assert!(!name.starts_with("shift") || got.field("content-range") == "bytes 50001-60000/100000");
    }
    fake.store_fault(StoreFault::Flip(77), Some(1));
    let got = get(&fake, &link, "").await;
    let wrong: Vec<usize> = (0..whole.len()).filter(|at| got.body[*at] != whole[*at]).collect();
    assert_eq!(wrong, [77]);
    fake.store_fault(StoreFault::Transcode, Some(1));
    let got = get(&fake, &link, range).await;
    assert_eq!((got.status(), got.field("transfer-encoding")), ("200", "chunked"));
    assert_eq!((got.field("content-length"), got.field("x-goog-stored-content-encoding")), ("", "gzip"));
    assert!(got.field("warning").starts_with("214 ") && got.body.len() > 100_000);
    fake.store_fault(StoreFault::Rate(1_000_000), Some(1));
    let begun = Instant::now();
    assert_eq!(get(&fake, &link, "").await.body.len(), 100_000);
    assert!(begun.elapsed() >= Duration::from_millis(100), "{:?}", begun.elapsed());
    assert_eq!(get(&fake, &link, range).await.status(), "206");
}

#[tokio::test]
async fn a_stall_sends_what_came_before_it_and_the_load_is_known() {
    let fake = of_parts(vec![PartSource::made(100_000, 1)]).await;
    let link = link(&fake).await;
    fake.store_fault(StoreFault::Stall(70_000), Some(1));
    let mut stream = open(&fake, "GET", &link, "").await;
    fake.wait_for_store(|load| load.bytes == 70_000).await;
    assert_eq!((fake.store_load().received, fake.store_load().running), (1, 1));
    let mut begun = vec![0; 70_000];
    stream.read_exact(&mut begun).await.unwrap();
    drop(stream);
    fake.wait_for_store(|load| load.running == 0).await;
    let gate = fake.hold_store();
    let streams = [open(&fake, "GET", &link, "").await, open(&fake, "GET", &link, "").await];
    fake.wait_for_store(|load| load.running == 2).await;
    drop(gate);
    for mut stream in streams {
        let mut all = Vec::new();
        stream.read_to_end(&mut all).await.unwrap();
        assert!(all.len() > 100_000);
    }
    fake.wait_for_store(|load| load.running == 0 && load.most_running == 2).await;
    assert_eq!(fake.store_load().bytes, 270_000);
}

#[tokio::test]
async fn hashes_and_tags_can_be_wrong_or_absent() {
    let fake = of_parts(PartSource::samples(&["a1"])).await;
    let right =
        format!("crc32c={}", BASE64_STANDARD.encode(PartSource::samples(&["a1"])[0].crc32c().to_be_bytes()));
    for (hash, lines, is_right) in [
        (HashField::OneLine, 1, true),
        (HashField::TwoLines, 2, true),
        (HashField::Wrong, 1, false),
        (HashField::Absent, 0, false),
    ] {
        fake.script(|script| script.store.hash = hash);
        let got = get(&fake, &link(&fake).await, "").await;
        let fields = got.fields("x-goog-hash");
        assert_eq!((fields.len(), fields.join(",").contains(&right)), (lines, is_right), "{hash:?}");
    }
    fake.script(|script| script.store.tag = TagField::Weak);
    assert!(get(&fake, &link(&fake).await, "").await.field("etag").starts_with("W/\""));
    fake.script(|script| script.store.tag = TagField::Absent);
    assert_eq!(get(&fake, &link(&fake).await, "").await.field("etag"), "");
}

#[tokio::test]
async fn the_results_lie_as_they_are_told() {
    let fake = of_parts(PartSource::samples(&["a1", "a2", "a3"])).await;
    let lie = |lies: Vec<Lie>| fake.script(|script| script.store.lies = lies);
    let [one, all] = [Some(2), None];
    lie(vec![
        Lie::RowCount { part: one, stated: Stated::More(1) },
        Lie::FileSize { part: all, stated: Stated::AsText },
        Lie::TotalRows(Stated::Is(json!(null))),
        Lie::Link { part: one, text: "http://169.254.169.254/latest".to_owned() },
        Lie::Order(vec![3, 2]),
    ]);
    let got = attributes(&fake).await;
    let entries = &got["results"];
    assert_eq!((&got["row_count"], entries.as_array().unwrap().len()), (&json!(null), 2));
    assert!(entries[0]["url"].as_str().unwrap().contains("/data_1_3_0.csv?"));
    assert_eq!((&entries[0]["file_size"], &entries[0]["row_count"]), (&json!("289"), &json!(2)));
    let second = json!({"url": "http://169.254.169.254/latest", "file_size": "165", "row_count": 2});
    assert_eq!(entries[1], second);
    lie(vec![
        Lie::Entry { part: one, value: json!({}) },
        Lie::RowCount { part: one, stated: Stated::Absent },
    ]);
    assert_eq!(attributes(&fake).await["results"][1], json!({}));
    lie(vec![Lie::TotalRows(Stated::Absent)]);
    assert_eq!(attributes(&fake).await.get("row_count"), None);
    lie(vec![Lie::NoResults]);
    assert_eq!(attributes(&fake).await.get("results"), None);
    lie(Vec::new());
    fake.script(|script| script.store.origin = Some("https://user@files.test:8443".to_owned()));
    assert!(link(&fake).await.starts_with("https://user@files.test:8443/files/e1/data_1_1_0.csv?X-Goog-"));
    fake.script(|script| script.store.parts.clear());
    assert_eq!(
        (&attributes(&fake).await["results"], &attributes(&fake).await["row_count"]),
        (&json!([]), &json!(0))
    );
}
