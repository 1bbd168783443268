//! Runs the queues, and writes sends down where other processes see them.

use std::sync::Arc;

use crate::admission::queue::{self, Ledger};
use crate::admission::rules::Elsewhere;
use crate::admission::{Admission, Queues};
use crate::clock::{Clock, Now};
use crate::journal::{Journal, News, Sends, Sent};
use crate::shutdown::Shutdown;
use crate::upstream::Upstream;

#[derive(Debug, Clone)]
pub(super) struct Pacing {
    pub(super) admission: Admission,
    pub(super) upstream: Upstream,
    pub(super) journal: Journal,
    pub(super) clock: Clock,
}

impl Pacing {
    /// Runs `queues`.
    pub(super) fn spawn(&self, queues: &Queues, shutdown: &Shutdown) {
        for (lane, queue) in queues {
            let sends = self.journal.sends(&self.upstream.root().to_string(), &lane.to_string());
            let (journal, clock, ledger) = (self.journal.clone(), self.clock.clone(), self.ledger(&sends));
            let reserve = move |count, starts| {
                let (journal, clock, sends) = (journal.clone(), clock.clone(), Arc::clone(&sends));
                async move {
                    let news = journal.spend(&sends, (count, starts), clock.now().wall).await;
                    ours(news, clock.now())
                }
            };
            // Requests in flight may wait for their turn until the last of them has ended.
            shutdown.spawn_helper(Arc::clone(queue).run(ledger, reserve));
        }
    }

    /// Where sends are noted that go before they are written down.
    fn ledger(&self, sends: &Arc<Sends>) -> Ledger {
        let (read, clock) = (Arc::clone(sends), self.clock.clone());
        let (sends, wall) = (Arc::clone(sends), self.clock.clone());
        Ledger {
            news: Box::new(move || {
                let now = clock.now();
                ours(read.news(now.wall), now)
            }),
            note: Box::new(move |start| {
                sends.note((1, start.map_or(&[], std::slice::from_ref)), wall.now().wall);
            }),
        }
    }
}

/// What is known, by our own clock: that of others is this machine's wall clock, ours is monotonic.
fn ours(News { unwritten, processes, others }: News, now: Now) -> queue::News {
    let ours = |at| {
        let ago = now.wall.duration_since(at).unwrap_or_default();
        now.mono.checked_sub(ago).unwrap_or(now.mono)
    };
    let each = |sent: Sent| {
        let start = sent.start.map(Arc::from);
        std::iter::repeat_n(Elsewhere { at: ours(sent.at), start }, sent.count as usize)
    };
    queue::News { unwritten, processes, others: others.into_iter().flat_map(each).collect() }
}
