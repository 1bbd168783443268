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
    /// Reads the head of a 200 or 206; `None` if it does not fit the request.
    pub(super) fn read(head: &Parts, body: StoreBody, range: &StoreRange) -> Option<Self> {
        let fields = &head.headers;
        let Extent { position, length, total } = Extent::read(head, range)?;
        let is_decoded = is_decoded(fields);
        Some(Self {
            position,
            length,
            total,
            tag: StrongTag::read(fields),
            generation: one(fields, &GOOG_GENERATION).and_then(digits),
            crc32c: crc32c(fields).filter(|_| !is_decoded),
            is_decoded,
            is_encoded: fields.contains_key(CONTENT_ENCODING),
            body: body.of_length(length),
        })
    }
}

/// The bytes that an answer sends, and those that there are.
#[derive(Debug, PartialEq, Eq)]
struct Extent {
    position: u64,
    length: Option<u64>,
    total: Option<u64>,
}

impl Extent {
    fn read(head: &Parts, range: &StoreRange) -> Option<Self> {
        let fields = &head.headers;
        let length = match fields.get(CONTENT_LENGTH) {
            Some(_) => Some(one(fields, &CONTENT_LENGTH).and_then(digits)?),
            // Without either, the end of the connection would be the end of the file, and a cut one would look whole.
            None => fields.get(TRANSFER_ENCODING).map(|_| None)?,
        };
        if head.status != StatusCode::PARTIAL_CONTENT {
            return Some(Self { position: 0, length, total: length });
        }
        let ContentRange { first, last, total } =
            ContentRange::read(fields).filter(|part| part.fits(range))?;
        let of_range = last - first + 1;
        let fits = length.is_none_or(|length| length == of_range);
        fits.then_some(Self { position: first, length: Some(of_range), total })
    }
}

