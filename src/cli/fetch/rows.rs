//! Rows as JSON lines: one object for each row, all values strings.

use std::io::{Read, Write};

use super::failure::Ending;
use super::merge_error::MergeError;
use super::proof::ProvenPart;
use crate::csv::{Record, RecordError, RecordReader};
use crate::error_text::visible;

const CHUNK: usize = 64 * 1024;

/// Writes the rows of parts.
#[derive(Debug, Default)]
pub(super) struct RowWriter {
    columns: Vec<String>,
    line: Vec<u8>,
}

/// A row that cannot be written, before the part's number is known.
enum RowError {
    Read(RecordError),
    Text { record: u64, column: String, byte: usize },
    Shape { record: u64, cells: usize },
    Write(std::io::Error),
}

impl From<RecordError> for RowError {
    fn from(error: RecordError) -> Self {
        Self::Read(error)
    }
}

impl RowWriter {
    /// Writes the rows of a part.
    pub(super) fn add(
        &mut self,
        facts: &ProvenPart,
        mut part: impl Read,
        out: &mut impl Write,
    ) -> Result<(), MergeError> {
        let (mut reader, mut chunk) = (RecordReader::default(), vec![0; CHUNK]);
        let mut take = |record: Record<'_>| self.row(record, out);
        loop {
            let count = part
                .read(&mut chunk)
                .map_err(|error| Ending::failed(format!("part {}: {error}", facts.part)))?;
            let done =
                if count == 0 { reader.finish(&mut take) } else { reader.feed(&chunk[..count], &mut take) };
            done.map_err(|error| self::failed(facts.part, error))?;
            if count == 0 {
                return Ok(());
            }
        }
    }

    fn row(&mut self, record: Record<'_>, out: &mut impl Write) -> Result<(), RowError> {
        let number = record.number;
        if number == 1 {
            let names =
                record.fields().zip(1..).map(|(cell, at)| text(cell, number, || format!("column {at}")));
            self.columns = names.map(|name| name.map(str::to_owned)).collect::<Result<_, _>>()?;
            return Ok(());
        }
        if record.fields().len() != self.columns.len() {
            return Err(RowError::Shape { record: number, cells: record.fields().len() });
        }
        self.line.clear();
        for (at, (column, cell)) in self.columns.iter().zip(record.fields()).enumerate() {
            self.line.push(if at == 0 { b'{' } else { b',' });
            let written = serde_json::to_writer(&mut self.line, column);
            self.line.push(b':');
            let cell = text(cell, number, || format!("column {column}"))?;
            written
                .and_then(|()| serde_json::to_writer(&mut self.line, cell))
                .map_err(|error| RowError::Write(error.into()))?;
        }
        self.line.extend_from_slice(b"}\n");
        out.write_all(&self.line).map_err(RowError::Write)
    }
}

fn text(cell: &[u8], record: u64, column: impl Fn() -> String) -> Result<&str, RowError> {
    std::str::from_utf8(cell).map_err(|error| {
        let byte = error.valid_up_to();
        RowError::Text { record, column: visible(&column()), byte }
    })
}

fn failed(part: u32, error: RowError) -> MergeError {
    let text = match error {
        RowError::Write(error) if error.kind() == std::io::ErrorKind::BrokenPipe => {
            return MergeError::Closed;
        }
        RowError::Write(error) => return MergeError::Write(error),
        RowError::Read(error) => format!("part {part}: {error}"),
        RowError::Text { record, column, byte } => {
            format!(
                "part {part}, row {}, byte {byte} of {column}: is not UTF-8, and JSON has to be (--format csv passes it)",
                record - 1
            )
        }
        RowError::Shape { record, cells } => {
            format!("part {part}, row {}: has {cells} cells, and the header another number", record - 1)
        }
    };
    Ending::not_whole(text).into()
}
