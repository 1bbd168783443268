//! Starts that equal ones may share (0014): kept with the record of their attempt, and forgotten with it or earlier.
//!
//! All of it happens in the transactions of the writer, so that processes on one file agree.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use rusqlite::{Connection, OptionalExtension, params};
use uuid::Uuid;

use super::record::{Attempt, KeptStart, capped, unix_ms};

/// Snyk keeps files for so long.
const LONGEST: Duration = Duration::from_hours(72);
/// A start counts for so long without a sign that its export has finished.
const UNFINISHED: Duration = Duration::from_mins(30);
/// Most starts that are kept: some 50 hours of what Snyk allows.
const MOST: i64 = 1_000;
/// Most clients of one start that are on record besides the one that caused it; the log and the metrics have all.
const MOST_CLIENTS: u32 = 1_000;
/// A start may be dated ahead by so much: two readings of a clock differ.
const AHEAD: Duration = Duration::from_secs(1);

/// A start that is on record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FoundStart {
    /// Its attempt.
    pub attempt: Uuid,
    /// The arrival of its answer.
    pub made: SystemTime,
    /// The export that it began.
    pub export_id: String,
    /// The answer.
    pub kept: KeptStart,
    /// True if it is another gateway's: its attempt is on record there.
    pub is_elsewhere: bool,
}

impl FoundStart {
    /// The value for other gateways: attempt, export and the length of the fields in a line, the fields, and the body.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let Self { attempt, export_id, kept, .. } = self;
        let head = format!("{} {export_id} {}\n", attempt.simple(), kept.fields.len());
        [head.as_bytes(), &kept.fields, &kept.body].concat()
    }

    /// Another gateway's start with this key; `None` for anything that [`Self::to_bytes`] does not write.
    #[must_use]
    pub fn of_bytes(key: [u8; 32], bytes: &[u8], made: SystemTime) -> Option<Self> {
        let end = bytes.iter().position(|byte| *byte == b'\n')?;
        let (head, rest) = (std::str::from_utf8(&bytes[..end]).ok()?, &bytes[end + 1..]);
        let mut words = head.split(' ');
        let (attempt, export_id, length) = (words.next()?, words.next()?, words.next()?);
        let (fields, body) = rest.split_at_checked(length.parse().ok()?)?;
        let kept = KeptStart { key, fields: fields.to_vec(), body: body.to_vec().into() };
        let attempt = attempt.parse().ok()?;
        words.next().is_none().then(|| Self {
            attempt,
            made,
            export_id: export_id.to_owned(),
            kept,
            is_elsewhere: true,
        })
    }
}

/// A command about starts on record.
#[derive(Debug)]
pub(super) enum StartCommand {
    /// Finds an equal one.
    Find(StartSearch),
    /// Forgets those of some exports.
    Forget(ForgottenStarts),
}

type Judge = Box<dyn Fn(&str, &str) -> bool + Send>;

/// Judges by the ids of an export's org or group and its own.
pub(super) struct ForgottenStarts(pub(super) Judge);

impl fmt::Debug for ForgottenStarts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ForgottenStarts")
    }
}

/// The search for the newest equal start.
#[derive(Debug)]
pub(super) struct StartSearch {
    pub(super) key: [u8; 32],
    pub(super) max_age: Duration,
    /// Put here by the writer.
    pub(super) found: Arc<Mutex<Option<FoundStart>>>,
}

/// Notes what `attempt`, which is on record, shows of starts: one that was made, or the fate of an export.
pub(super) fn note(connection: &Connection, attempt: &Attempt, now: SystemTime) -> rusqlite::Result<()> {
    let Some(export) = attempt.export_id.as_deref().map(capped) else { return Ok(()) };
    let scope = attempt.scope_id.as_deref().map(capped);
    if let Some(kept) = &attempt.kept {
        forget_old(connection, now)?;
        return insert(connection, attempt, kept);
    }
    let change = match attempt.export_status.as_deref() {
        // A client chooses the version: with one that Snyk does not know, each export is unknown.
        _ if attempt.status == Some(404) => {
            let version = attempt.version_requested.as_deref().map(capped);
            let mut forget = connection.prepare_cached(
                "DELETE FROM starts WHERE export_id = ?1 AND scope_kind = ?2 AND scope_id = ?3
                    AND EXISTS (SELECT 1 FROM attempts WHERE seq = attempt AND version_requested IS ?4)",
            )?;
            return forget.execute(params![export, attempt.scope_kind, scope, version]).map(drop);
        }
        Some("ERRORED" | "ERROR") => {
            "DELETE FROM starts WHERE export_id = ?1 AND scope_kind = ?2 AND scope_id = ?3"
        }
        Some("FINISHED") => {
            "UPDATE starts SET finished = 1 WHERE export_id = ?1 AND scope_kind = ?2 AND scope_id = ?3 AND finished = 0"
        }
        _ => return Ok(()),
    };
    connection.prepare_cached(change)?.execute(params![export, attempt.scope_kind, scope]).map(drop)
}

