//! Notifications to systemd, if it started this process (`sd_notify(3)`).

use std::time::Duration;

use sd_notify::{NotifyState, notify};

/// The gateway serves requests.
pub fn ready() {
    send(&[NotifyState::Ready]);
}

/// A reload has begun; [`ready`] ends it.
pub fn reloading() {
    if let Ok(now) = NotifyState::monotonic_usec_now() {
        send(&[NotifyState::Reloading, now]);
    }
}

/// A stop has begun.
pub fn stopping() {
    send(&[NotifyState::Stopping]);
}

/// Notifies systemd's watchdog, if there is one. Never ends.
pub async fn watchdog() {
    let Some(patience) = sd_notify::watchdog_enabled() else { return std::future::pending().await };
    loop {
        send(&[NotifyState::Watchdog]);
        tokio::time::sleep((patience / 2).max(Duration::from_millis(10))).await;
    }
}

fn send(states: &[NotifyState<'_>]) {
    if let Err(error) = notify(states) {
        tracing::warn!(%error, "notifying systemd failed");
    }
}
