//! Attempts that brought no whole answer.

use std::error::Error;
use std::io;
use std::time::Duration;

use http::{HeaderMap, StatusCode};

use crate::error_text::find;
use crate::transport::{ConnectError, ConnectStage, RequestError};

/// An attempt that ended without a whole answer.
#[derive(Debug, thiserror::Error)]
#[error("{}", kind.as_str())]
pub struct UpstreamError {
    /// The kind of failure.
    pub kind: UpstreamErrorKind,
    /// The head of the answer, where it had come.
    pub head: Option<Box<(StatusCode, HeaderMap)>>,
    /// The error of a library; for the log only.
    pub source: Option<Box<dyn Error + Send + Sync>>,
}

impl UpstreamError {
    /// One without head or source.
    pub(crate) fn of(kind: UpstreamErrorKind) -> Self {
        Self { kind, head: None, source: None }
    }

    /// An answer that did not come in time.
    pub(super) fn late(missing: &str, limit: Duration) -> Self {
        let source =
            format!("{missing} within {limit:?} (upstream.header_timeout, upstream.request_timeout)");
        Self { source: Some(source.into()), ..Self::of(UpstreamErrorKind::ResponseTimeout) }
    }
}

/// The kinds of failure: RFC 9209 §2.3's error types, as far as they can happen here, and some that it does not tell apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UpstreamErrorKind {
    /// The upstream's name was not resolved.
    Dns,
    /// No connection in time.
    ConnectTimeout,
    /// The connection was refused.
    Refused,
    /// No route to the upstream, or it ended the connection while that was opened.
    Unavailable,
    /// The proxy's name was not resolved.
    ProxyDns,
    /// The proxy refused the connection.
    ProxyRefused,
    /// No route to the proxy, or no answer of it.
    ProxyUnreachable,
    /// The proxy opened no tunnel, and answered with this status instead.
    ProxyStatus(u16),
    /// The upstream's certificate is not one that we trust.
    TlsCertificate,
    /// TLS failed otherwise.
    TlsProtocol,
    /// The upstream closed the connection or refused the stream, and has not processed the request by its own word.
    NotProcessed,
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
    /// The answer is no HTTP.
    Protocol,
    /// There was no room in memory for the answer.
    NoRoom,
    /// The gateway stopped while it waited.
    Stopped,
    /// All clients had left, and another request needed its slot.
    Abandoned,
}

impl UpstreamErrorKind {
    /// A word for it, which never changes.
    pub(crate) const fn as_str(self) -> &'static str {
        self.names().0
    }

    /// The error type of RFC 9209 §2.3.
    pub(crate) const fn proxy_error(self) -> &'static str {
        self.names().1
    }

    const fn names(self) -> (&'static str, &'static str) {
        match self {
            Self::Dns => same("dns_error"),
            Self::ConnectTimeout => same("connection_timeout"),
            Self::Refused => same("connection_refused"),
            Self::Unavailable => same("destination_unavailable"),
            Self::ProxyDns => ("proxy_dns", "dns_error"),
            Self::ProxyRefused => ("proxy_refused", "connection_refused"),
            Self::ProxyUnreachable => ("proxy_unreachable", "destination_unavailable"),
            Self::ProxyStatus(_) => ("proxy_status", "destination_unavailable"),
            Self::TlsCertificate => same("tls_certificate_error"),
            Self::TlsProtocol => same("tls_protocol_error"),
            Self::NotProcessed => ("not_processed", "connection_terminated"),
            Self::Terminated => same("connection_terminated"),
            Self::ResponseTimeout => same("http_response_timeout"),
            Self::Incomplete => same("http_response_incomplete"),
            Self::TooLarge => same("http_response_body_size"),
            Self::HeadTooLarge => same("http_response_header_section_size"),
            Self::Protocol => same("http_protocol_error"),
            Self::NoRoom => ("no_room", "proxy_internal_error"),
            Self::Stopped => ("gateway_stopped", "proxy_internal_response"),
            Self::Abandoned => ("abandoned", "proxy_internal_response"),
        }
    }

    /// True if the proxy failed.
    pub(crate) const fn is_proxys(self) -> bool {
        matches!(self, Self::ProxyDns | Self::ProxyRefused | Self::ProxyUnreachable | Self::ProxyStatus(_))
    }

    /// True if there was no connection to the upstream, so that nothing was sent.
    pub(crate) const fn is_unreachable(self) -> bool {
        self.is_proxys()
            || matches!(
                self,
                Self::Dns
                    | Self::ConnectTimeout
                    | Self::Refused
                    | Self::Unavailable
                    | Self::TlsCertificate
                    | Self::TlsProtocol
            )
    }

    /// True if the upstream has certainly not processed the request.
    pub(crate) const fn is_not_processed(self) -> bool {
        self.is_unreachable() || matches!(self, Self::NotProcessed)
    }
}

