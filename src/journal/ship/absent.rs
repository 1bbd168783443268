//! The connection of a build without support for a database.

use super::super::query::Query;
use super::super::row::Row;
use super::super::transfer::{TransferQuery, TransferRow};
use super::ShipDriver;
use super::error::ShipError;
use super::outbox::ShipRow;
use super::settings::ShipSettings;

/// None can be made.
#[derive(Debug)]
pub(super) enum NoDatabase {}

pub(super) use NoDatabase as ShipDatabase;

#[expect(clippy::unused_async, reason = "the connection of other builds waits")]
impl NoDatabase {
    pub(super) async fn open(_: &ShipSettings) -> Result<(Self, ShipDriver), ShipError> {
        Err(ShipError::NotBuilt)
    }

    pub(super) async fn ship(&self, _: &[ShipRow], _: &str) -> Result<(), ShipError> {
        match *self {}
    }

    pub(super) async fn forget(&self) -> Result<(), ShipError> {
        match *self {}
    }

    pub(super) async fn find(&self, _: &Query) -> Result<Vec<Row>, ShipError> {
        match *self {}
    }

    pub(super) async fn find_transfers(&self, _: &TransferQuery) -> Result<Vec<TransferRow>, ShipError> {
        match *self {}
    }

    pub(super) async fn look(&self) -> Result<Vec<String>, ShipError> {
        match *self {}
    }
}
