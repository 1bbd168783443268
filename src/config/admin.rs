//! `[admin]`.

use std::path::PathBuf;
use std::time::Duration;

use super::listener::address;
use super::reader::Reader;
use crate::admin::{AdminSettings, token_in};
use crate::listener::{self, Address};
use crate::transport::ServerTlsSettings;

/// Longest wait for a header section, and for the next request of a connection: an open page asks more often.
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
    let key = "admin.listen";
    let text = r.text(key);
    let listen = (!text.is_empty()).then(|| address(&text));
    let listen = listen.and_then(|listen| match listen {
        Ok(Address::Systemd) => {
            r.invalid(key, "cannot be a socket of systemd's: name an address");
            None
        }
        Ok(listen) => Some(listen),
        Err(what) => {
            r.invalid(key, what);
            None
        }
    });
    let token_file = r.path("admin.token_file");
    let client_ca = r.path("admin.client_ca");
    AdminLocation { listen, token_file, client_ca, tls: None }
}

/// `listener` and `tls` are those of clients: the other limits of time and size hold for the admin listener too.
pub(super) fn read(
    r: &mut Reader<'_>,
    listener: &listener::Settings,
    tls: Option<&ServerTlsSettings>,
) -> AdminSettings {
    let location = location(r).with_tls(tls);
    let allow_plain_http = r.boolean("admin.allow_plain_http");
    let max_connections = r.number("admin.max_connections", 1..=10_000);
    let warn_before = r.duration("admin.warn_before", "0s"..="1y");
    check(r, &location, allow_plain_http);
    // Somebody who sets one of these counts on the admin listener.
    let keys = ["listen", "token_file", "client_ca", "allow_plain_http", "max_connections"];
    let is_default = keys.iter().all(|key| r.given(&format!("admin.{key}")).is_none());
    let AdminLocation { listen, token_file, client_ca, tls } = location;
    let listener = listen.map(|listen| listener::Settings {
        listen: vec![listen],
        max_connections,
        // One machine must not keep a kubelet out.
        max_connections_per_address: (max_connections / 4).max(1),
        // A user of the clients' socket must not purge what all clients share.
        unix_mode: 0o600,
        unix_owner: (None, None),
        max_body: 0,
        header_timeout: HEADER_TIMEOUT,
        has_clients: true,
        h2c: false,
        allow_plain_http,
        ..listener.clone()
    });
    AdminSettings { listener, tls, token_file, client_ca, warn_before, is_default }
}

fn check(r: &mut Reader<'_>, location: &AdminLocation, allow_plain_http: bool) {
    let AdminLocation { listen, token_file, client_ca, tls } = location;
    if let Some(path) = token_file {
        r.check_file("admin.token_file", path, |content| {
            let what = "holds no token of at least 16 visible characters; write one, for example that of: openssl rand -hex 32";
            token_in(content).map(drop).ok_or_else(|| what.to_owned())
        });
    }
    if client_ca.is_some() && tls.is_none() {
        r.invalid("admin.client_ca", "needs a \"tls:\" address in admin.listen");
    }
    let Some(Address::Tcp(tcp) | Address::Tls(tcp)) = listen else { return };
    let is_tls = matches!(listen, Some(Address::Tls(_)));
    let is_reached = !tcp.ip().is_loopback();
    if is_tls && tls.is_none() {
        r.invalid("admin.listen", format!("\"tls:{tcp}\" needs tls.certificate and tls.key"));
    } else if !is_tls && is_reached && !allow_plain_http {
        r.invalid("admin.listen", format!(
            "other machines reach {tcp}, and the token would be readable on the way: write \"tls:{tcp}\" (with tls.certificate and tls.key), or set admin.allow_plain_http"
        ));
    }
    if is_reached && token_file.is_none() && client_ca.is_none() {
        r.invalid("admin.listen", format!(
            "other machines reach {tcp}, and could see and purge the stored exports: set admin.token_file or admin.client_ca"
        ));
    }
}
