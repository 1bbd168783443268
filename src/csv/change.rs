//! The difference between two headers.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::error_text::visible;

/// Most names that a text lists.
const MOST_NAMES: usize = 20;

/// A change of columns.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ColumnChange {
    /// Names that were there before.
    pub went: Vec<String>,
    /// Names that are new.
    pub came: Vec<String>,
}

impl ColumnChange {
    /// The change from one header to another; `None` where both name the same columns in the same order.
    #[must_use]
    pub fn between(before: &[String], after: &[String]) -> Option<Self> {
        let missing = |from: &[String], of: &[String]| {
            from.iter().filter(|name| !of.contains(name)).cloned().collect::<Vec<_>>()
        };
        (before != after).then(|| Self { went: missing(before, after), came: missing(after, before) })
    }
}

impl fmt::Display for ColumnChange {
    /// The names as a log or a terminal can show them.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |names: &[String]| {
            let mut shown: Vec<String> = names.iter().take(MOST_NAMES).map(|name| visible(name)).collect();
            if names.len() > MOST_NAMES {
                shown.push(format!("and {} more", names.len() - MOST_NAMES));
            }
            shown.join(", ")
        };
        match (self.went.as_slice(), self.came.as_slice()) {
            ([], []) => f.write_str("the same columns in another order, or more or fewer times"),
            (went, []) => write!(f, "went: {}", list(went)),
            ([], came) => write!(f, "came: {}", list(came)),
            (went, came) => write!(f, "went: {}; came: {}", list(went), list(came)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_names_what_went_and_what_came() {
        let change = |before: &str, after: &str| {
            let names = |text: &str| text.split(',').map(str::to_owned).collect::<Vec<_>>();
            ColumnChange::between(&names(before), &names(after)).map(|change| change.to_string())
        };
        assert_eq!(change("a,b", "a,b"), None);
        assert_eq!(change("a,b", "a").as_deref(), Some("went: b"));
        assert_eq!(change("a", "a,c,d").as_deref(), Some("came: c, d"));
        assert_eq!(change("a,b", "\u{1b}[2J,a").as_deref(), Some("went: b; came: \u{fffd}[2J"));
        assert!(change("a,b", "b,a").is_some_and(|text| text.contains("another order")));
    }
}
