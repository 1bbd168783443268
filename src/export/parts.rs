//! The parts of an export, as its document lists them. `Document` is made of each answer; this only where files are asked
//! for.

use std::fmt;

use serde::Deserialize;
use serde_json::{Map, Value};

use super::document::Document;

/// The progress of an export, and its parts in Snyk's order.
#[derive(Debug)]
pub(crate) struct ExportParts {
    pub(crate) progress: ExportProgress,
    pub(crate) parts: Vec<PartEntry>,
}

/// A progress, as the status word says it. A word that nobody knows is no end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ExportProgress {
    Running,
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
}

impl ExportParts {
    /// Reads `body`; `None` if it is no export's document, or its results are no list.
    pub(crate) fn of(body: &[u8]) -> Option<Self> {
        let document = Document::of(body)?;
        let progress = match document.status.as_deref() {
            _ if document.is_finished() => ExportProgress::Finished,
            Some("ERRORED" | "ERROR") => ExportProgress::Failed,
            _ => ExportProgress::Running,
        };
        let whole: ExportBody = serde_json::from_slice(body).ok()?;
        let parts = whole.data.attributes.results.unwrap_or_default();
        Some(Self { progress, parts: parts.into_iter().map(PartEntry::from).collect() })
    }
}

impl From<Value> for PartEntry {
    fn from(entry: Value) -> Self {
        let Value::Object(mut entry) = entry else { return Self { link: link(entry), ..Self::default() } };
        let (row_count, file_size) = (count(&entry, "row_count"), count(&entry, "file_size"));
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

fn count(entry: &Map<String, Value>, name: &str) -> Option<u64> {
    match entry.get(name)? {
        Value::Number(number) => number.as_u64(),
        Value::String(text) => text.parse().ok(),
        Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(results: &str) -> Option<Vec<PartEntry>> {
        let body = format!(r#"{{"data":{{"attributes":{{"status":"FINISHED"{results}}}}}}}"#);
        ExportParts::of(body.as_bytes()).map(|found| found.parts)
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
        for none in ["", r#","results":[]"#, r#","results":null"#] {
            assert_eq!(parts(none), Some(Vec::new()), "{none}");
        }
        for bad in [r#","results":{}"#, r#","results":"x""#, r#","results":[{}],"results":[]"#] {
            assert_eq!(parts(bad), None, "{bad}");
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
            ("finished", ExportProgress::Running),
            ("ELSE", ExportProgress::Running),
        ] {
            let body = format!(r#"{{"data":{{"attributes":{{"status":"{word}","results":[{{}}]}}}}}}"#);
            let found = ExportParts::of(body.as_bytes()).expect("a document");
            assert_eq!((found.progress, found.parts.len()), (expected, 1), "{word}");
        }
        assert!(ExportParts::of(b"<html>").is_none());
    }

    #[test]
    fn a_link_is_never_shown() {
        let shown = format!("{:?}", part("https://a.test/?sig=abc", Some(1), None));
        assert!(!shown.contains("sig"), "{shown}");
    }
}
