//! `[budget]`, `[queue]`, `[backoff]`, `[retry]` and `[breaker]`: when requests may be sent.

use std::time::Duration;

use super::reader::Reader;
use crate::admission::{BackoffSettings, BreakerSettings, LaneSettings, Limit, RetrySettings, Settings};

/// With clients of a file, there may be several, and one leaves slots for the others.
pub(super) fn read(r: &mut Reader<'_>, several_clients: bool) -> Settings {
    let per_second = r.number("budget.per_second", 1..=1_000_000);
    let per_minute = r.number("budget.per_minute", 1..=1_000_000);
    let per_hour = r.number("budget.per_hour", 1..=10_000_000);
    let share = r.number("budget.share", 0.001..=1.0);
    let starts = Some(r.number("budget.starts", 0..=1_000_000)).filter(|starts| *starts > 0);
    let v1: u32 = r.number("budget.v1_per_minute", 1..=1_000_000);
    let v1_per_second = v1.div_ceil(10);
    let keys = [
        ("budget.per_second", per_second, per_second),
        ("budget.per_minute", per_minute, per_minute),
        ("budget.per_hour", per_hour, per_hour),
        ("budget.v1_per_minute", v1, v1_per_second),
    ];
    check_share(r, share, &keys);
    let ours = |limit: &Limit| Limit { most: part(limit.most, share), ..*limit };
    let account = limits([per_second, per_minute, per_hour]);
    let of_v1 = limits([v1_per_second, v1, v1.saturating_mul(30)]);
    let rest = LaneSettings {
        limits: account.iter().map(ours).collect(),
        account,
        starts,
        margin: MARGIN,
        max_wait: r.duration("queue.max_wait", "0s"..="10m"),
        max_waiting: r.number("queue.max_waiting", 1..=1_000_000),
        max_running: r.number("queue.max_running", 1..=100_000),
        backoff: backoff(r),
        several_clients,
    };
    let v1 = LaneSettings { limits: of_v1.iter().map(ours).collect(), account: of_v1, ..rest.clone() };
    Settings { rest, v1, retry: retry(r), breaker: breaker(r) }
}

/// Limits for a second, a minute and an hour.
fn limits(most: [u32; 3]) -> Vec<Limit> {
    let windows = [Duration::from_secs(1), Duration::from_mins(1), Duration::from_hours(1)];
    windows.into_iter().zip(most).map(|(window, most)| Limit { most, window }).collect()
}

/// `[backoff]`.
fn backoff(r: &mut Reader<'_>) -> BackoffSettings {
    let backoff = BackoffSettings {
        usual: r.duration("backoff.usual", "1s"..="1h"),
        most: r.duration("backoff.max", "1s"..="1d"),
        ramp: r.number("backoff.ramp", 1..=10_000),
    };
    if backoff.usual > backoff.most && r.given("backoff.usual").is_some() {
        r.invalid("backoff.usual", "must not be longer than backoff.max: raise backoff.max, or lower this");
    }
    backoff
}

/// `[retry]`.
fn retry(r: &mut Reader<'_>) -> RetrySettings {
    RetrySettings {
        most: r.number("retry.max", 0..=10),
        pause: r.duration("retry.pause", "1ms"..="5s"),
        percent: r.number("retry.percent", 0..=100),
    }
}

/// `[breaker]`.
fn breaker(r: &mut Reader<'_>) -> BreakerSettings {
    BreakerSettings {
        failures: r.number("breaker.failures", 1..=1_000_000),
        pause: r.duration("breaker.pause", "100ms"..="10m"),
    }
}

/// Margin that is added to every window: requests do not arrive in even steps as they were sent.
const MARGIN: Duration = Duration::from_millis(250);

/// A part of a limit, in whole requests.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a part of a u32 is one")]
fn part(most: u32, share: f64) -> u32 {
    (f64::from(most) * share).floor() as u32
}

/// A share must leave a request in every window: rounded up, many machines would together exceed Snyk's limit. `limits` are
/// keys, their values, and the fewest requests that a window of theirs holds.
fn check_share(r: &mut Reader<'_>, share: f64, limits: &[(&str, u32, u32)]) {
    let Some((key, value, fewest)) = limits.iter().min_by_key(|(.., fewest)| *fewest) else { return };
    if part(*fewest, share) >= 1 {
        return;
    }
    let least = (1e5 / f64::from(*fewest)).ceil() / 1e5;
    r.invalid("budget.share", format!(
            "{share} of {key} = {value} is less than one request: write at least {least}, for no more than {fewest} machines can share it"
        ),
    );
}
