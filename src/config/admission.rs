//! `[budget]`, `[queue]`, `[backoff]`, `[retry]` and `[breaker]`: when requests may be sent.

use std::time::Duration;

use super::reader::Reader;
use crate::admission::{BackoffSettings, BreakerSettings, LaneSettings, Limit, RetrySettings, Settings};

/// With clients of a file, there may be several, and one leaves slots for the others.
pub(super) fn read(r: &mut Reader<'_>, several_clients: bool) -> Settings {
    let per_second = r.number(
        (
            "budget.per_second",
            "160",
            "Most requests in any second with one credential; like the next two, Snyk's own limit.",
        ),
        1..=1_000_000,
    );
    let per_minute = r.number(("budget.per_minute", "1620", "Most requests in any minute."), 1..=1_000_000);
    let per_hour = r.number(("budget.per_hour", "97200", "Most requests in any hour."), 1..=10_000_000);
    let share = r.number(
        (
            "budget.share",
            "1",
            "The part of these that is this machine's, where several use the same account.",
        ),
        0.001..=1.0,
    );
    let starts = r.number(
        (
            "budget.starts",
            "0",
            "Start calls in any hour and scope that are let through; 0 leaves it to Snyk to refuse more.",
        ),
        0..=1_000_000,
    );
    let max_wait =
        r.duration(("queue.max_wait", "10s", "Longest that a request waits for its turn."), ("0s", "10m"));
    let max_waiting =
        r.number(("queue.max_waiting", "10000", "Most requests that wait for their turn."), 1..=1_000_000);
    let max_running = r.number(
        ("queue.max_running", "64", "Most requests that are under way to Snyk with one credential."),
        1..=100_000,
    );
    let backoff = backoff(r);
    let v1: u32 = r.number(
        ("budget.v1_per_minute", "2000", "Most /v1 requests in any minute with one credential; a tenth of it in a second, thirty times it in an hour."),
        1..=1_000_000,
    );
    let v1_per_second = v1.div_ceil(10);
    check_share(
        r,
        share,
        &[
            ("budget.per_second", per_second, per_second),
            ("budget.per_minute", per_minute, per_minute),
            ("budget.per_hour", per_hour, per_hour),
            ("budget.v1_per_minute", v1, v1_per_second),
        ],
    );
    let starts = Some(starts).filter(|starts| *starts > 0);
    let lane = |per_second, per_minute, per_hour| {
        let limit = |most: u32, window| Limit { most, window };
        let account = vec![
            limit(per_second, Duration::from_secs(1)),
            limit(per_minute, Duration::from_mins(1)),
            limit(per_hour, Duration::from_hours(1)),
        ];
        let ours = |limit: &Limit| Limit { most: part(limit.most, share), ..*limit };
        let limits = account.iter().map(ours).collect();
        let margin = MARGIN;
        LaneSettings {
            limits,
            account,
            starts,
            margin,
            backoff,
            max_wait,
            max_waiting,
            max_running,
            several_clients,
        }
    };
    let rest = lane(per_second, per_minute, per_hour);
    let v1 = lane(v1_per_second, v1, v1.saturating_mul(30));
    Settings { rest, v1, retry: retry(r), breaker: breaker(r) }
}

/// `[backoff]`.
fn backoff(r: &mut Reader<'_>) -> BackoffSettings {
    let backoff = BackoffSettings {
        usual: r.duration(
            ("backoff.usual", "60s", "Pause after a 429 that does not say how long."),
            ("1s", "1h"),
        ),
        most: r.duration(("backoff.max", "10m", "Longest pause after a 429, whatever the 429 says."), ("1s", "1d")),
        ramp: r.number(
            ("backoff.ramp", "10", "Requests in the first second after a backoff, or after the circuit of the host was open; each later second allows twice as many."),
            1..=10_000,
        ),
    };
    if backoff.usual > backoff.most && r.given("backoff.usual").is_some() {
        r.problem(
            &r.place("backoff.usual"),
            "backoff.usual",
            "must not be longer than backoff.max: raise backoff.max, or lower this",
        );
    }
    backoff
}

/// `[retry]`.
fn retry(r: &mut Reader<'_>) -> RetrySettings {
    RetrySettings {
        most: r.number(("retry.max", "2", "How often a read that failed on the way is tried again."), 0..=10),
        pause: r.duration(
            (
                "retry.pause",
                "200ms",
                "The longest pause before the first retry; before each later one, twice that.",
            ),
            ("1ms", "5s"),
        ),
        percent: r.number(
            ("retry.percent", "10", "Most retries in a hundred requests, beyond ten that may be saved up."),
            0..=100,
        ),
    }
}

/// `[breaker]`.
fn breaker(r: &mut Reader<'_>) -> BreakerSettings {
    BreakerSettings {
        failures: r.number(
            (
                "breaker.failures",
                "10",
                "Failed requests in a row that open a circuit: that of one export, or that of the host where it is down for all.",
            ),
            1..=1_000_000,
        ),
        pause: r.duration(
            ("breaker.pause", "5s", "Pause of an open circuit before one request is sent as a probe."),
            ("100ms", "10m"),
        ),
    }
}

/// What every window is taken to be longer: requests do not arrive in even steps as they were sent.
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
    let place = r.place("budget.share");
    r.problem(
        &place,
        "budget.share",
        format!(
            "{share} of {key} = {value} is less than one request: write at least {least}, for no more than {fewest} machines can share it"
        ),
    );
}
