//! `exportgate requests`.

use std::io::{self, Write};
use std::path::Path;
use std::time::SystemTime;

use clap::ValueEnum;
use comfy_table::presets::UTF8_FULL_CONDENSED;
use comfy_table::{ContentArrangement, Table};

use crate::journal::{Query, QueryError, Row, StatusFilter, find};

/// What to look for; everything given must match.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Requests about this export
    #[arg(long, value_name = "ID")]
    export: Option<String>,
    /// Requests about this org
    #[arg(long, value_name = "ID")]
    org: Option<String>,
    /// Requests about this group
    #[arg(long, value_name = "ID")]
    group: Option<String>,
    /// Requests that answered this client
    #[arg(long, value_name = "NAME")]
    client: Option<String>,
    /// Any id: Exportgate-Request-Id, or snyk-request-id
    #[arg(long, value_name = "ID")]
    id: Option<String>,
    /// A status (404), a class (5xx), or "error" where no whole answer came
    #[arg(long)]
    status: Option<StatusFilter>,
    /// Sent since: a time (2026-02-12T20:00:00Z) or so long ago (2h)
    #[arg(long, value_name = "TIME", value_parser = Moment::parse)]
    since: Option<Moment>,
    /// Sent before: a time or so long ago
    #[arg(long, value_name = "TIME", value_parser = Moment::parse)]
    until: Option<Moment>,
    /// Most requests, the newest first
    #[arg(long, default_value_t = 50)]
    limit: u32,
    /// How to print them
    #[arg(long, value_enum, default_value_t = Format::Table)]
    format: Format,
    /// Print a block to paste into a ticket for Snyk's support
    #[arg(long, conflicts_with = "format")]
    support: bool,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Format {
    Table,
    Json,
    Csv,
}

/// A time, or a distance from now.
#[derive(Debug, Clone, Copy)]
enum Moment {
    At(SystemTime),
    Ago(std::time::Duration),
}

impl Moment {
    fn parse(text: &str) -> Result<Self, &'static str> {
        let at = humantime::parse_rfc3339_weak(text).map(Self::At);
        at.or_else(|_| humantime::parse_duration(text).map(Self::Ago))
            .map_err(|_| "must be a UTC time such as 2026-02-12T20:00:00Z, or a distance such as 2h")
    }

    fn resolve(self, now: SystemTime) -> SystemTime {
        match self {
            Self::At(at) => at,
            Self::Ago(ago) => now.checked_sub(ago).unwrap_or(SystemTime::UNIX_EPOCH),
        }
    }
}

/// Why requests cannot be listed.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    #[error(transparent)]
    Query(#[from] QueryError),
    #[error("cannot write")]
    Write(#[from] io::Error),
    #[error("cannot write CSV")]
    Csv(#[from] csv::Error),
    #[error("cannot write JSON")]
    Json(#[from] serde_json::Error),
}

impl Error {
    /// Whether who reads has had enough (`| head`).
    pub(super) fn is_closed(&self) -> bool {
        let kind = match self {
            Self::Query(_) => None,
            Self::Write(error) => Some(error.kind()),
            Self::Csv(error) => {
                if let csv::ErrorKind::Io(error) = error.kind() {
                    Some(error.kind())
                } else {
                    None
                }
            }
            Self::Json(error) => error.io_error_kind(),
        };
        kind == Some(io::ErrorKind::BrokenPipe)
    }
}

pub(super) fn run(args: &Args, journal: &Path, out: &mut dyn Write, now: SystemTime) -> Result<(), Error> {
    let query = Query {
        export: args.export.clone(),
        org: args.org.clone(),
        group: args.group.clone(),
        client: args.client.clone(),
        id: args.id.clone(),
        status: args.status,
        since: args.since.map(|moment| moment.resolve(now)),
        until: args.until.map(|moment| moment.resolve(now)),
        limit: args.limit,
    };
    let rows = find(journal, &query)?;
    if args.support {
        return Ok(support(&rows, out)?);
    }
    match args.format {
        Format::Table if rows.is_empty() => {
            writeln!(
                out,
                "No such requests in {}. Fewer filters find more; ids must be whole.\nWhat the cache answered is in the gateway's log only: search for the snyk-request-id of such an answer.",
                journal.display()
            )?;
        }
        Format::Table => writeln!(out, "{}", table(&rows))?,
        Format::Json => {
            serde_json::to_writer_pretty(&mut *out, &rows)?;
            writeln!(out)?;
        }
        Format::Csv => {
            let mut csv = csv::Writer::from_writer(out);
            for row in &rows {
                csv.serialize(harmless(row))?;
            }
            csv.flush()?;
        }
    }
    Ok(())
}

/// The columns that matter, for a terminal.
pub(super) fn table(rows: &[Row]) -> Table {
    let mut table = Table::new();
    table.load_style(UTF8_FULL_CONDENSED).set_content_arrangement(ContentArrangement::Disabled);
    table.set_header([
        "time (UTC)",
        "operation",
        "scope",
        "export",
        "status",
        "ms",
        "clients",
        "snyk-request-id",
    ]);
    for row in rows {
        let scope = row.scope_kind.as_deref().zip(row.scope_id.as_deref());
        let status = row.status.map_or_else(String::new, |status| status.to_string());
        let word = row.error.as_deref().or(row.export_status.as_deref()).unwrap_or_default();
        table.add_row([
            row.started.clone(),
            row.operation.clone(),
            scope.map_or_else(String::new, |(kind, id)| format!("{kind} {}", visible(short(id)))),
            row.export_id.as_deref().map(|id| visible(short(id))).unwrap_or_default(),
            format!("{status} {}", visible(word)).trim().to_owned(),
            format!("{:.1}", row.latency_ms),
            row.clients.to_string(),
            row.received_id.as_deref().map_or_else(|| format!("{} (sent)", row.sent_id), visible),
        ]);
    }
    table
}

/// The first part of a UUID is enough to tell which.
fn short(id: &str) -> &str {
    if id.len() == 36 { id.split('-').next().unwrap_or(id) } else { id }
}

/// Nothing in the journal may move a terminal's cursor.
fn visible(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

/// What Snyk's support asks for. No client, no credential and no link is in it.
fn support(rows: &[Row], out: &mut dyn Write) -> io::Result<()> {
    let (Some(newest), Some(oldest)) = (rows.first(), rows.last()) else {
        return writeln!(out, "No such requests are on record. Fewer filters find more.");
    };
    writeln!(out, "Requests to Snyk's Export API")?;
    writeln!(out, "  API: {}", visible(&newest.upstream))?;
    writeln!(out, "  From {} to {} (UTC), {} requests", oldest.started, newest.started, rows.len())?;
    for row in rows {
        let text = |value: &Option<String>| visible(value.as_deref().unwrap_or("-"));
        let status = row.status.map_or_else(|| "none".to_owned(), |status| status.to_string());
        writeln!(out, "\n  {}  {} {}", row.started, row.method, row.operation)?;
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

/// A spreadsheet must not take a value for a formula.
fn harmless(row: &Row) -> Row {
    let mut row = row.clone();
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
        if value.starts_with(['=', '+', '-', '@', '\t', '\r']) {
            value.insert(0, '\'');
        }
    }
    row
}
