//! The parts of an export, as its document lists them. `Document` is made of each answer; this only where files are asked
//! for.

use std::fmt;

use serde::Deserialize;
use serde_json::Value;

use super::document::Document;

/// The progress of an export, and its parts in Snyk's order.
#[derive(Debug)]
pub(crate) struct ExportParts {
    pub(crate) progress: ExportProgress,
    /// `None` where the document has no `results`.
    pub(crate) parts: Option<Vec<PartEntry>>,
    /// The rows of the whole export.
    pub(crate) row_count: Option<u64>,
}

/// A progress, as the status word says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ExportProgress {
    Running,
    /// A word that nobody knows: it is no end.
    Unknown,
    Finished,
    Failed,
}

/// One of `results[]`. Its types are free: numbers come as text too, and an entry may be empty.
#[derive(Clone, Default, PartialEq, Eq)]
pub(crate) struct PartEntry {
    /// The signed link: a bearer secret.
    pub(crate) link: Option<String>,
    pub(crate) row_count: Option<u64>,
    pub(crate) file_size: Option<u64>,
}

impl fmt::Debug for PartEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PartEntry")
            .field("has_link", &self.link.is_some())
            .field("row_count", &self.row_count)
            .field("file_size", &self.file_size)
            .finish()
    }
}

#[derive(Deserialize)]
struct ExportBody {
    data: Data,
}

#[derive(Deserialize)]
struct Data {
    attributes: Attributes,
}

#[derive(Deserialize)]
struct Attributes {
    #[serde(default)]
    results: Option<Vec<Value>>,
    #[serde(default)]
    row_count: Option<Value>,
}

/// Most parts of one export: a million rows are some ten of them.
pub(crate) const MAX_PARTS: usize = 100_000;

impl ExportParts {
    /// Reads `body`; `None` if it is no export's document, or its results are no list, or a longer one than [`MAX_PARTS`].
    pub(crate) fn of(body: &[u8]) -> Option<Self> {
        let document = Document::of(body)?;
        let progress = match document.status.as_deref() {
            _ if document.is_finished() => ExportProgress::Finished,
            Some("ERRORED" | "ERROR") => ExportProgress::Failed,
            _ if document.unknown_status().is_some() => ExportProgress::Unknown,
            _ => ExportProgress::Running,
        };
        let whole: ExportBody = serde_json::from_slice(body).ok()?;
        let Attributes { results, row_count } = whole.data.attributes;
        if results.as_ref().is_some_and(|parts| parts.len() > MAX_PARTS) {
            return None;
        }
        let parts = results.map(|parts| parts.into_iter().map(PartEntry::from).collect());
        Some(Self { progress, parts, row_count: row_count.as_ref().and_then(count) })
    }
}

impl From<Value> for PartEntry {
    fn from(entry: Value) -> Self {
        let Value::Object(mut entry) = entry else { return Self { link: link(entry), ..Self::default() } };
        let stated = |name| entry.get(name).and_then(count);
        let (row_count, file_size) = (stated("row_count"), stated("file_size"));
        let named = entry.remove("url").and_then(link);
        Self {
            link: named.or_else(|| entry.into_iter().find_map(|(_, value)| link(value))),
            row_count,
            file_size,
        }
    }
}

/// The first web address in `value`.
fn link(value: Value) -> Option<String> {
    match value {
        Value::String(text) => text.contains("://").then_some(text),
        Value::Array(values) => values.into_iter().find_map(link),
        Value::Object(values) => values.into_iter().find_map(|(_, value)| link(value)),
        Value::Null | Value::Bool(_) | Value::Number(_) => None,
    }
}

