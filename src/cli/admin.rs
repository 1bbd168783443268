//! Asking the gateway that runs, at its admin listener: where that is, which token it wants, and errors that say
//! what to do.

use std::fmt::Write as _;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use http::header::{AUTHORIZATION, HOST};
use http::uri::PathAndQuery;
use http::{HeaderValue, Method, Request, StatusCode, Uri};
use http_body_util::{BodyExt as _, Either, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::UnixStream;

use super::Failure;
use super::own::{NoConnection, OwnTls};
use super::place::{Place, here};
use crate::admin::report::ErrorReport;
use crate::chain::{self, visible};
use crate::config::Sources;
use crate::credential;
use crate::files;
use crate::listener::Address;
use crate::secret::Secret;
use crate::transport::{self, Body, FetchError, RequestError};

pub(super) type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// Largest answer.
const MAX_ANSWER: usize = 16 * 1024 * 1024;

/// How the gateway is reached.
#[derive(Debug, Clone, Default, clap::Args)]
pub(super) struct Reached {
    /// The gateway's admin listener: http://HOST:PORT, https://… or unix:/path [default: admin.listen]
    #[arg(long, value_name = "URL", value_parser = Place::parse)]
    admin: Option<Place>,
    /// A file with the admin token [default: admin.token_file]
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// PEM certificates to trust there instead of the platform's [default: tls.certificate itself, without --admin]
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// The gateway's TOML file, to find its admin listener [env: EXPORTGATE_CONFIG]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

/// An admin listener, and what it takes to get in.
#[derive(Debug)]
pub(super) struct Door {
    place: Place,
    token: Option<(Secret, PathBuf)>,
    ca: Option<PathBuf>,
    /// The TLS connection to it, where the configuration says everything.
    own: Option<OwnTls>,
}

/// Why the gateway cannot be asked, or does not do it.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    #[error("admin.listen is empty, so that the gateway has no admin listener: set it, or give --admin")]
    NotSet,
    #[error("admin.listen takes any free port: give --admin with the one that the gateway's log names")]
    FreePort,
    #[error("{}", path.display())]
    TokenFile { path: PathBuf, source: BoxError },
    #[error("the token could be read on the way to {0}: use https://, or ask on the gateway's own machine")]
    InTheClear(Place),
    #[error("no gateway answers at {place}: is it running, and is admin.listen set?")]
    Unreachable { place: Place, source: BoxError },
    #[error(
        "{place} shows a certificate that is not trusted: name who signed it with --ca, and ask by a name that is in it; on the gateway's own machine leave --admin out, and tls.certificate itself is trusted"
    )]
    NotTrusted { place: Place, source: BoxError },
    #[error(
        "what listens at {place} shows another certificate than tls.certificate ({}): either the gateway cannot use that file (its log says why: \"the files are not usable\"), or something else has the address; --admin {place} with --ca trusts another one",
        path.display()
    )]
    OtherCertificate { place: Place, path: PathBuf },
    #[error(
        "tls.certificate ({}) cannot be used to know the gateway by: run this as a user that may read it, or give --admin with --ca",
        path.display()
    )]
    Certificate { path: PathBuf, source: BoxError },
    #[error(
        "{place} does not speak TLS as a gateway does: is another program there, or is this not its configuration?"
    )]
    Handshake { place: Place, source: BoxError },
    #[error("{place} gave no answer within {} s", time.as_secs())]
    TooSlow { place: Place, time: Duration },
    #[error("what {place} answers cannot be read: check --admin and admin.listen")]
    Unreadable { place: Place, source: BoxError },
    #[error(
        "the gateway at {0} wants its admin token: set admin.token_file (EXPORTGATE_ADMIN_TOKEN_FILE), or give --token-file"
    )]
    NoToken(Place),
    #[error("the gateway at {place} refuses the token in {}: it must be the one in its own admin.token_file", path.display())]
    WrongToken { place: Place, path: PathBuf },
    #[error("the gateway at {place} does not do it: {title}: {detail} ({status})")]
    Refused { place: Place, status: StatusCode, title: String, detail: String },
    #[error(
        "what answers at {place} is no admin listener of exportgate ({status}): check --admin and admin.listen"
    )]
    Stranger { place: Place, status: StatusCode },
    #[error("{0} cannot be asked")]
    Transport(Place, #[source] BoxError),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Other("the gateway cannot be asked", error.into())
    }
}

