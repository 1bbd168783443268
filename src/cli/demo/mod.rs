//! `exportgate demo`: a fake Snyk, a gateway in front of it, and one export from its start to a cached result and a proven
//! table, all over real sockets. With `--replicas` it is a fleet of them on one engine.

mod directory;
mod fleet;
mod load;
mod process;

use std::io::Write;
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Uri};
use http_body_util::{BodyExt, Either, Full};
use serde_json::Value;
use uuid::Uuid;

use directory::Directory;

use super::{CommandError, block_on, requests, signals};
use crate::app::App;
use crate::clock::Clock;
use crate::config::{Config, Sources};
use crate::error_text::BoxError;
use crate::fake::{Fake, Script, Settings};
use crate::journal::{Query, find};
use crate::listener::Address;
use crate::shutdown::Shutdown;
use crate::transport;

/// The org that the demo exports.
const ORG: &str = "825e79b7-0073-44c3-a5ea-e0aa8a3dbf38";
const VERSION: &str = "version=2024-10-15";
/// The start call. Snyk requires a date filter.
const START: &str = r#"{"data":{"type":"resource","attributes":{"formats":["csv"],"dataset":"issues","filters":{"introduced":{"from":"2026-01-01T00:00:00Z"}}}}}"#;

/// Lines of the table that are shown, and characters of each.
const SHOWN_LINES: usize = 3;
const SHOWN_WIDTH: usize = 90;

#[derive(Debug, clap::Args)]
pub(super) struct DemoArgs {
    /// Exit after the run instead of serving on
    #[arg(long)]
    once: bool,
    /// Address of the gateway [default: a free port]
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:0", hide_default_value = true)]
    listen: String,
    /// Show so many gateways that share one engine instead (1 to 8). Needs valkey-server or redis-server on PATH
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=8), conflicts_with = "listen")]
    replicas: Option<u8>,
}

pub(super) fn run(args: &DemoArgs) -> Result<(), CommandError> {
    block_on(async {
        if let Some(replicas) = args.replicas {
            return Box::pin(fleet::run(usize::from(replicas), args.once)).await;
        }
        Box::pin(show(args)).await.map_err(|error| CommandError::Other("the demo failed", error))
    })
}

async fn show(args: &DemoArgs) -> Result<(), BoxError> {
    let mut out = anstream::stdout();
    let shutdown = Shutdown::new();
    signals::receive(&shutdown, None)?;
    let directory = Directory::create()?;

    // 1. A fake Snyk, and a gateway that trusts it and holds the credential.
    let script = Script { polls: 4, ..Script::default() };
    let fake = Fake::start(Settings { script, ..Settings::default() }).await?;
    let ca_file = directory.0.join("ca.pem");
    std::fs::write(&ca_file, fake.ca_pem())?;
    let journal = directory.0.join("journal.db");
    let flags = vec![
        ("listen", args.listen.clone(), "--listen"),
        ("upstream.url", fake.url(), "the demo"),
        ("upstream.ca_file", ca_file.display().to_string(), "the demo"),
        ("files.origins", fake.url(), "the demo"),
        ("files.ca_file", ca_file.display().to_string(), "the demo"),
        ("journal.path", journal.display().to_string(), "the demo"),
        ("admin.listen", "127.0.0.1:0".to_owned(), "the demo"),
    ];
    let (config, _) = Config::resolve(&Sources::isolated("demo-token", flags))?;
    let app = App::bind(config, Clock::system(), shutdown.clone()).await?;
    let Some(Address::Tcp(address)) = app.addresses().into_iter().next() else {
        return Err("the demo's gateway needs a TCP address".into());
    };
    let root = format!("http://{address}");
    let page = app.admin_address().map(|admin| format!("http://{admin}/")).unwrap_or_default();
    let serving = app.run();
    tokio::pin!(serving);

    // 2. One export, by a tool that has no credential; and what came of it.
    let story = async {
        let mut tool =
            Tool { client: transport::client(&root.parse()?, None, Duration::from_secs(5))?, root: &root };
        let export = narrate(&mut out, &mut tool, &fake, &journal).await?;
        fetch_table(&mut out, &root, &export, &directory.0).await?;
        if args.once {
            return Ok(());
        }
        invite(&mut out, &root, &page, &journal)?;
        shutdown.begun().await;
        Ok(())
    };
    let outcome = tokio::select! {
        outcome = story => outcome,
        () = &mut serving => return Err("the gateway ended by itself".into()),
    };
    shutdown.begin();
    serving.await;
    outcome
}

/// A tool that speaks to the gateway as it would to Snyk, without a token.
struct Tool<'a> {
    client: transport::HttpClient,
    root: &'a str,
}

/// The parts of an answer that the demo shows.
struct DemoAnswer {
    status: u16,
    cache: String,
    snyk_request_id: String,
    body: Value,
}

