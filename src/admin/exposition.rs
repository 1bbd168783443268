//! The metrics, as Prometheus and `OpenMetrics` read them.
//!
//! The request path's own counters are registered as they are; everything else is read from the other parts at each
//! scrape. Labels are few and known ahead: no ids, paths or clients. Names of exports are those of the configuration.

use std::sync::atomic::{AtomicU64, Ordering};

use prometheus_client::encoding::text::{encode, encode_registry};
use prometheus_client::registry::{Registry, Unit};

use super::families::{Families, as_prometheus, flag, large, number, timestamp};
use super::named;
use super::{Admin, lock};
use crate::admission::Api;
use crate::expiry::{Expiring, Kind, Standing};
use crate::shared::{EngineState, Shared};

const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
const PROMETHEUS: &str = "text/plain; version=0.0.4; charset=utf-8";
/// The states of the circuit breaker.
const BREAKER: [&str; 3] = ["closed", "open", "half_open"];

/// The media type and the text.
pub(super) fn of(admin: &Admin, wants_open_metrics: bool) -> (&'static str, String) {
    let (mut of_process, mut ours) = (Families::default(), Families::default());
    process(admin, &mut of_process);
    for read in [gateway, admission, shared, credentials, stored, connections, expiring, files, named::count]
    {
        read(admin, &mut ours);
    }
    let mut registry = Registry::default();
    registry.register_collector(Box::new(of_process));
    let prefixed = registry.sub_registry_with_prefix("exportgate");
    let durations = admin.views.parts.journal.commit_durations();
    let help = "Duration of the journal's commits";
    prefixed.register_with_unit("journal_commit_duration", help, Unit::Seconds, durations);
    prefixed.register_collector(Box::new(ours));
    let mut text = String::new();
    let counted = encode_registry(&mut text, admin.views.parts.metrics.registry());
    if counted.and_then(|()| encode(&mut text, &registry)).is_err() {
        tracing::error!("metrics cannot be written");
    }
    if wants_open_metrics { (OPEN_METRICS, text) } else { (PROMETHEUS, as_prometheus(&text)) }
}

fn gateway(admin: &Admin, found: &mut Families) {
    if let Some(traces) = &admin.views.parts.traces {
        let help = "Spans that were dropped; present only if traces are sent";
        found.counter("trace_spans_dropped", help).is(large(traces.lost()));
    }
    let (buffered, max_buffered) = admin.views.memory.held();
    found.gauge("buffered_bytes", "Memory of bodies in transit, in bytes").is(number(buffered));
    let help = "Limit on the memory of bodies in transit, in bytes (listener.max_buffered)";
    found.gauge("buffered_max_bytes", help).is(number(max_buffered));
    let help = "Version of the gateway, as a label; the value is always 1";
    found.gauge("build_info", help).with(&[("version", env!("CARGO_PKG_VERSION"))], 1.0);
    let is_ready = admin.readiness(&admin.parts()).is_ready();
    found.gauge("ready", "1 if the gateway is ready for requests of clients").is(flag(is_ready));
    let followers = admin.views.retrieval.waiting();
    found.gauge("flight_followers", "Clients that wait for a request in flight").is(number(followers));
    let (waits, pollers) = admin.views.retrieval.waits();
    found.gauge("waiting_clients", "Clients that wait for the end of an export").is(number(waits));
    found.gauge("pollers", "Exports that are read for clients that wait").is(number(pollers));
    let help = "Log lines that were dropped because the reader of the log was too slow";
    found.counter("log_lines_dropped", help).is(large(crate::telemetry::lines_dropped()));
    let running = admin.views.downloads.running().len();
    found.gauge("files_running", "Downloads of files by clients that run").is(number(running));
}

fn admission(admin: &Admin, found: &mut Families) {
    for (lane, queue) in &*admin.views.parts.admission.queues() {
        let standing = queue.standing();
        // Calls of /v1 are rare: they are shown where there are any, under the credential's name and theirs.
        if lane.api == Api::V1 && !standing.is_used() {
            continue;
        }
        let name = lane.to_string();
        let of = [("credential", &*name)];
        found.gauge("queue_waiting", "Requests in the queue to Snyk").with(&of, number(standing.waiting));
        found.gauge("upstream_running", "Requests in flight to Snyk").with(&of, number(standing.running));
        let help = "Orgs and groups whose start calls are paused after a 429";
        found.gauge("paused_starts", help).with(&of, number(standing.paused_starts.len()));
        let help = "Time left of the backoff after a 429; 0 where there is none";
        found.gauge("backoff_seconds", help).with(&of, standing.backoff.left_open().as_secs_f64());
        for (length, most, spent) in standing.windows {
            let window = match length.as_secs() {
                1 => "1s",
                60 => "1m",
                _ => "1h",
            };
            let of = [("credential", &*name), ("window", window)];
            let help = "Requests sent to Snyk in the window that ends now";
            found.gauge("budget_used", help).with(&of, spent.into());
            let help = "Most requests that may be sent to Snyk in a window";
            found.gauge("budget_limit", help).with(&of, most.into());
        }
    }
    let admission = &admin.views.parts.admission;
    let (circuit, broken) = (admission.circuit(), admission.open_exports());
    for word in BREAKER {
        let help = "1 for the current state of the circuit breaker, 0 for the others";
        let is_it = flag(word == circuit.phase.as_str());
        found.gauge("breaker_state", help).with(&[("state", word)], is_it);
    }
    found.gauge("breaker_open_exports", "Exports whose circuit breaker is not closed").is(number(broken));
}