impl Error {
    fn of(no_connection: NoConnection, place: Place) -> Self {
        match no_connection {
            NoConnection::Nobody(error) => Self::Unreachable { place, source: error.into() },
            NoConnection::Certificate { path, source } => Self::Certificate { path, source },
            NoConnection::OtherCertificate(path) => Self::OtherCertificate { place, path },
            NoConnection::Handshake(source) => Self::Handshake { place, source },
        }
    }
}

impl Reached {
    /// The listener as the flags and the configuration name it. Who is asked about its health wants no token.
    pub(super) fn door(&self, with_token: bool) -> Result<Door, Failure> {
        let named = self.token_file.as_ref().filter(|_| with_token);
        let configured = if self.admin.is_none() || (with_token && named.is_none()) {
            Some(Sources::from_process(self.config.as_deref(), Vec::new())?.admin_place()?)
        } else {
            None
        };
        let (configured, files) = configured.unzip();
        let listen = configured.as_ref().map(|configured| configured.listen.clone());
        let place = match (&self.admin, &listen) {
            (Some(place), _) => place.clone(),
            (None, Some(Some(listen))) => Place::of(listen)?,
            (None, _) => return Err(Error::NotSet.into()),
        };
        let own = match (&self.admin, &self.ca, listen.flatten(), files.flatten()) {
            (None, None, Some(Address::Tls(address)), Some(files)) => {
                Some(OwnTls { address: here(address)?, files, is_probe: !with_token })
            }
            _ => None,
        };
        let token_file = named.cloned().or(configured.and_then(|configured| configured.token_file));
        let token = token_file.filter(|_| with_token).map(|path| Ok::<_, Error>((token(&path)?, path)));
        let token = token.transpose()?;
        if token.is_some() && place.is_open() {
            return Err(Error::InTheClear(place).into());
        }
        Ok(Door { place, token, ca: self.ca.clone(), own })
    }
}

fn token(path: &Path) -> Result<Secret, Error> {
    let failed = |source: BoxError| Error::TokenFile { path: path.to_owned(), source };
    let content = files::read(path).map_err(|error| failed(error.source.into()))?;
    credential::parse(&String::from_utf8_lossy(&content)).map_err(|error| failed(error.into()))
}

impl Door {
    pub(super) fn place(&self) -> &Place {
        &self.place
    }

    /// Asks for `target`, which must give JSON.
    pub(super) async fn ask(&self, method: Method, target: &str) -> Result<Bytes, Error> {
        let (status, body) = self.fetch(method, target, PATIENCE).await?;
        let place = || self.place.clone();
        if status == StatusCode::UNAUTHORIZED {
            return Err(match &self.token {
                None => Error::NoToken(place()),
                Some((_, path)) => Error::WrongToken { place: place(), path: path.clone() },
            });
        }
        if status != StatusCode::OK {
            return Err(match serde_json::from_slice::<ErrorReport>(&body) {
                Ok(ErrorReport { error }) => {
                    let (title, detail) = (visible(&error.title), visible(&error.detail));
                    Error::Refused { place: place(), status, title, detail }
                }
                Err(_) => Error::Stranger { place: place(), status },
            });
        }
        Ok(body)
    }

