//! The Snyk credentials: where their values come from, which one is presented, and what happens when Snyk
//! refuses it.
//!
//! A credential has a name, the orgs and groups that it is for, and one or two slots (`active`, `next`).
//! A slot's value is fixed, followed in a file, or fetched as an OAuth access token. A value has a
//! generation, so that an answer to an older value says nothing about the newer one.

mod health;
mod oauth;
mod settings;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::{ArcSwap, ArcSwapOption};
use http::HeaderValue;

use crate::clock::{Clock, Now};
use crate::export::Scope;
use crate::files::{self, Followed, Unreadable, Watched};
use crate::secret::Secret;
use crate::transport::{self, TransportError};

pub use settings::{Described, Scheme, Scopes, Settings, Slot, Source};

use health::{Health, Pick};
use oauth::OAuth;

/// Between a credential's name and its version, where it was described anew; no name has it.
pub const VERSION: char = '#';
/// Longest token, in bytes.
pub const MAX_TOKEN: usize = 8_192;
/// Between the two readings of a token file after a refusal.
const SETTLING: Duration = Duration::from_millis(20);
/// Shortest credential that is sought in answers, in bytes.
const SHORTEST_SOUGHT: usize = 16;
/// Longest wait for a connection to a token endpoint.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Why a value is no credential. It never says what the value was.
#[derive(Debug, thiserror::Error)]
pub enum BadCredential {
    /// Its file cannot be read.
    #[error(transparent)]
    Unreadable(#[from] Unreadable),
    /// There is nothing but white space.
    #[error("the token is empty")]
    Empty,
    /// It is longer than [`MAX_TOKEN`].
    #[error("the token is longer than {MAX_TOKEN} bytes")]
    TooLong,
    /// It has white space or other bytes that no token has.
    #[error("the token has a character that is not visible ASCII")]
    Malformed,
    /// No client for the token endpoint can be made.
    #[error("the connection to the token endpoint cannot be set up")]
    Transport(#[from] TransportError),
}

/// Why there is nothing to present.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unavailable {
    /// Snyk refused every value; they are tried again in turn.
    Locked {
        /// Until the next try.
        retry_after: Duration,
    },
    /// Snyk refuses every value for this org or group, though not elsewhere.
    ScopeRefused {
        /// Until the next try.
        retry_after: Duration,
    },
    /// No access token could be had.
    NoToken {
        /// Until the next try.
        retry_after: Duration,
    },
}

/// A slot has no value to present.
#[derive(Debug, thiserror::Error)]
pub enum NoValue {
    /// Its file is not there yet, or empty.
    #[error("{} is not there yet, or is empty", .0.display())]
    Awaited(PathBuf),
    /// The content of its file cannot be used.
    #[error("{}", path.display())]
    Unusable {
        /// The file.
        path: PathBuf,
        /// The fault in it.
        source: BadCredential,
    },
    /// The token endpoint gives no access token.
    #[error("no access token")]
    NoAccessToken(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// All credentials. They may be replaced while requests use them.
#[derive(Debug)]
pub struct Credentials {
    all: ArcSwap<Vec<Arc<Credential>>>,
    /// How often they were replaced.
    versions: AtomicU64,
}

/// One credential.
#[derive(Debug)]
pub struct Credential {
    /// The name that stands for it in cache keys, logs and the journal.
    pub name: Arc<str>,
    /// Names it in cache keys: another one when it is described anew, for that may see other data.
    pub cache_name: Arc<str>,
    described: Described,
    slots: Vec<Held>,
    health: Mutex<Health>,
    probe_interval: Duration,
    /// Held while a slot's source is asked again: one at a time, the others wait for what it brings.
    renewing: tokio::sync::Mutex<()>,
}

/// A slot and what it holds.
#[derive(Debug)]
struct Held {
    scheme: Scheme,
    source: Source,
    /// The value of a fixed token or a file.
    value: ArcSwapOption<Value>,
    oauth: Option<OAuth>,
}

#[derive(Debug)]
struct Value {
    secret: Secret,
    field: HeaderValue,
    generation: u64,
    /// Since when it is in use.
    since: Instant,
}

/// How a slot of a credential stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standing {
    /// `active` or `next`.
    pub slot: &'static str,
    /// `in_use`, `ready`, `locked` (Snyk refused it) or `empty`.
    pub state: &'static str,
    /// For how long its value is in use.
    pub age: Option<Duration>,
    /// How long an access token is good still; other values do not say.
    pub expires_in: Option<Duration>,
    /// How many orgs and groups Snyk refuses with it, though it takes it elsewhere.
    pub refused_scopes: usize,
}

/// What is presented with one request.
#[derive(Debug)]
pub struct Presented {
    /// The `Authorization` field.
    pub field: HeaderValue,
    slot: usize,
    generation: u64,
    scope: Option<Scope>,
    probe: Option<Probe>,
}

/// The probe of a locked slot. One that was not sent leaves the next request to be one; one that was, and brought no
/// verdict, the first request after an interval.
#[derive(Debug)]
struct Probe {
    credential: Arc<Credential>,
    slot: usize,
    was_sent: AtomicBool,
    has_verdict: AtomicBool,
}

impl Drop for Probe {
    fn drop(&mut self) {
        if !self.has_verdict.load(Ordering::Relaxed) {
            let was_sent = self.was_sent.load(Ordering::Relaxed);
            let now = tokio::time::Instant::now().into_std();
            self.credential.health().lose_probe(self.slot, was_sent, now);
        }
    }
}

impl Presented {
    /// Notes that a request goes up with it.
    pub fn sent(&self) {
        if let Some(probe) = &self.probe {
            probe.was_sent.store(true, Ordering::Relaxed);
        }
    }

