//! How the gateway stands, as JSON: for the page, `exportgate status` and whoever else asks.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use serde_json::{Value, json};

use super::board::{Health, Part, State};
use super::{Admin, lock, time};
use crate::circuit::Phase;
use crate::expiry::{Expiring, Kind, date};
use crate::telemetry::history::STEP;
use crate::telemetry::metrics::{Served, Totals};
use crate::upstream::gate::Standing;
use crate::upstream::{Api, FailedKind, Lane};

/// Most warnings that one part's detail holds.
const MOST_WARNINGS: usize = 5;

impl Admin {
    /// How each part stands now.
    pub(super) fn health(&self) -> Health {
        let parts = [
            vec![self.configuration()],
            self.credentials(),
            vec![self.listeners(), self.journal(), self.upstream()],
            self.expiry(),
        ];
        let parts: Vec<Part> = parts.into_iter().flatten().collect();
        let since = lock(&self.board).note(&parts, self.now().wall);
        Health { parts, since, is_stopping: self.views.shutdown.is_announced() }
    }

    /// What was read last of all files that are followed.
    fn configuration(&self) -> Part {
        let watched = lock(&self.views.watched);
        let bad = watched.iter().find_map(|files| {
            let (_, why) = files.failing()?;
            Some(format!("{}: the last good one is in force; {why}", files.what))
        });
        let shown = self.shown.load();
        let waits = || {
            let keys = shown.waiting.join(", ");
            (!keys.is_empty()).then(|| format!("take effect after a restart only: {keys}"))
        };
        let bad = bad.or_else(waits);
        Part {
            name: "configuration".to_owned(),
            state: if bad.is_some() { State::Degraded } else { State::Ok },
            detail: bad.unwrap_or_else(|| "as it was read last".to_owned()),
            is_needed: true,
        }
    }

    /// One part for each credential. The gateway is not ready before one of them has its first value.
    fn credentials(&self) -> Vec<Part> {
        let now = self.now();
        let all = self.views.credentials.all();
        let mut parts: Vec<Part> = all
            .iter()
            .map(|credential| {
                let slots = credential.standing(now);
                let in_use = slots.iter().find(|slot| slot.state == "in_use");
                let locked = slots.iter().any(|slot| slot.state == "locked");
                let waits = in_use.is_some_and(|slot| {
                    slot.age.is_none() || slot.expires_in.is_some_and(|left| left.is_zero())
                });
                let (state, detail) = match in_use {
                    Some(_) if waits => (State::Failing, "no access token that is good still".to_owned()),
                    Some(slot) if locked => {
                        (State::Degraded, format!("{} in use; Snyk refused another slot", slot.slot))
                    }
                    Some(slot) if slot.refused_scopes > 0 => {
                        let scopes = slot.refused_scopes;
                        (
                            State::Degraded,
                            format!(
                                "{} in use; Snyk refuses it (401) for {scopes} org(s) or group(s)",
                                slot.slot
                            ),
                        )
                    }
                    Some(slot) => (State::Ok, format!("{} in use", slot.slot)),
                    // Hits, and the answer that says so, must reach clients still.
                    None => (State::Degraded, "Snyk refuses it (401): replace it".to_owned()),
                };
                Part { name: format!("credential {}", credential.name), state, detail, is_needed: false }
            })
            .collect();
        if parts.iter().all(|part| part.state == State::Failing) {
            for part in &mut parts {
                part.is_needed = true;
            }
        }
        parts
    }

    fn listeners(&self) -> Part {
        let addresses: Vec<String> = self.views.addresses.iter().map(ToString::to_string).collect();
        let is_stopping = self.views.shutdown.is_announced();
        Part {
            name: "listeners".to_owned(),
            state: if is_stopping { State::Failing } else { State::Ok },
            detail: if is_stopping { "stopping".to_owned() } else { addresses.join(", ") },
            is_needed: true,
        }
    }

    fn journal(&self) -> Part {
        let refuses = self.shown.load().refuses;
        let journal = &self.views.journal;
        let (state, detail) = match (journal.is_failing(), refuses) {
            (false, _) if journal.is_held_open() => {
                let mib = journal.log_bytes() >> 20;
                (
                    State::Degraded,
                    format!("a reader was left open: the write-ahead log has {mib} MiB and grows"),
                )
            }
            (false, _) => (State::Ok, "records are written".to_owned()),
            (true, true) => {
                (State::Failing, "records cannot be written, and clients get 503: see the log".to_owned())
            }
            (true, false) => (
                State::Degraded,
                format!("records cannot be written, {} wait in memory: see the log", journal.queued()),
            ),
        };
        Part { name: "journal".to_owned(), state, detail, is_needed: refuses }
    }

