//! `[access]` and `[oidc]`, and whether the addresses fit them.

use std::path::PathBuf;
use std::time::Duration;

use http::{HeaderName, HeaderValue};
use jsonwebtoken::Algorithm;

use super::clients;
use super::reader::Reader;
use super::upstream::{check_certificates, endpoint};
use crate::access::token::{Expected, Keys};
use crate::access::{KeySource, Settings, Tokens};
use crate::files;
use crate::listener::{Address, Settings as Listener};

/// What is read, and what `app` follows.
pub(super) struct Read {
    pub(super) settings: Settings,
    pub(super) clients_file: Option<PathBuf>,
    pub(super) reload_interval: Duration,
}

pub(super) fn read(r: &mut Reader<'_>, plain: &[String]) -> Read {
    let clients_file = r.path((
        "access.clients_file",
        "",
        "The clients and what each may do (see README); read again when it changes. Without it, all is allowed locally.",
    ));
    let clients = clients_file.as_ref().map(|path| match files::read(path) {
        Err(error) => {
            let place = r.place("access.clients_file");
            r.problem(&place, "access.clients_file", format!("cannot be read: {}", error.source));
            Vec::new()
        }
        Ok(content) => clients::parse(&path.display().to_string(), &content).unwrap_or_else(|problems| {
            r.problems(problems);
            Vec::new()
        }),
    });
    let hosts = r.list(
        ("access.hosts", "", "Names besides localhost that Host may have on loopback addresses."),
        |host| {
            if host.is_empty() || host.contains([':', '/', '@', ' ']) {
                Err("must be names without a port".to_owned())
            } else {
                Ok(host.to_ascii_lowercase())
            }
        },
    );
    let allow_forwarded = r.boolean((
        "access.allow_forwarded",
        "false",
        "Whether requests with X-Forwarded-For and the like are taken on loopback and Unix sockets.",
    ));
    let required_header = required(r);
    let hide =
        r.boolean(("access.hide", "false", "Whether who is not allowed something gets 404 instead of 403."));
    let max_failures = r.number(
        (
            "access.max_failures",
            "20",
            "Failed attempts to identify, a minute and address, that get 401; more get 429. Valid ones always pass.",
        ),
        1..=1_000_000,
    );
    let reload_interval = r.duration(
        ("access.reload_interval", "1s", "How often the clients, TLS and JWKS files are read."),
        ("10ms", "1h"),
    );
    let tokens = oidc(r, plain);
    if tokens.is_none() && clients.iter().flatten().any(|client| !client.tokens.is_empty()) {
        r.note("some clients are known by tokens, and [oidc] is not set: theirs are never taken");
    }
    let settings = Settings { clients, hosts, allow_forwarded, required_header, hide, max_failures, tokens };
    Read { settings, clients_file, reload_interval }
}

fn required(r: &mut Reader<'_>) -> Option<(HeaderName, Option<HeaderValue>)> {
    let key = (
        "access.required_header",
        "",
        "A field that each request must have: \"Name\", or \"Name: value\". It keeps forged requests out.",
    );
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
            let place = r.place(key.0);
            r.show(key.0, &format!("{name}: (not shown)"), &place);
        }
        return Some((name, value));
    }
    let place = r.place(key.0);
    r.problem(&place, key.0, "must be \"Name\" or \"Name: value\"");
    None
}