    /// Notes that Snyk took or refused it; whether it was a slot's probe.
    fn has_verdict(&self) -> bool {
        if let Some(probe) = &self.probe {
            probe.has_verdict.store(true, Ordering::Relaxed);
        }
        self.probe.is_some()
    }

    /// Whether `bytes` hold the credential: an upstream that echoes it must not hand it to a client.
    #[must_use]
    pub fn is_in(&self, bytes: &[u8]) -> bool {
        let secret = self.secret();
        !secret.is_empty() && memchr::memmem::find(bytes, secret).is_some()
    }

    /// The credential as it would stand in an answer; empty where it is so short (in a test, say) that it
    /// would be found by chance.
    #[must_use]
    pub fn secret(&self) -> &[u8] {
        let field = self.field.as_bytes();
        let secret = field.iter().position(|b| *b == b' ').map_or(field, |at| &field[at + 1..]);
        if secret.len() >= SHORTEST_SOUGHT { secret } else { &[] }
    }

    /// Whether any field's value holds the credential.
    #[must_use]
    pub fn is_in_fields(&self, fields: &http::HeaderMap) -> bool {
        fields.values().any(|value| self.is_in(value.as_bytes()))
    }
}

/// Credentials that were read and are not in use yet.
#[derive(Debug)]
pub struct Prepared {
    all: Vec<Arc<Credential>>,
    new: Vec<Following>,
}

/// A credential whose values are to be kept as their sources say.
#[derive(Debug)]
pub struct Following {
    credential: Arc<Credential>,
    /// The slots that are filled from files.
    files: Vec<(usize, Followed)>,
    interval: Duration,
}

impl Credentials {
    /// Reads all credentials for the first time; each [`Following`] is to be run.
    ///
    /// # Errors
    /// The first that cannot be used. A `next` file need not be there yet.
    pub fn open(settings: Settings, clock: &Clock) -> Result<(Self, Vec<Following>), BadCredential> {
        let none = Self { all: ArcSwap::default(), versions: AtomicU64::new(0) };
        let following = none.replace(none.prepare(settings, clock)?);
        Ok((none, following))
    }