    /// A part for certificates where there are any, and one for clients while the last keys of some end.
    fn expiry(&self) -> Vec<Part> {
        let (now, warn_before) = (self.now().wall, self.settings.warn_before);
        let of = |name: &str, expiring: &[&Expiring]| {
            let mut warnings: Vec<String> =
                expiring.iter().filter_map(|one| one.warning(now, warn_before)).collect();
            let state = if warnings.is_empty() { State::Ok } else { State::Degraded };
            let ends = expiring.iter().map(|one| one.ends).min();
            if let (State::Ok, Some(ends)) = (state, ends) {
                warnings.push(format!("valid until {}", date(ends)));
            }
            let more = warnings.len().saturating_sub(MOST_WARNINGS);
            warnings.truncate(MOST_WARNINGS);
            warnings.extend((more > 0).then(|| format!("and {more} more: see the log")));
            Part { name: name.to_owned(), state, detail: warnings.join("; "), is_needed: false }
        };
        let all = (self.views.expiring.0)();
        let (keys, certificates): (Vec<&Expiring>, Vec<&Expiring>) =
            all.iter().partition(|one| one.kind == Kind::ClientKeys);
        let certificates = (!certificates.is_empty()).then(|| of("certificate", &certificates));
        let keys = Some(of("clients", &keys)).filter(|part| part.state != State::Ok);
        certificates.into_iter().chain(keys).collect()
    }

    /// Whether Snyk can be asked. It never makes the gateway not ready: what is stored is served all the same.
    fn upstream(&self) -> Part {
        let (circuit, broken) = self.views.upstream.circuit();
        let pacers = self.views.upstream.pacers();
        let held = pacers.iter().find_map(|(lane, pacer)| {
            let hold = pacer.standing().hold;
            match hold.phase {
                Phase::Open => Some(format!("credential {lane}: held, {} s left", whole_seconds(hold.left))),
                Phase::HalfOpen => Some(format!("credential {lane}: held, the next request is a probe")),
                Phase::Closed | Phase::Ramp => None,
            }
        });
        let proxy = self.views.upstream.proxy();
        let proxy_trouble =
            proxy.and_then(|(name, failed)| Some(format!("the proxy {name} fails: {}", described(failed?))));
        let trouble = match circuit.phase {
            Phase::Open => Some(format!("circuit breaker open, {} s left", whole_seconds(circuit.left))),
            Phase::HalfOpen => Some("circuit breaker half open: the next request is a probe".to_owned()),
            Phase::Closed | Phase::Ramp => held,
        };
        let way = proxy.map_or_else(String::new, |(name, _)| format!(" by way of the proxy {name}"));
        let good = || match broken {
            0 => format!("requests may be sent{way}"),
            _ => format!("requests may be sent{way}; circuit breakers of {broken} export(s) are open"),
        };
        let trouble: Vec<String> = proxy_trouble.into_iter().chain(trouble).collect();
        Part {
            name: "upstream".to_owned(),
            state: if trouble.is_empty() { State::Ok } else { State::Degraded },
            detail: if trouble.is_empty() { good() } else { trouble.join("; ") },
            is_needed: false,
        }
    }

    /// Everything at a glance.
    pub(super) fn status(&self) -> Value {
        let now = self.now();
        let health = self.health();
        let parts: Vec<Value> = health
            .parts
            .iter()
            .zip(&health.since)
            .map(|(part, since)| {
                let Part { name, state, detail, .. } = part;
                json!({ "name": name, "state": state.as_str(), "since": time(*since), "detail": detail })
            })
            .collect();
        let (entries, bytes) = self.views.cache.size();
        let journal = &self.views.journal;
        let waiting = self.views.upstream.waiting();
        json!({
            "version": env!("CARGO_PKG_VERSION"),
            "started": time(self.started.wall),
            "now": time(now.wall),
            "uptime_s": now.mono.saturating_duration_since(self.started.mono).as_secs(),
            "state": health.readiness().1,
            "upstream": self.views.upstream.root().to_string(),
            "parts": parts,
            "totals": counts(&self.views.metrics.totals()),
            "traffic": self.traffic(),
            "cache": { "entries": entries, "bytes": bytes, "max_bytes": self.views.cache.max_bytes() },
            "queue": { "waiting": waiting, "followers": (self.views.followers.0)() },
            "budget": self.budget(),
            "journal": {
                "failing": journal.is_failing(),
                "written": journal.written(),
                "dropped": journal.dropped(),
                "queued": journal.queued(),
                "log_bytes": journal.log_bytes(),
            },
            "connections": {
                "open": self.views.clients.open.load(Ordering::Relaxed),
                "max": self.views.clients.max.load(Ordering::Relaxed),
            },
            "drift": self.drift(),
            "reload": { "failing": self.reload_failing() },
        })
    }

