//! The end of a run: its files get their final names, then the manifest is written, and the state goes. A run that was stopped
//! within this is ended by the next one.

use std::path::{Path, PathBuf};

use super::failure::Ending;
use super::manifest::FetchManifest;
use super::progress::{FetchEvent, FetchProgress};
use super::question::FetchQuestion;
use super::state::StateFolder;
use super::target::{FetchTarget, TargetKind, parts_in};

/// The merged table, until it has its name.
pub(super) const TABLE: &str = "table";
const MANIFEST: &str = "manifest.json";

pub(super) struct Completion<'a> {
    pub(super) folder: &'a StateFolder,
    pub(super) target: &'a FetchTarget,
    pub(super) progress: &'a FetchProgress,
}

/// A file that gets its name.
struct Naming {
    from: PathBuf,
    to: PathBuf,
    bytes: u64,
}

impl Completion<'_> {
    /// Completes a run whose files are whole.
    pub(super) fn complete(&self, manifest: &FetchManifest) -> Result<(), Ending> {
        if let TargetKind::Parts(folder) = &self.target.kind {
            refuse_strangers(folder, manifest)?;
        }
        self.folder.save(MANIFEST, manifest)?;
        if self.put(manifest)? {
            return Ok(());
        }
        Err(Ending::failed("a file of the run has gone meanwhile: run the same command again"))
    }

    /// Completes a run that was stopped here. Gives `false` where there is none.
    pub(super) fn complete_earlier(&self) -> Result<bool, Ending> {
        let manifest: Option<FetchManifest> = self.folder.load(MANIFEST);
        let is_same = |manifest: &FetchManifest| manifest.output.format == self.target.format();
        match manifest.filter(is_same) {
            Some(manifest) if self.target.kind != TargetKind::Stdout => self.put(&manifest),
            _ => Ok(false),
        }
    }

    /// True if the output is there already, whole, for the same question with the same times: a run was stopped after its end.
    pub(super) fn is_done(&self, question: &FetchQuestion) -> bool {
        let read = || serde_json::from_slice(&std::fs::read(self.target.manifest.as_ref()?).ok()?).ok();
        let Some(manifest): Option<FetchManifest> = read() else { return false };
        let is_same = manifest.output.format == self.target.format() && manifest.is_of(question);
        let namings = self.namings(&manifest);
        let is_whole = |naming: &Naming| naming.to.metadata().is_ok_and(|found| found.len() == naming.bytes);
        let is_done = is_same && !namings.is_empty() && namings.iter().all(is_whole);
        if is_done {
            let (export, output) = (manifest.export, self.target.shown());
            self.progress.say(&FetchEvent::Present { export, output, finished: manifest.finished });
        }
        is_done
    }

    fn put(&self, manifest: &FetchManifest) -> Result<bool, Ending> {
        for Naming { from, to, bytes } in self.namings(manifest) {
            if from.exists() {
                self.target.put(&from, &to)?;
            } else if to.metadata().map_or(0, |found| found.len()) != bytes {
                return Ok(false);
            }
        }
        self.target.put_manifest(&manifest.to_bytes())?;
        self.folder.clear().map_err(|error| Ending::of_file(self.folder.path(), &error))?;
        let (output, proven) = (self.target.shown(), manifest.proven_in_words());
        let (rows, bytes) = (manifest.output.rows, manifest.output.bytes);
        self.progress.say(&FetchEvent::Done { rows, bytes, proven, output });
        Ok(true)
    }

    fn namings(&self, manifest: &FetchManifest) -> Vec<Naming> {
        match &self.target.kind {
            TargetKind::Stdout => Vec::new(),
            TargetKind::Table(path) => {
                vec![Naming { from: self.folder.file(TABLE), to: path.clone(), bytes: manifest.output.bytes }]
            }
            TargetKind::Parts(folder) => {
                let naming = |note: &super::manifest::PartNote| Naming {
                    from: self.folder.part(note.part, "csv"),
                    to: part_path(folder, note.part),
                    bytes: note.size,
                };
                manifest.parts.iter().map(naming).collect()
            }
        }
    }
}

fn part_path(folder: &Path, part: u32) -> PathBuf {
    folder.join(format!("part-{part:04}.csv"))
}

/// Parts of another export beside these would be taken for parts of this one.
fn refuse_strangers(folder: &Path, manifest: &FetchManifest) -> Result<(), Ending> {
    let own: Vec<PathBuf> = manifest.parts.iter().map(|note| part_path(folder, note.part)).collect();
    match parts_in(folder).into_iter().find(|path| !own.contains(path)) {
        None => Ok(()),
        Some(path) => Err(Ending::usage(format!(
            "{} is no part of this export: remove it, or name another folder; what came is kept",
            path.display()
        ))),
    }
}
