//! What tells who a client is: JWK sets, JWTs, client keys and the clients file.
//!
//! The first byte says which; the rest is its text.

#![no_main]

use std::sync::OnceLock;
use std::time::{Duration, SystemTime};

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::hmac;
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use exportgate::access::key::{self, Digest, Key};
use exportgate::access::token::{TokenRules, Keys, is_jwt_like, verify};
use exportgate::config::clients;
use jsonwebtoken::Algorithm;
use libfuzzer_sys::fuzz_target;
use serde_json::{Map, Value, json};
use toml::de::DeTable;

const NOW: u64 = 1_800_000_000;
const LEEWAY: u64 = 30;
const ISSUER: &str = "https://issuer.example";
const AUDIENCE: &str = "exportgate";
const KEY_ID: &str = "k1";

fuzz_target!(|data: &[u8]| {
    let Some((which, rest)) = data.split_first() else { return };
    match which % 6 {
        0 => key_set(rest),
        1 => signed(rest),
        2 => unsigned(rest),
        3 => client_key(rest),
        4 => key_entry(rest),
        _ => drop(clients_file(rest)),
    }
});

/// A set of keys; no text in it is a secret that a token can be made with (RFC 8725 §2.1).
fn key_set(data: &[u8]) {
    let Ok(keys) = Keys::parse(data) else { return };
    let set: Value = serde_json::from_slice(data).expect("a key set that was read is JSON");
    let listed = set["keys"].as_array().expect("a list of keys");
    for key in listed.iter().filter_map(Value::as_object).take(4) {
        let texts = key.values().filter_map(Value::as_str);
        let secrets = texts.flat_map(|text| [Some(text.as_bytes().to_vec()), BASE64.decode(text).ok()]);
        for secret in secrets.flatten() {
            let secret = hmac::Key::new(hmac::HMAC_SHA256, &secret);
            let head = json!({"alg": "HS256", "kid": key.get("kid")}).to_string();
            let token =
                token(&head, &claims().to_string(), |message| hmac::sign(&secret, message).as_ref().to_vec());
            let expected = TokenRules { algorithms: vec![Algorithm::HS256], ..expected() };
            assert!(verify(&token, &keys, &expected, now()).is_err());
        }
    }
    let head = r#"{"alg":"none"}"#;
    assert!(verify(&token(head, &claims().to_string(), |_| Vec::new()), &keys, &expected(), now()).is_err());
}

