//! `exportgate fake-snyk`.

use std::io::Write as _;
use std::net::SocketAddr;
use std::path::PathBuf;

use super::{Failure, block_on, stop_on_signal};
use crate::fake::{Fake, Script, Settings};
use crate::shutdown::Shutdown;

/// Options of the fake.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
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
    /// Start calls an hour, as Snyk allows 20
    #[arg(long)]
    starts_per_hour: Option<u32>,
    /// Requests a minute, as Snyk allows 1620; over it, nobody is answered until a quiet minute
    #[arg(long)]
    requests_per_minute: Option<u32>,
}

pub(super) fn run(args: &Args) -> Result<(), Failure> {
    let script = Script {
        polls: args.polls,
        seconds: args.seconds,
        link_seconds: vec![args.link_seconds],
        starts_per_hour: args.starts_per_hour,
        requests_per_minute: args.requests_per_minute,
        ..Script::default()
    };
    let settings = Settings { listen: args.listen, tls: !args.plain, script, ..Settings::default() };
    block_on(async {
        let failed = |error: std::io::Error| Failure::Other("the fake cannot start", error.into());
        let shutdown = Shutdown::new();
        stop_on_signal(&shutdown, || {}).map_err(failed)?;
        let fake = Fake::start(settings).await.map_err(failed)?;
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
