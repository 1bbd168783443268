//! What all tests use: a gateway in this process or as the real program, a client, and a place where
//! everything that was written is kept, to be searched for secrets at the end.

pub(crate) mod doors;
#[cfg(feature = "shared")]
pub(crate) mod engine;
pub(crate) mod h2;
#[cfg(feature = "shared")]
pub(crate) mod namespace;
pub(crate) mod pki;
#[cfg(feature = "postgres")]
pub(crate) mod postgres;
pub(crate) mod program;
pub(crate) mod raw;
#[cfg(feature = "shared")]
pub(crate) mod relay;
pub(crate) mod upstream;

use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Once};
use std::time::Duration;

use bytes::Bytes;
use exportgate::app::App;
use exportgate::clock::Clock;
use exportgate::config::{Config, Sources};
use exportgate::fake::{Fake, Settings};
use exportgate::listener::Address;
use exportgate::retrieval::Retrieval;
use exportgate::shutdown::Shutdown;
use exportgate::transport::{self, Resolver};
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::{BodyExt, Either, Full};
use tempfile::TempDir;
use tracing_subscriber::EnvFilter;

/// The token of all tests: what no log, error, journal or `check` may ever hold.
pub(crate) const TOKEN: &str = "7e57c0de-5eed-4bad-9b1e-0123456789ab";
pub(crate) const ORG: &str = "825e79b7-0073-44c3-a5ea-e0aa8a3dbf38";
pub(crate) const V: &str = "version=2024-10-15";

/// The body of a start as Snyk accepts it: with a date filter.
pub(crate) const START: &str = r#"{"data":{"type":"resource","attributes":{"formats":["csv"],"dataset":"issues","filters":{"introduced":{"from":"2026-01-01T00:00:00Z"}}}}}"#;

/// The token in base64.
const TOKEN_BASE64: &str = "N2U1N2MwZGUtNWVlZC00YmFkLTliMWUtMDEyMzQ1Njc4OWFi";

/// Notes the token, whole, in parts and encoded.
pub(crate) fn keep_token_secret() {
    keep_secret([TOKEN, &TOKEN[..18], &TOKEN[18..], TOKEN_BASE64].map(str::to_owned));
}

/// Where tests leave what was written: `test.sh` searches it for what stands in `secrets`.
pub(crate) fn artefacts() -> PathBuf {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("artefacts");
    std::fs::create_dir_all(&path).expect("a directory for artefacts");
    path
}

/// Notes text that must be in no artefact.
pub(crate) fn keep_secret(secrets: impl IntoIterator<Item = String>) {
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join("secrets");
    std::fs::create_dir_all(&directory).expect("a directory for secrets");
    let file = directory.join(format!("{}.txt", std::process::id()));
    let mut file = OpenOptions::new().create(true).append(true).open(file).expect("a file for secrets");
    let lines: String = secrets.into_iter().map(|secret| secret + "\n").collect();
    file.write_all(lines.as_bytes()).expect("secrets are noted");
}

/// Keeps every event at every level that the program could be asked for.
fn keep_logs() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        keep_token_secret();
        let path = artefacts().join(format!("in-process-{}.log", std::process::id()));
        let file = std::fs::File::create(path).expect("a log file");
        let filter = exportgate::telemetry::quietened(EnvFilter::new("trace")).expect("a filter");
        let events = tracing_subscriber::fmt().with_env_filter(filter).with_ansi(false);
        events.with_writer(std::sync::Mutex::new(file)).init();
    });
}

/// Settings as they would be given by flags.
pub(crate) type Flags = Vec<(&'static str, String, &'static str)>;

pub(crate) fn flag(key: &'static str, value: impl std::fmt::Display) -> (&'static str, String, &'static str) {
    (key, value.to_string(), "test")
}

/// A fake Snyk and a gateway in front of it, both in this process.
pub(crate) struct World {
    pub(crate) fake: Fake,
    pub(crate) clock: Clock,
    pub(crate) root: String,
    pub(crate) directory: TempDir,
    pub(crate) addresses: Vec<Address>,
    /// The admin listener's root.
    pub(crate) admin: String,
    client: transport::HttpClient,
    retrieval: Arc<Retrieval>,
    shutdown: Shutdown,
    running: tokio::task::JoinHandle<()>,
}

/// An answer that was read whole.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Got {
    pub(crate) status: StatusCode,
    pub(crate) fields: HeaderMap,
    pub(crate) body: Bytes,
}

