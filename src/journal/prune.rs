//! Forgetting: attempts beyond `max_rows` or older than `max_age`, and whom they answered; transfers by the same limits.
//!
//! A chunk is one short transaction, and records that wait are written between two chunks, so pruning
//! never holds an answer up noticeably. Where records come without a pause, each group is followed by as many chunks
//! as delete what it wrote, and one more: the file does not grow beyond its bounds, however busy it is. Rows are counted by their ever growing `seq` (newest minus
//! `max_rows`), since counting them would read the whole table.

use std::time::{Duration, Instant};

use rusqlite::Connection;

use super::database::Group;
use super::fault::JournalFault;
use super::record::unix_ms;
use super::settings::Settings;
use crate::clock::Now;

/// Most rows that one chunk deletes: a record that comes meanwhile waits for it, a millisecond or two.
const CHUNK: usize = 64;
/// A chunk is due after this time, however little was written,
const EVERY: Duration = Duration::from_secs(5);
/// or after this many attempts.
const EVERY_ATTEMPTS: usize = 100;

/// The schedule of chunks.
#[derive(Debug)]
pub(super) struct Schedule {
    due: Instant,
    attempts: usize,
    behind: bool,
    /// Rows written since the last chunk; as many are to be deleted.
    owed: usize,
}

impl Schedule {
    /// The first chunk is due at once.
    pub(super) fn new(now: Instant) -> Self {
        Self { due: now, attempts: 0, behind: false, owed: 0 }
    }

    /// Notes what was written: attempts, and rows in all.
    pub(super) fn wrote(&mut self, attempts: usize, rows: usize) {
        self.attempts += attempts;
        self.owed += rows;
    }

    /// Rows to delete with the next chunks.
    pub(super) fn owed(&self) -> usize {
        self.owed
    }

    /// Time until a chunk is due.
    pub(super) fn wait(&self, now: Instant) -> Duration {
        if self.behind || self.attempts >= EVERY_ATTEMPTS {
            return Duration::ZERO;
        }
        self.due.saturating_duration_since(now)
    }

    /// Notes that chunks are done. There is more to delete if `behind`, and [`prune_owed`] left `owed`.
    pub(super) fn pruned(&mut self, now: Instant, behind: bool, owed: usize) {
        *self = Self { due: now + EVERY, attempts: 0, behind, owed };
    }
}

/// Deletes as many rows as are owed, in chunks, and one more chunk; `true` when there may be more. What a failure
/// left undone stays owed.
pub(super) fn prune_owed(
    connection: &Connection,
    settings: &Settings,
    now: Now,
    owed: &mut usize,
) -> Result<bool, JournalFault> {
    while prune(connection, settings, now)? {
        if *owed == 0 {
            return Ok(true);
        }
        *owed = owed.saturating_sub(CHUNK);
    }
    *owed = 0;
    Ok(false)
}

/// Deletes one chunk; `true` when there may be more.
pub(super) fn prune(connection: &Connection, settings: &Settings, now: Now) -> Result<bool, JournalFault> {
    let attempts = victims(connection, "attempts", settings, now)?;
    if attempts.is_empty() {
        return prune_transfers(connection, settings, now);
    }
    let group = Group::begin(connection)?;
    let mut room = CHUNK;
    {
        let mut forget_served = connection.prepare_cached(
            "DELETE FROM served WHERE attempt = ?1 AND request_id IN
                (SELECT request_id FROM served WHERE attempt = ?1 LIMIT ?2)",
        )?;
        let mut forget_attempt = connection.prepare_cached("DELETE FROM attempts WHERE seq = ?1")?;
        for seq in attempts {
            room -= forget_served.execute((seq, i64::try_from(room).unwrap_or(0)))?;
            if room == 0 {
                break;
            }
            room -= forget_attempt.execute([seq])?;
            if room == 0 {
                break;
            }
        }
    }
    group.commit()?;
    Ok(room == 0)
}

/// Deletes one chunk of transfers; `true` when there may be more.
fn prune_transfers(connection: &Connection, settings: &Settings, now: Now) -> Result<bool, JournalFault> {
    let transfers = victims(connection, "transfers", settings, now)?;
    if transfers.is_empty() {
        return Ok(false);
    }
    let group = Group::begin(connection)?;
    for seq in &transfers {
        connection.prepare_cached("DELETE FROM transfers WHERE seq = ?1")?.execute([seq])?;
    }
    group.commit()?;
    Ok(transfers.len() >= CHUNK)
}

/// The rows of a table that are to go next.
fn victims(
    connection: &Connection,
    table: &str,
    settings: &Settings,
    now: Now,
) -> rusqlite::Result<Vec<i64>> {
    let max_rows = i64::try_from(settings.max_rows).unwrap_or(i64::MAX);
    let mut newest = connection.prepare_cached(&format!("SELECT max(seq) FROM {table}"))?;
    let newest: Option<i64> = newest.query_row([], |row| row.get(0))?;
    let last_surplus = newest.unwrap_or(0).saturating_sub(max_rows);
    let oldest_ms = now.wall.checked_sub(settings.max_age).map_or(i64::MIN, unix_ms);
    let seqs = |condition: &str, bound: i64| -> rusqlite::Result<Vec<i64>> {
        let select = format!("SELECT seq FROM {table} WHERE {condition} LIMIT {CHUNK}");
        connection.prepare_cached(&select)?.query_map([bound], |row| row.get(0))?.collect()
    };
    let mut victims = seqs("seq <= ?1 ORDER BY seq", last_surplus)?;
    if victims.len() < CHUNK {
        victims.extend(seqs("started_ms < ?1 ORDER BY started_ms", oldest_ms)?);
    }
    Ok(victims)
}
