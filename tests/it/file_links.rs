//! Links that must not be followed, through the whole gateway: nothing is connected to, and nothing but the allowed fields
//! reaches a store.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use exportgate::fake::{Fake, Settings, State};
use exportgate::transport::Resolver;
use tokio::net::TcpListener;

use crate::support::upstream::{Answer, Upstream};
use crate::support::{ORG, TOKEN, V, World, flag, keep_secret, scope};

const HOST: &str = "bucket.storage.googleapis.com";
const QUERY: &str = "X-Goog-SignedHeaders=host&X-Goog-Signature=f11e5s3cret";

/// Names that were looked up, and the addresses that they had in turn; the last ones stay.
#[derive(Default)]
struct Names {
    addresses: Mutex<VecDeque<SocketAddr>>,
    asked: Mutex<Vec<String>>,
}

impl Names {
    fn of(addresses: &[SocketAddr]) -> Arc<Self> {
        let addresses = Mutex::new(addresses.iter().copied().collect());
        Arc::new(Self { addresses, ..Self::default() })
    }

    /// Every connection to a store begins here, also that to an address.
    fn resolver(self: &Arc<Self>) -> Resolver {
        let names = Arc::clone(self);
        Resolver::Own(Arc::new(move |name, _| {
            names.asked.lock().unwrap().push(name.to_owned());
            let mut addresses = names.addresses.lock().unwrap();
            let next = if addresses.len() > 1 { addresses.pop_front() } else { addresses.front().copied() };
            next.into_iter().collect()
        }))
    }

    fn asked(&self) -> usize {
        self.asked.lock().unwrap().len()
    }
}

/// The results of an export with one part.
fn finished(link: &str) -> State {
    let part = serde_json::json!({"url": link, "row_count": 1, "file_size": 8});
    let attributes = serde_json::json!({"status": "FINISHED", "row_count": 1, "results": [part]});
    let document = serde_json::json!({"data": {"type": "export", "id": "e1", "attributes": attributes}});
    let headers = vec![("content-type".to_owned(), "application/vnd.api+json".to_owned())];
    State::Raw { status: 200, headers, body: document.to_string().into() }
}

fn file(name: &str) -> String {
    format!("/rest/orgs/{ORG}/export/e1/{name}?{V}")
}

/// A store with a certificate for [`HOST`], and a gateway to which 127.0.0.1 is public, and 127.0.0.2 is not.
async fn world(names: &Arc<Names>, store: &Upstream) -> World {
    keep_secret(["f11e5s3cret".to_owned()]);
    let fake = Fake::start(Settings { tls: false, ..Settings::default() }).await.unwrap();
    let ca = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(ca.path(), &store.ca_pem).unwrap();
    let flags =
        vec![flag("files.ca_file", ca.path().display()), flag("files.private_addresses", "127.0.0.1/32")];
    let upstream = fake.url();
    World::resolving(fake, &upstream, flags, names.resolver()).await
}

