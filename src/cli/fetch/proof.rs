//! The proof that a part is whole, in this order: its length, its CRC32C, then Snyk's own numbers, then its quotes.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use http::HeaderMap;
use serde::{Deserialize, Serialize};

use super::args::RowsRule;
use super::failure::Ending;
use super::index::FetchPart;
use crate::csv::{Header, MAX_HEADER, RecordScan};

const CHUNK: usize = 256 * 1024;

/// The description of a part in the header section of its answer.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct PartClaim {
    /// `None` where the part is decoded on its way.
    pub(super) size: Option<u64>,
    pub(super) tag: Option<String>,
    pub(super) crc32c: Option<u32>,
}

/// The facts of a part that was proven.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ProvenPart {
    pub(super) part: u32,
    pub(super) size: u64,
    pub(super) rows: u64,
    pub(super) crc32c: u32,
    /// The steps of the proof that held.
    pub(super) proven: Vec<&'static str>,
    pub(super) warnings: Vec<String>,
    pub(super) header: Header,
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
    let mut file = File::open(path).map_err(failed)?;
    let (mut scan, mut crc32c, mut size) = (RecordScan::default(), 0, 0);
    let mut start = Vec::new();
    let mut chunk = vec![0; CHUNK];
    loop {
        let count = file.read(&mut chunk).map_err(failed)?;
        let data = &chunk[..count];
        if data.is_empty() {
            break;
        }
        scan.feed(data);
        crc32c = crc32c::crc32c_append(crc32c, data);
        size += count as u64;
        start.extend_from_slice(&data[..count.min((MAX_HEADER + 1).saturating_sub(start.len()))]);
    }
    let number = part.part;
    let header = Header::of(&start, size <= start.len() as u64)
        .map_err(|error| Ending::not_whole(format!("part {number}: {error}")))?;
    let rows = scan.records().saturating_sub(1);
    let facts =
        ProvenPart { part: number, size, rows, crc32c, proven: Vec::new(), warnings: Vec::new(), header };
    facts.judged(part, claim, rule, scan.is_in_quotes())
}

/// The names of the columns, from the first part that has a header.
pub(super) fn columns_of(facts: &[ProvenPart]) -> Vec<String> {
    let header = facts.iter().map(|facts| &facts.header).find(|header| !header.is_empty());
    header.map_or_else(Vec::new, Header::names)
}

impl ProvenPart {
    fn judged(
        mut self,
        part: &FetchPart,
        claim: &PartClaim,
        rule: RowsRule,
        is_in_quotes: bool,
    ) -> Result<Self, Ending> {
        let number = self.part;
        let again = "run the same command again to download it anew";
        match claim.size {
            Some(size) if size != self.size => {
                let text = format!("part {number} has {} bytes of {size}: {again}", self.size);
                return Err(Ending::not_whole(text));
            }
            Some(_) => self.proven.push("length"),
            None => {}
        }
        match claim.crc32c {
            Some(crc32c) if crc32c != self.crc32c => {
                return Err(Ending::not_whole(format!(
                    "part {number} has not the checksum (CRC32C) of the store: {again}"
                )));
            }
            Some(_) => self.proven.push("crc32c"),
            None => {}
        }
        let is_strong = claim.crc32c.is_some();
        for (name, what, announced, found, rule) in [
            ("file_size", "bytes", part.file_size, self.size, RowsRule::Warn),
            ("row_count", "rows", part.row_count, self.rows, rule),
        ] {
            match announced {
                Some(announced) if announced != found => {
                    let text =
                        format!("part {number} has {found} {what}, and Snyk announced {announced} ({name})");
                    if !is_strong || rule == RowsRule::Fail {
                        return Err(Ending::not_whole(text));
                    }
                    self.warnings.push(text);
                }
                Some(_) => self.proven.push(name),
                None => {}
            }
        }
        if is_in_quotes {
            return Err(Ending::not_whole(format!("part {number} ends within a quoted cell: it was cut")));
        }
        self.proven.push("quotes");
        Ok(self)
    }
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
    fn the_stronger_step_decides() {
        let table = b"A,B\n1,x\n2,y\n";
        let crc = Some(crc32c::crc32c(table));
        let claim = |size, crc32c| PartClaim { size, tag: None, crc32c };
        let proven = |rows, bytes, claim: &PartClaim, rule| {
            judged(table, &part(rows, bytes), claim, rule).map(|facts| (facts.proven, facts.warnings.len()))
        };
        let strong = claim(Some(12), crc);
        let all = vec!["length", "crc32c", "file_size", "row_count", "quotes"];
        assert_eq!(proven(Some(2), Some(12), &strong, RowsRule::Fail), Ok((all, 0)));
        let weak = vec!["length", "crc32c", "quotes"];
        assert_eq!(proven(Some(9), Some(13), &strong, RowsRule::Warn), Ok((weak.clone(), 2)));
        assert_eq!(proven(None, None, &strong, RowsRule::Fail), Ok((weak, 0)));
        assert_eq!(proven(None, None, &claim(None, None), RowsRule::Warn), Ok((vec!["quotes"], 0)));
        for (rows, bytes, claim, rule) in [
            (None, None, claim(Some(11), crc), RowsRule::Warn),
            (None, None, claim(Some(12), Some(1)), RowsRule::Warn),
            (Some(9), None, claim(Some(12), None), RowsRule::Warn),
            (None, Some(13), claim(Some(12), None), RowsRule::Warn),
            (Some(9), None, strong.clone(), RowsRule::Fail),
        ] {
            let ending = proven(rows, bytes, &claim, rule).expect_err("not whole");
            assert_eq!(ending.kind, super::super::failure::EndingKind::NotWhole, "{ending}");
        }
    }

    #[test]
    fn a_part_that_was_cut_in_a_quoted_cell_is_not_whole() {
        let claim = PartClaim::default();
        let text =
            judged(b"A,B\n1,\"cut of", &part(None, None), &claim, RowsRule::Warn).expect_err("cut").text;
        assert!(text.contains("quoted cell"), "{text}");
        let facts = judged(b"", &part(None, None), &claim, RowsRule::Warn).expect("an empty part");
        assert_eq!((facts.rows, facts.size), (0, 0));
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
