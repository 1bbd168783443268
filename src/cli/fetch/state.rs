//! The state of a run that has not ended: a folder beside the output, for its user alone, and locked while somebody works on
//! it. The lock ends with the process, so that none is left behind.

use std::fs::{DirBuilder, File, TryLockError};
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::Value;

use super::caller::CallNote;
use super::failure::{Ending, EndingKind};
use super::own_file;
use super::question::FetchQuestion;
use crate::export::Id;

/// Age from which an export that was not fetched to its end is not gone on with: its rows are old.
const MAX_AGE: Duration = Duration::from_hours(12);
const STATE: &str = "state.json";
const LOCK: &str = "lock";
const CALLS: &str = "calls.jsonl";

/// The state of a run, as it is on the disk.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct RunState {
    /// The question as it was typed.
    pub(super) typed: Value,
    /// The body that is or was sent.
    pub(super) body: Value,
    /// Seconds since 1970.
    pub(super) started: u64,
    /// True from before the start call is sent.
    pub(super) is_start_sent: bool,
    pub(super) export: Option<String>,
    /// The scope of the export of a name.
    #[serde(default)]
    pub(super) scope: Option<String>,
}

/// The folder, locked.
#[derive(Debug)]
pub(super) struct StateFolder {
    path: PathBuf,
    _lock: File,
}

/// The folder with the state that was found in it.
#[derive(Debug)]
pub(super) struct OpenedState {
    pub(super) folder: StateFolder,
    pub(super) state: RunState,
    /// The reason why earlier work is not gone on with.
    pub(super) note: Option<String>,
}

pub(super) fn seconds(at: SystemTime) -> u64 {
    at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs()
}

impl RunState {
    pub(super) fn new(question: &FetchQuestion, now: SystemTime) -> Self {
        Self {
            typed: question.typed.clone(),
            body: question.start.as_ref().map_or(Value::Null, |start| start.body.clone()),
            started: seconds(now),
            is_start_sent: false,
            export: question.export.clone(),
            scope: None,
        }
    }

    /// The time of the start.
    pub(super) fn started(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(self.started)
    }
}

impl OpenedState {
    /// Opens the folder at `path` for `question`.
    pub(super) fn open(
        path: &Path,
        question: &FetchQuestion,
        is_restart: bool,
        now: SystemTime,
    ) -> Result<Self, Ending> {
        let folder = StateFolder::open(path)?;
        if is_restart {
            folder.clear().map_err(|error| Ending::of_file(path, &error))?;
        }
        let fresh = RunState::new(question, now);
        // The id is shown on a terminal.
        let is_sound = |state: &RunState| state.export.as_deref().is_none_or(|id| Id::parse(id).is_some());
        let Some(state) = folder.load::<RunState>(STATE).filter(is_sound) else {
            folder.clear().map_err(|error| Ending::of_file(path, &error))?;
            return Ok(Self { folder, state: fresh, note: None });
        };
        if state.typed != question.typed {
            return Err(Ending::usage(format!(
                "{} has unfinished work for another question: finish it with its own command, name another output, or give --restart to begin anew",
                path.display()
            )));
        }
        let age = Duration::from_secs(fresh.started.saturating_sub(state.started));
        if age > MAX_AGE && question.export.is_none() {
            folder.clear().map_err(|error| Ending::of_file(path, &error))?;
            let hours = age.as_secs() / 3600;
            let note = format!("the unfinished export is {hours} hours old; this run begins anew");
            return Ok(Self { folder, state: fresh, note: Some(note) });
        }
        Ok(Self { folder, state, note: None })
    }
}

