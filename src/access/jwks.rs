//! The issuer's keys: from a file that is followed, or from a URL that is asked again. The last good ones
//! stay.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use http::header::{ACCEPT, AUTHORIZATION};
use http::{HeaderValue, Method, Request, Uri};
use http_body_util::{Either, Full};
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::settings::KeySource;
use super::token::{BadKeys, Keys};
use crate::files::{self, Content, Followed, Unreadable};
use crate::transport::{self, Client, FetchError, TransportError};

/// Shortest time between two tries to fetch the keys, whatever clients send.
const PAUSE: Duration = Duration::from_secs(1);
/// Longest wait for the keys.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Largest key set, in bytes.
const MAX_KEYS: usize = 1024 * 1024;

/// Why the keys cannot be used at the start.
#[derive(Debug, thiserror::Error)]
pub enum BadSource {
    /// The file cannot be read.
    #[error(transparent)]
    Unreadable(#[from] Unreadable),
    /// It holds no keys.
    #[error("oidc.jwks_file")]
    Keys(#[from] BadKeys),
    /// No client for the URL can be made.
    #[error("oidc.jwks_url")]
    Transport(#[from] TransportError),
}

#[derive(Debug, thiserror::Error)]
enum FetchKeys {
    #[error(transparent)]
    Token(#[from] Unreadable),
    #[error("oidc.jwks_token_file holds no token")]
    BadToken,
    #[error(transparent)]
    Fetch(#[from] FetchError),
    #[error("the issuer answered {0}")]
    Status(http::StatusCode),
    #[error(transparent)]
    Keys(#[from] BadKeys),
}

/// The keys in force.
#[derive(Debug)]
pub(super) struct Jwks {
    current: ArcSwap<Keys>,
    remote: Option<Remote>,
    /// Counts tries, so that those who wait for one see that it was made.
    tries: AtomicU64,
}

#[derive(Debug)]
struct Remote {
    client: Client,
    url: Uri,
    token_file: Option<PathBuf>,
    refresh: Duration,
    /// When the last try began, and whether it failed.
    last: Mutex<(Option<Instant>, bool)>,
}

impl Jwks {
    /// Reads a file, or gets ready to ask a URL.
    pub(super) fn open(source: &KeySource) -> Result<(Self, Option<Followed>), BadSource> {
        let with =
            |keys, remote| Self { current: ArcSwap::from_pointee(keys), remote, tries: AtomicU64::new(0) };
        match source {
            KeySource::File(path) => {
                let (followed, contents) = Followed::open("oidc.jwks_file", vec![path.clone()])?;
                let keys = Keys::parse(contents.first().map_or(&[], |content| content.as_slice()))?;
                Ok((with(keys, None), Some(followed)))
            }
            KeySource::Url { url, ca_file, token_file, refresh } => {
                let client = transport::client(url, ca_file.as_deref(), TIMEOUT)?;
                let (url, token_file, refresh) = (url.clone(), token_file.clone(), *refresh);
                let remote = Remote { client, url, token_file, refresh, last: Mutex::new((None, false)) };
                Ok((with(Keys::default(), Some(remote)), None))
            }
        }
    }

    pub(super) fn now(&self) -> Arc<Keys> {
        self.current.load_full()
    }

    /// How many tries to get newer keys have ended.
    pub(super) fn tries(&self) -> u64 {
        self.tries.load(Ordering::Acquire)
    }

    pub(super) fn replace(&self, contents: &[Content]) -> Result<(), BadKeys> {
        self.current
            .store(Arc::new(Keys::parse(contents.first().map_or(&[], |content| content.as_slice()))?));
        Ok(())
    }

    /// Fetches the keys over and over; never ends.
    pub(super) async fn follow(&self) {
        let Some(remote) = &self.remote else { return std::future::pending().await };
        loop {
            self.newer(self.tries()).await;
            tokio::time::sleep(remote.refresh).await;
        }
    }

    /// Waits for a try to fetch the keys that ends after the `seen` ones; makes it, at most one a second
    /// for all who wait.
    pub(super) async fn newer(&self, seen: u64) {
        let Some(remote) = &self.remote else { return };
        let mut last = remote.last.lock().await;
        if self.tries() > seen {
            return;
        }
        if let Some(began) = last.0 {
            tokio::time::sleep_until(began + PAUSE).await;
        }
        last.0 = Some(Instant::now());
        let fetched = remote.fetch().await;
        let failed = fetched.is_err();
        match fetched {
            Ok(keys) => {
                if last.1 {
                    tracing::info!("the issuer's keys can be fetched again");
                }
                self.current.store(Arc::new(keys));
            }
            Err(error) if !last.1 => tracing::error!(
                error = &error as &dyn std::error::Error,
                "the issuer's keys cannot be fetched: the last good ones stay in force"
            ),
            Err(_) => {}
        }
        last.1 = failed;
        self.tries.fetch_add(1, Ordering::Release);
    }
}

impl Remote {
    async fn fetch(&self) -> Result<Keys, FetchKeys> {
        let mut request = Request::new(Either::Left(Full::new(Bytes::new())));
        *request.method_mut() = Method::GET;
        *request.uri_mut() = self.url.clone();
        request.headers_mut().insert(ACCEPT, HeaderValue::from_static("application/json"));
        if let Some(path) = &self.token_file {
            let content = files::read(path)?;
            let token = std::str::from_utf8(&content).map_err(|_| FetchKeys::BadToken)?;
            let mut value =
                HeaderValue::try_from(format!("Bearer {}", token.trim())).map_err(|_| FetchKeys::BadToken)?;
            value.set_sensitive(true);
            request.headers_mut().insert(AUTHORIZATION, value);
        }
        let (status, body) = transport::fetch(&self.client, request, MAX_KEYS, TIMEOUT).await?;
        if status == http::StatusCode::OK { Ok(Keys::parse(&body)?) } else { Err(FetchKeys::Status(status)) }
    }
}
