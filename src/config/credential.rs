//! `[credential]`, `[credentials.NAME]` and `SNYK_TOKEN`.

use super::reader::Reader;
use super::upstream::endpoint;
use crate::credential::{Described, Scheme, Scopes, Settings, Slot, Source, parse};
use crate::export::Id;
use crate::files;
use crate::upstream::Settings as Upstream;

/// Gives nothing only after noting a problem.
pub(super) fn read(r: &mut Reader<'_>, upstream: &Upstream, plain: &[String]) -> Option<Settings> {
    for key in ["credential.token", "credential.client_secret"] {
        if let Some(given) = r.given(key) {
            let what =
                format!("a secret does not belong in a file of settings: use {key}_file (or SNYK_TOKEN)");
            r.problem(&given.place, key, what);
        }
    }
    let (scheme, active) = slot(r, "credential", upstream, plain);
    let name =
        name(r, ("credential.name", "default", "What the credential is called in the journal and the log."));
    let reload_interval = r.duration(
        (
            "credential.reload_interval",
            "1s",
            "How often secret files are read; a new one is used after two equal readings.",
        ),
        ("10ms", "1h"),
    );
    let probe_interval = r.duration(
        (
            "credential.probe_interval",
            "60s",
            "How long a credential that Snyk refuses is left alone, and how often it is then tried.",
        ),
        ("100ms", "1h"),
    );
    let (_, next) = slot(r, "credential.next", upstream, plain);
    let given = r.sources.env.get("SNYK_TOKEN").cloned();
    let is_empty = given.as_ref().is_some_and(String::is_empty);
    let token = given.filter(|token| !token.is_empty());
    let note = match (&token, &active) {
        (Some(_), Some(_)) => "SNYK_TOKEN is set, and not used: [credential] comes first",
        (Some(_), None) => "SNYK_TOKEN is set",
        (None, _) if is_empty => "SNYK_TOKEN is empty, which counts as not set",
        (None, _) => "SNYK_TOKEN is not set",
    };
    r.note(note);
    let active = active.or_else(|| match token.as_deref().map(parse) {
        Some(Ok(secret)) => Some(Slot { source: Source::Fixed(secret), scheme }),
        Some(Err(error)) => {
            r.problem("SNYK_TOKEN", "", error.to_string());
            None
        }
        None => None,
    });
    let mut credentials = Vec::new();
    for table in r.tables("credentials") {
        credentials.extend(named(r, &table, upstream, plain));
    }
    match active {
        Some(active) => {
            let slots = std::iter::once(active).chain(next).collect();
            credentials.insert(0, Described { name, scopes: Scopes::Rest, slots });
        }
        None if credentials.is_empty() && token.is_none() => {
            let why = if is_empty {
                "SNYK_TOKEN is empty, and there is no other Snyk credential"
            } else {
                "no Snyk credential"
            };
            let what = format!(
                "{why}: set SNYK_TOKEN, credential.token_file (EXPORTGATE_CREDENTIAL_TOKEN_FILE), or credential.client_id with client_secret_file"
            );
            r.problem("credential", "", what);
        }
        None => {}
    }
    for (at, one) in credentials.iter().enumerate() {
        if credentials[..at].iter().any(|other| other.name == one.name) {
            r.problem("credential", "credential.name", "two credentials have the same name");
        }
        let shared = credentials[..at].iter().find(|other| is_shared(&one.scopes, &other.scopes));
        if let Some(other) = shared {
            let what = format!("names an org or group that credentials.{} names too", other.name);
            r.problem("credentials", &format!("credentials.{}", one.name), what);
        }
    }
    let ca_file = upstream.ca_file.clone();
    (!credentials.is_empty()).then_some(Settings { credentials, reload_interval, probe_interval, ca_file })
}

fn is_shared(one: &Scopes, other: &Scopes) -> bool {
    match (one, other) {
        (Scopes::Named { orgs, groups }, Scopes::Named { orgs: others, groups: other_groups }) => {
            orgs.iter().any(|id| others.contains(id)) || groups.iter().any(|id| other_groups.contains(id))
        }
        _ => false,
    }
}

