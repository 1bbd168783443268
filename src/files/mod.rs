//! The files of an export: its parts, and the one table that they make.
//!
//! `Files` reads the results by `Retrieval::get`, asks the file store, resumes what breaks, renews links that are
//! refused, and proves what it hands out. A body that cannot be proven ends in an error, never in its last byte.

mod conditions;
mod description;
mod error;
mod held_back;
mod index;
mod layout;
mod opened;
mod proof;

use std::sync::Arc;

use crate::clock::{Clock, Now};
use crate::export::FileName;
use crate::retrieval::{Asker, Question, Retrieval, Wanted};
use crate::shutdown::Shutdown;

pub(crate) use conditions::{ByteSpan, Conditions, Selection};
pub(crate) use description::Description;
pub(crate) use error::{FilesError, FilesErrorKind};
pub(crate) use index::{Index, IndexedPart};
pub(crate) use opened::{FileAnswer, FileBody, Opened, TransferEnd, TransferOutcome};

/// The parts that files work with.
#[derive(Debug)]
pub(crate) struct FilesCollaborators {
    pub(crate) clock: Clock,
    pub(crate) retrieval: Arc<Retrieval>,
    pub(crate) shutdown: Shutdown,
}

/// Serves the files of exports.
#[derive(Debug, Clone)]
pub struct Files {
    #[expect(dead_code, reason = "the transfers come next")]
    with: Arc<FilesCollaborators>,
}

/// A request for files of an export.
#[derive(Debug)]
pub(crate) struct Ask {
    /// The question of the export's results.
    pub(crate) question: Question,
    /// The one who asks. A transfer keeps its name, share, `Via` and request id for later reads of the results, not its
    /// permit.
    pub(crate) asker: Asker,
    /// The directives of its request, for the results.
    pub(crate) wanted: Wanted,
    /// The time of its request.
    pub(crate) now: Now,
}

impl Files {
    pub(crate) fn new(with: FilesCollaborators) -> Self {
        Self { with: Arc::new(with) }
    }

    /// Lists the files of an export: one read of its results, and no request to the store.
    ///
    /// # Errors
    /// [`FilesError`].
    pub(crate) async fn index(&self, ask: Ask) -> Result<Index, FilesError> {
        let _ = ask;
        Err(FilesErrorKind::NoSuchFile.into())
    }

    /// Opens a file. A whole part costs one read of the results and one request to the store.
    ///
    /// # Errors
    /// [`FilesError`].
    pub(crate) async fn open(
        &self,
        ask: Ask,
        file: FileName,
        conditions: &Conditions,
    ) -> Result<Opened, FilesError> {
        let _ = (ask, file, conditions);
        Err(FilesErrorKind::NoSuchFile.into())
    }
}
