//! The clients that are known, and by what.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};
use std::time::SystemTime;

use super::key::{self, Digest, Key};
use super::policy::Policy;
use super::quota::Usage;
use super::{Presented, Reason};
use crate::clock::Now;
use crate::expiry::{Expiring, Kind};
use crate::transport::User;

/// One client.
#[derive(Debug)]
pub struct Client {
    /// Its name, as the journal and the log have it.
    pub name: Arc<str>,
    /// What it may do.
    pub policy: Policy,
    /// What it has used.
    pub usage: Arc<Usage>,
}

/// One client as the roster's file describes it.
#[derive(Debug, Clone)]
pub struct Described {
    /// Its name.
    pub name: String,
    /// Its keys.
    pub keys: Vec<Key>,
    /// Names that a certificate of its has: `uri:…`, `dns:…`, `subject:…`.
    pub certificates: Vec<String>,
    /// Claims that a JWT of its has, one of them.
    pub tokens: Vec<Claim>,
    /// Users of this machine.
    pub unix_users: Vec<u32>,
    /// Primary groups of users of this machine.
    pub unix_groups: Vec<u32>,
    /// What it may do.
    pub policy: Policy,
}

impl Described {
    /// It is known by something else than keys.
    #[must_use]
    pub fn is_known_otherwise(&self) -> bool {
        !self.certificates.is_empty()
            || !self.tokens.is_empty()
            || !self.unix_users.is_empty()
            || !self.unix_groups.is_empty()
    }

    /// The last of its keys; `None` where it has none, or one that has no end.
    #[must_use]
    pub fn expiring(&self) -> Option<Expiring> {
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

/// Two clients are known by the same thing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{first} and {second} have the same in {key}: nobody would know which of the two it is")]
pub struct Shared {
    /// The one.
    pub first: String,
    /// The other.
    pub second: String,
    /// The key in the file.
    pub key: &'static str,
}

/// A key, and whose it is.
#[derive(Debug)]
struct Known {
    key: Key,
    /// Whether the key of this digest is well formed, which is known once it came.
    is_well_formed: OnceLock<bool>,
    client: Arc<Client>,
}

/// All clients, by what they are known by.
#[derive(Debug)]
pub struct Roster {
    clients: Vec<Arc<Client>>,
    keys: HashMap<[u8; 16], Known>,
    /// What a key that nobody has is compared with.
    nobody: Digest,
    certificates: HashMap<String, Arc<Client>>,
    tokens: HashMap<Claim, Arc<Client>>,
    unix_users: HashMap<u32, Arc<Client>>,
    unix_groups: HashMap<u32, Arc<Client>>,
    /// Keys that end.
    expiring: Vec<Expiring>,
}

impl Default for Roster {
    fn default() -> Self {
        Self {
            clients: Vec::new(),
            keys: HashMap::new(),
            nobody: Digest::of(""),
            certificates: HashMap::new(),
            tokens: HashMap::new(),
            unix_users: HashMap::new(),
            unix_groups: HashMap::new(),
            expiring: Vec::new(),
        }
    }
}

impl Roster {
    /// Puts a roster together; who was in `before` keeps what it has used.
    ///
    /// # Errors
    /// When two clients would be known by the same thing.
    pub fn new(described: Vec<Described>, before: Option<&Self>) -> Result<Self, Shared> {
        let expiring = described.iter().filter_map(Described::expiring).collect();
        let mut roster = Self { expiring, ..Self::default() };
        for one in described {
            let known = before.and_then(|roster| roster.find(&one.name));
            let usage = known.map(|client| Arc::clone(&client.usage)).unwrap_or_default();
            let client = Arc::new(Client { name: one.name.into(), policy: one.policy, usage });
            for key in one.keys {
                let half = key.digest.first_half();
                let known = Known { key, is_well_formed: OnceLock::new(), client: Arc::clone(&client) };
                if let Some(other) = roster.keys.insert(half, known) {
                    return Err(shared(&other.client, &client, "keys"));
                }
            }
            enter(&mut roster.certificates, one.certificates, &client, "certificates")?;
            enter(&mut roster.tokens, one.tokens, &client, "tokens")?;
            enter(&mut roster.unix_users, one.unix_users, &client, "unix_users")?;
            enter(&mut roster.unix_groups, one.unix_groups, &client, "unix_groups")?;
            roster.clients.push(client);
        }
        Ok(roster)
    }

    /// The client of this name.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<&Arc<Client>> {
        self.clients.iter().find(|client| *client.name == *name)
    }

    /// How many clients are in it.
    #[must_use]
    pub fn len(&self) -> usize {
        self.clients.len()
    }

    /// Whether nobody is in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.clients.is_empty()
    }

