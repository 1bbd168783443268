//! `exportgate fetch`, as the real program.

mod codes;
mod direct;
mod kills;
mod outputs;
mod parts;
mod rig;
mod room;
pub(crate) mod stub;

use std::fmt::Write as _;
use std::path::Path;
use std::process::{Command, Output};

use tempfile::TempDir;

use crate::support::program::exportgate;
use crate::support::{ORG, artefacts};
use stub::StubGateway;

pub(crate) const GROUP: &str = "11111111-2222-4333-8444-555555555555";

pub(crate) fn sample(name: &str) -> Vec<u8> {
    let path =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("src/fake/store/samples").join(format!("{name}.csv"));
    std::fs::read(path).unwrap()
}

pub(crate) fn sha256(bytes: &[u8]) -> String {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes);
    digest.as_ref().iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// A folder in which `fetch` works, before one gateway.
pub(crate) struct Desk {
    pub(crate) home: TempDir,
    pub(crate) gateway: StubGateway,
}

impl Desk {
    pub(crate) fn before(gateway: StubGateway) -> Self {
        Self { home: TempDir::new().unwrap(), gateway }
    }

    /// The command for the issues of the tests' org, written to `issues.csv`.
    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = exportgate(self.home.path());
        command.current_dir(self.home.path()).env_remove("RUST_LOG");
        command.args(["fetch", "--via", &self.gateway.url, "--org", ORG, "--since", "30d"]).args(args);
        command
    }

    pub(crate) fn run(&self, args: &[&str]) -> Ran {
        Ran::of(self.command(args).output().unwrap())
    }

    pub(crate) fn file(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.home.path().join(name)).unwrap()
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        self.home.path().join(name).symlink_metadata().is_ok()
    }

    pub(crate) fn manifest(&self) -> serde_json::Value {
        serde_json::from_slice(&self.file("issues.csv.manifest.json")).unwrap()
    }
}

/// A run that has ended.
pub(crate) struct Ran {
    pub(crate) code: Option<i32>,
    pub(crate) out: Vec<u8>,
    pub(crate) err: String,
}

impl Ran {
    pub(crate) fn of(output: Output) -> Self {
        let err = String::from_utf8(output.stderr).unwrap();
        std::fs::write(artefacts().join(format!("fetch-{}.txt", uuid::Uuid::new_v4().simple())), &err)
            .unwrap();
        Self { code: output.status.code(), out: output.stdout, err }
    }

    #[track_caller]
    pub(crate) fn ended(self, code: i32, text: &str) -> Self {
        assert_eq!(self.code, Some(code), "{}", self.err);
        assert!(self.err.contains(text), "{}", self.err);
        self
    }
}
