//! Client keys: their form, their making, and their entry in the clients file.
//!
//! A key is `egk_`, 160 random bits and a checksum, so that secret scanners find it and a typing error is
//! detected. The clients file has its SHA-256 only.

use std::fmt::Write as _;
use std::time::SystemTime;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::digest::{SHA256, SHA256_OUTPUT_LEN, digest};
use zeroize::Zeroizing;

/// The beginning of every key.
pub const PREFIX: &str = "egk_";
const RANDOM: usize = 20;
const CHECKSUM: usize = 4;
/// The length of every key, in bytes.
pub(super) const LENGTH: usize = PREFIX.len() + 2 * (RANDOM + CHECKSUM);

/// The SHA-256 of a key.
#[derive(Clone, Copy, Default)]
pub struct Digest([u8; SHA256_OUTPUT_LEN]);

/// A key in the clients file.
#[derive(Debug, Clone)]
pub struct Key {
    /// Its digest.
    pub digest: Digest,
    /// Its expiry; `None`: never.
    pub until: Option<SystemTime>,
}

/// A new key. It is shown once and stored nowhere.
///
/// # Errors
/// When the system has no randomness.
pub fn generate() -> Result<Zeroizing<String>, aws_lc_rs::error::Unspecified> {
    let mut random = Zeroizing::new([0_u8; RANDOM]);
    aws_lc_rs::rand::fill(&mut *random)?;
    // At its full length from the start: growing would leave copies behind.
    let mut key = Zeroizing::new(String::with_capacity(LENGTH));
    key.push_str(PREFIX);
    push_hex(&mut key, &*random);
    let check = checksum(&key);
    push_hex(&mut key, &check);
    Ok(key)
}

/// True if `text` has the form and the checksum of a key.
#[must_use]
pub fn is_well_formed(text: &str) -> bool {
    let Some((body, check)) = text.split_at_checked(PREFIX.len() + 2 * RANDOM) else { return false };
    let mut expected = String::new();
    push_hex(&mut expected, &checksum(body));
    body.starts_with(PREFIX) && check == expected
}

impl Digest {
    /// The digest of a key.
    #[must_use]
    pub fn of(key: &str) -> Self {
        Self::from_bytes(digest(&SHA256, key.as_bytes()).as_ref())
    }

    fn from_bytes(bytes: &[u8]) -> Self {
        let mut digest = [0; SHA256_OUTPUT_LEN];
        for (to, from) in digest.iter_mut().zip(bytes) {
            *to = *from;
        }
        Self(digest)
    }

    /// Its first half, to look it up by. The time of a look-up may reveal parts of it, and nothing of the key.
    pub(super) fn first_half(&self) -> [u8; 16] {
        let mut half = [0; 16];
        half.copy_from_slice(&self.0[..16]);
        half
    }

    /// Compares in constant time.
    pub(super) fn is(&self, other: &Self) -> bool {
        verify_slices_are_equal(&self.0, &other.0).is_ok()
    }

    /// In hex.
    #[must_use]
    pub fn to_hex(self) -> String {
        let mut text = String::with_capacity(2 * SHA256_OUTPUT_LEN);
        push_hex(&mut text, &self.0);
        text
    }
}

impl std::fmt::Debug for Digest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Digest")
    }
}

impl Key {
    /// Reads `sha256:<hex>`, or `sha256:<hex> until <date or time, UTC>`.
    ///
    /// # Errors
    /// Instructions for what to write instead.
    pub fn parse(text: &str) -> Result<Self, String> {
        const EXAMPLE: &str =
            "must be what `exportgate key new` prints, such as \"sha256:… until 2027-01-31\"";
        if text.contains(PREFIX) {
            return Err("this is a key itself: make a new key with `exportgate key new`, and write the SHA-256 that it prints; everyone who can read this file knows the old key".to_owned());
        }
        let mut words = text.split_ascii_whitespace();
        let hex = words.next().and_then(|word| word.strip_prefix("sha256:")).ok_or(EXAMPLE)?;
        let digest = Digest::from_bytes(
            &from_hex(hex).filter(|bytes| bytes.len() == SHA256_OUTPUT_LEN).ok_or(EXAMPLE)?,
        );
        let until = match (words.next(), words.next(), words.next()) {
            (None, ..) => None,
            (Some("until"), Some(time), None) => Some(parse_time(time)?),
            _ => return Err(EXAMPLE.to_owned()),
        };
        Ok(Self { digest, until })
    }
}

/// Parses a date (its first moment, UTC) or an RFC 3339 time.
///
/// # Errors
/// Instructions for what to write instead.
pub fn parse_time(text: &str) -> Result<SystemTime, String> {
    let whole = if text.len() == 10 { format!("{text}T00:00:00Z") } else { text.to_owned() };
    humantime::parse_rfc3339(&whole)
        .map_err(|_| "must be a date or time in UTC, such as 2027-01-31 or 2027-01-31T12:00:00Z".to_owned())
}

fn checksum(body: &str) -> [u8; CHECKSUM] {
    let digest = digest(&SHA256, body.as_bytes());
    let mut check = [0; CHECKSUM];
    check.copy_from_slice(&digest.as_ref()[..CHECKSUM]);
    check
}

fn push_hex(text: &mut String, bytes: &[u8]) {
    for byte in bytes {
        let _ = write!(text, "{byte:02x}");
    }
}

fn from_hex(text: &str) -> Option<Vec<u8>> {
    let digit = |c: u8| char::from(c).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let pairs = text.as_bytes().chunks(2);
    pairs.map(|pair| Some(digit(pair[0])? << 4 | digit(*pair.get(1)?)?)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_random_and_show_typing_errors() {
        let (a, b) = (generate().expect("randomness"), generate().expect("randomness"));
        assert_ne!(*a, *b);
        assert_eq!(a.len(), 52);
        assert!(is_well_formed(&a));
        let mut wrong = a.to_string();
        wrong.replace_range(10..11, if &a[10..11] == "0" { "1" } else { "0" });
        assert!(!is_well_formed(&wrong));
        assert!(!is_well_formed("egk_") && !is_well_formed(""));
    }

    #[test]
    fn an_entry_holds_digests_and_never_a_key() {
        let key = generate().expect("randomness");
        let hex = Digest::of(&key).to_hex();
        let parsed = Key::parse(&format!("sha256:{hex} until 2027-01-31")).expect("a key");
        assert!(parsed.digest.is(&Digest::of(&key)));
        assert!(parsed.until.is_some());
        assert!(Key::parse(&format!("sha256:{hex}")).expect("a key").until.is_none());
        let error = Key::parse(&key).expect_err("a key itself");
        assert!(error.contains("SHA-256") && !error.contains(&key[5..]));
        for bad in [
            "",
            "sha256:",
            "sha256:ab",
            "sha256:zz",
            "md5:00",
            &format!("sha256:{hex} until"),
            &format!("sha256:{hex} until soon"),
        ] {
            assert!(Key::parse(bad).is_err(), "{bad}");
        }
    }
}
