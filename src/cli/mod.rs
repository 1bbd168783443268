//! The command line: one file for each subcommand, each with its `run`.

#![expect(clippy::doc_markdown, reason = "clap prints these comments as they are")]

mod admin;
mod check;
mod demo;
mod exports;
mod fake_snyk;
mod fetch;
mod key;
mod live;
mod purge;
mod recorded;
mod requests;
mod serve;
mod signals;
mod status;
mod transfers;

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
    /// Fetch an export as one complete, verified table.
    ///
    /// It starts the export, waits, downloads the parts, proves and merges them. A run that was stopped anywhere goes on with
    /// the same command, without a second start, unless its start call was on its way.
    Fetch(Box<fetch::FetchArgs>),
    /// Run an export through a gateway and a fake Snyk, and show each step.
    Demo(demo::DemoArgs),
    /// Find the request IDs of calls to Snyk in the journal, also while the gateway is stopped.
    Requests {
        #[command(flatten)]
        args: requests::RequestsArgs,
        #[command(flatten)]
        configured: Configured,
    },
    /// Find the transfers of files in the journal, also while the gateway is stopped.
    Transfers {
        #[command(flatten)]
        args: transfers::TransfersArgs,
        #[command(flatten)]
        configured: Configured,
    },
    /// Manage the journal of many gateways in one place.
    #[command(subcommand)]
    Journal(JournalCommand),
    /// Show the status of a running gateway: health, requests, budget, journal.
    Status(status::StatusArgs),
    /// List the named exports of a running gateway, and the exports in its cache.
    Exports(exports::ExportsArgs),
    /// Purge entries from the cache of a running gateway, and of all that share an engine with it.
    ///
    /// With a shared engine it names the gateways that have applied the purge, and, with exit code 1, those that have not.
    Purge(purge::PurgeArgs),
    /// Check the configuration and print it, redacted, with the source of each value.
    Check {
        /// Print an example file with every key, its default and a comment.
        #[arg(long)]
        example: bool,
        /// Send Snyk one request with each slot of each credential, to check token, region and clock
        #[arg(long, conflicts_with_all = ["example", "client"])]
        live: bool,
        /// Show whether the policy allows a request of this client, and which rule decides: METHOD PATH
        #[arg(long = "as", value_name = "CLIENT", requires = "request", conflicts_with = "example")]
        client: Option<String>,
        /// With --as: method and path of the request, such as GET /orgs/ID/export/ID
        #[arg(value_names = ["METHOD", "PATH"], num_args = 2, requires = "client")]
        request: Vec<String>,
        #[command(flatten)]
        configured: Configured,
    },
    /// Manage keys of clients.
    #[command(subcommand)]
    Key(key::KeyCommand),
    /// Run a fake Snyk, for trials and CI.
    FakeSnyk(fake_snyk::FakeSnykArgs),
    /// Generate shell completions.
    Completions {
        /// Shell to generate them for
        shell: clap_complete::Shell,
    },
    /// Write the manual pages to a directory.
    #[command(hide = true)]
    Man {
        /// The directory; created if missing
        directory: PathBuf,
    },
}

#[derive(Debug, Subcommand)]
enum JournalCommand {
    /// Print the SQL that makes the tables and roles for journal.ship_to (PostgreSQL 15 or newer).
    Schema,
}

/// Sources of the configuration. Flags override EXPORTGATE_… variables, and these override the file.
#[derive(Debug, Clone, Default, Args)]
struct Configured {
    /// Configuration file (TOML); see config/exportgate.example.toml [env: EXPORTGATE_CONFIG]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Address for clients; repeat for more. `unix:/path` is a Unix socket [env: EXPORTGATE_LISTEN]
    #[arg(long, value_name = "ADDR")]
    listen: Vec<String>,
    /// Root URL of Snyk's API, such as https://api.eu.snyk.io [env: EXPORTGATE_UPSTREAM_URL]
    #[arg(long, value_name = "URL")]
    upstream: Option<String>,
    /// SQLite file of the journal [env: EXPORTGATE_JOURNAL_PATH]
    #[arg(long, value_name = "PATH")]
    journal: Option<PathBuf>,
}

impl Configured {
    fn resolve(&self) -> Result<(Config, Resolved), Problems> {
        Config::resolve(&self.sources()?)
    }

