//! The journal: a record of every request to the upstream, and of every client it answered.
//!
//! Snyk's support asks for a `snyk-request-id`; the journal is where it is found, hours later, for any
//! client's request. An answer leaves when its record is committed, so the journal never knows less than a client does,
//! as long as its disk works. `docs/decisions/0002-journal.md` tells why it is built this way.
//!
//! Reading order: [`record`](Attempt) (what is kept), `store` (the handle that the gateway holds),
//! `writer` (the thread behind it), `health` (what both know), `database`, `checkpoint` and `schema` (the file), `prune`, `sends`,
//! `query`, `find`, `search` and `support` (reading), `ship` (the journal of many gateways in one place). `starts` is about answers that are given again, `named` about named exports; `transfer` about
//! files, which are no requests to Snyk.

mod checkpoint;
mod command;
mod database;
mod fault;
mod file;
mod find;
mod health;
mod named;
mod prune;
mod query;
mod record;
mod row;
mod schema;
mod search;
mod sends;
mod settings;
mod ship;
mod starts;
mod store;
mod support;
#[cfg(test)]
mod tests;
mod transfer;
mod writer;

pub use fault::Unrecorded;
pub use find::find;
pub use named::{NamedChange, NamedKey, NamedRow, NamedView};
pub use query::{Query, QueryError, StatusFilter, StatusFilterError, moment};
pub(crate) use record::NOT_PROCESSED;
pub use record::{Attempt, KeptStart, Served};
pub use row::Row;
pub use sends::{RecordedSend, RecordedSends};
pub use settings::{Durability, OnFailure, Settings};
pub use ship::{
    DatabaseAddress, SCHEMA, ShipError, ShipSettings, ShipStatus, Shipping, find_shipped,
    find_shipped_transfers, look_at,
};
pub use starts::FoundStart;
pub use store::{AttemptReservation, Journal};
pub use support::support;
pub use transfer::{TransferQuery, TransferRecord, TransferRow, find_transfers};
