//! The queue of one lane: [`Rules`] decides, this waits and wakes.
//!
//! A request that nothing stands in the way of goes on at once. The others wait for the lane's task, which looks at the
//! rules again when something ends, comes or leaves, and when time is up. A request that is dropped while it waits
//! frees its place; a [`LaneSlot`] that is dropped without an outcome counts as failed.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, oneshot};
use tokio::time::sleep_until;

use super::candidate::{AdmissionRefusal, Candidate, Obstacle, QueueId};
use super::rules::{Grant, Rules, SendOutcome, Step};
use super::settings::LaneSettings;
use super::slots::SlotId;
use super::status::LaneStatus;
use super::{Lane, RequestEnd, SentElsewhere};
use crate::clock::{Clock, Now};

/// The answer where the queue is gone: the next try finds the credential that is in force.
pub(super) const NO_QUEUE: AdmissionRefusal =
    AdmissionRefusal { obstacle: Obstacle::Queue, retry_after: Duration::from_secs(1) };
/// Longest time that is added to a backoff by chance, so that many gateways do not come back at once.
const JITTER: Duration = Duration::from_secs(2);

/// Asks whether a request may be sent at a time, just before it is put on record.
pub type Confirmation = Box<dyn Fn(Now) -> bool + Send>;

/// The queue of one lane.
#[derive(Debug)]
pub struct Queue {
    /// The lane's name.
    credential: Arc<str>,
    clock: Clock,
    state: Mutex<QueueState>,
    /// Something came, ended or left.
    pub(super) changed: Notify,
    /// There is a call to the shared engine to be made.
    pub(super) has_call: Notify,
    /// Its credential is gone: it ends when nobody waits in it.
    is_retired: AtomicBool,
}

#[derive(Debug)]
pub(super) struct QueueState {
    pub(super) rules: Rules,
    waiting: HashMap<QueueId, QueueWaiter>,
    /// The reads that may be ended, for all their clients have left.
    abandoned: HashMap<SlotId, Arc<Notify>>,
    /// [`Queue::run`] has begun: nothing is let through before.
    is_running: bool,
    /// It knows what was sent in the last hour. One that was made later than others does not at first.
    is_informed: bool,
    /// It lets nothing through any more.
    pub(super) is_over: bool,
}

#[derive(Debug)]
struct QueueWaiter {
    candidate: Candidate,
    reply: oneshot::Sender<Result<LaneSlot, AdmissionRefusal>>,
}

/// A slot of the lane: the right to send one request, and the duty to say how it ended.
#[derive(Debug)]
pub struct LaneSlot {
    queue: Arc<Queue>,
    candidate: Candidate,
    grant: Grant,
    /// The end of its request, which counts when this is dropped: no answer, unless another is known.
    pub(super) end: RequestEnd,
    /// Told when another request needs this slot, whose clients had left.
    slot_needed: Arc<Notify>,
    /// Time that it waited in the queue.
    pub queued: Duration,
    /// The reason of the wait, where there was one.
    pub obstacle: Option<Obstacle>,
}

impl Queue {
    /// An empty one.
    pub(super) fn new(lane: &Lane, settings: LaneSettings, clock: Clock, is_informed: bool) -> Arc<Self> {
        let state = QueueState {
            rules: Rules::new(settings),
            waiting: HashMap::new(),
            abandoned: HashMap::new(),
            is_running: false,
            is_informed,
            is_over: false,
        };
        Arc::new(Self {
            credential: lane.to_string().into(),
            clock,
            state: Mutex::new(state),
            changed: Notify::new(),
            has_call: Notify::new(),
            is_retired: AtomicBool::new(false),
        })
    }

    /// Waits for a slot.
    ///
    /// # Errors
    /// [`AdmissionRefusal`], when it will not come in time.
    pub(super) async fn acquire(
        self: &Arc<Self>,
        mut candidate: Candidate,
    ) -> Result<LaneSlot, AdmissionRefusal> {
        let began = self.now();
        let (reply, answer) = oneshot::channel();
        let (id, obstacle) = {
            let mut state = self.state();
            if state.is_over {
                return Err(NO_QUEUE);
            }
            candidate.deadline = state.rules.latest_end(&candidate, began);
            let obstacle = state.rules.obstacle(&candidate, began);
            let id = state.rules.enqueue(candidate.clone(), began)?;
            state.waiting.insert(id, QueueWaiter { candidate, reply });
            (id, obstacle)
        };
        let place = QueuePlace { queue: self, id };
        if self.advance().is_some() {
            self.changed.notify_one();
        }
        let answered = answer.await;
        std::mem::forget(place);
        let mut slot = answered.unwrap_or(Err(NO_QUEUE))?;
        (slot.queued, slot.obstacle) = (self.now().saturating_duration_since(began), obstacle);
        Ok(slot)
    }