/// One of `[credentials.NAME]`.
fn named(r: &mut Reader<'_>, table: &str, upstream: &Upstream, plain: &[String]) -> Option<Described> {
    let above = format!("credentials.{table}");
    if !is_name(table) {
        r.problem(&above, "", format!("the name must be {NAME}"));
    }
    let ids = |r: &mut Reader<'_>, kind: &str, doc| {
        r.list((&format!("{above}.{kind}"), "", doc), |text| {
            Id::parse(text)
                .ok_or_else(|| "must be ids, such as \"825e79b7-0073-44c3-a5ea-e0aa8a3dbf38\"".to_owned())
        })
    };
    let orgs = ids(r, "orgs", "The orgs that this credential is for.");
    let groups = ids(r, "groups", "The groups that this credential is for.");
    let places = [above.clone(), format!("{above}.next")];
    let slots: Vec<Slot> = places.iter().filter_map(|above| slot(r, above, upstream, plain).1).collect();
    if orgs.is_empty() && groups.is_empty() {
        r.problem(
            &above,
            "",
            "names no org and no group: set orgs or groups; [credential] is the one for the rest",
        );
    }
    if slots.is_empty() {
        r.problem(&above, "", "has no value: set token_file, or client_id with client_secret_file");
        return None;
    }
    Some(Described { name: table.to_owned(), scopes: Scopes::Named { orgs, groups }, slots })
}

/// What fills one slot; the keys are below `above`.
fn slot(r: &mut Reader<'_>, above: &str, upstream: &Upstream, plain: &[String]) -> (Scheme, Option<Slot>) {
    let is_next = above.rsplit('.').next() == Some("next");
    let key = |name: &str| format!("{above}.{name}");
    let file = r.path((
        &key("token_file"),
        "",
        if is_next {
            "A file with the token to use when the active one is refused; it may come later."
        } else {
            "A file with the Snyk token, read again when it changes; before SNYK_TOKEN."
        },
    ));
    let client_id =
        r.text((&key("client_id"), "", "Instead of a token: the OAuth client of a service account."));
    let secret_file = r.path((&key("client_secret_file"), "", "A file with that client's secret."));
    let token_url = r.text((
        &key("token_url"),
        "",
        "Where access tokens come from; by default /oauth2/token at the API's host.",
    ));
    let scheme = scheme(r, above);
    let slot = match (file, client_id.is_empty(), secret_file) {
        (None, true, None) => None,
        (Some(path), true, None) => {
            let wrong = match files::read(&path) {
                Err(_) if is_next && !path.exists() => None,
                Err(error) => Some(format!("cannot be read: {}", error.source)),
                Ok(_) if is_next => None,
                Ok(content) => {
                    parse(std::str::from_utf8(&content).unwrap_or("\u{fffd}")).err().map(|e| e.to_string())
                }
            };
            if let Some(what) = wrong {
                let place = r.place(&key("token_file"));
                r.problem(&place, &key("token_file"), what);
            }
            Some(Slot { source: Source::File(path), scheme })
        }
        (None, false, Some(secret_file)) => {
            if let Err(error) = files::read(&secret_file) {
                let place = r.place(&key("client_secret_file"));
                r.problem(&place, &key("client_secret_file"), format!("cannot be read: {}", error.source));
            }
            let url = if token_url.is_empty() {
                format!("{}://{}/oauth2/token", upstream.root.scheme, upstream.root.authority)
            } else {
                token_url
            };
            match endpoint(&url, plain) {
                Ok(token_url) => Some(Slot {
                    source: Source::OAuth { token_url, client_id, secret_file },
                    scheme: Scheme::Bearer,
                }),
                Err(what) => {
                    let place = r.place(&key("token_url"));
                    r.problem(&place, &key("token_url"), what);
                    None
                }
            }
        }
        _ => {
            r.problem(above, "", "set either token_file, or client_id and client_secret_file together");
            None
        }
    };
    (scheme, slot)
}

fn scheme(r: &mut Reader<'_>, above: &str) -> Scheme {
    r.choice(
        (
            &format!("{above}.scheme"),
            "token",
            "The Authorization scheme: \"token\" for API tokens, \"bearer\" for OAuth ones.",
        ),
        &[("token", Scheme::Token), ("bearer", Scheme::Bearer)],
    )
}

/// What a name is made of.
pub(super) const NAME: &str = "1 to 64 letters, digits, \"-\" or \"_\"";

/// Whether `text` is one.
pub(super) fn is_name(text: &str) -> bool {
    (1..=64).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b))
}

fn name(r: &mut Reader<'_>, key: super::reader::Declared<'_>) -> String {
    let name = r.text(key);
    if !is_name(&name) {
        let place = r.place(key.0);
        r.problem(&place, key.0, format!("must be {NAME}"));
    }
    name
}