impl StateFolder {
    fn open(path: &Path) -> Result<Self, Ending> {
        let failed = |error: io::Error| Ending::of_file(path, &error);
        loop {
            match DirBuilder::new().mode(0o700).create(path) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(failed(error)),
                _ => {}
            }
            let found = path.symlink_metadata().map_err(failed)?;
            let is_ours =
                found.uid() == rustix::process::geteuid().as_raw() && found.mode() & 0o7777 == 0o700;
            if !found.is_dir() || !is_ours {
                return Err(Ending::usage(format!(
                    "{} is not a folder of yours alone (mode 0700): remove it, or name another output",
                    path.display()
                )));
            }
            let lock_path = path.join(LOCK);
            let lock = match own_file::append(&lock_path) {
                Ok(lock) => lock,
                // The run before has just removed it.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(Ending::of_file(&lock_path, &error)),
            };
            match lock.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => {
                    let text = format!(
                        "another exportgate fetch works on this output ({}): wait for it, or name another output",
                        path.display()
                    );
                    return Err(Ending::new(EndingKind::Unfinished, text));
                }
                Err(TryLockError::Error(error)) => return Err(failed(error)),
            }
            let same = lock_path.symlink_metadata().is_ok_and(|there| {
                lock.metadata().is_ok_and(|here| (here.ino(), here.dev()) == (there.ino(), there.dev()))
            });
            if same {
                return Ok(Self { path: path.to_owned(), _lock: lock });
            }
        }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// The file of a part, with its ending: `csv` is whole, `partial` is not.
    pub(super) fn part(&self, number: u32, ending: &str) -> PathBuf {
        self.file(&format!("part-{number:05}.{ending}"))
    }

    pub(super) fn load<T: DeserializeOwned>(&self, name: &str) -> Option<T> {
        serde_json::from_reader(BufReader::new(own_file::read(&self.file(name)).ok()?)).ok()
    }

    /// Writes a file so that it is on the disk, whole, when this returns.
    pub(super) fn save(&self, name: &str, value: &impl Serialize) -> Result<(), Ending> {
        let path = self.file(name);
        let write = || {
            let next = self.file(&format!("{name}.new"));
            let mut file = own_file::create(&next)?;
            serde_json::to_writer_pretty(&mut file, value)?;
            file.write_all(b"\n")?;
            file.sync_all()?;
            std::fs::rename(&next, &path)?;
            sync_folder(&self.path)
        };
        write().map_err(|error| Ending::of_file(&path, &error))
    }

    pub(super) fn save_state(&self, state: &RunState) -> Result<(), Ending> {
        self.save(STATE, state)
    }

    /// The file that calls are noted in.
    pub(super) fn call_log(&self) -> Result<File, Ending> {
        let path = self.file(CALLS);
        own_file::append(&path).map_err(|error| Ending::of_file(&path, &error))
    }

    /// The calls of this run and of those before it.
    pub(super) fn calls(&self) -> Vec<CallNote> {
        let lines = own_file::read(&self.file(CALLS)).map(|file| BufReader::new(file).lines());
        let lines = lines.into_iter().flatten().map_while(Result::ok);
        lines.filter_map(|line| serde_json::from_str(&line).ok()).collect()
    }

    /// Removes its files; the lock stays. Nothing that is not of a run is touched.
    pub(super) fn clear(&self) -> io::Result<()> {
        let others = [STATE, CALLS, "table", "manifest.json"];
        self.remove(|name| is_of_part(name) || others.contains(&name.trim_end_matches(".new")))
    }

    /// Removes what came of the parts. The export stays known, so that the next run starts none.
    pub(super) fn clear_parts(&self) -> io::Result<()> {
        self.remove(is_of_part)
    }

    fn remove(&self, is_meant: impl Fn(&str) -> bool) -> io::Result<()> {
        for entry in std::fs::read_dir(&self.path)? {
            let name = entry?.file_name();
            if is_meant(&name.to_string_lossy()) {
                std::fs::remove_file(self.path.join(name))?;
            }
        }
        Ok(())
    }
}

fn is_of_part(name: &str) -> bool {
    name.strip_prefix("part-").is_some_and(|rest| !rest.is_empty())
}

impl Drop for StateFolder {
    /// A folder without a state is of no use to anybody.
    fn drop(&mut self) {
        if !self.file(STATE).exists() && self.clear().is_ok() {
            let _ = std::fs::remove_file(self.file(LOCK));
            let _ = std::fs::remove_dir(&self.path);
        }
    }
}

