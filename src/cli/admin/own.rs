//! TLS to the gateway on this machine, which is known by `tls.certificate` and asked directly, by no proxy.

use std::path::PathBuf;
use std::time::Duration;

use super::AdminError;
use crate::transport::{HttpClient, Pin, ServerTls, ServerTlsSettings, pinned};
use crate::watched_file;

#[derive(Debug)]
pub(super) struct OwnTls {
    pub(super) files: ServerTlsSettings,
    /// A probe sends nothing secret, and reads one word.
    pub(super) is_probe: bool,
}

impl OwnTls {
    /// The client for a listener that has the key of `tls.certificate` as it is now.
    pub(super) fn client(&self, timeout: Duration) -> Result<HttpClient, AdminError> {
        let failed = |source| AdminError::Certificate { path: self.certificate(), source };
        let tls = pinned(self.pin()?).map_err(|error| failed(error.into()))?;
        Ok(HttpClient::direct(tls, timeout))
    }

    pub(super) fn certificate(&self) -> PathBuf {
        self.files.certificate.clone()
    }

    /// The pin of the certificate's file.
    ///
    /// A gateway whose files were replaced by unusable ones keeps those that it loaded before, which nobody else knows. It
    /// is alive all the same, and would not start again. So a probe, which has nothing to lose, accepts any certificate
    /// then, as a kubelet always does.
    fn pin(&self) -> Result<Option<Pin>, AdminError> {
        if self.is_probe && ServerTls::open(self.files.clone()).is_err() {
            return Ok(None);
        }
        let failed = |source| AdminError::Certificate { path: self.certificate(), source };
        let pem = watched_file::read(&self.files.certificate).map_err(|error| failed(error.source.into()))?;
        Pin::of(&pem).map(Some).map_err(failed)
    }
}
