//! The circuits of the host, of each org or group, and of each export (pure; takes `now`).
//!
//! A host that cannot be reached is down for everybody. An answer that breaks off, hangs, or comes from an edge speaks
//! for its export alone, for another one may be sound: so each export has a circuit of its own. A scope's circuit opens by
//! such failures where at least two of its exports fail and none was answered well lately; the host's, where that is so of
//! at least two scopes.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::candidate::{AdmissionRefusal, Level, Obstacle};
use crate::circuit::{Circuit, CircuitStatus, ProbeCandidate, ProbeOrder};
use crate::export::{ExportCall, Id, Operation, Scope};

/// `[breaker]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BreakerSettings {
    /// Failed requests in a row that open a circuit.
    pub failures: u32,
    /// Time for which a circuit is open before a probe.
    pub pause: Duration,
}

/// A good answer shows for so long that the host is there.
const ALIVE: Duration = Duration::from_mins(1);
/// Most resources that are remembered.
const RESOURCES: usize = 10_000;

/// One thing at Snyk that requests are about.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Resource {
    /// Its org or group.
    pub scope: Scope,
    /// The export; `None` stands for the scope's starts.
    pub export: Option<Id>,
}

impl From<&ExportCall> for Resource {
    fn from(call: &ExportCall) -> Self {
        let export = match &call.operation {
            Operation::Start => None,
            Operation::JobStatus(id) | Operation::Results(id) => Some(id.clone()),
        };
        Self { scope: call.scope.clone(), export }
    }
}

/// The end of a request, as it speaks for host and resource.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Evidence {
    /// An answer of Snyk's own, whatever its status.
    Answered,
    /// No connection: no address, refused, no route, no TLS.
    Unreachable,
    /// A connection, but no answer of Snyk's: open, too late, or made by an edge.
    Broken,
    /// Neither: it was ended by us.
    #[default]
    None,
}

/// The circuits that a request passed as their probe.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Probes {
    host: bool,
    scope: bool,
    export: bool,
}

impl Probes {
    /// True if it is any circuit's probe.
    pub(super) const fn is_any(self) -> bool {
        self.host || self.scope || self.export
    }
}

/// The change that the end of a request made to the circuits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum CircuitChange {
    /// Nothing.
    None,
    /// The host's opened.
    Opened,
    /// The host's closed.
    Closed,
    /// The scope's opened.
    ScopeOpened,
    /// The export's opened.
    ExportOpened,
    /// The scope's or the export's closed.
    PartClosed,
}

/// A circuit of many exports.
#[derive(Debug, Default)]
struct SharedCircuit {
    circuit: Circuit,
    order: ProbeOrder,
}

impl SharedCircuit {
    /// Lets a request pass, or says how long it must wait.
    fn check(&self, candidate: ProbeCandidate<'_>, pause: Duration, now: Instant) -> Result<(), Duration> {
        let due = self.circuit.probe_due_for(now);
        if due.is_some_and(|due| self.order.is_left_to_others(candidate, due, pause)) {
            return Err(pause);
        }
        wait(&self.circuit, now)
    }

    /// Counts a request that passes. `true` for the probe.
    fn pass(&mut self, client: &Arc<str>, now: Instant) -> bool {
        let is_probe = self.circuit.pass(now);
        if is_probe {
            self.order.probed(client);
        }
        is_probe
    }

    /// Opens it. `true` where it was closed.
    fn open(&mut self, pause: Duration, now: Instant) -> bool {
        let was_closed = self.circuit.is_closed();
        self.circuit.open(pause, now);
        self.order.opened();
        was_closed
    }
}

fn wait(circuit: &Circuit, now: Instant) -> Result<(), Duration> {
    let wait = circuit.free_at(now).saturating_duration_since(now);
    if wait.is_zero() { Ok(()) } else { Err(wait) }
}

/// One export, or the starts of one scope.
#[derive(Debug, Default)]
struct ResourceHealth {
    circuit: Circuit,
    /// Failed requests since the last good one.
    failures: u32,
    /// The end of its last request.
    last: Option<Instant>,
}

impl ResourceHealth {
    fn is_recent(&self, now: Instant) -> bool {
        self.last.is_some_and(|last| now.saturating_duration_since(last) < ALIVE)
    }
}

/// The circuits of one upstream.
#[derive(Debug)]
pub(super) struct Circuits {
    settings: BreakerSettings,
    whole: SharedCircuit,
    /// Requests in a row that found no connection.
    unreachable: u32,
    /// Those that are not closed.
    scopes: HashMap<Scope, SharedCircuit>,
    resources: HashMap<Resource, ResourceHealth>,
}

