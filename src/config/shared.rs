//! `[shared]`: the engine that many gateways share.

use std::path::PathBuf;
use std::time::Duration;

use super::admission::Split;
use super::reader::Reader;
use super::upstream::check_certificates;
use crate::access::is_ours;
use crate::error_text::error_text;
use crate::shared::{EngineAddress, SealKeys, Settings};
use crate::transport::ClientIdentity;

/// The port of Redis and Valkey.
const PORT: u16 = 6379;
const EXAMPLE: &str =
    "write it like rediss://valkey.example:6379, redis://127.0.0.1:6379 or unix:/run/valkey.sock";

/// `None` where no engine is named: then this gateway shares nothing.
pub(super) fn read(r: &mut Reader<'_>) -> Option<(Settings, Split)> {
    let url = r.text("shared.url");
    let (user, password_file) = login(r);
    let ca_file = r.path("shared.ca_file");
    let identity = identity(r);
    let allow_plain = r.boolean("shared.allow_plain_text");
    let prefix = prefix(r);
    let gateways = r.number("shared.gateways", 1..=1_000);
    let own = r.number("shared.own", 0.0..=1.0);
    let timeout = r.duration("shared.timeout", "10ms"..="5s");
    let purge_wait = r.duration("shared.purge_wait", "100ms"..="8s");
    let (key_file, seal) = seal_keys(r);
    let lease = r.duration("shared.lease", "1s"..="1m");
    let max_entry = r.size("shared.max_entry", "1KiB"..="64MiB");
    check_certificates(r, "shared.ca_file", ca_file.as_deref());
    if url.is_empty() {
        return None;
    }
    let (address, database) = built(&url, allow_plain).map_err(|what| r.invalid("shared.url", what)).ok()?;
    check_identity(r, identity.as_ref(), &address);
    let settings = Settings {
        address,
        database,
        user,
        password_file,
        ca_file,
        identity,
        prefix,
        gateways,
        silence: Duration::ZERO,
        timeout,
        purge_wait,
        key_file,
        seal,
        lease,
        max_entry,
    };
    Some((settings, Split { gateways, own }))
}

/// The certificate for the engine, and its key.
fn identity(r: &mut Reader<'_>) -> Option<ClientIdentity> {
    let (certificate, key) = (r.path("shared.client_certificate"), r.path("shared.client_key"));
    if certificate.is_some() != key.is_some() {
        r.problem("shared", "", "set shared.client_certificate and shared.client_key together");
    }
    Some(ClientIdentity { certificate: certificate?, key: key? })
}

fn check_identity(r: &mut Reader<'_>, identity: Option<&ClientIdentity>, address: &EngineAddress) {
    let Some(identity) = identity else { return };
    if !matches!(address, EngineAddress::Tcp { is_tls: true, .. }) {
        r.invalid("shared.client_certificate", "is shown by TLS alone: write rediss:// in shared.url");
    }
    if let Err(error) = identity.check() {
        r.invalid("shared.client_certificate", error_text(&error));
    }
}

fn prefix(r: &mut Reader<'_>) -> String {
    let prefix = r.text("shared.prefix");
    let is_name = prefix.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.:".contains(&b));
    if prefix.is_empty() || !is_name {
        r.invalid("shared.prefix", "must be a name of letters, digits and \"-_.:\"");
    }
    prefix
}

/// The user, and the file with the password.
fn login(r: &mut Reader<'_>) -> (String, Option<PathBuf>) {
    let (user, password_file) = (r.text("shared.user"), password_file(r, "shared.password_file"));
    if !user.is_empty() && password_file.is_none() {
        r.invalid("shared.user", "logs in with a password: set shared.password_file too");
    }
    (user, password_file)
}

/// The file of `key` with a password.
pub(super) fn password_file(r: &mut Reader<'_>, key: &str) -> Option<PathBuf> {
    let path = r.path(key)?;
    r.check_file(key, &path, |content| {
        let is_some = std::str::from_utf8(content).is_ok_and(|text| !text.trim_end().is_empty());
        is_some.then_some(()).ok_or_else(|| "holds no password".to_owned())
    });
    Some(path)
}

