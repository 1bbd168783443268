//! The end of a download: its row in the journal, its log event, and its count.

use std::sync::Arc;

use super::{RegisteredDownload, RunningDownload};
use crate::files::{ByteSpan, TransferEnd, TransferOutcome};
use crate::journal::TransferRecord;
use crate::telemetry::TRANSFER;

/// The reason to cut a download.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CutReason {
    /// Its client or the key that it showed is no longer in the clients file, or the file is no longer allowed.
    Revoked,
    /// Its export was purged.
    Purged,
    /// The gateway stops.
    Stopped,
}

impl CutReason {
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Revoked => "revoked",
            Self::Purged => "purged",
            Self::Stopped => "stopped",
        }
    }
}

impl RegisteredDownload {
    /// Records its end: as the files tell it, if they do, and whether the client took all.
    pub(super) fn record(&self, span: Option<ByteSpan>, end: Option<&TransferEnd>, is_whole: bool) {
        let parts = &self.of.0.parts;
        let RunningDownload { request, holder, call, started, cut, .. } = &*self.download;
        let cut = cut.get().copied().filter(|_| !is_whole);
        let ended = end.map(|end| end.outcome);
        let outcome = match (cut, ended) {
            (Some(cut), _) => cut.as_str(),
            (None, Some(TransferOutcome::Failed(code))) => code,
            (None, _) if !is_whole => "abandoned",
            (None, Some(TransferOutcome::Proven)) => "proven",
            (None, Some(TransferOutcome::Range)) => "range",
            (None, Some(TransferOutcome::Unproven | TransferOutcome::Abandoned) | None) => "unproven",
        };
        let now = parts.clock.now();
        let record = TransferRecord {
            started: started.wall,
            duration: now.mono.saturating_duration_since(started.mono),
            request: *request,
            client: Arc::clone(&holder.client),
            scope_kind: call.scope.kind.as_str(),
            scope_id: call.scope.id.as_str().to_owned(),
            export_id: call.export.as_str().to_owned(),
            file: call.target.to_string(),
            host: end.and_then(|end| end.host.clone()),
            range: span.map(|span| span.first..=span.last),
            bytes: self.download.sent(),
            resumes: end.map_or(0, |end| end.resumes),
            renewals: end.map_or(0, |end| end.renewals),
            outcome,
        };
        log(&record);
        parts.metrics.transferred(outcome);
        parts.journal.transferred(record);
    }
}

/// Writes the one log event of a transfer.
fn log(record: &TransferRecord) {
    macro_rules! event {
        ($level:ident) => {
            tracing::$level!(
                target: TRANSFER,
                {
                exchange.id = %record.request,
                client.name = %record.client,
                export.scope.kind = record.scope_kind,
                export.scope.id = record.scope_id,
                export.id = record.export_id,
                export.file = record.file,
                server.address = record.host.as_deref(),
                transfer.bytes = record.bytes,
                transfer.resumes = record.resumes,
                transfer.renewals = record.renewals,
                transfer.outcome = record.outcome,
                duration_ms = record.duration.as_secs_f64() * 1_000.0
                },
                "transfer ended"
            )
        };
    }
    match record.outcome {
        "proven" | "unproven" | "range" | "abandoned" | "stopped" => event!(info),
        _ => event!(warn),
    }
}
