//! Metrics of the request path. Every series is there from the start, and counting is one atomic addition: no
//! map is walked and no lock is taken but a histogram's own.
//!
//! Other parts (connections, the journal, the cache) keep their own counters; `admin` reads them at each scrape. `docs/metrics.md` is generated from the registry.

use std::fmt::Debug;
use std::time::{Duration, SystemTime};

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

use super::drift::{self, Drift};

/// The operations, as they are written in labels.
const OPERATIONS: [&str; 6] = ["results", "job-status", "start", "files", "other", "none"];
/// The outcomes of a transfer of a file; the last one is that of all others.
const TRANSFERS: [&str; 8] =
    ["proven", "unproven", "range", "abandoned", "revoked", "purged", "stopped", "failed"];
/// The results of an attempt.
const RESULTS: [&str; 7] = ["2xx", "3xx", "4xx", "401", "429", "5xx", "error"];
/// The reasons for which an answer with a finished export is not stored.
const NOT_STORED: [&str; 9] = [
    "status",
    "not-export",
    "too-large",
    "no-store",
    "no-cache",
    "private",
    "vary",
    "links-ending",
    "links-end-uncertain",
];
/// The classes of status codes.
const CLASSES: [&str; 4] = ["2xx", "3xx", "4xx", "5xx"];

/// Buckets of a client's wait, in seconds: a hit takes some ten microseconds, a request at most `listener.request_timeout`.
const CLIENT_SECONDS: [f64; 17] = [
    0.0001, 0.000_25, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 30.0,
    90.0,
];
/// Buckets of Snyk's latency and of the wait in the queue, in seconds.
const UPSTREAM_SECONDS: [f64; 12] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0];
/// Buckets of the freshness that is left, in seconds.
const FRESHNESS_SECONDS: [f64; 8] = [60.0, 300.0, 600.0, 900.0, 1_200.0, 1_800.0, 2_700.0, 3_600.0];

/// The way in which a request was served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RequestOutcome {
    /// From the cache.
    Hit,
    /// From the cache, past its freshness.
    Stale,
    /// From Snyk.
    Miss,
    /// From Snyk, by another client's request.
    Collapsed,
    /// From Snyk, as a call that is never stored: a start, or one that is no export call.
    Bypass,
    /// Not: who sent it is not known, or may not.
    Denied,
    /// By an answer of our own: an error.
    Own,
    /// Not: its client left before.
    Abandoned,
}

impl RequestOutcome {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::Hit,
        Self::Stale,
        Self::Miss,
        Self::Collapsed,
        Self::Bypass,
        Self::Denied,
        Self::Own,
        Self::Abandoned,
    ];

    /// The label.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Hit => "hit",
            Self::Stale => "stale",
            Self::Miss => "miss",
            Self::Collapsed => "collapsed",
            Self::Bypass => "bypass",
            Self::Denied => "denied",
            Self::Own => "own",
            Self::Abandoned => "abandoned",
        }
    }
}

/// One answer to a client.
#[derive(Debug, Clone, Copy)]
pub struct RequestSample {
    /// The operation.
    pub operation: &'static str,
    /// The outcome.
    pub served: RequestOutcome,
    /// Its status; `None` where its client left before.
    pub status: Option<u16>,
    /// The code of an error of our own.
    pub code: Option<&'static str>,
    /// Seconds of freshness that a stored answer had left.
    pub fresh_for: Option<u64>,
    /// Duration of the request.
    pub duration: Duration,
}

/// One attempt at Snyk.
#[derive(Debug, Clone, Copy)]
pub struct AttemptSample {
    /// The operation.
    pub operation: &'static str,
    /// The status that came, unless no whole answer did.
    pub status: Option<u16>,
    /// From sending to the last byte, or to the failure.
    pub latency: Duration,
    /// Wait in the queue.
    pub queued: Duration,
}

type Labels<const N: usize> = [(&'static str, &'static str); N];

/// Counts since the start, for the page's charts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Totals {
    /// Answers, by how they were served.
    pub served: [u64; RequestOutcome::ALL.len()],
    /// Attempts at Snyk.
    pub attempts: u64,
    /// Those of them that came to 401, 429, 5xx or no whole answer.
    pub failed: u64,
}

