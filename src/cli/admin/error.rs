//! The errors of a call of the admin API: each says what to do.

use std::path::PathBuf;
use std::time::Duration;

use http::StatusCode;

use super::super::CommandError;
use super::AdminAddress;
use crate::error_text::BoxError;

/// A call of the admin API failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AdminError {
    #[error("admin.listen is empty, so the gateway has no admin listener: set it, or give --admin")]
    NotSet,
    #[error("admin.listen takes any free port: give --admin with the one that the gateway's log names")]
    FreePort,
    #[error("{}", path.display())]
    TokenFile { path: PathBuf, source: BoxError },
    #[error("the token could be read on the way to {0}: use https://, or ask on the gateway's own machine")]
    InTheClear(AdminAddress),
    #[error("no gateway answers at {address}: is it running, and is admin.listen set?")]
    Unreachable { address: AdminAddress, source: BoxError },
    #[error(
        "{address} shows a certificate that is not trusted: name who signed it with --ca, and ask by a name that is in it; on the gateway's own machine leave --admin out, and tls.certificate itself is trusted"
    )]
    NotTrusted { address: AdminAddress, source: BoxError },
    #[error(
        "what listens at {address} shows another certificate than tls.certificate ({}): either the gateway cannot use that file (its log says why: \"file reload failed\"), or something else has the address; --admin {address} with --ca trusts another one",
        path.display()
    )]
    OtherCertificate { address: AdminAddress, path: PathBuf },
    #[error(
        "tls.certificate ({}) cannot be used to know the gateway by: run this as a user that may read it, or give --admin with --ca",
        path.display()
    )]
    Certificate { path: PathBuf, source: BoxError },
    #[error(
        "{address} does not speak TLS as a gateway does: is another program there, or is this not its configuration?"
    )]
    Handshake { address: AdminAddress, source: BoxError },
    #[error("{address} gave no answer within {} s", time.as_secs())]
    TooSlow { address: AdminAddress, time: Duration },
    #[error("the answer of {address} cannot be read: check --admin and admin.listen")]
    Unreadable { address: AdminAddress, source: BoxError },
    #[error(
        "the gateway at {0} wants its admin token: set admin.token_file (EXPORTGATE_ADMIN_TOKEN_FILE), or give --token-file"
    )]
    NoToken(AdminAddress),
    #[error("the gateway at {address} refuses the token in {}: it must be the one in its own admin.token_file", path.display())]
    WrongToken { address: AdminAddress, path: PathBuf },
    #[error("the gateway at {address} refused the call: {title}: {detail} ({status})")]
    Refused { address: AdminAddress, status: StatusCode, title: String, detail: String },
    #[error("{address} is not an admin listener of exportgate ({status}): check --admin and admin.listen")]
    Stranger { address: AdminAddress, status: StatusCode },
    #[error("cannot connect to {0}")]
    Transport(AdminAddress, #[source] BoxError),
}

impl From<AdminError> for CommandError {
    fn from(error: AdminError) -> Self {
        Self::Other("admin call failed", error.into())
    }
}
