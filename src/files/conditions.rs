//! Conditional and range requests (RFC 9110 §13, §14), pure.

use http::header::{IF_MATCH, IF_NONE_MATCH, IF_RANGE, RANGE};
use http::{HeaderMap, HeaderValue, Method};

use super::description::Description;

/// The conditions and the range of a request.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Conditions {
    is_head: bool,
    if_match: Option<Tags>,
    if_none_match: Option<Tags>,
    if_range: Option<HeaderValue>,
    range: Option<ByteRange>,
}

/// The tags of a field.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Tags {
    /// `*`.
    Any,
    /// The values of its lines.
    Listed(Vec<HeaderValue>),
}

/// One range of bytes, as it is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ByteRange {
    /// `a-`, `a-b`: from one byte to another, both included.
    From { first: u64, last: Option<u64> },
    /// `-n`: the last bytes.
    Last(u64),
}

/// A range of a file: `first` and `last` are both in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ByteSpan {
    pub(crate) first: u64,
    pub(crate) last: u64,
}

impl ByteSpan {
    /// Its bytes.
    pub(crate) const fn len(self) -> u64 {
        self.last - self.first + 1
    }
}

/// The answer that the conditions select.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Selection {
    Whole,
    Range(ByteSpan),
    Head,
    NotModified,
    Unsatisfiable,
    PreconditionFailed,
}

impl Conditions {
    /// Those of a request. A range that cannot be read, and several, count as none (§14.2).
    pub(crate) fn of(method: &Method, fields: &HeaderMap) -> Self {
        let is_head = *method == Method::HEAD;
        Self {
            is_head,
            if_match: Tags::of(fields, &IF_MATCH),
            if_none_match: Tags::of(fields, &IF_NONE_MATCH),
            // Of HEAD, there are no ranges (§14.2).
            range: if is_head { None } else { ByteRange::of(fields) },
            if_range: fields.get(IF_RANGE).cloned(),
        }
    }

    /// True if all of the file is asked for, whatever it is.
    pub(crate) fn are_none(&self) -> bool {
        !self.is_head && self.if_match.is_none() && self.if_none_match.is_none() && self.range.is_none()
    }

    /// The answer that they select, in the order of §13.2.2. There are no dates: we send no `Last-Modified`.
    pub(crate) fn select(&self, file: &Description) -> Selection {
        let tag = file.tag.as_ref();
        if self.if_match.as_ref().is_some_and(|tags| !tags.name(tag, Comparison::Strong)) {
            return Selection::PreconditionFailed;
        }
        if self.if_none_match.as_ref().is_some_and(|tags| tags.name(tag, Comparison::Weak)) {
            return Selection::NotModified;
        }
        if self.is_head {
            return Selection::Head;
        }
        // A date, or another tag: all of it (§13.1.5).
        let is_same =
            self.if_range.as_ref().is_none_or(|value| tag.is_some_and(|tag| is(value.as_bytes(), tag)));
        match (self.range, file.size) {
            (Some(range), Some(size)) if is_same && file.takes_ranges() => range.select(size),
            _ => Selection::Whole,
        }
    }
}

/// The comparison of tags (§8.8.3.2).
#[derive(Clone, Copy, PartialEq, Eq)]
enum Comparison {
    Strong,
    Weak,
}

impl Tags {
    fn of(fields: &HeaderMap, name: &http::HeaderName) -> Option<Self> {
        let lines: Vec<HeaderValue> = fields.get_all(name).iter().cloned().collect();
        match lines.as_slice() {
            [] => None,
            [any] if any.as_bytes().trim_ascii() == b"*" => Some(Self::Any),
            _ => Some(Self::Listed(lines)),
        }
    }

    /// True if `tag`, of a file that is there, is among them.
    fn name(&self, tag: Option<&HeaderValue>, by: Comparison) -> bool {
        match self {
            Self::Any => true,
            Self::Listed(lines) => tag.is_some_and(|tag| {
                lines.iter().flat_map(|line| line.as_bytes().split(|byte| *byte == b',')).any(|one| {
                    let one = one.trim_ascii();
                    let one = one.strip_prefix(b"W/").filter(|_| by == Comparison::Weak).unwrap_or(one);
                    is(one, tag)
                })
            }),
        }
    }
}

/// True if `text` is `tag`. Ours hold no comma, so that lists may be split at commas.
fn is(text: &[u8], tag: &HeaderValue) -> bool {
    text.trim_ascii() == tag.as_bytes()
}

impl ByteRange {
    fn of(fields: &HeaderMap) -> Option<Self> {
        let mut lines = fields.get_all(RANGE).iter();
        let (Some(line), None) = (lines.next(), lines.next()) else { return None };
        let (unit, set) = line.to_str().ok()?.split_once('=')?;
        if !unit.trim().eq_ignore_ascii_case("bytes") {
            return None;
        }
        let (first, last) = set.trim().split_once('-')?;
        match (first.trim_end(), last.trim_start()) {
            ("", last) => Some(Self::Last(number(last)?)),
            (first, "") => Some(Self::From { first: number(first)?, last: None }),
            (first, last) => {
                let (first, last) = (number(first)?, number(last)?);
                (first <= last).then_some(Self::From { first, last: Some(last) })
            }
        }
    }

