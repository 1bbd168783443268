//! The settings of named exports.

use std::collections::BTreeSet;
use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};

use crate::export::{ExportName, Scope};
use crate::journal::NamedKey;
use crate::start_call::ExportQuestion;

/// `[exports]`.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Settings {
    /// Start calls of an hour that are left to others.
    pub(crate) reserve: u32,
    /// The exports.
    pub(crate) exports: Vec<NamedSettings>,
}

/// `[exports.NAME]`.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct NamedSettings {
    pub(crate) name: ExportName,
    pub(crate) scope: Scope,
    pub(crate) question: ExportQuestion,
    /// Time from one turn to the next.
    pub(crate) every: Duration,
    /// The only clients that may have it; `None` leaves it to their policies.
    pub(crate) clients: Option<BTreeSet<String>>,
}

impl NamedSettings {
    /// True if the client may have it, as far as `clients` says.
    pub(crate) fn is_for(&self, client: &str) -> bool {
        self.clients.as_ref().is_none_or(|clients| clients.contains(client))
    }

    /// The key of its state: another question, or the same at another upstream, has a state of its own.
    pub(super) fn key(&self, upstream: &str) -> NamedKey {
        let text = format!("{upstream}\n{}", self.question.typed());
        let hash = digest(&SHA256, text.as_bytes());
        let question = uuid::Builder::from_slice(&hash.as_ref()[..16])
            .map_or_else(|_| String::new(), |digest| digest.as_uuid().simple().to_string());
        NamedKey { name: self.name.as_str().to_owned(), question }
    }
}
