//! `[access]` and `[oidc]`, and the addresses that they allow.

use std::path::{Path, PathBuf};
use std::time::Duration;

use http::{HeaderName, HeaderValue};
use jsonwebtoken::Algorithm;

use super::clients;
use super::reader::Reader;
use super::upstream::{check_certificates, endpoint};
use crate::access::token::{Keys, TokenRules};
use crate::access::{ClientSettings, KeySource, Settings, Tokens};
use crate::listener::{Address, Settings as Listener};
use crate::transport::ServerTlsSettings;
use crate::watched_file;

/// The settings, with the files that `app` reads again.
pub(super) struct AccessSection {
    pub(super) settings: Settings,
    pub(super) clients_file: Option<PathBuf>,
    pub(super) reload_interval: Duration,
}

impl AccessSection {
    pub(super) fn note_certificates(&self, r: &mut Reader<'_>, tls: Option<&ServerTlsSettings>) {
        let mut clients = self.settings.clients.iter().flatten();
        let is_needed = clients.any(|client| !client.certificates.is_empty());
        if is_needed && tls.is_none_or(|tls| tls.client_ca.is_none()) {
            r.note(
                "some clients have certificates, and tls.client_ca is not set: no certificates are requested",
            );
        }
    }
}

pub(super) fn read(r: &mut Reader<'_>, plain: &[String]) -> AccessSection {
    let clients_file = r.path("access.clients_file");
    let clients = clients_file.as_deref().map(|path| clients(r, path));
    let hosts = r.list("access.hosts", host);
    let allow_forwarded = r.boolean("access.allow_forwarded");
    let required_header = required(r);
    let hide = r.boolean("access.hide");
    let max_failures = r.number("access.max_failures", 1..=1_000_000);
    let reload_interval = r.duration("access.reload_interval", "10ms"..="1h");
    let tokens = oidc(r, plain);
    if tokens.is_none() && clients.iter().flatten().any(|client| !client.tokens.is_empty()) {
        r.note("some clients have tokens, and [oidc] is not set: their tokens are refused");
    }
    let settings = Settings {
        clients,
        hosts,
        allow_forwarded,
        required_header,
        hide,
        max_failures,
        files_basic: false,
        tokens,
    };
    AccessSection { settings, clients_file, reload_interval }
}

fn clients(r: &mut Reader<'_>, path: &Path) -> Vec<ClientSettings> {
    match watched_file::read(path) {
        Err(error) => r.invalid("access.clients_file", format!("cannot be read: {}", error.source)),
        Ok(content) => match clients::parse(&path.display().to_string(), &content) {
            Ok(clients) => return clients,
            Err(problems) => r.problems(problems),
        },
    }
    Vec::new()
}

fn host(text: &str) -> Result<String, String> {
    if text.is_empty() || text.contains([':', '/', '@', ' ']) {
        Err("must be names without a port".to_owned())
    } else {
        Ok(text.to_ascii_lowercase())
    }
}

fn required(r: &mut Reader<'_>) -> Option<(HeaderName, Option<HeaderValue>)> {
    let key = "access.required_header";
    let text = r.text(key);
    if text.is_empty() {
        return None;
    }
    let (name, value) =
        text.split_once(':').map_or((text.as_str(), None), |(name, value)| (name, Some(value.trim())));
    let value = value.map(HeaderValue::from_str).transpose();
    if let (Ok(name), Ok(value)) = (name.trim().parse(), value) {
        if value.is_some() {
            // It keeps others out only as long as they do not know it.
            let place = r.place(key);
            r.show(key, &format!("{name}: (not shown)"), &place);
        }
        return Some((name, value));
    }
    r.invalid(key, "must be \"Name\" or \"Name: value\"");
    None
}

