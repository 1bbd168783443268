//! `exportgate transfers`.

use std::io::Write;
use std::path::Path;
use std::time::SystemTime;

use comfy_table::presets::UTF8_FULL_CONDENSED;
use comfy_table::{ContentArrangement, Table};

use super::requests::{OutputFormat, RequestsError, harmless_text, moment_text, short};
use crate::error_text::visible;
use crate::journal::{TransferQuery, TransferRow, find_transfers, moment};

#[derive(Debug, clap::Args)]
pub(super) struct TransfersArgs {
    /// Transfers of this export, or the one with this Exportgate-Request-Id
    #[arg(long, value_name = "ID")]
    id: Option<String>,
    /// Transfers to this client
    #[arg(long, value_name = "NAME")]
    client: Option<String>,
    /// Begun after this time (2026-02-12T20:00:00Z) or this long ago (2h)
    #[arg(long, value_name = "TIME", value_parser = moment_text)]
    since: Option<String>,
    /// Begun before this time or this long ago
    #[arg(long, value_name = "TIME", value_parser = moment_text)]
    until: Option<String>,
    /// Show at most this many, the newest first
    #[arg(long, default_value_t = 50)]
    limit: u32,
    /// Output format
    #[arg(long, value_enum, default_value_t = OutputFormat::Table)]
    format: OutputFormat,
}

pub(super) fn run(
    args: &TransfersArgs,
    journal: &Path,
    out: &mut dyn Write,
    now: SystemTime,
) -> Result<(), RequestsError> {
    let at = |text: &Option<String>| text.as_deref().and_then(|text| moment(text, now).ok());
    let query = TransferQuery {
        id: args.id.clone(),
        client: args.client.clone(),
        since: at(&args.since),
        until: at(&args.until),
        limit: args.limit,
    };
    let rows = find_transfers(journal, &query)?;
    match args.format {
        OutputFormat::Table if rows.is_empty() => {
            writeln!(out, "No matching transfers of files in {}.", journal.display())?;
        }
        OutputFormat::Table => writeln!(out, "{}", table(&rows))?,
        OutputFormat::Json => {
            serde_json::to_writer_pretty(&mut *out, &rows)?;
            writeln!(out)?;
        }
        OutputFormat::Csv => {
            let mut csv = csv::Writer::from_writer(out);
            for row in rows {
                csv.serialize(harmless(row))?;
            }
            csv.flush()?;
        }
    }
    Ok(())
}

/// A table for a terminal.
fn table(rows: &[TransferRow]) -> Table {
    let mut table = Table::new();
    table.load_style(UTF8_FULL_CONDENSED).set_content_arrangement(ContentArrangement::Disabled);
    let header =
        ["time (UTC)", "client", "scope", "export", "file", "range", "bytes", "ms", "host", "outcome"];
    table.set_header(header);
    for row in rows {
        let range = row.range_first.zip(row.range_last);
        table.add_row([
            row.started.clone(),
            visible(&row.client),
            format!("{} {}", row.scope_kind, visible(short(&row.scope_id))),
            visible(short(&row.export_id)),
            visible(&row.file),
            range.map_or_else(String::new, |(first, last)| format!("{first}-{last}")),
            row.bytes.to_string(),
            format!("{:.0}", row.duration_ms),
            row.host.as_deref().map(visible).unwrap_or_default(),
            row.outcome.clone(),
        ]);
    }
    table
}

/// A spreadsheet must not take a value for a formula.
fn harmless(mut row: TransferRow) -> TransferRow {
    for value in [&mut row.client, &mut row.scope_id, &mut row.export_id] {
        harmless_text(value);
    }
    row
}
