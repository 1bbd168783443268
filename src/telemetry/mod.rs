//! What is told of the gateway while it runs: logs (readable on a terminal, JSON otherwise), what the request path
//! counts, and traces. Never a credential or a link.

pub mod drift;
pub mod history;
mod json;
mod lines;
pub mod metrics;
mod settings;
pub mod trace;

use std::io::{IsTerminal, Stderr};
use std::sync::Arc;

use tracing::{Level, Metadata};
use tracing_subscriber::filter::Directive;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, reload};

use json::Json;
use lines::Lines;

pub use settings::{Format, Settings};

/// The target of the one event of each exchange.
pub const EXCHANGE: &str = "exportgate::exchange";

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
    /// What writes logs is gone.
    #[error("the filter cannot be replaced")]
    Reload(#[from] reload::Error),
    /// No thread can be started.
    #[error("no thread to write them")]
    Thread(#[from] std::io::Error),
}

/// What is logged; it may be changed while we run.
#[derive(Clone)]
pub struct LogFilter(Set);

type Set = Arc<dyn Fn(EnvFilter) -> Result<(), reload::Error> + Send + Sync>;

impl std::fmt::Debug for LogFilter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("LogFilter")
    }
}

impl LogFilter {
    /// Logs what `settings` say from now on. `RUST_LOG` comes before `log.filter`.
    ///
    /// # Errors
    /// When the filter cannot be read.
    pub fn set(&self, settings: &Settings) -> Result<(), LogError> {
        Ok((self.0)(filter(settings)?)?)
    }
}

#[expect(clippy::disallowed_methods, reason = "the one variable that all programs with these logs know")]
fn filter(settings: &Settings) -> Result<EnvFilter, LogError> {
    let given = std::env::var("RUST_LOG").ok().filter(|text| !text.trim().is_empty());
    quietened(EnvFilter::try_new(given.as_deref().unwrap_or(&settings.filter))?)
}

/// Lines that may not be written yet.
#[derive(Debug, Clone)]
pub struct Unwritten(Option<Arc<Lines<Stderr>>>);

impl Unwritten {
    /// Writes them, and each that comes from now on at once: to be called before the process ends.
    pub fn finish(&self) {
        if let Some(lines) = &self.0 {
            lines.close();
        }
    }
}

/// Writes events to standard error from now on. `RUST_LOG` comes before `log.filter`.
///
/// # Errors
/// When the filter cannot be read, or logs are set up already.
pub fn init(settings: &Settings) -> Result<(LogFilter, Unwritten), LogError> {
    let text = match settings.format {
        Format::Text => true,
        Format::Json => false,
        Format::Auto => std::io::stderr().is_terminal(),
    };
    let filter = filter(settings)?;
    if text {
        let events = tracing_subscriber::fmt().with_writer(std::io::stderr);
        let events = events.with_ansi(std::io::stderr().is_terminal());
        let events = events.with_env_filter(filter).with_filter_reloading();
        let handle = events.reload_handle();
        events.finish().try_init()?;
        return Ok((LogFilter(Arc::new(move |filter| handle.reload(filter))), Unwritten(None)));
    }
    let lines = Lines::begin(std::io::stderr())?;
    let (filter, handle) = reload::Layer::new(filter);
    let to = Arc::clone(&lines);
    let events = Json::new(move |line: &[u8], event: &Metadata<'_>| to.take(line, may_wait(event)));
    tracing_subscriber::registry().with(events).with(filter).try_init()?;
    tell_panics_last(&lines);
    Ok((LogFilter(Arc::new(move |filter| handle.reload(filter))), Unwritten(Some(lines))))
}

/// Whether a line may wait for others: those of exchanges, of which there may be very many, unless something is wrong.
fn may_wait(event: &Metadata<'_>) -> bool {
    event.target() == EXCHANGE && *event.level() > Level::WARN
}

/// Has a panic told after all that came before it: it may be the last that is told.
fn tell_panics_last(lines: &Arc<Lines<Stderr>>) {
    let (lines, tell) = (Arc::clone(lines), std::panic::take_hook());
    std::panic::set_hook(Box::new(move |panic| {
        lines.write();
        tell(panic);
    }));
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
