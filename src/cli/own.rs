//! The admin listener of this machine's own gateway, whose address and certificate the configuration names. It is asked
//! directly, by no proxy.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::admin::BoxError;
use crate::chain::find;
use crate::files;
use crate::transport::{Pin, ServerTls, ServerTlsSettings, pinned};

/// Longest time that the gateway takes to load a certificate that was replaced.
const LOADING: Duration = Duration::from_secs(3);
/// Pause between two tries meanwhile.
const PAUSE: Duration = Duration::from_millis(100);

/// A TLS listener of the gateway on this machine.
#[derive(Debug)]
pub(super) struct OwnTls {
    pub(super) address: SocketAddr,
    pub(super) files: ServerTlsSettings,
    /// It is a probe: nothing secret is sent, and one word is read.
    pub(super) is_probe: bool,
}

/// No TLS connection to the gateway came about.
#[derive(Debug)]
pub(super) enum NoConnection {
    /// Nobody listens.
    Nobody(io::Error),
    /// `tls.certificate` cannot be read.
    Certificate { path: PathBuf, source: BoxError },
    /// The listener does not have the key of `tls.certificate`.
    OtherCertificate(PathBuf),
    /// The listener does not speak TLS, or not with us.
    Handshake(BoxError),
}

impl OwnTls {
    /// Connects to the listener that has the key of `tls.certificate`. Where the file was replaced just now, the gateway gets the
    /// time to load it, within `time`.
    pub(super) async fn connect(&self, time: Duration) -> Result<TlsStream<TcpStream>, NoConnection> {
        let until = Instant::now() + LOADING.min(time * 3 / 4);
        loop {
            match self.connect_once().await {
                Err(NoConnection::OtherCertificate(_)) if Instant::now() < until => sleep(PAUSE).await,
                ended => return ended,
            }
        }
    }

    async fn connect_once(&self) -> Result<TlsStream<TcpStream>, NoConnection> {
        let config = pinned(self.pin()?).map_err(|error| NoConnection::Handshake(error.into()))?;
        let tcp = TcpStream::connect(self.address).await.map_err(NoConnection::Nobody)?;
        let name = ServerName::from(self.address.ip());
        let handshake = TlsConnector::from(config).connect(name, tcp).await;
        handshake.map_err(|error| match find::<rustls::Error>(&error) {
            Some(rustls::Error::InvalidCertificate(_)) => {
                NoConnection::OtherCertificate(self.files.certificate.clone())
            }
            _ => NoConnection::Handshake(error.into()),
        })
    }

    /// The pin of the file as it is now.
    ///
    /// A gateway whose files were replaced by others that it cannot use goes on with those that it loaded before, which
    /// nobody else knows. It is alive all the same, and would not start again. So a probe, which has nothing to lose, takes
    /// any certificate then, as a kubelet always does.
    fn pin(&self) -> Result<Option<Pin>, NoConnection> {
        if self.is_probe && ServerTls::open(self.files.clone()).is_err() {
            return Ok(None);
        }
        let path = &self.files.certificate;
        let failed = |source| NoConnection::Certificate { path: path.clone(), source };
        let pem = files::read(path).map_err(|error| failed(error.source.into()))?;
        Pin::of(&pem).map(Some).map_err(failed)
    }
}
