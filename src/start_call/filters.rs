//! Snyk's filters by name.

use serde_json::{Map, Value, json};

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

/// Filters with their values.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct Filters(pub(super) Map<String, Value>);

/// Snyk has no such filter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct UnknownFilter {
    /// The one with the most similar name.
    pub(crate) near: &'static str,
}

impl Filters {
    /// Adds values to a filter.
    pub(crate) fn add<'a>(
        &mut self,
        name: &str,
        values: impl IntoIterator<Item = &'a str>,
    ) -> Result<(), UnknownFilter> {
        if !FILTERS.contains(&name) {
            let alike = |known: &str| strsim::jaro_winkler(known, name);
            let near = FILTERS.into_iter().max_by(|a, b| alike(a).total_cmp(&alike(b)));
            return Err(UnknownFilter { near: near.unwrap_or_default() });
        }
        let values = values.into_iter().filter(|value| !value.is_empty());
        if name == ONE_WORD {
            let word = values.collect::<Vec<_>>().join(",");
            self.0.insert(name.to_owned(), word.into());
            return Ok(());
        }
        let list = self.0.entry(name).or_insert_with(|| json!([]));
        if let Some(list) = list.as_array_mut() {
            list.extend(values.map(Value::from));
        }
        Ok(())
    }
}
