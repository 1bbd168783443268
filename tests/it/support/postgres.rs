//! A real `PostgreSQL` that a test starts, on a Unix socket of its own. It does not run as root: there it runs as `nobody`.

use std::fs::Permissions;
use std::net::TcpListener;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

use super::engine::signal;
use super::pki::Authority;
use super::raw::poll;
use super::{artefacts, keep_secret};

const BIN: &str = "/usr/lib/postgresql/15/bin";
const NOBODY: u32 = 65_534;
/// Who owns the tables.
const OWNER: &str = "owner";
/// Each kind of login needs what `pg_hba.conf` says.
const HBA: &str =
    "local all owner trust\nlocal all all scram-sha-256\nhostssl all all 127.0.0.1/32 scram-sha-256\n";

/// A running server with the tables of exportgate, and a login `gate` that may write to them.
pub(crate) struct Postgres {
    child: Option<Child>,
    directory: TempDir,
    arguments: Vec<String>,
    password: String,
    port: u16,
}

impl Postgres {
    pub(crate) fn start() -> Self {
        let server = Self::empty(&[]);
        let schema =
            Command::new(env!("CARGO_BIN_EXE_exportgate")).args(["journal", "schema"]).output().unwrap();
        server.sql(&String::from_utf8(schema.stdout).unwrap());
        server.sql("GRANT exportgate_writer TO gate");
        server
    }

    /// One without tables.
    pub(crate) fn empty(arguments: &[&str]) -> Self {
        let password = format!("pg-{}", uuid::Uuid::new_v4().simple());
        keep_secret([password.clone()]);
        let directory = TempDir::new().unwrap();
        let arguments = arguments.iter().map(|text| (*text).to_owned()).collect();
        let mut server = Self { child: None, directory, arguments, password, port: 5432 };
        std::fs::write(server.password_file(), &server.password).unwrap();
        if is_root() {
            chown(server.directory.path(), Some(NOBODY), Some(NOBODY)).unwrap();
        }
        let mut initdb = server.command("initdb");
        initdb
            .args(["-U", OWNER, "-E", "UTF8", "--locale=C", "--no-sync", "-A", "trust", "-D"])
            .arg(server.data());
        let made = initdb.output().expect("PostgreSQL 15 is missing: apt-get install postgresql-15");
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        std::fs::write(server.data().join("pg_hba.conf"), HBA).unwrap();
        server.restart();
        server.sql(&format!("CREATE DATABASE audit; CREATE ROLE gate LOGIN PASSWORD '{}'", server.password));
        server
    }

    /// Starts it, with what is there.
    pub(crate) fn restart(&mut self) {
        let log = std::fs::File::create(artefacts().join(format!("postgres-{}.log", uuid::Uuid::new_v4())))
            .unwrap();
        let mut command = self.command("postgres");
        command.arg("-D").arg(self.data()).arg("-k").arg(self.directory.path());
        command.arg("-p").arg(self.port.to_string()).args(["-c", "listen_addresses="]);
        for argument in &self.arguments {
            command.args(["-c", argument]);
        }
        self.child = Some(command.stderr(log).spawn().expect("PostgreSQL starts"));
        poll("PostgreSQL", || self.psql("postgres", "SELECT 1").ok());
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(Path::new(BIN).join(program));
        command.env_clear().current_dir(self.directory.path()).stdin(Stdio::null()).stdout(Stdio::null());
        if is_root() {
            command.uid(NOBODY).gid(NOBODY);
        }
        command
    }

    pub(crate) fn data(&self) -> PathBuf {
        self.directory.path().join("data")
    }

    /// A file with the password of `gate`, for the gateway.
    pub(crate) fn password_file(&self) -> PathBuf {
        self.directory.path().join("password")
    }

    pub(crate) fn password(&self) -> &str {
        &self.password
    }

    pub(crate) fn url(&self) -> String {
        format!("postgresql://gate@:{}/audit?host={}", self.port, self.directory.path().display())
    }

