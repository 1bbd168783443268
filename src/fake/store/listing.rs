//! `results`: a freshly signed link to every part, and what the lies make of it.

use serde_json::{Value, json};

use super::super::links::{self, LinkForm, Signing};
use super::super::script::Stage;
use super::lie::{Lie, Stated};
use super::shelf;
use super::{PartSource, StoreScript};

/// A read of an export's results.
pub(in super::super) struct Listing<'a> {
    pub(in super::super) base: &'a str,
    pub(in super::super) scope: &'a str,
    pub(in super::super) export: &'a str,
    /// Unix seconds.
    pub(in super::super) now: u64,
}

impl Listing<'_> {
    /// The entries; none where the results are left out.
    pub(in super::super) fn results(&self, stage: &mut Stage) -> Option<Vec<Value>> {
        let form = stage.script.link_form;
        let script = stage.script.store.clone();
        let lies = script.lies.iter();
        if lies.clone().any(|lie| *lie == Lie::NoResults) {
            return None;
        }
        match form {
            LinkForm::NoLinks => return Some(Vec::new()),
            LinkForm::EmptyObjects => return Some(vec![json!({})]),
            _ => {}
        }
        let order = lies.clone().find_map(|lie| match lie {
            Lie::Order(parts) => Some(parts.clone()),
            _ => None,
        });
        let order = order.unwrap_or_else(|| (1..).take(script.parts.len()).collect());
        let source = |part: u32| script.parts.get((part as usize).checked_sub(1)?);
        let entries = order.into_iter().filter_map(|part| Some((part, source(part)?)));
        Some(entries.map(|(part, source)| self.entry(stage, &script, part, source)).collect())
    }

    fn entry(&self, stage: &mut Stage, script: &StoreScript, part: u32, source: &PartSource) -> Value {
        let path = shelf::path(self.export, part);
        let seconds = stage.link_seconds(self.scope, self.export, part as usize - 1);
        let signing = Signing { at: self.now, seconds, serial: stage.shelf.next_serial() };
        let (query, signature) = links::sign(&stage.key, stage.script.link_form, &path, &signing);
        stage.keep_signature(signature);
        let origin = script.origin.as_deref().unwrap_or(self.base);
        let mut entry = json!({
            "url": format!("{origin}{path}?{query}"),
            "file_size": source.size(),
            "row_count": source.rows(),
        });
        for lie in &script.lies {
            match lie {
                Lie::RowCount { part: about, stated } if concerns(*about, part) => {
                    state(&mut entry, "row_count", stated, source.rows());
                }
                Lie::FileSize { part: about, stated } if concerns(*about, part) => {
                    state(&mut entry, "file_size", stated, source.size());
                }
                Lie::Link { part: about, text } if concerns(*about, part) => entry["url"] = json!(text),
                Lie::Entry { part: about, value } if concerns(*about, part) => entry = value.clone(),
                _ => {}
            }
        }
        entry
    }
}

/// The `row_count` of the whole; none where it is left out.
pub(in super::super) fn total_rows(script: &StoreScript) -> Option<Value> {
    let truth: u64 = script.parts.iter().map(PartSource::rows).sum();
    let stated = script.lies.iter().find_map(|lie| match lie {
        Lie::TotalRows(stated) => Some(stated),
        _ => None,
    });
    stated.map_or_else(|| Some(json!(truth)), |stated| stated.of(truth))
}

fn concerns(about: Option<u32>, part: u32) -> bool {
    about.is_none_or(|about| about == part)
}

fn state(entry: &mut Value, name: &str, stated: &Stated, truth: u64) {
    let Some(members) = entry.as_object_mut() else { return };
    match stated.of(truth) {
        Some(value) => drop(members.insert(name.to_owned(), value)),
        None => drop(members.remove(name)),
    }
}
