//! `journal.ship_…`: the database that has the journal of many gateways.

use std::path::PathBuf;

use percent_encoding::percent_decode_str;

use super::reader::Reader;
use super::shared::password_file;
use super::upstream::check_certificates;
use crate::access::is_ours;
use crate::journal::{DatabaseAddress, ShipSettings};

/// The port of `PostgreSQL`.
const PORT: u16 = 5432;
const EXAMPLE: &str = "write it like postgresql://USER@db.example:5432/DATABASE or postgresql://USER@/DATABASE?host=/run/postgresql";

/// `None` where no database is named: then the records stay in the file.
pub(super) fn read(r: &mut Reader<'_>) -> Option<ShipSettings> {
    let url = r.text("journal.ship_to");
    let password_file = password_file(r, "journal.ship_password_file");
    let ca_file = r.path("journal.ship_ca_file");
    let allow_plain = r.boolean("journal.ship_allow_plain_text");
    let max_rows = r.number("journal.ship_max_rows", 1..=1_000_000_000);
    let timeout = r.duration("journal.ship_timeout", "100ms"..="1m");
    check_certificates(r, "journal.ship_ca_file", ca_file.as_deref());
    if url.is_empty() {
        return None;
    }
    if !cfg!(feature = "postgres") {
        let what = "this build has no support for it: build with the cargo feature \"postgres\"";
        r.invalid("journal.ship_to", what);
    }
    let place = parse(&url, allow_plain).map_err(|what| r.invalid("journal.ship_to", what)).ok()?;
    let ShipPlace { address, user, database } = place;
    Some(ShipSettings { address, user, database, password_file, ca_file, max_rows, timeout })
}

#[derive(Debug)]
struct ShipPlace {
    address: DatabaseAddress,
    user: String,
    database: String,
}

/// The place in a URL as `libpq` reads it. Nothing of the text is in an error: it might hold a password.
fn parse(text: &str, allow_plain: bool) -> Result<ShipPlace, String> {
    let example = || EXAMPLE.to_owned();
    let rest = text.strip_prefix("postgresql://").or_else(|| text.strip_prefix("postgres://"));
    let (rest, query) = rest.map(|rest| rest.split_once('?').unwrap_or((rest, ""))).ok_or_else(example)?;
    let (authority, database) = rest.split_once('/').ok_or_else(example)?;
    let (user, host) = authority.rsplit_once('@').ok_or_else(example)?;
    if user.contains(':') {
        return Err("must not hold a password: set journal.ship_password_file".to_owned());
    }
    let plain = |text: &str| percent_decode_str(text).decode_utf8().map(String::from).map_err(|_| example());
    let (user, database) = (plain(user)?, plain(database)?);
    if user.is_empty() || database.is_empty() || database.contains('/') {
        return Err(example());
    }
    let Options { is_tls, directory } = options(query)?;
    let address = match (directory, host) {
        (Some(directory), port) if port.is_empty() || port.starts_with(':') => {
            let port = port_of(port.trim_start_matches(':')).ok_or_else(example)?;
            DatabaseAddress::Unix(directory.join(format!(".s.PGSQL.{port}")))
        }
        (None, host) => tcp(host, is_tls, allow_plain)?,
        (Some(_), _) => return Err(example()),
    };
    Ok(ShipPlace { address, user, database })
}

/// The parameters of a URL.
#[derive(Debug)]
struct Options {
    is_tls: bool,
    /// The directory of a Unix socket.
    directory: Option<PathBuf>,
}

fn options(query: &str) -> Result<Options, String> {
    let mut options = Options { is_tls: true, directory: None };
    for (name, value) in form_urlencoded::parse(query.as_bytes()) {
        match (&*name, &*value) {
            ("sslmode", "verify-full") => options.is_tls = true,
            ("sslmode", "disable") => options.is_tls = false,
            ("sslmode", _) => {
                return Err("sslmode must be verify-full, which is the default, or disable".to_owned());
            }
            ("host", path) if path.starts_with('/') => options.directory = Some(PathBuf::from(path)),
            _ => {
                return Err(
                    "may have the parameters sslmode and host (the directory of a Unix socket) alone"
                        .to_owned(),
                );
            }
        }
    }
    Ok(options)
}

fn tcp(host: &str, is_tls: bool, allow_plain: bool) -> Result<DatabaseAddress, String> {
    let authority: http::uri::Authority = host.parse().map_err(|_| EXAMPLE.to_owned())?;
    if !is_tls && !is_ours(authority.host(), &[]) && !allow_plain {
        return Err(
            "another machine's database is reached without TLS: leave sslmode out, or set journal.ship_allow_plain_text".to_owned()
        );
    }
    let port = authority.as_str()[authority.host().len()..].trim_start_matches(':');
    let port = port_of(port).ok_or_else(|| EXAMPLE.to_owned())?;
    let host = authority.host().trim_matches(['[', ']']).to_ascii_lowercase();
    if host.is_empty() {
        return Err(EXAMPLE.to_owned());
    }
    Ok(DatabaseAddress::Tcp { host, port, is_tls })
}

fn port_of(text: &str) -> Option<u16> {
    if text.is_empty() { Some(PORT) } else { text.parse().ok() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_database_of_another_machine_is_reached_by_tls_unless_it_is_allowed_not_to_be() {
        let shown = |text: &str, allow_plain| {
            parse(text, allow_plain).map(|place| {
                let tls = matches!(place.address, DatabaseAddress::Tcp { is_tls: true, .. });
                format!("{} {} {} {tls}", place.user, place.database, place.address)
            })
        };
        for (text, expected) in [
            ("postgresql://gate@Db.example/audit", "gate audit db.example:5432 true"),
            ("postgres://gate@[::1]:6000/audit?sslmode=disable", "gate audit [::1]:6000 false"),
            ("postgresql://gate@127.0.0.1/audit?sslmode=verify-full", "gate audit 127.0.0.1:5432 true"),
            (
                "postgresql://g%40te@/audit?host=/run/postgresql",
                "g@te audit unix:/run/postgresql/.s.PGSQL.5432 false",
            ),
            ("postgresql://gate@:6000/audit?host=%2Frun", "gate audit unix:/run/.s.PGSQL.6000 false"),
        ] {
            assert_eq!(shown(text, false).as_deref(), Ok(expected), "{text}");
        }
        let plain = "postgresql://gate@10.0.0.7/audit?sslmode=disable";
        let refused = shown(plain, false).expect_err("it is refused");
        assert!(refused.contains("journal.ship_allow_plain_text"), "{refused}");
        assert_eq!(shown(plain, true).as_deref(), Ok("gate audit 10.0.0.7:5432 false"));
    }

    #[test]
    fn nothing_of_a_bad_url_is_repeated() {
        for text in [
            "postgresql://gate:s3cr3t@db.example/audit",
            "s3cr3t",
            "postgresql://s3cr3t@db.example",
            "postgresql://@s3cr3t/audit",
            "postgresql://gate@db.example/audit?password=s3cr3t",
            "postgresql://gate@db.example/audit?sslmode=s3cr3t",
            "postgresql://gate@db.example:s3cr3t/audit",
            "postgresql://gate@db.example/audit?host=/s3cr3t",
        ] {
            let refused = parse(text, true).expect_err("it is refused");
            assert!(!refused.contains("s3cr3t"), "{refused}");
        }
    }
}
