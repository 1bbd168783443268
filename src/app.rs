//! The composition root: [`App::bind`] opens everything and knows its addresses, [`App::run`] serves
//! until it is told to stop.

use std::future::Future;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::access::{Access, BadSource};
use crate::clock::Clock;
use crate::config::{Config, Problems, clients};
use crate::credential::{BadCredential, Credentials, SlotFile};
use crate::files::{Content, Followed, Unreadable};
use crate::gateway::{self, Collaborators, Gateway};
use crate::journal::{Journal, Sends, Sent};
use crate::listener::{Address, BindError, Listener};
use crate::shutdown::Shutdown;
use crate::transport::{BadTls, ServerTls, TransportError};
use crate::upstream::Upstream;
use crate::upstream::gate::Elsewhere;

/// How long requests may take to be recorded when the drain time is over.
const LAST_RECORDS: Duration = Duration::from_secs(5);

/// A gateway with its sockets open, not yet serving.
#[derive(Debug)]
pub struct App {
    listener: Listener,
    gateway: Arc<Gateway>,
    following: Following,
    pacing: Pacing,
    journal: Journal,
    clock: Clock,
    shutdown: Shutdown,
    drain: Duration,
}

/// What is read again while we run.
#[derive(Debug)]
struct Following {
    access: Arc<Access>,
    clients: Option<(PathBuf, Followed)>,
    jwks: Option<Followed>,
    tls: Option<(ServerTls, Followed)>,
    credentials: Arc<Credentials>,
    tokens: Vec<SlotFile>,
    interval: Duration,
}

/// What gives turns to send, and writes them down where other processes see them.
#[derive(Debug)]
struct Pacing {
    upstream: Upstream,
    journal: Journal,
    clock: Clock,
}

impl Pacing {
    fn spawn(self, shutdown: &Shutdown) {
        for (credential, pacer) in self.upstream.pacers() {
            let sends = Arc::new(Sends::new(&self.upstream.root().to_string(), credential));
            let (journal, clock, pacer) = (self.journal.clone(), self.clock.clone(), Arc::clone(pacer));
            let reserve = move |count, starts| {
                let (journal, clock, sends) = (journal.clone(), clock.clone(), Arc::clone(&sends));
                async move {
                    let others = journal.spend(&sends, (count, starts), clock.now().wall).await;
                    let now = clock.now();
                    // Their clock is this machine's wall clock; ours is monotonic.
                    let ours = |at| {
                        let ago = now.wall.duration_since(at).unwrap_or_default();
                        now.mono.checked_sub(ago).unwrap_or(now.mono)
                    };
                    let each = |sent: Sent| {
                        let start = sent.start.map(Arc::from);
                        std::iter::repeat_n(Elsewhere { at: ours(sent.at), start }, sent.count as usize)
                    };
                    others.into_iter().flat_map(each).collect()
                }
            };
            // Requests in flight may wait for their turn until the last of them has ended.
            shutdown.spawn_helper(pacer.run(reserve));
        }
    }
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
    /// The issuer's keys cannot be used.
    #[error("the keys of oidc.issuer cannot be used")]
    Keys(#[from] BadSource),
    /// The file of clients cannot be read.
    #[error("access.clients_file")]
    Clients(#[from] Unreadable),
    /// It changed since it was read first, and is not valid.
    #[error(transparent)]
    BadClients(#[from] Problems),
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
        let (credentials, tokens) = Credentials::open(config.credential, &clock)?;
        let (access, jwks) = Access::open(config.access)?;
        let (credentials, access) = (Arc::new(credentials), Arc::new(access));
        let clients = config.clients_file.map(|path| follow_clients(path, &access)).transpose()?;
        let tls = config.tls.map(ServerTls::open).transpose()?;
        let upstream = Upstream::new(&config.upstream, &config.sparing, credentials.names())?;
        let listener =
            Listener::bind(config.listener.clone(), tls.as_ref().map(|(tls, _)| tls.clone())).await?;
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
            clock: clock.clone(),
            upstream: upstream.clone(),
            access: Arc::clone(&access),
            credentials: Arc::clone(&credentials),
            journal: journal.clone(),
            shutdown: shutdown.clone(),
        };
        let gateway = Arc::new(Gateway::new(&settings, with));
        let interval = config.reload_interval;
        let pacing = Pacing { upstream, journal: journal.clone(), clock: clock.clone() };
        let following = Following { access, clients, jwks, tls, credentials, tokens, interval };
        Ok(Self {
            listener,
            gateway,
            following,
            pacing,
            journal,
            clock,
            shutdown,
            drain: config.listener.drain,
        })
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
        self.following.spawn(&self.shutdown);
        self.pacing.spawn(&self.shutdown);
        let gateway = self.gateway;
        let respond = move |request, peer| Arc::clone(&gateway).respond(request, peer);
        self.listener.serve(respond, &self.clock, &self.shutdown).await;
        let drained = self.shutdown.in_time(self.shutdown.drained(self.drain)).await;
        if drained != Some(true) {
            tracing::warn!("requests were still in flight when the drain time was over: they end now");
            self.shutdown.end();
            self.shutdown.drained(LAST_RECORDS).await;
        }
        self.journal.close().await;
        tracing::info!("stopped");
    }
}

/// Opens the file of clients and takes what is in it: what was read with the configuration may be older.
fn follow_clients(path: PathBuf, access: &Access) -> Result<(PathBuf, Followed), StartError> {
    let (followed, contents) = Followed::open("access.clients_file", vec![path.clone()])?;
    take_clients(&path, &contents, access)?;
    Ok((path, followed))
}

fn take_clients(path: &Path, contents: &[Content], access: &Access) -> Result<(), Problems> {
    let content = contents.first().map_or(&[][..], |content| content.as_slice());
    let roster = clients::parse(&path.display().to_string(), content)?;
    if roster.is_empty() {
        tracing::warn!(path = %path.display(), "the file of clients names nobody: nobody gets in");
    } else {
        tracing::info!(path = %path.display(), clients = roster.len(), "these clients are in force");
    }
    access.replace_roster(roster);
    Ok(())
}

impl Following {
    fn spawn(self, shutdown: &Shutdown) {
        let Self { access, clients, jwks, tls, credentials, tokens, interval } = self;
        let until_stopped = |work: std::pin::Pin<Box<dyn Future<Output = ()> + Send>>| {
            let stop = shutdown.clone();
            shutdown.spawn(async move {
                tokio::select! {
                    () = work => {}
                    () = stop.begun() => {}
                }
            });
        };
        until_stopped(Box::pin(credentials.follow(tokens)));
        if let Some((path, clients)) = clients {
            let access = Arc::clone(&access);
            let take = move |contents: &[Content]| Ok(take_clients(&path, contents, &access)?);
            until_stopped(Box::pin(clients.follow(interval, take)));
        }
        if let Some(jwks) = jwks {
            let access = Arc::clone(&access);
            until_stopped(Box::pin(
                jwks.follow(interval, move |contents| Ok(access.replace_keys(contents)?)),
            ));
        }
        if let Some((tls, followed)) = tls {
            until_stopped(Box::pin(followed.follow(interval, move |contents| Ok(tls.replace(contents)?))));
        }
        until_stopped(Box::pin(async move { access.follow_keys().await }));
    }
}
