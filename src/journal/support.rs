//! The block of text for a ticket at Snyk's support.

use std::fmt::{self, Write as _};

use super::row::Row;
use crate::error_text::visible;

/// Writes a block about `rows`, which are the newest first. No client, no credential and no link is in it.
#[must_use]
pub fn support(rows: &[Row]) -> String {
    let mut text = String::new();
    // A String takes all that is written.
    let _ = write_all(rows, &mut text);
    text
}

fn write_all(rows: &[Row], out: &mut String) -> fmt::Result {
    let (Some(newest), Some(oldest)) = (rows.first(), rows.last()) else {
        return writeln!(out, "No such requests are on record. Fewer filters find more.");
    };
    writeln!(out, "Requests to Snyk's Export API")?;
    writeln!(out, "  API: {}", visible(&newest.upstream))?;
    writeln!(out, "  From {} to {} (UTC), {} requests", oldest.started, newest.started, rows.len())?;
    for row in rows {
        let text = |value: &Option<String>| visible(value.as_deref().unwrap_or("-"));
        let status = row.status.map_or_else(|| "none".to_owned(), |status| status.to_string());
        writeln!(out, "\n  {}  {} {}", row.started, visible(&row.method), row.operation)?;
        match &row.received_id {
            Some(id) => writeln!(out, "    snyk-request-id: {}", visible(id))?,
            None => writeln!(out, "    snyk-request-id: {} (as sent; none came back)", row.sent_id)?,
        }
        writeln!(
            out,
            "    {}: {}  export: {}",
            text(&row.scope_kind),
            text(&row.scope_id),
            text(&row.export_id)
        )?;
        writeln!(out, "    HTTP status: {status}  export status: {}", text(&row.export_status))?;
        writeln!(
            out,
            "    version requested: {}  served: {}  stage: {}",
            text(&row.version_requested),
            text(&row.version_served),
            text(&row.lifecycle)
        )?;
        if let Some(error) = &row.error {
            writeln!(out, "    failed: {}", visible(error))?;
        }
        writeln!(out, "    took: {:.1} ms", row.latency_ms)?;
    }
    Ok(())
}
