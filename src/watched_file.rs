//! Files that may be replaced while we run: tokens, keys, certificates, the clients.
//!
//! They are read again at a fixed interval rather than watched: reading a few kilobytes a second costs
//! nothing, and sees a rename, a swapped symlink (as Kubernetes does it) and an edit in place alike. A new
//! content is taken only when two readings in a row agree, so that a half-written file is never used; what
//! cannot be used leaves the last good one in force, and is said once.

use std::error::Error;
use std::io::{self, Read as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use aws_lc_rs::digest::{Context, Digest, SHA256};
use zeroize::Zeroizing;

/// Largest file that is read, in bytes.
pub const MAX_FILE: u64 = 4 * 1024 * 1024;
/// Readable or writable by others than owner and group.
const OTHERS: u32 = 0o006;

/// The bytes of a file; zeroed when dropped, for it may hold a secret.
pub type Content = Zeroizing<Vec<u8>>;

/// A file cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("cannot read {}", path.display())]
pub struct Unreadable {
    /// Which file.
    pub path: PathBuf,
    /// Why.
    pub source: io::Error,
}

impl Unreadable {
    /// There is no such file.
    pub(crate) fn is_missing(&self) -> bool {
        self.source.kind() == io::ErrorKind::NotFound
    }
}

/// Reads a regular file of at most [`MAX_FILE`].
///
/// # Errors
/// [`Unreadable`].
pub fn read(path: &Path) -> Result<Content, Unreadable> {
    let reading = || {
        let metadata = std::fs::metadata(path)?;
        if !metadata.is_file() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
        }
        if metadata.len() > MAX_FILE {
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, "larger than 4 MiB"));
        }
        let mut content =
            Zeroizing::new(Vec::with_capacity(usize::try_from(metadata.len()).unwrap_or(0) + 1));
        std::fs::File::open(path)?.take(MAX_FILE).read_to_end(&mut content)?;
        Ok(content)
    };
    reading().map_err(|source| Unreadable { path: path.to_owned(), source })
}

/// Warns when others may read or change a file that holds a secret.
pub fn report_exposed(path: &Path) {
    let mode = std::fs::metadata(path).map_or(0, |found| found.permissions().mode());
    if mode & OTHERS != 0 {
        tracing::warn!(
            file.path = %path.display(),
            file.mode = format!("{:04o}", mode & 0o7777),
            "everybody on this machine can read or change this secret file: chmod 0600 (Kubernetes: defaultMode 0400)"
        );
    }
}

/// Stands for a file's content; `None` where it cannot be read.
pub(crate) fn fingerprint(path: &Path) -> Option<[u8; 32]> {
    let content = read(path).ok()?;
    digest(&[content]).as_ref().try_into().ok()
}

/// The state of followed files, for status and metrics.
#[derive(Debug)]
pub struct Watched {
    /// Their kind: `configuration`, `clients`, `tls`, `jwks` or `credential`.
    pub what: &'static str,
    taken: AtomicU64,
    failed: AtomicU64,
    failing: Mutex<Option<(Instant, String)>>,
}

impl Watched {
    /// Nothing was taken yet since the start.
    pub(crate) fn new(what: &'static str) -> Arc<Self> {
        let (taken, failed) = (AtomicU64::new(0), AtomicU64::new(0));
        Arc::new(Self { what, taken, failed, failing: Mutex::default() })
    }

    /// New contents were taken.
    pub fn good(&self) {
        self.taken.fetch_add(1, Ordering::Relaxed);
        self.mended();
    }

    /// Takes the counts of another over, which is gone.
    pub fn inherit(&self, other: &Self) {
        let (taken, failed) = other.counts();
        self.taken.fetch_add(taken, Ordering::Relaxed);
        self.failed.fetch_add(failed, Ordering::Relaxed);
    }

