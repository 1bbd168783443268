//! journal.
mod record;
mod settings;

pub use record::{Attempt, Served};
pub use settings::*;

/// Stub.
#[derive(Debug, Clone)]
pub struct Journal;
/// Stub.
#[derive(Debug)]
pub struct Unrecorded;
#[expect(missing_docs, clippy::unused_async)]
impl Journal {
    pub fn open(_: Settings, _: crate::clock::Clock) -> Self {
        Self
    }
    pub async fn record(&self, _: Attempt, _: Vec<Served>) -> Result<(), Unrecorded> {
        Ok(())
    }
    pub async fn serve(&self, _: uuid::Uuid, _: Vec<Served>) -> Result<(), Unrecorded> {
        Ok(())
    }
    pub fn is_failing(&self) -> bool {
        false
    }
    pub async fn close(&self) {}
}
