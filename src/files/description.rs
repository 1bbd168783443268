//! The facts of a file, as its answers show them.

use aws_lc_rs::digest::{Context, SHA256};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::HeaderValue;

use super::object::ObjectMarks;
use crate::export::FileName;
use crate::file_store::ObjectId;

/// Bytes of a tag's hash that are shown.
const TAG_BYTES: usize = 18;

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
    /// The object that a part is: `Exportgate-Object`, as the list of files has it.
    pub(crate) object: Option<ObjectId>,
}

impl Description {
    /// True if ranges of it are served: its length is known, and a tag tells when it changes.
    pub(crate) const fn takes_ranges(&self) -> bool {
        self.size.is_some() && self.tag.is_some()
    }
}

/// The entity tag of a file that is made of these objects: of the export, the file and what the store says, so that a
/// renewal, a restart and another process give the same. None where an object could change unnoticed.
pub(super) fn tag<'a>(
    export: &str,
    file: FileName,
    objects: impl IntoIterator<Item = &'a ObjectMarks>,
) -> Option<HeaderValue> {
    let mut hash = Context::new(&SHA256);
    let mut add = |text: &str| {
        hash.update(&(text.len() as u64).to_be_bytes());
        hash.update(text.as_bytes());
    };
    add(export);
    add(&match file {
        FileName::Part(number) => number.to_string(),
        FileName::Table => "table".to_owned(),
    });
    for object in objects {
        let size = object.size?;
        // One mark is enough: others may be missing in another answer, and all of them in that of an empty object.
        add(&match (size, &object.tag, object.generation, object.crc32c) {
            (0, ..) => String::new(),
            (_, Some(tag), ..) => tag.as_str().to_owned(),
            (_, None, Some(generation), _) => format!("generation {generation}"),
            (_, None, None, Some(crc32c)) => format!("crc32c {crc32c}"),
            (_, None, None, None) => return None,
        });
        add(&size.to_string());
    }
    let text = URL_SAFE_NO_PAD.encode(&hash.finish().as_ref()[..TAG_BYTES]);
    HeaderValue::try_from(format!("\"{text}\"")).ok()
}
