//! The normal form of a JSON text: two texts have the same one exactly where they say the same.
//!
//! Members are sorted by name, strings are written in one way, whitespace is gone, and arrays keep their order. Numbers keep
//! their text, for `1` and `1.0` are not the same to every reader.

use std::collections::BTreeMap;

use serde::de::IgnoredAny;

/// Longest text, in bytes: the work takes 13 times as much memory.
const MAX_BYTES: usize = 64 * 1024;
/// Deepest nesting.
const MAX_DEPTH: usize = 128;

/// The normal form of `text`; `None` if it is longer than 64 KiB, or not plain JSON: not valid, nested too deep, or with a member
/// twice, which readers understand in different ways.
pub(crate) fn normal_form(text: &[u8]) -> Option<String> {
    if text.len() > MAX_BYTES {
        return None;
    }
    // The grammar is checked here, so that the reader below need not.
    serde_json::from_slice::<IgnoredAny>(text).ok()?;
    let mut reader = JsonReader { text, at: 0 };
    let mut form = String::with_capacity(text.len());
    reader.value(&mut form, MAX_DEPTH)?;
    Some(form)
}

/// Reads a JSON text that is valid.
struct JsonReader<'a> {
    text: &'a [u8],
    at: usize,
}

impl JsonReader<'_> {
    fn value(&mut self, form: &mut String, depth: usize) -> Option<()> {
        match self.peek()? {
            b'{' => self.object(form, depth.checked_sub(1)?),
            b'[' => self.array(form, depth.checked_sub(1)?),
            b'"' => {
                write_string(form, &self.string()?);
                Some(())
            }
            _ => {
                let rest = &self.text[self.at..];
                let is_end = |b: &u8| b.is_ascii_whitespace() || b",]}".contains(b);
                let end = rest.iter().position(is_end).unwrap_or(rest.len());
                form.push_str(std::str::from_utf8(&rest[..end]).ok()?);
                self.at += end;
                Some(())
            }
        }
    }

    fn object(&mut self, form: &mut String, depth: usize) -> Option<()> {
        let mut members = BTreeMap::new();
        self.at += 1;
        while self.peek()? != b'}' {
            self.skip(b',')?;
            let name = self.string()?;
            self.skip(b':')?;
            let mut value = String::new();
            self.value(&mut value, depth)?;
            if members.insert(name, value).is_some() {
                return None;
            }
        }
        self.at += 1;
        form.push('{');
        for (name, value) in members {
            write_string(form, &name);
            form.extend([":", &value, ","]);
        }
        form.push('}');
        Some(())
    }

    fn array(&mut self, form: &mut String, depth: usize) -> Option<()> {
        self.at += 1;
        form.push('[');
        while self.peek()? != b']' {
            self.skip(b',')?;
            self.value(form, depth)?;
            form.push(',');
        }
        self.at += 1;
        form.push(']');
        Some(())
    }

    /// The string that begins here, unescaped.
    fn string(&mut self) -> Option<String> {
        self.peek()?;
        let (start, mut end) = (self.at, self.at + 1);
        while *self.text.get(end)? != b'"' {
            end += if self.text[end] == b'\\' { 2 } else { 1 };
        }
        self.at = end + 1;
        serde_json::from_slice(&self.text[start..=end]).ok()
    }

    /// Moves to the next byte that is no whitespace.
    fn peek(&mut self) -> Option<u8> {
        let blank = self.text[self.at..].iter().take_while(|b| b.is_ascii_whitespace()).count();
        self.at += blank;
        self.text.get(self.at).copied()
    }

    /// Passes `delimiter`, if it is next.
    fn skip(&mut self, delimiter: u8) -> Option<()> {
        if self.peek()? == delimiter {
            self.at += 1;
            self.peek()?;
        }
        Some(())
    }
}

