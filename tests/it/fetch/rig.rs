//! `exportgate fetch` before a real gateway, and that before a real fake Snyk: three processes.

use std::process::Command;

use exportgate::fake::PartSource;
use tempfile::TempDir;

use crate::support::program::{FakeProgram, Program, exportgate};
use crate::support::{ORG, TOKEN, keep_file};

/// Parts of an export, and the size of each.
const PARTS: u32 = 3;
const PART_SIZE: u64 = 1_500_000;

/// The three of them; the fetch works in `home`.
pub(crate) struct Rig {
    pub(crate) home: TempDir,
    gateway: Program,
    fake: FakeProgram,
}

impl Rig {
    /// With these options of the fake's.
    pub(crate) fn with(args: &[&str]) -> Self {
        let home = TempDir::new().unwrap();
        let (count, size) = (PARTS.to_string(), PART_SIZE.to_string());
        let parts = ["--polls", "1", "--part-count", &count, "--part-size", &size];
        let fake = FakeProgram::start(home.path(), &[&parts[..], args].concat());
        let gateway = Program::serve_before(home.path(), &fake);
        Self { home, gateway, fake }
    }

    /// The fetch, by way of this shell script, where there is one.
    pub(crate) fn command(&self, script: Option<&str>, args: &[&str]) -> Command {
        let mut command = exportgate(self.home.path());
        if let Some(script) = script {
            let program = command.get_program().to_owned();
            command = Command::new("bash");
            command.env_clear().env("HOME", self.home.path()).args(["-c", script]).arg(program);
        }
        let via = format!("http://{}", self.gateway.address);
        command.current_dir(self.home.path()).env_remove("RUST_LOG");
        command.args(["fetch", "--via", &via, "--org", ORG, "--since", "30d"]).args(args);
        command
    }

    /// The table of all parts.
    pub(crate) fn table() -> Vec<u8> {
        let parts: Vec<_> =
            PartSource::made_table(PARTS, PART_SIZE).iter().map(PartSource::to_bytes).collect();
        let header = parts[0].iter().position(|byte| *byte == b'\n').unwrap() + 1;
        let part = |(at, part): (usize, &bytes::Bytes)| part[if at == 0 { 0 } else { header }..].to_vec();
        parts.iter().enumerate().flat_map(part).collect()
    }

    pub(crate) fn read(&self, name: &str) -> Option<Vec<u8>> {
        std::fs::read(self.home.path().join(name)).ok()
    }

    /// True if each part has come whole.
    pub(crate) fn has_all_parts(&self) -> bool {
        let state = self.home.path().join(".issues.csv.exportgate");
        (1..=PARTS).all(|part| state.join(format!("part-{part:05}.csv")).exists())
    }

    /// Asserts that no file of the state, and no manifest, has a link or the credential.
    pub(crate) fn assert_no_secret(&self) {
        let state = std::fs::read_dir(self.home.path().join(".issues.csv.exportgate"));
        let state = state.into_iter().flatten().flatten().map(|entry| entry.path());
        for path in state.chain([self.home.path().join("issues.csv.manifest.json")]) {
            let Ok(bytes) = std::fs::read(&path) else { continue };
            let text = String::from_utf8_lossy(&bytes);
            assert!(!text.contains("Signature") && !text.contains(TOKEN), "{}", path.display());
            keep_file(&path);
        }
    }

    /// Ends all; the number of starts that the fake counted.
    pub(crate) fn starts(self) -> u64 {
        self.fake.starts()
    }
}
