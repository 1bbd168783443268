//! The Snyk credentials: the sources of their values, the choice of one for a request, and the reaction to refusals.
//!
//! A credential has a name, the orgs and groups that it is for, and one or two slots (`active`, `next`).
//! A slot's value is fixed, reloaded from a file, or fetched as an OAuth access token. A value has a
//! generation, so that an answer to an older value does not count for the newer one.

mod authorization;
mod credentials;
mod health;
mod oauth;
mod settings;
mod slot;

use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use aws_lc_rs::digest::{Context, SHA256};
use http::HeaderValue;

use crate::clock::{Clock, Now};
use crate::export::Scope;
use crate::secret::Secret;

pub use authorization::Authorization;
pub use credentials::{CredentialReloader, Credentials, NewCredentials, VERSION};
pub use settings::{CredentialSettings, OAuthSettings, Scheme, Scopes, Settings, SlotSettings, ValueSource};
pub use slot::{BadCredential, MAX_TOKEN, NoValue, parse};

use authorization::Probe;
use health::{CredentialHealth, Pick};
use slot::{Slot, read, value};

/// Pause between the two readings of a token file after a refusal.
const SETTLING: Duration = Duration::from_millis(20);

/// No value may be sent to Snyk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unavailable {
    /// Snyk refused every value.
    Locked {
        /// Time until the next try.
        retry_after: Duration,
    },
    /// Snyk refuses every value for this org or group, though not elsewhere.
    ScopeRefused {
        /// Time until the next try.
        retry_after: Duration,
    },
    /// There is no access token.
    NoToken {
        /// Time until the next try.
        retry_after: Duration,
    },
}

/// One credential.
#[derive(Debug)]
pub struct Credential {
    /// Its name in logs and the journal.
    pub name: Arc<str>,
    /// Its name in cache keys, with a version after a change of its settings: the changed one may see other data.
    pub cache_name: Arc<str>,
    settings: CredentialSettings,
    slots: Vec<Slot>,
    health: Mutex<CredentialHealth>,
    probe_interval: Duration,
    clock: Clock,
    /// Held while a slot's source is read after a refusal: the other refused requests wait for its result.
    renewing: tokio::sync::Mutex<()>,
}

/// The status of a slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SlotStatus {
    /// `active` or `next`.
    pub slot: &'static str,
    /// `in_use`, `ready`, `locked` (Snyk refused it) or `empty`.
    pub state: &'static str,
    /// Time since its value came into use.
    pub age: Option<Duration>,
    /// Time until an access token expires; `None` for other values.
    pub expires_in: Option<Duration>,
    /// Number of orgs and groups for which Snyk refuses it.
    pub refused_scopes: usize,
}

impl Credential {
    /// The status of each slot at `now`.
    pub(crate) fn status(&self, now: Now) -> Vec<SlotStatus> {
        let status = |(at, slot): (usize, &Slot)| {
            let life = slot.oauth.as_ref().map(|oauth| oauth.life(now));
            let since = slot.value.load().as_ref().map(|value| value.since);
            let age = since.map(|since| now.mono.saturating_duration_since(since));
            let health = self.health();
            SlotStatus {
                slot: slot_name(at),
                state: health.state(at),
                refused_scopes: health.refused_scopes(at),
                age: life.map_or(age, |life| life.map(|(age, _)| age)),
                expires_in: life.flatten().map(|(_, left)| left),
            }
        };
        self.slots.iter().enumerate().map(status).collect()
    }

    /// A digest of the accounts that it stands for. Another value of a token, or another OAuth client, may see other data.
    pub(crate) fn account(&self) -> [u8; 32] {
        let mut digest = Context::new(&SHA256);
        self.slots.iter().for_each(|slot| slot.identify(&mut digest));
        let mut account = [0; 32];
        account.copy_from_slice(digest.finish().as_ref());
        account
    }