/// True if the store decodes the object on the way: it says so (`Warning: 214`, RFC 7234 §5.5.6), or the object is stored
/// with a coding that the answer does not have.
fn is_decoded(fields: &HeaderMap) -> bool {
    let is_stored_encoded = fields.get(GOOG_STORED_ENCODING).is_some_and(|coding| coding != "identity");
    let mut warnings = fields.get_all(WARNING).iter();
    (is_stored_encoded && !fields.contains_key(CONTENT_ENCODING))
        || warnings.any(|text| text.as_bytes().starts_with(b"214 "))
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

#[cfg(test)]
mod tests {
    use http::Response;

    use super::*;

    fn head(status: u16, fields: &[(&str, &str)]) -> Parts {
        let mut response = Response::builder().status(status);
        for (name, value) in fields {
            response = response.header(*name, *value);
        }
        response.body(()).expect("a response").into_parts().0
    }

    fn range(from: u64, to: Option<u64>) -> StoreRange {
        StoreRange { from, to, if_match: None }
    }

    #[test]
    fn an_answer_must_fit_the_range() {
        let whole = range(0, None);
        let tail = range(100, None);
        let middle = range(100, Some(199));
        let extent = |position, length, total| Some(Extent { position, length, total });
        let (ranged, length, chunked) = ("content-range", "content-length", ("transfer-encoding", "chunked"));
        for (status, fields, range, expected) in [
            (200, &[(length, "300")][..], &whole, extent(0, Some(300), Some(300))),
            (200, &[(length, "0")], &whole, extent(0, Some(0), Some(0))),
            (200, &[chunked], &whole, extent(0, None, None)),
            // A range that is not taken account of begins at the start.
            (200, &[(length, "300")], &tail, extent(0, Some(300), Some(300))),
            (
                206,
                &[(ranged, "bytes 100-299/300"), (length, "200")],
                &tail,
                extent(100, Some(200), Some(300)),
            ),
            (206, &[(ranged, "bytes 100-299/*"), (length, "200")], &tail, extent(100, Some(200), None)),
            (206, &[(ranged, "bytes 100-299/300"), chunked], &tail, extent(100, Some(200), Some(300))),
            (
                206,
                &[(ranged, "bytes 100-199/300"), (length, "100")],
                &middle,
                extent(100, Some(100), Some(300)),
            ),
            (
                206,
                &[(ranged, "bytes 100-149/150"), (length, "50")],
                &middle,
                extent(100, Some(50), Some(150)),
            ),
            // Another range than was asked for.
            (206, &[(ranged, "bytes 99-299/300"), (length, "201")], &tail, None),
            (206, &[(ranged, "bytes 101-299/300"), (length, "199")], &tail, None),
            (206, &[(ranged, "bytes 100-198/300"), (length, "99")], &tail, None),
            (206, &[(ranged, "bytes 100-200/300"), (length, "101")], &middle, None),
            (206, &[(ranged, "bytes 0-299/300"), (length, "300")], &whole, None),
            // A length that does not fit.
            (206, &[(ranged, "bytes 100-299/300"), (length, "300")], &tail, None),
            (206, &[(length, "200")], &tail, None),
            (206, &[(ranged, "bytes 100-299/200"), (length, "200")], &tail, None),
            (206, &[(ranged, "bytes 299-100/300"), (length, "200")], &tail, None),
            (
                206,
                &[(ranged, "bytes 100-299/300"), (ranged, "bytes 100-299/300"), (length, "200")],
                &tail,
                None,
            ),
            (206, &[(ranged, "bytes 100-18446744073709551616/*"), chunked], &tail, None),
            (206, &[(ranged, "bytes +100-299/300"), (length, "200")], &tail, None),
            (206, &[("content-type", "multipart/byteranges; boundary=a"), (length, "200")], &tail, None),
            // No certain end.
            (200, &[], &whole, None),
            (206, &[(ranged, "bytes 100-299/300")], &tail, None),
            (200, &[(length, "-1")], &whole, None),
            (200, &[(length, "")], &whole, None),
        ] {
            assert_eq!(Extent::read(&head(status, fields), range), expected, "{status} {fields:?} {range:?}");
        }
    }

    #[test]
    fn the_range_field_names_what_is_asked_for() {
        let text = |from, to| range(from, to).field().map(|field| field.to_str().expect("text").to_owned());
        assert_eq!(text(0, None), None);
        assert_eq!(text(0, Some(65_535)).as_deref(), Some("bytes=0-65535"));
        assert_eq!(text(1_000_000, None).as_deref(), Some("bytes=1000000-"));
    }

    #[test]
    fn the_hash_is_found_in_one_line_or_two() {
        let hash = "x-goog-hash";
        for (fields, expected) in [
            (&[(hash, "crc32c=yZRlqg==,md5=XrY7u+Ae7tCTyyK7j1rNww==")][..], Some(0xc994_65aa)),
            (&[(hash, "md5=XrY7u+Ae7tCTyyK7j1rNww=="), (hash, "crc32c=yZRlqg==")], Some(0xc994_65aa)),
            (&[(hash, "md5=XrY7u+Ae7tCTyyK7j1rNww==, crc32c=AAAAAA==")], Some(0)),
            (&[(hash, "md5=XrY7u+Ae7tCTyyK7j1rNww==")], None),
            (&[(hash, "crc32c=yZRl")], None),
            (&[(hash, "crc32c=?")], None),
            (&[], None),
        ] {
            assert_eq!(crc32c(&head(200, fields).headers), expected, "{fields:?}");
        }
    }

    #[test]
    fn only_a_strong_tag_is_one() {
        let tag = |fields: &[(&str, &str)]| StrongTag::read(&head(200, fields).headers);
        assert_eq!(tag(&[("etag", "\"a-1\"")]).expect("a tag").as_str(), "\"a-1\"");
        for fields in [
            &[("etag", "W/\"a\"")][..],
            &[("etag", "a")],
            &[("etag", "\"")],
            &[("etag", "\"a\"b\"")],
            &[("etag", "\"a b\"")],
            &[("etag", "\"a\""), ("etag", "\"a\"")],
            &[],
        ] {
            assert_eq!(tag(fields), None, "{fields:?}");
        }
    }

    #[test]
    fn a_store_that_decodes_is_noticed() {
        let stored = "x-goog-stored-content-encoding";
        for (fields, expected) in [
            (&[(stored, "gzip")][..], true),
            (&[(stored, "gzip"), ("warning", "214 UploadServer gunzipped")], true),
            (&[("warning", "214 UploadServer gunzipped")], true),
            (&[(stored, "gzip"), ("content-encoding", "gzip")], false),
            (&[(stored, "identity")], false),
            (&[("content-encoding", "gzip")], false),
            (&[], false),
        ] {
            assert_eq!(is_decoded(&head(200, fields).headers), expected, "{fields:?}");
        }
    }

    #[test]
    fn an_empty_object_has_no_range() {
        let total = |text: &str| unsatisfied_total(&head(416, &[("content-range", text)]).headers);
        assert_eq!(total("bytes */0"), Some(0));
        assert_eq!(total("bytes */300"), Some(300));
        assert_eq!(total("bytes 0-1/300"), None);
        assert_eq!(total("bytes */*"), None);
    }
}
