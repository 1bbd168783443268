//! The composition root: [`App::bind`] opens everything and knows its addresses, [`App::run`] serves
//! until it is told to stop.

mod expiry;
mod following;
mod looking;
mod pacing;
mod reload;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;

use crate::access::{Access, BadAccess, Roster, Shared};
use crate::admin::{Admin, Expirings, Followers, Views};
use crate::clock::Clock;
use crate::config::{Config, Problems, clients};
use crate::credential::{BadCredential, Credentials};
use crate::files::{Content, Followed, Unreadable};
use crate::gateway::{self, Collaborators, Gateway};
use crate::journal::Journal;
use crate::listener::{Address, BindError, Listener};
use crate::retrieval::{self, Retrieval, RetrievalSettings};
use crate::shutdown::{self, Shutdown};
use crate::systemd;
use crate::telemetry::metrics::Metrics;
use crate::telemetry::trace::{TraceError, Traces};
use crate::transport::{BadTls, Memory, Peer, ServerTls, TransportError};
use crate::upstream::Upstream;

use expiry::Expiry;
use following::Following;
use looking::Looking;
use pacing::Pacing;
use reload::Reloader;

pub use reload::Reload;

/// How long those who connected at the last moment have to ask.
const LAST_REQUESTS: Duration = Duration::from_millis(200);
/// How long requests may take to be recorded when the drain time is over.
const LAST_RECORDS: Duration = Duration::from_secs(3);
/// How long who looks after the gateway may take to be answered when all else has ended.
const LAST_LOOKS: Duration = Duration::from_secs(1);

/// A gateway with its sockets open, not yet serving.
#[derive(Debug)]
pub struct App {
    listener: Listener,
    gateway: Arc<Gateway>,
    retrieval: Arc<Retrieval>,
    admin: Option<(Looking, Arc<Admin>)>,
    following: Following,
    reloader: Box<Reloader>,
    reload: Option<Reload>,
    pacing: Pacing,
    expiry: Expiry,
    warn_before: Duration,
    journal: Journal,
    clock: Clock,
    shutdown: Shutdown,
    stop: Arc<ArcSwap<shutdown::Settings>>,
    traces: Option<Traces>,
}

