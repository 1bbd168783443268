//! A scripted Snyk for demos, tests and benches: the six export operations over real TLS, a store whose
//! links expire, faults of both on demand, and a count of every request.
//!
//! It imports nothing of the gateway, so that it cannot share its mistakes.

mod answers;
mod api;
mod fault;
mod links;
mod script;
mod server;
mod spoil;
mod store;
mod target;
mod wire;

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};

pub use fault::{Fault, RateFields};
pub use links::LinkForm;
pub use script::{Hits, JobStatus, Limiter, Script, State};
pub use store::{
    HashField, Lie, PartSource, Stated, StoreFault, StoreLoad, StoreRequest, StoreScript, TagField,
};
pub use target::Target;

use script::{Plan, Stage};
use store::StorePlan;

/// Most requests and signatures that are kept for [`Fake::requests`] and [`Fake::signatures`].
const KEPT: usize = 200_000;

/// How a fake is started.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Where it listens.
    pub listen: SocketAddr,
    /// Whether it speaks TLS, with a certificate made at start.
    pub tls: bool,
    /// The years between whose beginnings its certificate is valid; a long time where not set.
    pub valid: Option<(i32, i32)>,
    /// The only token that it accepts; `None` accepts any.
    pub token: Option<String>,
    /// How exports go.
    pub script: Script,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            tls: true,
            valid: None,
            token: None,
            script: Script::default(),
        }
    }
}

/// A request as it was received.
#[derive(Debug, Clone)]
pub struct Seen {
    /// The time at which its head was there.
    pub at: std::time::Instant,
    /// The method.
    pub method: String,
    /// The target, exactly.
    pub target: String,
    /// All fields, in order.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Bytes,
    /// The version.
    pub version: http::Version,
}

impl Seen {
    /// The values of a field.
    #[must_use]
    pub fn header(&self, name: &str) -> Vec<&str> {
        self.headers.iter().filter(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.as_str()).collect()
    }

    /// The path alone; over HTTP/2 the target begins with scheme and authority.
    #[must_use]
    pub fn path(&self) -> &str {
        let (whole, _) = self.target.split_once('?').unwrap_or((&self.target, ""));
        whole.split_once("://").map_or(whole, |(_, rest)| rest.find('/').map_or("", |at| &rest[at..]))
    }

    fn query(&self) -> Vec<(String, String)> {
        let (_, query) = self.target.split_once('?').unwrap_or_default();
        form_urlencoded::parse(query.as_bytes()).into_owned().collect()
    }

    /// The value of the first `version`.
    fn requested_version(&self) -> String {
        self.query()
            .into_iter()
            .find(|(name, _)| name == "version")
            .map(|(_, value)| value)
            .unwrap_or_default()
    }
}

/// A running fake; it ends when this is dropped.
#[derive(Debug)]
pub struct Fake {
    address: SocketAddr,
    tls: bool,
    ca_pem: String,
    shared: Arc<Shared>,
    _running: DropGuard,
}

/// What all connections share.
#[derive(Debug)]
struct Shared {
    stage: Mutex<Stage>,
    api_hits: watch::Sender<u64>,
    held: watch::Sender<usize>,
    store: watch::Sender<StoreLoad>,
    store_held: watch::Sender<usize>,
    base: String,
}

