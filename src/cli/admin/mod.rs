//! The client of the admin API of a running gateway: its address, the token, and errors that say what to do.

mod address;
mod error;
mod own;

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use http::header::{AUTHORIZATION, HOST};
use http::{HeaderValue, Method, Request, StatusCode, Uri};
use http_body_util::{BodyExt as _, Either, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use tokio::net::UnixStream;
use tokio::time::{sleep, timeout};

use super::CommandError;
use crate::admin::report::ErrorReport;
use crate::config::Sources;
use crate::credential;
use crate::error_text::{BoxError, find, visible};
use crate::listener::Address;
use crate::secret::Secret;
use crate::transport::{self, Body, FetchError, HttpClient, RequestError};
use crate::watched_file;

pub(super) use address::AdminAddress;
use error::AdminError;
use own::OwnTls;

/// Longest time of a call.
const TIMEOUT: Duration = Duration::from_secs(10);
const MAX_ANSWER: usize = 16 * 1024 * 1024;
/// Longest time in which the gateway loads a certificate that was replaced.
const LOADING: Duration = Duration::from_secs(3);
/// Pause between two tries meanwhile.
const PAUSE: Duration = Duration::from_millis(100);

#[derive(Debug, Clone, Default, clap::Args)]
pub(super) struct AdminArgs {
    /// The gateway's admin listener: http://HOST:PORT, https://… or unix:/path [default: admin.listen]
    #[arg(long, value_name = "URL", value_parser = AdminAddress::parse)]
    admin: Option<AdminAddress>,
    /// A file with the admin token [default: admin.token_file]
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// PEM certificates to trust instead of the platform's [default without --admin: trust tls.certificate]
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// The gateway's TOML file, to find its admin listener [env: EXPORTGATE_CONFIG]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

#[derive(Debug)]
pub(super) struct AdminClient {
    address: AdminAddress,
    token: Option<AdminToken>,
    ca: Option<PathBuf>,
    /// TLS to the gateway of this machine, where the configuration names it.
    own: Option<OwnTls>,
}

#[derive(Debug)]
struct AdminToken {
    secret: Secret,
    path: PathBuf,
}

impl AdminArgs {
    /// The client for calls with the token.
    pub(super) fn client(&self) -> Result<AdminClient, CommandError> {
        let token_file = self.token_file.as_deref();
        let configured =
            if self.admin.is_none() || token_file.is_none() { Some(self.location()?) } else { None };
        let configured_token = configured.as_ref().and_then(|location| location.token_file.as_deref());
        let token = token_file.or(configured_token).map(AdminToken::read).transpose()?;
        let client = AdminClient { token, ..self.connect_to(configured, false)? };
        if client.token.is_some() && client.address.is_open() {
            return Err(AdminError::InTheClear(client.address).into());
        }
        Ok(client)
    }

    /// The client for probes, which need no token.
    pub(super) fn probe_client(&self) -> Result<AdminClient, CommandError> {
        let configured = if self.admin.is_none() { Some(self.location()?) } else { None };
        Ok(self.connect_to(configured, true)?)
    }

    fn location(&self) -> Result<crate::config::AdminLocation, CommandError> {
        Ok(Sources::from_process(self.config.as_deref(), Vec::new())?.admin_location()?)
    }

    fn connect_to(
        &self,
        configured: Option<crate::config::AdminLocation>,
        is_probe: bool,
    ) -> Result<AdminClient, AdminError> {
        let (address, own) = match (&self.admin, configured) {
            (Some(address), _) => (address.clone(), None),
            (None, Some(location)) => {
                let listen = location.listen.as_ref().ok_or(AdminError::NotSet)?;
                let is_own = matches!(listen, Address::Tls(_)) && self.ca.is_none();
                let files = location.tls.filter(|_| is_own);
                (AdminAddress::of(listen)?, files.map(|files| OwnTls { files, is_probe }))
            }
            (None, None) => return Err(AdminError::NotSet),
        };
        Ok(AdminClient { address, token: None, ca: self.ca.clone(), own })
    }
}

impl AdminToken {
    fn read(path: &Path) -> Result<Self, AdminError> {
        let failed = |source: BoxError| AdminError::TokenFile { path: path.to_owned(), source };
        let content = watched_file::read(path).map_err(|error| failed(error.source.into()))?;
        let secret =
            credential::parse(&String::from_utf8_lossy(&content)).map_err(|error| failed(error.into()))?;
        Ok(Self { secret, path: path.to_owned() })
    }

    fn authorization(&self) -> Result<HeaderValue, AdminError> {
        let failed = |source| AdminError::TokenFile { path: self.path.clone(), source };
        self.secret.authorization("Bearer").map_err(|error| failed(error.into()))
    }
}

impl AdminClient {
    pub(super) fn address(&self) -> &AdminAddress {
        &self.address
    }

    /// Calls `target`, which must answer with JSON.
    pub(super) async fn call(&self, method: Method, target: &str) -> Result<Bytes, AdminError> {
        self.call_for(&[StatusCode::OK], method, target).await
    }

    /// The same, for an answer with one of these statuses.
    pub(super) async fn call_for(
        &self,
        wanted: &[StatusCode],
        method: Method,
        target: &str,
    ) -> Result<Bytes, AdminError> {
        let (status, body) = self.fetch(method, target, TIMEOUT).await?;
        let address = self.address.clone();
        if wanted.contains(&status) {
            return Ok(body);
        }
        Err(match (status, &self.token, serde_json::from_slice::<ErrorReport>(&body)) {
            (StatusCode::UNAUTHORIZED, None, _) => AdminError::NoToken(address),
            (StatusCode::UNAUTHORIZED, Some(AdminToken { path, .. }), _) => {
                AdminError::WrongToken { address, path: path.clone() }
            }
            (_, _, Ok(ErrorReport { error })) => {
                let (title, detail) = (visible(&error.title), visible(&error.detail));
                AdminError::Refused { address, status, title, detail }
            }
            (_, _, Err(_)) => AdminError::Stranger { address, status },
        })
    }

    /// The JSON of an answer, as a terminal can show it: it need not come from a gateway.
    pub(super) fn json(&self, body: &[u8]) -> Result<String, AdminError> {
        let value: serde_json::Value = self.read(body)?;
        let mut text = String::new();
        for c in value.to_string().chars() {
            // JSON escapes the C0 controls only.
            if c.is_ascii() && !c.is_control() {
                text.push(c);
            } else {
                let mut units = [0; 2];
                for unit in c.encode_utf16(&mut units) {
                    let _ = write!(text, "\\u{unit:04x}");
                }
            }
        }
        text.push('\n');
        Ok(text)
    }

    /// Parses an answer.
    pub(super) fn read<'b, T: Deserialize<'b>>(&self, body: &'b [u8]) -> Result<T, AdminError> {
        serde_json::from_slice(body).map_err(|error| self.unreadable(error.into()))
    }

    pub(super) async fn fetch(
        &self,
        method: Method,
        target: &str,
        time: Duration,
    ) -> Result<(StatusCode, Bytes), AdminError> {
        let exchange = async {
            match &self.address {
                AdminAddress::Url(uri) => self.by_url(uri, &method, target, time).await,
                AdminAddress::Unix(path) => self.by_unix(path, &method, target).await,
            }
        };
        let too_slow = |_| AdminError::TooSlow { address: self.address.clone(), time };
        timeout(time, exchange).await.map_err(too_slow)?
    }

    fn unreadable(&self, source: BoxError) -> AdminError {
        AdminError::Unreadable { address: self.address.clone(), source }
    }

    fn request(&self, method: &Method, uri: Uri) -> Result<Request<Body>, AdminError> {
        let mut request = Request::new(Either::Left(Full::default()));
        *request.method_mut() = method.clone();
        *request.uri_mut() = uri;
        if let Some(token) = &self.token {
            request.headers_mut().insert(AUTHORIZATION, token.authorization()?);
        }
        Ok(request)
    }

    async fn by_url(
        &self,
        uri: &Uri,
        method: &Method,
        target: &str,
        time: Duration,
    ) -> Result<(StatusCode, Bytes), AdminError> {
        let mut parts = uri.clone().into_parts();
        parts.path_and_query = target.parse().ok();
        let uri = Uri::from_parts(parts).map_err(|error| self.unreadable(error.into()))?;
        let Some(own) = &self.own else {
            let failed = |error| AdminError::Transport(self.address.clone(), Box::new(error));
            let client = transport::client(&uri, self.ca.as_deref(), time).map_err(failed)?;
            return self.exchange(&client, self.request(method, uri)?, time).await;
        };
        // Where the certificate was replaced just now, the gateway needs some time to load it.
        let mut tries = LOADING.min(time * 3 / 4).as_millis() / PAUSE.as_millis();
        loop {
            let request = self.request(method, uri.clone())?;
            match self.exchange(&own.client(time)?, request, time).await {
                Err(AdminError::OtherCertificate { .. }) if tries > 0 => sleep(PAUSE).await,
                answer => return answer,
            }
            tries -= 1;
        }
    }

    async fn exchange(
        &self,
        client: &HttpClient,
        request: Request<Body>,
        time: Duration,
    ) -> Result<(StatusCode, Bytes), AdminError> {
        let address = || self.address.clone();
        let error = match transport::fetch(client, request, MAX_ANSWER, time).await {
            Ok(answer) => return Ok(answer),
            Err(FetchError::Timeout(time)) => return Err(AdminError::TooSlow { address: address(), time }),
            Err(FetchError::Exchange(error @ RequestError::Connect(_))) => error,
            Err(error) => return Err(self.unreadable(error.into())),
        };
        Err(match (find::<rustls::Error>(&error), &self.own) {
            (Some(rustls::Error::InvalidCertificate(_)), Some(own)) => {
                AdminError::OtherCertificate { address: address(), path: own.certificate() }
            }
            (Some(rustls::Error::InvalidCertificate(_)), None) => {
                AdminError::NotTrusted { address: address(), source: error.into() }
            }
            (Some(_), _) => AdminError::Handshake { address: address(), source: error.into() },
            (None, _) => AdminError::Unreachable { address: address(), source: error.into() },
        })
    }

    async fn by_unix(
        &self,
        path: &Path,
        method: &Method,
        target: &str,
    ) -> Result<(StatusCode, Bytes), AdminError> {
        let failed = |error: BoxError| self.unreadable(error);
        let uri = target.parse().map_err(|error: http::uri::InvalidUri| failed(error.into()))?;
        let mut request = self.request(method, uri)?;
        request.headers_mut().insert(HOST, HeaderValue::from_static("localhost"));
        let nobody = |error: std::io::Error| AdminError::Unreachable {
            address: self.address.clone(),
            source: error.into(),
        };
        let stream = UnixStream::connect(path).await.map_err(nobody)?;
        let (mut sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(|error| failed(error.into()))?;
        let exchange = async move {
            let (head, body) = sender.send_request(request).await?.into_parts();
            let body = Limited::new(body, MAX_ANSWER).collect().await?;
            Ok((head.status, body.to_bytes()))
        };
        // The connection ends when the exchange has, for that holds its sender.
        futures_util::future::join(exchange, connection).await.0.map_err(failed)
    }
}
