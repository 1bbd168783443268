//! Traces of requests, sent to an OTLP collector (OpenTelemetry). Off unless an endpoint is set.
//!
//! Spans do not go through `tracing`: they are rendered when all is known, from what the log and the journal are
//! rendered from. A finished span is put into the SDK's batch processor and forgotten. So a collector that is down or slow
//! costs spans, which are counted, and never a request anything.
//!
//! Ids are those that stand elsewhere: a trace that begins here has the `Exportgate-Request-Id` of its request, and
//! a span has the last eight bytes of the id of its request or attempt.

mod export;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use http::{HeaderMap, HeaderValue, Uri};
use opentelemetry::trace::{Link, SpanContext, SpanId, SpanKind, Status, TraceFlags, TraceId, TraceState};
use opentelemetry::{InstrumentationScope, KeyValue, Value};
use opentelemetry_sdk::trace::{BatchSpanProcessor, SpanData, SpanProcessor as _};
use uuid::Uuid;

pub use export::{TraceError, fields};

/// Most spans that wait to be sent.
const QUEUE: usize = 2_048;
/// Longest `tracestate` that is kept, in bytes: everybody who passes it on must keep so many (W3C Trace Context §3.3.1.5).
const MAX_STATE: usize = 512;

/// `[otlp]`, where an endpoint is set.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The full URL that spans are sent to.
    pub endpoint: Uri,
    /// A file with header fields to send with them.
    pub headers_file: Option<PathBuf>,
    /// PEM certificates to trust there instead of the platform's.
    pub ca_file: Option<PathBuf>,
    /// Share of the requests without a traced parent that are traced, from 0 to 1.
    pub sample: f64,
    /// `service.name`.
    pub service_name: String,
    /// Longest duration of sending a batch, and of flushing at the end.
    pub timeout: Duration,
}

/// Takes finished spans.
#[derive(Debug, Clone)]
pub struct Traces {
    processor: Arc<BatchSpanProcessor>,
    sample: f64,
    scope: InstrumentationScope,
    timeout: Duration,
    counts: Arc<SpanCounts>,
}

/// The spans that wait or are lost, and the state of sending.
#[derive(Debug, Default)]
struct SpanCounts {
    /// Spans that were taken, and were neither sent nor lost yet.
    waiting: AtomicUsize,
    lost: AtomicU64,
    has_overflown: AtomicBool,
    /// The last batch could not be sent.
    is_failing: AtomicBool,
    /// Nothing is sent any more.
    is_finished: AtomicBool,
}

/// A place in a trace: a span's own context, and its parent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trace {
    context: SpanContext,
    parent: SpanId,
    /// True if the parent is the client's.
    is_remote: bool,
}

/// The side of HTTP that a span describes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// A client's request to the gateway.
    Server,
    /// The gateway's request to Snyk.
    Client,
}

/// The time that a span covers.
#[derive(Debug, Clone, Copy)]
pub struct Period {
    /// Its start.
    pub start: SystemTime,
    /// Its duration.
    pub took: Duration,
}

/// A span in the making.
#[derive(Debug)]
pub struct Span(SpanData);

impl Traces {
    /// Sends spans to `settings.endpoint`, on the runtime that this is called in; nothing is connected yet.
    ///
    /// # Errors
    /// [`TraceError`].
    pub fn open(settings: &Settings) -> Result<Self, TraceError> {
        let counts = Arc::<SpanCounts>::default();
        let processor = Arc::new(export::processor(settings, Arc::clone(&counts))?);
        let scope =
            InstrumentationScope::builder("exportgate").with_version(env!("CARGO_PKG_VERSION")).build();
        Ok(Self { processor, sample: settings.sample, scope, timeout: settings.timeout, counts })
    }

    /// The place of the request `id` in a trace: below the one that the client's fields name, or in a new one. `None`
    /// where it is not traced, because the client says so or by chance.
    #[must_use]
    pub fn begin(&self, id: Uuid, client: Option<&HeaderMap>) -> Option<Trace> {
        let parent = client.and_then(parent);
        let is_sampled =
            parent.as_ref().map_or_else(|| fastrand::f64() < self.sample, SpanContext::is_sampled);
        is_sampled.then(|| {
            let (trace, span, state) = match &parent {
                Some(parent) => (parent.trace_id(), parent.span_id(), parent.trace_state().clone()),
                None => (TraceId::from_bytes(id.into_bytes()), SpanId::INVALID, TraceState::NONE),
            };
            let context = SpanContext::new(trace, span_id(id), TraceFlags::SAMPLED, false, state);
            Trace { context, parent: span, is_remote: parent.is_some() }
        })
    }

