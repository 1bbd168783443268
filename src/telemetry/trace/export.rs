//! Sending spans: one task takes them off the queue, a batch at a time.
//!
//! The SDK's own batch processor is not used: it works on a thread without a reactor, which our HTTP client needs, and
//! its count of dropped spans cannot be read.

use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http::header::{CONTENT_TYPE, USER_AGENT};
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, Uri};
use http_body_util::{Either, Full};
use opentelemetry_http::{HttpClient, HttpError};
use opentelemetry_otlp::{Protocol, SpanExporter, WithExportConfig as _, WithHttpConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{SpanData, SpanExporter as _};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::{Lost, Settings};
use crate::files;
use crate::transport::{self, Client, TransportError};

/// Most spans in one request.
const BATCH: usize = 512;
/// How long a span may wait for others before it is sent.
const DELAY: Duration = Duration::from_secs(2);
/// Largest answer of a collector: it says next to nothing.
const MAX_ANSWER: usize = 64 * 1024;
const AGENT: HeaderValue = HeaderValue::from_static(concat!("exportgate/", env!("CARGO_PKG_VERSION")));
/// Fields that are the message's or the connection's, not `otlp.headers_file`'s.
const OURS: [&str; 8] = [
    "connection",
    "content-encoding",
    "content-length",
    "content-type",
    "host",
    "te",
    "transfer-encoding",
    "upgrade",
];

/// Why spans cannot be sent at all.
#[derive(Debug, thiserror::Error)]
pub enum TraceError {
    /// The client to the collector cannot be made.
    #[error("otlp.endpoint")]
    Transport(#[from] TransportError),
    /// The exporter cannot be made.
    #[error("the OTLP exporter cannot be set up")]
    Exporter(#[from] opentelemetry_otlp::ExporterBuildError),
}

/// Sends spans once it is spawned.
#[derive(Debug)]
pub struct Exporter {
    spans: mpsc::Receiver<SpanData>,
    sender: SpanExporter,
    /// Why the last try failed.
    cause: Cause,
    lost: Arc<Lost>,
    timeout: Duration,
    stop: CancellationToken,
    is_failing: bool,
}

/// A running [`Exporter`], to be stopped.
#[derive(Debug)]
pub struct Flush {
    stop: CancellationToken,
    task: JoinHandle<()>,
    lost: Arc<Lost>,
    timeout: Duration,
}

type Cause = Arc<Mutex<Option<String>>>;

impl Exporter {
    pub(super) fn new(
        settings: &Settings,
        spans: mpsc::Receiver<SpanData>,
        lost: Arc<Lost>,
    ) -> Result<Self, TraceError> {
        let Settings { endpoint, headers_file, ca_file, service_name, timeout, sample: _ } = settings;
        if let Some(path) = headers_file {
            files::report_exposed(path);
        }
        let cause = Cause::default();
        let collector = Collector {
            client: transport::client(endpoint, ca_file.as_deref(), *timeout)?,
            endpoint: endpoint.clone(),
            headers_file: headers_file.clone(),
            timeout: *timeout,
            cause: Arc::clone(&cause),
        };
        // All that the exporter would else take from OTEL_… variables is said here or, in `Collector`, made anew.
        let mut exporter = SpanExporter::builder()
            .with_http()
            .with_http_client(collector)
            .with_endpoint(endpoint.to_string())
            .with_protocol(Protocol::HttpBinary)
            .with_timeout(*timeout)
            .build()?;
        let version = opentelemetry::KeyValue::new("service.version", env!("CARGO_PKG_VERSION"));
        let resource =
            Resource::builder_empty().with_service_name(service_name.clone()).with_attribute(version);
        exporter.set_resource(&resource.build());
        let stop = CancellationToken::new();
        Ok(Self { spans, sender: exporter, cause, lost, timeout: *timeout, stop, is_failing: false })
    }

    /// Begins to send, until [`Flush::finish`].
    #[must_use]
    pub fn spawn(self) -> Flush {
        let (stop, lost, timeout) = (self.stop.clone(), Arc::clone(&self.lost), self.timeout);
        #[expect(
            clippy::disallowed_methods,
            reason = "the last spans come when the drain is over; whoever has its Flush ends it"
        )]
        let task = tokio::spawn(self.run());
        Flush { stop, task, lost, timeout }
    }

    async fn run(mut self) {
        let stop = self.stop.clone();
        let mut batch = Vec::new();
        while stop.run_until_cancelled(self.fill(&mut batch)).await == Some(true) {
            self.export(std::mem::take(&mut batch)).await;
        }
        // What is in `batch` was taken off the queue before the stop came.
        self.spans.close();
        while let Ok(span) = self.spans.try_recv() {
            batch.push(span);
        }
        while !batch.is_empty() {
            let rest = batch.split_off(batch.len().min(BATCH));
            self.export(std::mem::replace(&mut batch, rest)).await;
        }
    }

    /// Waits for a span, and then for as many as come within a moment; false where none will come. What was taken
    /// stays in `batch` where the wait is broken off.
    async fn fill(&mut self, batch: &mut Vec<SpanData>) -> bool {
        if self.spans.recv_many(batch, BATCH).await == 0 {
            return false;
        }
        let more = async {
            while batch.len() < BATCH && self.spans.recv_many(batch, BATCH - batch.len()).await > 0 {}
        };
        // That the time is over is the usual end.
        let _ = tokio::time::timeout(DELAY, more).await;
        true
    }

    async fn export(&mut self, batch: Vec<SpanData>) {
        let count = batch.len() as u64;
        // The exporter tries again by itself; all its tries together have this long.
        let sent = tokio::time::timeout(self.timeout, self.sender.export(batch)).await;
        let error = match sent {
            Ok(Ok(())) => {
                if std::mem::take(&mut self.is_failing) {
                    let lost = self.lost.spans.load(Ordering::Relaxed);
                    tracing::info!(spans.lost = lost, "the collector of otlp.endpoint takes spans again");
                }
                return;
            }
            Ok(Err(error)) => {
                let cause = self.cause.lock().unwrap_or_else(PoisonError::into_inner).take();
                cause.unwrap_or_else(|| error.to_string())
            }
            Err(_) => format!("not done within otlp.timeout ({} ms)", self.timeout.as_millis()),
        };
        self.lost.spans.fetch_add(count, Ordering::Relaxed);
        if !std::mem::replace(&mut self.is_failing, true) {
            tracing::warn!(
                error,
                "the collector of otlp.endpoint takes no spans: they are dropped until it does; said once"
            );
        }
    }
}

impl Flush {
    /// Has what waits sent, in one `otlp.timeout` at most, and ends.
    pub async fn finish(mut self) {
        self.stop.cancel();
        if tokio::time::timeout(self.timeout, &mut self.task).await.is_err() {
            self.task.abort();
            tracing::warn!("the last spans were not sent within otlp.timeout");
        }
        let lost = self.lost.spans.load(Ordering::Relaxed);
        if lost > 0 {
            tracing::warn!(spans.lost = lost, "so many spans were not sent since the start");
        }
    }
}

/// The way to the collector: our own HTTP client, so that TLS, proxies and limits are as everywhere.
#[derive(Debug)]
struct Collector {
    client: Client,
    endpoint: Uri,
    headers_file: Option<PathBuf>,
    timeout: Duration,
    cause: Cause,
}

#[async_trait]
impl HttpClient for Collector {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let answer = self.post(request).await;
        let cause = match &answer {
            Ok(answer) if answer.status().is_success() => None,
            Ok(answer) => Some(format!("it answers {}", answer.status())),
            Err(error) => Some(crate::chain::chain(&**error)),
        };
        *self.cause.lock().unwrap_or_else(PoisonError::into_inner) = cause;
        answer
    }
}

