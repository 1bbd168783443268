//! Advice to whoever asked for a start that is refused (429), as fields and in an error document of ours: Snyk's own passes
//! byte for byte.

use http::header::RETRY_AFTER;
use http::{HeaderMap, HeaderName, HeaderValue};
use serde_json::{Value, json};

use crate::retrieval::{EqualExport, RefusedStart};

const EQUAL_EXPORT: HeaderName = HeaderName::from_static("exportgate-equal-export");
const MADE: HeaderName = HeaderName::from_static("exportgate-equal-export-made");

/// Adds the fields: the newest equal export, and the time of the next start where the answer does not say it.
pub(super) fn stamp(refused: &RefusedStart, fields: &mut HeaderMap) {
    if let Some(equal) = &refused.equal {
        for (name, text) in [(EQUAL_EXPORT, equal.id.clone()), (MADE, made(equal))] {
            if let Ok(value) = HeaderValue::try_from(text) {
                fields.insert(name, value);
            }
        }
    }
    if let Some(pause) = refused.retry_after.filter(|_| !fields.contains_key(RETRY_AFTER)) {
        fields.insert(RETRY_AFTER, HeaderValue::from(pause.as_secs() + 1));
    }
}

/// Adds the newest equal export to an error of ours.
pub(super) fn describe(refused: &RefusedStart, error: &mut Value) {
    let Some(equal) = &refused.equal else { return };
    let detail = error["detail"].as_str().unwrap_or_default();
    error["detail"] = format!("{detail} Export {} is equal, made at {}.", equal.id, made(equal)).into();
    error["meta"]["equal_export"] = json!({ "id": equal.id, "made": made(equal) });
}

fn made(equal: &EqualExport) -> String {
    humantime::format_rfc3339_seconds(equal.made).to_string()
}