    /// True if everything is paused at the moment: a wait for a slot would not be short.
    pub(super) fn is_backing_off(&self) -> bool {
        self.state().rules.is_backing_off(self.now())
    }

    /// The time left of a backoff that holds the starts of `scope`.
    pub(super) fn starts_pause(&self, scope: &Arc<str>) -> Option<Duration> {
        self.state().rules.pause_for(Some(scope), self.now()).map(|(_, left)| left)
    }

    /// The upstream is back after its circuit was open.
    pub(super) fn ramp(&self) {
        self.state().rules.ramp(self.now());
    }

    /// Its state, for people.
    pub(crate) fn standing(&self) -> LaneStatus {
        self.state().rules.standing(self.now())
    }

    /// Its credential is gone.
    pub(super) fn retire(&self) {
        self.is_retired.store(true, Ordering::SeqCst);
        self.changed.notify_one();
    }

    /// Goes by other settings from now on.
    pub(super) fn set(&self, settings: LaneSettings) {
        self.state().rules.set(settings);
        self.changed.notify_one();
    }

    /// Number of requests that wait.
    pub(super) fn waiting(&self) -> usize {
        self.state().rules.waiting()
    }

    /// Counts what other processes sent: news, or all of the last hour (`is_hour`) for a queue that does not know it.
    pub(super) fn learn<'a>(
        &self,
        sends: impl Iterator<Item = &'a SentElsewhere>,
        is_hour: bool,
        now: Instant,
    ) {
        let mut state = self.state();
        if state.is_informed == is_hour {
            return;
        }
        state.is_informed = true;
        for sent in sends {
            state.rules.sent_elsewhere(sent.start.as_ref(), sent.at, now);
        }
    }

    /// Lets requests through, until it is retired. What others sent in the last hour should be known by then.
    pub async fn run(self: Arc<Self>) {
        {
            let (mut state, now) = (self.state(), self.now());
            state.rules.begin(now);
            state.is_running = true;
        }
        loop {
            let changed = self.changed.notified();
            let next = self.advance();
            if self.is_retired.load(Ordering::SeqCst) && self.is_over() {
                return;
            }
            match next {
                None => changed.await,
                Some(at) => {
                    tokio::select! {
                        () = changed => {}
                        () = sleep_until(at.into()) => {}
                    }
                }
            }
        }
    }

    /// True if nobody waits; then nobody may wait from now on.
    fn is_over(&self) -> bool {
        let mut state = self.state();
        state.is_over = state.waiting.is_empty();
        if state.is_over {
            self.has_call.notify_one();
        }
        state.is_over
    }

    /// Takes all steps that can be taken now. Returns the time of the next one, where that is known.
    fn advance(self: &Arc<Self>) -> Option<Instant> {
        let now = self.now();
        // Sent when the lock is let go: a slot whose request has left is given back at once, which takes the lock.
        let mut replies = Vec::new();
        let mut state = self.state();
        if !state.is_running {
            return None;
        }
        let next = loop {
            match state.rules.next_step(now) {
                Step::Admit { id, grant } => match state.waiting.remove(&id) {
                    Some(QueueWaiter { candidate, reply }) => {
                        replies.push((reply, Ok(LaneSlot::new(Arc::clone(self), candidate, grant))));
                    }
                    None => state.rules.ended(grant, &SendOutcome::Failed, now),
                },
                Step::Evict(slot) => {
                    if let Some(slot_needed) = state.abandoned.remove(&slot) {
                        slot_needed.notify_one();
                    }
                }
                Step::Refuse(id, refusal) => {
                    if let Some(waiter) = state.waiting.remove(&id) {
                        replies.push((waiter.reply, Err(refusal)));
                    }
                }
                Step::Wait(at) => break Some(at),
                Step::Idle => break None,
            }
        };
        let has_call = state.rules.has_call(now);
        drop(state);
        for (reply, answer) in replies {
            let _ = reply.send(answer);
        }
        if has_call {
            self.has_call.notify_one();
        }
        next
    }

    pub(super) fn now(&self) -> Instant {
        self.clock.now().mono
    }

    pub(super) fn state(&self) -> MutexGuard<'_, QueueState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl LaneSlot {
    fn new(queue: Arc<Queue>, candidate: Candidate, grant: Grant) -> Self {
        let (end, slot_needed) = (RequestEnd::default(), Arc::default());
        Self { queue, candidate, grant, end, slot_needed, queued: Duration::ZERO, obstacle: None }
    }

    /// True if others depend on its outcome: it is the first request after a backoff.
    pub(crate) const fn is_probe(&self) -> bool {
        self.grant.is_probe || self.grant.is_probe_of_starts
    }

    /// [`Rules::confirm`], for the one who puts the request on record.
    pub(crate) fn confirmation(&self) -> Confirmation {
        let (queue, slot) = (Arc::clone(&self.queue), self.grant.slot);
        Box::new(move |now| queue.state().rules.confirm(slot, now.mono))
    }

    /// The time since it was confirmed.
    pub(crate) fn age(&self, now: Instant) -> Duration {
        self.queue.state().rules.age(self.grant.slot, now)
    }

    /// Gives the slot back without having sent: the request can stand in the queue again, in its old place and no longer than
    /// before.
    pub(crate) fn put_back(self) -> Candidate {
        Candidate { is_put_back: true, ..self.candidate.clone() }
    }

    /// Notes that all clients have left that waited for the answer: the request may be ended where its slot is needed.
    pub fn abandon(&self) {
        {
            let mut state = self.queue.state();
            state.rules.abandon(self.grant.slot, Some(self.queue.now()));
            state.abandoned.insert(self.grant.slot, Arc::clone(&self.slot_needed));
        }
        self.queue.changed.notify_one();
    }

    /// Resolves when another request needs the slot of this abandoned one. Somebody may wait for it again by then.
    pub async fn slot_needed(&self) {
        self.slot_needed.notified().await;
    }

    /// Logs a backoff that began, and one that `is_over`.
    fn log(&self, outcome: &SendOutcome, pause: Option<(bool, Duration)>, is_over: bool) {
        let name = &self.queue.credential;
        if let (SendOutcome::TooMany { .. }, Some((all, pause))) = (outcome, pause) {
            let pause = pause.as_secs();
            if all {
                tracing::warn!(credential.name = %name, backoff.duration_s = pause, "rate limited by Snyk (429); pausing requests");
            } else {
                let scope = self.candidate.start.as_deref();
                tracing::warn!(credential.name = %name, start.scope = scope, backoff.duration_s = pause, "start rate limited by Snyk (429); pausing the starts of its org or group");
            }
        } else if is_over {
            tracing::info!(credential.name = %name, "backoff after a 429 ended; resuming requests in a ramp");
        }
    }
}