/// A token that is rightly signed, whatever its head and claims are: `head newline claims`.
fn signed(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let (head, claims) = text.split_once('\n').unwrap_or((r#"{"alg":"EdDSA","kid":"k1"}"#, text));
    let (pair, keys) = signer();
    let token = token(head, claims, |message| pair.sign(message).as_ref().to_vec());
    let Ok(claims) = verify(&token, keys, &expected(), now()) else { return };

    let head: Value = serde_json::from_str(head).expect("a head that passed is JSON");
    assert_eq!(head["alg"], "EdDSA");
    assert!(head["kid"].is_null() || head["kid"] == KEY_ID);
    assert!(head.get("crit").is_none_or(Value::is_null));
    let has = |name: &str, wanted: &str| match &claims[name] {
        Value::String(one) => one == wanted,
        Value::Array(many) => many.iter().any(|one| one == wanted),
        _ => false,
    };
    assert!(has("iss", ISSUER) && has("aud", AUDIENCE), "{claims:?}");
    let time = |name: &str| claims.get(name).map(|time| time.as_f64().expect("a time is a number"));
    let at = Duration::from_secs(NOW).as_secs_f64();
    let leeway = Duration::from_secs(LEEWAY).as_secs_f64();
    assert!(time("exp").is_some_and(|end| at < end + leeway), "{claims:?}");
    assert!(time("nbf").is_none_or(|begin| begin <= at + leeway), "{claims:?}");
}

/// Text that nobody signed.
fn unsigned(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let passed = verify(&text, &signer().1, &expected(), now());
    assert!(passed.is_err(), "{text}");
    if is_jwt_like(&text) {
        assert!(text.starts_with("eyJ") && text.matches('.').count() == 2);
    }
}

/// A client key: one that is whole is refused as soon as a character differs.
fn client_key(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    if key::is_well_formed(&text) {
        assert!(text.len() == 52 && text.starts_with(key::PREFIX) && text.is_ascii(), "{text}");
    }
    let mut random = [0; 20];
    for (to, from) in random.iter_mut().zip(data) {
        *to = *from;
    }
    let whole = make_key(&random);
    assert!(key::is_well_formed(&whole));
    let at = data.get(20).map_or(0, |at| usize::from(*at) % whole.len());
    let with = data.get(21).map_or('x', |with| char::from(*with));
    let mut wrong: Vec<char> = whole.chars().collect();
    let before = std::mem::replace(&mut wrong[at], with);
    assert_eq!(key::is_well_formed(&wrong.into_iter().collect::<String>()), before == with);

    // In a clients file it is refused, and not told.
    for line in [whole.clone(), format!("sha256:{whole}"), format!("{text} {whole}")] {
        let error = Key::parse(&line).expect_err("a key itself");
        assert!(!error.contains(&whole[4..]));
    }
}

/// A key as the clients file has it.
fn key_entry(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let Ok(key) = Key::parse(text) else { return };
    let mut words = text.split_ascii_whitespace();
    let hex = words.next().and_then(|word| word.strip_prefix("sha256:")).expect("a digest");
    assert_eq!(key.digest.to_hex(), hex.to_ascii_lowercase());
    assert_eq!(key.until.is_some(), words.next() == Some("until"));
    let again = Key::parse(&format!("sha256:{}", key.digest.to_hex())).expect("a digest");
    assert_eq!(again.digest.to_hex(), key.digest.to_hex());
}

/// The clients file, with a key in it wherever `KEY` stands: what is wrong is told without the key.
fn clients_file(data: &[u8]) {
    let key = make_key(&[1; 20]);
    let text = String::from_utf8_lossy(data).replace("KEY", &key);
    let content = if std::str::from_utf8(data).is_ok() { text.as_bytes() } else { data };
    match clients::parse("clients.toml", content) {
        Ok(clients) => {
            for client in clients {
                assert!(client.name != "local" && client.name != "unknown");
                assert!((1..=64).contains(&client.name.len()) && client.name.is_ascii(), "{client:?}");
                let known_by = client.keys.len()
                    + client.certificates.len()
                    + client.tokens.len()
                    + client.unix_users.len()
                    + client.unix_groups.len();
                assert!(known_by > 0, "{client:?}");
            }
        }
        Err(problems) => {
            assert!(!problems.0.is_empty());
            // Names are told, so that they can be mended; values never are.
            let is_name = DeTable::parse(&text).is_ok_and(|table| names(table.get_ref(), &key));
            for problem in &problems.0 {
                assert!(is_name || !problem.what.contains(&key), "{problem}");
            }
        }
    }
}

/// Whether a name in `table` has `key` in it.
fn names(table: &DeTable<'_>, key: &str) -> bool {
    table.iter().any(|(name, value)| {
        let below = value.get_ref().as_table().is_some_and(|below| names(below, key));
        name.get_ref().contains(key) || below
    })
}

fn make_key(random: &[u8; 20]) -> String {
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let body = format!("{}{}", key::PREFIX, hex(random));
    let check = digest(&SHA256, body.as_bytes());
    assert_eq!(Digest::of(&body).to_hex(), hex(check.as_ref()));
    format!("{body}{}", hex(&check.as_ref()[..4]))
}

fn token(head: &str, claims: &str, sign: impl Fn(&[u8]) -> Vec<u8>) -> String {
    let message = format!("{}.{}", BASE64.encode(head), BASE64.encode(claims));
    let signature = BASE64.encode(sign(message.as_bytes()));
    format!("{message}.{signature}")
}

/// An issuer: made here, from a constant, so that no key is kept in the repository.
fn signer() -> &'static (Ed25519KeyPair, Keys) {
    static SIGNER: OnceLock<(Ed25519KeyPair, Keys)> = OnceLock::new();
    SIGNER.get_or_init(|| {
        let pair = Ed25519KeyPair::from_seed_unchecked(&[9; 32]).expect("a seed");
        let x = BASE64.encode(pair.public_key().as_ref());
        let set = json!({"keys": [
            {"kty": "OKP", "crv": "Ed25519", "use": "sig", "alg": "EdDSA", "kid": KEY_ID, "x": x},
        ]});
        let keys = Keys::parse(set.to_string().as_bytes()).expect("a key set");
        let token = token(r#"{"alg":"EdDSA"}"#, &claims().to_string(), |message| {
            pair.sign(message).as_ref().to_vec()
        });
        let passed: Map<String, Value> = verify(&token, &keys, &expected(), now()).expect("a good token");
        assert_eq!(passed["sub"], "s");
        (pair, keys)
    })
}

fn claims() -> Value {
    json!({"iss": ISSUER, "aud": [AUDIENCE], "exp": NOW + 60, "sub": "s"})
}

fn expected() -> TokenRules {
    TokenRules {
        issuer: ISSUER.to_owned(),
        audience: vec![AUDIENCE.to_owned()],
        algorithms: vec![Algorithm::RS256, Algorithm::ES256, Algorithm::EdDSA],
        leeway: Duration::from_secs(LEEWAY),
    }
}

fn now() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(NOW)
}
