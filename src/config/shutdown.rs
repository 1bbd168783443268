//! `[shutdown]`.

use super::reader::Reader;
use crate::shutdown::Settings;

pub(super) fn read(r: &mut Reader<'_>) -> Settings {
    Settings {
        delay: r.duration(
            (
                "shutdown.delay",
                "500ms",
                "How long clients are still served after a signal to stop, while they are led elsewhere.",
            ),
            ("0s", "10m"),
        ),
        drain: r.duration(
            ("shutdown.drain", "30s", "How long requests in flight may take to finish after that."),
            ("0s", "1h"),
        ),
    }
}
