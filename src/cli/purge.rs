//! `exportgate purge`.

use http::Method;
use serde::Deserialize;

use super::Failure;
use super::admin::Reached;
use crate::export::Id;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// All that is stored
    #[arg(long, conflicts_with = "ids", required_unless_present = "ids")]
    all: bool,
    /// The org's or group's id, and the export's: its results and job status
    #[arg(id = "ids", value_names = ["SCOPE_ID", "EXPORT_ID"], num_args = 2, value_parser = id)]
    ids: Vec<Id>,
    #[command(flatten)]
    reached: Reached,
}

fn id(text: &str) -> Result<Id, &'static str> {
    Id::parse(text).ok_or("must be an id, such as 825e79b7-0073-44c3-a5ea-e0aa8a3dbf38")
}

#[derive(Debug, Deserialize)]
struct Purged {
    purged: u64,
}

/// Has the gateway forget what it stored.
pub(super) async fn run(args: &Args) -> Result<String, Failure> {
    let target = match args.ids.as_slice() {
        [scope, export] => format!("/api/exports/{}/{}", scope.as_str(), export.as_str()),
        _ => "/api/exports".to_owned(),
    };
    let door = args.reached.door(true)?;
    let body = door.ask(Method::DELETE, &target).await?;
    Ok(match door.read(&body)? {
        Purged { purged: 0 } => "Nothing was stored of it.\n".to_owned(),
        Purged { purged: 1 } => "1 answer is stored no more.\n".to_owned(),
        Purged { purged } => format!("{purged} answers are stored no more.\n"),
    })
}
