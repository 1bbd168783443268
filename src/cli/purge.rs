//! `exportgate purge`.

use http::Method;

use super::CommandError;
use super::admin::AdminArgs;
use crate::admin::report::PurgeReport;
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

pub(super) async fn run(args: &PurgeArgs) -> Result<String, CommandError> {
    let target = match args.ids.as_slice() {
        [scope, export] => format!("/api/exports/{}/{}", scope.as_str(), export.as_str()),
        _ => "/api/exports".to_owned(),
    };
    let client = args.reached.client()?;
    let body = client.call(Method::DELETE, &target).await?;
    let PurgeReport { purged } = client.read(&body)?;
    let entries = if purged == 1 { "entry" } else { "entries" };
    Ok(format!("Purged {purged} {entries}.\n"))
}
