//! All credentials, their choice by scope, and their reloading.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use arc_swap::ArcSwap;

use super::Credential;
use super::health::CredentialHealth;
use super::oauth::OAuth;
use super::settings::{Scopes, Settings};
use super::slot::{self, BadCredential, parse};
use crate::clock::Clock;
use crate::export::Scope;
use crate::watched_file::{Followed, Watched};

/// Separates a credential's name and its version after a change of its settings; no name contains it.
pub const VERSION: char = '#';
/// All credentials. A reload may replace them while requests use them.
#[derive(Debug)]
pub struct Credentials {
    all: ArcSwap<Vec<Arc<Credential>>>,
    /// Number of replacements.
    versions: AtomicU64,
}

/// Credentials that a reload has read, not in use yet.
#[derive(Debug)]
pub struct NewCredentials {
    all: Vec<Arc<Credential>>,
    new: Vec<CredentialReloader>,
}

/// The reloading of a credential's values from their sources.
#[derive(Debug)]
pub struct CredentialReloader {
    credential: Arc<Credential>,
    /// Slots with files.
    files: Vec<(usize, Followed)>,
    interval: Duration,
}

impl Credentials {
    /// Reads all credentials for the first time; the caller runs each [`CredentialReloader`].
    ///
    /// # Errors
    /// The first that cannot be used. The file of a `next` slot may be missing.
    pub fn open(settings: Settings, clock: &Clock) -> Result<(Self, Vec<CredentialReloader>), BadCredential> {
        let none = Self { all: ArcSwap::default(), versions: AtomicU64::new(0) };
        let following = none.replace(none.prepare(settings, clock)?);
        Ok((none, following))
    }

    /// Reads new credentials. One with unchanged settings stays in use, with its values.
    ///
    /// # Errors
    /// The first that cannot be used.
    pub fn prepare(&self, settings: Settings, clock: &Clock) -> Result<NewCredentials, BadCredential> {
        let before = self.all();
        let version = self.versions.load(Ordering::Relaxed);
        let (mut all, mut new) = (Vec::new(), Vec::new());
        for one in settings.credentials {
            if let Some(same) = before.iter().find(|other| other.settings == one) {
                all.push(Arc::clone(same));
                continue;
            }
            let (mut slots, mut files) = (Vec::new(), Vec::new());
            for (at, slot) in one.slots.iter().cloned().enumerate() {
                let (slot, file) = slot::open(slot, at, settings.ca_file.as_deref(), clock)?;
                slots.push(slot);
                files.extend(file.map(|file| (at, file)));
            }
            let filled: Vec<bool> =
                slots.iter().map(|slot| slot.oauth.is_some() || slot.value.load().is_some()).collect();
            let credential = Arc::new(Credential {
                name: one.name.as_str().into(),
                cache_name: match version {
                    0 => one.name.as_str().into(),
                    version => format!("{}{VERSION}{version}", one.name).into(),
                },
                settings: one,
                health: Mutex::new(CredentialHealth::new(&filled, settings.probe_interval)),
                slots,
                probe_interval: settings.probe_interval,
                clock: clock.clone(),
                renewing: tokio::sync::Mutex::default(),
            });
            let interval = settings.reload_interval;
            new.push(CredentialReloader { credential: Arc::clone(&credential), files, interval });
            all.push(credential);
        }
        Ok(NewCredentials { all, new })
    }

    /// Puts new credentials in use; the caller runs each [`CredentialReloader`].
    pub fn replace(&self, NewCredentials { all, new }: NewCredentials) -> Vec<CredentialReloader> {
        self.all.store(Arc::new(all));
        self.versions.fetch_add(1, Ordering::Relaxed);
        new
    }

    pub(crate) fn all(&self) -> Arc<Vec<Arc<Credential>>> {
        self.all.load_full()
    }

    pub(crate) fn names(&self) -> Vec<Arc<str>> {
        self.all.load().iter().map(|one| Arc::clone(&one.name)).collect()
    }

    /// The credential for a call about `scopes`: the one that names the first of them, else the one for the rest.
    pub(crate) fn choose(&self, scopes: &[Scope]) -> Option<Arc<Credential>> {
        let all = self.all.load();
        let named = scopes.first().and_then(|scope| all.iter().find(|one| one.settings.scopes.names(scope)));
        named.or_else(|| all.iter().find(|one| one.settings.scopes == Scopes::Rest)).cloned()
    }
}

impl NewCredentials {
    pub(crate) fn names(&self) -> Vec<Arc<str>> {
        self.all.iter().map(|one| Arc::clone(&one.name)).collect()
    }
}

impl CredentialReloader {
    pub(crate) fn name(&self) -> &Arc<str> {
        &self.credential.name
    }

    pub(crate) fn watched(&self) -> impl Iterator<Item = Arc<Watched>> {
        self.files.iter().map(|(_, followed)| followed.watched())
    }

    /// Reloads the values from their sources again and again; never ends.
    pub(crate) async fn run(self) {
        let Self { credential, files, interval } = self;
        let following = files.into_iter().map(|(slot, followed)| {
            let credential = Arc::clone(&credential);
            followed.follow(interval, move |contents| {
                let text = contents.first().and_then(|content| std::str::from_utf8(content).ok());
                credential.fill(slot, parse(text.unwrap_or_default())?)?;
                Ok(())
            })
        });
        let keeping = credential.slots.iter().filter_map(|slot| slot.oauth.as_ref()).map(OAuth::run);
        futures_util::future::join(
            futures_util::future::join_all(following),
            futures_util::future::join_all(keeping),
        )
        .await;
    }
}
