//! `[starts]`.

use super::reader::Reader;
use crate::retrieval::ShareSettings;

/// Snyk keeps the files of an export for three days.
const LONGEST: &str = "3d";

pub(super) fn read(r: &mut Reader<'_>) -> ShareSettings {
    ShareSettings {
        share: r.duration("starts.share", "0s"..=LONGEST),
        share_max: r.duration("starts.share_max", "0s"..=LONGEST),
    }
}
