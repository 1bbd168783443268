//! TLS towards clients: the certificate we show, the client certificates we trust, and their replacement.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use arc_swap::ArcSwap;
use rustls::crypto::CryptoProvider;
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{NoServerSessionStorage, ProducesTickets, WebPkiClientVerifier};
use rustls::{RootCertStore, ServerConfig};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer, UnixTime};
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::peer::{Certificate, time};
use crate::expiry::{Expiring, Kind};
use crate::watched_file::{self, Content, Followed, Unreadable};

/// `[tls]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// PEM: our certificate, then those that signed it.
    pub certificate: PathBuf,
    /// PEM: its private key.
    pub key: PathBuf,
    /// PEM: the CA of client certificates. Without it, none are requested.
    pub client_ca: Option<PathBuf>,
    /// PEM: client certificates that are revoked.
    pub client_crl: Option<PathBuf>,
}

/// Why TLS cannot be spoken with these files.
#[derive(Debug, thiserror::Error)]
pub enum BadTls {
    /// A file cannot be read.
    #[error(transparent)]
    Unreadable(#[from] Unreadable),
    /// A file is not what it should be.
    #[error("{key}: {what}")]
    Pem {
        /// The configuration key of the file.
        key: &'static str,
        /// The problem.
        what: String,
    },
    /// Certificate and key do not fit, or TLS refuses them.
    #[error("tls.certificate and tls.key")]
    Refused(#[from] rustls::Error),
    /// The client CA or its revocation list cannot be used.
    #[error("tls.client_ca or tls.client_crl")]
    Clients(#[from] rustls::server::VerifierBuilderError),
    /// The ticketer could not be made.
    #[error("session tickets")]
    Tickets(#[source] rustls::Error),
}

/// TLS as it is spoken now. Clones share it.
#[derive(Debug, Clone)]
pub struct ServerTls(Arc<TlsState>);

#[derive(Debug)]
struct TlsState {
    provider: Arc<CryptoProvider>,
    /// Kept across reloads, so that sessions stay resumable.
    ticketer: Arc<dyn ProducesTickets>,
    current: ArcSwap<HandshakeSettings>,
}

/// Other files, read and not in use yet.
#[derive(Debug)]
pub struct PreparedTls {
    loaded: HandshakeSettings,
    followed: Followed,
}

/// The settings that were made from one reading of the files.
#[derive(Debug)]
pub struct HandshakeSettings {
    /// The settings for handshakes.
    pub config: Arc<ServerConfig>,
    /// Everything in them that has an end.
    pub expiring: Vec<Expiring>,
    verifier: Option<Arc<dyn ClientCertVerifier>>,
    settings: Settings,
}

impl ServerTls {
    /// Reads the files for the first time; the [`Followed`] keeps them read.
    ///
    /// # Errors
    /// [`BadTls`].
    pub fn open(settings: Settings) -> Result<(Self, Followed), BadTls> {
        let (followed, contents) = follow(&settings)?;
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let ticketer = rustls::crypto::aws_lc_rs::Ticketer::new().map_err(BadTls::Tickets)?;
        let loaded = load(settings, &provider, &ticketer, &contents)?;
        let shared = TlsState { provider, ticketer, current: ArcSwap::from_pointee(loaded) };
        Ok((Self(Arc::new(shared)), followed))
    }

    /// Takes new contents of the files.
    ///
    /// # Errors
    /// [`BadTls`]; the old ones stay in force.
    pub fn replace(&self, contents: &[Content]) -> Result<(), BadTls> {
        let TlsState { provider, ticketer, current } = &*self.0;
        current.store(Arc::new(load(current.load().settings.clone(), provider, ticketer, contents)?));
        Ok(())
    }

    /// Reads other files.
    ///
    /// # Errors
    /// [`BadTls`].
    pub fn prepare(&self, settings: Settings) -> Result<PreparedTls, BadTls> {
        let (followed, contents) = follow(&settings)?;
        let loaded = load(settings, &self.0.provider, &self.0.ticketer, &contents)?;
        Ok(PreparedTls { loaded, followed })
    }

    /// Uses what was prepared from now on; the [`Followed`] takes the place of the one before.
    pub(crate) fn reopen(&self, PreparedTls { loaded, followed }: PreparedTls) -> Followed {
        self.0.current.store(Arc::new(loaded));
        followed
    }

    /// True if these are the files in use.
    pub(crate) fn uses(&self, settings: &Settings) -> bool {
        self.0.current.load().settings == *settings
    }

    /// The settings of new handshakes.
    pub(crate) fn now(&self) -> Arc<HandshakeSettings> {
        self.0.current.load_full()
    }
}

impl HandshakeSettings {
    /// Verifies a client's certificates as a new handshake would; what they say, where they are good.
    pub(crate) fn verify(&self, chain: &[CertificateDer<'_>], now: SystemTime) -> Option<Arc<Certificate>> {
        let (end_entity, intermediates) = chain.split_first()?;
        let since_1970 = now.duration_since(SystemTime::UNIX_EPOCH).ok()?;
        let verifier = self.verifier.as_ref()?;
        verifier
            .verify_client_cert(end_entity, intermediates, UnixTime::since_unix_epoch(since_1970))
            .ok()?;
        Certificate::read(end_entity).map(Arc::new)
    }
}

fn follow(settings: &Settings) -> Result<(Followed, Vec<Content>), Unreadable> {
    watched_file::report_exposed(&settings.key);
    let mut paths = vec![settings.certificate.clone(), settings.key.clone()];
    paths.extend(settings.client_ca.clone());
    paths.extend(settings.client_crl.clone());
    Followed::open("tls", paths)
}

fn load(
    settings: Settings,
    provider: &Arc<CryptoProvider>,
    ticketer: &Arc<dyn ProducesTickets>,
    contents: &[Content],
) -> Result<HandshakeSettings, BadTls> {
    let mut contents = contents.iter();
    let mut next = || contents.next().map_or(&[][..], |content| content.as_slice());
    let chain: Vec<CertificateDer<'static>> = pem_all("tls.certificate", next())?;
    let mut expiring = of_chain(&settings.certificate, &chain);
    let key = PrivateKeyDer::from_pem_slice(next())
        .map_err(|error| BadTls::Pem { key: "tls.key", what: format!("no private key in it ({error})") })?;
    let mut verifier: Option<Arc<dyn ClientCertVerifier>> = None;
    if let Some(path) = &settings.client_ca {
        let mut roots = RootCertStore::empty();
        for certificate in pem_all::<CertificateDer<'static>>("tls.client_ca", next())? {
            expiring.extend(of_certificate(Kind::ClientCa, shown("tls.client_ca", path), &certificate));
            roots.add(certificate)?;
        }
        let mut builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider))
            .allow_unauthenticated();
        if let Some(path) = &settings.client_crl {
            let lists: Vec<CertificateRevocationListDer<'static>> = pem_all("tls.client_crl", next())?;
            if lists.iter().any(is_out_of_date) {
                let what = format!("a list in {} is out of date, and would revoke all", path.display());
                return Err(BadTls::Pem { key: "tls.client_crl", what });
            }
            expiring.extend(lists.iter().filter_map(|list| of_list(path, list)));
            builder = builder.with_crls(lists).enforce_revocation_expiration();
        }
        verifier = Some(builder.build()?);
    }
    let versions =
        ServerConfig::builder_with_provider(Arc::clone(provider)).with_safe_default_protocol_versions()?;
    let mut config = match &verifier {
        None => versions.with_no_client_auth(),
        Some(verifier) => versions.with_client_cert_verifier(Arc::clone(verifier)),
    }
    .with_single_cert(chain, key)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    if verifier.is_some() {
        // A resumed session skips the check of the client's certificate.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
    } else {
        config.ticketer = Arc::clone(ticketer);
    }
    Ok(HandshakeSettings { config: Arc::new(config), expiring, verifier, settings })
}

/// The key of a file, and the file.
fn shown(key: &str, path: &Path) -> String {
    format!("{key} ({})", path.display())
}

/// Our certificate, and those that it was signed with. A root is left out: who trusts it has it, and its end counts for
/// nobody then.
fn of_chain(path: &Path, chain: &[CertificateDer<'_>]) -> Vec<Expiring> {
    let of = |(at, certificate): (usize, &CertificateDer<'_>)| {
        let (_, read) = X509Certificate::from_der(certificate).ok()?;
        if at > 0 && read.subject() == read.issuer() {
            return None;
        }
        let name = shown("tls.certificate", path);
        let name = if at == 0 { name } else { format!("{name}, certificate {} in it,", at + 1) };
        of_certificate(Kind::Certificate, name, certificate)
    };
    chain.iter().enumerate().filter_map(of).collect()
}

fn of_certificate(kind: Kind, name: String, certificate: &CertificateDer<'_>) -> Option<Expiring> {
    let (_, read) = X509Certificate::from_der(certificate).ok()?;
    let validity = read.validity();
    Some(Expiring { kind, name, begins: Some(time(validity.not_before)), ends: time(validity.not_after) })
}

fn of_list(path: &Path, list: &CertificateRevocationListDer<'_>) -> Option<Expiring> {
    let (_, read) = x509_parser::parse_x509_crl(list).ok()?;
    let (begins, ends) = (Some(time(read.last_update())), time(read.next_update()?));
    Some(Expiring { kind: Kind::ClientCrl, name: shown("tls.client_crl", path), begins, ends })
}

/// True if a revocation list is out of date (RFC 5280 §5.1.2.5). An unreadable one is the verifier's to refuse.
fn is_out_of_date(list: &CertificateRevocationListDer<'_>) -> bool {
    let read = x509_parser::parse_x509_crl(list).ok();
    read.and_then(|(_, list)| list.next_update())
        .is_some_and(|next| next < x509_parser::time::ASN1Time::now())
}

fn pem_all<T: PemObject>(key: &'static str, pem: &[u8]) -> Result<Vec<T>, BadTls> {
    let bad = |what: String| BadTls::Pem { key, what };
    let found: Vec<T> =
        T::pem_slice_iter(pem).collect::<Result<_, _>>().map_err(|error| bad(format!("no PEM ({error})")))?;
    if found.is_empty() { Err(bad("nothing usable in it".to_owned())) } else { Ok(found) }
}
