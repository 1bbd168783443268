//! The configuration: defaults, `SNYK_API`, a file, `EXPORTGATE_…` variables and flags, in the order of
//! rising precedence, become one typed [`Config`], or a list of all problems.
//!
//! Each key is declared once, in the example file (see `keys`): its name, default and comment. The section that reads it
//! knows its bounds.

mod access;
mod admin;
mod admission;
mod cache;
pub mod clients;
mod credential;
mod exports;
mod files;
mod journal;
mod keys;
mod links;
mod listener;
mod log;
mod otlp;
mod problem;
mod reader;
mod routes;
mod shared;
mod ship;
mod shutdown;
mod sources;
mod starts;
mod tls;
mod upstream;
mod wait;

use std::path::PathBuf;
use std::time::Duration;

use crate::access::ClientSettings;
use crate::clock::Clock;
use crate::expiry::{Expiring, Kind, date};
use crate::listener::Address;
use crate::telemetry;
use crate::transport::ServerTlsSettings;

pub(crate) use admin::AdminLocation;
pub(crate) use keys::{EXAMPLE, needs_restart};
pub use problem::{Problem, Problems};
pub use reader::{Resolved, ResolvedKey};
pub use sources::{Sources, file};

/// Everything that can be set. An invalid one cannot exist.
#[derive(Debug, Clone)]
pub struct Config {
    /// `listen` and `[listener]`.
    pub listener: crate::listener::Settings,
    /// `[tls]`.
    pub tls: Option<ServerTlsSettings>,
    /// `[access]` and `[oidc]`.
    pub access: crate::access::Settings,
    /// The clients file, to be followed.
    pub clients_file: Option<PathBuf>,
    /// Interval for reading the files of clients, TLS and JWKS again.
    pub reload_interval: Duration,
    /// `[upstream]`.
    pub upstream: crate::upstream::Settings,
    /// `[budget]`, `[queue]`, `[backoff]`, `[retry]` and `[breaker]`.
    pub admission: crate::admission::Settings,
    /// `[shared]`.
    pub shared: Option<crate::shared::Settings>,
    /// `[credential]` and `SNYK_TOKEN`.
    pub credential: crate::credential::Settings,
    /// `[cache]`.
    pub cache: crate::cache::Settings,
    /// `[exports]` and `[exports.NAME]`.
    pub named: crate::named::Settings,
    /// `[starts]`.
    pub(crate) starts: crate::retrieval::ShareSettings,
    /// `[files]`.
    pub files: crate::file_store::Settings,
    /// `routes.other`: true if calls that are no export calls are forwarded.
    pub forward_other: bool,
    /// `[wait]`.
    pub wait: crate::gateway::WaitSettings,
    /// `[journal]`.
    pub journal: crate::journal::Settings,
    /// `[admin]`.
    pub admin: crate::admin::AdminSettings,
    /// `[shutdown]`.
    pub shutdown: crate::shutdown::Settings,
    /// `[otlp]`.
    pub traces: Option<telemetry::trace::Settings>,
    /// `[log]`.
    pub log: telemetry::Settings,
    /// Every key as it was resolved.
    pub resolved: Resolved,
}

impl Config {
    /// Resolves `sources`.
    ///
    /// # Errors
    /// All problems at once.
    pub fn resolve(sources: &Sources) -> Result<(Self, Resolved), Problems> {
        let mut reader = reader::Reader::new(sources);
        let config = Self::read(&mut reader);
        let (config, resolved) = reader.finish(config)?;
        Ok((Self { resolved: resolved.clone(), ..config }, resolved))
    }

    fn read(reader: &mut reader::Reader<'_>) -> Option<Self> {
        let (mut listener, (tls, expiring)) = (listener::read(reader), tls::read(reader).unzip());
        let (upstream, plain) = upstream::read(reader, &listener);
        let mut access = access::read(reader, &plain);
        access.note_certificates(reader, tls.as_ref());
        listener.has_clients = access.clients_file.is_some();
        access::check_addresses(reader, &listener, tls.is_some());
        let credential = credential::read(reader, &upstream, &plain);
        let (shared, split) = shared::read(reader).unzip();
        let admission = admission::read(reader, listener.has_clients, split);
        let (named, (files, files_basic)) = (exports::read(reader, &listener), files::read(reader));
        access.settings.files_basic = files_basic;
        let (forward_other, journal, log) = (routes::read(reader), journal::read(reader), log::read(reader));
        let admin = admin::read(reader, &listener, tls.as_ref());
        let keys = access.settings.clients.iter().flatten().filter_map(ClientSettings::expiring);
        note_expiry(reader, expiring.into_iter().flatten().chain(keys), admin.warn_before);
        Some(Self {
            listener,
            tls,
            access: access.settings,
            clients_file: access.clients_file,
            reload_interval: access.reload_interval,
            cache: cache::read(reader, upstream.max_answer),
            starts: starts::read(reader),
            wait: wait::read(reader),
            shutdown: shutdown::read(reader),
            traces: otlp::read(reader, &plain),
            upstream,
            admission,
            shared,
            credential: credential?,
            named,
            files,
            forward_other,
            journal: journal?,
            admin,
            log,
            resolved: Resolved::default(),
        })
    }
}

/// Notes the end of our own certificate, and warnings about whatever else ends soon or has ended.
fn note_expiry(
    reader: &mut reader::Reader<'_>,
    expiring: impl Iterator<Item = Expiring>,
    warn_before: Duration,
) {
    let now = Clock::system().now().wall;
    for one in expiring {
        match one.warning(now, warn_before) {
            Some(warning) => reader.note(format!("WARNING: {warning}")),
            None if one.kind == Kind::Certificate => {
                reader.note(format!("{} is valid until {}", one.name, date(one.ends)));
            }
            None => {}
        }
    }
}

impl Sources {
    /// The admin listener, whatever else is set.
    ///
    /// # Errors
    /// If its keys are not valid.
    pub(crate) fn admin_location(&self) -> Result<AdminLocation, Problems> {
        let mut reader = reader::Reader::new(self);
        let mut location = admin::location(&mut reader);
        if let Some(Address::Tls(_)) = location.listen {
            let tls = tls::files(&mut reader);
            location = location.with_tls(tls.as_ref());
        }
        let problems = reader.into_problems();
        if problems.is_empty() { Ok(location) } else { Err(Problems(problems)) }
    }

    /// The journal, whatever else is set: `exportgate requests` needs no credential.
    ///
    /// # Errors
    /// If it has no known place, or its keys are not valid.
    pub(crate) fn journal(&self) -> Result<crate::journal::Settings, Problems> {
        let mut reader = reader::Reader::new(self);
        let found = journal::read(&mut reader);
        let problems = reader.into_problems();
        let is_valid = !problems.iter().any(|problem| problem.key.starts_with("journal."));
        found.filter(|_| is_valid).ok_or(Problems(problems))
    }
}

#[cfg(test)]
mod tests;
