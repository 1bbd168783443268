//! The meaning of one try at the upstream: for the circuits, and for another try (pure).

use crate::admission::Evidence;
use crate::upstream::UpstreamErrorKind;

/// The result of one try.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TryResult {
    /// A status.
    Status(u16),
    /// No whole answer.
    Failed(UpstreamErrorKind),
}

impl TryResult {
    /// Its meaning for the circuits of host and resource. An answer that bears Snyk's request id (`is_snyks`) is Snyk's own, whatever its
    /// status; without it, an edge made it.
    pub(super) const fn evidence(self, is_snyks: bool) -> Evidence {
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

    /// True if the upstream is to blame, and another try may do better.
    pub(super) const fn is_passing(self) -> bool {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_may_pass_is_tried_again() {
        for result in [
            TryResult::Status(502),
            TryResult::Status(503),
            TryResult::Status(504),
            TryResult::Failed(UpstreamErrorKind::Terminated),
        ] {
            assert!(result.is_passing(), "{result:?}");
        }
        for result in [
            TryResult::Status(200),
            TryResult::Status(401),
            TryResult::Status(429),
            TryResult::Status(500),
            TryResult::Failed(UpstreamErrorKind::ResponseTimeout),
            TryResult::Failed(UpstreamErrorKind::TlsCertificate),
            TryResult::Failed(UpstreamErrorKind::Incomplete),
        ] {
            assert!(!result.is_passing(), "{result:?}");
        }
    }
}
