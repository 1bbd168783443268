//! Keys, certificates, key sets and clients files are replaced under load: no request fails, and what is revoked
//! stops.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use exportgate::access::key::{Digest, generate};
use exportgate::fake::{Settings, State};
use http::{Method, StatusCode};

use crate::access::{Known, replace};
use crate::support::doors::Door;
use crate::support::pki::{Authority, Issuer, key_set};
use crate::support::{World, flag, keep_secret, results, scope};

/// A revoked credential must be refused within this time.
const REVOKED: Duration = Duration::from_secs(5);

/// Clients that ask all the time, each with what it is told to show; they count and never fail.
struct Load {
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicU64>,
    running: Vec<tokio::task::JoinHandle<()>>,
}

impl Load {
    fn new() -> Self {
        Self { stop: Arc::default(), answered: Arc::default(), running: Vec::new() }
    }

    /// One client on connections that it keeps; `fields` gives what it shows now.
    fn add(&mut self, door: Door, fields: impl Fn() -> Vec<(String, String)> + Send + 'static, fresh: bool) {
        let (stop, answered) = (Arc::clone(&self.stop), Arc::clone(&self.answered));
        self.running.push(tokio::spawn(async move {
            let mut connection = door.connect().await.expect("a connection");
            while !stop.load(Ordering::SeqCst) {
                if fresh {
                    connection = door.connect().await.expect("a handshake");
                }
                let owned = fields();
                let fields: Vec<(&str, &str)> = owned.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
                let got = connection.send(Method::GET, &results("e1"), &fields).await.expect("an answer");
                assert_eq!(got.status, StatusCode::OK, "{got:?}");
                answered.fetch_add(1, Ordering::SeqCst);
            }
        }));
    }

    /// Resolves when so many more answers have come.
    async fn more(&self, count: u64) {
        let until = self.answered.load(Ordering::SeqCst) + count;
        while self.answered.load(Ordering::SeqCst) < until {
            assert!(self.running.iter().all(|task| !task.is_finished()), "a client failed");
            tokio::task::yield_now().await;
        }
    }

    async fn end(self) {
        self.stop.store(true, Ordering::SeqCst);
        for task in self.running {
            task.await.expect("no request failed");
        }
    }
}

/// Resolves when `door` refuses `fields` with 401; that must be in time.
async fn until_refused(door: &Door, fields: &[(&str, &str)]) {
    let begun = Instant::now();
    while door.get(&results("e1"), fields).await.status != 401 {
        assert!(begun.elapsed() < REVOKED, "a revoked credential is still good");
    }
}

