//! The stored exports, and the search for request ids.

use std::sync::Arc;
use std::time::Duration;

use http::{Response, StatusCode};

use super::answer::{AdminRefusal, BUSY, PLAIN_TEXT, json_answer, whole};
use super::report::{ExportReport, ExportsReport, FoundReport};
use super::{Admin, time};
use crate::cache::StoredResponse;
use crate::clock::Now;
use crate::journal::{self, Query, moment};
use crate::transport::Body;

/// Highest `limit`.
const MOST: u32 = 1_000;
/// Longest time of a search in the journal.
const LONGEST: Duration = Duration::from_secs(5);
/// Default `limit` of stored exports.
const EXPORTS: u32 = 200;
/// Default `limit` of requests.
const REQUESTS: u32 = 50;

const BAD_LIMIT: AdminRefusal =
    AdminRefusal::bad_query("limit is not valid", "limit must be a number from 1 to 1000.");
const BAD_STATUS: AdminRefusal = AdminRefusal::bad_query(
    "status is not valid",
    "status must be a status such as 404, a class such as 5xx, or error.",
);
const BAD_TIME: AdminRefusal = AdminRefusal::bad_query(
    "since or until is not valid",
    "Use a UTC time such as 2026-02-12T20:00:00Z, or a distance such as 2h.",
);
const UNKNOWN: AdminRefusal = AdminRefusal::bad_query(
    "A parameter is unknown, or given twice",
    "GET /api/openapi.json lists the parameters.",
);
const NO_JOURNAL: AdminRefusal = AdminRefusal::new(
    StatusCode::SERVICE_UNAVAILABLE,
    "journal_unreadable",
    "The journal cannot be read, or not in time",
    "Search for less, with an id or a shorter time; or see the log of the gateway and journal.path.",
);

impl Admin {
    /// Runs a search of cache or journal on a blocking thread, a few at a time: it must not delay requests of clients.
    async fn search<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, AdminRefusal> {
        let one = Arc::clone(&self.searches).try_acquire_owned().map_err(|_| BUSY)?;
        let search = move || {
            // Kept until the work has ended, even if nobody waits for it any more.
            let _one = one;
            work()
        };
        tokio::task::spawn_blocking(search).await.map_err(|_| BUSY)
    }

    pub(super) async fn stored(&self, query: &str) -> Result<ExportsReport, AdminRefusal> {
        let mut limit = EXPORTS;
        for (name, value) in form_urlencoded::parse(query.as_bytes()) {
            match &*name {
                "limit" => limit = parse_limit(&value)?,
                _ => return Err(UNKNOWN),
            }
        }
        let (cache, now) = (self.views.retrieval.cache(), self.now());
        let stored = self.search(move || cache.stored()).await?;
        let exports = stored.iter().take(limit as usize).map(|stored| export(stored, now)).collect();
        Ok(ExportsReport { total: stored.len(), exports, named: self.named() })
    }

    /// Requests to Snyk, or the text about them for Snyk's support.
    pub(super) async fn requests(&self, query: &str) -> Result<Response<Body>, AdminRefusal> {
        let (wanted, as_text) = self.parse(query)?;
        let found = self.found(wanted).await?;
        if as_text {
            let note = found.note.map(|note| format!("({note})\n")).unwrap_or_default();
            let text = format!("{note}{}", journal::support(&found.requests));
            return Ok(whole(StatusCode::OK, PLAIN_TEXT, text));
        }
        Ok(json_answer(&found))
    }

    /// Asks the database of many gateways where there is one, and else the file, also where the database does not answer.
    async fn found(&self, wanted: Query) -> Result<FoundReport, AdminRefusal> {
        let mut note = None;
        if let Some(ship) = &self.views.journal.ship {
            let _one = self.searches.try_acquire().map_err(|_| BUSY)?;
            match journal::find_shipped(ship, &wanted).await {
                Ok(requests) => return Ok(FoundReport { requests, searched: "database", note }),
                Err(error) => {
                    tracing::warn!(%error, "journal search in the {ship} failed; searching the file");
                    note = Some(format!(
                        "The {ship} was not searched ({error}): these are the records of this gateway alone."
                    ));
                }
            }
        }
        let path = self.views.journal.path.clone();
        let found = self.search(move || journal::find(&path, &wanted)).await?;
        let requests = found.map_err(|error| {
            tracing::warn!(error = crate::error_text::error_text(&error), "journal search failed");
            NO_JOURNAL
        })?;
        Ok(FoundReport { requests, searched: "file", note })
    }

    fn parse(&self, query: &str) -> Result<(Query, bool), AdminRefusal> {
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

fn export(StoredResponse { call, query, credential, entry }: &StoredResponse, now: Now) -> ExportReport {
    ExportReport {
        operation: call.operation.as_str().to_owned(),
        scope_kind: call.scope.kind.as_str().to_owned(),
        scope_id: call.scope.id.as_str().to_owned(),
        export_id: call.operation.export().map_or_else(String::new, |id| id.as_str().to_owned()),
        query: query.clone(),
        credential: credential.clone(),
        stored: time(entry.received()),
        age_s: entry.age(now),
        fresh_for_s: entry.ttl(now),
        links_end: entry.links_end().map(time).filter(|end| !end.is_empty()),
        hits: entry.hits(),
        bytes: entry.body.len() as u64,
    }
}

fn parse_limit(text: &str) -> Result<u32, AdminRefusal> {
    text.parse().ok().filter(|limit| (1..=MOST).contains(limit)).ok_or(BAD_LIMIT)
}
