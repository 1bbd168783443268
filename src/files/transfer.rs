//! A transfer: a task that hands a file out as its client takes it, proves it, and says at the end what became of it.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use super::error::{FilesError, FilesErrorKind};
use super::held_back::HeldBack;
use super::layout::LINE_END;
use super::links::ExportLinks;
use super::object::ObjectBytes;
use super::opened::{FileBody, Piece, TransferEnd, TransferOutcome};
use crate::csv::{Proof, Proven, TotalProof};
use crate::error_text::error_text;
use crate::file_store::Transfer;

/// Largest piece that is handed out at once, in bytes: as much as is read of a store at once. With one in hyper's hands, one that
/// waits, what is held back and what the store has sent, a transfer holds four times this.
const PIECE: usize = 64 * 1024;
/// Pieces that wait for the client.
const WAITING: usize = 1;

/// The end of a transfer before its time.
pub(super) enum Stop {
    /// The client left, or took nothing for too long.
    Abandoned,
    Failed(FilesError),
}

impl From<FilesError> for Stop {
    fn from(error: FilesError) -> Self {
        Self::Failed(error)
    }
}

/// The way to the client.
pub(super) struct Outlet {
    pieces: mpsc::Sender<Piece>,
    idle_timeout: Duration,
}

impl Outlet {
    /// Hands `data` out in small pieces.
    pub(super) async fn send(&self, mut data: Bytes) -> Result<(), Stop> {
        while !data.is_empty() {
            let piece = data.split_to(data.len().min(PIECE));
            self.room().await?.send(Piece::Data(piece));
        }
        Ok(())
    }

    /// Waits until the client has taken what waits for it.
    async fn room(&self) -> Result<mpsc::Permit<'_, Piece>, Stop> {
        let room = timeout(self.idle_timeout, self.pieces.reserve()).await;
        room.ok().and_then(Result::ok).ok_or(Stop::Abandoned)
    }

    /// Hands out all that `download` brings, unproven.
    pub(super) async fn send_all(&self, mut download: ObjectBytes) -> Result<(), Stop> {
        while let Some(data) = self.next(&mut download).await? {
            self.send(data).await?;
        }
        Ok(())
    }

    /// Waits for bytes of the store, as long as there is a client. Nothing is read for one that takes nothing.
    pub(super) async fn next(&self, download: &mut ObjectBytes) -> Result<Option<Bytes>, Stop> {
        drop(self.room().await?);
        tokio::select! {
            biased;
            next = download.next() => Ok(next?),
            () = self.pieces.closed() => Err(Stop::Abandoned),
        }
    }
}

/// Runs `work` as a task, and gives the body that it fills when that has begun: what fails before a byte could leave has a
/// status. A short file is proven by then.
pub(super) async fn spawn<W, F>(
    links: Arc<ExportLinks>,
    place: Transfer,
    size: Option<u64>,
    work: W,
) -> Result<FileBody, FilesError>
where
    W: FnOnce(Outlet) -> F + Send + 'static,
    F: Future<Output = Result<TransferOutcome, Stop>> + Send,
{
    let (sender, mut pieces) = mpsc::channel(WAITING);
    let (teller, end) = oneshot::channel();
    let with = Arc::clone(&links.with);
    let idle_timeout = with.store.idle_timeout();
    let outlet = Outlet { pieces: sender.clone(), idle_timeout };
    let shutdown = with.shutdown.clone();
    with.shutdown.spawn(async move {
        let done = shutdown.in_time(Box::pin(work(outlet))).await;
        let outcome = match done.unwrap_or_else(|| Err(Stop::Failed(FilesErrorKind::Stopped.into()))) {
            Ok(outcome) => {
                let _ = timeout(idle_timeout, sender.send(Piece::End)).await;
                outcome
            }
            Err(Stop::Abandoned) => TransferOutcome::Abandoned,
            Err(Stop::Failed(error)) => {
                let code = error.kind.code();
                let (export, detail) = (links.export(), error_text(&error));
                tracing::warn!(export, code, error = detail, "file transfer aborted");
                let _ = timeout(idle_timeout, sender.send(Piece::Failed(error))).await;
                TransferOutcome::Failed(code)
            }
        };
        drop(place);
        let _ = teller.send(end_of(&links, outcome));
    });
    match pieces.recv().await {
        Some(Piece::Failed(error)) => Err(error),
        first => Ok(FileBody { first, pieces, left: size, is_whole: false, end: Some(end) }),
    }
}

fn end_of(links: &ExportLinks, outcome: TransferOutcome) -> TransferEnd {
    let figures = &links.figures;
    TransferEnd {
        host: figures.host(),
        bytes: figures.bytes.load(Ordering::Relaxed),
        outcome,
        resumes: figures.resumes.load(Ordering::Relaxed),
        renewals: figures.renewals.load(Ordering::Relaxed),
    }
}

/// A part in a transfer.
pub(super) struct WholePart {
    pub(super) download: ObjectBytes,
    pub(super) proof: Proof,
    /// Bytes at its start that are not handed out.
    pub(super) skipped: u64,
}

impl WholePart {
    /// Hands the part out. Its last bytes leave when it is proven; those of the last part, when all have the rows of `total`.
    pub(super) async fn send(mut self, outlet: &Outlet, total: &mut TotalProof) -> Result<SentPart, Stop> {
        let (mut held, mut bytes) = (HeldBack::default(), 0);
        while let Some(data) = outlet.next(&mut self.download).await? {
            self.proof.feed(&data);
            let data = self.without_skipped(data);
            bytes += data.len() as u64;
            held.push(data);
            while let Some(piece) = held.release() {
                outlet.send(piece).await?;
            }
        }
        let unproven = |error| FilesError::by(FilesErrorKind::NotProven, error);
        let proven = self.proof.judge().map_err(unproven)?;
        let total_doubt = total.add(&proven).map_err(unproven)?;
        for piece in held.release_all() {
            outlet.send(piece).await?;
        }
        Ok(SentPart { proven, total_doubt, bytes, ends_line: self.proof.ends_with_record() })
    }

    fn without_skipped(&mut self, mut data: Bytes) -> Bytes {
        let skipped = usize::try_from(self.skipped).unwrap_or(usize::MAX).min(data.len());
        self.skipped -= skipped as u64;
        data.split_off(skipped)
    }
}

/// A part that was handed out.
pub(super) struct SentPart {
    pub(super) proven: Proven,
    /// Snyk's number of rows of all parts, where theirs differs.
    total_doubt: Option<u64>,
    pub(super) bytes: u64,
    pub(super) ends_line: bool,
}

impl SentPart {
    /// The line end that a table needs behind it.
    pub(super) fn line_end(&self) -> Bytes {
        Bytes::from_static(if self.bytes > 0 && !self.ends_line { LINE_END } else { b"" })
    }

    pub(super) fn outcome(&self) -> TransferOutcome {
        if self.proven.is_by_something() { TransferOutcome::Proven } else { TransferOutcome::Unproven }
    }

    /// Says where Snyk's numbers differ from a part that is whole all the same.
    pub(super) fn warn(&self, links: &ExportLinks, part: usize) {
        let doubts = self.proven.doubts;
        let (size, rows) = (doubts.file_size.is_some(), doubts.row_count.is_some());
        if size || rows || self.total_doubt.is_some() {
            tracing::warn!(
                export = links.export(),
                part = part + 1,
                file_size_differs = size,
                row_count_differs = rows,
                export_row_count_differs = self.total_doubt.is_some(),
                "file is whole by the store's proof, but Snyk's numbers differ"
            );
        }
    }
}
