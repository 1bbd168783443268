//! A table of any size that is made while it is read.

use std::io::Write as _;
use std::ops::Range;

pub(super) const HEADER: &str = "ISSUE_URL,ISSUE_SEVERITY,CVE,PROBLEM_TITLE,FIRST_INTRODUCED\n";
/// A record; its number takes the place of the zeros. It has all that cells can have.
const RECORD: &str = "https://app.example.test/o/1#i000000000000,High,\"[\"\"CVE-2031-0001\"\"]\",\"Made, and\nquoted \"\"x\"\"\",2031-05-01 08:00:00.000\n";
const NUMBER: Range<usize> = 30..42;
/// The place of the last record in which it is filled up.
const FILLED: usize = 72;

/// A table of `size` bytes: a header, and records of one length that are numbered. The last is longer, so that the
/// size is met.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct MadeTable {
    pub(super) size: u64,
    /// The number of the first record.
    pub(super) first: u64,
}

impl MadeTable {
    /// Bytes that a table has at the least.
    pub(super) const LEAST: u64 = (HEADER.len() + RECORD.len()) as u64;

    pub(super) fn rows(self) -> u64 {
        (self.size - HEADER.len() as u64) / RECORD.len() as u64
    }

    /// The bytes from `at` on, at most `most`.
    pub(super) fn read(self, at: u64, most: usize) -> Vec<u8> {
        let end = self.size.min(at + most as u64);
        let mut bytes = Vec::with_capacity(most + RECORD.len());
        let (header, record) = (HEADER.len() as u64, RECORD.len() as u64);
        if at < header {
            bytes.extend_from_slice(HEADER.as_bytes());
        }
        let begin = if at < header { 0 } else { Self::start(((at - header) / record).min(self.rows() - 1)) };
        let mut row = if at < header { 0 } else { (begin - header) / record };
        while begin + (bytes.len() as u64) < end {
            self.write(row, &mut bytes);
            row += 1;
        }
        let skipped = usize::try_from(at - begin).unwrap_or(usize::MAX).min(bytes.len());
        bytes.drain(..skipped);
        bytes.truncate(usize::try_from(end.saturating_sub(at)).unwrap_or(0));
        bytes
    }

    fn start(row: u64) -> u64 {
        HEADER.len() as u64 + row * RECORD.len() as u64
    }

    fn write(self, row: u64, bytes: &mut Vec<u8>) {
        let from = bytes.len();
        bytes.extend_from_slice(RECORD.as_bytes());
        let mut place = &mut bytes[from + NUMBER.start..from + NUMBER.end];
        let _ = write!(place, "{:012}", self.first + row);
        if row + 1 == self.rows() {
            let missing = self.size - Self::start(row + 1);
            let filling = vec![b'x'; usize::try_from(missing).unwrap_or(0)];
            bytes.splice(from + FILLED..from + FILLED, filling);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_made_table_has_its_size_and_numbered_records_and_reads_alike_from_anywhere() {
        assert_eq!(&RECORD[NUMBER], "000000000000");
        for size in [MadeTable::LEAST, MadeTable::LEAST + 1, 1_000, 10_007] {
            let table = MadeTable { size, first: 7 };
            let whole = table.read(0, 1 << 20);
            assert_eq!(whole.len() as u64, size);
            let mut reader = csv::Reader::from_reader(whole.as_slice());
            let rows: Vec<csv::StringRecord> = reader.records().collect::<Result<_, _>>().expect("records");
            assert_eq!(rows.len() as u64, table.rows());
            assert_eq!(&rows[0][0], "https://app.example.test/o/1#i000000000007");
            assert!(whole.ends_with(b"\n"));
            for at in [0, 1, 61, 62, 63, size / 2, size - 1] {
                for most in [1, 70, 500] {
                    let from = usize::try_from(at).expect("a position");
                    let expected = &whole[from..whole.len().min(from + most)];
                    assert_eq!(table.read(at, most), expected, "{size}: {most} bytes from {at}");
                }
            }
        }
    }
}
