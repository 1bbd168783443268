//! Progress on standard error: a bar on a terminal, else a line or a JSON object for each event.

use std::io::{IsTerminal as _, Write as _};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;

use super::args::ProgressStyleArg;

/// An event of a run. None holds a link or a credential.
#[derive(Debug, Clone, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub(super) enum FetchEvent {
    Started { export: String },
    Continued { export: String },
    Shared { export: String, age: u64 },
    Waiting { export: String },
    Found { parts: usize, bytes: Option<u64> },
    PartDone { part: u32, bytes: u64, rows: u64, proven: Vec<&'static str> },
    Paused { why: String, seconds: u64 },
    Warning { text: String },
    Present { export: String, output: String, finished: String },
    Done { rows: u64, bytes: u64, proven: String, output: String },
}

#[derive(Debug)]
enum ProgressForm {
    Bar(ProgressBar),
    Plain,
    Json,
    None,
}

#[derive(Debug)]
pub(super) struct FetchProgress(ProgressForm);

const WAITING: &str = "{spinner} {msg} {elapsed}";
const KNOWN: &str = "{bar:30} {bytes}/{total_bytes} {bytes_per_sec} {eta} {msg}";
const UNKNOWN: &str = "{spinner} {bytes} {bytes_per_sec} {msg}";
const TICK: Duration = Duration::from_millis(200);

impl FetchProgress {
    pub(super) fn new(style: ProgressStyleArg) -> Self {
        let is_terminal = std::io::stderr().is_terminal();
        Self(match style {
            ProgressStyleArg::Bar => Self::bar(),
            ProgressStyleArg::Auto if is_terminal => Self::bar(),
            ProgressStyleArg::Auto | ProgressStyleArg::Plain => ProgressForm::Plain,
            ProgressStyleArg::Json => ProgressForm::Json,
            ProgressStyleArg::None => ProgressForm::None,
        })
    }

    fn bar() -> ProgressForm {
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
        bar.set_style(style(WAITING));
        bar.enable_steady_tick(TICK);
        ProgressForm::Bar(bar)
    }

    pub(super) fn say(&self, event: &FetchEvent) {
        match &self.0 {
            ProgressForm::None => {}
            ProgressForm::Plain if matches!(event, FetchEvent::Waiting { .. }) => {}
            ProgressForm::Plain => line(&event.to_string()),
            ProgressForm::Json => line(&serde_json::to_string(event).unwrap_or_default()),
            ProgressForm::Bar(bar) => show(bar, event),
        }
    }

    /// Bytes came.
    pub(super) fn came(&self, bytes: u64) {
        if let ProgressForm::Bar(bar) = &self.0 {
            bar.inc(bytes);
        }
    }

    /// Bytes that came were of no use.
    pub(super) fn dropped(&self, bytes: u64) {
        if let ProgressForm::Bar(bar) = &self.0 {
            bar.dec(bytes);
        }
    }

    /// Leaves the terminal as it was.
    pub(super) fn clear(&self) {
        if let ProgressForm::Bar(bar) = &self.0 {
            bar.finish_and_clear();
        }
    }
}

fn show(bar: &ProgressBar, event: &FetchEvent) {
    match event {
        FetchEvent::Waiting { .. } => bar.set_message(event.to_string()),
        FetchEvent::Found { parts, bytes } => {
            bar.set_style(style(if bytes.is_some() { KNOWN } else { UNKNOWN }));
            if let Some(bytes) = bytes {
                bar.set_length(*bytes);
            }
            bar.set_message(format!("{parts} parts"));
        }
        FetchEvent::PartDone { .. } => {}
        FetchEvent::Done { .. } => {
            bar.finish_and_clear();
            line(&event.to_string());
        }
        FetchEvent::Started { .. }
        | FetchEvent::Continued { .. }
        | FetchEvent::Shared { .. }
        | FetchEvent::Paused { .. }
        | FetchEvent::Present { .. }
        | FetchEvent::Warning { .. } => bar.suspend(|| line(&event.to_string())),
    }
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}

fn line(text: &str) {
    let _ = writeln!(anstream::stderr(), "{text}");
}

impl std::fmt::Display for FetchEvent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Started { export } => write!(f, "started export {export}"),
            Self::Continued { export } => write!(f, "going on with export {export}; nothing is started"),
            Self::Shared { export, age } => {
                let age = humantime::format_duration(Duration::from_secs(*age));
                write!(
                    f,
                    "taking export {export}, which an equal start made {age} ago; nothing is started (--restart makes a new one)"
                )
            }
            Self::Waiting { export } => write!(f, "waiting for export {export}"),
            Self::Found { parts, bytes: Some(bytes) } => {
                write!(f, "the export has {parts} parts, {bytes} bytes")
            }
            Self::Found { parts, bytes: None } => write!(f, "the export has {parts} parts"),
            Self::PartDone { part, bytes, rows, proven } => {
                write!(f, "part {part}: {bytes} bytes, {rows} rows, proven by {}", proven.join(", "))
            }
            Self::Paused { why, seconds } => write!(f, "{why}; trying again in {seconds} s"),
            Self::Present { export, output, finished } => {
                write!(
                    f,
                    "{output} is complete since {finished}, of export {export}, for the same question: --clobber fetches it anew"
                )
            }
            Self::Warning { text } => write!(f, "warning: {text}"),
            Self::Done { rows, bytes, proven, output } => {
                write!(f, "complete: {rows} rows, {bytes} bytes; {proven}\nwritten: {output}")
            }
        }
    }
}
