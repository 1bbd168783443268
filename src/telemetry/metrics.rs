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

use super::drift::{Drift, DriftKind};

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
    /// From Snyk, after a wait for the end of the export.
    Waited,
    /// From Snyk, as a call that is never stored: a start, or one that is no export call.
    Uncached,
    /// Refused: the client is unknown, or may not do this.
    Denied,
    /// By the gateway, with an error.
    Failed,
    /// Not served: the client left before its answer.
    ClientLeft,
}

impl RequestOutcome {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::Hit,
        Self::Stale,
        Self::Miss,
        Self::Collapsed,
        Self::Waited,
        Self::Uncached,
        Self::Denied,
        Self::Failed,
        Self::ClientLeft,
    ];

    /// The label.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Hit => "hit",
            Self::Stale => "stale",
            Self::Miss => "miss",
            Self::Collapsed => "collapsed",
            Self::Waited => "waited",
            Self::Uncached => "uncached",
            Self::Denied => "denied",
            Self::Failed => "failed",
            Self::ClientLeft => "client_left",
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

/// The metrics of the request path. `registry` has the families; the fields are their counters, found ahead.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    requests: [[Counter; RequestOutcome::ALL.len()]; OPERATIONS.len()],
    responses: [Counter; CLASSES.len()],
    errors: Family<Labels<1>, Counter>,
    request_durations: [Histogram; RequestOutcome::ALL.len()],
    attempts: [[Counter; RESULTS.len()]; OPERATIONS.len()],
    upstream_durations: [Histogram; OPERATIONS.len()],
    queue_duration: Histogram,
    freshness: Histogram,
    not_stored: [Counter; NOT_STORED.len()],
    polls: Counter,
    transfers: [Counter; TRANSFERS.len()],
    sent_bytes: Counter,
    drift: Drift,
}

/// A label with all of its values.
#[derive(Clone, Copy)]
struct Label<const N: usize> {
    name: &'static str,
    values: [&'static str; N],
}

/// Registers families, and makes all of their series at once.
struct Registration(Registry);

impl Registration {
    fn counters<const N: usize>(&mut self, name: &str, help: &str, label: Label<N>) -> [Counter; N] {
        let family = Family::<Labels<1>, Counter>::default();
        self.0.register(name, help, family.clone());
        label.values.map(|value| family.get_or_create_owned(&[(label.name, value)]))
    }

    fn table<const R: usize, const C: usize>(
        &mut self,
        name: &str,
        help: &str,
        row: Label<R>,
        column: Label<C>,
    ) -> [[Counter; C]; R] {
        let family = Family::<Labels<2>, Counter>::default();
        self.0.register(name, help, family.clone());
        let cell = |r, c| family.get_or_create_owned(&[(row.name, r), (column.name, c)]);
        row.values.map(|r| column.values.map(|c| cell(r, c)))
    }

    fn histograms<const N: usize>(
        &mut self,
        name: &str,
        help: &str,
        label: Label<N>,
        seconds: &'static [f64],
    ) -> [Histogram; N] {
        let new = move || Histogram::new(seconds.iter().copied());
        let family = Family::<Labels<1>, Histogram, _>::new_with_constructor(new);
        self.0.register_with_unit(name, help, Unit::Seconds, family.clone());
        label.values.map(|value| family.get_or_create_owned(&[(label.name, value)]))
    }

