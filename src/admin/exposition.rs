//! The metrics, as Prometheus and `OpenMetrics` read them.
//!
//! The request path's own counters are registered as they are; everything else is read from the other parts at each
//! scrape. Labels are few and known ahead: no ids, paths or clients.

use std::sync::atomic::Ordering;

use prometheus_client::registry::{Registry, Unit};

use super::families::{Families, Family, as_prometheus, flag, large, number, timestamp};
use super::{Admin, lock};
use crate::admission::Api;
use crate::expiry::{Expiring, Kind, Standing};
use crate::listener::Counters;

const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
const PROMETHEUS: &str = "text/plain; version=0.0.4; charset=utf-8";
/// The states of the circuit breaker.
const BREAKER: [&str; 3] = ["closed", "open", "half_open"];

/// The media type and the text.
pub(super) fn of(admin: &Admin, wants_open_metrics: bool) -> (&'static str, String) {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Families(process(admin))));
    let own = registry.sub_registry_with_prefix("exportgate");
    admin.views.metrics.register(own);
    own.register_with_unit(
        "journal_commit_duration",
        "Duration of the journal's commits",
        Unit::Seconds,
        admin.views.journal.commit_durations(),
    );
    let families =
        [gateway(admin), sparing(admin), credentials(admin), stored(admin), connections(admin), files(admin)];
    own.register_collector(Box::new(Families(families.into_iter().flatten().collect())));
    let mut text = String::new();
    if prometheus_client::encoding::text::encode(&mut text, &registry).is_err() {
        tracing::error!("metrics cannot be written");
    }
    if wants_open_metrics { (OPEN_METRICS, text) } else { (PROMETHEUS, as_prometheus(&text)) }
}

fn gateway(admin: &Admin) -> Vec<Family> {
    let is_ready = admin.readiness(&admin.parts()).is_ready();
    let mut dropped =
        Family::counter("trace_spans_dropped", "Spans that were dropped; present only if traces are sent");
    if let Some(traces) = &admin.views.traces {
        dropped = dropped.is(large(traces.lost()));
    }
    let (buffered, max_buffered) = admin.views.memory.held();
    vec![
        dropped,
        Family::gauge("buffered_bytes", "Memory of bodies in transit, in bytes").is(number(buffered)),
        Family::gauge(
            "buffered_max_bytes",
            "Limit on the memory of bodies in transit, in bytes (listener.max_buffered)",
        )
        .is(number(max_buffered)),
        Family::gauge("build_info", "Version of the gateway, as a label; the value is always 1")
            .with(&[("version", env!("CARGO_PKG_VERSION"))], 1.0),
        Family::gauge("ready", "1 if the gateway is ready for requests of clients").is(flag(is_ready)),
        Family::gauge("files_running", "Downloads of files by clients that run")
            .is(number(admin.views.downloads.running().len())),
        Family::gauge("flight_followers", "Clients that wait for a request in flight")
            .is(number(admin.views.followers.count())),
    ]
}

