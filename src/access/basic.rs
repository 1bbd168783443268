//! HTTP Basic (RFC 7617) on calls for files, where `files.basic` allows it: the password is the client's key, and the name is
//! the user's to choose. Excel, Power BI and wget know no other way.
//!
//! A browser keeps such a password and sends it with whatever request a page makes. Requests of pages are refused before
//! anybody is identified; a browser that does not say so still names the page (`Referer`), and that is refused with Basic.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::header::{AUTHORIZATION, REFERER};
use http::request::Parts;
use zeroize::Zeroizing;

use super::key;
use crate::export::{FilesPath, NamedCall};

/// Longest encoded name and password; a key takes a tenth of it.
const LONGEST: usize = 1_024;

/// True if a request is a call for files.
pub(super) fn is_for_files(parts: &Parts) -> bool {
    let path = parts.uri.path();
    FilesPath::parse(path).is_some() || NamedCall::parse(path).is_some()
}

/// True if a page has led to this request, as far as it says.
pub(super) fn is_from_page(parts: &Parts) -> bool {
    let mut values = parts.headers.get_all(AUTHORIZATION).iter().filter_map(|value| value.to_str().ok());
    parts.headers.contains_key(REFERER)
        && values.any(|value| scheme_and_rest(value).is_some_and(|(scheme, _)| is_basic(scheme)))
}

pub(super) fn is_basic(scheme: &str) -> bool {
    scheme.eq_ignore_ascii_case("basic")
}

/// The scheme of an `Authorization`, and what follows it.
pub(super) fn scheme_and_rest(value: &str) -> Option<(&str, &str)> {
    value.trim().split_once(' ').map(|(scheme, rest)| (scheme, rest.trim()))
}

/// The key in an encoded name and password; `None` if the password is no key.
pub(super) fn key_in(encoded: &str) -> Option<Zeroizing<String>> {
    if encoded.len() > LONGEST {
        return None;
    }
    let decoded = Zeroizing::new(STANDARD.decode(encoded).ok()?);
    let (_, password) = std::str::from_utf8(&decoded).ok()?.split_once(':')?;
    password.starts_with(key::PREFIX).then(|| Zeroizing::new(password.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_password_is_the_key_and_the_name_is_free() {
        let key = |text: &str| key_in(&STANDARD.encode(text)).map(|key| key.to_string());
        for named in ["", "alice", "egk_not_this"] {
            assert_eq!(key(&format!("{named}:egk_1")), Some("egk_1".to_owned()), "{named}");
        }
        // A password may have colons (RFC 7617 §2).
        assert_eq!(key(":egk_1:2"), Some("egk_1:2".to_owned()));
        assert_eq!(key("egk_1"), None);
        assert_eq!(key("egk_1:"), None);
        assert_eq!(key("alice:secret"), None);
        assert_eq!(key_in("%%%"), None);
        assert_eq!(key(&format!("{}:egk_1", "x".repeat(LONGEST))), None);
    }
}
