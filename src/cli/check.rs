//! `exportgate check`.

use std::fmt::Write as _;
use std::io::{self, Write};
use std::time::{Duration, SystemTime};

use crate::access::{Class, Described};
use crate::config::{Config, Resolved};
use crate::credential::Scopes;
use crate::expiry::{Standing, date};
use crate::gateway::{Routes, text_of};
use crate::route;

/// Prints `resolved` as TOML, each key with where its value comes from; or, as an example, each with its
/// default and what it does.
pub(super) fn run(resolved: &Resolved, example: bool, out: &mut dyn Write) -> io::Result<()> {
    out.write_all(if example { self::example(resolved) } else { listing(resolved) }.as_bytes())
}

/// What a dry run asks: may this client do this?
#[derive(Debug)]
pub(super) struct Asked<'a> {
    pub(super) client: &'a str,
    pub(super) method: &'a str,
    pub(super) target: &'a str,
    pub(super) now: SystemTime,
}

/// Says what would happen to a request and which rule decides; whether it would be let through.
pub(super) fn dry_run(config: &Config, asked: &Asked<'_>, out: &mut dyn Write) -> io::Result<bool> {
    let Asked { client, method, target, now } = asked;
    writeln!(out, "{client}: {method} {target}")?;
    let (Ok(method), Ok(uri)) = (method.parse(), target.parse::<http::Uri>()) else {
        writeln!(out, "  refused: this is no method and path")?;
        return Ok(false);
    };
    let route = match route::recognise(&method, &uri, config.routes == Routes::Everything) {
        Ok(route) => route,
        Err(refusal) => {
            writeln!(out, "  refused: {}", text_of(refusal))?;
            return Ok(false);
        }
    };
    let status = if config.access.hide { 404 } else { 403 };
    match &config.access.clients {
        None if *client == "local" => {
            writeln!(
                out,
                "  allowed: access.clients_file is not set, so that everybody local may do everything"
            )?;
        }
        None => {
            writeln!(out, "  refused: access.clients_file is not set; the only client is \"local\"")?;
            return Ok(false);
        }
        Some(clients) => {
            let Some(found) = clients.iter().find(|one| one.name == *client) else {
                let names: Vec<&str> = clients.iter().map(|one| one.name.as_str()).collect();
                writeln!(out, "  refused: 401, nobody is called so; there are: {}", names.join(", "))?;
                return Ok(false);
            };
            if !may_get_in(found, *now, config.admin.warn_before, out)? {
                return Ok(false);
            }
            if let Err(denied) = found.policy.decide(&route) {
                writeln!(out, "  refused: {status}, clients.{client}.{}", denied.rule())?;
                return Ok(false);
            }
            let class = Class::of(&route).as_str();
            writeln!(out, "  allowed: clients.{client}.operations holds \"{class}\"")?;
            for scope in route.scopes() {
                let (kind, id) = (scope.kind.as_str(), scope.id.as_str());
                writeln!(out, "  allowed: clients.{client}.{kind}s holds {kind} {id}, or \"*\"")?;
            }
            for (key, limit) in [
                ("requests_per_minute", found.policy.requests_per_minute),
                ("concurrent_requests", found.policy.concurrent_requests),
            ] {
                if let Some(limit) = limit {
                    writeln!(out, "  limited: clients.{client}.{key} = {limit}; more get 429")?;
                }
            }
        }
    }
    let rest = config.credential.credentials.iter().find(|one| one.scopes == Scopes::Rest);
    let named = route.scopes().first();
    let named =
        named.and_then(|scope| config.credential.credentials.iter().find(|one| one.scopes.names(scope)));
    if let Some(credential) = named.or(rest) {
        writeln!(out, "  asks {} with the credential {}", config.upstream.root, credential.name)?;
        return Ok(true);
    }
    writeln!(out, "  refused: 403 no_credential, no credential is for this org or group")?;
    Ok(false)
}

/// Lists the keys of a client that have ended or end soon. Gives `false` where no key and nothing else is left.
fn may_get_in(
    client: &Described,
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
        writeln!(
            out,
            "  all of its keys have ended: it gets in by certificates, tokens or unix_users alone"
        )?;
        return Ok(true);
    }
    let name = &client.name;
    writeln!(
        out,
        "  refused: 401, all keys in clients.{name}.keys have ended: make one with `exportgate key new --client {name}`"
    )?;
    Ok(false)
}

fn listing(resolved: &Resolved) -> String {
    let shown = |name: &str, value: &str| format!("{} = {value}", name.rsplit('.').next().unwrap_or(name));
    let lines = resolved.keys.iter().map(|key| shown(&key.name, &key.value).chars().count());
    let width = lines.max().unwrap_or(0).min(60);
    let mut text = String::from("# The configuration is valid. Values, and where they come from:\n");
    for note in &resolved.notes {
        let _ = writeln!(text, "# {note}");
    }
    sections(resolved, &mut text, |key| {
        format!("{:width$}  # {}\n", shown(&key.name, &key.value), key.place)
    });
    text
}

/// The text of `config/exportgate.example.toml`.
fn example(resolved: &Resolved) -> String {
    let mut text = String::from(
        "# Every key of exportgate, with its default. Each can also be set by an environment variable:\n\
         # EXPORTGATE_ and the key in capitals, with \"_\" for \".\" (EXPORTGATE_UPSTREAM_URL); lists there\n\
         # are separated by commas. `exportgate check` shows what is in force and where it comes from.\n\
         # The Snyk token itself is never in this file: set SNYK_TOKEN, or credential.token_file.\n",
    );
    sections(resolved, &mut text, |key| {
        let name = key.name.rsplit('.').next().unwrap_or(&key.name);
        format!("\n# {}\n# {name} = {}\n", key.doc, key.default)
    });
    text
}

fn sections(resolved: &Resolved, text: &mut String, line: impl Fn(&crate::config::Key) -> String) {
    let mut section = "";
    for key in &resolved.keys {
        let of_key = key.name.rsplit_once('.').map_or("", |(section, _)| section);
        if of_key != section {
            section = of_key;
            let _ = writeln!(text, "\n[{section}]");
        }
        text.push_str(&line(key));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_file_is_what_the_program_prints() {
        let printed = example(&Resolved::defaults());
        let committed = include_str!("../../config/exportgate.example.toml");
        assert_eq!(printed, committed, "regenerate it with `exportgate check --example`");
    }
}
