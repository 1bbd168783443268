//! Packages in the paths of calls that are no export calls: purls (ECMA-427) and names with slashes, such as npm's scoped
//! ones.
//!
//! Such a segment holds encoded slashes, which a lenient server may take for the path's own. So it is parsed into parts,
//! none of which can be a dot segment, hold a slash or be decoded once more, and is written anew from these.

use std::fmt::Write as _;

use crate::export::text::{check_percent, is_unreserved_byte, push_encoded};

/// Parses `segment` as a purl and writes it as Go's `PathEscape` would: `pkg:npm%2F%2540scope%2Fname@1`.
pub(super) fn purl(segment: &str) -> Option<String> {
    let text = decoded(segment)?;
    let (text, subpath) = cut(&text, '#');
    let (text, qualifiers) = cut(text, '?');
    let (kind, rest) = after_scheme(text)?.split_once('/')?;
    let (path, version) = match rest.rsplit_once('@') {
        Some((path, version)) => (path, Some(version)),
        None => (rest, None),
    };
    let is_kind = kind.starts_with(|c: char| c.is_ascii_alphabetic())
        && kind.bytes().all(|b| b.is_ascii_alphanumeric() || b".+-".contains(&b));
    if !is_kind {
        return None;
    }
    let mut written = format!("pkg:{}", kind.to_ascii_lowercase());
    for part in path.split('/') {
        written.push_str("%2F");
        push_part(&mut written, part)?;
    }
    if let Some(version) = version {
        written.push('@');
        push_part(&mut written, version)?;
    }
    for (at, pair) in qualifiers.into_iter().flat_map(|all| all.split('&')).enumerate() {
        written.push_str(if at == 0 { "%3F" } else { "%26" });
        push_qualifier(&mut written, pair)?;
    }
    for (at, part) in subpath.into_iter().flat_map(|all| all.split('/')).enumerate() {
        written.push_str(if at == 0 { "%23" } else { "%2F" });
        push_part(&mut written, part)?;
    }
    Some(written)
}

/// Parses `segment` as a package's name of several parts and writes it anew: `%40scope%2Fname`.
pub(super) fn name(segment: &str) -> Option<String> {
    let text = decoded(segment).filter(|text| after_scheme(text).is_none())?;
    let mut written = String::with_capacity(segment.len());
    for (at, part) in text.split('/').enumerate() {
        written.push_str(if at == 0 { "" } else { "%2F" });
        for byte in plain(part)?.bytes() {
            if is_unreserved_byte(byte) {
                written.push(char::from(byte));
            } else {
                push_encoded(&mut written, byte);
            }
        }
    }
    Some(written)
}

fn decoded(segment: &str) -> Option<String> {
    String::from_utf8(check_percent(segment)?).ok()
}

/// The text behind `pkg:`, in any case.
fn after_scheme(text: &str) -> Option<&str> {
    let (scheme, rest) = text.split_at_checked("pkg:".len())?;
    scheme.eq_ignore_ascii_case("pkg:").then_some(rest)
}

fn cut(text: &str, delimiter: char) -> (&str, Option<&str>) {
    text.split_once(delimiter).map_or((text, None), |(before, behind)| (before, Some(behind)))
}

/// `part`, where it is harmless: not empty, no dots alone, and of ASCII that means nothing in a URL.
fn plain(part: &str) -> Option<&str> {
    let is_plain = |b| is_unreserved_byte(b) || b":@!$'()*+,=^".contains(&b);
    (part.bytes().all(is_plain) && part.bytes().any(|b| b != b'.')).then_some(part)
}

/// Writes a part of a purl anew.
fn push_part(written: &mut String, part: &str) -> Option<()> {
    push_plain(written, &decoded(part)?)
}

/// Writes what was decoded in a purl's own encoding (ECMA-427: a colon stays), and that in a segment's.
fn push_plain(written: &mut String, part: &str) -> Option<()> {
    for byte in plain(part)?.bytes() {
        if is_unreserved_byte(byte) || byte == b':' {
            written.push(char::from(byte));
        } else {
            let _ = write!(written, "%25{byte:02X}");
        }
    }
    Some(())
}

