//! The known clients and their identifiers.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};
use std::time::SystemTime;

use super::key::{self, Digest, Key};
use super::policy::Policy;
use super::quota::Usage;
use super::{Lookup, Reason};
use crate::clock::Now;
use crate::expiry::{Expiring, Kind};
use crate::transport::User;

/// One client.
#[derive(Debug, Clone)]
pub struct Client {
    /// Its name in journal and log.
    pub name: Arc<str>,
    /// Its permissions and limits.
    pub policy: Policy,
    /// Its requests of the last minute.
    pub usage: Arc<Usage>,
    /// The key that it showed, by a part of its digest; `None` where it is known otherwise.
    pub(super) key: Option<KeyId>,
}

/// The first half of a key's digest.
pub(super) type KeyId = [u8; 16];

/// One client of the clients file.
#[derive(Debug, Clone)]
pub struct ClientSettings {
    /// Its name.
    pub name: String,
    /// Its keys.
    pub keys: Vec<Key>,
    /// Names of its certificates: `uri:…`, `dns:…`, `subject:…`.
    pub certificates: Vec<String>,
    /// Claims of its JWTs: one of them must match.
    pub tokens: Vec<Claim>,
    /// Its user ids on Unix sockets.
    pub unix_users: Vec<u32>,
    /// Its primary group ids on Unix sockets.
    pub unix_groups: Vec<u32>,
    /// Its permissions and limits.
    pub policy: Policy,
}

impl ClientSettings {
    /// True if it has another identifier than keys.
    pub(crate) fn is_known_otherwise(&self) -> bool {
        !self.certificates.is_empty()
            || !self.tokens.is_empty()
            || !self.unix_users.is_empty()
            || !self.unix_groups.is_empty()
    }

    /// Its last key to expire; `None` if it has no key, or one that never expires.
    pub(crate) fn expiring(&self) -> Option<Expiring> {
        let ends: Option<Vec<SystemTime>> = self.keys.iter().map(|key| key.until).collect();
        let name = format!("the last of clients.{}.keys", self.name);
        Some(Expiring { kind: Kind::ClientKeys, name, begins: None, ends: ends?.into_iter().max()? })
    }
}

/// A claim and the value that it must have, or hold where it is a list (RFC 7519 §4).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Claim {
    /// Its name.
    pub name: String,
    /// Its value.
    pub value: String,
}

/// Two clients have the same identifier.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("clients {first} and {second} share a value of {key}: give each client its own")]
pub struct SharedIdentifier {
    /// The one.
    pub first: String,
    /// The other.
    pub second: String,
    /// The key in the file.
    pub key: &'static str,
}

/// A key and its client.
#[derive(Debug)]
struct KeyRecord {
    key: Key,
    /// Set by the first request with the key: its digest does not tell.
    is_well_formed: OnceLock<bool>,
    client: Arc<Client>,
}

/// All clients by their identifiers.
#[derive(Debug, Default)]
pub struct Clients {
    all: Vec<Arc<Client>>,
    keys: HashMap<KeyId, KeyRecord>,
    /// Compared with an unknown key, so that it takes as long as a known one.
    no_key: Digest,
    certificates: HashMap<String, Arc<Client>>,
    tokens: HashMap<Claim, Arc<Client>>,
    unix_users: HashMap<u32, Arc<Client>>,
    unix_groups: HashMap<u32, Arc<Client>>,
    /// Keys that expire.
    expiring: Vec<Expiring>,
}

impl Clients {
    /// Indexes `settings`; a client that is in `before` keeps its usage.
    ///
    /// # Errors
    /// When two clients have the same identifier.
    pub fn new(settings: Vec<ClientSettings>, before: Option<&Self>) -> Result<Self, SharedIdentifier> {
        let expiring = settings.iter().filter_map(ClientSettings::expiring).collect();
        let mut clients = Self { expiring, ..Self::default() };
        for one in settings {
            let known = before.and_then(|clients| clients.find(&one.name));
            let usage = known.map(|client| Arc::clone(&client.usage)).unwrap_or_default();
            let client = Arc::new(Client { name: one.name.into(), policy: one.policy, usage, key: None });
            for key in one.keys {
                let half = key.digest.first_half();
                let by_key = Arc::new(Client { key: Some(half), ..Client::clone(&client) });
                let known = KeyRecord { key, is_well_formed: OnceLock::new(), client: by_key };
                if let Some(other) = clients.keys.insert(half, known) {
                    return Err(shared(&other.client, &client, "keys"));
                }
            }
            enter(&mut clients.certificates, one.certificates, &client, "certificates")?;
            enter(&mut clients.tokens, one.tokens, &client, "tokens")?;
            enter(&mut clients.unix_users, one.unix_users, &client, "unix_users")?;
            enter(&mut clients.unix_groups, one.unix_groups, &client, "unix_groups")?;
            clients.all.push(client);
        }
        Ok(clients)
    }

    pub(super) fn find(&self, name: &str) -> Option<&Arc<Client>> {
        self.all.iter().find(|client| *client.name == *name)
    }

    /// True if `key` is one of the client's.
    pub(super) fn has_key(&self, client: &str, key: &KeyId) -> bool {
        self.keys.get(key).is_some_and(|known| *known.client.name == *client)
    }

