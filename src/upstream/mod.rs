//! Sending a request to Snyk and reading what comes back.

mod error;
mod settings;

use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use bytes::Bytes;
use http::header::CONTENT_LENGTH;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri};
use http_body_util::{Full, Limited};
use hyper::body::Body as _;
use tokio::time::error::Elapsed;
use tokio::time::{Instant, timeout_at};

use crate::clock::Now;
use crate::transport::{
    Body, BodySource, CheckedBody, GatherError, HttpClient, MAX_RESPONSE_HEAD, Memory, RequestError, Room,
    Streamed, TransportError,
};

pub use error::{UpstreamError, UpstreamErrorKind};
pub use settings::{Root, Settings};

/// The upstream: one root, one connection pool.
#[derive(Debug, Clone)]
pub struct Upstream {
    root: Root,
    client: HttpClient,
    /// Connections for answers that stream: who takes them slowly must not use up the windows of the others.
    streaming: HttpClient,
    settings: Arc<ArcSwap<Settings>>,
    proxy_failed: Arc<Mutex<Option<UpstreamErrorKind>>>,
    memory: Memory,
}

/// A request to the upstream: everything in it was made by us.
#[derive(Debug)]
pub struct UpstreamRequest {
    /// The method.
    pub method: Method,
    /// Path and query below the root.
    pub target: String,
    /// All fields but `Host`, which the client makes of the root.
    pub fields: HeaderMap,
    /// The body.
    pub body: Body,
}

/// A whole answer.
#[derive(Debug)]
pub struct UpstreamAnswer {
    /// Its status.
    pub status: StatusCode,
    /// Its fields, as they came.
    pub fields: HeaderMap,
    /// Its body.
    pub body: Bytes,
    /// The room that is held for it.
    pub reservation: Room,
}

impl Upstream {
    /// Makes the connection pool; connects to nothing yet. Answers are gathered in `memory`.
    ///
    /// # Errors
    /// See [`TransportError`].
    pub fn new(settings: &Settings, memory: Memory) -> Result<Self, TransportError> {
        let root = settings.root.clone();
        let client = || {
            let Settings { ca_file, connect_timeout, dead_after, .. } = settings;
            HttpClient::new(&root.uri(), ca_file.as_deref(), *connect_timeout, *dead_after)
        };
        Ok(Self {
            client: client()?,
            streaming: client()?,
            root,
            settings: Arc::new(ArcSwap::from_pointee(settings.clone())),
            proxy_failed: Arc::default(),
            memory,
        })
    }

    /// Goes by other settings from now on; root, certificates and connecting stay.
    pub fn set(&self, settings: &Settings) {
        self.settings.store(Arc::new(settings.clone()));
    }

    /// The proxy that requests go through, as `HOST:PORT (VARIABLE)`, and how it failed last, where it fails.
    pub(crate) fn proxy(&self) -> Option<(&str, Option<UpstreamErrorKind>)> {
        Some((self.client.proxy()?, *self.proxy_failed.lock().unwrap_or_else(PoisonError::into_inner)))
    }

    /// The root of the upstream.
    pub(crate) fn root(&self) -> &Root {
        &self.root
    }

    /// Sends a request for `client` at `now` and reads the whole answer, bounded in time and size.
    ///
    /// # Errors
    /// [`UpstreamError`], with the head where it had come.
    pub async fn ask(
        &self,
        request: UpstreamRequest,
        client: &Arc<str>,
        now: Now,
    ) -> Result<UpstreamAnswer, UpstreamError> {
        let now = Instant::from_std(now.mono);
        let deadline = now + self.settings.load().request_timeout;
        let source =
            if request.method == Method::GET { BodySource::Upstream } else { BodySource::UpstreamOnce };
        let (head, body) = self.send(&self.client, request, now).await?.into_parts();
        let (status, fields) = (head.status, head.headers);
        match self.read(body, source, client, deadline).await {
            Ok((body, reservation)) => Ok(UpstreamAnswer { status, fields, body, reservation }),
            Err(failed) => Err(UpstreamError { head: Some(Box::new((status, fields))), ..failed }),
        }
    }

