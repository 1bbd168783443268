//! The list of an export's files.

use super::results::FilePart;
use crate::retrieval::Retrieved;

/// The files of a finished export. It holds no link.
#[derive(Debug)]
pub(crate) struct Index {
    /// The answer that it was made of, for `snyk-request-id` and the record of the exchange.
    pub(crate) results: Retrieved,
    /// Its parts, in order; the first is part 1.
    pub(crate) parts: Vec<IndexedPart>,
}

/// One part, as Snyk describes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct IndexedPart {
    pub(crate) row_count: Option<u64>,
    pub(crate) file_size: Option<u64>,
}

impl From<&FilePart> for IndexedPart {
    fn from(part: &FilePart) -> Self {
        Self { row_count: part.row_count, file_size: part.file_size }
    }
}
