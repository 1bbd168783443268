//! The question of a run: the scope, and either the body of a start call or the export that was started already.
//!
//! Unfinished work is matched by the question as it was typed. So the same command goes on with the export that it started,
//! also where `30d` begins at another day by now.

use std::io::Read as _;
use std::path::Path;
use std::time::SystemTime;

use serde_json::{Value, json};

use super::args::{FetchArgs, RowArgs, ScopeArgs};
use super::failure::Ending;
use crate::export::{API_VERSION, ExportName};
use crate::start_call::{
    BadChoice, ExportQuestion, Filters, MAX_BODY, RowChoice, StartBody, StartCall, TimeRange,
};

#[derive(Debug, Clone, PartialEq)]
pub(super) struct FetchQuestion {
    /// `/rest/orgs/ID` or `/rest/groups/ID`.
    pub(super) scope: String,
    pub(super) dataset: String,
    /// The question as it was typed.
    pub(super) typed: Value,
    /// The start call; `None` where the export is known.
    pub(super) start: Option<StartCall>,
    pub(super) export: Option<String>,
    /// The name of an export that the gateway makes.
    pub(super) named: Option<ExportName>,
}

/// The export of a run, with its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct FetchExport {
    /// `/rest/orgs/ID` or `/rest/groups/ID`.
    pub(super) scope: String,
    pub(super) id: String,
}

impl FetchQuestion {
    pub(super) fn of(args: &FetchArgs, now: SystemTime) -> Result<Self, Ending> {
        if let Some(name) = &args.scope.named {
            let (typed, dataset) = (json!({"named": name.as_str()}), name.to_string());
            let named = Some(name.clone());
            return Ok(Self { scope: String::new(), dataset, typed, start: None, export: None, named });
        }
        let scope = scope(&args.scope)?;
        if let Some(export) = args.scope.export {
            let export = export.to_string();
            let typed = json!({"scope": scope, "export": export});
            let export = Some(export);
            return Ok(Self { scope, dataset: "export".to_owned(), typed, start: None, export, named: None });
        }
        let RowArgs { include_deleted, include_deactivated, ref body, .. } = args.rows;
        let body = match body {
            Some(path) => StartBody::Given(read_body(path)?),
            None => StartBody::Chosen(choice(args)?),
        };
        let question = ExportQuestion { scope: scope.clone(), include_deleted, include_deactivated, body };
        let start = question.start(now).map_err(|bad| bad_choice(&bad))?;
        let dataset = start.body["data"]["attributes"]["dataset"].as_str().unwrap_or("export");
        let is_name = !dataset.is_empty()
            && dataset.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
        let dataset = if is_name { dataset } else { "export" }.to_owned();
        Ok(Self { scope, dataset, typed: question.typed(), start: Some(start), export: None, named: None })
    }

    /// The target of the index of files, where no export is to be started.
    pub(super) fn files(&self) -> String {
        match (&self.named, &self.export) {
            (Some(name), _) => format!("/named/{name}/files"),
            (None, export) => {
                format!(
                    "{}/export/{}/files?version={API_VERSION}",
                    self.scope,
                    export.as_deref().unwrap_or_default()
                )
            }
        }
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
        (None, []) if args.export.is_some() => Err(Ending::usage(
            "--export needs the group or org that the export is of: add --group ID or --org ID",
        )),
        (None, []) => Err(Ending::usage("nothing says what to export: add --group ID or --org ID")),
        (None, _) => Err(Ending::usage(
            "several orgs need their group: add --group ID. (Without it each org would be an export of its own, and Snyk allows 20 starts an hour.)",
        )),
    }
}

fn choice(args: &FetchArgs) -> Result<RowChoice, Ending> {
    let RowArgs { since, until, updated_since, updated_until, filter, columns, .. } = &args.rows;
    let of_group = args.scope.group.is_some();
    let orgs = args.scope.org.iter().filter(|_| of_group).map(ToString::to_string).collect();
    let mut filters = Filters::default();
    for text in filter {
        add_filter(&mut filters, text)?;
    }
    Ok(RowChoice {
        dataset: args.scope.dataset.as_deref().unwrap_or("issues").to_owned(),
        orgs,
        introduced: TimeRange { since: *since, until: *until },
        updated: TimeRange { since: *updated_since, until: *updated_until },
        filters,
        columns: columns.as_deref().map(self::columns).transpose()?,
    })
}

fn bad_choice(bad: &BadChoice) -> Ending {
    match bad {
        BadChoice::NoTime => Ending::usage(
            "Snyk wants a range of time for issues: add --since 30d, --updated-since 7d, or --since all",
        ),
        BadChoice::Order { is_updated, since, until } => {
            let prefix = if *is_updated { "--updated-" } else { "--" };
            Ending::usage(format!(
                "{prefix}since ({since}) is later than {prefix}until ({until}): no row can be between them"
            ))
        }
    }
}

fn add_filter(filters: &mut Filters, text: &str) -> Result<(), Ending> {
    let Some((name, values)) = text.split_once('=').filter(|(_, values)| !values.is_empty()) else {
        return Err(Ending::usage(format!("--filter {text}: must be KEY=VALUE, such as issue_status=Open")));
    };
    filters.add(name, values.split(',')).map_err(|unknown| {
        let near = unknown.near;
        Ending::usage(format!(
            "--filter {name}: Snyk has no such filter; did you mean {near}? (Times are --since and --until, orgs are --org; --body takes anything.)"
        ))
    })
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
