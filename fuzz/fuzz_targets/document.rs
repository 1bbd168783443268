//! An export's document: `cache::Peek::of`, judged by what serde_json makes of the whole.

#![no_main]

use exportgate::cache::Peek;
use libfuzzer_sys::fuzz_target;
use serde_json::Value;

fuzz_target!(|data: &[u8]| {
    let Some(peek) = Peek::of(data) else { return };
    let whole: Value = match serde_json::from_slice(data) {
        Ok(whole) => whole,
        Err(error) => panic!("read what is no JSON: {error}"),
    };
    assert_eq!(whole.pointer("/data/attributes/status"), peek.status.map(Value::String).as_ref());
    let id = whole.pointer("/data/id").filter(|id| !id.is_null());
    assert_eq!(id, peek.id.map(Value::String).as_ref());
});
