//! The proof of parts on this disk, by the ladder that the gateway climbs too.

use std::fmt::Display;
use std::io::Read as _;
use std::path::Path;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use http::HeaderMap;
use serde::{Deserialize, Serialize};

use super::args::RowsRule;
use super::failure::Ending;
use super::index::FetchPart;
use super::own_file;
use crate::csv::{Expected, Header, HeaderScan, Proof, Proven, TotalProof};

const CHUNK: usize = 256 * 1024;
const UNPROVEN: &str = "nothing but its closed quotes says that it is whole: the store gave no length and no checksum, and Snyk no numbers";

/// The description of a part in the header section of its answer.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct PartClaim {
    /// `None` where the part is decoded on its way.
    pub(super) size: Option<u64>,
    pub(super) tag: Option<String>,
    pub(super) crc32c: Option<u32>,
}

/// A part that was proven.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ProvenPart {
    pub(super) part: u32,
    pub(super) header: Header,
    pub(super) proven: Proven,
    pub(super) warnings: Vec<String>,
}

impl PartClaim {
    /// Reads it from an answer whose whole length is `size`.
    pub(super) fn of(fields: &HeaderMap, size: Option<u64>) -> Self {
        let text = |name: &str| fields.get(name).and_then(|value| value.to_str().ok());
        let tag = text("etag").filter(|tag| tag.starts_with('"')).map(str::to_owned);
        Self { size, tag, crc32c: text("repr-digest").and_then(crc32c_of) }
    }
}

/// The CRC32C in a `Repr-Digest` field (RFC 9530).
fn crc32c_of(field: &str) -> Option<u32> {
    let digest = field.split(',').find_map(|member| member.trim().strip_prefix("crc32c="))?;
    let bytes = BASE64_STANDARD.decode(digest.strip_prefix(':')?.strip_suffix(':')?).ok()?;
    Some(u32::from_be_bytes(bytes.try_into().ok()?))
}

/// Reads the file at `path` once and proves that it is the whole part.
pub(super) fn prove(
    path: &Path,
    part: &FetchPart,
    claim: &PartClaim,
    rule: RowsRule,
) -> Result<ProvenPart, Ending> {
    let failed = |error: std::io::Error| Ending::of_file(path, &error);
    let mut file = own_file::read(path).map_err(failed)?;
    let FetchPart { part: number, row_count, file_size, .. } = *part;
    let mut proof = Proof::new(Expected { size: claim.size, crc32c: claim.crc32c, file_size, row_count });
    let (mut header, mut chunk) = (HeaderScan::default(), vec![0; CHUNK]);
    loop {
        let count = file.read(&mut chunk).map_err(failed)?;
        if count == 0 {
            break;
        }
        proof.feed(&chunk[..count]);
        header.feed(&chunk[..count]);
    }
    let not_whole = |what: &dyn Display| not_whole(&format_args!("part {number}: {what}"));
    let proven = proof.judge().map_err(|error| not_whole(&error))?;
    let header = header.end().map_err(|error| not_whole(&error))?;
    let differs = |what: &str, got: u64, name: &str, expected: Option<u64>| {
        expected.map(|expected| format!("{got} {what} came where Snyk's {name} says {expected}"))
    };
    let rows = differs("rows", proven.rows, "row_count", proven.doubts.row_count);
    if let (Some(text), RowsRule::Fail) = (&rows, rule) {
        return Err(not_whole(text));
    }
    let bytes = differs("bytes", proven.bytes, "file_size", proven.doubts.file_size);
    let weak = (!proven.is_by_something()).then(|| UNPROVEN.to_owned());
    let warnings = [bytes, rows, weak].into_iter().flatten();
    let warnings = warnings.map(|text| format!("part {number}: {text}")).collect();
    Ok(ProvenPart { part: number, header, proven, warnings })
}

/// The names of the columns, from the first part that has a header.
pub(super) fn columns_of(facts: &[ProvenPart]) -> Vec<String> {
    let header = facts.iter().map(|facts| &facts.header).find(|header| !header.is_empty());
    header.map_or_else(Vec::new, Header::names)
}

