//! `[admin]`: how the gateway is looked after.

use std::path::PathBuf;
use std::time::Duration;

use super::listener::address;
use super::reader::Reader;
use crate::admin::AdminSettings;
use crate::listener::{self, Address};
use crate::transport::ServerTlsSettings;

/// Longest wait for a head, and for the next request of a connection: a page that is open asks more often.
const HEADER_TIMEOUT: Duration = Duration::from_secs(5);

/// The keys by which the command line finds the admin listener.
#[derive(Debug, Clone)]
pub(crate) struct AdminLocation {
    /// `None` where `admin.listen` is empty.
    pub(crate) listen: Option<Address>,
    pub(crate) token_file: Option<PathBuf>,
    pub(crate) client_ca: Option<PathBuf>,
    /// Certificate and key of a `tls:` address.
    pub(crate) tls: Option<ServerTlsSettings>,
}

impl AdminLocation {
    /// Takes certificate and key of the clients' listeners, where its address is a `tls:` one.
    pub(super) fn with_tls(self, tls: Option<&ServerTlsSettings>) -> Self {
        let client_ca = self.client_ca.clone();
        let tls = tls.filter(|_| matches!(self.listen, Some(Address::Tls(_))));
        let tls = tls.map(|tls| ServerTlsSettings { client_ca, client_crl: None, ..tls.clone() });
        Self { tls, ..self }
    }
}

pub(super) fn location(r: &mut Reader<'_>) -> AdminLocation {
    let key = (
        "admin.listen",
        "127.0.0.1:7081",
        "Where health, metrics and the status page are: as in listen (one address), or \"\" for nowhere.",
    );
    let text = r.text(key);
    let listen = (!text.is_empty()).then(|| address(&text));
    let listen = listen.and_then(|listen| match listen {
        Ok(Address::Systemd) => {
            let place = r.place(key.0);
            r.problem(&place, key.0, "cannot be a socket of systemd's: name an address");
            None
        }
        Ok(listen) => Some(listen),
        Err(what) => {
            let place = r.place(key.0);
            r.problem(&place, key.0, what);
            None
        }
    });
    let token_file = r.path((
        "admin.token_file",
        "",
        "A file with the token that all but the health checks need (Authorization: Bearer …); read at each request.",
    ));
    let client_ca = r.path((
        "admin.client_ca",
        "",
        "PEM: who signs the certificates that may stand for the token on a \"tls:\" address.",
    ));
    AdminLocation { listen, token_file, client_ca, tls: None }
}

/// `listener` and `tls` are what clients are served with: its other limits of time and size hold here too.
pub(super) fn read(
    r: &mut Reader<'_>,
    listener: &listener::Settings,
    tls: Option<&ServerTlsSettings>,
) -> AdminSettings {
    let AdminLocation { listen, token_file, client_ca, tls: own_tls } = location(r).with_tls(tls);
    let allow_plain_http = r.boolean((
        "admin.allow_plain_http",
        "false",
        "Whether other machines may be served without TLS: only where nobody can read along.",
    ));
    let max_connections = r.number(
        ("admin.max_connections", "64", "Most connections at once; clients have their own."),
        1..=10_000,
    );
    let warn_before = r.duration(
        (
            "admin.warn_before",
            "14d",
            "Warn this long before a certificate, a revocation list or a client's last key ends, but only in the last quarter of its life.",
        ),
        ("0s", "1y"),
    );
    if let Some(path) = &token_file
        && let Err(error) = crate::files::read(path)
    {
        let place = r.place("admin.token_file");
        r.problem(&place, "admin.token_file", format!("cannot be read: {}", error.source));
    }
    let mut problem = |what: String| {
        let place = r.place("admin.listen");
        r.problem(&place, "admin.listen", what);
    };
    let is_known = token_file.is_some() || client_ca.is_some();
    match &listen {
        Some(Address::Tcp(tcp)) if !tcp.ip().is_loopback() && !allow_plain_http => problem(format!(
            "other machines reach {tcp}, and the token would be readable on the way: write \"tls:{tcp}\" (with tls.certificate and tls.key), or set admin.allow_plain_http"
        )),
        Some(Address::Tls(tcp)) if own_tls.is_none() => {
            problem(format!("\"tls:{tcp}\" needs tls.certificate and tls.key"));
        }
        _ => {}
    }
    if let Some(Address::Tcp(tcp) | Address::Tls(tcp)) = &listen
        && !tcp.ip().is_loopback()
        && !is_known
    {
        problem(format!(
            "other machines reach {tcp}, and whoever does could see and purge what is stored: set admin.token_file or admin.client_ca"
        ));
    }
    if client_ca.is_some() && own_tls.is_none() {
        let place = r.place("admin.client_ca");
        r.problem(&place, "admin.client_ca", "needs a \"tls:\" address in admin.listen");
    }
    // Whoever sets anything of it counts on it.
    let keys = ["listen", "token_file", "client_ca", "allow_plain_http", "max_connections"];
    let is_default = keys.iter().all(|key| r.given(&format!("admin.{key}")).is_none());
    let listener = listen.map(|listen| listener::Settings {
        listen: vec![listen],
        max_connections,
        // One machine must not keep a kubelet out.
        max_connections_per_address: (max_connections / 4).max(1),
        // Who may use the clients' socket may not purge what all of them share.
        unix_mode: 0o600,
        unix_owner: (None, None),
        max_body: 0,
        header_timeout: HEADER_TIMEOUT,
        has_roster: true,
        h2c: false,
        allow_plain_http,
        ..listener.clone()
    });
    AdminSettings { listener, tls: own_tls, token_file, client_ca, warn_before, is_default }
}
