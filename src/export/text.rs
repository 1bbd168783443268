//! The bytes of ids and queries, and percent-encoding (RFC 3986).

use std::fmt::Write as _;

/// The class of bytes outside a grammar.
pub(super) const FOREIGN: u8 = 1;
/// The class of upper-case letters.
pub(super) const UPPER_CASE: u8 = 2;

/// The bytes of ids.
pub(super) const OF_IDS: [u8; 256] = table(b"-_");

/// The ASCII letters and digits, and `more`; all others are foreign.
const fn table(more: &[u8]) -> [u8; 256] {
    let mut table = [FOREIGN; 256];
    let mut b = 0;
    while b < 128_u8 {
        if b.is_ascii_alphanumeric() {
            table[b as usize] = if b.is_ascii_uppercase() { UPPER_CASE } else { 0 };
        }
        b += 1;
    }
    let mut at = 0;
    while at < more.len() {
        table[more[at] as usize] = 0;
        at += 1;
    }
    table
}

pub(crate) const fn is_unreserved_byte(b: u8) -> bool {
    UNRESERVED[b as usize] & FOREIGN == 0
}

/// RFC 3986 §2.3.
pub(super) const UNRESERVED: [u8; 256] = table(b"-._~");

/// Percent-decodes `text`; `None` when an encoding is broken or a control or raw non-ASCII byte is in it.
pub(crate) fn check_percent(text: &str) -> Option<Vec<u8>> {
    let mut decoded = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        let value = match byte {
            b'%' => hex(bytes.next()?)? << 4 | hex(bytes.next()?)?,
            0x21..=0x7e => byte,
            _ => return None,
        };
        if value.is_ascii_control() {
            return None;
        }
        decoded.push(value);
    }
    Some(decoded)
}

pub(super) fn hex(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).and_then(|value| u8::try_from(value).ok())
}

pub(crate) fn push_encoded(text: &mut String, byte: u8) {
    let _ = write!(text, "%{byte:02X}");
}
