//! `Range`, `If-Match` and `If-Range` as the stores understand them (RFC 9110 §14.2, §13.1).

use super::super::Seen;

/// The bytes that are asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum AskedRange {
    Whole,
    /// From the first to the last.
    Part {
        first: u64,
        last: u64,
    },
    Unsatisfiable,
}

impl AskedRange {
    /// The range of a request for an object of `size` bytes with `tag`. Several ranges and what is none mean the
    /// whole.
    pub(super) fn of(seen: &Seen, size: u64, tag: Option<&str>) -> Self {
        let if_range = seen.header("if-range");
        let is_other =
            if_range.first().is_some_and(|wanted| Some(*wanted) != tag || wanted.starts_with("W/"));
        let text = seen.header("range").first().copied().and_then(|text| text.strip_prefix("bytes="));
        match text {
            Some(text) if !is_other => Self::read(text, size).unwrap_or(Self::Whole),
            _ => Self::Whole,
        }
    }

    fn read(text: &str, size: u64) -> Option<Self> {
        let (first, last) = text.split_once('-')?;
        let part = |first: u64, last: u64| {
            if first < size { Self::Part { first, last: last.min(size - 1) } } else { Self::Unsatisfiable }
        };
        if first.is_empty() {
            let length: u64 = last.parse().ok()?;
            return Some(if length == 0 {
                Self::Unsatisfiable
            } else {
                part(size.saturating_sub(length), u64::MAX)
            });
        }
        let first: u64 = first.parse().ok()?;
        let last: u64 = if last.is_empty() { u64::MAX } else { last.parse().ok()? };
        (first <= last).then(|| part(first, last))
    }
}

/// True unless `If-Match` names other objects alone.
pub(super) fn is_match(seen: &Seen, tag: Option<&str>) -> bool {
    let wanted = seen.header("if-match");
    let names = |text: &&str| text.split(',').map(str::trim).any(|one| one == "*" || Some(one) == tag);
    wanted.is_empty() || wanted.iter().any(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_read_and_what_is_none_means_the_whole() {
        let part = |first, last| Some(AskedRange::Part { first, last });
        for (text, expected) in [
            ("0-0", part(0, 0)),
            ("0-65535", part(0, 9)),
            ("3-", part(3, 9)),
            ("-4", part(6, 9)),
            ("-40", part(0, 9)),
            ("10-", Some(AskedRange::Unsatisfiable)),
            ("-0", Some(AskedRange::Unsatisfiable)),
            ("4-3", None),
            ("0-1,3-4", None),
            ("x-", None),
            ("", None),
        ] {
            assert_eq!(AskedRange::read(text, 10), expected, "{text}");
        }
        assert_eq!(AskedRange::read("0-65535", 0), Some(AskedRange::Unsatisfiable));
    }
}