/// The engine that many machines share; nothing where there is none.
fn shared(admin: &Admin, found: &mut Families) {
    let Some(status) = admin.views.shared.as_ref().map(Shared::status) else { return };
    for state in EngineState::ALL {
        let help =
            "1 for the current state of the shared engine, 0 for the others; present only with shared.url";
        let is_it = flag(state == status.state);
        found.gauge("shared_state", help).with(&[("state", state.as_str())], is_it);
    }
    let help = "Gateways that share the budget, as far as this one knows";
    found.gauge("shared_members", help).is(status.members.into());
    let help = "Most gateways that have an own part of the budget (shared.gateways)";
    found.gauge("shared_gateways", help).is(status.gateways.into());
    let help = "1 if this gateway has an own part of the budget";
    found.gauge("shared_own_part", help).is(flag(status.has_own_part()));
    let help = "Time until the common part of the budget is open again; 0 where it is open";
    found.gauge("shared_shut_seconds", help).is(status.shut_for.as_secs_f64());
    let help = "Requests that the shared engine granted to this gateway";
    found.counter("shared_granted", help).is(large(status.granted));
    for (result, count) in
        [("ok", status.answered), ("timeout", status.timeouts), ("failed", status.failures)]
    {
        let calls = found.counter("shared_calls", "Calls to the shared engine, by result");
        calls.with(&[("result", result)], large(count));
    }
    found
        .counter("shared_connections", "Connections made to the shared engine")
        .is(large(status.connections));
    for (name, help, count) in [
        (
            "shared_entries_stored",
            "Finished exports that this gateway gave to the others",
            status.entries_stored,
        ),
        (
            "shared_entries_taken",
            "Finished exports of other gateways that this one took",
            status.entries_taken,
        ),
        (
            "shared_answers_taken",
            "Other answers that this gateway took from the flights of others, which it followed or polled with",
            status.answers_taken,
        ),
    ] {
        if status.has_answers {
            found.counter(name, help).is(large(count));
        }
    }
}

fn credentials(admin: &Admin, found: &mut Families) {
    let now = admin.now();
    for credential in &*admin.views.credentials.all() {
        for slot in credential.status(now) {
            let of = [("credential", &*credential.name), ("slot", slot.slot)];
            let help = "1 if Snyk refused the value of a credential's slot (401)";
            found.gauge("credential_locked", help).with(&of, flag(slot.state == "locked"));
            if let Some(value) = slot.age {
                let help = "Time since the value in use of a credential's slot was read or fetched";
                found.gauge("credential_age_seconds", help).with(&of, value.as_secs_f64());
            }
            if let Some(left) = slot.expires_in {
                let help = "Time at which the access token of a credential's slot expires, in Unix time";
                let at = timestamp(now.wall + left);
                found.gauge("credential_expiry_timestamp_seconds", help).with(&of, at);
            }
        }
    }
}

fn stored(admin: &Admin, found: &mut Families) {
    let (cache, journal) = (admin.views.retrieval.cache(), &admin.views.parts.journal);
    let (entries, bytes) = cache.size();
    found.gauge("cache_entries", "Entries in the cache").is(large(entries));
    found.gauge("cache_bytes", "Size of the cache").is(large(bytes));
    let help = "Limit on the size of the cache (cache.max_bytes)";
    found.gauge("cache_max_bytes", help).is(large(cache.max_bytes()));
    let removals = cache.removals();
    for (cause, count) in [
        ("expired", &removals.expired),
        ("size", &removals.size),
        ("replaced", &removals.replaced),
        ("purged", &removals.purged),
    ] {
        let removed = found.counter("cache_removals", "Entries removed from the cache, by cause");
        removed.with(&[("cause", cause)], large(count.load(Ordering::Relaxed)));
    }
    for (result, count) in [("written", journal.written()), ("dropped", journal.dropped())] {
        let records = found.counter("journal_records", "Records of the journal, written and dropped");
        records.with(&[("result", result)], large(count));
    }
    found.counter("journal_commits", "Commits of the journal").is(large(journal.commits()));
    let queued = number(journal.queued());
    found.gauge("journal_queued", "Records of the journal that wait to be written").is(queued);
    found.gauge("journal_failing", "1 if the journal cannot be written").is(flag(journal.is_failing()));
    found.gauge("journal_log_bytes", "Size of the journal's write-ahead log").is(large(journal.log_bytes()));
    let help = "Panics of the journal's thread, which was restarted";
    found.counter("journal_panics", help).is(large(journal.panics()));
}