impl Circuits {
    /// All circuits are closed.
    pub(super) fn new(settings: BreakerSettings) -> Self {
        Self {
            settings,
            whole: SharedCircuit::default(),
            unreachable: 0,
            scopes: HashMap::new(),
            resources: HashMap::new(),
        }
    }

    /// Goes by other settings from now on.
    pub(super) fn set(&mut self, settings: BreakerSettings) {
        self.settings = settings;
    }

    /// Checks a request of `client` about `resource` at `now`.
    ///
    /// # Errors
    /// The circuit that stands in its way.
    pub(super) fn check(
        &self,
        resource: Option<&Resource>,
        client: &Arc<str>,
        now: Instant,
    ) -> Result<(), AdmissionRefusal> {
        let health = resource.and_then(|resource| self.resources.get(resource));
        let candidate = self.candidate(resource, client);
        let shared = |shared: &SharedCircuit| shared.check(candidate, self.settings.pause, now);
        let of =
            |level| move |retry_after| AdmissionRefusal { obstacle: Obstacle::Circuit(level), retry_after };
        shared(&self.whole).map_err(of(Level::Host))?;
        let scope = resource.and_then(|resource| self.scopes.get(&resource.scope));
        scope.map_or(Ok(()), shared).map_err(of(Level::Scope))?;
        health.map_or(Ok(()), |health| wait(&health.circuit, now)).map_err(of(Level::Export))
    }

    /// Notes that `refusal` kept a request of `client` about `resource` from being sent.
    pub(super) fn refused(
        &mut self,
        resource: Option<&Resource>,
        client: &Arc<str>,
        refusal: AdmissionRefusal,
    ) {
        let candidate = self.candidate(resource, client);
        if refusal.obstacle == Obstacle::Circuit(Level::Host) {
            self.whole.order.refused(candidate);
        } else if refusal.obstacle == Obstacle::Circuit(Level::Scope)
            && let Some(scope) = resource.and_then(|resource| self.scopes.get_mut(&resource.scope))
        {
            scope.order.refused(candidate);
        }
    }

