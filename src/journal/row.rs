//! One record, as it is read.

use serde::{Deserialize, Serialize};

/// A request to the upstream, with the number of clients that it answered. Field names are those of the JSON and
/// CSV that `exportgate requests` prints.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// The time of sending (RFC 3339, UTC).
    pub started: String,
    /// From sending to the last byte, or to the failure, in milliseconds.
    pub latency_ms: f64,
    /// `start`, `job-status`, `results` or `other`.
    pub operation: String,
    /// The method.
    pub method: String,
    /// `org` or `group`.
    pub scope_kind: Option<String>,
    /// The org's or group's id.
    pub scope_id: Option<String>,
    /// The export's id.
    pub export_id: Option<String>,
    /// The status code that came back.
    pub status: Option<u16>,
    /// `data.attributes.status`.
    pub export_status: Option<String>,
    /// The kind of failure, where no whole answer came.
    pub error: Option<String>,
    /// `snyk-request-id` as it came back.
    pub received_id: Option<String>,
    /// `snyk-request-id` as we sent it.
    pub sent_id: String,
    /// `Exportgate-Request-Id` of the client request that caused it.
    pub request_id: String,
    /// The client that caused it.
    pub client: String,
    /// Number of clients that it answered.
    pub clients: i64,
    /// The upstream's root.
    pub upstream: String,
    /// Name of the credential.
    pub credential: String,
    /// Bytes of the body.
    pub bytes: Option<i64>,
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
    #[serde(rename = "try")]
    pub number: u32,
    /// Time in the queue, in milliseconds.
    pub queued_ms: f64,
    /// The reason of that wait: `budget`, `backoff` or `concurrency`.
    pub waited_for: Option<String>,
}

impl Row {
    /// The columns of the view `requests`, in the order of the fields.
    pub(super) const COLUMNS: &'static str = "started, latency_ms, operation, method, scope_kind, scope_id, \
        export_id, status, export_status, error, received_id, sent_id, request_id, client, clients, upstream, \
        credential, bytes, version_requested, version_served, lifecycle, deprecation, sunset, try, queued_ms, \
        waited_for";

    pub(super) fn read(row: &rusqlite::Row<'_>) -> rusqlite::Result<Self> {
        Ok(Self {
            started: row.get("started")?,
            latency_ms: row.get("latency_ms")?,
            operation: row.get("operation")?,
            method: row.get("method")?,
            scope_kind: row.get("scope_kind")?,
            scope_id: row.get("scope_id")?,
            export_id: row.get("export_id")?,
            status: row.get("status")?,
            export_status: row.get("export_status")?,
            error: row.get("error")?,
            received_id: row.get("received_id")?,
            sent_id: row.get("sent_id")?,
            request_id: row.get("request_id")?,
            client: row.get("client")?,
            clients: row.get("clients")?,
            upstream: row.get("upstream")?,
            credential: row.get("credential")?,
            bytes: row.get("bytes")?,
            version_requested: row.get("version_requested")?,
            version_served: row.get("version_served")?,
            lifecycle: row.get("lifecycle")?,
            deprecation: row.get("deprecation")?,
            sunset: row.get("sunset")?,
            number: row.get("try")?,
            queued_ms: row.get("queued_ms")?,
            waited_for: row.get("waited_for")?,
        })
    }
}
