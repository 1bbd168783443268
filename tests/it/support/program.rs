//! The real program, as a user starts it.

use std::io::{BufRead, BufReader, Read as _};
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

fn prepare(command: &mut Command, home: &Path, ca_pem: &str, env: &[(&str, &str)]) {
    keep_token_secret();
    let ca = home.join("ca.pem");
    std::fs::write(&ca, ca_pem).expect("a CA file");
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
        Self::start(command, home, fake.ca_pem(), env)
    }

    /// The command that serves before `fake` with these variables; its log is a pipe.
    pub(crate) fn command(home: &Path, fake: &Fake, env: &[(&str, &str)]) -> Command {
        let mut command = exportgate(home);
        command.args(["serve", "--listen", "127.0.0.1:0", "--upstream", &fake.url()]);
        prepare(&mut command, home, fake.ca_pem(), env);
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
        Self::start(command, home, fake.ca_pem(), env)
    }

    /// Starts it before a fake that is a process too, and lets it ask the fake's store.
    pub(crate) fn serve_before(home: &Path, fake: &FakeProgram) -> Self {
        let mut command = exportgate(home);
        command.args(["serve", "--listen", "127.0.0.1:0", "--upstream", &fake.url]);
        let ca = home.join("ca.pem").display().to_string();
        let env = [("EXPORTGATE_FILES_CA_FILE", ca.as_str()), ("EXPORTGATE_FILES_ORIGINS", &fake.url)];
        Self::start(command, home, &fake.ca_pem, &env)
    }

    fn start(mut command: Command, home: &Path, ca_pem: &str, env: &[(&str, &str)]) -> Self {
        prepare(&mut command, home, ca_pem, env);
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

/// A running `exportgate fake-snyk`.
pub(crate) struct FakeProgram {
    child: Child,
    pub(crate) url: String,
    ca_pem: String,
    said: BufReader<std::process::ChildStdout>,
}

impl FakeProgram {
    pub(crate) fn start(home: &Path, args: &[&str]) -> Self {
        let ca = home.join("fake.pem");
        let mut command = exportgate(home);
        command.args(["fake-snyk", "--listen", "127.0.0.1:0", "--ca-out"]).arg(&ca).args(args);
        let mut child = command.stdout(Stdio::piped()).spawn().expect("the fake starts");
        let mut said = BufReader::new(child.stdout.take().expect("its standard output"));
        let mut lines = String::new();
        // The second line comes when the certificate is written.
        while lines.lines().count() < 2 {
            assert!(said.read_line(&mut lines).expect("a line") > 0, "{lines}");
        }
        let url = lines.split_whitespace().find(|word| word.starts_with("https://")).expect("its address");
        let ca_pem = std::fs::read_to_string(ca).expect("its certificate");
        Self { child, url: url.to_owned(), ca_pem, said }
    }

    /// Ends it; the number of start calls that it answered.
    pub(crate) fn starts(mut self) -> u64 {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &pid]).status().expect("kill runs").success());
        let mut rest = String::new();
        self.said.read_to_string(&mut rest).expect("its last words");
        let count = rest.split_once("start: ").and_then(|(_, rest)| rest.split(',').next());
        count.and_then(|count| count.parse().ok()).unwrap_or_else(|| panic!("no count: {rest}"))
    }
}

impl Drop for FakeProgram {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
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