    /// The value to send at `now` for a call about `scope`.
    ///
    /// # Errors
    /// [`Unavailable`].
    pub async fn present(
        self: &Arc<Self>,
        scope: Option<&Scope>,
        client: &Arc<str>,
        now: Now,
    ) -> Result<Authorization, Unavailable> {
        let pick = self.health().pick(scope, client, now.mono)?;
        let (slot, probe) = match pick {
            Pick::Use(slot) => (slot, None),
            Pick::Probe(slot) => (slot, Some(Probe::new(Arc::clone(self), slot))),
        };
        match self.present_slot(slot, scope, now).await {
            Ok(authorization) => Ok(Authorization { probe, ..authorization }),
            Err(unavailable) => {
                // Its token endpoint is down; the other slot may have a value.
                let other = self.health().open_but(slot, scope).ok_or(unavailable)?;
                self.present_slot(other, scope, now).await
            }
        }
    }

    /// The value for a request whose answer does not count for the credential: it is no probe.
    ///
    /// # Errors
    /// [`Unavailable`].
    pub async fn present_unlocked(&self, now: Now) -> Result<Authorization, Unavailable> {
        let open = self.health().open();
        match open {
            Some(slot) => self.present_slot(slot, None, now).await,
            None => Err(Unavailable::Locked { retry_after: self.probe_interval }),
        }
    }

    /// Reads a slot's source and returns the `Authorization` field. It neither reads nor changes the health of the slots.
    ///
    /// # Errors
    /// [`NoValue`].
    pub async fn try_slot(&self, slot: usize) -> Result<HeaderValue, NoValue> {
        let held = &self.slots[slot];
        let field = |secret, path: &Path| {
            let unusable = |source| NoValue::Unusable { path: path.to_owned(), source };
            value(secret, held.scheme, 1, self.clock.now()).map(|value| value.field).map_err(unusable)
        };
        match (&held.source, &held.oauth) {
            (ValueSource::Fixed(secret), _) => field(secret.clone(), Path::new("SNYK_TOKEN")),
            (ValueSource::File(path), _) => match read(path) {
                Ok(secret) => field(secret, path),
                Err(BadCredential::Empty) => Err(NoValue::Awaited(path.clone())),
                Err(BadCredential::Unreadable(error)) if error.is_missing() => {
                    Err(NoValue::Awaited(path.clone()))
                }
                Err(source) => Err(NoValue::Unusable { path: path.clone(), source }),
            },
            (ValueSource::OAuth(_), Some(oauth)) => oauth.try_once().await.map_err(NoValue::NoAccessToken),
            (ValueSource::OAuth(_), None) => Err(NoValue::NoAccessToken("no token endpoint".into())),
        }
    }

    async fn present_slot(
        &self,
        slot: usize,
        scope: Option<&Scope>,
        now: Now,
    ) -> Result<Authorization, Unavailable> {
        let (field, generation) = self.slots[slot].present(now).await?;
        Ok(Authorization { field, slot, generation, scope: scope.cloned(), probe: None })
    }

    /// Records that Snyk accepted a value.
    pub fn accepted(&self, presented: &Authorization, now: Now) {
        let is_probe = presented.judged();
        if self.slots[presented.slot].generation() == presented.generation
            && self.health().accepted(presented.slot, presented.scope.as_ref(), is_probe, now.mono)
        {
            let slot = slot_name(presented.slot);
            tracing::info!(credential.name = %self.name, credential.slot = slot, "Snyk accepts this credential again; resuming its use");
        }
    }

    /// Time until Snyk is asked again for the refused scope, if it accepts the value for other scopes.
    pub(crate) fn refused_for_scope_alone(&self, presented: &Authorization, now: Now) -> Option<Duration> {
        self.health().is_accepted_elsewhere(presented.slot, now.mono).then_some(self.probe_interval)
    }

