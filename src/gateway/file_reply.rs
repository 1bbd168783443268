//! Answers with files, rendered (pure).

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::header::{
    ACCEPT_RANGES, CACHE_CONTROL, CONTENT_DISPOSITION, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG,
};
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode};
use http_body_util::{Either, Full};
use serde_json::json;

use super::reply::{LengthUnknown, protect};
use crate::export::{FileName, FilesCall};
use crate::files::{ByteSpan, Description, Index};
use crate::transport::Body;

const CSV: HeaderValue = HeaderValue::from_static("text/csv; charset=utf-8");
pub(super) const JSON: HeaderValue = HeaderValue::from_static("application/json");
/// Nobody on the way may keep or change them.
const PRIVATE: HeaderValue = HeaderValue::from_static("private, no-transform");
/// The list is short, and who may have it can change.
pub(super) const ASK_AGAIN: HeaderValue = HeaderValue::from_static("private, no-cache");
const ROWS: HeaderName = HeaderName::from_static("exportgate-rows");
/// The object that a part is: Snyk may list the parts in another order the next time.
const OBJECT: HeaderName = HeaderName::from_static("exportgate-object");
/// RFC 9530.
const REPR_DIGEST: HeaderName = HeaderName::from_static("repr-digest");

/// The list of an export's files. It holds no link.
pub(super) fn index(call: &FilesCall, index: &Index) -> Response<Body> {
    let mut results = call.results();
    results.query = crate::export::CallQuery::default();
    let below = results.target();
    let parts: Vec<_> = (1_u32..)
        .zip(&index.parts)
        .map(|(number, part)| {
            json!({
                "part": number,
                "path": format!("{below}/files/{number}.csv"),
                "row_count": part.row_count,
                "file_size": part.file_size,
                "object": part.object.map(|object| object.to_string()),
            })
        })
        .collect();
    let list = json!({
        "export": call.export.as_str(),
        "status": "FINISHED",
        "row_count": index.row_count,
        "parts": parts,
        "table": format!("{below}/table.csv"),
    });
    let mut fields = HeaderMap::new();
    fields.insert(CONTENT_TYPE, JSON);
    fields.insert(CACHE_CONTROL, ASK_AGAIN);
    protect(&mut fields);
    answer(StatusCode::OK, fields, Either::Left(Full::new(Bytes::from(list.to_string()))))
}

/// A file, to be answered with.
pub(super) struct FileReply<'a> {
    pub(super) call: &'a FilesCall,
    pub(super) file: FileName,
    pub(super) description: &'a Description,
}

impl FileReply<'_> {
    /// 200 with all of it.
    pub(super) fn whole(&self, body: Body) -> Response<Body> {
        answer(StatusCode::OK, self.fields(self.description.size), body)
    }

    /// 206 with one range of it.
    pub(super) fn range(&self, span: ByteSpan, body: Body) -> Response<Body> {
        let mut fields = self.fields(Some(span.len()));
        let size = self.description.size.map_or_else(|| "*".to_owned(), |size| size.to_string());
        let range = format!("bytes {}-{}/{size}", span.first, span.last);
        fields.extend(HeaderValue::try_from(range).ok().map(|range| (CONTENT_RANGE, range)));
        answer(StatusCode::PARTIAL_CONTENT, fields, body)
    }

    /// 200 to HEAD.
    pub(super) fn head(&self) -> Response<Body> {
        let mut response = self.whole(Either::Left(Full::default()));
        if self.description.size.is_none() {
            response.extensions_mut().insert(LengthUnknown);
        }
        response
    }

    /// 304: the fields that say which file it still is (RFC 9110 §15.4.5).
    pub(super) fn not_modified(&self) -> Response<Body> {
        let mut fields = HeaderMap::new();
        fields.insert(CACHE_CONTROL, PRIVATE);
        fields.extend(self.description.tag.clone().map(|tag| (ETAG, tag)));
        answer(StatusCode::NOT_MODIFIED, fields, Either::Left(Full::default()))
    }

    fn fields(&self, length: Option<u64>) -> HeaderMap {
        let Description { tag, crc32c, rows, object, .. } = self.description;
        let mut fields = HeaderMap::new();
        fields.insert(CONTENT_TYPE, CSV);
        fields.insert(CACHE_CONTROL, PRIVATE);
        let ranges = if self.description.takes_ranges() { "bytes" } else { "none" };
        fields.insert(ACCEPT_RANGES, HeaderValue::from_static(ranges));
        let digest = crc32c.map(|crc| format!("crc32c=:{}:", STANDARD.encode(crc.to_be_bytes())));
        let text = |text: String| HeaderValue::try_from(text).ok();
        fields.extend(tag.clone().map(|tag| (ETAG, tag)));
        fields.extend(digest.and_then(text).map(|digest| (REPR_DIGEST, digest)));
        fields.extend(object.and_then(|object| text(object.to_string())).map(|object| (OBJECT, object)));
        fields.extend(rows.map(|rows| (ROWS, HeaderValue::from(rows))));
        fields.extend(length.map(|length| (CONTENT_LENGTH, HeaderValue::from(length))));
        fields.extend(text(self.disposition()).map(|name| (CONTENT_DISPOSITION, name)));
        protect(&mut fields);
        fields
    }

    /// A name to save it by. Ids and names have no byte that would need a quote.
    fn disposition(&self) -> String {
        let name = match (&self.call.name, self.file) {
            (Some(name), FileName::Table) => name.to_string(),
            (Some(name), FileName::Part(number)) => format!("{name}-part-{number}"),
            (None, FileName::Part(number)) => format!("{}-part-{number}", self.call.export.as_str()),
            (None, FileName::Table) => format!("{}-table", self.call.export.as_str()),
        };
        format!("attachment; filename=\"{name}.csv\"")
    }
}

fn answer(status: StatusCode, fields: HeaderMap, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    *response.headers_mut() = fields;
    response
}
