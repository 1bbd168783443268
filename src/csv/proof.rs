//! The proof that a part is whole: a ladder of five rungs, from bytes to quotes, and the rows of all parts together. The
//! gateway and `exportgate fetch` both climb this one.

use super::RecordScan;

/// The facts that a part is proven by, as far as store and results give them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Expected {
    /// The size of the object: `Content-Length`, or the total of a range.
    pub(crate) size: Option<u64>,
    /// The store's hash of the object.
    pub(crate) crc32c: Option<u32>,
    /// `file_size`, as Snyk has it.
    pub(crate) file_size: Option<u64>,
    /// `row_count`, as Snyk has it.
    pub(crate) row_count: Option<u64>,
}

/// A rung of the ladder, from the first to the last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rung {
    Length,
    Crc32c,
    FileSize,
    RowCount,
    Quotes,
}

/// A part on its way, measured as it comes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Proof {
    expected: Expected,
    bytes: u64,
    crc32c: u32,
    scan: RecordScan,
}

/// A part that is whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Proven {
    pub(crate) bytes: u64,
    /// Its rows, without the header.
    pub(crate) rows: u64,
    pub(crate) crc32c: u32,
    /// The rungs that held.
    pub(crate) held: Vec<Rung>,
    pub(crate) doubts: Doubts,
}

/// Snyk's numbers that do not fit a part that is whole by a stronger proof.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Doubts {
    pub(crate) file_size: Option<u64>,
    pub(crate) row_count: Option<u64>,
}

/// The rows of all parts of an export, as they come one after another.
#[derive(Debug, Clone, Copy)]
pub(crate) struct TotalProof {
    expected: Option<u64>,
    /// Parts to come.
    left: usize,
    rows: u64,
    is_strong: bool,
}

/// The rung that failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Unproven {
    #[error("{got} bytes came where the store announced {expected}")]
    Length { got: u64, expected: u64 },
    #[error("the bytes that came have another checksum (CRC32C) than the store's object")]
    Hash,
    #[error("{got} bytes came where Snyk's file_size says {expected}, and the store gave no checksum")]
    FileSize { got: u64, expected: u64 },
    #[error("{got} rows came where Snyk's row_count says {expected}, and nothing stronger proves the file")]
    RowCount { got: u64, expected: u64 },
    #[error("the file ends within a quoted cell: it was cut")]
    Quotes,
    #[error(
        "all parts have {got} rows where Snyk's row_count of the export says {expected}, and nothing stronger proves each part"
    )]
    TotalRows { got: u64, expected: u64 },
}

impl Rung {
    pub(crate) const ALL: [Self; 5] =
        [Self::Length, Self::Crc32c, Self::FileSize, Self::RowCount, Self::Quotes];

    /// Its word in records and events.
    pub(crate) const fn word(self) -> &'static str {
        match self {
            Self::Length => "length",
            Self::Crc32c => "crc32c",
            Self::FileSize => "file_size",
            Self::RowCount => "row_count",
            Self::Quotes => "quotes",
        }
    }
}

impl Proof {
    pub(crate) fn new(expected: Expected) -> Self {
        Self { expected, bytes: 0, crc32c: 0, scan: RecordScan::default() }
    }

    /// Takes the next bytes of the part.
    pub(crate) fn feed(&mut self, data: &[u8]) {
        self.bytes += data.len() as u64;
        self.crc32c = crc32c::crc32c_append(self.crc32c, data);
        self.scan.feed(data);
    }

    /// True if the last byte ended a record, or nothing came.
    pub(crate) fn ends_with_record(&self) -> bool {
        self.scan.ends_with_record()
    }

    /// Judges the part when all of it has come. Snyk's own numbers (what they count is known from few live answers) only
    /// doubt a file that a stronger proof holds whole.
    ///
    /// # Errors
    /// The first rung that fails.
    pub(crate) fn judge(&self) -> Result<Proven, Unproven> {
        let Self { expected: Expected { size, crc32c, file_size, row_count }, bytes: got, .. } = *self;
        let rows = self.scan.records().saturating_sub(1);
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
        let wrong_rows = row_count.filter(|count| *count != rows);
        if let (Some(expected), None, None) = (wrong_rows, crc32c, file_size) {
            return Err(Unproven::RowCount { got: rows, expected });
        }
        if self.scan.is_in_quotes() {
            return Err(Unproven::Quotes);
        }
        let has_held = |rung: &Rung| match rung {
            Rung::Length => size.is_some(),
            Rung::Crc32c => crc32c.is_some(),
            Rung::FileSize => file_size.is_some() && wrong_size.is_none(),
            Rung::RowCount => row_count.is_some() && wrong_rows.is_none(),
            Rung::Quotes => true,
        };
        let held = Rung::ALL.into_iter().filter(has_held).collect();
        let doubts = Doubts { file_size: wrong_size, row_count: wrong_rows };
        Ok(Proven { bytes: got, rows, crc32c: self.crc32c, held, doubts })
    }
}