async fn store() -> (Upstream, SocketAddr) {
    let answer = "HTTP/1.1 200 OK\r\netag: \"v1\"\r\ncontent-length: 8\r\n\r\nA,B\n1,2\n";
    let store = Upstream::https1(HOST, move |_, _| Answer { bytes: answer.into(), closes: true }).await;
    let address = store.url.strip_prefix("https://").unwrap().parse().unwrap();
    (store, address)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_link_to_elsewhere_is_refused_and_nothing_is_connected_to() {
    let (store, address) = store().await;
    let names = Names::of(&[address]);
    let world = world(&names, &store).await;
    for link in [
        "https://127.0.0.1/a",
        "https://169.254.169.254/latest/meta-data/",
        "https://[::1]/a",
        "https://[::ffff:10.0.0.1]/a",
        "https://2130706433/a",
        "https://storage.googleapis.com.evil.test/a",
        "https://storage.googleapis.com@evil.test/a",
        "https://user:password@storage.googleapis.com/a",
        "https://storage.googleapis.com:8443/a",
        "http://storage.googleapis.com/a",
        "file:///etc/passwd",
    ] {
        world.fake.put_export(&scope(), "e1", finished(&format!("{link}?{QUERY}")));
        for name in ["files/1.csv", "table.csv"] {
            let got = world.get_with(&file(name), &[("cache-control", "no-cache")]).await;
            assert_eq!((got.status.as_u16(), &*got.code()), (502, "host_not_allowed"), "{link}");
        }
    }
    assert_eq!((names.asked(), store.connections()), (0, 0));
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_is_private_the_next_time_is_not_connected_to() {
    let (store, good) = store().await;
    let inner = TcpListener::bind("127.0.0.2:0").await.unwrap();
    let names = Names::of(&[good, inner.local_addr().unwrap()]);
    let world = world(&names, &store).await;
    world.fake.put_export(&scope(), "e1", finished(&format!("https://{HOST}/a.csv?{QUERY}")));
    assert_eq!(world.get(&file("files/1.csv")).await.body, "A,B\n1,2\n");
    for _ in 0..3 {
        let got = world.get(&file("files/1.csv")).await;
        assert_eq!((got.status.as_u16(), &*got.code()), (502, "host_not_allowed"));
    }
    assert_eq!((names.asked(), store.connections()), (4, 1));
    let none = tokio::time::timeout(Duration::ZERO, inner.accept()).await;
    assert!(none.is_err(), "a connection");
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_gets_nothing_of_a_clients_request() {
    let (store, address) = store().await;
    let names = Names::of(&[address]);
    let world = world(&names, &store).await;
    world.fake.put_export(&scope(), "e1", finished(&format!("https://{HOST}/a.csv?{QUERY}")));
    let token = format!("token {TOKEN}");
    let fields = [
        ("authorization", token.as_str()),
        ("session-token", TOKEN),
        ("cookie", "a=b"),
        ("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
        ("baggage", "a=b"),
        ("x-amz-security-token", "a"),
        ("via", "1.1 other"),
        ("user-agent", "curl/8"),
        ("accept", "text/csv"),
        ("accept-encoding", "gzip"),
        ("snyk-request-id", "0af76519-16cd-43dd-8448-eb211c80319c"),
    ];
    assert_eq!(world.get_with(&file("files/1.csv"), &fields).await.status, 200);
    let heads = store.heads();
    let mut lines: Vec<&str> = heads[0].trim_end().lines().collect();
    lines[1..].sort_unstable();
    let agent = format!("user-agent: exportgate/{}", env!("CARGO_PKG_VERSION"));
    let target = format!("get /a.csv?{} http/1.1", QUERY.to_ascii_lowercase());
    assert_eq!(lines, [&*target, "accept-encoding: identity", &format!("host: {HOST}"), &agent]);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_link_that_is_signed_for_other_fields_is_drift() {
    let (store, address) = store().await;
    let names = Names::of(&[address]);
    let world = world(&names, &store).await;
    let drift = async || {
        let status = world.get(&format!("{}/api/status", world.admin)).await.json();
        let signs = status["drift"].as_array().unwrap().clone();
        signs.into_iter().find(|sign| sign["kind"] == "signed_fields")
    };
    let link = format!("https://{HOST}/a.csv?{QUERY}&X-Goog-Date=20260212T200947Z&X-Goog-Expires=3600");
    world.fake.put_export(&scope(), "e1", finished(&link));
    assert_eq!(world.get(&file("files")).await.status, 200);
    assert_eq!(drift().await, None);
    world.fake.put_export(&scope(), "e1", finished(&link.replace("=host&", "=host%3Brange&")));
    assert_eq!(world.get_with(&file("files"), &[("cache-control", "no-cache")]).await.status, 200);
    let sign = drift().await.expect("a sign");
    let detail = "a link of export e1 is signed for more header fields than Host: a file store refuses it";
    assert_eq!((&sign["count"], &sign["detail"]), (&1.into(), &detail.into()));
    world.stop().await;
}