    fn candidate<'a>(&self, resource: Option<&Resource>, client: &'a Arc<str>) -> ProbeCandidate<'a> {
        let health = resource.and_then(|resource| self.resources.get(resource));
        ProbeCandidate { client, is_failing: health.is_some_and(|health| health.failures > 0) }
    }

    /// Counts a request of `client` that is sent at `now`.
    pub(super) fn sent(&mut self, resource: Option<&Resource>, client: &Arc<str>, now: Instant) -> Probes {
        let scope = resource.and_then(|resource| self.scopes.get_mut(&resource.scope));
        let health = resource.and_then(|resource| self.resources.get_mut(resource));
        Probes {
            host: self.whole.pass(client, now),
            scope: scope.is_some_and(|scope| scope.pass(client, now)),
            export: health.is_some_and(|health| health.circuit.pass(now)),
        }
    }

    /// A request ended that was `probes`. A try that is made again says nothing yet: it is ended with `Evidence::None`.
    pub(super) fn ended(
        &mut self,
        resource: Option<&Resource>,
        probes: Probes,
        evidence: Evidence,
        now: Instant,
    ) -> CircuitChange {
        match evidence {
            Evidence::Answered => self.answered(resource, probes, now),
            Evidence::Unreachable => {
                self.unreachable += 1;
                self.lose(resource, Probes { host: false, ..probes }, now);
                if probes.host || self.unreachable >= self.settings.failures {
                    return self.open(now);
                }
                CircuitChange::None
            }
            Evidence::Broken => {
                self.unreachable = 0;
                let change =
                    resource.map_or(CircuitChange::None, |resource| self.broke(resource, probes, now));
                let is_down = probes.host || self.is_down(now);
                if is_down { self.open(now) } else { change }
            }
            Evidence::None => {
                self.lose(resource, probes, now);
                CircuitChange::None
            }
        }
    }

    /// The state of the host's circuit at `now`.
    pub(super) fn standing(&self, now: Instant) -> CircuitStatus {
        self.whole.circuit.standing(now)
    }

    /// Number of exports whose circuit is not closed.
    pub(super) fn broken_exports(&self) -> usize {
        let is_broken = |(resource, health): &(&Resource, &ResourceHealth)| {
            !health.circuit.is_closed() || health.failures > 0 && self.scopes.contains_key(&resource.scope)
        };
        self.resources.iter().filter(is_broken).count()
    }

    fn answered(&mut self, resource: Option<&Resource>, probes: Probes, now: Instant) -> CircuitChange {
        self.unreachable = 0;
        if probes.host {
            // What failed while the host was down says nothing of the parts.
            self.scopes.clear();
            self.resources.clear();
        }
        let mut change = CircuitChange::None;
        if let Some(resource) = resource {
            if let Some(health) = self.health(resource, now) {
                (health.failures, health.last) = (0, Some(now));
                // One that was on its way when the circuit opened shows nothing.
                if probes.export {
                    health.circuit.close(None, now);
                    change = CircuitChange::PartClosed;
                }
            }
            if probes.scope {
                self.scopes.remove(&resource.scope);
                change = CircuitChange::PartClosed;
            }
        }
        if probes.host {
            self.whole.circuit.close(None, now);
            return CircuitChange::Closed;
        }
        change
    }

    /// Counts a failure against `resource` and its scope.
    fn broke(&mut self, resource: &Resource, probes: Probes, now: Instant) -> CircuitChange {
        let BreakerSettings { failures, pause } = self.settings;
        let Some(health) = self.health(resource, now) else { return CircuitChange::None };
        health.last = Some(now);
        health.failures += 1;
        let was_closed = health.circuit.is_closed();
        let opens = health.failures >= failures;
        if opens {
            health.circuit.open(pause, now);
        }
        if probes.scope || self.fails_together(now, |one| one.scope == resource.scope, |one| one) {
            let is_new = self.scopes.entry(resource.scope.clone()).or_default().open(pause, now);
            return if is_new { CircuitChange::ScopeOpened } else { CircuitChange::None };
        }
        if opens && was_closed { CircuitChange::ExportOpened } else { CircuitChange::None }
    }

    /// The probes have no result.
    fn lose(&mut self, resource: Option<&Resource>, probes: Probes, now: Instant) {
        if probes.host {
            self.whole.circuit.lose_probe(now);
        }
        let Some(resource) = resource else { return };
        if let Some(scope) = self.scopes.get_mut(&resource.scope).filter(|_| probes.scope) {
            scope.circuit.lose_probe(now);
        }
        if let Some(health) = self.resources.get_mut(resource).filter(|_| probes.export) {
            health.circuit.lose_probe(now);
        }
    }

    fn is_down(&self, now: Instant) -> bool {
        self.fails_together(now, |_| true, |resource| &resource.scope)
    }

    /// True if those resources that are `among` show trouble that is larger than one of them: their failures are many,
    /// in at least two parts, and none was answered well lately.
    fn fails_together<P: Eq + std::hash::Hash>(
        &self,
        now: Instant,
        among: impl Fn(&Resource) -> bool,
        part: impl Fn(&Resource) -> &P,
    ) -> bool {
        let mut parts = HashSet::new();
        let mut failures = 0_u32;
        for (resource, health) in &self.resources {
            if !health.is_recent(now) || !among(resource) {
                continue;
            }
            if health.failures == 0 {
                return false;
            }
            failures = failures.saturating_add(health.failures);
            parts.insert(part(resource));
        }
        parts.len() >= 2 && failures >= self.settings.failures
    }

    fn open(&mut self, now: Instant) -> CircuitChange {
        if self.whole.open(self.settings.pause, now) { CircuitChange::Opened } else { CircuitChange::None }
    }

    /// The health of `resource`; `None` if too many are remembered already.
    fn health(&mut self, resource: &Resource, now: Instant) -> Option<&mut ResourceHealth> {
        if self.resources.len() >= RESOURCES && !self.resources.contains_key(resource) {
            self.resources.retain(|_, health| health.is_recent(now));
            if self.resources.len() >= RESOURCES {
                return None;
            }
        }
        Some(self.resources.entry(resource.clone()).or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::export::ScopeKind;

    const SETTINGS: BreakerSettings = BreakerSettings { failures: 3, pause: Duration::from_secs(5) };

    fn resource(scope: &str, export: &str) -> Resource {
        let id = |text| Id::parse(text).expect("an id");
        Resource { scope: Scope { kind: ScopeKind::Org, id: id(scope) }, export: Some(id(export)) }
    }

    /// Sends a request about `resource`, if that may be, and ends it.
    fn ask(
        host: &mut Circuits,
        resource: &Resource,
        evidence: Evidence,
        now: Instant,
    ) -> Result<CircuitChange, AdmissionRefusal> {
        ask_as("one", host, resource, evidence, now)
    }

    fn ask_as(
        client: &str,
        host: &mut Circuits,
        resource: &Resource,
        evidence: Evidence,
        now: Instant,
    ) -> Result<CircuitChange, AdmissionRefusal> {
        let (resource, client) = (Some(resource), &client.into());
        host.check(resource, client, now).inspect_err(|open| host.refused(resource, client, *open))?;
        let probes = host.sent(resource, client, now);
        let resource = resource.expect("given");
        Ok(host.ended(Some(resource), probes, evidence, now))
    }

    fn at(begin: Instant, seconds: u64) -> Instant {
        begin + Duration::from_secs(seconds)
    }

    #[test]
    fn one_bad_export_opens_its_own_circuit_and_no_other() {
        let (mut host, now) = (Circuits::new(SETTINGS), Instant::now());
        let (bad, good) = (resource("a", "bad"), resource("a", "good"));
        for _ in 0..2 {
            assert_eq!(ask(&mut host, &bad, Evidence::Broken, now), Ok(CircuitChange::None));
        }
        assert_eq!(ask(&mut host, &bad, Evidence::Broken, now), Ok(CircuitChange::ExportOpened));
        let open =
            AdmissionRefusal { obstacle: Obstacle::Circuit(Level::Export), retry_after: SETTINGS.pause };
        assert_eq!(ask(&mut host, &bad, Evidence::Broken, now), Err(open));
        assert_eq!(ask(&mut host, &good, Evidence::Answered, now), Ok(CircuitChange::None));
        // One request a pause, until it is good again.
        for pause in 1..5 {
            let now = at(now, 5 * pause);
            assert_eq!(ask(&mut host, &bad, Evidence::Broken, now), Ok(CircuitChange::None));
            assert!(ask(&mut host, &bad, Evidence::Broken, now).is_err());
        }
        assert_eq!(ask(&mut host, &bad, Evidence::Answered, at(now, 25)), Ok(CircuitChange::PartClosed));
        assert_eq!(ask(&mut host, &bad, Evidence::Answered, at(now, 25)), Ok(CircuitChange::None));
    }

    #[test]
    fn exports_of_one_org_that_fail_together_open_its_circuit_and_no_other() {
        let (mut host, now) = (Circuits::new(SETTINGS), Instant::now());
        let [a, b, c, other] = [("a", "1"), ("a", "2"), ("a", "3"), ("b", "1")].map(|(s, e)| resource(s, e));
        assert_eq!(ask(&mut host, &a, Evidence::Broken, now), Ok(CircuitChange::None));
        assert_eq!(ask(&mut host, &b, Evidence::Broken, now), Ok(CircuitChange::None));
        assert_eq!(ask(&mut host, &b, Evidence::Broken, now), Ok(CircuitChange::ScopeOpened));
        assert!(
            ask(&mut host, &c, Evidence::Answered, now)
                .is_err_and(|open| open.obstacle == Obstacle::Circuit(Level::Scope))
        );
        assert_eq!(ask(&mut host, &other, Evidence::Answered, now), Ok(CircuitChange::None));
        // One request a pause, and one that did not fail first.
        assert!(ask(&mut host, &a, Evidence::Broken, at(now, 5)).is_err());
        assert_eq!(ask(&mut host, &c, Evidence::Answered, at(now, 5)), Ok(CircuitChange::PartClosed));
        assert_eq!(ask(&mut host, &a, Evidence::Broken, at(now, 5)), Ok(CircuitChange::None));
    }

    #[test]
    fn a_host_that_is_not_reached_is_down_for_everybody() {
        let (mut host, now) = (Circuits::new(SETTINGS), Instant::now());
        let (a, b) = (resource("a", "e"), resource("b", "e"));
        let changes = [(); 3].map(|()| ask(&mut host, &a, Evidence::Unreachable, now));
        assert_eq!(changes, [Ok(CircuitChange::None), Ok(CircuitChange::None), Ok(CircuitChange::Opened)]);
        assert!(
            ask(&mut host, &b, Evidence::Answered, now)
                .is_err_and(|open| open.obstacle == Obstacle::Circuit(Level::Host))
        );
        // One request a pause.
        assert_eq!(ask(&mut host, &a, Evidence::Unreachable, at(now, 5)), Ok(CircuitChange::None));
        assert!(ask(&mut host, &a, Evidence::Unreachable, at(now, 5)).is_err());
        assert_eq!(ask(&mut host, &a, Evidence::Answered, at(now, 10)), Ok(CircuitChange::Closed));
        assert_eq!(ask(&mut host, &b, Evidence::Answered, at(now, 10)), Ok(CircuitChange::None));
    }

    #[test]
    fn broken_answers_of_two_scopes_show_a_host_that_is_down_unless_another_is_answered() {
        let (a, b, good) = (resource("a", "e"), resource("b", "e"), resource("c", "e"));
        let now = Instant::now();
        for is_alive in [false, true] {
            let mut host = Circuits::new(SETTINGS);
            if is_alive {
                assert_eq!(ask(&mut host, &good, Evidence::Answered, now), Ok(CircuitChange::None));
            }
            assert_eq!(ask(&mut host, &a, Evidence::Broken, now), Ok(CircuitChange::None));
            assert_eq!(ask(&mut host, &a, Evidence::Broken, now), Ok(CircuitChange::None));
            let expected = if is_alive { CircuitChange::None } else { CircuitChange::Opened };
            assert_eq!(ask(&mut host, &b, Evidence::Broken, now), Ok(expected));
        }
    }

    #[test]
    fn a_probe_is_not_spent_on_what_just_failed_unless_nothing_else_asks() {
        let (a, b, good) = (resource("a", "e"), resource("b", "e"), resource("c", "e"));
        let (mut host, now) = (Circuits::new(BreakerSettings { failures: 2, ..SETTINGS }), Instant::now());
        let changes = [&a, &b].map(|one| ask(&mut host, one, Evidence::Broken, now));
        assert_eq!(changes, [Ok(CircuitChange::None), Ok(CircuitChange::Opened)]);
        // Nobody else asks: the next of them is the probe.
        assert_eq!(ask(&mut host, &a, Evidence::Broken, at(now, 5)), Ok(CircuitChange::None));
        // Somebody else asks: the probe is theirs, whoever comes first.
        assert!(ask(&mut host, &good, Evidence::Answered, at(now, 6)).is_err());
        assert!(ask(&mut host, &b, Evidence::Broken, at(now, 10)).is_err());
        assert_eq!(ask(&mut host, &good, Evidence::Answered, at(now, 10)), Ok(CircuitChange::Closed));
        // And where they do not come again, it is anybody's after 15 s: longer than the 10 s at which clients poll.
        let mut other = Circuits::new(SETTINGS);
        assert_eq!(ask(&mut other, &a, Evidence::Broken, now), Ok(CircuitChange::None));
        assert_eq!(other.open(now), CircuitChange::Opened);
        assert!(ask(&mut other, &good, Evidence::Answered, now).is_err());
        assert!(ask(&mut other, &a, Evidence::Broken, at(now, 5)).is_err());
        assert!(ask(&mut other, &a, Evidence::Broken, at(now, 19)).is_err());
        assert!(ask(&mut other, &a, Evidence::Broken, at(now, 20)).is_ok());
    }

    #[test]
    fn clients_whose_exports_fail_do_not_take_all_probes() {
        let (mut host, now) = (Circuits::new(SETTINGS), Instant::now());
        assert_eq!(host.open(now), CircuitChange::Opened);
        let good = resource("c", "e");
        // Two of them ask for other exports each second, a third client polls its own every 10 s.
        for second in 1.. {
            assert!(second < 60, "no probe for the third");
            for bad in ["one", "two"] {
                let other = resource(&format!("{bad}-{second}"), "e");
                let _ = ask_as(bad, &mut host, &other, Evidence::Broken, at(now, second));
            }
            let polls = second % 10 == 7;
            if polls && ask_as("three", &mut host, &good, Evidence::Answered, at(now, second)).is_ok() {
                break;
            }
        }
        assert_eq!(ask_as("one", &mut host, &good, Evidence::Answered, at(now, 60)), Ok(CircuitChange::None));
    }

    #[test]
    fn a_probe_without_a_result_is_followed_by_another() {
        let (mut host, now) = (Circuits::new(SETTINGS), Instant::now());
        let a = resource("a", "e");
        for _ in 0..3 {
            let _ = ask(&mut host, &a, Evidence::Unreachable, now);
        }
        assert_eq!(ask(&mut host, &a, Evidence::None, at(now, 5)), Ok(CircuitChange::None));
        assert_eq!(ask(&mut host, &a, Evidence::Answered, at(now, 5)), Ok(CircuitChange::Closed));
    }
}
