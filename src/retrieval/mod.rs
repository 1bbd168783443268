//! Getting the answer to a question: from the cache, from a request in flight, or from Snyk.
//!
//! `Retrieval::get` is the one way in. Everything that sends a request to Snyk is behind it: admission, the attempt, its
//! verdict, its record, and the storing of the answer (`fetch`). Calls that are no export calls have a small path of their
//! own (`pass_through`), which shares admission, attempt and record (`attempt`).

mod answer;
mod attempt;
mod equal_starts;
mod fetch;
mod fields;
mod flights;
mod pass_through;
mod polls;
mod question;
mod reading;
mod record;
mod response_fields;
mod span;
mod starts;
mod try_result;
mod verdict;
mod waiting;

use std::future::ready;
use std::sync::Arc;

use arc_swap::ArcSwap;
use futures_util::future::Either;
use http::StatusCode;
use tokio::time::timeout_at;

use crate::access::Permit;
use crate::admission::{Admission, Resource};
use crate::cache::{self, Cache, CacheKey, Entry, NotStored};
use crate::clock::{Clock, Now};
use crate::journal::{Journal, OnFailure};
use crate::shared::Shared;
use crate::shutdown::Shutdown;
use crate::telemetry::metrics::Metrics;
use crate::telemetry::trace::Traces;
use crate::upstream::Upstream;

use fetch::{Fetch, FlightResult, Sought};
use flights::{Flights, Follower, Member, Role};
use polls::Pollers;
use waiting::Awaited;

pub(crate) use answer::{
    AnswerParts, Cause, EqualExport, Forward, ForwardReason, NoAnswer, Origin, Payload, RefusedStart,
    Retrieved, Sending, StartRefusal,
};
pub(crate) use equal_starts::ShareSettings;
pub(crate) use fields::{SNYK_REQUEST_ID, retry_after, text as response_text};
pub(crate) use pass_through::{PassThrough, Passed};
pub(crate) use question::{Asker, LinkUse, Question, Wait, Wanted};
pub(crate) use reading::aside;
pub(crate) use response_fields::{CACHE_STATUS, PLACEHOLDER, REQUEST_ID, describe_stored};
pub(crate) use span::{known_method, template};

/// The parts that retrieval works with.
#[derive(Debug, Clone)]
pub(crate) struct Parts {
    pub(crate) clock: Clock,
    pub(crate) admission: Admission,
    pub(crate) upstream: Upstream,
    pub(crate) journal: Journal,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) traces: Option<Traces>,
    pub(crate) shutdown: Shutdown,
    /// The engine of many gateways, where they share answers.
    pub(crate) fleet: Option<Shared>,
}

/// The settings that may change while it runs.
#[derive(Debug, Clone)]
pub(crate) struct RetrievalSettings {
    /// `[cache]`. `max_bytes` and `max_followers` stay as they are.
    pub(crate) cache: cache::Settings,
    /// `[starts]`.
    pub(crate) starts: ShareSettings,
    /// `journal.on_failure`.
    pub(crate) on_journal_failure: OnFailure,
}

/// Gets answers to questions.
#[derive(Debug)]
pub struct Retrieval {
    clock: Clock,
    admission: Admission,
    upstream: Upstream,
    upstream_name: Arc<str>,
    journal: Journal,
    metrics: Arc<Metrics>,
    traces: Option<Traces>,
    shutdown: Shutdown,
    fleet: Option<Shared>,
    cache: Cache,
    flights: Flights<FlightResult>,
    pollers: Pollers,
    settings: ArcSwap<RetrievalSettings>,
}

impl Retrieval {
    pub(crate) fn new(settings: RetrievalSettings, parts: Parts) -> Self {
        Self {
            upstream_name: parts.upstream.root().to_string().into(),
            clock: parts.clock,
            admission: parts.admission,
            upstream: parts.upstream,
            journal: parts.journal,
            metrics: parts.metrics,
            traces: parts.traces,
            shutdown: parts.shutdown,
            cache: Cache::new(&settings.cache),
            flights: Flights::new(settings.cache.max_followers, parts.fleet.is_some()),
            fleet: parts.fleet,
            pollers: Pollers::new(settings.cache.max_followers),
            settings: ArcSwap::from_pointee(settings),
        }
    }

    pub(crate) fn set(&self, settings: RetrievalSettings) {
        self.settings.store(Arc::new(settings));
    }

    pub(crate) fn cache(&self) -> Cache {
        self.cache.clone()
    }