impl Shared {
    fn stage(&self) -> MutexGuard<'_, Stage> {
        self.stage.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// While it lives, answers wait.
#[derive(Debug)]
pub struct Gate(watch::Sender<usize>);

impl Gate {
    fn shut(held: &watch::Sender<usize>) -> Self {
        held.send_modify(|held| *held += 1);
        Self(held.clone())
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        self.0.send_modify(|held| *held -= 1);
    }
}

impl Fake {
    /// Starts a fake.
    ///
    /// # Errors
    /// When it cannot listen or make a certificate.
    pub async fn start(settings: Settings) -> io::Result<Self> {
        let listener = TcpListener::bind(settings.listen).await?;
        let address = listener.local_addr()?;
        let (acceptor, ca_pem) = if settings.tls {
            let (acceptor, ca_pem) = server::tls(settings.valid).map_err(io::Error::other)?;
            (Some(acceptor), ca_pem)
        } else {
            (None, String::new())
        };
        let scheme = if settings.tls { "https" } else { "http" };
        let mut stage = Stage::new(settings.script);
        stage.accepted = settings.token.map(|token| vec![token]);
        let shared = Arc::new(Shared {
            stage: Mutex::new(stage),
            api_hits: watch::Sender::new(0),
            held: watch::Sender::new(0),
            store: watch::Sender::new(StoreLoad::default()),
            store_held: watch::Sender::new(0),
            base: format!("{scheme}://{address}"),
        });
        let running = CancellationToken::new();
        server::spawn(server::accept(listener, acceptor, Arc::clone(&shared), running.clone()));
        Ok(Self { address, tls: settings.tls, ca_pem, shared, _running: running.drop_guard() })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its root, such as `https://127.0.0.1:4711`, without `/rest`.
    #[must_use]
    pub fn url(&self) -> String {
        self.shared.base.clone()
    }

    /// The certificate that its own is signed with; empty without TLS.
    #[must_use]
    pub fn ca_pem(&self) -> &str {
        debug_assert_eq!(self.tls, !self.ca_pem.is_empty());
        &self.ca_pem
    }

    /// How often each operation was called.
    #[must_use]
    pub fn hits(&self) -> Hits {
        self.shared.stage().hits
    }

    /// How often each operation was called by those calls that `target` is about.
    #[must_use]
    pub fn hits_of(&self, target: &Target) -> Hits {
        self.shared.stage().hits_of(target)
    }

    /// Every request that was seen, files left out.
    #[must_use]
    pub fn requests(&self) -> Vec<Seen> {
        self.shared.stage().seen.clone()
    }

    /// Every signature that was handed out in a link.
    #[must_use]
    pub fn signatures(&self) -> Vec<String> {
        self.shared.stage().signatures.clone()
    }

    /// Defines an export of `scope` (`orgs/<id>` or `groups/<id>`), or what it is from now on.
    pub fn put_export(&self, scope: &str, export: &str, state: State) {
        self.shared.stage().put(scope, export, state);
    }

    /// Changes the script while it runs.
    pub fn script(&self, change: impl FnOnce(&mut Script)) {
        change(&mut self.shared.stage().script);
    }

    /// Lets the next `times` API calls (all of them: `None`) go wrong.
    pub fn fault(&self, fault: Fault, times: Option<u32>) {
        self.fault_at(Target::All, fault, times);
    }

    /// The same for those calls that `target` is about.
    pub fn fault_at(&self, target: Target, fault: Fault, times: Option<u32>) {
        self.shared.stage().faults.push(Plan { target, fault, times });
    }

    /// The same for requests for an access token.
    pub fn token_fault(&self, fault: Fault, times: Option<u32>) {
        self.shared.stage().token_faults.push(Plan { target: Target::All, fault, times });
    }

    /// Ends all faults, those of the store too.
    pub fn clear_faults(&self) {
        let mut stage = self.shared.stage();
        stage.faults.clear();
        stage.token_faults.clear();
        stage.shelf.plans.clear();
    }

    /// Accepts only these tokens from now on; others get 401.
    pub fn accept(&self, tokens: &[&str]) {
        self.shared.stage().accepted = Some(tokens.iter().map(|token| (*token).to_owned()).collect());
    }

    /// Revokes every access token that was handed out.
    pub fn revoke_tokens(&self) {
        self.shared.stage().revoke_issued();
    }

    /// Lets API calls be received and counted, but not answered, until the gate is dropped.
    #[must_use]
    pub fn hold(&self) -> Gate {
        Gate::shut(&self.shared.held)
    }

    /// Resolves when so many API calls have been received in all.
    pub async fn wait_for_hits(&self, hits: u64) {
        let mut seen = self.shared.api_hits.subscribe();
        let _ = seen.wait_for(|seen| *seen >= hits).await;
    }

    /// Every request that the store received.
    #[must_use]
    pub fn store_requests(&self) -> Vec<StoreRequest> {
        self.shared.stage().shelf.requests.clone()
    }

    /// The store's load.
    #[must_use]
    pub fn store_load(&self) -> StoreLoad {
        *self.shared.store.borrow()
    }

    /// Resolves when the store's load is as wanted.
    pub async fn wait_for_store(&self, is_wanted: impl FnMut(&StoreLoad) -> bool) {
        let _ = self.shared.store.subscribe().wait_for(is_wanted).await;
    }

    /// Lets requests to the store be received, decided and kept, but not answered, until the gate is dropped.
    #[must_use]
    pub fn hold_store(&self) -> Gate {
        Gate::shut(&self.shared.store_held)
    }

    /// Lets the next `times` requests for parts (all of them: `None`) go wrong.
    pub fn store_fault(&self, fault: StoreFault, times: Option<u32>) {
        self.shared.stage().shelf.plans.push(StorePlan { part: None, fault, times });
    }

    /// The same for requests for one part, from 1.
    pub fn store_fault_at(&self, part: u32, fault: StoreFault, times: Option<u32>) {
        self.shared.stage().shelf.plans.push(StorePlan { part: Some(part), fault, times });
    }

    /// Puts another object of the same size in the place of a part: other bytes, tag, generation and hash.
    pub fn change_object(&self, export: &str, part: u32) {
        let path = store::path(export, part);
        self.shared.stage().shelf.change(&path);
    }

    /// Moves its clock: `Date`, and when links are signed and die.
    pub fn step_clock(&self, seconds: i64) {
        self.shared.stage().clock_offset += seconds;
    }
}
