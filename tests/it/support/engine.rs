//! A real `redis-server` that a test starts, on a Unix socket of its own.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use exportgate::clock::Clock;
use exportgate::shared::{EngineAddress, FleetNews, Settings, Shared};
use tempfile::TempDir;

use super::artefacts;
use super::namespace::Namespace;
use super::raw::poll;

/// The password of the user that has the rights of the documents.
pub(crate) const PASSWORD: &str = "engine-passw0rd";

/// The rights of the gateways' user, as docs/operations.md tells them.
pub(crate) fn documented_rights() -> String {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/operations.md");
    let page = std::fs::read_to_string(page).unwrap();
    let (_, rest) = page.split_once("ACL SETUSER exportgate on >PASSWORD ").expect("the command");
    let (rights, _) = rest.split_once("```").expect("its end");
    rights.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// A running engine. Its user `exportgate` has the rights of the documents and no more; without a user there are all rights.
pub(crate) struct Engine {
    child: Option<Child>,
    directory: TempDir,
    arguments: Vec<String>,
    has_own_clock: bool,
    /// A network from which it is reached, besides its socket.
    network: Option<Arc<Namespace>>,
}

impl Engine {
    pub(crate) fn start(arguments: &[&str]) -> Self {
        Self::of(arguments, false, None)
    }

    /// One that is reached from a network of its own too.
    pub(crate) fn in_network(network: &Arc<Namespace>) -> Self {
        let arguments = ["--bind", &network.address, "--port", "6379", "--protected-mode", "no"];
        Self::of(&arguments, false, Some(Arc::clone(network)))
    }

    /// One whose clock can be set.
    pub(crate) fn with_own_clock() -> Self {
        Self::of(&[], true, None)
    }

    fn of(arguments: &[&str], has_own_clock: bool, network: Option<Arc<Namespace>>) -> Self {
        let directory = TempDir::new().unwrap();
        let arguments = arguments.iter().map(|text| (*text).to_owned()).collect();
        let mut engine = Self { child: None, directory, arguments, has_own_clock, network };
        if has_own_clock {
            engine.set_clock(0);
            let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/engine/clock.c");
            let mut compile = Command::new("cc");
            compile.args(["-shared", "-fPIC", "-o"]).arg(engine.clock_library()).arg(source);
            assert!(compile.status().expect("cc is missing: apt-get install build-essential").success());
        }
        engine.restart();
        engine
    }

    /// Starts it, empty.
    pub(crate) fn restart(&mut self) {
        let socket = self.socket();
        let _ = std::fs::remove_file(&socket);
        let log = artefacts().join(format!(
            "redis-{}-{}.log",
            std::process::id(),
            self.directory.path().file_name().unwrap().display()
        ));
        let server = "redis-server";
        let command = self.network.as_ref().map(|network| network.command(server));
        let mut command = command.unwrap_or_else(|| Command::new(server));
        command.args(["--port", "0", "--save", "", "--appendonly", "no", "--unixsocket"]).arg(&socket);
        let users = self.directory.path().join("users.acl");
        let rights = documented_rights();
        let text = format!("user default on nopass ~* &* +@all\nuser exportgate on >{PASSWORD} {rights}\n");
        std::fs::write(&users, text).unwrap();
        command
            .arg("--aclfile")
            .arg(&users)
            .arg("--dir")
            .arg(self.directory.path())
            .arg("--logfile")
            .arg(log)
            .args(&self.arguments);
        if self.has_own_clock {
            command.env("LD_PRELOAD", self.clock_library()).env("CLOCK_FILE", self.clock_file());
        }
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        self.child = Some(command.spawn().expect("redis-server is missing: apt-get install redis-server"));
        poll("the engine", || UnixStream::connect(&socket).ok());
    }

    pub(crate) fn url(&self) -> String {
        format!("unix:{}", self.socket().display())
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.directory.path().join("engine.sock")
    }

    /// A member of a fleet on it that has a connection.
    pub(crate) async fn joined(&self, set: impl FnOnce(&mut Settings)) -> Shared {
        let mut settings = Settings {
            address: EngineAddress::Unix(self.socket()),
            database: 0,
            user: String::new(),
            password_file: None,
            ca_file: None,
            identity: None,
            prefix: "exportgate".to_owned(),
            gateways: 4,
            silence: Duration::from_secs(10),
            timeout: Duration::from_secs(2),
            purge_wait: Duration::from_secs(2),
            key_file: None,
            seal: None,
            lease: Duration::from_secs(5),
            max_entry: 1024 * 1024,
        };
        set(&mut settings);
        let shared = Shared::new(settings, Clock::system(), "a split".to_owned());
        let (news, mut heard) = tokio::sync::mpsc::unbounded_channel();
        shared.on_news(move |one| drop(news.send(one)));
        tokio::spawn(shared.clone().run());
        while !matches!(heard.recv().await, Some(FleetNews::Up { .. })) {}
        shared
    }

    fn clock_file(&self) -> PathBuf {
        self.directory.path().join("clock")
    }

    fn clock_library(&self) -> PathBuf {
        self.directory.path().join("clock.so")
    }

    /// Sets its clock so many seconds ahead of the machine's.
    pub(crate) fn set_clock(&self, seconds: i64) {
        let mut file =
            OpenOptions::new().create(true).write(true).truncate(false).open(self.clock_file()).unwrap();
        file.write_all(&seconds.to_ne_bytes()).unwrap();
    }

    /// What a command answers.
    pub(crate) fn ask(&self, words: &[&str]) -> String {
        let mut command = Command::new("redis-cli");
        let output = command.arg("-s").arg(self.socket()).args(words).output().expect("redis-cli is there");
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }

    /// Writes all that is asked of it to a file, until the child is ended.
    pub(crate) fn monitor(&self, file: &Path) -> Child {
        let mut command = Command::new("redis-cli");
        command.arg("-s").arg(self.socket()).arg("MONITOR").stdout(std::fs::File::create(file).unwrap());
        let child = command.spawn().expect("redis-cli is there");
        poll("the monitor", || std::fs::read(file).is_ok_and(|text| !text.is_empty()).then_some(()));
        child
    }

    /// The files of its data.
    pub(crate) fn files(&self) -> Vec<PathBuf> {
        let of =
            |path: PathBuf| std::fs::read_dir(path).into_iter().flatten().map(|entry| entry.unwrap().path());
        let top = of(self.directory.path().to_owned());
        let log = of(self.directory.path().join("appendonlydir"));
        let is_data = |path: &PathBuf| {
            path.extension().is_some_and(|name| name == "rdb" || name == "aof")
                && path.metadata().unwrap().len() > 0
        };
        top.chain(log).filter(is_data).collect()
    }

    /// `kill -9`.
    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.as_ref().unwrap().id()
    }
}

/// Sends a signal, such as `STOP`.
pub(crate) fn signal(pid: u32, name: &str) {
    let sent = Command::new("kill").arg(format!("-{name}")).arg(pid.to_string()).status().unwrap();
    assert!(sent.success());
}

impl Drop for Engine {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            signal(child.id(), "CONT");
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
