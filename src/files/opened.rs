//! An opened file: its description, and its bytes on the way.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::sync::{mpsc, oneshot};

use super::conditions::ByteSpan;
use super::description::Description;
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
    pub(super) pieces: mpsc::Receiver<Result<Bytes, BoxError>>,
    /// Bytes to come, where the length is known.
    pub(super) left: Option<u64>,
    /// The record of the transfer, when it has ended. The sender never fails to tell.
    pub(super) end: Option<oneshot::Receiver<TransferEnd>>,
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
}

impl Body for FileBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        self.pieces.poll_recv(cx).map(|piece| {
            let piece = piece?;
            if let (Ok(bytes), Some(left)) = (&piece, &mut self.left) {
                *left = left.saturating_sub(bytes.len() as u64);
            }
            Some(piece.map(Frame::data))
        })
    }

    fn size_hint(&self) -> SizeHint {
        self.left.map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}
