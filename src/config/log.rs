//! `[log]`.

use super::reader::Reader;
use crate::telemetry::{Format, Settings};

pub(super) fn read(r: &mut Reader<'_>) -> Settings {
    let format = r.choice(
        ("log.format", "auto", "\"text\", \"json\", or \"auto\": text on a terminal, JSON otherwise."),
        &[("auto", Format::Auto), ("text", Format::Text), ("json", Format::Json)],
    );
    let filter = r.text((
        "log.filter",
        "info",
        "What is logged, such as \"info\" or \"exportgate=debug\"; RUST_LOG comes first.",
    ));
    if let Err(what) = crate::telemetry::check_filter(&filter) {
        let place = r.given("log.filter").map(|given| given.place).unwrap_or_default();
        r.problem(&place, "log.filter", what);
    }
    let max_buffer = r.bytes(
        (
            "log.max_buffer",
            "8MiB",
            "Most bytes of log lines that wait for a slow reader; more are dropped and counted.",
        ),
        ("64KiB", "1GiB"),
    );
    Settings { format, filter, max_buffer: usize::try_from(max_buffer).unwrap_or(usize::MAX) }
}
