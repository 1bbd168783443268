//! CSV as bytes (pure): the ends of records, the header of a part, its records one by one, and the proof that it is whole.
//!
//! A record ends at a line feed outside quotes. The parity of `"` tells the outside from the inside, because a quote in a
//! cell is doubled (RFC 4180 §2), so that a part can be followed at any size of chunk without parsing it.

mod change;
mod header;
mod proof;
mod record;

pub use change::ColumnChange;
pub(crate) use header::HeaderScan;
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

/// Bytes that are looked at together: eight words of eight bytes.
const BLOCK: usize = 64;
/// A word of eight bytes that are 1.
const ONES: u64 = 0x0101_0101_0101_0101;
/// For each byte of a block, the bit of its word.
const BITS: [u8; BLOCK] = {
    let (mut bits, mut at) = ([0; BLOCK], 0);
    while at < BLOCK {
        bits[at] = 1 << (at / 8);
        at += 1;
    }
    bits
};

/// The places of `wanted` in a block, where bit k of byte j stands for byte j of word k. In this order the compiler finds
/// them with few vector instructions, 16 bytes at once.
fn places(block: &[u8; BLOCK], wanted: u8) -> u64 {
    let bits: [u8; BLOCK] = std::array::from_fn(|at| if block[at] == wanted { BITS[at] } else { 0 });
    bits.as_chunks().0.iter().fold(0, |places, word| places | u64::from_le_bytes(*word))
}

impl RecordScan {
    /// Takes the next bytes of the part.
    pub fn feed(&mut self, data: &[u8]) {
        let (blocks, rest) = data.as_chunks();
        for block in blocks {
            self.feed_block(block);
        }
        // Zeros count as nothing.
        let mut last = [0; BLOCK];
        last[..rest.len()].copy_from_slice(rest);
        self.feed_block(&last);
        self.last = data.last().copied().or(self.last);
    }

    fn feed_block(&mut self, block: &[u8; BLOCK]) {
        // The parity of the quotes up to each byte: within its word,
        let mut quoted = places(block, b'"');
        quoted ^= quoted << 8;
        quoted ^= quoted << 16;
        quoted ^= quoted << 32;
        // of each word and those before it,
        let mut words = quoted.to_le_bytes()[7];
        words ^= words << 1;
        words ^= words << 2;
        words ^= words << 4;
        // and with all that came before.
        let before = if self.is_quoted { !(words << 1) } else { words << 1 };
        quoted ^= ONES * u64::from(before);
        self.ended += u64::from((places(block, b'\n') & !quoted).count_ones());
        self.is_quoted ^= words >> 7 == 1;
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
