//! Traces: what happened to a request, told to an OTLP collector (OpenTelemetry). Off unless an endpoint is set.
//!
//! Spans do not go through `tracing`: they are rendered when all is known, from what the log and the journal are
//! rendered from. A finished span is put into the SDK's batch processor and forgotten. So a collector that is down or slow
//! costs spans, which are counted, and never a request anything.
//!
//! Ids are those that stand elsewhere: a trace that begins here has the `Exportgate-Request-Id` of its request, and
//! a span has the last eight bytes of the id of its request or attempt.

mod export;
mod parent;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use http::{HeaderMap, Uri};
use opentelemetry::trace::{Link, SpanContext, SpanId, SpanKind, Status, TraceFlags, TraceId};
use opentelemetry::{InstrumentationScope, KeyValue, Value};
use opentelemetry_sdk::trace::{BatchSpanProcessor, SpanData, SpanProcessor as _};
use uuid::Uuid;

pub use export::{TraceError, fields};

/// Most spans that wait to be sent.
const QUEUE: usize = 2_048;

/// `[otlp]`, where an endpoint is set.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Where spans are sent to, whole.
    pub endpoint: Uri,
    /// A file with header fields to send with them.
    pub headers_file: Option<PathBuf>,
    /// PEM certificates to trust there instead of the platform's.
    pub ca_file: Option<PathBuf>,
    /// Which part of the requests is traced that no traced parent comes with, from 0 to 1.
    pub sample: f64,
    /// `service.name`.
    pub service_name: String,
    /// Longest that sending may take, and flushing at the end.
    pub timeout: Duration,
}

/// Takes finished spans.
#[derive(Debug, Clone)]
pub struct Traces {
    processor: Arc<BatchSpanProcessor>,
    sample: f64,
    scope: InstrumentationScope,
    timeout: Duration,
    counts: Arc<Counts>,
}

/// What became of spans.
#[derive(Debug, Default)]
struct Counts {
    /// Spans that were taken, and were neither sent nor lost yet.
    waiting: AtomicUsize,
    lost: AtomicU64,
    has_overflown: AtomicBool,
    /// The last batch could not be sent.
    is_failing: AtomicBool,
    /// Nothing is sent any more.
    is_finished: AtomicBool,
}

/// A place in a trace: what a span is of, and what its children are below.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trace {
    context: SpanContext,
    parent: SpanId,
    /// Whether the parent is somebody else's.
    is_remote: bool,
}

/// Which side of HTTP a span is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// A client asks us.
    Server,
    /// We ask the upstream.
    Client,
}

/// A span in the making.
#[derive(Debug)]
pub struct Span(SpanData);

impl Traces {
    /// Opens what sends spans to `settings.endpoint`, by the runtime that this is called in; nothing is connected yet.
    ///
    /// # Errors
    /// [`TraceError`].
    pub fn open(settings: &Settings) -> Result<Self, TraceError> {
        let counts = Arc::<Counts>::default();
        let processor = Arc::new(export::processor(settings, Arc::clone(&counts))?);
        let scope =
            InstrumentationScope::builder("exportgate").with_version(env!("CARGO_PKG_VERSION")).build();
        Ok(Self { processor, sample: settings.sample, scope, timeout: settings.timeout, counts })
    }

    /// The place of the request `id` in a trace: below the one that the client's fields name, or in a new one. `None`
    /// where it is not traced, because the client says so or by chance.
    #[must_use]
    pub fn begin(&self, id: Uuid, client: Option<&HeaderMap>) -> Option<Trace> {
        let parent = client.and_then(parent::of);
        let is_sampled =
            parent.as_ref().map_or_else(|| fastrand::f64() < self.sample, SpanContext::is_sampled);
        is_sampled.then(|| {
            let (trace, span, state) = match &parent {
                Some(parent) => (parent.trace_id(), parent.span_id(), parent.trace_state().clone()),
                None => (
                    TraceId::from_bytes(id.into_bytes()),
                    SpanId::INVALID,
                    opentelemetry::trace::TraceState::NONE,
                ),
            };
            let context = SpanContext::new(trace, span_id(id), TraceFlags::SAMPLED, false, state);
            Trace { context, parent: span, is_remote: parent.is_some() }
        })
    }

