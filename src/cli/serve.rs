//! `exportgate serve`.

use super::{Failure, block_on, stop_on_signal};
use crate::app::App;
use crate::clock::Clock;
use crate::config::Config;
use crate::shutdown::Shutdown;
use crate::telemetry;

pub(super) fn run(config: Config, denied: Vec<String>) -> Result<(), Failure> {
    telemetry::init(&config.log).map_err(|error| Failure::Other("logs cannot be set up", error.into()))?;
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
        stop_on_signal(&shutdown).map_err(|error| Failure::Other("no signals", error.into()))?;
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
        app.run().await;
        Ok(())
    })
}