fn connections(admin: &Admin, found: &mut Families) {
    let of = |count: &AtomicU64| large(count.load(Ordering::Relaxed));
    for (listener, counters) in [("data", &admin.views.clients), ("admin", &admin.own)] {
        let of_it = ("listener", listener);
        let open = number(counters.open.load(Ordering::Relaxed));
        found.gauge("connections", "Open connections, by listener").with(&[of_it], open);
        let most = number(counters.max.load(Ordering::Relaxed));
        found.gauge("connections_max", "Limit on open connections, by listener").with(&[of_it], most);
        for (transport, count) in [("tcp", &counters.tcp), ("tls", &counters.tls), ("unix", &counters.unix)] {
            let help = "Accepted connections, by listener and transport";
            found.counter("connections_accepted", help).with(&[of_it, ("transport", transport)], of(count));
        }
        for (reason, count) in [("full", &counters.full), ("address_full", &counters.address_full)] {
            let help = "Connections refused by a limit, by listener and reason";
            found.counter("connections_refused", help).with(&[of_it, ("reason", reason)], of(count));
        }
        for (result, count) in [
            ("ok", &counters.handshakes),
            ("failed", &counters.handshakes_failed),
            ("timeout", &counters.handshakes_timed_out),
            ("plain_http", &counters.plain_http),
        ] {
            let handshakes = found.counter("tls_handshakes", "TLS handshakes, by listener and result");
            handshakes.with(&[of_it, ("result", result)], of(count));
        }
    }
}

fn expiring(admin: &Admin, found: &mut Families) {
    let all = admin.views.expiry.all();
    let certificates = all.iter().filter(|one| one.kind == Kind::Certificate);
    if let Some(end) = certificates.map(|one| one.ends).min() {
        let help = "Time at which the gateway's certificate or one of its issuers expires, in Unix time";
        found.gauge("tls_certificate_expiry_timestamp_seconds", help).is(timestamp(end));
    }
    let now = admin.now().wall;
    for kind in Kind::ALL {
        let is_valid = |one: &Expiring| one.standing(now, admin.settings.warn_before) == Standing::Valid;
        let count = all.iter().filter(|one| one.kind == kind && !is_valid(one)).count();
        let help = "Certificates, revocation lists and clients' last keys that end soon, have ended or are not valid yet, by kind";
        found.gauge("expiring", help).with(&[("kind", kind.as_str())], number(count));
    }
}

/// Several files may have one source: their counts are summed.
fn files(admin: &Admin, found: &mut Families) {
    let watched = lock(&admin.views.watched);
    for source in ["configuration", "clients", "tls", "jwks", "credential"] {
        let of_it: Vec<_> = watched.iter().filter(|files| files.what == source).collect();
        if of_it.is_empty() {
            continue;
        }
        let (good, bad): (Vec<u64>, Vec<u64>) = of_it.iter().map(|files| files.counts()).unzip();
        for (result, counts) in [("ok", good), ("failed", bad)] {
            let reloads = found.counter("reloads", "Reloads of changed files, by source and result");
            reloads.with(&[("source", source), ("result", result)], large(counts.iter().sum()));
        }
        let is_failing = of_it.iter().any(|files| files.failing().is_some());
        let help = "1 if a changed file cannot be used, so that the last good one stays in force";
        found.gauge("reload_failing", help).with(&[("source", source)], flag(is_failing));
    }
}

/// The metrics of a process that Prometheus's own client libraries have, as far as the system tells them.
fn process(admin: &Admin, found: &mut Families) {
    let start = timestamp(admin.started.wall);
    found.gauge("process_start_time_seconds", "Start time of the process, in Unix time").is(start);
    let Ok(process) = procfs::process::Process::myself() else { return };
    if let Ok(stat) = process.stat() {
        let cpu = large(stat.utime + stat.stime) / large(procfs::ticks_per_second());
        found.counter("process_cpu_seconds", "CPU time of the process").is(cpu);
        let resident = large(stat.rss * procfs::page_size());
        found.gauge("process_resident_memory_bytes", "Resident memory of the process").is(resident);
        let threads = u64::try_from(stat.num_threads).unwrap_or(0);
        found.gauge("process_threads", "Threads of the process").is(large(threads));
    }
    if let Ok(open) = process.fd_count() {
        found.gauge("process_open_fds", "Open file descriptors of the process").is(number(open));
    }
    if let Some(most) = crate::hardening::max_open_files() {
        found.gauge("process_max_fds", "Limit on open file descriptors of the process").is(large(most));
    }
}
