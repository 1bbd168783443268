//! The way of the table's bytes: counted and hashed, into a file or to standard output.

use std::io::{self, Write};
use std::os::fd::AsFd as _;

use aws_lc_rs::digest::{Context, SHA256};

use super::manifest::OutputNote;
use super::target::hex;

/// Counts and hashes what it passes on.
pub(super) struct Hashed<W> {
    inner: W,
    hash: Context,
    bytes: u64,
}

impl<W> std::fmt::Debug for Hashed<W> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Hashed").field("bytes", &self.bytes).finish_non_exhaustive()
    }
}

impl<W: Write> Hashed<W> {
    pub(super) fn new(inner: W) -> Self {
        Self { inner, hash: Context::new(&SHA256), bytes: 0 }
    }

    pub(super) fn note(self, format: &str, rows: u64) -> OutputNote {
        let sha256 = Some(hex(self.hash.finish().as_ref()));
        OutputNote { format: format.to_owned(), rows, bytes: self.bytes, sha256 }
    }
}

impl<W: Write> Write for Hashed<W> {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        let count = self.inner.write(data)?;
        self.hash.update(&data[..count]);
        self.bytes += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

/// Standard output without the line buffer of `std`'s.
pub(super) fn stdout() -> io::Result<io::BufWriter<std::fs::File>> {
    let stdout = io::stdout().as_fd().try_clone_to_owned()?;
    Ok(io::BufWriter::with_capacity(64 * 1024, stdout.into()))
}