impl Proven {
    /// True if anything but its quotes says that it is whole.
    pub(crate) fn is_by_something(&self) -> bool {
        self.held != [Rung::Quotes]
    }

    /// True if something holds that is stronger than a number of rows.
    fn is_strong(&self) -> bool {
        self.held.iter().any(|rung| matches!(rung, Rung::Crc32c | Rung::FileSize))
    }
}

impl TotalProof {
    /// The proof of `parts` parts that have so many rows together, as Snyk has it.
    pub(crate) const fn new(expected: Option<u64>, parts: usize) -> Self {
        Self { expected, left: parts, rows: 0, is_strong: true }
    }

    /// Takes the next part. The last one brings Snyk's number where it differs, although a stronger proof holds each part.
    ///
    /// # Errors
    /// [`Unproven::TotalRows`].
    pub(crate) fn add(&mut self, part: &Proven) -> Result<Option<u64>, Unproven> {
        self.left = self.left.saturating_sub(1);
        self.rows += part.rows;
        self.is_strong &= part.is_strong();
        let got = self.rows;
        match self.expected.filter(|expected| self.left == 0 && *expected != got) {
            Some(expected) if !self.is_strong => Err(Unproven::TotalRows { got, expected }),
            doubt => Ok(doubt),
        }
    }

    /// The rows so far.
    pub(crate) const fn rows(&self) -> u64 {
        self.rows
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &[u8] = b"A,B\n1,\"x\ny\"\n2,z\n";
    const SIZE: u64 = TEXT.len() as u64;

    fn judged(data: &[u8], expected: Expected) -> Result<(String, Doubts), Unproven> {
        let mut proof = Proof::new(expected);
        for chunk in data.chunks(5) {
            proof.feed(chunk);
        }
        let words = |held: &[Rung]| held.iter().map(|rung| rung.word()).collect::<Vec<_>>().join(" ");
        proof.judge().map(|proven| (words(&proven.held), proven.doubts))
    }

    #[test]
    fn each_rung_holds_or_fails_and_snyks_numbers_yield_to_the_stores() {
        let (hash, none) = (crc32c::crc32c(TEXT), Expected::default());
        let all =
            Expected { size: Some(SIZE), crc32c: Some(hash), file_size: Some(SIZE), row_count: Some(2) };
        let held = |words: &str| Ok((words.to_owned(), Doubts::default()));
        let doubted =
            |words: &str, file_size, row_count| Ok((words.to_owned(), Doubts { file_size, row_count }));
        for (expected, result) in [
            (all, held("length crc32c file_size row_count quotes")),
            (
                Expected { size: Some(SIZE + 1), ..all },
                Err(Unproven::Length { got: SIZE, expected: SIZE + 1 }),
            ),
            (Expected { crc32c: Some(!hash), ..all }, Err(Unproven::Hash)),
            (
                Expected { file_size: Some(1), ..all },
                doubted("length crc32c row_count quotes", Some(1), None),
            ),
            (
                Expected { row_count: Some(3), ..all },
                doubted("length crc32c file_size quotes", None, Some(3)),
            ),
            (
                Expected { crc32c: None, file_size: Some(1), ..all },
                Err(Unproven::FileSize { got: SIZE, expected: 1 }),
            ),
            (
                Expected { crc32c: None, row_count: Some(3), ..all },
                doubted("length file_size quotes", None, Some(3)),
            ),
            (
                Expected { crc32c: None, file_size: None, row_count: Some(3), ..all },
                Err(Unproven::RowCount { got: 2, expected: 3 }),
            ),
            (Expected { row_count: Some(2), ..none }, held("row_count quotes")),
            (none, held("quotes")),
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
        assert_eq!(judged(b"", expected), Ok(("length row_count quotes".to_owned(), Doubts::default())));
    }

    #[test]
    fn the_total_doubts_strong_parts_and_fails_weak_ones() {
        let part = |expected| {
            let mut proof = Proof::new(expected);
            proof.feed(TEXT);
            proof.judge().expect("proven")
        };
        let strong = part(Expected { file_size: Some(SIZE), ..Expected::default() });
        let weak = part(Expected { size: Some(SIZE), ..Expected::default() });
        assert!(strong.is_by_something() && weak.is_by_something());
        assert!(!part(Expected::default()).is_by_something());
        let judge = |expected, second: &Proven| {
            let mut total = TotalProof::new(expected, 2);
            assert_eq!(total.add(&strong), Ok(None), "it is judged with the last part");
            total.add(second)
        };
        assert_eq!(judge(Some(4), &weak), Ok(None));
        assert_eq!(judge(None, &weak), Ok(None));
        assert_eq!(judge(Some(5), &strong), Ok(Some(5)));
        assert_eq!(judge(Some(5), &weak), Err(Unproven::TotalRows { got: 4, expected: 5 }));
    }
}