    /// Records that Snyk refused a value (401), and reads the slot's source again. Returns the value for one replay of the
    /// request, if it may be replayed. With `may_lock`, the refusal counts against scope and slot.
    pub async fn refused(
        &self,
        presented: &Authorization,
        now: Now,
        may_lock: bool,
    ) -> Option<Authorization> {
        let (slot, scope) = (presented.slot, presented.scope.as_ref());
        {
            let _one = self.renewing.lock().await;
            let is_current = self.slots[slot].generation() == presented.generation;
            if is_current && self.health().may_renew(slot, now.mono) {
                self.renew(slot, presented.generation).await;
            }
        }
        if self.slots[slot].generation() != presented.generation {
            return self.present_slot(slot, scope, now).await.ok();
        }
        if !may_lock {
            return None;
        }
        let is_probe = presented.judged();
        let (is_locked, may_replay, other) = {
            let mut health = self.health();
            let is_locked = health.refused(slot, scope, is_probe, now.mono);
            (is_locked, health.state(slot) != "locked", health.open_but(slot, scope))
        };
        if is_locked {
            tracing::error!(
                credential.name = %self.name,
                credential.slot = slot_name(slot),
                credential.probe_interval_s = self.probe_interval.as_secs(),
                "credential locked: Snyk rejected it (401); replace the token; one request each credential.probe_interval tries it"
            );
        } else if self.health().was_refused_now(slot, scope) {
            tracing::warn!(
                credential.name = %self.name,
                credential.slot = slot_name(slot),
                export.scope.id = scope.map(|scope| scope.id.as_str()),
                credential.probe_interval_s = self.probe_interval.as_secs(),
                "credential rejected by Snyk (401) for one org or group; check its id and the credential's access; other scopes go on"
            );
        }
        match other {
            _ if is_probe => None,
            Some(other) => self.present_slot(other, scope, now).await.ok(),
            None if !may_replay => None,
            None => self.present_slot(slot, scope, now).await.ok(),
        }
    }

    /// Reads a slot's source for a newer value.
    async fn renew(&self, slot: usize, generation: u64) {
        let held = &self.slots[slot];
        if let Some(oauth) = &held.oauth {
            // A new token does not open the slot: the endpoint issues tokens also to a client that Snyk refuses.
            oauth.newer(generation).await;
        } else if let ValueSource::File(path) = &held.source {
            let path = path.clone();
            let reading = tokio::task::spawn_blocking(move || {
                let first = read(&path)?;
                std::thread::sleep(SETTLING);
                let second = read(&path)?;
                Ok::<_, BadCredential>((first == second).then_some(second))
            });
            // The reloader of the file logs errors.
            if let Ok(Ok(Some(secret))) = reading.await {
                let _ = self.fill(slot, secret);
            }
        }
    }

    /// Stores a slot's value if it is another one.
    fn fill(&self, slot: usize, secret: Secret) -> Result<(), BadCredential> {
        let held = &self.slots[slot];
        // Under the lock: two readers of the same new value must make one generation.
        let mut health = self.health();
        let before = held.value.load_full();
        if before.as_ref().is_some_and(|before| before.secret == secret) {
            return Ok(());
        }
        let generation = before.map_or(0, |before| before.generation) + 1;
        held.value.store(Some(Arc::new(value(secret, held.scheme, generation, self.clock.now())?)));
        health.renewed(slot);
        tracing::info!(credential.name = %self.name, credential.slot = slot_name(slot), "credential reloaded; using its new value");
        Ok(())
    }

    fn health(&self) -> MutexGuard<'_, CredentialHealth> {
        self.health.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

const fn slot_name(slot: usize) -> &'static str {
    if slot == 0 { "active" } else { "next" }
}