fn oidc(r: &mut Reader<'_>, plain: &[String]) -> Option<Tokens> {
    let issuer = r.text((
        "oidc.issuer",
        "",
        "Who makes the JWTs that clients may present (iss), such as a Kubernetes cluster.",
    ));
    let audience = r.list(("oidc.audience", "", "Whom they must be made for (aud): one of these."), |text| {
        Ok(text.to_owned())
    });
    let file = r.path(("oidc.jwks_file", "", "The issuer's keys (a JWK set), read again when it changes."));
    let url = r.text(("oidc.jwks_url", "", "The same at a URL."));
    let token_file = r.path((
        "oidc.jwks_token_file",
        "",
        "A bearer token to present at jwks_url, as Kubernetes wants its service account's.",
    ));
    let ca_file =
        r.path(("oidc.ca_file", "", "PEM certificates to trust at jwks_url instead of the platform's."));
    let algorithms =
        r.list(("oidc.algorithms", "RS256, ES256", "Signature algorithms that are accepted."), algorithm);
    let refresh = r.duration(
        (
            "oidc.refresh",
            "60s",
            "How often jwks_url is asked; a key that is not known yet is asked for at once.",
        ),
        ("1s", "1d"),
    );
    let leeway = r.duration(("oidc.leeway", "30s", "How far the issuer's clock may differ."), ("0s", "10m"));
    let key = if url.is_empty() { "oidc.jwks_file" } else { "oidc.jwks_url" };
    if issuer.is_empty() {
        if file.is_some() || !url.is_empty() || !audience.is_empty() {
            r.problem("oidc", "oidc.issuer", "must be set where other keys of [oidc] are");
        }
        return None;
    }
    if audience.is_empty() {
        r.problem(
            "oidc",
            "oidc.audience",
            "must name whom tokens are for, or tokens for others would be taken",
        );
    }
    if algorithms.is_empty() {
        r.problem("oidc", "oidc.algorithms", "must name at least one");
    }
    let keys = match (file, url.is_empty()) {
        (Some(path), true) => {
            let wrong = match files::read(&path) {
                Err(error) => Some(format!("cannot be read: {}", error.source)),
                Ok(json) => Keys::parse(&json).err().map(|error| error.to_string()),
            };
            if let Some(what) = wrong {
                let place = r.place(key);
                r.problem(&place, key, what);
            }
            KeySource::File(path)
        }
        (None, false) => match endpoint(&url, plain) {
            Ok(url) => {
                check_certificates(r, "oidc.ca_file", ca_file.as_deref());
                KeySource::Url { url, ca_file, token_file, refresh }
            }
            Err(what) => {
                let place = r.place(key);
                r.problem(&place, key, what);
                return None;
            }
        },
        _ => {
            r.problem("oidc", "oidc.jwks_url", "set one of oidc.jwks_file and oidc.jwks_url");
            return None;
        }
    };
    Some(Tokens { expected: Expected { issuer, audience, algorithms, leeway }, keys })
}

/// A signature algorithm. `none` and the HMACs are no signatures: whoever can check those can make them.
fn algorithm(word: &str) -> Result<Algorithm, String> {
    const KNOWN: [&str; 9] =
        ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "EdDSA"];
    let known = KNOWN.contains(&word).then(|| word.parse().ok()).flatten();
    known.ok_or_else(|| format!("must be of {}", KNOWN.join(", ")))
}

/// Other machines are served only where clients are known and TLS is spoken, here or before us.
pub(super) fn check_doors(r: &mut Reader<'_>, listener: &Listener, has_tls: bool) {
    let place = r.place("listen");
    for address in &listener.listen {
        let what = match address {
            Address::Tcp(tcp) if !tcp.ip().is_loopback() && !listener.allow_plain_http => format!(
                "other machines reach {tcp}, and keys would be readable on the way: write \"tls:{tcp}\" (with tls.certificate and tls.key), or set listener.allow_plain_http where TLS ends before the gateway"
            ),
            Address::Tls(tcp) if !has_tls => {
                format!("\"tls:{tcp}\" needs tls.certificate and tls.key")
            }
            Address::Tcp(_) | Address::Tls(_) | Address::Unix(_) | Address::Systemd => String::new(),
        };
        if !what.is_empty() {
            r.problem(&place, "listen", what);
        }
        let reached = match address {
            Address::Tcp(tcp) | Address::Tls(tcp) => !tcp.ip().is_loopback(),
            Address::Unix(_) | Address::Systemd => false,
        };
        if reached && !listener.has_roster {
            let what = format!(
                "other machines reach {address}, and whoever does could do what the Snyk token can: set access.clients_file, so that clients are known (`exportgate key new` makes a key), or use a loopback address or \"unix:/path\""
            );
            r.problem(&place, "listen", what);
        }
    }
}
