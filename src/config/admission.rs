//! `[budget]`, `[queue]`, `[backoff]`, `[retry]` and `[breaker]`: when requests may be sent.

use std::time::Duration;

use super::reader::Reader;
use crate::admission::{
    BackoffSettings, BreakerSettings, CommonSettings, LaneSettings, Limit, RetrySettings, Settings,
    kept_in_common,
};
use crate::shared;

/// The division of the limits among gateways, where they share an engine.
#[derive(Debug, Clone, Copy)]
pub(super) struct Split {
    /// Most gateways that have an own part.
    pub(super) gateways: u32,
    /// The part of the limits that is divided into own parts.
    pub(super) own: f64,
}

/// With clients of a file, there may be several, and one leaves slots for the others.
pub(super) fn read(r: &mut Reader<'_>, several_clients: bool, split: Option<Split>) -> Settings {
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
        common: None,
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
    let [rest, v1] = all_divided(r, [rest, v1], split);
    Settings { rest, v1, retry: retry(r), breaker: breaker(r) }
}

/// The lanes of one of many gateways, where there are many. Each minute must have a request.
fn all_divided(r: &mut Reader<'_>, lanes: [LaneSettings; 2], split: Option<Split>) -> [LaneSettings; 2] {
    let Some(split) = split else { return lanes };
    for (key, lane) in ["budget.per_hour", "budget.v1_per_minute"].into_iter().zip(&lanes) {
        if kept_in_common(&lane.limits).iter().any(|limit| limit.most == 0) {
            let what = "with shared.url each minute has a sixtieth of the hour, and that is less than one request: raise it";
            r.invalid(key, what);
        }
    }
    lanes.map(|lane| divided(lane, split))
}

/// The lane of one of many gateways: its own part, rounded down, and what is left when all have theirs.
fn divided(lane: LaneSettings, split: Split) -> LaneSettings {
    let all = kept_in_common(&lane.limits);
    let own = |limit: &Limit| part(limit.most, split.own / f64::from(split.gateways));
    let common = |limit: &Limit| Limit { most: limit.most - own(limit) * split.gateways, ..*limit };
    let common = CommonSettings {
        limits: all.iter().map(common).collect(),
        undivided: lane.limits.clone(),
        margin: lane.margin,
        longest: all.iter().map(|limit| limit.window).max().unwrap_or_default()
            + lane.margin
            + shared::MARGIN,
        has_others: split.gateways > 1,
    };
    // The hour counts with the minutes, where all of it is our own.
    let is_all_own = common.limits.iter().all(|limit| limit.most == 0);
    let limits = if is_all_own { lane.limits } else { all };
    let limits = limits.iter().map(|limit| Limit { most: own(limit), ..*limit }).collect();
    LaneSettings { limits, common: Some(common), ..lane }
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
