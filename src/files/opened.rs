//! An opened file: its description, and its bytes on the way.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::sync::{mpsc, oneshot};

use super::conditions::ByteSpan;
use super::description::Description;
use super::error::{FilesError, FilesErrorKind};
use crate::error_text::BoxError;
use crate::retrieval::Retrieved;

/// An answer to a request for a file.
#[derive(Debug)]
pub(crate) struct Opened {
    /// The answer that gave the links, for `snyk-request-id` and the record of the exchange.
    pub(crate) results: Retrieved,
    pub(crate) description: Description,
    pub(crate) answer: FileAnswer,
}

/// The answer itself, by its status.
#[derive(Debug)]
pub(crate) enum FileAnswer {
    /// 200 with all of it.
    Whole(FileBody),
    /// 206 with one range of it.
    Range { span: ByteSpan, body: FileBody },
    /// 200 to HEAD.
    Head,
    /// 304.
    NotModified,
    /// 416: no byte of the range is in the file.
    Unsatisfiable,
    /// 412: `If-Match` names another.
    PreconditionFailed,
}

/// The body of a file. It ends in an error where the file is not whole or not proven, so that its client never takes it
/// for whole. A task of its own fills it, and ends when it is dropped.
#[derive(Debug)]
pub(crate) struct FileBody {
    /// The piece that came before there was an answer.
    pub(super) first: Option<Piece>,
    pub(super) pieces: mpsc::Receiver<Piece>,
    /// Bytes to come, where the length is known.
    pub(super) left: Option<u64>,
    /// True once its end was announced.
    pub(super) is_whole: bool,
    /// The record of the transfer, when it has ended. The sender never fails to tell.
    pub(super) end: Option<oneshot::Receiver<TransferEnd>>,
}

/// A piece of a body. Without an end, a body is not whole.
#[derive(Debug)]
pub(super) enum Piece {
    Data(Bytes),
    End,
    Failed(FilesError),
}

/// A transfer that has ended, for the journal and the metrics. Nothing of its link but the host is here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TransferEnd {
    /// The store's host; of a table, that of its last part. `None` where no store was asked.
    pub(crate) host: Option<Arc<str>>,
    /// Bytes that the store sent.
    pub(crate) bytes: u64,
    pub(crate) outcome: TransferOutcome,
    /// Requests to the store that went on after a break.
    pub(crate) resumes: u32,
    /// Reads of the results because of its links.
    pub(crate) renewals: u32,
}

/// The outcome of a transfer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TransferOutcome {
    /// All of the file was handed out, and proven.
    Proven,
    /// All of it was handed out; the store gave nothing to prove it by.
    Unproven,
    /// A range was handed out.
    Range,
    /// The client left, or took nothing for too long.
    Abandoned,
    /// It was broken off; the word is that of a [`super::FilesErrorKind`].
    Failed(&'static str),
}

impl FileBody {
    /// The record of the transfer, to be awaited beside the body.
    pub(crate) fn take_end(&mut self) -> Option<oneshot::Receiver<TransferEnd>> {
        self.end.take()
    }

    /// Counts `data`; an error if it is more than was announced.
    fn count(&mut self, data: Bytes) -> Result<Bytes, BoxError> {
        if let Some(left) = &mut self.left {
            let after = left.checked_sub(data.len() as u64);
            *left = after.ok_or_else(|| FilesError::from(FilesErrorKind::NotProven))?;
        }
        Ok(data)
    }
}

impl Body for FileBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if self.is_whole {
            return Poll::Ready(None);
        }
        let piece = match self.first.take() {
            Some(piece) => Some(piece),
            None => ready!(self.pieces.poll_recv(cx)),
        };
        Poll::Ready(match piece {
            Some(Piece::Data(data)) => Some(self.count(data).map(Frame::data)),
            // Fewer bytes than were announced are no end either.
            Some(Piece::End) if self.left.is_none_or(|left| left == 0) => {
                self.is_whole = true;
                None
            }
            Some(Piece::Failed(error)) => Some(Err(error.into())),
            Some(Piece::End) | None => Some(Err(FilesError::from(FilesErrorKind::NotProven).into())),
        })
    }

    fn is_end_stream(&self) -> bool {
        self.is_whole
    }

    fn size_hint(&self) -> SizeHint {
        self.left.map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}
