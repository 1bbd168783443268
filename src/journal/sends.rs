//! What was sent with each credential in the last hour, for all processes that share this file: Snyk's limits
//! hold for all of them together, and a restart must not forget.
//!
//! What is sent is noted at once and written with the next group, whatever that is about. Who must know that it is
//! written before it sends asks for a group ([`Journal::spend`](super::Journal::spend)) and waits for it.

use std::collections::HashMap;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use rusqlite::Connection;
use uuid::Uuid;

use super::database::{Identity, unix_ms};

/// How long sends are kept: Snyk's longest window.
pub(super) const KEPT: Duration = Duration::from_hours(1);
/// Others count a process that sent something no longer ago than this among those whose last sends they may not see,
const PRESENT: Duration = Duration::from_mins(10);
/// and one that was read to have sent something no longer ago than this may rely on it.
const KNOWN: Duration = Duration::from_mins(5);
/// Sends that were noted within this time are one row, at the time of the last of them: a little later is a little
/// more careful.
const TOGETHER: Duration = Duration::from_millis(20);

/// The sends of one credential, as one process sees them.
#[derive(Debug)]
pub struct Sends {
    /// Names the credential: the upstream's root and its own name.
    credential: String,
    /// Names this process, so that what is read back is what others sent.
    process: String,
    /// The last row that was seen.
    seen: AtomicI64,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// The file that rows were seen in.
    file: Option<Identity>,
    /// Somebody waits to hear what others sent.
    asked: bool,
    /// What we sent that no group has taken yet, the oldest first.
    noted: Vec<Noted>,
    /// What the group that is being written has taken; what a failed one took, until the next.
    taken: Vec<Noted>,
    /// How many sends these are.
    unwritten: u32,
    /// What others sent, and nobody has asked for yet.
    others: Vec<Sent>,
    /// When each other process sent last, as far as that was read.
    processes: HashMap<String, SystemTime>,
    /// When the last of our sends was that is written.
    known: Option<SystemTime>,
}

/// What a process knows of the sends with a credential.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct News {
    /// How many of ours are noted and not written yet; `None` where others may not know of this process.
    pub unwritten: Option<u32>,
    /// How many other processes sent something lately: what they sent last is not written yet, perhaps.
    pub processes: u32,
    /// What others sent that was not told yet.
    pub others: Vec<Sent>,
}

/// Requests that were sent at a time, by the wall clock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sent {
    /// When.
    pub at: SystemTime,
    /// How many.
    pub count: u32,
    /// The scope whose starts these were; they are counted once more without one.
    pub start: Option<String>,
}

/// Some sends of ours.
#[derive(Debug, Clone)]
struct Noted {
    first: SystemTime,
    last: SystemTime,
    count: u32,
    /// As in [`Sent`].
    start: Option<Arc<str>>,
}

impl Sends {
    /// Those of the credential that is called `credential` at `upstream`.
    pub(super) fn new(upstream: &str, credential: &str) -> Self {
        Self {
            credential: format!("{upstream} {credential}"),
            process: Uuid::new_v4().to_string(),
            seen: AtomicI64::new(0),
            state: Mutex::default(),
        }
    }

    /// Notes that `count` requests are sent at `at`, and the scopes of the start calls among them; written with the
    /// next group.
    pub fn note(&self, (count, starts): (u32, &[Arc<str>]), at: SystemTime) {
        if count == 0 {
            return;
        }
        let mut state = self.state();
        state.unwritten += count;
        let fits = |last: &&mut Noted| {
            last.start.is_none() && at.duration_since(last.first).is_ok_and(|ago| ago <= TOGETHER)
        };
        if let Some(last) = state.noted.last_mut().filter(fits) {
            last.count += count;
            last.last = last.last.max(at);
        } else {
            state.noted.push(Noted { first: at, last: at, count, start: None });
        }
        let start =
            |scope: &Arc<str>| Noted { first: at, last: at, count: 1, start: Some(Arc::clone(scope)) };
        state.noted.extend(starts.iter().map(start));
    }

    /// What is known at `now`, by the wall clock.
    pub fn news(&self, now: SystemTime) -> News {
        let mut state = self.state();
        // A clock that was set back says nothing of how long ago it was.
        let within = |at: SystemTime, limit| now.duration_since(at).is_ok_and(|ago| ago <= limit);
        let present =
            state.processes.values().filter(|at| !now.duration_since(**at).is_ok_and(|ago| ago > PRESENT));
        let processes = u32::try_from(present.count()).unwrap_or(u32::MAX);
        let is_known = state.known.is_some_and(|at| within(at, KNOWN));
        News {
            unwritten: is_known.then_some(state.unwritten),
            processes,
            others: std::mem::take(&mut state.others),
        }
    }

    /// Has the next group read what others sent, whether we sent anything or not.
    pub(super) fn ask(&self) {
        self.state().asked = true;
    }

