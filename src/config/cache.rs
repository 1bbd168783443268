//! `[cache]`.

use std::time::Duration;

use super::listener::size;
use super::reader::Reader;
use crate::cache::{NotStored, Settings};

/// Half of the longest life of Snyk's links (`url_expiration_seconds` is 3,600 at the most).
const LONGEST_MARGIN: Duration = Duration::from_mins(30);

pub(super) fn read(r: &mut Reader<'_>, max_answer: usize) -> Settings {
    let settings = Settings {
        max_bytes: r
            .bytes(("cache.max_bytes", "256MiB", "Most memory for stored responses."), ("0B", "1TiB")),
        max_entry: size(r, ("cache.max_entry", "8MiB", "Largest response that is stored."), ("1KiB", "1GiB")),
        link_margin: r.duration(
            (
                "cache.link_margin",
                "15m",
                "How long before its first link dies a response stops being fresh; at most half of what it has left.",
            ),
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
        ignore: r.list(
            (
                "cache.ignore",
                "",
                "What in Snyk's answers does not keep them from being stored: \"no-store\", \"no-cache\", \"private\", \"vary\".",
            ),
            ignored,
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
    if settings.link_margin > LONGEST_MARGIN {
        r.note(
            "cache.link_margin cannot be met: Snyk's links live 60 minutes at most, and at least half of that is used",
        );
    }
    if settings.max_entry as u64 > settings.max_bytes {
        r.note(
            "cache.max_bytes is less than cache.max_entry: responses that are larger than it are not stored",
        );
    }
    settings
}

fn ignored(word: &str) -> Result<NotStored, String> {
    let all = [NotStored::NoStore, NotStored::NoCache, NotStored::Private, NotStored::Vary];
    all.into_iter().find(|why| why.reason() == Some(word)).ok_or_else(|| {
        format!("{word} cannot be ignored: write \"no-store\", \"no-cache\", \"private\" or \"vary\"")
    })
}