impl Collector {
    /// Of the exporter's request, the body alone counts: its header fields may come from the environment.
    async fn post(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let mut ours =
            Request::post(self.endpoint.clone()).body(Either::Left(Full::new(request.into_body())))?;
        ours.headers_mut().insert(USER_AGENT, AGENT);
        if let Some(path) = &self.headers_file {
            // Read each time, so that a key can be replaced.
            ours.headers_mut()
                .extend(fields(&files::read(path)?).map_err(|what| format!("otlp.headers_file: {what}"))?);
        }
        let protobuf = HeaderValue::from_static("application/x-protobuf");
        ours.headers_mut().insert(CONTENT_TYPE, protobuf);
        let (status, body) = transport::fetch(&self.client, ours, MAX_ANSWER, self.timeout).await?;
        Ok(Response::builder().status(status).body(body)?)
    }
}

/// Reads header fields, one `Name: value` a line; empty lines and those that begin with `#` say nothing.
///
/// # Errors
/// What is wrong in which line; nothing of it is repeated, for it is a secret.
pub fn fields(content: &[u8]) -> Result<HeaderMap, String> {
    let mut fields = HeaderMap::new();
    for (at, line) in content.split(|byte| *byte == b'\n').enumerate() {
        let line = line.trim_ascii();
        if line.is_empty() || line.starts_with(b"#") {
            continue;
        }
        let bad = |what| format!("line {} {what}", at + 1);
        let colon = line.iter().position(|byte| *byte == b':');
        let (name, value) =
            line.split_at(colon.ok_or_else(|| bad("must be a field, such as \"Name: value\""))?);
        let name =
            HeaderName::from_bytes(name.trim_ascii()).map_err(|_| bad("does not begin with a field name"))?;
        if OURS.contains(&name.as_str()) {
            return Err(bad("names a field that the gateway writes itself"));
        }
        let mut value = HeaderValue::from_bytes(value[1..].trim_ascii())
            .map_err(|_| bad("has a character that a field cannot hold"))?;
        value.set_sensitive(true);
        fields.append(name, value);
    }
    Ok(fields)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn header_fields_are_lines_and_never_repeated_in_errors() {
        let read =
            fields(b"# for the collector\r\n\r\nX-Api-Key: hunter2:x \r\nx-team:  gates\n").expect("fields");
        assert_eq!(
            (read["x-api-key"].as_bytes(), read["x-team"].as_bytes()),
            (&b"hunter2:x"[..], &b"gates"[..])
        );
        assert!(read.values().all(HeaderValue::is_sensitive));
        for (bad, line) in [
            ("a: b\nhunter2", 2),
            ("hunter2 x: y", 1),
            ("a: hunter2\u{1}", 1),
            ("Host: hunter2", 1),
            (": x", 1),
        ] {
            let what = fields(bad.as_bytes()).expect_err(bad);
            assert!(what.starts_with(&format!("line {line} ")) && !what.contains("hunter2"), "{what}");
        }
    }
}
