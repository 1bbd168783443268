//! What was sent with each credential in the last hour, for all processes that share this file: Snyk's limits
//! hold for all of them together, and a restart must not forget.

use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use rusqlite::Transaction;
use uuid::Uuid;

use super::database::unix_ms;

/// How long sends are kept: Snyk's longest window.
pub(super) const KEPT: Duration = Duration::from_hours(1);

/// The sends of one credential, as one process sees them.
#[derive(Debug)]
pub struct Sends {
    /// Names the credential: the upstream's root and its own name.
    credential: String,
    /// Names this process, so that what is read back is what others sent.
    process: String,
    /// The last row that was seen.
    seen: AtomicI64,
    /// What others sent, and nobody has asked for yet.
    others: Mutex<Vec<Sent>>,
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

/// Some sends to write down.
#[derive(Debug)]
pub(super) struct Spend {
    pub(super) count: u32,
    /// The scopes of the start calls among them.
    pub(super) starts: Vec<Arc<str>>,
    pub(super) at: SystemTime,
}

impl Sends {
    /// Those of the credential that is called `credential` at `upstream`.
    #[must_use]
    pub fn new(upstream: &str, credential: &str) -> Self {
        let credential = format!("{upstream} {credential}");
        Self {
            credential,
            process: Uuid::new_v4().to_string(),
            seen: AtomicI64::new(0),
            others: Mutex::default(),
        }
    }

    /// Reads what others wrote and writes what we send, in one transaction: of two processes, the second one
    /// sees what the first one took.
    pub(super) fn spend(&self, transaction: &Transaction<'_>, spend: &Spend) -> rusqlite::Result<()> {
        let now = unix_ms(spend.at);
        let mut others = Vec::new();
        let mut seen = self.seen.load(Ordering::Relaxed);
        let newest = "SELECT COALESCE(MAX(seq), 0) FROM sends";
        let newest: i64 = transaction.prepare_cached(newest)?.query_row([], |row| row.get(0))?;
        // Rows that are fewer than were seen are another file's.
        if newest < seen && newest > 0 {
            seen = 0;
        }
        let mut find = transaction.prepare_cached(
            "SELECT seq, at_ms, count, process, start FROM sends WHERE credential = ?1 AND seq > ?2 AND at_ms > ?3 ORDER BY seq",
        )?;
        let kept = i64::try_from(KEPT.as_millis()).unwrap_or(i64::MAX);
        let mut rows = find.query((&self.credential, seen, now - kept))?;
        while let Some(row) = rows.next()? {
            seen = row.get(0)?;
            if row.get_ref(3)?.as_str() != Ok(&self.process) {
                let at = SystemTime::UNIX_EPOCH + Duration::from_millis(row.get::<_, i64>(1)?.unsigned_abs());
                others.push(Sent { at, count: row.get(2)?, start: row.get(4)? });
            }
        }
        self.seen.store(seen, Ordering::Relaxed);
        if spend.count > 0 {
            let mut insert = transaction.prepare_cached(
                "INSERT INTO sends (credential, process, at_ms, count, start) VALUES (?1, ?2, ?3, ?4, ?5)",
            )?;
            insert.execute((&self.credential, &self.process, now, spend.count, None::<&str>))?;
            for start in &spend.starts {
                insert.execute((&self.credential, &self.process, now, 1, Some(&**start)))?;
            }
        }
        self.others.lock().unwrap_or_else(PoisonError::into_inner).extend(others);
        Ok(())
    }

    /// What others sent that was read meanwhile.
    pub(super) fn take_others(&self) -> Vec<Sent> {
        std::mem::take(&mut *self.others.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
