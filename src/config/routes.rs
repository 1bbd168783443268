//! `[routes]`.

use super::reader::Reader;

pub(super) fn read(r: &mut Reader<'_>) -> bool {
    r.choice("routes.other", &[("refuse", false), ("forward", true)])
}