/// The file, and the keys in it.
fn seal_keys(r: &mut Reader<'_>) -> (Option<PathBuf>, Option<SealKeys>) {
    let (path, mut keys) = (r.path("shared.key_file"), None);
    if let Some(path) = &path {
        r.check_file("shared.key_file", path, |content| {
            keys = Some(SealKeys::parse(content)?);
            Ok(())
        });
    } else if r.given("shared.url").is_some() {
        r.note("without shared.key_file gateways share the budget, and no answers");
    }
    (path, keys)
}

/// The address, where this build has support for it.
fn built(text: &str, allow_plain: bool) -> Result<(EngineAddress, i64), String> {
    if cfg!(feature = "shared") {
        parse(text, allow_plain)
    } else {
        Err("this build has no support for it: build with the cargo feature \"shared\"".to_owned())
    }
}

/// The address and the number of the database. Nothing of the text is in an error: it might hold a password.
fn parse(text: &str, allow_plain: bool) -> Result<(EngineAddress, i64), String> {
    if let Some(path) = text.strip_prefix("unix:") {
        let path = PathBuf::from(path);
        return if path.is_absolute() { Ok((EngineAddress::Unix(path), 0)) } else { Err(EXAMPLE.to_owned()) };
    }
    let uri: http::Uri = text.parse().map_err(|_| format!("is no URL: {EXAMPLE}"))?;
    let (Some(scheme), Some(authority)) = (uri.scheme_str(), uri.authority()) else {
        return Err(EXAMPLE.to_owned());
    };
    if authority.as_str().contains('@') {
        return Err("must not hold a user or a password: set shared.user and shared.password_file".to_owned());
    }
    let is_tls = match scheme {
        "rediss" | "valkeys" => true,
        "redis" | "valkey" => false,
        _ => return Err(EXAMPLE.to_owned()),
    };
    let port = authority.as_str()[authority.host().len()..].trim_start_matches(':');
    let port = if port.is_empty() { Ok(PORT) } else { port.parse() };
    let port = port.map_err(|_| EXAMPLE.to_owned())?;
    let host = authority.host().trim_matches(['[', ']']).to_ascii_lowercase();
    if host.is_empty() {
        return Err(EXAMPLE.to_owned());
    }
    if !is_tls && !is_ours(authority.host(), &[]) && !allow_plain {
        return Err(
            "another machine's engine is reached without TLS: write rediss://, or set shared.allow_plain_text".to_owned()
        );
    }
    let database = uri.path().trim_matches('/');
    let database = if database.is_empty() { Ok(0) } else { database.parse() };
    let database =
        database.map_err(|_| "must end with the port, or with the number of a database".to_owned())?;
    Ok((EngineAddress::Tcp { host, port, is_tls }, database))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_engine_of_another_machine_is_reached_by_tls_unless_it_is_allowed_not_to_be() {
        let shown = |text: &str, allow_plain| {
            parse(text, allow_plain).map(|(address, database)| format!("{address} {database}"))
        };
        for (text, expected) in [
            ("redis://127.0.0.1", "redis://127.0.0.1:6379 0"),
            ("redis://[::1]:7000/3", "redis://[::1]:7000 3"),
            ("rediss://Valkey.example:6380/", "rediss://valkey.example:6380 0"),
            ("unix:/run/valkey.sock", "unix:/run/valkey.sock 0"),
        ] {
            assert_eq!(shown(text, false).as_deref(), Ok(expected));
        }
        let refused = shown("redis://10.0.0.7:6379", false).expect_err("it is refused");
        assert!(refused.contains("shared.allow_plain_text"), "{refused}");
        assert_eq!(shown("redis://10.0.0.7:6379", true).as_deref(), Ok("redis://10.0.0.7:6379 0"));
    }

    #[test]
    fn nothing_of_a_bad_address_is_repeated() {
        for text in [
            "rediss://gate:s3cr3t@valkey.example",
            "s3cr3t",
            "http://s3cr3t.example",
            "unix:s3cr3t",
            "rediss://a/s3cr3t",
            "rediss://a:s3cr3t",
            "rediss://:6379",
        ] {
            let refused = parse(text, true).expect_err("it is refused");
            assert!(!refused.contains("s3cr3t"), "{refused}");
        }
    }
}
