//! The question of a run: the scope, and either the body of a start call or the export that was started already.
//!
//! Unfinished work is matched by the question as it was typed. So the same command goes on with the export that it started,
//! also where `30d` begins at another day by now.

use std::io::Read as _;
use std::path::Path;
use std::time::SystemTime;

use serde_json::{Map, Value, json};

use super::args::{FetchArgs, RowArgs, ScopeArgs};
use super::failure::Ending;
use crate::export::API_VERSION;

/// Filters that Snyk's document has, and that are lists.
const FILTERS: [&str; 14] = [
    "cve",
    "environment",
    "issue_status",
    "issue_type",
    "lifecycle",
    "nvd_severity",
    "product_name",
    "project_origin",
    "project_tags",
    "project_target_display_name",
    "project_target_ref",
    "project_type",
    "reachability",
    "empty_project_tags",
];
/// The filter that is one word.
const ONE_WORD: &str = "empty_project_tags";
const MAX_BODY: u64 = 1024 * 1024;

#[derive(Debug, Clone, PartialEq)]
pub(super) struct FetchQuestion {
    /// `/rest/orgs/ID` or `/rest/groups/ID`.
    pub(super) scope: String,
    pub(super) dataset: String,
    /// The question as it was typed.
    pub(super) typed: Value,
    /// The body of the start call; `None` where the export is known.
    pub(super) start: Option<StartCall>,
    pub(super) export: Option<String>,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) struct StartCall {
    pub(super) target: String,
    pub(super) body: Value,
}

impl FetchQuestion {
    pub(super) fn of(args: &FetchArgs, now: SystemTime) -> Result<Self, Ending> {
        let scope = scope(&args.scope)?;
        if let Some(export) = args.scope.export {
            let export = export.to_string();
            let typed = json!({"scope": scope, "export": export});
            let export = Some(export);
            return Ok(Self { scope, dataset: "export".to_owned(), typed, start: None, export });
        }
        let RowArgs { include_deleted, include_deactivated, body, .. } = &args.rows;
        let body = match body {
            Some(path) => read_body(path)?,
            None => body_of(args, now)?,
        };
        let mut target = format!("{scope}/export?version={API_VERSION}");
        for (is_set, name) in
            [(include_deleted, "include_deleted"), (include_deactivated, "include_deactivated")]
        {
            if *is_set {
                target.extend(["&", name, "=true"]);
            }
        }
        let dataset = body["data"]["attributes"]["dataset"].as_str().unwrap_or("export");
        let is_name = !dataset.is_empty()
            && dataset.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
        let dataset = if is_name { dataset } else { "export" }.to_owned();
        let typed = typed(args, &target, &body);
        Ok(Self { scope, dataset, typed, start: Some(StartCall { target, body }), export: None })
    }

    /// The target of the index of an export's files.
    pub(super) fn files(&self, export: &str) -> String {
        format!("{}/export/{export}/files?version={API_VERSION}", self.scope)
    }

    /// The target of a file by its path in the index.
    pub(super) fn file(path: &str) -> String {
        format!("{path}?version={API_VERSION}")
    }
}

fn scope(args: &ScopeArgs) -> Result<String, Ending> {
    match (args.group, args.org.as_slice()) {
        (Some(group), orgs) if orgs.is_empty() || args.export.is_none() => {
            Ok(format!("/rest/groups/{group}"))
        }
        (Some(_), _) => {
            Err(Ending::usage("an export belongs to a group or to an org: give --group or --org, not both"))
        }
        (None, [org]) => Ok(format!("/rest/orgs/{org}")),
        (None, []) => Err(Ending::usage("nothing says what to export: add --group ID or --org ID")),
        (None, _) => Err(Ending::usage(
            "several orgs need their group: add --group ID. (Without it each org would be an export of its own, and Snyk allows 20 starts an hour.)",
        )),
    }
}

/// The times as they were typed (a span stays a span), and everything else as it is sent.
fn typed(args: &FetchArgs, target: &str, body: &Value) -> Value {
    let RowArgs { since, until, updated_since, updated_until, .. } = &args.rows;
    let named = [
        ("since", since),
        ("until", until),
        ("updated_since", updated_since),
        ("updated_until", updated_until),
    ];
    let times: Map<String, Value> = named
        .into_iter()
        .filter_map(|(name, when)| Some((name.to_owned(), when.as_ref()?.to_string().into())))
        .collect();
    let mut body = body.clone();
    if args.rows.body.is_none()
        && let Some(filters) = body["data"]["attributes"]["filters"].as_object_mut()
    {
        filters.remove("introduced");
        filters.remove("updated");
    }
    json!({"target": target, "times": times, "body": body})
}

