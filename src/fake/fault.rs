//! What can go wrong with a call.

use std::str::FromStr;
use std::time::Duration;

use h2::Reason;

/// Something that goes wrong with an API call; files are never touched. What is for one version of HTTP alone
/// leaves a call of the other without an answer.
#[derive(Debug, Clone, PartialEq)]
pub enum Fault {
    /// The answer waits.
    Delay(Duration),
    /// This status with an error document of Snyk's; any from 100 to 999.
    Status(u16),
    /// 429 with `Retry-After`.
    TooManyRequests {
        /// Seconds.
        retry_after: u64,
    },
    /// 503 of the edge before Snyk (Envoy): plain text, no field of Snyk's.
    NoHealthyUpstream,
    /// The export's status is `ERRORED`.
    Errored,
    /// 200 with a page.
    Html,
    /// 303 to this place.
    Redirect(String),
    /// A body of so many bytes.
    Oversize(usize),
    /// A header section of so many bytes.
    BigHeaders(usize),
    /// A body that claims to be compressed.
    Gzip,
    /// A field besides the normal answer's.
    ExtraHeader(String, String),
    /// A field in place of the normal answer's.
    ReplaceHeader(String, String),
    /// Fields of a rate limit in place of the normal answer's.
    RateFields(RateFields),
    /// A trailer field after the body, unasked.
    Trailer(String, String),
    /// Nothing comes.
    Hang,
    /// The body stops coming.
    HangMidBody,
    /// The request gets no answer: the connection ends; with HTTP/2, the stream (`INTERNAL_ERROR`).
    Reset,
    /// The same within the body.
    ResetMidBody,
    /// The connection ends without a word, with all its streams.
    Disconnect,
    /// HTTP/1.1 only: what comes is no HTTP.
    Garbage,
    /// HTTP/1.1 only: interim responses without an end.
    EndlessContinue,
    /// HTTP/1.1 only: 101, unasked.
    SwitchingProtocols,
    /// HTTP/1.1 only: a chunk whose size cannot be read.
    BadChunk,
    /// HTTP/1.1 only: `Transfer-Encoding: gzip, chunked`.
    GzipChunked,
    /// HTTP/1.1 only: the normal answer, with both `Content-Length` and `Transfer-Encoding`.
    LengthAndChunked,
    /// HTTP/2 only: `RST_STREAM(REFUSED_STREAM)` in place of the answer. The request was not processed
    /// (RFC 9113 §8.7).
    RefusedStream,
    /// HTTP/2 only: `RST_STREAM` after half of the body, in place of its end.
    CutBody {
        /// Such as `NO_ERROR`, which Envoy sends, or `CANCEL`.
        reason: Reason,
        /// With the `Content-Length` of the whole body.
        declared: bool,
    },
    /// HTTP/2 only: `GOAWAY(NO_ERROR)` with a last stream below the request's, then the end of the connection.
    /// The request was not processed (RFC 9113 §6.8).
    GoAwayBefore,
    /// HTTP/2 only: `GOAWAY(NO_ERROR)` with the request's stream as the last, then the end of the connection.
    /// The request may have been processed.
    GoAwayAfter,
    /// HTTP/2 only: `GOAWAY(NO_ERROR)` with the request's stream as the last, then the answer, as an edge that
    /// drains does.
    GoAwayAnswered,
}

/// The fields of a rate limit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RateFields {
    /// The bucket's own part of its name.
    pub bucket: String,
    /// Windows: how many requests, in how many seconds. The first is also the limit at the front.
    pub windows: Vec<(u32, u32)>,
    /// Requests left.
    pub remaining: u32,
    /// Seconds until more are allowed.
    pub reset: u32,
}

impl RateFields {
    /// As recorded from the REST API.
    #[must_use]
    pub fn high() -> Self {
        let windows = vec![(160, 1), (1_620, 60), (97_200, 3_600)];
        Self { bucket: "high".to_owned(), windows, remaining: 159, reset: 1 }
    }

    /// A smaller bucket, such as some other calls have.
    #[must_use]
    pub fn low() -> Self {
        Self { bucket: "low".to_owned(), windows: vec![(10, 60)], remaining: 9, reset: 60 }
    }

    /// The value of `X-Ratelimit-Limit`, with names as recorded.
    pub(super) fn limit(&self) -> String {
        let first = self.windows.first().map_or(0, |(requests, _)| *requests);
        let windows = self.windows.iter().map(|(requests, seconds)| {
            let per = match seconds {
                1 => "second",
                60 => "minute",
                _ => "hour",
            };
            let bucket = &self.bucket;
            format!(
                ", {requests};w={seconds};name=\"crd|generic_key^api-gateway.api-rest|generic_key^per_{per}|principal_id|ratelimit_bucket^{bucket}\""
            )
        });
        windows.fold(first.to_string(), |value, window| value + &window)
    }
}

