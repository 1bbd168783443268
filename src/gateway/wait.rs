//! The wish to wait for the end of an export: `Prefer: wait=N` (RFC 7240), or a setting (pure).

use std::time::{Duration, Instant};

use http::{HeaderMap, HeaderName};

use crate::cache::Directives;
use crate::retrieval::Wait;

pub(super) const PREFER: HeaderName = HeaderName::from_static("prefer");
pub(super) const PREFERENCE_APPLIED: HeaderName = HeaderName::from_static("preference-applied");

/// `[wait]`.
#[derive(Debug, Clone, Copy)]
pub struct WaitSettings {
    /// Longest wait that a client may ask for; zero ignores the wish.
    pub max: Duration,
    /// Wait of clients that do not ask for one; zero is none.
    pub unasked: Duration,
}

/// The wait of a request, and the part of it that its client asked for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct RequestWait {
    pub(super) wait: Option<Wait>,
    /// The preference that is applied, in seconds.
    pub(super) applied: Option<u64>,
}

impl RequestWait {
    /// The wait of a read that began at `started`. `unasked` is the time that its client waits without asking.
    pub(super) fn of(client: &HeaderMap, max: Duration, unasked: Duration, started: Instant) -> Self {
        let most = max.as_secs();
        let applied = preferred(client).filter(|_| most > 0).map(|seconds| seconds.min(most));
        if applied.is_none() && unasked.is_zero() {
            return Self::default();
        }
        let directives = Directives::of_request(client);
        if directives.no_store || directives.only_if_cached {
            return Self::default();
        }
        let length = applied.map_or(unasked, Duration::from_secs);
        let wait = Wait { until: started + length, is_asked: applied.is_some() };
        Self { wait: (!length.is_zero()).then_some(wait), applied }
    }

    /// Its length.
    pub(super) fn length(&self, started: Instant) -> Duration {
        self.wait.map_or(Duration::ZERO, |wait| wait.until.saturating_duration_since(started))
    }
}

/// The seconds of the first `wait` (RFC 7240 §2, §4.3); `None` if there is none, or no number.
fn preferred(client: &HeaderMap) -> Option<u64> {
    let values = client.get_all(PREFER).iter().filter_map(|value| value.to_str().ok());
    let preferences = values.flat_map(|value| outside_quotes(value, b','));
    let wait = preferences.map(|preference| outside_quotes(preference, b';').next().unwrap_or_default());
    let mut wait = wait.map(|preference| preference.split_once('=').unwrap_or((preference, "")));
    let (_, value) = wait.find(|(name, _)| name.trim().eq_ignore_ascii_case("wait"))?;
    let value = value.trim();
    let value = value.strip_prefix('"').and_then(|value| value.strip_suffix('"')).unwrap_or(value);
    let is_number = !value.is_empty() && value.bytes().all(|b| b.is_ascii_digit());
    is_number.then(|| value.parse().unwrap_or(u64::MAX))
}

/// The pieces of `text` between separators that are not in quoted strings (RFC 9110 §5.6.4).
fn outside_quotes(text: &str, separator: u8) -> impl Iterator<Item = &str> {
    let (mut is_quoted, mut is_escaped) = (false, false);
    text.split(move |c: char| {
        let was_escaped = std::mem::replace(&mut is_escaped, false);
        match c {
            '\\' if is_quoted && !was_escaped => is_escaped = true,
            '"' if !was_escaped => is_quoted = !is_quoted,
            _ => {}
        }
        c == char::from(separator) && !is_quoted
    })
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use http::header::CACHE_CONTROL;

    use super::*;

    fn prefer(values: &[&'static str]) -> HeaderMap {
        values.iter().map(|value| (PREFER, HeaderValue::from_static(value))).collect()
    }

    #[test]
    fn the_first_wait_counts_wherever_it_stands() {
        for (values, seconds) in [
            (&["wait=5"][..], Some(5)),
            (&["respond-async, Wait = 7 ; strict, wait=9"], Some(7)),
            (&["return=minimal", "handling=lenient, wait=3"], Some(3)),
            (&["a=\"x, wait=1\"; wait=2, wait=\"4\""], Some(4)),
            (&["a=\"\\\", wait=1\", wait=6"], Some(6)),
            (&["wait=0"], Some(0)),
            (&["wait=99999999999999999999"], Some(u64::MAX)),
            (&["wait"], None),
            (&["wait=", "wait=5"], None),
            (&["wait=-1"], None),
            (&["wait=+1"], None),
            (&["wait=1.5"], None),
            (&["wait=soon, wait=5"], None),
            (&["waiting=5"], None),
            (&["a=\"wait=5"], None),
            (&[], None),
        ] {
            assert_eq!(preferred(&prefer(values)), seconds, "{values:?}");
        }
    }

    #[test]
    fn a_wait_is_cut_to_the_most_and_who_does_not_ask_waits_as_is_set() {
        let (now, second) = (Instant::now(), Duration::from_secs);
        let of = |values: &[&'static str], max, unasked| {
            let wait = RequestWait::of(&prefer(values), second(max), second(unasked), now);
            (wait.length(now).as_secs(), wait.wait.map(|wait| wait.is_asked), wait.applied)
        };
        assert_eq!(of(&["wait=5"], 55, 20), (5, Some(true), Some(5)));
        assert_eq!(of(&["wait=99999"], 55, 0), (55, Some(true), Some(55)));
        assert_eq!(of(&["wait=0"], 55, 20), (0, None, Some(0)));
        assert_eq!(of(&["wait=x"], 55, 20), (20, Some(false), None));
        assert_eq!(of(&[], 55, 0), (0, None, None));
        assert_eq!(of(&["wait=5"], 0, 0), (0, None, None));
        for directive in ["no-store", "only-if-cached"] {
            let mut fields = prefer(&["wait=5"]);
            fields.insert(CACHE_CONTROL, HeaderValue::from_static(directive));
            assert_eq!(RequestWait::of(&fields, second(55), second(20), now), RequestWait::default());
        }
    }
}
