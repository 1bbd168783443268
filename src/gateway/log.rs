//! The log event of an exchange.

use std::borrow::Cow;

use super::exchange::{Conclusion, Exchange};
use super::failure::{Challenge, Failure, FailureKind, NoFile};
use crate::access::{IdentifyError, Reason};
use crate::clock::Now;
use crate::export::Id;
use crate::files::FilesErrorKind;
use crate::named::NoExport;
use crate::retrieval::{Cause, Forward, ForwardReason, Origin, SNYK_REQUEST_ID, response_text};
use crate::telemetry::EXCHANGE;

impl Exchange {
    /// Writes the one log event of this exchange. Everything in it is ours or was parsed; of the answer,
    /// only its status, length and Snyk's id.
    pub(super) fn log(&self, end: &Conclusion<'_>) {
        let (failure, status) = (end.failure, end.status());
        let (cache, reason, not_stored) = match self.origin {
            None => ("none", None, None),
            Some(Origin::Fresh { .. }) => ("hit", None, None),
            Some(Origin::Stale { .. }) => ("stale", Some("stale"), None),
            Some(Origin::SharedStart { .. }) => ("shared", None, None),
            Some(Origin::Upstream(forward)) => {
                (self.cache_use(&forward, failure), Some(forward.reason.as_str()), forward.not_stored)
            }
        };
        // A method may be as long as a head.
        let method = Some(self.method.as_str()).filter(|method| method.len() <= 32).unwrap_or("(long)");
        let error_reason = failure.and_then(|failure| failure.kind.reason());
        let cause = failure
            .and_then(|failure| failure.source.as_deref())
            .map(|error| crate::error_text::error_text(error));
        let attempt = self.attempt.or(failure.and_then(|failure| failure.attempt));
        let message = message(end);
        macro_rules! event {
            ($level:ident) => {
                tracing::$level!(
                    target: EXCHANGE,
                    {
                    exchange.id = %self.id,
                    client.name = %self.client,
                    client.address = self.address.map(tracing::field::display),
                    http.request.method = method,
                    http.response.status_code = status.as_u16(),
                    export.operation = self.operation,
                    export.scope.kind = self.scope.as_ref().map(|(kind, _)| kind.as_str()),
                    export.scope.id = self.scope.as_ref().map(|(_, id)| id.as_str()),
                    export.file = self.file.map(tracing::field::display),
                    export.id = self.export.as_ref().map(Id::as_str),
                    cache.status = cache,
                    cache.fwd = reason,
                    cache.not_stored = not_stored,
                    cache.shared = self.is_taken().then_some(true),
                    snyk.request.id = response_text(end.fields, SNYK_REQUEST_ID),
                    attempt.id = attempt.map(tracing::field::display),
                    attempt.tries = self.sending.map(|sending| sending.tries),
                    queue.duration_ms = self.sending.map(|sending| sending.queued.as_secs_f64() * 1_000.0),
                    queue.reason = self.sending.and_then(|sending| sending.waited_for),
                    wait.preference_s = self.preference,
                    wait.waited = self.is_waited.then_some(true),
                    error.code = end.code(),
                    error.reason = error_reason,
                    error.cause = cause,
                    duration_ms = millis(end.now, self.started)
                    },
                    "{message}"
                )
            };
        }
        match failure.map(|failure| failure.kind) {
            // `Access::failed` logs the start of a flood.
            Some(FailureKind::Unidentified(IdentifyError::TooManyFailures(_), _)) => event!(debug),
            // Excel, Power BI and wget ask without a key first, and are told to send it.
            Some(FailureKind::Unidentified(IdentifyError::Unknown(Reason::Nothing), Challenge::Basic)) => {
                event!(debug);
            }
            Some(
                FailureKind::NoAnswer(Cause::OnlyIfCached)
                | FailureKind::NoFile(
                    NoFile::Failed(FilesErrorKind::NotFinished { .. }) | NoFile::Named(NoExport::NotYet),
                ),
            ) => event!(info),
            _ if status.is_server_error() => event!(warn),
            _ => event!(info),
        }
    }

    /// The use of the cache, where it had no answer.
    fn cache_use(&self, forward: &Forward, failure: Option<&Failure>) -> &'static str {
        let is_sent = self.attempt.is_some() || failure.is_some_and(|failure| failure.attempt.is_some());
        match forward.reason {
            _ if forward.is_collapsed => "collapsed",
            _ if !is_sent => "none",
            ForwardReason::Bypass | ForwardReason::Method => "uncached",
            ForwardReason::UriMiss | ForwardReason::Stale | ForwardReason::Request => "miss",
        }
    }
}

/// The event, and for a failure of the server its cause.
fn message(end: &Conclusion<'_>) -> Cow<'static, str> {
    if !end.status().is_server_error() {
        return Cow::Borrowed("request");
    }
    match end.failure {
        Some(failure) => format!("request failed: {}", failure.kind.answer().title).into(),
        None => Cow::Borrowed("request failed: the answer is Snyk's own"),
    }
}

fn millis(now: Now, since: Now) -> f64 {
    now.mono.saturating_duration_since(since.mono).as_secs_f64() * 1_000.0
}
