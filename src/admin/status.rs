//! The status report: for the page, `exportgate status` and whoever else asks.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::report::{
    BackoffReport, BreakerReport, BudgetReport, CacheReport, ConnectionsReport, CountsReport,
    CredentialReport, DownloadReport, DownloadsReport, DriftReport, JournalReport, LaneReport, PartReport,
    PointReport, QueueReport, ReloadFailure, ReloadReport, Report, SharedReport, SlotReport, StartsReport,
    TrafficReport, WindowReport,
};
use super::{Admin, lock, time};
use crate::admission::{Api, Lane, LaneStatus};
use crate::circuit::Phase;
use crate::credential::{self, Credential};
use crate::telemetry::history::STEP;
use crate::telemetry::metrics::{RequestOutcome, Totals};

/// Most downloads that are listed.
const MOST_DOWNLOADS: usize = 50;

impl Admin {
    pub(super) fn status(&self) -> Report {
        let now = self.now();
        let parts = self.parts();
        Report {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            state: self.readiness(&parts).as_str().to_owned(),
            started: time(self.started.wall),
            now: time(now.wall),
            uptime_s: now.mono.saturating_duration_since(self.started.mono).as_secs(),
            upstream: self.views.parts.upstream.root().to_string(),
            totals: counts(&self.views.parts.metrics.totals()),
            traffic: self.traffic(),
            cache: self.cache_report(),
            queue: self.queue_report(),
            downloads: self.downloads(),
            named: self.named(),
            budget: self.budget(),
            shared: self.shared_report(),
            journal: self.journal_report(),
            connections: ConnectionsReport {
                open: self.views.clients.open.load(Ordering::Relaxed),
                max: self.views.clients.max.load(Ordering::Relaxed),
            },
            drift: self.drift(),
            reload: ReloadReport { failing: self.reload_failure() },
            parts: {
                let since = lock(&self.history_of_health).note(&parts, now.wall);
                let part = |(part, since): (super::health::Part, _)| PartReport {
                    state: part.state.as_str().to_owned(),
                    since: time(since),
                    name: part.name,
                    detail: part.detail,
                };
                parts.into_iter().zip(since).map(part).collect()
            },
        }
    }

    fn queue_report(&self) -> QueueReport {
        let (waits, pollers) = self.views.retrieval.waits();
        QueueReport {
            waiting: self.views.parts.admission.waiting(),
            followers: self.views.retrieval.waiting(),
            waits,
            pollers,
        }
    }

    fn downloads(&self) -> DownloadsReport {
        let running = self.views.downloads.running();
        let oldest = running.iter().take(MOST_DOWNLOADS).map(|download| DownloadReport {
            request_id: download.request.to_string(),
            client: download.holder.client.to_string(),
            scope_kind: download.call.scope.kind.as_str().to_owned(),
            scope_id: download.call.scope.id.as_str().to_owned(),
            export_id: download.call.export.as_str().to_owned(),
            file: download.call.target.to_string(),
            bytes: download.sent(),
            since: time(download.started.wall),
        });
        DownloadsReport { running: running.len(), oldest: oldest.collect() }
    }

    fn traffic(&self) -> TrafficReport {
        self.sample();
        let history = lock(&self.traffic);
        let points = history.points().map(|point| PointReport {
            at: time(point.at),
            counts: counts(&point.counts),
            upstream: point.counts.attempts,
            upstream_errors: point.counts.failed,
        });
        TrafficReport { step_s: STEP.as_secs(), points: points.collect() }
    }

    fn cache_report(&self) -> CacheReport {
        let (entries, bytes) = self.views.retrieval.cache().size();
        CacheReport { entries, bytes, max_bytes: self.views.retrieval.cache().max_bytes() }
    }

    fn shared_report(&self) -> Option<SharedReport> {
        let shared = self.views.shared.as_ref()?;
        let status = shared.status();
        Some(SharedReport {
            engine: shared.address(),
            state: status.state.as_str().to_owned(),
            shut_for_s: whole_seconds(status.shut_for),
            place: status.place,
            members: status.members,
            gateways: status.gateways,
            has_own_part: status.has_own_part(),
            granted: status.granted,
            has_answers: status.has_answers,
            taken: status.entries_taken + status.answers_taken,
        })
    }

