//! One table of all parts, in order: the header of the first part, dropped by its position from the others; byte order marks
//! dropped; a missing last line end added; every other byte as it is.

use std::io::{self, BufReader, Read, Seek as _, SeekFrom, Write};
use std::path::PathBuf;

use super::failure::Ending;
use super::merge_error::MergeError;
use super::own_file;
use super::proof::ProvenPart;
use super::rows::RowWriter;
use crate::csv::Header;

const CHUNK: usize = 256 * 1024;

/// A part on this disk.
#[derive(Debug)]
pub(super) struct PartFile {
    pub(super) path: PathBuf,
    pub(super) facts: ProvenPart,
}

/// A table that takes one part after another.
#[derive(Debug)]
pub(super) struct TableWriter<W> {
    out: W,
    /// The number of the part whose header stands above the table, with that header.
    header: Option<(u32, Header)>,
    /// Writer of rows, where the table is to be JSON lines.
    rows: Option<RowWriter>,
    pub(super) row_count: u64,
}

impl<W: Write> TableWriter<W> {
    pub(super) fn new(out: W, is_jsonl: bool) -> Self {
        Self { out, header: None, rows: is_jsonl.then(RowWriter::default), row_count: 0 }
    }

    /// Adds a part. Its file was proven before.
    pub(super) fn add(&mut self, part: &PartFile) -> Result<(), MergeError> {
        let facts = &part.facts;
        if facts.header.is_empty() {
            return Ok(());
        }
        self.row_count += facts.proven.rows;
        let is_first = self.header.is_none();
        let (first, header) = self.header.get_or_insert_with(|| (facts.part, facts.header.clone()));
        if !header.has_columns_of(&facts.header) {
            let text = format!(
                "part {} has other columns than part {first}: the parts do not make one table (--parts keeps them as they are)",
                facts.part
            );
            return Err(Ending::not_whole(text).into());
        }
        let failed = |error: io::Error| MergeError::Ending(Ending::of_file(&part.path, &error));
        let mut file = own_file::read(&part.path).map_err(failed)?;
        if let Some(rows) = &mut self.rows {
            return rows.add(facts, BufReader::with_capacity(CHUNK, file), &mut self.out);
        }
        if is_first {
            let header = facts.header.without_bom();
            self.out.write_all(&header).map_err(MergeError::of_write)?;
            if !facts.header.has_line_end() {
                self.out.write_all(b"\n").map_err(MergeError::of_write)?;
            }
        }
        file.seek(SeekFrom::Start(facts.header.len() as u64)).map_err(failed)?;
        let (mut chunk, mut last) = (vec![0; CHUNK], b'\n');
        loop {
            let count = file.read(&mut chunk).map_err(failed)?;
            let Some(end) = chunk[..count].last() else { break };
            last = *end;
            self.out.write_all(&chunk[..count]).map_err(MergeError::of_write)?;
        }
        if last != b'\n' {
            self.out.write_all(b"\n").map_err(MergeError::of_write)?;
        }
        Ok(())
    }

    /// Ends the table.
    pub(super) fn finish(mut self) -> Result<W, MergeError> {
        self.out.flush().map_err(MergeError::of_write)?;
        Ok(self.out)
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::args::RowsRule;
    use super::super::index::FetchPart;
    use super::super::proof::{PartClaim, prove};
    use super::*;

    /// The parts of the documentation's samples, as the fake has them.
    fn samples() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("src/fake/store/samples")
    }

    fn merged(names: &[&str], is_jsonl: bool) -> Result<(Vec<u8>, u64), String> {
        let mut table = TableWriter::new(Vec::new(), is_jsonl);
        for (name, number) in names.iter().zip(1..) {
            let path = samples().join(format!("{name}.csv"));
            let part = FetchPart {
                part: number,
                path: String::new(),
                row_count: None,
                file_size: None,
                object: None,
            };
            let facts = prove(&path, &part, &PartClaim::default(), RowsRule::Warn).map_err(|e| e.text)?;
            table.add(&PartFile { path, facts }).map_err(|error| format!("{error:?}"))?;
        }
        let rows = table.row_count;
        table.finish().map(|bytes| (bytes, rows)).map_err(|error| format!("{error:?}"))
    }

    fn hash(bytes: &[u8]) -> String {
        let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes);
        super::super::target::hex(digest.as_ref())
    }

    #[test]
    fn parts_make_one_table() {
        let (table, rows) = merged(&["a1", "a2", "a3"], false).expect("a table");
        assert_eq!((table.len(), rows), (592, 5));
        assert_eq!(hash(&table), "3c69641e1bfba3b9c31f0e938c3e24304ac5a791affe3b121fd1e5abf2daf237");
        let (table, rows) = merged(&["a1", "b1", "a2"], false).expect("a table");
        assert_eq!((table.len(), rows), (363, 3));
        for names in [["d1", "d2"], ["e1", "e2"]] {
            let (table, rows) = merged(&names, false).expect("a table");
            assert_eq!((table.as_slice(), rows), (&b"A,B\n1,x\n2,y\n"[..], 2), "{names:?}");
        }
        assert_eq!(merged(&["h1", "d1", "h1"], false).expect("a table").0, b"A,B\n1,x\n");
        assert_eq!(merged(&[], false), Ok((Vec::new(), 0)));
        assert_eq!(merged(&["j1"], false).expect("a table").1, 1);
    }

    #[test]
    fn one_part_passes_byte_for_byte() {
        for name in ["a1", "b1", "c1", "g1", "h1", "j1", "k1"] {
            let whole = std::fs::read(samples().join(format!("{name}.csv"))).expect("a sample");
            assert_eq!(merged(&[name], false).expect("a table").0, whole, "{name}");
        }
    }

    #[test]
    fn parts_that_do_not_fit_make_no_table() {
        for (names, text) in [
            (["f1", "f2"], "part 2 has other columns than part 1"),
            (["f1", "f3"], "other columns"),
            (["a1", "i1"], "quoted cell"),
        ] {
            let error = merged(&names, false).expect_err("no table");
            assert!(error.contains(text), "{names:?}: {error}");
        }
    }

    #[test]
    fn each_row_is_an_object_of_strings() {
        let (lines, rows) = merged(&["a1", "a2", "a3"], true).expect("lines");
        let text = String::from_utf8(lines).expect("text");
        assert_eq!((text.lines().count(), rows), (5, 5));
        let objects: Vec<serde_json::Value> =
            text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
        assert_eq!(objects[3]["PROBLEM_TITLE"], "Says \"quoted\" and\nbreaks the line");
        assert_eq!(
            objects[4]["PROBLEM_TITLE"],
            "ISSUE_URL,ISSUE_SEVERITY,CVE,PROBLEM_TITLE,FIRST_INTRODUCED"
        );
        assert_eq!(
            merged(&["d1", "d2"], true).expect("lines").0,
            b"{\"A\":\"1\",\"B\":\"x\"}\n{\"A\":\"2\",\"B\":\"y\"}\n"
        );
        assert_eq!(
            merged(&["c1"], true).expect("lines").0,
            b"{\"A\":\"1\",\"B\":\"x\\ny\"}\n{\"A\":\"2\",\"B\":\"x\\r\\ny\"}\n"
        );
    }

    #[test]
    fn bad_utf_8_is_named_by_part_row_and_byte() {
        let error = merged(&["d1", "k1"], true).expect_err("not UTF-8");
        assert!(error.contains("part 2, row 1, byte 3 of column B"), "{error}");
    }
}