/// Writes `key=value` anew. The parts of a value, which may be a web address, may be empty.
fn push_qualifier(written: &mut String, pair: &str) -> Option<()> {
    let (key, value) = pair.split_once('=')?;
    let is_key = key.starts_with(|c: char| c.is_ascii_alphabetic())
        && key.bytes().all(|b| b.is_ascii_alphanumeric() || b".-_".contains(&b));
    if !is_key || value.is_empty() {
        return None;
    }
    written.push_str(&key.to_ascii_lowercase());
    written.push_str("%3D");
    for (at, part) in decoded(value)?.split('/').enumerate() {
        written.push_str(if at == 0 { "" } else { "%2F" });
        if !part.is_empty() {
            push_plain(written, part)?;
        }
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Pieces of which tricks are made.
    const PIECES: [&str; 36] = [
        "pkg:", "PKG%3A", "npm", "%2F", "%2f", "%252F", "%25252F", "..", "%2e", "%252e", ".", "/", "\\",
        "%5C", "%255C", "@", "%40", "%2540", "%3F", "?", "%253F", "%23", "=", "%3D", "&", "%26", ";", "%3B",
        "%00", "%2500", "orgs", "b", "1.0", "+", "%25", "%",
    ];

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4_000))]

        /// However often it is decoded: no dot segment, no empty one but in a qualifier, nothing that means something.
        #[test]
        fn what_is_written_has_one_meaning(pieces in prop::collection::vec(prop::sample::select(&PIECES[..]), 0..14), is_purl: bool) {
            let segment = format!("{}{}", if is_purl { "pkg:npm%2F" } else { "" }, pieces.concat());
            for (written, again) in [(purl(&segment), purl as fn(&str) -> _), (name(&segment), name)] {
                let Some(written) = written else { continue };
                prop_assert_eq!(again(&written), Some(written.clone()), "{}", segment);
                prop_assert!(!written.bytes().any(|b| b"/\\?#;&".contains(&b)), "{}: {}", segment, written);
                let once = decoded(&written).expect("an encoding");
                let twice = decoded(&once).expect("an encoding");
                prop_assert!(!twice.bytes().any(|b| b"%\\; ".contains(&b)), "{}: {}", segment, written);
                for text in [&once, &twice] {
                    let (path, behind) = text.split_once('?').unwrap_or((text, ""));
                    let is_dots = |part: &str| part.bytes().all(|b| b == b'.');
                    prop_assert!(!path.split('/').any(is_dots), "{}: {}", segment, written);
                    prop_assert!(!behind.split(['/', '=', '#']).any(|part| part == "." || part == ".."), "{}: {}", segment, written);
                }
            }
        }
    }

    #[test]
    fn each_spelling_of_a_purl_is_written_alike() {
        for (segment, expected) in [
            ("pkg:npm%2Flodash@4.17.21", "pkg:npm%2Flodash@4.17.21"),
            ("pkg%3anpm%2flodash%404.17.21", "pkg:npm%2Flodash@4.17.21"),
            ("PKG:NPM%2Flodash", "pkg:npm%2Flodash"),
            ("pkg:npm%2F%2540scope%2Fname@1", "pkg:npm%2F%2540scope%2Fname@1"),
            ("pkg:npm%2F%40scope%2Fname%401", "pkg:npm%2F%2540scope%2Fname@1"),
            ("pkg:npm%2F@scope%2Fname@1", "pkg:npm%2F%2540scope%2Fname@1"),
            (
                "pkg:golang%2Fgithub.com%2Fa%2Fb@v1.0.0+incompatible",
                "pkg:golang%2Fgithub.com%2Fa%2Fb@v1.0.0%252Bincompatible",
            ),
            ("pkg:golang%2Fa@v1%23sub%2Fdir", "pkg:golang%2Fa@v1%23sub%2Fdir"),
            (
                "pkg:deb%2Fdebian%2Fcurl@1:7.50~3%3Farch=i386&distro=x",
                "pkg:deb%2Fdebian%2Fcurl@1:7.50~3%3Farch%3Di386%26distro%3Dx",
            ),
            (
                "pkg:generic%2Fa@1%3Fdownload_url%3Dhttps:%252F%252Fa.org%252Fb.tgz",
                "pkg:generic%2Fa@1%3Fdownload_url%3Dhttps:%2F%2Fa.org%2Fb.tgz",
            ),
        ] {
            let written = purl(segment);
            assert_eq!(written.as_deref(), Some(expected), "{segment}");
            assert_eq!(purl(expected).as_deref(), Some(expected), "{segment}");
        }
    }

    #[test]
    fn what_is_no_purl_or_could_be_another_path_is_refused() {
        for segment in [
            "pkg:npm",
            "pkg:npm%2F",
            "pkg:%2Fnpm",
            "pkg:%2F%2Fnpm%2Fa",
            "pkg:..%2Fa",
            "pkg:1npm%2Fa",
            "pkg:n%2525pm%2Fa",
            "npm%2Fa@1",
            "xpkg:npm%2Fa",
            "pkg:npm%2F..%2Fa",
            "pkg:npm%2F.",
            "pkg:npm%2F...",
            "pkg:npm%2F%252e%252E%2Fa",
            "pkg:npm%2F%25252e%25252e%2Fa",
            "pkg:npm%2Fa%252Fb",
            "pkg:npm%2Fa%255Cb",
            "pkg:npm%2Fa\\b",
            "pkg:npm%2Fa%3Bb",
            "pkg:npm%2Fa%2500",
            "pkg:npm%2Fa%00",
            "pkg:npm%2F%C3%A9",
            "pkg:npm%2F%25C3%25A9",
            "pkg:npm%2Fa%20b",
            "pkg:npm%2Fa@",
            "pkg:npm%2Fa@1%2F2",
            "pkg:npm%2F@scope%2Fname",
            "pkg:npm%2Fa@..",
            "pkg:npm%2F%2Fa",
            "pkg:npm%2Fa%2F",
            "pkg:npm%2Fa%3F",
            "pkg:npm%2Fa%3Fx",
            "pkg:npm%2Fa%3Fx=",
            "pkg:npm%2Fa%3F..=1",
            "pkg:npm%2Fa%3Fx=..%2F..",
            "pkg:npm%2Fa%3Fx=%252e%252e%252fb",
            "pkg:npm%2Fa%23..%2Fb",
            "pkg:npm%2Fa%23",
            "pkg:npm%2Fa%2",
        ] {
            assert_eq!(purl(segment), None, "{segment}");
        }
    }

    #[test]
    fn a_name_has_parts_that_are_harmless() {
        assert_eq!(name("@scope%2fname").as_deref(), Some("%40scope%2Fname"));
        assert_eq!(name("github.com%2Fa%2Fb").as_deref(), Some("github.com%2Fa%2Fb"));
        for segment in [
            "..%2Fa",
            "a%2F%2Fb",
            "a%2F",
            "%2Fa",
            "a%2F%252e",
            "a%5Cb%2Fc",
            "pkg:%2Fa",
            "a%2Fb%3B",
            "a%2F%C3%A9",
        ] {
            assert_eq!(name(segment), None, "{segment}");
        }
    }
}
