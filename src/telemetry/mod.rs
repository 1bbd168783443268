//! telemetry.
mod settings;

pub use settings::*;
