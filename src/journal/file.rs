//! The journal's file on the disk. Its owner alone can read it (0600, new directories 0700), for it names clients and what
//! they asked for.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::Path;

use super::fault::JournalFault;

/// Makes the file and the directories above it, for the owner alone; leaves what exists as it is.
pub(super) fn create(path: &Path) -> Result<(), JournalFault> {
    if let Some(directory) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        create_directory(directory).map_err(|error| JournalFault::Directory(directory.to_owned(), error))?;
    }
    match create_file(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        other => other.map(drop).map_err(JournalFault::File),
    }
}

#[cfg(unix)]
fn create_directory(path: &Path) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path)
}

#[cfg(not(unix))]
fn create_directory(path: &Path) -> io::Result<()> {
    fs::create_dir_all(path)
}

#[cfg(unix)]
fn create_file(path: &Path) -> io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt;
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)
}

#[cfg(not(unix))]
fn create_file(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create_new(true).open(path)
}

/// Device and inode, which differ for another file at the same path.
pub(super) type Identity = (u64, u64);

#[cfg(unix)]
pub(super) fn identity(path: &Path) -> Option<Identity> {
    use std::os::unix::fs::MetadataExt;
    fs::metadata(path).ok().map(|found| (found.dev(), found.ino()))
}

#[cfg(not(unix))]
pub(super) fn identity(path: &Path) -> Option<Identity> {
    path.exists().then_some((0, 0))
}