    /// Reads other credentials. One that is described as before stays as it is, with its values.
    ///
    /// # Errors
    /// The first that cannot be used.
    pub fn prepare(&self, settings: Settings, clock: &Clock) -> Result<Prepared, BadCredential> {
        let before = self.all();
        let version = self.versions.load(Ordering::Relaxed);
        let (mut all, mut new) = (Vec::new(), Vec::new());
        for described in settings.credentials {
            if let Some(same) = before.iter().find(|one| one.described.is_same(&described)) {
                all.push(Arc::clone(same));
                continue;
            }
            let (mut slots, mut files) = (Vec::new(), Vec::new());
            for (at, slot) in described.slots.iter().cloned().enumerate() {
                let (slot, file) = hold(slot, at, settings.ca_file.as_deref(), clock)?;
                slots.push(slot);
                files.extend(file.map(|file| (at, file)));
            }
            let filled: Vec<bool> =
                slots.iter().map(|slot| slot.oauth.is_some() || slot.value.load().is_some()).collect();
            let credential = Arc::new(Credential {
                name: described.name.as_str().into(),
                cache_name: match version {
                    0 => described.name.as_str().into(),
                    version => format!("{}{VERSION}{version}", described.name).into(),
                },
                described,
                health: Mutex::new(Health::new(&filled, settings.probe_interval)),
                slots,
                probe_interval: settings.probe_interval,
                renewing: tokio::sync::Mutex::default(),
            });
            let interval = settings.reload_interval;
            new.push(Following { credential: Arc::clone(&credential), files, interval });
            all.push(credential);
        }
        Ok(Prepared { all, new })
    }

    /// Has what was prepared used from now on; each [`Following`] is to be run.
    pub fn replace(&self, Prepared { all, new }: Prepared) -> Vec<Following> {
        self.all.store(Arc::new(all));
        self.versions.fetch_add(1, Ordering::Relaxed);
        new
    }

    /// All of them.
    #[must_use]
    pub fn all(&self) -> Arc<Vec<Arc<Credential>>> {
        self.all.load_full()
    }

    /// The names of all.
    #[must_use]
    pub fn names(&self) -> Vec<Arc<str>> {
        self.all.load().iter().map(|one| Arc::clone(&one.name)).collect()
    }

    /// The credential for a call that is about `scopes`: the one that names the first of them, else the one
    /// for the rest.
    #[must_use]
    pub fn choose(&self, scopes: &[Scope]) -> Option<Arc<Credential>> {
        let all = self.all.load();
        let named = scopes.first().and_then(|scope| all.iter().find(|one| one.described.scopes.names(scope)));
        named.or_else(|| all.iter().find(|one| one.described.scopes == Scopes::Rest)).cloned()
    }
}

impl Prepared {
    /// The names of all.
    #[must_use]
    pub fn names(&self) -> Vec<Arc<str>> {
        self.all.iter().map(|one| Arc::clone(&one.name)).collect()
    }
}

impl Following {
    /// Which credential it is.
    #[must_use]
    pub fn name(&self) -> &Arc<str> {
        &self.credential.name
    }

    /// How its files fare.
    pub fn watched(&self) -> impl Iterator<Item = Arc<Watched>> {
        self.files.iter().map(|(_, followed)| followed.watched())
    }

    /// Keeps the values as their sources say; never ends.
    pub async fn run(self) {
        let Self { credential, files, interval } = self;
        let following = files.into_iter().map(|(slot, followed)| {
            let credential = Arc::clone(&credential);
            followed.follow(interval, move |contents| {
                let text = contents.first().and_then(|content| std::str::from_utf8(content).ok());
                credential.fill(slot, parse(text.unwrap_or_default())?)?;
                Ok(())
            })
        });
        let keeping = credential.slots.iter().filter_map(|slot| slot.oauth.as_ref()).map(OAuth::keep);
        futures_util::future::join(
            futures_util::future::join_all(following),
            futures_util::future::join_all(keeping),
        )
        .await;
    }
}

impl Credential {
    /// How its slots stand at `now`.
    #[must_use]
    pub fn standing(&self, now: Now) -> Vec<Standing> {
        let slot = |(at, held): (usize, &Held)| {
            let life = held.oauth.as_ref().map(|oauth| oauth.life(now));
            let since = held.value.load().as_ref().map(|value| value.since);
            let age = since.map(|since| now.mono.saturating_duration_since(since));
            let health = self.health();
            Standing {
                slot: slot_name(at),
                state: health.standing(at),
                refused_scopes: health.refused_scopes(at),
                age: life.map_or(age, |life| life.map(|(age, _)| age)),
                expires_in: life.flatten().map(|(_, left)| left),
            }
        };
        self.slots.iter().enumerate().map(slot).collect()
    }

