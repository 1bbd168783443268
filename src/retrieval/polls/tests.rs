//! Pollers and their waiters in paused time: the schedule's counts, and who gets which answer.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, StatusCode};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::super::answer::{Fetched, Sending};
use super::*;
use crate::access::Permit;
use crate::admission::{AdmissionRefusal, Obstacle};
use crate::export::ExportCall;

const fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// An upstream with one export, and those who wait for it.
#[derive(Clone)]
struct Snyk(Arc<Scene>);

struct Scene {
    pollers: Pollers,
    clock: Clock,
    shutdown: Shutdown,
    begin: std::time::Instant,
    /// Answers by the time since the beginning.
    answer: Box<dyn Fn(Duration) -> Answer + Send + Sync>,
    latency: Duration,
    reads: AtomicU32,
    clients: AtomicU32,
    served: Mutex<Vec<usize>>,
}

#[derive(Clone, Copy)]
enum Answer {
    Unfinished,
    Finished,
    Status(u16),
    Held,
    Refused,
}

/// The end of a wait, from the beginning.
#[derive(Debug)]
struct Ended {
    after: Duration,
    result: Result<StatusCode, Cause>,
    is_unfinished: bool,
}

impl Snyk {
    fn that(answer: impl Fn(Duration) -> Answer + Send + Sync + 'static) -> Self {
        Self::slow(seconds(0), answer)
    }

    fn slow(latency: Duration, answer: impl Fn(Duration) -> Answer + Send + Sync + 'static) -> Self {
        let (clock, shutdown) = (Clock::system(), Shutdown::new());
        let begin = clock.now().mono;
        Self(Arc::new(Scene {
            pollers: Pollers::new(10_000),
            clock,
            shutdown,
            begin,
            answer: Box::new(answer),
            latency,
            reads: AtomicU32::new(0),
            clients: AtomicU32::new(0),
            served: Mutex::default(),
        }))
    }

    fn finished_after(time: Duration) -> Self {
        Self::that(move |now| if now < time { Answer::Unfinished } else { Answer::Finished })
    }

    fn reads(&self) -> u32 {
        self.0.reads.load(Ordering::Relaxed)
    }

    fn age(&self) -> Duration {
        self.0.clock.now().mono - self.0.begin
    }

    async fn read(self, waiters: Arc<Waiters>) -> PollRead {
        self.0.reads.fetch_add(1, Ordering::Relaxed);
        let asked = self.0.clock.now();
        tokio::time::sleep(self.0.latency).await;
        let fetched = |status: u16, is_unfinished| {
            Ok(Arc::new(Fetched {
                attempt: Uuid::nil(),
                trace: None,
                sending: Some(Sending { tries: 1, queued: Duration::ZERO, waited_for: None }),
                taken: None,
                asked: asked.mono,
                arrival: self.0.clock.now(),
                is_unfinished,
                status: StatusCode::from_u16(status).expect("a status"),
                fields: HeaderMap::new(),
                body: Bytes::new(),
                began: None,
                entry: None,
                not_stored: None,
            }))
        };
        self.0.served.lock().expect("no panic").push(waiters.served().len());
        let result = match (self.0.answer)(asked.mono - self.0.begin) {
            Answer::Unfinished => fetched(200, true),
            Answer::Finished => fetched(200, false),
            Answer::Status(status) => fetched(status, false),
            Answer::Held => {
                let refusal = AdmissionRefusal { obstacle: Obstacle::Backoff, retry_after: seconds(60) };
                Err(Cause::NotAdmitted(refusal).into())
            }
            Answer::Refused => Err(Cause::CredentialRejected.into()),
        };
        PollRead { result: Some(result), is_collapsed: false }
    }

