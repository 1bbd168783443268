//! The proof that a part is whole (pure): a ladder of five rungs, from bytes to quotes.

use crate::csv::RecordScan;

/// The facts that a part is proven by, as far as store and results give them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Expected {
    /// The size of the object: `Content-Length`, or the total of a range.
    pub(super) size: Option<u64>,
    /// The store's hash of the object.
    pub(super) crc32c: Option<u32>,
    /// `file_size`, as Snyk has it.
    pub(super) file_size: Option<u64>,
    /// `row_count`, as Snyk has it.
    pub(super) row_count: Option<u64>,
}

/// A part on its way, measured as it comes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Proof {
    expected: Expected,
    bytes: u64,
    crc32c: u32,
    scan: RecordScan,
}

/// A part that is whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Proven {
    /// True if anything but its quotes says so.
    pub(super) by_something: bool,
    /// Snyk's numbers that differ, while a stronger proof holds.
    pub(super) doubts: Doubts,
}

/// Snyk's numbers that do not fit a part that is whole.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Doubts {
    pub(super) file_size: bool,
    pub(super) row_count: bool,
}

/// The rung that failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Unproven {
    #[error("{got} bytes came where the store announced {expected}")]
    Length { got: u64, expected: u64 },
    #[error("the bytes that came have another CRC32C than the store's object")]
    Hash,
    #[error("{got} bytes came where Snyk's file_size says {expected}, and the store gave no hash")]
    FileSize { got: u64, expected: u64 },
    #[error("{got} rows came where Snyk's row_count says {expected}, and nothing else proves the file")]
    RowCount { got: u64, expected: u64 },
    #[error("the file ends within a quoted cell")]
    Quotes,
}

impl Proof {
    pub(super) fn new(expected: Expected) -> Self {
        Self { expected, bytes: 0, crc32c: 0, scan: RecordScan::default() }
    }

    /// Takes the next bytes of the part.
    pub(super) fn feed(&mut self, data: &[u8]) {
        self.bytes += data.len() as u64;
        if self.expected.crc32c.is_some() {
            self.crc32c = crc32c::crc32c_append(self.crc32c, data);
        }
        self.scan.feed(data);
    }

    /// True if the last byte ended a record, or nothing came.
    pub(super) fn ends_with_record(&self) -> bool {
        self.scan.ends_with_record()
    }

    /// Rows so far, without the header.
    fn rows(&self) -> u64 {
        self.scan.records().saturating_sub(1)
    }

    /// Judges the part when all of it has come. Snyk's own numbers (what they count is known from few live answers) only
    /// doubt a file that a stronger proof holds whole.
    ///
    /// # Errors
    /// The first rung that fails.
    pub(super) fn judge(&self) -> Result<Proven, Unproven> {
        let Expected { size, crc32c, file_size, row_count } = self.expected;
        let got = self.bytes;
        if let Some(expected) = size.filter(|size| *size != got) {
            return Err(Unproven::Length { got, expected });
        }
        if crc32c.is_some_and(|expected| expected != self.crc32c) {
            return Err(Unproven::Hash);
        }
        let wrong_size = file_size.filter(|size| *size != got);
        if let (Some(expected), None) = (wrong_size, crc32c) {
            return Err(Unproven::FileSize { got, expected });
        }
        let wrong_rows = row_count.filter(|rows| *rows != self.rows());
        if let (Some(expected), None, None) = (wrong_rows, crc32c, file_size) {
            return Err(Unproven::RowCount { got: self.rows(), expected });
        }
        if self.scan.is_in_quotes() {
            return Err(Unproven::Quotes);
        }
        Ok(Proven {
            by_something: [size, crc32c.map(u64::from), file_size, row_count].iter().any(Option::is_some),
            doubts: Doubts { file_size: wrong_size.is_some(), row_count: wrong_rows.is_some() },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &[u8] = b"A,B\n1,\"x\ny\"\n2,z\n";

    fn judged(data: &[u8], expected: Expected) -> Result<Proven, Unproven> {
        let mut proof = Proof::new(expected);
        for chunk in data.chunks(5) {
            proof.feed(chunk);
        }
        proof.judge()
    }

    fn proven(file_size: bool, row_count: bool) -> Proven {
        Proven { by_something: true, doubts: Doubts { file_size, row_count } }
    }

    #[test]
    fn each_rung_holds_or_fails_and_snyks_numbers_yield_to_the_stores() {
        let size = TEXT.len() as u64;
        let (hash, none) = (crc32c::crc32c(TEXT), Expected::default());
        let all =
            Expected { size: Some(size), crc32c: Some(hash), file_size: Some(size), row_count: Some(2) };
        for (expected, result) in [
            (all, Ok(proven(false, false))),
            (
                Expected { size: Some(size + 1), ..all },
                Err(Unproven::Length { got: size, expected: size + 1 }),
            ),
            (Expected { crc32c: Some(!hash), ..all }, Err(Unproven::Hash)),
            (Expected { file_size: Some(1), ..all }, Ok(proven(true, false))),
            (Expected { row_count: Some(3), ..all }, Ok(proven(false, true))),
            (
                Expected { crc32c: None, file_size: Some(1), ..all },
                Err(Unproven::FileSize { got: size, expected: 1 }),
            ),
            (Expected { crc32c: None, row_count: Some(3), ..all }, Ok(proven(false, true))),
            (
                Expected { crc32c: None, file_size: None, row_count: Some(3), ..all },
                Err(Unproven::RowCount { got: 2, expected: 3 }),
            ),
            (Expected { row_count: Some(2), ..none }, Ok(proven(false, false))),
            (none, Ok(Proven { by_something: false, doubts: Doubts::default() })),
        ] {
            assert_eq!(judged(TEXT, expected), result, "{expected:?}");
        }
    }

    #[test]
    fn a_part_that_ends_in_a_quoted_cell_is_cut_whatever_else_holds() {
        let cut = b"A,B\n1,\"cut of";
        let expected = Expected { size: Some(13), crc32c: Some(crc32c::crc32c(cut)), ..Expected::default() };
        assert_eq!(judged(cut, expected), Err(Unproven::Quotes));
    }

    #[test]
    fn an_empty_part_has_no_rows() {
        let expected = Expected { size: Some(0), row_count: Some(0), ..Expected::default() };
        assert_eq!(judged(b"", expected), Ok(proven(false, false)));
    }
}
