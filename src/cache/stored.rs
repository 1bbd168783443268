//! The list of stored responses, as an operator may see it.

use std::sync::Arc;

use super::{CacheKey, Entry};
use crate::export::ExportCall;

/// One stored response, with the question that it answers.
#[derive(Debug, Clone)]
pub(crate) struct StoredResponse {
    pub(crate) call: ExportCall,
    /// The query, as it went up.
    pub(crate) query: String,
    /// The credential's name.
    pub(crate) credential: String,
    pub(crate) entry: Arc<Entry>,
}

impl StoredResponse {
    pub(super) fn of(key: &CacheKey, entry: Arc<Entry>) -> Option<Self> {
        let (credential, target) = key.parts()?;
        Some(Self {
            call: call(key)?,
            query: target.split_once('?').map_or_else(String::new, |(_, query)| query.to_owned()),
            // Behind it stands which description it was.
            credential: credential.split('#').next().unwrap_or_default().to_owned(),
            entry,
        })
    }
}

/// The call that a key stands for: its target was written from one.
pub(super) fn call(key: &CacheKey) -> Option<ExportCall> {
    ExportCall::of_target(key.parts()?.1)
}
