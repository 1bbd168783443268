//! The list of an export's files.

use super::results::FilePart;
use crate::file_store::ObjectId;
use crate::retrieval::Retrieved;

/// The files of a finished export. It holds no link.
#[derive(Debug)]
pub(crate) struct Index {
    /// The answer that it was made of, for `snyk-request-id` and the record of the exchange.
    pub(crate) results: Retrieved,
    /// The rows of all parts together, as Snyk has it.
    pub(crate) row_count: Option<u64>,
    /// Its parts, in order; the first is part 1.
    pub(crate) parts: Vec<IndexedPart>,
}

/// One part, as Snyk describes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct IndexedPart {
    pub(crate) row_count: Option<u64>,
    pub(crate) file_size: Option<u64>,
    /// Its object at the store, where the results have a link to it that may be followed.
    pub(crate) object: Option<ObjectId>,
}

impl From<&FilePart> for IndexedPart {
    fn from(part: &FilePart) -> Self {
        let object = part.link.as_ref().and_then(|link| Some(link.as_ref().ok()?.object()));
        Self { row_count: part.row_count, file_size: part.file_size, object }
    }
}
