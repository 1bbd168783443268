//! Results that are not so.

use std::str::FromStr;

use serde_json::{Value, json};

/// Something in the results that is not so. `part` counts from 1; without it, all parts are meant.
#[derive(Debug, Clone, PartialEq)]
pub enum Lie {
    /// The `row_count` of a part.
    RowCount {
        /// The part.
        part: Option<u32>,
        /// The number in its place.
        stated: Stated,
    },
    /// The `file_size` of a part.
    FileSize {
        /// The part.
        part: Option<u32>,
        /// The number in its place.
        stated: Stated,
    },
    /// The `row_count` of the whole export.
    TotalRows(Stated),
    /// The link of a part.
    Link {
        /// The part.
        part: Option<u32>,
        /// Any text.
        text: String,
    },
    /// The whole entry of a part, such as `{}`.
    Entry {
        /// The part.
        part: Option<u32>,
        /// Anything.
        value: Value,
    },
    /// These parts, in this order.
    Order(Vec<u32>),
    /// No `results` at all.
    NoResults,
}

/// The statement in place of a count.
#[derive(Debug, Clone, PartialEq)]
pub enum Stated {
    /// Nothing.
    Absent,
    /// The truth, as a string.
    AsText,
    /// The truth and so many more.
    More(i64),
    /// This.
    Is(Value),
}

impl Stated {
    /// The value; none where nothing is stated.
    pub(super) fn of(&self, truth: u64) -> Option<Value> {
        match self {
            Self::Absent => None,
            Self::AsText => Some(json!(truth.to_string())),
            Self::More(more) => Some(json!(truth.saturating_add_signed(*more))),
            Self::Is(value) => Some(value.clone()),
        }
    }
}

impl FromStr for Stated {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bad = || format!("{text}: expected none, text, +N, -N or a JSON value");
        match text {
            "none" => Ok(Self::Absent),
            "text" => Ok(Self::AsText),
            _ if text.starts_with(['+', '-']) => text.parse().map(Self::More).map_err(|_| bad()),
            _ => serde_json::from_str(text).map(Self::Is).map_err(|_| bad()),
        }
    }
}

impl Lie {
    /// All that can be read as a lie, in words.
    #[must_use]
    pub fn forms() -> String {
        "rows[@PART]=STATED, size[@PART]=STATED, total=STATED, link[@PART]=TEXT, entry[@PART]=JSON, order=PART,PART..., \
         no-results. STATED: none, text (the truth as a string), +N, -N or a JSON value"
            .to_owned()
    }
}

impl FromStr for Lie {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bad = |why: String| format!("{text}: {why}; there are {}", Self::forms());
        let (name, value) = text.split_once('=').unwrap_or((text, ""));
        let (name, part) = match name.split_once('@') {
            Some((name, part)) => (name, Some(part.parse().map_err(|_| bad(format!("{part} is no part")))?)),
            None => (name, None),
        };
        match (name, part) {
            ("rows", _) => Ok(Self::RowCount { part, stated: value.parse().map_err(bad)? }),
            ("size", _) => Ok(Self::FileSize { part, stated: value.parse().map_err(bad)? }),
            ("total", None) => value.parse().map(Self::TotalRows).map_err(bad),
            ("link", _) => Ok(Self::Link { part, text: value.to_owned() }),
            ("entry", _) => {
                let value = serde_json::from_str(value).map_err(|_| bad("no JSON".to_owned()))?;
                Ok(Self::Entry { part, value })
            }
            ("order", None) => {
                let parts: Result<Vec<u32>, _> = value.split(',').map(str::parse).collect();
                parts.map(Self::Order).map_err(|_| bad("no numbers".to_owned()))
            }
            ("no-results", None) if value.is_empty() => Ok(Self::NoResults),
            _ => Err(bad("no such lie".to_owned())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lies_are_read_by_name() {
        for (text, lie) in [
            ("rows@2=+1", Lie::RowCount { part: Some(2), stated: Stated::More(1) }),
            ("rows=text", Lie::RowCount { part: None, stated: Stated::AsText }),
            ("size=none", Lie::FileSize { part: None, stated: Stated::Absent }),
            ("total=7", Lie::TotalRows(Stated::Is(json!(7)))),
            ("link@1=http://a=b", Lie::Link { part: Some(1), text: "http://a=b".to_owned() }),
            ("entry@1={}", Lie::Entry { part: Some(1), value: json!({}) }),
            ("order=2,1", Lie::Order(vec![2, 1])),
            ("no-results", Lie::NoResults),
        ] {
            assert_eq!(text.parse(), Ok(lie), "{text}");
        }
        for text in ["", "rows", "rows@x=1", "total@1=1", "order=a", "entry={", "no-results=1"] {
            assert!(text.parse::<Lie>().is_err(), "{text}");
        }
        let truth = |stated: Stated| stated.of(5);
        assert_eq!(truth(Stated::AsText), Some(json!("5")));
        assert_eq!(truth(Stated::More(-1)), Some(json!(4)));
        assert_eq!(truth(Stated::Absent), None);
    }
}