    /// The number of clients that wait for answers in flight.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.flights.waiting()
    }

    /// The number of requests in the queue for Snyk.
    #[must_use]
    pub fn queued(&self) -> usize {
        self.admission.waiting()
    }

    /// True if `client` caused a request for this answer and has left it since: it still holds a place.
    pub(crate) fn was_left_by(&self, question: &Question, client: &Arc<str>) -> bool {
        question.call.is_shared() && self.flights.was_left_by(&question.key(&self.upstream_name), client)
    }

    /// Gets the answer to `question`, asked at `now`.
    ///
    /// # Errors
    /// [`NoAnswer`].
    pub(crate) fn get(
        self: &Arc<Self>,
        question: Question,
        asker: Asker,
        wanted: Wanted,
        now: Now,
    ) -> impl Future<Output = Result<Retrieved, NoAnswer>> + Send + use<> {
        // 1. Look it up.
        let miss = match self.look_up(&question, &asker, &wanted, now) {
            LookUp::Fresh { entry, key } => {
                if entry.wants_refresh(now) && self.settings.load().cache.refresh_ahead {
                    self.refresh_ahead(question, asker, key.into(), &entry);
                }
                return Either::Left(ready(Ok(Retrieved::fresh(entry, now))));
            }
            LookUp::Held(entry) => return Either::Left(ready(Ok(Retrieved::stale(entry, now, None)))),
            LookUp::Miss(miss) => miss,
        };
        // Boxed, so that the future of a hit stays small: it is moved about.
        let wait = wanted.wait.filter(|wait| {
            let is_told_now = !wait.is_asked && self.is_paused(&question, &asker);
            miss.may_end_later() && !is_told_now && !self.shutdown.is_announced()
        });
        Either::Right(match wait {
            Some(wait) => {
                let awaited = Awaited { question, asker, wanted, wait, now };
                Either::Left(Box::pin(Arc::clone(self).wait_for_end(awaited, miss)))
            }
            None => Either::Right(Box::pin(Arc::clone(self).ask(question, asker, wanted, miss))),
        })
    }

    /// Looks for a stored response. Starts are never stored here; `no-store` goes round what is.
    fn look_up(&self, question: &Question, asker: &Asker, wanted: &Wanted, now: Now) -> LookUp {
        let miss = |reason, key: Option<String>| Miss { reason, key: key.map(CacheKey::from), stale: None };
        if question.is_start() {
            return LookUp::Miss(miss(ForwardReason::Method, None));
        }
        if wanted.directives.no_store {
            return LookUp::Miss(miss(ForwardReason::Request, None));
        }
        let key = question.key(&self.upstream_name);
        match self.cache.find(&key) {
            None => LookUp::Miss(miss(ForwardReason::UriMiss, Some(key))),
            Some(entry) if entry.is_fresh(now) => {
                if wanted.takes(&entry, now) {
                    return LookUp::Fresh { entry, key };
                }
                LookUp::Miss(miss(ForwardReason::Request, Some(key)))
            }
            Some(entry) => {
                // It is of use past its freshness while Snyk cannot be asked, if its links live.
                let stale = Some(entry).filter(|entry| entry.links_live(now) && wanted.takes(entry, now));
                match stale {
                    Some(entry) if wanted.uses_links_here() || self.is_paused(question, asker) => {
                        LookUp::Held(entry)
                    }
                    stale => LookUp::Miss(Miss { stale, ..miss(ForwardReason::Stale, Some(key)) }),
                }
            }
        }
    }

    /// True if Snyk is not asked this at the moment.
    fn is_paused(&self, question: &Question, asker: &Asker) -> bool {
        self.admission.is_paused(&question.lane(), &Resource::from(&question.call), &asker.client)
    }

    /// Gets an answer that the cache does not have.
    async fn ask(
        self: Arc<Self>,
        question: Question,
        asker: Asker,
        wanted: Wanted,
        miss: Miss,
    ) -> Result<Retrieved, NoAnswer> {
        if question.is_start() {
            self.refuse_unrecorded()?;
            return self.start(question, asker, wanted).await;
        }
        if wanted.directives.only_if_cached {
            return Err(Cause::OnlyIfCached.into());
        }
        self.refuse_unrecorded()?;
        let Miss { reason, key, stale } = miss;
        // The asker's permit is held until the answer is there, and by the fetch until that has ended.
        let asker = Arc::new(asker);
        let mut is_asked_again = false;
        loop {
            // 2. Collapse: the first to ask has it fetched, everybody waits for it.
            let joined = self.clock.now();
            let role = match &key {
                None => Role::alone(Member::Client(asker.member())),
                Some(key) => {
                    let usable = |entry: &Arc<Entry>| wanted.is_met_by(entry, joined);
                    let stored = || self.cache.find(key.as_str()).filter(usable);
                    match self.flights.join(key, Member::Client(asker.member()), wanted.newness(), stored) {
                        Ok(role) => role,
                        Err(entry) => return Ok(Retrieved::fresh(entry, joined)),
                    }
                }
            };

            // 3. Fetch: a task of its own, so that no client can cancel it.
            let flight = role.follow(|leader| {
                let (retrieval, asker) = (Arc::clone(&self), Arc::clone(&asker));
                let (question, key, sought) =
                    (question.clone(), key.clone(), Sought::of(&wanted, joined.mono));
                let fetch = Fetch { retrieval, question, asker, key, start: None, sought, leader };
                self.shutdown.spawn(fetch.run());
            });
            let (follower, is_collapsed) = flight.ok_or(Cause::TooManyFollowers)?;

            // 4. Wait for the result. Another gateway's may have come there just before this client had asked.
            let result = wait(follower, &asker).await;
            if !is_asked_again && result.as_ref().is_ok_and(|fetched| fetched.was_there_before(joined)) {
                is_asked_again = true;
                continue;
            }
            // A stored response is better than Snyk's trouble (RFC 5861 §4). The try took its time; the links must live still.
            let now = self.clock.now();
            if let Some(entry) = stale.filter(|entry| is_no_use(&result) && entry.links_live(now)) {
                return Ok(Retrieved::stale(entry, now, Some("stale-if-error")));
            }
            let forward = Forward::new(reason, is_collapsed);
            return match result {
                Ok(fetched) => Ok(Retrieved::of_flight(fetched, forward, now)),
                Err(no_answer) => Err(NoAnswer { forward: Some(forward), ..no_answer }),
            };
        }
    }

    /// Fetches an entry again ahead of its end, once for all its readers, so that none of them waits for it. It is
    /// nobody's request: it takes no place of the reader's.
    fn refresh_ahead(self: &Arc<Self>, question: Question, asker: Asker, key: CacheKey, entry: &Arc<Entry>) {
        // An answer that may not leave is not worth asking for.
        if self.refuse_unrecorded().is_ok()
            && let Some(leader) = self.flights.lead_ahead(&key)
        {
            let asker = Arc::new(Asker { permit: Permit::unlimited(), sent_id: None, ..asker });
            let (retrieval, key) = (Arc::clone(self), Some(key));
            let sought = Sought::ahead(Arc::clone(entry), self.clock.now());
            let fetch = Fetch { retrieval, question, asker, key, start: None, sought, leader };
            self.shutdown.spawn(fetch.run());
        }
    }

    /// Counts a finished export that is not stored, and says once for each reason what to do about it.
    fn count_not_stored(&self, why: NotStored) -> Option<&'static str> {
        let reason = why.reason()?;
        if self.metrics.not_stored(reason) {
            tracing::warn!(
                cache.not_stored = reason,
                "answer not cached; {} (logged once for each reason)",
                why.remedy()
            );
        }
        Some(reason)
    }

    /// With `journal.on_failure = "refuse"`, nothing goes upstream that could not be recorded.
    pub(crate) fn refuse_unrecorded(&self) -> Result<(), NoAnswer> {
        let refuses =
            self.settings.load().on_journal_failure == OnFailure::Refuse && self.journal.is_failing();
        if refuses { Err(Cause::Journal.into()) } else { Ok(()) }
    }
}