    /// The value to present at `now` for a call about `scope`.
    ///
    /// # Errors
    /// [`Unavailable`]: then nothing may be sent.
    pub async fn present(
        self: &Arc<Self>,
        scope: Option<&Scope>,
        client: &Arc<str>,
        now: Now,
    ) -> Result<Presented, Unavailable> {
        let pick = self.health().pick(scope, client, now.mono);
        let (slot, probe) = match pick {
            Pick::Use(slot) => (slot, None),
            Pick::Probe(slot) => {
                let credential = Arc::clone(self);
                let (was_sent, has_verdict) = (AtomicBool::new(false), AtomicBool::new(false));
                (slot, Some(Probe { credential, slot, was_sent, has_verdict }))
            }
            Pick::Locked { retry_after } => return Err(Unavailable::Locked { retry_after }),
            Pick::ScopeRefused { retry_after } => return Err(Unavailable::ScopeRefused { retry_after }),
        };
        match self.present_slot(slot, scope, now).await {
            Ok(presented) => Ok(Presented { probe, ..presented }),
            Err(unavailable) => {
                // Its token endpoint is down; the other slot may do meanwhile.
                let other = self.health().open_but(slot, scope).ok_or(unavailable)?;
                self.present_slot(other, scope, now).await
            }
        }
    }

    /// The same for a request whose answer says nothing about the credential: it is no probe.
    ///
    /// # Errors
    /// [`Unavailable`].
    pub async fn present_unlocked(&self, now: Now) -> Result<Presented, Unavailable> {
        let open = self.health().open();
        match open {
            Some(slot) => self.present_slot(slot, None, now).await,
            None => Err(Unavailable::Locked { retry_after: self.probe_interval }),
        }
    }

    /// The `Authorization` field of the value that a slot's source has now. The health of the slots does not matter, and stays
    /// as it is.
    ///
    /// # Errors
    /// [`NoValue`].
    pub async fn try_slot(&self, slot: usize) -> Result<HeaderValue, NoValue> {
        let held = &self.slots[slot];
        let field = |secret, path: &Path| {
            let unusable = |source| NoValue::Unusable { path: path.to_owned(), source };
            value(secret, held.scheme, 1).map(|value| value.field).map_err(unusable)
        };
        match (&held.source, &held.oauth) {
            (Source::Fixed(secret), _) => field(secret.clone(), Path::new("SNYK_TOKEN")),
            (Source::File(path), _) => match read(path) {
                Ok(secret) => field(secret, path),
                Err(BadCredential::Empty) => Err(NoValue::Awaited(path.clone())),
                Err(BadCredential::Unreadable(error)) if error.is_missing() => {
                    Err(NoValue::Awaited(path.clone()))
                }
                Err(source) => Err(NoValue::Unusable { path: path.clone(), source }),
            },
            (Source::OAuth { .. }, Some(oauth)) => oauth.try_once().await.map_err(NoValue::NoAccessToken),
            (Source::OAuth { .. }, None) => Err(NoValue::NoAccessToken("no token endpoint".into())),
        }
    }

    async fn present_slot(
        &self,
        slot: usize,
        scope: Option<&Scope>,
        now: Now,
    ) -> Result<Presented, Unavailable> {
        let (field, generation) = self.slots[slot].present(now).await?;
        Ok(Presented { field, slot, generation, scope: scope.cloned(), probe: None })
    }

