//! Who gets in and what they may do: every kind of caller, by every door, on a miss, a hit and a flight.

use std::path::Path;
use std::sync::Arc;

use exportgate::access::key::{Digest, generate};
use exportgate::fake::{Settings, State};
use http::Method;
use serde_json::json;
use tempfile::TempDir;

use crate::support::doors::{Door, tls_client};
use crate::support::pki::{Authority, Identity, Issuer, claims, key_set};
use crate::support::{Flags, Got, ORG, V, World, flag, keep_secret, results, scope};

const OTHER_ORG: &str = "00000000-1111-4222-8333-444444444444";

/// A name, a door and the fields that are sent.
type Caller = (&'static str, Door, Vec<(String, String)>);

/// Everything that callers of the tests are known by.
pub(crate) struct Known {
    pub(crate) directory: TempDir,
    pub(crate) authority: Authority,
    pub(crate) issuer: Issuer,
    pub(crate) key: String,
    pub(crate) certificate: Identity,
}

impl Known {
    pub(crate) fn new() -> Self {
        let authority = Authority::new("clients");
        let key = generate().unwrap().to_string();
        keep_secret([key.clone(), key[4..24].to_owned()]);
        let certificate = authority.client(7, Some("spiffe://test/certified"), "certified");
        let directory = TempDir::new().unwrap();
        Self { directory, authority, issuer: Issuer::new("k1"), key, certificate }
    }

    pub(crate) fn path(&self, name: &str) -> std::path::PathBuf {
        self.directory.path().join(name)
    }

    /// A client of each kind with `policy`, and one that may do nothing.
    fn clients(&self, policy: &str) -> String {
        let digest = Digest::of(&self.key).to_hex();
        let user = std::os::unix::fs::MetadataExt::uid(&std::fs::metadata(self.directory.path()).unwrap());
        format!(
            "[clients.keyed]\nkeys = ['sha256:{digest}']\n{policy}\n\
             [clients.certified]\ncertificates = ['uri:spiffe://test/certified']\n{policy}\n\
             [clients.tokened]\ntokens = ['sub=system:serviceaccount:ci:exporter']\n{policy}\n\
             [clients.user]\nunix_users = [{user}]\n{policy}\n"
        )
    }

    /// Flags for a gateway with a plain, a TLS and a Unix door and these clients.
    pub(crate) fn flags(&self, clients: &str) -> Flags {
        let server = self.authority.server();
        let write = |name: &str, text: &str| {
            std::fs::write(self.path(name), text).unwrap();
            self.path(name).display().to_string()
        };
        let listen = format!("127.0.0.1:0,tls:127.0.0.1:0,unix:{}", self.path("socket").display());
        vec![
            flag("listen", listen),
            flag("access.clients_file", write("clients.toml", clients)),
            flag("access.reload_interval", "10ms"),
            flag("tls.certificate", write("server.pem", &server.certificate_pem)),
            flag("tls.key", write("server.key", &server.key_pem)),
            flag("tls.client_ca", write("ca.pem", &self.authority.pem())),
            flag("tls.client_crl", write("crl.pem", &self.authority.revocations(&[]))),
            flag("oidc.issuer", "https://issuer.test"),
            flag("oidc.audience", "exportgate"),
            flag("oidc.jwks_file", write("jwks.json", &key_set(&[&self.issuer]))),
        ]
    }

    pub(crate) async fn world(&self, clients: &str) -> World {
        World::with(Settings::default(), self.flags(clients)).await
    }

    pub(crate) fn tls(&self, identity: Option<&Identity>) -> Arc<rustls::ClientConfig> {
        tls_client(&self.authority.pem(), identity, &[b"h2", b"http/1.1"])
    }

    /// Each kind of caller: its name, its door and the fields that it sends.
    fn callers(&self, world: &World) -> Vec<Caller> {
        let field = |name: &str, value: String| vec![(name.to_owned(), value)];
        let plain = || world.door(0, None);
        let token = self.issuer.token("system:serviceaccount:ci:exporter", 600);
        keep_secret([token.clone()]);
        vec![
            ("keyed", plain(), field("authorization", format!("token {}", self.key))),
            ("keyed", plain(), field("authorization", format!("Bearer {}", self.key))),
            ("keyed", plain(), field("session-token", format!("token {}", self.key))),
            ("keyed", plain(), field("session-token", self.key.clone())),
            (
                "keyed",
                world.door(1, Some(&self.tls(None))),
                field("authorization", format!("token {}", self.key)),
            ),
            ("tokened", plain(), field("authorization", format!("bearer {token}"))),
            ("certified", world.door(1, Some(&self.tls(Some(&self.certificate)))), vec![]),
            // A Snyk token that a tool still sends is nothing, and the certificate counts.
            (
                "certified",
                world.door(1, Some(&self.tls(Some(&self.certificate)))),
                field("authorization", "token 11111111-2222-4333-8444-555555555555".into()),
            ),
            ("user", world.door(2, None), vec![]),
        ]
    }
}

fn borrowed(fields: &[(String, String)]) -> Vec<(&str, &str)> {
    fields.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect()
}

/// A status, fields and a body.
type Plain = (u16, Vec<(String, String)>, String);

/// An answer without what names one request.
fn without_ids(got: &Got) -> Plain {
    let id = got.field("exportgate-request-id").to_owned();
    let fields =
        got.fields.iter().map(|(name, value)| (name.to_string(), value.to_str().unwrap().to_owned()));
    let fields = fields.filter(|(name, _)| name != "exportgate-request-id" && name != "date").collect();
    (got.status.as_u16(), fields, String::from_utf8_lossy(&got.body).replace(&id, "ID"))
}

#[tokio::test(flavor = "multi_thread")]
async fn every_kind_of_caller_may_do_what_its_policy_says_and_shares_one_entry() {
    let known = Known::new();
    let world =
        known.world(&known.clients(&format!("orgs = ['{ORG}']\noperations = ['read', 'start']"))).await;
    world.fake.put_export(&scope(), "e1", State::Finished);
    let callers = known.callers(&world);
    for (at, (name, door, fields)) in callers.iter().enumerate() {
        let fields = borrowed(fields);
        let got = door.get(&results("e1"), &fields).await;
        assert_eq!((got.status.as_u16(), got.is_hit()), (200, at > 0), "{name} {got:?}");
        let start = door.send(Method::POST, &format!("/orgs/{ORG}/export?{V}"), &fields).await.unwrap();
        assert_eq!(start.status, 202, "{name}");
        // The journal names the client.
        let record = &world.records()[0];
        assert_eq!((record.operation.as_str(), record.client.as_str()), ("start", *name));
        // What goes up is our credential alone.
        let seen = world.fake.requests();
        assert_eq!(
            seen.last().unwrap().header("authorization"),
            [format!("token {}", crate::support::TOKEN)]
        );
        assert!(seen.last().unwrap().header("session-token").is_empty());
    }
    assert_eq!(world.fake.hits().results, 1);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_denied_learns_nothing_and_costs_snyk_nothing() {
    for (hide, status, code) in [("false", 403, "forbidden"), ("true", 404, "not_found")] {
        let known = Known::new();
        let mut flags =
            known.flags(&known.clients(&format!("orgs = ['{OTHER_ORG}']\noperations = ['read']")));
        flags.push(flag("access.hide", hide));
        let world = World::with(Settings::default(), flags).await;
        // A hit, a missing export, and a flight that somebody who may is waiting for.
        let admin = generate().unwrap().to_string();
        let everything = format!(
            "{}[clients.admin]\nkeys = ['sha256:{}']\norgs = ['*']\n",
            known.clients(&format!("orgs = ['{OTHER_ORG}']\noperations = ['read']")),
            Digest::of(&admin).to_hex()
        );
        replace(&known.path("clients.toml"), &everything);
        world.fake.put_export(&scope(), "hit", State::Finished);
        let as_admin = format!("token {admin}");
        let admin_fields = [("authorization", as_admin.as_str())];
        while world.get_with(&results("hit"), &admin_fields).await.status != 200 {}
        assert!(world.get_with(&results("hit"), &admin_fields).await.is_hit());
        let before = world.fake.hits().api();
        let gate = world.fake.hold();
        let flying = results("flying");
        let flight = world.get_with(&flying, &admin_fields);
        let denied = async {
            world.fake.wait_for_hits(before + 1).await;
            for (name, door, fields) in &known.callers(&world) {
                let fields = borrowed(fields);
                let mut answers = Vec::new();
                for export in ["hit", "missing", "flying"] {
                    answers.push(without_ids(&door.get(&results(export), &fields).await));
                }
                assert_eq!(
                    (answers[0].0, answers[0].2.contains(code)),
                    (status, true),
                    "{name}: {answers:?}"
                );
                assert!(answers.iter().all(|answer| *answer == answers[0]), "{name}: {answers:?}");
                let start = door.send(Method::POST, &format!("/orgs/{OTHER_ORG}/export?{V}"), &fields).await;
                assert_eq!(start.unwrap().status, status, "{name}");
            }
            drop(gate);
        };
        let (flight, ()) = tokio::join!(flight, denied);
        assert_eq!(flight.status, 404);
        assert_eq!(world.fake.hits().api(), before + 1);
        world.stop().await;
    }
}

/// Replaces a file as careful people do.
pub(crate) fn replace(path: &Path, text: &str) {
    let new = path.with_extension("new");
    std::fs::write(&new, text).unwrap();
    std::fs::rename(&new, path).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_known_gets_401_and_no_reason() {
    let known = Known::new();
    let digest_of_expired = {
        let key = generate().unwrap().to_string();
        (Digest::of(&key).to_hex(), key)
    };
    let clients = format!(
        "{}[clients.late]\nkeys = ['sha256:{} until 2020-01-01']\norgs = ['*']\n",
        known.clients("orgs = ['*']"),
        digest_of_expired.0
    );
    let mut flags = known.flags(&clients);
    flags.push(flag("access.max_failures", "1000"));
    let world = World::with(Settings::default(), flags).await;
    world.fake.put_export(&scope(), "e1", State::Finished);
    let unknown = generate().unwrap().to_string();
    let mut typo = known.key.clone();
    typo.replace_range(8..9, if &typo[8..9] == "0" { "1" } else { "0" });
    let stranger = Issuer::new("k1");
    let good = "system:serviceaccount:ci:exporter";
    let with = |change: fn(&mut serde_json::Value)| {
        let mut claims = claims(good, 600);
        change(&mut claims);
        known.issuer.sign(&claims)
    };
    let mut reference: Option<Plain> = None;
    let no_alg = {
        let token = known.issuer.token(good, 600);
        // {"alg":"none"}
        format!("eyJhbGciOiJub25lIn0.{}.", token.split('.').nth(1).unwrap())
    };
    let hmac = {
        use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
        let mut header = Header::new(Algorithm::HS256);
        header.kid = Some("k1".to_owned());
        let public = known.issuer.jwk()["x"].as_str().unwrap().to_owned();
        encode(&header, &claims(good, 600), &EncodingKey::from_secret(public.as_bytes())).unwrap()
    };
    for (name, value) in [
        ("nothing", String::new()),
        ("another scheme", format!("basic {}", known.key)),
        ("no scheme", known.key.clone()),
        ("unknown key", format!("token {unknown}")),
        ("a typing error", format!("token {typo}")),
        ("expired key", format!("token {}", digest_of_expired.1)),
        ("a Snyk token", "token 11111111-2222-4333-8444-555555555555".to_owned()),
        ("another issuer's signature", format!("bearer {}", stranger.token(good, 600))),
        ("expired token", format!("bearer {}", known.issuer.token(good, -60))),
        ("unknown subject", format!("bearer {}", known.issuer.token("system:serviceaccount:ci:other", 600))),
        ("another audience", format!("bearer {}", with(|claims| claims["aud"] = json!("somebody")))),
        ("no audience", format!("bearer {}", with(|claims| claims["aud"] = json!(null)))),
        ("another issuer", format!("bearer {}", with(|claims| claims["iss"] = json!("https://evil.test")))),
        ("no end", format!("bearer {}", with(|claims| claims["exp"] = json!("never")))),
        ("not yet", format!("bearer {}", with(|claims| claims["nbf"] = claims["exp"].clone()))),
        ("alg none", format!("bearer {no_alg}")),
        ("hmac with the public key", format!("bearer {hmac}")),
    ] {
        let fields: Vec<(&str, &str)> =
            if value.is_empty() { vec![] } else { vec![("authorization", value.as_str())] };
        let got = world.get_with(&results("e1"), &fields).await;
        assert_eq!((got.status.as_u16(), got.code().as_str()), (401, "unauthorized"), "{name}");
        assert_eq!(got.field("www-authenticate"), "Bearer realm=\"exportgate\"");
        let plain = without_ids(&got);
        assert_eq!(*reference.get_or_insert_with(|| plain.clone()), plain, "{name}");
    }
    // Two credentials of different clients, or one twice, are nobody's.
    let token = format!("bearer {}", known.issuer.token(good, 600));
    let key = format!("token {}", known.key);
    for fields in [
        vec![("authorization", key.as_str()), ("session-token", token.as_str())],
        vec![("authorization", key.as_str()), ("authorization", key.as_str())],
    ] {
        assert_eq!(world.get_with(&results("e1"), &fields).await.status, 401);
    }
    // A wrong key is refused even where a certificate would do; a certificate of nobody is nobody's.
    let certified = world.door(1, Some(&known.tls(Some(&known.certificate))));
    let wrong = format!("token {unknown}");
    assert_eq!(certified.get(&results("e1"), &[("authorization", &wrong)]).await.status, 401);
    let nobody = known.authority.client(8, Some("spiffe://test/nobody"), "nobody");
    assert_eq!(world.door(1, Some(&known.tls(Some(&nobody)))).get(&results("e1"), &[]).await.status, 401);
    // One of another authority does not even shake hands.
    let foreign = Authority::new("foreign").client(7, Some("spiffe://test/certified"), "certified");
    let refused =
        world.door(1, Some(&known.tls(Some(&foreign)))).send(Method::GET, &results("e1"), &[]).await;
    assert!(refused.is_err());
    assert_eq!(world.fake.hits().api(), 0);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn failures_are_limited_by_address_and_a_valid_key_always_passes() {
    let known = Known::new();
    let mut flags = known.flags(&known.clients("orgs = ['*']"));
    flags.push(flag("access.max_failures", "5"));
    let world = World::with(Settings::default(), flags).await;
    let key = format!("token {}", known.key);
    let mut statuses = Vec::new();
    for _ in 0..10 {
        let failed = world.get(&results("e1")).await;
        statuses.push(failed.status.as_u16());
        if failed.status == 429 {
            assert_eq!((failed.code().as_str(), failed.field("retry-after")), ("too_many_failures", "60"));
        }
        assert_eq!(world.get_with(&results("e1"), &[("authorization", &key)]).await.status, 404);
    }
    assert_eq!(statuses, [401, 401, 401, 401, 401, 429, 429, 429, 429, 429]);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_may_ask_only_so_much_and_its_neighbour_is_unharmed() {
    let known = Known::new();
    let other = generate().unwrap().to_string();
    let clients = format!(
        "[clients.small]\nkeys = ['sha256:{}']\norgs = ['*']\nrequests_per_minute = 3\n\
         [clients.one]\nkeys = ['sha256:{}']\norgs = ['*']\nconcurrent_requests = 1\n",
        Digest::of(&known.key).to_hex(),
        Digest::of(&other).to_hex()
    );
    let world = known.world(&clients).await;
    let (small, one) = (format!("token {}", known.key), format!("token {other}"));
    for _ in 0..3 {
        assert_eq!(world.get_with(&results("e1"), &[("authorization", &small)]).await.status, 404);
    }
    let over = world.get_with(&results("e1"), &[("authorization", &small)]).await;
    assert_eq!((over.status.as_u16(), over.code().as_str()), (429, "client_rate"));
    assert!((1..=60).contains(&over.field("retry-after").parse::<u64>().unwrap()));
    // What it has used survives a reload of the clients file.
    replace(&known.path("clients.toml"), &format!("{clients}# again\n"));
    for _ in 0..20 {
        assert_eq!(world.get_with(&results("e1"), &[("authorization", &small)]).await.status, 429);
        assert_eq!(world.get_with(&results("e1"), &[("authorization", &one)]).await.status, 404);
    }
    let hits = world.fake.hits().api();
    let gate = world.fake.hold();
    let (first, fields) = (results("held"), [("authorization", one.as_str())]);
    let running = world.get_with(&first, &fields);
    let second = async {
        world.fake.wait_for_hits(hits + 1).await;
        let got = world.get_with(&results("e2"), &fields).await;
        assert_eq!((got.status.as_u16(), got.code().as_str()), (429, "client_concurrency"));
        drop(gate);
    };
    let (running, ()) = tokio::join!(running, second);
    assert_eq!(running.status, 404);
    assert_eq!(world.get_with(&results("e2"), &fields).await.status, 404);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_leaves_does_not_free_its_place_before_its_request_has_ended() {
    let known = Known::new();
    let digest = Digest::of(&known.key).to_hex();
    let clients =
        format!("[clients.one]\nkeys = ['sha256:{digest}']\norgs = ['*']\nconcurrent_requests = 1\n");
    let world = known.world(&clients).await;
    let key = format!("token {}", known.key);
    let fields = [("authorization", key.as_str())];
    let gate = world.fake.hold();
    {
        let target = results("left");
        let leaving = world.get_with(&target, &fields);
        tokio::select! {
            _ = leaving => panic!("it was held"),
            () = world.fake.wait_for_hits(1) => {}
        }
    }
    // The connection is gone, the request to Snyk is not.
    for n in 0..20 {
        let got = world.get_with(&results(&format!("e{n}")), &fields).await;
        assert_eq!(got.code(), "client_concurrency");
    }
    assert_eq!(world.fake.hits().api(), 1);
    drop(gate);
    while world.get_with(&results("e1"), &fields).await.status == 429 {}
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn groups_have_a_policy_and_those_who_may_share_a_flight() {
    let known = Known::new();
    let world = known.world(&known.clients("groups = ['g_1']")).await;
    let callers = known.callers(&world);
    let gate = world.fake.hold();
    let target = format!("/groups/g_1/export/e1?{V}");
    let asking = callers.iter().map(|(name, door, fields)| {
        let target = &target;
        async move { (*name, door.get(target, &borrowed(fields)).await) }
    });
    let landing = async {
        world.wait_for_followers(callers.len()).await;
        drop(gate);
    };
    let (answers, ()) = tokio::join!(futures_util::future::join_all(asking), landing);
    assert!(answers.iter().all(|(_, got)| got.status == 404), "{answers:?}");
    assert_eq!(world.fake.hits().api(), 1);
    for (name, door, fields) in &callers {
        let fields = borrowed(fields);
        assert_eq!(door.get(&results("e1"), &fields).await.status, 403, "{name}");
        assert_eq!(door.get(&format!("/groups/g_2/export/e1?{V}"), &fields).await.status, 403, "{name}");
    }
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn other_calls_stay_within_the_scopes_that_their_path_names() {
    let known = Known::new();
    let mut flags = known.flags(&known.clients(&format!("orgs = ['{ORG}']\noperations = ['read', 'other']")));
    flags.push(flag("routes.other", "forward"));
    let world = World::with(Settings::default(), flags).await;
    let key = format!("token {}", known.key);
    let fields = [("authorization", key.as_str())];
    for (target, status) in [
        (format!("/rest/orgs/{ORG}/issues?{V}"), 200),
        (format!("/v1/org/{ORG}/projects"), 200),
        (format!("/rest/orgs/{OTHER_ORG}/issues?{V}"), 403),
        (format!("/v1/org/{OTHER_ORG}/projects"), 403),
        (format!("/rest/ORGS/{OTHER_ORG}/issues"), 403),
        (format!("/rest/self?{V}"), 403),
        ("/v1/reporting/issues".to_owned(), 403),
        (format!("/orgs/{ORG}/export/e1?{V}"), 404),
    ] {
        assert_eq!(world.get_with(&target, &fields).await.status, status, "{target}");
    }
    assert_eq!(world.fake.hits().other, 2);
    assert_eq!(world.records()[1].scope_id.as_deref(), Some(ORG));
    world.stop().await;
}