    fn histogram(&mut self, name: &str, help: &str, seconds: &[f64]) -> Histogram {
        let histogram = Histogram::new(seconds.iter().copied());
        self.0.register_with_unit(name, help, Unit::Seconds, histogram.clone());
        histogram
    }
}

impl Default for Metrics {
    fn default() -> Self {
        let mut r = Registration(Registry::with_prefix("exportgate"));
        let operation = Label { name: "operation", values: OPERATIONS };
        let outcome = Label { name: "outcome", values: RequestOutcome::ALL.map(RequestOutcome::as_str) };
        let help = "Requests of clients, by operation and outcome";
        let requests = r.table("requests", help, operation, outcome);
        let class = Label { name: "class", values: CLASSES };
        let responses = r.counters("responses", "Responses to clients, by status class", class);
        let errors = Family::default();
        r.0.register("errors", "Errors that the gateway itself answered, by code", errors.clone());
        let help = "Time from the header section of a client's request to that of the response, by outcome";
        let request_durations = r.histograms("request_duration", help, outcome, &CLIENT_SECONDS);
        let result = Label { name: "result", values: RESULTS };
        let help = "Requests to Snyk, by operation and result";
        let attempts = r.table("upstream_attempts", help, operation, result);
        let help = "Time from sending a request to Snyk to the last byte of the response, or to its failure";
        let upstream_durations = r.histograms("upstream_duration", help, operation, &UPSTREAM_SECONDS);
        let help = "Time that requests to Snyk waited in the queue";
        let queue_duration = r.histogram("queue_duration", help, &UPSTREAM_SECONDS);
        let help = "Freshness left of stored responses when they were served";
        let freshness = r.histogram("served_freshness", help, &FRESHNESS_SECONDS);
        let help = "Responses with a finished or an unreadable export that were not stored, by reason";
        let not_stored = r.counters("not_stored", help, Label { name: "reason", values: NOT_STORED });
        let polls = Counter::default();
        r.0.register(
            "polls",
            "Requests to Snyk for clients and turns of named exports that wait for the end of an export",
            polls.clone(),
        );
        let outcome = Label { name: "outcome", values: TRANSFERS };
        let help = "Transfers of files to clients that have ended, by outcome";
        let transfers = r.counters("files_transfers", help, outcome);
        let sent_bytes = Counter::default();
        let help = "Content of files that was sent to clients";
        r.0.register_with_unit("files_sent", help, Unit::Bytes, sent_bytes.clone());
        let kind = Label { name: "kind", values: DriftKind::ALL.map(DriftKind::as_str) };
        let help = "Signs of changes at Snyk, by kind: unknown parts of responses, and other columns of a named export";
        let drift = Drift::new(r.counters("drift", help, kind));
        Self {
            registry: r.0,
            requests,
            responses,
            errors,
            request_durations,
            attempts,
            upstream_durations,
            queue_duration,
            freshness,
            not_stored,
            polls,
            transfers,
            sent_bytes,
            drift,
        }
    }
}

impl Metrics {
    /// Counts an answer to a client.
    pub fn answered(&self, answered: &RequestSample) {
        let (row, column) = (operation(answered.operation), answered.served as usize);
        self.requests[row][column].inc();
        if let Some(status) = answered.status {
            self.responses[usize::from(status / 100).clamp(2, 5) - 2].inc();
        }
        self.request_durations[column].observe(answered.duration.as_secs_f64());
        if let Some(code) = answered.code {
            self.errors.get_or_create(&[("code", code)]).inc();
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
        self.attempts[row][column].inc();
        self.upstream_durations[row].observe(attempted.latency.as_secs_f64());
        self.queue_duration.observe(attempted.queued.as_secs_f64());
    }

    /// Counts a wait in the queue that ended without a slot.
    pub fn waited(&self, queued: Duration) {
        self.queue_duration.observe(queued.as_secs_f64());
    }

    /// Counts a finished export that is not stored. True if it is the first for this reason.
    pub fn not_stored(&self, reason: &str) -> bool {
        let counter = NOT_STORED.iter().position(|known| *known == reason).map(|at| &self.not_stored[at]);
        counter.is_some_and(|counter| counter.inc() == 0)
    }

    /// Counts a request for those who wait for the end of an export.
    pub fn polled(&self) {
        self.polls.inc();
    }

    /// Counts bytes of a file that a client was sent.
    pub fn sent(&self, bytes: u64) {
        self.sent_bytes.inc_by(bytes);
    }

    /// Counts a transfer that has ended.
    pub fn transferred(&self, outcome: &str) {
        let at = TRANSFERS.iter().position(|known| *known == outcome);
        self.transfers[at.unwrap_or(TRANSFERS.len() - 1)].inc();
    }

    /// Notes a sign that Snyk's API changes; `detail` must be plain words.
    pub fn drifted(&self, kind: DriftKind, detail: &str, now: SystemTime) {
        self.drift.note(kind, detail, now);
    }

    /// Signs that Snyk's API changes.
    pub(crate) fn drift(&self) -> &Drift {
        &self.drift
    }

    /// The counts so far.
    pub(crate) fn totals(&self) -> Totals {
        let column = |at: usize| self.requests.iter().map(|row| row[at].get()).sum();
        let results = |wanted: fn(&str) -> bool| {
            let cells = self.attempts.iter().flat_map(|row| row.iter().zip(RESULTS));
            cells.filter(|(_, word)| wanted(word)).map(|(cell, _)| cell.get()).sum()
        };
        Totals {
            served: RequestOutcome::ALL.map(|served| column(served as usize)),
            attempts: results(|_| true),
            failed: results(|word| ["401", "429", "5xx", "error"].contains(&word)),
        }
    }

    pub(crate) fn registry(&self) -> &Registry {
        &self.registry
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
        for (served, status) in
            RequestOutcome::ALL.into_iter().zip([200, 200, 404, 200, 200, 201, 403, 503, 0])
        {
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
        assert_eq!(totals, Totals { served: [1; 9], attempts: 7, failed: 4 });
        let classes = metrics.responses.each_ref().map(Counter::get);
        assert_eq!(classes, [5, 0, 2, 1]);
    }
}
