//! One cache and one flight for all gateways (0017): a flight that this gateway leads looks first for what another one has, or
//! follows another's flight. What is taken counts as asked for no earlier than it was claimed there, and as received when it
//! landed there, by our own clock.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio_util::sync::{CancellationToken, DropGuard};

use super::super::answer::{Cause, Fetched, NoAnswer, Taken};
use super::super::question::{LinkUse, Question, Wanted};
use super::{Fetch, FlightResult};
use crate::cache::{CacheKey, Entry, PortableAnswer, PortableEntry, PortedTimes, Purges};
use crate::clock::Now;
use crate::shared::{Claimed, FlightClaim, FlightPlace, FlightStart, KeptValue, Landing, Lead, Shared};
use crate::shutdown::Shutdown;
use crate::upstream::UpstreamErrorKind;

/// The answers of other gateways that a flight takes.
#[derive(Debug, Clone)]
pub(crate) struct Sought {
    /// Stored responses.
    stored: Reach,
    /// Answers that are not stored.
    others: Reach,
    /// Least life left of a stored response's links.
    least_life: Duration,
    /// True to follow the flight of another gateway.
    follows: bool,
    /// True for a poller: its answer is of use to those of other gateways.
    is_polled: bool,
    /// The stored response that is to be replaced ahead of its end.
    known: Option<Arc<Entry>>,
}

/// The age up to which an answer is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reach {
    Nothing,
    /// Asked for after this.
    After(Instant),
    Any,
}

impl Reach {
    fn age(self, now: Instant) -> Option<Duration> {
        match self {
            Self::Nothing => None,
            Self::After(at) => now.checked_duration_since(at),
            Self::Any => Some(Duration::MAX),
        }
    }
}

impl Sought {
    const NONE: Self = Self {
        stored: Reach::Nothing,
        others: Reach::Nothing,
        least_life: Duration::ZERO,
        follows: false,
        is_polled: false,
        known: None,
    };

    /// None: the answer is to be made anew.
    pub(crate) fn anew() -> Self {
        Self::NONE
    }

    /// Those that one takes who does not wait for the end of an export.
    pub(crate) fn of(wanted: &Wanted, now: Instant) -> Self {
        if wanted.is_revalidated() {
            return Self::NONE;
        }
        let seconds = |seconds: Option<u64>| seconds.map(Duration::from_secs);
        let by_age = seconds(wanted.directives.max_age).and_then(|age| now.checked_sub(age));
        let by_links = if let LinkUse::Here { newer_than } = wanted.links { newer_than } else { None };
        let stored = by_age.max(by_links).map_or(Reach::Any, Reach::After);
        let least_life = seconds(wanted.directives.min_fresh).unwrap_or_default();
        Self { stored, least_life, follows: true, ..Self::NONE }
    }

    /// Those that a poller takes: what was asked for after its newest waiter and its last read. Where all of these take a stored
    /// response, any is good.
    pub(crate) fn poll(after: Instant, takes_stored: bool) -> Self {
        let others = Reach::After(after);
        let stored = if takes_stored { Reach::Any } else { others };
        Self { stored, others, follows: true, is_polled: true, ..Self::NONE }
    }

    /// One that lives longer than the stored response that is there.
    pub(crate) fn ahead(known: Arc<Entry>, now: Now) -> Self {
        let least_life = known.life(now).unwrap_or_else(|| Duration::from_secs(known.ttl(now)));
        Self { stored: Reach::Any, least_life, known: Some(known), ..Self::NONE }
    }

    pub(super) fn is_polled(&self) -> bool {
        self.is_polled
    }

    fn take_none(&mut self) {
        *self = Self { is_polled: self.is_polled, ..Self::NONE };
    }
}

/// The outcome of a look at the other gateways.
pub(super) enum Elsewhere {
    /// Another gateway's answer.
    Found(Arc<Fetched>),
    /// Nobody waits any more.
    Left(NoAnswer),
    /// Snyk is to be asked; with a lead, for all gateways.
    Ask(Option<FleetLead>),
}

/// The lead of a flight of all gateways. It is renewed until it is dropped.
pub(super) struct FleetLead {
    shared: Shared,
    lead: Lead,
    _renewing: DropGuard,
}

