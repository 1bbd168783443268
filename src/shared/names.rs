//! Names on the engine. They are hashes: nobody learns from one what it stands for.

use std::fmt::Write as _;

use aws_lc_rs::digest::{SHA256, digest};

/// Bytes of a digest that a name keeps.
const KEPT: usize = 16;

/// The name of an export of an org or group.
#[must_use]
pub fn export_name(scope: &str, export: &str) -> String {
    hashed(&format!("export\n{scope}\n{export}"))
}

/// The name that stands for `text`.
#[must_use]
pub fn hashed(text: &str) -> String {
    digest(&SHA256, text.as_bytes()).as_ref().iter().take(KEPT).fold(String::new(), |mut name, byte| {
        let _ = write!(name, "{byte:02x}");
        name
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_the_beginning_of_a_digest() {
        // printf 'export\norg\n1' | sha256sum | cut -c1-32
        assert_eq!(export_name("org", "1"), "79f49310772743a3b88574efb6bbc0ba");
        assert_ne!(export_name("org1", ""), export_name("org", "1"));
    }
}
