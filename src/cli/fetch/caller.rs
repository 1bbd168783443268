//! The calls of a run: one HTTP client for a gateway by URL, by Unix socket, or in this process.

use std::fs::File;
use std::io::Write as _;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HOST, USER_AGENT};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt as _, Either, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::net::UnixStream;
use tokio::time::timeout;

use super::super::admin::AdminAddress;
use super::failure::Ending;
use super::place::GatewayPlace;
use crate::error_text::{BoxError, error_text, find, visible};
use crate::retrieval::retry_after;
use crate::secret::Secret;
use crate::shutdown::Shutdown;
use crate::transport::{self, Body, CheckedBody, HttpClient, RequestError};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest wait for the header section of an answer: a gateway queues requests.
const ANSWER_TIMEOUT: Duration = Duration::from_mins(5);
const MAX_DOCUMENT: usize = 16 * 1024 * 1024;
/// Longest pause that is believed.
const MAX_PAUSE: Duration = Duration::from_hours(7 * 24);

#[derive(Debug)]
pub(super) struct Caller {
    address: AdminAddress,
    key: Option<Secret>,
    /// True if the gateway is the one in this process.
    pub(super) is_direct: bool,
    http: Option<HttpClient>,
    /// The file that answered calls are noted in, a line for each.
    calls: Mutex<File>,
    /// Ends the connections.
    shutdown: Shutdown,
}

/// A call that was answered, as the manifest lists it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct CallNote {
    pub(super) call: String,
    pub(super) status: u16,
    pub(super) snyk_request_id: Option<String>,
    pub(super) exportgate_request_id: Option<String>,
}

/// A request that got no answer.
#[derive(Debug)]
pub(super) struct CallFailure {
    /// True if it is certain that nobody has seen it.
    pub(super) is_unsent: bool,
    pub(super) text: String,
}

/// An answer with a document that was read whole.
#[derive(Debug)]
pub(super) struct CallAnswer {
    pub(super) status: StatusCode,
    pub(super) fields: HeaderMap,
    pub(super) body: Bytes,
    /// True if the gateway in this process gave it.
    pub(super) is_direct: bool,
}

/// A request of a run.
#[derive(Debug)]
pub(super) struct FetchCall<'a> {
    /// The call as the manifest names it.
    pub(super) name: String,
    pub(super) target: &'a str,
    pub(super) fields: Vec<(HeaderName, HeaderValue)>,
    /// The body of a start call.
    pub(super) body: Option<Bytes>,
}

impl Caller {
    pub(super) fn new(place: GatewayPlace, calls: File) -> Result<Self, Ending> {
        let GatewayPlace { address, key, ca, is_direct } = place;
        let http = match &address {
            AdminAddress::Unix(_) => None,
            AdminAddress::Url(uri) => {
                let client = transport::client(uri, ca.as_deref(), CONNECT_TIMEOUT);
                Some(client.map_err(|error| Ending::usage(format!("{address}: {}", error_text(&error))))?)
            }
        };
        Ok(Self { address, key, is_direct, http, calls: Mutex::new(calls), shutdown: Shutdown::new() })
    }

    /// Sends a call and reads its answer, which is a document.
    pub(super) async fn document(&self, call: FetchCall<'_>) -> Result<CallAnswer, CallFailure> {
        let (head, body) = self.send(call).await?.into_parts();
        let body = timeout(ANSWER_TIMEOUT, Limited::new(body, MAX_DOCUMENT).collect()).await;
        let body = match body {
            Ok(Ok(body)) => body.to_bytes(),
            Ok(Err(error)) => return Err(self.broken(&*error)),
            Err(_) => return Err(self.too_slow()),
        };
        Ok(CallAnswer { status: head.status, fields: head.headers, body, is_direct: self.is_direct })
    }

    /// Sends a call and waits for the header section of its answer.
    pub(super) async fn send(&self, call: FetchCall<'_>) -> Result<Response<CheckedBody>, CallFailure> {
        let name = call.name.clone();
        let unsendable = |error: BoxError| CallFailure { is_unsent: true, text: error.to_string() };
        let request = self.request(call).map_err(unsendable)?;
        let exchange = async {
            match (&self.address, &self.http) {
                (AdminAddress::Unix(path), _) => self.by_unix(path, request).await,
                (AdminAddress::Url(_), Some(http)) => {
                    http.request(request).await.map_err(|error| self.unanswered(&error))
                }
                (AdminAddress::Url(_), None) => Err(unsendable("no client".into())),
            }
        };
        let response = timeout(ANSWER_TIMEOUT, exchange).await.unwrap_or_else(|_| Err(self.too_slow()))?;
        let field = |name| response.headers().get(name).and_then(|value| value.to_str().ok()).map(visible);
        let note = CallNote {
            call: name,
            status: response.status().as_u16(),
            snyk_request_id: field("snyk-request-id"),
            exportgate_request_id: field("exportgate-request-id"),
        };
        if let Ok(mut line) = serde_json::to_vec(&note) {
            line.push(b'\n');
            // A full disk is noticed where it matters.
            let _ = self.calls.lock().unwrap_or_else(PoisonError::into_inner).write_all(&line);
        }
        Ok(response)
    }

