//! The options and the formats of the commands that show what is on record: `requests` and `transfers`.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use clap::ValueEnum;
use comfy_table::Table;
use serde::Serialize;

use super::CommandError;
use crate::error_text::BoxError;
use crate::journal::{QueryError, Settings, ShipError, ShipSettings, moment};

/// The records that are wanted, and their form.
#[derive(Debug, clap::Args)]
pub(super) struct RecordedArgs {
    /// Only those for this client
    #[arg(long, value_name = "NAME")]
    pub(super) client: Option<String>,
    /// Begun after this time (2026-02-12T20:00:00Z) or this long ago (2h)
    #[arg(long, value_name = "TIME", value_parser = moment_text)]
    since: Option<String>,
    /// Begun before this time or this long ago
    #[arg(long, value_name = "TIME", value_parser = moment_text)]
    until: Option<String>,
    /// Show at most this many, the newest first
    #[arg(long, default_value_t = 50)]
    pub(super) limit: u32,
    /// Output format
    #[arg(long, value_enum, default_value_t = OutputFormat::Table)]
    format: OutputFormat,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum OutputFormat {
    Table,
    Json,
    Csv,
}

/// Checks a time or a distance; it is resolved when now is known.
fn moment_text(text: &str) -> Result<String, &'static str> {
    moment(text, SystemTime::UNIX_EPOCH).map(|_| text.to_owned())
}

impl RecordedArgs {
    pub(super) fn since(&self, now: SystemTime) -> Option<SystemTime> {
        moment(self.since.as_deref()?, now).ok()
    }

    pub(super) fn until(&self, now: SystemTime) -> Option<SystemTime> {
        moment(self.until.as_deref()?, now).ok()
    }

    /// The rows in the format that is wanted.
    pub(super) fn show<R: Serialize + Clone>(
        &self,
        rows: &[R],
        form: &RecordForm<R>,
    ) -> Result<String, BoxError> {
        Ok(match self.format {
            OutputFormat::Table if rows.is_empty() => form.none.clone(),
            OutputFormat::Table => format!("{}\n", (form.table)(rows)),
            OutputFormat::Json => format!("{}\n", serde_json::to_string_pretty(rows)?),
            OutputFormat::Csv => {
                let mut csv = csv::Writer::from_writer(Vec::new());
                for row in rows {
                    csv.serialize((form.harmless)(row.clone()))?;
                }
                String::from_utf8(csv.into_inner()?)?
            }
        })
    }
}

/// The records that were found, and their place.
pub(super) struct FoundRecords<R> {
    pub(super) rows: Vec<R>,
    pub(super) place: String,
}

impl<R: Send + 'static> FoundRecords<R> {
    /// Asks the database where there is one, and else the file: also where the database does not answer, which is said.
    pub(super) async fn of(
        settings: &Settings,
        ask: impl AsyncFnOnce(&ShipSettings) -> Result<Vec<R>, ShipError>,
        read: impl FnOnce(&Path) -> Result<Vec<R>, QueryError>,
    ) -> Result<Self, CommandError> {
        let path: &PathBuf = &settings.path;
        if let Some(ship) = &settings.ship {
            match ask(ship).await {
                Ok(rows) => return Ok(Self { rows, place: format!("the {ship}") }),
                Err(error) => {
                    // Standard output is for programs.
                    let _ = writeln!(
                        anstream::stderr(),
                        "note: the {ship} was not searched ({error}); these are the records in {} alone, of this machine",
                        path.display()
                    );
                }
            }
        }
        let rows = read(path).map_err(|error| failed(error.into()))?;
        Ok(Self { rows, place: path.display().to_string() })
    }
}

pub(super) fn failed(error: BoxError) -> CommandError {
    CommandError::Other("cannot search the journal", error)
}

/// The forms of one kind of row.
pub(super) struct RecordForm<R> {
    /// The text where there are none.
    pub(super) none: String,
    /// A table for a terminal.
    pub(super) table: fn(&[R]) -> Table,
    /// A row that a spreadsheet takes for no formula.
    pub(super) harmless: fn(R) -> R,
}

/// The first part of a UUID, which is enough to recognise it.
pub(super) fn short(id: &str) -> &str {
    if id.len() == 36 { id.split('-').next().unwrap_or(id) } else { id }
}

/// A text that a spreadsheet takes for no formula.
pub(super) fn harmless_text(value: &mut String) {
    if value.starts_with(['=', '+', '-', '@', '\t', '\r']) {
        value.insert(0, '\'');
    }
}