    fn asker(&self, length: Duration, half_closed: CancellationToken) -> Asker {
        let number = self.0.clients.fetch_add(1, Ordering::Relaxed);
        Asker {
            request: Uuid::from_u128(number.into()),
            client: "test".into(),
            share: 1,
            permit: Permit::unlimited(),
            deadline: (self.0.clock.now().mono + length + seconds(90)).into(),
            half_closed,
            sent_id: None,
            via: HeaderValue::from_static("1.1 x"),
            trace: None,
        }
    }

    async fn wait(&self, length: Duration) -> Ended {
        self.ask(length, true, CancellationToken::new()).await
    }

    /// Asks as a client does, and again where the poller has ended without an answer for it.
    async fn ask(&self, length: Duration, is_asked: bool, half_closed: CancellationToken) -> Ended {
        let now = self.0.clock.now().mono;
        let wait = Wait { until: now + length, is_asked };
        let asker = Arc::new(self.asker(length, half_closed));
        let call = ExportCall::of_target("/orgs/o/export/e").expect("a call");
        let key = CacheKey::from(CacheKey::text("u", "c", &call, &HeaderMap::new()));
        let result = loop {
            let waiter = Waiter::new(&asker, now, wait.until, true);
            let (waiting, task) = self.0.pollers.join(&key, waiter).expect("a place");
            if let Some(task) = task {
                let snyk = self.clone();
                self.0.shutdown.spawn(async move {
                    let waiters = task.waiters();
                    let read = |_| snyk.clone().read(Arc::clone(&waiters));
                    task.run(&snyk.0.clock, &snyk.0.shutdown, read).await;
                });
            }
            match waiting.end(wait, &self.0.shutdown).await {
                Ok(None) => {}
                Ok(Some(answer)) => break answer.result.map_err(|none| none.cause),
                Err(cause) => break Err(cause),
            }
        };
        if let Ok(fetched) = &result {
            assert!(fetched.asked >= now, "each answer was asked for after its client had asked");
        }
        let is_unfinished = result.as_ref().is_ok_and(|fetched| fetched.is_unfinished);
        Ended { after: self.age(), result: result.map(|fetched| fetched.status), is_unfinished }
    }

    /// Runs clients, each begun a little after the one before.
    async fn clients<F>(&self, count: u32, apart: Duration, client: impl Fn(Self) -> F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        for _ in 0..count {
            self.0.shutdown.spawn(client(self.clone()));
            tokio::time::sleep(apart).await;
        }
    }

    async fn until(&self, time: Duration) {
        sleep_until((self.0.begin + time).into()).await;
    }
}

#[tokio::test(start_paused = true)]
async fn two_hundred_waiters_cost_six_reads_in_ten_seconds() {
    let snyk = Snyk::finished_after(seconds(10));
    let told = Arc::new(AtomicU32::new(0));
    let count = Arc::clone(&told);
    let wait = move |snyk: Snyk| {
        let told = Arc::clone(&count);
        async move {
            let ended = snyk.wait(seconds(55)).await;
            assert!(!ended.is_unfinished && ended.after < seconds(18), "{ended:?}");
            told.fetch_add(1, Ordering::Relaxed);
        }
    };
    snyk.clients(200, Duration::from_millis(4), wait).await;
    snyk.until(seconds(20)).await;
    assert_eq!(told.load(Ordering::Relaxed), 200);
    assert!((6..=7).contains(&snyk.reads()), "{}", snyk.reads());
    let served = snyk.0.served.lock().expect("no panic").clone();
    assert_eq!(served.last(), Some(&200), "who is answered is on record: {served:?}");
}

#[tokio::test(start_paused = true)]
async fn thirty_clients_that_ask_again_for_five_minutes_cost_a_read_every_five_seconds() {
    let snyk = Snyk::finished_after(seconds(3_600));
    let again = |snyk: Snyk| async move {
        while snyk.age() < seconds(300) {
            let ended = snyk.wait(seconds(20)).await;
            assert!(ended.is_unfinished, "{ended:?}");
        }
    };
    snyk.clients(30, Duration::from_millis(667), again).await;
    snyk.until(seconds(300)).await;
    assert!((55..=80).contains(&snyk.reads()), "{}", snyk.reads());
}

