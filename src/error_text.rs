//! An error with its causes as one line, or searched through; and text of others as a terminal may show it.

use std::error::Error;
use std::fmt::Write as _;
use std::io;

/// Any error, where its type does not matter.
pub(crate) type BoxError = Box<dyn Error + Send + Sync>;

/// `error` and its causes, outermost first, without saying anything twice.
#[must_use]
pub fn error_text(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let said = cause.to_string();
        if !text.ends_with(&said) {
            let _ = write!(text, ": {said}");
        }
        next = cause.source();
    }
    text
}

/// The first `T` in a chain of errors. An `io::Error` hides what it wraps from `source`.
#[must_use]
pub fn find<'a, T: Error + 'static>(error: &'a (dyn Error + 'static)) -> Option<&'a T> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref::<T>() {
            return Some(found);
        }
        let wrapped = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        next = match wrapped {
            Some(wrapped) => Some(wrapped),
            None => error.source(),
        };
    }
    None
}

/// Most characters of such a text.
const MOST_SHOWN: usize = 500;

/// Text of others, made safe for a terminal: without characters that move the cursor (the C0 and C1 controls) or turn the
/// direction of a line (Unicode's bidirectional controls and separators).
#[must_use]
pub fn visible(text: &str) -> String {
    let shown = |c: char| {
        let acts = c.is_control()
            || matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
        if acts { '\u{fffd}' } else { c }
    };
    let mut shown: String = text.chars().take(MOST_SHOWN + 1).map(shown).collect();
    if shown.chars().count() > MOST_SHOWN {
        shown = shown.chars().take(MOST_SHOWN).chain(['…']).collect();
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_wrote_does_nothing_to_a_terminal() {
        assert_eq!(visible("é 1"), "é 1");
        assert_eq!(visible("a\u{1b}[2J\u{9b}\u{202e}\n"), "a\u{fffd}[2J\u{fffd}\u{fffd}\u{fffd}");
        assert_eq!(visible(&"x".repeat(70_000)).chars().count(), MOST_SHOWN + 1);
    }
}
