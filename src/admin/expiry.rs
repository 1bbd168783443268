//! Logs certificates, revocation lists and clients' keys that end soon, have ended or are not valid yet: at the start, when such
//! a file is loaded, when one comes near its end, and once a day after that.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::access::Access;
use crate::clock::Clock;
use crate::expiry::{Expiring, Standing};
use crate::transport::ServerTls;

/// Time between two checks.
const INTERVAL: Duration = Duration::from_secs(1);
/// Time after which the same is logged again.
const REMINDER: Duration = Duration::from_hours(24);

/// The parts that hold something with an end.
#[derive(Debug, Clone)]
pub(crate) struct Expiry {
    pub(crate) tls: Option<ServerTls>,
    pub(crate) access: Arc<Access>,
}

impl Expiry {
    /// Everything in force that has an end.
    pub(super) fn all(&self) -> Vec<Expiring> {
        let tls = self.tls.as_ref().map(|tls| tls.now().expiring.clone());
        tls.into_iter().flatten().chain(self.access.expiring()).collect()
    }

    /// Logs each warning when it is new, and again after [`REMINDER`]; never ends.
    pub(crate) async fn watch(self, clock: Clock, warn_before: Duration) {
        let mut logged: HashMap<String, Instant> = HashMap::new();
        let mut ticks = tokio::time::interval(INTERVAL);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let (now, mut current) = (clock.now(), HashMap::new());
            for expiring in self.all() {
                let Some(warning) = expiring.warning(now.wall, warn_before) else { continue };
                let recent = logged.remove(&warning);
                let recent = recent.filter(|at| now.mono.saturating_duration_since(*at) < REMINDER);
                if recent.is_none() {
                    log(expiring.standing(now.wall, warn_before), &warning);
                }
                current.insert(warning, recent.unwrap_or(now.mono));
            }
            logged = current;
        }
    }
}

fn log(standing: Standing, warning: &str) {
    match standing {
        Standing::Valid => {}
        Standing::EndsSoon => tracing::warn!(detail = warning, "expires soon"),
        Standing::Ended => tracing::error!(detail = warning, "expired"),
        Standing::NotYet => tracing::error!(detail = warning, "not valid yet"),
    }
}
