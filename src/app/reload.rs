//! Reloading the configuration: at SIGHUP, and when its file changes. An invalid configuration changes nothing. Keys that
//! need a restart are logged.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::Notify;

use super::core::{Core, retrieval_settings, settings};
use super::reload_tasks::ReloadTasks;
use super::{open_clients, queues};
use crate::admin::report::{ConfigReport, KeyReport};
use crate::admin::{Admin, InForce};
use crate::config::{Config, Problems, Resolved, needs_restart};
use crate::error_text::BoxError;
use crate::journal::OnFailure;
use crate::listener::Limits;
use crate::retrieval;
use crate::shutdown;
use crate::systemd;
use crate::telemetry::LogFilter;
use crate::transport::{BadTls, PreparedTls, ServerTls, ServerTlsSettings};
use crate::watched_file::{self, Watched};

/// Interval for reading the configuration's file.
const INTERVAL: Duration = Duration::from_secs(1);

/// The source of the configuration, and the request to reload it.
pub struct Reload {
    /// Reads and resolves the configuration.
    pub read: Box<dyn Fn() -> Result<Config, Problems> + Send>,
    /// Its file, with the fingerprint from before the first read, so that no change is missed.
    pub file: Option<(PathBuf, Option<[u8; 32]>)>,
    /// The filter of the log, which a reload may change.
    pub log: LogFilter,
    /// Notified to request a reload.
    pub asked: Arc<Notify>,
}

impl std::fmt::Debug for Reload {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reload").field("file", &self.file).finish_non_exhaustive()
    }
}

/// The parts that a new configuration changes.
#[derive(Debug)]
pub(super) struct Reloader {
    pub(super) core: Arc<Core>,
    pub(super) tasks: ReloadTasks,
    pub(super) tls: Option<ServerTls>,
    pub(super) admin_tls: Option<ServerTls>,
    pub(super) limits: Limits,
    pub(super) admin: Option<(Limits, Arc<Admin>)>,
    pub(super) stop: Arc<ArcSwap<shutdown::Settings>>,
    pub(super) in_force: Config,
}

