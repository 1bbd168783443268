//! `exportgate transfers`.

use std::path::Path;
use std::time::SystemTime;

use comfy_table::presets::UTF8_FULL_CONDENSED;
use comfy_table::{ContentArrangement, Table};

use super::recorded::{RecordForm, RecordedArgs, harmless_text, short};
use crate::error_text::{BoxError, visible};
use crate::journal::{TransferQuery, TransferRow, find_transfers};

#[derive(Debug, clap::Args)]
pub(super) struct TransfersArgs {
    /// Transfers of this export, or the one with this Exportgate-Request-Id
    #[arg(long, value_name = "ID")]
    id: Option<String>,
    #[command(flatten)]
    recorded: RecordedArgs,
}

pub(super) fn run(args: &TransfersArgs, journal: &Path, now: SystemTime) -> Result<String, BoxError> {
    let TransfersArgs { id, recorded } = args;
    let query = TransferQuery {
        id: id.clone(),
        client: recorded.client.clone(),
        since: recorded.since(now),
        until: recorded.until(now),
        limit: recorded.limit,
    };
    let none = format!("No matching transfers of files in {}.\n", journal.display());
    recorded.show(&find_transfers(journal, &query)?, &RecordForm { none, table, harmless })
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
