//! The facts of parts, by their objects: what a description and a table need. They are found by reading the start of an
//! object, remembered for an hour, and hold no link.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};

use super::conditions::ByteSpan;
use super::error::{FilesError, FilesErrorKind};
use super::layout::PartShape;
use super::links::{ExportLinks, Target};
use super::object::{ObjectBytes, ObjectMarks};
use crate::csv::{Header, HeaderError, MAX_HEADER};
use crate::file_store::ObjectId;
use crate::shared::PurgedExports;

/// Memory for facts, in bytes. Those of 2,000 parts take 500 KB.
const MAX_FACTS: u64 = 8 * 1024 * 1024;
/// Memory that the facts of a part take besides its tag: measured with those of Google.
const WEIGHT: usize = 236;
const FACTS_LIFE: Duration = Duration::from_hours(1);

/// The facts of one part.
#[derive(Debug)]
pub(super) struct PartFacts {
    /// The purge of the export that it was read for.
    export: PurgedExports,
    pub(super) identity: ObjectMarks,
    header: Result<HeaderFacts, HeaderError>,
    /// True if its last byte is a line feed; `None` where that was not seen.
    ends_line: Option<bool>,
}

/// Forgets the facts of purged exports.
pub(super) fn purge(facts: &FactsByObject, exports: PurgedExports) {
    if exports == PurgedExports::All {
        return facts.invalidate_all();
    }
    let purged = facts.iter().filter(|(_, facts)| facts.export == exports);
    purged.for_each(|(object, _)| facts.invalidate(&*object));
}

/// The header of a part: its columns as a hash.
#[derive(Debug, Clone, Copy)]
pub(super) struct HeaderFacts {
    len: u64,
    bom: u64,
    columns: [u8; 16],
}

/// The facts that are remembered.
pub(super) type FactsByObject = moka::sync::Cache<ObjectId, Arc<PartFacts>>;

/// Objects whose facts are being read: of each, one reading at a time, whoever asks. A reader that leaves makes room for the
/// next one.
#[derive(Debug, Default)]
pub(super) struct Readings(Mutex<HashMap<ObjectId, Weak<tokio::sync::Mutex<()>>>>);

impl Readings {
    async fn begin(&self, object: ObjectId) -> tokio::sync::OwnedMutexGuard<()> {
        let lock = {
            let mut running = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            running.retain(|_, lock| lock.strong_count() > 0);
            running.get(&object).and_then(Weak::upgrade).unwrap_or_else(|| {
                let lock = Arc::default();
                running.insert(object, Arc::downgrade(&lock));
                lock
            })
        };
        lock.lock_owned().await
    }
}

/// No facts yet.
pub(super) fn facts_by_object() -> FactsByObject {
    let weight = |_: &ObjectId, facts: &Arc<PartFacts>| {
        let tag = facts.identity.tag.as_ref().map_or(0, |tag| tag.as_str().len());
        u32::try_from(WEIGHT + tag).unwrap_or(u32::MAX)
    };
    moka::sync::Cache::builder().max_capacity(MAX_FACTS).weigher(weight).time_to_live(FACTS_LIFE).build()
}

impl PartFacts {
    /// The facts of an object, remembered or read.
    pub(super) async fn of(links: &Arc<ExportLinks>, target: Target) -> Result<Arc<Self>, FilesError> {
        let known = || links.with.facts.get(&target.object);
        if let Some(facts) = known() {
            return Ok(facts);
        }
        let _one = links.with.readings.begin(target.object).await;
        if let Some(facts) = known() {
            return Ok(facts);
        }
        Self::read(links, target).await.map(|facts| facts.remember(links, target))
    }

    fn remember(self, links: &ExportLinks, target: Target) -> Arc<Self> {
        let facts = Arc::new(self);
        links.with.facts.insert(target.object, Arc::clone(&facts));
        facts
    }

