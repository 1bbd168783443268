//! TLS to a peer whose certificate is known beforehand: the gateway itself, asked on its own machine.

use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, SignatureScheme};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use x509_parser::prelude::{FromDer as _, X509Certificate};

use crate::error_text::BoxError;

/// The public key of a certificate. Who shows a certificate with it in a handshake has proved to hold its private key, so
/// that names, issuer and validity do not matter; and one that was renewed with the same key is the same peer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pin(Vec<u8>);

impl Pin {
    /// The pin of the first certificate of a file, which is the one that a server shows as its own.
    ///
    /// # Errors
    /// If there is no certificate in `pem`.
    pub fn of(pem: &[u8]) -> Result<Self, BoxError> {
        Self::read(&CertificateDer::from_pem_slice(pem)?).ok_or_else(|| "no certificate in it".into())
    }

    fn read(certificate: &CertificateDer<'_>) -> Option<Self> {
        let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
        Some(Self(certificate.public_key().raw.to_vec()))
    }
}

/// The settings of a client that takes the peer with this pin and no other; without one, any peer.
///
/// # Errors
/// If TLS refuses its settings.
pub fn pinned(pin: Option<Pin>) -> Result<ClientConfig, rustls::Error> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let verifier = Verifier { pin, provider: Arc::clone(&provider) };
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

#[derive(Debug)]
struct Verifier {
    pin: Option<Pin>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if self.pin.is_none() || Pin::read(end_entity) == self.pin {
            Ok(ServerCertVerified::assertion())
        } else {
            Err(CertificateError::ApplicationVerificationFailure.into())
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signed, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signed, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair};

    use super::*;

    #[test]
    fn a_certificate_with_the_same_key_is_the_same_peer() {
        let [key, other] = [(); 2].map(|()| KeyPair::generate().expect("a key"));
        let pin = |key: &KeyPair, name: &str| {
            let params = CertificateParams::new([name.to_owned()]).expect("a name");
            let certificate = params.self_signed(key).expect("a certificate");
            Pin::of(certificate.pem().as_bytes()).expect("a pin")
        };
        assert_eq!(pin(&key, "a.example"), pin(&key, "b.example"));
        assert_ne!(pin(&key, "a.example"), pin(&other, "a.example"));
        assert!(Pin::of(b"").is_err() && Pin::of(key.serialize_pem().as_bytes()).is_err());
    }
}
