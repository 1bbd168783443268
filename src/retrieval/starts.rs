//! Starts: each is sent alone, or shares an equal one that is on its way or on record (0014).

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;

use super::answer::{
    Cause, EqualExport, Fetched, Forward, ForwardReason, NoAnswer, Origin, Payload, RefusedStart, Retrieved,
    StartRefusal,
};
use super::attempt::scope_name;
use super::equal_starts::{ShareWish, age, given_again, start_key};
use super::fetch::{Fetch, FlightResult, Sought};
use super::flights::{Leader, Member, Role};
use super::question::{Asker, Newness, Question, Wanted};
use super::{Retrieval, fields, reading, wait};
use crate::admission::Obstacle;
use crate::cache::CacheKey;
use crate::journal::FoundStart;
use crate::upstream::UpstreamErrorKind;

/// Failures of equal starts after which those who waited for them try no more.
const MOST_FAILURES: u32 = 2;
/// Answers that are too old for an asker, after which it joins no flight any more.
const MOST_OLDER: u32 = 2;
/// Age up to which the newest equal export is named: as long as Snyk keeps its files.
const NAMED: Duration = Duration::from_hours(72);

/// A start, and the one who asks for it.
#[derive(Clone)]
struct StartRequest {
    question: Question,
    asker: Arc<Asker>,
    /// Set where some start may share another.
    key: Option<[u8; 32]>,
    wish: ShareWish,
}

/// The result of a flight.
struct StartResult {
    result: FlightResult,
    /// True if it was led by another.
    is_collapsed: bool,
}

impl Retrieval {
    /// True if others may get a start: even of one that takes none, the answer is kept.
    pub(crate) fn shares_starts(&self) -> bool {
        self.settings.load().starts.is_on()
    }

    /// Starts an export, or shares an equal start.
    pub(super) async fn start(
        self: Arc<Self>,
        mut question: Question,
        asker: Asker,
        wanted: Wanted,
    ) -> Result<Retrieved, NoAnswer> {
        let settings = self.settings.load().starts;
        let wish = settings.wish(&wanted.directives);
        if settings.is_on() {
            question.fields = fields::for_equal_starts(question.fields);
        }
        let key = if settings.is_on() { self.start_key(&question).await } else { None };
        let call = StartRequest { question, asker: Arc::new(asker), key, wish };
        if wanted.directives.only_if_cached {
            let found = self.find_start(&call, call.wish.age).await.ok_or(Cause::OnlyIfCached)?;
            return self.shared(&call, given_again(found, self.clock.now()), None).await;
        }
        let StartResult { result, is_collapsed } = self.equal_start(&call).await?;
        let forward = Forward::new(ForwardReason::Method, is_collapsed);
        match result {
            Ok(fetched) if fetched.sending.is_none() => self.shared(&call, fetched, None).await,
            Ok(fetched) if fetched.status == StatusCode::TOO_MANY_REQUESTS => {
                self.in_hold(&call, Ok(Retrieved::fetched(fetched, forward))).await
            }
            Ok(fetched) => Ok(Retrieved::fetched(fetched, forward)),
            Err(no_answer) => {
                let no_answer = NoAnswer { forward: Some(forward), ..no_answer };
                if is_hold(no_answer.cause) {
                    self.in_hold(&call, Err(no_answer)).await
                } else {
                    Err(no_answer)
                }
            }
        }
    }

    pub(super) async fn start_key(&self, question: &Question) -> Option<[u8; 32]> {
        let (question, upstream) = (question.clone(), Arc::clone(&self.upstream_name));
        reading::aside(question.body.len(), move || start_key(&question, &upstream)).await
    }

    /// The result of an equal start, unless that fails: the failure is its own caller's. After two, those who waited get
    /// the second. Whoever got two answers that are too old for it leads alone.
    async fn equal_start(self: &Arc<Self>, call: &StartRequest) -> Result<StartResult, NoAnswer> {
        let (mut failures, mut older) = (0, 0);
        loop {
            let joined = call.key.filter(|_| !call.wish.age.is_zero() && older < MOST_OLDER);
            let asked = self.start_or_join(call, joined).await?;
            let is_older = |fetched: &Fetched| {
                fetched.sending.is_none() && age(fetched.arrival.wall, self.clock.now()) > call.wish.age
            };
            match &asked.result {
                // It was found for somebody who takes older ones.
                Ok(fetched) if is_older(fetched) && older < MOST_OLDER => {
                    older += 1;
                    continue;
                }
                Ok(fetched) if fetched.began.is_some() => return Ok(asked),
                Err(no_answer) if is_own_end(no_answer.cause) => return Ok(asked),
                _ if !asked.is_collapsed => return Ok(asked),
                Ok(_) | Err(_) => failures += 1,
            }
            if failures == MOST_FAILURES {
                let attempt = match &asked.result {
                    Ok(fetched) => Some(fetched.attempt),
                    Err(no_answer) => no_answer.attempt,
                };
                if let Some(attempt) = attempt {
                    self.record_late(attempt, vec![call.asker.member()]).await?;
                }
                return Ok(asked);
            }
        }
    }

