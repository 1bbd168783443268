//! `[shutdown]`.

use super::reader::Reader;
use crate::shutdown::Settings;

pub(super) fn read(r: &mut Reader<'_>) -> Settings {
    Settings {
        delay: r.duration("shutdown.delay", "0s"..="10m"),
        drain: r.duration("shutdown.drain", "0s"..="1h"),
    }
}
