//! The object of an answer: its span, its status and its fields.

use std::io;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use http::{HeaderMap, StatusCode};

use super::super::answers::set;
use super::super::links::LinkForm;
use super::range::AskedRange;
use super::{HashField, PartSource, StoreFault};

/// The object of an answer, and what is to go wrong.
pub(super) struct Sending {
    pub(super) part: PartSource,
    pub(super) path: String,
    pub(super) signature: String,
    /// The number of its changes.
    pub(super) changes: u64,
    pub(super) form: LinkForm,
    pub(super) tag: Option<String>,
    pub(super) hash: HashField,
    pub(super) crc32c: Option<u32>,
    pub(super) range: AskedRange,
    pub(super) shift: u64,
    pub(super) is_transcoded: bool,
    /// Ends the answer at its position.
    pub(super) end: Option<StoreFault>,
    pub(super) expire: Option<u64>,
    pub(super) flip: Option<u64>,
    pub(super) rate: Option<u64>,
}

/// A strong entity tag.
pub(super) fn tag(path: &str, changes: u64) -> String {
    let number = digest(path, changes)
        .into_iter()
        .take(16)
        .fold(0, |number: u128, byte| number << 8 | u128::from(byte));
    format!("\"{number:032x}\"")
}

fn digest(path: &str, changes: u64) -> Vec<u8> {
    let text = format!("{path}\n{changes}");
    aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, text.as_bytes()).as_ref().to_vec()
}

impl Sending {
    /// The first position, and the one after the last.
    pub(super) fn span(&self) -> (u64, u64) {
        match self.range {
            AskedRange::Part { first, last } => (first, last + 1),
            AskedRange::Whole | AskedRange::Unsatisfiable => (0, self.part.size()),
        }
    }

    pub(super) fn is_changed(&self) -> bool {
        self.changes % 2 == 1
    }

    fn is_google(&self) -> bool {
        !matches!(
            self.form,
            LinkForm::S3V4
                | LinkForm::S3V4Temporary
                | LinkForm::R2
                | LinkForm::S3V2
                | LinkForm::CloudFront
                | LinkForm::Azure
        )
    }

    pub(super) fn is_hash_wanted(&self) -> bool {
        self.is_google() && self.hash != HashField::Absent
    }

    /// With its hash, which may take a while.
    pub(super) async fn with_hash(mut self: Box<Self>) -> io::Result<Self> {
        let (part, is_changed) = (self.part.clone(), self.is_changed());
        self.crc32c = Some(tokio::task::spawn_blocking(move || part.crc32c_of(is_changed)).await?);
        Ok(*self)
    }

    pub(super) fn status(&self) -> StatusCode {
        match self.range {
            AskedRange::Part { .. } => StatusCode::PARTIAL_CONTENT,
            AskedRange::Whole | AskedRange::Unsatisfiable => StatusCode::OK,
        }
    }

    pub(super) fn fields(&self, fields: &mut HeaderMap) {
        let size = self.part.size();
        set(fields, "content-type", "text/csv");
        set(fields, "last-modified", "Mon, 02 Feb 2026 08:00:00 GMT");
        if let Some(tag) = &self.tag {
            set(fields, "etag", tag);
        }
        if self.is_google() {
            self.google_fields(fields);
        } else {
            set(fields, "server", "AmazonS3");
        }
        if self.is_transcoded {
            return;
        }
        let (first, end) = self.span();
        set(fields, "accept-ranges", "bytes");
        set(fields, "content-length", &(end - first).to_string());
        if let AskedRange::Part { first, last } = self.range {
            let by = self.shift;
            set(fields, "content-range", &format!("bytes {}-{}/{size}", first + by, last + by));
        }
    }

    fn google_fields(&self, fields: &mut HeaderMap) {
        let generation = 1_770_000_000_000_000 + self.changes;
        set(fields, "server", "UploadServer");
        set(fields, "x-goog-generation", &generation.to_string());
        set(fields, "x-goog-metageneration", "1");
        set(fields, "x-goog-storage-class", "STANDARD");
        if self.is_transcoded {
            set(fields, "x-goog-stored-content-encoding", "gzip");
            set(fields, "warning", "214 UploadServer gunzipped");
            set(fields, "vary", "Accept-Encoding");
        } else {
            set(fields, "x-goog-stored-content-encoding", "identity");
            set(fields, "x-goog-stored-content-length", &self.part.size().to_string());
        }
        let Some(crc32c) = self.crc32c else { return };
        // Of the stored object, which the decoded bytes are not.
        let is_other = self.is_transcoded || self.hash == HashField::Wrong;
        let crc32c = BASE64_STANDARD.encode((crc32c ^ u32::from(is_other)).to_be_bytes());
        let md5 = BASE64_STANDARD.encode(&digest(&self.path, self.changes)[..16]);
        if self.hash == HashField::TwoLines {
            set(fields, "x-goog-hash", &format!("md5={md5}"));
            set(fields, "x-goog-hash", &format!("crc32c={crc32c}"));
        } else {
            set(fields, "x-goog-hash", &format!("crc32c={crc32c},md5={md5}"));
        }
    }
}
