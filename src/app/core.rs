//! The parts between the listener and Snyk.

use std::sync::Arc;

use super::fleet::Fleet;
use super::{ClientsInForce, StartError, queues};
use crate::access::Access;
use crate::admission::Admission;
use crate::clock::Clock;
use crate::config::Config;
use crate::credential::Credentials;
use crate::downloads::{DownloadParts, Downloads};
use crate::file_store::FileStore;
use crate::files::{Files, FilesCollaborators};
use crate::gateway::{self, Collaborators, Gateway};
use crate::journal::Journal;
use crate::named::{Named, NamedParts};
use crate::retrieval::{self, Retrieval, RetrievalSettings};
use crate::shared::Shared;
use crate::shutdown::Shutdown;
use crate::telemetry::metrics::Metrics;
use crate::telemetry::trace::Traces;
use crate::transport::Memory;
use crate::upstream::Upstream;

/// The parts between the listener and Snyk.
#[derive(Debug)]
pub(super) struct Core {
    pub(super) parts: retrieval::Parts,
    pub(super) access: Arc<Access>,
    pub(super) credentials: Arc<Credentials>,
    pub(super) memory: Memory,
    pub(super) file_store: FileStore,
    pub(super) retrieval: Arc<Retrieval>,
    pub(super) downloads: Downloads,
    pub(super) named_exports: Named,
    pub(super) files: Files,
    pub(super) gateway: Arc<Gateway>,
    pub(super) fleet: Option<Fleet>,
}

impl Core {
    pub(super) fn open(
        config: &Config,
        access: Arc<Access>,
        credentials: Arc<Credentials>,
        clock: Clock,
        shutdown: Shutdown,
    ) -> Result<Self, StartError> {
        let memory = Memory::new(config.listener.max_buffered, config.upstream.max_answer);
        memory.set(config.admission.rest.max_wait, config.admission.rest.several_clients);
        let names = credentials.names();
        let upstream = Upstream::new(&config.upstream, memory.clone())?;
        let file_store = FileStore::new(config.files.clone()).map_err(StartError::FileStore)?;
        let root = upstream.root().to_string();
        let admission = Admission::new(root.as_str().into(), clock.clone(), &config.admission, &names);
        let journal = Journal::open(config.journal.clone(), clock.clone());
        let fleet = Fleet::new(config, &root, clock.clone());
        queues::follow(&journal, admission.clone(), root, clock.clone());
        let metrics = Arc::new(Metrics::default());
        let traces = config.traces.as_ref().map(Traces::open).transpose()?;
        let shared = fleet.as_ref().map(Fleet::shared).filter(Shared::has_answers);
        let parts = retrieval::Parts {
            clock,
            admission,
            upstream,
            journal,
            metrics,
            traces,
            shutdown,
            fleet: shared,
        };
        let downloads = downloads(&parts);
        let retrieval = Arc::new(Retrieval::new(retrieval_settings(config), parts.clone()));
        let files = Files::new(FilesCollaborators {
            clock: parts.clock.clone(),
            retrieval: Arc::clone(&retrieval),
            store: file_store.clone(),
            shutdown: parts.shutdown.clone(),
        });
        let named_parts = NamedParts {
            clock: parts.clock.clone(),
            journal: parts.journal.clone(),
            retrieval: Arc::clone(&retrieval),
            files: files.clone(),
            credentials: Arc::clone(&credentials),
            metrics: Arc::clone(&parts.metrics),
            shutdown: parts.shutdown.clone(),
            upstream: parts.upstream.root().to_string(),
        };
        let named_exports = Named::new(&config.named, named_parts);
        let with = Collaborators {
            clock: parts.clock.clone(),
            access: Arc::clone(&access),
            credentials: Arc::clone(&credentials),
            retrieval: Arc::clone(&retrieval),
            files: files.clone(),
            downloads: downloads.clone(),
            named: named_exports.clone(),
            metrics: Arc::clone(&parts.metrics),
            traces: parts.traces.clone(),
            memory: memory.clone(),
            shutdown: parts.shutdown.clone(),
        };
        let gateway = Arc::new(Gateway::new(settings(config), with));
        Ok(Self {
            parts,
            access,
            credentials,
            memory,
            file_store,
            retrieval,
            downloads,
            named_exports,
            files,
            gateway,
            fleet,
        })
    }

    pub(super) fn clients(&self) -> ClientsInForce {
        let (downloads, named) = (self.downloads.clone(), self.named_exports.clone());
        ClientsInForce { access: Arc::clone(&self.access), downloads, named }
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
pub(super) fn settings(config: &Config) -> gateway::Settings {
    gateway::Settings {
        forward_other: config.forward_other,
        listener: config.listener.clone(),
        upstream: config.upstream.clone(),
        wait: config.wait,
    }
}

pub(super) fn retrieval_settings(config: &Config) -> RetrievalSettings {
    RetrievalSettings {
        cache: config.cache.clone(),
        starts: config.starts,
        on_journal_failure: config.journal.on_failure,
    }
}
