//! The reasons that the journal cannot be written, and the remedies.

use std::io;
use std::path::PathBuf;

use rusqlite::ErrorCode;

/// The reason that something is not on record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unrecorded {
    /// Not yet: the file cannot be written at the moment, or not in time; the log says why.
    #[error("the journal cannot be written at the moment")]
    Failing,
    /// The attempt was never recorded, or has been pruned.
    #[error("the attempt is not in the journal")]
    NoAttempt,
    /// The journal was closed, or its thread died.
    #[error("the journal is closed")]
    Closed,
}

/// The reason that opening or writing the file failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum JournalFault {
    /// A directory above the file is missing and cannot be made.
    #[error("cannot create the directory {}", .0.display())]
    Directory(PathBuf, #[source] io::Error),
    /// The file is missing and cannot be made, or cannot be looked at.
    #[error("cannot create the file")]
    File(#[source] io::Error),
    /// A newer program wrote the file.
    #[error("the file has schema version {found}, and this exportgate knows versions up to {known}")]
    Newer {
        /// The file's version.
        found: i64,
        /// The newest version that this program knows.
        known: i64,
    },
    /// The file is a database, but no journal.
    #[error("the file is a SQLite database of another program")]
    Foreign,
    /// SQLite reports an error.
    #[error("SQLite cannot read or write the file")]
    Sqlite(#[from] rusqlite::Error),
}

impl JournalFault {
    /// Another connection holds the lock; nothing is wrong with the file.
    pub(super) fn is_busy(&self) -> bool {
        matches!(self.code(), Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked))
    }

    /// Something is wrong with what is written, so that writing it again fails again.
    pub(super) fn is_in_the_data(&self) -> bool {
        let of_data = [ErrorCode::ConstraintViolation, ErrorCode::TypeMismatch, ErrorCode::TooBig];
        self.code().is_some_and(|code| of_data.contains(&code))
    }

    /// The remedy, as a sentence for the log.
    pub(super) fn advice(&self) -> &'static str {
        match self {
            Self::Directory(..) | Self::File(_) => WRITABLE,
            Self::Newer { .. } => "upgrade exportgate, or set journal.path to another file",
            Self::Foreign => "set journal.path to a file of its own",
            Self::Sqlite(_) => self.code().map_or(LOOK, advice_for),
        }
    }

    /// The fault and its causes in one line.
    pub(super) fn error_text(&self) -> String {
        crate::error_text::error_text(self)
    }

    fn code(&self) -> Option<ErrorCode> {
        match self {
            Self::Sqlite(error) => error.sqlite_error_code(),
            Self::Directory(..) | Self::File(_) | Self::Newer { .. } | Self::Foreign => None,
        }
    }
}

const LOOK: &str = "check journal.path and its disk";
const WRITABLE: &str = "make journal.path and its directory writable for the user that exportgate runs as";

fn advice_for(code: ErrorCode) -> &'static str {
    if code == ErrorCode::OperationInterrupted {
        "it took too long: look for less, with an id or a shorter time"
    } else if code == ErrorCode::DiskFull {
        "free space on the journal's disk, or lower journal.max_rows or journal.max_age"
    } else if matches!(code, ErrorCode::NotADatabase | ErrorCode::DatabaseCorrupt) {
        "move the file (with its -wal and -shm) away; a new one is made without a restart"
    } else if matches!(code, ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) {
        "end the program that holds the file locked (a sqlite3 shell inside a transaction, a backup)"
    } else if matches!(code, ErrorCode::CannotOpen | ErrorCode::ReadOnly | ErrorCode::PermissionDenied) {
        WRITABLE
    } else {
        LOOK
    }
}
