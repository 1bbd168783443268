//! `exportgate requests`.

use comfy_table::presets::UTF8_FULL_CONDENSED;
use comfy_table::{ContentArrangement, Table};

use super::CommandError;
use super::recorded::{FoundRecords, RecordForm, RecordedArgs, failed, harmless_text, short};
use crate::clock::Clock;
use crate::error_text::visible;
use crate::journal::{Query, Row, Settings, StatusFilter, find, find_shipped, support};

#[derive(Debug, clap::Args)]
pub(super) struct RequestsArgs {
    /// Requests about this export
    #[arg(long, value_name = "ID")]
    export: Option<String>,
    /// Requests about this org
    #[arg(long, value_name = "ID")]
    org: Option<String>,
    /// Requests about this group
    #[arg(long, value_name = "ID")]
    group: Option<String>,
    /// Any request id (Exportgate-Request-Id or snyk-request-id), or at least its first 8 characters
    #[arg(long, value_name = "ID")]
    id: Option<String>,
    /// A status (404), a class (5xx), or "error" for requests without a complete answer
    #[arg(long)]
    status: Option<StatusFilter>,
    #[command(flatten)]
    recorded: RecordedArgs,
    /// Print a block for a ticket to Snyk's support
    #[arg(long, conflicts_with = "format")]
    support: bool,
}

pub(super) async fn run(args: &RequestsArgs, journal: &Settings) -> Result<String, CommandError> {
    let RequestsArgs { recorded, .. } = args;
    let now = Clock::system().now().wall;
    let query = Query {
        export: args.export.clone(),
        org: args.org.clone(),
        group: args.group.clone(),
        client: recorded.client.clone(),
        id: args.id.clone(),
        status: args.status,
        since: recorded.since(now),
        until: recorded.until(now),
        limit: recorded.limit,
        within: None,
    };
    let ask = async |ship: &_| find_shipped(ship, &query).await;
    let FoundRecords { rows, place } = FoundRecords::of(journal, ask, |path| find(path, &query)).await?;
    if args.support {
        return Ok(support(&rows));
    }
    let none = format!(
        "No matching requests in {place}. Try fewer filters, and at least 8 characters of an id.\nAnswers from the cache are in the gateway's log only: search it for the snyk-request-id of the answer.\n"
    );
    recorded.show(&rows, &RecordForm { none, table, harmless }).map_err(failed)
}

/// A table for a terminal. Tries and waits have columns only if there are any: lines are long enough.
pub(super) fn table(rows: &[Row]) -> Table {
    let tries = rows.iter().any(|row| row.number > 1);
    let waits = rows.iter().any(|row| row.queued_ms >= 1.0);
    let mut table = Table::new();
    table.load_style(UTF8_FULL_CONDENSED).set_content_arrangement(ContentArrangement::Disabled);
    let header = ["time (UTC)", "operation", "scope", "export", "status", "ms", "clients"];
    let header = header.into_iter().chain(tries.then_some("try")).chain(waits.then_some("waited (ms)"));
    table.set_header(header.chain(["snyk-request-id"]));
    for row in rows {
        let scope = row.scope_kind.as_deref().zip(row.scope_id.as_deref());
        let status = row.status.map_or_else(String::new, |status| status.to_string());
        let word = row.error.as_deref().or(row.export_status.as_deref()).unwrap_or_default();
        let waited = format!("{:.0} {}", row.queued_ms, row.waited_for.as_deref().unwrap_or_default());
        let cells = [
            row.started.clone(),
            row.operation.clone(),
            scope.map_or_else(String::new, |(kind, id)| format!("{kind} {}", visible(short(id)))),
            row.export_id.as_deref().map(|id| visible(short(id))).unwrap_or_default(),
            format!("{status} {}", visible(word)).trim().to_owned(),
            format!("{:.1}", row.latency_ms),
            row.clients.to_string(),
        ];
        let cells = cells.into_iter().chain(tries.then(|| row.number.to_string()));
        let cells = cells.chain(waits.then(|| waited.trim().to_owned()));
        let id = row.received_id.as_deref().map_or_else(|| format!("{} (sent)", row.sent_id), visible);
        table.add_row(cells.chain([id]));
    }
    table
}

/// A spreadsheet must not take a value for a formula.
fn harmless(mut row: Row) -> Row {
    let optional = [
        &mut row.scope_id,
        &mut row.export_id,
        &mut row.export_status,
        &mut row.received_id,
        &mut row.version_requested,
        &mut row.version_served,
        &mut row.lifecycle,
        &mut row.deprecation,
        &mut row.sunset,
    ];
    for value in optional.into_iter().flatten().chain([&mut row.client, &mut row.method]) {
        harmless_text(value);
    }
    row
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tries_and_waits_are_shown_where_there_were_any() {
        let mut row = Row {
            started: "2026-11-24T09:00:00.000Z".to_owned(),
            latency_ms: 12.3,
            operation: "results".to_owned(),
            method: "GET".to_owned(),
            scope_kind: Some("org".to_owned()),
            scope_id: Some("825e79b7-0073-44c3-a5ea-e0aa8a3dbf38".to_owned()),
            export_id: None,
            status: Some(200),
            export_status: None,
            error: None,
            received_id: None,
            sent_id: "s".to_owned(),
            request_id: "r".to_owned(),
            client: "local".to_owned(),
            clients: 1,
            upstream: "https://api.snyk.io".to_owned(),
            credential: "default".to_owned(),
            bytes: None,
            version_requested: None,
            version_served: None,
            lifecycle: None,
            deprecation: None,
            sunset: None,
            number: 1,
            queued_ms: 0.2,
            waited_for: None,
        };
        let plain = table(std::slice::from_ref(&row)).to_string();
        assert!(!plain.contains("try") && !plain.contains("waited"), "{plain}");
        (row.number, row.queued_ms, row.waited_for) = (3, 120.4, Some("budget".to_owned()));
        let text = table(&[row]).to_string();
        assert!(text.contains("try") && text.contains("120 budget"), "{text}");
    }
}