/// Waits for the result of a flight, as long as the asker does.
async fn wait(follower: Follower<FlightResult>, asker: &Asker) -> FlightResult {
    let result = timeout_at(asker.deadline, follower.result(asker.half_closed.cancelled())).await;
    result.map_err(|_| Cause::Deadline)?.ok_or(Cause::Internal)?
}

/// True if Snyk could not be asked, or gave nothing but its trouble.
fn is_no_use(result: &FlightResult) -> bool {
    match result {
        Ok(fetched) => fetched.status.is_server_error() || fetched.status == StatusCode::TOO_MANY_REQUESTS,
        Err(no_answer) => no_answer.cause.is_about_snyk(),
    }
}

/// The outcome of a look-up.
enum LookUp {
    /// A fresh stored response.
    Fresh { entry: Arc<Entry>, key: String },
    /// One past its freshness, while Snyk cannot be asked.
    Held(Arc<Entry>),
    /// Neither.
    Miss(Miss),
}

/// A question that the cache does not answer.
struct Miss {
    reason: ForwardReason,
    /// The key under which its answer may be shared.
    key: Option<CacheKey>,
    /// A stored response past its freshness, of use if Snyk gives nothing better.
    stale: Option<Arc<Entry>>,
}

impl Miss {
    /// True if the answer may be shared, and nothing says that the export has ended.
    fn may_end_later(&self) -> bool {
        self.key.is_some() && self.stale.is_none()
    }
}
