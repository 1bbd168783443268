//! `[otlp]`: where traces go.

use http::Uri;

use super::reader::Reader;
use super::upstream::{check_certificates, endpoint};
use crate::telemetry::trace::{Settings, fields};

/// The path of traces below an OTLP endpoint.
const PATH: &str = "/v1/traces";

/// `None` where no endpoint is set: then nothing is traced.
pub(super) fn read(r: &mut Reader<'_>, plain: &[String]) -> Option<Settings> {
    let key = "otlp.endpoint";
    let text = r.text(key);
    let headers_file = r.path("otlp.headers_file");
    let ca_file = r.path("otlp.ca_file");
    check_certificates(r, "otlp.ca_file", ca_file.as_deref());
    let sample = r.number("otlp.sample", 0.0..=1.0);
    let service_name = r.text("otlp.service_name");
    if service_name.is_empty() {
        r.invalid("otlp.service_name", "must not be empty");
    }
    let timeout = r.duration("otlp.timeout", "100ms"..="1m");
    if let Some(path) = &headers_file {
        r.check_file("otlp.headers_file", path, |content| fields(content).map(drop));
    }
    if text.is_empty() {
        return None;
    }
    let endpoint = whole(&text, plain).map_err(|what| r.invalid(key, what)).ok()?;
    Some(Settings { endpoint, headers_file, ca_file, sample, service_name, timeout })
}

/// The endpoint with the path of traces, unless that is named already.
fn whole(text: &str, plain: &[String]) -> Result<Uri, String> {
    let uri = endpoint(text, plain)?;
    if uri.query().is_some() {
        return Err("must not have a query: write an API key into otlp.headers_file".to_owned());
    }
    let path = uri.path().trim_end_matches('/');
    let path = if path.ends_with(PATH) { path.to_owned() } else { format!("{path}{PATH}") };
    let mut parts = uri.into_parts();
    parts.path_and_query = path.parse().ok();
    Uri::from_parts(parts).map_err(|_| "must be a URL such as https://host/path".to_owned())
}
