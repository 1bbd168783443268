//! Who calls us, and what they may do.
//!
//! [`Access::identify`] finds who sent a request: by a key or JWT, else by the connection's certificate,
//! else by the Unix socket's peer. [`Access::permit`] decides what they may do. Without a roster everybody
//! who reaches a loopback address or a Unix socket is local and may do everything; with one, what it does
//! not allow is denied. `docs/decisions/0005-access.md` tells why.

mod guard;
mod jwks;
pub mod key;
pub mod policy;
mod quota;
mod roster;
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
use crate::files::{Content, Followed, Watched};
use crate::route::Route;
use crate::transport::{Peer, Via};

pub use guard::{authority, is_ours};
pub use jwks::BadSource;
pub use policy::{Allowed, Class, Denied, Policy};
pub use quota::{Exceeded, Permit};
pub use roster::{Claim, Client, Described, Roster, Shared};
pub use settings::{KeySource, Settings, Tokens};

use quota::{Failed, Failures};

/// Where Snyk's own CLI puts its credential a second time.
static SESSION_TOKEN: HeaderName = HeaderName::from_static("session-token");

/// Who sent a request, as the journal and the log name them.
#[derive(Debug, Clone)]
pub struct Principal {
    /// The client's name; `local` without a roster.
    pub name: Arc<str>,
    client: Option<Arc<Client>>,
}

impl Principal {
    /// Its share of what may be sent to Snyk, where that is short.
    #[must_use]
    pub fn share(&self) -> u32 {
        self.client.as_ref().map_or(1, |client| client.policy.share.max(1))
    }
}

/// Why a request is nobody's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unidentified {
    /// It does not say, exactly once and in a valid form, which host it is for (RFC 9110 §7.2).
    Host,
    /// Where its body ends can be read in two ways (RFC 9112 §6).
    Framing,
    /// It has an `Origin` (RFC 6454 §7): a web page makes a browser send it, from wherever that page is;
    /// or `Sec-Fetch-Site` says that a page did.
    WebPage,
    /// Its target is in absolute-form (RFC 9112 §3.2.2), which is for forward proxies.
    TargetForm,
    /// On a loopback listener, it is for a name that is not this machine's own.
    ForeignHost,
    /// On a loopback listener or a Unix socket, it was passed on by another proxy.
    Forwarded,
    /// It lacks `access.required_header`.
    RequiredHeader,
    /// Nobody known sent it.
    Unknown(Reason),
    /// The same, and its address has failed too often within a minute.
    TooManyFailures(Reason),
}

/// Why nobody known sent a request. Only the log is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// It has no key, token or certificate, and no known user sent it.
    Nothing,
    /// It has more than one credential, and they are not the same client's.
    Conflicting,
    /// A key with a typing error.
    MalformedKey,
    /// A key that nobody has.
    UnknownKey,
    /// A key whose time is over.
    ExpiredKey,
    /// A JWT that is not well made, or not for us.
    BadToken,
    /// A JWT that none of the issuer's keys signed.
    UnknownSigner,
    /// A JWT whose time is over.
    ExpiredToken,
    /// A good JWT with the claims of no client.
    UnknownToken,
    /// A good certificate with the names of no client.
    UnknownCertificate,
    /// A certificate whose time is over.
    ExpiredCertificate,
    /// A certificate that was revoked, or whose authority is gone, since its connection was made.
    RefusedCertificate,
    /// A user of this machine that is no client.
    UnknownUser,
    /// More than one client is known by this.
    Ambiguous,
    /// The request itself is none that is for us, whoever sent it.
    NotForUs,
}

impl Reason {
    /// A word for the log.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Nothing => "no_credential",
            Self::Conflicting => "conflicting_credentials",
            Self::MalformedKey => "malformed_key",
            Self::UnknownKey => "unknown_key",
            Self::ExpiredKey => "expired_key",
            Self::BadToken => "bad_token",
            Self::UnknownSigner => "unknown_signer",
            Self::ExpiredToken => "expired_token",
            Self::UnknownToken => "unknown_token",
            Self::UnknownCertificate => "unknown_certificate",
            Self::ExpiredCertificate => "expired_certificate",
            Self::RefusedCertificate => "refused_certificate",
            Self::UnknownUser => "unknown_user",
            Self::Ambiguous => "ambiguous",
            Self::NotForUs => "not_for_us",
        }
    }
}

type Presented = Result<Arc<Client>, Reason>;

/// The same; `None` where nobody need be known.
type Known = Result<Option<Arc<Client>>, Reason>;

/// Why somebody who is known may not do what they ask.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotPermitted {
    /// The policy does not allow it.
    Denied(Denied),
    /// Too much of it.
    Exceeded(Exceeded),
}

/// Decides who gets in and what they may do.
#[derive(Debug)]
pub struct Access {
    settings: ArcSwap<Settings>,
    /// `None` without a roster: it never becomes so by a reload.
    roster: Option<ArcSwap<Roster>>,
    issuer: Option<(token::Expected, jwks::Jwks)>,
    failures: Failures,
    /// The name of everybody, where there is no roster.
    local: Arc<str>,
}

