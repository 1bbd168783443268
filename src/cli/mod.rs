//! The command line: one file for each subcommand, each with its `run`.

#![expect(clippy::doc_markdown, reason = "clap prints these comments as they are")]

mod admin;
mod check;
mod demo;
mod exports;
mod fake_snyk;
mod key;
mod live;
mod purge;
mod requests;
mod serve;
mod signals;
mod status;

use std::error::Error;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, CommandFactory as _, Parser, Subcommand};

use crate::config::{Config, EXAMPLE, Problems, Resolved, Sources};

/// A caching gateway for Snyk's Export API.
///
/// Tools point at it instead of api.snyk.io and need no Snyk credential. With nothing but SNYK_TOKEN
/// in the environment, `exportgate serve` listens on `127.0.0.1:7080` and `[::1]:7080`.
#[derive(Debug, Parser)]
#[command(version, max_term_width = 100)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve clients until SIGTERM or Ctrl-C.
    Serve(Configured),
    /// Start a fake Snyk and a gateway, run an export through them, and show what happened.
    Demo(demo::Args),
    /// Find the request IDs of what was asked of Snyk, whether the gateway runs or not.
    Requests {
        #[command(flatten)]
        args: requests::Args,
        #[command(flatten)]
        configured: Configured,
    },
    /// Say how the gateway that runs stands: its parts, requests, budget, journal.
    Status(status::Args),
    /// List what the gateway that runs has stored.
    Exports(exports::Args),
    /// Have the gateway that runs forget what it has stored.
    Purge(purge::Args),
    /// Print the resolved configuration, redacted, with where each value came from.
    Check {
        /// Print an example file with every key, its default and what it does.
        #[arg(long)]
        example: bool,
        /// Ask Snyk once with each slot of each credential: whether token, region and clock are right
        #[arg(long, conflicts_with_all = ["example", "client"])]
        live: bool,
        /// Say what would happen to a request of this client, and which rule decides: METHOD PATH
        #[arg(long = "as", value_name = "CLIENT", requires = "request", conflicts_with = "example")]
        client: Option<String>,
        /// With --as: the method and the path, such as GET /orgs/ID/export/ID
        #[arg(value_names = ["METHOD", "PATH"], num_args = 2, requires = "client")]
        request: Vec<String>,
        #[command(flatten)]
        configured: Configured,
    },
    /// Make keys for clients.
    #[command(subcommand)]
    Key(key::Command),
    /// Run a scripted Snyk by itself, for trying things out and for CI.
    FakeSnyk(fake_snyk::Args),
    /// Print what makes a shell complete this command line.
    Completions {
        /// Which shell
        shell: clap_complete::Shell,
    },
    /// Write the manual pages into a directory.
    #[command(hide = true)]
    Man {
        /// Which; it is made where it is missing
        directory: PathBuf,
    },
}

/// Where the configuration comes from. Flags come before EXPORTGATE_… variables, these before the file.
#[derive(Debug, Clone, Default, Args)]
struct Configured {
    /// A TOML file; see config/exportgate.example.toml [env: EXPORTGATE_CONFIG]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Where to listen; repeat for more. `unix:/path` is a Unix socket [env: EXPORTGATE_LISTEN]
    #[arg(long, value_name = "ADDR")]
    listen: Vec<String>,
    /// The API's root, such as https://api.eu.snyk.io [env: EXPORTGATE_UPSTREAM_URL]
    #[arg(long, value_name = "URL")]
    upstream: Option<String>,
    /// The file with the records of requests [env: EXPORTGATE_JOURNAL_PATH]
    #[arg(long, value_name = "PATH")]
    journal: Option<PathBuf>,
}

impl Configured {
    fn resolve(&self) -> Result<(Config, Resolved), Problems> {
        Config::resolve(&self.sources()?)
    }

    fn sources(&self) -> Result<Sources, Problems> {
        let journal = self.journal.as_deref().map(Path::to_string_lossy);
        let mut flags = Vec::new();
        if !self.listen.is_empty() {
            flags.push(("listen", self.listen.join(","), "--listen"));
        }
        flags.extend(self.upstream.iter().map(|url| ("upstream.url", url.clone(), "--upstream")));
        flags.extend(journal.iter().map(|path| ("journal.path", path.to_string(), "--journal")));
        Sources::from_process(self.config.as_deref(), flags)
    }
}