/// The metrics of the request path.
#[derive(Debug)]
pub struct Metrics {
    requests: Table<{ OPERATIONS.len() }, { RequestOutcome::ALL.len() }>,
    responses: Family<Labels<1>, Counter>,
    by_class: [Counter; CLASSES.len()],
    own_answers: Family<Labels<1>, Counter>,
    request_duration: Family<Labels<1>, Histogram, fn() -> Histogram>,
    durations: [Histogram; RequestOutcome::ALL.len()],
    attempts: Table<{ OPERATIONS.len() }, { RESULTS.len() }>,
    upstream_duration: Family<Labels<1>, Histogram, fn() -> Histogram>,
    latencies: [Histogram; OPERATIONS.len()],
    queue_duration: Histogram,
    freshness: Histogram,
    not_stored: Family<Labels<1>, Counter>,
    by_reason: [Counter; NOT_STORED.len()],
    transfers: Family<Labels<1>, Counter>,
    by_end: [Counter; TRANSFERS.len()],
    sent_bytes: Counter,
    drift: Drift,
}

/// A label with all of its values.
#[derive(Clone, Copy)]
struct Label<const N: usize> {
    name: &'static str,
    values: [&'static str; N],
}

/// Counters by two labels.
#[derive(Debug)]
struct Table<const R: usize, const C: usize> {
    family: Family<Labels<2>, Counter>,
    cells: [[Counter; C]; R],
}

impl<const R: usize, const C: usize> Table<R, C> {
    fn new(row: Label<R>, column: Label<C>) -> Self {
        let family = Family::<Labels<2>, Counter>::default();
        let cell = |r, c| family.get_or_create_owned(&[(row.name, r), (column.name, c)]);
        let cells = row.values.map(|r| column.values.map(|c| cell(r, c)));
        Self { family, cells }
    }
}

fn of_clients() -> Histogram {
    Histogram::new(CLIENT_SECONDS)
}

fn of_upstream() -> Histogram {
    Histogram::new(UPSTREAM_SECONDS)
}

impl Default for Metrics {
    fn default() -> Self {
        let by_operation = || Label { name: "operation", values: OPERATIONS };
        let outcomes = RequestOutcome::ALL.map(RequestOutcome::as_str);
        let responses = Family::<Labels<1>, Counter>::default();
        let request_duration: Family<_, _, fn() -> Histogram> = Family::new_with_constructor(of_clients);
        let upstream_duration: Family<_, _, fn() -> Histogram> = Family::new_with_constructor(of_upstream);
        let not_stored = Family::<Labels<1>, Counter>::default();
        let transfers = Family::<Labels<1>, Counter>::default();
        Self {
            requests: Table::new(by_operation(), Label { name: "outcome", values: outcomes }),
            by_class: CLASSES.map(|class| responses.get_or_create_owned(&[("class", class)])),
            responses,
            own_answers: Family::default(),
            durations: outcomes.map(|outcome| request_duration.get_or_create_owned(&[("outcome", outcome)])),
            request_duration,
            attempts: Table::new(by_operation(), Label { name: "result", values: RESULTS }),
            latencies: OPERATIONS.map(|word| upstream_duration.get_or_create_owned(&[("operation", word)])),
            upstream_duration,
            queue_duration: of_upstream(),
            freshness: Histogram::new(FRESHNESS_SECONDS),
            by_reason: NOT_STORED.map(|reason| not_stored.get_or_create_owned(&[("reason", reason)])),
            not_stored,
            by_end: TRANSFERS.map(|outcome| transfers.get_or_create_owned(&[("outcome", outcome)])),
            transfers,
            sent_bytes: Counter::default(),
            drift: Drift::default(),
        }
    }
}

impl Metrics {
    /// Counts an answer to a client.
    pub fn answered(&self, answered: &RequestSample) {
        let (row, column) = (operation(answered.operation), answered.served as usize);
        self.requests.cells[row][column].inc();
        if let Some(status) = answered.status {
            self.by_class[usize::from(status / 100).clamp(2, 5) - 2].inc();
        }
        self.durations[column].observe(answered.duration.as_secs_f64());
        if let Some(code) = answered.code {
            self.own_answers.get_or_create(&[("code", code)]).inc();
        }
        if let Some(seconds) = answered.fresh_for {
            #[expect(clippy::cast_precision_loss, reason = "an hour in seconds is exact")]
            self.freshness.observe(seconds as f64);
        }
    }

    /// Counts an attempt at Snyk.
    pub fn attempted(&self, attempted: &AttemptSample) {
        let row = operation(attempted.operation);
        let result = match attempted.status {
            None => "error",
            Some(401) => "401",
            Some(429) => "429",
            Some(status) => CLASSES[usize::from(status / 100).clamp(2, 5) - 2],
        };
        let column = RESULTS.iter().position(|word| *word == result).unwrap_or(0);
        self.attempts.cells[row][column].inc();
        self.latencies[row].observe(attempted.latency.as_secs_f64());
        self.queue_duration.observe(attempted.queued.as_secs_f64());
    }

    /// Counts a wait in the queue that ended without a slot.
    pub fn waited(&self, queued: Duration) {
        self.queue_duration.observe(queued.as_secs_f64());
    }