#[tokio::test(start_paused = true)]
async fn thirty_pollers_that_do_not_ask_to_wait_cost_no_more_than_ten_reads() {
    let snyk = Snyk::finished_after(seconds(3_600));
    let poll = |snyk: Snyk| async move {
        while snyk.age() < seconds(20) {
            let ended = snyk.ask(seconds(20), false, CancellationToken::new()).await;
            assert!(ended.is_unfinished, "{ended:?}");
            tokio::time::sleep(seconds(1)).await;
        }
    };
    snyk.clients(30, Duration::from_millis(33), poll).await;
    snyk.until(seconds(20)).await;
    assert!((7..=10).contains(&snyk.reads()), "{}", snyk.reads());
}

#[tokio::test(start_paused = true)]
async fn one_waiter_costs_fourteen_reads_in_its_time_and_is_answered_at_its_end() {
    let snyk = Snyk::finished_after(seconds(3_600));
    let ended = snyk.wait(seconds(55)).await;
    assert!(ended.is_unfinished && ended.after == seconds(55), "{ended:?}");
    assert!((13..=16).contains(&snyk.reads()), "{}", snyk.reads());
}

#[tokio::test(start_paused = true)]
async fn a_late_short_waiter_has_a_read_of_its_own() {
    let snyk = Snyk::finished_after(seconds(3_600));
    let long = |snyk: Snyk| async move { assert!(snyk.wait(seconds(55)).await.is_unfinished) };
    snyk.clients(1, seconds(8), long).await;
    let before = snyk.reads();
    let ended = snyk.wait(seconds(1)).await;
    assert!(ended.is_unfinished && ended.after == seconds(9), "{ended:?}");
    assert_eq!(snyk.reads(), before + 1);
    // The schedule goes on from there.
    snyk.until(Duration::from_millis(12_900)).await;
    assert_eq!(snyk.reads(), before + 1);
}

