//! The span of an exchange, for whoever traces requests. The names are OpenTelemetry's semantic
//! conventions, where it has one. Never in it: a credential, a link, a body, or of a query more than `version`.

use super::exchange::{Conclusion, Exchange};
use crate::export::{FilesTarget, Id};
use crate::retrieval::{known_method, response_text, template};
use crate::telemetry::trace::{Period, Side, Span, Traces};

impl Exchange {
    /// Sends its span, if it is traced.
    pub(super) fn trace(&self, traces: &Traces, end: &Conclusion<'_>) {
        let Some(trace) = &self.trace else { return };
        let (status, failure) = (end.status(), end.failure);
        let route = self.scope.as_ref().and_then(|(kind, _)| {
            template(kind.as_str(), self.file.map_or(self.operation, FilesTarget::as_str))
        });
        let method = known_method(&self.method);
        let name = [Some(if method == "_OTHER" { "HTTP" } else { method }), route];
        let name = name.into_iter().flatten().collect::<Vec<_>>().join(" ");
        let took = end.now.mono.saturating_duration_since(self.started.mono);
        let mut span = Span::new(trace, Side::Server, name, Period { start: self.started.wall, took });
        span.set("http.request.method", method);
        span.set_some("http.route", route);
        span.set("http.response.status_code", i64::from(status.as_u16()));
        span.set_some("client.address", self.address.map(|address| address.to_string()));
        span.set("exportgate.request.id", self.id.to_string());
        span.set("exportgate.client", self.client.to_string());
        span.set("exportgate.operation", self.operation);
        span.set("exportgate.cache", self.served(failure).as_str());
        if let Some((kind, id)) = &self.scope {
            span.set("exportgate.scope.kind", kind.as_str());
            span.set("exportgate.scope.id", id.as_str().to_owned());
        }
        span.set_some("exportgate.export.id", self.export.as_ref().map(|id| Id::as_str(id).to_owned()));
        span.set_some("snyk.request.id", response_text(end.fields, "snyk-request-id"));
        let attempt = self.attempt.or(failure.and_then(|failure| failure.attempt));
        span.set_some("exportgate.attempt.id", attempt.map(|id| id.to_string()));
        if let Some(fetched) = &self.fetched {
            span.link(fetched);
        }
        // A client's mistake is no failure of ours (HTTP conventions, "Status").
        match end.code() {
            Some(code) if status.is_server_error() => span.fail(code),
            None if status.is_server_error() => span.fail(status.as_str().to_owned()),
            code => span.set_some("error.type", code),
        }
        traces.send(span);
    }
}
