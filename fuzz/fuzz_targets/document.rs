//! An export's document: `export::Document::of`, judged by what serde_json makes of the whole, and how long it is fresh.

#![no_main]

use std::time::Duration;

use exportgate::cache::{Settings, WholeAnswer, assess};
use exportgate::clock::Clock;
use exportgate::export::Document;
use http::{HeaderMap, HeaderValue, StatusCode};
use libfuzzer_sys::fuzz_target;
use serde_json::Value;

fuzz_target!(|data: &[u8]| {
    let Some(document) = Document::of(data) else { return };
    let whole: Value = match serde_json::from_slice(data) {
        Ok(whole) => whole,
        Err(error) => panic!("read what is no JSON: {error}"),
    };
    lifetime(&document);
    assert_eq!(whole.pointer("/data/attributes/status"), document.status.map(Value::String).as_ref());
    let id = whole.pointer("/data/id").filter(|id| !id.is_null());
    assert_eq!(id, document.id.map(Value::String).as_ref());
});

/// Whatever its links say, no document is fresh for longer than one may be.
fn lifetime(document: &Document) {
    let settings = Settings {
        max_bytes: 1 << 20,
        max_entry: 1 << 20,
        link_margin: Duration::from_mins(15),
        max_age: Duration::from_mins(55),
        default_age: Duration::from_mins(10),
        ignore: Vec::new(),
        refresh_ahead: false,
        max_followers: 1,
    };
    let now = Clock::system().now();
    let mut fields = HeaderMap::new();
    fields.insert("content-type", HeaderValue::from_static("application/json"));
    let (status, body_len, document) = (StatusCode::OK, 1, Some(document));
    let answer = WholeAnswer { status, fields: &fields, body_len, document, sent: now, received: now };
    if let Ok(fresh) = assess(&answer, &settings) {
        assert!(fresh.until > now.wall && fresh.until <= now.wall + settings.max_age);
        assert!(fresh.links_end.is_none_or(|end| end > fresh.until));
    }
}