    /// Snyk took what was presented.
    pub fn accepted(&self, presented: &Presented, now: Now) {
        let is_probe = presented.has_verdict();
        if self.slots[presented.slot].generation() == presented.generation
            && self.health().accepted(presented.slot, presented.scope.as_ref(), is_probe, now.mono)
        {
            let slot = slot_name(presented.slot);
            tracing::info!(credential.name = %self.name, credential.slot = slot, "Snyk accepts this credential again; resuming its use");
        }
    }

    /// The time until Snyk is asked again for the scope of what it just refused, where it takes the value for other scopes.
    #[must_use]
    pub fn refused_for_scope_alone(&self, presented: &Presented, now: Now) -> Option<Duration> {
        self.health().takes_others(presented.slot, now.mono).then_some(self.probe_interval)
    }

    /// Snyk refused what was presented (401). Asks the slot's source again; what to replay the request
    /// with, once, if it may be replayed. With `may_lock`, the refusal counts against scope and slot.
    pub async fn refused(&self, presented: &Presented, now: Now, may_lock: bool) -> Option<Presented> {
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
        let is_probe = presented.has_verdict();
        let (is_locked, may_replay, other) = {
            let mut health = self.health();
            let is_locked = health.refused(slot, scope, is_probe, now.mono);
            (is_locked, health.standing(slot) != "locked", health.open_but(slot, scope))
        };
        if is_locked {
            tracing::error!(
                credential.name = %self.name,
                credential.slot = slot_name(slot),
                credential.probe_interval_s = self.probe_interval.as_secs(),
                "Snyk refuses this credential (401); pausing its use, but for one request each interval; replace it"
            );
        } else if self.health().was_refused_now(slot, scope) {
            tracing::warn!(
                credential.name = %self.name,
                credential.slot = slot_name(slot),
                export.scope.id = scope.map(|scope| scope.id.as_str()),
                credential.probe_interval_s = self.probe_interval.as_secs(),
                "Snyk refuses this credential for one org or group (401); pausing its requests, but for one each interval; others go on"
            );
        }
        match other {
            _ if is_probe => None,
            Some(other) => self.present_slot(other, scope, now).await.ok(),
            None if !may_replay => None,
            None => self.present_slot(slot, scope, now).await.ok(),
        }
    }

    /// Asks a slot's source for a newer value.
    async fn renew(&self, slot: usize, generation: u64) {
        let held = &self.slots[slot];
        if let Some(oauth) = &held.oauth {
            // The slot is not opened by it: a client that Snyk has shut out gets new tokens all the same.
            oauth.newer(generation).await;
        } else if let Source::File(path) = &held.source {
            let path = path.clone();
            let reading = tokio::task::spawn_blocking(move || {
                let first = read(&path)?;
                std::thread::sleep(SETTLING);
                let second = read(&path)?;
                Ok::<_, BadCredential>(first.is_same(&second).then_some(second))
            });
            // What cannot be read now is told by who follows the file.
            if let Ok(Ok(Some(secret))) = reading.await {
                let _ = self.fill(slot, secret);
            }
        }
    }

    /// Gives a slot a value; one that it has already changes nothing.
    fn fill(&self, slot: usize, secret: Secret) -> Result<(), BadCredential> {
        let held = &self.slots[slot];
        // One at a time: two may read the same new value, and it must be one generation.
        let mut health = self.health();
        let before = held.value.load_full();
        if before.as_ref().is_some_and(|before| before.secret.is_same(&secret)) {
            return Ok(());
        }
        let generation = before.map_or(0, |before| before.generation) + 1;
        held.value.store(Some(Arc::new(value(secret, held.scheme, generation)?)));
        health.renewed(slot);
        tracing::info!(credential.name = %self.name, credential.slot = slot_name(slot), "a new value is in use");
        Ok(())
    }

