//! The records of the journal: one [`Attempt`] per request that went to the upstream, and one [`Served`]
//! per client that was answered by it.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use uuid::Uuid;

/// The errors of attempts that Snyk has certainly not processed; those of the gateway's answers have the same words.
pub(crate) const NOT_PROCESSED: [&str; 12] = [
    "not_sent",
    "dns_error",
    "connection_timeout",
    "connection_refused",
    "destination_unavailable",
    "proxy_dns",
    "proxy_refused",
    "proxy_unreachable",
    "proxy_status",
    "tls_certificate_error",
    "tls_protocol_error",
    "not_processed",
];

/// One request to the upstream and its answer.
#[derive(Debug, Clone)]
pub struct Attempt {
    /// Its own id, which is also sent as its `snyk-request-id`, unless the client chose one.
    pub id: Uuid,
    /// The time of sending (wall time, milliseconds are kept).
    pub started: SystemTime,
    /// From sending to the last byte read, or to the failure.
    pub latency: Duration,
    /// The upstream's root, such as `https://api.snyk.io`.
    pub upstream: Arc<str>,
    /// Name of the credential that was presented.
    pub credential: Arc<str>,
    /// `rest` or `v1`: each has limits of its own.
    pub api: &'static str,
    /// `Exportgate-Request-Id` of the client request that caused it.
    pub request: Uuid,
    /// The client that caused it.
    pub client: Arc<str>,
    /// `snyk-request-id` as we sent it.
    pub sent_id: Uuid,
    /// `snyk-request-id` as it came back.
    pub received_id: Option<String>,
    /// `org` or `group`; `None` for a call that is no export call.
    pub scope_kind: Option<&'static str>,
    /// The org's or group's id.
    pub scope_id: Option<String>,
    /// The export's id.
    pub export_id: Option<String>,
    /// `start`, `job-status`, `results` or `other`.
    pub operation: &'static str,
    /// The request's method.
    pub method: String,
    /// The answer's status code.
    pub status: Option<u16>,
    /// `data.attributes.status` of the answer.
    pub export_status: Option<String>,
    /// Bytes of the answer's body.
    pub bytes: Option<u64>,
    /// `snyk-version-requested`.
    pub version_requested: Option<String>,
    /// `snyk-version-served`.
    pub version_served: Option<String>,
    /// `snyk-version-lifecycle-stage`.
    pub lifecycle: Option<String>,
    /// `deprecation`.
    pub deprecation: Option<String>,
    /// `sunset`.
    pub sunset: Option<String>,
    /// The number of the try, from 1.
    pub number: u32,
    /// Time in the queue before it was sent.
    pub queued: Duration,
    /// The reason of that wait.
    pub waited_for: Option<&'static str>,
    /// The kind of failure, where no whole answer came (an RFC 9209 error type).
    pub error: Option<&'static str>,
    /// The answer to a start, if equal ones may share it.
    pub kept: Option<Box<KeptStart>>,
}

impl Attempt {
    /// One that was sent at `started` to `upstream` with `credential`, of which nothing else is known yet. Its id is no secret,
    /// and needs no randomness of the system's.
    #[must_use]
    pub fn new(started: SystemTime, upstream: Arc<str>, credential: Arc<str>) -> Self {
        let id = uuid::Builder::from_random_bytes(fastrand::u128(..).to_ne_bytes()).into_uuid();
        Self {
            id,
            started,
            latency: Duration::ZERO,
            upstream,
            credential,
            api: "rest",
            request: id,
            client: "exportgate".into(),
            sent_id: id,
            received_id: None,
            scope_kind: None,
            scope_id: None,
            export_id: None,
            operation: "other",
            method: "GET".to_owned(),
            status: None,
            export_status: None,
            bytes: None,
            version_requested: None,
            version_served: None,
            lifecycle: None,
            deprecation: None,
            sunset: None,
            number: 1,
            queued: Duration::ZERO,
            waited_for: None,
            error: None,
            kept: None,
        }
    }
}

/// Longest text that is stored, in characters: an upstream cannot fill the disk through a header.
const TEXT_LIMIT: usize = 256;

/// The beginning of a text, as much as is stored.
pub(super) fn capped(text: &str) -> &str {
    text.char_indices().nth(TEXT_LIMIT).map_or(text, |(end, _)| &text[..end])
}

/// Milliseconds since 1970, negative before it.
pub(super) fn unix_ms(time: SystemTime) -> i64 {
    let ms = |span: Duration| i64::try_from(span.as_millis()).unwrap_or(i64::MAX);
    match time.duration_since(SystemTime::UNIX_EPOCH) {
        Ok(after) => ms(after),
        Err(before) => -ms(before.duration()),
    }
}

/// The answer to a start, as it is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeptStart {
    /// A digest of all that makes two starts equal.
    pub key: [u8; 32],
    /// The fields of the answer, as `name: value` lines.
    pub fields: Vec<u8>,
    /// Its body, without a link.
    pub body: Bytes,
}

/// A client's request that one attempt answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Served {
    /// The client's `Exportgate-Request-Id`.
    pub request: Uuid,
    /// The client.
    pub client: Arc<str>,
}
