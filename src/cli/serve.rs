//! `exportgate serve`.

use std::sync::Arc;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Notify;

use super::{Configured, Failure, block_on, stop_on_signal};
use crate::app::{App, Reload};
use crate::clock::Clock;
use crate::config::Config;
use crate::files;
use crate::shutdown::Shutdown;
use crate::telemetry;

pub(super) fn run(configured: Configured, denied: Vec<String>) -> Result<(), Failure> {
    let file = configured.file().map(|path| {
        let found = files::fingerprint(&path);
        (path, found)
    });
    let (config, lowered) = within_open_files(configured.resolve()?.0);
    let (log, unwritten) = telemetry::init(&config.log)
        .map_err(|error| Failure::Other("logs cannot be set up", error.into()))?;
    for denied in denied {
        tracing::warn!("{denied}");
    }
    if lowered {
        tracing::warn!(
            listener.max_connections = config.listener.max_connections,
            "fewer files may be open than listener.max_connections wants, which is lowered: raise the limit (LimitNOFILE=, ulimit -n)"
        );
    }
    let at_end = unwritten.clone();
    let done = block_on(async {
        let shutdown = Shutdown::new();
        let no_signals = |error: std::io::Error| Failure::Other("no signals", error.into());
        stop_on_signal(&shutdown, move || at_end.finish()).map_err(no_signals)?;
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
        let read = Box::new(move || Ok(within_open_files(configured.resolve()?.0).0));
        app.reloading(Reload { read, file, log, asked }).run().await;
        Ok(())
    });
    unwritten.finish();
    done
}

/// Open files that are kept for what is no client's connection: Snyk, the admin listener, the journal, files.
const RESERVED: usize = 128;

/// Lowers `listener.max_connections` to what may be open, so that who looks after the gateway finds a place; whether
/// it was lowered.
fn within_open_files(mut config: Config) -> (Config, bool) {
    let open = crate::hardening::max_open_files().and_then(|open| usize::try_from(open).ok());
    let most = open.unwrap_or(usize::MAX).saturating_sub(RESERVED).max(1);
    let lowered = most < config.listener.max_connections;
    config.listener.max_connections = config.listener.max_connections.min(most);
    (config, lowered)
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