fn body_of(args: &FetchArgs, now: SystemTime) -> Result<Value, Ending> {
    let dataset = args.scope.dataset.as_deref().unwrap_or("issues");
    let RowArgs { since, until, updated_since, updated_until, filter, columns, .. } = &args.rows;
    let mut filters = Map::new();
    for (name, from, to) in [("introduced", since, until), ("updated", updated_since, updated_until)] {
        let at = |end: &str, when: &Option<super::when::When>| {
            when.map(|when| (end.to_owned(), when.at(now).into()))
        };
        let range: Map<String, Value> = at("from", from).into_iter().chain(at("to", to)).collect();
        if let (Some(from), Some(to)) = (&range.get("from"), &range.get("to"))
            && from.as_str() > to.as_str()
        {
            let (since, until) = match name {
                "updated" => ("--updated-since", "--updated-until"),
                _ => ("--since", "--until"),
            };
            return Err(Ending::usage(format!(
                "{since} ({from}) is later than {until} ({to}): no row can be between them"
            )));
        }
        if !range.is_empty() {
            filters.insert(name.to_owned(), range.into());
        }
    }
    if dataset == "issues" && filters.is_empty() {
        return Err(Ending::usage(
            "Snyk wants a range of time for issues: add --since 30d, --updated-since 7d, or --since all",
        ));
    }
    if args.scope.group.is_some() && !args.scope.org.is_empty() {
        filters.insert("orgs".to_owned(), args.scope.org.iter().map(ToString::to_string).collect());
    }
    for text in filter {
        add_filter(&mut filters, text)?;
    }
    let mut attributes = json!({"dataset": dataset, "formats": ["csv"]});
    if !filters.is_empty() {
        attributes["filters"] = filters.into();
    }
    if let Some(columns) = columns {
        attributes["columns"] = self::columns(columns)?.into();
    }
    Ok(json!({"data": {"type": "resource", "attributes": attributes}}))
}

fn add_filter(filters: &mut Map<String, Value>, text: &str) -> Result<(), Ending> {
    let Some((name, values)) = text.split_once('=').filter(|(_, values)| !values.is_empty()) else {
        return Err(Ending::usage(format!("--filter {text}: must be KEY=VALUE, such as issue_status=Open")));
    };
    if !FILTERS.contains(&name) {
        let near = FILTERS
            .iter()
            .max_by(|a, b| strsim::jaro_winkler(a, name).total_cmp(&strsim::jaro_winkler(b, name)));
        let near = near.copied().unwrap_or_default();
        return Err(Ending::usage(format!(
            "--filter {name}: Snyk has no such filter; did you mean {near}? (Times are --since and --until, orgs are --org; --body takes anything.)"
        )));
    }
    if name == ONE_WORD {
        filters.insert(name.to_owned(), values.into());
        return Ok(());
    }
    let list = filters.entry(name).or_insert_with(|| json!([]));
    if let Some(list) = list.as_array_mut() {
        list.extend(values.split(',').filter(|value| !value.is_empty()).map(Value::from));
    }
    Ok(())
}

fn columns(text: &str) -> Result<Vec<String>, Ending> {
    let listed = match text.strip_prefix('@') {
        None => text.to_owned(),
        Some(path) => std::fs::read_to_string(path)
            .map_err(|error| Ending::usage(format!("--columns {text}: {error}")))?,
    };
    // A file may have empty lines.
    let lines = listed.lines().filter(|line| !line.trim().is_empty());
    let names: Vec<String> =
        lines.flat_map(|line| line.split(',')).map(|name| name.trim().to_owned()).collect();
    if names.iter().any(String::is_empty) {
        let what = "has an empty name: write a name between commas, and no comma at the end";
        return Err(Ending::usage(format!("--columns {text}: {what}")));
    }
    if names.is_empty() {
        Err(Ending::usage(format!("--columns {text}: names no column")))
    } else {
        Ok(names)
    }
}

fn read_body(path: &Path) -> Result<Value, Ending> {
    let shown = path.display();
    let failed = |error: std::io::Error| Ending::usage(format!("--body {shown}: {error}"));
    let mut text = Vec::new();
    if path == Path::new("-") {
        std::io::stdin().take(MAX_BODY).read_to_end(&mut text).map_err(failed)?;
    } else {
        std::fs::File::open(path)
            .and_then(|file| file.take(MAX_BODY).read_to_end(&mut text))
            .map_err(failed)?;
    }
    serde_json::from_slice(&text)
        .map_err(|error| Ending::usage(format!("--body {shown}: is no JSON: {error}")))
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        args: FetchArgs,
    }

    fn question(since: &str, now: &str) -> FetchQuestion {
        let org = "825e79b7-0073-44c3-a5ea-e0aa8a3dbf38";
        let line = Line::parse_from(["fetch", "--org", org, "--since", since, "--filter", "cve=X"]);
        let now = humantime::parse_rfc3339(now).expect("a time");
        FetchQuestion::of(&line.args, now).expect("a question")
    }

    #[test]
    fn equal_questions_of_one_day_or_hour_make_equal_bodies() {
        let (first, last) = ("2026-11-28T08:00:01Z", "2026-11-28T08:59:59Z");
        for since in ["30d", "12h", "all"] {
            assert_eq!(question(since, first), question(since, last), "{since}");
        }
        let next = question("30d", "2026-11-29T00:00:00Z");
        let before = question("30d", last);
        assert_eq!(before.typed, next.typed, "the same command goes on the next day");
        assert_ne!(before.start, next.start);
    }
}