    /// Starts it anew with a certificate of `authority`, for TLS on a port.
    pub(crate) fn serve_tls(&mut self, authority: &Authority) {
        self.stop("INT");
        let server = authority.server();
        let files = [
            ("ca.pem", authority.pem()),
            ("server.pem", server.certificate_pem),
            ("server.key", server.key_pem),
        ];
        for (name, content) in files {
            let path = self.data().join(name);
            std::fs::write(&path, content).unwrap();
            std::fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
            if is_root() {
                chown(&path, Some(NOBODY), Some(NOBODY)).unwrap();
            }
        }
        self.port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let more =
            ["listen_addresses=127.0.0.1", "ssl=on", "ssl_cert_file=server.pem", "ssl_key_file=server.key"];
        self.arguments.extend(more.map(str::to_owned));
        self.restart();
    }

    pub(crate) fn tls_url(&self) -> String {
        format!("postgresql://gate@127.0.0.1:{}/audit", self.port)
    }

    /// The variables by which a gateway ships to it.
    pub(crate) fn variables(&self) -> [(&'static str, String); 3] {
        [
            ("EXPORTGATE_JOURNAL_SHIP_TO", self.url()),
            ("EXPORTGATE_JOURNAL_SHIP_PASSWORD_FILE", self.password_file().display().to_string()),
            ("EXPORTGATE_JOURNAL_SHIP_TIMEOUT", "1s".to_owned()),
        ]
    }

    fn psql(&self, database: &str, sql: &str) -> Result<String, String> {
        let mut psql = Command::new(Path::new(BIN).join("psql"));
        psql.env_clear().args(["-XqAt", "-v", "ON_ERROR_STOP=1", "-U", OWNER, "-d", database, "-c", sql]);
        psql.arg("-p").arg(self.port.to_string()).arg("-h");
        let output = psql.arg(self.directory.path()).stdin(Stdio::null()).output().unwrap();
        let text = |bytes| String::from_utf8_lossy(bytes).trim().to_owned();
        if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
    }

    /// The answer to a statement of the owner's.
    pub(crate) fn sql(&self, sql: &str) -> String {
        let database = if sql.contains("CREATE DATABASE") { "postgres" } else { "audit" };
        // A database is made outside of a transaction.
        let statements: Vec<&str> =
            if database == "postgres" { sql.split("; ").collect() } else { vec![sql] };
        let mut answer = String::new();
        for statement in statements {
            answer = self.psql(database, statement).unwrap_or_else(|error| panic!("{error}: {statement}"));
        }
        answer
    }

    /// The same as `gate`, who may not do everything.
    pub(crate) fn sql_as_gate(&self, sql: &str) -> Result<String, String> {
        self.psql("audit", &format!("SET ROLE gate; {sql}"))
    }

    fn pid(&self) -> u32 {
        self.child.as_ref().expect("it runs").id()
    }

    /// Sends a signal to the server and its children, which are in no group with it.
    pub(crate) fn signal_all(&self, name: &str) {
        signal(self.pid(), name);
        let children = Command::new("pgrep").arg("-P").arg(self.pid().to_string()).output().unwrap();
        for child in String::from_utf8_lossy(&children.stdout).split_whitespace() {
            // It may have ended since.
            let _ = Command::new("kill").args([&format!("-{name}"), child]).stderr(Stdio::null()).status();
        }
    }

    /// Ends it at once, without a checkpoint (`QUIT`), or in order (`INT`).
    pub(crate) fn stop(&mut self, name: &str) {
        if let Some(mut child) = self.child.take() {
            signal(child.id(), name);
            child.wait().unwrap();
        }
    }
}

/// Only root may own what others do not.
fn is_root() -> bool {
    use std::os::unix::fs::MetadataExt as _;
    std::fs::metadata("/proc/self").unwrap().uid() == 0
}

impl Drop for Postgres {
    fn drop(&mut self) {
        if self.child.is_some() {
            self.signal_all("CONT");
            self.stop("QUIT");
        }
    }
}
