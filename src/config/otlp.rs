//! `[otlp]`: where traces go.

use std::path::Path;

use http::Uri;

use super::reader::Reader;
use super::upstream::{check_certificates, endpoint};
use crate::telemetry::trace::{Settings, fields};

/// Where OTLP has traces below an endpoint.
const PATH: &str = "/v1/traces";

/// `None` where no endpoint is set: then nothing is traced.
pub(super) fn read(r: &mut Reader<'_>, plain: &[String]) -> Option<Settings> {
    let key = (
        "otlp.endpoint",
        "",
        "An OpenTelemetry collector for traces (OTLP over HTTP), such as \"http://127.0.0.1:4318\"; empty: none.",
    );
    let text = r.text(key);
    let headers_file = r.path((
        "otlp.headers_file",
        "",
        "A file with header fields for the collector, such as an API key: one \"Name: value\" a line; read at each request.",
    ));
    let ca_file = r.path(("otlp.ca_file", "", "PEM certificates to trust there instead of the platform's."));
    check_certificates(r, "otlp.ca_file", ca_file.as_deref());
    let sample = sample(r);
    let service_name = r.text(("otlp.service_name", "exportgate", "The service.name of the spans."));
    if service_name.is_empty() {
        let place = r.place("otlp.service_name");
        r.problem(&place, "otlp.service_name", "must not be empty");
    }
    let timeout = r.duration(
        (
            "otlp.timeout",
            "5s",
            "Longest that sending spans may take; also how long a stop waits for the last ones.",
        ),
        ("100ms", "1m"),
    );
    check_fields(r, headers_file.as_deref());
    if text.is_empty() {
        return None;
    }
    match whole(&text, plain) {
        Ok(endpoint) => Some(Settings { endpoint, headers_file, ca_file, sample, service_name, timeout }),
        Err(what) => {
            let place = r.place(key.0);
            r.problem(&place, key.0, what);
            None
        }
    }
}

/// The endpoint with the path of traces, unless that is named already.
fn whole(text: &str, plain: &[String]) -> Result<Uri, String> {
    let uri = endpoint(text, plain)?;
    if uri.query().is_some() {
        return Err("must not hold a query: a key belongs into otlp.headers_file".to_owned());
    }
    let path = uri.path().trim_end_matches('/');
    let path = if path.ends_with(PATH) { path.to_owned() } else { format!("{path}{PATH}") };
    let mut parts = uri.into_parts();
    parts.path_and_query = path.parse().ok();
    Uri::from_parts(parts).map_err(|_| "must be a URL such as https://host/path".to_owned())
}

fn sample(r: &mut Reader<'_>) -> f64 {
    r.number(
        (
            "otlp.sample",
            "1",
            "Which part of the requests is traced, from 0 to 1; where a client sends a traceparent, that decides.",
        ),
        0.0..=1.0,
    )
}

fn check_fields(r: &mut Reader<'_>, path: Option<&Path>) {
    let key = "otlp.headers_file";
    let Some(path) = path else { return };
    let read = crate::files::read(path).map_err(|error| format!("cannot be read: {}", error.source));
    if let Err(what) = read.and_then(|content| fields(&content).map(drop)) {
        let place = r.place(key);
        r.problem(&place, key, what);
    }
}
