//! A run: the export is started or gone on with, waited for, downloaded, proven, merged, and put in its place.

use std::io::BufWriter;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::StreamExt as _;

use super::args::ConductArgs;
use super::caller::Caller;
use super::completion::{Completion, TABLE};
use super::failure::{Ending, EndingKind};
use super::index::FileIndex;
use super::manifest::{FetchManifest, OutputNote, RunEnd};
use super::merge::{PartFile, TableWriter};
use super::merge_error::MergeError;
use super::output::{Hashed, stdout};
use super::own_file;
use super::progress::{FetchEvent, FetchProgress};
use super::proof::ProvenPart;
use super::question::{FetchExport, FetchQuestion};
use super::state::{RunState, StateFolder};
use super::target::{FetchTarget, TargetKind};
use crate::clock::Clock;
use crate::csv::TotalProof;

#[derive(Debug)]
pub(super) struct Session {
    pub(super) question: FetchQuestion,
    pub(super) args: ConductArgs,
    pub(super) target: FetchTarget,
    pub(super) caller: Caller,
    pub(super) folder: StateFolder,
    pub(super) progress: Arc<FetchProgress>,
    pub(super) clock: Clock,
    pub(super) deadline: Instant,
}

impl Session {
    pub(super) async fn run(&self, state: &mut RunState) -> Result<(), Ending> {
        let export = match &self.question.named {
            Some(name) => self.named(name, state).await?,
            None => FetchExport { scope: self.question.scope.clone(), id: self.export(state).await? },
        };
        let index = self.wait(&export).await?;
        self.progress.say(&FetchEvent::Found { parts: index.parts.len(), bytes: index.bytes() });
        let mut manifest = FetchManifest::new(state, &export.id, self.target.file_name());
        manifest.announced_rows = index.row_count;
        match &self.target.kind {
            TargetKind::Stdout => self.stream(&index, manifest).await,
            TargetKind::Table(_) => {
                let parts = self.collect(&index).await?;
                self.compare_columns(&facts_of(&parts))?;
                let note = tokio::task::block_in_place(|| self.merge(&parts))?;
                self.complete(&manifest.with(facts_of(&parts), note, self.ended()))
            }
            TargetKind::Parts(_) => {
                let parts = self.collect(&index).await?;
                let facts = facts_of(&parts);
                self.compare_columns(&facts)?;
                let (rows, bytes) = {
                    let proven = || facts.iter().map(|facts| &facts.proven);
                    (proven().map(|proven| proven.rows).sum(), proven().map(|proven| proven.bytes).sum())
                };
                let note = OutputNote { format: self.target.format().to_owned(), rows, bytes, sha256: None };
                self.complete(&manifest.with(facts, note, self.ended()))
            }
        }
    }

    async fn collect(&self, index: &FileIndex) -> Result<Vec<PartFile>, Ending> {
        let mut parts = Vec::with_capacity(index.parts.len());
        let mut downloads = self.downloads(index);
        while let Some(part) = downloads.next().await {
            parts.push(part?);
        }
        Ok(parts)
    }

