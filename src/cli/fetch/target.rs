//! The output of a run: the place of the table or the parts, of the state beside it, and of the manifest.

use std::fmt::Write as _;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use aws_lc_rs::digest::{SHA256, digest};
use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::io::Errno;

use super::args::{OutputArgs, TableFormat};
use super::failure::Ending;
use super::manifest::FetchManifest;
use super::own_file;
use super::question::FetchQuestion;
use super::state::sync_folder;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum TargetKind {
    Stdout,
    /// The table, at this path.
    Table(PathBuf),
    /// The parts, in this folder.
    Parts(PathBuf),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct FetchTarget {
    pub(super) kind: TargetKind,
    pub(super) manifest: Option<PathBuf>,
    pub(super) is_jsonl: bool,
    is_clobber: bool,
}

impl FetchTarget {
    pub(super) fn of(args: &OutputArgs, question: &FetchQuestion) -> Result<Self, Ending> {
        let is_jsonl = args.format == TableFormat::Jsonl;
        let name = format!("{}.{}", question.dataset, if is_jsonl { "jsonl" } else { "csv" });
        let given = args.output.clone();
        let kind = match given {
            Some(path) if path == Path::new("-") => TargetKind::Stdout,
            given if args.parts => {
                TargetKind::Parts(given.unwrap_or_else(|| question.dataset.clone().into()))
            }
            Some(path) if path.is_dir() || path.as_os_str().as_encoded_bytes().ends_with(b"/") => {
                TargetKind::Table(path.join(name))
            }
            given => TargetKind::Table(given.unwrap_or_else(|| name.into())),
        };
        if args.parts && kind == TargetKind::Stdout {
            return Err(Ending::usage("--parts keeps the parts in a folder: name one with -o DIR/"));
        }
        let manifest = match (&args.manifest, &kind) {
            (Some(path), _) if path == Path::new("none") => None,
            (Some(path), _) => Some(path.clone()),
            (None, TargetKind::Stdout) => None,
            (None, TargetKind::Table(path)) => {
                let mut name = path.clone().into_os_string();
                name.push(".manifest.json");
                Some(name.into())
            }
            (None, TargetKind::Parts(folder)) => Some(folder.join("manifest.json")),
        };
        let target = Self { kind, manifest, is_jsonl, is_clobber: args.clobber };
        target.check()?;
        target.check_manifest()?;
        Ok(target)
    }

    fn check(&self) -> Result<(), Ending> {
        let (TargetKind::Table(path) | TargetKind::Parts(path)) = &self.kind else { return Ok(()) };
        let shown = path.display();
        if path.symlink_metadata().is_ok_and(|found| found.is_symlink()) {
            return Err(Ending::usage(format!(
                "{shown} is a symbolic link, and nothing is written through one: name the file itself"
            )));
        }
        let folder = parent(path);
        if !folder.is_dir() {
            let text = format!("{} is no folder: create it, or name another output", folder.display());
            return Err(Ending::usage(text));
        }
        match &self.kind {
            TargetKind::Table(path) if path.exists() && !path.is_file() => {
                Err(Ending::usage(format!("{shown} is no file: name another output")))
            }
            TargetKind::Parts(path) if path.exists() && !path.is_dir() => {
                Err(Ending::usage(format!("{shown} is no folder, and --parts needs one")))
            }
            TargetKind::Stdout | TargetKind::Table(_) | TargetKind::Parts(_) => Ok(()),
        }
    }

    /// Refuses a manifest in the place of the output, or of a file that is no manifest of this output.
    fn check_manifest(&self) -> Result<(), Ending> {
        let Some(path) = &self.manifest else { return Ok(()) };
        let shown = path.display();
        let (is_output, is_within) = match &self.kind {
            TargetKind::Stdout => (false, false),
            TargetKind::Table(table) => (resolved(path) == resolved(table), false),
            TargetKind::Parts(folder) => {
                let is_within = resolved(folder) == resolved(parent(path));
                (resolved(path) == resolved(folder) || (is_within && is_part(path)), is_within)
            }
        };
        if is_output {
            let text = "is the place of the output: name another file with --manifest, or none";
            return Err(Ending::usage(format!("--manifest {shown} {text}")));
        }
        if !is_within && !parent(path).is_dir() {
            let text = format!("{} is no folder: create it, or name another", parent(path).display());
            return Err(Ending::usage(format!("--manifest {shown}: {text}")));
        }
        if path.symlink_metadata().is_err() {
            return Ok(());
        }
        let Some(found) = FetchManifest::read(path) else {
            return Err(Ending::usage(format!(
                "{shown} is there and is no manifest of exportgate fetch: move it away, or name another file with --manifest, or none"
            )));
        };
        match found.file.filter(|file| *file != self.file_name() && !is_within && !self.is_clobber) {
            None => Ok(()),
            Some(file) => Err(Ending::usage(format!(
                "{shown} is the manifest of {file}: name another file with --manifest, or none; --clobber replaces it"
            ))),
        }
    }

    /// The name of the output, as its manifest has it.
    pub(super) fn file_name(&self) -> String {
        let (TargetKind::Table(path) | TargetKind::Parts(path)) = &self.kind else { return "-".to_owned() };
        resolved(path).file_name().unwrap_or_default().to_string_lossy().into_owned()
    }

    /// The output in words.
    pub(super) fn shown(&self) -> String {
        match &self.kind {
            TargetKind::Stdout => "standard output".to_owned(),
            TargetKind::Table(path) | TargetKind::Parts(path) => path.display().to_string(),
        }
    }

    pub(super) fn format(&self) -> &'static str {
        match self.kind {
            TargetKind::Parts(_) => "parts",
            TargetKind::Stdout | TargetKind::Table(_) if self.is_jsonl => "jsonl",
            TargetKind::Stdout | TargetKind::Table(_) => "csv",
        }
    }

    /// True if there is an output already.
    pub(super) fn exists(&self) -> bool {
        match &self.kind {
            TargetKind::Stdout => false,
            TargetKind::Table(path) => path.symlink_metadata().is_ok(),
            TargetKind::Parts(folder) => !parts_in(folder).is_empty(),
        }
    }

    /// Refuses an output that is there and is not to be replaced.
    pub(super) fn refuse_existing(&self) -> Result<(), Ending> {
        let (TargetKind::Table(path) | TargetKind::Parts(path)) = &self.kind else { return Ok(()) };
        if self.exists() && !self.is_clobber {
            let text = "exists: --clobber replaces it, --skip-existing leaves it as it is";
            return Err(Ending::usage(format!("{} {text}", path.display())));
        }
        Ok(())
    }

    /// The folder of the state: beside the output, or in `elsewhere` for standard output.
    pub(super) fn state_folder(&self, question: &FetchQuestion, elsewhere: &Path) -> PathBuf {
        match &self.kind {
            TargetKind::Table(path) => {
                let name = path.file_name().unwrap_or_default().to_string_lossy();
                parent(path).join(format!(".{name}.exportgate"))
            }
            TargetKind::Parts(folder) => folder.join(".exportgate"),
            TargetKind::Stdout => {
                let hash = digest(&SHA256, question.typed.to_string().as_bytes());
                elsewhere.join(format!("exportgate-{}", hex(&hash.as_ref()[..16])))
            }
        }
    }

    /// Puts the file at `from` in the place of the output, whole or not at all.
    pub(super) fn put(&self, from: &Path, to: &Path) -> Result<(), Ending> {
        let failed = |error: io::Error| {
            if error.kind() == io::ErrorKind::AlreadyExists {
                let text = format!("{} came into being meanwhile: --clobber replaces it", to.display());
                return Ending::usage(text);
            }
            Ending::of_file(to, &error)
        };
        own_file::read(from).and_then(|file| file.sync_all()).map_err(failed)?;
        let done = if self.is_clobber { std::fs::rename(from, to) } else { rename_new(from, to) };
        done.and_then(|()| sync_folder(parent(to))).map_err(failed)
    }

    /// Writes the manifest.
    pub(super) fn put_manifest(&self, content: &[u8]) -> Result<(), Ending> {
        let Some(path) = &self.manifest else { return Ok(()) };
        let failed = |error| Ending::of_file(path, &error);
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let next = parent(path).join(format!(".{name}.{}", uuid::Uuid::new_v4().simple()));
        let write = || {
            let mut file = File::options().write(true).create_new(true).open(&next)?;
            io::Write::write_all(&mut file, content)?;
            file.sync_all()?;
            std::fs::rename(&next, path)?;
            sync_folder(parent(path))
        };
        write().inspect_err(|_| drop(std::fs::remove_file(&next))).map_err(failed)
    }
}

/// Renames where nothing is there yet.
fn rename_new(from: &Path, to: &Path) -> io::Result<()> {
    match renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        // The file system does not know the flag.
        Err(Errno::INVAL | Errno::NOSYS) => {
            std::fs::hard_link(from, to)?;
            std::fs::remove_file(from)
        }
        renamed => Ok(renamed?),
    }
}

/// The files in a folder that have names of parts.
pub(super) fn parts_in(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).filter(|path| is_part(path)).collect()
}

fn is_part(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    name.starts_with("part-") && name.ends_with(".csv")
}

/// The path with its folder as it really is: two names of one place are equal.
fn resolved(path: &Path) -> PathBuf {
    if let Ok(real) = path.canonicalize() {
        return real;
    }
    let folder = parent(path).canonicalize().unwrap_or_else(|_| parent(path).to_owned());
    folder.join(path.file_name().unwrap_or_default())
}

fn parent(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}
