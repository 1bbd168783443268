//! The rows and the columns of a table, counted as it is read (pure).

use super::state::ProvenTable;
use crate::csv::{Header, HeaderScan, RecordScan};

/// A table on its way.
#[derive(Debug, Default)]
pub(super) struct TableScan {
    header: HeaderScan,
    records: RecordScan,
}

impl TableScan {
    /// Takes the next bytes.
    pub(super) fn feed(&mut self, data: &[u8]) {
        self.records.feed(data);
        self.header.feed(data);
    }

    /// Its rows and columns, when all of it has come.
    pub(super) fn end(self) -> ProvenTable {
        let header = self.header.end().ok().filter(|header| !header.is_empty());
        ProvenTable {
            rows: self.records.records().saturating_sub(1),
            columns: header.as_ref().map_or_else(Vec::new, Header::names),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_and_columns_are_those_of_the_table() {
        for (text, rows, columns) in
            [("", 0, &[][..]), ("A,B\n", 0, &["A", "B"]), ("A,\"B\nC\"\n1,\"x\ny\"\n2,z", 2, &["A", "B\nC"])]
        {
            for size in 1..=text.len().max(1) {
                let mut scan = TableScan::default();
                text.as_bytes().chunks(size).for_each(|chunk| scan.feed(chunk));
                let table = scan.end();
                assert_eq!(
                    (table.rows, table.columns.as_slice()),
                    (rows, &columns.iter().map(|c| (*c).to_owned()).collect::<Vec<_>>()[..])
                );
            }
        }
    }
}