impl Drop for LaneSlot {
    fn drop(&mut self) {
        let now = self.queue.now();
        let RequestEnd { mut outcome, rate, kind, .. } = std::mem::take(&mut self.end);
        let (somebody_waits, has_call) = {
            let mut state = self.queue.state();
            state.abandoned.remove(&self.grant.slot);
            let was_paused = state.rules.is_backing_off(now);
            if let SendOutcome::TooMany { bucket, jitter, .. } = &mut outcome {
                (*bucket, *jitter) = (state.rules.bucket(&rate, kind), JITTER.mul_f64(fastrand::f64()));
            }
            state.rules.ended(self.grant, &outcome, now);
            state.rules.learn(&rate, kind, now);
            let is_over = was_paused && !state.rules.is_backing_off(now);
            self.log(&outcome, state.rules.pause_for(self.candidate.start.as_ref(), now), is_over);
            (state.rules.waiting() > 0, state.rules.has_call(now))
        };
        if somebody_waits {
            self.queue.changed.notify_one();
        }
        if has_call {
            self.queue.has_call.notify_one();
        }
    }
}

/// A place in the queue, given up when its request is dropped.
struct QueuePlace<'a> {
    queue: &'a Arc<Queue>,
    id: QueueId,
}

impl Drop for QueuePlace<'_> {
    fn drop(&mut self) {
        let mut state = self.queue.state();
        if state.waiting.remove(&self.id).is_some() {
            state.rules.leave(self.id);
        }
        drop(state);
        self.queue.changed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::super::Api;
    use super::super::backoff::BackoffSettings;
    use super::super::budget::Limit;
    use super::super::rate_fields::{Bucket, CallKind};
    use super::*;

    fn queue(max_running: usize) -> Arc<Queue> {
        let queue = queue_that_is(max_running, true);
        queue.state().is_running = true;
        queue
    }

    fn queue_that_is(max_running: usize, is_informed: bool) -> Arc<Queue> {
        let seconds = Duration::from_secs;
        let settings = LaneSettings {
            limits: vec![Limit { most: 100, window: seconds(60) }],
            account: vec![Limit { most: 100, window: seconds(60) }],
            common: None,
            starts: None,
            margin: Duration::ZERO,
            backoff: BackoffSettings { usual: seconds(60), most: seconds(600), ramp: 10 },
            max_wait: Duration::from_millis(200),
            max_waiting: 10,
            max_running,
            several_clients: false,
        };
        let lane = Lane { credential: "snyk".into(), api: Api::Rest };
        Queue::new(&lane, settings, Clock::system(), is_informed)
    }

    fn candidate() -> Candidate {
        let deadline = Instant::now() + Duration::from_mins(1);
        Candidate { client: "c".into(), weight: 1, start: None, deadline, is_put_back: false }
    }

    type Waiting<'a> =
        std::pin::Pin<Box<dyn Future<Output = Result<LaneSlot, AdmissionRefusal>> + Send + 'a>>;

    fn ended(mut slot: LaneSlot, outcome: SendOutcome) {
        slot.end = RequestEnd { outcome, kind: CallKind::Read, ..RequestEnd::default() };
    }

    /// A request that waits for its slot.
    async fn waiting(queue: &Arc<Queue>) -> Waiting<'_> {
        let mut waiting: Waiting<'_> = Box::pin(queue.acquire(candidate()));
        let waits =
            std::future::poll_fn(|context| std::task::Poll::Ready(waiting.as_mut().poll(context))).await;
        assert!(waits.is_pending());
        waiting
    }

    #[tokio::test]
    async fn a_slot_that_nobody_takes_any_more_goes_to_the_next() {
        let queue = queue(1);
        let first = queue.acquire(candidate()).await.expect("a slot");
        let (left, next) = (waiting(&queue).await, waiting(&queue).await);
        let mut running = tokio::task::JoinSet::new();
        running.spawn(Arc::clone(&queue).run());
        ended(first, SendOutcome::Answered);
        // One thread: the task has given the slot by the time that this goes on.
        while queue.waiting() > 1 {
            tokio::task::yield_now().await;
        }
        drop(left);
        assert!(next.await.is_ok());
    }

    #[tokio::test]
    async fn a_request_that_is_refused_its_confirmation_waits_again_and_is_not_counted() {
        let queue = queue(10);
        let slot = queue.acquire(candidate()).await.expect("a slot");
        let refused = SendOutcome::TooMany {
            retry_after: Some(Duration::from_secs(30)),
            bucket: Bucket::Unknown,
            jitter: Duration::ZERO,
        };
        let other = queue.acquire(candidate()).await.expect("a slot");
        assert!(other.confirmation()(Clock::system().now()));
        ended(other, refused);
        assert!(!slot.confirmation()(Clock::system().now()));
        let again = slot.put_back();
        assert!(again.is_put_back);
        let standing = queue.standing();
        assert_eq!((standing.running, standing.windows[0].2), (0, 1));
        // The backoff is longer than it may wait.
        assert!(queue.acquire(again).await.is_err());
    }

    #[tokio::test]
    async fn what_others_sent_is_learnt_once_and_the_hour_before_by_those_who_do_not_know_it() {
        let lane = Lane { credential: "snyk".into(), api: Api::Rest };
        let sent = [SentElsewhere { lane, at: Instant::now(), start: None }];
        let learnt = |is_informed, readings: [bool; 4]| {
            let queue = queue_that_is(10, is_informed);
            readings.map(|is_hour| {
                queue.learn(sent.iter(), is_hour, Instant::now());
                queue.standing().windows[0].2
            })
        };
        assert_eq!(learnt(true, [false, true, false, true]), [1, 1, 2, 2]);
        assert_eq!(learnt(false, [false, true, true, false]), [0, 1, 1, 2]);
    }

    #[tokio::test]
    async fn who_asks_when_the_queue_is_gone_is_told_so() {
        let queue = queue(1);
        queue.retire();
        Arc::clone(&queue).run().await;
        assert_eq!(queue.acquire(candidate()).await.err(), Some(NO_QUEUE));
    }

    #[tokio::test]
    async fn a_request_that_leaves_frees_its_place() {
        let queue = queue(1);
        let first = queue.acquire(candidate()).await;
        let left = waiting(&queue).await;
        assert_eq!(queue.waiting(), 1);
        drop(left);
        assert_eq!(queue.waiting(), 0);
        drop(first);
    }
}
