//! The processes of a fleet on one machine: the engine, and the gateways. All of them end with the demo.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::Value;
use tokio::net::UnixStream;

use crate::cli::CommandError;
use crate::error_text::BoxError;
use crate::shared::SealKeys;

/// Engines that do, in the order in which they are looked for.
const ENGINES: [&str; 2] = ["valkey-server", "redis-server"];
const MISSING: &str = "the demo of several gateways needs valkey-server or redis-server (7.0 or later) on PATH; install one, such as by `apt-get install redis-server` or `brew install valkey`";
/// Exit code where the demo cannot begin.
const NOT_HERE: u8 = 2;
/// Pause between two looks whether a process is ready, and the number of looks.
const PAUSE: Duration = Duration::from_millis(20);
const LOOKS: usize = 1_000;

/// A process that is killed when it is dropped.
pub(super) struct OwnProcess(Child);

impl OwnProcess {
    fn start(command: &mut Command) -> io::Result<Self> {
        command.stdin(Stdio::null()).stdout(Stdio::null()).spawn().map(Self)
    }

    /// `kill -9`.
    pub(super) fn kill(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Drop for OwnProcess {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The engine of the machine.
pub(super) struct EngineProgram {
    program: &'static str,
    directory: PathBuf,
}

impl EngineProgram {
    /// Looks for one.
    pub(super) fn find(directory: &Path) -> Result<Self, CommandError> {
        let is_there = |program: &&str| Command::new(program).arg("--version").output().is_ok();
        let program = ENGINES.into_iter().find(is_there);
        let program = program.ok_or(CommandError::Coded { code: NOT_HERE, text: MISSING.to_owned() })?;
        Ok(Self { program, directory: directory.to_owned() })
    }

    /// Its name.
    pub(super) const fn name(&self) -> &'static str {
        self.program
    }

    fn socket(&self) -> PathBuf {
        self.directory.join("engine.sock")
    }

    /// Starts it, empty, on a socket that nobody else can reach.
    pub(super) async fn start(&self) -> Result<OwnProcess, BoxError> {
        let socket = self.socket();
        let _ = std::fs::remove_file(&socket);
        let mut command = Command::new(self.program);
        command.args(["--port", "0", "--save", "", "--appendonly", "no", "--unixsocketperm", "700"]);
        command.arg("--unixsocket").arg(&socket).arg("--dir").arg(&self.directory);
        let process = OwnProcess::start(command.stderr(Stdio::null()))?;
        for _ in 0..LOOKS {
            if UnixStream::connect(&socket).await.is_ok() {
                return Ok(process);
            }
            tokio::time::sleep(PAUSE).await;
        }
        Err(format!("{} does not listen", self.program).into())
    }
}

/// The settings that all gateways have.
pub(super) struct FleetSettings {
    directory: PathBuf,
    variables: Vec<(&'static str, String)>,
}

impl FleetSettings {
    /// Those of so many gateways on `engine`. Writes the key that seals what they share.
    pub(super) fn new(engine: &EngineProgram, gateways: usize, per_second: usize) -> Result<Self, BoxError> {
        let key_file = engine.directory.join("seal.key");
        let key = SealKeys::generate().ok_or("the system gives no random numbers")?;
        std::fs::write(&key_file, key.as_bytes())?;
        let variables = vec![
            ("RUST_LOG", "info".to_owned()),
            ("SNYK_TOKEN", "demo-token".to_owned()),
            ("EXPORTGATE_LISTEN", "127.0.0.1:0".to_owned()),
            ("EXPORTGATE_ADMIN_LISTEN", "127.0.0.1:0".to_owned()),
            ("EXPORTGATE_SHARED_URL", format!("unix:{}", engine.socket().display())),
            ("EXPORTGATE_SHARED_GATEWAYS", gateways.to_string()),
            ("EXPORTGATE_SHARED_KEY_FILE", key_file.display().to_string()),
            // Only the limit of a second is ever reached, so that the demo is over in seconds.
            ("EXPORTGATE_BUDGET_PER_SECOND", per_second.to_string()),
            ("EXPORTGATE_BUDGET_PER_MINUTE", (per_second * 60).to_string()),
            ("EXPORTGATE_BUDGET_PER_HOUR", (per_second * 3_600).to_string()),
        ];
        Ok(Self { directory: engine.directory.clone(), variables })
    }

    /// The Snyk that they ask.
    pub(super) fn upstream(&mut self, url: String, ca_pem: &str) -> io::Result<()> {
        let ca_file = self.directory.join("ca.pem");
        std::fs::write(&ca_file, ca_pem)?;
        self.variables.push(("EXPORTGATE_UPSTREAM_URL", url));
        self.variables.push(("EXPORTGATE_UPSTREAM_CA_FILE", ca_file.display().to_string()));
        Ok(())
    }

    /// Starts the gateway with this number, with a journal of its own.
    pub(super) async fn start(&self, number: usize) -> Result<(OwnProcess, GatewayPlaces), BoxError> {
        let home = self.directory.join(format!("gateway-{number}"));
        std::fs::create_dir(&home)?;
        let (log, journal) = (home.join("log"), home.join("journal.db"));
        let mut command = Command::new(std::env::current_exe()?);
        command.arg("serve").env_clear().env("HOME", &home).env("EXPORTGATE_JOURNAL_PATH", &journal);
        command.envs(self.variables.iter().map(|(name, value)| (name, value)));
        let mut process = OwnProcess::start(command.stderr(File::create(&log)?))?;
        for _ in 0..LOOKS {
            let said = std::fs::read_to_string(&log)?;
            if let (Some(root), Some(admin)) = (address(&said, "listening"), address(&said, "admin listener"))
            {
                return Ok((process, GatewayPlaces { root, admin, journal }));
            }
            if process.0.try_wait()?.is_some() {
                return Err(format!("gateway {number} ended: {}", said.trim()).into());
            }
            tokio::time::sleep(PAUSE).await;
        }
        Err(format!("gateway {number} does not listen").into())
    }
}

/// The addresses and the journal of a gateway.
pub(super) struct GatewayPlaces {
    pub(super) root: String,
    pub(super) admin: String,
    pub(super) journal: PathBuf,
}

/// The address in the event of a log that begins with `message`.
fn address(log: &str, message: &str) -> Option<String> {
    let event = |line: &str| serde_json::from_str::<Value>(line).ok();
    let is_wanted = |event: &Value| event["message"].as_str().is_some_and(|text| text.starts_with(message));
    let event = log.lines().filter_map(event).find(is_wanted)?;
    Some(format!("http://{}", event["server.address"].as_str()?))
}
