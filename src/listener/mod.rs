//! Accepting connections and speaking HTTP to clients, within limits.

mod connection;
mod counters;
mod h1;
mod h2;
mod places;
mod refusal;
mod remote;
mod settings;
mod socket;

use std::future::Future;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use arc_swap::ArcSwap;
use http::header::CONNECTION;
use http::{HeaderValue, Request, Response};
use hyper::body::Incoming;
use tokio::sync::Semaphore;
use tokio::time::timeout;

use crate::clock::Clock;
use crate::shutdown::Shutdown;
use crate::transport::{Body, Peer, ServerTls};

pub use counters::Counters;
pub use h1::KEEP_ALIVE;
pub use settings::{Address, Settings};

use connection::{Serving, via};
use counters::count;
use places::{NoPlace, Places};
use refusal::{FULL, FULL_FOR_ADDRESS, LINGER, refuse, refuse_soon};
use socket::{Accepted, Socket};

/// Pause after a failed accept (say, no file descriptor is left).
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// Most refusals that are sent at the same time.
const MAX_REFUSALS: usize = 64;

/// An address could not be bound.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address}")]
pub struct BindError {
    /// The address.
    pub address: Address,
    /// Why.
    pub source: io::Error,
}

/// The sockets that clients connect to.
#[derive(Debug)]
pub struct Listener {
    sockets: Vec<Socket>,
    settings: Limits,
    tls: Option<ServerTls>,
    counters: Arc<Counters>,
    reserve: Option<Reserve>,
}

/// The settings by which connections are served. What is stored holds for those that come after; `listen` and
/// what sockets are made by stay as they were.
pub type Limits = Arc<ArcSwap<Settings>>;

/// Answers requests on the connections beyond `max_connections`: those for probes. Each gets one answer.
#[derive(Clone)]
pub struct Reserve(pub Arc<ReserveFn>);

type ReserveFn = dyn Fn(&Request<Incoming>) -> Response<Body> + Send + Sync;

impl std::fmt::Debug for Reserve {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Reserve")
    }
}

/// Answers one request; never fails.
pub trait Respond: Fn(Request<Incoming>, Arc<Peer>) -> Self::Answer + Clone + Send + Sync + 'static {
    /// The answer, some time later.
    type Answer: Future<Output = Response<Body>> + Send + 'static;
}

impl<F, A> Respond for F
where
    F: Fn(Request<Incoming>, Arc<Peer>) -> A + Clone + Send + Sync + 'static,
    A: Future<Output = Response<Body>> + Send + 'static,
{
    type Answer = A;
}

impl Listener {
    /// Binds all addresses. A machine without IPv6 has no `[::1]`: that one is left out, as long as
    /// another address is there.
    ///
    /// # Errors
    /// The first address that cannot be bound.
    pub async fn bind(settings: Settings, tls: Option<ServerTls>) -> Result<Self, BindError> {
        let mut sockets = Vec::new();
        for address in &settings.listen {
            match socket::bind(address, &settings, tls.is_some()).await {
                Ok(bound) => sockets.extend(bound),
                Err(source)
                    if source.kind() == io::ErrorKind::AddrNotAvailable && settings.listen.len() > 1 =>
                {
                    tracing::warn!(server.address = %address, "address is not available on this machine; not listening on it");
                }
                Err(source) => return Err(BindError { address: address.clone(), source }),
            }
        }
        let settings = Arc::new(ArcSwap::from_pointee(settings));
        Ok(Self { sockets, settings, tls, counters: Arc::default(), reserve: None })
    }

    /// Keeps connections in reserve.
    pub(crate) fn with_reserve(self, reserve: Reserve) -> Self {
        Self { reserve: Some(reserve), ..self }
    }

    /// The counters of connections.
    pub(crate) fn counters(&self) -> Arc<Counters> {
        Arc::clone(&self.counters)
    }

    /// The settings that may be replaced while it serves.
    pub(crate) fn limits(&self) -> Limits {
        Arc::clone(&self.settings)
    }

    /// The addresses that are bound, with the real port in place of 0.
    pub(crate) fn addresses(&self) -> Vec<Address> {
        self.sockets.iter().filter_map(Socket::address).collect()
    }

