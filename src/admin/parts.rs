//! The parts of the gateway, each with its state and the reason.

use super::health::{Part, PartState, Readiness};
use super::status::whole_seconds;
use super::{Admin, lock};
use crate::circuit::Phase;
use crate::credential;
use crate::expiry::{Expiring, Kind, date};
use crate::shared::{EngineState, SharedStatus};
use crate::upstream::UpstreamErrorKind;

/// Most warnings in the detail of one part.
const MOST_WARNINGS: usize = 5;

impl Part {
    fn new(name: &str, state: PartState, detail: impl Into<String>) -> Self {
        Self { name: name.to_owned(), state, detail: detail.into(), is_needed: false }
    }

    fn needed(self, is_needed: bool) -> Self {
        Self { is_needed, ..self }
    }
}

impl Admin {
    pub(super) fn readiness(&self, parts: &[Part]) -> Readiness {
        Readiness::of(parts, self.views.parts.shutdown.is_announced())
    }

    /// The state of every part now.
    pub(super) fn parts(&self) -> Vec<Part> {
        let mut parts = vec![self.configuration()];
        parts.extend(self.credentials());
        parts.extend([self.listeners(), self.journal(), self.upstream()]);
        parts.extend(self.shipping());
        parts.extend(self.shared_engine());
        parts.extend(self.certificates());
        parts.extend(self.client_keys());
        parts
    }

    fn configuration(&self) -> Part {
        let watched = lock(&self.views.watched);
        let failure = watched.iter().find_map(|files| {
            let (_, why) = files.failing()?;
            Some(format!("{}: the last good one is in force; {why}", files.what))
        });
        let in_force = self.in_force.load();
        let waiting = Some(&in_force.waiting).filter(|keys| !keys.is_empty());
        let waiting = || Some(format!("take effect after a restart only: {}", waiting?.join(", ")));
        match failure.or_else(waiting) {
            Some(detail) => Part::new("configuration", PartState::Degraded, detail),
            None => Part::new("configuration", PartState::Ok, "in force as last read"),
        }
        .needed(true)
    }

    /// One part for each credential. The gateway is not ready before one of them has its first value.
    fn credentials(&self) -> Vec<Part> {
        let now = self.now();
        let credentials = self.views.credentials.all();
        let part = |credential: &credential::Credential| {
            let (state, detail) = state_of_slots(&credential.status(now));
            Part::new(&format!("credential {}", credential.name), state, detail)
        };
        let parts: Vec<Part> = credentials.iter().map(|credential| part(credential)).collect();
        let is_needed = parts.iter().all(|part| part.state == PartState::Failing);
        parts.into_iter().map(|part| part.needed(is_needed)).collect()
    }

    fn listeners(&self) -> Part {
        if self.views.parts.shutdown.is_announced() {
            return Part::new("listeners", PartState::Failing, "stopping").needed(true);
        }
        let addresses: Vec<String> = self.views.addresses.iter().map(ToString::to_string).collect();
        Part::new("listeners", PartState::Ok, addresses.join(", ")).needed(true)
    }

    fn journal(&self) -> Part {
        let is_needed = self.in_force.load().refuses;
        let journal = &self.views.parts.journal;
        let (state, detail) = match (journal.is_failing(), is_needed) {
            (false, _) if journal.is_held_open() => {
                let mib = journal.log_bytes() >> 20;
                let detail = format!(
                    "another program keeps a read transaction open: the write-ahead log grows ({mib} MiB)"
                );
                (PartState::Degraded, detail)
            }
            (false, _) => (PartState::Ok, "writing records".to_owned()),
            (true, true) => {
                let detail = "cannot write records; clients get 503: see the log";
                (PartState::Failing, detail.to_owned())
            }
            (true, false) => {
                let queued = journal.queued();
                let detail = format!("cannot write records; {queued} wait in memory: see the log");
                (PartState::Degraded, detail)
            }
        };
        Part::new("journal", state, detail).needed(is_needed)
    }

    /// A part for the database of many gateways. It is never needed: records wait in the file.
    fn shipping(&self) -> Option<Part> {
        let shipping = self.views.parts.journal.shipping()?;
        let status = shipping.status();
        let (database, rows, dropped) = (shipping.database(), status.rows, status.dropped);
        let (state, detail) = match status.failure {
            Some(why) => {
                (PartState::Degraded, format!("{database}: {why}; {rows} records wait in the outbox"))
            }
            None if dropped > 0 => {
                let detail =
                    format!("shipping to the {database}, where {dropped} records are missing: see the log");
                (PartState::Degraded, detail)
            }
            None if status.is_up => (PartState::Ok, format!("shipping to the {database}")),
            None => (PartState::Ok, format!("connecting to the {database}")),
        };
        Some(Part::new("journal in one place", state, detail))
    }

