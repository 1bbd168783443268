//! `exportgate status`.

use std::fmt::{self, Write as _};
use std::time::Duration;

use clap::ValueEnum;
use http::{Method, StatusCode};
use serde::Deserialize;

use super::Failure;
use super::admin::Reached;
use super::place::Place;
use crate::chain::visible;

/// How long a probe may take: less than whoever probes waits.
const PROBE: Duration = Duration::from_secs(2);

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Print the JSON that the gateway gives
    #[arg(long)]
    json: bool,
    /// Print nothing, and say with the exit code whether it is so (for exec probes and HEALTHCHECK)
    #[arg(long, value_enum, conflicts_with = "json")]
    probe: Option<Probe>,
    #[command(flatten)]
    reached: Reached,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Probe {
    /// The process answers
    Live,
    /// It takes requests
    Ready,
}

/// It does not stand as it should.
#[derive(Debug, thiserror::Error)]
#[error("{place} answers {status}: {told}")]
struct NotSo {
    place: Place,
    status: StatusCode,
    told: String,
}

/// Asks the gateway how it stands.
pub(super) async fn run(args: &Args) -> Result<String, Failure> {
    if let Some(probe) = args.probe {
        // Who probes knows two answers: the exit code of bad settings would be a third.
        return match probe_once(&args.reached, probe).await {
            Err(Failure::Problems(problems)) => {
                Err(Failure::Other("the gateway cannot be asked", problems.into()))
            }
            other => other.map(|()| String::new()),
        };
    }
    let door = args.reached.door(true)?;
    let body = door.ask(Method::GET, "/api/status").await?;
    let status: Status = door.read(&body)?;
    if args.json {
        return Ok(door.json(&body)?);
    }
    Ok(status.summary(door.place()))
}

async fn probe_once(reached: &Reached, probe: Probe) -> Result<(), Failure> {
    let (what, target) = match probe {
        Probe::Live => ("not live", "/livez"),
        Probe::Ready => ("not ready", "/readyz"),
    };
    let door = reached.door(false)?;
    let (status, body) = door.fetch(Method::GET, target, PROBE).await?;
    if status == StatusCode::OK {
        return Ok(());
    }
    let told: String = String::from_utf8_lossy(&body).trim().chars().take(200).collect();
    let not_so = NotSo { place: door.place().clone(), status, told: visible(&told) };
    Err(Failure::Other(what, not_so.into()))
}

/// Widest column for the names of parts, in characters.
const MOST_WIDE: usize = 40;

