//! The store behind the links: Google's, or S3's by the form of the links. It serves the parts of every export,
//! fails as it is told, and keeps each request that came.

#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "a place looks for a few of the many faults and lies; the others are not its matter"
)]

mod answer;
mod fault;
mod lie;
mod listing;
mod log;
mod made;
mod range;
mod refusal;
mod sending;
mod shelf;
mod source;
mod transfer;

pub use fault::StoreFault;
pub use lie::{Lie, Stated};
pub use log::{StoreLoad, StoreRequest};
pub use source::PartSource;

pub(super) use answer::respond;
pub(super) use listing::{Listing, total_rows};
pub(super) use shelf::{Shelf, StorePlan, path};

/// The files of every export, and the fields that the store sends with them.
#[derive(Debug, Clone)]
pub struct StoreScript {
    /// The parts, in order.
    pub parts: Vec<PartSource>,
    /// Scheme, host and port of the links, such as `https://files.test:8443`; the fake's own where not set.
    pub origin: Option<String>,
    /// The hash of the object. Only Google's store sends one.
    pub hash: HashField,
    /// The entity tag of the object.
    pub tag: TagField,
    /// Things in the results that are not so.
    pub lies: Vec<Lie>,
}

impl Default for StoreScript {
    fn default() -> Self {
        Self {
            parts: PartSource::issues(2),
            origin: None,
            hash: HashField::OneLine,
            tag: TagField::Strong,
            lies: Vec::new(),
        }
    }
}

/// `x-goog-hash`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum HashField {
    /// Right, with an `md5=` in the same line, which is invented.
    OneLine,
    /// Right, with `md5=` in a line before it.
    TwoLines,
    /// One line, with a wrong CRC32C.
    Wrong,
    /// None.
    Absent,
}

/// `ETag`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum TagField {
    /// A strong one.
    Strong,
    /// A weak one.
    Weak,
    /// None.
    Absent,
}
