//! `[exports]` and `[exports.NAME]`.

use std::collections::BTreeSet;
use std::path::Path;

use super::clients::is_client_name;
use super::reader::Reader;
use crate::clock::Clock;
use crate::export::{ExportName, Id, Scope, ScopeKind};
use crate::listener::Settings as Listener;
use crate::named::{NamedSettings, Settings};
use crate::start_call::{
    BadChoice, ExportQuestion, Filters, MAX_BODY, RowChoice, StartBody, TimeRange, When,
};
use crate::watched_file;

/// The keys that choose rows and columns.
const CHOICE: [&str; 8] =
    ["dataset", "orgs", "filters", "columns", "since", "until", "updated_since", "updated_until"];

pub(super) fn read(r: &mut Reader<'_>, listener: &Listener) -> Settings {
    let reserve = r.number("exports.reserve", 0..=20);
    let mut exports = Vec::new();
    for table in r.tables("exports") {
        exports.extend(named(r, &table, listener.has_clients));
    }
    Settings { reserve, exports }
}

/// The keys of one export.
struct ExportKeys<'a>(&'a str);

impl ExportKeys<'_> {
    fn of(&self, key: &str) -> String {
        format!("exports.{}.{key}", self.0)
    }
}

/// One of `[exports.NAME]`. Gives nothing only after noting a problem.
fn named(r: &mut Reader<'_>, table: &str, has_clients: bool) -> Option<NamedSettings> {
    let keys = ExportKeys(table);
    let name = ExportName::parse(table);
    if name.is_none() {
        let what = format!("the name must be {}", ExportName::GRAMMAR);
        r.problem(&format!("exports.{table}"), "", what);
    }
    let scope = scope(r, &keys.of("scope"));
    let body = body(r, &keys);
    let (include_deleted, include_deactivated) =
        (r.boolean(&keys.of("include_deleted")), r.boolean(&keys.of("include_deactivated")));
    let every = r.duration(&keys.of("every"), "10m"..="1d");
    let clients = clients(r, &keys.of("clients"), has_clients);
    let (name, scope, body) = (name?, scope?, body?);
    if let StartBody::Chosen(choice) = &body
        && scope.kind == ScopeKind::Org
        && !choice.orgs.is_empty()
    {
        r.invalid(&keys.of("orgs"), "must be empty where scope is an org: it names orgs of a group");
    }
    let scope_path = format!("/rest/{}s/{}", scope.kind.as_str(), scope.id.as_str());
    let question = ExportQuestion { scope: scope_path, include_deleted, include_deactivated, body };
    check(r, &keys, &question);
    Some(NamedSettings { name, scope, question, every, clients })
}

fn scope(r: &mut Reader<'_>, key: &str) -> Option<Scope> {
    let text = r.text(key);
    let (kind, id) = text.split_once('/').unwrap_or_default();
    let kind = match kind {
        "group" => Some(ScopeKind::Group),
        "org" => Some(ScopeKind::Org),
        _ => None,
    };
    let id = Id::parse(id).filter(|id| id.as_str().len() == 36 && uuid::Uuid::try_parse(id.as_str()).is_ok());
    let scope = kind.zip(id).map(|(kind, id)| Scope { kind, id });
    if scope.is_none() {
        r.invalid(key, "must be \"group/ID\" or \"org/ID\", with an ID such as 825e79b7-0073-44c3-a5ea-e0aa8a3dbf38 (36 characters)");
    }
    scope
}

fn body(r: &mut Reader<'_>, keys: &ExportKeys<'_>) -> Option<StartBody> {
    let path = r.path(&keys.of("body_file"));
    let choice = choice(r, keys);
    let Some(path) = path else { return choice.map(StartBody::Chosen) };
    let with = CHOICE.iter().find(|key| {
        let filters = keys.of("filters.");
        r.given(&keys.of(key)).is_some() || (**key == "filters" && !r.keys_below(&filters).is_empty())
    });
    if let Some(with) = with {
        r.invalid(&keys.of("body_file"), format!("has all of the question: leave {with} out"));
    }
    let given = given(&path);
    given.map(StartBody::Given).map_err(|what| r.invalid(&keys.of("body_file"), what)).ok()
}

fn given(path: &Path) -> Result<serde_json::Value, String> {
    let content = watched_file::read(path).map_err(|error| format!("cannot be read: {}", error.source))?;
    if content.len() as u64 > MAX_BODY {
        return Err(format!("is larger than {MAX_BODY} bytes"));
    }
    serde_json::from_slice(&content).map_err(|error| format!("is no JSON: {error}"))
}

fn choice(r: &mut Reader<'_>, keys: &ExportKeys<'_>) -> Option<RowChoice> {
    let dataset = r.text(&keys.of("dataset"));
    let orgs = r.list(&keys.of("orgs"), |text| {
        let id = Id::parse(text).map(|id| id.as_str().to_owned());
        id.ok_or_else(|| "must be ids of orgs of the group".to_owned())
    });
    let columns = r.list(&keys.of("columns"), |text| match text.trim() {
        "" => Err("must be names of columns".to_owned()),
        name => Ok(name.to_owned()),
    });
    let introduced = TimeRange { since: when(r, &keys.of("since")), until: when(r, &keys.of("until")) };
    let updated =
        TimeRange { since: when(r, &keys.of("updated_since")), until: when(r, &keys.of("updated_until")) };
    let filters = filters(r, keys)?;
    let columns = (!columns.is_empty()).then_some(columns);
    Some(RowChoice { dataset, orgs, introduced, updated, filters, columns })
}