    /// All parts, in order, `--jobs` at once. The last one comes only if all have as many rows as Snyk announced.
    fn downloads<'a>(
        &'a self,
        index: &'a FileIndex,
    ) -> impl futures_util::Stream<Item = Result<PartFile, Ending>> + Unpin + 'a {
        let mut total = TotalProof::new(index.row_count, index.parts.len());
        let downloads = index.parts.iter().map(|part| Box::pin(self.part(part)));
        let downloads = futures_util::stream::iter(downloads).buffered(usize::from(self.args.jobs));
        downloads.map(move |part| {
            let mut part = part?;
            if let Some(text) = part.facts.count(&mut total, self.args.rows)? {
                self.progress.say(&FetchEvent::Warning { text: text.clone() });
                part.facts.warnings.push(text);
            }
            Ok(part)
        })
    }

    fn merge(&self, parts: &[PartFile]) -> Result<OutputNote, Ending> {
        let path = self.folder.file(TABLE);
        let failed = |error| Ending::of_file(&path, &error);
        let file = own_file::create(&path).map_err(failed)?;
        let mut table = TableWriter::new(Hashed::new(BufWriter::new(file)), self.target.is_jsonl);
        for part in parts {
            table.add(part).map_err(|error| self.merge_failed(error, &path))?;
        }
        let rows = table.row_count;
        let hashed = table.finish().map_err(|error| self.merge_failed(error, &path))?;
        Ok(hashed.note(self.target.format(), rows))
    }

    fn merge_failed(&self, error: MergeError, path: &Path) -> Ending {
        let ending = match error {
            MergeError::Ending(ending) => return ending,
            MergeError::Write(error) => Ending::of_file(path, &error),
            MergeError::Closed => Ending::failed("standard output was closed"),
        };
        // Half a table takes room that the next run needs.
        let _ = std::fs::remove_file(self.folder.file(TABLE));
        ending
    }

    /// Writes each part to standard output as soon as it is proven, and those before it are written.
    async fn stream(&self, index: &FileIndex, manifest: FetchManifest) -> Result<(), Ending> {
        let outlet = stdout().map_err(|error| Ending::of_file(Path::new("standard output"), &error))?;
        let mut table = TableWriter::new(Hashed::new(outlet), self.target.is_jsonl);
        let mut facts: Vec<ProvenPart> = Vec::new();
        let mut downloads = self.downloads(index);
        while let Some(part) = downloads.next().await {
            let part = part?;
            if facts.iter().all(|facts| facts.header.is_empty()) {
                self.compare_columns(std::slice::from_ref(&part.facts))?;
            }
            match tokio::task::block_in_place(|| table.add(&part)) {
                Ok(()) => facts.push(part.facts),
                Err(MergeError::Closed) => return self.enough(),
                Err(error) => return Err(self.merge_failed(error, Path::new("standard output"))),
            }
        }
        let rows = table.row_count;
        let hashed = match table.finish() {
            Ok(hashed) => hashed,
            Err(MergeError::Closed) => return self.enough(),
            Err(error) => return Err(self.merge_failed(error, Path::new("standard output"))),
        };
        self.complete(&manifest.with(facts, hashed.note(self.target.format(), rows), self.ended()))
    }

    /// The reader of standard output has enough: it gets no more, and nothing is wrong.
    fn enough(&self) -> Result<(), Ending> {
        self.folder.clear_parts().map_err(|error| Ending::of_file(self.folder.path(), &error))
    }

    fn ended(&self) -> RunEnd {
        RunEnd { at: self.clock.now().wall, calls: self.folder.calls() }
    }

    fn complete(&self, manifest: &FetchManifest) -> Result<(), Ending> {
        let Self { folder, target, progress, .. } = self;
        Completion { folder, target, progress }.complete(manifest)
    }

    /// Waits, where the rest of the time allows it.
    pub(super) async fn pause(&self, why: String, wait: Duration) -> Result<(), Ending> {
        if wait > self.rest() {
            let text = format!(
                "{why}. The wait of {} is longer than the rest of --timeout: run the same command again then; it goes on",
                words(wait)
            );
            return Err(Ending::new(EndingKind::Unfinished, text));
        }
        self.progress.say(&FetchEvent::Paused { why, seconds: wait.as_secs() });
        tokio::time::sleep(wait).await;
        Ok(())
    }

    /// The time that is left.
    pub(super) fn rest(&self) -> Duration {
        self.deadline.saturating_duration_since(self.clock.now().mono)
    }
}

fn facts_of(parts: &[PartFile]) -> Vec<ProvenPart> {
    parts.iter().map(|part| part.facts.clone()).collect()
}

pub(super) fn words(time: Duration) -> String {
    humantime::format_duration(Duration::from_secs(time.as_secs())).to_string()
}
