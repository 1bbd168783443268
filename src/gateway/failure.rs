//! Everything that can go wrong with a request. The answers to clients are in `table`.

use std::error::Error;
use std::sync::Arc;

use http::StatusCode;
use uuid::Uuid;

use super::via::BadVia;
use crate::access::{IdentifyError, PermitError, PolicyError, QuotaError, Reason};
use crate::downloads::CutReason;
use crate::error_text::find;
use crate::files::FilesErrorKind;
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
    /// No sound `Host`.
    Host,
    /// The end of the body can be read in two ways.
    Framing,
    /// A web page sent it.
    WebPage,
    /// On a loopback listener, a name that is not this machine's own.
    ForeignHost,
    /// On a loopback listener or a Unix socket, passed on by another proxy.
    Forwarded,
    /// `access.required_header` is missing.
    RequiredHeader,
    /// Nobody known sent it.
    Unauthenticated(Reason, Challenge),
    /// The same, from an address that failed too often.
    TooManyFailures(Reason),
    /// The policy does not allow it.
    Denied(PolicyError),
    /// The same, where `access.hide` is set.
    Hidden(PolicyError),
    /// The client asks more than it may.
    Exceeded(QuotaError),
    /// No credential is for this org or group.
    NoCredential,
    /// `Via` cannot be read.
    Via,
    /// This very instance is on the request's way already.
    Loop,
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
    /// The download was cut before it began.
    Cut(CutReason),
    /// No byte of the range is in the file, which has so many.
    Unsatisfiable(u64),
    /// `If-Match` names another version of the file.
    PreconditionFailed,
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

impl From<FailureKind> for Failure {
    fn from(kind: FailureKind) -> Self {
        Self { kind, source: None, attempt: None }
    }
}

impl From<IdentifyError> for FailureKind {
    fn from(why: IdentifyError) -> Self {
        match why {
            IdentifyError::Host => Self::Host,
            IdentifyError::Framing => Self::Framing,
            IdentifyError::WebPage => Self::WebPage,
            IdentifyError::ForeignHost => Self::ForeignHost,
            IdentifyError::Forwarded => Self::Forwarded,
            IdentifyError::RequiredHeader => Self::RequiredHeader,
            IdentifyError::Unknown(reason) => Self::Unauthenticated(reason, Challenge::Bearer),
            IdentifyError::TooManyFailures(reason) => Self::TooManyFailures(reason),
            IdentifyError::TargetForm => Self::Route(RouteError::TargetForm),
        }
    }
}

impl FailureKind {
    /// The same for a call for files, of clients that may know HTTP Basic alone.
    pub(super) fn for_files(self) -> Self {
        if let Self::Unauthenticated(reason, _) = self {
            Self::Unauthenticated(reason, Challenge::Basic)
        } else {
            self
        }
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

impl From<BadVia> for FailureKind {
    fn from(why: BadVia) -> Self {
        match why {
            BadVia::Loop => Self::Loop,
            BadVia::Malformed => Self::Via,
        }
    }
}

impl From<BadVia> for Failure {
    fn from(why: BadVia) -> Self {
        FailureKind::from(why).into()
    }
}

impl From<RouteError> for Failure {
    fn from(refusal: RouteError) -> Self {
        FailureKind::Route(refusal).into()
    }
}

impl Failure {
    /// The proxy that failed, as `HOST:PORT (VARIABLE)`.
    pub(super) fn proxy(&self) -> Option<&str> {
        find::<ConnectError>(self.source.as_deref()?)?.proxy()
    }
}

impl From<Cause> for FailureKind {
    fn from(cause: Cause) -> Self {
        Self::NoAnswer(cause)
    }
}

impl From<Cause> for Failure {
    fn from(cause: Cause) -> Self {
        FailureKind::from(cause).into()
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
        matches!(
            self,
            Self::WebPage
                | Self::ForeignHost
                | Self::Forwarded
                | Self::RequiredHeader
                | Self::Unauthenticated(..)
                | Self::TooManyFailures(_)
                | Self::Denied(_)
                | Self::Hidden(_)
                | Self::Exceeded(_)
                | Self::NoCredential
        )
    }

    /// The reason in a word or a rule, for the log; the client does not get it.
    pub(super) const fn reason(self) -> Option<&'static str> {
        if let Self::Unauthenticated(reason, _) | Self::TooManyFailures(reason) = self {
            Some(reason.as_str())
        } else if let Self::Denied(denied) | Self::Hidden(denied) = self {
            Some(denied.rule())
        } else {
            None
        }
    }
}
