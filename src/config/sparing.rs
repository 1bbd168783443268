//! `[budget]`, `[queue]`, `[hold]`, `[retry]` and `[breaker]`: how Snyk is spared.

use std::time::Duration;

use super::reader::Reader;
use crate::upstream::budget::Limit;
use crate::upstream::{Sparing, breaker, gate, hold, retry};

pub(super) fn read(r: &mut Reader<'_>) -> Sparing {
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
    let hold = hold::Settings {
        usual: r.duration(
            ("hold.usual", "60s", "How long nothing is sent after a 429 that does not say how long."),
            ("1s", "1h"),
        ),
        most: r.duration(("hold.max", "10m", "The longest, whatever a 429 says."), ("1s", "1d")),
        ramp: r.number(
            ("hold.ramp", "10", "Requests in the first second after a hold, or after Snyk was left alone; each later second, twice as many."),
            1..=10_000,
        ),
    };
    if hold.usual > hold.most && r.given("hold.usual").is_some() {
        r.problem(
            &r.place("hold.usual"),
            "hold.usual",
            "must not be longer than hold.max: raise hold.max, or lower this",
        );
    }
    let retry = retry::Settings {
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
    };
    let breaker = breaker::Settings {
        failures: r.number(
            (
                "breaker.failures",
                "10",
                "Failures in a row (no answer, or 502, 503, 504) after which Snyk is left alone for a while.",
            ),
            1..=1_000_000,
        ),
        rate: r.number(
            ("breaker.rate", "50", "Percentage of the last requests that failed, after which it is as well."),
            1..=100,
        ),
        sample: r.number(
            ("breaker.sample", "50", "How many of the last requests that percentage is of."),
            1..=10_000,
        ),
        pause: r.duration(
            ("breaker.pause", "5s", "How long Snyk is left alone before one request sees."),
            ("100ms", "10m"),
        ),
    };
    let limit = |most: u32, window| Limit { most: part(most, share), window };
    let limits = vec![
        limit(per_second, Duration::from_secs(1)),
        limit(per_minute, Duration::from_mins(1)),
        limit(per_hour, Duration::from_hours(1)),
    ];
    let starts = Some(starts).filter(|starts| *starts > 0);
    let gate = gate::Settings { limits, starts, margin: MARGIN, hold, max_wait, max_waiting, max_running };
    Sparing { gate, retry, breaker }
}

/// What every window is taken to be longer: requests do not arrive in even steps as they were sent.
const MARGIN: Duration = Duration::from_millis(250);

/// A part of a limit, at least one request.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a part of a u32 is one")]
fn part(most: u32, share: f64) -> u32 {
    ((f64::from(most) * share).floor() as u32).max(1)
}
