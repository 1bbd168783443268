//! `[wait]`.

use super::reader::Reader;
use crate::gateway::WaitSettings;

pub(super) fn read(r: &mut Reader<'_>) -> WaitSettings {
    WaitSettings {
        max: r.duration("wait.max", "0s"..=LONGEST),
        unasked: r.duration("wait.unasked", "0s"..=LONGEST),
    }
}

/// Longest wait for the end of an export that can be set.
pub(super) const LONGEST: &str = "10m";
