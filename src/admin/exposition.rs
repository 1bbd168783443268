//! What is counted and measured, as Prometheus and `OpenMetrics` read it.
//!
//! The request path's own counters are registered as they are; everything else is read from the other parts when
//! it is asked for. Labels are few and known ahead: no ids, paths or clients.

use std::fmt;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _, MetricEncoder};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::{Registry, Unit};

use super::{Admin, lock};
use crate::expiry::{Expiring, Kind, Standing};
use crate::listener::Counters;
use crate::upstream::Api;

/// What is sent to who asks for `OpenMetrics`, and to everybody else.
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
const PROMETHEUS: &str = "text/plain; version=0.0.4; charset=utf-8";
/// The states of the circuit breaker.
const BREAKER: [&str; 3] = ["closed", "open", "half_open"];

/// The values of one name, by their labels.
#[derive(Debug)]
struct Family {
    name: &'static str,
    help: &'static str,
    unit: Option<Unit>,
    is_counter: bool,
    samples: Vec<(Vec<(&'static str, String)>, f64)>,
}

impl Family {
    fn gauge(name: &'static str, help: &'static str) -> Self {
        Self { name, help, unit: None, is_counter: false, samples: Vec::new() }
    }

    fn counter(name: &'static str, help: &'static str) -> Self {
        Self { is_counter: true, ..Self::gauge(name, help) }
    }

    fn in_unit(self, unit: Unit) -> Self {
        Self { unit: Some(unit), ..self }
    }

    fn is(self, value: f64) -> Self {
        self.with(&[], value)
    }

    fn with(mut self, labels: &[(&'static str, &str)], value: f64) -> Self {
        let labels = labels.iter().map(|(name, value)| (*name, (*value).to_owned())).collect();
        self.samples.push((labels, value));
        self
    }
}

#[derive(Debug)]
struct Families(Vec<Family>);

impl Collector for Families {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        for family in self.0.iter().filter(|family| !family.samples.is_empty()) {
            let kind = if family.is_counter { MetricType::Counter } else { MetricType::Gauge };
            let help = format!("{}.", family.help);
            let mut metric = encoder.encode_descriptor(family.name, &help, family.unit.as_ref(), kind)?;
            let encode = |value: f64, metric: MetricEncoder<'_>| {
                if family.is_counter {
                    ConstCounter::new(value).encode(metric)
                } else {
                    ConstGauge::new(value).encode(metric)
                }
            };
            match family.samples.as_slice() {
                [(labels, value)] if labels.is_empty() => encode(*value, metric)?,
                samples => {
                    for (labels, value) in samples {
                        encode(*value, metric.encode_family(labels)?)?;
                    }
                }
            }
        }
        Ok(())
    }
}

/// The media type and the text.
pub(super) fn of(admin: &Admin, wants_open_metrics: bool) -> (&'static str, String) {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Families(process(admin))));
    let own = registry.sub_registry_with_prefix("exportgate");
    admin.views.metrics.register(own);
    own.register_with_unit(
        "journal_commit_duration",
        "How long commits of the journal took",
        Unit::Seconds,
        admin.views.journal.commit_durations(),
    );
    let families =
        [whole(admin), sparing(admin), credentials(admin), stored(admin), doors(admin), files(admin)];
    own.register_collector(Box::new(Families(families.into_iter().flatten().collect())));
    let mut text = String::new();
    if prometheus_client::encoding::text::encode(&mut text, &registry).is_err() {
        tracing::error!("metrics cannot be written");
    }
    if wants_open_metrics { (OPEN_METRICS, text) } else { (PROMETHEUS, as_prometheus(&text)) }
}

/// The same in Prometheus's own format, where a counter's name ends with `_total` also in what describes it, and
/// where there are no units and no end mark.
fn as_prometheus(open_metrics: &str) -> String {
    let counters: Vec<&str> = open_metrics
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE ")?.strip_suffix(" counter"))
        .collect();
    let mut text = String::with_capacity(open_metrics.len());
    for line in open_metrics.lines().filter(|line| !line.starts_with("# UNIT ") && *line != "# EOF") {
        let described = line.strip_prefix("# HELP ").or_else(|| line.strip_prefix("# TYPE "));
        let name = described.and_then(|rest| rest.split(' ').next()).unwrap_or_default();
        if counters.contains(&name) {
            let (head, rest) = line.split_at("# HELP ".len() + name.len());
            text.extend([head, "_total", rest]);
        } else {
            text.push_str(line);
        }
        text.push('\n');
    }
    text
}

fn whole(admin: &Admin) -> Vec<Family> {
    let is_ready = admin.readiness(&admin.parts()).is_ready();
    let mut dropped = Family::counter("trace_spans_dropped", "Spans that were not sent, where traces are");
    if let Some(traces) = &admin.views.traces {
        dropped = dropped.is(large(traces.lost()));
    }
    let (buffered, max_buffered) = admin.views.memory.held();
    vec![
        dropped,
        Family::gauge(
            "buffered_bytes",
            "Memory of bodies that are gathered and of answers that are not taken yet",
        )
        .is(number(buffered)),
        Family::gauge("buffered_max_bytes", "What they may take: listener.max_buffered")
            .is(number(max_buffered)),
        Family::gauge("build_info", "The version, as a label")
            .with(&[("version", env!("CARGO_PKG_VERSION"))], 1.0),
        Family::gauge("ready", "Whether clients may be sent here").is(flag(is_ready)),
        Family::gauge("flight_followers", "Clients that wait for answers that are on their way")
            .is(number(admin.views.followers.count())),
    ]
}

fn sparing(admin: &Admin) -> Vec<Family> {
    let seconds = || Unit::Seconds;
    let mut waiting = Family::gauge("queue_waiting", "Requests that wait for their turn");
    let mut running = Family::gauge("upstream_running", "Requests that were sent and have no answer yet");
    let mut used = Family::gauge("budget_used", "Requests in the window that ends now");
    let mut limit = Family::gauge("budget_limit", "Requests that a window may hold");
    let mut hold = Family::gauge("hold", "Until the end of a hold after a 429; 0 where there is none")
        .in_unit(seconds());
    let mut starts = Family::gauge("held_starts", "Orgs and groups whose starts are held");
    for (lane, pacer) in &*admin.views.upstream.pacers() {
        let standing = pacer.standing();
        // Calls of /v1 are rare: they are shown where there are any, under the credential's name and theirs.
        if lane.api == Api::V1 && !standing.is_used() {
            continue;
        }
        let name = lane.to_string();
        let of = [("credential", &*name)];
        waiting = waiting.with(&of, number(standing.waiting));
        running = running.with(&of, number(standing.running));
        starts = starts.with(&of, number(standing.starts_held.len()));
        hold = hold.with(&of, standing.hold.left_open().as_secs_f64());
        for (length, most, spent) in standing.windows {
            let window = match length.as_secs() {
                1 => "1s",
                60 => "1m",
                _ => "1h",
            };
            let of = [("credential", &*name), ("window", window)];
            used = used.with(&of, spent.into());
            limit = limit.with(&of, most.into());
        }
    }
    let (circuit, broken) = admin.views.upstream.circuit();
    let mut breaker = Family::gauge("breaker_state", "1 for the state that the circuit breaker is in");
    for word in BREAKER {
        breaker = breaker.with(&[("state", word)], flag(word == circuit.phase.as_str()));
    }
    let exports = Family::gauge("breaker_open_exports", "Exports whose circuit breaker is not closed")
        .is(number(broken));
    vec![waiting, running, used, limit, hold, starts, breaker, exports]
}

fn credentials(admin: &Admin) -> Vec<Family> {
    let now = admin.now();
    let seconds = || Unit::Seconds;
    let mut age = Family::gauge("credential_age", "How long a slot's value is in use").in_unit(seconds());
    let mut expiry =
        Family::gauge("credential_expiry_timestamp", "When an access token ends").in_unit(seconds());
    let mut locked =
        Family::gauge("credential_locked", "Whether Snyk refused the slot's value, and it is left alone");
    for credential in &*admin.views.credentials.all() {
        for slot in credential.standing(now) {
            let of = [("credential", &*credential.name), ("slot", slot.slot)];
            locked = locked.with(&of, flag(slot.state == "locked"));
            if let Some(value) = slot.age {
                age = age.with(&of, value.as_secs_f64());
            }
            if let Some(left) = slot.expires_in {
                expiry = expiry.with(&of, timestamp(now.wall + left));
            }
        }
    }
    vec![age, expiry, locked]
}

fn stored(admin: &Admin) -> Vec<Family> {
    let (cache, journal) = (&admin.views.cache, &admin.views.journal);
    let (entries, bytes) = cache.size();
    let removals = cache.removals();
    let mut removed = Family::counter("cache_removals", "Stored answers that went, by why");
    for (cause, count) in [
        ("expired", &removals.expired),
        ("size", &removals.size),
        ("replaced", &removals.replaced),
        ("purged", &removals.purged),
    ] {
        removed = removed.with(&[("cause", cause)], large(count.load(Ordering::Relaxed)));
    }
    vec![
        Family::gauge("cache_entries", "Stored answers").is(large(entries)),
        Family::gauge("cache", "What they take").in_unit(Unit::Bytes).is(large(bytes)),
        Family::gauge("cache_max", "What they may take: cache.max_bytes")
            .in_unit(Unit::Bytes)
            .is(large(cache.max_bytes())),
        removed,
        Family::counter("journal_records", "Records, by whether they were written")
            .with(&[("result", "written")], large(journal.written()))
            .with(&[("result", "dropped")], large(journal.dropped())),
        Family::counter("journal_commits", "Commits of the journal").is(large(journal.commits())),
        Family::gauge("journal_queued", "Records that wait to be written").is(number(journal.queued())),
        Family::counter("log_lines_dropped", "Log lines that were dropped because nothing read the log")
            .is(large(crate::telemetry::lines_dropped())),
        Family::gauge("journal_failing", "Whether the journal cannot be written")
            .is(flag(journal.is_failing())),
        Family::gauge("journal_log", "Size of the journal's write-ahead log")
            .in_unit(Unit::Bytes)
            .is(large(journal.log_bytes())),
        Family::counter("journal_panics", "Panics of the journal's thread, which began anew")
            .is(large(journal.panics())),
    ]
}

fn doors(admin: &Admin) -> Vec<Family> {
    let mut open = Family::gauge("connections", "Open connections, by listener");
    let mut most = Family::gauge("connections_max", "Most connections, by listener");
    let mut accepted =
        Family::counter("connections_accepted", "Connections that came, by listener and transport");
    let mut refused =
        Family::counter("connections_refused", "Connections that found no place, by listener and why");
    let mut handshakes = Family::counter("tls_handshakes", "TLS handshakes, by listener and result");
    let of = |count: &std::sync::atomic::AtomicU64| large(count.load(Ordering::Relaxed));
    for (listener, counters) in [("data", &admin.views.clients), ("admin", &admin.own)] {
        let Counters { full, address_full, .. } = &**counters;
        open = open.with(&[("listener", listener)], number(counters.open.load(Ordering::Relaxed)));
        most = most.with(&[("listener", listener)], number(counters.max.load(Ordering::Relaxed)));
        for (transport, count) in [("tcp", &counters.tcp), ("tls", &counters.tls), ("unix", &counters.unix)] {
            accepted = accepted.with(&[("listener", listener), ("transport", transport)], of(count));
        }
        for (reason, count) in [("full", full), ("address_full", address_full)] {
            refused = refused.with(&[("listener", listener), ("reason", reason)], of(count));
        }
        for (result, count) in [
            ("ok", &counters.handshakes),
            ("failed", &counters.handshakes_failed),
            ("timeout", &counters.handshakes_timed_out),
            ("plain_http", &counters.plain_http),
        ] {
            handshakes = handshakes.with(&[("listener", listener), ("result", result)], of(count));
        }
    }
    let mut ends = Family::gauge(
        "tls_certificate_expiry_timestamp",
        "End of our own certificate, or of one that it was signed with",
    )
    .in_unit(Unit::Seconds);
    let all = admin.views.expiring.list();
    let certificates = all.iter().filter(|one| one.kind == Kind::Certificate);
    if let Some(end) = certificates.map(|one| one.ends).min() {
        ends = ends.is(timestamp(end));
    }
    let mut expiring = Family::gauge(
        "expiring",
        "Certificates, revocation lists and clients' last keys that end soon, have ended or are not valid yet, by kind",
    );
    for kind in Kind::ALL {
        let has_warning = |one: &&Expiring| {
            let standing = one.standing(admin.now().wall, admin.settings.warn_before);
            one.kind == kind && standing != Standing::Valid
        };
        let count = number(all.iter().filter(has_warning).count());
        expiring = expiring.with(&[("kind", kind.as_str())], count);
    }
    vec![open, most, accepted, refused, handshakes, ends, expiring]
}

/// Several files may be of one kind; their counts are one.
fn files(admin: &Admin) -> Vec<Family> {
    let watched = lock(&admin.views.watched);
    let mut reloads =
        Family::counter("reloads", "New contents of files, by what they are and whether they were taken");
    let mut failing =
        Family::gauge("reload_failing", "Whether a file cannot be used, and the last good one is in force");
    for source in ["configuration", "clients", "tls", "jwks", "credential"] {
        let of_it = || watched.iter().filter(|files| files.what == source);
        if of_it().next().is_none() {
            continue;
        }
        let (good, bad) =
            of_it().map(|files| files.counts()).fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1));
        reloads = reloads
            .with(&[("source", source), ("result", "ok")], large(good))
            .with(&[("source", source), ("result", "failed")], large(bad));
        let is_failing = of_it().any(|files| files.failing().is_some());
        failing = failing.with(&[("source", source)], flag(is_failing));
    }
    vec![reloads, failing]
}

