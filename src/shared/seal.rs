//! Sealed values: the engine, its disk and its operators read nothing of what is stored there (0016).
//!
//! AES-256-GCM. Each value has a key of its own, derived from the fleet's by HKDF-SHA-256 (RFC 5869) and 32 random bytes, so that no
//! nonce is used twice. The context (the kind of value and the name of its place) is authenticated with it: a value that was
//! moved to another place does not open.

use std::fmt;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::hkdf::{HKDF_SHA256, Salt};
use aws_lc_rs::rand;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use zeroize::Zeroizing;

/// Length of a key, in bytes.
const KEY: usize = 32;
/// Length of the random bytes before a value.
const SALT: usize = 32;
/// The version of the format: the first byte of a value.
const VERSION: u8 = 1;
const USE: &[u8] = b"exportgate shared value 1";
/// Most keys in a file.
const MAX_KEYS: usize = 8;

/// The keys of a fleet. The first seals, all open, so that a key is replaced without a loss.
#[derive(Clone, PartialEq, Eq)]
pub struct SealKeys(Vec<Zeroizing<[u8; KEY]>>);

impl fmt::Debug for SealKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SealKeys({})", self.0.len())
    }
}

impl SealKeys {
    /// The keys of a file: one of 32 bytes in base64 on each line. Empty lines and lines that begin with `#` are left out.
    ///
    /// # Errors
    /// In words, and without anything of the file.
    pub fn parse(content: &[u8]) -> Result<Self, String> {
        const ADVICE: &str = "make one by: exportgate key new --seal";
        let text = std::str::from_utf8(content).map_err(|_| format!("is no text: {ADVICE}"))?;
        let mut keys = Vec::new();
        for (at, line) in text.lines().map(str::trim).enumerate() {
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let key = key(line)
                .ok_or_else(|| format!("line {} is no key of 32 bytes in base64: {ADVICE}", at + 1))?;
            keys.push(key);
        }
        match keys.len() {
            0 => Err(format!("holds no key: {ADVICE}")),
            1..=MAX_KEYS => Ok(Self(keys)),
            _ => Err(format!("holds more than {MAX_KEYS} keys")),
        }
    }

    /// A new key, as a line of such a file; `None` if the system gives no random numbers.
    #[must_use]
    pub fn generate() -> Option<Zeroizing<String>> {
        let mut key = Zeroizing::new([0; KEY]);
        rand::fill(&mut *key).ok()?;
        Some(Zeroizing::new(STANDARD.encode(*key)))
    }

    /// Seals `plain` for the place that `context` names; `None` if the system gives no random numbers.
    #[must_use]
    pub fn seal(&self, context: &[u8], plain: &[u8]) -> Option<Vec<u8>> {
        let mut salt = [0; SALT];
        rand::fill(&mut salt).ok()?;
        let (key, nonce) = one_use(self.0.first()?, &salt)?;
        let mut sealed = Vec::with_capacity(1 + SALT + plain.len() + AES_256_GCM.tag_len());
        sealed.push(VERSION);
        sealed.extend_from_slice(&salt);
        let head = sealed.len();
        sealed.extend_from_slice(plain);
        let tag = key.seal_in_place_separate_tag(nonce, Aad::from(context), &mut sealed[head..]).ok()?;
        sealed.extend_from_slice(tag.as_ref());
        Some(sealed)
    }

    /// Opens what was sealed for the place that `context` names; `None` for anything else.
    #[must_use]
    pub fn open(&self, context: &[u8], sealed: &[u8]) -> Option<Vec<u8>> {
        let (version, rest) = sealed.split_first()?;
        let (salt, ciphertext) = rest.split_first_chunk::<SALT>()?;
        if *version != VERSION {
            return None;
        }
        self.0.iter().find_map(|key| {
            let (key, nonce) = one_use(key, salt)?;
            let mut opened = ciphertext.to_vec();
            let length = key.open_in_place(nonce, Aad::from(context), &mut opened).ok()?.len();
            opened.truncate(length);
            Some(opened)
        })
    }
}

/// The key and the nonce of the one value that has this salt.
fn one_use(key: &[u8; KEY], salt: &[u8; SALT]) -> Option<(LessSafeKey, Nonce)> {
    let derived = Salt::new(HKDF_SHA256, salt).extract(key);
    let key = derived.expand(&[USE], &AES_256_GCM).ok()?;
    // One value has this key: a constant nonce is used once.
    Some((LessSafeKey::new(UnboundKey::from(key)), Nonce::assume_unique_for_key([0; 12])))
}

fn key(line: &str) -> Option<Zeroizing<[u8; KEY]>> {
    let bytes = Zeroizing::new(STANDARD.decode(line).ok()?);
    bytes.as_slice().try_into().ok().map(Zeroizing::new)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn keys(count: usize) -> SealKeys {
        let lines: Vec<_> = (0..count).map(|_| SealKeys::generate().expect("a key").to_string()).collect();
        SealKeys::parse(format!("# of the fleet\n\n{}\n", lines.join("\n")).as_bytes()).expect("keys")
    }

    #[test]
    fn the_first_key_seals_and_all_open() {
        let (old, new) = (keys(1), keys(1));
        let both = SealKeys([new.0.clone(), old.0.clone()].concat());
        let sealed = old.seal(b"place", b"value").expect("sealed");
        assert_eq!(both.open(b"place", &sealed).as_deref(), Some(b"value".as_slice()));
        assert_eq!(new.open(b"place", &sealed), None);
        let sealed = both.seal(b"place", b"value").expect("sealed");
        assert_eq!(new.open(b"place", &sealed).as_deref(), Some(b"value".as_slice()));
        assert_eq!(old.open(b"place", &sealed), None);
    }

    #[test]
    fn a_bad_file_is_refused_and_nothing_of_it_is_repeated() {
        let short = STANDARD.encode([7; 16]);
        let nine = vec![STANDARD.encode([7; 32]); 9].join("\n");
        for text in ["", "# none\n", "s3cr3t", short.as_str(), nine.as_str()] {
            let refused = SealKeys::parse(text.as_bytes()).expect_err("it is refused");
            assert!(!refused.contains("s3cr3t") && !refused.contains(&short), "{refused}");
        }
    }

    proptest! {
        #[test]
        fn nothing_opens_but_the_same_value_at_the_same_place(
            plain in prop::collection::vec(any::<u8>(), 0..200), place in "[a-z]{0,9}", at in any::<prop::sample::Index>(), bit in 0..8u8,
        ) {
            let keys = keys(1);
            let sealed = keys.seal(place.as_bytes(), &plain).expect("sealed");
            prop_assert_eq!(keys.open(place.as_bytes(), &sealed), Some(plain.clone()));
            prop_assert_eq!(keys.open(format!("{place}x").as_bytes(), &sealed), None);
            let at = at.index(sealed.len());
            prop_assert_eq!(keys.open(place.as_bytes(), &sealed[..at]), None);
            let mut flipped = sealed.clone();
            flipped[at] ^= 1 << bit;
            prop_assert_eq!(keys.open(place.as_bytes(), &flipped), None);
            prop_assert_ne!(keys.seal(place.as_bytes(), &plain), Some(sealed));
        }
    }
}
