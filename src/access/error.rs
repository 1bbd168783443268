//! Reasons to refuse a request before it is served.

use super::policy::PolicyError;
use super::quota::QuotaError;

/// The reason why the sender of a request is not identified.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IdentifyError {
    /// It does not name its host exactly once in a valid form (RFC 9110 §7.2).
    Host,
    /// Its body's length is ambiguous (RFC 9112 §6).
    Framing,
    /// A web page sent it: it has an `Origin` (RFC 6454 §7), or a `Sec-Fetch-Site` other than `none`.
    WebPage,
    /// Its target is in absolute-form (RFC 9112 §3.2.2), which is for forward proxies.
    TargetForm,
    /// It came to a loopback listener and names another host.
    ForeignHost,
    /// It came to a loopback listener or a Unix socket, and another proxy forwarded it.
    Forwarded,
    /// It lacks `access.required_header`.
    RequiredHeader,
    /// No known client sent it.
    Unknown(Reason),
    /// No known client sent it, and its address has failed too often within a minute.
    TooManyFailures(Reason),
}

/// The reason why a request is from no known client. It is logged and never sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// It has no key, JWT or certificate, and no known Unix user sent it.
    Nothing,
    /// It has credentials of more than one client.
    Conflicting,
    /// A key with a typing error.
    MalformedKey,
    /// A key of no client.
    UnknownKey,
    /// An expired key.
    ExpiredKey,
    /// A JWT that is malformed, or for another audience.
    BadToken,
    /// A JWT that no key of the issuer signed.
    UnknownSigner,
    /// An expired JWT.
    ExpiredToken,
    /// A valid JWT with the claims of no client.
    UnknownToken,
    /// A valid certificate with the names of no client.
    UnknownCertificate,
    /// An expired certificate.
    ExpiredCertificate,
    /// A certificate that was revoked, or whose authority was removed, since its connection was opened.
    RefusedCertificate,
    /// A Unix user that is no client.
    UnknownUser,
    /// More than one client matches.
    Ambiguous,
    /// The request is not acceptable from any client.
    NotForUs,
}

impl Reason {
    /// Its value in the log.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Nothing => "no_client_key",
            Self::Conflicting => "conflicting_credentials",
            Self::MalformedKey => "malformed_key",
            Self::UnknownKey => "unknown_key",
            Self::ExpiredKey => "expired_key",
            Self::BadToken => "bad_token",
            Self::UnknownSigner => "unknown_signer",
            Self::ExpiredToken => "expired_token",
            Self::UnknownToken => "unknown_token",
            Self::UnknownCertificate => "unknown_certificate",
            Self::ExpiredCertificate => "expired_certificate",
            Self::RefusedCertificate => "refused_certificate",
            Self::UnknownUser => "unknown_user",
            Self::Ambiguous => "ambiguous",
            Self::NotForUs => "not_for_us",
        }
    }
}

/// The reason to refuse a request of a known client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PermitError {
    /// The policy does not allow it.
    Denied(PolicyError),
    /// A limit of the client is reached.
    Exceeded(QuotaError),
}
