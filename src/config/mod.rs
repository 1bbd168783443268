//! The configuration: file, environment and flags become one typed [`Config`] or a list of problems.

use crate::{cache, credential, gateway, journal, listener, telemetry, upstream};

/// Everything that can be set. An invalid one cannot exist.
#[derive(Debug, Clone)]
pub struct Config {
    /// `listen` and `[listener]`.
    pub listener: listener::Settings,
    /// `[upstream]`.
    pub upstream: upstream::Settings,
    /// `[credential]` and `SNYK_TOKEN`.
    pub credential: credential::Settings,
    /// `[cache]`.
    pub cache: cache::Settings,
    /// `[routes]`.
    pub routes: gateway::Routes,
    /// `[journal]`.
    pub journal: journal::Settings,
    /// `[log]`.
    pub log: telemetry::Settings,
}
