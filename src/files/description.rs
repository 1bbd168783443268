//! The facts of a file, as its answers show them.

use http::HeaderValue;

/// A file: its size, its validator, its hash and its rows, as far as they are known.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Description {
    /// Its length in bytes; `None` where the store decodes it as it sends it.
    pub(crate) size: Option<u64>,
    /// Its strong entity tag, quoted: the value of `ETag`.
    pub(crate) tag: Option<HeaderValue>,
    /// The CRC32C of the whole file: `Repr-Digest`.
    pub(crate) crc32c: Option<u32>,
    /// Its rows without the header, as Snyk counted them: `Exportgate-Rows`.
    pub(crate) rows: Option<u64>,
}

impl Description {
    /// True if ranges of it are served: its length is known, and a tag tells when it changes.
    pub(crate) const fn takes_ranges(&self) -> bool {
        self.size.is_some() && self.tag.is_some()
    }
}