    fn request(&self, call: FetchCall<'_>) -> Result<Request<Body>, BoxError> {
        let is_start = call.body.is_some();
        let mut request = Request::new(Either::Left(Full::new(call.body.unwrap_or_default())));
        *request.method_mut() = if is_start { Method::POST } else { Method::GET };
        *request.uri_mut() = match &self.address {
            AdminAddress::Unix(_) => call.target.parse()?,
            AdminAddress::Url(uri) => {
                let mut parts = (**uri).clone().into_parts();
                parts.path_and_query = Some(call.target.parse()?);
                Uri::from_parts(parts)?
            }
        };
        let fields = request.headers_mut();
        let agent = concat!("exportgate-fetch/", env!("CARGO_PKG_VERSION"));
        fields.insert(USER_AGENT, HeaderValue::from_static(agent));
        fields.insert(ACCEPT, HeaderValue::from_static("*/*"));
        if is_start {
            fields.insert(CONTENT_TYPE, HeaderValue::from_static("application/vnd.api+json"));
        }
        if matches!(self.address, AdminAddress::Unix(_)) {
            fields.insert(HOST, HeaderValue::from_static("localhost"));
        }
        if let Some(key) = &self.key {
            fields.insert(AUTHORIZATION, key.authorization("token")?);
        }
        fields.extend(call.fields);
        Ok(request)
    }

    async fn by_unix(
        &self,
        path: &std::path::Path,
        request: Request<Body>,
    ) -> Result<Response<CheckedBody>, CallFailure> {
        let stream = UnixStream::connect(path).await.map_err(|error| self.nobody(&error))?;
        let (mut sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(|error| self.broken(&error))?;
        // It ends with the answer, for nothing else holds its sender.
        self.shutdown.spawn(async move { drop(connection.await) });
        let response = sender.send_request(request).await.map_err(|error| self.broken(&error))?;
        let version = response.version();
        Ok(response.map(|body| CheckedBody::new(body, version)))
    }

    fn unanswered(&self, error: &RequestError) -> CallFailure {
        if let Some(rustls::Error::InvalidCertificate(_)) = find::<rustls::Error>(error) {
            let text = format!(
                "{} shows a certificate that is not trusted: name who signed it with --ca, and ask by a name that is in it ({})",
                self.address,
                error_text(error)
            );
            return CallFailure { is_unsent: true, text };
        }
        match error {
            RequestError::Connect(_) => self.nobody(error),
            RequestError::NotProcessed(_) => CallFailure { is_unsent: true, ..self.broken(error) },
            RequestError::Failed(_) | RequestError::Unsound => self.broken(error),
        }
    }

    fn nobody(&self, error: &(dyn std::error::Error + 'static)) -> CallFailure {
        let text = format!("no gateway answers at {}: is it running? ({})", self.address, error_text(error));
        CallFailure { is_unsent: true, text }
    }

    fn broken(&self, error: &(dyn std::error::Error + 'static)) -> CallFailure {
        let text = format!("the answer of {} broke off ({})", self.address, error_text(error));
        CallFailure { is_unsent: false, text }
    }

    fn too_slow(&self) -> CallFailure {
        let text = format!("{} gave no answer within {} s", self.address, ANSWER_TIMEOUT.as_secs());
        CallFailure { is_unsent: false, text }
    }
}

impl CallAnswer {
    /// `Retry-After` in seconds.
    pub(super) fn pause(&self) -> Option<Duration> {
        pause(&self.fields)
    }

    /// The first error of an error document: its `code`, and title and detail as a terminal can show them.
    pub(super) fn error(&self) -> ErrorNote {
        let document: Value = serde_json::from_slice(&self.body).unwrap_or_default();
        let error = &document["errors"][0];
        let text = |name: &str| error[name].as_str().map(visible).unwrap_or_default();
        let is_ours = error["meta"]["source"] == "exportgate";
        let code = if is_ours { text("code") } else { String::new() };
        let words = [text("title"), text("detail")].into_iter().filter(|text| !text.is_empty());
        let words = words.collect::<Vec<_>>().join(": ");
        let words = direct_words(&code).filter(|_| self.is_direct).map_or(words, str::to_owned);
        let words = if words.is_empty() { "no reason is given".to_owned() } else { words };
        ErrorNote { code, text: format!("{words} ({})", self.status.as_u16()) }
    }
}

/// The words of an error of the gateway in this process, where its own are for somebody else.
fn direct_words(code: &str) -> Option<&'static str> {
    match code {
        "host_not_allowed" => Some(
            "A link of the export leads to a host that is not allowed; the log above names it. If it is Snyk's store, add it to files.hosts (EXPORTGATE_FILES_HOSTS, or the file of --config), or its scheme, host and port to files.origins (EXPORTGATE_FILES_ORIGINS)",
        ),
        "upstream_credential_rejected" | "upstream_credential_locked" => Some(
            "Snyk refuses the credential, which is SNYK_TOKEN or the one of the configuration: replace it. `exportgate check` tells which one it is",
        ),
        "upstream_credential_refused_for_scope" => Some(
            "Snyk refuses the credential (SNYK_TOKEN or the one of the configuration) for this org or group: check the id, or take a credential that may read it",
        ),
        _ => None,
    }
}

/// An error of the gateway's or of Snyk's.
#[derive(Debug, Clone)]
pub(super) struct ErrorNote {
    /// The gateway's own word; empty for an error of Snyk's.
    pub(super) code: String,
    pub(super) text: String,
}

pub(super) fn pause(fields: &HeaderMap) -> Option<Duration> {
    retry_after(fields).map(|pause| pause.min(MAX_PAUSE))
}