fn when(r: &mut Reader<'_>, key: &str) -> Option<When> {
    let text = r.text(key);
    if text.is_empty() {
        return None;
    }
    When::parse(&text).map_err(|what| r.invalid(key, what)).ok()
}

/// A table of lists, whose names are Snyk's.
fn filters(r: &mut Reader<'_>, keys: &ExportKeys<'_>) -> Option<Filters> {
    let (mut filters, mut is_sound) = (Filters::default(), true);
    for key in r.keys_below(&keys.of("filters.")) {
        let values = r.list(&key, |text| Ok(text.to_owned()));
        let name = key.rsplit('.').next().unwrap_or_default();
        if let Err(unknown) = filters.add(name, values.iter().map(String::as_str)) {
            let near = unknown.near;
            r.invalid(
                &key,
                format!("Snyk has no such filter; did you mean {near}? Times are since and until; body_file takes anything"),
            );
            is_sound = false;
        }
    }
    is_sound.then_some(filters)
}

fn clients(r: &mut Reader<'_>, key: &str, has_clients: bool) -> Option<BTreeSet<String>> {
    let clients = r.list(key, |text| {
        if is_client_name(text) { Ok(text.to_owned()) } else { Err("must be names of clients".to_owned()) }
    });
    if !clients.is_empty() && !has_clients {
        r.invalid(key, "names clients, and access.clients_file is not set: everybody would be refused");
    }
    (!clients.is_empty()).then(|| clients.into_iter().collect())
}

/// Says now what Snyk would say at each turn.
fn check(r: &mut Reader<'_>, keys: &ExportKeys<'_>, question: &ExportQuestion) {
    match question.start(Clock::system().now().wall) {
        Ok(_) => {}
        Err(BadChoice::NoTime) => r.invalid(
            &keys.of("since"),
            "is needed: Snyk wants a range of time for issues, such as since = \"30d\", updated_since = \"7d\" or since = \"all\"",
        ),
        Err(BadChoice::Order { is_updated, since, until }) => {
            let prefix = if is_updated { "updated_" } else { "" };
            let what = format!("({since}) is later than {prefix}until ({until}): no row can be between them");
            r.invalid(&keys.of(&format!("{prefix}since")), what);
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::config::tests::{problems, resolve};

    #[test]
    fn a_named_export_is_a_question_and_all_of_its_problems_are_said() {
        let text = r#"
            [exports.open-criticals]
            scope = "group/825e79b7-0073-44c3-a5ea-e0aa8a3dbf38"
            filters = { issue_status = ["Open"], nvd_severity = ["Critical", "High"] }
            columns = ["CVE", "SCORE"]
            since = "90d"
            every = "1h"
        "#;
        let config = resolve(text, &[], &[]).expect("a configuration");
        assert_eq!((config.named.reserve, config.named.exports.len()), (5, 1));
        let export = &config.named.exports[0];
        let start = export.question.start(std::time::SystemTime::UNIX_EPOCH).expect("a start");
        assert!(start.target.starts_with("/rest/groups/825e79b7-0073-44c3-a5ea-e0aa8a3dbf38/export?"));
        let attributes = &start.body["data"]["attributes"];
        assert_eq!(attributes["filters"]["nvd_severity"], serde_json::json!(["Critical", "High"]));
        assert_eq!(attributes["columns"], serde_json::json!(["CVE", "SCORE"]));
        for (text, expected) in [
            ("[exports.Bad]\nevery = \"2h\"", "exports.Bad: the name must be 1 to 64 of a-z"),
            ("[exports.a]\nevery = \"2h\"", "exports.a.scope: must be \"group/ID\" or \"org/ID\""),
            (
                "[exports.a]\nscope = \"org/825e79b7-0073-44c3-a5ea-e0aa8a3dbf38\"",
                "exports.a.since: is needed",
            ),
            (
                "[exports.a]\nscope = \"org/my-org\"",
                "exports.a.scope: must be \"group/ID\" or \"org/ID\", with an ID such as",
            ),
            ("[exports.a]\nsince = \"soon\"", "exports.a.since: must be a date"),
            ("[exports.a]\nevery = \"1m\"", "exports.a.every: must be a duration from 10m to 1d"),
            ("[exports.a]\nfilters = \"x\"", "exports.a.filters: no such key"),
            ("[exports.a]\nfilters = { issue_stat = [\"Open\"] }", "did you mean issue_status?"),
            ("[exports.a]\nclients = [\"b\"]", "exports.a.clients: names clients, and access.clients_file"),
            (
                "[exports.a]\nscope = \"org/825e79b7-0073-44c3-a5ea-e0aa8a3dbf38\"\nsince = \"1d\"\norgs = [\"p\"]",
                "exports.a.orgs: must be empty",
            ),
            ("[exports.a]\nbody_file = \"/none\"\nsince = \"1d\"", "leave since out"),
            (
                "[exports.a]\nsince = \"2026-02-01\"\nscope = \"org/825e79b7-0073-44c3-a5ea-e0aa8a3dbf38\"\nuntil = \"2026-01-01\"",
                "no row can be between",
            ),
            ("[exports.a]\nsinse = \"1d\"", "exports.a.sinse: no such key; did you mean exports.a.since?"),
        ] {
            let found = problems(text, &[]);
            assert!(found.contains(expected), "{expected} in {found}");
        }
        let all = problems("[exports.a]\nscope = \"x\"\nsince = \"soon\"\n[exports.B]\nevery = \"1s\"", &[]);
        assert_eq!(all.lines().count(), 6, "{all}");
    }
}
