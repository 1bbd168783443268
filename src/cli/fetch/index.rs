//! The index of an export's files, as the gateway gives it.

use serde::Deserialize;

use super::failure::Ending;
use crate::export::MAX_PARTS;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct FileIndex {
    /// Rows of all parts by Snyk's word; a gateway of an earlier version does not tell.
    pub(super) row_count: Option<u64>,
    pub(super) parts: Vec<FetchPart>,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(super) struct FetchPart {
    /// The number of the part, from 1.
    pub(super) part: u32,
    pub(super) path: String,
    /// Rows and bytes by Snyk's word.
    pub(super) row_count: Option<u64>,
    pub(super) file_size: Option<u64>,
    /// The object that it is.
    pub(super) object: Option<String>,
}

#[derive(Debug, Deserialize)]
struct IndexDocument {
    status: String,
    row_count: Option<u64>,
    parts: Vec<FetchPart>,
}

impl FileIndex {
    /// Reads it. `under` is the path that every part has to be below.
    pub(super) fn read(body: &[u8], under: &str) -> Result<Self, Ending> {
        let not_ours = |what: &str| {
            Ending::failed(format!(
                "the list of files cannot be used: {what}. Is this an exportgate that serves files?"
            ))
        };
        let document: IndexDocument = serde_json::from_slice(body).map_err(|_| not_ours("it is no index"))?;
        if document.status != "FINISHED" {
            return Err(not_ours("its status is not FINISHED"));
        }
        let IndexDocument { mut parts, row_count, .. } = document;
        parts.sort_by_key(|part| part.part);
        let are_numbered = parts.iter().zip(1..).all(|(part, number)| part.part == number);
        if parts.len() > MAX_PARTS || !are_numbered {
            return Err(not_ours("its parts are not numbered from 1"));
        }
        if !parts.iter().all(|part| part.path.starts_with(under) && !part.path.contains(['?', '#'])) {
            return Err(not_ours("a part is not below its export"));
        }
        Ok(Self { row_count, parts })
    }

    /// All bytes, where each part's are known.
    pub(super) fn bytes(&self) -> Option<u64> {
        self.parts.iter().map(|part| part.file_size).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_index_is_taken_only_as_the_gateway_gives_it() {
        let index = |status: &str, parts: &str| {
            let body = format!(r#"{{"export":"E","status":"{status}","parts":[{parts}],"table":"/t"}}"#);
            FileIndex::read(body.as_bytes(), "/rest/orgs/O/export/E/")
        };
        let part = |number: u32, path: &str| {
            format!(r#"{{"part":{number},"path":"{path}","row_count":3,"file_size":null}}"#)
        };
        let good = "/rest/orgs/O/export/E/files/1.csv";
        let found = index("FINISHED", &format!("{},{}", part(2, good), part(1, good))).expect("an index");
        assert_eq!(found.parts.iter().map(|part| part.part).collect::<Vec<_>>(), [1, 2]);
        assert_eq!(
            (found.parts[0].row_count, found.parts[0].file_size, found.bytes()),
            (Some(3), None, None)
        );
        let empty = index("FINISHED", "").expect("an index");
        assert_eq!((empty.parts, empty.row_count), (vec![], None));
        let total = br#"{"status":"FINISHED","row_count":7,"parts":[]}"#;
        assert_eq!(FileIndex::read(total, "/").expect("an index").row_count, Some(7));
        assert!(index("PENDING", "").is_err());
        assert!(index("FINISHED", &part(2, good)).is_err());
        assert!(index("FINISHED", &format!("{},{}", part(1, good), part(1, good))).is_err());
        for path in ["https://storage.example/x", "/rest/orgs/O/export/F/files/1.csv", "//x/"] {
            assert!(index("FINISHED", &part(1, path)).is_err(), "{path}");
        }
        assert!(FileIndex::read(b"<html>", "/").is_err());
    }
}
