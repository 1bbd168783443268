//! The journal in one place (0019): a `PostgreSQL` database that has the records of many gateways, also of those that are gone.
//!
//! The commit in the file stays the promise of a record, and no request waits for the database. The writer notes each record in
//! an `outbox` of the file; one task carries what is there to the database in batches, and takes a batch off when it is committed
//! there. A batch that was carried twice is there once (`sql`).

mod error;
#[cfg_attr(
    not(feature = "postgres"),
    allow(dead_code, reason = "a build without the database's client ships none")
)]
pub(super) mod outbox;
#[cfg(feature = "postgres")]
mod postgres;
#[cfg(not(feature = "postgres"))]
#[path = "absent.rs"]
mod postgres;
mod settings;
#[cfg_attr(
    not(feature = "postgres"),
    allow(dead_code, reason = "a build without the database's client asks none")
)]
mod sql;
mod status;

use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use tokio::task::spawn_blocking;

use super::fault::JournalFault;
use super::query::Query;
use super::row::Row;
use super::store::Journal;
use super::transfer::{TransferQuery, TransferRow};
use crate::clock::Clock;
use outbox::{ShipBatch, ShipRow};
use postgres::ShipDatabase;
use status::ShipLog;

pub use error::ShipError;
pub use settings::{DatabaseAddress, ShipSettings};
pub use sql::SCHEMA;
pub use status::ShipStatus;

/// Records that come one after the other are shipped together.
const LINGER: Duration = Duration::from_millis(50);
/// Longest time between two looks at the outbox, into which other processes write too.
const LOOK: Duration = Duration::from_secs(1);
/// Bounds of the pause between two tries; it is chosen by chance below a bound that doubles.
const PAUSES: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));
/// Interval of dropping old partitions there.
const FORGET: Duration = Duration::from_hours(1);
/// Interval of looks at the outbox while the gateway stops.
const STOPPING: Duration = Duration::from_millis(20);

/// The shipping of one file's records. Clones share everything.
#[derive(Debug, Clone)]
pub struct Shipping(Arc<Shipped>);

#[derive(Debug)]
struct Shipped {
    settings: ShipSettings,
    path: PathBuf,
    clock: Clock,
    /// This machine's name, for people.
    gateway: String,
    /// Told by the writer of each commit.
    noted: Arc<Notify>,
    log: ShipLog,
    /// Records of the next batch: fewer while the database is too slow for more.
    batch: AtomicUsize,
}

impl Shipping {
    /// Not connected yet.
    pub(super) fn new(settings: ShipSettings, path: PathBuf, clock: Clock, noted: Arc<Notify>) -> Self {
        let gateway = rustix::system::uname().nodename().to_string_lossy().into_owned();
        let (log, batch) = (ShipLog::default(), AtomicUsize::new(outbox::BATCH));
        Self(Arc::new(Shipped { settings, path, clock, gateway, noted, log, batch }))
    }

    /// The state for people.
    #[must_use]
    pub fn status(&self) -> ShipStatus {
        self.0.log.status(self.0.clock.now())
    }

    /// The database. No secret is in it.
    #[must_use]
    pub fn database(&self) -> String {
        self.0.settings.to_string()
    }

    /// Ships, for ever.
    pub async fn run(self, journal: Journal) {
        let inner = &*self.0;
        let mut bound = PAUSES.0;
        // The outbox has its bound also while the database does not answer. It is one task for all tries: one that were ended in the
        // middle would drop records and not count them.
        let mut keeping = std::pin::pin!(inner.keep_bound(&journal));
        loop {
            let connected = inner.connected(&journal);
            let failed = tokio::select! {
                failed = connected => failed,
                never = &mut keeping => match never {},
            };
            if inner.log.is_up() {
                bound = PAUSES.0;
            }
            inner.log.failed(&inner.settings, &failed);
            if failed == ShipError::Timeout {
                let _ = inner.batch.fetch_update(Relaxed, Relaxed, |batch| Some((batch / 4).max(1)));
            }
            let pause = tokio::time::sleep(bound.mul_f64(fastrand::f64()));
            tokio::select! {
                () = pause => {}
                never = &mut keeping => match never {},
            }
            bound = (bound * 2).min(PAUSES.1);
        }
    }

    /// Resolves when all is shipped that is on record, or it is known that the database does not take it; at `until` at the latest.
    pub async fn finish(&self, journal: &Journal, until: Instant) {
        let inner = &*self.0;
        while inner.clock.now().mono < until && !inner.log.is_failing() {
            let is_written = journal.queued() == 0;
            inner.noted.notify_one();
            match inner.measure().await {
                Ok(()) if is_written && inner.log.status(inner.clock.now()).rows == 0 => return,
                Ok(()) => tokio::time::sleep(STOPPING).await,
                Err(_) => break,
            }
        }
        let rows = self.status().rows;
        if rows > 0 {
            tracing::warn!(
                records = rows,
                "stopping; records wait in the outbox for the next start on this disk"
            );
        }
    }
}

/// Moves the bytes of a connection; it ends with it.
type ShipDriver = Pin<Box<dyn Future<Output = ShipError> + Send>>;

/// Nothing comes of it.
enum Never {}

impl Shipped {
    /// Ships over one connection until it breaks; gives the reason.
    async fn connected(&self, journal: &Journal) -> ShipError {
        let (database, driver) = match ShipDatabase::open(&self.settings).await {
            Ok(opened) => opened,
            Err(error) => return error,
        };
        tokio::select! {
            broken = driver => broken,
            ended = self.ship(&database, journal) => ended.map_or_else(|error| error, |never| match never {}),
        }
    }

