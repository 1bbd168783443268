//! The meaning of one try at the upstream: for the circuits, and for another try (pure).

use crate::admission::Evidence;
use crate::upstream::FailedKind;

/// The result of one try.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TryResult {
    /// A status.
    Status(u16),
    /// No whole answer.
    Failed(FailedKind),
}

impl TryResult {
    /// Its meaning for the circuits of host and resource. An answer that bears Snyk's request id (`is_snyks`) is Snyk's own, whatever its
    /// status; without it, an edge made it.
    pub(super) const fn evidence(self, is_snyks: bool) -> Evidence {
        match self {
            Self::Status(502..=504) if !is_snyks => Evidence::Broken,
            Self::Status(_) => Evidence::Answered,
            Self::Failed(kind) => match kind {
                FailedKind::Dns
                | FailedKind::ConnectTimeout
                | FailedKind::Refused
                | FailedKind::Unavailable
                | FailedKind::ProxyDns
                | FailedKind::ProxyRefused
                | FailedKind::ProxyUnreachable
                | FailedKind::ProxyStatus(_)
                | FailedKind::TlsCertificate
                | FailedKind::TlsProtocol => Evidence::Unreachable,
                FailedKind::NotProcessed
                | FailedKind::Terminated
                | FailedKind::ResponseTimeout
                | FailedKind::Incomplete
                | FailedKind::Protocol => Evidence::Broken,
                FailedKind::TooLarge | FailedKind::HeadTooLarge | FailedKind::NoRoom => Evidence::Answered,
                FailedKind::Stopped | FailedKind::Abandoned => Evidence::None,
            },
        }
    }

    /// True if the upstream is to blame, and another try may do better.
    pub(super) const fn is_passing(self) -> bool {
        match self {
            Self::Status(status) => matches!(status, 502..=504),
            Self::Failed(kind) => matches!(
                kind,
                FailedKind::Dns
                    | FailedKind::ConnectTimeout
                    | FailedKind::Refused
                    | FailedKind::Unavailable
                    | FailedKind::ProxyDns
                    | FailedKind::ProxyRefused
                    | FailedKind::ProxyUnreachable
                    | FailedKind::ProxyStatus(500..)
                    | FailedKind::Terminated
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
            TryResult::Failed(FailedKind::Terminated),
        ] {
            assert!(result.is_passing(), "{result:?}");
        }
        for result in [
            TryResult::Status(200),
            TryResult::Status(401),
            TryResult::Status(429),
            TryResult::Status(500),
            TryResult::Failed(FailedKind::ResponseTimeout),
            TryResult::Failed(FailedKind::TlsCertificate),
            TryResult::Failed(FailedKind::Incomplete),
        ] {
            assert!(!result.is_passing(), "{result:?}");
        }
    }
}
