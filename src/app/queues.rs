//! Runs the queues, and has them count what other processes sent.

use std::time::Instant;

use super::fleet::Fleet;
use crate::admission::{Admission, Api, Lane, Queues, SentElsewhere};
use crate::clock::{Clock, Now};
use crate::journal::{Journal, RecordedSend, RecordedSends};
use crate::shutdown::Shutdown;

/// Runs `queues`, when it is known what was sent in the last hour. Requests in flight may wait in them until the last of them has
/// ended.
pub(super) fn run(queues: &Queues, journal: &Journal, fleet: Option<&Fleet>, shutdown: &Shutdown) {
    for (lane, queue) in queues {
        if let Some(fleet) = fleet {
            shutdown.spawn_helper(fleet.clone().serve(lane.clone(), queue.clone()));
        }
        let (queue, journal) = (queue.clone(), journal.clone());
        shutdown.spawn_helper(async move {
            journal.look().await;
            queue.run().await;
        });
    }
}

/// Has `admission` count what others send to `upstream`, as the journal tells.
pub(super) fn follow(journal: &Journal, admission: Admission, upstream: String, clock: Clock) {
    journal.on_sends(move |sends| {
        let now = clock.now();
        let (sends, is_hour) = match sends {
            RecordedSends::News(sends) => (sends, false),
            RecordedSends::Hour(sends) => (sends, true),
        };
        let ours = sends.iter().filter(|sent| sent.upstream == upstream);
        admission.learn(&ours.map(|sent| elsewhere(sent, now)).collect::<Vec<_>>(), is_hour, now);
    });
}

/// A recorded request, by our monotonic clock: its record has this machine's wall clock.
fn elsewhere(sent: &RecordedSend, now: Now) -> SentElsewhere {
    let ago = now.wall.duration_since(sent.at).unwrap_or_default();
    let at: Instant = now.mono.checked_sub(ago).unwrap_or(now.mono);
    let api = if sent.api == Api::V1.as_str() { Api::V1 } else { Api::Rest };
    let lane = Lane { credential: sent.credential.as_str().into(), api };
    SentElsewhere { lane, at, start: sent.start.as_deref().map(Into::into) }
}