#[tokio::test(start_paused = true)]
async fn who_asks_again_within_the_linger_goes_on_with_the_schedule() {
    let snyk = Snyk::finished_after(seconds(3_600));
    assert!(snyk.wait(seconds(10)).await.is_unfinished);
    let before = snyk.reads();
    snyk.until(seconds(15)).await;
    assert_eq!(snyk.reads(), before, "nobody waits");
    assert_eq!(snyk.0.pollers.counts(), (0, 1));
    assert!(snyk.wait(seconds(4)).await.is_unfinished);
    assert_eq!(snyk.reads(), before + 1);
    snyk.until(seconds(30)).await;
    assert_eq!(snyk.0.pollers.counts(), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_wait_goes_on_through_holds_and_three_failures_and_ends_at_other_news() {
    for (answers, status, after) in [
        (vec![Answer::Status(500), Answer::Status(500), Answer::Status(502), Answer::Finished], 200, 4),
        (vec![Answer::Status(500); 5], 500, 4),
        (vec![Answer::Unfinished, Answer::Status(429), Answer::Finished], 200, 2),
        (vec![Answer::Unfinished, Answer::Held, Answer::Finished], 200, 55),
        (vec![Answer::Unfinished, Answer::Status(404)], 404, 1),
        (vec![Answer::Unfinished, Answer::Status(303)], 303, 1),
        // An answer is better than the failures that end the wait.
        ([Answer::Unfinished].into_iter().chain([Answer::Status(503); 5]).collect(), 200, 7),
    ] {
        let count = AtomicU32::new(0);
        let snyk = Snyk::that(move |_| {
            answers.get(count.fetch_add(1, Ordering::Relaxed) as usize).copied().unwrap_or(Answer::Held)
        });
        let ended = snyk.wait(seconds(55)).await;
        assert_eq!(ended.result, Ok(StatusCode::from_u16(status).expect("a status")), "{ended:?}");
        assert!(ended.after.abs_diff(seconds(after)) < seconds(1), "{after}: {ended:?}");
    }
    let ended = Snyk::that(|_| Answer::Held).wait(seconds(55)).await;
    assert!(matches!(ended.result, Err(Cause::NotAdmitted(_))) && ended.after == seconds(55), "{ended:?}");
    let ended = Snyk::that(|_| Answer::Refused).wait(seconds(55)).await;
    assert!(ended.result == Err(Cause::CredentialRejected) && ended.after == seconds(0), "{ended:?}");
}

#[tokio::test(start_paused = true)]
async fn who_does_not_ask_to_wait_is_told_of_failures_at_once() {
    for answer in [Answer::Status(500), Answer::Status(429), Answer::Held] {
        let ended = Snyk::that(move |_| answer).ask(seconds(20), false, CancellationToken::new()).await;
        assert!(!ended.is_unfinished && ended.after == seconds(0), "{ended:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn who_comes_while_the_last_read_is_on_its_way_has_one_that_is_newer() {
    let snyk = Snyk::slow(seconds(2), |_| Answer::Finished);
    let first = |snyk: Snyk| async move { assert!(snyk.wait(seconds(55)).await.result.is_ok()) };
    snyk.clients(1, seconds(1), first).await;
    let ended = snyk.wait(seconds(55)).await;
    assert!(ended.result.is_ok() && ended.after == seconds(4), "{ended:?}");
    assert_eq!(snyk.reads(), 2);
    // One whose wait is over before any answer is there gets the first that comes.
    let ended = snyk.wait(seconds(1)).await;
    assert!(ended.result.is_ok() && ended.after == seconds(6), "{ended:?}");
}

#[tokio::test(start_paused = true)]
async fn a_stop_ends_all_waits_with_the_last_answer_there_is() {
    let snyk = Snyk::slow(Duration::from_millis(100), |_| Answer::Unfinished);
    let wait = |snyk: Snyk| async move {
        let ended = snyk.wait(seconds(55)).await;
        assert!(ended.is_unfinished && ended.after == seconds(5), "{ended:?}");
    };
    snyk.clients(200, Duration::from_millis(20), wait).await;
    snyk.until(seconds(5)).await;
    snyk.0.shutdown.announce();
    assert!(snyk.0.shutdown.finished(Duration::from_millis(1)).await);
    let late = Snyk::slow(seconds(30), |_| Answer::Unfinished);
    let wait = |late: Snyk| async move {
        let ended = late.wait(seconds(55)).await;
        assert_eq!(ended.result, Err(Cause::Stopping));
    };
    late.clients(1, seconds(1), wait).await;
    late.0.shutdown.announce();
    assert!(late.0.shutdown.finished(Duration::from_millis(1)).await);
}

#[tokio::test(start_paused = true)]
async fn nothing_is_read_for_those_who_have_left() {
    let snyk = Snyk::finished_after(seconds(3_600));
    let left = tokio::time::timeout(seconds(3), snyk.wait(seconds(55))).await;
    assert!(left.is_err());
    let before = snyk.reads();
    snyk.until(seconds(30)).await;
    assert_eq!((snyk.reads(), snyk.0.pollers.counts()), (before, (0, 0)));
    // One that has closed its half has an answer within the grace, and waits no longer, also in a pause of the schedule.
    for end in [31, 32] {
        let half_closed = CancellationToken::new();
        half_closed.cancel();
        let ended = snyk.ask(seconds(55), true, half_closed).await;
        assert!(ended.is_unfinished && ended.after == seconds(end), "{ended:?}");
    }
    // So has one whose read takes longer.
    let slow = Snyk::slow(seconds(5), |_| Answer::Unfinished);
    let half_closed = CancellationToken::new();
    half_closed.cancel();
    let ended = slow.ask(seconds(55), true, half_closed).await;
    assert!(ended.is_unfinished && ended.after == seconds(5), "{ended:?}");
    assert_eq!(slow.reads(), 1);
}