    /// Whether the next group has something to do for it.
    pub(super) fn is_due(&self) -> bool {
        let state = self.state();
        state.asked || state.unwritten > 0
    }

    /// Reads what others wrote and writes what we sent, inside a transaction: of two processes, the second one sees
    /// what the first one took. The last row then, to be told to [`Sends::written`]; nothing where nothing is due.
    pub(super) fn write(
        &self,
        connection: &Connection,
        (file, now): (Option<Identity>, SystemTime),
    ) -> rusqlite::Result<Option<i64>> {
        if !self.is_due() {
            return Ok(None);
        }
        let oldest = now.checked_sub(KEPT);
        let (taken, same) = {
            let mut state = self.state();
            state.asked = false;
            // Another file has rows of its own, and who reads it has heard nothing of us there.
            let same = state.file == file;
            if !same {
                state.known = None;
            }
            let State { noted, taken, .. } = &mut *state;
            taken.append(noted);
            // What could not be written for an hour counts no more.
            taken.retain(|noted| Some(noted.last) >= oldest);
            (taken.clone(), same)
        };
        let mut seen = if same { self.seen.load(Ordering::Relaxed) } else { 0 };
        // A file that was made anew may have the place of the old one on the disk: its rows are fewer than were seen.
        let newest: i64 = connection
            .prepare_cached("SELECT COALESCE(MAX(seq), 0) FROM sends")?
            .query_row([], |row| row.get(0))?;
        if newest < seen {
            seen = 0;
        }
        let mut find = connection.prepare_cached(
            "SELECT seq, at_ms, count, process, start FROM sends
             WHERE seq > ?2 AND credential = ?1 AND at_ms > ?3 ORDER BY seq",
        )?;
        let mut rows = find.query((&self.credential, seen, oldest.map_or(i64::MIN, unix_ms)))?;
        let (mut others, mut processes) = (Vec::new(), Vec::new());
        while let Some(row) = rows.next()? {
            seen = row.get(0)?;
            let process = row.get_ref(3)?.as_str()?;
            if process != self.process {
                let at = SystemTime::UNIX_EPOCH + Duration::from_millis(row.get::<_, i64>(1)?.unsigned_abs());
                processes.push((process.to_owned(), at));
                others.push(Sent { at, count: row.get(2)?, start: row.get(4)? });
            }
        }
        self.seen.store(seen, Ordering::Relaxed);
        {
            let mut state = self.state();
            state.file = file;
            state.others.extend(others);
            state.processes.retain(|_, at| Some(*at) >= oldest);
            state.processes.extend(processes);
        }
        let mut insert = connection.prepare_cached(
            "INSERT INTO sends (credential, process, at_ms, count, start) VALUES (?1, ?2, ?3, ?4, ?5)",
        )?;
        for Noted { last, count, start, .. } in &taken {
            let at = unix_ms(*last);
            seen = insert.insert((&self.credential, &self.process, at, count, start.as_deref()))?;
        }
        Ok(Some(seen))
    }

    /// What was written is committed, up to the row `last`.
    pub(super) fn written(&self, last: i64) {
        self.seen.store(last, Ordering::Relaxed);
        let mut state = self.state();
        state.known = state.taken.last().map(|noted| noted.last).or(state.known);
        state.taken.clear();
        state.unwritten =
            state.noted.iter().filter(|noted| noted.start.is_none()).map(|noted| noted.count).sum();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::super::schema;
    use super::*;
    use crate::clock::Clock;

    fn file() -> Connection {
        let mut file = Connection::open_in_memory().expect("memory");
        schema::migrate(&mut file).expect("tables");
        file
    }

    /// Writes to `file`, which has the place `inode` on the disk.
    fn write(sends: &Sends, file: &Connection, (inode, now): (u64, SystemTime)) {
        let last = sends.write(file, (Some((1, inode)), now)).expect("it is written").expect("it is due");
        sends.written(last);
    }

    #[test]
    fn a_file_that_was_made_anew_is_read_from_its_begin_and_nobody_there_knows_us() {
        let (ours, theirs) = (Sends::new("u", "c"), Sends::new("u", "c"));
        let now = Clock::system().now().wall;
        let old = file();
        for second in 0..3 {
            ours.note((1, &[]), now - Duration::from_secs(second));
        }
        write(&ours, &old, (1, now));
        assert_eq!(ours.news(now).unwritten, Some(0));
        // At the same place on the disk, with fewer rows.
        let anew = file();
        theirs.note((1, &[]), now);
        write(&theirs, &anew, (1, now));
        ours.ask();
        write(&ours, &anew, (1, now));
        assert_eq!(ours.news(now).others.len(), 1);
        // At another place.
        ours.ask();
        write(&ours, &file(), (2, now));
        assert_eq!(ours.news(now).unwritten, None);
    }
}