/// Faults by their names.
fn named() -> [(&'static str, Fault); 25] {
    let cut = |reason, declared| Fault::CutBody { reason, declared };
    [
        ("errored", Fault::Errored),
        ("no-healthy-upstream", Fault::NoHealthyUpstream),
        ("html", Fault::Html),
        ("gzip", Fault::Gzip),
        ("rate-high", Fault::RateFields(RateFields::high())),
        ("rate-low", Fault::RateFields(RateFields::low())),
        ("hang", Fault::Hang),
        ("hang-mid-body", Fault::HangMidBody),
        ("reset", Fault::Reset),
        ("reset-mid-body", Fault::ResetMidBody),
        ("disconnect", Fault::Disconnect),
        ("garbage", Fault::Garbage),
        ("endless-continue", Fault::EndlessContinue),
        ("switching-protocols", Fault::SwitchingProtocols),
        ("bad-chunk", Fault::BadChunk),
        ("gzip-chunked", Fault::GzipChunked),
        ("length-and-chunked", Fault::LengthAndChunked),
        ("refused-stream", Fault::RefusedStream),
        ("cut-no-error", cut(Reason::NO_ERROR, false)),
        ("cut-no-error-declared", cut(Reason::NO_ERROR, true)),
        ("cut-cancel", cut(Reason::CANCEL, false)),
        ("cut-cancel-declared", cut(Reason::CANCEL, true)),
        ("goaway-before", Fault::GoAwayBefore),
        ("goaway-after", Fault::GoAwayAfter),
        ("goaway-answered", Fault::GoAwayAnswered),
    ]
}

impl Fault {
    /// All that can be read as a fault, in words.
    #[must_use]
    pub fn forms() -> String {
        let names = named().map(|(name, _)| name).join(", ");
        format!(
            "STATUS (100 to 999), 429:SECONDS, delay:MILLISECONDS, redirect:URL, oversize:BYTES, big-headers:BYTES, field:NAME=VALUE, trailer:NAME=VALUE, {names}"
        )
    }
}

impl FromStr for Fault {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (word, value) = text.split_once(':').map_or((text, None), |(word, value)| (word, Some(value)));
        let number = || value.and_then(|value| value.parse::<u64>().ok());
        let size = || number().and_then(|value| usize::try_from(value).ok());
        let field = || value?.split_once('=').map(|(name, value)| (name.to_owned(), value.to_owned()));
        let found = match (word, value) {
            ("429", Some(_)) => number().map(|retry_after| Self::TooManyRequests { retry_after }),
            ("delay", _) => number().map(|value| Self::Delay(Duration::from_millis(value))),
            ("redirect", _) => value.map(|to| Self::Redirect(to.to_owned())),
            ("oversize", _) => size().map(Self::Oversize),
            ("big-headers", _) => size().map(Self::BigHeaders),
            ("field", _) => field().map(|(name, value)| Self::ReplaceHeader(name, value)),
            ("trailer", _) => field().map(|(name, value)| Self::Trailer(name, value)),
            (_, Some(_)) => None,
            (_, None) => {
                let status =
                    word.parse().ok().filter(|status| (100..1_000).contains(status)).map(Self::Status);
                status.or_else(|| named().into_iter().find(|(name, _)| *name == word).map(|(_, fault)| fault))
            }
        };
        found.ok_or_else(|| format!("{text}: no such fault; there are {}", Self::forms()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_are_read_by_name() {
        for (text, fault) in [
            ("401", Fault::Status(401)),
            ("429:1800", Fault::TooManyRequests { retry_after: 1_800 }),
            ("delay:20", Fault::Delay(Duration::from_millis(20))),
            ("redirect:https://a/b", Fault::Redirect("https://a/b".to_owned())),
            (
                "field:cache-status=a; hit",
                Fault::ReplaceHeader("cache-status".to_owned(), "a; hit".to_owned()),
            ),
            ("trailer:set-cookie=a=b", Fault::Trailer("set-cookie".to_owned(), "a=b".to_owned())),
            ("oversize:9", Fault::Oversize(9)),
        ] {
            assert_eq!(text.parse(), Ok(fault), "{text}");
        }
        for (name, fault) in named() {
            assert_eq!(name.parse(), Ok(fault));
        }
        for text in ["", "99", "1000", "429:", "429:x", "hang:1", "field:a", "unknown"] {
            assert!(text.parse::<Fault>().is_err(), "{text}");
        }
    }

    #[test]
    fn rate_fields_are_as_recorded() {
        let name = |per| {
            format!(
                "crd|generic_key^api-gateway.api-rest|generic_key^per_{per}|principal_id|ratelimit_bucket^high"
            )
        };
        let recorded = format!(
            "160, 160;w=1;name=\"{}\", 1620;w=60;name=\"{}\", 97200;w=3600;name=\"{}\"",
            name("second"),
            name("minute"),
            name("hour")
        );
        assert_eq!(RateFields::high().limit(), recorded);
    }
}
