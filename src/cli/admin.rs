//! Asking the gateway that runs, at its admin listener: where that is, which token it wants, and errors that say
//! what to do.

use std::fmt::{self, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use http::header::{AUTHORIZATION, HOST};
use http::{Method, Request, StatusCode, Uri};
use http_body_util::{BodyExt as _, Either, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use tokio::net::UnixStream;

use super::Failure;
use crate::config::Sources;
use crate::credential;
use crate::files;
use crate::listener::Address;
use crate::secret::Secret;
use crate::transport::{self, Body, FetchError, RequestError};

type BoxError = Box<dyn std::error::Error + Send + Sync>;

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
    /// PEM certificates to trust there instead of the platform's
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// The gateway's TOML file, to find its admin listener [env: EXPORTGATE_CONFIG]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

/// Where an admin listener is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Place {
    Url(Box<Uri>),
    Unix(PathBuf),
}

/// An admin listener, and what it takes to get in.
#[derive(Debug)]
pub(super) struct Door {
    place: Place,
    token: Option<(Secret, PathBuf)>,
    ca: Option<PathBuf>,
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

impl Place {
    pub(super) fn parse(text: &str) -> Result<Self, &'static str> {
        const EXAMPLE: &str =
            "must be a URL such as http://127.0.0.1:7081 or https://gateway.example:7081, or unix:/path";
        if let Some(path) = text.strip_prefix("unix:") {
            return if path.starts_with('/') { Ok(Self::Unix(path.into())) } else { Err(EXAMPLE) };
        }
        let uri: Uri = text.parse().map_err(|_| EXAMPLE)?;
        let is_web = matches!(uri.scheme_str(), Some("http" | "https"));
        let is_bare = matches!(uri.path(), "" | "/") && uri.query().is_none();
        let has_user = uri.authority().is_some_and(|authority| authority.as_str().contains('@'));
        if is_web && is_bare && !has_user { Ok(Self::Url(Box::new(uri))) } else { Err(EXAMPLE) }
    }

    /// Where a gateway with this in `admin.listen` is, from the same machine.
    fn of(address: &Address) -> Result<Self, Error> {
        let (scheme, address) = match address {
            Address::Unix(path) => return Ok(Self::Unix(path.clone())),
            Address::Systemd => return Err(Error::NotSet),
            Address::Tcp(address) => ("http", *address),
            Address::Tls(address) => ("https", *address),
        };
        if address.port() == 0 {
            return Err(Error::FreePort);
        }
        let ip = match address.ip() {
            ip if !ip.is_unspecified() => ip,
            IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
        };
        let authority = SocketAddr::new(ip, address.port()).to_string();
        let uri = Uri::builder().scheme(scheme).authority(authority).path_and_query("/").build();
        uri.map(|uri| Self::Url(Box::new(uri))).map_err(|_| Error::NotSet)
    }

    /// Whether others could read what is sent there.
    fn is_open(&self) -> bool {
        match self {
            Self::Unix(_) => false,
            Self::Url(uri) => {
                let host = uri.host().unwrap_or_default().trim_matches(['[', ']']);
                let is_local = host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback());
                uri.scheme_str() != Some("https") && !is_local
            }
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Url(uri) => {
                write!(f, "{}://", uri.scheme_str().unwrap_or_default())?;
                f.write_str(uri.authority().map_or("", |authority| authority.as_str()))
            }
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
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
        let place = match (&self.admin, &configured) {
            (Some(place), _) => place.clone(),
            (None, Some(configured)) => Place::of(configured.listen.as_ref().ok_or(Error::NotSet)?)?,
            (None, None) => return Err(Error::NotSet.into()),
        };
        let token_file = named.cloned().or(configured.and_then(|configured| configured.token_file));
        let token = token_file.filter(|_| with_token).map(|path| Ok::<_, Error>((token(&path)?, path)));
        let token = token.transpose()?;
        if token.is_some() && place.is_open() {
            return Err(Error::InTheClear(place).into());
        }
        Ok(Door { place, token, ca: self.ca.clone() })
    }
}

fn token(path: &Path) -> Result<Secret, Error> {
    let failed = |source: BoxError| Error::TokenFile { path: path.to_owned(), source };
    let content = files::read(path).map_err(|error| failed(error.source.into()))?;
    credential::parse(&String::from_utf8_lossy(&content)).map_err(|error| failed(error.into()))
}

/// An error document of the admin listener.
#[derive(Debug, Deserialize)]
struct Told {
    error: Explained,
}

#[derive(Debug, Deserialize)]
struct Explained {
    title: String,
    detail: String,
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
            return Err(match serde_json::from_slice::<Told>(&body) {
                Ok(Told { error: Explained { title, detail } }) => {
                    let (title, detail) = (crate::chain::visible(&title), crate::chain::visible(&detail));
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
        let place = || self.place.clone();
        let unreadable = |source: BoxError| Error::Unreadable { place: place(), source };
        let mut request = Request::new(Either::Left(Full::default()));
        *request.method_mut() = method;
        if let Some((token, path)) = &self.token {
            let field = token
                .authorization("Bearer")
                .map_err(|source| Error::TokenFile { path: path.clone(), source: source.into() })?;
            request.headers_mut().insert(AUTHORIZATION, field);
        }
        match &self.place {
            Place::Url(uri) => {
                let mut parts = Uri::clone(uri).into_parts();
                parts.path_and_query =
                    Some(target.parse().map_err(|error: http::uri::InvalidUri| unreadable(error.into()))?);
                *request.uri_mut() = Uri::from_parts(parts).map_err(|error| unreadable(error.into()))?;
                let client = transport::client(uri, self.ca.as_deref(), time)
                    .map_err(|error| Error::Transport(place(), error.into()))?;
                match transport::fetch(&client, request, MAX_ANSWER, time).await {
                    Ok(answer) => Ok(answer),
                    Err(FetchError::Timeout(time)) => Err(Error::TooSlow { place: place(), time }),
                    Err(FetchError::Exchange(error @ RequestError::Connect(_))) => {
                        Err(Error::Unreachable { place: place(), source: error.into() })
                    }
                    Err(error) => Err(unreadable(error.into())),
                }
            }
            Place::Unix(path) => {
                *request.uri_mut() =
                    target.parse().map_err(|error: http::uri::InvalidUri| unreadable(error.into()))?;
                request.headers_mut().insert(HOST, http::HeaderValue::from_static("localhost"));
                let exchange = async {
                    let stream = UnixStream::connect(path)
                        .await
                        .map_err(|error| Error::Unreachable { place: place(), source: error.into() })?;
                    over_unix(stream, request).await.map_err(unreadable)
                };
                let too_slow = |_| Error::TooSlow { place: place(), time };
                tokio::time::timeout(time, exchange).await.map_err(too_slow)?
            }
        }
    }
}

async fn over_unix(stream: UnixStream, request: Request<Body>) -> Result<(StatusCode, Bytes), BoxError> {
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let exchange = async move {
        let (head, body) = sender.send_request(request).await?.into_parts();
        let body = Limited::new(body, MAX_ANSWER).collect().await?;
        Ok((head.status, body.to_bytes()))
    };
    // The connection ends when the exchange has, for that holds its sender.
    futures_util::future::join(exchange, connection).await.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_admin_listener_is_a_url_or_a_socket() {
        for (text, shown) in [
            ("http://127.0.0.1:7081", "http://127.0.0.1:7081"),
            ("https://gateway.example:7081/", "https://gateway.example:7081"),
            ("unix:/run/exportgate/admin.sock", "unix:/run/exportgate/admin.sock"),
        ] {
            assert_eq!(Place::parse(text).map(|place| place.to_string()).as_deref(), Ok(shown));
        }
        for bad in
            ["127.0.0.1:7081", "ftp://x", "unix:sock", "http://u:p@x", "http://x/path", "http://x/?q", ""]
        {
            assert!(Place::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_token_goes_nowhere_in_the_clear() {
        let is_open = |text: &str| Place::parse(text).map(|place| place.is_open());
        for here in ["http://127.0.0.1:1", "http://[::1]:1", "http://localhost:1", "unix:/s", "https://x:1"] {
            assert_eq!(is_open(here), Ok(false), "{here}");
        }
        for there in ["http://10.0.0.1:1", "http://localhost.example:1", "http://127.0.0.1.example"] {
            assert_eq!(is_open(there), Ok(true), "{there}");
        }
    }

    #[test]
    fn the_configured_address_is_asked_on_this_machine() {
        let place = |text: &str, made: fn(SocketAddr) -> Address| {
            Place::of(&made(text.parse().expect("an address"))).map(|place| place.to_string())
        };
        assert_eq!(place("127.0.0.1:7081", Address::Tcp).expect("a place"), "http://127.0.0.1:7081");
        assert_eq!(place("0.0.0.0:7081", Address::Tls).expect("a place"), "https://127.0.0.1:7081");
        assert_eq!(place("[::]:7081", Address::Tls).expect("a place"), "https://[::1]:7081");
        assert!(matches!(place("127.0.0.1:0", Address::Tcp), Err(Error::FreePort)));
    }
}