    fn traffic(&self) -> Value {
        self.sample();
        let history = lock(&self.history);
        let points: Vec<Value> = history
            .points()
            .map(|point| {
                let mut value = counts(&point.counts);
                value["at"] = time(point.at);
                value["upstream"] = point.counts.attempts.into();
                value["upstream_errors"] = point.counts.failed.into();
                value
            })
            .collect();
        json!({ "step_s": STEP.as_secs(), "points": points })
    }

    fn drift(&self) -> Vec<Value> {
        let seen = self.views.metrics.drift().seen().into_iter().map(|seen| {
            json!({
                "kind": seen.kind.as_str(), "count": seen.count, "last": time(seen.last), "detail": seen.detail,
            })
        });
        seen.collect()
    }

    fn reload_failing(&self) -> Option<Value> {
        let now = self.now();
        let watched = lock(&self.views.watched);
        watched.iter().find_map(|files| {
            let (since, why) = files.failing()?;
            let since = now.wall - now.mono.saturating_duration_since(since);
            Some(json!({ "since": time(since), "detail": format!("{}: {why}", files.what) }))
        })
    }

    /// What may be sent to Snyk, and what stands in the way.
    pub(super) fn budget(&self) -> Value {
        let now = self.now();
        let pacers = self.views.upstream.pacers();
        let credentials: Vec<Value> = self
            .views
            .credentials
            .all()
            .iter()
            .map(|credential| {
                let standing = |api| {
                    let lane = Lane { credential: Arc::clone(&credential.name), api };
                    pacers.get(&lane).map(|pacer| pacer.standing())
                };
                let slots: Vec<Value> = credential
                    .standing(now)
                    .into_iter()
                    .map(|slot| {
                        json!({
                            "name": slot.slot,
                            "state": slot.state,
                            "age_s": slot.age.map(|age| age.as_secs()),
                            "expires_in_s": slot.expires_in.map(|left| left.as_secs()),
                            "refused_scopes": slot.refused_scopes,
                        })
                    })
                    .collect();
                let mut value = standing(Api::Rest).as_ref().map_or_else(|| json!({}), gate);
                if let Some(v1) = standing(Api::V1).filter(Standing::is_used) {
                    value["v1"] = gate(&v1);
                }
                value["name"] = (*credential.name).into();
                value["slots"] = slots.into();
                value
            })
            .collect();
        let (circuit, broken) = self.views.upstream.circuit();
        json!({
            "credentials": credentials,
            "breaker": {
                "state": circuit.phase.as_str(),
                "seconds_left": whole_seconds(circuit.left),
                "exports": broken,
            },
        })
    }
}

const fn hold_word(phase: Phase) -> &'static str {
    match phase {
        Phase::Closed => "none",
        Phase::Open => "held",
        Phase::HalfOpen => "probing",
        Phase::Ramp => "ramp",
    }
}

fn gate(standing: &Standing) -> Value {
    let windows: Vec<Value> = standing
        .windows
        .iter()
        .map(|(length, limit, used)| json!({ "seconds": length.as_secs(), "limit": limit, "used": used }))
        .collect();
    let starts: Vec<Value> = standing
        .starts_held
        .iter()
        .map(|(scope, left)| json!({ "scope": **scope, "seconds_left": whole_seconds(*left) }))
        .collect();
    json!({
        "waiting": standing.waiting,
        "running": standing.running,
        "windows": windows,
        "hold": { "state": hold_word(standing.hold.phase), "seconds_left": whole_seconds(standing.hold.left) },
        "starts_held": starts,
    })
}

fn counts(totals: &Totals) -> Value {
    let counts = Served::ALL.iter().zip(totals.served);
    Value::Object(counts.map(|(served, count)| (served.as_str().to_owned(), count.into())).collect())
}

/// Never 0 while something is left.
/// How a proxy failed, with the status of its own answer.
fn described(failed: FailedKind) -> String {
    let word = failed.as_str();
    if let FailedKind::ProxyStatus(status) = failed { format!("{word} {status}") } else { word.to_owned() }
}

fn whole_seconds(left: Duration) -> u64 {
    left.as_secs() + u64::from(left.subsec_nanos() > 0)
}
