//! A question to Snyk, its asker, and the answers that the asker takes. None of them needs a client's HTTP request.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue};
use tokio::time::Instant as Deadline;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::access::Permit;
use crate::admission::{Api, CallKind, Candidate, Lane};
use crate::cache::{CacheKey, Directives, Entry};
use crate::clock::Now;
use crate::credential::Credential;
use crate::export::{ExportCall, Operation};
use crate::journal::Served;
use crate::telemetry::trace::Trace;

/// A question: all that decides the answer, and nothing else. Of a read, it is the cache key (decision 0001).
#[derive(Debug, Clone)]
pub(crate) struct Question {
    /// The call.
    pub(crate) call: ExportCall,
    /// The credential to present.
    pub(crate) credential: Arc<Credential>,
    /// Fields that go up besides our own.
    pub(crate) fields: HeaderMap,
    /// The body of a start.
    pub(crate) body: Bytes,
}

impl Question {
    /// The text of its cache key, at `upstream`.
    pub(super) fn key(&self, upstream: &str) -> String {
        CacheKey::text(upstream, &self.credential.cache_name, &self.call, &self.fields)
    }

    pub(super) fn is_start(&self) -> bool {
        self.call.operation == Operation::Start
    }

    pub(super) fn kind(&self) -> CallKind {
        if self.is_start() { CallKind::Start } else { CallKind::Read }
    }

    pub(super) fn lane(&self) -> Lane {
        Lane { credential: Arc::clone(&self.credential.name), api: Api::Rest }
    }
}

/// The one who asks. It decides nothing about the answer of a shared question, but for `Via` and the request id.
#[derive(Debug)]
pub(crate) struct Asker {
    /// Names its request.
    pub(crate) request: Uuid,
    /// Its name.
    pub(crate) client: Arc<str>,
    /// Its share, where sending is short.
    pub(crate) share: u32,
    /// Its place among the requests of its client, held until the request and what it caused have ended.
    pub(crate) permit: Permit,
    /// The end of its wait.
    pub(crate) deadline: Deadline,
    /// Cancelled when it has closed its half of the connection.
    pub(crate) half_closed: CancellationToken,
    /// The `snyk-request-id` to send, if it chose one.
    pub(crate) sent_id: Option<Uuid>,
    /// The `Via` to send.
    pub(crate) via: HeaderValue,
    /// The place of its request in a trace, if that is traced.
    pub(crate) trace: Option<Trace>,
}

impl Asker {
    pub(super) fn member(&self) -> Served {
        Served { request: self.request, client: Arc::clone(&self.client) }
    }

    /// The asker of a later read: it is nobody's request, and takes no place of the client's.
    pub(crate) fn later(&self, deadline: Deadline) -> Self {
        Self {
            request: self.request,
            client: Arc::clone(&self.client),
            share: self.share,
            permit: Permit::unlimited(),
            deadline,
            half_closed: CancellationToken::new(),
            sent_id: None,
            via: self.via.clone(),
            trace: self.trace.clone(),
        }
    }

    /// Its request for admission. `start` is the scope of a start.
    pub(super) fn candidate(&self, start: Option<Arc<str>>) -> Candidate {
        Candidate {
            client: Arc::clone(&self.client),
            weight: self.share,
            start,
            deadline: self.deadline.into_std(),
            is_put_back: false,
        }
    }
}

/// The answers that an asker takes: by default any.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Wanted {
    /// The directives of a client's request (RFC 9111 §5.2.1).
    pub(crate) directives: Directives,
    pub(crate) links: LinkUse,
    /// To be answered when the export has ended.
    pub(crate) wait: Option<Wait>,
}

/// The wish to wait for the end of an export.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Wait {
    /// The end of the wait.
    pub(crate) until: Instant,
    /// True if the client asked for it. Else it waits on an unfinished answer alone.
    pub(crate) is_asked: bool,
}

/// The use of the links in an answer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum LinkUse {
    /// They leave, so that they must live as long as `cache.link_margin` has it: the answer must be fresh.
    #[default]
    Leave,
    /// They are used here and now: a stored answer is good, fresh or not, while they live a minute more.
    Here {
        /// The arrival of the answer whose links were refused: another is wanted.
        newer_than: Option<Instant>,
    },
}

/// The age of the answers that an asker takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Newness {
    /// Any, of those that may be stored.
    Any,
    /// Not any.
    Particular,
    /// It is to be made after the question.
    Anew,
}

impl Wanted {
    /// True if `entry`, fresh or not, is an answer that it takes.
    pub(super) fn takes(&self, entry: &Entry, now: Now) -> bool {
        let is_new = match self.links {
            LinkUse::Here { newer_than: Some(held) } => entry.arrival().mono > held,
            LinkUse::Here { newer_than: None } | LinkUse::Leave => true,
        };
        is_new && entry.satisfies(&self.directives, now)
    }

    /// True if `entry` answers it without Snyk.
    pub(super) fn is_met_by(&self, entry: &Entry, now: Now) -> bool {
        (entry.is_fresh(now) || self.uses_links_here() && entry.links_live(now)) && self.takes(entry, now)
    }

    pub(super) fn uses_links_here(&self) -> bool {
        self.links != LinkUse::Leave
    }

    /// The age of the answers that it takes.
    pub(super) fn newness(&self) -> Newness {
        let Directives { max_age, min_fresh, .. } = self.directives;
        if self.is_revalidated() {
            Newness::Anew
        } else if max_age.is_some() || min_fresh.is_some() || self.links_are_renewed() {
            Newness::Particular
        } else {
            Newness::Any
        }
    }

    /// True if links were refused, and newer ones are wanted.
    fn links_are_renewed(&self) -> bool {
        matches!(self.links, LinkUse::Here { newer_than: Some(_) })
    }

    /// True if the answer must be made after it was asked for.
    pub(super) fn is_revalidated(&self) -> bool {
        self.directives.no_cache || self.directives.max_age == Some(0)
    }
}
