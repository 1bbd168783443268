//! Reading the configuration again: at SIGHUP, and when its file changes. What is not valid changes nothing; what
//! cannot change without a restart is said.

use std::error::Error;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use serde_json::{Value, json};
use tokio::sync::Notify;

use super::following::Following;
use super::pacing::Pacing;
use super::{open_clients, retrieval_settings, settings};
use crate::access::Access;
use crate::admin::{Admin, Shown};
use crate::clock::Clock;
use crate::config::{Config, Problems, Resolved, needs_restart};
use crate::credential::Credentials;
use crate::files::{self, Watched};
use crate::gateway::Gateway;
use crate::journal::OnFailure;
use crate::listener::Limits;
use crate::retrieval::Retrieval;
use crate::shutdown::{self, Shutdown};
use crate::systemd;
use crate::telemetry::LogFilter;
use crate::transport::{BadTls, PreparedTls, ServerTls, ServerTlsSettings};

/// How often the configuration's file is looked at.
const EVERY: Duration = Duration::from_secs(1);

type BoxError = Box<dyn Error + Send + Sync>;

/// Where the configuration comes from, and who says that it is to be read again.
pub struct Reload {
    /// Reads and resolves it.
    pub read: Box<dyn Fn() -> Result<Config, Problems> + Send>,
    /// Its file, and what was in it before it was read for the first time: so that no change of it is missed.
    pub file: Option<(PathBuf, Option<[u8; 32]>)>,
    /// What is logged.
    pub log: LogFilter,
    /// Told when it is to be read again.
    pub asked: Arc<Notify>,
}

impl std::fmt::Debug for Reload {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reload").field("file", &self.file).finish_non_exhaustive()
    }
}

/// What a new configuration changes.
#[derive(Debug)]
pub(super) struct Reloader {
    pub(super) gateway: Arc<Gateway>,
    pub(super) retrieval: Arc<Retrieval>,
    pub(super) access: Arc<Access>,
    pub(super) credentials: Arc<Credentials>,
    pub(super) tls: Option<ServerTls>,
    pub(super) admin_tls: Option<ServerTls>,
    pub(super) pacing: Pacing,
    pub(super) limits: Limits,
    pub(super) admin: Option<(Limits, Arc<Admin>)>,
    pub(super) stop: Arc<ArcSwap<shutdown::Settings>>,
    pub(super) clock: Clock,
    pub(super) shutdown: Shutdown,
    pub(super) in_force: Config,
}

/// What a try to read it again needs.
struct Again {
    read: Box<dyn Fn() -> Result<Config, Problems> + Send>,
    log: LogFilter,
    reloader: Box<Reloader>,
    following: Following,
}

impl Reload {
    /// Reads the configuration again whenever that is asked for, when its file has changed and was read alike twice,
    /// and over and over while it is not usable; until a stop is announced.
    pub(super) fn spawn(self, reloader: Box<Reloader>, following: Following) {
        let Self { read, file, log, asked } = self;
        let shutdown = reloader.shutdown.clone();
        let watched = following.configuration();
        let again = Arc::new(Mutex::new(Again { read, log, reloader, following }));
        let (path, mut tried) = file.unzip();
        let mut tried = tried.take().flatten();
        let stop = shutdown.clone();
        let reading = async move {
            let mut seen = tried;
            let mut ticks = tokio::time::interval(EVERY);
            ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            loop {
                let is_asked = tokio::select! {
                    _ = ticks.tick() => false,
                    () = asked.notified() => true,
                };
                // A disk that hangs holds nothing else up.
                let path = path.clone();
                let look = move || path.and_then(|path| files::fingerprint(&path));
                let Ok(found) = tokio::task::spawn_blocking(look).await else { continue };
                let has_settled = found == std::mem::replace(&mut seen, found);
                let is_new = found != tried && has_settled;
                if !is_asked && !is_new && watched.failing().is_none() {
                    continue;
                }
                if is_asked {
                    systemd::reloading();
                }
                let work = Arc::clone(&again);
                let trying = move || work.lock().unwrap_or_else(PoisonError::into_inner).attempt();
                let came = tokio::task::spawn_blocking(trying).await;
                tell(
                    came.unwrap_or_else(|_| Err("reading it panicked".into())),
                    is_asked || is_new,
                    &watched,
                );
                tried = found;
                if is_asked {
                    systemd::ready();
                }
            }
        };
        shutdown.spawn(async move {
            tokio::select! {
                () = reading => {}
                () = stop.announced() => {}
            }
        });
    }
}

