//! The certificate that we show to a server.

use std::path::PathBuf;

use rustls::client::WantsClientCert;
use rustls::{ClientConfig, ConfigBuilder};
use rustls_pki_types::pem::{Error, PemObject as _};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use super::{TransportError, builder};

/// The files of a certificate and its key. They are read at each connection, so that they may be replaced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientIdentity {
    /// PEM: our certificate, then those that signed it.
    pub certificate: PathBuf,
    /// PEM: its private key.
    pub key: PathBuf,
}

impl ClientIdentity {
    /// True files, and a key that is the certificate's.
    ///
    /// # Errors
    /// [`TransportError`].
    pub fn check(&self) -> Result<(), TransportError> {
        self.show(builder(rustls::RootCertStore::empty())?).map(drop)
    }

    pub(super) fn show(
        &self,
        builder: ConfigBuilder<ClientConfig, WantsClientCert>,
    ) -> Result<ClientConfig, TransportError> {
        let failed = |path: &PathBuf, source| TransportError::Identity { path: path.clone(), source };
        let chain = CertificateDer::pem_file_iter(&self.certificate).and_then(Iterator::collect);
        let chain: Vec<_> = chain.map_err(|error| failed(&self.certificate, error))?;
        if chain.is_empty() {
            return Err(failed(&self.certificate, Error::NoItemsFound));
        }
        let key = PrivateKeyDer::from_pem_file(&self.key).map_err(|error| failed(&self.key, error))?;
        Ok(builder.with_client_auth_cert(chain, key)?)
    }
}
