//! Requests to a store that brought no bytes.

use http::StatusCode;

use crate::error_text::BoxError;

/// A request to a store that brought nothing, or a body that broke off.
#[derive(Debug, thiserror::Error)]
#[error("{}", kind.text())]
pub struct StoreError {
    /// The kind of failure.
    pub kind: StoreErrorKind,
    /// The store's own word for it, where it is a plain one.
    pub code: Option<String>,
    /// The error of a library; for the log only.
    pub source: Option<BoxError>,
}

/// The kinds of failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StoreErrorKind {
    /// The name leads to addresses that are not public, and that no key allows.
    AddressNotAllowed,
    /// The link has expired: one that is signed anew may work.
    Expired,
    /// The object is not there any more.
    Gone,
    /// The object is another one than before.
    Changed,
    /// The range begins behind the end of the object.
    OutOfRange {
        /// The size of the object, where the store says it.
        total: Option<u64>,
    },
    /// Another status.
    Refused(StatusCode),
    /// No connection.
    Unreachable,
    /// No connection in time, or no progress for too long.
    Timeout,
    /// The answer broke off.
    BrokenOff,
    /// The answer is not sound, or does not fit the request.
    BadAnswer,
}

impl StoreError {
    pub(super) fn of(kind: StoreErrorKind) -> Self {
        Self { kind, code: None, source: None }
    }

    pub(super) fn by(kind: StoreErrorKind, source: impl Into<BoxError>) -> Self {
        Self { source: Some(source.into()), ..Self::of(kind) }
    }
}

impl StoreErrorKind {
    /// A word for it, which never changes.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::AddressNotAllowed => "address_not_allowed",
            Self::Expired => "expired",
            Self::Gone => "gone",
            Self::Changed => "changed",
            Self::OutOfRange { .. } => "out_of_range",
            Self::Refused(_) => "refused",
            Self::Unreachable => "unreachable",
            Self::Timeout => "timeout",
            Self::BrokenOff => "broken_off",
            Self::BadAnswer => "bad_answer",
        }
    }

    /// True if the same request may work a moment later.
    #[must_use]
    pub fn passes(self) -> bool {
        match self {
            Self::Unreachable | Self::Timeout | Self::BrokenOff => true,
            Self::Refused(status) => {
                status.is_server_error()
                    || [StatusCode::TOO_MANY_REQUESTS, StatusCode::REQUEST_TIMEOUT].contains(&status)
            }
            Self::AddressNotAllowed
            | Self::Expired
            | Self::Gone
            | Self::Changed
            | Self::OutOfRange { .. }
            | Self::BadAnswer => false,
        }
    }

    fn text(self) -> String {
        match self {
            Self::AddressNotAllowed => {
                "the file store's name leads to an address that is not public (files.private_addresses names exceptions)"
                    .to_owned()
            }
            Self::Expired => "the file store says that the link has expired".to_owned(),
            Self::Gone => "the file store does not have the file any more".to_owned(),
            Self::Changed => "the file has changed in the store".to_owned(),
            Self::OutOfRange { .. } => "the range is behind the end of the file".to_owned(),
            Self::Refused(status) => format!("the file store refused the request ({})", status.as_u16()),
            Self::Unreachable => "the file store cannot be reached".to_owned(),
            Self::Timeout => "the file store made no progress in time".to_owned(),
            Self::BrokenOff => "the answer of the file store broke off".to_owned(),
            Self::BadAnswer => "the answer of the file store does not fit the request".to_owned(),
        }
    }
}
