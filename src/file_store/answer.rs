//! The range that is asked for, and the head of the answer.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use http::header::{
    CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE, ETAG, HeaderName, TRANSFER_ENCODING, WARNING,
};
use http::response::Parts;
use http::{HeaderMap, HeaderValue, StatusCode};

use super::body::StoreBody;

const GOOG_HASH: HeaderName = HeaderName::from_static("x-goog-hash");
const GOOG_GENERATION: HeaderName = HeaderName::from_static("x-goog-generation");
const GOOG_STORED_ENCODING: HeaderName = HeaderName::from_static("x-goog-stored-content-encoding");

/// A strong entity tag of a store (RFC 9110 §8.8.3), with its quotes.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct StrongTag(HeaderValue);

/// The bytes of an object that are asked for. All of it is from 0, without an end.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StoreRange {
    /// The first byte.
    pub from: u64,
    /// The last byte; without it, the last one of the object.
    pub to: Option<u64>,
    /// The object must still be this one.
    pub if_match: Option<StrongTag>,
}

/// The answer of a store that sends bytes.
#[derive(Debug)]
pub struct StoreAnswer {
    /// The position of its first byte. It is 0 where the store takes no account of the range.
    pub position: u64,
    /// The number of bytes that come, where the store says it.
    pub length: Option<u64>,
    /// The size of the object, where the store says it.
    pub total: Option<u64>,
    /// The entity tag of the object.
    pub tag: Option<StrongTag>,
    /// Google's number of the object's content.
    pub generation: Option<u64>,
    /// The CRC32C of the whole object; none where the store decodes it on the way.
    pub crc32c: Option<u32>,
    /// True if the store decodes the object on the way: then it has no length, no ranges and no hash.
    pub is_decoded: bool,
    /// True if the bytes have a coding (`Content-Encoding`) although none was asked for.
    pub is_encoded: bool,
    /// The bytes.
    pub body: StoreBody,
}

impl StrongTag {
    fn read(fields: &HeaderMap) -> Option<Self> {
        let tag = one(fields, &ETAG)?;
        let inside = tag.as_bytes().strip_prefix(b"\"")?.strip_suffix(b"\"")?;
        inside.iter().all(|b| *b == b'!' || (b'#'..=b'~').contains(b)).then(|| Self(tag.clone()))
    }

    /// Its text, with its quotes.
    #[must_use]
    pub fn as_str(&self) -> &str {
        self.0.to_str().unwrap_or_default()
    }

    pub(super) fn field(&self) -> HeaderValue {
        self.0.clone()
    }
}

impl StoreRange {
    /// The `Range` field; none for the whole object.
    pub(super) fn field(&self) -> Option<HeaderValue> {
        let text = match (self.from, self.to) {
            (0, None) => return None,
            (from, None) => format!("bytes={from}-"),
            (from, Some(to)) => format!("bytes={from}-{to}"),
        };
        HeaderValue::try_from(text).ok()
    }
}

impl StoreAnswer {
    pub(super) fn read(head: &Parts, body: StoreBody, range: &StoreRange) -> Option<Self> {
        let fields = &head.headers;
        let length = match fields.get(CONTENT_LENGTH) {
            Some(_) => Some(one(fields, &CONTENT_LENGTH).and_then(digits)?),
            None => None,
        };
        // Without either, the end of the connection would be the end of the file, and a cut one would look whole.
        let _ = length.map(drop).or_else(|| fields.get(TRANSFER_ENCODING).map(drop))?;
        let is_encoded = fields.contains_key(CONTENT_ENCODING);
        let is_stored_encoded = fields.get(GOOG_STORED_ENCODING).is_some_and(|coding| coding != "identity");
        let is_decoded = fields.get_all(WARNING).iter().any(|text| text.as_bytes().starts_with(b"214"))
            || (is_stored_encoded && !is_encoded);
        let mut answer = Self {
            position: 0,
            length,
            total: length,
            tag: StrongTag::read(fields),
            generation: one(fields, &GOOG_GENERATION).and_then(digits),
            crc32c: crc32c(fields).filter(|_| !is_decoded),
            is_decoded,
            is_encoded,
            body,
        };
        if head.status == StatusCode::PARTIAL_CONTENT {
            let part = ContentRange::read(fields).filter(|part| part.fits(range))?;
            let part_length = part.last - part.first + 1;
            if length.is_some_and(|length| length != part_length) {
                return None;
            }
            answer.position = part.first;
            answer.length = Some(part_length);
            answer.total = part.total;
        }
        answer.body = answer.body.of_length(answer.length);
        Some(answer)
    }
}

/// `Content-Range` of a 206 (RFC 9110 §14.4).
#[derive(Debug, PartialEq, Eq)]
struct ContentRange {
    first: u64,
    last: u64,
    total: Option<u64>,
}

impl ContentRange {
    fn read(fields: &HeaderMap) -> Option<Self> {
        let text = one(fields, &CONTENT_RANGE)?.to_str().ok()?;
        let (range, total) = text.strip_prefix("bytes ")?.split_once('/')?;
        let (first, last) = range.split_once('-')?;
        let total = if total == "*" { None } else { Some(number(total)?) };
        let read = Self { first: number(first)?, last: number(last)?, total };
        let is_sound = read.first <= read.last && read.total.is_none_or(|total| read.last < total);
        is_sound.then_some(read)
    }

    /// True if these are all bytes of the range that there are.
    fn fits(&self, range: &StoreRange) -> bool {
        let end = self.total.map(|total| total - 1);
        let last = range.to.into_iter().chain(end).min();
        range.field().is_some() && self.first == range.from && last.is_none_or(|last| last == self.last)
    }
}

/// The total of a 416 (RFC 9110 §15.5.17).
pub(super) fn unsatisfied_total(fields: &HeaderMap) -> Option<u64> {
    number(one(fields, &CONTENT_RANGE)?.to_str().ok()?.strip_prefix("bytes */")?)
}

/// Google's CRC32C: base64 of the big-endian number, in one of several lines or in a list with others.
fn crc32c(fields: &HeaderMap) -> Option<u32> {
    let texts = fields.get_all(GOOG_HASH).iter().filter_map(|line| line.to_str().ok());
    let mut hashes = texts.flat_map(|line| line.split(','));
    let text = hashes.find_map(|hash| hash.trim().strip_prefix("crc32c="))?;
    Some(u32::from_be_bytes(BASE64_STANDARD.decode(text).ok()?.try_into().ok()?))
}

/// A field that must not come twice.
fn one<'f>(fields: &'f HeaderMap, name: &HeaderName) -> Option<&'f HeaderValue> {
    let mut values = fields.get_all(name).iter();
    values.next().filter(|_| values.next().is_none())
}

fn digits(value: &HeaderValue) -> Option<u64> {
    number(value.to_str().ok()?)
}

fn number(text: &str) -> Option<u64> {
    text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().ok())?
}
