//! What is stored, and the search for request ids.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http::{Response, StatusCode};
use serde_json::{Value, json};

use super::{Admin, BUSY, Refusal, json_answer, refusal, time, whole};
use crate::export::Id;
use crate::journal::{self, Query, moment};
use crate::transport::Body;

/// Most entries or records of one answer.
const MOST: u32 = 1_000;
/// Longest that a search in the journal may take.
const LONGEST: Duration = Duration::from_secs(5);
/// Entries of an answer, where nothing is said.
const EXPORTS: u32 = 200;
/// Records of an answer, where nothing is said.
const REQUESTS: u32 = 50;

const BAD_LIMIT: Refusal = refusal(
    StatusCode::BAD_REQUEST,
    "bad_query",
    "limit is not valid",
    "limit must be a number from 1 to 1000.",
);
const BAD_STATUS: Refusal = refusal(
    StatusCode::BAD_REQUEST,
    "bad_query",
    "status is not valid",
    "status must be a status such as 404, a class such as 5xx, or error.",
);
const BAD_TIME: Refusal = refusal(
    StatusCode::BAD_REQUEST,
    "bad_query",
    "since or until is not valid",
    "Use a UTC time such as 2026-02-12T20:00:00Z, or a distance such as 2h.",
);
const UNKNOWN: Refusal = refusal(
    StatusCode::BAD_REQUEST,
    "bad_query",
    "There is no such parameter, or it is given twice",
    "GET /api/openapi.json lists the parameters.",
);
const NO_JOURNAL: Refusal = refusal(
    StatusCode::SERVICE_UNAVAILABLE,
    "journal_unreadable",
    "The journal cannot be read, or not in time",
    "Look for less, with an id or a shorter time; or see the log of the gateway and journal.path.",
);

impl Admin {
    /// Looks at all that is stored, or at the journal: one of few at the same time, and never where requests are
    /// served.
    async fn search<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Refusal> {
        let one = Arc::clone(&self.searches).try_acquire_owned().map_err(|_| BUSY)?;
        let search = move || {
            // Kept until the work has ended, also where nobody waits for it any more.
            let _one = one;
            work()
        };
        tokio::task::spawn_blocking(search).await.map_err(|_| BUSY)
    }

    /// Forgets an export, or everything; how many entries went.
    pub(super) async fn purge(
        &self,
        what: Option<(Id, Id)>,
        by: Option<SocketAddr>,
    ) -> Result<usize, Refusal> {
        let cache = self.views.cache.clone();
        let work = move || {
            let purged = match &what {
                Some((scope, export)) => cache.purge(scope, export),
                None => cache.purge_all(),
            };
            tracing::info!(
                target: "exportgate::admin",
                {
                purged,
                export.scope.id = what.as_ref().map(|(scope, _)| scope.as_str()),
                export.id = what.as_ref().map(|(_, export)| export.as_str()),
                client.address = by.map(|address| tracing::field::display(address.ip()))
                },
                "stored responses were purged"
            );
            purged
        };
        tokio::task::spawn_blocking(work).await.map_err(|_| BUSY)
    }

    /// What is stored.
    pub(super) async fn stored(&self, query: &str) -> Result<Value, Refusal> {
        let mut limit = EXPORTS;
        for (name, value) in form_urlencoded::parse(query.as_bytes()) {
            match &*name {
                "limit" => limit = parse_limit(&value)?,
                _ => return Err(UNKNOWN),
            }
        }
        let (cache, now) = (self.views.cache.clone(), self.now());
        let stored = self.search(move || cache.stored(now)).await?;
        let exports: Vec<Value> = stored
            .iter()
            .take(limit as usize)
            .map(|one| {
                json!({
                    "operation": one.operation,
                    "scope_kind": one.scope_kind.as_str(),
                    "scope_id": one.scope_id,
                    "export_id": one.export_id,
                    "query": one.query,
                    "credential": one.credential,
                    "stored": time(one.stored),
                    "age_s": one.age.as_secs(),
                    "fresh_for_s": one.fresh_for.as_secs(),
                    "links_end": one.links_end.map(time),
                    "hits": one.hits,
                    "bytes": one.bytes,
                })
            })
            .collect();
        Ok(json!({ "total": stored.len(), "exports": exports }))
    }

    /// Requests to Snyk, or the text about them for Snyk's support.
    pub(super) async fn requests(&self, query: &str) -> Result<Response<Body>, Refusal> {
        let (wanted, as_text) = self.parse(query)?;
        let path = self.views.journal_path.clone();
        let found = self.search(move || journal::find(&path, &wanted)).await?;
        let rows = found.map_err(|error| {
            tracing::warn!(error = crate::chain::chain(&error), "the journal cannot be searched");
            NO_JOURNAL
        })?;
        if as_text {
            return Ok(whole(StatusCode::OK, "text/plain; charset=utf-8", journal::support(&rows)));
        }
        Ok(json_answer(&json!({ "requests": rows })))
    }

    fn parse(&self, query: &str) -> Result<(Query, bool), Refusal> {
        let now = self.now().wall;
        let mut wanted = Query { limit: REQUESTS, within: Some(LONGEST), ..Query::default() };
        let mut as_text = false;
        let mut seen = Vec::new();
        for (name, value) in form_urlencoded::parse(query.as_bytes()) {
            if seen.contains(&name) {
                return Err(UNKNOWN);
            }
            let some = || Some(value.to_string()).filter(|text| !text.is_empty());
            let at = || some().map(|text| moment(&text, now).map_err(|_| BAD_TIME)).transpose();
            match &*name {
                "export" => wanted.export = some(),
                "org" => wanted.org = some(),
                "group" => wanted.group = some(),
                "client" => wanted.client = some(),
                "id" => wanted.id = some(),
                "status" => {
                    wanted.status = some().map(|text| text.parse().map_err(|_| BAD_STATUS)).transpose()?;
                }
                "since" => wanted.since = at()?,
                "until" => wanted.until = at()?,
                "limit" => wanted.limit = parse_limit(&value)?,
                "format" if value == "json" || value == "support" => as_text = value == "support",
                _ => return Err(UNKNOWN),
            }
            seen.push(name);
        }
        Ok((wanted, as_text))
    }
}

fn parse_limit(text: &str) -> Result<u32, Refusal> {
    text.parse().ok().filter(|limit| (1..=MOST).contains(limit)).ok_or(BAD_LIMIT)
}
