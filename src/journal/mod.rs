//! journal.
mod record;
mod settings;

pub use record::{Attempt, Served};
pub use settings::*;