    /// The last key of each client whose keys all end.
    #[must_use]
    pub fn expiring(&self) -> &[Expiring] {
        &self.expiring
    }

    /// Whose key this is. To look for it takes the same time whether there is such a key or not; what is wrong with
    /// one that nobody has is found out then.
    pub(super) fn by_key(&self, key: &str, now: Now) -> Result<Arc<Client>, Reason> {
        // Not hashed, however long it is: nobody has such a key.
        if key.len() != key::LENGTH {
            return Err(Reason::MalformedKey);
        }
        let digest = Digest::of(key);
        let found = self.keys.get(&digest.first_half());
        let is_known = digest.is(found.map_or(&self.nobody, |known| &known.key.digest));
        let Some(known) = found.filter(|_| is_known) else {
            let is_mistyped = !key::is_well_formed(key);
            return Err(if is_mistyped { Reason::MalformedKey } else { Reason::UnknownKey });
        };
        // The same digest is the same key, so one look at its checksum is enough.
        if !known.is_well_formed.get_or_init(|| key::is_well_formed(key)) {
            return Err(Reason::MalformedKey);
        }
        if known.key.until.is_some_and(|until| now.wall >= until) {
            return Err(Reason::ExpiredKey);
        }
        Ok(Arc::clone(&known.client))
    }

    /// Whose certificate has these names. More than one client is nobody.
    pub(super) fn by_certificate(&self, names: &[String]) -> Presented {
        one_of(names.iter().filter_map(|name| self.certificates.get(name)), Reason::UnknownCertificate)
    }

    /// Whose JWT has these claims. More than one client is nobody.
    pub(super) fn by_claims(&self, claims: &serde_json::Map<String, serde_json::Value>) -> Presented {
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

    /// Whose user this is: by the user first, by its group else.
    pub(super) fn by_user(&self, user: User) -> Option<Arc<Client>> {
        self.unix_users.get(&user.uid).or_else(|| self.unix_groups.get(&user.gid)).cloned()
    }
}

fn enter<K: std::hash::Hash + Eq>(
    known: &mut HashMap<K, Arc<Client>>,
    names: Vec<K>,
    client: &Arc<Client>,
    key: &'static str,
) -> Result<(), Shared> {
    for name in names {
        if let Some(other) = known.insert(name, Arc::clone(client)) {
            return Err(shared(&other, client, key));
        }
    }
    Ok(())
}

fn shared(first: &Client, second: &Client, key: &'static str) -> Shared {
    Shared { first: first.name.to_string(), second: second.name.to_string(), key }
}

fn one_of<'a>(mut found: impl Iterator<Item = &'a Arc<Client>>, nobody: Reason) -> Presented {
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
        let described = |name: &str| Described {
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
                tokens: None,
            })
        };
        let both = open(vec![described("a"), described("b")]);
        assert!(matches!(both, Err(BadAccess::Clients(shared)) if shared.key == "unix_users"));
        let (access, _) = open(vec![described("a")]).expect("a roster");
        assert!(access.prepare_roster(vec![described("a"), described("b")]).is_err());
    }

    #[test]
    fn a_key_is_known_by_its_digest_and_what_is_wrong_with_others_is_told_apart() {
        let now = Clock::system().now();
        let [good, old, other] = [(); 3].map(|()| key::generate().expect("randomness").to_string());
        // Nobody makes a key by hand, whoever enters its digest.
        let by_hand = format!("{}0123456789", key::PREFIX);
        let described = |name: &str, key: &str, until| Described {
            name: name.to_owned(),
            keys: vec![Key { digest: Digest::of(key), until }],
            certificates: Vec::new(),
            tokens: Vec::new(),
            unix_users: Vec::new(),
            unix_groups: Vec::new(),
            policy: Policy::default(),
        };
        let over = Some(now.wall - Duration::from_secs(1));
        let roster = Roster::new(
            vec![
                described("good", &good, None),
                described("old", &old, over),
                described("by hand", &by_hand, None),
            ],
            None,
        );
        let roster = roster.expect("a roster");
        // The second time, what was found out the first time counts.
        for _ in 0..2 {
            let who = |key: &str| roster.by_key(key, now).map(|client| client.name.to_string());
            assert_eq!(who(&good), Ok("good".to_owned()));
            assert_eq!(who(&old), Err(Reason::ExpiredKey));
            assert_eq!(who(&by_hand), Err(Reason::MalformedKey));
            assert_eq!(who(&other), Err(Reason::UnknownKey));
            assert_eq!(who(&other[..other.len() - 1]), Err(Reason::MalformedKey));
            assert_eq!(who(key::PREFIX), Err(Reason::MalformedKey));
        }
    }
}