    /// Takes `span` to be sent; drops and counts it where too many wait.
    pub fn send(&self, Span(mut span): Span) {
        let SpanCounts { waiting, lost, has_overflown, is_finished, .. } = &*self.counts;
        let has_room = waiting.fetch_add(1, Ordering::Relaxed) < QUEUE;
        if has_room && !is_finished.load(Ordering::Relaxed) {
            span.instrumentation_scope = self.scope.clone();
            return self.processor.on_end(span);
        }
        waiting.fetch_sub(1, Ordering::Relaxed);
        lost.fetch_add(1, Ordering::Relaxed);
        if !has_room && !has_overflown.swap(true, Ordering::Relaxed) {
            tracing::warn!(waiting = QUEUE, "trace queue full; dropping spans (logged once)");
        }
    }

    /// Spans that were not sent.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.counts.lost.load(Ordering::Relaxed)
    }

    /// Sends the spans that wait, within one `otlp.timeout`. Spans that come later are dropped.
    pub async fn finish(&self) {
        let (processor, timeout) = (Arc::clone(&self.processor), self.timeout);
        self.counts.is_finished.store(true, Ordering::Relaxed);
        let sent = tokio::task::spawn_blocking(move || processor.shutdown_with_timeout(timeout)).await;
        if !matches!(sent, Ok(Ok(()))) {
            let left = self.counts.waiting.swap(0, Ordering::Relaxed);
            self.counts.lost.fetch_add(left as u64, Ordering::Relaxed);
            tracing::warn!("some spans were not sent within otlp.timeout before the stop");
        }
        let lost = self.lost();
        if lost > 0 {
            tracing::warn!(spans.lost = lost, "spans dropped since the start");
        }
    }
}

/// The span that the client's fields name (W3C Trace Context). What is not valid is ignored: a trace begins anew, and
/// nobody's request fails for it. The SDK's propagator is laxer: it takes ids that are too short, signs before digits, and
/// the first of several `traceparent`.
fn parent(client: &HeaderMap) -> Option<SpanContext> {
    let mut values = client.get_all("traceparent").iter();
    let (Some(value), None) = (values.next(), values.next()) else { return None };
    let (head, rest) = value.to_str().ok()?.split_at_checked(55)?;
    let is_in_form = |(at, byte)| match at {
        2 | 35 | 52 => byte == b'-',
        _ => matches!(byte, b'0'..=b'9' | b'a'..=b'f'),
    };
    let has_its_length = match &head[..2] {
        "00" => rest.is_empty(),
        "ff" => false,
        // A later version may have more behind a hyphen (§4.3).
        _ => rest.is_empty() || rest.starts_with('-'),
    };
    if !has_its_length || !head.bytes().enumerate().all(is_in_form) {
        return None;
    }
    let (trace, span) = (TraceId::from_hex(&head[3..35]).ok()?, SpanId::from_hex(&head[36..52]).ok()?);
    let flags = TraceFlags::new(u8::from_str_radix(&head[53..], 16).ok()?) & TraceFlags::SAMPLED;
    let context = SpanContext::new(trace, span, flags, true, state(client));
    context.is_valid().then_some(context)
}

fn state(client: &HeaderMap) -> TraceState {
    let values: Vec<&[u8]> = client.get_all("tracestate").iter().map(HeaderValue::as_bytes).collect();
    let text = values.join(&b',');
    let short = std::str::from_utf8(&text).ok().filter(|text| text.len() <= MAX_STATE);
    short.and_then(|text| text.parse().ok()).unwrap_or_default()
}

