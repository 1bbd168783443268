//! `exportgate demo`.

use super::Failure;

/// Options of the demo.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// End after the run, with exit code 0, instead of serving on.
    #[arg(long)]
    once: bool,
}

pub(super) fn run(_: &Args) -> Result<(), Failure> {
    Ok(())
}
