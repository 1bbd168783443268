//! The composition root: [`App::bind`] opens everything and knows its addresses, [`App::run`] serves until a stop.

mod admin_thread;
mod core;
mod fleet;
mod queues;
mod reload;
mod reload_tasks;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;

use crate::access::{Access, BadAccess, Clients, SharedIdentifier};
use crate::admin::{Admin, Expiry, Views};
use crate::clock::Clock;
use crate::config::{Config, Problems, clients};
use crate::credential::{BadCredential, Credentials};
use crate::downloads::Downloads;
use crate::listener::{Address, BindError, Listener};
use crate::named::Named;
use crate::retrieval::{self, Retrieval};
use crate::route::Route;
use crate::shutdown::Shutdown;
use crate::systemd;
use crate::telemetry::trace::TraceError;
use crate::transport::{BadTls, Peer, ServerTls, TransportError};
use crate::watched_file::{Content, Followed, Unreadable};

use self::core::Core;
use admin_thread::AdminThread;
use reload::Reloader;
use reload_tasks::ReloadTasks;

pub use reload::Reload;

/// Time for the first request of clients that connected at the last moment.
const LAST_REQUESTS: Duration = Duration::from_millis(200);
/// Time to record requests after the drain time.
const LAST_RECORDS: Duration = Duration::from_secs(3);
/// Time for the last answers of the admin listener, after everything else has ended.
const LAST_ADMIN_ANSWERS: Duration = Duration::from_secs(1);

/// A gateway with its sockets open, not yet serving.
#[derive(Debug)]
pub struct App {
    core: Arc<Core>,
    listener: Listener,
    admin: Option<(AdminThread, Arc<Admin>)>,
    reloader: Box<Reloader>,
    reload: Option<Reload>,
    expiry: Expiry,
    warn_before: Duration,
}

