//! The client of the stores that Snyk's links lead to: links, the hosts and addresses that may be asked, one request and its
//! answer. It knows neither Snyk, nor a client, nor a credential.
//!
//! A store is asked for what a link names, with these fields alone: `Host`, `Range`, `If-Match`, `Accept-Encoding: identity`
//! and `User-Agent`. It follows no redirect. Each transfer has a connection of its own (HTTP/1.1), so that one whose client
//! is slow holds back no other, and the system's flow control bounds what is read ahead.

mod addresses;
mod answer;
mod body;
mod error;
mod hosts;
mod link;
mod refusal;
mod settings;
mod transfers;

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use http::header::{ACCEPT_ENCODING, IF_MATCH, RANGE, USER_AGENT};
use http::{HeaderValue, Request, StatusCode};
use http_body_util::{Either, Full};
use tokio::time::timeout;

use crate::error_text::find;
use crate::transport::{
    self, Body, ConnectError, ConnectStage, HttpClient, ManyHosts, RequestError, TransportError,
};

pub use answer::{StoreAnswer, StoreRange, StrongTag};
pub use body::StoreBody;
pub use error::{StoreError, StoreErrorKind};
pub use hosts::{HostPattern, StoreOrigin};
pub use link::{Link, LinkError, ObjectId};
pub use settings::{Settings, TransferLimits};
pub use transfers::{Transfer, Transfers, TransfersFull};

const AGENT: HeaderValue = HeaderValue::from_static(concat!("exportgate/", env!("CARGO_PKG_VERSION")));
const IDENTITY: HeaderValue = HeaderValue::from_static("identity");

/// The client of all stores. Clones share it.
#[derive(Debug, Clone)]
pub struct FileStore {
    client: HttpClient,
    settings: Arc<ArcSwap<Settings>>,
}

impl FileStore {
    /// Makes the client; connects to nothing yet.
    ///
    /// # Errors
    /// See [`TransportError`].
    pub fn new(settings: Settings) -> Result<Self, TransportError> {
        let (ca_file, connect_timeout) = (settings.ca_file.clone(), settings.connect_timeout);
        let resolver = settings.resolver.clone();
        let settings = Arc::new(ArcSwap::from_pointee(settings));
        let in_force = Arc::clone(&settings);
        let check = transport::AddressCheck::new(move |host, address| {
            addresses::may_be_asked(host, address, &in_force.load().private_addresses)
        });
        let hosts = ManyHosts { ca_file, connect_timeout, resolver, check };
        Ok(Self { client: HttpClient::to_many(hosts)?, settings })
    }

    /// Goes by other settings from now on; certificates, resolver and connecting stay.
    pub fn set(&self, settings: Settings) {
        self.settings.store(Arc::new(settings));
    }

    /// Reads a link that Snyk gave.
    ///
    /// # Errors
    /// [`LinkError`], where it must not be asked.
    pub fn link(&self, text: &str) -> Result<Link, LinkError> {
        Link::parse(text, &self.settings.load())
    }

    /// Asks for an object or a range of it, once.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn get(&self, link: &Link, range: &StoreRange) -> Result<StoreAnswer, StoreError> {
        let (head_timeout, idle_timeout) = self.timeouts();
        let response = match timeout(head_timeout, self.client.request(request(link, range))).await {
            Err(_) => return Err(StoreError::of(StoreErrorKind::Timeout)),
            Ok(Err(error)) => return Err(before_head(error)),
            Ok(Ok(response)) => response,
        };
        let (head, body) = response.into_parts();
        let body = StoreBody::new(body, idle_timeout);
        if matches!(head.status, StatusCode::OK | StatusCode::PARTIAL_CONTENT) {
            let answer = StoreAnswer::read(&head, body, range);
            let answer = answer.ok_or_else(|| StoreError::of(StoreErrorKind::BadAnswer))?;
            // A store that takes no account of If-Match sends whatever it has by now.
            let is_changed = range.if_match.is_some() && answer.tag != range.if_match;
            return if is_changed { Err(StoreError::of(StoreErrorKind::Changed)) } else { Ok(answer) };
        }
        Err(refusal::read(&head, body).await)
    }

    /// The longest time without progress of either side.
    pub(crate) fn idle_timeout(&self) -> Duration {
        self.settings.load().idle_timeout
    }

    /// The most transfers at once.
    pub(crate) fn transfer_limits(&self) -> TransferLimits {
        self.settings.load().transfers
    }

    fn timeouts(&self) -> (Duration, Duration) {
        let settings = self.settings.load();
        (settings.connect_timeout + settings.idle_timeout, settings.idle_timeout)
    }
}

fn request(link: &Link, range: &StoreRange) -> Request<Body> {
    let mut request = Request::new(Either::Left(Full::<Bytes>::default()));
    *request.uri_mut() = link.uri.clone();
    let fields = request.headers_mut();
    fields.insert(ACCEPT_ENCODING, IDENTITY);
    fields.insert(USER_AGENT, AGENT);
    if let Some(text) = range.field() {
        fields.insert(RANGE, text);
    }
    if let Some(tag) = &range.if_match {
        fields.insert(IF_MATCH, tag.field());
    }
    request
}

fn before_head(error: RequestError) -> StoreError {
    let kind = match find::<ConnectError>(&error) {
        Some(error) if error.stage == ConnectStage::Address => StoreErrorKind::AddressNotAllowed,
        Some(error) if error.is_timeout() => StoreErrorKind::Timeout,
        Some(_) => StoreErrorKind::Unreachable,
        None if matches!(error, RequestError::Unsound) => StoreErrorKind::BadAnswer,
        None => match find::<hyper::Error>(&error) {
            Some(error) if error.is_parse() => StoreErrorKind::BadAnswer,
            _ => StoreErrorKind::Unreachable,
        },
    };
    StoreError::by(kind, error)
}