    /// Counts a finished export that is not stored. True if it is the first for this reason.
    pub fn not_stored(&self, reason: &str) -> bool {
        let counter = NOT_STORED.iter().position(|known| *known == reason).map(|at| &self.by_reason[at]);
        counter.is_some_and(|counter| counter.inc() == 0)
    }

    /// Counts bytes of a file that a client was sent.
    pub fn sent(&self, bytes: u64) {
        self.sent_bytes.inc_by(bytes);
    }

    /// Counts a transfer that has ended.
    pub fn transferred(&self, outcome: &str) {
        let at = TRANSFERS.iter().position(|known| *known == outcome);
        self.by_end[at.unwrap_or(TRANSFERS.len() - 1)].inc();
    }

    /// Notes a sign that Snyk's API changes; `detail` must be plain words.
    pub fn drifted(&self, kind: drift::DriftKind, detail: &str, now: SystemTime) {
        self.drift.note(kind, detail, now);
    }

    /// Signs that Snyk's API changes.
    #[must_use]
    pub fn drift(&self) -> &Drift {
        &self.drift
    }

    /// The counts so far.
    #[must_use]
    pub fn totals(&self) -> Totals {
        let column = |at: usize| self.requests.cells.iter().map(|row| row[at].get()).sum();
        let results = |wanted: fn(&str) -> bool| {
            let cells = self.attempts.cells.iter().flat_map(|row| row.iter().zip(RESULTS));
            cells.filter(|(_, word)| wanted(word)).map(|(cell, _)| cell.get()).sum()
        };
        Totals {
            served: RequestOutcome::ALL.map(|served| column(served as usize)),
            attempts: results(|_| true),
            failed: results(|word| ["401", "429", "5xx", "error"].contains(&word)),
        }
    }

    /// Registers all metrics of the request path.
    pub fn register(&self, registry: &mut Registry) {
        let seconds = || Unit::Seconds;
        registry.register(
            "requests",
            "Requests of clients, by operation and outcome",
            self.requests.family.clone(),
        );
        registry.register("responses", "Responses to clients, by status class", self.responses.clone());
        registry.register(
            "own_answers",
            "Errors that the gateway itself answered, by code",
            self.own_answers.clone(),
        );
        registry.register_with_unit(
            "request_duration",
            "Time from the header section of a client's request to that of the response, by outcome",
            seconds(),
            self.request_duration.clone(),
        );
        registry.register(
            "upstream_attempts",
            "Requests to Snyk, by operation and result",
            self.attempts.family.clone(),
        );
        registry.register_with_unit(
            "upstream_duration",
            "Time from sending a request to Snyk to the last byte of the response, or to its failure",
            seconds(),
            self.upstream_duration.clone(),
        );
        registry.register_with_unit(
            "queue_duration",
            "Time that requests to Snyk waited in the queue",
            seconds(),
            self.queue_duration.clone(),
        );
        registry.register_with_unit(
            "served_freshness",
            "Freshness left of stored responses when they were served",
            seconds(),
            self.freshness.clone(),
        );
        registry.register(
            "not_stored",
            "Responses with a finished or an unreadable export that were not stored, by reason",
            self.not_stored.clone(),
        );
        registry.register(
            "files_transfers",
            "Transfers of files to clients that have ended, by outcome",
            self.transfers.clone(),
        );
        registry.register_with_unit(
            "files_sent",
            "Content of files that was sent to clients",
            Unit::Bytes,
            self.sent_bytes.clone(),
        );
        registry.register(
            "drift",
            "Responses that differ from what exportgate knows of Snyk, by kind",
            self.drift.counters().clone(),
        );
    }
}

fn operation(word: &str) -> usize {
    OPERATIONS.iter().position(|known| *known == word).unwrap_or(OPERATIONS.len() - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_answer_and_attempt_is_counted_once() {
        let metrics = Metrics::default();
        for (served, status) in RequestOutcome::ALL.into_iter().zip([200, 200, 404, 200, 201, 403, 503, 0]) {
            let (operation, duration) = ("results", Duration::from_millis(1));
            let status = Some(status).filter(|status| *status > 0);
            metrics.answered(&RequestSample {
                operation,
                served,
                status,
                code: None,
                fresh_for: None,
                duration,
            });
        }
        for status in [Some(200), Some(304), Some(404), Some(401), Some(429), Some(503), None] {
            let (latency, queued) = (Duration::from_millis(1), Duration::ZERO);
            metrics.attempted(&AttemptSample { operation: "start", status, latency, queued });
        }
        let totals = metrics.totals();
        assert_eq!(totals, Totals { served: [1; 8], attempts: 7, failed: 4 });
        let classes = metrics.by_class.each_ref().map(Counter::get);
        assert_eq!(classes, [4, 0, 2, 1]);
    }
}
