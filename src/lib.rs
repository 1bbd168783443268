//! exportgate: a caching gateway for Snyk's Export API.
//!
//! The modules in reading order; `ARCHITECTURE.md` tells how they fit together.

pub mod circuit;
pub mod clock;
pub mod error_text;
pub mod expiry;
pub mod hardening;
pub mod secret;
pub mod shutdown;
pub mod systemd;
pub mod watched_file;

pub mod csv;
pub mod export;
pub mod transport;

pub mod route;
pub mod start_call;

pub mod access;
pub mod admission;
pub mod cache;
pub mod credential;
pub mod file_store;
pub mod journal;
pub mod listener;
pub mod shared;
pub mod telemetry;
pub mod upstream;

pub mod retrieval;

pub mod files;

pub mod downloads;
pub mod named;

pub mod purge;

pub mod admin;
pub mod gateway;

pub mod app;
pub mod config;

pub mod cli;
pub mod fake;
