//! `[cache]`.

use std::time::Duration;

use super::reader::Reader;
use crate::cache::{NotStored, Settings};

/// Half of the longest life of Snyk's links (`url_expiration_seconds` is 3,600 at the most).
const LONGEST_MARGIN: Duration = Duration::from_mins(30);

pub(super) fn read(r: &mut Reader<'_>, max_answer: usize) -> Settings {
    let settings = Settings {
        max_bytes: r.bytes("cache.max_bytes", "0B"..="1TiB"),
        max_entry: r.size("cache.max_entry", "1KiB"..="1GiB"),
        link_margin: r.duration("cache.link_margin", "0s"..="7d"),
        max_age: r.duration("cache.max_age", "1s"..="7d"),
        default_age: r.duration("cache.default_age", "0s"..="7d"),
        ignore: r.list("cache.ignore", ignored),
        refresh_ahead: r.boolean("cache.refresh_ahead"),
        max_followers: r.number("cache.max_followers", 1..=1_000_000),
    };
    if settings.max_entry > max_answer {
        r.invalid("cache.max_entry", "must not be larger than upstream.max_answer");
    }
    if settings.link_margin > LONGEST_MARGIN {
        r.note(
            "cache.link_margin cannot be met: Snyk's links live 60 minutes at most, and a response is fresh for at least half of that",
        );
    }
    if settings.max_entry as u64 > settings.max_bytes {
        r.note("cache.max_bytes is less than cache.max_entry: larger responses are not stored");
    }
    settings
}

fn ignored(word: &str) -> Result<NotStored, String> {
    let all = [NotStored::NoStore, NotStored::NoCache, NotStored::Private, NotStored::Vary];
    all.into_iter().find(|why| why.reason() == Some(word)).ok_or_else(|| {
        format!("{word} cannot be ignored: write \"no-store\", \"no-cache\", \"private\" or \"vary\"")
    })
}