fn write_string(form: &mut String, text: &str) {
    // A string can always be written.
    form.push_str(&serde_json::to_string(text).unwrap_or_default());
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;

    use proptest::prelude::*;

    use super::*;

    /// A JSON value, with its numbers as their text.
    #[derive(Debug, Clone, PartialEq)]
    enum Json {
        Word(&'static str),
        Text(String),
        Array(Vec<Json>),
        /// Without a name twice.
        Object(BTreeMap<String, Json>),
    }

    /// Values from few enough words that two of them are often equal.
    fn json() -> impl Strategy<Value = Json> {
        let word = prop::sample::select(vec!["1", "1.0", "1e0", "-1", "10", "true", "null"]);
        let text = prop::sample::select(vec!["", "a", "A", "\"", "\\", "é", "1", "\u{1f600}", "a,b", "\n"]);
        let leaf = prop_oneof![word.prop_map(Json::Word), text.prop_map(|text| Json::Text(text.to_owned()))];
        leaf.prop_recursive(3, 12, 3, |inner| {
            let name = prop::sample::select(vec!["a", "b", "é", "\"", ""]).prop_map(str::to_owned);
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..3).prop_map(Json::Array),
                prop::collection::btree_map(name, inner, 0..3).prop_map(Json::Object),
            ]
        })
    }

    /// One of the ways to write `json`, chosen by `random`.
    fn written(json: &Json, random: &mut fastrand::Rng, text: &mut String) {
        let blank = |random: &mut fastrand::Rng, text: &mut String| {
            text.push_str(random.choice(["", "", " ", "\n", "\t", "\r\n"]).unwrap_or_default());
        };
        blank(random, text);
        match json {
            Json::Word(word) => text.push_str(word),
            Json::Text(string) => written_string(string, random, text),
            Json::Array(items) => {
                text.push('[');
                for (at, item) in items.iter().enumerate() {
                    text.push_str(if at == 0 { "" } else { "," });
                    written(item, random, text);
                }
                blank(random, text);
                text.push(']');
            }
            Json::Object(members) => {
                let mut members: Vec<_> = members.iter().collect();
                random.shuffle(&mut members);
                text.push('{');
                for (at, (name, value)) in members.into_iter().enumerate() {
                    text.push_str(if at == 0 { "" } else { "," });
                    blank(random, text);
                    written_string(name, random, text);
                    blank(random, text);
                    text.push(':');
                    written(value, random, text);
                }
                blank(random, text);
                text.push('}');
            }
        }
        blank(random, text);
    }

    fn written_string(string: &str, random: &mut fastrand::Rng, text: &mut String) {
        if random.bool() {
            return text.push_str(&serde_json::to_string(string).expect("JSON"));
        }
        text.push('"');
        for unit in string.encode_utf16() {
            let _ = write!(text, "\\u{unit:04x}");
        }
        text.push('"');
    }

    proptest! {
        #[test]
        fn two_texts_have_the_same_form_exactly_where_they_say_the_same(
            a in json(), b in json(), seed in any::<u64>(),
        ) {
            let mut random = fastrand::Rng::with_seed(seed);
            let mut form = |json: &Json| {
                let mut text = String::new();
                written(json, &mut random, &mut text);
                (normal_form(text.as_bytes()).expect("plain JSON"), text)
            };
            let ((one, first), (other, second), (third, text)) = (form(&a), form(&a), form(&b));
            prop_assert_eq!(&one, &other, "{} and {}", first, second);
            prop_assert_eq!(one == third, a == b, "{} and {}", first, text);
        }

        #[test]
        fn no_bytes_are_too_odd(bytes in prop::collection::vec(any::<u8>(), 0..40), text in "[\\[\\]{}\",:\\\\1a ]{0,12}") {
            for text in [bytes.as_slice(), text.as_bytes()] {
                let is_json = serde_json::from_slice::<serde_json::Value>(text).is_ok();
                prop_assert!(is_json || normal_form(text).is_none());
            }
        }
    }

    #[test]
    fn what_is_no_plain_json_has_no_form() {
        let deep = |depth: usize| "[".repeat(depth) + &"]".repeat(depth);
        let (flat, nested) = (deep(MAX_DEPTH), deep(MAX_DEPTH + 1));
        for text in ["", "{", "{} {}", "{'a':1}", r#"{"a":1,"a":1}"#, r#"{"a":1,"\u0061":2}"#, r#""\ud800""#]
        {
            assert_eq!(normal_form(text.as_bytes()), None, "{text}");
        }
        assert_eq!((normal_form(nested.as_bytes()), normal_form(b"\"\xff\"")), (None, None));
        assert!(normal_form(flat.as_bytes()).is_some());
        assert_eq!(normal_form(deep(500_000).as_bytes()), None);
        let long = |length: usize| normal_form(&vec![b'1'; length]).is_some();
        assert_eq!((long(MAX_BYTES), long(MAX_BYTES + 1)), (true, false));
    }
}