/// What the gateway says of itself. What is not there is what an older or newer one does not say; but what says
/// nothing of its version, state and parts is no gateway.
#[derive(Debug, Default, Deserialize)]
struct Status {
    version: String,
    state: String,
    parts: Vec<Part>,
    #[serde(default)]
    started: String,
    #[serde(default)]
    uptime_s: f64,
    #[serde(default)]
    upstream: String,
    #[serde(default)]
    totals: Totals,
    #[serde(default)]
    cache: Stored,
    #[serde(default)]
    queue: Queue,
    #[serde(default)]
    budget: Budgets,
    #[serde(default)]
    journal: Journal,
    #[serde(default)]
    connections: Connections,
    #[serde(default)]
    drift: Vec<Drift>,
    #[serde(default)]
    reload: Reload,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Part {
    name: String,
    state: String,
    since: String,
    detail: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Totals {
    hit: u64,
    stale: u64,
    miss: u64,
    collapsed: u64,
    bypass: u64,
    denied: u64,
    own: u64,
    abandoned: u64,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Stored {
    entries: u64,
    bytes: u64,
    max_bytes: u64,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Queue {
    waiting: u64,
    followers: u64,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Budgets {
    credentials: Vec<Credential>,
    breaker: Standing,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Credential {
    name: String,
    waiting: u64,
    running: u64,
    windows: Vec<Window>,
    backoff: Standing,
    paused_starts: Vec<Held>,
    slots: Vec<Slot>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Window {
    seconds: u64,
    limit: u64,
    used: u64,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Standing {
    state: String,
    seconds_left: f64,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Held {
    scope: String,
    seconds_left: f64,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Slot {
    name: String,
    state: String,
    age_s: Option<f64>,
    expires_in_s: Option<f64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Journal {
    failing: bool,
    written: u64,
    dropped: u64,
    queued: u64,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Connections {
    open: u64,
    max: u64,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Drift {
    kind: String,
    count: u64,
    last: String,
    detail: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Reload {
    failing: Option<Failing>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Failing {
    since: String,
    detail: String,
}

impl Status {
    fn summary(&self, place: &Place) -> String {
        let mut text = String::new();
        // A String takes all that is written.
        let _ = self.write(place, &mut text);
        text
    }

    fn write(&self, place: &Place, out: &mut String) -> fmt::Result {
        let shown = |text: &String| visible(text);
        writeln!(
            out,
            "exportgate {} at {place}: {}, up for {} (since {}), before {}",
            shown(&self.version),
            shown(&self.state),
            span(self.uptime_s),
            shown(&self.started),
            shown(&self.upstream)
        )?;
        writeln!(out)?;
        let longest = self.parts.iter().map(|part| part.name.chars().count()).max().unwrap_or(0);
        let width = longest.min(MOST_WIDE);
        for Part { name, state, since, detail } in &self.parts {
            let (name, state) = (shown(name), shown(state));
            writeln!(out, "  {state:<8}  {name:<width$}  since {}  {}", shown(since), shown(detail))?;
        }
        let Totals { hit, stale, miss, collapsed, bypass, denied, own, abandoned } = self.totals;
        writeln!(out)?;
        writeln!(
            out,
            "requests     {hit} hit, {stale} stale, {miss} miss, {collapsed} collapsed, {bypass} bypass, {denied} denied, {own} own, {abandoned} abandoned"
        )?;
        let Stored { entries, bytes, max_bytes } = self.cache;
        writeln!(out, "cache        {entries} entries, {} of {}", size(bytes), size(max_bytes))?;
        let Queue { waiting, followers } = self.queue;
        writeln!(out, "waiting      {waiting} for their turn, {followers} for answers on their way")?;
        writeln!(out, "connections  {} of {}", self.connections.open, self.connections.max)?;
        let Journal { failing, written, dropped, queued } = self.journal;
        let failing = if failing { ", FAILING: see the log" } else { "" };
        writeln!(out, "journal      {written} written, {dropped} dropped, {queued} waiting{failing}")?;
        writeln!(out, "breaker      {}", self.budget.breaker.words())?;
        for credential in &self.budget.credentials {
            credential.write(out)?;
        }
        for Drift { kind, count, last, detail } in &self.drift {
            writeln!(
                out,
                "drift        {}, {count} times, last {}: {}",
                shown(kind),
                shown(last),
                shown(detail)
            )?;
        }
        if let Some(Failing { since, detail }) = &self.reload.failing {
            writeln!(out, "reload       failing since {}: {}", shown(since), shown(detail))?;
        }
        Ok(())
    }
}

impl Standing {
    fn words(&self) -> String {
        let left = if self.seconds_left > 0.0 {
            format!(", {} left", span(self.seconds_left))
        } else {
            String::new()
        };
        format!("{}{left}", visible(&self.state).replace('_', " "))
    }
}

impl Credential {
    fn write(&self, out: &mut String) -> fmt::Result {
        writeln!(out, "credential   {}", visible(&self.name))?;
        let used = self.windows.iter().map(|Window { seconds, limit, used }| {
            format!("{used} of {limit} in {}", humantime::format_duration(Duration::from_secs(*seconds)))
        });
        writeln!(out, "  sent       {}", used.collect::<Vec<_>>().join(", "))?;
        writeln!(out, "  now        {} waiting, {} running", self.waiting, self.running)?;
        if self.backoff.state != "none" {
            writeln!(out, "  backoff    {}", self.backoff.words())?;
        }
        for Held { scope, seconds_left } in &self.paused_starts {
            writeln!(out, "  starts     of {} paused, {} left", visible(scope), span(*seconds_left))?;
        }
        for Slot { name, state, age_s, expires_in_s } in &self.slots {
            write!(out, "  {:<9}  {}", visible(name), visible(state).replace('_', " "))?;
            if let Some(age) = age_s {
                write!(out, ", {} old", span(*age))?;
            }
            if let Some(expires) = expires_in_s {
                write!(out, ", ends in {}", span(*expires))?;
            }
            writeln!(out)?;
        }
        Ok(())
    }
}

/// A span in the two largest units that it has.
pub(super) fn span(seconds: f64) -> String {
    let whole = Duration::try_from_secs_f64(seconds.max(0.0).round()).unwrap_or_default();
    let text = humantime::format_duration(whole).to_string();
    text.split(' ').take(2).collect::<Vec<_>>().join(" ")
}

pub(super) fn size(bytes: u64) -> String {
    bytesize::ByteSize(bytes).display().iec().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_summary_says_what_stands_how() {
        let status = serde_json::json!({
            "version": "0.1.0", "started": "2026-11-24T09:00:00Z", "uptime_s": 90061, "state": "degraded",
            "upstream": "https://api.snyk.io",
            "parts": [
                {"name": "journal", "state": "failing", "since": "2026-11-24T09:01:00Z", "detail": "see the log"},
                {"name": "credential snyk", "state": "ok", "since": "2026-11-24T09:00:00Z", "detail": "\u{1b}[2J"}
            ],
            "totals": {"hit": 10, "miss": 5, "collapsed": 3, "denied": 1},
            "cache": {"entries": 2, "bytes": 7168, "max_bytes": 268_435_456},
            "budget": {
                "credentials": [{"name": "snyk", "windows": [{"seconds": 60, "limit": 1620, "used": 40}],
                    "backoff": {"state": "paused", "seconds_left": 29.6},
                    "paused_starts": [{"scope": "org 825e", "seconds_left": 30}],
                    "slots": [{"name": "active", "state": "in_use", "age_s": 500, "expires_in_s": null}]}],
                "breaker": {"state": "half_open", "seconds_left": 0}},
            "journal": {"failing": true, "written": 100, "dropped": 2, "queued": 1},
            "drift": [{"kind": "deprecation", "count": 3, "last": "2026-11-24T09:02:00Z", "detail": "version 1"}],
            "reload": {"failing": {"since": "2026-11-24T09:03:00Z", "detail": "exportgate.toml:12: no"}},
            "something": ["new"]
        });
        let status: Status = serde_json::from_value(status).expect("a status");
        let text = status.summary(&Place::parse("http://127.0.0.1:7081").expect("a place"));
        for expected in [
            "exportgate 0.1.0 at http://127.0.0.1:7081: degraded, up for 1day 1h (since 2026-11-24T09:00:00Z)",
            "  failing   journal          since 2026-11-24T09:01:00Z  see the log",
            "10 hit, 0 stale, 5 miss, 3 collapsed",
            "2 entries, 7.0 KiB of 256.0 MiB",
            "100 written, 2 dropped, 1 waiting, FAILING",
            "breaker      half open\n",
            "40 of 1620 in 1m",
            "paused, 30s left",
            "of org 825e paused, 30s left",
            "active     in use, 8m 20s old\n",
            "deprecation, 3 times, last 2026-11-24T09:02:00Z: version 1",
            "failing since 2026-11-24T09:03:00Z: exportgate.toml:12: no",
        ] {
            assert!(text.contains(expected), "{expected} in\n{text}");
        }
        assert!(!text.contains('\u{1b}'));
    }
}
