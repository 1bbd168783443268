//! The end of a file, held back until the file is proven (pure).

use std::collections::VecDeque;

use bytes::Bytes;

/// The last bytes of what came.
#[derive(Debug, Default)]
pub(super) struct HeldBack {
    pieces: VecDeque<Bytes>,
    len: usize,
}

impl HeldBack {
    /// Bytes that are held back.
    pub(super) const MOST: usize = 64 * 1024;

    /// Takes the next bytes.
    pub(super) fn push(&mut self, data: Bytes) {
        if !data.is_empty() {
            self.len += data.len();
            self.pieces.push_back(data);
        }
    }

    /// Gives bytes that have so many behind them, in pieces.
    pub(super) fn release(&mut self) -> Option<Bytes> {
        let excess = self.len.checked_sub(Self::MOST).filter(|excess| *excess > 0)?;
        let first = self.pieces.front_mut()?;
        let piece = first.split_to(first.len().min(excess));
        if first.is_empty() {
            self.pieces.pop_front();
        }
        self.len -= piece.len();
        Some(piece)
    }

    /// Gives the rest, when it is proven.
    pub(super) fn release_all(&mut self) -> impl Iterator<Item = Bytes> {
        self.len = 0;
        std::mem::take(&mut self.pieces).into_iter()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Whatever the pieces: all but the last 64 KiB come out, in order, and then these.
        #[test]
        fn all_but_the_last_bytes_come_out(lens in prop::collection::vec(0_usize..90_000, 0..6)) {
            let (mut held, mut out, mut all) = (HeldBack::default(), Vec::new(), Vec::new());
            for (at, len) in lens.into_iter().enumerate() {
                let data: Vec<u8> = (0..len).map(|byte| u8::try_from((byte + at) % 251).unwrap_or(0)).collect();
                all.extend_from_slice(&data);
                held.push(data.into());
                while let Some(piece) = held.release() {
                    prop_assert!(!piece.is_empty());
                    out.extend_from_slice(&piece);
                }
                prop_assert_eq!(out.len(), all.len().saturating_sub(HeldBack::MOST));
            }
            held.release_all().for_each(|piece| out.extend_from_slice(&piece));
            prop_assert!(out == all);
        }
    }
}
