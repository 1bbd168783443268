//! The bytes of one object, or of a range of it, in order: what breaks off is resumed where it broke.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt as _;
use tokio::time::sleep;

use super::conditions::ByteSpan;
use super::error::{FilesError, FilesErrorKind};
use super::links::{ExportLinks, Target};
use crate::file_store::{StoreAnswer, StoreBody, StoreError, StoreRange, StrongTag};

/// The pauses before a download is resumed: it is so often at the most.
const PAUSES: [Duration; 3] = [Duration::ZERO, Duration::from_millis(500), Duration::from_secs(2)];

/// The marks by which an object is known again.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct ObjectMarks {
    /// Its size; none where the store decodes it as it sends it.
    pub(super) size: Option<u64>,
    pub(super) tag: Option<StrongTag>,
    pub(super) generation: Option<u64>,
    pub(super) crc32c: Option<u32>,
}

impl ObjectMarks {
    fn of(answer: &StoreAnswer) -> Self {
        Self {
            size: answer.total.filter(|_| !answer.is_decoded),
            tag: answer.tag.clone(),
            generation: answer.generation,
            crc32c: answer.crc32c,
        }
    }

    /// An object of no bytes.
    fn empty() -> Self {
        Self { size: Some(0), ..Self::default() }
    }

    /// True if another object of the same size would be noticed.
    pub(super) const fn is_certain(&self) -> bool {
        self.size.is_some() && (self.tag.is_some() || self.generation.is_some() || self.crc32c.is_some())
    }

    /// True if `other` is the same object: no mark differs, and where this one has marks, one of them is the same. Stores
    /// do not give all of them with each answer.
    fn is_same(&self, other: &Self) -> bool {
        let marks = [
            common(self.tag.as_ref(), other.tag.as_ref()),
            common(self.generation, other.generation),
            common(self.crc32c, other.crc32c),
        ];
        self.size == other.size
            && !marks.contains(&Some(false))
            && (marks.contains(&Some(true)) || !self.is_certain())
    }
}

/// True if two marks are the same; `None` where one is missing.
fn common<T: PartialEq>(one: Option<T>, other: Option<T>) -> Option<bool> {
    Some(one? == other?)
}

/// The bytes of an object on their way.
#[derive(Debug)]
pub(super) struct ObjectBytes {
    links: Arc<ExportLinks>,
    target: Target,
    pub(super) identity: ObjectMarks,
    /// The position of the next byte.
    at: u64,
    /// The last byte that is wanted; none where that is the object's.
    last: Option<u64>,
    /// Bytes to drop, where the store began before `at`.
    ahead: u64,
    body: Option<StoreBody>,
    resumes: usize,
}

impl ObjectBytes {
    /// Asks for all of an object. With `known`, it must be that one still.
    pub(super) async fn whole(
        links: &Arc<ExportLinks>,
        target: Target,
        known: Option<&ObjectMarks>,
    ) -> Result<Self, FilesError> {
        Self::open(links, target, known, StoreRange::default()).await
    }

    /// Asks for a range of an object that is known.
    pub(super) async fn range(
        links: &Arc<ExportLinks>,
        target: Target,
        known: &ObjectMarks,
        span: ByteSpan,
    ) -> Result<Self, FilesError> {
        let range = StoreRange { from: span.first, to: Some(span.last), if_match: None };
        Self::open(links, target, Some(known), range).await
    }

    /// Asks for the first bytes of an object that is not known; of an empty one there are none.
    pub(super) async fn start(
        links: &Arc<ExportLinks>,
        target: Target,
        last: u64,
    ) -> Result<Self, FilesError> {
        let range = StoreRange { from: 0, to: Some(last), if_match: None };
        Self::open(links, target, None, range).await
    }

    async fn open(
        links: &Arc<ExportLinks>,
        target: Target,
        known: Option<&ObjectMarks>,
        range: StoreRange,
    ) -> Result<Self, FilesError> {
        let (at, last) = (range.from, range.to);
        let range = StoreRange { if_match: known.and_then(|known| known.tag.clone()), ..range };
        let links = Arc::clone(links);
        let download = |identity| Self {
            links: Arc::clone(&links),
            target,
            identity,
            at,
            last,
            ahead: 0,
            body: None,
            resumes: 0,
        };
        let answer = match links.get(&target, &range).await {
            Ok(answer) => answer,
            Err(error) if error.is_empty_object() && known.is_none() => {
                return Ok(download(ObjectMarks::empty()));
            }
            Err(error) => return Err(error),
        };
        if answer.is_encoded {
            return Err(FilesErrorKind::NotCsv.into());
        }
        let mut download = download(known.cloned().unwrap_or_else(|| ObjectMarks::of(&answer)));
        download.take(answer)?;
        Ok(download)
    }

    /// Goes on with an answer, which must be of the same object.
    fn take(&mut self, answer: StoreAnswer) -> Result<(), FilesError> {
        if !self.identity.is_same(&ObjectMarks::of(&answer)) || answer.position > self.at {
            return Err(FilesErrorKind::ObjectChanged.into());
        }
        self.ahead = self.at - answer.position;
        self.body = Some(answer.body);
        Ok(())
    }

    /// The next bytes; `None` when all have come.
    ///
    /// # Errors
    /// It broke off too often, or the object changed.
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>, FilesError> {
        loop {
            if self.has_all() {
                self.body = None;
                return Ok(None);
            }
            let Some(body) = &mut self.body else { return Ok(None) };
            match body.frame().await {
                Some(Ok(frame)) => {
                    let data = self.wanted(frame.into_data().unwrap_or_default());
                    if !data.is_empty() {
                        return Ok(Some(data));
                    }
                }
                // Without a length, the store alone knows the end.
                None if self.identity.size.is_none() => self.body = None,
                None => self.resume(FilesErrorKind::StoreUnreachable.into()).await?,
                Some(Err(error)) => self.resume_after(error).await?,
            }
        }
    }

    fn has_all(&self) -> bool {
        let ends = [self.last.map(|last| last + 1), self.identity.size];
        ends.into_iter().flatten().min().is_some_and(|end| self.at >= end)
    }

    /// The part of `data` that was asked for.
    fn wanted(&mut self, mut data: Bytes) -> Bytes {
        self.links.figures.bytes.fetch_add(data.len() as u64, Ordering::Relaxed);
        let dropped = usize::try_from(self.ahead).unwrap_or(usize::MAX).min(data.len());
        self.ahead -= dropped as u64;
        let _ = data.split_to(dropped);
        if let Some(last) = self.last {
            data.truncate(usize::try_from((last + 1).saturating_sub(self.at)).unwrap_or(usize::MAX));
        }
        self.at += data.len() as u64;
        data
    }

    async fn resume_after(&mut self, error: StoreError) -> Result<(), FilesError> {
        let passes = error.kind.passes();
        let error = FilesError::from(error);
        if passes { self.resume(error).await } else { Err(error) }
    }

    /// Asks for the rest, while there is a way to know the object again.
    async fn resume(&mut self, mut error: FilesError) -> Result<(), FilesError> {
        self.body = None;
        while self.resumes < PAUSES.len() && self.identity.is_certain() {
            sleep(PAUSES[self.resumes]).await;
            self.resumes += 1;
            self.links.figures.resumes.fetch_add(1, Ordering::Relaxed);
            let range = StoreRange { from: self.at, to: self.last, if_match: self.identity.tag.clone() };
            match self.links.get(&self.target, &range).await {
                Ok(answer) => return self.take(answer),
                Err(failed) if failed.passes() => error = failed,
                Err(failed) => return Err(failed),
            }
        }
        Err(error)
    }
}
