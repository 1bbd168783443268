//! The issuer's keys, reloaded from a file or fetched from a URL. The last valid ones stay in force.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use http::header::{ACCEPT, AUTHORIZATION};
use http::{HeaderValue, Method, Request, Uri};
use http_body_util::{Either, Full};
use tokio::sync::{Notify, watch};
use tokio::time::{sleep, timeout};

use super::settings::KeySource;
use super::token::{BadKeys, Keys};
use crate::error_text::{BoxError, error_text};
use crate::transport::{self, HttpClient, TransportError};
use crate::watched_file::{self, Content, Followed, Unreadable, Watched};

/// Shortest time between two tries to fetch the keys, whatever clients send.
const PAUSE: Duration = Duration::from_secs(1);
/// Time until a failed fetch is tried again.
const RETRY: Duration = Duration::from_secs(5);
/// Longest wait for the keys.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Largest key set, in bytes.
const MAX_KEYS: usize = 1024 * 1024;

/// The issuer's keys cannot be used at the start.
#[derive(Debug, thiserror::Error)]
pub enum BadSource {
    /// The file cannot be read.
    #[error(transparent)]
    Unreadable(#[from] Unreadable),
    /// It holds no keys.
    #[error("oidc.jwks_file")]
    Keys(#[from] BadKeys),
    /// No HTTP client for the URL can be built.
    #[error("oidc.jwks_url")]
    Transport(#[from] TransportError),
}

/// The keys in force.
#[derive(Debug)]
pub(super) struct Jwks {
    current: ArcSwap<Keys>,
    remote: Option<Remote>,
}

#[derive(Debug)]
struct Remote {
    client: HttpClient,
    url: Uri,
    token_file: Option<PathBuf>,
    refresh: Duration,
    /// Counts fetches, so that waiting requests see the end of one.
    tries: watch::Sender<u64>,
    /// Starts a fetch before its time.
    wanted: Notify,
    watched: Arc<Watched>,
}

impl Jwks {
    /// Reads a file, or prepares to fetch from a URL.
    pub(super) fn open(source: &KeySource) -> Result<(Self, Option<Followed>), BadSource> {
        match source {
            KeySource::File(path) => {
                let (followed, contents) = Followed::open("jwks", vec![path.clone()])?;
                let jwks = Self { current: ArcSwap::from_pointee(Keys::default()), remote: None };
                jwks.replace(&contents)?;
                Ok((jwks, Some(followed)))
            }
            KeySource::Url { url, ca_file, token_file, refresh } => {
                if let Some(path) = token_file {
                    watched_file::report_exposed(path);
                }
                let client = transport::client(url, ca_file.as_deref(), TIMEOUT)?;
                let (url, token_file, refresh) = (url.clone(), token_file.clone(), *refresh);
                let (tries, wanted) = (watch::Sender::new(0), Notify::new());
                let watched = Watched::new("jwks");
                let remote = Some(Remote { client, url, token_file, refresh, tries, wanted, watched });
                Ok((Self { current: ArcSwap::from_pointee(Keys::default()), remote }, None))
            }
        }
    }

    pub(super) fn now(&self) -> Arc<Keys> {
        self.current.load_full()
    }

    /// The status of fetching them from a URL.
    pub(super) fn watched(&self) -> Option<Arc<Watched>> {
        self.remote.as_ref().map(|remote| Arc::clone(&remote.watched))
    }

    pub(super) fn replace(&self, contents: &[Content]) -> Result<(), BadKeys> {
        let content = contents.first().map_or(&[][..], |content| content.as_slice());
        self.current.store(Arc::new(Keys::parse(content)?));
        Ok(())
    }

    /// Fetches the keys again and again; never ends.
    pub(super) async fn follow(&self) {
        let Some(remote) = &self.remote else { return std::future::pending().await };
        loop {
            let next = sleep(PAUSE);
            match remote.fetch().await {
                Ok(keys) => {
                    if remote.watched.failing().is_some() {
                        remote.watched.mended();
                        tracing::info!("fetching the issuer's keys succeeded again");
                    }
                    self.current.store(Arc::new(keys));
                }
                Err(error) => {
                    let error = error_text(&*error);
                    if remote.watched.bad(error.clone()) {
                        tracing::error!(error, "fetching the issuer's keys failed; keeping the last ones");
                    }
                }
            }
            remote.tries.send_modify(|tries| *tries += 1);
            // Without keys every JWT is refused, so a failed fetch is tried again soon.
            let is_failing = remote.watched.failing().is_some();
            let pause = if is_failing { remote.refresh.min(RETRY) } else { remote.refresh };
            tokio::select! {
                () = sleep(pause) => {}
                () = remote.wanted.notified() => next.await,
            }
        }
    }

    /// Starts a fetch and waits for its end, at most `PAUSE + TIMEOUT`.
    pub(super) async fn newer(&self) {
        let Some(remote) = &self.remote else { return };
        let mut tries = remote.tries.subscribe();
        tries.mark_unchanged();
        remote.wanted.notify_one();
        drop(timeout(PAUSE + TIMEOUT, tries.changed()).await);
    }
}

impl Remote {
    async fn fetch(&self) -> Result<Keys, BoxError> {
        let mut request = Request::new(Either::Left(Full::new(Bytes::new())));
        *request.method_mut() = Method::GET;
        *request.uri_mut() = self.url.clone();
        request.headers_mut().insert(ACCEPT, HeaderValue::from_static("application/json"));
        if let Some(path) = &self.token_file {
            let path = path.clone();
            let reading = tokio::task::spawn_blocking(move || watched_file::read(&path));
            let content = reading.await??;
            let no_token = "oidc.jwks_token_file holds no token";
            let token = std::str::from_utf8(&content).map_err(|_| no_token)?;
            let mut value =
                HeaderValue::try_from(format!("Bearer {}", token.trim())).map_err(|_| no_token)?;
            value.set_sensitive(true);
            request.headers_mut().insert(AUTHORIZATION, value);
        }
        let (status, body) = transport::fetch(&self.client, request, MAX_KEYS, TIMEOUT).await?;
        if status != http::StatusCode::OK {
            return Err(format!("the issuer answered {status}").into());
        }
        Ok(Keys::parse(&body)?)
    }
}
