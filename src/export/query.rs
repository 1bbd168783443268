//! The query of a call.

use memchr::memchr;

use super::text::{FOREIGN, UNRESERVED, check_percent, hex, is_unreserved_byte, push_encoded};

/// The query of an export call in canonical form: pairs in the order of their names, stably, each
/// percent-encoded in one way (RFC 3986 §6.2.2). It is both what goes up and part of the cache key, so
/// that the upstream sees nothing that the key does not.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CallQuery(Vec<(String, Option<String>)>);

impl CallQuery {
    /// Parses a raw query; `None` if it has a control byte, a broken percent-encoding or an encoded delimiter. Repeated and unknown names pass: they are the upstream's to judge.
    pub(crate) fn parse(raw: &str) -> Option<Self> {
        let mut pairs = Vec::new();
        let mut rest = Some(raw);
        while let Some(raw) = rest {
            let (pair, behind) = split_at(raw, b'&');
            rest = behind;
            if !pair.is_empty() {
                let (name, value) = split_at(pair, b'=');
                let value = match value {
                    Some(value) => Some(canonical(value)?),
                    None => None,
                };
                pairs.push((canonical(name)?, value));
            }
        }
        pairs.sort_by(|(a, _), (b, _)| a.cmp(b));
        Some(Self(pairs))
    }

    /// Writes it behind `text`, with its question mark.
    pub(super) fn write(&self, text: &mut String) {
        for (at, (name, value)) in self.0.iter().enumerate() {
            text.push(if at == 0 { '?' } else { '&' });
            text.push_str(name);
            if let Some(value) = value {
                text.push('=');
                text.push_str(value);
            }
        }
    }

    /// Its length as it is written.
    pub(super) fn len(&self) -> usize {
        let value = |value: &Option<String>| value.as_ref().map_or(0, |value| value.len() + 1);
        self.0.iter().map(|(name, of)| name.len() + 1 + value(of)).sum()
    }

    /// The `version` that is asked for: the first, where it came more than once.
    pub(crate) fn version(&self) -> Option<&str> {
        self.0.iter().find(|(name, _)| name == "version").and_then(|(_, value)| value.as_deref())
    }

    /// Adds `version` where the client sent none.
    pub fn default_version(&mut self, version: &str) {
        if !self.0.iter().any(|(name, _)| name == "version") {
            let at = self.0.partition_point(|(name, _)| name.as_str() < "version");
            self.0.insert(at, ("version".to_owned(), Some(version.to_owned())));
        }
    }
}

/// The text before the first `delimiter`, and the text behind it, if there is one.
fn split_at(text: &str, delimiter: u8) -> (&str, Option<&str>) {
    match memchr(delimiter, text.as_bytes()) {
        Some(at) => (&text[..at], Some(&text[at + 1..])),
        None => (text, None),
    }
}

/// One canonical spelling of a name or value: unreserved bytes plain, other encodings in upper case.
fn canonical(raw: &str) -> Option<String> {
    let seen = raw.bytes().fold(0, |seen, b| seen | UNRESERVED[usize::from(b)]);
    if seen & FOREIGN == 0 {
        return Some(raw.to_owned());
    }
    check_percent(raw)?;
    let mut text = String::with_capacity(raw.len());
    let mut bytes = raw.bytes();
    while let Some(byte) = bytes.next() {
        if byte == b'%' {
            match hex(bytes.next()?)? << 4 | hex(bytes.next()?)? {
                b'&' | b'=' | b'#' => return None,
                value if is_unreserved_byte(value) => text.push(char::from(value)),
                value => push_encoded(&mut text, value),
            }
        } else if is_unreserved_byte(byte) || b"!$'()*+,;:@/?=".contains(&byte) {
            text.push(char::from(byte));
        } else {
            push_encoded(&mut text, byte);
        }
    }
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(query: &CallQuery) -> String {
        let mut text = String::new();
        query.write(&mut text);
        assert_eq!(text.len(), query.len());
        text
    }

    #[test]
    fn a_default_version_is_filled_in_only_where_none_came() {
        let mut none = CallQuery::parse("a=1&z=2").expect("a query");
        none.default_version("2024-10-15");
        assert_eq!(written(&none), "?a=1&version=2024-10-15&z=2");
        let mut twice = CallQuery::parse("version=1&version=2").expect("a query");
        twice.default_version("3");
        assert_eq!(written(&twice), "?version=1&version=2");
    }
}
