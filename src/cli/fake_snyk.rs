//! `exportgate fake-snyk`.

use std::io::Write as _;
use std::net::SocketAddr;
use std::path::PathBuf;

use super::{CommandError, block_on, signals};
use crate::fake::{
    Fake, Fault, HashField, JobStatus, Lie, LinkForm, PartSource, Script, Settings, StoreFault, StoreScript,
    TagField, Target,
};
use crate::shutdown::Shutdown;

/// An org of the examples: the fake knows all.
const ORG: &str = "11111111-2222-4333-8444-555555555555";

#[derive(Debug, clap::Args)]
#[command(after_long_help = format!(
    "Faults: {}\n\nFaults of the store: {}\n\nLies: {}",
    Fault::forms(), StoreFault::forms(), Lie::forms()
))]
pub(super) struct FakeSnykArgs {
    /// Address to listen on
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:7090")]
    listen: SocketAddr,
    /// Use HTTP without TLS
    #[arg(long)]
    plain: bool,
    /// Write its certificate authority to this file
    #[arg(long, value_name = "FILE", conflicts_with = "plain")]
    ca_out: Option<PathBuf>,
    /// GETs that are answered PENDING before an export is finished
    #[arg(long, default_value_t = 2)]
    polls: u32,
    /// Least seconds until an export is finished
    #[arg(long, default_value_t = 0.0)]
    seconds: f64,
    /// Lifetime of links, in seconds
    #[arg(long, default_value_t = 3600)]
    link_seconds: u64,
    /// Answer to the job status of a finished export
    #[arg(long, value_enum, default_value_t = JobStatus::Inline)]
    job_status: JobStatus,
    /// Accept starts without a date filter
    #[arg(long)]
    accept_any_start: bool,
    /// Limit on start calls an hour; Snyk allows 20
    #[arg(long)]
    starts_per_hour: Option<u32>,
    /// Limit on requests a minute; Snyk allows 1620. Beyond it, all requests get 429 until a quiet minute
    #[arg(long)]
    requests_per_minute: Option<u32>,
    /// Add the fields that Snyk's edge adds: a weak ETag, an Expires of the same second, Server: envoy, Vary
    #[arg(long)]
    edge_fields: bool,
    /// Seconds by which Date is ahead of the clock that signs links
    #[arg(long, default_value_t = 0, allow_negative_numbers = true)]
    date_offset: i64,
    /// Make calls fail; repeat for more. *N: the next N calls. @TARGET: `starts`, an org or group (orgs/ID,
    /// groups/ID), an export (ID), or a path prefix (/v1/)
    #[arg(long = "fault", value_name = "FAULT[*N][@TARGET]")]
    faults: Vec<FaultPlan>,
    #[command(flatten)]
    store: StoreArgs,
}

/// The files behind the links.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Files")]
struct StoreArgs {
    /// Serve the .csv files of this folder as the parts of every export, in the order of their names
    #[arg(long, value_name = "DIR", conflicts_with_all = ["part_count", "part_size"])]
    parts: Option<PathBuf>,
    /// Number of parts of an export
    #[arg(long, value_name = "N", default_value_t = 2)]
    part_count: u32,
    /// Size of each part, in bytes; generated while they are read [default: an export of issues]
    #[arg(long, value_name = "BYTES")]
    part_size: Option<bytesize::ByteSize>,
    /// Store whose links are imitated
    #[arg(long, value_enum, default_value_t = LinkForm::GcsV4)]
    link_form: LinkForm,
    /// Scheme, host and port of the links instead of the fake's own
    #[arg(long, value_name = "ORIGIN")]
    link_origin: Option<String>,
    /// Hash of a file, in x-goog-hash
    #[arg(long, value_enum, default_value_t = HashField::OneLine)]
    hash: HashField,
    /// Entity tag of a file
    #[arg(long, value_enum, default_value_t = TagField::Strong)]
    etag: TagField,
    /// Make downloads fail; repeat for more. *N: the next N. @PART: this part alone
    #[arg(long = "store-fault", value_name = "FAULT[*N][@PART]")]
    store_faults: Vec<StoreFaultPlan>,
    /// Report false figures in the results; repeat for more
    #[arg(long = "lie", value_name = "LIE")]
    lies: Vec<Lie>,
}