    /// Accepts connections until a stop is requested. The shutdown's tracker waits for open ones.
    pub async fn serve(self, respond: impl Respond, clock: &Clock, shutdown: &Shutdown) {
        let places = Arc::new(Places::new(Arc::clone(&self.counters)));
        let refusals = Arc::new(Semaphore::new(MAX_REFUSALS));
        self.counters.max.store(self.settings.load().max_connections, Ordering::Relaxed);
        let serving = Serving {
            settings: self.settings.load_full(),
            tls: self.tls,
            clock: clock.clone(),
            shutdown: shutdown.clone(),
            counters: self.counters,
        };
        let accepting = self.sockets.into_iter().map(|socket| {
            let door = Door {
                is_local: socket.is_local(),
                socket,
                limits: Arc::clone(&self.settings),
                serving: serving.clone(),
                places: Arc::clone(&places),
                refusals: Arc::clone(&refusals),
                reserve: self.reserve.clone(),
            };
            door.accept_all(respond.clone())
        });
        futures_util::future::join_all(accepting).await;
    }
}

/// The answer of `reserve`, after which the connection is closed.
fn one_answer(reserve: &Reserve, request: &Request<Incoming>) -> Response<Body> {
    let mut response = (reserve.0)(request);
    response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    response
}

/// One socket and what its connections need.
struct Door {
    socket: Socket,
    is_local: bool,
    limits: Limits,
    serving: Serving,
    places: Arc<Places>,
    refusals: Arc<Semaphore>,
    reserve: Option<Reserve>,
}

impl Door {
    async fn accept_all(self, respond: impl Respond) {
        let shutdown = self.serving.shutdown.clone();
        loop {
            let accepted = tokio::select! {
                () = shutdown.doors_closed() => break,
                accepted = self.socket.accept() => accepted,
            };
            match accepted {
                Ok(accepted) => self.admit(accepted, respond.clone()),
                Err(error) => {
                    tracing::warn!(
                        error = crate::error_text::error_text(&error),
                        "accepting a connection failed"
                    );
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    /// Serves a connection, or says that there is no place for it.
    fn admit(&self, accepted: Accepted, respond: impl Respond) {
        let settings = self.limits.load_full();
        let (max, max_per_address) = (settings.max_connections, settings.max_connections_per_address);
        let (serving, shutdown) = (Serving { settings, ..self.serving.clone() }, &self.serving.shutdown);
        count(match &accepted {
            Accepted::Tcp(..) => &serving.counters.tcp,
            Accepted::Tls(..) => &serving.counters.tls,
            Accepted::Unix(_) => &serving.counters.unix,
        });
        let (Accepted::Tcp(_, peer) | Accepted::Tls(_, peer)) = &accepted else {
            // A client of a Unix socket is one of ours: a closed connection tells it enough.
            if let (Accepted::Unix(stream), Ok(place)) =
                (accepted, self.places.take(None, max, max_per_address))
            {
                shutdown.spawn(async move {
                    let _place = place;
                    serving.unix(stream, respond).await;
                });
            }
            return;
        };
        let via = via(self.is_local, *peer);
        let counted = if self.is_local { None } else { via.counted_as() };
        let place = match self.places.take(counted, max, max_per_address) {
            Ok(place) => place,
            Err(why) => {
                let refusal = if why == NoPlace::InAll { &FULL } else { &FULL_FOR_ADDRESS };
                // A TLS client could not read it: the closed connection is its answer.
                if let Accepted::Tcp(stream, _) = accepted {
                    let (reserve, now) = (self.reserve.clone(), self.serving.clock.now().wall);
                    let answering = async move {
                        let Some(reserve) = reserve else { return refuse(stream, refusal, now).await };
                        let respond = move |request, _| std::future::ready(one_answer(&reserve, &request));
                        let _ = timeout(LINGER, serving.tcp(stream, via, respond)).await;
                    };
                    refuse_soon(&self.refusals, shutdown, answering);
                }
                return;
            }
        };
        shutdown.spawn(async move {
            let _place = place;
            match accepted {
                Accepted::Tcp(stream, _) => serving.tcp(stream, via, respond).await,
                Accepted::Tls(stream, _) => serving.tls(stream, via, respond).await,
                Accepted::Unix(stream) => serving.unix(stream, respond).await,
            }
        });
    }
}
