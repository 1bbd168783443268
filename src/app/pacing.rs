//! What gives turns to send, and writes them down where other processes see them.

use std::sync::Arc;

use crate::clock::Clock;
use crate::journal::{Journal, Sends, Sent};
use crate::shutdown::Shutdown;
use crate::upstream::gate::Elsewhere;
use crate::upstream::{Pacers, Upstream};

#[derive(Debug, Clone)]
pub(super) struct Pacing {
    pub(super) upstream: Upstream,
    pub(super) journal: Journal,
    pub(super) clock: Clock,
}

impl Pacing {
    /// Has `pacers` give turns.
    pub(super) fn spawn(&self, pacers: &Pacers, shutdown: &Shutdown) {
        for (credential, pacer) in pacers {
            let sends = Arc::new(Sends::new(&self.upstream.root().to_string(), credential));
            let (journal, clock, pacer) = (self.journal.clone(), self.clock.clone(), Arc::clone(pacer));
            let reserve = move |count, starts| {
                let (journal, clock, sends) = (journal.clone(), clock.clone(), Arc::clone(&sends));
                async move {
                    let others = journal.spend(&sends, (count, starts), clock.now().wall).await;
                    let now = clock.now();
                    // Their clock is this machine's wall clock; ours is monotonic.
                    let ours = |at| {
                        let ago = now.wall.duration_since(at).unwrap_or_default();
                        now.mono.checked_sub(ago).unwrap_or(now.mono)
                    };
                    let each = |sent: Sent| {
                        let start = sent.start.map(Arc::from);
                        std::iter::repeat_n(Elsewhere { at: ours(sent.at), start }, sent.count as usize)
                    };
                    others.into_iter().flat_map(each).collect()
                }
            };
            // Requests in flight may wait for their turn until the last of them has ended.
            shutdown.spawn_helper(pacer.run(reserve));
        }
    }
}
