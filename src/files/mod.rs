//! The files of an export: its parts, and the one table that they make.
//!
//! `Files` reads the results by `Retrieval::get`, asks the file store, resumes what breaks, renews links that are
//! refused, and proves what it hands out. A body that cannot be proven ends in an error, never in its last byte.

mod conditions;
mod description;
mod error;
mod facts;
mod held_back;
mod index;
mod layout;
mod links;
mod object;
mod opened;
mod part;
mod results;
mod table;
mod transfer;

use std::sync::Arc;

use crate::clock::{Clock, Now};
use crate::export::FileName;
use crate::file_store::{FileStore, Transfers};
use crate::retrieval::{Asker, Question, Retrieval, Wanted};
use crate::shared::PurgedExports;
use crate::shutdown::Shutdown;

use facts::{FactsByObject, Readings};
use links::ExportLinks;
use part::Described;
use results::{FirstRead, PartLists, ResultsReader};

pub(crate) use conditions::{ByteSpan, Conditions};
pub(crate) use description::Description;
pub(crate) use error::{FilesError, FilesErrorKind};
pub(crate) use index::{Index, IndexedPart};
pub(crate) use opened::{FileAnswer, FileBody, Opened, TransferEnd, TransferOutcome};

/// The parts that files work with.
#[derive(Debug)]
pub(crate) struct FilesCollaborators {
    pub(crate) clock: Clock,
    pub(crate) retrieval: Arc<Retrieval>,
    pub(crate) store: FileStore,
    pub(crate) shutdown: Shutdown,
}

/// Serves the files of exports. Clones share its limits and what it remembers.
#[derive(Debug, Clone)]
pub struct Files {
    parts: Arc<FilesParts>,
}

#[derive(Debug)]
struct FilesParts {
    clock: Clock,
    retrieval: Arc<Retrieval>,
    store: FileStore,
    shutdown: Shutdown,
    transfers: Transfers,
    facts: FactsByObject,
    readings: Readings,
    lists: PartLists,
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
        let FilesCollaborators { clock, retrieval, store, shutdown } = with;
        let (facts, lists) = (facts::facts_by_object(), results::part_lists());
        let (transfers, readings) = (Transfers::default(), Readings::default());
        let parts = FilesParts { clock, retrieval, store, shutdown, transfers, facts, readings, lists };
        Self { parts: Arc::new(parts) }
    }

    /// Forgets what is remembered of purged exports. Lists of parts go all: those of others are read again from their stored
    /// answers.
    pub(crate) fn purged(&self, exports: PurgedExports) {
        self.parts.lists.invalidate_all();
        facts::purge(&self.parts.facts, exports);
    }

    /// Lists the files of an export: one read of its results, and no request to the store.
    ///
    /// # Errors
    /// [`FilesError`].
    pub(crate) async fn index(&self, ask: Ask) -> Result<Index, FilesError> {
        let FirstRead { parts, retrieved, .. } = ResultsReader::first(&self.parts, ask).await?;
        let row_count = parts.row_count;
        let parts = parts.parts.iter().map(IndexedPart::from).collect();
        Ok(Index { results: retrieved, row_count, parts })
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
        let FirstRead { reader, parts, retrieved } = ResultsReader::first(&self.parts, ask).await?;
        let links = Arc::new(ExportLinks::new(&self.parts, reader, parts));
        let mut opened = self.open_once(&links, file, conditions).await;
        if opened.as_ref().is_err_and(FilesError::is_change) {
            // The object is another than what is remembered of it.
            links.forget();
            opened = self.open_once(&links, file, conditions).await;
        }
        match opened {
            Ok(Described { description, answer }) => Ok(Opened { results: retrieved, description, answer }),
            Err(error) => Err(FilesError { results: Some(Box::new(retrieved)), ..error }),
        }
    }

    async fn open_once(
        &self,
        links: &Arc<ExportLinks>,
        file: FileName,
        conditions: &Conditions,
    ) -> Result<Described, FilesError> {
        let limits = self.parts.store.transfer_limits();
        let begin = || self.parts.transfers.begin(links.client(), limits);
        let place = begin().map_err(|full| FilesError::by(FilesErrorKind::FilesBusy, full))?;
        match file {
            FileName::Table => table::open(links, conditions, place).await,
            FileName::Part(number) => {
                let part = usize::try_from(number).ok().and_then(|number| number.checked_sub(1));
                let part = part.filter(|part| *part < links.parts().len());
                let target = links.target(part.ok_or(FilesErrorKind::NoSuchFile)?)?;
                part::open(links, target, conditions, place).await
            }
        }
    }
}
