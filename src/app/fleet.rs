//! The fleet: carries calls and answers between the queues and the engine that many machines share.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use crate::admission::{
    Admission, CommonAnswer, CommonCall, CommonSettings, EngineNews, Lane, LaneSettings, Limit, Queue, Queues,
};
use crate::clock::Clock;
use crate::config::Config;
use crate::shared::{self, FleetNews, HoldChange, Ledger, LedgerLimit, Reservation, Shared};
use crate::shutdown::Shutdown;
use crate::watched_file;

/// Windows up to this length are used as requests come.
const UNPACED: Duration = Duration::from_secs(1);

/// Least silence after which a member is gone: it may miss some of its calls.
const SILENCE: Duration = Duration::from_secs(10);

/// The engine and the ledgers on it.
#[derive(Debug, Clone)]
pub(super) struct Fleet {
    shared: Shared,
    upstream: Arc<str>,
}

impl Fleet {
    /// `None` where nothing is shared.
    pub(super) fn new(config: &Config, upstream: &str, clock: Clock) -> Option<Self> {
        let settings = config.shared.clone()?;
        let secrets = settings.password_file.iter().chain(settings.identity.as_ref().map(|files| &files.key));
        secrets.for_each(|path| watched_file::report_exposed(path));
        let lanes = [&config.admission.rest, &config.admission.v1];
        let common = || lanes.iter().filter_map(|lane| lane.common.as_ref());
        let silence = common().map(|common| common.longest).max().unwrap_or_default().max(SILENCE);
        let split = split(&lanes, settings.gateways);
        for path in settings.password_file.iter().chain(&settings.key_file) {
            watched_file::report_exposed(path);
        }
        let settings = shared::Settings { silence, ..settings };
        Some(Self { shared: Shared::new(settings, clock, split), upstream: upstream.into() })
    }

    /// The engine, to be read from.
    pub(super) fn shared(&self) -> Shared {
        self.shared.clone()
    }

    /// Keeps the connection, and tells the queues of news.
    pub(super) fn run(&self, admission: Admission, shutdown: &Shutdown) {
        let upstream = Arc::clone(&self.upstream);
        self.shared.on_news(move |news| {
            let queues = admission.queues();
            match news {
                FleetNews::Up { has_own, members } => each(&queues, EngineNews::Up { has_own, members }),
                FleetNews::Alone => each(&queues, EngineNews::Alone),
                FleetNews::Hold(name, left) => {
                    let held = queues.iter().find(|(lane, _)| *ledger_name(&upstream, lane) == *name);
                    if let Some((_, queue)) = held {
                        queue.hold(left);
                    }
                }
            }
        });
        shutdown.spawn_helper(self.shared.clone().run());
    }

    /// Makes the calls of `queue`, until it is gone.
    pub(super) async fn serve(self, lane: Lane, queue: Arc<Queue>) {
        let name: Arc<str> = ledger_name(&self.upstream, &lane).into();
        while let Some(call) = queue.next_call().await {
            let limits = queue.common().map(|common| limits(&common)).unwrap_or_default();
            let ledger = Ledger { name: Arc::clone(&name), limits, part: queue.told_part() };
            let (wanted, hold) = match call {
                CommonCall::Reserve(wanted) => (wanted, HoldChange::None),
                CommonCall::Hold(left) => (0, HoldChange::Begin(left)),
                CommonCall::EndHold => (0, HoldChange::End),
            };
            let answer = self.shared.reserve(&ledger, wanted, hold).await;
            queue.answered(answer.ok().map(|Reservation { granted, until, free, hold }| CommonAnswer {
                granted,
                until,
                free,
                hold,
            }));
        }
    }
}

fn each(queues: &Queues, news: EngineNews) {
    for queue in queues.values() {
        queue.heard(news);
    }
}

/// The name of a lane's ledger: nobody learns from it which credentials there are.
fn ledger_name(upstream: &str, lane: &Lane) -> String {
    shared::hashed(&format!("{upstream}\n{}\n{}", lane.credential, lane.api.as_str()))
}

/// The limits of a ledger, with all that its windows are longer by.
fn limits(common: &CommonSettings) -> Vec<LedgerLimit> {
    let one = |limit: &Limit| LedgerLimit {
        most: limit.most,
        length: limit.window + common.margin + shared::MARGIN,
        is_paced: limit.window > UNPACED,
    };
    common.limits.iter().map(one).collect()
}

/// The split of all limits, as text: the same on all gateways that have the same.
fn split(lanes: &[&LaneSettings], gateways: u32) -> String {
    let mut text = gateways.to_string();
    for lane in lanes {
        let common = lane.common.iter().flat_map(|common| &common.limits);
        for limit in lane.limits.iter().chain(common) {
            let _ = write!(text, " {}/{}", limit.most, limit.window.as_millis());
        }
    }
    text
}