/// What Prometheus's own client libraries tell of a process. Where the system does not say, nothing.
fn process(admin: &Admin) -> Vec<Family> {
    let seconds = || Unit::Seconds;
    let start = timestamp(admin.started.wall);
    let mut found =
        vec![Family::gauge("process_start_time", "When the process started").in_unit(seconds()).is(start)];
    let Ok(process) = procfs::process::Process::myself() else { return found };
    if let Ok(stat) = process.stat() {
        #[expect(clippy::cast_precision_loss, reason = "a few years of ticks are exact")]
        let cpu = (stat.utime + stat.stime) as f64 / large(procfs::ticks_per_second());
        found.push(Family::counter("process_cpu", "CPU time").in_unit(seconds()).is(cpu));
        let resident = stat.rss * procfs::page_size();
        found.push(
            Family::gauge("process_resident_memory", "Memory").in_unit(Unit::Bytes).is(large(resident)),
        );
        found.push(
            Family::gauge("process_threads", "Threads")
                .is(f64::from(i32::try_from(stat.num_threads).unwrap_or(i32::MAX))),
        );
    }
    if let Ok(open) = process.fd_count() {
        found.push(Family::gauge("process_open_fds", "Open file descriptors").is(number(open)));
    }
    if let Some(most) = crate::hardening::max_open_files() {
        found.push(Family::gauge("process_max_fds", "Most open file descriptors").is(large(most)));
    }
    found
}

fn flag(yes: bool) -> f64 {
    if yes { 1.0 } else { 0.0 }
}

fn number(count: usize) -> f64 {
    large(count as u64)
}

#[expect(clippy::cast_precision_loss, reason = "metrics are floating-point numbers")]
fn large(count: u64) -> f64 {
    count as f64
}

fn timestamp(at: SystemTime) -> f64 {
    at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs_f64()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prometheus_wants_total_in_what_describes_a_counter() {
        let open = "# HELP a_b Text a_b.\n# TYPE a_b counter\na_b_total{x=\"y\"} 1\n# HELP c_seconds C.\n\
                    # TYPE c_seconds gauge\n# UNIT c_seconds seconds\nc_seconds 2\n# EOF\n";
        let plain = "# HELP a_b_total Text a_b.\n# TYPE a_b_total counter\na_b_total{x=\"y\"} 1\n\
                     # HELP c_seconds C.\n# TYPE c_seconds gauge\nc_seconds 2\n";
        assert_eq!(as_prometheus(open), plain);
    }
}
