//! `exportgate serve`.

use std::sync::Arc;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Notify;

use super::{Configured, Failure, block_on, stop_on_signal};
use crate::app::{App, Reload};
use crate::clock::Clock;
use crate::files::Followed;
use crate::shutdown::Shutdown;
use crate::telemetry;

pub(super) fn run(configured: Configured, denied: Vec<String>) -> Result<(), Failure> {
    let file = configured.file().map(|path| Followed::open("configuration", vec![path]));
    let config = configured.resolve()?.0;
    let log = telemetry::init(&config.log)
        .map_err(|error| Failure::Other("logs cannot be set up", error.into()))?;
    for denied in denied {
        tracing::warn!("{denied}");
    }
    let most = u64::try_from(config.listener.max_connections).unwrap_or(u64::MAX);
    if let Some(open) = crate::hardening::max_open_files().filter(|open| *open < most) {
        tracing::warn!(
            limit = open,
            "fewer files may be open than listener.max_connections: raise the limit (LimitNOFILE=, ulimit -n)"
        );
    }
    block_on(async {
        let shutdown = Shutdown::new();
        let no_signals = |error: std::io::Error| Failure::Other("no signals", error.into());
        stop_on_signal(&shutdown).map_err(no_signals)?;
        let asked = Arc::new(Notify::new());
        ask_on_hangup(&asked, &shutdown).map_err(no_signals)?;
        tracing::info!(
            version = env!("CARGO_PKG_VERSION"),
            upstream.url = %config.upstream.root,
            journal.path = %config.journal.path.display(),
            "starting"
        );
        let app = App::bind(config, Clock::system(), shutdown).await.map_err(|error| {
            if error.is_unsafe() {
                Failure::Unsafe("cannot start", error.into())
            } else {
                Failure::Other("cannot start", error.into())
            }
        })?;
        // What cannot be read has been reported as a problem.
        let file = file.and_then(Result::ok).map(|(followed, _)| followed);
        let read = Box::new(move || Ok(configured.resolve()?.0));
        app.reloading(Reload { read, file, log, asked }).run().await;
        Ok(())
    })
}

/// Has the configuration read again at SIGHUP.
fn ask_on_hangup(asked: &Arc<Notify>, shutdown: &Shutdown) -> std::io::Result<()> {
    let mut hangup = signal(SignalKind::hangup())?;
    let (asked, stop) = (Arc::clone(asked), shutdown.clone());
    shutdown.spawn(async move {
        let asking = async {
            while hangup.recv().await.is_some() {
                asked.notify_one();
            }
        };
        tokio::select! {
            () = asking => {}
            () = stop.begun() => {}
        }
    });
    Ok(())
}