    fn health(&self) -> MutexGuard<'_, Health> {
        self.health.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Held {
    async fn present(&self, now: Now) -> Result<(HeaderValue, u64), Unavailable> {
        if let Some(oauth) = &self.oauth {
            return oauth.present(now).await;
        }
        let value = self.value.load();
        let value = value.as_ref().ok_or(Unavailable::NoToken { retry_after: Duration::from_secs(1) })?;
        Ok((value.field.clone(), value.generation))
    }

    fn generation(&self) -> u64 {
        match &self.oauth {
            Some(oauth) => oauth.generation(),
            None => self.value.load().as_ref().map_or(0, |value| value.generation),
        }
    }
}

/// Opens the source of the slot that is at place `at` of its credential.
fn hold(
    slot: Slot,
    at: usize,
    ca_file: Option<&Path>,
    clock: &Clock,
) -> Result<(Held, Option<Followed>), BadCredential> {
    let Slot { source, scheme } = slot;
    let mut held = Held { scheme, source: source.clone(), value: ArcSwapOption::empty(), oauth: None };
    let mut followed = None;
    let mut secret = None;
    match source {
        Source::Fixed(fixed) => secret = Some(fixed),
        Source::File(path) => {
            files::report_exposed(&path);
            let (file, content) = if at == 0 {
                let (file, mut contents) = Followed::open("credential", vec![path])?;
                (file, contents.pop())
            } else {
                Followed::open_optional("credential", path)?
            };
            let text = content.as_ref().map(|content| std::str::from_utf8(content).unwrap_or_default());
            secret = match (at, text.map(parse)) {
                (0, Some(parsed)) => Some(parsed?),
                // A next file may wait empty for its token.
                (_, None | Some(Err(BadCredential::Empty))) => None,
                (_, Some(Err(error))) => {
                    tracing::warn!(
                        error = crate::error_text::error_text(&error),
                        "the next token is not usable: the slot is empty until its file is mended"
                    );
                    None
                }
                (_, Some(Ok(secret))) => Some(secret),
            };
            followed = Some(file);
        }
        Source::OAuth { token_url, client_id, secret_file } => {
            let client = transport::client(&token_url, ca_file, CONNECT_TIMEOUT)?;
            held.oauth = Some(OAuth::new(client, (token_url, client_id, secret_file), clock.clone()));
        }
    }
    if let Some(secret) = secret {
        held.value.store(Some(Arc::new(value(secret, scheme, 1)?)));
    }
    Ok((held, followed))
}

fn value(secret: Secret, scheme: Scheme, generation: u64) -> Result<Value, BadCredential> {
    let field = secret.authorization(scheme.as_str()).map_err(|_| BadCredential::Malformed)?;
    let since = tokio::time::Instant::now().into_std();
    Ok(Value { secret, field, generation, since })
}

const fn slot_name(slot: usize) -> &'static str {
    if slot == 0 { "active" } else { "next" }
}

fn read(path: &Path) -> Result<Secret, BadCredential> {
    parse(std::str::from_utf8(&files::read(path)?).unwrap_or("\u{fffd}"))
}

/// Checks the text of a token, without the white space around it.
///
/// # Errors
/// What is wrong with it, never what it is.
pub fn parse(text: &str) -> Result<Secret, BadCredential> {
    let token = text.trim();
    if token.is_empty() {
        Err(BadCredential::Empty)
    } else if token.len() > MAX_TOKEN {
        Err(BadCredential::TooLong)
    } else if !token.bytes().all(|b| b.is_ascii_graphic()) {
        Err(BadCredential::Malformed)
    } else {
        Ok(Secret::new(token.to_owned()))
    }
}

impl Unavailable {
    /// The time to tell a client.
    #[must_use]
    pub const fn retry_after(self) -> Duration {
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

    fn fixed(name: &str, scopes: Scopes, tokens: &[&str]) -> Described {
        let slot = |token: &&str| Slot {
            source: Source::Fixed(Secret::new((*token).to_owned())),
            scheme: Scheme::Token,
        };
        Described { name: name.to_owned(), scopes, slots: tokens.iter().map(slot).collect() }
    }

    fn open(credentials: Vec<Described>) -> Credentials {
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
