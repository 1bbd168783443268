//! credential.
mod settings;

pub use settings::*;
