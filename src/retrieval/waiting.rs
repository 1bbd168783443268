//! Answers that are waited for: the client's side of a poller, and the poller's reads.

use std::convert::Infallible;
use std::sync::Arc;

use super::answer::{Cause, Forward, NoAnswer, Retrieved};
use super::fetch::{Fetch, Sought};
use super::flights::Member;
use super::polls::{BegunRead, PollRead, PollTask, PolledAnswer, Waiter, Waiters};
use super::question::{Asker, Newness, Question, Wait, Wanted};
use super::{LookUp, Miss, Retrieval};
use crate::cache::CacheKey;
use crate::clock::Now;

/// A request that waits for the end of an export.
pub(super) struct Awaited {
    pub(super) question: Question,
    pub(super) asker: Asker,
    pub(super) wanted: Wanted,
    pub(super) wait: Wait,
    /// The time of the request.
    pub(super) now: Now,
}

impl Retrieval {
    /// The numbers of clients that wait for the end of an export, and of pollers.
    #[must_use]
    pub fn waits(&self) -> (usize, usize) {
        self.pollers.counts()
    }

    /// Waits for the end of the export, with all who wait for the same answer.
    pub(super) async fn wait_for_end(
        self: Arc<Self>,
        awaited: Awaited,
        mut miss: Miss,
    ) -> Result<Retrieved, NoAnswer> {
        let Awaited { question, asker, wanted, wait, now } = awaited;
        self.refuse_unrecorded()?;
        let asker = Arc::new(asker);
        let _lent = asker.permit.lend();
        loop {
            let Miss { reason, key: Some(key), .. } = miss else { return Err(Cause::Internal.into()) };
            let waiter = Waiter::new(&asker, now.mono, wait.until, wanted.newness() == Newness::Any);
            let (waiting, task) = self.pollers.join(&key, waiter)?;
            if let Some(task) = task {
                let poll = Arc::clone(&self).poll(question.clone(), key, task);
                self.shutdown.spawn(poll);
            }
            let forward = Forward::new(reason, true);
            match waiting.end(wait, &self.shutdown).await {
                Err(cause) => {
                    let forward = Some(forward);
                    return Err(NoAnswer { forward, is_waited: true, ..cause.into() });
                }
                Ok(Some(PolledAnswer { result, cause, .. })) => {
                    let forward = Forward { is_collapsed: cause != Some(asker.request), ..forward };
                    return match result {
                        Ok(fetched) => {
                            let retrieved = Retrieved::of_flight(fetched, forward, self.clock.now());
                            Ok(Retrieved { is_waited: true, ..retrieved })
                        }
                        Err(none) => Err(NoAnswer { forward: Some(forward), is_waited: true, ..none }),
                    };
                }
                // The last read had begun when it came: it is as if it came now.
                Ok(None) => {}
            }
            let now = self.clock.now();
            let found = match self.look_up(&question, &asker, &wanted, now) {
                LookUp::Fresh { entry, .. } => Retrieved::fresh(entry, now),
                LookUp::Held(entry) => Retrieved::stale(entry, now, None),
                LookUp::Miss(again) => {
                    miss = again;
                    continue;
                }
            };
            return Ok(Retrieved { is_waited: true, ..found });
        }
    }

    /// Runs a poller.
    async fn poll(self: Arc<Self>, question: Question, key: CacheKey, task: PollTask) {
        let waiters = task.waiters();
        let read = |begun: BegunRead| {
            let (question, key, waiters) = (question.clone(), key.clone(), Arc::clone(&waiters));
            Arc::clone(&self).poll_once(PollQuestion { question, key, waiters }, begun)
        };
        task.run(&self.clock, &self.shutdown, read).await;
    }

    /// Reads once, by an ordinary flight: plain polls and pollers share their requests.
    async fn poll_once(self: Arc<Self>, poll: PollQuestion, begun: BegunRead) -> PollRead {
        let PollQuestion { question, key, waiters } = poll;
        let sought = Sought::poll(begun.after, begun.takes_stored);
        let asker = Arc::new(begun.asker);
        let member = Member::Poller(asker.request, Arc::clone(&waiters));
        let newness = if begun.takes_stored { Newness::Any } else { Newness::Particular };
        let Ok(role) = self.flights.join(&key, member, newness, || None::<Infallible>);
        let joined = role.follow(|leader| {
            let retrieval = Arc::clone(&self);
            let fetch = Fetch { retrieval, question, asker, key: Some(key), start: None, sought, leader };
            self.shutdown.spawn(fetch.run());
        });
        let Some((follower, is_collapsed)) = joined else {
            return PollRead { result: Some(Err(Cause::TooManyFollowers.into())), is_collapsed: true };
        };
        PollRead { result: follower.result(waiters.all_left()).await, is_collapsed }
    }
}

/// The question of a poller and those who wait for its answer.
struct PollQuestion {
    question: Question,
    key: CacheKey,
    waiters: Arc<Waiters>,
}