/// Nobody can be let in.
#[derive(Debug, thiserror::Error)]
pub enum BadAccess {
    /// The issuer's keys cannot be used.
    #[error("the keys of oidc.issuer cannot be used")]
    Keys(#[from] BadSource),
    /// The file of clients does not tell two of them apart.
    #[error("access.clients_file")]
    Clients(#[from] Shared),
}

impl Access {
    /// Opens what the settings name; the [`Followed`] is the file of the issuer's keys.
    ///
    /// # Errors
    /// When the issuer's keys cannot be used, or two clients are known by the same thing.
    pub fn open(settings: Settings) -> Result<(Self, Option<Followed>), BadAccess> {
        let issuer = settings.tokens.as_ref().map(|tokens| {
            jwks::Jwks::open(&tokens.keys).map(|(jwks, followed)| ((tokens.expected.clone(), jwks), followed))
        });
        let (issuer, followed) = issuer.transpose()?.unzip();
        let roster = settings.clients.clone().map(|described| Roster::new(described, None)).transpose()?;
        let access = Self {
            roster: roster.map(ArcSwap::from_pointee),
            issuer,
            failures: Failures::default(),
            local: "local".into(),
            settings: ArcSwap::from_pointee(settings),
        };
        Ok((access, followed.flatten()))
    }

    /// Goes by other settings from now on. Whether there is a roster, and who issues tokens, stays as it is.
    pub fn set(&self, settings: Settings) {
        self.settings.store(Arc::new(settings));
    }

    /// Makes a roster of `described`; who is in the present one keeps what it has used.
    ///
    /// # Errors
    /// When two clients would be known by the same thing.
    pub fn prepare_roster(&self, described: Vec<Described>) -> Result<Roster, Shared> {
        let present = self.roster.as_ref().map(ArcSwap::load);
        Roster::new(described, present.as_deref().map(|roster| &**roster))
    }

    /// Takes a new roster, where there is one already.
    pub fn replace_roster(&self, new: Roster) {
        if let Some(roster) = &self.roster {
            roster.store(Arc::new(new));
        }
    }

    /// Takes new contents of the file of the issuer's keys.
    ///
    /// # Errors
    /// When no key is in it; the old ones stay in force.
    pub fn replace_keys(&self, contents: &[Content]) -> Result<(), token::BadKeys> {
        self.issuer.as_ref().map_or(Ok(()), |(_, jwks)| jwks.replace(contents))
    }

    /// The success of fetching the issuer's keys, where they are at a URL.
    #[must_use]
    pub fn watched_keys(&self) -> Option<Arc<Watched>> {
        self.issuer.as_ref()?.1.watched()
    }

    /// The last key of each client whose keys all end.
    #[must_use]
    pub fn expiring(&self) -> Vec<Expiring> {
        self.roster.as_ref().map_or_else(Vec::new, |roster| roster.load().expiring().to_vec())
    }

    /// Fetches the issuer's keys over and over, where they are at a URL; never ends.
    pub async fn follow_keys(&self) {
        match &self.issuer {
            Some((_, jwks)) => jwks.follow().await,
            None => std::future::pending().await,
        }
    }

    /// Whether who is not allowed something is told that it does not exist.
    #[must_use]
    pub fn hides(&self) -> bool {
        self.settings.load().hide
    }

    /// Identifies who sent a request. `None`: none of the issuer's keys that are here signed its token, and
    /// [`Access::identify_anew`] waits for newer ones.
    pub fn identify(&self, parts: &Parts, peer: &Peer, now: Now) -> Option<Result<Principal, Unidentified>> {
        if let Err(why) = guard::check(parts, peer.via, &self.settings.load()) {
            return Some(Err(match peer.via {
                // From other machines these count like wrong keys, so that a flood of them is told once.
                Via::Network(_) => {
                    let counted = self.failed(Reason::NotForUs, peer.via, now.mono);
                    if let Unidentified::TooManyFailures(_) = counted { counted } else { why }
                }
                Via::Loopback(_) | Via::Unix(_) => why,
            }));
        }
        match self.client(parts, peer, now) {
            Err(Reason::UnknownSigner) => None,
            known => Some(self.principal(known, peer, now)),
        }
    }

    /// Identifies who sent a request that shows a token of an unknown signer, once the issuer's newest keys are
    /// here.
    ///
    /// # Errors
    /// [`Unidentified`].
    pub async fn identify_anew(
        &self,
        parts: &Parts,
        peer: &Peer,
        now: Now,
    ) -> Result<Principal, Unidentified> {
        let mut known = Err(Reason::UnknownSigner);
        // A try that was under way may have come too early to see a new key.
        for _ in 0..2 {
            if let Some((_, jwks)) = &self.issuer {
                jwks.newer().await;
            }
            known = self.client(parts, peer, now);
            if !matches!(known, Err(Reason::UnknownSigner)) {
                break;
            }
        }
        self.principal(known, peer, now)
    }

    fn principal(&self, known: Known, peer: &Peer, now: Now) -> Result<Principal, Unidentified> {
        match known {
            Ok(Some(client)) => Ok(Principal { name: Arc::clone(&client.name), client: Some(client) }),
            Ok(None) => Ok(Principal { name: Arc::clone(&self.local), client: None }),
            Err(reason) => Err(self.failed(reason, peer.via, now.mono)),
        }
    }

    /// Which client sent a request; `None` without a roster.
    fn client(&self, parts: &Parts, peer: &Peer, now: Now) -> Known {
        let Some(roster) = &self.roster else { return Ok(None) };
        self.in_roster(&roster.load(), parts, peer, now).map(Some)
    }

    fn in_roster(&self, roster: &Roster, parts: &Parts, peer: &Peer, now: Now) -> Presented {
        let mut found: Option<Arc<Client>> = None;
        for credential in presented(parts)?.into_iter().flatten() {
            let client = match credential {
                Credential::Key(key) => roster.by_key(key, now),
                Credential::Token(token) => self.by_token(roster, token, now),
            }?;
            if found.as_ref().is_some_and(|other| !Arc::ptr_eq(other, &client)) {
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
            return roster.by_certificate(&certificate.names);
        }
        if peer.is_refused {
            return Err(Reason::RefusedCertificate);
        }
        match peer.via {
            Via::Unix(Some(user)) => roster.by_user(user).ok_or(Reason::UnknownUser),
            Via::Unix(None) | Via::Loopback(_) | Via::Network(_) => Err(Reason::Nothing),
        }
    }

    fn by_token(&self, roster: &Roster, token: &str, now: Now) -> Presented {
        let Some((expected, jwks)) = &self.issuer else { return Err(Reason::BadToken) };
        roster.by_claims(&token::verify(token, &jwks.now(), expected, now.wall)?)
    }

    fn failed(&self, reason: Reason, via: Via, now: Instant) -> Unidentified {
        let Some(address) = via.counted_as() else { return Unidentified::Unknown(reason) };
        match self.failures.count(address, self.settings.load().max_failures, now) {
            Failed::Counted => Unidentified::Unknown(reason),
            Failed::FirstOver => {
                tracing::warn!(
                    client.address = %address,
                    reason = reason.as_str(),
                    "too many failed attempts from this address: more of this minute are not logged"
                );
                Unidentified::TooManyFailures(reason)
            }
            Failed::Over => Unidentified::TooManyFailures(reason),
        }
    }

    /// Decides whether `principal` may do what `route` asks, and counts it.
    ///
    /// # Errors
    /// [`NotPermitted`].
    pub fn permit(&self, principal: &Principal, route: &Route, now: Instant) -> Result<Permit, NotPermitted> {
        let Some(client) = &principal.client else { return Ok(Permit::unlimited()) };
        client.policy.decide(route).map_err(NotPermitted::Denied)?;
        let Policy { requests_per_minute, concurrent_requests, .. } = client.policy;
        client.usage.admit(requests_per_minute, concurrent_requests, now).map_err(NotPermitted::Exceeded)
    }

    /// The same for a request that waits for an earlier one of `principal`'s, which has a place among its requests still.
    ///
    /// # Errors
    /// [`NotPermitted`].
    pub fn permit_to_join(
        &self,
        principal: &Principal,
        route: &Route,
        now: Instant,
    ) -> Result<Permit, NotPermitted> {
        let Some(client) = &principal.client else { return Ok(Permit::unlimited()) };
        client.policy.decide(route).map_err(NotPermitted::Denied)?;
        client.usage.join(client.policy.requests_per_minute, now).map_err(NotPermitted::Exceeded)
    }
}

impl Exceeded {
    /// When to try again.
    #[must_use]
    pub const fn retry_after(self) -> Duration {
        match self {
            Self::PerMinute { retry_after } => retry_after,
            Self::AtOnce => Duration::from_secs(1),
        }
    }
}

enum Credential<'a> {
    Key(&'a str),
    Token(&'a str),
}

/// What a request presents that looks like ours: in `Authorization` with the scheme `token` or `bearer`, or
/// in `Session-Token`. Anything else there (a Snyk token that a tool still sends, say) counts as nothing.
fn presented(parts: &Parts) -> Result<[Option<Credential<'_>>; 2], Reason> {
    let mut found = [None, None];
    for (name, found) in [&AUTHORIZATION, &SESSION_TOKEN].into_iter().zip(&mut found) {
        let mut values = parts.headers.get_all(name).iter();
        let Some(value) = values.next() else { continue };
        if values.next().is_some() {
            return Err(Reason::Conflicting);
        }
        let Ok(text) = value.to_str() else { continue };
        let bare = match text.trim().split_once(' ') {
            Some((scheme, rest))
                if ["token", "bearer"].iter().any(|known| scheme.eq_ignore_ascii_case(known)) =>
            {
                rest.trim()
            }
            None if *name == SESSION_TOKEN => text.trim(),
            _ => continue,
        };
        if bare.starts_with(key::PREFIX) {
            *found = Some(Credential::Key(bare));
        } else if token::looks_like_one(bare) {
            *found = Some(Credential::Token(bare));
        }
    }
    Ok(found)
}