    /// Takes `span` to be sent; drops and counts it where too many wait.
    pub fn send(&self, Span(mut span): Span) {
        let Counts { waiting, lost, has_overflown, is_finished, .. } = &*self.counts;
        let has_room = waiting.fetch_add(1, Ordering::Relaxed) < QUEUE;
        if has_room && !is_finished.load(Ordering::Relaxed) {
            span.instrumentation_scope = self.scope.clone();
            return self.processor.on_end(span);
        }
        waiting.fetch_sub(1, Ordering::Relaxed);
        lost.fetch_add(1, Ordering::Relaxed);
        if !has_room && !has_overflown.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                waiting = QUEUE,
                "spans come faster than the collector of otlp.endpoint takes them: some are dropped; said once"
            );
        }
    }

    /// How many spans were not sent.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.counts.lost.load(Ordering::Relaxed)
    }

    /// Has what waits sent, in one `otlp.timeout` at most. Spans that come later are dropped.
    pub async fn finish(&self) {
        let (processor, timeout) = (Arc::clone(&self.processor), self.timeout);
        self.counts.is_finished.store(true, Ordering::Relaxed);
        let sent = tokio::task::spawn_blocking(move || processor.shutdown_with_timeout(timeout)).await;
        if !matches!(sent, Ok(Ok(()))) {
            let left = self.counts.waiting.swap(0, Ordering::Relaxed);
            self.counts.lost.fetch_add(left as u64, Ordering::Relaxed);
            tracing::warn!("the last spans were not sent within otlp.timeout");
        }
        let lost = self.lost();
        if lost > 0 {
            tracing::warn!(spans.lost = lost, "so many spans were not sent since the start");
        }
    }
}

impl Trace {
    /// The place of `id`, which this one causes.
    #[must_use]
    pub fn child(&self, id: Uuid) -> Self {
        let state = self.context.trace_state().clone();
        let context =
            SpanContext::new(self.context.trace_id(), span_id(id), TraceFlags::SAMPLED, false, state);
        Self { context, parent: self.context.span_id(), is_remote: false }
    }
}

/// The random part of an id, which is never all zeros: the variant's bits are in it.
fn span_id(id: Uuid) -> SpanId {
    SpanId::from(id.as_u64_pair().1)
}

impl Span {
    /// One that is over.
    #[must_use]
    pub fn new(trace: &Trace, (side, name): (Side, String), start: SystemTime, took: Duration) -> Self {
        Self(SpanData {
            span_context: trace.context.clone(),
            parent_span_id: trace.parent,
            parent_span_is_remote: trace.is_remote,
            span_kind: match side {
                Side::Server => SpanKind::Server,
                Side::Client => SpanKind::Client,
            },
            name: name.into(),
            start_time: start,
            end_time: start + took,
            attributes: Vec::with_capacity(16),
            dropped_attributes_count: 0,
            events: opentelemetry_sdk::trace::SpanEvents::default(),
            links: opentelemetry_sdk::trace::SpanLinks::default(),
            status: Status::Unset,
            instrumentation_scope: InstrumentationScope::default(),
        })
    }

    /// Says something of it.
    pub fn set(&mut self, key: &'static str, value: impl Into<Value>) {
        self.0.attributes.push(KeyValue::new(key, value));
    }

    /// Says it where it is known.
    pub fn set_some(&mut self, key: &'static str, value: Option<impl Into<Value>>) {
        if let Some(value) = value {
            self.set(key, value);
        }
    }

    /// Points to the span at `other`, which brought the answer.
    pub fn link(&mut self, other: &Trace) {
        self.0.links.links.push(Link::new(other.context.clone(), Vec::new(), 0));
    }

    /// Says that it failed, and by which error (`error.type`).
    pub fn fail(&mut self, error: impl Into<Value>) {
        self.set("error.type", error);
        self.0.status = Status::error("");
    }
}
