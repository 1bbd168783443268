//! The task of one named export. It reads the state once a second, and makes the turns of those that it holds.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval};
use uuid::Uuid;

use super::failure::{NoStart, TurnError};
use super::fleet::{FleetLook, OwnChange, TurnFence};
use super::state::{ClaimedStart, NamedState, Pace, PendingExport, unix_ms};
use super::{Named, NamedExport, NamedParts};
use crate::journal::{NamedChange, NamedView};
use crate::telemetry::drift::DriftKind;

/// Time between two looks at the state: at the clock, and at what another process changed.
const LOOK: Duration = Duration::from_secs(1);
/// Snyk's starts in an hour.
const SNYKS_STARTS: u32 = 20;

/// The task of one named export.
pub(super) struct TurnTask {
    pub(super) named: Named,
    pub(super) export: Arc<NamedExport>,
}

/// The step of a turn that is next.
enum NextStep {
    Start(Uuid),
    GoOn(PendingExport),
}

/// The outcome of a look at the state that changed it.
enum LookOutcome {
    New,
    PutOff,
    Claimed,
}

/// A state that is changed.
struct StateView<'a> {
    now_ms: u64,
    /// True if nothing was known of it.
    is_new: bool,
    /// A turn is due so much later than its time.
    patience_ms: u64,
    /// The start calls of a credential in the last hour.
    starts: &'a dyn Fn(&str) -> u32,
}

/// The findings of a change within its transaction.
struct ChangeFound<T> {
    /// True if the clock went back.
    was_ahead: bool,
    /// True if the state is another gateway's.
    is_taken: bool,
    outcome: Option<T>,
}

impl<T> Default for ChangeFound<T> {
    fn default() -> Self {
        Self { was_ahead: false, is_taken: false, outcome: None }
    }
}

/// The state after a change, and the outcome of it.
struct Changed<T> {
    /// True if the turn is ours, so that the change was made.
    is_held: bool,
    fence: TurnFence,
    state: NamedState,
    outcome: Option<T>,
}

impl TurnTask {
    pub(super) fn parts(&self) -> &NamedParts {
        &self.named.0.parts
    }

    fn name(&self) -> &str {
        self.export.settings.name.as_str()
    }

    fn now_ms(&self) -> u64 {
        unix_ms(self.parts().clock.now().wall)
    }

    fn pace(&self) -> Pace {
        Pace { every: self.export.settings.every, jitter: fastrand::f64() }
    }

    /// Reads the state and shows it.
    pub(super) async fn show(&self) {
        let _ = self.change(None, |_, view| view.is_new.then_some(())).await;
    }

    /// Makes turns until a stop, and lets another process go on then.
    pub(super) async fn run(self) {
        self.make_turns().await;
        // Who replaces it has the same lease.
        if !self.export.is_replaced.is_cancelled() {
            let (key, holder) = (self.export.key.clone(), self.named.0.holder);
            let change = NamedChange { key, holder, fence: None, is_last: true, change: Box::new(|_| None) };
            let _ = self.parts().journal.change_named(change).await;
            if let Some(fleet) = &self.export.fleet {
                let memory = self.export.memory.lock().await;
                fleet.leave(&memory, self.export.state().as_deref(), self.now_ms()).await;
            }
        }
    }