fn sparing(admin: &Admin) -> Vec<Family> {
    let seconds = || Unit::Seconds;
    let mut waiting = Family::gauge("queue_waiting", "Requests in the queue to Snyk");
    let mut running = Family::gauge("upstream_running", "Requests in flight to Snyk");
    let mut used = Family::gauge("budget_used", "Requests sent to Snyk in the window that ends now");
    let mut limit = Family::gauge("budget_limit", "Most requests that may be sent to Snyk in a window");
    let mut backoff = Family::gauge("backoff", "Time left of the backoff after a 429; 0 where there is none")
        .in_unit(seconds());
    let mut starts =
        Family::gauge("paused_starts", "Orgs and groups whose start calls are paused after a 429");
    for (lane, queue) in &*admin.views.admission.queues() {
        let standing = queue.standing();
        // Calls of /v1 are rare: they are shown where there are any, under the credential's name and theirs.
        if lane.api == Api::V1 && !standing.is_used() {
            continue;
        }
        let name = lane.to_string();
        let of = [("credential", &*name)];
        waiting = waiting.with(&of, number(standing.waiting));
        running = running.with(&of, number(standing.running));
        starts = starts.with(&of, number(standing.paused_starts.len()));
        backoff = backoff.with(&of, standing.backoff.left_open().as_secs_f64());
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
    let admission = &admin.views.admission;
    let (circuit, broken) = (admission.circuit(), admission.open_exports());
    let mut breaker =
        Family::gauge("breaker_state", "1 for the current state of the circuit breaker, 0 for the others");
    for word in BREAKER {
        breaker = breaker.with(&[("state", word)], flag(word == circuit.phase.as_str()));
    }
    let exports = Family::gauge("breaker_open_exports", "Exports whose circuit breaker is not closed")
        .is(number(broken));
    vec![waiting, running, used, limit, backoff, starts, breaker, exports]
}

fn credentials(admin: &Admin) -> Vec<Family> {
    let now = admin.now();
    let seconds = || Unit::Seconds;
    let mut age = Family::gauge(
        "credential_age",
        "Time since the value in use of a credential's slot was read or fetched",
    )
    .in_unit(seconds());
    let mut expiry = Family::gauge(
        "credential_expiry_timestamp",
        "Time at which the access token of a credential's slot expires, in Unix time",
    )
    .in_unit(seconds());
    let mut locked =
        Family::gauge("credential_locked", "1 if Snyk refused the value of a credential's slot (401)");
    for credential in &*admin.views.credentials.all() {
        for slot in credential.status(now) {
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
    let mut removed = Family::counter("cache_removals", "Entries removed from the cache, by cause");
    for (cause, count) in [
        ("expired", &removals.expired),
        ("size", &removals.size),
        ("replaced", &removals.replaced),
        ("purged", &removals.purged),
    ] {
        removed = removed.with(&[("cause", cause)], large(count.load(Ordering::Relaxed)));
    }
    vec![
        Family::gauge("cache_entries", "Entries in the cache").is(large(entries)),
        Family::gauge("cache", "Size of the cache").in_unit(Unit::Bytes).is(large(bytes)),
        Family::gauge("cache_max", "Limit on the size of the cache (cache.max_bytes)")
            .in_unit(Unit::Bytes)
            .is(large(cache.max_bytes())),
        removed,
        Family::counter("journal_records", "Records of the journal, written and dropped")
            .with(&[("result", "written")], large(journal.written()))
            .with(&[("result", "dropped")], large(journal.dropped())),
        Family::counter("journal_commits", "Commits of the journal").is(large(journal.commits())),
        Family::gauge("journal_queued", "Records of the journal that wait to be written")
            .is(number(journal.queued())),
        Family::counter(
            "log_lines_dropped",
            "Log lines that were dropped because the reader of the log was too slow",
        )
        .is(large(crate::telemetry::lines_dropped())),
        Family::gauge("journal_failing", "1 if the journal cannot be written").is(flag(journal.is_failing())),
        Family::gauge("journal_log", "Size of the journal's write-ahead log")
            .in_unit(Unit::Bytes)
            .is(large(journal.log_bytes())),
        Family::counter("journal_panics", "Panics of the journal's thread, which was restarted")
            .is(large(journal.panics())),
    ]
}

fn connections(admin: &Admin) -> Vec<Family> {
    let mut open = Family::gauge("connections", "Open connections, by listener");
    let mut most = Family::gauge("connections_max", "Limit on open connections, by listener");
    let mut accepted =
        Family::counter("connections_accepted", "Accepted connections, by listener and transport");
    let mut refused =
        Family::counter("connections_refused", "Connections refused by a limit, by listener and reason");
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
        "Time at which the gateway's certificate or one of its issuers expires, in Unix time",
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

/// Several files may have one source: their counts are summed.
fn files(admin: &Admin) -> Vec<Family> {
    let watched = lock(&admin.views.watched);
    let mut reloads = Family::counter("reloads", "Reloads of changed files, by source and result");
    let mut failing = Family::gauge(
        "reload_failing",
        "1 if a changed file cannot be used, so that the last good one stays in force",
    );
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

/// The metrics of a process that Prometheus's own client libraries have, as far as the system tells them.
fn process(admin: &Admin) -> Vec<Family> {
    let seconds = || Unit::Seconds;
    let start = timestamp(admin.started.wall);
    let mut found = vec![
        Family::gauge("process_start_time", "Start time of the process, in Unix time")
            .in_unit(seconds())
            .is(start),
    ];
    let Ok(process) = procfs::process::Process::myself() else { return found };
    if let Ok(stat) = process.stat() {
        #[expect(clippy::cast_precision_loss, reason = "a few years of ticks are exact")]
        let cpu = (stat.utime + stat.stime) as f64 / large(procfs::ticks_per_second());
        found.push(Family::counter("process_cpu", "CPU time of the process").in_unit(seconds()).is(cpu));
        let resident = stat.rss * procfs::page_size();
        found.push(
            Family::gauge("process_resident_memory", "Resident memory of the process")
                .in_unit(Unit::Bytes)
                .is(large(resident)),
        );
        found.push(
            Family::gauge("process_threads", "Threads of the process")
                .is(f64::from(i32::try_from(stat.num_threads).unwrap_or(i32::MAX))),
        );
    }
    if let Ok(open) = process.fd_count() {
        found
            .push(Family::gauge("process_open_fds", "Open file descriptors of the process").is(number(open)));
    }
    if let Some(most) = crate::hardening::max_open_files() {
        found.push(
            Family::gauge("process_max_fds", "Limit on open file descriptors of the process").is(large(most)),
        );
    }
    found
}
