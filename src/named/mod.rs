//! Named exports: made by themselves, turn by turn, so that a name always leads to a whole table.
//!
//! `state` decides (pure), `turn` is the task of one name, `asking` asks Snyk and the store. The journal's database keeps the
//! states, and lets one process at a time change each (decision 0015). The gateway turns a name into the call for the files
//! of its current export, and everything behind that is the path of all files.

mod asking;
mod columns;
mod failure;
mod fleet;
mod settings;
mod state;
mod turn;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption};
use futures_util::future::join_all;
use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::clock::{Clock, Now};
use crate::credential::Credentials;
use crate::export::{CallQuery, ExportName, FilesCall, FilesTarget, Id, Scope};
use crate::files::Files;
use crate::journal::{Journal, NamedKey};
use crate::retrieval::Retrieval;
use crate::shared::{NamedPlace, Shared};
use crate::shutdown::Shutdown;
use crate::telemetry::metrics::Metrics;

use fleet::{FleetMemory, FleetRow};
use turn::TurnTask;

pub(crate) use settings::NamedSettings;
pub use settings::Settings;
pub(crate) use state::{NamedState, unix_ms};

/// The parts that named exports work with.
#[derive(Debug)]
pub(crate) struct NamedParts {
    pub(crate) clock: Clock,
    pub(crate) journal: Journal,
    pub(crate) retrieval: Arc<Retrieval>,
    pub(crate) files: Files,
    pub(crate) credentials: Arc<Credentials>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) shutdown: Shutdown,
    /// The upstream's root.
    pub(crate) upstream: String,
    /// The engine, where states are shared.
    pub(crate) shared: Option<Shared>,
}

/// All named exports. Clones share them.
#[derive(Debug, Clone)]
pub struct Named(Arc<NamedInner>);

#[derive(Debug)]
struct NamedInner {
    parts: NamedParts,
    /// This process, as the holder of leases.
    holder: Uuid,
    exports: ArcSwap<BTreeMap<ExportName, Arc<NamedExport>>>,
    /// Set when turns may be made.
    running: OnceLock<()>,
}

/// One named export, as it is configured.
#[derive(Debug)]
pub(crate) struct NamedExport {
    pub(crate) settings: NamedSettings,
    reserve: u32,
    key: NamedKey,
    /// Its state on the engine.
    fleet: Option<FleetRow>,
    /// Locked for one change at a time.
    memory: Mutex<FleetMemory>,
    /// Its state as it was last read; `None` before that.
    state: Arc<ArcSwapOption<NamedState>>,
    pub(crate) counts: Arc<TurnCounts>,
    /// Cancelled when it is configured otherwise.
    is_replaced: CancellationToken,
}

/// The turns of this process, and the changes of columns that it saw.
#[derive(Debug, Default)]
pub(crate) struct TurnCounts {
    made: AtomicU64,
    failed: AtomicU64,
    put_off: AtomicU64,
    column_changes: AtomicU64,
}

impl TurnCounts {
    pub(crate) fn by_outcome(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let counts = [("made", &self.made), ("failed", &self.failed), ("put_off", &self.put_off)];
        counts.into_iter().map(|(outcome, count)| (outcome, count.load(Ordering::Relaxed)))
    }

    pub(crate) fn column_changes(&self) -> u64 {
        self.column_changes.load(Ordering::Relaxed)
    }
}

/// A named export without files to serve.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NoExport {
    /// The first one is not made yet.
    NotYet,
    /// Snyk has deleted the files of the last one.
    Gone,
}

/// The export that is served under a name.
#[derive(Debug, Clone)]
pub(crate) struct ServedExport {
    pub(crate) call: FilesCall,
    pub(crate) age: Duration,
    pub(crate) is_stale: bool,
}

impl Named {
    pub(crate) fn new(settings: &Settings, parts: NamedParts) -> Self {
        let named = Self(Arc::new(NamedInner {
            parts,
            holder: Uuid::new_v4(),
            exports: ArcSwap::default(),
            running: OnceLock::new(),
        }));
        named.set(settings);
        named
    }

