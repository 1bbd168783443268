//! The tasks that read files again while the gateway runs: clients, keys, certificates, credentials.

use std::collections::HashMap;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::FutureExt as _;
use tokio_util::sync::CancellationToken;

use super::{Roster, parse_clients};
use crate::access::Access;
use crate::credential;
use crate::shutdown::Shutdown;
use crate::transport::ServerTls;
use crate::watched_file::{Content, Followed, Watched};

type TaskFuture = Pin<Box<dyn Future<Output = ()> + Send>>;

/// The tasks by name. A new task replaces the one of the same name.
#[derive(Debug)]
pub(super) struct ReloadTasks {
    shutdown: Shutdown,
    interval: Duration,
    /// The tasks that are not running yet.
    waiting: Vec<(String, ReloadTask)>,
    running: HashMap<String, CancellationToken>,
    by_name: HashMap<String, Vec<Arc<Watched>>>,
    /// The state of the configuration itself, which `reload` reads.
    configuration: Arc<Watched>,
    /// The counts of the tasks that have ended, one for each kind: counters do not go down.
    retired: Vec<Arc<Watched>>,
    watched: Arc<Mutex<Vec<Arc<Watched>>>>,
    is_running: bool,
}

struct ReloadTask(TaskFuture);

impl std::fmt::Debug for ReloadTask {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("work")
    }
}

impl ReloadTasks {
    pub(super) fn new(shutdown: Shutdown, interval: Duration) -> Self {
        let reload_tasks = Self {
            shutdown,
            interval,
            waiting: Vec::new(),
            running: HashMap::new(),
            by_name: HashMap::new(),
            configuration: Watched::new("configuration"),
            retired: Vec::new(),
            watched: Arc::default(),
            is_running: false,
        };
        reload_tasks.show();
        reload_tasks
    }

    pub(super) fn configuration(&self) -> Arc<Watched> {
        Arc::clone(&self.configuration)
    }

    /// The states of all files that are read again.
    pub(super) fn watched(&self) -> Arc<Mutex<Vec<Arc<Watched>>>> {
        Arc::clone(&self.watched)
    }

    pub(super) fn credentials(&mut self, values: Vec<credential::CredentialReloader>) {
        for value in values {
            let (name, watched) = (format!("credential {}", value.name()), value.watched().collect());
            self.follow(name, watched, Box::pin(value.run()));
        }
    }

    /// Ends the tasks of the credentials that are not among `names`.
    pub(super) fn retain_credentials(&mut self, names: &[Arc<str>]) {
        let is_gone = |name: &String| {
            let credential = name.strip_prefix("credential ");
            credential.is_some_and(|name| !names.iter().any(|known| **known == *name))
        };
        let gone: Vec<String> = self.running.keys().filter(|name| is_gone(name)).cloned().collect();
        for name in gone {
            self.running.remove(&name).inspect(CancellationToken::cancel);
            let gone = self.by_name.remove(&name);
            self.retire(gone);
        }
        self.show();
    }

    /// Reads the issuer's keys again, from a file or a URL.
    pub(super) fn issuer_keys(&mut self, access: &Arc<Access>, jwks: Option<Followed>) {
        if let Some(jwks) = jwks {
            let access = Arc::clone(access);
            let take = move |contents: &[Content]| Ok(access.replace_keys(contents)?);
            self.follow("jwks".to_owned(), vec![jwks.watched()], Box::pin(jwks.follow(self.interval, take)));
        }
        let (access, watched) = (Arc::clone(access), access.watched_keys());
        self.follow(
            "issuer".to_owned(),
            watched.into_iter().collect(),
            Box::pin(async move { access.follow_keys().await }),
        );
    }

    pub(super) fn clients(&mut self, clients: Option<(PathBuf, Followed)>, roster: &Roster) {
        let Some((path, followed)) = clients else { return };
        let roster = roster.clone();
        let take = move |contents: &[Content]| {
            roster.replace(&path, parse_clients(&path, contents, &roster.access)?);
            Ok(())
        };
        let watched = vec![followed.watched()];
        self.follow("clients".to_owned(), watched, Box::pin(followed.follow(self.interval, take)));
    }

    pub(super) fn tls(&mut self, tls: Option<(ServerTls, Followed)>) {
        self.tls_as("tls", tls);
    }

    pub(super) fn admin_tls(&mut self, tls: Option<(ServerTls, Followed)>) {
        self.tls_as("admin tls", tls);
    }

    fn tls_as(&mut self, name: &str, tls: Option<(ServerTls, Followed)>) {
        let Some((tls, followed)) = tls else { return };
        let take = move |contents: &[Content]| Ok(tls.replace(contents)?);
        let watched = vec![followed.watched()];
        self.follow(name.to_owned(), watched, Box::pin(followed.follow(self.interval, take)));
    }

    /// Adds a task, in place of the one of the same name.
    pub(super) fn follow(&mut self, name: String, watched: Vec<Arc<Watched>>, work: TaskFuture) {
        let before = self.by_name.insert(name.clone(), watched);
        self.retire(before);
        self.show();
        if self.is_running {
            self.start(name, work);
        } else {
            self.waiting.push((name, ReloadTask(work)));
        }
    }

    /// Runs the tasks until a stop has begun.
    pub(super) fn spawn(mut self) -> Self {
        self.is_running = true;
        for (name, ReloadTask(work)) in std::mem::take(&mut self.waiting) {
            self.start(name, work);
        }
        self
    }

    fn start(&mut self, name: String, work: TaskFuture) {
        let token = CancellationToken::new();
        let (replaced, stop) = (token.clone(), self.shutdown.clone());
        let watched = self.by_name.get(&name).cloned().unwrap_or_default();
        if let Some(before) = self.running.insert(name, token) {
            before.cancel();
        }
        // A panic is logged, and shown in the status, for nothing restarts the task.
        let work = AssertUnwindSafe(work).catch_unwind().map(move |ended| {
            if ended.is_err() {
                for watched in &watched {
                    watched.bad(
                        "the task that reads it panicked: restart exportgate and report this".to_owned(),
                    );
                }
            }
        });
        self.shutdown.spawn(async move {
            tokio::select! {
                () = work => {}
                () = replaced.cancelled() => {}
                () = stop.begun() => {}
            }
        });
    }

    fn retire(&mut self, gone: Option<Vec<Arc<Watched>>>) {
        for gone in gone.unwrap_or_default() {
            let kept = self.retired.iter().find(|kept| kept.what == gone.what).cloned();
            let kept = kept.unwrap_or_else(|| {
                let new = Watched::new(gone.what);
                self.retired.push(Arc::clone(&new));
                new
            });
            kept.inherit(&gone);
        }
    }

    fn show(&self) {
        let followed = self.by_name.values().flatten().chain(&self.retired);
        let all = std::iter::once(&self.configuration).chain(followed).cloned().collect();
        *self.watched.lock().unwrap_or_else(PoisonError::into_inner) = all;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_task_that_panics_is_shown_as_failing() {
        let shutdown = Shutdown::new();
        let mut reload_tasks = ReloadTasks::new(shutdown.clone(), Duration::from_secs(1));
        let watched = Watched::new("clients");
        reload_tasks.is_running = true;
        reload_tasks.follow(
            "clients".to_owned(),
            vec![Arc::clone(&watched)],
            Box::pin(async { panic!("on purpose") }),
        );
        assert!(shutdown.finished(Duration::from_secs(30)).await);
        assert!(watched.failing().is_some_and(|(_, why)| why.contains("panicked")));
    }
}
