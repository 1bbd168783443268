//! Ctrl-C and SIGTERM: the run ends within a second, with a line that says how it goes on.

use std::io::Write as _;
use std::sync::Arc;
use std::thread::Builder;
use std::time::Duration;

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use tokio::sync::watch;

use super::failure::{Ending, EndingKind};
use super::progress::FetchProgress;

/// Longest time until the process ends after a signal.
const LIMIT: Duration = Duration::from_millis(900);

/// The signal that came, if one did.
#[derive(Debug)]
pub(super) struct StopSignal(watch::Receiver<Option<i32>>);

impl StopSignal {
    /// Receives signals on a thread of its own.
    pub(super) fn receive(progress: &Arc<FetchProgress>) -> std::io::Result<Self> {
        let mut signals = Signals::new([SIGTERM, SIGINT])?;
        let (sender, receiver) = watch::channel(None);
        let progress = Arc::clone(progress);
        let run = move || {
            let mut signals = signals.forever();
            let Some(signal) = signals.next() else { return };
            let _ = sender.send(Some(signal));
            // Whatever is stuck, the process ends. A second signal ends it at once.
            let late = Builder::new().name("late".to_owned()).spawn(move || {
                std::thread::sleep(LIMIT);
                progress.clear();
                let _ = writeln!(anstream::stderr(), "{}", ending(signal));
                std::process::exit(128 + signal);
            });
            if late.is_err() || signals.next().is_some() {
                std::process::exit(128 + signal);
            }
        };
        Builder::new().name("signals".to_owned()).spawn(run)?;
        Ok(Self(receiver))
    }

    /// Resolves to the signal when it comes.
    pub(super) async fn came(&mut self) -> i32 {
        match self.0.wait_for(Option::is_some).await {
            Ok(signal) => signal.unwrap_or(SIGTERM),
            Err(_) => std::future::pending().await,
        }
    }
}

pub(super) fn ending(signal: i32) -> Ending {
    let name = if signal == SIGINT { "Ctrl-C" } else { "SIGTERM" };
    let text = format!(
        "stopped by {name}; what came is kept: run the same command again, and it goes on without a second start"
    );
    Ending::new(EndingKind::Stopped(signal), text)
}
