//! The end of a run: its files get their final names, then the manifest is written, and the state goes. A run that was stopped
//! within this is ended by the next one.

use std::path::{Path, PathBuf};

use super::failure::Ending;
use super::manifest::FetchManifest;
use super::own_file;
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
        self.refuse_strangers(Some(manifest))?;
        // A manifest in the state says that its files are whole: they are on the disk before it.
        for Naming { from, .. } in self.namings(manifest) {
            let synced = own_file::read(&from).and_then(|file| file.sync_all());
            synced.map_err(|error| Ending::of_file(&from, &error))?;
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
        let read = || FetchManifest::read(self.target.manifest.as_ref()?);
        let Some(manifest) = read() else { return false };
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

    /// Refuses parts in the folder that neither an earlier manifest nor `manifest` names: they would be taken for parts of this
    /// export.
    pub(super) fn refuse_strangers(&self, manifest: Option<&FetchManifest>) -> Result<(), Ending> {
        let TargetKind::Parts(folder) = &self.target.kind else { return Ok(()) };
        let mut known = self.earlier(folder);
        known.extend(manifest.into_iter().flat_map(|manifest| own_parts(folder, manifest)));
        match parts_in(folder).into_iter().find(|path| !known.contains(path)) {
            None => Ok(()),
            Some(path) => Err(Ending::usage(format!(
                "{} is no part of this export, and no manifest of an earlier one names it: remove it, or name another folder",
                path.display()
            ))),
        }
    }

    /// Removes the parts of the earlier export that this one has not.
    fn remove_earlier(&self, manifest: &FetchManifest) -> Result<(), Ending> {
        let TargetKind::Parts(folder) = &self.target.kind else { return Ok(()) };
        let own = own_parts(folder, manifest);
        let earlier = self.earlier(folder);
        for path in parts_in(folder).iter().filter(|path| earlier.contains(path) && !own.contains(path)) {
            std::fs::remove_file(path).map_err(|error| Ending::of_file(path, &error))?;
        }
        Ok(())
    }

    /// The parts that the manifests of earlier runs name.
    fn earlier(&self, folder: &Path) -> Vec<PathBuf> {
        let within = FetchManifest::read(&folder.join(MANIFEST));
        let named = self.target.manifest.as_deref().and_then(FetchManifest::read);
        let named =
            named.filter(|found| found.file.as_ref().is_none_or(|file| *file == self.target.file_name()));
        let found =
            within.into_iter().chain(named).filter(|found| found.output.format == self.target.format());
        found.flat_map(|manifest| own_parts(folder, &manifest)).collect()
    }

    fn put(&self, manifest: &FetchManifest) -> Result<bool, Ending> {
        for Naming { from, to, bytes } in self.namings(manifest) {
            if from.symlink_metadata().is_ok() {
                self.target.put(&from, &to)?;
            } else if to.metadata().map_or(0, |found| found.len()) != bytes {
                return Ok(false);
            }
        }
        self.remove_earlier(manifest)?;
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

fn own_parts(folder: &Path, manifest: &FetchManifest) -> Vec<PathBuf> {
    manifest.parts.iter().map(|note| part_path(folder, note.part)).collect()
}