impl FleetLead {
    fn new(shared: &Shared, lead: Lead, shutdown: &Shutdown) -> Self {
        let (ended, renewing, kept) = (CancellationToken::new(), shared.clone(), lead.clone());
        let until = ended.clone();
        shutdown.spawn(async move {
            until.run_until_cancelled(renewing.keep(&kept)).await;
        });
        Self { shared: shared.clone(), lead, _renewing: ended.drop_guard() }
    }

    /// Gives the result to the other gateways. True if it may be stored here: no purge has overtaken it, as far as is known.
    /// The answer that another value of the credential got than the one of the claim is not given to them.
    pub(super) async fn land(self, fetch: &Fetch, result: &FlightResult) -> bool {
        let (is_polled, now) = (fetch.sought.is_polled, fetch.retrieval.clock.now());
        let is_same = fetch.place().is_some_and(|(_, place)| self.lead.is_at(&place));
        let stored = result.as_ref().ok().and_then(|fetched| fetched.entry.as_ref());
        let portable = stored.and_then(|entry| entry.to_portable(now));
        let tag = stored.map(|entry| tag_of(entry)).unwrap_or_default();
        let answer =
            result.as_ref().ok().filter(|_| stored.is_none()).map(|fetched| portable_answer(fetched, now));
        let landing = match (&portable, &answer) {
            _ if !is_same => Landing::Failed,
            (Some(PortableEntry { bytes: value, fresh, life }), _) => {
                Landing::Entry { value, fresh: *fresh, life: *life, tag: &tag }
            }
            (None, Some(value)) => Landing::Answer { value, is_kept: is_polled },
            (None, None) if matches!(result, Err(NoAnswer { attempt: None, .. })) => Landing::Left,
            (None, None) => Landing::Failed,
        };
        let landed = self.shared.land(&self.lead, landing).await;
        landed.map_or(true, |landed| landed.is_ours || !landed.is_purged)
    }
}

fn portable_answer(fetched: &Fetched, now: Now) -> Vec<u8> {
    let answer = PortableAnswer {
        status: fetched.status,
        attempt: fetched.attempt,
        fields: fetched.fields.clone(),
        body: fetched.body.clone(),
        age: now.mono.saturating_duration_since(fetched.arrival.mono),
        initial_age: 0,
        signed_end: None,
        is_uncertain: false,
        is_unfinished: fetched.is_unfinished,
    };
    answer.to_bytes()
}

/// Names a stored response on the engine.
fn tag_of(entry: &Entry) -> String {
    entry.attempt.simple().to_string()
}

impl Fetch {
    /// Looks for an answer of another gateway, follows its flight, or leads one for all.
    pub(super) async fn look_elsewhere(&mut self) -> Elsewhere {
        let Some((shared, place)) = self.place() else { return Elsewhere::Ask(None) };
        if !self.leader.looks() {
            // It may have been joined by those who take no answer that was there before.
            self.sought.take_none();
        }
        let retrieval = Arc::clone(&self.retrieval);
        let (mut landings, mut since) = (shared.landings(), None);
        loop {
            match self.claim(&shared, &place, since).await {
                Some(Claimed::Lead(lead)) => {
                    return Elsewhere::Ask(Some(FleetLead::new(&shared, lead, &retrieval.shutdown)));
                }
                Some(Claimed::Entry(kept)) => {
                    if let Some(fetched) = self.take_entry(kept).await {
                        return Elsewhere::Found(fetched);
                    }
                    (self.sought.stored, since) = (Reach::Nothing, None);
                }
                Some(Claimed::Answer(kept)) => {
                    if let Some(fetched) = self.take_answer(kept).await {
                        return Elsewhere::Found(fetched);
                    }
                    (self.sought.others, since) = (Reach::Nothing, None);
                }
                Some(Claimed::Failed) => {
                    self.sought.take_none();
                    since = None;
                }
                Some(Claimed::Busy) if self.sought.known.take().is_some() => {
                    if self.leader.give_up() {
                        return Elsewhere::Left(Cause::Abandoned.into());
                    }
                    // Somebody has joined it by now.
                    (self.sought.follows, self.sought.least_life) = (true, Duration::ZERO);
                }
                None | Some(Claimed::Busy) => return Elsewhere::Ask(None),
                Some(Claimed::Wait(start)) => {
                    since = since.or(Some(start));
                    tokio::select! {
                        () = landings.next(&place) => {}
                        () = self.leader.given_up() => return Elsewhere::Left(Cause::Abandoned.into()),
                        () = retrieval.shutdown.over() => {
                            return Elsewhere::Left(Cause::Upstream(UpstreamErrorKind::Stopped).into());
                        }
                    }
                }
            }
        }
    }