    fn select(self, size: u64) -> Selection {
        match self {
            // Of an empty file, that is all of it (§14.1.2), which no `Content-Range` can say.
            Self::Last(n) if n > 0 && size == 0 => Selection::Whole,
            Self::Last(n) if n > 0 => {
                Selection::Range(ByteSpan { first: size.saturating_sub(n), last: size - 1 })
            }
            Self::From { first, last } if first < size => {
                let end = size - 1;
                Selection::Range(ByteSpan { first, last: last.unwrap_or(end).min(end) })
            }
            Self::Last(_) | Self::From { .. } => Selection::Unsatisfiable,
        }
    }
}

/// Digits alone; more than there are bytes in the world count as that.
fn number(text: &str) -> Option<u64> {
    let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    is_number.then(|| text.parse().unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn selected(method: &Method, fields: &[(&'static str, &str)], file: &Description) -> Selection {
        let mut map = HeaderMap::new();
        for (name, value) in fields {
            map.append(*name, HeaderValue::from_str(value).expect("a value"));
        }
        Conditions::of(method, &map).select(file)
    }

    fn file(size: Option<u64>) -> Description {
        let tag = size.map(|_| HeaderValue::from_static("\"abc\""));
        Description { size, tag, ..Description::default() }
    }

    fn span(first: u64, last: u64) -> Selection {
        Selection::Range(ByteSpan { first, last })
    }

    #[test]
    fn one_range_is_served_and_any_other_counts_as_none() {
        use Selection::{Unsatisfiable, Whole};
        for (range, expected) in [
            ("bytes=0-9", span(0, 9)),
            ("bytes=0-", span(0, 99)),
            ("bytes=99-", span(99, 99)),
            ("bytes=5-1000", span(5, 99)),
            ("bytes=-10", span(90, 99)),
            ("bytes=-1000", span(0, 99)),
            ("Bytes = 0 - 9", span(0, 9)),
            ("bytes=0-99999999999999999999999", span(0, 99)),
            ("bytes=100-", Unsatisfiable),
            ("bytes=-0", Unsatisfiable),
            ("bytes=99999999999999999999999-", Unsatisfiable),
            ("bytes=9-0", Whole),
            ("bytes=0-1,5-6", Whole),
            ("bytes=-", Whole),
            ("bytes=+1-2", Whole),
            ("bytes=a-b", Whole),
            ("bytes 0-9", Whole),
            ("items=0-9", Whole),
            ("", Whole),
        ] {
            assert_eq!(selected(&Method::GET, &[("range", range)], &file(Some(100))), expected, "{range}");
        }
        let twice = [("range", "bytes=0-1"), ("range", "bytes=0-1")];
        assert_eq!(selected(&Method::GET, &twice, &file(Some(100))), Whole);
        for (size, range, expected) in
            [(Some(0), "bytes=0-", Unsatisfiable), (Some(0), "bytes=-5", Whole), (None, "bytes=0-9", Whole)]
        {
            assert_eq!(
                selected(&Method::GET, &[("range", range)], &file(size)),
                expected,
                "{size:?} {range}"
            );
        }
    }

    #[test]
    fn conditions_decide_in_the_order_of_the_rfc() {
        use Selection::{Head, NotModified, PreconditionFailed, Whole};
        let (ours, other) = ("\"abc\"", "\"abd\"");
        let range = ("range", "bytes=0-9");
        for (fields, expected) in [
            (&[("if-none-match", ours)][..], NotModified),
            (&[("if-none-match", "W/\"abc\"")], NotModified),
            (&[("if-none-match", "\"x\", \"abc\"")], NotModified),
            (&[("if-none-match", "*")], NotModified),
            (&[("if-none-match", ours), range], NotModified),
            (&[("if-none-match", other)], Whole),
            (&[("if-match", ours)], Whole),
            (&[("if-match", "*")], Whole),
            (&[("if-match", "W/\"abc\"")], PreconditionFailed),
            (&[("if-match", other), ("if-none-match", ours)], PreconditionFailed),
            (&[("if-match", other), ("if-match", ours), range], span(0, 9)),
            (&[("if-range", ours), range], span(0, 9)),
            (&[("if-range", "W/\"abc\""), range], Whole),
            (&[("if-range", other), range], Whole),
            (&[("if-range", "Thu, 01 Jan 1970 00:00:00 GMT"), range], Whole),
            (&[("if-modified-since", "Thu, 01 Jan 1970 00:00:00 GMT")], Whole),
        ] {
            assert_eq!(selected(&Method::GET, fields, &file(Some(100))), expected, "{fields:?}");
        }
        assert_eq!(selected(&Method::HEAD, &[range], &file(Some(100))), Head);
        assert_eq!(selected(&Method::HEAD, &[("if-none-match", ours)], &file(Some(100))), NotModified);
        // Without a tag, only `*` names it.
        assert_eq!(selected(&Method::GET, &[("if-none-match", ours)], &file(None)), Whole);
        assert_eq!(selected(&Method::GET, &[("if-match", ours)], &file(None)), PreconditionFailed);
    }

    #[test]
    fn a_plain_get_has_no_conditions() {
        assert!(Conditions::of(&Method::GET, &HeaderMap::new()).are_none());
        assert!(!Conditions::of(&Method::HEAD, &HeaderMap::new()).are_none());
    }
}
