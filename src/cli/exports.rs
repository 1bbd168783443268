//! `exportgate exports`.

use comfy_table::presets::UTF8_FULL_CONDENSED;
use comfy_table::{ContentArrangement, Table};
use http::Method;

use super::CommandError;
use super::admin::AdminArgs;
use super::status::{size, span};
use crate::admin::report::{ExportsReport, NamedReport};
use crate::error_text::visible;

#[derive(Debug, clap::Args)]
pub(super) struct ExportsArgs {
    /// Show at most this many, the newest first
    #[arg(long, default_value_t = 200)]
    limit: u32,
    /// Print the gateway's JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    reached: AdminArgs,
}

pub(super) async fn run(args: &ExportsArgs) -> Result<String, CommandError> {
    let client = args.reached.client()?;
    let body = client.call(Method::GET, &format!("/api/exports?limit={}", args.limit)).await?;
    let stored: ExportsReport = client.read(&body)?;
    if args.json {
        return Ok(client.json(&body)?);
    }
    Ok(stored.shown())
}

impl ExportsReport {
    /// The named exports, where there are any, then those in the cache.
    fn shown(&self) -> String {
        let stored = self.stored();
        if self.named.is_empty() { stored } else { format!("{}\n{stored}", named(&self.named)) }
    }

    /// Ids are whole: `exportgate purge` needs them so. A column with the same value in all rows is left out.
    fn stored(&self) -> String {
        let Self { total, exports, .. } = self;
        let Some(first) = exports.first() else { return "The cache is empty.\n".to_owned() };
        let queries = exports.iter().any(|export| export.query != first.query);
        let credentials = exports.iter().any(|export| export.credential != first.credential);
        let mut table = Table::new();
        table.load_style(UTF8_FULL_CONDENSED).set_content_arrangement(ContentArrangement::Disabled);
        let header = ["scope", "export", "operation", "age", "fresh for", "links end (UTC)", "hits", "size"];
        let header = header.into_iter().chain(queries.then_some("query"));
        table.set_header(header.chain(credentials.then_some("credential")));
        for export in exports {
            let fresh = if export.fresh_for_s > 0 { span(export.fresh_for_s) } else { "stale".to_owned() };
            let cells = [
                format!("{} {}", visible(&export.scope_kind), visible(&export.scope_id)),
                visible(&export.export_id),
                visible(&export.operation),
                span(export.age_s),
                fresh,
                export.links_end.as_deref().map_or_else(|| "unknown".to_owned(), visible),
                export.hits.to_string(),
                size(export.bytes),
            ];
            let cells = cells.into_iter().chain(queries.then(|| visible(&export.query)));
            table.add_row(cells.chain(credentials.then(|| visible(&export.credential))));
        }
        let shown = exports.len();
        let rest = if shown < *total {
            format!("{shown} of {total} exports; --limit shows more.\n")
        } else {
            String::new()
        };
        format!("{table}\n{rest}")
    }
}

fn named(exports: &[NamedReport]) -> String {
    let mut table = Table::new();
    table.load_style(UTF8_FULL_CONDENSED).set_content_arrangement(ContentArrangement::Disabled);
    table.set_header([
        "name",
        "scope",
        "export",
        "age",
        "rows",
        "next turn (UTC)",
        "last failure",
        "columns",
    ]);
    let or_none = |text: Option<String>| text.unwrap_or_else(|| "none".to_owned());
    for export in exports {
        let age = or_none(export.age_s.map(span));
        table.add_row([
            visible(&export.name),
            format!("{} {}", visible(&export.scope_kind), visible(&export.scope_id)),
            or_none(export.export_id.as_deref().map(visible)),
            if export.stale { format!("{age}, stale") } else { age },
            or_none(export.rows.map(|rows| rows.to_string())),
            or_none(export.next_turn.as_deref().map(visible)),
            or_none(told(export.failed_at.as_ref(), export.last_failure.as_ref())),
            or_none(told(export.columns_changed_at.as_ref(), export.columns_changed.as_ref())),
        ]);
    }
    format!("{table}\n")
}

fn told(at: Option<&String>, text: Option<&String>) -> Option<String> {
    Some(format!("{}: {}", visible(at?), visible(text?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_shown_whole_and_what_differs_has_a_column() {
        let one = serde_json::json!({"operation": "results", "scope_kind": "org", "scope_id": "825e79b7",
            "export_id": "7c1e0000-0000-4000-8000-000000000000", "query": "version=2024-10-15",
            "credential": "snyk", "age_s": 12, "fresh_for_s": 2600, "links_end": null, "hits": 3, "bytes": 3800});
        let mut other = one.clone();
        other["query"] = "version=2025-01-01".into();
        other["fresh_for_s"] = 0.into();
        let shown = |exports: &[&serde_json::Value], total: usize| {
            let document = serde_json::json!({"total": total, "exports": exports});
            serde_json::from_value::<ExportsReport>(document).expect("a document").shown()
        };
        let text = shown(&[&one], 1);
        assert!(text.contains("7c1e0000-0000-4000-8000-000000000000") && text.contains("43m 20s"), "{text}");
        assert!(
            !text.contains("query") && !text.contains("credential") && !text.contains("--limit"),
            "{text}"
        );
        let text = shown(&[&one, &other], 5);
        assert!(text.contains("version=2025-01-01") && text.contains("stale"), "{text}");
        assert!(text.contains("2 of 5 exports"), "{text}");
        assert_eq!(shown(&[], 0), "The cache is empty.\n");
    }

    #[test]
    fn named_exports_come_first_with_their_failures() {
        let named = crate::admin::report::tests::example()["named"].clone();
        let document = serde_json::json!({"total": 0, "exports": [], "named": named});
        let text = serde_json::from_value::<ExportsReport>(document).expect("a document").shown();
        for expected in [
            "crit",
            "1h 1m, stale",
            "1200",
            "2026-11-25T11:00:01Z",
            "ERRORED",
            "went: A; came: B",
            "The cache is empty",
        ] {
            assert!(text.contains(expected), "{expected} in\n{text}");
        }
    }
}
