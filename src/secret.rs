//! A value that cannot print itself.

use http::HeaderValue;
use secrecy::{ExposeSecret, SecretString};

/// A credential. It has no `Display`, its `Debug` is redacted, and its memory is zeroed on drop.
#[derive(Clone)]
pub struct Secret(SecretString);

impl Secret {
    /// Wraps `value`.
    #[must_use]
    pub fn new(value: String) -> Self {
        Self(SecretString::from(value))
    }

    /// The `Authorization` field value `<scheme> <secret>` (RFC 9110 §11.6.2), marked sensitive so
    /// that HTTP/2 never puts it into its compression table and `Debug` never prints it.
    ///
    /// # Errors
    /// If the secret holds a byte that a field value cannot carry.
    pub fn authorization(&self, scheme: &str) -> Result<HeaderValue, http::header::InvalidHeaderValue> {
        let mut value = HeaderValue::try_from(format!("{scheme} {}", self.0.expose_secret()))?;
        value.set_sensitive(true);
        Ok(value)
    }
}

/// Used to notice a rotation, never to authenticate: it takes longer the more is equal.
impl PartialEq for Secret {
    fn eq(&self, other: &Self) -> bool {
        self.0.expose_secret() == other.0.expose_secret()
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret(redacted)")
    }
}
