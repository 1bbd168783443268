//! `exportgate status`.

use std::fmt::{self, Write as _};
use std::time::Duration;

use clap::ValueEnum;
use http::{Method, StatusCode};

use super::CommandError;
use super::admin::{AdminAddress, AdminArgs};
use crate::admin::report::{
    CacheReport, CountsReport, CredentialReport, DownloadReport, DownloadsReport, DriftReport, JournalReport,
    PartReport, QueueReport, ReloadFailure, Report, SharedReport, SlotReport, StartsReport, WindowReport,
};
use crate::error_text::visible;

/// Longest time of a probe: kubelets and Docker wait longer.
const PROBE: Duration = Duration::from_secs(2);

#[derive(Debug, clap::Args)]
pub(super) struct StatusArgs {
    /// Print the gateway's JSON
    #[arg(long)]
    json: bool,
    /// Print nothing; exit with 0 if the gateway is live or ready, else with 1 (for exec probes and HEALTHCHECK)
    #[arg(long, value_enum, conflicts_with = "json")]
    probe: Option<ProbeKind>,
    #[command(flatten)]
    reached: AdminArgs,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum ProbeKind {
    /// The gateway answers
    Live,
    /// The gateway accepts requests of clients
    Ready,
}

pub(super) async fn run(args: &StatusArgs) -> Result<String, CommandError> {
    if let Some(probe) = args.probe {
        // A probe has two outcomes: the exit code of bad settings would be a third.
        return match probe_once(&args.reached, probe).await {
            Err(CommandError::Problems(problems)) => {
                Err(CommandError::Other("probe failed", problems.into()))
            }
            other => other.map(|()| String::new()),
        };
    }
    let client = args.reached.client()?;
    let body = client.call(Method::GET, "/api/status").await?;
    let report: Report = client.read(&body)?;
    if args.json {
        return Ok(client.json(&body)?);
    }
    Ok(report.summary(client.address()))
}

async fn probe_once(reached: &AdminArgs, probe: ProbeKind) -> Result<(), CommandError> {
    let (what, target) = match probe {
        ProbeKind::Live => ("not live", "/livez"),
        ProbeKind::Ready => ("not ready", "/readyz"),
    };
    let client = reached.probe_client()?;
    let (status, body) = client.fetch(Method::GET, target, PROBE).await?;
    if status == StatusCode::OK {
        return Ok(());
    }
    let answer: String = String::from_utf8_lossy(&body).trim().chars().take(200).collect();
    let failed = format!("{} answers {status}: {}", client.address(), visible(&answer));
    Err(CommandError::Other(what, failed.into()))
}

/// Widest column for the names of parts, in characters.
const MOST_WIDE: usize = 40;

impl Report {
    fn summary(&self, place: &AdminAddress) -> String {
        let mut text = String::new();
        // A String takes all that is written.
        let _ = self.write(place, &mut text);
        text
    }

