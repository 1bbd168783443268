//! A real `redis-server` that a test starts, on a Unix socket of its own.

use std::fs::OpenOptions;
use std::io::Read as _;
use std::io::Write as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tempfile::TempDir;

use super::artefacts;
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
}

impl Engine {
    pub(crate) fn start(arguments: &[&str]) -> Self {
        Self::of(arguments, false)
    }

    /// One whose clock can be set.
    pub(crate) fn with_own_clock() -> Self {
        Self::of(&[], true)
    }

    fn of(arguments: &[&str], has_own_clock: bool) -> Self {
        let directory = TempDir::new().unwrap();
        let arguments = arguments.iter().map(|text| (*text).to_owned()).collect();
        let mut engine = Self { child: None, directory, arguments, has_own_clock };
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
        let mut command = Command::new("redis-server");
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

    fn socket(&self) -> PathBuf {
        self.directory.path().join("engine.sock")
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

/// The way of one gateway to an engine, which can be cut: then nothing goes through, and nobody is told.
pub(crate) struct Way {
    directory: TempDir,
    is_cut: Arc<AtomicBool>,
}

impl Way {
    pub(crate) fn to(engine: &Engine) -> Self {
        let way = Self { directory: TempDir::new().unwrap(), is_cut: Arc::default() };
        let listener = UnixListener::bind(way.socket()).unwrap();
        let (is_cut, engine) = (Arc::clone(&way.is_cut), engine.socket());
        std::thread::spawn(move || {
            for gateway in listener.incoming().map_while(Result::ok) {
                let Ok(engine) = UnixStream::connect(&engine) else { continue };
                let ends = (gateway.try_clone().unwrap(), engine.try_clone().unwrap());
                for (from, to) in [(gateway, engine), (ends.1, ends.0)] {
                    let is_cut = Arc::clone(&is_cut);
                    std::thread::spawn(move || carry(from, to, &is_cut));
                }
            }
        });
        way
    }

    fn socket(&self) -> PathBuf {
        self.directory.path().join("way.sock")
    }

    pub(crate) fn url(&self) -> String {
        format!("unix:{}", self.socket().display())
    }

    pub(crate) fn cut(&self, is_cut: bool) {
        self.is_cut.store(is_cut, Ordering::SeqCst);
    }
}

/// Carries bytes until one end is closed; what comes while the way is cut arrives after that.
fn carry(mut from: UnixStream, mut to: UnixStream, is_cut: &AtomicBool) {
    let mut bytes = [0; 4_096];
    while let Ok(count) = from.read(&mut bytes) {
        while is_cut.load(Ordering::SeqCst) {
            std::thread::park_timeout(Duration::from_millis(10));
        }
        if count == 0 || to.write_all(&bytes[..count]).is_err() {
            break;
        }
    }
    let _ = (from.shutdown(std::net::Shutdown::Both), to.shutdown(std::net::Shutdown::Both));
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
