//! Answers to questions: their origin, or the cause that there is none.

use std::error::Error;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use uuid::Uuid;

use crate::admission::AdmissionRefusal;
use crate::cache::Entry;
use crate::clock::Now;
use crate::credential::Unavailable;
use crate::export::Id;
use crate::journal::Attempt;
use crate::telemetry::trace::Trace;
use crate::upstream::{UpstreamError, UpstreamErrorKind};

/// An answer with its origin.
#[derive(Debug)]
pub(crate) struct Retrieved {
    pub(crate) origin: Origin,
    pub(crate) answer: Payload,
    /// Advice to whoever asked for a start that Snyk refused.
    pub(crate) refused: Option<Arc<RefusedStart>>,
    /// True if the end of the export was waited for.
    pub(crate) is_waited: bool,
}

/// The answer itself.
#[derive(Debug)]
pub(crate) enum Payload {
    /// A stored response.
    Stored(Arc<Entry>),
    /// An answer of Snyk's, shared by all followers of its flight.
    Fetched(Arc<Fetched>),
}

impl Retrieved {
    /// A stored response that is fresh at `now`.
    pub(super) fn fresh(entry: Arc<Entry>, now: Now) -> Self {
        Self::fresh_of(entry, now, false)
    }

    fn fresh_of(entry: Arc<Entry>, now: Now, is_taken: bool) -> Self {
        let (ttl, age, is_uncertain) = (entry.ttl(now), entry.age(now), entry.is_uncertain());
        Self::stored(entry, Origin::Fresh { ttl, age, is_uncertain, is_taken })
    }

    /// The result of a flight: Snyk's answer, or a stored response of another gateway.
    pub(super) fn of_flight(fetched: Arc<Fetched>, forward: Forward, now: Now) -> Self {
        match (&fetched.taken, &fetched.entry) {
            (Some(Taken::Entry), Some(entry)) => Self::fresh_of(Arc::clone(entry), now, true),
            (Some(Taken::Flight), _) => {
                Self::fetched(fetched, Forward { is_collapsed: true, is_taken: true, ..forward })
            }
            (Some(Taken::Entry) | None, _) => Self::fetched(fetched, forward),
        }
    }

    /// A stored response past its freshness; with `detail`, after asking failed.
    pub(super) fn stale(entry: Arc<Entry>, now: Now, detail: Option<&'static str>) -> Self {
        let (seconds, age) = (entry.stale_for(now), entry.age(now));
        Self::stored(entry, Origin::Stale { seconds, age, detail })
    }

    /// Its status, its fields and its body, as Snyk gave them.
    pub(crate) fn parts(&self) -> AnswerParts<'_> {
        match &self.answer {
            Payload::Stored(entry) => AnswerParts {
                status: entry.status,
                fields: &entry.fields,
                body: &entry.body,
                arrival: entry.arrival(),
                attempt: entry.attempt,
            },
            Payload::Fetched(fetched) => AnswerParts {
                status: fetched.status,
                fields: &fetched.fields,
                body: &fetched.body,
                arrival: fetched.arrival,
                attempt: fetched.attempt,
            },
        }
    }

    fn stored(entry: Arc<Entry>, origin: Origin) -> Self {
        entry.count_hit();
        Self { origin, answer: Payload::Stored(entry), refused: None, is_waited: false }
    }

    pub(super) fn fetched(fetched: Arc<Fetched>, forward: Forward) -> Self {
        let Fetched { status, entry, not_stored, .. } = &*fetched;
        let forward =
            Forward { status: Some(*status), is_stored: entry.is_some(), not_stored: *not_stored, ..forward };
        let answer = Payload::Fetched(fetched);
        Self { origin: Origin::Upstream(forward), answer, refused: None, is_waited: false }
    }
}

/// An answer, wherever it came from.
#[derive(Debug, Clone, Copy)]
pub(crate) struct AnswerParts<'a> {
    pub(crate) status: StatusCode,
    pub(crate) fields: &'a HeaderMap,
    pub(crate) body: &'a Bytes,
    pub(crate) arrival: Now,
    /// The attempt that brought it.
    pub(crate) attempt: Uuid,
}

/// The origin of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Origin {
    /// The cache.
    Fresh {
        /// Seconds of freshness left.
        ttl: u64,
        /// Its `Age`.
        age: u64,
        /// True if the end of its links is not certain.
        is_uncertain: bool,
        /// True if it came from another gateway for this request.
        is_taken: bool,
    },
    /// The cache, past the freshness.
    Stale {
        /// Seconds past it.
        seconds: u64,
        /// Its `Age`.
        age: u64,
        /// The reason, if Snyk was asked.
        detail: Option<&'static str>,
    },
    /// An equal start on record.
    SharedStart {
        /// Its `Age`.
        age: u64,
        /// The refusal that it stands in for.
        refusal: Option<StartRefusal>,
    },
    /// Snyk.
    Upstream(Forward),
}

/// The refusal of a start that an equal one stands in for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum StartRefusal {
    /// By admission: Snyk was not asked.
    Held,
    /// By Snyk's 429.
    BySnyk,
}

/// Advice to whoever cannot start an export now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RefusedStart {
    /// The newest equal export.
    pub(crate) equal: Option<EqualExport>,
    /// Time left of the backoff, if there is one: it is said where Snyk does not say it.
    pub(crate) retry_after: Option<Duration>,
}

/// An export that an equal start has begun.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct EqualExport {
    pub(crate) id: String,
    pub(crate) made: SystemTime,
}