/// Why a subcommand failed.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The configuration is not valid; exit code 2.
    #[error(transparent)]
    Problems(#[from] Problems),
    /// What was looked at is not good; it was said already. Exit code 1.
    #[error("not good")]
    Refused,
    /// What is set is not safe, or does not fit what is there; exit code 2.
    #[error("{0}")]
    Unsafe(&'static str, #[source] Box<dyn Error + Send + Sync>),
    /// Anything else; exit code 1.
    #[error("{0}")]
    Other(&'static str, #[source] Box<dyn Error + Send + Sync>),
}

fn cannot_write(error: std::io::Error) -> Failure {
    Failure::Other("cannot write", error.into())
}

/// Who reads may have had enough (`| head`): that is no failure.
fn closed<T: Default>(error: std::io::Error) -> std::io::Result<T> {
    if error.kind() == std::io::ErrorKind::BrokenPipe { Ok(T::default()) } else { Err(error) }
}

impl Cli {
    /// Runs the subcommand.
    ///
    /// # Errors
    /// [`Failure`].
    pub fn run(self) -> Result<(), Failure> {
        let mut out = anstream::stdout();
        match self.command {
            Command::Serve(configured) => {
                // Before the first secret is read.
                let denied = crate::hardening::harden();
                serve::run(configured, denied)
            }
            Command::Demo(args) => demo::run(&args),
            Command::Requests { args, configured } => {
                let journal = configured.sources()?.journal_path()?;
                let now = crate::clock::Clock::system().now().wall;
                requests::run(&args, &journal, &mut out, now)
                    .or_else(|error| if error.is_closed() { Ok(()) } else { Err(error) })
                    .map_err(|error| Failure::Other("the requests cannot be listed", error.into()))
            }
            Command::Check { client: Some(client), request, configured, .. } => {
                let config = configured.resolve()?.0;
                let [method, target] = request.as_slice() else { return Ok(()) };
                let now = crate::clock::Clock::system().now().wall;
                let asked = check::Asked { client: &client, method, target, now };
                let allowed =
                    check::dry_run(&config, &asked, &mut out).or_else(closed).map_err(cannot_write)?;
                if allowed { Ok(()) } else { Err(Failure::Refused) }
            }
            Command::Check { live: true, configured, .. } => {
                let config = configured.resolve()?.0;
                let good = block_on(live::run(config, &mut out))?;
                if good { Ok(()) } else { Err(Failure::Refused) }
            }
            Command::Check { example: true, .. } => print(&mut out, EXAMPLE),
            Command::Check { configured, .. } => print(&mut out, &check::listing(&configured.resolve()?.1)),
            Command::Key(key::Command::New(new)) => {
                key::run(&new, &mut out, &mut anstream::stderr()).map_err(cannot_write)
            }
            Command::Status(args) => print(&mut out, &block_on(status::run(&args))?),
            Command::Exports(args) => print(&mut out, &block_on(exports::run(&args))?),
            Command::Purge(args) => print(&mut out, &block_on(purge::run(&args))?),
            Command::FakeSnyk(args) => fake_snyk::run(&args),
            Command::Completions { shell } => {
                let mut script = Vec::new();
                clap_complete::generate(shell, &mut Self::command(), "exportgate", &mut script);
                print(&mut out, &String::from_utf8_lossy(&script))
            }
            Command::Man { directory } => std::fs::create_dir_all(&directory)
                .and_then(|()| clap_mangen::generate_to(Self::command(), &directory))
                .map_err(cannot_write),
        }
    }
}

fn print(out: &mut dyn std::io::Write, text: &str) -> Result<(), Failure> {
    out.write_all(text.as_bytes()).or_else(closed).map_err(cannot_write)
}

/// Prints the chain of what went wrong to standard error; gives the exit code.
#[must_use]
pub fn report(failure: &Failure) -> ExitCode {
    if let Failure::Refused = failure {
        return ExitCode::FAILURE;
    }
    let mut err = anstream::stderr();
    let style = anstyle::AnsiColor::Red.on_default().bold();
    let _ = write!(err, "{style}error:{style:#} {failure}");
    let mut cause = failure.source();
    while let Some(error) = cause {
        let _ = write!(err, ": {error}");
        cause = error.source();
    }
    let _ = writeln!(err);
    match failure {
        Failure::Problems(_) | Failure::Unsafe(..) => ExitCode::from(2),
        Failure::Refused | Failure::Other(..) => ExitCode::FAILURE,
    }
}

/// After so many tasks of its own a thread takes one of the queue that all share. What does not fit into its own queue
/// (256 tasks) goes there, and with a thousand busy connections waited for 200 ms while the others were served again and
/// again; tokio's own choice comes to some 20 here.
const SHARED_QUEUE: u32 = 3;

/// Runs `work` on a runtime with a thread for each core.
fn block_on<T>(work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .global_queue_interval(SHARED_QUEUE)
        .build()
        .map_err(|error| Failure::Other("no runtime", error.into()))?;
    let done = runtime.block_on(work);
    // What a drain did not wait for is not waited for here either.
    runtime.shutdown_background();
    done
}
