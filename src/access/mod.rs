//! Authentication and authorisation of callers.
//!
//! [`Access::identify`] finds the client that sent a request: by a key or JWT, else by the connection's
//! certificate, else by the Unix socket's peer. [`Access::permit`] applies its policy. Without a clients file,
//! every caller on a loopback address or a Unix socket is `local` and may do everything. With one, a call that
//! no policy allows is denied. `docs/decisions/0005-access.md` gives the reasons.

mod basic;
mod clients;
mod error;
mod guard;
mod jwks;
pub mod key;
pub mod policy;
mod quota;
mod settings;
pub mod token;

use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use http::HeaderName;
use http::header::AUTHORIZATION;
use http::request::Parts;

use crate::clock::Now;
use crate::expiry::Expiring;
use crate::route::Route;
use crate::transport::{Peer, Via};
use crate::watched_file::{Content, Followed, Watched};
use zeroize::Zeroizing;

pub use clients::{Claim, Client, ClientSettings, Clients, SharedIdentifier};
pub use error::{IdentifyError, PermitError, Reason};
pub(crate) use guard::{authority, is_ours};
pub use jwks::BadSource;
pub use policy::{AllowedIds, Class, Policy, PolicyError};
pub use quota::{Permit, QuotaError};
pub use settings::{KeySource, Settings, Tokens};

use quota::{FailureCount, Failures};

/// Second header in which Snyk's CLI sends its credential.
static SESSION_TOKEN: HeaderName = HeaderName::from_static("session-token");

/// The holder of a right that lasts: a client, and the key that it showed.
#[derive(Debug, Clone)]
pub(crate) struct Holder {
    pub(crate) client: Arc<str>,
    key: Option<clients::KeyId>,
}

/// The sender of a request.
#[derive(Debug, Clone)]
pub struct Principal {
    /// The client's name in journal and log; `local` without a clients file.
    pub name: Arc<str>,
    client: Option<Arc<Client>>,
}

impl Principal {
    /// Its weight when requests to Snyk are queued.
    pub(crate) fn share(&self) -> u32 {
        self.client.as_ref().map_or(1, |client| client.policy.share.max(1))
    }

    pub(crate) fn holder(&self) -> Holder {
        let key = self.client.as_ref().and_then(|client| client.key);
        Holder { client: Arc::clone(&self.name), key }
    }

    /// Checks `route` against its policy alone.
    pub(crate) fn decide(&self, route: &Route) -> Result<(), PolicyError> {
        self.client.as_ref().map_or(Ok(()), |client| client.policy.decide(route))
    }

    /// Its wait for the end of an export where it does not ask for one, if it has one of its own.
    pub(crate) fn wait_unasked(&self) -> Option<Duration> {
        self.client.as_ref()?.policy.wait_unasked
    }
}

type Lookup = Result<Arc<Client>, Reason>;

/// Identifies callers and applies their policies.
#[derive(Debug)]
pub struct Access {
    settings: ArcSwap<Settings>,
    /// `None` without a clients file. A reload never changes that.
    clients: Option<ArcSwap<Clients>>,
    issuer: Option<(token::TokenRules, jwks::Jwks)>,
    failures: Failures,
    /// The name of every caller without a clients file.
    local: Arc<str>,
}