/// The gateway cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// An address cannot be bound.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// A credential is not usable.
    #[error("a Snyk credential is not usable")]
    Credential(#[from] BadCredential),
    /// The client to the upstream cannot be made.
    #[error("the client for Snyk cannot be set up")]
    Transport(#[from] TransportError),
    /// The client to file stores cannot be made.
    #[error("the client for file stores cannot be set up")]
    FileStore(#[source] TransportError),
    /// TLS cannot be set up.
    #[error("TLS cannot be set up")]
    Tls(#[from] BadTls),
    /// The settings of access are not usable.
    #[error(transparent)]
    Access(#[from] BadAccess),
    /// The clients file cannot be read.
    #[error("access.clients_file")]
    Clients(#[from] Unreadable),
    /// Traces cannot be sent.
    #[error("traces cannot be sent")]
    Traces(#[from] TraceError),
    /// The clients file changed since it was checked, and is not valid.
    #[error(transparent)]
    BadClients(#[from] BadClients),
    /// No thread can be started.
    #[error("no thread for the admin listener")]
    Thread(#[source] std::io::Error),
}

impl StartError {
    /// True if the settings are refused because they would not be safe.
    pub(crate) fn is_unsafe(&self) -> bool {
        if let Self::Bind(bind) = self {
            bind.source.kind() == std::io::ErrorKind::InvalidInput
        } else {
            false
        }
    }
}

impl App {
    /// Opens everything that `config` names. `shutdown` stops it.
    ///
    /// # Errors
    /// [`StartError`].
    pub async fn bind(config: Config, clock: Clock, shutdown: Shutdown) -> Result<Self, StartError> {
        let (credentials, values) = Credentials::open(config.credential.clone(), &clock)?;
        let (access, jwks) = Access::open(config.access.clone())?;
        let (credentials, access) = (Arc::new(credentials), Arc::new(access));
        let clients = config.clients_file.as_deref().map(|path| open_clients(path, &access)).transpose()?;
        let (tls, tls_files) = config.tls.clone().map(ServerTls::open).transpose()?.unzip();
        let listener = Listener::bind(config.listener.clone(), tls.clone()).await?;

        let core = Arc::new(Core::open(&config, access, credentials, clock, shutdown.clone())?);
        let in_force = core.clients();
        let clients = clients.map(|clients| clients.take(&in_force));
        let mut tasks = ReloadTasks::new(shutdown, config.reload_interval);
        tasks.credentials(values);
        tasks.issuer_keys(&core.access, jwks);
        tasks.clients(clients, &in_force);
        tasks.tls("tls", tls.clone().zip(tls_files));
        let expiry = Expiry { tls: tls.clone(), access: Arc::clone(&core.access) };
        let views = Views {
            parts: core.parts.clone(),
            retrieval: Arc::clone(&core.retrieval),
            downloads: core.downloads.clone(),
            named: core.named_exports.clone(),
            purger: core.purger(),
            memory: core.memory.clone(),
            shared: core.fleet.as_ref().map(fleet::Fleet::shared),
            credentials: Arc::clone(&core.credentials),
            journal: config.journal.clone(),
            clients: listener.counters(),
            addresses: listener.addresses(),
            expiry: expiry.clone(),
            watched: tasks.watched(),
        };
        let (admin, admin_tls) = bind_admin(&config, views, &mut tasks).await?;
        let warn_before = config.admin.warn_before;
        let limits_and_admin =
            |(thread, admin): &(AdminThread, Arc<Admin>)| (thread.limits.clone(), admin.clone());
        let reloader = Box::new(Reloader {
            core: Arc::clone(&core),
            tasks,
            tls,
            admin_tls,
            limits: listener.limits(),
            admin: admin.as_ref().map(limits_and_admin),
            stop: Arc::new(ArcSwap::from_pointee(config.shutdown)),
            in_force: config,
        });
        Ok(Self { core, listener, admin, reloader, reload: None, expiry, warn_before })
    }

    /// Reloads the configuration when its file changes or a reload is requested.
    pub(crate) fn reloading(self, reload: Reload) -> Self {
        Self { reload: Some(reload), ..self }
    }

    /// The addresses that clients can connect to.
    #[must_use]
    pub fn addresses(&self) -> Vec<Address> {
        self.listener.addresses()
    }

    /// The address of the admin listener.
    #[must_use]
    pub fn admin_address(&self) -> Option<Address> {
        self.admin.as_ref()?.0.addresses.last().cloned()
    }

    /// The retrieval of answers, for its counts while it runs.
    #[must_use]
    pub fn retrieval(&self) -> Arc<Retrieval> {
        Arc::clone(&self.core.retrieval)
    }

    /// Serves until a stop is announced, drains, and closes the journal.
    pub async fn run(self) {
        let retrieval::Parts { clock, admission, journal, traces, shutdown, .. } = &self.core.parts;
        for address in self.listener.addresses() {
            tracing::info!(server.address = %address, "listening");
        }
        if let Some(fleet) = &self.core.fleet {
            fleet.run(admission.clone(), shutdown);
            shutdown.spawn_helper(self.core.purger().follow());
        }
        if let Some(shipping) = journal.shipping() {
            shutdown.spawn_helper(shipping.clone().run(journal.clone()));
        }
        queues::run(&admission.queues(), journal, self.core.fleet.as_ref(), shutdown);
        self.core.named_exports.run().await;
        let stop = Arc::clone(&self.reloader.stop);
        if let Some(reload) = self.reload {
            reload.spawn(self.reloader);
        }
        shutdown.spawn_helper(self.expiry.watch(clock.clone(), self.warn_before));
        let admin_end = self.admin.map(|(admin_thread, admin)| {
            for address in &admin_thread.addresses {
                tracing::info!(server.address = %address, "admin listener: health, metrics and status page");
            }
            admin_thread.begin(admin, clock.clone())
        });
        shutdown.spawn_helper(systemd::watchdog());
        systemd::ready();

        let gateway = Arc::clone(&self.core.gateway);
        let respond = move |request, peer: Arc<Peer>| gateway.respond(request, &peer);
        let stopping = async {
            shutdown.announced().await;
            systemd::stopping();
            let grace = async {
                tokio::time::sleep(stop.load().delay).await;
                shutdown.close_doors();
                // A client that connected at the last moment has not sent its request yet.
                tokio::time::sleep(LAST_REQUESTS).await;
            };
            tokio::select! {
                () = grace => shutdown.begin(),
                () = shutdown.begun() => {}
            }
        };
        futures_util::future::join(self.listener.serve(respond, clock, shutdown), stopping).await;
        let drain = stop.load().drain;
        let drain_ends = clock.now().mono + drain;
        match shutdown.in_time(shutdown.finished(drain)).await {
            Some(true) => {}
            ended => {
                if ended.is_some() {
                    tracing::warn!("drain time exceeded (shutdown.drain); aborting requests in flight");
                }
                shutdown.end();
                if !shutdown.finished(LAST_RECORDS).await {
                    tracing::warn!("some requests did not end in time; leaving them");
                }
            }
        }
        if let Some(shipping) = journal.shipping() {
            shutdown.in_time(shipping.finish(journal, drain_ends)).await;
        }
        // The admin listener shows the stop to its end.
        if let Some(end) = admin_end {
            end.await;
        }
        self.core.purger().leave().await;
        shutdown.release();
        journal.close().await;
        if let Some(traces) = traces {
            traces.finish().await;
        }
        tracing::info!("stopped");
    }
}

/// The admin listener, and its TLS.
type BoundAdmin = (Option<(AdminThread, Arc<Admin>)>, Option<ServerTls>);

/// Opens the admin listener. Where another gateway has the default address, there is none.
async fn bind_admin(
    config: &Config,
    views: Views,
    tasks: &mut ReloadTasks,
) -> Result<BoundAdmin, StartError> {
    let Some(listening) = config.admin.listener.clone() else { return Ok((None, None)) };
    let (tls, files) = config.admin.tls.clone().map(ServerTls::open).transpose()?.unzip();
    tasks.tls("admin tls", tls.clone().zip(files));
    let admin_thread = match AdminThread::bind(listening, tls.clone()).await {
        Err(StartError::Bind(error))
            if config.admin.is_default && error.source.kind() == std::io::ErrorKind::AddrInUse =>
        {
            tracing::warn!(
                server.address = %error.address,
                "admin listener not started: its default address is in use; set admin.listen to have health checks, metrics and the status page"
            );
            return Ok((None, None));
        }
        bound => bound?,
    };
    if let Some(path) = &config.admin.token_file {
        crate::watched_file::report_exposed(path);
    }
    let in_force = reload::in_force(config, Vec::new());
    let admin = Admin::new(config.admin.clone(), views, Arc::clone(&admin_thread.counters), in_force);
    Ok((Some((admin_thread, Arc::new(admin))), tls))
}

/// The clients file, read and not in force yet.
#[derive(Debug)]
struct ClientsFile {
    path: PathBuf,
    followed: Followed,
    clients: Clients,
}

/// The clients file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum BadClients {
    /// It is not valid.
    #[error(transparent)]
    Problems(#[from] Problems),
    /// Two clients have the same key, certificate or user.
    #[error(transparent)]
    SharedIdentifier(#[from] SharedIdentifier),
}

impl ClientsFile {
    fn take(self, in_force: &ClientsInForce) -> (PathBuf, Followed) {
        in_force.replace(&self.path, self.clients);
        (self.path, self.followed)
    }
}

/// The clients in force, and the downloads that they permit.
#[derive(Debug, Clone)]
struct ClientsInForce {
    access: Arc<Access>,
    downloads: Downloads,
    named: Named,
}

impl ClientsInForce {
    /// Puts the clients of a file in force, and ends the downloads that they do not permit.
    fn replace(&self, path: &Path, clients: Clients) {
        if clients.is_empty() {
            tracing::warn!(path = %path.display(), "clients file is empty: every request is refused");
        } else {
            tracing::info!(path = %path.display(), clients = clients.len(), "clients loaded");
        }
        self.access.replace_clients(clients);
        self.cut_downloads();
    }

    /// Ends the downloads that are not permitted any more.
    fn cut_downloads(&self) {
        self.downloads.retain(|download| {
            self.named.still_serves(&download.call, &download.holder.client)
                && self.access.still_permits(&download.holder, &Route::Files(download.call.clone()))
        });
    }
}

/// Reads the clients file again: it may have changed since the configuration was checked.
fn open_clients(path: &Path, access: &Access) -> Result<ClientsFile, StartError> {
    let (followed, contents) = Followed::open("clients", vec![path.to_owned()])?;
    let clients = parse_clients(path, &contents, access)?;
    Ok(ClientsFile { path: path.to_owned(), followed, clients })
}

fn parse_clients(path: &Path, contents: &[Content], access: &Access) -> Result<Clients, BadClients> {
    let content = contents.first().map_or(&[][..], |content| content.as_slice());
    Ok(access.prepare_clients(clients::parse(&path.display().to_string(), content)?)?)
}
