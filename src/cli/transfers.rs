//! `exportgate transfers`.

use comfy_table::presets::UTF8_FULL_CONDENSED;
use comfy_table::{ContentArrangement, Table};

use super::CommandError;
use super::recorded::{FoundRecords, RecordForm, RecordedArgs, failed, harmless_text, short};
use crate::clock::Clock;
use crate::error_text::visible;
use crate::journal::{Settings, TransferQuery, TransferRow, find_shipped_transfers, find_transfers};

#[derive(Debug, clap::Args)]
pub(super) struct TransfersArgs {
    /// Transfers of this export, or the one with this Exportgate-Request-Id
    #[arg(long, value_name = "ID")]
    id: Option<String>,
    #[command(flatten)]
    recorded: RecordedArgs,
}

pub(super) async fn run(args: &TransfersArgs, journal: &Settings) -> Result<String, CommandError> {
    let TransfersArgs { id, recorded } = args;
    let now = Clock::system().now().wall;
    let query = TransferQuery {
        id: id.clone(),
        client: recorded.client.clone(),
        since: recorded.since(now),
        until: recorded.until(now),
        limit: recorded.limit,
    };
    let ask = async |ship: &_| find_shipped_transfers(ship, &query).await;
    let read = |path: &_| find_transfers(path, &query);
    let FoundRecords { rows, place } = FoundRecords::of(journal, ask, read).await?;
    let none = format!("No matching transfers of files in {place}.\n");
    recorded.show(&rows, &RecordForm { none, table, harmless }).map_err(failed)
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
