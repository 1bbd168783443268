//! `[cache]`.

use super::listener::size;
use super::reader::Reader;
use crate::cache::Settings;

pub(super) fn read(r: &mut Reader<'_>, max_answer: usize) -> Settings {
    let settings = Settings {
        max_bytes: r
            .bytes(("cache.max_bytes", "256MiB", "Most memory for stored responses."), ("0B", "1TiB")),
        max_entry: size(r, ("cache.max_entry", "8MiB", "Largest response that is stored."), ("1KiB", "1GiB")),
        link_margin: r.duration(
            ("cache.link_margin", "15m", "How long before its first link dies a response stops being fresh."),
            ("0s", "7d"),
        ),
        max_age: r.duration(("cache.max_age", "55m", "Longest that any response is fresh."), ("1s", "7d")),
        default_age: r.duration(
            (
                "cache.default_age",
                "10m",
                "The same where a link's end is not certain; \"0s\" stores none of these.",
            ),
            ("0s", "7d"),
        ),
        refresh_ahead: r.boolean((
            "cache.refresh_ahead",
            "true",
            "Whether an entry that is read in the last tenth of its freshness is fetched again for its next readers.",
        )),
        max_followers: r.number(
            ("cache.max_followers", "10000", "Most clients that may wait for one request in flight."),
            1..=1_000_000,
        ),
    };
    if settings.max_entry > max_answer {
        let place = r.given("cache.max_entry").map_or_else(|| "default".to_owned(), |given| given.place);
        r.problem(&place, "cache.max_entry", "must not be larger than upstream.max_answer");
    }
    settings
}