/// The settings of access cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum BadAccess {
    /// The issuer's keys cannot be used.
    #[error("the keys of oidc.issuer cannot be used")]
    Keys(#[from] BadSource),
    /// Two clients have the same identifier.
    #[error("access.clients_file")]
    Clients(#[from] SharedIdentifier),
}

impl Access {
    /// Opens clients and issuer's keys; the [`Followed`] is the file of the keys.
    ///
    /// # Errors
    /// When the issuer's keys cannot be used, or two clients have the same identifier.
    pub fn open(settings: Settings) -> Result<(Self, Option<Followed>), BadAccess> {
        let issuer = settings.tokens.as_ref().map(|tokens| {
            jwks::Jwks::open(&tokens.keys).map(|(jwks, followed)| ((tokens.rules.clone(), jwks), followed))
        });
        let (issuer, followed) = issuer.transpose()?.unzip();
        let clients = settings.clients.clone().map(|clients| Clients::new(clients, None)).transpose()?;
        let access = Self {
            clients: clients.map(ArcSwap::from_pointee),
            issuer,
            failures: Failures::default(),
            local: "local".into(),
            settings: ArcSwap::from_pointee(settings),
        };
        Ok((access, followed.flatten()))
    }

    /// Replaces the settings. A clients file is not added or removed, and the issuer does not change.
    pub fn set(&self, settings: Settings) {
        self.settings.store(Arc::new(settings));
    }

    /// Builds new clients from `settings`; a client that exists keeps its usage.
    ///
    /// # Errors
    /// When two clients have the same identifier.
    pub fn prepare_clients(&self, settings: Vec<ClientSettings>) -> Result<Clients, SharedIdentifier> {
        let before = self.clients.as_ref().map(ArcSwap::load);
        Clients::new(settings, before.as_deref().map(|clients| &**clients))
    }

    /// Replaces the clients; without a clients file it does nothing.
    pub fn replace_clients(&self, new: Clients) {
        if let Some(clients) = &self.clients {
            clients.store(Arc::new(new));
        }
    }

    /// Replaces the issuer's keys by new contents of their file.
    ///
    /// # Errors
    /// When no key is in it; the old ones stay in force.
    pub fn replace_keys(&self, contents: &[Content]) -> Result<(), token::BadKeys> {
        self.issuer.as_ref().map_or(Ok(()), |(_, jwks)| jwks.replace(contents))
    }

    /// The status of fetching the issuer's keys from a URL.
    pub(crate) fn watched_keys(&self) -> Option<Arc<Watched>> {
        self.issuer.as_ref()?.1.watched()
    }

    /// The last key of each client whose keys all expire.
    pub(crate) fn expiring(&self) -> Vec<Expiring> {
        self.clients.as_ref().map_or_else(Vec::new, |clients| clients.load().expiring().to_vec())
    }

    /// Fetches the issuer's keys from their URL again and again; never ends.
    pub(crate) async fn follow_keys(&self) {
        match &self.issuer {
            Some((_, jwks)) => jwks.follow().await,
            None => std::future::pending().await,
        }
    }

    /// True if a denied call is answered as if its target did not exist.
    pub(crate) fn hides(&self) -> bool {
        self.settings.load().hide
    }

    /// Identifies the sender of a request. `None`: no known key of the issuer signed its token, and
    /// `Access::identify_anew` waits for newer keys.
    pub fn identify(&self, parts: &Parts, peer: &Peer, now: Now) -> Option<Result<Principal, IdentifyError>> {
        let takes_basic = self.takes_basic(parts);
        let checked = match guard::check(parts, peer.via, &self.settings.load()) {
            Ok(()) if takes_basic && basic::is_from_page(parts) => Err(IdentifyError::WebPage),
            checked => checked,
        };
        if let Err(why) = checked {
            return Some(Err(match peer.via {
                // From other machines these count like wrong keys, so that a flood of them is logged once.
                Via::Network(_) => {
                    let counted = self.failed(Reason::NotForUs, peer.via, now.mono);
                    if let IdentifyError::TooManyFailures(_) = counted { counted } else { why }
                }
                Via::Loopback(_) | Via::Unix(_) => why,
            }));
        }
        match self.client(parts, peer, now) {
            Err(Reason::UnknownSigner) => None,
            // Excel and wget ask without a password first. That is no failure to be counted.
            Err(Reason::Nothing) if takes_basic => Some(Err(IdentifyError::Unknown(Reason::Nothing))),
            client => Some(self.principal(client, peer, now)),
        }
    }

    /// True if a request may say by HTTP Basic who sent it.
    pub(crate) fn takes_basic(&self, parts: &Parts) -> bool {
        self.clients.is_some() && self.settings.load().files_basic && basic::is_for_files(parts)
    }

    /// Identifies the sender of a request with a token of an unknown signer, after the issuer's newest keys are
    /// fetched.
    pub(crate) async fn identify_anew(
        &self,
        parts: &Parts,
        peer: &Peer,
        now: Now,
    ) -> Result<Principal, IdentifyError> {
        let mut client = Err(Reason::UnknownSigner);
        // A fetch that was under way may have begun too early to see a new key.
        for _ in 0..2 {
            if let Some((_, jwks)) = &self.issuer {
                jwks.newer().await;
            }
            client = self.client(parts, peer, now);
            if !matches!(client, Err(Reason::UnknownSigner)) {
                break;
            }
        }
        self.principal(client, peer, now)
    }

    /// Identifies the sender of a request once more, which had been identified. Nothing is counted.
    pub(crate) fn identify_again(&self, parts: &Parts, peer: &Peer, now: Now) -> Result<Principal, Reason> {
        self.client(parts, peer, now).map(|client| self.named(client))
    }

    fn named(&self, client: Option<Arc<Client>>) -> Principal {
        let name = client.as_ref().map_or(&self.local, |client| &client.name);
        Principal { name: Arc::clone(name), client }
    }

    fn principal(
        &self,
        client: Result<Option<Arc<Client>>, Reason>,
        peer: &Peer,
        now: Now,
    ) -> Result<Principal, IdentifyError> {
        client.map(|client| self.named(client)).map_err(|reason| self.failed(reason, peer.via, now.mono))
    }

    /// The client that sent a request; `None` without a clients file.
    fn client(&self, parts: &Parts, peer: &Peer, now: Now) -> Result<Option<Arc<Client>>, Reason> {
        let Some(clients) = &self.clients else { return Ok(None) };
        self.client_of(&clients.load(), parts, peer, now).map(Some)
    }

    fn client_of(&self, clients: &Clients, parts: &Parts, peer: &Peer, now: Now) -> Lookup {
        let mut found: Option<Arc<Client>> = None;
        for credential in credentials(parts, || self.takes_basic(parts))?.into_iter().flatten() {
            let client = match credential {
                Credential::Key(key) => clients.by_key(key, now),
                Credential::Password(key) => clients.by_key(&key, now),
                Credential::Token(token) => self.by_token(clients, token, now),
            }?;
            if found.as_ref().is_some_and(|other| other.name != client.name) {
                return Err(Reason::Conflicting);
            }
            found = Some(client);
        }
        if let Some(client) = found {
            return Ok(client);
        }
        if let Some(certificate) = &peer.certificate {
            let (begins, ends) = certificate.valid;
            if now.wall < begins || now.wall > ends {
                return Err(Reason::ExpiredCertificate);
            }
            return clients.by_certificate(&certificate.names);
        }
        if peer.is_refused {
            return Err(Reason::RefusedCertificate);
        }
        match peer.via {
            Via::Unix(Some(user)) => clients.by_user(user).ok_or(Reason::UnknownUser),
            Via::Unix(None) | Via::Loopback(_) | Via::Network(_) => Err(Reason::Nothing),
        }
    }

    fn by_token(&self, clients: &Clients, token: &str, now: Now) -> Lookup {
        let Some((rules, jwks)) = &self.issuer else { return Err(Reason::BadToken) };
        clients.by_claims(&token::verify(token, &jwks.now(), rules, now.wall)?)
    }

    fn failed(&self, reason: Reason, via: Via, now: Instant) -> IdentifyError {
        let Some(address) = via.counted_as() else { return IdentifyError::Unknown(reason) };
        match self.failures.count(address, self.settings.load().max_failures, now) {
            FailureCount::Within => IdentifyError::Unknown(reason),
            FailureCount::FirstOver => {
                tracing::warn!(
                    client.address = %address,
                    reason = reason.as_str(),
                    "too many failed authentications from this address; not logging more for one minute"
                );
                IdentifyError::TooManyFailures(reason)
            }
            FailureCount::Over => IdentifyError::TooManyFailures(reason),
        }
    }

    /// Checks `route` against the policy of `principal`, and counts the request.
    ///
    /// # Errors
    /// [`PermitError`].
    pub fn permit(&self, principal: &Principal, route: &Route, now: Instant) -> Result<Permit, PermitError> {
        let Some(client) = &principal.client else { return Ok(Permit::unlimited()) };
        client.policy.decide(route).map_err(PermitError::Denied)?;
        let Policy { requests_per_minute, concurrent_requests, .. } = client.policy;
        client.usage.admit(requests_per_minute, concurrent_requests, now).map_err(PermitError::Exceeded)
    }

    /// True if a client may still make a call that it was permitted, by the key that it showed.
    pub(crate) fn still_permits(&self, Holder { client, key }: &Holder, route: &Route) -> bool {
        let Some(clients) = &self.clients else { return true };
        let clients = clients.load();
        let has_key = key.is_none_or(|key| clients.has_key(client, &key));
        has_key && clients.find(client).is_some_and(|client| client.policy.decide(route).is_ok())
    }

    /// Does the same for a request that joins an earlier one of `principal`, which still counts as concurrent.
    ///
    /// # Errors
    /// [`PermitError`].
    pub fn permit_to_join(
        &self,
        principal: &Principal,
        route: &Route,
        now: Instant,
    ) -> Result<Permit, PermitError> {
        let Some(client) = &principal.client else { return Ok(Permit::unlimited()) };
        client.policy.decide(route).map_err(PermitError::Denied)?;
        client.usage.join(client.policy.requests_per_minute, now).map_err(PermitError::Exceeded)
    }
}

enum Credential<'a> {
    Key(&'a str),
    /// A key as the password of HTTP Basic.
    Password(Zeroizing<String>),
    Token(&'a str),
}

/// The keys and JWTs of a request: in `Authorization` with the scheme `token` or `bearer`, or in
/// `Session-Token`; where it is taken, the key in HTTP Basic. Any other value (such as a Snyk token that a tool still sends)
/// is ignored.
fn credentials(parts: &Parts, takes_basic: impl Fn() -> bool) -> Result<[Option<Credential<'_>>; 2], Reason> {
    let mut found = [None, None];
    for (name, found) in [&AUTHORIZATION, &SESSION_TOKEN].into_iter().zip(&mut found) {
        let mut values = parts.headers.get_all(name).iter();
        let Some(value) = values.next() else { continue };
        if values.next().is_some() {
            return Err(Reason::Conflicting);
        }
        let Ok(text) = value.to_str() else { continue };
        let bare = match basic::scheme_and_rest(text) {
            Some((scheme, rest))
                if ["token", "bearer"].iter().any(|known| scheme.eq_ignore_ascii_case(known)) =>
            {
                rest
            }
            Some((scheme, rest)) if *name == AUTHORIZATION && basic::is_basic(scheme) && takes_basic() => {
                *found = basic::key_in(rest).map(Credential::Password);
                continue;
            }
            None if *name == SESSION_TOKEN => text.trim(),
            _ => continue,
        };
        if bare.starts_with(key::PREFIX) {
            *found = Some(Credential::Key(bare));
        } else if token::is_jwt_like(bare) {
            *found = Some(Credential::Token(bare));
        }
    }
    Ok(found)
}
