//! Values on the shared engine: the file of keys, and what is sealed with them.
//!
//! The first byte says which; the rest is the file, or `context newline value`.

#![no_main]

use std::sync::OnceLock;
use std::time::SystemTime;

use exportgate::journal::FoundStart;
use exportgate::shared::SealKeys;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some((which, rest)) = data.split_first() else { return };
    match which % 4 {
        0 => key_file(rest),
        1 => sealed_by_nobody(rest),
        2 => start(rest),
        _ => sealed(rest),
    }
});

/// A file of keys: what is wrong with it is told without anything of it.
fn key_file(data: &[u8]) {
    match SealKeys::parse(data) {
        Ok(keys) => {
            let value = keys.seal(b"place", b"value").expect("sealed");
            assert_eq!(keys.open(b"place", &value).as_deref(), Some(b"value".as_slice()));
        }
        Err(why) => {
            let text = String::from_utf8_lossy(data);
            let long = text.split_ascii_whitespace().filter(|word| word.len() > 16);
            for word in long {
                assert!(!why.contains(word), "{why}");
            }
        }
    }
}

/// A value that nobody sealed does not open, at no place.
fn sealed_by_nobody(data: &[u8]) {
    let (context, value) = split(data);
    assert_eq!(keys().open(context, value), None);
    let mut with_version = vec![1];
    with_version.extend_from_slice(value);
    assert_eq!(keys().open(context, &with_version), None);
}

/// The value of a start: what is read, written again, is the same start.
fn start(data: &[u8]) {
    let Some(found) = FoundStart::of_bytes([7; 32], data, SystemTime::UNIX_EPOCH) else { return };
    assert!(found.is_elsewhere);
    assert!(found.kept.fields.len() + found.kept.body.len() < data.len());
    let again = FoundStart::of_bytes([7; 32], &found.to_bytes(), SystemTime::UNIX_EPOCH);
    assert_eq!(again.as_ref(), Some(&found));
}

/// A value opens at its own place alone, and as long as no bit of it differs.
fn sealed(data: &[u8]) {
    let (context, value) = split(data);
    let whole = keys().seal(context, value).expect("sealed");
    assert_eq!(keys().open(context, &whole).as_deref(), Some(value));
    assert_eq!(keys().open(&[context, b"\n"].concat(), &whole), None);
    let at = data.iter().fold(0, |sum, byte| (sum * 31 + usize::from(*byte)) % whole.len());
    let mut wrong = whole.clone();
    wrong[at] ^= 1 << (at % 8);
    assert_eq!(keys().open(context, &wrong), None);
    assert_eq!(keys().open(context, &whole[..at]), None);
}

fn split(data: &[u8]) -> (&[u8], &[u8]) {
    let end = data.iter().position(|byte| *byte == b'\n').unwrap_or(data.len());
    (&data[..end], data.get(end + 1..).unwrap_or_default())
}

fn keys() -> &'static SealKeys {
    static KEYS: OnceLock<SealKeys> = OnceLock::new();
    KEYS.get_or_init(|| {
        let key = SealKeys::generate().expect("a key");
        SealKeys::parse(key.as_bytes()).expect("keys")
    })
}
