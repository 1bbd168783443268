//! CSV as bytes (pure): the ends of records, the header of a part, its records one by one, and the proof that it is whole.
//!
//! A record ends at a line feed outside quotes. The parity of `"` tells the outside from the inside, because a quote in a
//! cell is doubled (RFC 4180 §2), so that a part can be followed at any size of chunk without parsing it.

mod header;
mod proof;
mod record;

pub use header::{Header, HeaderError, MAX_HEADER};
pub(crate) use proof::{Expected, Proof, Proven, Rung, TotalProof};
pub use record::{MAX_RECORD, Record, RecordError, RecordReader};

/// The byte order mark of UTF-8.
pub const BOM: &[u8] = b"\xef\xbb\xbf";

/// Follows a part and knows where its records end. It holds 16 bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RecordScan {
    ended: u64,
    is_quoted: bool,
    last: Option<u8>,
}

impl RecordScan {
    /// Takes the next bytes of the part.
    pub fn feed(&mut self, data: &[u8]) {
        for at in memchr::memchr2_iter(b'"', b'\n', data) {
            if data[at] == b'"' {
                self.is_quoted = !self.is_quoted;
            } else if !self.is_quoted {
                self.ended += 1;
            }
        }
        self.last = data.last().copied().or(self.last);
    }

    /// Records so far, the header among them. One without a line end counts as well.
    #[must_use]
    pub fn records(&self) -> u64 {
        self.ended + u64::from(!self.ends_with_record())
    }

    /// True if a quote is open. At the end of a part this means that the part was cut.
    #[must_use]
    pub fn is_in_quotes(&self) -> bool {
        self.is_quoted
    }

    /// True if the next byte begins a record: nothing came yet, or the last byte ended one.
    #[must_use]
    pub fn ends_with_record(&self) -> bool {
        !self.is_quoted && self.last.is_none_or(|last| last == b'\n')
    }
}

/// The length of the first record of `data`, with its line end; `None` if it does not end here.
fn first_end(data: &[u8]) -> Option<usize> {
    let mut is_quoted = false;
    memchr::memchr2_iter(b'"', b'\n', data)
        .find(|at| {
            is_quoted ^= data[*at] == b'"';
            data[*at] == b'\n' && !is_quoted
        })
        .map(|at| at + 1)
}

#[cfg(test)]
mod tests;