fn insert(connection: &Connection, attempt: &Attempt, kept: &KeptStart) -> rusqlite::Result<()> {
    let mut insert = connection.prepare_cached(
        "INSERT OR REPLACE INTO starts (attempt, key, made_ms, scope_kind, scope_id, export_id, finished, fields, body)
         SELECT seq, ?2, ?3, scope_kind, scope_id, export_id, 0, ?4, ?5 FROM attempts WHERE id = ?1",
    )?;
    let made = unix_ms(attempt.started + attempt.latency);
    let id = attempt.id.hyphenated().to_string();
    insert.execute(params![id, kept.key, made, kept.fields, &*kept.body]).map(drop)
}

/// The number of further clients that the record of a start takes: they come for days. To a read come only those who wait for
/// one flight.
pub(super) fn room(connection: &Connection, seq: i64) -> rusqlite::Result<u32> {
    let mut count = connection.prepare_cached("SELECT count(*) FROM served WHERE attempt = ?1")?;
    let count: u32 = count.query_row([seq], |row| row.get(0))?;
    Ok(MOST_CLIENTS.saturating_sub(count))
}

/// Forgets starts that are too old, too many, or dated ahead: then the clock went back, and their age is not known.
fn forget_old(connection: &Connection, now: SystemTime) -> rusqlite::Result<()> {
    let mut forget = connection.prepare_cached(
        "DELETE FROM starts WHERE made_ms NOT BETWEEN ?1 AND ?2
            OR attempt <= (SELECT attempt FROM starts ORDER BY attempt DESC LIMIT 1 OFFSET ?3)",
    )?;
    let oldest = now.checked_sub(LONGEST).map_or(i64::MIN, unix_ms);
    forget.execute(params![oldest, unix_ms(now + AHEAD), MOST - 1]).map(drop)
}

impl StartCommand {
    pub(super) fn run(&self, connection: &Connection, now: SystemTime) -> rusqlite::Result<()> {
        match self {
            Self::Find(search) => search.run(connection, now),
            Self::Forget(forgotten) => forgotten.forget(connection),
        }
    }
}

impl StartSearch {
    fn run(&self, connection: &Connection, now: SystemTime) -> rusqlite::Result<()> {
        forget_old(connection, now)?;
        let since = |age: Duration| now.checked_sub(age).map_or(i64::MIN, unix_ms);
        let mut find = connection.prepare_cached(
            "SELECT id, made_ms, starts.export_id, fields, body FROM starts JOIN attempts ON seq = attempt
             WHERE key = ?1 AND made_ms >= ?2 AND (finished = 1 OR made_ms >= ?3)
             ORDER BY made_ms DESC LIMIT 1",
        )?;
        let found = find.query_row(params![self.key, since(self.max_age), since(UNFINISHED)], |row| {
            let made = Duration::from_millis(row.get::<_, i64>(1)?.unsigned_abs());
            Ok(FoundStart {
                attempt: row.get::<_, String>(0)?.parse().unwrap_or_default(),
                made: SystemTime::UNIX_EPOCH + made,
                export_id: row.get(2)?,
                kept: KeptStart {
                    key: self.key,
                    fields: row.get(3)?,
                    body: row.get::<_, Vec<u8>>(4)?.into(),
                },
                is_elsewhere: false,
            })
        });
        *self.found.lock().unwrap_or_else(PoisonError::into_inner) = found.optional()?;
        Ok(())
    }
}

impl ForgottenStarts {
    fn forget(&self, connection: &Connection) -> rusqlite::Result<()> {
        let mut all = connection.prepare_cached("SELECT attempt, scope_id, export_id FROM starts")?;
        let mut delete = connection.prepare_cached("DELETE FROM starts WHERE attempt = ?1")?;
        let ids = |row: &rusqlite::Row<'_>| {
            Ok((row.get::<_, i64>(0)?, row.get::<_, String>(1)?, row.get::<_, String>(2)?))
        };
        let starts = all.query_map([], ids)?.collect::<Result<Vec<_>, _>>()?;
        for (attempt, scope, export) in starts {
            if (self.0)(&scope, &export) {
                delete.execute([attempt])?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_start_for_other_gateways_is_the_same_there_and_nothing_cut_is_one(
            fields in prop::collection::vec(any::<u8>(), 0..40), body in prop::collection::vec(any::<u8>(), 0..40), at in any::<prop::sample::Index>(),
        ) {
            let kept = KeptStart { key: [7; 32], fields, body: body.into() };
            let made = SystemTime::UNIX_EPOCH;
            let found = FoundStart { attempt: Uuid::now_v7(), made, export_id: "an-export".to_owned(), kept, is_elsewhere: true };
            let bytes = found.to_bytes();
            prop_assert_eq!(FoundStart::of_bytes([7; 32], &bytes, made), Some(found.clone()));
            let head = bytes.len() - found.kept.body.len();
            prop_assert_eq!(FoundStart::of_bytes([7; 32], &bytes[..at.index(head)], made), None);
        }
    }
}
