//! The header of a part: its first record, byte for byte.

use bytes::Bytes;

use super::{BOM, RecordReader, first_end};

/// Longest header of a part, in bytes, with its line end.
pub const MAX_HEADER: usize = 64 * 1024;

/// The first record of a part as it stands there, with its byte order mark and its line end. A part of no bytes has one of
/// no bytes; a part without a line feed is all header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header(Bytes);

/// No header was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    /// The header does not end in these bytes, and more of the part may show its end.
    #[error("the header has not ended yet")]
    Unfinished,
    /// The header is longer than [`MAX_HEADER`].
    #[error("the header is longer than {MAX_HEADER} bytes")]
    TooLong,
    /// The part ends within a quoted cell of its header.
    #[error("the part ends within a quoted cell of its header")]
    Cut,
}

/// The header of a part that comes in pieces.
#[derive(Debug, Default)]
pub(crate) struct HeaderScan(Vec<u8>);

impl HeaderScan {
    /// Takes the next bytes.
    pub(crate) fn feed(&mut self, data: &[u8]) {
        let room = (MAX_HEADER + 1).saturating_sub(self.0.len());
        self.0.extend_from_slice(&data[..data.len().min(room)]);
    }

    /// The header, when all of the part has come.
    ///
    /// # Errors
    /// [`HeaderError`].
    pub(crate) fn end(&self) -> Result<Header, HeaderError> {
        Header::of(&self.0, self.0.len() <= MAX_HEADER)
    }
}

impl Header {
    /// Finds the header at the `start` of a part. `is_whole` says that the part has no more bytes.
    ///
    /// # Errors
    /// [`HeaderError`].
    pub fn of(start: &[u8], is_whole: bool) -> Result<Self, HeaderError> {
        let first = &start[..start.len().min(MAX_HEADER)];
        if let Some(end) = first_end(first) {
            return Ok(Self(Bytes::copy_from_slice(&first[..end])));
        }
        let is_quoted = memchr::memchr_iter(b'"', first).count() % 2 == 1;
        match (is_whole, is_quoted) {
            _ if start.len() > MAX_HEADER => Err(HeaderError::TooLong),
            (true, true) => Err(HeaderError::Cut),
            (true, false) => Ok(Self(Bytes::copy_from_slice(start))),
            (false, _) if start.len() == MAX_HEADER => Err(HeaderError::TooLong),
            (false, _) => Err(HeaderError::Unfinished),
        }
    }

    /// Its bytes as they stand in the part.
    #[must_use]
    pub fn bytes(&self) -> &Bytes {
        &self.0
    }

    /// The length that it has in the part.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// True if the part has no bytes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// True if the part begins with a byte order mark.
    #[must_use]
    pub fn has_bom(&self) -> bool {
        self.0.starts_with(BOM)
    }

    /// True if a line end is part of it. Without one, the part has no rows.
    #[must_use]
    pub fn has_line_end(&self) -> bool {
        self.0.ends_with(b"\n")
    }

    /// The bytes without byte order mark.
    #[must_use]
    pub fn without_bom(&self) -> Bytes {
        self.0.slice(if self.has_bom() { BOM.len() } else { 0 }..)
    }

    /// True if both name the same columns in the same order. Byte order mark and line end do not count.
    #[must_use]
    pub fn has_columns_of(&self, other: &Self) -> bool {
        self.bare() == other.bare()
    }

    /// The names of the columns.
    #[must_use]
    pub fn columns(&self) -> Vec<Vec<u8>> {
        let mut names = Vec::new();
        let mut reader = RecordReader::default();
        let mut take = |record: super::Record<'_>| {
            names = record.fields().map(<[u8]>::to_vec).collect();
            Ok::<(), super::RecordError>(())
        };
        // A header is shorter than the longest record.
        let _ = reader.feed(self.bare(), &mut take).and_then(|()| reader.finish(&mut take));
        names
    }

    /// The names of the columns as text. One that is no UTF-8 is shown as far as it is.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        self.columns().iter().map(|name| String::from_utf8_lossy(name).into_owned()).collect()
    }

    fn bare(&self) -> &[u8] {
        let bare = self.0.strip_prefix(BOM).unwrap_or(&self.0);
        let bare = bare.strip_suffix(b"\n").unwrap_or(bare);
        bare.strip_suffix(b"\r").unwrap_or(bare)
    }
}
