//! `[journal]`.

use std::path::PathBuf;

use super::reader::Reader;
use super::ship;
use crate::journal::{Durability, OnFailure, Settings};

/// Gives nothing only after noting a problem.
pub(super) fn read(r: &mut Reader<'_>) -> Option<Settings> {
    let set = r.path("journal.path");
    let path = set.or_else(|| {
        let found = state_directory(r);
        if let Some(path) = &found {
            r.show("journal.path", &path.to_string_lossy(), "default");
        } else {
            r.problem(
                "journal.path",
                "",
                "no state directory is known: set journal.path (EXPORTGATE_JOURNAL_PATH)",
            );
        }
        found
    });
    let durability =
        r.choice("journal.durability", &[("process", Durability::Process), ("power", Durability::Power)]);
    let on_failure =
        r.choice("journal.on_failure", &[("serve", OnFailure::Serve), ("refuse", OnFailure::Refuse)]);
    let max_wait = r.duration("journal.max_wait", "10ms"..="30s");
    let max_pending = r.number("journal.max_pending", 1..=1_000_000);
    let max_age = r.duration("journal.max_age", "1h"..="10y");
    let max_rows = r.number("journal.max_rows", 1..=1_000_000_000);
    let ship = ship::read(r);
    Some(Settings { path: path?, durability, on_failure, max_wait, max_pending, max_age, max_rows, ship })
}

/// systemd's state directory, or the user's (XDG Base Directory Specification).
fn state_directory(r: &Reader<'_>) -> Option<PathBuf> {
    let variable = |name| r.sources.env.get(name).filter(|text| text.starts_with('/')).map(PathBuf::from);
    let user = variable("XDG_STATE_HOME").or_else(|| variable("HOME").map(|home| home.join(".local/state")));
    let directory = variable("STATE_DIRECTORY").or_else(|| user.map(|user| user.join("exportgate")));
    directory.map(|directory| directory.join("journal.db"))
}
