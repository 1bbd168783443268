//! exportgate, tested through its doors: real sockets, real TLS, and a fake Snyk that counts its hits.

#![expect(
    clippy::disallowed_methods,
    clippy::too_many_lines,
    clippy::unwrap_used,
    reason = "a test spawns what it likes, says its cases at length, and stops where it cannot go on"
)]

mod access;
mod admin;
mod attacks;
mod budget;
mod caching;
mod clients;
mod command_line;
mod connections;
mod credentials;
mod doors;
mod expiry;
mod failures;
mod fake;
mod fake_store;
mod fetch;
mod file_links;
mod file_store;
mod file_transfers;
mod files_access;
#[cfg(feature = "shared")]
mod fleet;
mod floods;
mod forwarding;
mod framing;
mod habits;
mod isolation;
mod kept;
mod kill;
mod live;
mod logs;
mod looking_after;
mod memory;
mod metrics;
mod named_exports;
mod oauth;
mod reload;
mod rotation;
#[cfg(feature = "shared")]
mod second_tier;
mod simulation;
mod slow;
mod sparing;
mod stalls;
mod starts;
mod structure;
mod support;
mod traces;
mod waiting;