impl Again {
    fn attempt(&mut self) -> Result<(), BoxError> {
        let config = (self.read)()?;
        self.reloader.take(config, &mut self.following, &self.log)
    }
}

/// Says what came of reading it; a try that nobody asked for, and that came to the same, is not worth a word.
fn tell(came: Result<(), BoxError>, is_news: bool, watched: &Watched) {
    match came {
        Ok(()) if is_news || watched.failing().is_some() => {
            watched.good();
            tracing::info!("the configuration was read again");
        }
        Ok(()) => {}
        Err(error) => {
            // Each problem stands on a line of its own.
            let error = crate::chain::chain(&*error).replace("\n  ", "; ");
            if watched.bad(error.clone()) || is_news {
                tracing::error!(error, "the configuration is not usable: the last good one stays in force");
            }
        }
    }
}

impl Reloader {
    /// Goes by `new` from now on. All that may fail is done before the first change.
    fn take(&mut self, mut new: Config, following: &mut Following, log: &LogFilter) -> Result<(), BoxError> {
        let (changed, later) = self.differences(&new);
        if changed.is_empty() && later.is_empty() {
            self.show(Vec::new());
            return Ok(());
        }
        self.keep_what_is_fixed(&mut new);
        let credentials = self.credentials.prepare(new.credential.clone(), &self.clock)?;
        let tls = prepared(self.tls.as_ref(), new.tls.as_ref())?;
        let admin_tls = prepared(self.admin_tls.as_ref(), new.admin.tls.as_ref())?;
        let is_other = new.clients_file != self.in_force.clients_file;
        let changed_file = new.clients_file.as_deref().filter(|_| is_other);
        let clients = changed_file.map(|path| open_clients(path, &self.access)).transpose()?;
        log.set(&new.log)?;

        // From here on nothing fails. Whoever gives turns for a credential is there before it can be chosen, and until it
        // cannot be any more.
        let before = self.credentials.names();
        let (count, new_names) = (before.len(), credentials.names());
        let both: Vec<Arc<str>> = before.into_iter().chain(new_names).collect();
        let pacers = self.pacing.upstream.set(&new.upstream, &new.sparing, &both);
        self.pacing.spawn(&pacers, &self.shutdown);
        let values = self.credentials.replace(credentials);
        let names = self.credentials.names();
        if !values.is_empty() || names.len() != count {
            // Nobody asks for it any more: a credential that is described anew has keys of its own.
            let _ = self.retrieval.cache().purge_all();
        }
        following.credentials(values);
        following.retain_credentials(&names);
        self.pacing.upstream.set(&new.upstream, &new.sparing, &names);
        following.tls(tls.map(|(tls, files)| (tls.clone(), tls.reopen(files))));
        following.admin_tls(admin_tls.map(|(tls, files)| (tls.clone(), tls.reopen(files))));
        self.access.set(new.access.clone());
        following.clients(clients.map(|clients| clients.take(&self.access)), &self.access);
        self.retrieval.set(retrieval_settings(&new));
        self.gateway.set(&settings(&new));
        self.limits.store(Arc::new(new.listener.clone()));
        if let (Some((limits, _)), Some(listener)) = (&self.admin, &new.admin.listener) {
            limits.store(Arc::new(listener.clone()));
        }
        self.stop.store(Arc::new(new.shutdown));
        self.in_force = new;
        if !changed.is_empty() {
            tracing::info!(keys = changed.join(", "), "a new configuration is in force");
        }
        if !later.is_empty() {
            tracing::warn!(
                keys = later.join(", "),
                "these keys have changed, and take effect after a restart only"
            );
        }
        self.show(later);
        Ok(())
    }