    fn write(&self, place: &AdminAddress, out: &mut String) -> fmt::Result {
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
        for PartReport { name, state, since, detail } in &self.parts {
            let (name, state) = (shown(name), shown(state));
            writeln!(out, "  {state:<8}  {name:<width$}  since {}  {}", shown(since), shown(detail))?;
        }
        let CountsReport { hit, stale, miss, collapsed, waited, uncached, denied, failed, client_left } =
            self.totals;
        writeln!(out)?;
        writeln!(
            out,
            "requests     {hit} hit, {stale} stale, {miss} miss, {collapsed} collapsed, {waited} waited, {uncached} uncached, {denied} denied, {failed} failed, {client_left} left by clients"
        )?;
        let CacheReport { entries, bytes, max_bytes } = self.cache;
        writeln!(out, "cache        {entries} entries, {} of {}", size(bytes), size(max_bytes))?;
        let QueueReport { waiting, followers, waits, .. } = self.queue;
        writeln!(
            out,
            "waiting      {waiting} in the queue, {followers} for requests in flight, {waits} for the end of an export"
        )?;
        writeln!(out, "connections  {} open of {}", self.connections.open, self.connections.max)?;
        self.downloads.write(out)?;
        let JournalReport { failing, written, dropped, queued, .. } = self.journal;
        let failing = if failing { ", FAILING: see the log" } else { "" };
        writeln!(out, "journal      {written} written, {dropped} dropped, {queued} waiting{failing}")?;
        writeln!(
            out,
            "breaker      {}",
            words(&self.budget.breaker.state, self.budget.breaker.seconds_left)
        )?;
        if let Some(shared) = &self.shared {
            let SharedReport { engine, state, place, members, has_own_part, has_answers, taken, .. } = shared;
            let own = if *has_own_part { "with" } else { "WITHOUT" };
            writeln!(
                out,
                "shared       {} at {}, member {place} of {members}, {own} an own part of the budget",
                shown(state),
                shown(engine)
            )?;
            if *has_answers {
                writeln!(out, "             {taken} answers taken from other gateways")?;
            }
        }
        for credential in &self.budget.credentials {
            credential.write(out)?;
        }
        for DriftReport { kind, count, last, detail } in &self.drift {
            writeln!(
                out,
                "drift        {}, {count} times, last {}: {}",
                shown(kind),
                shown(last),
                shown(detail)
            )?;
        }
        if let Some(ReloadFailure { since, detail }) = &self.reload.failing {
            writeln!(out, "reload       failing since {}: {}", shown(since), shown(detail))?;
        }
        Ok(())
    }
}

/// Downloads that are named: the page has more of them.
const NAMED_DOWNLOADS: usize = 5;

impl DownloadsReport {
    fn write(&self, out: &mut String) -> fmt::Result {
        writeln!(out, "downloads    {} running", self.running)?;
        for one in self.oldest.iter().take(NAMED_DOWNLOADS) {
            let DownloadReport { client, export_id, file, bytes, since, .. } = one;
            let [client, export, file, since] = [client, export_id, file, since].map(|text| visible(text));
            writeln!(out, "  {client:<9}  {file} of {export}, {} since {since}", size(*bytes))?;
        }
        Ok(())
    }
}

fn words(state: &str, seconds_left: u64) -> String {
    let left = if seconds_left > 0 { format!(", {} left", span(seconds_left)) } else { String::new() };
    format!("{}{left}", visible(state).replace('_', " "))
}

impl CredentialReport {
    fn write(&self, out: &mut String) -> fmt::Result {
        writeln!(out, "credential   {}", visible(&self.name))?;
        let used = self.rest.windows.iter().map(|WindowReport { seconds, limit, used }| {
            format!("{used} of {limit} in {}", humantime::format_duration(Duration::from_secs(*seconds)))
        });
        writeln!(out, "  sent       {}", used.collect::<Vec<_>>().join(", "))?;
        writeln!(out, "  now        {} waiting, {} in flight", self.rest.waiting, self.rest.running)?;
        if self.rest.backoff.state != "none" {
            writeln!(
                out,
                "  backoff    {}",
                words(&self.rest.backoff.state, self.rest.backoff.seconds_left)
            )?;
        }
        for StartsReport { scope, seconds_left } in &self.rest.paused_starts {
            writeln!(out, "  starts     of {} paused, {} left", visible(scope), span(*seconds_left))?;
        }
        for SlotReport { name, state, age_s, expires_in_s, .. } in &self.slots {
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
pub(super) fn span(seconds: u64) -> String {
    let text = humantime::format_duration(Duration::from_secs(seconds)).to_string();
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
        let mut status = crate::admin::report::tests::example();
        status["something"] = ["new"].into();
        let report: Report = serde_json::from_value(status).expect("a status");
        let text = report.summary(&AdminAddress::parse("http://127.0.0.1:7081").expect("a place"));
        for expected in [
            "exportgate 0.1.0 at http://127.0.0.1:7081: degraded, up for 1day 1h (since 2026-11-24T09:00:00Z)",
            "  failing   journal          since 2026-11-24T09:01:00Z  see the log",
            "10 hit, 0 stale, 5 miss, 3 collapsed, 8 waited",
            "2 entries, 7.0 KiB of 256.0 MiB",
            "100 written, 2 dropped, 1 waiting, FAILING",
            "downloads    1 running\n  dashboard  table of e1, 1.0 MiB since 2026-11-25T10:00:01Z\n",
            "breaker      half open\n",
            "40 of 1620 in 1m",
            "paused, 30s left",
            "of org 825e paused, 30s left",
            "active     in use, 8m 20s old, ends in 1h\n",
            "deprecation, 3 times, last 2026-11-24T09:02:00Z: version 1",
            "failing since 2026-11-24T09:03:00Z: exportgate.toml:12: no",
        ] {
            assert!(text.contains(expected), "{expected} in\n{text}");
        }
        assert!(!text.contains('\u{1b}'));
    }
}
