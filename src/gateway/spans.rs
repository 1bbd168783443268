//! What is told of an exchange and of an attempt to whoever traces requests. The names are OpenTelemetry's semantic
//! conventions, where it has one. Never in it: a credential, a link, a body, or of a query more than `version`.

use http::{HeaderMap, Method, StatusCode, Uri};

use super::exchange::Exchange;
use super::failure::Failure;
use super::fields;
use crate::clock::Now;
use crate::export::Id;
use crate::journal::Attempt;
use crate::telemetry::trace::{Side, Span, Trace, Traces};

impl Exchange {
    /// Tells of it: one span for the client's request.
    pub(super) fn trace(
        &self,
        traces: &Traces,
        now: Now,
        (status, answer): (StatusCode, &HeaderMap),
        failure: Option<&Failure>,
    ) {
        let Some(trace) = &self.trace else { return };
        let route = self.scope.as_ref().and_then(|(kind, _)| template(kind.as_str(), self.operation));
        let method = method(&self.method);
        let name = [Some(if method == "_OTHER" { "HTTP" } else { method }), route];
        let name = name.into_iter().flatten().collect::<Vec<_>>().join(" ");
        let took = now.mono.saturating_duration_since(self.started.mono);
        let mut span = Span::new(trace, (Side::Server, name), self.started.wall, took);
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
        span.set_some("snyk.request.id", fields::text(answer, "snyk-request-id"));
        let attempt = self.attempt.or(failure.and_then(|failure| failure.attempt));
        span.set_some("exportgate.attempt.id", attempt.map(|id| id.to_string()));
        if let Some(fetched) = &self.fetched {
            span.link(fetched);
        }
        // What a client did wrong is no failure of ours (HTTP conventions, "Status").
        match failure.map(|failure| failure.kind.told().code) {
            Some(code) if status.is_server_error() => span.fail(code),
            None if status.is_server_error() => span.fail(status.as_str().to_owned()),
            code => span.set_some("error.type", code),
        }
        traces.send(span);
    }
}

/// Tells of an attempt that `trace` caused: one span for the request to the upstream.
pub(super) fn attempt(traces: &Traces, trace: &Trace, attempt: &Attempt) {
    let method = attempt.method.parse().ok().as_ref().map_or("_OTHER", self::method);
    let route = attempt.scope_kind.and_then(|kind| template(kind, attempt.operation));
    let name = [Some(if method == "_OTHER" { "HTTP" } else { method }), route];
    let name = name.into_iter().flatten().collect::<Vec<_>>().join(" ");
    let trace = trace.child(attempt.id);
    let mut span = Span::new(&trace, (Side::Client, name), attempt.started, attempt.latency);
    span.set("http.request.method", method);
    span.set_some("http.response.status_code", attempt.status.map(i64::from));
    if let Ok(root) = attempt.upstream.parse::<Uri>() {
        span.set_some("server.address", root.host().map(str::to_owned));
        let default = if root.scheme_str() == Some("http") { 80 } else { 443 };
        span.set("server.port", i64::from(root.port_u16().unwrap_or(default)));
    }
    span.set_some("url.template", route);
    span.set_some("url.full", url(attempt));
    if attempt.number > 1 {
        span.set("http.request.resend_count", i64::from(attempt.number - 1));
    }
    span.set("exportgate.attempt.id", attempt.id.to_string());
    span.set("exportgate.attempt.number", i64::from(attempt.number));
    span.set("exportgate.request.id", attempt.request.to_string());
    span.set("exportgate.operation", attempt.operation);
    span.set("exportgate.credential", attempt.credential.to_string());
    span.set_some("exportgate.scope.kind", attempt.scope_kind);
    span.set_some("exportgate.scope.id", attempt.scope_id.clone());
    span.set_some("exportgate.export.id", attempt.export_id.clone());
    span.set_some("exportgate.export.status", attempt.export_status.clone());
    span.set("exportgate.queue.duration_ms", attempt.queued.as_secs_f64() * 1_000.0);
    span.set_some("exportgate.queue.reason", attempt.waited_for);
    span.set("snyk.request.id.sent", attempt.sent_id.to_string());
    span.set_some("snyk.request.id", attempt.received_id.clone());
    span.set_some("snyk.version.requested", attempt.version_requested.clone());
    span.set_some("snyk.version.served", attempt.version_served.clone());
    let status = attempt.status.filter(|status| *status >= 400).map(|status| status.to_string());
    if let Some(error) = attempt.error.map(str::to_owned).or(status) {
        span.fail(error);
    }
    traces.send(span);
}

/// The route of an export call as one would write it, or none.
fn template(kind: &str, operation: &str) -> Option<&'static str> {
    match (kind, operation) {
        ("org", "start") => Some("/orgs/{org_id}/export"),
        ("org", "job-status") => Some("/orgs/{org_id}/jobs/export/{export_id}"),
        ("org", "results") => Some("/orgs/{org_id}/export/{export_id}"),
        ("group", "start") => Some("/groups/{group_id}/export"),
        ("group", "job-status") => Some("/groups/{group_id}/jobs/export/{export_id}"),
        ("group", "results") => Some("/groups/{group_id}/export/{export_id}"),
        _ => None,
    }
}

/// The URL of an export call, with `version` as all its query. A start names no export, whatever its answer did.
fn url(attempt: &Attempt) -> Option<String> {
    let (kind, scope) = (attempt.scope_kind?, attempt.scope_id.as_deref()?);
    let path = template(kind, attempt.operation)?;
    let path = path.replace("{org_id}", scope).replace("{group_id}", scope);
    let path = match attempt.export_id.as_deref() {
        Some(export) => path.replace("{export_id}", export),
        None => path,
    };
    let is_plain = |text: &&str| text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-.~".contains(&b));
    let version = attempt.version_requested.as_deref().filter(is_plain);
    let query = version.map_or_else(String::new, |version| format!("?version={version}"));
    Some(format!("{}/rest{path}{query}", attempt.upstream))
}

/// A method that everybody knows, or the word for any other: it may be as long as a head.
fn method(method: &Method) -> &'static str {
    match method.as_str() {
        "GET" => "GET",
        "HEAD" => "HEAD",
        "POST" => "POST",
        "PUT" => "PUT",
        "DELETE" => "DELETE",
        "CONNECT" => "CONNECT",
        "OPTIONS" => "OPTIONS",
        "TRACE" => "TRACE",
        "PATCH" => "PATCH",
        _ => "_OTHER",
    }
}