    /// Shows what is in force, and which keys wait for a restart.
    fn show(&self, waiting: Vec<String>) {
        if let Some((_, admin)) = &self.admin {
            admin.set(shown(&self.in_force, waiting));
        }
    }

    /// The keys that changed, and those of them that take effect after a restart only.
    fn differences(&self, new: &Config) -> (Vec<String>, Vec<String>) {
        let before = &self.in_force.resolved.keys;
        let is_new = |name: &str, value: &str| {
            before.iter().find(|key| key.name == name).is_none_or(|key| key.value != value)
        };
        let given = new.resolved.keys.iter().filter(|key| is_new(&key.name, &key.value)).map(|key| &key.name);
        let is_gone = |name: &String| !new.resolved.keys.iter().any(|key| key.name == *name);
        let gone = before.iter().map(|key| &key.name).filter(|name| is_gone(name));
        given.chain(gone).cloned().partition(|key| !self.waits(key, new))
    }

    /// Whether a change of `key` takes effect after a restart only. TLS and a roster neither begin nor end while the
    /// listeners are open.
    fn waits(&self, key: &str, new: &Config) -> bool {
        let tls_switched = new.tls.is_some() != self.in_force.tls.is_some();
        let roster_switched = new.clients_file.is_some() != self.in_force.clients_file.is_some();
        needs_restart(key)
            || (key.starts_with("tls.") && tls_switched)
            || (key == "access.clients_file" && roster_switched)
    }

    /// Puts what is in force in place of what takes effect after a restart only.
    fn keep_what_is_fixed(&self, new: &mut Config) {
        let before = &self.in_force;
        let waiting: Vec<String> = self.differences(new).1;
        let Resolved { keys, .. } = &mut new.resolved;
        keys.retain(|key| !waiting.contains(&key.name));
        keys.extend(before.resolved.keys.iter().filter(|key| waiting.contains(&key.name)).cloned());
        if new.tls.is_some() != before.tls.is_some() {
            new.tls.clone_from(&before.tls);
        }
        if new.clients_file.is_some() != before.clients_file.is_some() {
            new.clients_file.clone_from(&before.clients_file);
            new.access.clients.clone_from(&before.access.clients);
        }
        if let (Some(tls), Some(fixed)) = (&mut new.admin.tls, &before.admin.tls) {
            tls.client_ca.clone_from(&fixed.client_ca);
        }
    }
}

/// Other files of TLS, read, where they are others.
fn prepared<'a>(
    tls: Option<&'a ServerTls>,
    new: Option<&ServerTlsSettings>,
) -> Result<Option<(&'a ServerTls, PreparedTls)>, BadTls> {
    let Some((tls, new)) = tls.zip(new).filter(|(tls, new)| *tls.settings() != **new) else {
        return Ok(None);
    };
    Ok(Some((tls, tls.prepare(new.clone())?)))
}

/// What the admin listener shows of a configuration. No secret is in it.
pub(super) fn shown(config: &Config, waiting: Vec<String>) -> Shown {
    let keys: Vec<Value> = config
        .resolved
        .keys
        .iter()
        .map(|key| {
            json!({
                "name": key.name, "value": key.value, "default": key.default, "source": key.place, "doc": key.doc,
            })
        })
        .collect();
    Shown {
        config: json!({ "keys": keys, "notes": config.resolved.notes }),
        hosts: config.access.hosts.clone(),
        refuses: config.journal.on_failure == OnFailure::Refuse,
        waiting,
    }
}
