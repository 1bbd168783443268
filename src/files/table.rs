//! The table of an export: one header, and the rows of all parts in order.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};

use super::conditions::{ByteSpan, Conditions, Selection};
use super::description::{Description, tag};
use super::error::{FilesError, FilesErrorKind};
use super::facts::PartFacts;
use super::layout::{LINE_END, Layout, Stretch, TablePlace};
use super::links::{ExportLinks, Target};
use super::object::ObjectBytes;
use super::opened::{FileAnswer, TransferOutcome};
use super::part::{self, Described};
use super::transfer::{self, Outlet, Stop, WholePart};
use crate::csv::TotalProof;
use crate::export::FileName;
use crate::file_store::Transfer;

/// Parts that are looked at together.
const AT_ONCE: usize = 8;

/// A table: its parts with their facts, and its layout.
struct JoinedTable {
    links: Arc<ExportLinks>,
    parts: Vec<TablePart>,
    layout: Layout,
}

struct TablePart {
    target: Target,
    facts: Arc<PartFacts>,
}

/// Opens the table.
pub(super) async fn open(
    links: &Arc<ExportLinks>,
    conditions: &Conditions,
    place: Transfer,
) -> Result<Described, FilesError> {
    let table = JoinedTable::of(links).await?;
    let description = table.describe();
    let (links, size) = (Arc::clone(links), description.size);
    let answer = match conditions.select(&description) {
        Selection::Whole => {
            // The first part answers before we do, so that a failure has a status.
            let places = table.layout.in_order_of_proof();
            let first = match places.first() {
                Some(place) => Some(table.whole(place).await?),
                None => None,
            };
            let work = |outlet| async move { table.send_whole(places, first, &outlet).await };
            FileAnswer::Whole(transfer::spawn(links, place, size, work).await?)
        }
        Selection::Range(span) => {
            let stretches = table.layout.stretches(span);
            let first = match stretches.first() {
                Some(Stretch::Part { part, span }) => Some(table.range(*part, *span).await?),
                Some(Stretch::LineEnd) | None => None,
            };
            let work = |outlet| async move { table.send_range(stretches, first, &outlet).await };
            let body = transfer::spawn(links, place, Some(span.len()), work).await?;
            FileAnswer::Range { span, body }
        }
        Selection::Head => FileAnswer::Head,
        Selection::NotModified => FileAnswer::NotModified,
        Selection::Unsatisfiable => FileAnswer::Unsatisfiable,
        Selection::PreconditionFailed => FileAnswer::PreconditionFailed,
    };
    Ok(Described { description, answer })
}

impl JoinedTable {
    /// Looks at all parts: one request to the store for each that is not known, two for a large one.
    async fn of(links: &Arc<ExportLinks>) -> Result<Self, FilesError> {
        let count = links.parts().len();
        let targets: Vec<Target> = (0..count).map(|part| links.target(part)).collect::<Result<_, _>>()?;
        let looks = targets.into_iter().map(|target| async move {
            Ok::<_, FilesError>(TablePart { target, facts: PartFacts::with_end(links, target).await? })
        });
        let parts: Vec<TablePart> = stream::iter(looks).buffered(AT_ONCE).try_collect().await?;
        let headers = parts.iter().map(|part| part.facts.header()).collect::<Result<Vec<_>, _>>()?;
        let mut headers = headers.iter().filter(|header| !header.is_empty());
        if let Some(first) = headers.next()
            && !headers.all(|header| header.has_columns_of(first))
        {
            return Err(FilesErrorKind::ColumnsDiffer.into());
        }
        let shapes = parts.iter().map(|part| part.facts.shape()).collect::<Result<Vec<_>, _>>()?;
        Ok(Self { links: Arc::clone(links), layout: Layout::new(&shapes), parts })
    }

    fn describe(&self) -> Description {
        let objects = self.parts.iter().map(|part| &part.facts.identity);
        Description {
            size: self.layout.size(),
            tag: tag(self.links.export(), FileName::Table, objects),
            crc32c: None,
            rows: self.links.parts().iter().map(|part| part.row_count).sum(),
            object: None,
        }
    }

    async fn whole(&self, place: &TablePlace) -> Result<WholePart, FilesError> {
        let TablePart { target, facts } = &self.parts[place.part];
        let download = ObjectBytes::whole(&self.links, *target, Some(&facts.identity)).await?;
        let proof = part::proof(&self.links, *target, &download.identity);
        Ok(WholePart { download, proof, skipped: place.skipped })
    }

    async fn range(&self, part: usize, span: ByteSpan) -> Result<ObjectBytes, FilesError> {
        let TablePart { target, facts } = &self.parts[part];
        ObjectBytes::range(&self.links, *target, &facts.identity, span).await
    }

    /// Hands all of it out; each part is proven before its last bytes leave, and the number of all rows before the last ones.
    async fn send_whole(
        self,
        places: Vec<TablePlace>,
        mut first: Option<WholePart>,
        outlet: &Outlet,
    ) -> Result<TransferOutcome, Stop> {
        let mut outcome = TransferOutcome::Proven;
        let mut total = TotalProof::new(self.links.row_count(), places.len());
        for place in places {
            let part = match first.take() {
                Some(part) => part,
                None => self.whole(&place).await?,
            };
            let sent = part.send(outlet, &mut total).await?;
            sent.warn(&self.links, place.part);
            outlet.send(sent.line_end()).await?;
            if sent.outcome() == TransferOutcome::Unproven {
                outcome = TransferOutcome::Unproven;
            }
        }
        Ok(outcome)
    }

    async fn send_range(
        self,
        stretches: Vec<Stretch>,
        mut first: Option<ObjectBytes>,
        outlet: &Outlet,
    ) -> Result<TransferOutcome, Stop> {
        for stretch in stretches {
            match (stretch, first.take()) {
                (Stretch::Part { .. }, Some(download)) => outlet.send_all(download).await?,
                (Stretch::Part { part, span }, None) => {
                    outlet.send_all(self.range(part, span).await?).await?;
                }
                (Stretch::LineEnd, _) => outlet.send(Bytes::from_static(LINE_END)).await?,
            }
        }
        Ok(TransferOutcome::Range)
    }
}
