//! `exportgate purge`.

use std::fmt::Write as _;
use std::io::Write;

use http::{Method, StatusCode};

use super::admin::AdminArgs;
use super::{CommandError, cannot_write, closed};
use crate::admin::report::{ErrorText, PurgeReport};
use crate::error_text::visible;
use crate::export::Id;

#[derive(Debug, clap::Args)]
pub(super) struct PurgeArgs {
    /// Purge all entries
    #[arg(long, conflicts_with = "ids", required_unless_present = "ids")]
    all: bool,
    /// Id of the org or group, and id of the export
    #[arg(id = "ids", value_names = ["SCOPE_ID", "EXPORT_ID"], num_args = 2, value_parser = id)]
    ids: Vec<Id>,
    #[command(flatten)]
    reached: AdminArgs,
}

fn id(text: &str) -> Result<Id, &'static str> {
    Id::parse(text).ok_or("must be an id, such as 825e79b7-0073-44c3-a5ea-e0aa8a3dbf38")
}

pub(super) async fn run(args: &PurgeArgs, out: &mut dyn Write) -> Result<(), CommandError> {
    let target = match args.ids.as_slice() {
        [scope, export] => format!("/api/exports/{}/{}", scope.as_str(), export.as_str()),
        _ => "/api/exports".to_owned(),
    };
    let client = args.reached.client()?;
    let wanted = [StatusCode::OK, StatusCode::GATEWAY_TIMEOUT];
    let body = client.call_for(&wanted, Method::DELETE, &target).await?;
    let report: PurgeReport = client.read(&body)?;
    out.write_all(told(&report).as_bytes()).or_else(closed).map_err(cannot_write)?;
    let Some(ErrorText { title, detail, .. }) = &report.error else { return Ok(()) };
    Err(CommandError::Coded { code: 1, text: format!("{}: {}", visible(title), visible(detail)) })
}

fn told(PurgeReport { purged, gateways, .. }: &PurgeReport) -> String {
    let entries = if *purged == 1 { "entry" } else { "entries" };
    let mut text = format!("Purged {purged} {entries}.\n");
    let applied = gateways.iter().filter(|gateway| gateway.applied);
    let names: Vec<_> = applied.map(|gateway| visible(&gateway.name)).collect();
    if !gateways.is_empty() {
        let _ =
            writeln!(text, "Applied by {} of {} gateways: {}", names.len(), gateways.len(), names.join(", "));
    }
    text
}
