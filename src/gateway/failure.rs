//! Everything that can go wrong with a request. The answers to clients are in `table`.

use std::error::Error;
use std::sync::Arc;

use http::StatusCode;
use uuid::Uuid;

use super::via::BadVia;
use crate::access::{IdentifyError, PermitError, PolicyError, QuotaError};
use crate::downloads::CutReason;
use crate::error_text::find;
use crate::files::FilesErrorKind;
use crate::named::NoExport;
use crate::retrieval::{Cause, NoAnswer};
use crate::route::RouteError;
use crate::transport::ConnectError;

/// A request that gets an answer of our own instead of the upstream's.
#[derive(Debug, Clone)]
pub(super) struct Failure {
    /// The table makes the answer of it.
    pub(super) kind: FailureKind,
    /// The error of a library; for the log only.
    pub(super) source: Option<Arc<dyn Error + Send + Sync>>,
    /// The attempt that failed, where one was made.
    pub(super) attempt: Option<Uuid>,
}

/// The kinds of failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FailureKind {
    /// It is not served, whoever sent it, or nobody known sent it.
    Unidentified(IdentifyError, Challenge),
    /// The policy does not allow it.
    Denied(PolicyError),
    /// The same, where `access.hide` is set.
    Hidden(PolicyError),
    /// The client asks more than it may.
    Exceeded(QuotaError),
    /// There is no named export of this name, for this client.
    NoSuchName,
    /// No credential is for this org or group.
    NoCredential,
    /// `Via` cannot be read, or this very instance is on the request's way already.
    Via(BadVia),
    /// The request is no call that we answer.
    Route(RouteError),
    /// The target is longer than `listener.max_target`.
    TargetTooLong,
    /// The body is larger than `listener.max_body`.
    BodyTooLarge,
    /// The body did not come within `listener.body_timeout`.
    BodyTimeout,
    /// The body broke off.
    BodyIncomplete,
    /// There is no room in memory for its body, or on its connection for its answer.
    NoRoom,
    /// There is no answer to its question.
    NoAnswer(Cause),
    /// There is no file to answer with.
    NoFile(NoFile),
}

/// The reasons that there is no file to answer with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NoFile {
    /// The files have none.
    Failed(FilesErrorKind),
    /// Instead of the results with the files, Snyk gave another answer.
    SnykAnswered {
        status: StatusCode,
        /// Its `Retry-After`, in seconds.
        retry_after: Option<u64>,
    },
    /// The named export has none.
    Named(NoExport),
    /// The download was cut before it began.
    Cut(CutReason),
    /// No byte of the range is in the file, which has so many.
    Unsatisfiable(u64),
    /// `If-Match` names another version of the file.
    PreconditionFailed,
    /// Its length is not known, and HTTP/1.0 shows no other end than that of the connection.
    LengthUnknown,
}

impl From<NoFile> for Failure {
    fn from(why: NoFile) -> Self {
        FailureKind::NoFile(why).into()
    }
}

/// The ways to authenticate that an answer names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Challenge {
    /// A key as a bearer token.
    Bearer,
    /// That, or the key as the password of HTTP Basic.
    Basic,
}

impl<T> From<T> for Failure
where
    FailureKind: From<T>,
{
    fn from(why: T) -> Self {
        Self { kind: why.into(), source: None, attempt: None }
    }
}

impl From<IdentifyError> for FailureKind {
    fn from(why: IdentifyError) -> Self {
        Self::Unidentified(why, Challenge::Bearer)
    }
}

impl From<BadVia> for FailureKind {
    fn from(why: BadVia) -> Self {
        Self::Via(why)
    }
}

impl From<RouteError> for FailureKind {
    fn from(why: RouteError) -> Self {
        Self::Route(why)
    }
}

impl From<Cause> for FailureKind {
    fn from(why: Cause) -> Self {
        Self::NoAnswer(why)
    }
}

impl FailureKind {
    /// The same for a call for files, of clients that may know HTTP Basic alone.
    pub(super) fn for_files(self) -> Self {
        if let Self::Unidentified(why, _) = self { Self::Unidentified(why, Challenge::Basic) } else { self }
    }

    /// The failure of a request that its client may not make.
    pub(super) fn not_permitted(why: PermitError, hides: bool) -> Self {
        match why {
            PermitError::Denied(denied) if hides => Self::Hidden(denied),
            PermitError::Denied(denied) => Self::Denied(denied),
            PermitError::Exceeded(exceeded) => Self::Exceeded(exceeded),
        }
    }
}

impl Failure {
    /// The proxy that failed, as `HOST:PORT (VARIABLE)`.
    pub(super) fn proxy(&self) -> Option<&str> {
        find::<ConnectError>(self.source.as_deref()?)?.proxy()
    }
}

impl From<NoAnswer> for Failure {
    fn from(NoAnswer { cause, source, attempt, .. }: NoAnswer) -> Self {
        Self { kind: cause.into(), source, attempt }
    }
}

impl FailureKind {
    /// True if the client is not known, or may not do it.
    pub(super) const fn is_denial(self) -> bool {
        use IdentifyError as I;
        if let Self::Unidentified(why, _) = self {
            return !matches!(why, I::Host | I::Framing | I::TargetForm);
        }
        matches!(
            self,
            Self::Denied(_) | Self::Hidden(_) | Self::Exceeded(_) | Self::NoCredential | Self::NoSuchName
        )
    }

    /// The reason in a word or a rule, for the log; the client does not get it.
    pub(super) const fn reason(self) -> Option<&'static str> {
        use IdentifyError as I;
        if let Self::Unidentified(I::Unknown(reason) | I::TooManyFailures(reason), _) = self {
            Some(reason.as_str())
        } else if let Self::Denied(denied) | Self::Hidden(denied) = self {
            Some(denied.rule())
        } else {
            None
        }
    }
}
