//! Whether a failed read is tried again, and when (pure).

use std::time::Duration;

use super::UpstreamErrorKind;
use super::host::Evidence;

/// `[retry]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// Most tries after the first.
    pub most: u32,
    /// The longest pause before the first of them; each later one may be twice as long.
    pub pause: Duration,
    /// Retries in a hundred requests.
    pub percent: u32,
}

/// The longest pause of all.
const MAX_PAUSE: Duration = Duration::from_secs(5);
/// What a retry costs, in parts of a request.
const COST: u32 = 100;
/// So many retries may be saved up.
const SAVED: u32 = 10;

/// How many retries there may be: a part of what is sent, so that an upstream in trouble is not sent twice as much.
#[derive(Debug)]
pub struct Allowance {
    percent: u32,
    left: u32,
}

impl Allowance {
    /// A full one.
    #[must_use]
    pub const fn new(percent: u32) -> Self {
        Self { percent, left: SAVED * COST }
    }

    /// Goes by another part from now on.
    pub fn set(&mut self, percent: u32) {
        self.percent = percent;
    }

    /// A request is sent for the first time.
    pub fn sent(&mut self) {
        self.left = (self.left + self.percent).min(SAVED * COST);
    }

    /// Takes one retry, if there is one.
    pub fn take(&mut self) -> bool {
        let left = self.left.checked_sub(COST);
        self.left = left.unwrap_or(self.left);
        left.is_some()
    }
}

/// What came of a try.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Came {
    /// A status.
    Status(u16),
    /// No whole answer.
    Failed(UpstreamErrorKind),
}

impl Came {
    /// What it says of host and resource. An answer that bears Snyk's request id (`is_snyks`) is Snyk's own, whatever its
    /// status; without it, an edge made it.
    #[must_use]
    pub const fn evidence(self, is_snyks: bool) -> Evidence {
        match self {
            Self::Status(502..=504) if !is_snyks => Evidence::Broken,
            Self::Status(_) => Evidence::Answered,
            Self::Failed(kind) => match kind {
                UpstreamErrorKind::Dns
                | UpstreamErrorKind::ConnectTimeout
                | UpstreamErrorKind::Refused
                | UpstreamErrorKind::Unavailable
                | UpstreamErrorKind::ProxyDns
                | UpstreamErrorKind::ProxyRefused
                | UpstreamErrorKind::ProxyUnreachable
                | UpstreamErrorKind::ProxyStatus(_)
                | UpstreamErrorKind::TlsCertificate
                | UpstreamErrorKind::TlsProtocol => Evidence::Unreachable,
                UpstreamErrorKind::NotProcessed
                | UpstreamErrorKind::Terminated
                | UpstreamErrorKind::ResponseTimeout
                | UpstreamErrorKind::Incomplete
                | UpstreamErrorKind::Protocol => Evidence::Broken,
                UpstreamErrorKind::TooLarge | UpstreamErrorKind::HeadTooLarge | UpstreamErrorKind::NoRoom => {
                    Evidence::Answered
                }
                UpstreamErrorKind::Stopped | UpstreamErrorKind::Abandoned => Evidence::None,
            },
        }
    }
}

impl Came {
    /// Whether the upstream is to blame, and another try may do better.
    #[must_use]
    pub const fn is_passing(self) -> bool {
        match self {
            Self::Status(status) => matches!(status, 502..=504),
            Self::Failed(kind) => matches!(
                kind,
                UpstreamErrorKind::Dns
                    | UpstreamErrorKind::ConnectTimeout
                    | UpstreamErrorKind::Refused
                    | UpstreamErrorKind::Unavailable
                    | UpstreamErrorKind::ProxyDns
                    | UpstreamErrorKind::ProxyRefused
                    | UpstreamErrorKind::ProxyUnreachable
                    | UpstreamErrorKind::ProxyStatus(500..)
                    | UpstreamErrorKind::Terminated
            ),
        }
    }
}

/// The pause before try number `tries` + 1 of a read that came to this; `None` where it is not tried again.
/// `chance` is between 0 and 1 (full jitter); `left` is the time that its client still waits.
#[must_use]
pub fn pause(came: Came, tries: u32, chance: f64, left: Duration, settings: &Settings) -> Option<Duration> {
    if !came.is_passing() || tries > settings.most {
        return None;
    }
    let longest = settings.pause.saturating_mul(1 << tries.saturating_sub(1).min(16)).min(MAX_PAUSE);
    Some(longest.mul_f64(chance.clamp(0.0, 1.0))).filter(|pause| *pause < left)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SETTINGS: Settings = Settings { most: 2, pause: Duration::from_millis(100), percent: 10 };

    #[test]
    fn only_what_may_pass_is_tried_again_and_not_for_ever() {
        let minute = Duration::from_mins(1);
        let pauses = |came, tries| pause(came, tries, 1.0, minute, &SETTINGS);
        for came in [
            Came::Status(502),
            Came::Status(503),
            Came::Status(504),
            Came::Failed(UpstreamErrorKind::Terminated),
        ] {
            assert_eq!(pauses(came, 1), Some(Duration::from_millis(100)));
            assert_eq!(pauses(came, 2), Some(Duration::from_millis(200)));
            assert_eq!(pauses(came, 3), None);
        }
        for came in [
            Came::Status(200),
            Came::Status(401),
            Came::Status(429),
            Came::Status(500),
            Came::Failed(UpstreamErrorKind::ResponseTimeout),
            Came::Failed(UpstreamErrorKind::TlsCertificate),
            Came::Failed(UpstreamErrorKind::Incomplete),
        ] {
            assert_eq!(pauses(came, 1), None, "{came:?}");
        }
        assert_eq!(pause(Came::Status(503), 1, 0.5, Duration::from_millis(50), &SETTINGS), None);
        assert_eq!(
            pause(Came::Status(503), 1, 0.0, Duration::from_millis(50), &SETTINGS),
            Some(Duration::ZERO)
        );
    }

    #[test]
    fn retries_are_a_tenth_of_what_is_sent_beyond_what_was_saved_up() {
        let mut allowance = Allowance::new(10);
        assert_eq!((0..100).filter(|_| allowance.take()).count(), 10);
        let mut retries = 0;
        for _ in 0..1_000 {
            allowance.sent();
            retries += u32::from(allowance.take());
        }
        assert_eq!(retries, 100);
    }
}
