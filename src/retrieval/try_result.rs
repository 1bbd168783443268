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
    /// Its meaning for the circuits of host and resource. An answer that bears Snyk's request id (`is_snyks`) is Snyk's own,
    /// whatever its status; without it, an edge made it.
    pub(super) const fn evidence(self, is_snyks: bool) -> Evidence {
        use UpstreamErrorKind as K;
        match self {
            Self::Status(502..=504) if !is_snyks => Evidence::Broken,
            Self::Status(_) | Self::Failed(K::TooLarge | K::HeadTooLarge | K::NoRoom) => Evidence::Answered,
            Self::Failed(K::Stopped | K::Abandoned) => Evidence::None,
            Self::Failed(kind) if kind.is_unreachable() => Evidence::Unreachable,
            Self::Failed(_) => Evidence::Broken,
        }
    }

    /// True if the upstream is to blame, and another try may do better.
    pub(super) const fn is_passing(self) -> bool {
        use UpstreamErrorKind as K;
        match self {
            Self::Status(status) => matches!(status, 502..=504),
            // Somebody must mend these first.
            Self::Failed(K::TlsCertificate | K::TlsProtocol | K::ProxyStatus(..500)) => false,
            Self::Failed(kind) => kind.is_unreachable() || matches!(kind, K::Terminated),
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