    /// The same, with the last byte, for which a large object is asked once more.
    pub(super) async fn with_end(links: &Arc<ExportLinks>, target: Target) -> Result<Arc<Self>, FilesError> {
        let facts = Self::of(links, target).await?;
        if facts.has_end() {
            return Ok(facts);
        }
        let _one = links.with.readings.begin(target.object).await;
        match links.with.facts.get(&target.object) {
            Some(facts) if facts.has_end() => Ok(facts),
            _ => facts.read_end(links, target).await.map(|facts| facts.remember(links, target)),
        }
    }

    /// True if its last byte was seen, or cannot be asked for.
    fn has_end(&self) -> bool {
        self.ends_line.is_some() || self.identity.size.is_none()
    }

    async fn read_end(&self, links: &Arc<ExportLinks>, target: Target) -> Result<Self, FilesError> {
        let at = self.identity.size.unwrap_or_default().saturating_sub(1);
        let span = ByteSpan { first: at, last: at };
        let mut download = ObjectBytes::range(links, target, &self.identity, span).await?;
        let mut last = None;
        while let Some(data) = download.next().await? {
            last = data.last().copied().or(last);
        }
        let (export, identity, header) = (self.export, self.identity.clone(), self.header);
        Ok(Self { export, identity, header, ends_line: Some(last == Some(b'\n')) })
    }

    /// Reads the start of an object. Of the bytes, no more are kept than its header has.
    async fn read(links: &Arc<ExportLinks>, target: Target) -> Result<Self, FilesError> {
        let last = MAX_HEADER as u64 - 1;
        let mut download = ObjectBytes::start(links, target, last).await?;
        let (mut start, mut header, mut last_byte, mut read) = (Vec::new(), None, None, 0);
        while let Some(data) = download.next().await? {
            read += data.len() as u64;
            last_byte = data.last().copied();
            if header.is_none() {
                start.extend_from_slice(&data);
                header =
                    Some(Header::of(&start, false)).filter(|found| *found != Err(HeaderError::Unfinished));
            }
            if header.is_some() && download.identity.size.is_none() {
                // The store sends all of it, whatever was asked.
                break;
            }
        }
        let identity = download.identity;
        let is_whole = identity.size == Some(read) || identity.size.is_none() && header.is_none();
        let header = header.unwrap_or_else(|| Header::of(&start, is_whole));
        let ends_line = is_whole.then_some(last_byte.is_none_or(|last| last == b'\n'));
        let (export, header) = (links.purged_by(), header.map(|header| HeaderFacts::of(&header)));
        Ok(Self { export, identity, header, ends_line })
    }

    pub(super) fn header(&self) -> Result<HeaderFacts, FilesError> {
        self.header.map_err(|error| {
            let kind = match error {
                HeaderError::TooLong => FilesErrorKind::HeaderTooLong,
                HeaderError::Cut | HeaderError::Unfinished => FilesErrorKind::NotCsv,
            };
            FilesError::by(kind, error)
        })
    }

    /// Its shape in a table.
    pub(super) fn shape(&self) -> Result<PartShape, FilesError> {
        let HeaderFacts { len: header, bom, .. } = self.header()?;
        Ok(PartShape { size: self.identity.size, header, bom, ends_line: self.ends_line != Some(false) })
    }
}

impl HeaderFacts {
    fn of(header: &Header) -> Self {
        let bare = header.without_bom();
        let bare = bare.strip_suffix(b"\n").unwrap_or(&bare);
        let bare = bare.strip_suffix(b"\r").unwrap_or(bare);
        let mut columns = [0; 16];
        columns.copy_from_slice(&digest(&SHA256, bare).as_ref()[..16]);
        Self { len: header.len() as u64, bom: (header.len() - header.without_bom().len()) as u64, columns }
    }

    /// True if there is none: the part is empty.
    pub(super) const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// True if both name the same columns.
    pub(super) fn has_columns_of(&self, other: &Self) -> bool {
        self.columns == other.columns
    }
}
