//! stub
#[derive(Debug, clap::Args)]
pub(super) struct Args {}
pub(super) fn run(
    _: &Args,
    _: &std::path::Path,
    _: &mut dyn std::io::Write,
    _: std::time::SystemTime,
) -> Result<(), std::io::Error> {
    Ok(())
}