fn count(value: &Value) -> Option<u64> {
    match value {
        Value::Number(number) => number.as_u64(),
        Value::String(text) => text.parse().ok(),
        Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_number_of_parts_is_bounded() {
        let body = |count: usize| {
            let entries = vec!["{}"; count].join(",");
            format!(r#"{{"data":{{"attributes":{{"status":"FINISHED","results":[{entries}]}}}}}}"#)
        };
        assert!(ExportParts::of(body(MAX_PARTS).as_bytes()).is_some());
        assert!(ExportParts::of(body(MAX_PARTS + 1).as_bytes()).is_none());
    }

    fn parts(results: &str) -> Option<Vec<PartEntry>> {
        let body = format!(r#"{{"data":{{"attributes":{{"status":"FINISHED"{results}}}}}}}"#);
        ExportParts::of(body.as_bytes()).map(|found| found.parts.expect("results"))
    }

    fn part(link: &str, row_count: Option<u64>, file_size: Option<u64>) -> PartEntry {
        let link = Some(link.to_owned()).filter(|link| !link.is_empty());
        PartEntry { link, row_count, file_size }
    }

    #[test]
    fn parts_are_read_whatever_their_types() {
        let url = "https://a.test/x?y=1";
        for (results, expected) in [
            (
                r#","results":[{"url":"https:\/\/a.test\/x?y=1","file_size":1328,"row_count":3}]"#,
                part(url, Some(3), Some(1328)),
            ),
            (
                r#","results":[{"url":"https://a.test/x?y=1","file_size":"1328","row_count":"3"}]"#,
                part(url, Some(3), Some(1328)),
            ),
            (
                r#","results":[{"a":[{"b":"https://a.test/x?y=1"}],"row_count":-1,"file_size":1.5}]"#,
                part(url, None, None),
            ),
            (r#","results":["https://a.test/x?y=1"]"#, part(url, None, None)),
            (r#","results":[{}]"#, part("", None, None)),
            (r#","results":[{"url":null,"row_count":null,"file_size":[]}]"#, part("", None, None)),
            (r#","results":[{"a":"https://b.test/","url":"https://a.test/x?y=1"}]"#, part(url, None, None)),
        ] {
            assert_eq!(parts(results), Some(vec![expected]), "{results}");
        }
        assert_eq!(parts(r#","results":[]"#), Some(Vec::new()));
        for bad in [r#","results":{}"#, r#","results":"x""#, r#","results":[{}],"results":[]"#] {
            assert_eq!(parts(bad), None, "{bad}");
        }
    }

    #[test]
    fn no_results_are_not_an_empty_list_and_the_rows_of_the_whole_are_read() {
        for (attributes, has_results, row_count) in [
            ("", false, None),
            (r#","results":null,"row_count":3"#, false, Some(3)),
            (r#","results":[],"row_count":"3""#, true, Some(3)),
            (r#","results":[],"row_count":null"#, true, None),
            (r#","results":[],"row_count":{}"#, true, None),
        ] {
            let body = format!(r#"{{"data":{{"attributes":{{"status":"FINISHED"{attributes}}}}}}}"#);
            let found = ExportParts::of(body.as_bytes()).expect("a document");
            assert_eq!((found.parts.is_some(), found.row_count), (has_results, row_count), "{attributes}");
        }
    }

    #[test]
    fn the_status_word_decides() {
        for (word, expected) in [
            ("FINISHED", ExportProgress::Finished),
            ("ERRORED", ExportProgress::Failed),
            ("ERROR", ExportProgress::Failed),
            ("PENDING", ExportProgress::Running),
            ("STARTED", ExportProgress::Running),
            ("finished", ExportProgress::Unknown),
            ("ELSE", ExportProgress::Unknown),
        ] {
            let body = format!(r#"{{"data":{{"attributes":{{"status":"{word}","results":[{{}}]}}}}}}"#);
            let found = ExportParts::of(body.as_bytes()).expect("a document");
            assert_eq!((found.progress, found.parts.map(|parts| parts.len())), (expected, Some(1)), "{word}");
        }
        assert!(ExportParts::of(b"<html>").is_none());
    }

    #[test]
    fn a_link_is_never_shown() {
        let shown = format!("{:?}", part("https://a.test/?sig=abc", Some(1), None));
        assert!(!shown.contains("sig"), "{shown}");
    }
}