    async fn make_turns(&self) {
        let mut looks = interval(LOOK);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = looks.tick() => {}
                () = self.is_over() => return,
            }
            let Some((fence, step)) = self.next().await else { continue };
            let pending = match step {
                NextStep::GoOn(pending) => Some(pending),
                // A start is not given up: its export would be lost.
                NextStep::Start(request) => tokio::select! {
                    pending = self.begin(fence, request) => pending,
                    () = self.renew(fence) => None,
                    () = self.parts().shutdown.over() => return,
                },
            };
            let Some(pending) = pending else { continue };
            tokio::select! {
                () = self.complete(fence, &pending) => {}
                () = self.renew(fence) => {}
                () = self.is_over() => return,
            }
        }
    }

    /// Resolves when no more turns are to be made here.
    async fn is_over(&self) {
        tokio::select! {
            () = self.parts().shutdown.begun() => {}
            () = self.export.is_replaced.cancelled() => {}
        }
    }

    /// Looks at the state, and claims the turn if it is due.
    async fn next(&self) -> Option<(TurnFence, NextStep)> {
        let credential = self.parts().credentials.choose(std::slice::from_ref(self.export.scope()))?;
        let (pace, reserve) = (self.pace(), self.export.reserve);
        let request = Uuid::now_v7();
        let change = move |state: &mut NamedState, view: &StateView<'_>| {
            let now_ms = view.now_ms;
            if !state.is_due(pace, now_ms.saturating_sub(view.patience_ms)) {
                return view.is_new.then_some(LookOutcome::New);
            }
            if (view.starts)(&credential.name).saturating_add(reserve) >= SNYKS_STARTS {
                let reason = "no more starts than exports.reserve are left in this hour";
                state.put_off(reason, Duration::ZERO, pace, now_ms);
                Some(LookOutcome::PutOff)
            } else {
                state.claim(pace, now_ms);
                let credential = credential.name.to_string();
                state.claimed =
                    Some(ClaimedStart { at_ms: now_ms, request: request.to_string(), credential });
                Some(LookOutcome::Claimed)
            }
        };
        let Changed { is_held, fence, state, outcome } = self.change(None, change).await?;
        if let Some(LookOutcome::PutOff) = outcome {
            self.was_put_off(&state);
        }
        let step = match (state.pending, outcome) {
            _ if !is_held => return None,
            (Some(pending), _) => NextStep::GoOn(pending),
            (None, Some(LookOutcome::Claimed)) => NextStep::Start(request),
            (None, _) => return None,
        };
        Some((fence, step))
    }

    /// Starts an export and notes its id.
    async fn begin(&self, fence: TurnFence, request: Uuid) -> Option<PendingExport> {
        let pace = self.pace();
        match self.start(request).await {
            Ok(id) => {
                tracing::info!(export.name = self.name(), export.id = id.as_str(), "named export started");
                let noted = self
                    .change(Some(fence), move |state, view| {
                        state.started(id.as_str(), view.now_ms);
                        Some(())
                    })
                    .await;
                noted.filter(|noted| noted.is_held).and_then(|noted| noted.state.pending)
            }
            Err(NoStart::NotSent { reason, wait }) => {
                let put_off = move |state: &mut NamedState, view: &StateView<'_>| {
                    state.take_back();
                    state.put_off(&reason, wait, pace, view.now_ms);
                    Some(())
                };
                if let Some(put_off) = self.change(Some(fence), put_off).await {
                    self.was_put_off(&put_off.state);
                }
                None
            }
            Err(NoStart::Failed(reason)) => {
                self.fail(fence, TurnError { reason, is_at_once: false }).await;
                None
            }
        }
    }

    /// Waits for the export, proves it, and has it served.
    async fn complete(&self, fence: TurnFence, pending: &PendingExport) {
        let table = match self.wait(pending).await {
            Ok(()) => self.prove(pending).await,
            Err(error) => Err(error),
        };
        let table = match table {
            Ok(table) => table,
            Err(error) => return self.fail(fence, error).await,
        };
        let (pace, id, rows) = (self.pace(), pending.id.clone(), table.rows);
        let proven = move |state: &mut NamedState, view: &StateView<'_>| {
            let is_it = state.pending.as_ref().is_some_and(|pending| pending.id == id);
            is_it.then(|| state.proven(&table, pace, view.now_ms))
        };
        let Some(Changed { outcome: Some(columns), .. }) = self.change(Some(fence), proven).await else {
            return;
        };
        self.export.counts.made.fetch_add(1, Ordering::Relaxed);
        let (name, export) = (self.name(), pending.id.as_str());
        tracing::info!(export.name = name, export.id = export, rows, "named export proven; it is served now");
        if let Some(change) = columns {
            self.columns_changed(&change.to_string());
        }
    }

    fn columns_changed(&self, change: &str) {
        self.export.counts.column_changes.fetch_add(1, Ordering::Relaxed);
        tracing::warn!(export.name = self.name(), columns = change, "columns of a named export changed");
        let detail = format!("{}: {change}", self.name());
        let parts = self.parts();
        parts.metrics.drifted(DriftKind::Columns, &detail, parts.clock.now().wall);
    }

    async fn fail(&self, fence: TurnFence, error: TurnError) {
        let TurnError { reason, is_at_once } = error;
        tracing::warn!(
            export.name = self.name(),
            reason,
            "turn of a named export failed; the last one that was proven is served"
        );
        self.export.counts.failed.fetch_add(1, Ordering::Relaxed);
        let pace = self.pace();
        let failed = move |state: &mut NamedState, view: &StateView<'_>| {
            state.failed(&reason, is_at_once, pace, view.now_ms);
            Some(())
        };
        let _ = self.change(Some(fence), failed).await;
    }

    fn was_put_off(&self, state: &NamedState) {
        self.export.counts.put_off.fetch_add(1, Ordering::Relaxed);
        let reason = state.failure.as_ref().map(|failure| failure.reason.as_str());
        tracing::info!(export.name = self.name(), reason, "turn of a named export put off");
    }

    /// Keeps the lease; ends when another process has it.
    async fn renew(&self, fence: TurnFence) {
        loop {
            tokio::time::sleep(LOOK).await;
            // A journal that fails takes no lease away.
            let changed = self.change(Some(fence), |_, _| None::<()>).await;
            if changed.is_some_and(|changed| !changed.is_held) {
                return;
            }
        }
    }

    /// Changes the state, where the lease is ours: in a transaction of the journal, and then on the engine. `act` gives `None` if
    /// it changed nothing.
    async fn change<T: Send + 'static>(
        &self,
        fence: Option<TurnFence>,
        act: impl Fn(&mut NamedState, &StateView<'_>) -> Option<T> + Send + 'static,
    ) -> Option<Changed<T>> {
        let mut memory = self.export.memory.lock().await;
        let look = match &self.export.fleet {
            Some(fleet) => fleet.look(&mut memory, fence, self.export.settings.every, self.now_ms()).await,
            None => FleetLook::alone(),
        };
        let found = Arc::new(Mutex::new(ChangeFound::default()));
        let within = Arc::clone(&found);
        let (offered, may_act, patience_ms) = (look.offered.clone(), look.may_act, look.patience_ms);
        let change = Box::new(move |view: &NamedView<'_>| {
            let now_ms = unix_ms(view.now);
            let mut state = NamedState::read(view.state, now_ms);
            let was_ahead = state.settle(now_ms);
            let taken = offered.as_ref().filter(|offered| !state.is_newer_than(offered)).cloned();
            let (is_taken, is_new) = (taken.is_some(), view.state.is_none() && taken.is_none());
            state = taken.unwrap_or(state);
            let view = StateView { now_ms, is_new, patience_ms, starts: view.starts };
            let outcome = if may_act { act(&mut state, &view) } else { None };
            let is_changed = outcome.is_some() || was_ahead || is_taken;
            *lock(&within) = ChangeFound { was_ahead, is_taken, outcome };
            is_changed.then(|| state.to_text()).flatten()
        });
        let change = NamedChange {
            key: self.export.key.clone(),
            holder: self.named.0.holder,
            fence: fence.map(|fence| fence.own),
            is_last: false,
            change,
        };
        let row = self.parts().journal.change_named(change).await.ok()?;
        let ChangeFound { was_ahead, is_taken, outcome } = std::mem::take(&mut *lock(&found));
        if was_ahead {
            let name = self.name();
            tracing::warn!(
                export.name = name,
                "the clock went back: times of a named export are taken as now"
            );
        }
        let (is_held, is_changed) = (row.is_held, outcome.is_some() || was_ahead);
        let own = OwnChange { is_held, is_changed, is_taken, state: row.state.as_deref() };
        let fence = TurnFence { own: row.fence, fleet: look.fence() };
        let is_held = match &self.export.fleet {
            Some(fleet) => fleet.share(&mut memory, look, own, self.now_ms()).await,
            None => is_held,
        };
        let text = row.state.as_deref()?;
        let state = NamedState::read(Some(text), self.now_ms());
        let shown = self.export.state.load();
        if shown.as_deref() != Some(&state) {
            self.export.state.store(Some(Arc::new(state.clone())));
        }
        Some(Changed { is_held, fence, state, outcome })
    }
}

/// A panic while it was locked left it whole: each change is one assignment.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
