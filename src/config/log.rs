//! `[log]`.

use super::reader::Reader;
use crate::telemetry::{Format, Settings};

pub(super) fn read(r: &mut Reader<'_>) -> Settings {
    let format =
        r.choice("log.format", &[("auto", Format::Auto), ("text", Format::Text), ("json", Format::Json)]);
    let filter = r.text("log.filter");
    if let Err(what) = crate::telemetry::check_filter(&filter) {
        r.invalid("log.filter", what);
    }
    Settings { format, filter, max_buffer: r.size("log.max_buffer", "64KiB"..="1GiB") }
}