impl ProvenPart {
    /// Counts it into the rows of all parts. The last one brings a warning where they are not Snyk's.
    pub(super) fn count(&self, total: &mut TotalProof, rule: RowsRule) -> Result<Option<String>, Ending> {
        let Some(expected) = total.add(&self.proven).map_err(|error| not_whole(&error))? else {
            return Ok(None);
        };
        let rows = total.rows();
        let text = format!("all parts have {rows} rows where Snyk's row_count of the export says {expected}");
        match rule {
            RowsRule::Warn => Ok(Some(text)),
            RowsRule::Fail => Err(not_whole(&text)),
        }
    }
}

fn not_whole(what: &dyn Display) -> Ending {
    Ending::not_whole(format!(
        "{what}. Run the same command again; if it ends so again, --restart begins with a new export"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(
        content: &[u8],
        part: &FetchPart,
        claim: &PartClaim,
        rule: RowsRule,
    ) -> Result<ProvenPart, Ending> {
        let file = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(file.path(), content).expect("written");
        prove(file.path(), part, claim, rule)
    }

    fn part(row_count: Option<u64>, file_size: Option<u64>) -> FetchPart {
        FetchPart { part: 1, path: String::new(), row_count, file_size, object: None }
    }

    #[test]
    fn snyks_rows_decide_where_the_user_says_so() {
        let table = b"A,B\n1,x\n2,y\n";
        let strong = PartClaim { size: Some(12), tag: None, crc32c: Some(crc32c::crc32c(table)) };
        let warned = |rows, bytes, claim: &PartClaim, rule| {
            judged(table, &part(rows, bytes), claim, rule).map(|facts| facts.warnings.join(" "))
        };
        assert_eq!(warned(Some(2), Some(12), &strong, RowsRule::Fail), Ok(String::new()));
        assert_eq!(
            warned(Some(9), Some(13), &strong, RowsRule::Warn).expect("proven"),
            "part 1: 12 bytes came where Snyk's file_size says 13 part 1: 2 rows came where Snyk's row_count says 9"
        );
        let none = PartClaim::default();
        let text = warned(None, None, &none, RowsRule::Warn).expect("proven");
        assert!(text.starts_with("part 1: nothing but its closed quotes"), "{text}");
        for (rows, claim, rule) in
            [(None, PartClaim { size: Some(11), ..none }, RowsRule::Warn), (Some(9), strong, RowsRule::Fail)]
        {
            let ending = warned(rows, None, &claim, rule).expect_err("not whole");
            assert_eq!(ending.kind, super::super::failure::EndingKind::NotWhole, "{ending}");
        }
    }

    #[test]
    fn the_rows_of_all_parts_are_snyks_or_the_user_is_told() {
        let table = b"A,B\n1,x\n2,y\n";
        let count = |announced, size, rule| {
            let facts = judged(table, &part(None, size), &PartClaim::default(), RowsRule::Warn)?;
            facts.count(&mut TotalProof::new(announced, 1), rule)
        };
        assert_eq!(count(Some(2), None, RowsRule::Fail), Ok(None));
        assert_eq!(count(None, None, RowsRule::Fail), Ok(None));
        let text = count(Some(3), Some(12), RowsRule::Warn).expect("whole").expect("a warning");
        assert_eq!(text, "all parts have 2 rows where Snyk's row_count of the export says 3");
        assert!(count(Some(3), Some(12), RowsRule::Fail).expect_err("not whole").text.starts_with(&text));
        assert!(count(Some(3), None, RowsRule::Warn).is_err(), "nothing stronger holds");
    }

    #[test]
    fn a_part_that_was_cut_in_a_quoted_cell_is_not_whole() {
        let claim = PartClaim::default();
        let text =
            judged(b"A,B\n1,\"cut of", &part(None, None), &claim, RowsRule::Warn).expect_err("cut").text;
        assert!(text.contains("quoted cell"), "{text}");
        let facts = judged(b"", &part(None, None), &claim, RowsRule::Warn).expect("an empty part");
        assert_eq!((facts.proven.rows, facts.proven.bytes), (0, 0));
    }

    #[test]
    fn a_digest_is_read_from_its_field() {
        // The check value of CRC-32C: of "123456789".
        assert_eq!(crc32c::crc32c(b"123456789"), 0xe306_9283);
        assert_eq!(crc32c_of("sha-256=:AA==:, crc32c=:4waSgw==:"), Some(0xe306_9283));
        for bad in ["", "crc32c=4waSgw==", "crc32c=:4waS:", "crc32c=:!:"] {
            assert_eq!(crc32c_of(bad), None, "{bad}");
        }
    }
}
