//! `exportgate check`.

use std::fmt::Write as _;
use std::io::{self, Write};
use std::time::{Duration, SystemTime};

use crate::access::{Class, ClientSettings};
use crate::config::{Config, Resolved};
use crate::credential::Scopes;
use crate::expiry::{Standing, date};
use crate::export::NamedCall;
use crate::gateway::text_of;
use crate::route::{self, Route};

/// A request whose outcome is asked for without sending it.
#[derive(Debug)]
pub(super) struct DryRun<'a> {
    pub(super) client: &'a str,
    pub(super) method: &'a str,
    pub(super) target: &'a str,
    pub(super) now: SystemTime,
}

impl DryRun<'_> {
    /// Prints the outcome and the rules that decide. Gives `true` where the request would be allowed.
    pub(super) fn run(&self, config: &Config, out: &mut dyn Write) -> io::Result<bool> {
        let Self { client, method, target, .. } = self;
        writeln!(out, "{client}: {method} {target}")?;
        let (Ok(method), Ok(uri)) = (method.parse(), target.parse::<http::Uri>()) else {
            writeln!(out, "  refused: not a method and a path")?;
            return Ok(false);
        };
        let route = match route::recognise(&method, &uri, config.forward_other) {
            Ok(Route::Named(call)) => match self.locate(call, config) {
                Ok(route) => route,
                Err(why) => {
                    writeln!(out, "  refused: 404 no_such_name, {why}")?;
                    return Ok(false);
                }
            },
            Ok(route) => route,
            Err(refusal) => {
                writeln!(out, "  refused: {}", text_of(refusal))?;
                return Ok(false);
            }
        };
        let is_allowed = match &config.access.clients {
            Some(clients) => self.permit(clients, config, &route, out)?,
            None if *client == "local" => {
                writeln!(
                    out,
                    "  allowed: without access.clients_file, every local client may do everything"
                )?;
                true
            }
            None => {
                writeln!(out, "  refused: without access.clients_file, the only client is \"local\"")?;
                false
            }
        };
        Ok(is_allowed && has_credential(config, &route, out)?)
    }

    /// A call for a named export with its org or group.
    fn locate(&self, call: NamedCall, config: &Config) -> Result<Route, String> {
        let name = call.name.as_str();
        let found = config.named.exports.iter().find(|export| export.name == call.name);
        let export = found.ok_or_else(|| format!("there is no [exports.{name}]"))?;
        if !export.is_for(self.client) {
            return Err(format!("exports.{name}.clients does not hold {}", self.client));
        }
        Ok(Route::Named(NamedCall { scope: Some(export.scope.clone()), ..call }))
    }

    fn permit(
        &self,
        clients: &[ClientSettings],
        config: &Config,
        route: &Route,
        out: &mut dyn Write,
    ) -> io::Result<bool> {
        let name = self.client;
        let Some(client) = clients.iter().find(|one| one.name == name) else {
            let names: Vec<&str> = clients.iter().map(|one| one.name.as_str()).collect();
            writeln!(out, "  refused: 401, unknown client; the clients are: {}", names.join(", "))?;
            return Ok(false);
        };
        if !may_get_in(client, self.now, config.admin.warn_before, out)? {
            return Ok(false);
        }
        if let Err(denied) = client.policy.decide(route) {
            let status = if config.access.hide { 404 } else { 403 };
            writeln!(out, "  refused: {status}, clients.{name}.{}", denied.rule())?;
            return Ok(false);
        }
        if let Ok(class) = client.policy.allowing(Class::of(route)) {
            let class = class.as_str();
            writeln!(out, "  allowed: clients.{name}.operations holds \"{class}\"")?;
        }
        for scope in route.scopes() {
            let (kind, id) = (scope.kind.as_str(), scope.id.as_str());
            writeln!(out, "  allowed: clients.{name}.{kind}s holds {kind} {id}, or \"*\"")?;
        }
        for (key, limit) in [
            ("requests_per_minute", client.policy.requests_per_minute),
            ("concurrent_requests", client.policy.concurrent_requests),
        ] {
            if let Some(limit) = limit {
                writeln!(out, "  limited: clients.{name}.{key} = {limit}; more get 429")?;
            }
        }
        Ok(true)
    }
}

fn has_credential(config: &Config, route: &Route, out: &mut dyn Write) -> io::Result<bool> {
    let credentials = &config.credential.credentials;
    let named = route.scopes().first();
    let named = named.and_then(|scope| credentials.iter().find(|one| one.scopes.names(scope)));
    let rest = || credentials.iter().find(|one| one.scopes == Scopes::Rest);
    if let Some(credential) = named.or_else(rest) {
        writeln!(out, "  sent to {} with the credential {}", config.upstream.root, credential.name)?;
        return Ok(true);
    }
    writeln!(out, "  refused: 403 no_credential, no credential is for this org or group")?;
    Ok(false)
}

/// Lists the keys of a client that have ended or end soon. Gives `false` where the client cannot identify itself any more.
fn may_get_in(
    client: &ClientSettings,
    now: SystemTime,
    warn_before: Duration,
    out: &mut dyn Write,
) -> io::Result<bool> {
    let count = client.keys.len();
    let is_over = client.expiring().is_some_and(|last| last.standing(now, warn_before) == Standing::Ended);
    for (at, key) in client.keys.iter().enumerate() {
        let Some(ends) = key.until else { continue };
        let verb = match (ends <= now, ends < now + warn_before) {
            (true, _) => "ended",
            (false, true) => "ends",
            (false, false) => continue,
        };
        let name = &client.name;
        writeln!(out, "  key {} of {count} in clients.{name}.keys {verb} on {}", at + 1, date(ends))?;
    }
    if !is_over {
        return Ok(true);
    }
    if client.is_known_otherwise() {
        writeln!(out, "  all of its keys have ended: only certificates, tokens and unix_users identify it")?;
        return Ok(true);
    }
    let name = &client.name;
    writeln!(
        out,
        "  refused: 401, all keys in clients.{name}.keys have ended: make one with `exportgate key new --client {name}`"
    )?;
    Ok(false)
}

/// The keys as TOML, each with the source of its value.
pub(super) fn listing(resolved: &Resolved) -> String {
    let short = |name: &str| name.rsplit('.').next().unwrap_or(name).to_owned();
    let pairs = resolved.keys.iter().map(|key| format!("{} = {}", short(&key.name), key.value));
    let width = pairs.clone().map(|pair| pair.chars().count()).max().unwrap_or(0).min(60);
    let mut text = String::from("# The configuration is valid. Values and their sources:\n");
    for note in &resolved.notes {
        let _ = writeln!(text, "# {note}");
    }
    let mut section = "";
    for (key, pair) in resolved.keys.iter().zip(pairs) {
        let of_key = key.name.rsplit_once('.').map_or("", |(section, _)| section);
        if of_key != section {
            section = of_key;
            let _ = writeln!(text, "\n[{section}]");
        }
        let _ = writeln!(text, "{pair:width$}  # {}", key.place);
    }
    text
}