    fn journal_report(&self) -> JournalReport {
        let journal = &self.views.parts.journal;
        JournalReport {
            failing: journal.is_failing(),
            written: journal.written(),
            dropped: journal.dropped(),
            queued: journal.queued(),
            log_bytes: journal.log_bytes(),
        }
    }

    fn drift(&self) -> Vec<DriftReport> {
        let seen = self.views.parts.metrics.drift().signs().into_iter().map(|seen| DriftReport {
            kind: seen.kind.as_str().to_owned(),
            count: seen.count,
            last: time(seen.last),
            detail: seen.detail,
        });
        seen.collect()
    }

    fn reload_failure(&self) -> Option<ReloadFailure> {
        let now = self.now();
        let watched = lock(&self.views.watched);
        watched.iter().find_map(|files| {
            let (since, why) = files.failing()?;
            let since = now.wall - now.mono.saturating_duration_since(since);
            Some(ReloadFailure { since: time(since), detail: format!("{}: {why}", files.what) })
        })
    }

    pub(super) fn budget(&self) -> BudgetReport {
        let credentials = self.views.credentials.all();
        let admission = &self.views.parts.admission;
        let (circuit, exports) = (admission.circuit(), admission.open_exports());
        BudgetReport {
            credentials: credentials.iter().map(|credential| self.credential(credential)).collect(),
            breaker: BreakerReport {
                state: circuit.phase.as_str().to_owned(),
                seconds_left: whole_seconds(circuit.left),
                exports,
            },
        }
    }

    fn credential(&self, credential: &Credential) -> CredentialReport {
        let queues = self.views.parts.admission.queues();
        let standing = |api| {
            let lane = Lane { credential: Arc::clone(&credential.name), api };
            queues.get(&lane).map(|queue| queue.standing())
        };
        CredentialReport {
            name: credential.name.to_string(),
            rest: standing(Api::Rest).as_ref().map(lane).unwrap_or_default(),
            v1: standing(Api::V1).filter(LaneStatus::is_used).as_ref().map(lane),
            slots: credential.status(self.now()).iter().map(slot).collect(),
        }
    }
}

fn slot(slot: &credential::SlotStatus) -> SlotReport {
    SlotReport {
        name: slot.slot.to_owned(),
        state: slot.state.to_owned(),
        age_s: slot.age.map(|age| age.as_secs()),
        expires_in_s: slot.expires_in.map(|left| left.as_secs()),
        refused_scopes: slot.refused_scopes,
    }
}

fn lane(standing: &LaneStatus) -> LaneReport {
    let window = |&(length, limit, used): &(Duration, u32, u32)| WindowReport {
        seconds: length.as_secs(),
        limit,
        used,
    };
    let starts = |(scope, left): &(Arc<str>, Duration)| StartsReport {
        scope: scope.to_string(),
        seconds_left: whole_seconds(*left),
    };
    let state = match standing.backoff.phase {
        Phase::Closed => "none",
        Phase::Open => "paused",
        Phase::HalfOpen => "probing",
        Phase::Ramp => "ramp",
    };
    LaneReport {
        waiting: standing.waiting,
        running: standing.running,
        windows: standing.windows.iter().map(window).collect(),
        backoff: BackoffReport {
            state: state.to_owned(),
            seconds_left: whole_seconds(standing.backoff.left),
        },
        paused_starts: standing.paused_starts.iter().map(starts).collect(),
    }
}

fn counts(totals: &Totals) -> CountsReport {
    let of = |served: RequestOutcome| totals.served[served as usize];
    CountsReport {
        hit: of(RequestOutcome::Hit),
        stale: of(RequestOutcome::Stale),
        miss: of(RequestOutcome::Miss),
        collapsed: of(RequestOutcome::Collapsed),
        waited: of(RequestOutcome::Waited),
        uncached: of(RequestOutcome::Uncached),
        denied: of(RequestOutcome::Denied),
        failed: of(RequestOutcome::Failed),
        client_left: of(RequestOutcome::ClientLeft),
    }
}

/// Never 0 while something is left.
pub(super) fn whole_seconds(left: Duration) -> u64 {
    left.as_secs() + u64::from(left.subsec_nanos() > 0)
}
