//! Logs: readable on a terminal, JSON otherwise, and never a credential or a link.

mod settings;

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::Directive;
use tracing_subscriber::util::SubscriberInitExt;

pub use settings::{Format, Settings};

/// The libraries below us write what they send and read at their finer levels; no filter opens these.
const QUIET: [&str; 7] =
    ["hyper=info", "hyper_util=info", "h2=info", "rustls=info", "tokio=info", "mio=info", "moka=info"];

/// Logs could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The filter cannot be read.
    #[error("log.filter: {0}")]
    Filter(#[from] tracing_subscriber::filter::ParseError),
    /// Something else in this process writes logs already.
    #[error("logs are set up already")]
    Twice(#[from] tracing_subscriber::util::TryInitError),
}

/// Writes events to standard error from now on. `RUST_LOG` comes before `log.filter`.
///
/// # Errors
/// When the filter cannot be read, or logs are set up already.
pub fn init(settings: &Settings) -> Result<(), LogError> {
    let given = EnvFilter::try_from_default_env().or_else(|_| EnvFilter::try_new(&settings.filter))?;
    let filter = quietened(given)?;
    let text = match settings.format {
        Format::Text => true,
        Format::Json => false,
        Format::Auto => std::io::stderr().is_terminal(),
    };
    let events = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    if text {
        events.with_ansi(std::io::stderr().is_terminal()).finish().try_init()?;
    } else {
        events
            .json()
            .flatten_event(true)
            .with_current_span(false)
            .with_span_list(false)
            .finish()
            .try_init()?;
    }
    Ok(())
}

/// Takes from a filter what would open the libraries' finer levels.
///
/// # Errors
/// Never, as long as the list of libraries can be read.
pub fn quietened(given: EnvFilter) -> Result<EnvFilter, LogError> {
    let mut filter = given;
    for quiet in QUIET {
        filter = filter.add_directive(quiet.parse::<Directive>()?);
    }
    Ok(filter)
}

/// Whether `filter` can be read.
///
/// # Errors
/// What is wrong with it.
pub fn check_filter(filter: &str) -> Result<(), String> {
    EnvFilter::try_new(filter).map(drop).map_err(|error| error.to_string())
}
