//! An error and what it came from, in one line for the log.

use std::error::Error;
use std::fmt::Write as _;

/// `error` and its causes, outermost first, without saying anything twice.
#[must_use]
pub fn chain(error: &(dyn Error + 'static)) -> String {
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
