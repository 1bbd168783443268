//! Snyk's rate fields (`X-Ratelimit-*`): limits, and which of Snyk's limits they are about (pure).

use std::time::Duration;

use super::budget::Limit;

/// The rate fields of an answer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RateFields {
    /// Its limits.
    pub limits: Vec<Limit>,
    /// The limit that comes first: `remaining` is about its window.
    pub first: Option<u32>,
    /// Number of requests that are left.
    pub remaining: Option<u32>,
    /// Time until the window ends.
    pub reset: Option<Duration>,
}

/// A limit of Snyk's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bucket {
    /// The account's.
    Account,
    /// Another one, such as that of a single call.
    Other,
    /// Nothing tells.
    Unknown,
}

/// The part of the API that a call is of.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum CallKind {
    /// An export call that reads.
    Read,
    /// A start call.
    Start,
    /// Any other call.
    #[default]
    Other,
}

/// Reads Snyk's `X-Ratelimit-Limit`: `160, 160;w=1;name="…", 1620;w=60;name="…"`. Nothing of a value that is not
/// understood is taken; `None` then.
pub(crate) fn limits_told(text: &str) -> Option<Vec<Limit>> {
    let mut limits = Vec::new();
    for member in text.split(',') {
        let mut parts = member.split(';').map(str::trim);
        let most: u32 = parts.next()?.parse().ok().filter(|most| *most > 0)?;
        let mut seconds = None;
        for parameter in parts {
            if let Some(text) = parameter.strip_prefix("w=") {
                seconds = Some(text.parse::<u32>().ok().filter(|seconds| *seconds > 0)?);
            }
        }
        // The first member repeats one of the others without its window.
        if let Some(seconds) = seconds {
            limits.push(Limit { most, window: Duration::from_secs(u64::from(seconds)) });
        }
    }
    (!limits.is_empty()).then_some(limits)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_form_with_several_windows_is_read_and_nonsense_is_not() {
        let told = limits_told(r#"160, 160;w=1;name="a", 1620;w=60;name="b", 97200;w=3600;name="c""#);
        let limit = |most, seconds| Limit { most, window: Duration::from_secs(seconds) };
        assert_eq!(told, Some(vec![limit(160, 1), limit(1_620, 60), limit(97_200, 3_600)]));
        for nonsense in [
            "",
            "160",
            "many;w=1",
            "1;w=0",
            "0;w=1",
            "1;w=x",
            "160, 160;w=1;name=\"a\", -1;w=60",
            "1;w=99999999999",
        ] {
            assert_eq!(limits_told(nonsense), None, "{nonsense}");
        }
    }
}
