//! One part of an export, byte for byte.

use std::sync::Arc;

use super::conditions::{Conditions, Selection};
use super::description::{Description, tag};
use super::error::FilesError;
use super::facts::PartFacts;
use super::links::{ExportLinks, Numbers, Target};
use super::object::{ObjectBytes, ObjectMarks};
use super::opened::{FileAnswer, TransferOutcome};
use super::transfer::{self, Outlet, Stop, WholePart};
use crate::csv::{Expected, Proof, TotalProof};
use crate::export::FileName;
use crate::file_store::Transfer;

/// A file that is described, and its answer.
pub(super) struct Described {
    pub(super) description: Description,
    pub(super) answer: FileAnswer,
}

/// Opens a part. Without conditions, that is one request to the store.
pub(super) async fn open(
    links: &Arc<ExportLinks>,
    target: Target,
    conditions: &Conditions,
    place: Transfer,
) -> Result<Described, FilesError> {
    let known = if conditions.are_none() { None } else { Some(PartFacts::of(links, target).await?) };
    let description = known.as_ref().map(|facts| describe(links, target, &facts.identity));
    let answer = match description.as_ref().map_or(Selection::Whole, |file| conditions.select(file)) {
        Selection::Whole => {
            let identity = known.as_ref().map(|facts| &facts.identity);
            let download = ObjectBytes::whole(links, target, identity).await?;
            let description = describe(links, target, &download.identity);
            let (sent, size) = (Arc::clone(links), description.size);
            let body = transfer::spawn(Arc::clone(links), place, size, move |outlet| async move {
                send_whole(&sent, target, download, &outlet).await
            });
            return Ok(Described { description, answer: FileAnswer::Whole(body.await?) });
        }
        Selection::Range(span) => {
            let identity = known.as_ref().map_or_else(ObjectMarks::default, |facts| facts.identity.clone());
            let download = ObjectBytes::range(links, target, &identity, span).await?;
            let body = transfer::spawn(Arc::clone(links), place, Some(span.len()), |outlet| async move {
                outlet.send_all(download).await?;
                Ok(TransferOutcome::Range)
            });
            FileAnswer::Range { span, body: body.await? }
        }
        Selection::Head => FileAnswer::Head,
        Selection::NotModified => FileAnswer::NotModified,
        Selection::Unsatisfiable => FileAnswer::Unsatisfiable,
        Selection::PreconditionFailed => FileAnswer::PreconditionFailed,
    };
    Ok(Described { description: description.unwrap_or_default(), answer })
}

async fn send_whole(
    links: &ExportLinks,
    target: Target,
    download: ObjectBytes,
    outlet: &Outlet,
) -> Result<TransferOutcome, Stop> {
    let proof = proof(links, target, &download.identity);
    let sent = WholePart { download, proof, skipped: 0 }.send(outlet, &mut TotalProof::new(None, 1)).await?;
    sent.warn(links, target.part);
    Ok(sent.outcome())
}

/// The proof of a part that is about to come.
pub(super) fn proof(links: &ExportLinks, target: Target, identity: &ObjectMarks) -> Proof {
    let Numbers { row_count, file_size } = links.numbers(target);
    Proof::new(Expected { size: identity.size, crc32c: identity.crc32c, file_size, row_count })
}

fn describe(links: &ExportLinks, target: Target, identity: &ObjectMarks) -> Description {
    let number = u32::try_from(target.part + 1).unwrap_or(u32::MAX);
    Description {
        size: identity.size,
        tag: tag(links.export(), FileName::Part(number), [identity]),
        crc32c: identity.crc32c,
        rows: links.numbers(target).row_count,
        object: Some(target.object),
    }
}