impl Trace {
    /// The place of `id`, which this one causes.
    pub(crate) fn child(&self, id: Uuid) -> Self {
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
    /// A span that has ended.
    #[must_use]
    pub fn new(trace: &Trace, side: Side, name: String, period: Period) -> Self {
        Self(SpanData {
            span_context: trace.context.clone(),
            parent_span_id: trace.parent,
            parent_span_is_remote: trace.is_remote,
            span_kind: match side {
                Side::Server => SpanKind::Server,
                Side::Client => SpanKind::Client,
            },
            name: name.into(),
            start_time: period.start,
            end_time: period.start + period.took,
            attributes: Vec::with_capacity(16),
            dropped_attributes_count: 0,
            events: opentelemetry_sdk::trace::SpanEvents::default(),
            links: opentelemetry_sdk::trace::SpanLinks::default(),
            status: Status::Unset,
            instrumentation_scope: InstrumentationScope::default(),
        })
    }

    /// Sets an attribute.
    pub fn set(&mut self, key: &'static str, value: impl Into<Value>) {
        self.0.attributes.push(KeyValue::new(key, value));
    }

    /// Sets an attribute if its value is known.
    pub fn set_some(&mut self, key: &'static str, value: Option<impl Into<Value>>) {
        if let Some(value) = value {
            self.set(key, value);
        }
    }

    /// Links to the span at `other`, whose request got the answer.
    pub fn link(&mut self, other: &Trace) {
        self.0.links.links.push(Link::new(other.context.clone(), Vec::new(), 0));
    }

    /// Marks it as failed, with `error.type`.
    pub fn fail(&mut self, error: impl Into<Value>) {
        self.set("error.type", error);
        self.0.status = Status::error("");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
    const SPAN: &str = "b7ad6b7169203331";

    fn named(fields: &[(&'static str, &str)]) -> Option<SpanContext> {
        let fields = fields.iter().map(|(name, value)| {
            (http::HeaderName::from_static(name), HeaderValue::from_str(value).expect("a value"))
        });
        let mut map = HeaderMap::new();
        for (name, value) in fields {
            map.append(name, value);
        }
        parent(&map)
    }

    #[test]
    fn a_parent_is_taken_whole_or_not_at_all() {
        for (flags, sampled) in [("00", false), ("01", true), ("ff", true), ("02", false)] {
            let found = named(&[("traceparent", &format!("00-{TRACE}-{SPAN}-{flags}"))]).expect("a parent");
            assert_eq!(
                (found.trace_id().to_string(), found.span_id().to_string()),
                (TRACE.into(), SPAN.into())
            );
            assert_eq!((found.is_sampled(), found.is_remote()), (sampled, true));
        }
        let more = format!("cc-{TRACE}-{SPAN}-01-what-comes-later");
        assert!(named(&[("traceparent", &more)]).is_some());
        for bad in [
            String::new(),
            format!("00-{TRACE}-{SPAN}"),
            format!("00-{TRACE}-{SPAN}-1"),
            format!("00-{TRACE}-{SPAN}-01-more"),
            format!("ff-{TRACE}-{SPAN}-01"),
            format!("cc-{TRACE}-{SPAN}-01.more"),
            format!("00-{}-{SPAN}-01", TRACE.to_uppercase()),
            format!("00-{TRACE}-{}-01", "0".repeat(16)),
            format!("00-{}-{SPAN}-01", "0".repeat(32)),
            format!("00-{TRACE}_{SPAN}-01"),
            format!("00-{TRACE}0{SPAN}-01"),
            format!("+0-{TRACE}-{SPAN}-01"),
            "é".repeat(30),
        ] {
            assert_eq!(named(&[("traceparent", &bad)]), None, "{bad}");
        }
        let good = format!("00-{TRACE}-{SPAN}-01");
        assert_eq!(named(&[("traceparent", &good), ("traceparent", &good)]), None);
        assert_eq!(named(&[]), None);
    }

    #[test]
    fn a_state_that_is_not_valid_costs_the_state_alone() {
        let good = format!("00-{TRACE}-{SPAN}-01");
        let state = |states: &[&str]| {
            let mut fields = vec![("traceparent", good.as_str())];
            fields.extend(states.iter().map(|state| ("tracestate", *state)));
            named(&fields).expect("a parent").trace_state().header()
        };
        assert_eq!(state(&["a=1,b=2"]), "a=1,b=2");
        assert_eq!(state(&["a=1", "b=2"]), "a=1,b=2");
        assert_eq!((state(&["nonsense"]), state(&["A=1"])), (String::new(), String::new()));
        assert_eq!(state(&[&format!("a={}", "x".repeat(600))]), "");
    }
}
