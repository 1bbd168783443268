//! What systemd is told, where it started us (`sd_notify(3)`); nothing otherwise.

use std::time::Duration;

use sd_notify::{NotifyState, notify};

/// We serve.
pub fn ready() {
    tell(&[NotifyState::Ready]);
}

/// The configuration is being read again; [`ready`] ends that.
pub fn reloading() {
    if let Ok(now) = NotifyState::monotonic_usec_now() {
        tell(&[NotifyState::Reloading, now]);
    }
}

/// We are about to stop.
pub fn stopping() {
    tell(&[NotifyState::Stopping]);
}

/// Says over and over that we live, where a watchdog wants to hear it; never ends.
pub async fn watchdog() {
    let Some(patience) = sd_notify::watchdog_enabled() else { return std::future::pending().await };
    loop {
        tell(&[NotifyState::Watchdog]);
        tokio::time::sleep((patience / 2).max(Duration::from_millis(10))).await;
    }
}

fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = notify(states) {
        tracing::warn!(%error, "systemd cannot be told how we are");
    }
}
