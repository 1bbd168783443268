//! `[tls]`.

use super::reader::Reader;
use crate::error_text::error_text;
use crate::expiry::Expiring;
use crate::transport::{ServerTls, ServerTlsSettings};

/// The files, unread.
pub(super) fn files(r: &mut Reader<'_>) -> Option<ServerTlsSettings> {
    let certificate = r.path("tls.certificate");
    let key = r.path("tls.key");
    let client_ca = r.path("tls.client_ca");
    let client_crl = r.path("tls.client_crl");
    match (certificate, key) {
        (Some(certificate), Some(key)) => Some(ServerTlsSettings { certificate, key, client_ca, client_crl }),
        (None, None) if client_ca.is_none() && client_crl.is_none() => None,
        _ => {
            r.problem("tls", "", "set tls.certificate and tls.key together");
            None
        }
    }
}

/// The files, and everything in them that has an end.
pub(super) fn read(r: &mut Reader<'_>) -> Option<(ServerTlsSettings, Vec<Expiring>)> {
    let settings = files(r)?;
    if settings.client_crl.is_some() && settings.client_ca.is_none() {
        r.invalid("tls.client_crl", "needs tls.client_ca");
    }
    let expiring = match ServerTls::open(settings.clone()) {
        Ok((tls, _)) => tls.now().expiring.clone(),
        Err(error) => {
            r.problem("tls", "", error_text(&error));
            Vec::new()
        }
    };
    Some((settings, expiring))
}
