//! Telemetry of the running gateway: logs (readable on a terminal, JSON otherwise), metrics of the request path, and
//! traces. Never a credential or a link.

pub mod drift;
pub mod history;
mod json;
mod lines;
pub mod metrics;
mod settings;
pub mod trace;

use std::backtrace::{Backtrace, BacktraceStatus};
use std::fs::File;
use std::io::IsTerminal as _;
use std::os::fd::AsFd as _;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tracing_subscriber::filter::Directive;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, reload};

use json::Json;
use lines::LogLines;

pub use settings::{Format, Settings};

/// The target of the one event of each exchange.
pub const EXCHANGE: &str = "exportgate::exchange";
/// The target of the one event of each transfer of a file.
pub const TRANSFER: &str = "exportgate::transfer";

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
    /// The subscriber that writes logs is gone.
    #[error("the filter cannot be replaced")]
    Reload(#[from] reload::Error),
    /// Standard error is closed, or too many files are open.
    #[error("standard error cannot be opened")]
    Stderr(#[from] std::io::Error),
}

/// The filter of the log, which may be changed at run time.
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
    /// If the filter cannot be parsed.
    pub fn set(&self, settings: &Settings) -> Result<(), LogError> {
        Ok((self.0)(filter(settings)?)?)
    }
}

#[expect(clippy::disallowed_methods, reason = "the one variable that all programs with these logs know")]
fn filter(settings: &Settings) -> Result<EnvFilter, LogError> {
    let given = std::env::var("RUST_LOG").ok().filter(|text| !text.trim().is_empty());
    quietened(EnvFilter::try_new(given.as_deref().unwrap_or(&settings.filter))?)
}

/// Longest wait at a stop for a slow reader of the log.
const SLOW_READER: Duration = Duration::from_secs(5);

/// The log of this process; there is one subscriber in a process.
static LOG: OnceLock<Arc<LogLines>> = OnceLock::new();

/// Lines of the log that were dropped since the start, because nothing read them or a disk was full.
#[must_use]
pub fn lines_dropped() -> u64 {
    LOG.get().map_or(0, |lines| lines.dropped())
}

/// Waits until the log is written, for `most` of a time and as long as somebody reads it: for the end of the process.
pub fn finish_log(most: Duration) {
    if let Some(lines) = LOG.get() {
        lines.finish(most);
    }
}

/// Flushes the log when it is dropped, also by a panic.
#[derive(Debug)]
pub struct Unwritten(());

impl Drop for Unwritten {
    fn drop(&mut self) {
        finish_log(SLOW_READER);
    }
}

/// Writes events and panics to standard error from now on, on a thread of its own. `RUST_LOG` comes before `log.filter`.
///
/// # Errors
/// If the filter cannot be parsed, or logs are set up already.
pub fn init(settings: &Settings) -> Result<(LogFilter, Unwritten), LogError> {
    let is_terminal = std::io::stderr().is_terminal();
    let is_text = match settings.format {
        Format::Text => true,
        Format::Json => false,
        Format::Auto => is_terminal,
    };
    let (filter, handle) = reload::Layer::new(filter(settings)?);
    // A file of its own: whoever writes to `Stderr` holds its lock, and everybody else would wait for the reader too.
    let stderr = File::from(std::io::stderr().as_fd().try_clone_to_owned()?);
    let lines = Arc::new(LogLines::begin(stderr, settings.max_buffer));
    let to = Arc::clone(&lines);
    let text =
        is_text.then(|| tracing_subscriber::fmt::layer().with_writer(Arc::clone(&to)).with_ansi(is_terminal));
    let json = (!is_text).then(|| Json(move |line: &[u8]| to.take(line)));
    tracing_subscriber::registry().with(text).with(json).with(filter).try_init()?;
    log_panics();
    let _ = LOG.set(lines);
    let set = move |filter| handle.reload(filter);
    Ok((LogFilter(Arc::new(set)), Unwritten(())))
}

/// Logs panics: the hook of the standard library writes to standard error itself, and waits for its reader.
fn log_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let backtrace = Backtrace::capture();
        let is_wanted = backtrace.status() == BacktraceStatus::Captured;
        tracing::error!(
            thread.name = std::thread::current().name(),
            code.location = panic.location().map(tracing::field::display),
            backtrace = is_wanted.then(|| tracing::field::display(backtrace)),
            "panic: {}",
            panic.payload_as_str().unwrap_or("no message")
        );
    }));
}

/// Removes the libraries' finer levels from a filter.
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

/// Checks that `filter` can be parsed.
///
/// # Errors
/// The parser's message.
pub fn check_filter(filter: &str) -> Result<(), String> {
    EnvFilter::try_new(filter).map(drop).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    #[test]
    fn a_panic_is_an_event() {
        let log = Arc::new(Mutex::new(Vec::new()));
        let to = Arc::clone(&log);
        let json = Json(move |line: &[u8]| to.lock().expect("no panic").extend_from_slice(line));
        let before = std::panic::take_hook();
        log_panics();
        let panics = || std::panic::catch_unwind(|| panic!("on {}", "purpose"));
        let ended = tracing::subscriber::with_default(tracing_subscriber::registry().with(json), panics);
        std::panic::set_hook(before);
        assert!(ended.is_err());
        let event: serde_json::Value =
            serde_json::from_slice(&log.lock().expect("no panic")).expect("one event");
        assert_eq!(
            (event["level"].as_str(), event["message"].as_str()),
            (Some("ERROR"), Some("panic: on purpose"))
        );
        assert!(event["code.location"].as_str().is_some_and(|place| place.starts_with(file!())));
    }
}