impl Tool<'_> {
    async fn call(&mut self, method: Method, target: &str, body: &Value) -> Result<DemoAnswer, BoxError> {
        let body = if body.is_null() { Bytes::new() } else { Bytes::from(body.to_string()) };
        let request = Request::builder()
            .method(method)
            .uri(format!("{}{target}", self.root).parse::<Uri>()?)
            .header("content-type", "application/vnd.api+json")
            .body(Either::Left(Full::new(body)))?;
        let (head, body) = self.client.request(request).await?.into_parts();
        let field =
            |name| head.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or("-").to_owned();
        let (cache, snyk_request_id) = (field("cache-status"), field("snyk-request-id"));
        let body = serde_json::from_slice(&body.collect().await?.to_bytes())?;
        Ok(DemoAnswer { status: head.status.as_u16(), cache, snyk_request_id, body })
    }
}

async fn narrate(
    out: &mut impl Write,
    tool: &mut Tool<'_>,
    fake: &Fake,
    journal: &Path,
) -> Result<String, BoxError> {
    let bold = anstyle::Style::new().bold();
    writeln!(out, "{bold}exportgate demo{bold:#}")?;
    writeln!(out, "  fake Snyk  {}   (TLS, a real certificate, signed links that expire)", fake.url())?;
    writeln!(out, "  gateway    {}   (holds the credential; tools need none)\n", tool.root)?;

    let mut step = |seen: &DemoAnswer, what: &str| {
        let status = seen.body["data"]["attributes"]["status"].as_str().unwrap_or("-").to_owned();
        let _ = writeln!(out, "  {what:<12} {} {status:<9} {}", seen.status, seen.cache);
        status
    };

    // Start the export and poll until it is finished, as every tool does.
    let start = serde_json::from_str(START)?;
    let started = tool.call(Method::POST, &format!("/orgs/{ORG}/export?{VERSION}"), &start).await?;
    step(&started, "start");
    let export = started.body["data"]["id"].as_str().ok_or("the start gave no id")?.to_owned();
    let results = format!("/orgs/{ORG}/export/{export}?{VERSION}");
    loop {
        let polled = tool.call(Method::GET, &results, &Value::Null).await?;
        if step(&polled, "results") == "FINISHED" {
            break;
        }
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    let before = fake.hits().results;

    // Other tools ask for the same results: the gateway has them.
    let mut last = String::new();
    for _ in 0..3 {
        let again = tool.call(Method::GET, &results, &Value::Null).await?;
        step(&again, "results");
        last = again.snyk_request_id;
    }
    let hits = fake.hits();
    writeln!(out, "\n{bold}Calls to Snyk{bold:#}")?;
    writeln!(
        out,
        "  {} start call, {} results calls; {} more were answered from the cache.",
        hits.start,
        hits.results,
        3 - (hits.results - before)
    )?;
    writeln!(out, "  On all of these, snyk-request-id is {last}: it leads to the record.")?;
    if hits.results != before {
        return Err("the cache did not answer".into());
    }

    let rows = find(journal, &Query { limit: 20, ..Query::default() })?;
    writeln!(out, "\n{bold}Request IDs on record{bold:#}\n{}", requests::table(&rows))?;
    out.flush()?;
    Ok(export)
}

/// Downloads the export as a user does, by the command for that.
async fn fetch_table(
    out: &mut impl Write,
    root: &str,
    export: &str,
    directory: &Path,
) -> Result<(), BoxError> {
    let bold = anstyle::Style::new().bold();
    writeln!(out, "{bold}One complete, proven table{bold:#}")?;
    writeln!(out, "  exportgate fetch --via {root} --org {ORG} --export {export} -o issues.csv")?;
    out.flush()?;
    let table = directory.join("issues.csv");
    let arguments = ["fetch", "--via", root, "--org", ORG, "--export", export, "--progress", "plain", "-o"];
    let mut command = std::process::Command::new(std::env::current_exe()?);
    command.args(arguments).arg(&table);
    // The gateway is served by this very task meanwhile.
    let fetched = tokio::task::spawn_blocking(move || command.output()).await??;
    let said = String::from_utf8_lossy(&fetched.stderr);
    if !fetched.status.success() {
        return Err(format!("the table was not fetched: {said}").into());
    }
    for line in said.lines() {
        writeln!(out, "  {line}")?;
    }
    for line in std::fs::read_to_string(&table)?.lines().take(SHOWN_LINES) {
        let shown: String = line.chars().take(SHOWN_WIDTH).collect();
        writeln!(out, "    {shown}")?;
    }
    out.flush()?;
    Ok(())
}

fn invite(out: &mut impl Write, root: &str, page: &str, journal: &Path) -> Result<(), BoxError> {
    let export = Uuid::new_v4();
    writeln!(out, "\nThe gateway serves on; end it with Ctrl-C. Its status page: {page}\nTry:")?;
    writeln!(
        out,
        "  curl -i -X POST '{root}/orgs/{ORG}/export?{VERSION}' -H 'Content-Type: application/vnd.api+json' \\\n    -d '{START}'"
    )?;
    writeln!(
        out,
        "  curl -i '{root}/orgs/{ORG}/export/ID-FROM-ABOVE?{VERSION}'        # six times: the last comes from the cache"
    )?;
    writeln!(out, "  curl -i '{root}/orgs/{ORG}/export/{export}?{VERSION}'   # unknown to Snyk")?;
    let program =
        std::env::current_exe().map_or_else(|_| "exportgate".to_owned(), |path| path.display().to_string());
    writeln!(out, "  {program} requests --journal {}", journal.display())?;
    Ok(())
}
