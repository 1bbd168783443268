//! The real program, as a user starts it.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use exportgate::fake::Fake;

use super::{TOKEN, artefacts, keep_token_secret};

/// A running `exportgate serve`.
pub(crate) struct Program {
    pub(crate) child: Child,
    pub(crate) address: SocketAddr,
    reader: Option<std::thread::JoinHandle<()>>,
}

/// `exportgate` with nothing of this process's environment but what it needs.
pub(crate) fn exportgate(home: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_exportgate"));
    command.env_clear().env("HOME", home).env("RUST_LOG", "trace").stdin(Stdio::null());
    command
}

fn prepare(command: &mut Command, home: &Path, fake: &Fake, env: &[(&str, &str)]) {
    keep_token_secret();
    let ca = home.join("ca.pem");
    std::fs::write(&ca, fake.ca_pem()).expect("a CA file");
    if !env.iter().any(|(name, _)| name.starts_with("EXPORTGATE_CREDENTIAL")) {
        command.env("SNYK_TOKEN", TOKEN);
    }
    command.env("EXPORTGATE_ADMIN_LISTEN", "127.0.0.1:0").env("EXPORTGATE_UPSTREAM_CA_FILE", &ca);
    command.envs(env.iter().copied()).stderr(Stdio::piped());
}

impl Program {
    /// Starts it before `fake`, with `args`, and waits until it listens.
    pub(crate) fn serve(home: &Path, fake: &Fake, args: &[&str], env: &[(&str, &str)]) -> Self {
        let mut command = exportgate(home);
        command.args(["serve", "--listen", "127.0.0.1:0", "--upstream", &fake.url()]).args(args);
        Self::start(command, home, fake, env)
    }

    /// The command that serves before `fake` with these variables; its log is a pipe.
    pub(crate) fn command(home: &Path, fake: &Fake, env: &[(&str, &str)]) -> Command {
        let mut command = exportgate(home);
        command.args(["serve", "--listen", "127.0.0.1:0", "--upstream", &fake.url()]);
        prepare(&mut command, home, fake, env);
        command
    }

    /// Starts it where `EXPORTGATE_LISTEN` says; by way of bash's `script`, where there is one.
    pub(crate) fn serve_at(home: &Path, fake: &Fake, script: Option<&str>, env: &[(&str, &str)]) -> Self {
        let mut command = exportgate(home);
        if let Some(script) = script {
            command = Command::new("bash");
            command.env_clear().env("HOME", home).env("RUST_LOG", "trace").stdin(Stdio::null());
            command.args(["-c", script, env!("CARGO_BIN_EXE_exportgate")]);
        }
        command.args(["serve", "--upstream", &fake.url()]);
        Self::start(command, home, fake, env)
    }

    fn start(mut command: Command, home: &Path, fake: &Fake, env: &[(&str, &str)]) -> Self {
        prepare(&mut command, home, fake, env);
        let mut child = command.spawn().expect("the program starts");
        let stderr = BufReader::new(child.stderr.take().expect("its standard error"));
        let (listening, address) = mpsc::channel();
        let log = log_of(&child);
        let reader = std::thread::spawn(move || {
            use std::io::Write as _;
            let mut log = std::fs::File::create(log).expect("a log file");
            for line in stderr.lines().map_while(Result::ok) {
                let event: Option<serde_json::Value> = serde_json::from_str(&line).ok();
                if let Some(event) = event.filter(|event| event["message"] == "listening") {
                    let address = event["server.address"].as_str();
                    let address = address.and_then(|text| text.trim_start_matches("tls:").parse().ok());
                    // A Unix socket has no such address.
                    let _ = address.map(|address| listening.send(address));
                }
                writeln!(log, "{line}").expect("the log is kept");
            }
        });
        let address = address.recv_timeout(Duration::from_secs(30)).expect("it listens");
        Self { child, address, reader: Some(reader) }
    }

    /// Where it is looked after.
    pub(crate) fn admin(&self) -> SocketAddr {
        let line = super::raw::poll("the admin listener", || {
            let log = std::fs::read_to_string(self.log()).ok()?;
            log.lines().find(|line| line.contains("admin listener: ")).map(str::to_owned)
        });
        let event: serde_json::Value = serde_json::from_str(&line).expect("an event");
        let address = event["server.address"].as_str().expect("an address").trim_start_matches("tls:");
        address.parse().expect("an address")
    }

    /// Where its log is kept.
    pub(crate) fn log(&self) -> PathBuf {
        log_of(&self.child)
    }

    /// `kill -9`.
    pub(crate) fn kill(&mut self) {
        self.child.kill().expect("it is killed");
        self.child.wait().expect("it is gone");
    }

    /// SIGTERM; its exit code.
    pub(crate) fn terminate(&mut self) -> Option<i32> {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &pid]).status().expect("kill runs").success());
        let code = self.child.wait().expect("it ends").code();
        // All that it said is in its log from here on.
        if let Some(reader) = self.reader.take() {
            let _ = reader.join();
        }
        code
    }
}

fn log_of(child: &Child) -> PathBuf {
    artefacts().join(format!("program-{}.log", child.id()))
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if let Some(reader) = self.reader.take() {
            let _ = reader.join();
        }
    }
}
