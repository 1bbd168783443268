//! Sending spans: the SDK's batch processor has them sent from a thread of its own, by its OTLP exporter.
//!
//! Two things are ours. What happened to each span is counted, which the processor keeps to itself. And requests go by
//! our own HTTP client, so that TLS, proxies and limits are as everywhere; it needs the runtime, so the thread of the
//! processor waits for a task there.

use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use http::header::{CONTENT_TYPE, USER_AGENT};
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, Uri};
use http_body_util::{Either, Full};
use opentelemetry::KeyValue;
use opentelemetry_http::{HttpClient, HttpError};
use opentelemetry_otlp::{Protocol, SpanExporter as Otlp, WithExportConfig as _, WithHttpConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{BatchConfigBuilder, BatchSpanProcessor, SpanData, SpanExporter};
use tokio::runtime::Handle;

use super::{QUEUE, Settings, SpanCounts};
use crate::clock::Clock;
use crate::transport::{self, TransportError};
use crate::watched_file;

/// Most spans in one request.
const BATCH: usize = 512;
/// Longest wait of a span for others before it is sent.
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

/// Starts what sends spans to `settings.endpoint`, by the runtime that this is called in; nothing is connected yet.
///
/// # Errors
/// [`TraceError`].
pub(super) fn processor(
    settings: &Settings,
    counts: Arc<SpanCounts>,
) -> Result<BatchSpanProcessor, TraceError> {
    let Settings { endpoint, headers_file, ca_file, service_name, timeout, sample: _ } = settings;
    if let Some(path) = headers_file {
        watched_file::report_exposed(path);
    }
    let batch = Arc::<Mutex<Batch>>::default();
    let collector = Collector {
        client: transport::client(endpoint, ca_file.as_deref(), *timeout)?,
        endpoint: endpoint.clone(),
        headers_file: headers_file.clone(),
        batch: Arc::clone(&batch),
        runtime: Handle::current(),
    };
    // All that the exporter would else take from OTEL_… variables is said here or, in `Collector`, made anew.
    let mut exporter = Otlp::builder()
        .with_http()
        .with_http_client(collector)
        .with_endpoint(endpoint.to_string())
        .with_protocol(Protocol::HttpBinary)
        .with_timeout(*timeout)
        .build()?;
    let version = KeyValue::new("service.version", env!("CARGO_PKG_VERSION"));
    let resource = Resource::builder_empty().with_service_name(service_name.clone()).with_attribute(version);
    exporter.set_resource(&resource.build());
    let config = BatchConfigBuilder::default()
        .with_max_queue_size(QUEUE)
        .with_max_export_batch_size(BATCH)
        .with_scheduled_delay(DELAY)
        .build();
    let exporter = Counted { exporter, batch, counts, timeout: *timeout };
    Ok(BatchSpanProcessor::new(exporter, config))
}

/// The batch that is being sent.
#[derive(Debug, Default)]
struct Batch {
    /// All tries together have until then.
    until: Option<Instant>,
    /// Why the last try failed.
    cause: Option<String>,
}

/// Sends batches, and counts the spans of those that fail.
#[derive(Debug)]
struct Counted {
    exporter: Otlp,
    batch: Arc<Mutex<Batch>>,
    counts: Arc<SpanCounts>,
    timeout: Duration,
}

impl Counted {
    fn batch(&self) -> std::sync::MutexGuard<'_, Batch> {
        self.batch.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl SpanExporter for Counted {
    async fn export(&self, spans: Vec<SpanData>) -> OTelSdkResult {
        let count = spans.len();
        *self.batch() = Batch { until: Some(Clock::system().now().mono + self.timeout), cause: None };
        let sent = self.exporter.export(spans).await;
        let SpanCounts { waiting, lost, is_failing, .. } = &*self.counts;
        // A stop that did not wait for this batch has counted it.
        let is_ours =
            waiting.try_update(Ordering::Relaxed, Ordering::Relaxed, |all| all.checked_sub(count)).is_ok();
        if let Err(error) = &sent {
            lost.fetch_add(if is_ours { count as u64 } else { 0 }, Ordering::Relaxed);
            let error = self.batch().cause.take().unwrap_or_else(|| error.to_string());
            if !is_failing.swap(true, Ordering::Relaxed) {
                tracing::warn!(
                    error,
                    "sending traces to otlp.endpoint failed; dropping spans until it works again (logged once)"
                );
            }
        } else if is_failing.swap(false, Ordering::Relaxed) {
            let lost = lost.load(Ordering::Relaxed);
            tracing::info!(spans.lost = lost, "sending traces to otlp.endpoint works again");
        }
        sent
    }
}

/// The way to the collector.
#[derive(Debug)]
struct Collector {
    client: transport::HttpClient,
    endpoint: Uri,
    headers_file: Option<PathBuf>,
    batch: Arc<Mutex<Batch>>,
    runtime: Handle,
}

#[async_trait]
impl HttpClient for Collector {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let response = self.post(request).await;
        let cause = match &response {
            Ok(response) if response.status().is_success() => None,
            Ok(response) => Some(format!("it answers {}", response.status())),
            Err(error) => Some(crate::error_text::error_text(&**error)),
        };
        self.batch.lock().unwrap_or_else(PoisonError::into_inner).cause = cause;
        response
    }
}

impl Collector {
    /// Sends the body of the exporter's request; its header fields may come from the environment. The file is read here,
    /// on the thread of the processor, which may wait for a disk.
    async fn post(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let mut ours =
            Request::post(self.endpoint.clone()).body(Either::Left(Full::new(request.into_body())))?;
        ours.headers_mut().insert(USER_AGENT, AGENT);
        if let Some(path) = &self.headers_file {
            // Read each time, so that a key can be replaced.
            ours.headers_mut().extend(
                fields(&watched_file::read(path)?).map_err(|what| format!("otlp.headers_file: {what}"))?,
            );
        }
        let protobuf = HeaderValue::from_static("application/x-protobuf");
        ours.headers_mut().insert(CONTENT_TYPE, protobuf);
        let until = self.batch.lock().unwrap_or_else(PoisonError::into_inner).until;
        let left =
            until.map_or(Duration::ZERO, |until| until.saturating_duration_since(Clock::system().now().mono));
        let client = self.client.clone();
        let sending = async move { transport::fetch(&client, ours, MAX_ANSWER, left).await };
        let (status, body) = self.runtime.spawn(sending).await??;
        Ok(Response::builder().status(status).body(body)?)
    }
}

/// Reads header fields, one `Name: value` a line; empty lines and those that begin with `#` say nothing.
///
/// # Errors
/// The number of the bad line and its problem. The line is not repeated, for it is a secret.
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