    pub(crate) fn len(&self) -> usize {
        self.all.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    pub(super) fn expiring(&self) -> &[Expiring] {
        &self.expiring
    }

    /// The client of a key. The look-up takes the same time for known and unknown keys.
    pub(super) fn by_key(&self, key: &str, now: Now) -> Result<Arc<Client>, Reason> {
        // Not hashed, however long it is: no key has this length.
        if key.len() != key::LENGTH {
            return Err(Reason::MalformedKey);
        }
        let digest = Digest::of(key);
        let found = self.keys.get(&digest.first_half());
        let is_known = digest.is(found.map_or(&self.no_key, |known| &known.key.digest));
        let Some(known) = found.filter(|_| is_known) else {
            let is_mistyped = !key::is_well_formed(key);
            return Err(if is_mistyped { Reason::MalformedKey } else { Reason::UnknownKey });
        };
        // The same digest is the same key, so its checksum is verified once.
        if !known.is_well_formed.get_or_init(|| key::is_well_formed(key)) {
            return Err(Reason::MalformedKey);
        }
        if known.key.until.is_some_and(|until| now.wall >= until) {
            return Err(Reason::ExpiredKey);
        }
        Ok(Arc::clone(&known.client))
    }

    /// The only client with one of these certificate names.
    pub(super) fn by_certificate(&self, names: &[String]) -> Lookup {
        one_of(names.iter().filter_map(|name| self.certificates.get(name)), Reason::UnknownCertificate)
    }

    /// The only client with one of these claims.
    pub(super) fn by_claims(&self, claims: &serde_json::Map<String, serde_json::Value>) -> Lookup {
        let is_held = |claim: &Claim| match claims.get(&claim.name) {
            Some(serde_json::Value::String(text)) => *text == claim.value,
            Some(serde_json::Value::Array(list)) => {
                list.iter().any(|item| item.as_str() == Some(&claim.value))
            }
            _ => false,
        };
        let known = self.tokens.iter().filter(|(claim, _)| is_held(claim)).map(|(_, client)| client);
        one_of(known, Reason::UnknownToken)
    }

    /// The client of a Unix user, else of its primary group.
    pub(super) fn by_user(&self, user: User) -> Option<Arc<Client>> {
        self.unix_users.get(&user.uid).or_else(|| self.unix_groups.get(&user.gid)).cloned()
    }
}

fn enter<K: std::hash::Hash + Eq>(
    known: &mut HashMap<K, Arc<Client>>,
    names: Vec<K>,
    client: &Arc<Client>,
    key: &'static str,
) -> Result<(), SharedIdentifier> {
    for name in names {
        if let Some(other) = known.insert(name, Arc::clone(client)) {
            return Err(shared(&other, client, key));
        }
    }
    Ok(())
}

fn shared(first: &Client, second: &Client, key: &'static str) -> SharedIdentifier {
    SharedIdentifier { first: first.name.to_string(), second: second.name.to_string(), key }
}

fn one_of<'a>(mut found: impl Iterator<Item = &'a Arc<Client>>, nobody: Reason) -> Lookup {
    let client = found.next().ok_or(nobody)?;
    if found.all(|other| Arc::ptr_eq(client, other)) {
        Ok(Arc::clone(client))
    } else {
        Err(Reason::Ambiguous)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::{Access, BadAccess, Settings};
    use super::*;
    use crate::clock::Clock;

    #[test]
    fn two_clients_that_share_something_are_an_error_and_not_nobody() {
        let described = |name: &str| ClientSettings {
            name: name.to_owned(),
            keys: Vec::new(),
            certificates: Vec::new(),
            tokens: Vec::new(),
            unix_users: vec![1_000],
            unix_groups: Vec::new(),
            policy: Policy::default(),
        };
        let open = |clients| {
            Access::open(Settings {
                clients: Some(clients),
                hosts: Vec::new(),
                allow_forwarded: false,
                required_header: None,
                hide: false,
                max_failures: 20,
                files_basic: false,
                tokens: None,
            })
        };
        let both = open(vec![described("a"), described("b")]);
        assert!(matches!(both, Err(BadAccess::Clients(shared)) if shared.key == "unix_users"));
        let (access, _) = open(vec![described("a")]).expect("clients");
        assert!(access.prepare_clients(vec![described("a"), described("b")]).is_err());
    }

    #[test]
    fn a_key_is_known_by_its_digest_and_what_is_wrong_with_others_is_told_apart() {
        let now = Clock::system().now();
        let [good, old, other] = [(); 3].map(|()| key::generate().expect("randomness").to_string());
        // Nobody makes a key by hand, whoever enters its digest.
        let by_hand = format!("{}0123456789", key::PREFIX);
        let described = |name: &str, key: &str, until| ClientSettings {
            name: name.to_owned(),
            keys: vec![Key { digest: Digest::of(key), until }],
            certificates: Vec::new(),
            tokens: Vec::new(),
            unix_users: Vec::new(),
            unix_groups: Vec::new(),
            policy: Policy::default(),
        };
        let over = Some(now.wall - Duration::from_secs(1));
        let clients = Clients::new(
            vec![
                described("good", &good, None),
                described("old", &old, over),
                described("by hand", &by_hand, None),
            ],
            None,
        );
        let clients = clients.expect("clients");
        // The second time, what was found out the first time counts.
        for _ in 0..2 {
            let who = |key: &str| clients.by_key(key, now).map(|client| client.name.to_string());
            assert_eq!(who(&good), Ok("good".to_owned()));
            assert_eq!(who(&old), Err(Reason::ExpiredKey));
            assert_eq!(who(&by_hand), Err(Reason::MalformedKey));
            assert_eq!(who(&other), Err(Reason::UnknownKey));
            assert_eq!(who(&other[..other.len() - 1]), Err(Reason::MalformedKey));
            assert_eq!(who(key::PREFIX), Err(Reason::MalformedKey));
        }
    }
}
