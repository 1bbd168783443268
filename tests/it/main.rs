//! exportgate, tested through its doors: real sockets, real TLS, and a fake Snyk that counts its hits.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

mod attacks;
mod caching;
mod command_line;
mod credentials;
mod failures;
mod forwarding;
mod kill;
mod structure;
mod support;