    /// The contents are in force.
    pub fn mended(&self) {
        *self.failing.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// The contents cannot be used; true if that is news.
    pub fn bad(&self, why: String) -> bool {
        let mut failing = self.failing.lock().unwrap_or_else(PoisonError::into_inner);
        let is_news = failing.as_ref().is_none_or(|(_, before)| *before != why);
        if is_news {
            self.failed.fetch_add(1, Ordering::Relaxed);
        }
        let since = failing.as_ref().map_or_else(Instant::now, |(since, _)| *since);
        *failing = Some((since, why));
        is_news
    }

    /// The numbers of new contents that were taken, and that could not be used.
    pub(crate) fn counts(&self) -> (u64, u64) {
        (self.taken.load(Ordering::Relaxed), self.failed.load(Ordering::Relaxed))
    }

    /// Since when they cannot be used, and why.
    pub(crate) fn failing(&self) -> Option<(Instant, String)> {
        self.failing.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Some files that belong together, and what was taken of them last.
#[derive(Debug)]
pub struct Followed {
    watched: Arc<Watched>,
    paths: Vec<PathBuf>,
    /// The content in force.
    taken: Digest,
    /// The content of the last reading.
    seen: Option<Digest>,
    /// True if they may be missing at first.
    optional: bool,
}

impl Followed {
    /// Reads `paths` for the first time. `what` names them in the log.
    ///
    /// # Errors
    /// The first that cannot be read.
    pub fn open(what: &'static str, paths: Vec<PathBuf>) -> Result<(Self, Vec<Content>), Unreadable> {
        let contents = paths.iter().map(|path| read(path)).collect::<Result<Vec<_>, _>>()?;
        let taken = digest(&contents);
        let watched = Watched::new(what);
        Ok((Self { watched, paths, taken, seen: Some(taken), optional: false }, contents))
    }

    /// The same for a file that need not be there yet.
    ///
    /// # Errors
    /// When it is there and cannot be read.
    pub fn open_optional(what: &'static str, path: PathBuf) -> Result<(Self, Option<Content>), Unreadable> {
        match read(&path) {
            Err(error) if error.is_missing() => {
                let taken = digest(&[]);
                let watched = Watched::new(what);
                Ok((Self { watched, paths: vec![path], taken, seen: None, optional: true }, None))
            }
            Err(error) => Err(error),
            Ok(_) => {
                let (followed, mut contents) = Self::open(what, vec![path])?;
                Ok((Self { optional: true, ..followed }, contents.pop()))
            }
        }
    }

    /// Their state.
    pub(crate) fn watched(&self) -> Arc<Watched> {
        Arc::clone(&self.watched)
    }

    /// Reads every `interval` and hands new contents to `take`; never ends.
    pub async fn follow(
        mut self,
        interval: Duration,
        mut take: impl FnMut(&[Content]) -> Result<(), Box<dyn Error + Send + Sync>>,
    ) {
        let mut ticks = tokio::time::interval(interval);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let paths = self.paths.clone();
            let reading = tokio::task::spawn_blocking(move || {
                paths.iter().map(|path| read(path)).collect::<Result<Vec<_>, _>>()
            });
            let Ok(read) = reading.await else { continue };
            if self.optional && read.as_ref().is_err_and(Unreadable::is_missing) {
                continue;
            }
            match read.map_err(Into::into).and_then(|contents| self.offer(&contents, &mut take)) {
                Ok(taken) => {
                    if taken || self.watched.failing().is_some() {
                        tracing::info!(
                            files = self.watched.what,
                            files.replaced = taken,
                            "file reloaded or readable again"
                        );
                    }
                    if taken {
                        self.watched.good();
                    } else {
                        self.watched.mended();
                    }
                }
                Err(error) => {
                    let error = crate::error_text::error_text(&*error);
                    if self.watched.bad(error.clone()) {
                        tracing::error!(
                            files = self.watched.what,
                            error,
                            "file reload failed; keeping the last good version; fix the file"
                        );
                    }
                }
            }
        }
    }

    /// Takes `contents` when they are new and were read twice in a row; whether they were taken.
    fn offer(
        &mut self,
        contents: &[Content],
        take: &mut impl FnMut(&[Content]) -> Result<(), Box<dyn Error + Send + Sync>>,
    ) -> Result<bool, Box<dyn Error + Send + Sync>> {
        let digest = digest(contents);
        let is = |other: &Digest| other.as_ref() == digest.as_ref();
        let settled = self.seen.replace(digest).as_ref().is_some_and(is);
        if is(&self.taken) {
            return Ok(false);
        }
        if !settled {
            // Not yet known to be good or bad.
            return match self.watched.failing() {
                Some((_, why)) => Err(why.into()),
                None => Ok(false),
            };
        }
        take(contents)?;
        self.taken = digest;
        Ok(true)
    }
}

fn digest(contents: &[Content]) -> Digest {
    let mut context = Context::new(&SHA256);
    for content in contents {
        context.update(&content.len().to_be_bytes());
        context.update(content);
    }
    context.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_content_is_taken_once_when_read_twice_and_a_bad_one_never() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("f");
        std::fs::write(&path, "old").expect("a file");
        let (mut followed, contents) = Followed::open("test", vec![path]).expect("readable");
        assert_eq!(contents[0].as_slice(), b"old");
        let mut in_force = String::new();
        let mut offer = |text: &str| {
            let content = [Zeroizing::new(text.as_bytes().to_vec())];
            followed
                .offer(&content, &mut |contents| {
                    let text = String::from_utf8(contents[0].to_vec())?;
                    if text == "bad" {
                        return Err("bad".into());
                    }
                    in_force = text;
                    Ok(())
                })
                .ok()
        };
        assert_eq!(offer("half"), Some(false));
        assert_eq!(offer("half-written"), Some(false));
        assert_eq!(offer("half-written"), Some(true));
        assert_eq!(offer("half-written"), Some(false));
        assert_eq!(offer("bad"), Some(false));
        assert_eq!(offer("bad"), None);
        assert_eq!(in_force, "half-written");
    }

    #[test]
    fn only_regular_files_of_a_sane_size_are_read() {
        let directory = tempfile::tempdir().expect("a directory");
        assert!(read(directory.path()).is_err());
        assert!(read(Path::new("/dev/zero")).is_err());
        let large = directory.path().join("large");
        std::fs::File::create(&large).expect("a file").set_len(MAX_FILE + 1).expect("a length");
        assert!(read(&large).is_err());
    }
}
