//! The span of an attempt, for whoever traces requests. The names are OpenTelemetry's semantic conventions, where it has
//! one. Never in it: a credential, a link, a body, or of a query more than `version`.

use http::{Method, Uri};

use crate::journal::Attempt;
use crate::telemetry::trace::{Period, Side, Span, Trace, Traces};

/// Sends the span of an attempt that `trace` caused.
pub(super) fn send(traces: &Traces, trace: &Trace, attempt: &Attempt) {
    let method = attempt.method.parse().ok().as_ref().map_or("_OTHER", known_method);
    let route = attempt.scope_kind.and_then(|kind| template(kind, attempt.operation));
    let name = [Some(if method == "_OTHER" { "HTTP" } else { method }), route];
    let name = name.into_iter().flatten().collect::<Vec<_>>().join(" ");
    let trace = trace.child(attempt.id);
    let mut span =
        Span::new(&trace, Side::Client, name, Period { start: attempt.started, took: attempt.latency });
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

/// The route of an export call, as `OpenAPI` would write it.
pub(crate) fn template(kind: &str, operation: &str) -> Option<&'static str> {
    match (kind, operation) {
        ("org", "start") => Some("/orgs/{org_id}/export"),
        ("org", "job-status") => Some("/orgs/{org_id}/jobs/export/{export_id}"),
        ("org", "results") => Some("/orgs/{org_id}/export/{export_id}"),
        ("org", "files") => Some("/orgs/{org_id}/export/{export_id}/files"),
        ("org", "file") => Some("/orgs/{org_id}/export/{export_id}/files/{part}.csv"),
        ("org", "table") => Some("/orgs/{org_id}/export/{export_id}/table.csv"),
        ("group", "start") => Some("/groups/{group_id}/export"),
        ("group", "job-status") => Some("/groups/{group_id}/jobs/export/{export_id}"),
        ("group", "results") => Some("/groups/{group_id}/export/{export_id}"),
        ("group", "files") => Some("/groups/{group_id}/export/{export_id}/files"),
        ("group", "file") => Some("/groups/{group_id}/export/{export_id}/files/{part}.csv"),
        ("group", "table") => Some("/groups/{group_id}/export/{export_id}/table.csv"),
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
pub(crate) fn known_method(method: &Method) -> &'static str {
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
