//! Reads of an export's results: the first for a request, and later ones for what goes on after it.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use tokio::time::Instant;
use uuid::Uuid;

use super::error::{FilesError, FilesErrorKind};
use super::{Ask, FilesParts};
use crate::clock::Now;
use crate::export::{ExportParts, ExportProgress, PartEntry};
use crate::file_store::{FileStore, Link, LinkError};
use crate::retrieval::{Asker, LinkUse, Question, Retrieved, Wanted, aside, retry_after};
use crate::shared::PurgedExports;

/// A part of an export, as its results have it.
#[derive(Debug)]
pub(super) struct FilePart {
    /// `None` where the entry has none.
    pub(super) link: Option<Result<Link, LinkError>>,
    pub(super) row_count: Option<u64>,
    pub(super) file_size: Option<u64>,
}

/// The parts that one answer lists, with their links.
#[derive(Debug, Clone)]
pub(super) struct PartList {
    pub(super) parts: Arc<[FilePart]>,
    /// The rows of all parts together.
    pub(super) row_count: Option<u64>,
    /// The arrival of the answer.
    pub(super) arrival: Now,
}

/// The question of an export's results, and its asker, without its place among its client's requests.
#[derive(Debug)]
pub(super) struct ResultsReader {
    question: Question,
    asker: Asker,
    /// The longest time that an answer may take.
    patience: Duration,
}

impl ResultsReader {
    /// Reads the results for `ask`, from a stored answer whose links live, or from Snyk.
    pub(super) async fn first(with: &FilesParts, ask: Ask) -> Result<FirstRead, FilesError> {
        let Ask { question, asker, wanted, now } = ask;
        // Later reads wait for no end.
        let begin = wanted.wait.map_or(now.mono, |wait| wait.until);
        let patience = asker.deadline.into_std().saturating_duration_since(begin);
        let later = asker.later(asker.deadline);
        let wanted = Wanted { links: LinkUse::Here { newer_than: None }, ..wanted };
        let retrieved = with.retrieval.get(question.clone(), asker, wanted, now).await?;
        match read(with, &retrieved).await {
            Ok(parts) => {
                Ok(FirstRead { reader: Self { question, asker: later, patience }, parts, retrieved })
            }
            Err(kind) => Err(FilesError { results: Some(Box::new(retrieved)), ..kind.into() }),
        }
    }

    /// Reads results that arrived after those of `held`.
    pub(super) async fn newer(&self, with: &FilesParts, held: Now) -> Result<PartList, FilesError> {
        let now = with.clock.now();
        let deadline = Instant::from_std(now.mono) + self.patience;
        let links = LinkUse::Here { newer_than: Some(held.mono) };
        let wanted = Wanted { links, ..Wanted::default() };
        let asker = self.asker.later(deadline);
        let retrieved = with.retrieval.get(self.question.clone(), asker, wanted, now).await?;
        Ok(read(with, &retrieved).await?)
    }

    /// The export's id.
    pub(super) fn export(&self) -> &str {
        self.question.call.operation.export().map_or("", |id| id.as_str())
    }

    /// The purge that takes what is known of the export.
    pub(super) fn purged_by(&self) -> PurgedExports {
        PurgedExports::of(self.question.call.scope.id.as_str(), self.export())
    }

    /// The client's name.
    pub(super) fn client(&self) -> &Arc<str> {
        &self.asker.client
    }
}

/// The results that a request begins with.
pub(super) struct FirstRead {
    pub(super) reader: ResultsReader,
    pub(super) parts: PartList,
    pub(super) retrieved: Retrieved,
}

/// Reads the parts of an answer, once for all who get it.
async fn read(with: &FilesParts, retrieved: &Retrieved) -> Result<PartList, FilesErrorKind> {
    let answer = retrieved.parts();
    if !answer.status.is_success() {
        return Err(FilesErrorKind::SnykAnswered);
    }
    let (id, arrival) = (answer.attempt, answer.arrival);
    if let Some(list) = with.lists.get(&id) {
        return Ok(PartList { arrival, ..list });
    }
    let (status, body, store) = (answer.status, answer.body.clone(), with.store.clone());
    let reading = move || {
        let export = ExportParts::of(&body).filter(|_| status == StatusCode::OK);
        finished(export.ok_or(FilesErrorKind::ResultsUnreadable)?, arrival, &store)
    };
    let read = aside(answer.body.len(), reading).await.unwrap_or(Err(FilesErrorKind::ResultsUnreadable));
    match read {
        Ok(list) => {
            with.lists.insert(id, list.clone());
            Ok(list)
        }
        Err(FilesErrorKind::NotFinished { is_unknown, .. }) => {
            let retry_after = retry_after(answer.fields);
            Err(FilesErrorKind::NotFinished { retry_after, is_unknown })
        }
        Err(kind) => Err(kind),
    }
}

fn finished(export: ExportParts, arrival: Now, store: &FileStore) -> Result<PartList, FilesErrorKind> {
    let not_finished = |is_unknown| Err(FilesErrorKind::NotFinished { retry_after: None, is_unknown });
    match export.progress {
        ExportProgress::Finished => {}
        ExportProgress::Running => return not_finished(false),
        ExportProgress::Unknown => return not_finished(true),
        ExportProgress::Failed => return Err(FilesErrorKind::ExportFailed),
    }
    let part = |PartEntry { link, row_count, file_size }| FilePart {
        link: link.map(|link| store.link(&link)),
        row_count,
        file_size,
    };
    let has_rows = export.row_count.is_some_and(|rows| rows > 0);
    let parts = export.parts.filter(|parts| !(parts.is_empty() && has_rows));
    let parts: Arc<[FilePart]> = parts.ok_or(FilesErrorKind::PartsMissing)?.into_iter().map(part).collect();
    let mut seen = HashSet::new();
    let objects = parts.iter().filter_map(|part| Some(part.link.as_ref()?.as_ref().ok()?.object()));
    let are_different = objects.into_iter().all(|object| seen.insert(object));
    if !are_different {
        return Err(FilesErrorKind::PartsMissing);
    }
    Ok(PartList { parts, row_count: export.row_count, arrival })
}

/// The lists of parts that were read, by the attempts that brought them.
pub(super) type PartLists = moka::sync::Cache<Uuid, PartList>;

/// Memory for such lists, in bytes: links are long.
const MAX_LISTS: u64 = 16 * 1024 * 1024;
/// Memory that a link takes: its text, its host, and its place.
const LINK_WEIGHT: usize = 1_536;
/// Links die within the hour; a list that nobody reads goes sooner.
const LIST_LIFE: Duration = Duration::from_mins(10);

/// No lists yet.
pub(super) fn part_lists() -> PartLists {
    let weight =
        |_: &Uuid, list: &PartList| u32::try_from((list.parts.len() + 1) * LINK_WEIGHT).unwrap_or(u32::MAX);
    moka::sync::Cache::builder().max_capacity(MAX_LISTS).weigher(weight).time_to_idle(LIST_LIFE).build()
}
