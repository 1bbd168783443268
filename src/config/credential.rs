//! `[credential]`, `[credentials.NAME]` and `SNYK_TOKEN`.

use std::path::Path;

use super::reader::Reader;
use super::upstream::endpoint;
use crate::credential::{
    CredentialSettings, OAuthSettings, Scheme, Scopes, Settings, SlotSettings, ValueSource, parse,
};
use crate::export::Id;
use crate::secret::Secret;
use crate::upstream::Settings as Upstream;

/// `None` only after a problem was noted.
pub(super) fn read(r: &mut Reader<'_>, upstream: &Upstream, plain: &[String]) -> Option<Settings> {
    for key in ["credential.token", "credential.client_secret"] {
        if r.given(key).is_some() {
            let what = format!("a secret must not be in this file: use {key}_file (or SNYK_TOKEN)");
            r.invalid(key, what);
        }
    }
    let (scheme, active) = slot(r, "credential", upstream, plain);
    let name = name(r, "credential.name");
    let reload_interval = r.duration("credential.reload_interval", "10ms"..="1h");
    let probe_interval = r.duration("credential.probe_interval", "100ms"..="1h");
    let (_, next) = slot(r, "credential.next", upstream, plain);
    let token = snyk_token(r, active.is_some());
    let is_given = active.is_some() || token.is_some();
    let from_token =
        token.and_then(Result::ok).map(|secret| SlotSettings { source: ValueSource::Fixed(secret), scheme });
    let slots: Option<Vec<SlotSettings>> =
        active.or(from_token).map(|active| std::iter::once(active).chain(next).collect());
    let mut credentials: Vec<CredentialSettings> =
        slots.map(|slots| CredentialSettings { name, scopes: Scopes::Rest, slots }).into_iter().collect();
    for table in r.tables("credentials") {
        credentials.extend(named(r, &table, upstream, plain));
    }
    if credentials.is_empty() && !is_given {
        let is_empty = r.sources.env.get("SNYK_TOKEN").is_some_and(String::is_empty);
        let why = if is_empty { "SNYK_TOKEN is empty, and there is no other" } else { "no" };
        r.problem("credential", "", format!("{why} Snyk credential: {SET_ONE}"));
    }
    check_names(r, &credentials);
    let ca_file = upstream.ca_file.clone();
    (!credentials.is_empty()).then_some(Settings { credentials, reload_interval, probe_interval, ca_file })
}

const SET_ONE: &str = "set SNYK_TOKEN, credential.token_file (EXPORTGATE_CREDENTIAL_TOKEN_FILE), or credential.client_id with client_secret_file";

/// The secret of `SNYK_TOKEN`: `None` where it is not set or not used.
fn snyk_token(r: &mut Reader<'_>, is_other: bool) -> Option<Result<Secret, ()>> {
    let token = r.sources.env.get("SNYK_TOKEN").cloned();
    r.note(match token.as_deref() {
        None => "SNYK_TOKEN is not set",
        Some("") => "SNYK_TOKEN is empty, which counts as not set",
        Some(_) if is_other => "SNYK_TOKEN is set, and not used: [credential] comes first",
        Some(_) => "SNYK_TOKEN is set",
    });
    let token = token.filter(|token| !token.is_empty())?;
    if is_other {
        return None;
    }
    Some(parse(&token).map_err(|error| r.problem("SNYK_TOKEN", "", error.to_string())))
}

fn check_names(r: &mut Reader<'_>, credentials: &[CredentialSettings]) {
    for (at, one) in credentials.iter().enumerate() {
        let before = &credentials[..at];
        if before.iter().any(|other| other.name == one.name) {
            r.problem("credential", "credential.name", "two credentials have the same name");
        }
        if let Some(other) = before.iter().find(|other| is_shared(&one.scopes, &other.scopes)) {
            let what = format!("names an org or group that credentials.{} names too", other.name);
            r.problem("credentials", &format!("credentials.{}", one.name), what);
        }
    }
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
fn named(
    r: &mut Reader<'_>,
    table: &str,
    upstream: &Upstream,
    plain: &[String],
) -> Option<CredentialSettings> {
    let above = format!("credentials.{table}");
    if !is_name(table) {
        r.problem(&above, "", format!("the name must be {NAME}"));
    }
    let ids = |r: &mut Reader<'_>, kind: &str| {
        r.list(&format!("{above}.{kind}"), |text| {
            Id::parse(text)
                .ok_or_else(|| "must be ids, such as \"825e79b7-0073-44c3-a5ea-e0aa8a3dbf38\"".to_owned())
        })
    };
    let orgs = ids(r, "orgs");
    let groups = ids(r, "groups");
    let places = [above.clone(), format!("{above}.next")];
    let slots: Vec<SlotSettings> =
        places.iter().filter_map(|above| slot(r, above, upstream, plain).1).collect();
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
    Some(CredentialSettings { name: table.to_owned(), scopes: Scopes::Named { orgs, groups }, slots })
}

/// The value of one slot, whose keys are below `above`.
fn slot(
    r: &mut Reader<'_>,
    above: &str,
    upstream: &Upstream,
    plain: &[String],
) -> (Scheme, Option<SlotSettings>) {
    let key = |name: &str| format!("{above}.{name}");
    let file = r.path(&key("token_file"));
    let client_id = r.text(&key("client_id"));
    let secret_file = r.path(&key("client_secret_file"));
    let token_url = r.text(&key("token_url"));
    let scheme = scheme(r, above);
    let slot = match (file, client_id.is_empty(), secret_file) {
        (None, true, None) => None,
        (Some(path), true, None) => {
            check_token(r, above, &path);
            Some(SlotSettings { source: ValueSource::File(path), scheme })
        }
        (None, false, Some(secret_file)) => {
            r.check_file(&key("client_secret_file"), &secret_file, |_| Ok(()));
            let default = || format!("{}://{}/oauth2/token", upstream.root.scheme, upstream.root.authority);
            let url = Some(token_url).filter(|url| !url.is_empty()).unwrap_or_else(default);
            let url = endpoint(&url, plain).map_err(|what| r.invalid(&key("token_url"), what)).ok();
            let source =
                url.map(|token_url| ValueSource::OAuth(OAuthSettings { token_url, client_id, secret_file }));
            source.map(|source| SlotSettings { source, scheme: Scheme::Bearer })
        }
        _ => {
            r.problem(above, "", "set either token_file, or client_id and client_secret_file together");
            None
        }
    };
    (scheme, slot)
}

/// Checks the file of a token. That of the next slot may come later.
fn check_token(r: &mut Reader<'_>, above: &str, path: &Path) {
    let is_next = above.rsplit('.').next() == Some("next");
    if is_next && !path.exists() {
        return;
    }
    r.check_file(&format!("{above}.token_file"), path, |content| {
        let text = std::str::from_utf8(content).unwrap_or("\u{fffd}");
        if is_next { Ok(()) } else { parse(text).map(drop).map_err(|error| error.to_string()) }
    });
}

fn scheme(r: &mut Reader<'_>, above: &str) -> Scheme {
    r.choice(&format!("{above}.scheme"), &[("token", Scheme::Token), ("bearer", Scheme::Bearer)])
}

/// The characters of a name.
pub(super) const NAME: &str = "1 to 64 letters, digits, \"-\" or \"_\"";

/// True if `text` is made of [`NAME`].
pub(super) fn is_name(text: &str) -> bool {
    (1..=64).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b))
}

fn name(r: &mut Reader<'_>, key: &str) -> String {
    let name = r.text(key);
    if !is_name(&name) {
        r.invalid(key, format!("must be {NAME}"));
    }
    name
}