impl Got {
    pub(crate) fn field(&self, name: &str) -> &str {
        self.fields.get(name).map_or("", |value| value.to_str().expect("text"))
    }

    pub(crate) fn cache(&self) -> &str {
        self.field("cache-status")
    }

    pub(crate) fn is_hit(&self) -> bool {
        self.cache().starts_with("exportgate; hit")
    }

    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).expect("JSON")
    }

    /// The `code` of an error document of ours.
    pub(crate) fn code(&self) -> String {
        let document = self.json();
        assert_eq!(document["errors"][0]["meta"]["source"], "exportgate");
        assert_eq!(document["errors"][0]["status"], self.status.as_str());
        assert!(!self.field("proxy-status").is_empty());
        document["errors"][0]["code"].as_str().expect("a code").to_owned()
    }
}

impl World {
    pub(crate) async fn new() -> Self {
        Self::with(Settings::default(), vec![]).await
    }

    pub(crate) async fn with(fake: Settings, flags: Flags) -> Self {
        keep_logs();
        let fake = Fake::start(fake).await.expect("a fake");
        let upstream = fake.url();
        Self::before(fake, &upstream, flags).await
    }

    /// A gateway whose upstream is `upstream`, whatever the fake is.
    pub(crate) async fn before(fake: Fake, upstream: &str, flags: Flags) -> Self {
        Self::resolving(fake, upstream, flags, Resolver::System).await
    }

    /// The same, with `resolver` for the names of file stores.
    pub(crate) async fn resolving(fake: Fake, upstream: &str, mut flags: Flags, resolver: Resolver) -> Self {
        keep_logs();
        let directory = TempDir::new().expect("a directory");
        if !fake.ca_pem().is_empty() {
            let ca = directory.path().join("ca.pem");
            std::fs::write(&ca, fake.ca_pem()).expect("a CA file");
            for key in ["upstream.ca_file", "files.ca_file"] {
                if !flags.iter().any(|(given, ..)| *given == key) {
                    flags.push(flag(key, ca.display()));
                }
            }
        }
        for (key, value) in [
            ("listen", "127.0.0.1:0".to_owned()),
            ("upstream.url", upstream.to_owned()),
            ("files.origins", fake.url()),
            ("admin.listen", "127.0.0.1:0".to_owned()),
            // A busy machine is no hanging disk.
            ("journal.max_wait", "10s".to_owned()),
            ("journal.path", directory.path().join("journal.db").display().to_string()),
        ] {
            if !flags.iter().any(|(given, ..)| *given == key) {
                flags.push(flag(key, value));
            }
        }
        // All of the suite holds before an engine that is not there: `EXPORTGATE_SUITE_SHARED=1 cargo test`.
        if std::env::var("EXPORTGATE_SUITE_SHARED").is_ok()
            && !flags.iter().any(|(key, ..)| *key == "shared.url")
        {
            flags.extend([
                flag("shared.url", "redis://127.0.0.1:9"),
                flag("shared.gateways", 1),
                flag("shared.own", 1),
            ]);
        }
        let (mut config, _) = Config::resolve(&Sources::isolated(TOKEN, flags)).expect("a configuration");
        config.files.resolver = resolver;
        let (clock, shutdown) = (Clock::movable(), Shutdown::new());
        let app = App::bind(config, clock.clone(), shutdown.clone()).await.expect("a gateway");
        let addresses = app.addresses();
        let root_of = |address: &Address| match address {
            Address::Tcp(address) => format!("http://{address}"),
            Address::Tls(address) => format!("https://{address}"),
            Address::Unix(_) | Address::Systemd => String::new(),
        };
        let root = root_of(&addresses[0]);
        let admin = app.admin_address().as_ref().map(root_of).unwrap_or_default();
        let client = transport::client(&"http://x".parse().expect("a URI"), None, Duration::from_secs(10));
        let retrieval = app.retrieval();
        let running = tokio::spawn(app.run());
        let client = client.expect("a client");
        Self { fake, clock, root, directory, addresses, admin, client, retrieval, shutdown, running }
    }

    pub(crate) async fn get(&self, target: &str) -> Got {
        self.get_with(target, &[]).await
    }

    pub(crate) async fn get_with(&self, target: &str, fields: &[(&str, &str)]) -> Got {
        self.send(Method::GET, target, fields, "").await
    }

    pub(crate) async fn send(
        &self,
        method: Method,
        target: &str,
        fields: &[(&str, &str)],
        body: &str,
    ) -> Got {
        self.try_send(method, target, fields, body).await.expect("an answer")
    }