#[cfg(test)]
impl UpstreamErrorKind {
    /// All kinds. A new one is missing in `after` until it is added to them.
    pub(crate) fn all() -> impl Iterator<Item = Self> {
        std::iter::successors(Some(Self::Dns), |kind| kind.after())
    }

    const fn after(self) -> Option<Self> {
        Some(match self {
            Self::Dns => Self::ConnectTimeout,
            Self::ConnectTimeout => Self::Refused,
            Self::Refused => Self::Unavailable,
            Self::Unavailable => Self::ProxyDns,
            Self::ProxyDns => Self::ProxyRefused,
            Self::ProxyRefused => Self::ProxyUnreachable,
            Self::ProxyUnreachable => Self::ProxyStatus(502),
            Self::ProxyStatus(_) => Self::TlsCertificate,
            Self::TlsCertificate => Self::TlsProtocol,
            Self::TlsProtocol => Self::NotProcessed,
            Self::NotProcessed => Self::Terminated,
            Self::Terminated => Self::ResponseTimeout,
            Self::ResponseTimeout => Self::Incomplete,
            Self::Incomplete => Self::TooLarge,
            Self::TooLarge => Self::HeadTooLarge,
            Self::HeadTooLarge => Self::Protocol,
            Self::Protocol => Self::NoRoom,
            Self::NoRoom => Self::Stopped,
            Self::Stopped => Self::Abandoned,
            Self::Abandoned => return None,
        })
    }
}

/// The name of what RFC 9209 calls so too.
const fn same(name: &'static str) -> (&'static str, &'static str) {
    (name, name)
}

/// The kind of an error that came before the answer's head.
pub(super) fn before_head(error: &RequestError) -> UpstreamErrorKind {
    match error {
        RequestError::Connect(error) => {
            find::<ConnectError>(error).map_or(UpstreamErrorKind::Unavailable, connecting)
        }
        RequestError::NotProcessed(_) => UpstreamErrorKind::NotProcessed,
        RequestError::Failed(error) => exchanging(error, UpstreamErrorKind::Terminated),
        RequestError::Unsound => UpstreamErrorKind::Protocol,
    }
}

/// The kind of an error that came while the body was read.
pub(super) fn in_body(error: &(dyn Error + 'static)) -> UpstreamErrorKind {
    if find::<http_body_util::LengthLimitError>(error).is_some() {
        return UpstreamErrorKind::TooLarge;
    }
    exchanging(error, UpstreamErrorKind::Incomplete)
}

fn connecting(error: &ConnectError) -> UpstreamErrorKind {
    use UpstreamErrorKind as K;
    let is_refused = find::<io::Error>(error).map(io::Error::kind) == Some(io::ErrorKind::ConnectionRefused);
    if error.proxy().is_some() {
        return match (error.stage, error.refused_with()) {
            (_, Some(status)) => K::ProxyStatus(status.as_u16()),
            (ConnectStage::Resolve, None) => K::ProxyDns,
            (ConnectStage::Connect, None) if is_refused => K::ProxyRefused,
            (_, None) => K::ProxyUnreachable,
        };
    }
    match error.stage {
        _ if error.is_timeout() => K::ConnectTimeout,
        ConnectStage::Resolve => K::Dns,
        ConnectStage::Connect if is_refused => K::Refused,
        ConnectStage::Connect | ConnectStage::Tunnel | ConnectStage::Address => K::Unavailable,
        ConnectStage::Tls => match find::<rustls::Error>(error) {
            Some(rustls::Error::InvalidCertificate(_)) => K::TlsCertificate,
            Some(_) => K::TlsProtocol,
            None => K::Unavailable,
        },
    }
}

fn exchanging(error: &(dyn Error + 'static), otherwise: UpstreamErrorKind) -> UpstreamErrorKind {
    match find::<hyper::Error>(error) {
        Some(error) if error.is_parse_too_large() => UpstreamErrorKind::HeadTooLarge,
        Some(error) if error.is_parse() => UpstreamErrorKind::Protocol,
        _ => otherwise,
    }
}
