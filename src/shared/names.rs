//! Names on the engine. They are hashes: nobody learns from one what it stands for.

use aws_lc_rs::digest::{SHA256, digest};

/// The name of an export of an org or group.
#[must_use]
pub fn export_name(scope: &str, export: &str) -> String {
    name_of(export_number(scope, export))
}

/// The name that stands for `text`.
#[must_use]
pub fn hashed(text: &str) -> String {
    name_of(number_of(text))
}

/// The name of an export, as a number.
pub(super) fn export_number(scope: &str, export: &str) -> u128 {
    number_of(&format!("export\n{scope}\n{export}"))
}

/// The first 16 bytes of the digest.
fn number_of(text: &str) -> u128 {
    let digest = digest(&SHA256, text.as_bytes());
    digest.as_ref().first_chunk().copied().map_or(0, u128::from_be_bytes)
}

pub(super) fn name_of(number: u128) -> String {
    format!("{number:032x}")
}

/// A gateway's name for people: its host, and the beginning of its id.
pub(super) fn of_gateway(id: &str) -> String {
    let system = rustix::system::uname();
    let host = system.nodename().to_str().unwrap_or_default();
    let is_plain = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
    let host = Some(host).filter(|host| !host.is_empty() && host.bytes().all(is_plain));
    format!("{} ({})", host.unwrap_or("gateway"), id.get(..8).unwrap_or(id))
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
