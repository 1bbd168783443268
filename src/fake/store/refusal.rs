//! The documents with which a store refuses.

use http::Response;

use super::super::answers::{self, Body};
use super::super::links::{LinkForm, LinkProblem};

/// A reason of the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refusal {
    /// The method is not the one that was signed.
    Verb,
    /// A credential besides the link's.
    TwoCredentials,
    /// A field of the store's own that was not signed.
    Unsigned,
    Link(LinkProblem),
    NoSuchKey,
    Precondition,
    Range {
        size: u64,
    },
    Status(u16),
}

/// The store, by the form of its links.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Maker {
    Google,
    Amazon,
    AmazonTemporary,
    Cloudflare,
    Azure,
}

impl Refusal {
    pub(super) fn respond(self, form: LinkForm) -> Response<Body> {
        let maker = match form {
            LinkForm::S3V4 | LinkForm::S3V2 | LinkForm::CloudFront => Maker::Amazon,
            LinkForm::S3V4Temporary => Maker::AmazonTemporary,
            LinkForm::R2 => Maker::Cloudflare,
            LinkForm::Azure => Maker::Azure,
            LinkForm::GcsV4 | LinkForm::NoExpiry | LinkForm::NoLinks | LinkForm::EmptyObjects => {
                Maker::Google
            }
        };
        let error = self.error(maker);
        let mut response = answers::bucket_error(error.status, error.code, error.message);
        if let Self::Range { size } = self {
            answers::set(response.headers_mut(), "content-range", &format!("bytes */{size}"));
        }
        response
    }

    fn error(self, maker: Maker) -> BucketError {
        let of = |status, code, message| BucketError { status, code, message };
        let signature = "The request signature we calculated does not match the signature you provided.";
        match self {
            Self::Verb | Self::Link(LinkProblem::Mismatch) => of(403, "SignatureDoesNotMatch", signature),
            Self::Link(LinkProblem::Unsigned) => match maker {
                Maker::Google => {
                    of(400, "MissingSecurityHeader", "Your request was missing a required header.")
                }
                _ => of(403, "AccessDenied", "Access Denied"),
            },
            Self::Link(LinkProblem::Expired) => match maker {
                Maker::Google | Maker::AmazonTemporary => {
                    of(400, "ExpiredToken", "The provided token has expired.")
                }
                Maker::Amazon => of(403, "AccessDenied", "Request has expired"),
                Maker::Cloudflare => of(403, "ExpiredRequest", "Request has expired"),
                Maker::Azure => {
                    of(403, "AuthenticationFailed", "Signature not valid in the specified time frame.")
                }
            },
            Self::TwoCredentials => of(400, "InvalidArgument", "Only one auth mechanism allowed."),
            Self::Unsigned => {
                of(403, "AccessDenied", "There were headers present in the request which were not signed")
            }
            Self::NoSuchKey | Self::Status(404) => of(404, "NoSuchKey", "The specified key does not exist."),
            Self::Precondition => of(412, "PreconditionFailed", "A precondition that you set did not hold."),
            Self::Range { .. } => of(416, "InvalidRange", "The requested range cannot be satisfied."),
            Self::Status(status) => of(status, "InternalError", "The fake was told to."),
        }
    }
}

struct BucketError {
    status: u16,
    code: &'static str,
    message: &'static str,
}
