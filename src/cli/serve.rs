//! `exportgate serve`.

use super::{Failure, block_on, stop_on_signal};
use crate::app::App;
use crate::clock::Clock;
use crate::config::Config;
use crate::shutdown::Shutdown;
use crate::telemetry;

pub(super) fn run(config: Config) -> Result<(), Failure> {
    telemetry::init(&config.log).map_err(|error| Failure::Other("logs cannot be set up", error.into()))?;
    block_on(async {
        let shutdown = Shutdown::new();
        stop_on_signal(&shutdown).map_err(|error| Failure::Other("no signals", error.into()))?;
        tracing::info!(
            version = env!("CARGO_PKG_VERSION"),
            upstream.url = %config.upstream.root,
            journal.path = %config.journal.path.display(),
            "starting"
        );
        let app = App::bind(config, Clock::system(), shutdown)
            .await
            .map_err(|error| Failure::Other("cannot start", error.into()))?;
        app.run().await;
        Ok(())
    })
}