impl Reload {
    /// Reloads at each request, when the file has changed and two reads agree, and at each interval while it is not usable;
    /// until a stop is announced.
    pub(super) fn spawn(self, mut reloader: Box<Reloader>) {
        let Self { read, file, log, asked } = self;
        let shutdown = reloader.core.parts.shutdown.clone();
        let watched = reloader.tasks.configuration();
        let attempt = Arc::new(Mutex::new(move || reloader.take(read()?, &log)));
        let (path, mut tried) = file.unzip();
        let mut tried = tried.take().flatten();
        let stop = shutdown.clone();
        let reading = async move {
            let mut seen = tried;
            let mut ticks = tokio::time::interval(INTERVAL);
            ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            loop {
                let is_asked = tokio::select! {
                    _ = ticks.tick() => false,
                    () = asked.notified() => true,
                };
                // A disk that hangs must not delay anything else.
                let path = path.clone();
                let look = move || path.and_then(|path| watched_file::fingerprint(&path));
                let Ok(found) = tokio::task::spawn_blocking(look).await else { continue };
                let has_settled = found == std::mem::replace(&mut seen, found);
                let is_new = found != tried && has_settled;
                if !is_asked && !is_new && watched.failing().is_none() {
                    continue;
                }
                if is_asked {
                    systemd::reloading();
                }
                let work = Arc::clone(&attempt);
                let trying = move || (work.lock().unwrap_or_else(PoisonError::into_inner))();
                let outcome = tokio::task::spawn_blocking(trying).await;
                report(
                    outcome.unwrap_or_else(|_| Err("the reload panicked: report this".into())),
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

/// Logs the outcome of a reload. A repeated attempt with the same outcome is not logged.
fn report(outcome: Result<(), BoxError>, is_news: bool, watched: &Watched) {
    match outcome {
        Ok(()) if is_news || watched.failing().is_some() => {
            watched.good();
            tracing::info!("configuration reloaded");
        }
        Ok(()) => {}
        Err(error) => {
            // Each problem has a line of its own.
            let error = crate::error_text::error_text(&*error).replace("\n  ", "; ");
            if watched.bad(error.clone()) || is_news {
                tracing::error!(
                    error,
                    "configuration reload failed; the last good configuration stays in force"
                );
            }
        }
    }
}

impl Reloader {
    /// Puts `new` in force. Everything that may fail is done before the first change.
    fn take(&mut self, mut new: Config, log: &LogFilter) -> Result<(), BoxError> {
        let (changed, later) = self.differences(&new);
        // A body in a file of its own may have changed.
        if changed.is_empty() && later.is_empty() && new.named == self.in_force.named {
            self.show(Vec::new());
            return Ok(());
        }
        self.keep_what_is_fixed(&mut new);
        let core = Arc::clone(&self.core);
        let retrieval::Parts { clock, admission, upstream, journal, shutdown, .. } = &core.parts;
        let credentials = core.credentials.prepare(new.credential.clone(), clock)?;
        let tls = prepared(self.tls.as_ref(), new.tls.as_ref())?;
        let admin_tls = prepared(self.admin_tls.as_ref(), new.admin.tls.as_ref())?;
        let is_other = new.clients_file != self.in_force.clients_file;
        let changed_file = new.clients_file.as_deref().filter(|_| is_other);
        let clients = changed_file.map(|path| open_clients(path, &core.access)).transpose()?;
        log.set(&new.log)?;

        // Nothing fails from here on. A queue must exist as long as its credential can be chosen: the new ones come first,
        // and the old ones go last.
        let before = core.credentials.names();
        let (count, new_names) = (before.len(), credentials.names());
        let both: Vec<Arc<str>> = before.into_iter().chain(new_names).collect();
        let new_queues = admission.set(&new.admission, &both);
        if !new_queues.is_empty() {
            journal.recall();
            queues::run(&new_queues, journal, core.fleet.as_ref(), shutdown);
        }
        upstream.set(&new.upstream);
        core.file_store.set(new.files.clone());
        let rest = &new.admission.rest;
        core.memory.set(rest.max_wait, rest.several_clients);
        let values = core.credentials.replace(credentials);
        let names = core.credentials.names();
        if !values.is_empty() || names.len() != count {
            // A credential with a new description has cache keys of its own: the old entries are never read again.
            let _ = core.retrieval.cache().purge_all();
        }
        self.tasks.credentials(values);
        self.tasks.retain_credentials(&names);
        // The queues of removed credentials go.
        let _ = admission.set(&new.admission, &names);
        self.tasks.tls("tls", tls.map(|(tls, files)| (tls.clone(), tls.reopen(files))));
        self.tasks.tls("admin tls", admin_tls.map(|(tls, files)| (tls.clone(), tls.reopen(files))));
        core.access.set(new.access.clone());
        let in_force = core.clients();
        self.tasks.clients(clients.map(|clients| clients.take(&in_force)), &in_force);
        core.retrieval.set(retrieval_settings(&new));
        core.gateway.set(settings(&new));
        core.named_exports.set(&new.named);
        in_force.cut_downloads();
        self.limits.store(Arc::new(new.listener.clone()));
        if let (Some((limits, _)), Some(listener)) = (&self.admin, &new.admin.listener) {
            limits.store(Arc::new(listener.clone()));
        }
        self.stop.store(Arc::new(new.shutdown));
        self.in_force = new;
        if !changed.is_empty() {
            tracing::info!(keys = changed.join(", "), "configuration changed");
        }
        if !later.is_empty() {
            tracing::warn!(
                keys = later.join(", "),
                "restart required: these changed keys take effect after a restart only"
            );
        }
        self.show(later);
        Ok(())
    }

    fn show(&self, waiting: Vec<String>) {
        if let Some((_, admin)) = &self.admin {
            admin.set(in_force(&self.in_force, waiting));
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

    /// True if a change of `key` takes effect after a restart only. TLS and clients cannot be turned on or off while the
    /// listeners are open.
    fn waits(&self, key: &str, new: &Config) -> bool {
        let tls_switched = new.tls.is_some() != self.in_force.tls.is_some();
        let clients_switched = new.clients_file.is_some() != self.in_force.clients_file.is_some();
        needs_restart(key)
            || (key.starts_with("budget.") && self.is_shared(new))
            || (key.starts_with("tls.") && tls_switched)
            || (key == "access.clients_file" && clients_switched)
    }

    /// True if the limits are split among many gateways: they change together, by restarts.
    fn is_shared(&self, new: &Config) -> bool {
        self.in_force.shared.is_some() || new.shared.is_some()
    }

    /// Keeps the values of the keys that take effect after a restart only.
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
        if self.is_shared(new) {
            for (new, fixed) in [
                (&mut new.admission.rest, &before.admission.rest),
                (&mut new.admission.v1, &before.admission.v1),
            ] {
                new.limits.clone_from(&fixed.limits);
                new.common.clone_from(&fixed.common);
                new.account.clone_from(&fixed.account);
                new.starts = fixed.starts;
            }
        }
        if let (Some(tls), Some(fixed)) = (&mut new.admin.tls, &before.admin.tls) {
            tls.client_ca.clone_from(&fixed.client_ca);
        }
    }
}

/// The TLS files, read, where other files are named.
fn prepared<'a>(
    tls: Option<&'a ServerTls>,
    new: Option<&ServerTlsSettings>,
) -> Result<Option<(&'a ServerTls, PreparedTls)>, BadTls> {
    let Some((tls, new)) = tls.zip(new).filter(|(tls, new)| !tls.uses(new)) else {
        return Ok(None);
    };
    Ok(Some((tls, tls.prepare(new.clone())?)))
}

/// The configuration in force for the admin API. No secret is in it.
pub(super) fn in_force(config: &Config, waiting: Vec<String>) -> InForce {
    let keys = config.resolved.keys.iter().map(|key| KeyReport {
        name: key.name.clone(),
        value: key.value.clone(),
        default: key.default.clone(),
        source: key.place.clone(),
        doc: key.doc,
    });
    InForce {
        config: ConfigReport { keys: keys.collect(), notes: config.resolved.notes.clone() },
        hosts: config.access.hosts.clone(),
        refuses: config.journal.on_failure == OnFailure::Refuse,
        waiting,
    }
}
