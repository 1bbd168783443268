//! The `exportgate` program: parses the command line, runs the subcommand, prints what went wrong.

use std::process::ExitCode;

use clap::Parser;
use exportgate::cli::{Cli, report};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    match Cli::parse().run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => report(&failure),
    }
}
