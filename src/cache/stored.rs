//! The list of stored responses, as an operator may see it.

use std::time::{Duration, SystemTime};

use super::{CacheKey, Entry};
use crate::clock::Now;
use crate::export::{ExportCall, ScopeKind};

/// One stored response. Nothing of its body is here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredResponse {
    /// The call that it answers: `results` or `job-status`.
    pub operation: &'static str,
    /// Org or group.
    pub scope_kind: ScopeKind,
    /// The org's or group's id.
    pub scope_id: String,
    /// The export's id.
    pub export_id: String,
    /// The query, as it went up.
    pub query: String,
    /// The credential's name.
    pub credential: String,
    /// The time of its arrival.
    pub stored: SystemTime,
    /// Its age.
    pub age: Duration,
    /// Time for which it is still fresh.
    pub fresh_for: Duration,
    /// The end of its first link, where that is known.
    pub links_end: Option<SystemTime>,
    /// Number of times that it was served.
    pub hits: u64,
    /// Bytes of its body.
    pub bytes: usize,
}

impl StoredResponse {
    pub(super) fn of(key: &CacheKey, entry: &Entry, now: Now) -> Option<Self> {
        let (credential, target) = key.parts()?;
        let call = call(key)?;
        Some(Self {
            operation: call.operation.as_str(),
            scope_kind: call.scope.kind,
            scope_id: call.scope.id.as_str().to_owned(),
            export_id: call.operation.export()?.as_str().to_owned(),
            query: target.split_once('?').map_or_else(String::new, |(_, query)| query.to_owned()),
            // Behind it stands which description it was.
            credential: credential.split('#').next().unwrap_or_default().to_owned(),
            stored: entry.received(),
            age: Duration::from_secs(entry.age(now)),
            fresh_for: Duration::from_secs(entry.ttl(now)),
            links_end: entry.links_end(),
            hits: entry.hits(),
            bytes: entry.body.len(),
        })
    }
}

/// The call that a key stands for: its target was written from one.
pub(super) fn call(key: &CacheKey) -> Option<ExportCall> {
    ExportCall::of_target(key.parts()?.1)
}
