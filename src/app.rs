//! The composition root: [`App::bind`] opens everything and knows its addresses, [`App::run`] serves
//! until it is told to stop.

use std::sync::Arc;

use crate::clock::Clock;
use crate::config::Config;
use crate::credential::{BadCredential, Credential};
use crate::gateway::{self, Collaborators, Gateway};
use crate::journal::Journal;
use crate::listener::{Address, BindError, Listener};
use crate::shutdown::Shutdown;
use crate::transport::TransportError;
use crate::upstream::Upstream;

/// A gateway with its sockets open, not yet serving.
#[derive(Debug)]
pub struct App {
    listener: Listener,
    gateway: Arc<Gateway>,
    credential: Arc<Credential>,
    journal: Journal,
    shutdown: Shutdown,
    drain: std::time::Duration,
}

/// Why it cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// An address is not to be had.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// The token file is not usable.
    #[error("the Snyk credential is not usable")]
    Credential(#[from] BadCredential),
    /// The client to the upstream cannot be made.
    #[error("the connection to the upstream cannot be set up")]
    Transport(#[from] TransportError),
}

impl App {
    /// Opens everything that `config` names. Stopping is asked for with `shutdown`.
    ///
    /// # Errors
    /// [`StartError`].
    pub async fn bind(config: Config, clock: Clock, shutdown: Shutdown) -> Result<Self, StartError> {
        let credential = Arc::new(Credential::open(config.credential)?);
        let upstream = Upstream::new(&config.upstream)?;
        let listener = Listener::bind(config.listener.clone()).await?;
        let on_journal_failure = config.journal.on_failure;
        let journal = Journal::open(config.journal, clock.clone());
        let settings = gateway::Settings {
            routes: config.routes,
            cache: &config.cache,
            listener: &config.listener,
            upstream: &config.upstream,
            on_journal_failure,
        };
        let with = Collaborators {
            clock,
            upstream,
            credential: Arc::clone(&credential),
            journal: journal.clone(),
            shutdown: shutdown.clone(),
        };
        let gateway = Arc::new(Gateway::new(&settings, with));
        Ok(Self { listener, gateway, credential, journal, shutdown, drain: config.listener.drain })
    }

    /// The addresses that clients can connect to.
    #[must_use]
    pub fn addresses(&self) -> Vec<Address> {
        self.listener.addresses()
    }

    /// The gateway, to look at while it runs.
    #[must_use]
    pub fn gateway(&self) -> Arc<Gateway> {
        Arc::clone(&self.gateway)
    }

    /// Serves until a stop is asked for, drains, and closes the journal.
    pub async fn run(self) {
        for address in self.addresses() {
            tracing::info!(server.address = %address, "listening");
        }
        let following = Arc::clone(&self.credential).follow_file();
        let stop = self.shutdown.clone();
        self.shutdown.spawn(async move {
            tokio::select! {
                () = following => {}
                () = stop.begun() => {}
            }
        });
        let gateway = self.gateway;
        self.listener.serve(move |request| Arc::clone(&gateway).respond(request), &self.shutdown).await;
        if !self.shutdown.drained(self.drain).await {
            tracing::warn!("requests to the upstream were still in flight when the drain time was over");
        }
        self.journal.close().await;
        tracing::info!("stopped");
    }
}
