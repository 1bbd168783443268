//! Why the upstream gave no whole answer.

use std::error::Error;
use std::io;

use http::{HeaderMap, StatusCode};

use crate::transport::{ConnectTimeout, DnsFailed};

/// An attempt that ended without a whole answer.
#[derive(Debug, thiserror::Error)]
#[error("{}", kind.as_str())]
pub struct Failed {
    /// Which kind of failure.
    pub kind: FailedKind,
    /// The head of the answer, where it had come.
    pub head: Option<Box<(StatusCode, HeaderMap)>>,
    /// What the libraries say; for the log only.
    pub source: Option<Box<dyn Error + Send + Sync>>,
}

impl Failed {
    /// One without head or source.
    #[must_use]
    pub fn of(kind: FailedKind) -> Self {
        Self { kind, head: None, source: None }
    }
}

/// The kinds of failure: RFC 9209 §2.3's error types, as far as they can happen here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FailedKind {
    /// The upstream's name was not resolved.
    Dns,
    /// No connection in time.
    ConnectTimeout,
    /// The connection was refused.
    Refused,
    /// No route to the upstream, or a proxy on the way that refused.
    Unavailable,
    /// The upstream's certificate is not one that we trust.
    TlsCertificate,
    /// TLS failed otherwise.
    TlsProtocol,
    /// The connection ended before any of the answer came.
    Terminated,
    /// The answer did not come in time.
    ResponseTimeout,
    /// The answer broke off.
    Incomplete,
    /// The answer is larger than `upstream.max_answer`.
    TooLarge,
    /// The answer's header section is too large.
    HeadTooLarge,
    /// What came is no HTTP.
    Protocol,
    /// The gateway stopped while it waited.
    Stopped,
    /// All clients had left, and another request needed its slot.
    Abandoned,
}

impl FailedKind {
    /// The error type of RFC 9209 §2.3.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Dns => "dns_error",
            Self::ConnectTimeout => "connection_timeout",
            Self::Refused => "connection_refused",
            Self::Unavailable => "destination_unavailable",
            Self::TlsCertificate => "tls_certificate_error",
            Self::TlsProtocol => "tls_protocol_error",
            Self::Terminated => "connection_terminated",
            Self::ResponseTimeout => "http_response_timeout",
            Self::Incomplete => "http_response_incomplete",
            Self::TooLarge => "http_response_body_size",
            Self::HeadTooLarge => "http_response_header_section_size",
            Self::Protocol => "http_protocol_error",
            Self::Stopped => "gateway_stopped",
            Self::Abandoned => "abandoned",
        }
    }
}

/// The kind of an error that came before the answer's head.
pub(super) fn before_head(error: &hyper_util::client::legacy::Error) -> FailedKind {
    if error.is_connect() { connecting(error) } else { exchanging(error, FailedKind::Terminated) }
}

/// The kind of an error that came while the body was read.
pub(super) fn in_body(error: &(dyn Error + 'static)) -> FailedKind {
    if find::<http_body_util::LengthLimitError>(error).is_some() {
        return FailedKind::TooLarge;
    }
    exchanging(error, FailedKind::Incomplete)
}

fn connecting(error: &(dyn Error + 'static)) -> FailedKind {
    if find::<ConnectTimeout>(error).is_some() {
        FailedKind::ConnectTimeout
    } else if find::<DnsFailed>(error).is_some() {
        FailedKind::Dns
    } else if let Some(tls) = find::<rustls::Error>(error) {
        if let rustls::Error::InvalidCertificate(_) = tls {
            FailedKind::TlsCertificate
        } else {
            FailedKind::TlsProtocol
        }
    } else {
        match find::<io::Error>(error).map(io::Error::kind) {
            Some(io::ErrorKind::ConnectionRefused) => FailedKind::Refused,
            Some(io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset) => FailedKind::Terminated,
            _ => FailedKind::Unavailable,
        }
    }
}

fn exchanging(error: &(dyn Error + 'static), otherwise: FailedKind) -> FailedKind {
    match find::<hyper::Error>(error) {
        Some(error) if error.is_parse_too_large() => FailedKind::HeadTooLarge,
        Some(error) if error.is_parse() => FailedKind::Protocol,
        _ => otherwise,
    }
}

/// The first `T` in a chain of errors. An `io::Error` hides what it wraps from `source`.
fn find<'a, T: Error + 'static>(error: &'a (dyn Error + 'static)) -> Option<&'a T> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref::<T>() {
            return Some(found);
        }
        let wrapped = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        next = match wrapped {
            Some(wrapped) => Some(wrapped),
            None => error.source(),
        };
    }
    None
}