/// Why it cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// An address is not to be had.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// A credential is not usable.
    #[error("the Snyk credential is not usable")]
    Credential(#[from] BadCredential),
    /// The client to the upstream cannot be made.
    #[error("the connection to the upstream cannot be set up")]
    Transport(#[from] TransportError),
    /// TLS cannot be spoken.
    #[error("TLS cannot be spoken")]
    Tls(#[from] BadTls),
    /// Nobody can be let in.
    #[error(transparent)]
    Access(#[from] BadAccess),
    /// The file of clients cannot be read.
    #[error("access.clients_file")]
    Clients(#[from] Unreadable),
    /// Traces cannot be sent.
    #[error("traces cannot be sent")]
    Traces(#[from] TraceError),
    /// It changed since it was read first, and is not valid.
    #[error(transparent)]
    BadClients(#[from] BadClients),
    /// No thread can be started.
    #[error("no thread for the admin listener")]
    Thread(#[source] std::io::Error),
}

impl StartError {
    /// Whether what was asked for is refused because it would not be safe.
    #[must_use]
    pub fn is_unsafe(&self) -> bool {
        if let Self::Bind(bind) = self {
            bind.source.kind() == std::io::ErrorKind::InvalidInput
        } else {
            false
        }
    }
}

impl App {
    /// Opens everything that `config` names. Stopping is asked for with `shutdown`.
    ///
    /// # Errors
    /// [`StartError`].
    pub async fn bind(config: Config, clock: Clock, shutdown: Shutdown) -> Result<Self, StartError> {
        let (credentials, values) = Credentials::open(config.credential.clone(), &clock)?;
        let (access, jwks) = Access::open(config.access.clone())?;
        let (credentials, access) = (Arc::new(credentials), Arc::new(access));
        let clients = config.clients_file.as_deref().map(|path| open_clients(path, &access)).transpose()?;
        let clients = clients.map(|clients| clients.take(&access));
        let (tls, tls_files) = config.tls.clone().map(ServerTls::open).transpose()?.unzip();
        let memory = Memory::new(config.listener.max_buffered, config.sparing.rest.max_wait);
        let names = credentials.names();
        let upstream = Upstream::new(&config.upstream, &config.sparing, &names, memory.clone())?;
        let listener = Listener::bind(config.listener.clone(), tls.clone()).await?;
        let journal = Journal::open(config.journal.clone(), clock.clone());
        let metrics = Arc::new(Metrics::default());
        let traces = config.traces.as_ref().map(Traces::open).transpose()?;
        let parts = retrieval::Parts {
            clock: clock.clone(),
            upstream: upstream.clone(),
            journal: journal.clone(),
            metrics: Arc::clone(&metrics),
            traces: traces.clone(),
            shutdown: shutdown.clone(),
        };
        let retrieval = Arc::new(Retrieval::new(retrieval_settings(&config), parts));
        let with = Collaborators {
            clock: clock.clone(),
            access: Arc::clone(&access),
            credentials: Arc::clone(&credentials),
            retrieval: Arc::clone(&retrieval),
            metrics: Arc::clone(&metrics),
            traces: traces.clone(),
            memory: memory.clone(),
            shutdown: shutdown.clone(),
        };
        let gateway = Arc::new(Gateway::new(&settings(&config), with));
        let mut following = Following::new(shutdown.clone(), config.reload_interval);
        following.credentials(values);
        following.fixed(&access, jwks);
        following.clients(clients, &access);
        following.tls(tls.clone().zip(tls_files));

        let followed = Arc::clone(&retrieval);
        let expiry = Expiry { tls: tls.clone(), access: Arc::clone(&access) };
        let (expiring, warn_before) = (expiry.clone(), config.admin.warn_before);
        let views = Views {
            clock: clock.clone(),
            traces: traces.clone(),
            cache: retrieval.cache(),
            memory,
            upstream: upstream.clone(),
            credentials: Arc::clone(&credentials),
            journal: journal.clone(),
            journal_path: config.journal.path.clone(),
            metrics,
            clients: listener.counters(),
            addresses: listener.addresses(),
            expiring: Expirings(Box::new(move || expiring.all())),
            watched: following.watched(),
            followers: Followers(Box::new(move || followed.waiting())),
            shutdown: shutdown.clone(),
        };
        let (admin, admin_tls) = bind_admin(&config, views, &mut following).await?;
        let stop = Arc::new(ArcSwap::from_pointee(config.shutdown));
        let pacing = Pacing { upstream, journal: journal.clone(), clock: clock.clone() };
        let reloader = Box::new(Reloader {
            gateway: Arc::clone(&gateway),
            retrieval: Arc::clone(&retrieval),
            access,
            credentials,
            tls,
            admin_tls,
            pacing: pacing.clone(),
            limits: listener.limits(),
            admin: admin.as_ref().map(|(looking, admin)| (Arc::clone(&looking.limits), Arc::clone(admin))),
            stop: Arc::clone(&stop),
            clock: clock.clone(),
            shutdown: shutdown.clone(),
            in_force: config,
        });
        Ok(Self {
            listener,
            gateway,
            retrieval,
            admin,
            following,
            reloader,
            reload: None,
            pacing,
            expiry,
            warn_before,
            journal,
            clock,
            shutdown,
            stop,
            traces,
        })
    }

    /// Has the configuration read again when `reload` says so, and when its file changes.
    #[must_use]
    pub fn reloading(self, reload: Reload) -> Self {
        Self { reload: Some(reload), ..self }
    }

    /// The addresses that clients can connect to.
    #[must_use]
    pub fn addresses(&self) -> Vec<Address> {
        self.listener.addresses()
    }

    /// Where the gateway is looked after.
    #[must_use]
    pub fn admin_address(&self) -> Option<Address> {
        self.admin.as_ref()?.0.addresses.last().cloned()
    }

    /// The retrieval of answers, for its counts while it runs.
    #[must_use]
    pub fn retrieval(&self) -> Arc<Retrieval> {
        Arc::clone(&self.retrieval)
    }

    /// Serves until a stop is asked for, drains, and closes the journal.
    pub async fn run(self) {
        let (shutdown, clock) = (self.shutdown, self.clock);
        for address in self.listener.addresses() {
            tracing::info!(server.address = %address, "listening");
        }
        self.pacing.spawn(&self.pacing.upstream.pacers(), &shutdown);
        self.following.spawn(self.reloader, self.reload);
        shutdown.spawn_helper(self.expiry.watch(clock.clone(), self.warn_before));
        let looking = self.admin.map(|(looking, admin)| {
            for address in &looking.addresses {
                tracing::info!(server.address = %address, "the admin listener: health, metrics and the status page");
            }
            looking.begin(admin, clock.clone())
        });
        shutdown.spawn_helper(systemd::watchdog());
        systemd::ready();

        let gateway = self.gateway;
        let respond = move |request, peer: Arc<Peer>| gateway.respond(request, &peer);
        let stopping = async {
            shutdown.announced().await;
            systemd::stopping();
            let leading_away = async {
                tokio::time::sleep(self.stop.load().delay).await;
                shutdown.close_doors();
                // Whoever came in at the last moment has not asked yet.
                tokio::time::sleep(LAST_REQUESTS).await;
            };
            tokio::select! {
                () = leading_away => shutdown.begin(),
                () = shutdown.begun() => {}
            }
        };
        futures_util::future::join(self.listener.serve(respond, &clock, &shutdown), stopping).await;
        let drain = self.stop.load().drain;
        match shutdown.in_time(shutdown.finished(drain)).await {
            Some(true) => {}
            came => {
                if came.is_some() {
                    tracing::warn!(
                        "requests were still in flight when the drain time was over: they end now"
                    );
                }
                shutdown.end();
                if !shutdown.finished(LAST_RECORDS).await {
                    tracing::warn!("some requests do not end: they are left behind");
                }
            }
        }
        // Whoever looks after it sees it stop to the end.
        if let Some(looking) = looking {
            looking.end().await;
        }
        shutdown.release();
        self.journal.close().await;
        if let Some(traces) = self.traces {
            traces.finish().await;
        }
        tracing::info!("stopped");
    }
}

/// The admin listener, and what it speaks TLS with.
type BoundAdmin = (Option<(Looking, Arc<Admin>)>, Option<ServerTls>);

/// Opens the admin listener. The default address may be another gateway's: then there is none.
async fn bind_admin(
    config: &Config,
    views: Views,
    following: &mut Following,
) -> Result<BoundAdmin, StartError> {
    let Some(listening) = config.admin.listener.clone() else { return Ok((None, None)) };
    let (tls, files) = config.admin.tls.clone().map(ServerTls::open).transpose()?.unzip();
    following.admin_tls(tls.clone().zip(files));
    let looking = match Looking::bind(listening, tls.clone()).await {
        Err(StartError::Bind(error))
            if config.admin.is_default && error.source.kind() == std::io::ErrorKind::AddrInUse =>
        {
            tracing::warn!(
                server.address = %error.address,
                "the admin listener's default address is in use: there are no health checks and no status page; set admin.listen"
            );
            return Ok((None, None));
        }
        bound => bound?,
    };
    if let Some(path) = &config.admin.token_file {
        crate::files::report_exposed(path);
    }
    let shown = reload::shown(config, Vec::new());
    let admin = Admin::new(config.admin.clone(), views, Arc::clone(&looking.counters), shown);
    Ok((Some((looking, Arc::new(admin))), tls))
}

/// The settings of the request path.
fn settings(config: &Config) -> gateway::Settings<'_> {
    gateway::Settings { routes: config.routes, listener: &config.listener, upstream: &config.upstream }
}

fn retrieval_settings(config: &Config) -> RetrievalSettings {
    RetrievalSettings { cache: config.cache.clone(), on_journal_failure: config.journal.on_failure }
}

/// The file of clients, read and not in force yet.
#[derive(Debug)]
struct Clients {
    path: PathBuf,
    followed: Followed,
    roster: Roster,
}

/// What is in the file of clients cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum BadClients {
    /// It cannot be understood.
    #[error(transparent)]
    Problems(#[from] Problems),
    /// It does not tell two of them apart.
    #[error(transparent)]
    Shared(#[from] Shared),
}

impl Clients {
    /// Has them in force from now on.
    fn take(self, access: &Access) -> (PathBuf, Followed) {
        put_in_force(&self.path, self.roster, access);
        (self.path, self.followed)
    }
}

/// Opens the file of clients and reads it: what was read with the configuration may be older.
fn open_clients(path: &Path, access: &Access) -> Result<Clients, StartError> {
    let (followed, contents) = Followed::open("clients", vec![path.to_owned()])?;
    let roster = parse_clients(path, &contents, access)?;
    Ok(Clients { path: path.to_owned(), followed, roster })
}

fn parse_clients(path: &Path, contents: &[Content], access: &Access) -> Result<Roster, BadClients> {
    let content = contents.first().map_or(&[][..], |content| content.as_slice());
    Ok(access.prepare_roster(clients::parse(&path.display().to_string(), content)?)?)
}

fn put_in_force(path: &Path, roster: Roster, access: &Access) {
    if roster.is_empty() {
        tracing::warn!(path = %path.display(), "the file of clients names nobody: nobody gets in");
    } else {
        tracing::info!(path = %path.display(), clients = roster.len(), "these clients are in force");
    }
    access.replace_roster(roster);
}
