//! The other end of a connection, and the verification of its certificate while it is open.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustls_pki_types::CertificateDer;

use crate::clock::Clock;
use crate::transport::{Connection, HandshakeSettings, Peer, ServerTls, Via};

/// Age of a verification after which an open connection's certificate is verified again.
const VERIFIED_FOR: Duration = Duration::from_mins(1);

/// The other end.
pub(super) enum RemoteEnd {
    /// One that showed no certificate.
    Plain(Arc<Peer>),
    /// One that showed a certificate, which is verified again from time to time.
    Certified(Box<CertifiedPeer>),
}

pub(super) struct CertifiedPeer {
    tls: ServerTls,
    chain: Vec<CertificateDer<'static>>,
    /// The last verification of the certificate.
    seen: Mutex<Verification>,
    clock: Clock,
}

struct Verification {
    by: Arc<HandshakeSettings>,
    at: Instant,
    peer: Arc<Peer>,
}

impl RemoteEnd {
    pub(super) fn plain(via: Via, connection: Arc<Connection>) -> Self {
        Self::Plain(Arc::new(Peer { via, certificate: None, is_refused: false, connection }))
    }

    /// The peer as of now.
    pub(super) fn now(&self) -> Arc<Peer> {
        match self {
            Self::Plain(peer) => Arc::clone(peer),
            Self::Certified(certified) => certified.now(),
        }
    }
}

impl CertifiedPeer {
    /// A peer that showed `chain` in a handshake with `loaded`.
    pub(super) fn new(
        peer: Peer,
        chain: Vec<CertificateDer<'static>>,
        tls: ServerTls,
        loaded: Arc<HandshakeSettings>,
        clock: Clock,
    ) -> Self {
        let seen = Mutex::new(Verification { by: loaded, at: clock.now().mono, peer: Arc::new(peer) });
        Self { tls, chain, seen, clock }
    }

    /// The peer as of now. A connection outlives what its certificate was verified by: it is verified again
    /// when the files were replaced, and once in a while, for they have an end too.
    fn now(&self) -> Arc<Peer> {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let (loaded, now) = (self.tls.now(), self.clock.now());
        if !Arc::ptr_eq(&seen.by, &loaded) || now.mono.saturating_duration_since(seen.at) >= VERIFIED_FOR {
            let certificate = loaded.verify(&self.chain, now.wall);
            let is_refused = certificate.is_none();
            let peer = Arc::new(Peer { certificate, is_refused, ..(*seen.peer).clone() });
            *seen = Verification { by: loaded, at: now.mono, peer };
        }
        Arc::clone(&seen.peer)
    }
}
