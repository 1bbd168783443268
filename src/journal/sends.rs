//! The requests that others have sent, as their records tell: Snyk's limits hold for all processes that share this file,
//! and a restart must not forget.
//!
//! They are read in the transaction that puts our own requests on record, under the file's lock. All that was written since
//! the last such transaction was written by others, and of two processes the second one sees what the first one took.

use std::fmt;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use rusqlite::{Connection, params};

use super::file::Identity;
use super::record::unix_ms;

/// Snyk's longest window.
const WINDOW: Duration = Duration::from_hours(1);

/// A request that was sent, as its record tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecordedSend {
    /// The time, by the wall clock.
    pub at: SystemTime,
    /// The upstream's root.
    pub upstream: String,
    /// Name of the credential.
    pub credential: String,
    /// `rest` or `v1`.
    pub api: String,
    /// The scope of a start call, as its kind and its id.
    pub start: Option<String>,
}

/// The requests that one reading found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RecordedSends {
    /// Those of others that no reading found before. The first reading finds all of the last hour.
    News(Vec<RecordedSend>),
    /// All of the last hour, our own too, for those who know nothing of it ([`Journal::recall`](super::Journal::recall)).
    Hour(Vec<RecordedSend>),
}

type Listener = Box<dyn Fn(&RecordedSends) + Send + Sync>;

/// The listener that counts the requests of other processes.
#[derive(Default)]
pub(super) struct SendsListener {
    listener: OnceLock<Listener>,
    is_recalled: AtomicBool,
}

impl fmt::Debug for SendsListener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SendsListener").finish_non_exhaustive()
    }
}

impl SendsListener {
    /// Sets the listener; the first one stays.
    pub(super) fn set(&self, listener: Listener) {
        let _ = self.listener.set(listener);
    }

    /// Asks for all of the last hour at the next reading.
    pub(super) fn recall(&self) {
        self.is_recalled.store(true, Ordering::SeqCst);
    }

    fn tell(&self, sends: &RecordedSends) {
        if let Some(listener) = self.listener.get() {
            listener(sends);
        }
    }
}

/// The reader of other processes' requests in one file.
#[derive(Debug, Default)]
pub(super) struct SendsReader {
    file: Option<Identity>,
    /// The last row that is known or our own.
    seen: i64,
}

impl SendsReader {
    /// Tells `listener` of what was written since the last transaction of ours.
    pub(super) fn read(
        &mut self,
        connection: &Connection,
        file: Option<Identity>,
        now: SystemTime,
        listener: &SendsListener,
    ) -> rusqlite::Result<()> {
        let newest = newest(connection)?;
        // Another file has rows of its own; one that was made anew at the same place has fewer.
        if self.file != file || newest < self.seen {
            (self.file, self.seen) = (file, 0);
        }
        if newest > self.seen {
            listener.tell(&RecordedSends::News(sends_since(connection, self.seen, now)?));
            self.seen = newest;
        }
        if listener.is_recalled.swap(false, Ordering::SeqCst) {
            listener.tell(&RecordedSends::Hour(sends_since(connection, 0, now)?));
        }
        Ok(())
    }

    /// The rows up to `newest` are committed: they are known or our own.
    pub(super) fn committed(&mut self, newest: i64) {
        self.seen = newest;
    }
}

/// The last row.
pub(super) fn newest(connection: &Connection) -> rusqlite::Result<i64> {
    let mut newest = connection.prepare_cached("SELECT COALESCE(MAX(seq), 0) FROM attempts")?;
    newest.query_row([], |row| row.get(0))
}

/// The requests of the last hour, of the rows after `seen`. Those that a clock dated ahead count too, up to an hour.
fn sends_since(connection: &Connection, seen: i64, now: SystemTime) -> rusqlite::Result<Vec<RecordedSend>> {
    let since = now.checked_sub(WINDOW).map_or(i64::MIN, unix_ms);
    let until = now.checked_add(WINDOW).map_or(i64::MAX, unix_ms);
    // Of all rows, those of the last hour are found by their time; of new ones nearly all are.
    let (seq, started) = if seen == 0 { ("+seq", "started_ms") } else { ("seq", "+started_ms") };
    let mut select = connection.prepare_cached(&format!(
        "SELECT started_ms, upstream, credential, api,
                CASE operation WHEN 'start' THEN scope_kind || ' ' || scope_id END
         FROM attempts WHERE {seq} > ?1 AND {started} BETWEEN ?2 AND ?3"
    ))?;
    let sends = select.query_map(params![seen, since, until], |row| {
        Ok(RecordedSend {
            at: SystemTime::UNIX_EPOCH + Duration::from_millis(row.get::<_, i64>(0)?.unsigned_abs()),
            upstream: row.get(1)?,
            credential: row.get(2)?,
            api: row.get(3)?,
            start: row.get(4)?,
        })
    })?;
    sends.collect()
}