    /// Completes the flight with another gateway's answer. It is on record there.
    pub(super) fn hand_on(mut self, fetched: Arc<Fetched>, purges: Purges) {
        if let Some((entry, key)) = fetched.entry.clone().zip(self.key) {
            self.retrieval.cache.store(&key, entry, purges);
        }
        let _ = self.leader.close();
        self.leader.complete(Ok(fetched));
    }

    /// Completes the flight without an answer.
    pub(super) async fn fail(self, lead: Option<FleetLead>, no_answer: NoAnswer) {
        let result = Err(no_answer);
        if let Some(lead) = lead {
            lead.land(&self, &result).await;
        }
        self.leader.complete(result);
    }

    /// The place of the question; `None` where its answer is not shared among gateways.
    fn place(&self) -> Option<(Shared, FlightPlace)> {
        let shared = self.retrieval.fleet.clone().filter(|_| self.key.is_some())?;
        let Question { call, credential, fields, .. } = &self.question;
        let export = call.operation.export().filter(|_| call.is_shared())?;
        // On other gateways a name may stand for another credential: what one may see is none of another's.
        let key = CacheKey::text(&self.retrieval.upstream_name, &credential.name, call, fields);
        let text = format!("{key}\n\n{:02x?}", credential.account());
        Some((shared, FlightPlace::of_export(call.scope.id.as_str(), export.as_str(), &text)))
    }

    async fn claim(
        &self,
        shared: &Shared,
        place: &FlightPlace,
        since: Option<FlightStart>,
    ) -> Option<Claimed> {
        let Sought { stored, others, least_life, follows, known, .. } = &self.sought;
        // Ages are measured before the call, so that they are the smaller ones.
        let now = self.retrieval.clock.now().mono;
        let known = known.as_deref().map(tag_of).unwrap_or_default();
        let (entry, answer) = (stored.age(now), others.age(now));
        let (least_life, follows) = (*least_life, *follows);
        shared.claim(place, FlightClaim { entry, answer, least_life, known: &known, since, follows }).await
    }

    /// Makes a stored response of another gateway's; `None` if it is of no use here.
    async fn take_entry(&self, kept: KeptValue) -> Option<Arc<Fetched>> {
        let Self { retrieval, asker, .. } = self;
        let KeptValue { value, asked, landed, fresh, life } = kept;
        let answer = PortableAnswer::of_bytes(value)?;
        let settings = retrieval.settings.load_full();
        if answer.body.len() > settings.cache.max_entry {
            return None;
        }
        let (body, room) = retrieval.upstream.hold(answer.body, &asker.client).await?;
        let (answer, times) = (PortableAnswer { body, ..answer }, PortedTimes { landed, fresh, life });
        let entry = Entry::of_portable(answer, room, times, retrieval.clock.now(), &settings.cache)?;
        let key = self.key.as_ref()?;
        let entry = Some(Arc::new(entry)).filter(|entry| retrieval.cache.has_room_for(key, entry))?;
        Some(Arc::new(Fetched {
            attempt: entry.attempt,
            trace: None,
            sending: None,
            taken: Some(Taken::Entry),
            asked,
            arrival: entry.arrival(),
            is_unfinished: false,
            status: entry.status,
            fields: entry.fields.clone(),
            body: entry.body.clone(),
            began: None,
            entry: Some(entry),
            not_stored: None,
        }))
    }

    /// The answer that another gateway got.
    async fn take_answer(&self, kept: KeptValue) -> Option<Arc<Fetched>> {
        let Self { retrieval, asker, .. } = self;
        let answer = PortableAnswer::of_bytes(kept.value)?;
        let (body, _) = retrieval.upstream.hold(answer.body, &asker.client).await?;
        let now = retrieval.clock.now();
        let age = now.mono.saturating_duration_since(kept.landed) + answer.age;
        let arrival = Now { wall: now.wall.checked_sub(age)?, mono: now.mono.checked_sub(age)? };
        Some(Arc::new(Fetched {
            attempt: answer.attempt,
            trace: None,
            sending: None,
            taken: Some(Taken::Flight),
            asked: kept.asked,
            arrival,
            is_unfinished: answer.is_unfinished,
            status: answer.status,
            fields: answer.fields,
            body,
            began: None,
            entry: None,
            not_stored: None,
        }))
    }
}
