//! cache.
mod settings;

pub use settings::*;
