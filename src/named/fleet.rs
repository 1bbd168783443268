//! One turn for all gateways (0020): the state of a name as the shared engine has it, beside the row of the journal.
//!
//! Each gateway's row is its copy. A state that another one put is taken over with its times as durations: their clocks may differ.

use std::time::Duration;

use super::state::NamedState;
use crate::shared::{NamedAct, NamedPlace, NamedSeen, Shared};

/// While the engine is away, others than the last holder leave a turn to it for so long.
const ALONE_AFTER: Duration = Duration::from_mins(10);

/// The state of a name on the engine, as one gateway reaches it.
#[derive(Debug)]
pub(super) struct FleetRow {
    pub(super) shared: Shared,
    pub(super) place: NamedPlace,
    /// This process, as the holder of leases.
    pub(super) holder: String,
}

/// The fences of a turn: of the row in the journal, and of the state on the engine, where there is one.
#[derive(Debug, Clone, Copy)]
pub(super) struct TurnFence {
    pub(super) own: i64,
    pub(super) fleet: Option<i64>,
}

/// A gateway's memory of one name on the engine.
#[derive(Debug, Default)]
pub(super) struct FleetMemory {
    /// The version that its own row agrees with, or goes on from.
    version: i64,
    /// Its last fence; 0 if it had none.
    fence: i64,
    /// True if its own row has changes that the engine does not have.
    is_behind: bool,
    /// True if it holds the lease of its own row: only then does it take the engine's.
    has_row: bool,
    /// True if it had the engine's lease when it last looked.
    was_holder: bool,
}

/// The standing of a gateway in one change.
#[derive(Debug, Default)]
pub(super) struct FleetLook {
    /// The engine's state; `None` where nothing is shared, or the engine is away.
    seen: Option<NamedSeen>,
    /// The state of another gateway, in our own time.
    pub(super) offered: Option<NamedState>,
    /// True if the state may be changed.
    pub(super) may_act: bool,
    /// A turn is due so much later than its time.
    pub(super) patience_ms: u64,
}

/// The outcome of a change in the own row.
#[derive(Debug, Clone, Copy)]
pub(super) struct OwnChange<'a> {
    pub(super) is_held: bool,
    pub(super) is_changed: bool,
    pub(super) is_taken: bool,
    pub(super) state: Option<&'a str>,
}

impl FleetLook {
    /// Of a gateway that shares nothing.
    pub(super) fn alone() -> Self {
        Self { may_act: true, ..Self::default() }
    }

    pub(super) fn fence(&self) -> Option<i64> {
        self.seen.as_ref().map(|seen| seen.fence)
    }
}

impl FleetRow {
    /// Looks at the engine's state before a change.
    pub(super) async fn look(
        &self,
        memory: &mut FleetMemory,
        fence: Option<TurnFence>,
        every: Duration,
        now_ms: u64,
    ) -> FleetLook {
        let act = if memory.has_row { NamedAct::Take } else { NamedAct::Look };
        let Ok(seen) = self.shared.look_named(&self.place, &self.holder, act, memory.fence).await else {
            // What this gateway has begun it goes on with.
            let is_first = memory.was_holder || fence.is_some() || !self.shared.has_others();
            let patience = if is_first { Duration::ZERO } else { ALONE_AFTER.min(every / 4) };
            let patience_ms = u64::try_from(patience.as_millis()).unwrap_or(u64::MAX);
            return FleetLook { may_act: true, patience_ms, ..FleetLook::default() };
        };
        memory.was_holder = seen.is_held;
        if seen.is_held {
            memory.fence = seen.fence;
        }
        let is_same = fence.and_then(|fence| fence.fleet).is_none_or(|before| before == seen.fence);
        // One of an age that is not known waits until its holder has put it again.
        let is_readable = seen.version != memory.version && (seen.is_held || seen.age.is_some());
        let news = seen.state.as_ref().filter(|_| is_readable);
        let offered = news.and_then(|text| NamedState::of_fleet(text, seen.age, now_ms));
        FleetLook { may_act: seen.is_held && is_same, offered, seen: Some(seen), patience_ms: 0 }
    }

    /// Gives the own row's new state to the engine. False if another gateway has the turn by now.
    pub(super) async fn share(
        &self,
        memory: &mut FleetMemory,
        look: FleetLook,
        own: OwnChange<'_>,
        now_ms: u64,
    ) -> bool {
        memory.has_row = own.is_held;
        memory.is_behind = (memory.is_behind && !own.is_taken) || own.is_changed;
        let is_held = own.is_held && look.may_act;
        let Some(seen) = look.seen else { return is_held };
        if own.is_taken {
            memory.version = seen.version;
        }
        // The engine's state is older than ours, or there is none.
        let is_older = look.offered.is_some() && !own.is_taken;
        let is_due = memory.is_behind || is_older || seen.state.is_none() || seen.age.is_none();
        let Some(state) = own.state.filter(|_| is_held && is_due) else { return is_held };
        let text = NamedState::to_fleet(state, now_ms);
        match self.shared.put_named(&self.place, &self.holder, &seen, &text).await {
            Ok(Some(version)) => {
                (memory.version, memory.is_behind) = (version, false);
                true
            }
            Ok(None) => false,
            // The lease was ours a moment ago, and nobody else gets it for a while.
            Err(_) => true,
        }
    }

    /// Lets another gateway go on, from `state` where the engine does not have that yet.
    pub(super) async fn leave(&self, memory: &FleetMemory, state: Option<&NamedState>, now_ms: u64) {
        let seen = self.shared.look_named(&self.place, &self.holder, NamedAct::Take, memory.fence).await;
        if let (Ok(seen), Some(state)) = (seen, state.and_then(NamedState::to_text))
            && seen.is_held
            && (memory.is_behind || seen.state.is_none())
        {
            let text = NamedState::to_fleet(&state, now_ms);
            let _ = self.shared.put_named(&self.place, &self.holder, &seen, &text).await;
        }
        let _ = self.shared.look_named(&self.place, &self.holder, NamedAct::Leave, memory.fence).await;
    }
}