    /// The journal to search: a file that is named by a flag, and else the database of many gateways where there is one.
    fn searched(&self) -> Result<crate::journal::Settings, Problems> {
        let settings = self.sources()?.journal()?;
        let ship = settings.ship.filter(|_| self.journal.is_none());
        Ok(crate::journal::Settings { ship, ..settings })
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

/// A subcommand failed.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// The configuration is not valid; exit code 2.
    #[error(transparent)]
    Problems(#[from] Problems),
    /// A check failed, and its output says so. Exit code 1.
    #[error("not good")]
    Refused,
    /// The settings are not safe on this machine; exit code 2.
    #[error("{0}")]
    Unsafe(&'static str, #[source] Box<dyn Error + Send + Sync>),
    /// The command has exit codes of its own.
    #[error("{text}")]
    Coded {
        /// The exit code.
        code: u8,
        /// The failure, with what to do.
        text: String,
    },
    /// Anything else; exit code 1.
    #[error("{0}")]
    Other(&'static str, #[source] Box<dyn Error + Send + Sync>),
}

fn cannot_write(error: std::io::Error) -> CommandError {
    CommandError::Other("cannot write", error.into())
}

/// A reader that has had enough (`| head`) is no failure.
fn closed<T: Default>(error: std::io::Error) -> std::io::Result<T> {
    if error.kind() == std::io::ErrorKind::BrokenPipe { Ok(T::default()) } else { Err(error) }
}

impl Cli {
    /// Runs the subcommand.
    ///
    /// # Errors
    /// [`CommandError`].
    pub fn run(self) -> Result<(), CommandError> {
        let mut out = anstream::stdout();
        match self.command {
            Command::Serve(configured) => {
                // Secrets are read after this.
                let denied = crate::hardening::harden();
                serve::run(configured, denied)
            }
            Command::Fetch(args) => fetch::run(*args),
            Command::Demo(args) => demo::run(&args),
            Command::Requests { args, configured } => {
                print(&mut out, &block_on(requests::run(&args, &configured.searched()?))?)
            }
            Command::Transfers { args, configured } => {
                print(&mut out, &block_on(transfers::run(&args, &configured.searched()?))?)
            }
            Command::Journal(JournalCommand::Schema) => print(&mut out, crate::journal::SCHEMA),
            Command::Check { client: Some(client), request, configured, .. } => {
                let config = configured.resolve()?.0;
                let [method, target] = request.as_slice() else { return Ok(()) };
                let now = crate::clock::Clock::system().now().wall;
                let request = check::DryRun { client: &client, method, target, now };
                let allowed = request.run(&config, &mut out).or_else(closed).map_err(cannot_write)?;
                if allowed { Ok(()) } else { Err(CommandError::Refused) }
            }
            Command::Check { live: true, configured, .. } => {
                let config = configured.resolve()?.0;
                let good = block_on(live::run(config, &mut out))?;
                if good { Ok(()) } else { Err(CommandError::Refused) }
            }
            Command::Check { example: true, .. } => print(&mut out, EXAMPLE),
            Command::Check { configured, .. } => print(&mut out, &check::listing(&configured.resolve()?.1)),
            Command::Key(key::KeyCommand::New(new)) => {
                key::run(&new, &mut out, &mut anstream::stderr()).map_err(cannot_write)
            }
            Command::Status(args) => print(&mut out, &block_on(status::run(&args))?),
            Command::Exports(args) => print(&mut out, &block_on(exports::run(&args))?),
            Command::Purge(args) => block_on(purge::run(&args, &mut out)),
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

fn print(out: &mut dyn std::io::Write, text: &str) -> Result<(), CommandError> {
    out.write_all(text.as_bytes()).or_else(closed).map_err(cannot_write)
}

/// Prints the error with its causes to standard error; gives the exit code.
#[must_use]
pub fn report(failure: &CommandError) -> ExitCode {
    if let CommandError::Refused = failure {
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
        CommandError::Problems(_) | CommandError::Unsafe(..) => ExitCode::from(2),
        CommandError::Coded { code, .. } => ExitCode::from(*code),
        CommandError::Refused | CommandError::Other(..) => ExitCode::FAILURE,
    }
}

/// A thread takes a task of the shared queue after this many of its own. Tasks that do not fit into a thread's own queue
/// (256) go to the shared one, and waited there for 200 ms with a thousand busy connections, while the others were served
/// again and again; tokio's own choice comes to some 20 here.
const SHARED_QUEUE: u32 = 3;

/// Runs `work` on a runtime with a thread for each core.
fn block_on<T>(work: impl Future<Output = Result<T, CommandError>>) -> Result<T, CommandError> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .global_queue_interval(SHARED_QUEUE)
        .build()
        .map_err(|error| CommandError::Other("no runtime", error.into()))?;
    let done = runtime.block_on(work);
    // A drain that gave up on some work must not wait for it here.
    runtime.shutdown_background();
    done
}
