//! The links of one export, renewed when they are dead, for all that one client's request runs.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::FilesParts;
use super::error::{FilesError, FilesErrorKind};
use super::results::{FilePart, PartList, ResultsReader};
use crate::clock::Now;
use crate::file_store::{Link, ObjectId, StoreAnswer, StoreErrorKind, StoreRange};
use crate::shared::PurgedExports;

/// A link is usable while it lives so much longer. An answer that is younger than this has none that are better.
const LEAST_LIFE: Duration = Duration::from_mins(1);

/// The links that are held, and the figures of what was done with them.
#[derive(Debug)]
pub(super) struct ExportLinks {
    pub(super) with: Arc<FilesParts>,
    reader: ResultsReader,
    held: Mutex<PartList>,
    /// One renewal at a time: the next one finds its links.
    renewing: tokio::sync::Mutex<()>,
    pub(super) figures: Figures,
}

/// The figures of a transfer, as it goes.
#[derive(Debug, Default)]
pub(super) struct Figures {
    /// Bytes that stores sent.
    pub(super) bytes: AtomicU64,
    pub(super) resumes: AtomicU32,
    pub(super) renewals: AtomicU32,
    host: Mutex<Option<Arc<str>>>,
}

/// Snyk's numbers of a part.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Numbers {
    pub(super) row_count: Option<u64>,
    pub(super) file_size: Option<u64>,
}

/// The object of a part. The number finds it in the first answer; a later one may have another order.
#[derive(Debug, Clone, Copy)]
pub(super) struct Target {
    /// The part, from 0.
    pub(super) part: usize,
    pub(super) object: ObjectId,
}

impl ExportLinks {
    pub(super) fn new(with: &Arc<FilesParts>, reader: ResultsReader, held: PartList) -> Self {
        Self {
            with: Arc::clone(with),
            reader,
            held: Mutex::new(held),
            renewing: tokio::sync::Mutex::default(),
            figures: Figures::default(),
        }
    }

    pub(super) fn export(&self) -> &str {
        self.reader.export()
    }

    /// The purge that takes what is known of the export.
    pub(super) fn purged_by(&self) -> PurgedExports {
        self.reader.purged_by()
    }

    /// The parts that are held.
    pub(super) fn parts(&self) -> Arc<[FilePart]> {
        Arc::clone(&lock(&self.held).parts)
    }

    /// `row_count` of the export.
    pub(super) fn row_count(&self) -> Option<u64> {
        lock(&self.held).row_count
    }

    /// `row_count` and `file_size` of a part.
    pub(super) fn numbers(&self, target: Target) -> Numbers {
        let parts = self.parts();
        let part = parts.iter().find(|part| usable(part).is_ok_and(|link| link.object() == target.object));
        part.map_or_else(Numbers::default, |part| Numbers {
            row_count: part.row_count,
            file_size: part.file_size,
        })
    }

    /// Forgets what is remembered of its objects: one of them has changed.
    pub(super) fn forget(&self) {
        for link in self.parts().iter().filter_map(|part| usable(part).ok()) {
            self.with.facts.invalidate(&link.object());
        }
    }

    /// The client's name.
    pub(super) fn client(&self) -> &Arc<str> {
        self.reader.client()
    }

    /// The object of a part.
    pub(super) fn target(&self, part: usize) -> Result<Target, FilesError> {
        let parts = self.parts();
        Ok(Target { part, object: usable(&parts[part])?.object() })
    }

    /// Asks the store for a range of an object. A link that is dead, or refused as expired, is renewed once.
    pub(super) async fn get(&self, target: &Target, range: &StoreRange) -> Result<StoreAnswer, FilesError> {
        let (mut link, mut arrival) = self.find(target)?;
        let mut may_renew = true;
        if is_dying(&link, arrival, self.with.clock.now()) {
            may_renew = false;
            // If Snyk cannot be asked now, it may live long enough.
            if self.renew(arrival).await.is_ok() {
                (link, arrival) = self.find(target)?;
            }
        }
        loop {
            self.figures.ask(link.host());
            match self.with.store.get(&link, range).await {
                Ok(answer) => return Ok(answer),
                Err(error) if error.kind == StoreErrorKind::Expired && may_renew => {
                    may_renew = false;
                    self.renew(arrival).await?;
                    (link, arrival) = self.find(target)?;
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn find(&self, target: &Target) -> Result<(Link, Now), FilesError> {
        let PartList { parts, arrival, .. } = lock(&self.held).clone();
        let is_it =
            |part: &FilePart| usable(part).ok().filter(|link| link.object() == target.object).cloned();
        let in_place = parts.get(target.part).and_then(is_it);
        let link = in_place.or_else(|| parts.iter().find_map(is_it));
        Ok((link.ok_or(FilesErrorKind::ObjectChanged)?, arrival))
    }

    /// Reads the results anew, unless that was done since `refused`.
    async fn renew(&self, refused: Now) -> Result<(), FilesError> {
        let _one = self.renewing.lock().await;
        if lock(&self.held).arrival.mono > refused.mono {
            return Ok(());
        }
        self.figures.renewals.fetch_add(1, Ordering::Relaxed);
        let newer = self.reader.newer(&self.with, refused).await?;
        *lock(&self.held) = newer;
        Ok(())
    }
}

impl Figures {
    fn ask(&self, host: &str) {
        let mut last = lock(&self.host);
        if last.as_deref() != Some(host) {
            *last = Some(host.into());
        }
    }

    /// The host that was asked last.
    pub(super) fn host(&self) -> Option<Arc<str>> {
        lock(&self.host).clone()
    }
}

/// The link of a part, if there is one that may be asked.
fn usable(part: &FilePart) -> Result<&Link, FilesError> {
    match &part.link {
        None => Err(FilesErrorKind::LinkMissing.into()),
        Some(Ok(link)) => Ok(link),
        Some(Err(error)) => Err(FilesError::by(FilesErrorKind::HostNotAllowed, error.clone())),
    }
}

fn is_dying(link: &Link, arrival: Now, now: Now) -> bool {
    let age = now.wall.duration_since(arrival.wall).unwrap_or_default();
    let is_new = age.max(now.mono.saturating_duration_since(arrival.mono)) < LEAST_LIFE;
    !is_new && link.end().is_some_and(|end| end < now.wall + LEAST_LIFE)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
