//! `exportgate serve`.

use std::sync::Arc;

use tokio::sync::Notify;

use super::{CommandError, Configured, block_on, signals};
use crate::app::{App, Reload};
use crate::clock::Clock;
use crate::config::{self, Config};
use crate::shutdown::Shutdown;
use crate::telemetry;
use crate::watched_file;

pub(super) fn run(configured: Configured, denied: Vec<String>) -> Result<(), CommandError> {
    let file = config::file(configured.config.as_deref()).map(|path| {
        let found = watched_file::fingerprint(&path);
        (path, found)
    });
    let (config, lowered) = within_open_files(configured.resolve()?.0);
    // The log is written when this function ends.
    let (log, _unwritten) =
        telemetry::init(&config.log).map_err(|error| CommandError::Other("logs cannot be set up", error))?;
    for denied in denied {
        tracing::warn!("{denied}");
    }
    if lowered {
        tracing::warn!(
            listener.max_connections = config.listener.max_connections,
            "listener.max_connections lowered to the limit on open files; raise that limit (LimitNOFILE=, ulimit -n)"
        );
    }
    let (shutdown, asked) = (Shutdown::new(), Arc::new(Notify::new()));
    signals::receive(&shutdown, Some(Arc::clone(&asked)))
        .map_err(|error| CommandError::Other("signals cannot be received", error.into()))?;
    block_on(async {
        tracing::info!(
            version = env!("CARGO_PKG_VERSION"),
            upstream.url = %config.upstream.root,
            journal.path = %config.journal.path.display(),
            "starting"
        );
        let app = App::bind(config, Clock::system(), shutdown).await.map_err(|error| {
            if error.is_unsafe() {
                CommandError::Unsafe("cannot start", error.into())
            } else {
                CommandError::Other("cannot start", error.into())
            }
        })?;
        let read = Box::new(move || Ok(within_open_files(configured.resolve()?.0).0));
        app.reloading(Reload { read, file, log, asked }).run().await;
        Ok(())
    })
}

/// Open files that are kept for everything but connections of clients: Snyk, the admin listener, the journal, files.
const RESERVED: usize = 128;

/// Lowers `listener.max_connections` to the limit on open files, so that the admin listener can accept. Gives `true` where
/// it was lowered.
fn within_open_files(mut config: Config) -> (Config, bool) {
    let open = crate::hardening::max_open_files().and_then(|open| usize::try_from(open).ok());
    let most = open.unwrap_or(usize::MAX).saturating_sub(RESERVED).max(1);
    let lowered = most < config.listener.max_connections;
    config.listener.max_connections = config.listener.max_connections.min(most);
    (config, lowered)
}
