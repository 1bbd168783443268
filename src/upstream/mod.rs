//! Sending a request to Snyk and reading what comes back.

mod failed;
mod settings;

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt, Limited};
use hyper::body::{Body as _, Incoming};
use tokio::time::{Instant, timeout_at};

use crate::transport::{Body, Client, MAX_RESPONSE_HEAD, Streamed, TransportError, client};

pub use failed::{Failed, FailedKind};
pub use settings::{Root, Settings};

/// The upstream: one root, one connection pool.
#[derive(Debug, Clone)]
pub struct Upstream {
    root: Root,
    client: Client,
    /// Connecting and waiting for the head each have their limit; only the first knows when it ends.
    head_timeout: Duration,
    request_timeout: Duration,
    max_answer: usize,
}

/// A request as it goes up: everything in it was made by us.
#[derive(Debug)]
pub struct Outgoing {
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
pub struct Answer {
    /// Its status.
    pub status: StatusCode,
    /// Its fields, as they came.
    pub fields: HeaderMap,
    /// Its body.
    pub body: Bytes,
}

impl Upstream {
    /// Makes the connection pool; connects to nothing yet.
    ///
    /// # Errors
    /// See [`TransportError`].
    pub fn new(settings: &Settings) -> Result<Self, TransportError> {
        let root = settings.root.clone();
        let authority = root.authority.as_str();
        let uri = Uri::builder().scheme(root.scheme.clone()).authority(authority).path_and_query("/").build();
        let uri = uri.unwrap_or_default();
        Ok(Self {
            client: client(&uri, settings.ca_file.as_deref(), settings.connect_timeout)?,
            root,
            head_timeout: settings.connect_timeout + settings.header_timeout,
            request_timeout: settings.request_timeout,
            max_answer: settings.max_answer,
        })
    }

    /// Where requests go.
    #[must_use]
    pub fn root(&self) -> &Root {
        &self.root
    }

    /// Asks and reads the whole answer, bounded in time and size.
    ///
    /// # Errors
    /// [`Failed`], with the head where it had come.
    pub async fn ask(&self, outgoing: Outgoing) -> Result<Answer, Failed> {
        let deadline = Instant::now() + self.request_timeout;
        let (head, body) = self.send(outgoing, deadline).await?.into_parts();
        let (status, fields) = (head.status, head.headers);
        match self.read(body, deadline).await {
            Ok(body) => Ok(Answer { status, fields, body }),
            Err(failed) => Err(Failed { head: Some(Box::new((status, fields))), ..failed }),
        }
    }

    /// Asks and gives the head as soon as it is there; the body streams, for as long as one request may take.
    ///
    /// # Errors
    /// [`Failed`].
    pub async fn open(&self, outgoing: Outgoing) -> Result<Response<Streamed>, Failed> {
        let deadline = Instant::now() + self.request_timeout;
        let response = self.send(outgoing, deadline).await?;
        Ok(response.map(|body| Streamed::new(body, deadline)))
    }

    async fn send(&self, outgoing: Outgoing, deadline: Instant) -> Result<Response<Incoming>, Failed> {
        let Root { scheme, authority, prefix } = &self.root;
        let mut request = Request::new(outgoing.body);
        *request.method_mut() = outgoing.method;
        *request.headers_mut() = outgoing.fields;
        *request.uri_mut() = Uri::builder()
            .scheme(scheme.clone())
            .authority(authority.clone())
            .path_and_query(format!("{prefix}{}", outgoing.target))
            .build()
            .map_err(|error| Failed { source: Some(error.into()), ..Failed::of(FailedKind::Protocol) })?;
        let head_by = deadline.min(Instant::now() + self.head_timeout);
        match timeout_at(head_by, self.client.request(request)).await {
            Err(_) => Err(Failed::of(FailedKind::ResponseTimeout)),
            Ok(Err(error)) => {
                let kind = failed::before_head(&error);
                Err(Failed { source: Some(error.into()), ..Failed::of(kind) })
            }
            // We never ask to upgrade; a 101 would turn the connection into something else.
            Ok(Ok(response)) if response.status().is_informational() => Err(Failed::of(FailedKind::Protocol)),
            Ok(Ok(response)) if head_len(response.headers()) > MAX_RESPONSE_HEAD => {
                Err(Failed::of(FailedKind::HeadTooLarge))
            }
            Ok(Ok(response)) => Ok(response),
        }
    }

    async fn read(&self, body: Incoming, deadline: Instant) -> Result<Bytes, Failed> {
        if body.size_hint().lower() > self.max_answer as u64 {
            return Err(Failed::of(FailedKind::TooLarge));
        }
        match timeout_at(deadline, Limited::new(body, self.max_answer).collect()).await {
            Err(_) => Err(Failed::of(FailedKind::ResponseTimeout)),
            Ok(Err(error)) => {
                let kind = failed::in_body(&*error);
                Err(Failed { source: Some(error), ..Failed::of(kind) })
            }
            Ok(Ok(whole)) => Ok(whole.to_bytes()),
        }
    }
}

/// The bytes of a header section, as RFC 9113 §6.5.2 counts them.
fn head_len(fields: &HeaderMap) -> usize {
    fields.iter().map(|(name, value)| name.as_str().len() + value.len() + 32).sum()
}
