//! Records one by one, from chunks of any size.

use csv_core::ReadRecordResult;

use super::BOM;

/// Longest record, in bytes: a cut quote must not make one record of a whole part in memory.
pub const MAX_RECORD: usize = 16 * 1024 * 1024;

/// Reads records from chunks of a part. Empty lines are no records, and a byte order mark at the start is dropped.
pub struct RecordReader {
    /// The first bytes of the part, while they may be a part of a byte order mark.
    start: Option<Vec<u8>>,
    parser: csv_core::Reader,
    text: Vec<u8>,
    text_len: usize,
    ends: Vec<usize>,
    ends_len: usize,
    records: u64,
}

/// A record: its fields without quotes, as bytes.
#[derive(Debug, Clone, Copy)]
pub struct Record<'a> {
    text: &'a [u8],
    ends: &'a [usize],
    /// The number of the record in the part, from 1. The header is 1.
    pub number: u64,
}

/// A record cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// A record is longer than [`MAX_RECORD`].
    #[error("record {number} is longer than {MAX_RECORD} bytes")]
    TooLong {
        /// Its number in the part, from 1.
        number: u64,
    },
}

impl<'a> Record<'a> {
    /// The fields in order.
    #[must_use]
    pub fn fields(self) -> impl ExactSizeIterator<Item = &'a [u8]> {
        let Self { text, ends, .. } = self;
        let start = |at: usize| if at == 0 { 0 } else { ends[at - 1] };
        (0..ends.len()).map(move |at| &text[start(at)..ends[at]])
    }
}

impl std::fmt::Debug for RecordReader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RecordReader").field("records", &self.records).finish_non_exhaustive()
    }
}

impl Default for RecordReader {
    fn default() -> Self {
        Self {
            start: Some(Vec::new()),
            parser: csv_core::Reader::new(),
            text: vec![0; 4096],
            text_len: 0,
            ends: vec![0; 64],
            ends_len: 0,
            records: 0,
        }
    }
}

impl RecordReader {
    /// Takes the next bytes of the part, and gives each record that they complete to `take`.
    ///
    /// # Errors
    /// The first error of `take`, or [`RecordError`].
    pub fn feed<E: From<RecordError>>(
        &mut self,
        mut data: &[u8],
        mut take: impl FnMut(Record<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        if let Some(start) = &mut self.start {
            let (first, rest) = data.split_at(data.len().min(BOM.len() - start.len()));
            start.extend_from_slice(first);
            if start.len() < BOM.len() {
                return Ok(());
            }
            self.begin(&mut take)?;
            data = rest;
        }
        self.parse(data, &mut take)
    }

    /// Ends the part, and gives its last record to `take` where that has no line end.
    ///
    /// # Errors
    /// The error of `take`, or [`RecordError`].
    pub fn finish<E: From<RecordError>>(
        &mut self,
        mut take: impl FnMut(Record<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        self.begin(&mut take)?;
        // To the parser, no bytes are the end of the part.
        while self.step(&[], &mut take)?.1 != ReadRecordResult::End {}
        Ok(())
    }

    /// Gives the first bytes to the parser at once: it drops a byte order mark only where that is not cut in two.
    fn begin<E: From<RecordError>>(
        &mut self,
        take: &mut impl FnMut(Record<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        let start = self.start.take().unwrap_or_default();
        self.parse(&start, take)
    }

    fn parse<E: From<RecordError>>(
        &mut self,
        mut data: &[u8],
        take: &mut impl FnMut(Record<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        while !data.is_empty() {
            data = &data[self.step(data, take)?.0..];
        }
        Ok(())
    }

    /// One step of the parser: the bytes that it took, and its outcome.
    fn step<E: From<RecordError>>(
        &mut self,
        data: &[u8],
        take: &mut impl FnMut(Record<'_>) -> Result<(), E>,
    ) -> Result<(usize, ReadRecordResult), E> {
        let (text, ends) = (&mut self.text[self.text_len..], &mut self.ends[self.ends_len..]);
        let (outcome, taken, text_len, ends_len) = self.parser.read_record(data, text, ends);
        self.text_len += text_len;
        self.ends_len += ends_len;
        match outcome {
            ReadRecordResult::InputEmpty | ReadRecordResult::End => {}
            ReadRecordResult::OutputFull if self.text.len() >= MAX_RECORD => {
                return Err(RecordError::TooLong { number: self.records + 1 }.into());
            }
            ReadRecordResult::OutputFull => self.text.resize(self.text.len() * 2, 0),
            ReadRecordResult::OutputEndsFull => self.ends.resize(self.ends.len() * 2, 0),
            ReadRecordResult::Record => {
                self.records += 1;
                let text = &self.text[..self.text_len];
                let ends = &self.ends[..self.ends_len];
                (self.text_len, self.ends_len) = (0, 0);
                take(Record { text, ends, number: self.records })?;
            }
        }
        Ok((taken, outcome))
    }
}
