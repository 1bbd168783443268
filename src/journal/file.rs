//! The journal's file on the disk. Its owner alone can read it (0600, new directories 0700), for it names clients and what
//! they asked for.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;

use super::fault::JournalFault;

/// Makes the file and the directories above it, for the owner alone; leaves what exists as it is.
pub(super) fn create(path: &Path) -> Result<(), JournalFault> {
    if let Some(directory) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        let made = DirBuilder::new().recursive(true).mode(0o700).create(directory);
        made.map_err(|error| JournalFault::Directory(directory.to_owned(), error))?;
    }
    match OpenOptions::new().write(true).create_new(true).mode(0o600).open(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        other => other.map(drop).map_err(JournalFault::File),
    }
}

/// Device and inode, which differ for another file at the same path.
pub(super) type Identity = (u64, u64);

pub(super) fn identity(path: &Path) -> Option<Identity> {
    fs::metadata(path).ok().map(|found| (found.dev(), found.ino()))
}