    /// Reads the states, and begins to make turns.
    pub(crate) async fn run(&self) {
        let exports = self.all();
        join_all(exports.iter().map(|export| async { self.task(export).show().await })).await;
        let _ = self.0.running.set(());
        for export in &exports {
            self.spawn(export);
        }
    }

    /// Goes by other settings. What is the same goes on.
    pub(crate) fn set(&self, settings: &Settings) {
        let before = self.0.exports.load_full();
        let upstream = &self.0.parts.upstream;
        let (mut all, mut new) = (BTreeMap::new(), Vec::new());
        for one in &settings.exports {
            let same = before.get(&one.name);
            if let Some(same) = same.filter(|same| same.settings == *one && same.reserve == settings.reserve)
            {
                all.insert(one.name.clone(), Arc::clone(same));
                continue;
            }
            let key = one.key(upstream);
            let state = same.filter(|same| same.key == key).map(|same| Arc::clone(&same.state));
            let export = Arc::new(NamedExport {
                settings: one.clone(),
                reserve: settings.reserve,
                fleet: self.0.parts.shared.clone().map(|shared| FleetRow {
                    shared,
                    place: NamedPlace::new(&key.name, &key.question),
                    holder: self.0.holder.to_string(),
                }),
                memory: Mutex::default(),
                key,
                state: state.unwrap_or_default(),
                counts: same.map(|same| Arc::clone(&same.counts)).unwrap_or_default(),
                is_replaced: CancellationToken::new(),
            });
            all.insert(one.name.clone(), Arc::clone(&export));
            new.push(export);
        }
        let is_kept = |export: &Arc<NamedExport>| all.values().any(|kept| Arc::ptr_eq(kept, export));
        before.values().filter(|export| !is_kept(export)).for_each(|export| export.is_replaced.cancel());
        self.0.exports.store(Arc::new(all));
        if self.0.running.get().is_some() {
            for export in &new {
                self.spawn(export);
            }
        }
    }

    /// All of them, by name.
    pub(crate) fn all(&self) -> Vec<Arc<NamedExport>> {
        self.0.exports.load().values().cloned().collect()
    }

    /// The export of a name, for a client that may have it as far as its `clients` say.
    pub(crate) fn find(&self, name: &ExportName, client: &str) -> Option<Arc<NamedExport>> {
        self.0.exports.load().get(name).filter(|export| export.settings.is_for(client)).cloned()
    }

    /// True if a call for files was not made by a name, or the client may have that still.
    pub(crate) fn still_serves(&self, call: &FilesCall, client: &str) -> bool {
        call.name.as_ref().is_none_or(|name| self.find(name, client).is_some())
    }

    fn task(&self, export: &Arc<NamedExport>) -> TurnTask {
        TurnTask { named: self.clone(), export: Arc::clone(export) }
    }

    fn spawn(&self, export: &Arc<NamedExport>) {
        self.0.parts.shutdown.spawn(self.task(export).run());
    }
}

impl NamedExport {
    pub(crate) fn scope(&self) -> &Scope {
        &self.settings.scope
    }

    pub(crate) fn state(&self) -> Option<Arc<NamedState>> {
        self.state.load_full()
    }

    /// True if its last turns brought nothing.
    pub(crate) fn is_stale(&self, now: Now) -> bool {
        self.state().is_some_and(|state| state.is_stale(self.settings.every, unix_ms(now.wall)))
    }

    /// The call for files of its current export.
    pub(crate) fn serve(&self, target: FilesTarget, now: Now) -> Result<ServedExport, NoExport> {
        let now_ms = unix_ms(now.wall);
        let state = self.state().ok_or(NoExport::NotYet)?;
        let current = state.current.as_ref().ok_or(NoExport::NotYet)?;
        if state.is_gone(now_ms) {
            return Err(NoExport::Gone);
        }
        let call = FilesCall {
            scope: self.settings.scope.clone(),
            export: Id::parse(&current.id).ok_or(NoExport::NotYet)?,
            target,
            query: CallQuery::default(),
            name: Some(self.settings.name.clone()),
        };
        Ok(ServedExport { call, age: current.age(now_ms), is_stale: self.is_stale(now) })
    }
}
