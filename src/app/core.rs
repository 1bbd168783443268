//! The parts between the listener and Snyk.

use std::sync::Arc;

use super::expiry::Expiry;
use super::reload_tasks::ReloadTasks;
use super::{StartError, queues};
use crate::access::Access;
use crate::admin::{ExpiringList, Followers, Views};
use crate::admission::Admission;
use crate::clock::Clock;
use crate::config::Config;
use crate::credential::Credentials;
use crate::downloads::{DownloadParts, Downloads};
use crate::file_store::FileStore;
use crate::files::{Files, FilesCollaborators};
use crate::gateway::{self, Collaborators, Gateway};
use crate::journal::Journal;
use crate::listener::Listener;
use crate::retrieval::{self, Retrieval, RetrievalSettings};
use crate::shutdown::Shutdown;
use crate::telemetry::metrics::Metrics;
use crate::telemetry::trace::Traces;
use crate::transport::{Memory, Resolver};
use crate::upstream::Upstream;

/// The parts between the listener and Snyk.
pub(super) struct Core {
    pub(super) clock: Clock,
    pub(super) shutdown: Shutdown,
    pub(super) credentials: Arc<Credentials>,
    pub(super) memory: Memory,
    pub(super) upstream: Upstream,
    pub(super) file_store: FileStore,
    pub(super) admission: Admission,
    pub(super) journal: Journal,
    pub(super) metrics: Arc<Metrics>,
    pub(super) traces: Option<Traces>,
    pub(super) retrieval: Arc<Retrieval>,
    pub(super) downloads: Downloads,
    pub(super) gateway: Arc<Gateway>,
}

impl Core {
    pub(super) fn open(
        config: &Config,
        access: &Arc<Access>,
        credentials: &Arc<Credentials>,
        clock: &Clock,
        shutdown: &Shutdown,
    ) -> Result<Self, StartError> {
        let memory = Memory::new(config.listener.max_buffered, config.upstream.max_answer);
        memory.set(config.admission.rest.max_wait, config.admission.rest.several_clients);
        let names = credentials.names();
        let upstream = Upstream::new(&config.upstream, memory.clone())?;
        let file_store =
            FileStore::new(config.files.clone(), Resolver::System).map_err(StartError::FileStore)?;
        let root = upstream.root().to_string();
        let admission = Admission::new(root.as_str().into(), clock.clone(), &config.admission, &names);
        let journal = Journal::open(config.journal.clone(), clock.clone());
        queues::follow(&journal, admission.clone(), root, clock.clone());
        let metrics = Arc::new(Metrics::default());
        let traces = config.traces.as_ref().map(Traces::open).transpose()?;
        let parts = retrieval::Parts {
            clock: clock.clone(),
            admission: admission.clone(),
            upstream: upstream.clone(),
            journal: journal.clone(),
            metrics: Arc::clone(&metrics),
            traces: traces.clone(),
            shutdown: shutdown.clone(),
        };
        let downloads = downloads(&parts);
        let retrieval = Arc::new(Retrieval::new(retrieval_settings(config), parts));
        let files = Files::new(FilesCollaborators {
            clock: clock.clone(),
            retrieval: Arc::clone(&retrieval),
            store: file_store.clone(),
            shutdown: shutdown.clone(),
        });
        let with = Collaborators {
            clock: clock.clone(),
            access: Arc::clone(access),
            credentials: Arc::clone(credentials),
            retrieval: Arc::clone(&retrieval),
            files,
            downloads: downloads.clone(),
            metrics: Arc::clone(&metrics),
            traces: traces.clone(),
            memory: memory.clone(),
            shutdown: shutdown.clone(),
        };
        let gateway = Arc::new(Gateway::new(&settings(config), with));
        let (clock, shutdown, credentials) = (clock.clone(), shutdown.clone(), Arc::clone(credentials));
        Ok(Self {
            clock,
            shutdown,
            credentials,
            memory,
            upstream,
            file_store,
            admission,
            journal,
            metrics,
            traces,
            retrieval,
            downloads,
            gateway,
        })
    }

    /// Their state, as the admin server shows it.
    pub(super) fn views(
        &self,
        config: &Config,
        listener: &Listener,
        expiry: &Expiry,
        reload_tasks: &ReloadTasks,
    ) -> Views {
        let (retrieval, expiring) = (Arc::clone(&self.retrieval), expiry.clone());
        Views {
            clock: self.clock.clone(),
            traces: self.traces.clone(),
            cache: self.retrieval.cache(),
            downloads: self.downloads.clone(),
            memory: self.memory.clone(),
            admission: self.admission.clone(),
            upstream: self.upstream.clone(),
            credentials: Arc::clone(&self.credentials),
            journal: self.journal.clone(),
            journal_path: config.journal.path.clone(),
            metrics: Arc::clone(&self.metrics),
            clients: listener.counters(),
            addresses: listener.addresses(),
            expiring: ExpiringList(Box::new(move || expiring.all())),
            watched: reload_tasks.watched(),
            followers: Followers(Box::new(move || retrieval.waiting())),
            shutdown: self.shutdown.clone(),
        }
    }
}

fn downloads(parts: &retrieval::Parts) -> Downloads {
    Downloads::new(DownloadParts {
        clock: parts.clock.clone(),
        journal: parts.journal.clone(),
        metrics: Arc::clone(&parts.metrics),
        shutdown: parts.shutdown.clone(),
    })
}

/// The settings of the request path.
pub(super) fn settings(config: &Config) -> gateway::Settings<'_> {
    gateway::Settings { routes: config.routes, listener: &config.listener, upstream: &config.upstream }
}

pub(super) fn retrieval_settings(config: &Config) -> RetrievalSettings {
    RetrievalSettings { cache: config.cache.clone(), on_journal_failure: config.journal.on_failure }
}