/// Resolves when `door` answers `fields`.
async fn until_taken(door: &Door, fields: &[(&str, &str)]) {
    let begun = Instant::now();
    while door.get(&results("e1"), fields).await.status != 200 {
        assert!(begun.elapsed() < REVOKED, "a new credential is not good yet");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_are_rotated_under_load_and_revoked_ones_stop() {
    let known = Known::new();
    let clients = |digests: &[String]| {
        let keys: Vec<String> = digests.iter().map(|digest| format!("'sha256:{digest}'")).collect();
        format!("[clients.tool]\nkeys = [{}]\norgs = ['*']\n", keys.join(", "))
    };
    let mut old = known.key.clone();
    let mut flags = known.flags(&clients(&[Digest::of(&old).to_hex()]));
    flags.push(flag("access.max_failures", "1000000"));
    let world = World::with(Settings::default(), flags).await;
    world.fake.put_export(&scope(), "e1", State::Finished);
    let shown = Arc::new(std::sync::Mutex::new(old.clone()));
    let mut load = Load::new();
    for fresh in [false, true] {
        let shown = Arc::clone(&shown);
        let fields = move || vec![("authorization".to_owned(), format!("token {}", shown.lock().unwrap()))];
        load.add(world.door(0, None), fields, fresh);
    }
    let door = world.door(0, None);
    for _ in 0..10 {
        let new = generate().unwrap().to_string();
        keep_secret([new.clone()]);
        let (of_old, of_new) = (Digest::of(&old).to_hex(), Digest::of(&new).to_hex());
        replace(&known.path("clients.toml"), &clients(&[of_old, of_new.clone()]));
        until_taken(&door, &[("authorization", &format!("token {new}"))]).await;
        *shown.lock().unwrap() = new.clone();
        load.more(10).await;
        replace(&known.path("clients.toml"), &clients(&[of_new]));
        until_refused(&door, &[("authorization", &format!("token {old}"))]).await;
        old = new;
    }
    // A bad clients file changes nothing, an empty one lets nobody in, and never everybody.
    let good = std::fs::read_to_string(known.path("clients.toml")).unwrap();
    for bad in ["[clients.tool", "[clients.tool]\nkyes = []\n", "\u{0}"] {
        replace(&known.path("clients.toml"), bad);
        load.more(20).await;
    }
    std::fs::remove_file(known.path("clients.toml")).unwrap();
    load.more(20).await;
    replace(&known.path("clients.toml"), &good);
    load.more(20).await;
    load.end().await;
    replace(&known.path("clients.toml"), "# nobody\n");
    until_refused(&door, &[("authorization", &format!("token {old}"))]).await;
    until_refused(&door, &[]).await;
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_are_replaced_under_load_and_a_revoked_client_stops_on_its_open_connection() {
    let known = Known::new();
    let clients =
        "[clients.a]\ncertificates = ['uri:spiffe://test/certified', 'subject:CN=b']\norgs = ['*']\n";
    let mut flags = known.flags(clients);
    flags.push(flag("access.max_failures", "1000000"));
    let world = World::with(Settings::default(), flags).await;
    world.fake.put_export(&scope(), "e1", State::Finished);
    let mut load = Load::new();
    let b = known.authority.client(9, None, "b");
    for fresh in [false, true] {
        load.add(world.door(1, Some(&known.tls(Some(&b)))), Vec::new, fresh);
    }
    // The server's certificate and key are replaced, one after the other, as deploys do.
    for _ in 0..10 {
        let new = known.authority.server();
        replace(&known.path("server.pem"), &new.certificate_pem);
        load.more(5).await;
        replace(&known.path("server.key"), &new.key_pem);
        load.more(5).await;
    }
    // A client's certificate is revoked while its connection is open.
    let door = world.door(1, Some(&known.tls(Some(&known.certificate))));
    let mut open = door.connect().await.unwrap();
    assert_eq!(open.send(Method::GET, &results("e1"), &[]).await.unwrap().status, 200);
    replace(&known.path("crl.pem"), &known.authority.revocations(&[7]));
    let begun = Instant::now();
    while open.send(Method::GET, &results("e1"), &[]).await.unwrap().status != 401 {
        assert!(begun.elapsed() < REVOKED, "a revoked certificate is still good");
    }
    assert!(door.send(Method::GET, &results("e1"), &[]).await.is_err(), "a revoked certificate shook hands");
    load.more(20).await;
    // The authority is replaced by one that signed neither.
    load.end().await;
    let mut still_open = world.door(1, Some(&known.tls(Some(&b)))).connect().await.unwrap();
    assert_eq!(still_open.send(Method::GET, &results("e1"), &[]).await.unwrap().status, 200);
    let other = Authority::new("other");
    replace(&known.path("crl.pem"), &other.revocations(&[]));
    replace(&known.path("ca.pem"), &other.pem());
    let begun = Instant::now();
    while still_open.send(Method::GET, &results("e1"), &[]).await.unwrap().status != 401 {
        assert!(begun.elapsed() < REVOKED, "a certificate of a former authority is still good");
    }
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_issuers_keys_are_rotated_under_load_from_a_file_and_from_a_url() {
    for from_url in [false, true] {
        let known = Known::new();
        let clients = "[clients.a]\ntokens = ['sub=system:serviceaccount:ci:exporter']\norgs = ['*']\n";
        let mut flags = known.flags(clients);
        flags.push(flag("access.max_failures", "1000000"));
        // The fake serves the key set as one of its exports.
        let keys =
            exportgate::fake::Fake::start(Settings { tls: false, ..Settings::default() }).await.unwrap();
        let publish = |issuers: &[&Issuer]| {
            let body = key_set(issuers);
            replace(&known.path("jwks.json"), &body);
            keys.put_export(
                "orgs/keys",
                "set",
                State::Raw { status: 200, headers: vec![], body: body.into() },
            );
        };
        publish(&[&known.issuer]);
        if from_url {
            flags.retain(|(key, ..)| *key != "oidc.jwks_file");
            std::fs::write(known.path("sa-token"), "sa-token-0123456789\n").unwrap();
            flags.push(flag("oidc.jwks_token_file", known.path("sa-token").display()));
            flags.push(flag(
                "oidc.jwks_url",
                format!("{}/rest/orgs/keys/export/set?version=2024-10-15", keys.url()),
            ));
            flags.push(flag("oidc.refresh", "1s"));
        }
        let world = World::with(Settings::default(), flags).await;
        world.fake.put_export(&scope(), "e1", State::Finished);
        let subject = "system:serviceaccount:ci:exporter";
        let bearer = |issuer: &Issuer| {
            let token = issuer.token(subject, 600);
            keep_secret([token.clone()]);
            format!("bearer {token}")
        };
        let shown = Arc::new(std::sync::Mutex::new(bearer(&known.issuer)));
        let mut load = Load::new();
        let fields = {
            let shown = Arc::clone(&shown);
            move || vec![("authorization".to_owned(), shown.lock().unwrap().clone())]
        };
        load.add(world.door(0, None), fields, false);
        load.more(5).await;
        let next = Issuer::new("k2");
        publish(&[&known.issuer, &next]);
        if !from_url {
            until_taken(&world.door(0, None), &[("authorization", &bearer(&next))]).await;
        }
        // From a URL, a key that is not known yet is asked for when its first token comes.
        *shown.lock().unwrap() = bearer(&next);
        load.more(50).await;
        // A broken set keeps the last good keys.
        let broken = State::Raw { status: 500, headers: vec![], body: "oops".into() };
        keys.put_export("orgs/keys", "set", broken);
        replace(&known.path("jwks.json"), "{}");
        load.more(50).await;
        publish(&[&next]);
        until_refused(&world.door(0, None), &[("authorization", &bearer(&known.issuer))]).await;
        load.more(5).await;
        load.end().await;
        if from_url {
            let seen = keys.requests();
            assert!(seen.iter().all(|seen| seen.header("authorization") == ["Bearer sa-token-0123456789"]));
        }
        world.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn unknown_signers_cost_the_issuer_at_most_one_request_a_second() {
    let known = Known::new();
    let keys = exportgate::fake::Fake::start(Settings { tls: false, ..Settings::default() }).await.unwrap();
    let body = key_set(&[&known.issuer]);
    keys.put_export("orgs/keys", "set", State::Raw { status: 200, headers: vec![], body: body.into() });
    let mut flags = known.flags("[clients.a]\ntokens = ['sub=x']\norgs = ['*']\n");
    flags.retain(|(key, ..)| *key != "oidc.jwks_file");
    flags.push(flag("oidc.jwks_url", format!("{}/rest/orgs/keys/export/set?version=2024-10-15", keys.url())));
    flags.push(flag("oidc.refresh", "1h"));
    let world = World::with(Settings::default(), flags).await;
    let begun = Instant::now();
    let asking = (0..200).map(|n| {
        let token = format!("bearer {}", Issuer::new(&format!("unknown-{n}")).token("x", 600));
        let world = &world;
        async move { world.get_with(&results("e1"), &[("authorization", &token)]).await.status.as_u16() }
    });
    let statuses = futures_util::future::join_all(asking).await;
    assert!(statuses.iter().all(|status| [401, 429].contains(status)), "{statuses:?}");
    // One at the start, and one for each second that all of it took, whatever that was.
    let most = 2 + begun.elapsed().as_secs();
    assert!(keys.hits().api() <= most, "{} in {:?}", keys.hits().api(), begun.elapsed());
    world.stop().await;
}
