//! The clients file: `[clients.NAME]` for each.

use std::time::Duration;

use super::credential::{NAME, is_name};
use super::problem::{Problem, Problems};
use super::reader::Reader;
use super::sources::Sources;
use super::wait::LONGEST;
use crate::access::key::{Key, PREFIX};
use crate::access::{AllowedIds, Claim, Class, ClientSettings, Clients, Policy};
use crate::export::Id;

/// Reads the clients file that is called `name`.
///
/// # Errors
/// All problems at once.
pub fn parse(name: &str, content: &[u8]) -> Result<Vec<ClientSettings>, Problems> {
    let mut sources = Sources::default();
    match std::str::from_utf8(content) {
        Ok(text) => sources.read_file(name, text),
        Err(_) => return Err(Problems(vec![Problem::new(name, "", "is not UTF-8")])),
    }
    let mut reader = Reader::new(&sources);
    let clients: Vec<ClientSettings> =
        reader.tables("clients").into_iter().map(|table| client(&mut reader, name, &table)).collect();
    if let Err(shared) = Clients::new(clients.clone(), None) {
        reader.problem(name, &format!("clients.{}.{}", shared.second, shared.key), shared.to_string());
    }
    reader.finish(Some(clients)).map(|(clients, _)| clients)
}

/// True if `text` can name a client. `local` and `unknown` name callers without a clients file, `exportgate` the gateway itself.
pub(crate) fn is_client_name(text: &str) -> bool {
    is_name(text) && !text.starts_with(PREFIX) && !["local", "unknown", "exportgate"].contains(&text)
}

fn client(r: &mut Reader<'_>, file: &str, table: &str) -> ClientSettings {
    let key = |name: &str| format!("clients.{table}.{name}");
    if !is_client_name(table) {
        r.problem(
            file,
            &format!("clients.{table}"),
            format!("the name must be {NAME}, and not \"local\", \"unknown\" or \"exportgate\""),
        );
    }
    let described = ClientSettings {
        name: table.to_owned(),
        keys: r.list(&key("keys"), Key::parse),
        certificates: r.list(&key("certificates"), certificate),
        tokens: r.list(&key("tokens"), claim),
        unix_users: r.list(&key("unix_users"), id),
        unix_groups: r.list(&key("unix_groups"), id),
        policy: Policy {
            orgs: allowed(r, &key("orgs")),
            groups: allowed(r, &key("groups")),
            operations: r.list(&key("operations"), operation).into_iter().collect(),
            requests_per_minute: limit(r, &key("requests_per_minute")),
            share: r.number(&key("share"), 1..=1_000),
            concurrent_requests: limit(r, &key("concurrent_requests")),
            wait_unasked: wait_unasked(r, &key("wait_unasked")),
        },
    };
    if described.keys.is_empty() && !described.is_known_otherwise() {
        let what = "is known by nothing: set keys (`exportgate key new`), certificates, tokens, unix_users or unix_groups";
        r.problem(file, &format!("clients.{table}"), what);
    }
    described
}

fn certificate(text: &str) -> Result<String, String> {
    let (kind, name) = text.split_once(':').unwrap_or_default();
    match kind {
        _ if name.is_empty() => Err(()),
        "uri" | "subject" => Ok(text.to_owned()),
        "dns" => Ok(text.to_ascii_lowercase()),
        _ => Err(()),
    }
    .map_err(|()| "must be names such as \"uri:spiffe://…\", \"dns:host\" or \"subject:CN=…\"".to_owned())
}

fn claim(text: &str) -> Result<Claim, String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() && !value.is_empty() => {
            Ok(Claim { name: name.to_owned(), value: value.to_owned() })
        }
        _ => Err("must be claims such as \"sub=system:serviceaccount:ns:name\"".to_owned()),
    }
}

fn id(text: &str) -> Result<u32, String> {
    text.parse().map_err(|_| "must be numbers, such as 1000".to_owned())
}

fn operation(text: &str) -> Result<Class, String> {
    let known = [Class::Read, Class::Files, Class::Start, Class::Other];
    known
        .into_iter()
        .find(|class| class.as_str() == text)
        .ok_or_else(|| "must be of \"read\", \"files\", \"start\" and \"other\"".to_owned())
}

fn allowed(r: &mut Reader<'_>, key: &str) -> AllowedIds {
    let ids = r.list(key, |text| match (text, Id::parse(text)) {
        ("*", _) => Ok(None),
        (_, Some(id)) => Ok(Some(id)),
        _ => Err("must be ids, such as \"825e79b7-0073-44c3-a5ea-e0aa8a3dbf38\", or \"*\"".to_owned()),
    });
    match ids.into_iter().collect::<Option<_>>() {
        Some(ids) => AllowedIds::Some(ids),
        None => AllowedIds::All,
    }
}

/// The empty text is `wait.unasked`.
fn wait_unasked(r: &mut Reader<'_>, key: &str) -> Option<Duration> {
    let is_given = r.given(key).is_some_and(|given| given.text != [""]);
    if is_given {
        return Some(r.duration(key, "0s"..=LONGEST));
    }
    r.text(key);
    None
}

fn limit(r: &mut Reader<'_>, key: &str) -> Option<u32> {
    Some(r.number(key, 0..=100_000)).filter(|limit| *limit > 0)
}
