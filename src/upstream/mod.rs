//! upstream.
mod settings;

pub use settings::*;
