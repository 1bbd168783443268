//! Requests for files that cannot be answered, by kind.

use std::error::Error;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::file_store::{StoreError, StoreErrorKind};
use crate::retrieval::{NoAnswer, Retrieved};

/// A request for a file without a file.
#[derive(Debug)]
pub(crate) struct FilesError {
    pub(crate) kind: FilesErrorKind,
    /// The failure of the store, where that is it.
    pub(super) store: Option<StoreErrorKind>,
    /// The error of a library; for the log only.
    pub(crate) source: Option<Arc<dyn Error + Send + Sync>>,
    /// The answer of the results that showed it, where there was one.
    pub(crate) results: Option<Box<Retrieved>>,
    /// The reason that there are no results.
    pub(crate) no_answer: Option<Box<NoAnswer>>,
}

/// The kinds of it. `code` is the client's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FilesErrorKind {
    /// The results could not be read ([`FilesError::no_answer`]).
    NoResults,
    /// Snyk's answer is no export's document: 404, 429, 5xx, a redirect ([`FilesError::results`]).
    SnykAnswered,
    /// Snyk's answer says 2xx and is no export's document.
    ResultsUnreadable,
    /// The export is finished, and its results list no parts, although there are rows or nothing says that there are none; or
    /// they list one part twice, and so another one not at all.
    PartsMissing,
    /// The export is not finished.
    NotFinished {
        /// Snyk's `Retry-After`, where it gave one.
        retry_after: Option<Duration>,
        /// True if Snyk's word for its progress is none that is known.
        is_unknown: bool,
    },
    /// The export ended in ERRORED or ERROR.
    ExportFailed,
    /// The export has no part of that number.
    NoSuchFile,
    /// The store has it no more: Snyk keeps files for three days.
    FileGone,
    /// The link's host is not in `files.hosts`, or its address is none that may be asked.
    HostNotAllowed,
    /// The store refuses the link, also after it was renewed.
    StoreRefused,
    /// The store cannot be reached, breaks off each time, or answers nothing sound.
    StoreUnreachable,
    /// The store made no progress for `files.idle_timeout`.
    StoreTimeout,
    /// The results have no link for it.
    LinkMissing,
    /// Two parts have different headers: they make no table.
    ColumnsDiffer,
    /// A header is longer than can be read.
    HeaderTooLong,
    /// A part is no CSV that can be joined.
    NotCsv,
    /// `files.max_transfers`, or the client's share of it, is reached.
    FilesBusy,
    /// The object changed while it was read.
    ObjectChanged,
    /// Fewer or other bytes came than the store announced.
    NotProven,
    /// The gateway stops.
    Stopped,
}

impl FilesErrorKind {
    /// Its word in answers, log and journal.
    pub(crate) const fn code(self) -> &'static str {
        match self {
            Self::NoResults => "no_results",
            Self::SnykAnswered => "upstream_answered",
            Self::ResultsUnreadable | Self::PartsMissing => "results_unreadable",
            Self::NotFinished { is_unknown: true, .. } => "status_unknown",
            Self::NotFinished { .. } => "not_finished",
            Self::ExportFailed => "export_failed",
            Self::NoSuchFile => "no_such_file",
            Self::FileGone => "file_gone",
            Self::HostNotAllowed => "host_not_allowed",
            Self::StoreRefused => "store_refused",
            Self::StoreUnreachable => "store_unreachable",
            Self::StoreTimeout => "store_timeout",
            Self::LinkMissing => "link_missing",
            Self::ColumnsDiffer => "columns_differ",
            Self::HeaderTooLong => "header_too_long",
            Self::NotCsv => "not_csv",
            Self::FilesBusy => "files_busy",
            Self::ObjectChanged => "object_changed",
            Self::NotProven => "not_proven",
            Self::Stopped => "stopped",
        }
    }
}

impl From<FilesErrorKind> for FilesError {
    fn from(kind: FilesErrorKind) -> Self {
        Self { kind, store: None, source: None, results: None, no_answer: None }
    }
}

impl From<NoAnswer> for FilesError {
    fn from(no_answer: NoAnswer) -> Self {
        Self { no_answer: Some(Box::new(no_answer)), ..FilesErrorKind::NoResults.into() }
    }
}

impl FilesError {
    pub(super) fn by(kind: FilesErrorKind, source: impl Error + Send + Sync + 'static) -> Self {
        Self { source: Some(Arc::new(source)), ..kind.into() }
    }

    /// True if the same request to the store may work a moment later.
    pub(super) fn passes(&self) -> bool {
        self.store.is_some_and(StoreErrorKind::passes)
    }

    /// True if the object changed since it was described.
    pub(super) fn is_change(&self) -> bool {
        matches!(self.kind, FilesErrorKind::ObjectChanged)
    }

    /// True if not even the first byte of an object could be had: it is empty.
    pub(super) fn is_empty_object(&self) -> bool {
        matches!(self.store, Some(StoreErrorKind::OutOfRange { total: None | Some(0) }))
    }
}

impl From<StoreError> for FilesError {
    fn from(error: StoreError) -> Self {
        use StoreErrorKind as K;
        let kind = match error.kind {
            K::AddressNotAllowed => FilesErrorKind::HostNotAllowed,
            K::Expired | K::Refused(_) => FilesErrorKind::StoreRefused,
            K::Gone => FilesErrorKind::FileGone,
            K::Changed | K::OutOfRange { .. } => FilesErrorKind::ObjectChanged,
            K::Unreachable | K::BrokenOff | K::BadAnswer => FilesErrorKind::StoreUnreachable,
            K::Timeout => FilesErrorKind::StoreTimeout,
        };
        Self { store: Some(error.kind), ..Self::by(kind, error) }
    }
}

impl fmt::Display for FilesError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.kind.code())
    }
}

impl Error for FilesError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.source.as_deref().map(|source| source as &(dyn Error + 'static))
    }
}