    /// Waits for a start with the key `joined` that is on its way, or leads one.
    async fn start_or_join(
        self: &Arc<Self>,
        call: &StartRequest,
        joined: Option<[u8; 32]>,
    ) -> Result<StartResult, NoAnswer> {
        let (asker, member) = (Arc::clone(&call.asker), Member::Client(call.asker.member()));
        let role = match joined {
            None => Role::alone(member),
            Some(key) => {
                let none = || None::<Infallible>;
                match self.flights.join(&flight_key(&key), member, Newness::Any, none) {
                    Ok(role) => role,
                    Err(never) => match never {},
                }
            }
        };
        let flight = role.follow(|leader| {
            self.shutdown.spawn(Arc::clone(self).lead_start(call.clone(), leader));
        });
        let (follower, is_collapsed) = flight.ok_or(Cause::TooManyFollowers)?;
        Ok(StartResult { result: wait(follower, &asker).await, is_collapsed })
    }

    /// Takes an equal start that is on record, or sends this one. Within the flight: whoever asks meanwhile joins it.
    async fn lead_start(self: Arc<Self>, call: StartRequest, leader: Leader<FlightResult>) {
        if let Some(found) = self.find_start(&call, call.wish.age).await {
            return leader.complete(Ok(given_again(found, self.clock.now())));
        }
        let StartRequest { question, asker, key: start, .. } = call;
        let sought = Sought::anew();
        Fetch { retrieval: self, question, asker, key: None, start, sought, leader }.run().await;
    }

    /// The newest equal start on record, at most `max_age` old; none where that is zero.
    async fn find_start(&self, call: &StartRequest, max_age: Duration) -> Option<FoundStart> {
        self.journal.find_start(call.key.filter(|_| !max_age.is_zero())?, max_age).await
    }

    /// Gives the answer of a start on record again. Its client is put on record with it.
    async fn shared(
        &self,
        call: &StartRequest,
        fetched: Arc<Fetched>,
        refusal: Option<StartRefusal>,
    ) -> Result<Retrieved, NoAnswer> {
        self.record_late(fetched.attempt, vec![call.asker.member()]).await?;
        let age = age(fetched.arrival.wall, self.clock.now()).as_secs();
        let origin = Origin::SharedStart { age, refusal };
        Ok(Retrieved { origin, answer: Payload::Fetched(fetched), refused: None, is_waited: false })
    }

    /// Gives an equal start in place of a 429, or says which is the newest.
    async fn in_hold(
        &self,
        call: &StartRequest,
        refused: Result<Retrieved, NoAnswer>,
    ) -> Result<Retrieved, NoAnswer> {
        let newest = self.find_start(call, NAMED).await;
        let (held, now) = (call.wish.held, self.clock.now());
        let equal = match newest {
            Some(found) if !held.is_zero() && age(found.made, now) <= held => {
                let refusal = if refused.is_ok() { StartRefusal::BySnyk } else { StartRefusal::Held };
                return self.shared(call, given_again(found, now), Some(refusal)).await;
            }
            newest => newest.map(|found| EqualExport { id: found.export_id, made: found.made }),
        };
        let scope = &call.question.call.scope;
        let pause = self.admission.starts_pause(&call.question.lane(), &scope_name(scope));
        let advice = Some(Arc::new(RefusedStart { equal, retry_after: pause }));
        match refused {
            Ok(retrieved) => Ok(Retrieved { refused: advice, ..retrieved }),
            Err(no_answer) => Err(NoAnswer { refused: advice, ..no_answer }),
        }
    }
}

/// True if the asker waits no more, or the gateway stops: then it begins nothing.
fn is_own_end(cause: Cause) -> bool {
    matches!(cause, Cause::Deadline | Cause::Abandoned | Cause::Upstream(UpstreamErrorKind::Stopped))
}

/// True if starts are held, by Snyk's word or by our count.
fn is_hold(cause: Cause) -> bool {
    let Cause::NotAdmitted(refusal) = cause else { return false };
    matches!(refusal.obstacle, Obstacle::Backoff | Obstacle::Budget)
}

/// The key of the flight of a start. No other begins like it: those of reads begin with the upstream.
fn flight_key(key: &[u8; 32]) -> CacheKey {
    CacheKey::from(format!("start {key:02x?}"))
}