impl StoreArgs {
    fn script(&self) -> std::io::Result<StoreScript> {
        let parts = match (&self.parts, self.part_size) {
            (Some(folder), _) => PartSource::folder(folder)?,
            (None, Some(size)) => PartSource::made_table(self.part_count, size.as_u64()),
            (None, None) => PartSource::issues(self.part_count),
        };
        let (origin, lies) = (self.link_origin.clone(), self.lies.clone());
        Ok(StoreScript { parts, origin, hash: self.hash, tag: self.etag, lies })
    }
}

/// A value of `--store-fault`.
#[derive(Debug, Clone)]
struct StoreFaultPlan {
    fault: StoreFault,
    times: Option<u32>,
    part: Option<u32>,
}

impl std::str::FromStr for StoreFaultPlan {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = |text: &str| text.parse::<u32>().map_err(|_| format!("{text}: expected a number"));
        // A URL may have these signs too.
        let (text, part) = match text.rsplit_once('@') {
            Some((fault, part)) if !part.contains('/') => (fault, Some(number(part)?)),
            _ => (text, None),
        };
        let (text, times) = match text.rsplit_once('*') {
            Some((fault, times)) => (fault, Some(number(times)?)),
            None => (text, None),
        };
        Ok(Self { fault: text.parse()?, times, part })
    }
}

/// A value of `--fault`.
#[derive(Debug, Clone)]
struct FaultPlan {
    fault: Fault,
    times: Option<u32>,
    target: Target,
}

impl std::str::FromStr for FaultPlan {
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
    let failed = |error: std::io::Error| CommandError::Other("the fake cannot start", error.into());
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
        link_form: args.store.link_form,
        store: args.store.script().map_err(failed)?,
        ..Script::default()
    };
    let settings = Settings { listen: args.listen, tls: !args.plain, script, ..Settings::default() };
    block_on(async {
        let shutdown = Shutdown::new();
        signals::receive(&shutdown, None).map_err(failed)?;
        let fake = Fake::start(settings).await.map_err(failed)?;
        for FaultPlan { fault, times, target } in args.faults.clone() {
            fake.fault_at(target, fault, times);
        }
        for StoreFaultPlan { fault, times, part } in args.store.store_faults.clone() {
            match part {
                Some(part) => fake.store_fault_at(part, fault, times),
                None => fake.store_fault(fault, times),
            }
        }
        let mut out = anstream::stdout();
        let mut say = |text: String| writeln!(out, "{text}").map_err(failed);
        say(format!("A fake Snyk listens on {} and takes any token.", fake.url()))?;
        if let Some(path) = &args.ca_out {
            std::fs::write(path, fake.ca_pem()).map_err(failed)?;
            // The commands are for another terminal, which may be in another folder.
            let path = std::path::absolute(path).map_err(failed)?;
            let ca = path.display();
            say(format!("Its certificate authority is in {ca}. Try:"))?;
            let trust = format!("EXPORTGATE_UPSTREAM_CA_FILE={ca} EXPORTGATE_FILES_CA_FILE={ca} ");
            say(format!(
                "  SNYK_TOKEN=any {trust}EXPORTGATE_FILES_ORIGINS={} exportgate serve --upstream {}",
                origin(args, &fake),
                fake.url()
            ))?;
            say(fetch_line(args, &fake, &trust))?;
        } else if args.plain {
            let origin = origin(args, &fake);
            say(format!(
                "Try:  SNYK_TOKEN=any EXPORTGATE_FILES_ORIGINS={origin} exportgate serve --upstream {}",
                fake.url()
            ))?;
            say(fetch_line(args, &fake, ""))?;
        } else {
            say("Give --ca-out FILE to be able to trust its certificate, or --plain to do without TLS."
                .to_owned())?;
        }
        shutdown.announced().await;
        say(format!("It answered {:?}.", fake.hits()))
    })
}

/// The origin of the links.
fn origin(args: &FakeSnykArgs, fake: &Fake) -> String {
    args.store.link_origin.clone().unwrap_or_else(|| fake.url())
}

/// A fetch that works before this fake.
fn fetch_line(args: &FakeSnykArgs, fake: &Fake, trust: &str) -> String {
    let url = fake.url();
    let origin = origin(args, fake);
    format!(
        "  SNYK_TOKEN=any {trust}EXPORTGATE_FILES_ORIGINS={origin} exportgate fetch --org {ORG} --since all --upstream {url}"
    )
}