    async fn ship(&self, database: &ShipDatabase, journal: &Journal) -> Result<Never, ShipError> {
        let mut forget_at = self.clock.now().mono;
        loop {
            let now = self.clock.now().mono;
            if now >= forget_at {
                forget_at = now + FORGET;
                if let Err(error) = database.forget().await {
                    // A reader that keeps a partition busy: the next try is soon enough.
                    tracing::warn!(%error, "old records not dropped in the database");
                }
            }
            let batch = self.read().await?;
            if batch.last == 0 {
                self.log.connected(&self.settings);
                let _ = tokio::time::timeout(LOOK, self.noted.notified()).await;
                tokio::time::sleep(LINGER).await;
                continue;
            }
            self.ship_rows(database, &batch.rows).await?;
            self.log.connected(&self.settings);
            let _ = self.batch.fetch_update(Relaxed, Relaxed, |batch| Some((batch * 2).min(outbox::BATCH)));
            if batch.lost > 0 {
                self.log.dropped(
                    batch.lost as u64,
                    "journal.max_rows or journal.max_age deleted them before they were shipped",
                );
            }
            // What is not taken off is shipped again, and is there once all the same.
            if journal.shipped(batch.last).await.is_err() {
                tokio::time::sleep(LOOK).await;
            }
        }
    }

    /// Ships records together; those that the database takes for invalid are dropped alone.
    async fn ship_rows(&self, database: &ShipDatabase, rows: &[ShipRow]) -> Result<(), ShipError> {
        match database.ship(rows, &self.gateway).await {
            Err(error) if error.is_in_the_data() => {}
            other => {
                self.log.shipped(rows.len());
                return other;
            }
        }
        for row in rows.chunks(1) {
            match database.ship(row, &self.gateway).await {
                Err(error) if error.is_in_the_data() => self.log.dropped(1, &error.to_string()),
                other => {
                    other?;
                    self.log.shipped(1);
                }
            }
        }
        Ok(())
    }

    async fn read(&self) -> Result<ShipBatch, ShipError> {
        let most = self.batch.load(Relaxed);
        self.blocking(move |path| outbox::read(path, most)).await
    }

    /// Notes the size of the outbox.
    async fn measure(&self) -> Result<(), ShipError> {
        self.log.measured(self.blocking(outbox::size).await?);
        Ok(())
    }

    /// Drops the oldest records beyond the bound, for ever.
    async fn keep_bound(&self, journal: &Journal) -> Never {
        loop {
            // A file that cannot be read is named by those who ship.
            if self.measure().await.is_ok() {
                let surplus = self.log.status(self.clock.now()).rows.saturating_sub(self.settings.max_rows);
                self.drop_oldest(surplus, journal).await;
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    async fn drop_oldest(&self, mut surplus: u64, journal: &Journal) {
        // In pieces: records of clients wait for each.
        while surplus > 0 {
            let piece = surplus.min(outbox::BATCH as u64);
            let last = self.blocking(move |path| outbox::number_of(path, piece)).await;
            let Ok(Some(last)) = last else { return };
            if journal.shipped(last).await.is_err() {
                return;
            }
            self.log.dropped(piece, "more waited than journal.ship_max_rows");
            surplus -= piece;
        }
    }

    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Path) -> Result<T, JournalFault> + Send + 'static,
    ) -> Result<T, ShipError> {
        let path = self.path.clone();
        let done = spawn_blocking(move || work(&path)).await;
        let done = done.map_err(|_| ShipError::Outbox("its reader panicked".to_owned()))?;
        done.map_err(|fault| ShipError::Outbox(fault.error_text()))
    }
}

/// Finds requests in the database, newest first.
///
/// # Errors
/// [`ShipError`].
pub async fn find_shipped(settings: &ShipSettings, query: &Query) -> Result<Vec<Row>, ShipError> {
    let (database, driver) = ShipDatabase::open(settings).await?;
    tokio::select! {
        found = database.find(query) => found,
        broken = driver => Err(broken),
    }
}

/// Finds transfers in the database, newest first.
///
/// # Errors
/// [`ShipError`].
pub async fn find_shipped_transfers(
    settings: &ShipSettings,
    query: &TransferQuery,
) -> Result<Vec<TransferRow>, ShipError> {
    let (database, driver) = ShipDatabase::open(settings).await?;
    tokio::select! {
        found = database.find_transfers(query) => found,
        broken = driver => Err(broken),
    }
}

/// Looks at the database before it is relied on: lines for people, `Err` for what makes it useless.
pub async fn look_at(settings: &ShipSettings) -> Result<String, String> {
    let told = |error: ShipError| format!("{settings}: {error}{}", error.advice());
    let looked = async {
        let (database, driver) = ShipDatabase::open(settings).await?;
        let look = async {
            // The rights of those who write: a batch of nothing is none, so that nothing is left there.
            database.ship(&[], "").await?;
            database.forget().await?;
            database.look().await
        };
        tokio::select! {
            looked = look => looked,
            broken = driver => Err(broken),
        }
    };
    let lines = looked.await.map_err(told)?;
    let (bad, good): (Vec<_>, Vec<_>) = lines.iter().partition(|line| line.starts_with("BAD "));
    let good = good.into_iter().cloned().collect::<Vec<_>>().join(", ");
    if bad.is_empty() {
        return Ok(format!("{settings}, {good}, format {}", sql::FORMAT));
    }
    let bad = bad.iter().map(|line| line.trim_start_matches("BAD ")).collect::<Vec<_>>().join(", ");
    Err(format!("{settings}, {good}: {bad}: records that it has confirmed may be lost"))
}
