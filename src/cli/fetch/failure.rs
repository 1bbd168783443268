//! The ends of a run that are no success, each with its exit code and a text that says what to do.

use std::fmt;
use std::io::ErrorKind;

use super::super::CommandError;

/// The exit codes of `exportgate fetch`, but for 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum EndingKind {
    /// Something failed.
    Failed,
    /// The command line or the question is not right.
    Usage,
    /// The state is kept, and the same command goes on: now, with more room, or after the run that holds the lock.
    Unfinished,
    /// The gateway or Snyk does not let the caller in.
    NotAuthorised,
    /// Snyk could not make the export.
    ExportFailed,
    /// The bytes that came are not whole, or do not fit together.
    NotWhole,
    /// A quota is used up, or Snyk asked for a pause.
    Held,
    /// A signal ended the run.
    Stopped(i32),
}

impl EndingKind {
    fn exit_code(self) -> u8 {
        match self {
            Self::Failed => 1,
            Self::Usage => 2,
            Self::Unfinished => 3,
            Self::NotAuthorised => 4,
            Self::ExportFailed => 5,
            Self::NotWhole => 6,
            Self::Held => 7,
            Self::Stopped(signal) => u8::try_from(128 + signal).unwrap_or(130),
        }
    }
}

/// A run that did not end well.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Ending {
    pub(super) kind: EndingKind,
    pub(super) text: String,
}

impl Ending {
    pub(super) fn new(kind: EndingKind, text: impl Into<String>) -> Self {
        Self { kind, text: text.into() }
    }

    pub(super) fn failed(text: impl Into<String>) -> Self {
        Self::new(EndingKind::Failed, text)
    }

    pub(super) fn usage(text: impl Into<String>) -> Self {
        Self::new(EndingKind::Usage, text)
    }

    pub(super) fn not_whole(text: impl Into<String>) -> Self {
        Self::new(EndingKind::NotWhole, text)
    }

    /// The failure of a file's or folder's use.
    pub(super) fn of_file(path: &std::path::Path, error: &std::io::Error) -> Self {
        let path = path.display();
        let full = [
            (ErrorKind::StorageFull, "no space is left"),
            (ErrorKind::QuotaExceeded, "the disk quota is used up"),
            (ErrorKind::FileTooLarge, "a file may not be as large (ulimit -f, or the file system)"),
        ];
        let Some((_, full)) = full.into_iter().find(|(kind, _)| *kind == error.kind()) else {
            return Self::failed(format!("{path}: {error}"));
        };
        let text = format!("{full} for {path}: make room and run the same command again; what came is kept");
        Self::new(EndingKind::Unfinished, text)
    }
}

impl fmt::Display for Ending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl From<Ending> for CommandError {
    fn from(ending: Ending) -> Self {
        Self::Coded { code: ending.kind.exit_code(), text: ending.text }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_ending_has_the_exit_code_of_the_help_text() {
        use EndingKind as K;
        let kinds =
            [K::Failed, K::Usage, K::Unfinished, K::NotAuthorised, K::ExportFailed, K::NotWhole, K::Held];
        assert_eq!(kinds.map(K::exit_code), [1, 2, 3, 4, 5, 6, 7]);
        assert_eq!([K::Stopped(2), K::Stopped(15)].map(K::exit_code), [130, 143]);
    }

    #[test]
    fn a_full_disk_is_said_in_plain_words() {
        for (kind, text) in [
            (ErrorKind::StorageFull, "no space is left for /x/y: make room"),
            (ErrorKind::QuotaExceeded, "the disk quota is used up for /x/y"),
            (ErrorKind::FileTooLarge, "ulimit -f"),
        ] {
            let ending = Ending::of_file(std::path::Path::new("/x/y"), &kind.into());
            assert_eq!(ending.kind, EndingKind::Unfinished, "the same command goes on");
            assert!(ending.text.contains(text), "{}", ending.text);
        }
    }
}