    /// A part for the engine that many machines share. It is never needed: there is the own part of the budget.
    fn shared_engine(&self) -> Option<Part> {
        let status = self.views.shared.as_ref()?.status();
        let SharedStatus { place, members, gateways, .. } = status;
        let why = status.detail.as_deref().unwrap_or_default();
        let (state, detail) = match status.state {
            EngineState::Alone => (
                PartState::Degraded,
                format!("away: {why}; sending with this gateway's own part of the budget alone"),
            ),
            _ if place == 0 => {
                let detail = "other gateways have other values of budget, shared.gateways or shared.own: no own part of the budget here";
                (PartState::Degraded, detail.to_owned())
            }
            _ if place > gateways => {
                let detail = format!(
                    "member {place} of {members}, but shared.gateways is {gateways}: no own part of the budget here"
                );
                (PartState::Degraded, detail)
            }
            EngineState::Shut => {
                let left = whole_seconds(status.shut_for);
                let detail = format!(
                    "member {place} of {members}; the common part of the budget is shut for {left} s"
                );
                (PartState::Degraded, detail)
            }
            EngineState::Up => (PartState::Ok, format!("member {place} of {members}")),
        };
        Some(Part::new("shared engine", state, detail))
    }

    /// A part for certificates and revocation lists, where there are any.
    fn certificates(&self) -> Option<Part> {
        let mut all = self.views.expiry.all();
        all.retain(|one| one.kind != Kind::ClientKeys);
        let ends = all.iter().map(|one| one.ends).min()?;
        let warned = self.expiring_part("certificate", &all);
        Some(warned.unwrap_or_else(|| {
            Part::new("certificate", PartState::Ok, format!("valid until {}", date(ends)))
        }))
    }

    /// A part for the clients whose last key ends soon or has ended.
    fn client_keys(&self) -> Option<Part> {
        let mut all = self.views.expiry.all();
        all.retain(|one| one.kind == Kind::ClientKeys);
        self.expiring_part("clients", &all)
    }

    fn expiring_part(&self, name: &str, all: &[Expiring]) -> Option<Part> {
        let (now, warn_before) = (self.now().wall, self.settings.warn_before);
        let mut warnings: Vec<String> = all.iter().filter_map(|one| one.warning(now, warn_before)).collect();
        let more = warnings.len().saturating_sub(MOST_WARNINGS);
        warnings.truncate(MOST_WARNINGS);
        if more > 0 {
            warnings.push(format!("and {more} more: see the log"));
        }
        (!warnings.is_empty()).then(|| Part::new(name, PartState::Degraded, warnings.join("; ")))
    }

    /// It is never needed: stored responses are served without Snyk.
    fn upstream(&self) -> Part {
        let proxy = self.views.parts.upstream.proxy();
        let proxy_trouble =
            proxy.and_then(|(name, failed)| Some(format!("the proxy {name} fails: {}", described(failed?))));
        let admission = &self.views.parts.admission;
        let (circuit, open_exports) = (admission.circuit(), admission.open_exports());
        let trouble = match circuit.phase {
            Phase::Open => Some(format!("circuit breaker open, {} s left", whole_seconds(circuit.left))),
            Phase::HalfOpen => Some("circuit breaker half open: the next request is a probe".to_owned()),
            Phase::Closed | Phase::Ramp => self.backoff(),
        };
        let trouble: Vec<String> = proxy_trouble.into_iter().chain(trouble).collect();
        if !trouble.is_empty() {
            return Part::new("upstream", PartState::Degraded, trouble.join("; "));
        }
        let way = proxy.map_or_else(String::new, |(name, _)| format!(" through the proxy {name}"));
        let exports = match open_exports {
            0 => String::new(),
            open => format!("; circuit breakers of {open} export(s) are open"),
        };
        Part::new("upstream", PartState::Ok, format!("accepting requests{way}{exports}"))
    }

    /// The first credential that Snyk rate limits (429).
    fn backoff(&self) -> Option<String> {
        self.views.parts.admission.queues().iter().find_map(|(lane, queue)| {
            let backoff = queue.standing().backoff;
            let state = match backoff.phase {
                Phase::Open => format!("requests paused, {} s left", whole_seconds(backoff.left)),
                Phase::HalfOpen => "the next request is a probe".to_owned(),
                Phase::Closed | Phase::Ramp => return None,
            };
            Some(format!("credential {lane}: rate limited by Snyk (429); {state}"))
        })
    }
}

fn state_of_slots(slots: &[credential::SlotStatus]) -> (PartState, String) {
    let Some(slot) = slots.iter().find(|slot| slot.state == "in_use") else {
        // Hits, and the answer that says so, must reach clients still.
        return (PartState::Degraded, "Snyk refuses it (401): replace it".to_owned());
    };
    let (name, scopes) = (slot.slot, slot.refused_scopes);
    if slot.age.is_none() || slot.expires_in.is_some_and(|left| left.is_zero()) {
        (PartState::Failing, "no valid access token".to_owned())
    } else if slots.iter().any(|slot| slot.state == "locked") {
        (PartState::Degraded, format!("{name} slot in use; Snyk refused the other slot (401)"))
    } else if scopes > 0 {
        let detail = format!("{name} slot in use; Snyk refuses it (401) for {scopes} org(s) or group(s)");
        (PartState::Degraded, detail)
    } else {
        (PartState::Ok, format!("{name} slot in use"))
    }
}

/// The failure of a proxy, with the status of its own answer.
fn described(failed: UpstreamErrorKind) -> String {
    let word = failed.as_str();
    if let UpstreamErrorKind::ProxyStatus(status) = failed {
        format!("{word} {status}")
    } else {
        word.to_owned()
    }
}
