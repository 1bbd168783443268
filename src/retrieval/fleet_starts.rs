//! Equal starts are one for all gateways (0020): a start is put where all find it, and one that is on its way elsewhere is followed.
//! Without the engine, a start is sent as if nothing were shared.

use std::time::Duration;

use super::Retrieval;
use super::answer::{Cause, NoAnswer};
use super::fetch::FleetLead;
use super::flights::Leader;
use crate::journal::{Attempt, FoundStart, KeptStart};
use crate::shared::{
    Claimed, EngineError, ExportFate, FlightClaim, FlightPlace, NewStart, StartSeen, export_name,
};
use crate::upstream::UpstreamErrorKind;

/// Most calls that put a start where others find it.
const PUTS: u32 = 3;

/// The key of a start, and what all gateways know of it.
#[derive(Debug, Clone, Copy)]
pub(super) struct StartKey {
    pub(super) key: [u8; 32],
    /// The number of purges before it is sent; `None` if it is not put for others.
    pub(super) purges: Option<i64>,
}

/// The outcome of a look at the other gateways' starts.
pub(super) enum StartElsewhere {
    Found(FoundStart),
    /// Nobody waits any more.
    Left(NoAnswer),
    /// It is to be sent; with a lead, for all gateways.
    Send(StartKey, Option<FleetLead>),
}

impl Retrieval {
    /// The newest equal start of all gateways, at most `max_age` old, `here` among them: the one on record here. One whose
    /// export another gateway has seen fail is none.
    pub(super) async fn newest_of_fleet(
        &self,
        key: [u8; 32],
        scope: &str,
        here: Option<FoundStart>,
        max_age: Duration,
    ) -> Option<FoundStart> {
        let Some(shared) = &self.fleet else { return here };
        let Ok(mut seen) = shared.find_start(&place(&key), max_age).await else { return here };
        let failed = seen.failed.take();
        let here = here.filter(|found| failed != Some(export_name(scope, &found.export_id)));
        here.into_iter().chain(self.found(key, seen)).max_by_key(|found| found.made)
    }

    fn found(&self, key: [u8; 32], seen: StartSeen) -> Option<FoundStart> {
        let (value, age) = seen.start?;
        FoundStart::of_bytes(key, &value, self.clock.now().wall.checked_sub(age)?)
    }

    /// Looks for an equal start of another gateway, at most `max_age` old, or waits for one that is on its way there. Where it is
    /// zero, the start is sent alone.
    pub(super) async fn look_for_start<T>(
        &self,
        key: [u8; 32],
        max_age: Duration,
        leader: &mut Leader<T>,
    ) -> StartElsewhere {
        let alone = |purges| StartElsewhere::Send(StartKey { key, purges }, None);
        let Some(shared) = &self.fleet else { return alone(None) };
        let place = place(&key);
        let Ok(seen) = shared.find_start(&place, max_age).await else { return alone(None) };
        let purges = Some(seen.purges);
        if max_age.is_zero() {
            return alone(purges);
        }
        if let Some(found) = self.found(key, seen) {
            return StartElsewhere::Found(found);
        }
        let mut landings = shared.landings();
        loop {
            match shared.claim(&place, FlightClaim { follows: true, ..FlightClaim::default() }).await {
                Some(Claimed::Wait(_)) => tokio::select! {
                    () = landings.next(&place) => {}
                    () = leader.given_up() => return StartElsewhere::Left(Cause::Abandoned.into()),
                    () = self.shutdown.over() => {
                        return StartElsewhere::Left(Cause::Upstream(UpstreamErrorKind::Stopped).into());
                    }
                },
                Some(Claimed::Lead(lead)) => {
                    let lead = FleetLead::new(shared, lead, &self.shutdown);
                    // One may have landed before the claim.
                    let Ok(seen) = shared.find_start(&place, max_age).await else {
                        return StartElsewhere::Send(StartKey { key, purges }, Some(lead));
                    };
                    let start = StartKey { key, purges: Some(seen.purges) };
                    let Some(found) = self.found(key, seen) else {
                        return StartElsewhere::Send(start, Some(lead));
                    };
                    lead.leave().await;
                    return StartElsewhere::Found(found);
                }
                _ => return alone(purges),
            }
        }
    }

    /// Puts a start that is on record where other gateways find it.
    pub(super) async fn put_start(&self, start: StartKey, found: &FoundStart, attempt: &StartOnRecord) {
        let (Some(shared), Some(purges)) = (&self.fleet, start.purges) else { return };
        let StartOnRecord { scope, version } = attempt;
        let age = self.clock.now().wall.duration_since(found.made).unwrap_or_default();
        let (export, value) = (found.export_id.as_str(), found.to_bytes());
        let new = NewStart { scope, export, version, value: &value, age, purges };
        // One that is not there is sent again by those who wait for it.
        for _ in 0..PUTS {
            if shared.put_start(&place(&start.key), new).await != Err(EngineError::Timeout) {
                break;
            }
        }
    }

    /// Tells the other gateways what an attempt shows of its export: a start whose export has failed answers nobody.
    pub(super) async fn note_fate(&self, attempt: &Attempt) {
        let Some(shared) = self.fleet.as_ref().filter(|_| self.shares_starts()) else { return };
        let (Some(scope), Some(export), None) = (&attempt.scope_id, &attempt.export_id, &attempt.kept) else {
            return;
        };
        let fate = match attempt.export_status.as_deref() {
            _ if attempt.status == Some(404) => {
                ExportFate::Unknown(attempt.version_requested.as_deref().unwrap_or_default())
            }
            Some("ERRORED" | "ERROR") => ExportFate::Failed,
            Some("FINISHED") => ExportFate::Finished,
            _ => return,
        };
        let _ = shared.note_fate(scope, export, fate).await;
    }
}

/// The question of a start, as far as others need it.
#[derive(Debug, Clone)]
pub(super) struct StartOnRecord {
    scope: String,
    version: String,
}

/// The start that an attempt is, if it is kept.
pub(super) fn start_made(attempt: &Attempt) -> Option<(FoundStart, StartOnRecord)> {
    let kept: &KeptStart = attempt.kept.as_deref()?;
    let found = FoundStart {
        attempt: attempt.id,
        made: attempt.started + attempt.latency,
        export_id: attempt.export_id.clone()?,
        kept: kept.clone(),
        is_elsewhere: false,
    };
    let version = attempt.version_requested.clone().unwrap_or_default();
    Some((found, StartOnRecord { scope: attempt.scope_id.clone()?, version }))
}

fn place(key: &[u8; 32]) -> FlightPlace {
    FlightPlace::of_start(&format!("{key:02x?}"))
}