    /// What [`Door::ask`] gave, as JSON that a terminal can show: it need not be the gateway that answered.
    pub(super) fn json(&self, body: &[u8]) -> Result<String, Error> {
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

    /// Reads what [`Door::ask`] gave.
    pub(super) fn read<'b, T: Deserialize<'b>>(&self, body: &'b [u8]) -> Result<T, Error> {
        let failed = |source: serde_json::Error| Error::Unreadable {
            place: self.place.clone(),
            source: source.into(),
        };
        serde_json::from_slice(body).map_err(failed)
    }

    pub(super) async fn fetch(
        &self,
        method: Method,
        target: &str,
        time: Duration,
    ) -> Result<(StatusCode, Bytes), Error> {
        let mut request = Request::new(Either::Left(Full::default()));
        *request.method_mut() = method;
        if let Some((token, path)) = &self.token {
            let field = token
                .authorization("Bearer")
                .map_err(|source| Error::TokenFile { path: path.clone(), source: source.into() })?;
            request.headers_mut().insert(AUTHORIZATION, field);
        }
        let unusable = |error: http::uri::InvalidUri| self.unreadable(error.into());
        let target: PathAndQuery = target.parse().map_err(unusable)?;
        let exchange = async {
            match (&self.own, &self.place) {
                (Some(own), _) => {
                    let failed = |no_connection| Error::of(no_connection, self.place.clone());
                    let stream = own.connect(time).await.map_err(failed)?;
                    self.over(stream, request, target, &own.address.to_string()).await
                }
                (None, Place::Url(uri)) => self.by_url(uri, request, target, time).await,
                (None, Place::Unix(path)) => {
                    let nobody =
                        |error: io::Error| Error::of(NoConnection::Nobody(error), self.place.clone());
                    let stream = UnixStream::connect(path).await.map_err(nobody)?;
                    self.over(stream, request, target, "localhost").await
                }
            }
        };
        let too_slow = |_| Error::TooSlow { place: self.place.clone(), time };
        tokio::time::timeout(time, exchange).await.map_err(too_slow)?
    }

    fn unreadable(&self, source: BoxError) -> Error {
        Error::Unreadable { place: self.place.clone(), source }
    }

    /// Asks at a URL, with the usual trust and by the usual proxies.
    async fn by_url(
        &self,
        uri: &Uri,
        mut request: Request<Body>,
        target: PathAndQuery,
        time: Duration,
    ) -> Result<(StatusCode, Bytes), Error> {
        let place = || self.place.clone();
        let mut parts = uri.clone().into_parts();
        parts.path_and_query = Some(target);
        *request.uri_mut() = Uri::from_parts(parts).map_err(|error| self.unreadable(error.into()))?;
        let client = transport::client(uri, self.ca.as_deref(), time)
            .map_err(|error| Error::Transport(place(), error.into()))?;
        match transport::fetch(&client, request, MAX_ANSWER, time).await {
            Ok(answer) => Ok(answer),
            Err(FetchError::Timeout(time)) => Err(Error::TooSlow { place: place(), time }),
            Err(FetchError::Exchange(error @ RequestError::Connect(_))) => {
                Err(match chain::find::<rustls::Error>(&error) {
                    Some(rustls::Error::InvalidCertificate(_)) => {
                        Error::NotTrusted { place: place(), source: error.into() }
                    }
                    Some(_) => Error::Handshake { place: place(), source: error.into() },
                    None => Error::Unreachable { place: place(), source: error.into() },
                })
            }
            Err(error) => Err(self.unreadable(error.into())),
        }
    }

    /// Asks on a connection.
    async fn over(
        &self,
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        mut request: Request<Body>,
        target: PathAndQuery,
        host: &str,
    ) -> Result<(StatusCode, Bytes), Error> {
        *request.uri_mut() = Uri::from(target);
        let host = HeaderValue::from_str(host).map_err(|error| self.unreadable(error.into()))?;
        request.headers_mut().insert(HOST, host);
        exchange(stream, request).await.map_err(|error| self.unreadable(error))
    }
}

async fn exchange(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    request: Request<Body>,
) -> Result<(StatusCode, Bytes), BoxError> {
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let exchange = async move {
        let (head, body) = sender.send_request(request).await?.into_parts();
        let body = Limited::new(body, MAX_ANSWER).collect().await?;
        Ok((head.status, body.to_bytes()))
    };
    // The connection ends when the exchange has, for that holds its sender.
    futures_util::future::join(exchange, connection).await.0
}
