//! Failures of the store, on demand.

use std::str::FromStr;
use std::time::Duration;

/// Something that goes wrong with a request for a part. Positions count the bytes of the object, not of the answer.
/// A fault at a position waits for the first answer that reaches it; of several that end an answer, the nearest is
/// taken, and the others wait for later requests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoreFault {
    /// The connection (with HTTP/2, the stream) breaks off before the byte at this position.
    Cut(u64),
    /// Nothing comes any more from this position on.
    Stall(u64),
    /// The answer breaks off before the byte at this position. From now on the object is another of the same size:
    /// other bytes, tag, generation and hash.
    Change(u64),
    /// The link is dead for requests that come after this position was reached. The answer goes on.
    Expire(u64),
    /// The byte at this position is another than the object's.
    Flip(u64),
    /// So many bytes a second.
    Rate(u64),
    /// The link is refused as an expired one.
    Expired,
    /// This status with an error document.
    Status(u16),
    /// 302 to this place.
    Redirect(String),
    /// The answer waits.
    Delay(Duration),
    /// No answer comes.
    Hang,
    /// The connection ends without an answer.
    Reset,
    /// The object is stored with gzip and decoded on its way: without length, 200 to every range, and the hash is
    /// that of other bytes.
    Transcode,
    /// 200 with the whole object, whatever range is asked for.
    IgnoreRange,
    /// 206 whose range begins so many bytes later than asked for.
    ShiftRange(u64),
}

impl StoreFault {
    /// The position at which this fault ends an answer.
    pub(super) fn end(&self) -> Option<u64> {
        match self {
            Self::Cut(at) | Self::Stall(at) | Self::Change(at) => Some(*at),
            _ => None,
        }
    }

    /// Any position that an answer must reach for this fault.
    pub(super) fn position(&self) -> Option<u64> {
        match self {
            Self::Expire(at) | Self::Flip(at) => Some(*at),
            other => other.end(),
        }
    }

    /// True if this fault is an answer by itself.
    pub(super) fn is_answer(&self) -> bool {
        matches!(self, Self::Expired | Self::Status(_) | Self::Redirect(_) | Self::Hang | Self::Reset)
    }

    /// All that can be read as a fault, in words.
    #[must_use]
    pub fn forms() -> String {
        "STATUS (100 to 999), cut:BYTE, stall:BYTE, change:BYTE, expire:BYTE, flip:BYTE, rate:BYTES-A-SECOND, expired, \
         redirect:URL, delay:MILLISECONDS, hang, reset, transcode, ignore-range, shift-range:BYTES"
            .to_owned()
    }
}

impl FromStr for StoreFault {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (word, value) = text.split_once(':').map_or((text, None), |(word, value)| (word, Some(value)));
        let number = || value.and_then(|value| value.parse::<u64>().ok());
        let found = match (word, value) {
            ("cut", _) => number().map(Self::Cut),
            ("stall", _) => number().map(Self::Stall),
            ("change", _) => number().map(Self::Change),
            ("expire", _) => number().map(Self::Expire),
            ("flip", _) => number().map(Self::Flip),
            ("rate", _) => number().filter(|rate| *rate > 0).map(Self::Rate),
            ("shift-range", _) => number().map(Self::ShiftRange),
            ("delay", _) => number().map(|value| Self::Delay(Duration::from_millis(value))),
            ("redirect", Some(to)) => Some(Self::Redirect(to.to_owned())),
            ("expired", None) => Some(Self::Expired),
            ("hang", None) => Some(Self::Hang),
            ("reset", None) => Some(Self::Reset),
            ("transcode", None) => Some(Self::Transcode),
            ("ignore-range", None) => Some(Self::IgnoreRange),
            (status, None) => {
                status.parse().ok().filter(|status| (100..1_000).contains(status)).map(Self::Status)
            }
            _ => None,
        };
        found.ok_or_else(|| format!("{text}: no such fault; there are {}", Self::forms()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_of_the_store_are_read_by_name() {
        for (text, fault) in [
            ("cut:1000", StoreFault::Cut(1_000)),
            ("stall:0", StoreFault::Stall(0)),
            ("change:7", StoreFault::Change(7)),
            ("expire:7", StoreFault::Expire(7)),
            ("flip:7", StoreFault::Flip(7)),
            ("rate:7", StoreFault::Rate(7)),
            ("expired", StoreFault::Expired),
            ("404", StoreFault::Status(404)),
            ("redirect:https://a/b", StoreFault::Redirect("https://a/b".to_owned())),
            ("delay:5", StoreFault::Delay(Duration::from_millis(5))),
            ("hang", StoreFault::Hang),
            ("reset", StoreFault::Reset),
            ("transcode", StoreFault::Transcode),
            ("ignore-range", StoreFault::IgnoreRange),
            ("shift-range:1", StoreFault::ShiftRange(1)),
        ] {
            assert_eq!(text.parse(), Ok(fault), "{text}");
        }
        for text in ["", "cut", "cut:x", "rate:0", "99", "1000", "hang:1", "redirect", "unknown"] {
            assert!(text.parse::<StoreFault>().is_err(), "{text}");
        }
    }
}