impl Unavailable {
    pub(crate) const fn retry_after(self) -> Duration {
        match self {
            Self::Locked { retry_after }
            | Self::ScopeRefused { retry_after }
            | Self::NoToken { retry_after } => retry_after,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Clock;

    fn fixed(name: &str, scopes: Scopes, tokens: &[&str]) -> CredentialSettings {
        let slot = |token: &&str| SlotSettings {
            source: ValueSource::Fixed(Secret::new((*token).to_owned())),
            scheme: Scheme::Token,
        };
        CredentialSettings { name: name.to_owned(), scopes, slots: tokens.iter().map(slot).collect() }
    }

    fn open(credentials: Vec<CredentialSettings>) -> Credentials {
        let settings = Settings {
            credentials,
            reload_interval: Duration::from_secs(1),
            probe_interval: Duration::from_mins(1),
            ca_file: None,
        };
        Credentials::open(settings, &Clock::system()).expect("credentials").0
    }

    #[test]
    fn a_token_is_checked_and_never_shown() {
        for bad in ["", " \n", "two words", "caf\u{e9}", "\u{fffd}", &"x".repeat(MAX_TOKEN + 1)] {
            assert!(parse(bad).is_err());
        }
        assert!(parse("good\n").is_ok());
        assert!(!format!("{:?}", open(vec![fixed("a", Scopes::Rest, &["hidden"])])).contains("hidden"));
    }

    #[test]
    fn the_credential_that_names_a_scope_comes_before_the_one_for_the_rest() {
        use crate::export::{Id, ScopeKind};
        let id = |text| Id::parse(text).expect("an id");
        let named = Scopes::Named { orgs: vec![id("a")], groups: vec![id("g")] };
        let all = open(vec![fixed("rest", Scopes::Rest, &["r"]), fixed("named", named.clone(), &["n"])]);
        let choose = |kind, text| {
            let scope = Scope { kind, id: id(text) };
            all.choose(&[scope]).map(|one| one.name.to_string())
        };
        assert_eq!(choose(ScopeKind::Org, "a").as_deref(), Some("named"));
        assert_eq!(choose(ScopeKind::Group, "g").as_deref(), Some("named"));
        assert_eq!(choose(ScopeKind::Group, "a").as_deref(), Some("rest"));
        assert_eq!(all.choose(&[]).map(|one| one.name.to_string()).as_deref(), Some("rest"));
        let only = open(vec![fixed("named", named, &["n"])]);
        assert!(only.choose(&[Scope { kind: ScopeKind::Org, id: id("b") }]).is_none());
    }

    #[tokio::test]
    async fn a_refused_value_gives_way_to_the_next_slot_and_an_old_refusal_says_nothing() {
        let all = open(vec![fixed("a", Scopes::Rest, &["one", "two"])]);
        let (one, now) = (Arc::clone(&all.all()[0]), Clock::system().now());
        let presented = one.present(None, &"one".into(), now).await.expect("a value");
        assert_eq!(presented.field, "token one");
        let replay = one.refused(&presented, now, true).await.expect("a replay");
        assert_eq!(replay.field, "token two");
        // Another request with the value that is locked already.
        assert_eq!(one.refused(&presented, now, true).await.expect("a replay").field, "token two");
        one.fill(0, Secret::new("three".to_owned())).expect("a value");
        assert_eq!(one.present(None, &"one".into(), now).await.expect("a value").field, "token three");
        // An answer to the old value does not lock the new one.
        assert_eq!(one.refused(&presented, now, true).await.expect("a replay").field, "token three");
        assert_eq!(one.present(None, &"one".into(), now).await.expect("a value").field, "token three");
    }

    #[tokio::test]
    async fn without_a_next_slot_one_replay_and_then_a_lock() {
        let all = open(vec![fixed("a", Scopes::Rest, &["one"])]);
        let (one, now) = (Arc::clone(&all.all()[0]), Clock::system().now());
        let presented = one.present(None, &"one".into(), now).await.expect("a value");
        assert!(one.refused(&presented, now, false).await.is_none());
        let replay = one.refused(&presented, now, true).await.expect("a replay");
        assert!(one.refused(&replay, now, true).await.is_none());
        assert!(matches!(one.present(None, &"one".into(), now).await, Err(Unavailable::Locked { .. })));
        let later = Now { mono: now.mono + Duration::from_mins(1), ..now };
        let probe = one.present(None, &"one".into(), later).await.expect("a probe");
        assert!(one.present(None, &"one".into(), later).await.is_err());
        one.accepted(&probe, later);
        assert!(one.present(None, &"one".into(), later).await.is_ok());
    }
}
