//! A run: the export is started or gone on with, waited for, downloaded, proven, merged, and put in its place.

use std::fs::File;
use std::io::BufWriter;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::StreamExt as _;

use super::args::ConductArgs;
use super::caller::Caller;
use super::failure::{Ending, EndingKind};
use super::index::{FileIndex, IndexedPart};
use super::manifest::{FetchManifest, OutputNote};
use super::merge::{MergeError, PartFile, TableWriter};
use super::output::{Hashed, stdout};
use super::progress::{FetchEvent, FetchProgress};
use super::proof::PartFacts;
use super::question::FetchQuestion;
use super::state::{RunState, StateFolder};
use super::target::{FetchTarget, TargetKind, parts_in};
use crate::clock::Clock;

/// The merged table, until it has its name.
const TABLE: &str = "table";
const MANIFEST: &str = "manifest.json";

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
        let export = self.export(state).await?;
        let index = self.wait(&export).await?;
        self.progress.say(&FetchEvent::Found { parts: index.parts.len(), bytes: index.bytes() });
        let manifest = FetchManifest::new(state, &export);
        match &self.target.kind {
            TargetKind::Stdout => self.stream(&index.parts, manifest).await,
            TargetKind::Table(path) => {
                let parts = self.collect(&index).await?;
                let note = tokio::task::block_in_place(|| self.merge(&parts))?;
                self.finish(manifest.with(&parts, note, self), |session| {
                    session.target.put(&session.folder.file(TABLE), path)
                })
            }
            TargetKind::Parts(folder) => {
                let parts = self.collect(&index).await?;
                self.refuse_strangers(folder, parts.len())?;
                let note = OutputNote::of_parts(&parts);
                self.finish(manifest.with(&parts, note, self), |session| session.put_parts(&parts, folder))
            }
        }
    }

    /// All parts, in order, `--jobs` at once.
    async fn collect(&self, index: &FileIndex) -> Result<Vec<PartFile>, Ending> {
        let mut parts = Vec::with_capacity(index.parts.len());
        let mut downloads = self.downloads(&index.parts);
        while let Some(part) = downloads.next().await {
            parts.push(part?);
        }
        Ok(parts)
    }

    fn downloads<'a>(
        &'a self,
        parts: &'a [IndexedPart],
    ) -> impl futures_util::Stream<Item = Result<PartFile, Ending>> + Unpin + 'a {
        let downloads = parts.iter().map(|part| Box::pin(self.part(part)));
        futures_util::stream::iter(downloads).buffered(usize::from(self.args.jobs))
    }

    fn merge(&self, parts: &[PartFile]) -> Result<OutputNote, Ending> {
        let path = self.folder.file(TABLE);
        let failed = |error| Ending::of_file(&path, &error);
        let file = File::create(&path).map_err(failed)?;
        let mut table = TableWriter::new(Hashed::new(BufWriter::new(file)), self.target.is_jsonl);
        for part in parts {
            table.add(part).map_err(|error| self.merge_failed(error, &path))?;
        }
        let rows = table.row_count;
        let hashed = table.finish().map_err(|error| self.merge_failed(error, &path))?;
        Ok(hashed.note(rows))
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
    async fn stream(&self, parts: &[IndexedPart], manifest: FetchManifest) -> Result<(), Ending> {
        let outlet = stdout().map_err(|error| Ending::of_file(Path::new("standard output"), &error))?;
        let mut table = TableWriter::new(Hashed::new(outlet), self.target.is_jsonl);
        let mut facts: Vec<PartFacts> = Vec::new();
        let mut downloads = self.downloads(parts);
        while let Some(part) = downloads.next().await {
            let part = part?;
            match tokio::task::block_in_place(|| table.add(&part)) {
                Ok(()) => facts.push(part.facts),
                // The reader has enough: it gets no more, and nothing is wrong.
                Err(MergeError::Closed) => return Ok(()),
                Err(error) => return Err(self.merge_failed(error, Path::new("standard output"))),
            }
        }
        let rows = table.row_count;
        let hashed = match table.finish() {
            Ok(hashed) => hashed,
            Err(MergeError::Closed) => return Ok(()),
            Err(error) => return Err(self.merge_failed(error, Path::new("standard output"))),
        };
        self.finish(manifest.with_facts(facts, hashed.note(rows), self), |_| Ok(()))
    }

    /// Puts the output in its place, then the manifest, and ends the state. The next run ends this where it is stopped.
    fn finish(
        &self,
        manifest: FetchManifest,
        put: impl FnOnce(&Self) -> Result<(), Ending>,
    ) -> Result<(), Ending> {
        self.folder.save(MANIFEST, &manifest)?;
        put(self)?;
        self.end(&manifest)
    }

    fn end(&self, manifest: &FetchManifest) -> Result<(), Ending> {
        self.target.put_manifest(&manifest.to_bytes())?;
        self.folder.clear().map_err(|error| Ending::of_file(self.folder.path(), &error))?;
        self.progress.say(&FetchEvent::Done {
            rows: manifest.output.rows,
            bytes: manifest.output.bytes,
            proven: manifest.proven_in_words(),
            output: self.shown_output(),
        });
        Ok(())
    }

    fn shown_output(&self) -> String {
        match &self.target.kind {
            TargetKind::Stdout => "standard output".to_owned(),
            TargetKind::Table(path) | TargetKind::Parts(path) => path.display().to_string(),
        }
    }

    fn put_parts(&self, parts: &[PartFile], folder: &Path) -> Result<(), Ending> {
        for part in parts {
            let name = format!("part-{:04}.csv", part.facts.part);
            self.target.put(&part.path, &folder.join(name))?;
        }
        Ok(())
    }

    /// Parts of another export beside these would be taken for parts of this one.
    fn refuse_strangers(&self, folder: &Path, count: usize) -> Result<(), Ending> {
        let own: Vec<_> = (1..=count).map(|part| folder.join(format!("part-{part:04}.csv"))).collect();
        match parts_in(folder).into_iter().find(|path| !own.contains(path)) {
            None => Ok(()),
            Some(path) => Err(Ending::usage(format!(
                "{} is no part of this export: remove it, or name another folder; what came is kept",
                path.display()
            ))),
        }
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

pub(super) fn words(time: Duration) -> String {
    humantime::format_duration(Duration::from_secs(time.as_secs())).to_string()
}

/// Ends a run that was stopped after its table was whole: only names are missing. Gives `false` where there was none.
pub(super) fn finish_earlier(
    folder: &StateFolder,
    target: &FetchTarget,
    progress: &FetchProgress,
) -> Result<bool, Ending> {
    let TargetKind::Table(path) = &target.kind else { return Ok(false) };
    let Some(manifest) = folder.load::<FetchManifest>(MANIFEST) else { return Ok(false) };
    let table = folder.file(TABLE);
    if table.exists() {
        target.put(&table, path)?;
    } else if path.metadata().map_or(0, |found| found.len()) != manifest.output.bytes {
        return Ok(false);
    }
    target.put_manifest(&manifest.to_bytes())?;
    folder.clear().map_err(|error| Ending::of_file(folder.path(), &error))?;
    let output = path.display().to_string();
    let (rows, bytes, proven) = (manifest.output.rows, manifest.output.bytes, manifest.proven_in_words());
    progress.say(&FetchEvent::Done { rows, bytes, proven, output });
    Ok(true)
}
