//! The clients that are known, and by what.

use std::collections::HashMap;
use std::sync::Arc;

use super::key::{Digest, Key};
use super::policy::Policy;
use super::quota::Usage;
use super::{Presented, Reason};
use crate::clock::Now;
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

/// A claim and the value that it must have, or hold where it is a list (RFC 7519 §4).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Claim {
    /// Its name.
    pub name: String,
    /// Its value.
    pub value: String,
}

/// Two clients are known by the same thing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shared {
    /// The one.
    pub first: String,
    /// The other.
    pub second: String,
    /// The key in the file.
    pub key: &'static str,
}

/// All clients, by what they are known by.
#[derive(Debug, Default)]
pub struct Roster {
    clients: Vec<Arc<Client>>,
    keys: HashMap<[u8; 16], (Key, Arc<Client>)>,
    certificates: HashMap<String, Arc<Client>>,
    tokens: HashMap<Claim, Arc<Client>>,
    unix_users: HashMap<u32, Arc<Client>>,
    unix_groups: HashMap<u32, Arc<Client>>,
}

impl Roster {
    /// Puts a roster together; who was in `before` keeps what it has used.
    ///
    /// # Errors
    /// When two clients would be known by the same thing.
    pub fn new(described: Vec<Described>, before: Option<&Self>) -> Result<Self, Shared> {
        let mut roster = Self::default();
        for one in described {
            let known = before.and_then(|roster| roster.find(&one.name));
            let usage = known.map(|client| Arc::clone(&client.usage)).unwrap_or_default();
            let client = Arc::new(Client { name: one.name.into(), policy: one.policy, usage });
            let keys = one.keys.into_iter().map(|key| (key.digest.first_half(), (key, Arc::clone(&client))));
            for (half, known) in keys {
                if let Some((_, other)) = roster.keys.insert(half, known) {
                    return Err(shared(&other, &client, "keys"));
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

    /// Whether nobody is in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.clients.is_empty()
    }

    /// Whose key this is. It takes the same time whether there is such a key or not.
    pub(super) fn by_key(&self, key: &str, now: Now) -> Result<Arc<Client>, Reason> {
        let digest = Digest::of(key);
        let dummy = Digest::of("");
        let found = self.keys.get(&digest.first_half());
        let known = found.map_or(&dummy, |(known, _)| &known.digest);
        if !digest.is(known) {
            return Err(Reason::UnknownKey);
        }
        match found {
            Some((key, _)) if key.until.is_some_and(|until| now.wall >= until) => Err(Reason::ExpiredKey),
            Some((_, client)) => Ok(Arc::clone(client)),
            None => Err(Reason::UnknownKey),
        }
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