    /// Sends a request and gives the head as soon as it is there; the body streams, for as long as one request may take.
    ///
    /// # Errors
    /// [`UpstreamError`].
    pub async fn open(
        &self,
        request: UpstreamRequest,
        now: Now,
    ) -> Result<Response<Streamed>, UpstreamError> {
        let now = Instant::from_std(now.mono);
        let deadline = now + self.settings.load().request_timeout;
        let response = self.send(&self.streaming, request, now).await?;
        Ok(response.map(|body| Streamed::new(body, deadline)))
    }

    async fn send(
        &self,
        client: &HttpClient,
        from: UpstreamRequest,
        now: Instant,
    ) -> Result<Response<CheckedBody>, UpstreamError> {
        let Root { scheme, authority, prefix } = &self.root;
        let mut request = Request::new(from.body);
        *request.method_mut() = from.method;
        *request.headers_mut() = from.fields;
        if request.body().is_end_stream()
            && [Method::POST, Method::PUT, Method::PATCH].contains(request.method())
        {
            // A method that has a content says also that it is empty (RFC 9110 §8.6); hyper does so over HTTP/2 alone.
            request.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from_static("0"));
        }
        *request.uri_mut() = Uri::builder()
            .scheme(scheme.clone())
            .authority(authority.clone())
            .path_and_query(format!("{prefix}{}", from.target))
            .build()
            .map_err(|error| UpstreamError {
                source: Some(error.into()),
                ..UpstreamError::of(UpstreamErrorKind::Protocol)
            })?;
        // Connecting and waiting for the head each have their limit; only the first knows when it ends.
        let Settings { connect_timeout, header_timeout, request_timeout, .. } = **self.settings.load();
        let head_by = now + request_timeout.min(connect_timeout + header_timeout);
        let response = timeout_at(head_by, client.request(request)).await;
        self.note_proxy(&response);
        match response {
            Err(_) => Err(UpstreamError::late("no header section", head_by - now)),
            Ok(Err(error)) => {
                let kind = error::before_head(&error);
                Err(UpstreamError { source: Some(error.into()), ..UpstreamError::of(kind) })
            }
            Ok(Ok(response)) if head_len(response.headers()) > MAX_RESPONSE_HEAD => {
                Err(UpstreamError::of(UpstreamErrorKind::HeadTooLarge))
            }
            Ok(Ok(response)) => Ok(response),
        }
    }

    /// Notes whether the proxy works, where there is one.
    fn note_proxy(&self, response: &Result<Result<Response<CheckedBody>, RequestError>, Elapsed>) {
        let Some(_) = self.client.proxy() else { return };
        let failed = match response {
            Err(_) => return,
            Ok(Ok(_)) => None,
            Ok(Err(error)) => Some(error::before_head(error)).filter(|kind| kind.is_proxys()),
        };
        *self.proxy_failed.lock().unwrap_or_else(PoisonError::into_inner) = failed;
    }

    /// Holds room for a body that is there already, for `client`; `None` if there is none.
    pub async fn hold(&self, body: Bytes, client: &Arc<str>) -> Option<(Bytes, Room)> {
        self.memory.gather(Full::new(body), BodySource::Upstream, client).await.ok()
    }

    async fn read(
        &self,
        body: CheckedBody,
        source: BodySource<'_>,
        client: &Arc<str>,
        deadline: Instant,
    ) -> Result<(Bytes, Room), UpstreamError> {
        let max_answer = self.settings.load().max_answer;
        if body.size_hint().lower() > max_answer as u64 {
            return Err(UpstreamError::of(UpstreamErrorKind::TooLarge));
        }
        let gathering = self.memory.gather(Limited::new(body, max_answer), source, client);
        match timeout_at(deadline, gathering).await {
            Err(_) => Err(UpstreamError::late("no whole body", self.settings.load().request_timeout)),
            Ok(Err(GatherError::NoRoom(_))) => Err(UpstreamError::of(UpstreamErrorKind::NoRoom)),
            Ok(Err(GatherError::Body(error))) => {
                let kind = error::in_body(&*error);
                Err(UpstreamError { source: Some(error), ..UpstreamError::of(kind) })
            }
            Ok(Ok(gathered)) => Ok(gathered),
        }
    }
}

/// The bytes of a header section, as RFC 9113 §6.5.2 counts them.
fn head_len(fields: &HeaderMap) -> usize {
    fields.iter().map(|(name, value)| name.as_str().len() + value.len() + 32).sum()
}
