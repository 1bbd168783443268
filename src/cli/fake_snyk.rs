//! `exportgate fake-snyk`.

use std::io::Write as _;
use std::net::SocketAddr;
use std::path::PathBuf;

use super::{CommandError, block_on, signals};
use crate::fake::{Fake, Fault, JobStatus, Script, Settings, Target};
use crate::shutdown::Shutdown;

/// Options of the fake.
#[derive(Debug, clap::Args)]
#[command(after_long_help = format!("Faults: {}", Fault::forms()))]
pub(super) struct FakeSnykArgs {
    /// Where to listen
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:7090")]
    listen: SocketAddr,
    /// Speak plain HTTP instead of TLS
    #[arg(long)]
    plain: bool,
    /// Write the certificate to trust to this file
    #[arg(long, value_name = "FILE", conflicts_with = "plain")]
    ca_out: Option<PathBuf>,
    /// Exports are unfinished for so many GETs
    #[arg(long, default_value_t = 2)]
    polls: u32,
    /// And for so many seconds
    #[arg(long, default_value_t = 0.0)]
    seconds: f64,
    /// How long links live, in seconds
    #[arg(long, default_value_t = 3600)]
    link_seconds: u64,
    /// How the job status of a finished export is answered
    #[arg(long, value_enum, default_value_t = JobStatus::Inline)]
    job_status: JobStatus,
    /// Accept starts without a date filter
    #[arg(long)]
    accept_any_start: bool,
    /// Start calls an hour, as Snyk allows 20
    #[arg(long)]
    starts_per_hour: Option<u32>,
    /// Requests a minute, as Snyk allows 1620; over it, nobody is answered until a quiet minute
    #[arg(long)]
    requests_per_minute: Option<u32>,
    /// Add what an edge was seen to add: a weak ETag, an Expires of the same second, Server: envoy, Vary
    #[arg(long)]
    edge_fields: bool,
    /// Seconds that Date is ahead of the clock that links are signed by
    #[arg(long, default_value_t = 0, allow_negative_numbers = true)]
    date_offset: i64,
    /// Let calls go wrong; repeat for more. *N: the next N calls. @TARGET: `starts`, an org or group (orgs/ID,
    /// groups/ID), an export (ID), or calls whose path begins so (/v1/)
    #[arg(long = "fault", value_name = "FAULT[*N][@TARGET]")]
    faults: Vec<Plan>,
}

/// A value of `--fault`.
#[derive(Debug, Clone)]
struct Plan {
    fault: Fault,
    times: Option<u32>,
    target: Target,
}

impl std::str::FromStr for Plan {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (text, target) = match text.rsplit_once('@') {
            Some((fault, target)) => (fault, target.parse()?),
            None => (text, Target::All),
        };
        let (text, times) = match text.rsplit_once('*') {
            Some((fault, times)) => {
                (fault, Some(times.parse().map_err(|_| format!("{times}: expected a number"))?))
            }
            None => (text, None),
        };
        Ok(Self { fault: text.parse()?, times, target })
    }
}

pub(super) fn run(args: &FakeSnykArgs) -> Result<(), CommandError> {
    let script = Script {
        polls: args.polls,
        seconds: args.seconds,
        link_seconds: vec![args.link_seconds],
        starts_per_hour: args.starts_per_hour,
        requests_per_minute: args.requests_per_minute,
        job_status: args.job_status,
        accept_any_start: args.accept_any_start,
        edge_fields: args.edge_fields,
        date_offset: args.date_offset,
        ..Script::default()
    };
    let settings = Settings { listen: args.listen, tls: !args.plain, script, ..Settings::default() };
    block_on(async {
        let failed = |error: std::io::Error| CommandError::Other("the fake cannot start", error.into());
        let shutdown = Shutdown::new();
        signals::receive(&shutdown, None).map_err(failed)?;
        let fake = Fake::start(settings).await.map_err(failed)?;
        for Plan { fault, times, target } in args.faults.clone() {
            fake.fault_at(target, fault, times);
        }
        let mut out = anstream::stdout();
        let mut say = |text: String| writeln!(out, "{text}").map_err(failed);
        say(format!("A fake Snyk listens on {} and takes any token.", fake.url()))?;
        if let Some(path) = &args.ca_out {
            std::fs::write(path, fake.ca_pem()).map_err(failed)?;
            say(format!("Its certificate authority is in {}. Try:", path.display()))?;
            say(format!(
                "  SNYK_TOKEN=any EXPORTGATE_UPSTREAM_CA_FILE={} exportgate serve --upstream {}",
                path.display(),
                fake.url()
            ))?;
        } else if args.plain {
            say(format!("Try:  SNYK_TOKEN=any exportgate serve --upstream {}", fake.url()))?;
        } else {
            say("Give --ca-out FILE to be able to trust its certificate, or --plain to do without TLS."
                .to_owned())?;
        }
        shutdown.announced().await;
        say(format!("It answered {:?}.", fake.hits()))
    })
}
