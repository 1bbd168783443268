//! The ways in which a merge ends early.

use std::io;

use super::failure::Ending;

/// A merge that ended early.
#[derive(Debug)]
pub(super) enum MergeError {
    /// The reader of standard output has closed it.
    Closed,
    /// The table cannot be written.
    Write(io::Error),
    Ending(Ending),
}

impl MergeError {
    pub(super) fn of_write(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::BrokenPipe { Self::Closed } else { Self::Write(error) }
    }
}

impl From<Ending> for MergeError {
    fn from(ending: Ending) -> Self {
        Self::Ending(ending)
    }
}