/// The way of a request to Snyk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Forward {
    /// The reason that the cache did not answer.
    pub(crate) reason: ForwardReason,
    /// True if another asker's request fetched the answer.
    pub(crate) is_collapsed: bool,
    /// Snyk's status, if it gave one.
    pub(crate) status: Option<StatusCode>,
    /// True if the answer was stored.
    pub(crate) is_stored: bool,
    /// The reason that a finished export was not stored.
    pub(crate) not_stored: Option<&'static str>,
    /// True if another gateway's request fetched the answer.
    pub(crate) is_taken: bool,
}

impl Forward {
    /// A request that has no answer yet.
    pub(super) const fn new(reason: ForwardReason, is_collapsed: bool) -> Self {
        Self { reason, is_collapsed, status: None, is_stored: false, not_stored: None, is_taken: false }
    }
}

/// The reason that a request went upstream (the `fwd` parameter, RFC 9211 §2.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ForwardReason {
    /// Nothing is stored for it.
    UriMiss,
    /// The stored response is not fresh.
    Stale,
    /// The stored response is fresh, but the client's directives forbid it.
    Request,
    /// It is none of the calls that are stored.
    Bypass,
    /// It is no GET.
    Method,
}

impl ForwardReason {
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::UriMiss => "uri-miss",
            Self::Stale => "stale",
            Self::Request => "request",
            Self::Bypass => "bypass",
            Self::Method => "method",
        }
    }
}

/// An answer of Snyk's.
#[derive(Debug)]
pub(crate) struct Fetched {
    /// The attempt that brought it.
    pub(crate) attempt: Uuid,
    /// The place of that attempt in a trace.
    pub(crate) trace: Option<Trace>,
    /// The way that it was sent; `None` if it is a start that was on record, or another gateway's.
    pub(crate) sending: Option<Sending>,
    /// The way that it came from another gateway, if it did.
    pub(crate) taken: Option<Taken>,
    /// The time at which Snyk was asked.
    pub(crate) asked: Instant,
    pub(crate) arrival: Now,
    /// True if it says that the export goes on.
    pub(crate) is_unfinished: bool,
    pub(crate) status: StatusCode,
    /// Its end-to-end fields.
    pub(crate) fields: HeaderMap,
    pub(crate) body: Bytes,
    /// The export that it began, if it is the answer to a start.
    pub(crate) began: Option<Id>,
    /// The stored response that was made of it.
    pub(crate) entry: Option<Arc<Entry>>,
    /// The reason that a finished export was not stored.
    pub(crate) not_stored: Option<&'static str>,
}

impl Fetched {
    /// True if another gateway had it at `now`, and it is not one that is stored.
    pub(super) fn was_there_before(&self, now: Now) -> bool {
        self.taken == Some(Taken::Flight) && self.arrival.mono < now.mono
    }
}

/// The way of an answer from another gateway.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Taken {
    /// It was stored.
    Entry,
    /// It was fetched, for those who followed or polled.
    Flight,
}

/// The last try of a request.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sending {
    /// Its number, from 1.
    pub(crate) tries: u32,
    /// Its time in the queue.
    pub(crate) queued: Duration,
    /// The reason that it was queued.
    pub(crate) waited_for: Option<&'static str>,
}

impl Sending {
    pub(super) const fn of(attempt: &Attempt) -> Self {
        Self { tries: attempt.number, queued: attempt.queued, waited_for: attempt.waited_for }
    }
}

/// A question without an answer.
#[derive(Debug, Clone)]
pub(crate) struct NoAnswer {
    pub(crate) cause: Cause,
    /// The error of a library; for the log only.
    pub(crate) source: Option<Arc<dyn Error + Send + Sync>>,
    /// The attempt that failed, if one was made.
    pub(crate) attempt: Option<Uuid>,
    /// The way that was tried, if Snyk was to be asked.
    pub(crate) forward: Option<Forward>,
    /// Advice to whoever asked for a start that is held.
    pub(crate) refused: Option<Arc<RefusedStart>>,
    /// True if the end of the export was waited for.
    pub(crate) is_waited: bool,
}

/// The cause that there is no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cause {
    /// `only-if-cached`, and nothing fresh is stored.
    OnlyIfCached,
    /// `cache.max_followers` wait for this answer already.
    TooManyFollowers,
    /// The asker's deadline passed.
    Deadline,
    /// The journal cannot be written and `journal.on_failure` is `refuse`.
    Journal,
    /// There is nothing to present to Snyk.
    Unavailable(Unavailable),
    /// Snyk refused the credential.
    CredentialRejected,
    /// The upstream's answer holds our credential.
    Echo,
    /// Admission refused the request, so that Snyk is spared.
    NotAdmitted(AdmissionRefusal),
    /// All askers have left, or may have: they closed their half of the connection.
    Abandoned,
    /// The upstream gave no whole answer.
    Upstream(UpstreamErrorKind),
    /// A stop ended the wait for the end of an export before its first answer came.
    Stopping,
    /// A fault of our own.
    Internal,
}

impl Cause {
    /// True if Snyk, or our way to it, is in trouble.
    pub(super) const fn is_about_snyk(self) -> bool {
        matches!(
            self,
            Self::NotAdmitted(_)
                | Self::Upstream(_)
                | Self::Unavailable(_)
                | Self::CredentialRejected
                | Self::Deadline
        )
    }
}

impl From<Cause> for NoAnswer {
    fn from(cause: Cause) -> Self {
        Self { cause, source: None, attempt: None, forward: None, refused: None, is_waited: false }
    }
}

impl From<UpstreamError> for NoAnswer {
    fn from(failed: UpstreamError) -> Self {
        Self { source: failed.source.map(Arc::from), ..Cause::Upstream(failed.kind).into() }
    }
}