    pub(crate) async fn try_send(
        &self,
        method: Method,
        target: &str,
        fields: &[(&str, &str)],
        body: &str,
    ) -> Result<Got, Box<dyn std::error::Error + Send + Sync>> {
        let root = if target.starts_with('/') { self.root.as_str() } else { "" };
        let mut request = Request::builder().method(method).uri(format!("{root}{target}"));
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        let request = request.body(Either::Left(Full::new(Bytes::copy_from_slice(body.as_bytes()))))?;
        let (head, body) = self.client.request(request).await?.into_parts();
        let body = body.collect().await?.to_bytes();
        Ok(Got { status: head.status, fields: head.headers, body })
    }

    /// Resolves when exactly so many clients wait for answers on their way.
    pub(crate) async fn wait_for_followers(&self, count: usize) {
        while self.retrieval.waiting() != count {
            tokio::task::yield_now().await;
        }
    }

    /// Resolves when exactly so many clients wait for the end of an export.
    pub(crate) async fn wait_for_waits(&self, count: usize) {
        while self.retrieval.waits().0 != count {
            tokio::task::yield_now().await;
        }
    }

    /// The door at `at` in the order of `listen`; `config` is what a TLS client shows.
    pub(crate) fn door(&self, at: usize, config: Option<&Arc<rustls::ClientConfig>>) -> doors::Door {
        match (&self.addresses[at], config) {
            (Address::Tcp(address), _) => doors::Door::Plain(*address),
            (Address::Tls(address), Some(config)) => doors::Door::Tls(*address, Arc::clone(config)),
            (Address::Unix(path), _) => doors::Door::Unix(path.clone()),
            (other, _) => panic!("no door at {other}"),
        }
    }

    /// Resolves when exactly so many requests wait for their turn.
    pub(crate) async fn wait_for_queued(&self, count: usize) {
        while self.retrieval.queued() != count {
            tokio::task::yield_now().await;
        }
    }

    pub(crate) fn journal(&self) -> PathBuf {
        self.directory.path().join("journal.db")
    }

    /// All records, the newest first.
    pub(crate) fn records(&self) -> Vec<exportgate::journal::Row> {
        let query = exportgate::journal::Query { limit: 100_000, ..Default::default() };
        exportgate::journal::find(&self.journal(), &query).expect("records")
    }

    /// All transfers of files that have ended, the newest first.
    pub(crate) fn transfers(&self) -> Vec<exportgate::journal::TransferRow> {
        let query = exportgate::journal::TransferQuery { limit: 100_000, ..Default::default() };
        exportgate::journal::find_transfers(&self.journal(), &query).expect("transfers")
    }

    /// Resolves to the newest of so many transfers on record.
    pub(crate) async fn wait_for_transfers(&self, count: usize) -> exportgate::journal::TransferRow {
        loop {
            let rows = self.transfers();
            if rows.len() >= count {
                assert_eq!(rows.len(), count, "{rows:?}");
                return rows[0].clone();
            }
            tokio::task::yield_now().await;
        }
    }

    /// Says that the gateway will be asked to stop, as a first signal does.
    pub(crate) fn announce_stop(&self) {
        self.shutdown.announce();
    }

    /// Resolves when the gateway has stopped by itself.
    pub(crate) async fn ended(self) {
        self.running.await.expect("the gateway ended well");
    }

    /// Asks the gateway to stop.
    pub(crate) fn begin_stop(&self) {
        self.shutdown.begin();
    }

    /// Stops the gateway as a signal would; leaves its directory.
    pub(crate) async fn stop_keeping(self) -> TempDir {
        self.shutdown.begin();
        self.running.await.expect("the gateway ended well");
        self.directory
    }

    /// Stops the gateway as a signal would.
    pub(crate) async fn stop(self) {
        self.shutdown.begin();
        self.running.await.expect("the gateway ended well");
        keep_secret(self.fake.signatures());
        keep_file(&self.directory.path().join("journal.db"));
    }
}

/// Copies a file to where secrets are searched for.
pub(crate) fn keep_file(path: &Path) {
    if path.exists() {
        let name =
            format!("{}-{}", uuid::Uuid::new_v4().simple(), path.file_name().unwrap().to_string_lossy());
        std::fs::copy(path, artefacts().join(name)).expect("the file is kept");
    }
}

/// The target of an export's results.
pub(crate) fn results(export: &str) -> String {
    format!("/orgs/{ORG}/export/{export}?{V}")
}

/// The fake's name for the tests' org.
pub(crate) fn scope() -> String {
    format!("orgs/{ORG}")
}
