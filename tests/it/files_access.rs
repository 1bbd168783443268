//! Files: who may have them, by which doors, what their answers say, and how their transfers end.

use std::fmt::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use exportgate::access::key::{Digest, generate};
use exportgate::fake::{PartSource, Settings, State, StoreFault};
use http::{Method, StatusCode};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::support::{Flags, Got, ORG, V, World, flag, keep_secret, results, scope};

const BIG: u64 = 8 << 20;

/// A clients file with the clients `files`, `reader` and `starter`.
struct Roster {
    directory: TempDir,
    keys: [(&'static str, String); 3],
}

impl Roster {
    fn new() -> Self {
        let keys = ["files", "reader", "starter"].map(|name| (name, generate().unwrap().to_string()));
        for (_, key) in &keys {
            keep_secret([key.clone(), STANDARD.encode(format!("excel:{key}"))]);
        }
        let roster = Self { directory: TempDir::new().unwrap(), keys };
        roster.write(&["files", "reader", "starter"]);
        roster
    }

    fn write(&self, names: &[&str]) {
        let mut text = String::new();
        for (name, key) in self.keys.iter().filter(|(name, _)| names.contains(name)) {
            let class = match *name {
                "files" => "files",
                "reader" => "read",
                _ => "start",
            };
            let digest = Digest::of(key).to_hex();
            let _ = writeln!(
                text,
                "[clients.{name}]\nkeys = ['sha256:{digest}']\norgs = ['{ORG}']\noperations = ['{class}']"
            );
        }
        std::fs::write(self.directory.path().join("clients.toml"), text).unwrap();
    }

    fn flags(&self) -> Flags {
        vec![
            flag("access.clients_file", self.directory.path().join("clients.toml").display()),
            flag("access.reload_interval", "10ms"),
        ]
    }

    async fn world(&self, more: Flags) -> World {
        let world = World::with(Settings::default(), self.flags().into_iter().chain(more).collect()).await;
        world.fake.put_export(&scope(), "e1", State::Finished);
        world
    }

    fn key(&self, name: &str) -> &str {
        &self.keys.iter().find(|(known, _)| *known == name).unwrap().1
    }

    fn token(&self, name: &str) -> String {
        format!("token {}", self.key(name))
    }

    fn basic(&self, name: &str) -> String {
        format!("Basic {}", STANDARD.encode(format!("excel:{}", self.key(name))))
    }
}

fn file(rest: &str) -> String {
    format!("/rest/orgs/{ORG}/export/e1/{rest}?{V}")
}

fn challenges(got: &Got) -> Vec<&str> {
    got.fields.get_all("www-authenticate").iter().map(|value| value.to_str().unwrap()).collect()
}

/// The address of a download that runs: a part that the store sends slowly.
async fn slow_world(roster: &Roster) -> World {
    let world = roster.world(vec![]).await;
    world.fake.script(|script| script.store.parts = vec![PartSource::made(BIG, 0)]);
    world.fake.store_fault(StoreFault::Stall(1 << 20), None);
    world
}

/// Resolves when bytes of the one download have left: its client has the head of the answer, or is about to.
async fn sending(world: &World) {
    loop {
        let status = world.get(&format!("{}/api/status", world.admin)).await.json();
        if status["downloads"]["oldest"][0]["bytes"].as_u64().is_some_and(|bytes| bytes > 0) {
            return;
        }
        tokio::task::yield_now().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_with_files_alone_gets_them_and_never_a_link() {
    let roster = Roster::new();
    let world = roster.world(vec![]).await;
    let get = async |name: &str, target: &str| {
        world.get_with(target, &[("authorization", &roster.token(name))]).await
    };
    for name in ["files", "reader"] {
        let index = get(name, &file("files")).await;
        assert_eq!(index.status, 200, "{:?}", index.body);
        let list = index.json();
        assert_eq!((&list["export"], &list["status"]), (&"e1".into(), &"FINISHED".into()));
        assert_eq!(list["parts"][0]["path"], format!("/rest/orgs/{ORG}/export/e1/files/1.csv"));
        assert_eq!(list["table"], format!("/rest/orgs/{ORG}/export/e1/table.csv"));
        assert_eq!(list["parts"].as_array().unwrap().len(), 2);
        let text = index.body.escape_ascii().to_string();
        assert!(!text.contains("http") && !text.contains("X-Goog"), "{text}");
        assert_eq!(index.field("content-type"), "application/json");
        assert!(!index.field("snyk-request-id").is_empty() && index.cache().starts_with("exportgate"));
        for rest in ["files/1.csv", "files/2.csv", "table.csv"] {
            let got = get(name, &file(rest)).await;
            assert_eq!((got.status, got.field("content-type")), (StatusCode::OK, "text/csv; charset=utf-8"));
        }
    }
    // An address in a dashboard needs no version of Snyk's API.
    let plain = file("table.csv").replace(&format!("?{V}"), "");
    assert_eq!(get("files", &plain).await.status, StatusCode::OK);
    let before = world.fake.hits();
    for target in [results("e1"), format!("/orgs/{ORG}/jobs/export/e1?{V}")] {
        let refused = get("files", &target).await;
        assert_eq!((refused.status, refused.code()), (StatusCode::FORBIDDEN, "forbidden".to_owned()));
    }
    let elsewhere = file("table.csv").replace(ORG, "00000000-1111-4222-8333-444444444444");
    for (name, target) in [("starter", file("files")), ("starter", file("table.csv")), ("files", elsewhere)] {
        assert_eq!(get(name, &target).await.code(), "forbidden", "{name} {target}");
    }
    assert_eq!(get("files", &file("files/3.csv")).await.code(), "no_such_file");
    assert_eq!(world.fake.hits(), before);
    // Another answer of Snyk's is withheld, for it could hold anything.
    let link = "https://storage.googleapis.com/b/o?X-Goog-Signature=abc";
    for (status, expected) in [(303_u16, 502_u16), (404, 404), (403, 403)] {
        let headers = vec![("location".to_owned(), link.to_owned())];
        let state = State::Raw { status, headers, body: link.into() };
        world.fake.put_export(&scope(), "odd", state);
        let got = get("files", &file("files").replace("e1", "odd")).await;
        assert_eq!(got.status.as_u16(), expected);
        let all = format!("{:?} {:?}", got.fields, got.body);
        assert!(!all.contains("X-Goog-Signature"), "{all}");
        assert_eq!(got.code(), "upstream_answered");
    }
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn basic_is_taken_for_files_alone_and_only_where_it_is_allowed() {
    let roster = Roster::new();
    let world = roster.world(vec![flag("files.basic", true), flag("access.max_failures", 3)]).await;
    let basic = roster.basic("files");
    for rest in ["files", "files/1.csv", "table.csv"] {
        assert_eq!(world.get_with(&file(rest), &[("authorization", &basic)]).await.status, 200, "{rest}");
        let lower = basic.replacen("Basic", "basic", 1);
        assert_eq!(world.get_with(&file(rest), &[("authorization", &lower)]).await.status, 200, "{rest}");
    }
    // Not elsewhere, whatever the client may do there.
    let reader = roster.basic("reader");
    let refused = world.get_with(&results("e1"), &[("authorization", &reader)]).await;
    assert_eq!(refused.status, 401);
    assert_eq!(challenges(&refused), ["Bearer realm=\"exportgate\""]);
    // Who sends nothing is asked for it, however often.
    for _ in 0..8 {
        let asked = world.get(&file("table.csv")).await;
        assert_eq!((asked.status, asked.code()), (StatusCode::UNAUTHORIZED, "unauthorized".to_owned()));
        assert_eq!(challenges(&asked), ["Basic realm=\"exportgate\"", "Bearer realm=\"exportgate\""]);
    }
    // What a browser sends for a page is refused, password or not.
    for field in [("origin", "https://evil.test"), ("sec-fetch-site", "cross-site"), ("referer", "http://x/")]
    {
        let got = world.get_with(&file("table.csv"), &[("authorization", &basic), field]).await;
        assert_eq!((got.status, got.code()), (StatusCode::FORBIDDEN, "web_page".to_owned()), "{field:?}");
    }
    let typed = [("authorization", basic.as_str()), ("sec-fetch-site", "none")];
    assert_eq!(world.get_with(&file("table.csv"), &typed).await.status, 200);
    // A key that is wrong is a failure that counts.
    let wrong = format!("Basic {}", STANDARD.encode(format!("a:{}", generate().unwrap().as_str())));
    let mut statuses = Vec::new();
    for _ in 0..4 {
        statuses.push(world.get_with(&file("table.csv"), &[("authorization", &wrong)]).await.status.as_u16());
    }
    assert_eq!(statuses.first(), Some(&401));
    assert_eq!(statuses.last(), Some(&429));
    // Nothing of it went to Snyk or its store.
    for seen in world.fake.requests().iter().chain(world.fake.store_requests().iter().map(|one| &one.seen)) {
        let sent = format!("{:?}", seen.header("authorization"));
        assert!(!sent.contains("Basic") && !sent.contains("egk_"), "{sent}");
    }
    world.stop().await;

    let world = roster.world(vec![]).await;
    let refused = world.get_with(&file("table.csv"), &[("authorization", &basic)]).await;
    assert_eq!(refused.status, 401);
    assert_eq!(challenges(&refused), ["Bearer realm=\"exportgate\""]);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_says_what_the_file_is_and_takes_conditions_and_ranges() {
    let world = World::new().await;
    world.fake.put_export(&scope(), "e1", State::Finished);
    world.fake.script(|script| script.store.parts = PartSource::samples(&["a1", "a2", "a3"]));
    let whole = world.get(&file("files/1.csv")).await;
    assert_eq!(whole.status, 200);
    let size = whole.body.len();
    let tag = whole.field("etag").to_owned();
    assert!(tag.starts_with('"') && tag.len() > 2, "{tag}");
    for (name, value) in [
        ("content-type", "text/csv; charset=utf-8"),
        ("content-disposition", "attachment; filename=\"e1-part-1.csv\""),
        ("cache-control", "private, no-transform"),
        ("accept-ranges", "bytes"),
        ("x-content-type-options", "nosniff"),
        ("cross-origin-resource-policy", "same-origin"),
        ("content-length", &size.to_string()),
    ] {
        assert_eq!(whole.field(name), value, "{name}");
    }
    let digest = format!("crc32c=:{}:", STANDARD.encode(crc32c::crc32c(&whole.body).to_be_bytes()));
    assert_eq!(whole.field("repr-digest"), digest);
    assert!(!whole.field("exportgate-rows").is_empty());
    assert!(!whole.field("snyk-request-id").is_empty());
    assert!(!whole.field("exportgate-request-id").is_empty() && whole.field("age").is_empty());

    let head = world.send(Method::HEAD, &file("files/1.csv"), &[], "").await;
    assert_eq!((head.status, head.body.len()), (StatusCode::OK, 0));
    for name in
        ["content-length", "etag", "repr-digest", "content-type", "accept-ranges", "content-disposition"]
    {
        assert_eq!(head.field(name), whole.field(name), "{name}");
    }

    let part = world.get_with(&file("files/1.csv"), &[("range", "bytes=3-9")]).await;
    assert_eq!((part.status, &part.body[..]), (StatusCode::PARTIAL_CONTENT, &whole.body[3..=9]));
    assert_eq!(part.field("content-range"), format!("bytes 3-9/{size}"));
    assert_eq!((part.field("content-length"), part.field("etag")), ("7", &*tag));

    let same = world.get_with(&file("files/1.csv"), &[("if-none-match", &tag)]).await;
    assert_eq!((same.status, same.body.len(), same.field("etag")), (StatusCode::NOT_MODIFIED, 0, &*tag));

    let beyond = world.get_with(&file("files/1.csv"), &[("range", "bytes=100000-")]).await;
    assert_eq!(
        (beyond.status, beyond.code()),
        (StatusCode::RANGE_NOT_SATISFIABLE, "range_not_satisfiable".into())
    );
    assert_eq!(beyond.field("content-range"), format!("bytes */{size}"));

    let other = world.get_with(&file("files/1.csv"), &[("if-match", "\"other\"")]).await;
    assert_eq!((other.status, other.code()), (StatusCode::PRECONDITION_FAILED, "precondition_failed".into()));

    let table = world.get(&file("table.csv")).await;
    assert_eq!((table.status, table.body.len()), (StatusCode::OK, 592));
    assert_eq!(table.field("content-disposition"), "attachment; filename=\"e1-table.csv\"");
    // Snyk was asked for the results once; all else was a hit.
    assert_eq!(world.fake.hits().results, 1);
    assert_eq!(world.send(Method::POST, &file("table.csv"), &[], "").await.field("allow"), "GET, HEAD");
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_export_without_files_is_answered_by_its_reason() {
    let world = World::new().await;
    for (export, word, status, code) in [
        ("run", "STARTED", 503_u16, "not_finished"),
        ("bad", "ERRORED", 502, "export_failed"),
        ("odd", "ERROR", 502, "export_failed"),
    ] {
        world.fake.put_export(&scope(), export, State::Word(word.to_owned()));
        for rest in ["files", "files/1.csv", "table.csv"] {
            let got = world.get(&file(rest).replace("e1", export)).await;
            assert_eq!((got.status.as_u16(), &*got.code()), (status, code), "{export} {rest}");
            assert_eq!(got.field("retry-after").is_empty(), status != 503, "{export} {rest}");
            assert!(!got.field("snyk-request-id").is_empty(), "{export} {rest}");
        }
    }
    assert_eq!(world.fake.store_load().received, 0);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transfer_ends_with_the_right_to_it_and_never_looks_whole() {
    let roster = Roster::new();
    for how in ["client", "key", "policy", "export", "everything"] {
        roster.write(&["files", "reader"]);
        let world = slow_world(&roster).await;
        let token = roster.token("files");
        let fields = [("authorization", token.as_str())];
        let target = file("files/1.csv");
        let download = world.try_send(Method::GET, &target, &fields, "");
        let end = async {
            sending(&world).await;
            match how {
                "client" => roster.write(&["reader"]),
                "key" => {
                    let path = roster.directory.path().join("clients.toml");
                    let text = std::fs::read_to_string(&path).unwrap();
                    let digest = |key: &str| Digest::of(key).to_hex();
                    let newer = digest(generate().unwrap().as_str());
                    std::fs::write(path, text.replace(&digest(roster.key("files")), &newer)).unwrap();
                }
                "policy" => {
                    let path = roster.directory.path().join("clients.toml");
                    let text = std::fs::read_to_string(&path).unwrap();
                    std::fs::write(path, text.replace("['files']", "['start']")).unwrap();
                }
                "export" => {
                    let purge = format!("{}/api/exports/{ORG}/e1", world.admin);
                    let purged = world.send(Method::DELETE, &purge, &[], "").await;
                    assert_eq!(purged.status, 200, "{:?}", purged.body);
                }
                _ => {
                    let purge = format!("{}/api/exports", world.admin);
                    let purged = world.send(Method::DELETE, &purge, &[], "").await;
                    assert_eq!(purged.status, 200, "{:?}", purged.body);
                }
            }
        };
        let (downloaded, ()) = tokio::join!(download, end);
        assert!(downloaded.is_err(), "{how}");
        let row = world.wait_for_transfers(1).await;
        let outcome = if ["client", "key", "policy"].contains(&how) { "revoked" } else { "purged" };
        assert_eq!((&*row.outcome, &*row.client, &*row.file), (outcome, "files", "1"));
        assert!(row.bytes <= 1 << 20, "{}", row.bytes);
        // The store is asked for no more, and a new request is refused at once.
        world.fake.wait_for_store(|load| load.running == 0).await;
        let status = world.get_with(&file("files"), &fields).await.status.as_u16();
        let expected = match how {
            "client" | "key" => 401,
            "policy" => 403,
            _ => 200,
        };
        assert_eq!(status, expected, "{how}");
        world.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_ends_transfers_when_its_time_is_over() {
    let roster = Roster::new();
    let world = World::with(
        Settings::default(),
        roster
            .flags()
            .into_iter()
            .chain([flag("shutdown.drain", "200ms"), flag("shutdown.delay", "0s")])
            .collect(),
    )
    .await;
    world.fake.put_export(&scope(), "e1", State::Finished);
    world.fake.script(|script| script.store.parts = vec![PartSource::made(BIG, 0)]);
    world.fake.store_fault(StoreFault::Stall(1 << 20), None);
    let token = roster.token("files");
    let fields = [("authorization", token.as_str())];
    let target = file("files/1.csv");
    let download = world.try_send(Method::GET, &target, &fields, "");
    let end = async {
        sending(&world).await;
        world.begin_stop();
    };
    let (downloaded, ()) = tokio::join!(download, end);
    assert!(downloaded.is_err());
    let journal = world.journal();
    let directory = world.stop_keeping().await;
    let query = exportgate::journal::TransferQuery { limit: 10, ..Default::default() };
    let rows = exportgate::journal::find_transfers(&journal, &query).unwrap();
    assert_eq!(rows.len(), 1);
    assert_eq!(rows[0].outcome, "stopped");
    drop(directory);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transfer_is_on_record_counted_and_shown_while_it_runs() {
    let roster = Roster::new();
    let world = roster.world(vec![]).await;
    world.fake.script(|script| script.store.parts = PartSource::samples(&["a1", "a2", "a3"]));
    let token = roster.token("files");
    let fields = [("authorization", token.as_str())];
    let whole = world.get_with(&file("files/1.csv"), &fields).await;
    let row = world.wait_for_transfers(1).await;
    assert_eq!((&*row.outcome, &*row.client, &*row.file, &*row.export_id), ("proven", "files", "1", "e1"));
    assert_eq!(row.request_id, whole.field("exportgate-request-id"));
    assert_eq!((row.bytes, row.range_first), (i64::try_from(whole.body.len()).unwrap(), None));
    assert_eq!(row.host.as_deref(), Some("127.0.0.1"));
    let _ = world.get_with(&file("files/1.csv"), &[fields[0], ("range", "bytes=1-3")]).await;
    let row = world.wait_for_transfers(2).await;
    assert_eq!((&*row.outcome, row.bytes, row.range_first, row.range_last), ("range", 3, Some(1), Some(3)));
    // HEAD and 304 transfer nothing.
    let _ = world.send(Method::HEAD, &file("files/1.csv"), &fields, "").await;
    let _ = world.get_with(&file("files/1.csv"), &[fields[0], ("if-none-match", "*")]).await;
    let _ = world.get_with(&file("table.csv"), &fields).await;
    let row = world.wait_for_transfers(3).await;
    assert_eq!((&*row.file, row.bytes), ("table", 592));
    let metrics = world.get(&format!("{}/metrics", world.admin)).await;
    let metrics = std::str::from_utf8(&metrics.body).unwrap().to_owned();
    for line in [
        "exportgate_files_transfers_total{outcome=\"range\"} 1",
        "exportgate_files_running 0",
        &format!("exportgate_files_sent_bytes_total {}", whole.body.len() + 3 + 592),
    ] {
        assert!(metrics.contains(line), "{line}");
    }
    // Nothing of it is a request to Snyk.
    assert_eq!(world.records().len(), 1);

    // One that runs is shown, without a link.
    world.fake.script(|script| script.store.parts = vec![PartSource::made(BIG, 0)]);
    world.fake.put_export(&scope(), "e2", State::Finished);
    world.fake.store_fault(StoreFault::Stall(1 << 20), None);
    let target = file("files/1.csv").replace("e1", "e2");
    let download = world.try_send(Method::GET, &target, &fields, "");
    let look = async {
        sending(&world).await;
        let status = world.get(&format!("{}/api/status", world.admin)).await;
        let text = std::str::from_utf8(&status.body).unwrap().to_owned();
        assert!(!text.contains("X-Goog"), "{text}");
        let shown = status.json()["downloads"].clone();
        assert_eq!(shown["running"], 1, "{shown}");
        let one = &shown["oldest"][0];
        assert_eq!(
            (&one["client"], &one["export_id"], &one["file"]),
            (&"files".into(), &"e2".into(), &"1".into())
        );
        roster.write(&["reader"]);
    };
    let (downloaded, ()) = tokio::join!(download, look);
    assert!(downloaded.is_err());
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_download_holds_the_place_of_its_client_until_it_ends() {
    let roster = Roster::new();
    let clients = roster.directory.path().join("clients.toml");
    let text =
        std::fs::read_to_string(&clients).unwrap().replace("['files']", "['files']\nconcurrent_requests = 1");
    std::fs::write(&clients, text).unwrap();
    let world = slow_world(&roster).await;
    let token = roster.token("files");
    let fields = [("authorization", token.as_str())];
    let target = file("files/1.csv");
    let download = world.try_send(Method::GET, &target, &fields, "");
    let look = async {
        sending(&world).await;
        let more = world.get_with(&file("files"), &fields).await;
        assert_eq!((more.status, more.code()), (StatusCode::TOO_MANY_REQUESTS, "client_concurrency".into()));
        let purge = format!("{}/api/exports/{ORG}/e1", world.admin);
        assert_eq!(world.send(Method::DELETE, &purge, &[], "").await.status, 200);
    };
    let (downloaded, ()) = tokio::join!(download, look);
    assert!(downloaded.is_err());
    let _ = world.wait_for_transfers(1).await;
    while world.get_with(&file("files"), &fields).await.status != 200 {
        tokio::task::yield_now().await;
    }
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_takes_nothing_loses_its_download_all_the_same() {
    let roster = Roster::new();
    let world = roster.world(vec![]).await;
    world.fake.script(|script| script.store.parts = vec![PartSource::made(BIG, 0)]);
    let mut client = TcpStream::connect(world.root.strip_prefix("http://").unwrap()).await.unwrap();
    let head = format!(
        "GET {} HTTP/1.1\r\nhost: localhost\r\nauthorization: {}\r\n\r\n",
        file("files/1.csv"),
        roster.token("files")
    );
    client.write_all(head.as_bytes()).await.unwrap();
    sending(&world).await;
    roster.write(&["reader"]);
    let row = world.wait_for_transfers(1).await;
    assert_eq!(&*row.outcome, "revoked");
    world.fake.wait_for_store(|load| load.running == 0).await;
    // What was in the network's buffers still comes, and then the end: never all that was announced.
    let mut taken = Vec::new();
    let _ = client.read_to_end(&mut taken).await;
    assert!((taken.len() as u64) < BIG, "{}", taken.len());
    world.stop().await;
}