/// Has the names in a folder on the disk.
pub(super) fn sync_folder(path: &Path) -> io::Result<()> {
    let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    File::open(path)?.sync_all()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use serde_json::json;

    use super::super::failure::EndingKind;
    use super::*;

    const NOW: Duration = Duration::from_hours(500_000);

    fn question(typed: &str) -> FetchQuestion {
        let start = crate::start_call::StartCall { target: "/t".to_owned(), body: json!({}) };
        FetchQuestion {
            scope: "/rest/orgs/O".to_owned(),
            dataset: "issues".to_owned(),
            typed: json!(typed),
            start: Some(start),
            export: None,
            named: None,
        }
    }

    fn open(path: &Path, typed: &str, is_restart: bool, hours: u64) -> Result<OpenedState, Ending> {
        let now = SystemTime::UNIX_EPOCH + NOW + Duration::from_secs(hours * 3600);
        OpenedState::open(path, &question(typed), is_restart, now)
    }

    #[test]
    fn the_same_question_goes_on_and_another_one_is_refused() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join(".x.exportgate");
        let opened = open(&path, "a", false, 0).expect("a folder");
        assert_eq!(path.metadata().expect("a folder").permissions().mode() & 0o777, 0o700);
        let state = RunState { export: Some("E".to_owned()), ..opened.state };
        opened.folder.save_state(&state).expect("saved");
        drop(opened.folder);
        assert_eq!(open(&path, "a", false, 11).expect("a folder").state, state);
        let planted = RunState { export: Some("\u{1b}[2J".to_owned()), ..state.clone() };
        let again = open(&path, "a", false, 11).expect("a folder");
        again.folder.save_state(&planted).expect("saved");
        drop(again.folder);
        let cleaned = open(&path, "a", false, 11).expect("a folder");
        assert_eq!(cleaned.state.export, None, "no id: it is not shown, and nothing goes on with it");
        cleaned.folder.save_state(&state).expect("saved");
        drop(cleaned.folder);
        let refused = open(&path, "b", false, 0).expect_err("another question");
        assert_eq!(refused.kind, EndingKind::Usage);
        assert!(refused.text.contains("--restart"));
        let late = open(&path, "a", false, 13).expect("a folder");
        assert!(late.state.export.is_none() && late.note.is_some());
        drop(late);
        assert!(!path.exists(), "a folder without state is removed");
    }

    #[test]
    fn a_restart_forgets_and_touches_nothing_else() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join(".x.exportgate");
        let opened = open(&path, "a", false, 0).expect("a folder");
        opened.folder.save_state(&opened.state).expect("saved");
        std::fs::write(opened.folder.part(1, "csv"), "x").expect("written");
        std::fs::write(path.join("notes.txt"), "mine").expect("written");
        drop(opened);
        let opened = open(&path, "b", true, 0).expect("a folder");
        assert!(!opened.folder.part(1, "csv").exists() && path.join("notes.txt").exists());
        drop(opened);
        assert!(path.join("notes.txt").exists());
    }

    #[test]
    fn two_at_once_are_refused_and_a_lock_that_was_left_is_not() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join(".x.exportgate");
        let opened = open(&path, "a", false, 0).expect("a folder");
        let refused = open(&path, "a", false, 0).expect_err("locked");
        assert!(refused.text.contains("another exportgate fetch works on this output"), "{refused}");
        drop(opened);
        std::fs::create_dir(&path).expect("a folder");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o700)).expect("a mode");
        std::fs::write(path.join(LOCK), "").expect("a lock of somebody who is gone");
        assert!(open(&path, "a", false, 0).is_ok());
    }

    #[test]
    fn a_folder_that_others_can_open_is_refused() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join(".x.exportgate");
        std::fs::create_dir(&path).expect("a folder");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).expect("a mode");
        assert_eq!(open(&path, "a", false, 0).expect_err("refused").kind, EndingKind::Usage);
        let link = directory.path().join(".y.exportgate");
        std::os::unix::fs::symlink(directory.path(), &link).expect("a link");
        assert_eq!(open(&link, "a", false, 0).expect_err("refused").kind, EndingKind::Usage);
    }
}
