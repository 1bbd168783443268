//! Reading the configuration again: at SIGHUP, and when its file changes. What is not valid changes nothing; what
//! cannot change without a restart is said.

use std::error::Error;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use serde_json::{Value, json};
use tokio::sync::Notify;

use super::following::Following;
use super::pacing::Pacing;
use super::{follow_clients, settings};
use crate::access::Access;
use crate::admin::Admin;
use crate::clock::Clock;
use crate::config::{Config, Problems, Resolved, needs_restart};
use crate::credential::Credentials;
use crate::files::{Followed, Watched};
use crate::gateway::Gateway;
use crate::journal::OnFailure;
use crate::listener::Limits;
use crate::shutdown::{self, Shutdown};
use crate::systemd;
use crate::telemetry::LogFilter;
use crate::transport::ServerTls;

/// How often the configuration's file is looked at.
const EVERY: Duration = Duration::from_secs(1);

/// Where the configuration comes from, and who says that it is to be read again.
pub struct Reload {
    /// Reads and resolves it.
    pub read: Box<dyn Fn() -> Result<Config, Problems> + Send>,
    /// Its file, opened before it was read for the first time: so that no change of it is missed.
    pub file: Option<Followed>,
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
    pub(super) access: Arc<Access>,
    pub(super) credentials: Arc<Credentials>,
    pub(super) tls: Option<ServerTls>,
    pub(super) pacing: Pacing,
    pub(super) limits: Limits,
    pub(super) admin: Option<(Limits, Arc<Admin>)>,
    pub(super) stop: Arc<ArcSwap<shutdown::Settings>>,
    pub(super) clock: Clock,
    pub(super) shutdown: Shutdown,
    pub(super) in_force: Config,
}

impl Reload {
    /// Reads the configuration again whenever that is asked for, until a stop has begun.
    pub(super) fn spawn(self, reloader: Box<Reloader>, mut following: Following) {
        let Self { read, file, log, asked } = self;
        let shutdown = reloader.shutdown.clone();
        let watched = file.as_ref().map_or_else(|| Watched::new("configuration"), Followed::watched);
        following.follow(
            "configuration".to_owned(),
            vec![Arc::clone(&watched)],
            Box::pin(std::future::pending()),
        );
        let all = Arc::new(Mutex::new((reloader, following)));
        let again = move || {
            let (reloader, following) = &mut *lock(&all);
            let config = read()?;
            reloader.take(config, following, &log)
        };
        let again = Arc::new(Mutex::new(again));
        let stop = shutdown.clone();
        shutdown.spawn(async move {
            let on_change = Arc::clone(&again);
            let by_file = async {
                match file {
                    Some(file) => file.follow(EVERY, |_| (lock(&on_change))()).await,
                    None => std::future::pending().await,
                }
            };
            let by_signal = async {
                loop {
                    asked.notified().await;
                    systemd::reloading();
                    let read = (lock(&again))();
                    tell(&read, &watched);
                    systemd::ready();
                }
            };
            tokio::select! {
                () = by_file => {}
                () = by_signal => {}
                () = stop.begun() => {}
            }
        });
    }
}

fn tell(read: &Result<(), Box<dyn Error + Send + Sync>>, watched: &Watched) {
    match read {
        Ok(()) => {
            watched.good();
            tracing::info!("the configuration was read again");
        }
        Err(error) => {
            let error = crate::chain::chain(&**error);
            tracing::error!(error, "the configuration is not usable: the last good one stays in force");
            watched.bad(error);
        }
    }
}

impl Reloader {
    /// Goes by `new` from now on. What may fail is done first, so that a failure changes nothing.
    fn take(
        &mut self,
        mut new: Config,
        following: &mut Following,
        log: &LogFilter,
    ) -> Result<(), Box<dyn Error + Send + Sync>> {
        let (changed, later) = self.differences(&new);
        if changed.is_empty() && later.is_empty() {
            return Ok(());
        }
        log.set(&new.log)?;
        let values = self.credentials.replace(new.credential.clone(), &self.clock)?;
        if let (Some(tls), Some(settings)) = (&self.tls, &new.tls)
            && *tls.settings() != *settings
        {
            following.tls(Some((tls.clone(), tls.reopen(settings.clone())?)));
        }
        if let (Some(path), Some(_)) = (&new.clients_file, &self.in_force.clients_file)
            && new.clients_file != self.in_force.clients_file
        {
            following.clients(Some(follow_clients(path, &self.access)?), &self.access);
        }

        let names = self.credentials.names();
        if !values.is_empty() || names.len() != self.in_force.credential.credentials.len() {
            // What was fetched with a credential of the same name may not be what this one would get.
            let _ = self.gateway.cache().purge_all();
        }
        following.credentials(values);
        following.retain_credentials(&names);
        let pacers = self.pacing.upstream.set(&new.upstream, &new.sparing, names);
        self.pacing.spawn(&pacers, &self.shutdown);
        self.access.set(new.access.clone());
        self.gateway.set(&settings(&new));
        self.limits.store(Arc::new(new.listener.clone()));
        self.stop.store(Arc::new(new.shutdown));
        keep(&mut new.resolved, &self.in_force.resolved, &later);
        if let Some((limits, admin)) = &self.admin {
            if let Some(listener) = &new.admin.listener {
                limits.store(Arc::new(listener.clone()));
            }
            admin.set(shown(&new.resolved), new.journal.on_failure == OnFailure::Refuse);
        }
        if !changed.is_empty() {
            tracing::info!(keys = changed.join(", "), "a new configuration is in force");
        }
        if !later.is_empty() {
            tracing::warn!(
                keys = later.join(", "),
                "these keys changed too, and take effect after a restart only"
            );
        }
        self.in_force = new;
        Ok(())
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
        let has_switched = |key: &str| match key.split('.').next() {
            Some("tls") => new.tls.is_some() != self.tls.is_some(),
            Some("access") if key == "access.clients_file" => {
                new.clients_file.is_some() != self.in_force.clients_file.is_some()
            }
            _ => false,
        };
        given.chain(gone).cloned().partition(|key| !needs_restart(key) && !has_switched(key))
    }
}

/// What takes effect after a restart only is shown as it is in force.
fn keep(new: &mut Resolved, before: &Resolved, later: &[String]) {
    for key in new.keys.iter_mut().filter(|key| later.contains(&key.name)) {
        if let Some(old) = before.keys.iter().find(|old| old.name == key.name) {
            key.clone_from(old);
        }
    }
}

/// The configuration as `/api/config` shows it. No secret is in it.
pub(super) fn shown(resolved: &Resolved) -> Value {
    let keys: Vec<Value> = resolved
        .keys
        .iter()
        .map(|key| {
            json!({
                "name": key.name, "value": key.value, "default": key.default, "source": key.place, "doc": key.doc,
            })
        })
        .collect();
    json!({ "keys": keys, "notes": resolved.notes })
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
