//! Signals, on a thread of their own that waits for nothing else: a stop works also while every thread of the runtime is
//! stuck.

use std::sync::Arc;
use std::thread::Builder;
use std::time::Duration;

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use tokio::sync::Notify;

use crate::shutdown::Shutdown;
use crate::telemetry;

/// Longest time until the process ends after the second signal.
const AT_ONCE: Duration = Duration::from_secs(5);
/// Longest wait for the reader of its log then.
const LAST_WORDS: Duration = Duration::from_secs(1);
/// Exit code where it took longer, or a third signal came.
const INTERRUPTED: i32 = 130;

/// Begins `shutdown` at SIGTERM or Ctrl-C. A second signal ends what is in flight, and the process in any case. SIGHUP
/// notifies `reload`; without it, SIGHUP does what it does by default.
///
/// # Errors
/// If signals cannot be received.
pub(super) fn receive(shutdown: &Shutdown, reload: Option<Arc<Notify>>) -> std::io::Result<()> {
    let hangup = reload.is_some().then_some(SIGHUP);
    let mut signals = Signals::new([SIGTERM, SIGINT].into_iter().chain(hangup))?;
    let shutdown = shutdown.clone();
    let run = move || {
        let mut stops = 0;
        for signal in signals.forever() {
            if signal == SIGHUP {
                if let Some(reload) = &reload {
                    reload.notify_one();
                }
                continue;
            }
            let shutdown = shutdown.clone();
            stops += 1;
            if stops == 1 {
                beside(move || {
                    tracing::info!(
                        "shutdown: signal received; draining requests in flight; signal again to stop at once"
                    );
                    shutdown.announce();
                });
            } else if stops == 2 {
                beside(move || {
                    tracing::warn!(
                        "shutdown: second signal received; recording and aborting requests in flight"
                    );
                    shutdown.end();
                });
                beside(|| {
                    std::thread::sleep(AT_ONCE);
                    exit();
                });
            } else {
                exit();
            }
        }
    };
    Builder::new().name("signals".to_owned()).spawn(run).map(drop)
}

/// Runs `act` on a thread of its own: it may wait for a lock that a stuck thread holds.
fn beside(act: impl FnOnce() + Send + 'static) {
    if Builder::new().name("signal".to_owned()).spawn(act).is_err() {
        // There are too many threads, and no other way to do it.
        exit();
    }
}

fn exit() -> ! {
    telemetry::finish_log(LAST_WORDS);
    std::process::exit(INTERRUPTED)
}
