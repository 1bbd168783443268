//! Exports as Snyk has them (pure): ids, orgs and groups, the calls and their grammar, the document of an answer,
//! and the normal form of a start's body.
//!
//! Text of others becomes values here, and what goes upstream is written from these values alone.

mod call;
mod document;
mod files;
mod id;
mod links;
mod named;
mod normal_form;
mod parts;
mod query;
pub(crate) mod text;

pub(crate) use call::parse_path;
pub use call::{ExportCall, Operation};
pub use document::Document;
pub(crate) use files::{API_VERSION, FilesPath};
pub use files::{FileName, FilesCall, FilesTarget};
pub use id::{ExportName, Id, Scope, ScopeKind};
pub(crate) use links::Links;
pub use named::{NamedCall, NamedTarget};
pub(crate) use normal_form::normal_form;
pub(crate) use parts::{ExportParts, ExportProgress, MAX_PARTS, PartEntry};
pub use query::CallQuery;