fn oidc(r: &mut Reader<'_>, plain: &[String]) -> Option<Tokens> {
    let issuer = r.text("oidc.issuer");
    let audience = r.list("oidc.audience", |text| Ok(text.to_owned()));
    let keys = KeyLocation {
        file: r.path("oidc.jwks_file"),
        url: r.text("oidc.jwks_url"),
        token_file: r.path("oidc.jwks_token_file"),
        ca_file: r.path("oidc.ca_file"),
    };
    let algorithms = r.list("oidc.algorithms", algorithm);
    let refresh = r.duration("oidc.refresh", "1s"..="1d");
    let leeway = r.duration("oidc.leeway", "0s"..="10m");
    if issuer.is_empty() {
        if keys.file.is_some() || !keys.url.is_empty() || !audience.is_empty() {
            r.problem("oidc", "oidc.issuer", "must be set where other keys of [oidc] are");
        }
        return None;
    }
    if audience.is_empty() {
        let what = "must name an audience, or tokens for other services would be accepted";
        r.problem("oidc", "oidc.audience", what);
    }
    if algorithms.is_empty() {
        r.problem("oidc", "oidc.algorithms", "must name at least one");
    }
    let keys = keys.source(r, plain, refresh)?;
    Some(Tokens { rules: TokenRules { issuer, audience, algorithms, leeway }, keys })
}

/// The location of the issuer's keys.
struct KeyLocation {
    file: Option<PathBuf>,
    url: String,
    token_file: Option<PathBuf>,
    ca_file: Option<PathBuf>,
}

impl KeyLocation {
    fn source(self, r: &mut Reader<'_>, plain: &[String], refresh: Duration) -> Option<KeySource> {
        let Self { file, url, token_file, ca_file } = self;
        match (file, url.is_empty()) {
            (Some(path), true) => {
                let parse = |json: &[u8]| Keys::parse(json).map(drop).map_err(|error| error.to_string());
                r.check_file("oidc.jwks_file", &path, parse);
                Some(KeySource::File(path))
            }
            (None, false) => {
                check_certificates(r, "oidc.ca_file", ca_file.as_deref());
                let url = endpoint(&url, plain).map_err(|what| r.invalid("oidc.jwks_url", what)).ok()?;
                Some(KeySource::Url { url, ca_file, token_file, refresh })
            }
            _ => {
                r.problem("oidc", "oidc.jwks_url", "set one of oidc.jwks_file and oidc.jwks_url");
                None
            }
        }
    }
}

/// A signature algorithm. `none` and the HMACs are no signatures: whoever can check those can make them.
fn algorithm(word: &str) -> Result<Algorithm, String> {
    const KNOWN: [&str; 9] =
        ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "EdDSA"];
    let known = KNOWN.contains(&word).then(|| word.parse().ok()).flatten();
    known.ok_or_else(|| format!("must be of {}", KNOWN.join(", ")))
}

/// Other machines are served only where clients are known and TLS is spoken, here or in front of us.
pub(super) fn check_addresses(r: &mut Reader<'_>, listener: &Listener, has_tls: bool) {
    for address in &listener.listen {
        let is_reached = match address {
            Address::Tcp(tcp) | Address::Tls(tcp) => !tcp.ip().is_loopback(),
            Address::Unix(_) | Address::Systemd => false,
        };
        match address {
            Address::Tcp(tcp) if is_reached && !listener.allow_plain_http => r.invalid("listen", format!(
                "other machines reach {tcp}, and keys would be readable on the way: write \"tls:{tcp}\" (with tls.certificate and tls.key), or set listener.allow_plain_http where TLS ends in front of the gateway"
            )),
            Address::Tls(tcp) if !has_tls => {
                r.invalid("listen", format!("\"tls:{tcp}\" needs tls.certificate and tls.key"));
            }
            Address::Tcp(_) | Address::Tls(_) | Address::Unix(_) | Address::Systemd => {}
        }
        if is_reached && !listener.has_clients {
            r.invalid("listen", format!(
                "other machines reach {address}, and could do everything that the Snyk token can: set access.clients_file, so that clients are known (`exportgate key new` makes a key), or use a loopback address or \"unix:/path\""
            ));
        }
    }
}
