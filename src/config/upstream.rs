//! `[upstream]` and `SNYK_API`.

use std::path::Path;

use http::HeaderName;
use http::uri::{Authority, Scheme, Uri};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;

use super::reader::Reader;
use crate::access::is_ours;
use crate::listener::{Address, Settings as Listener};
use crate::transport::{BadProxy, Proxy};
use crate::upstream::{Root, Settings};

/// Snyk's regions.
const REGIONS: [(&str, &str); 5] = [
    ("us", "https://api.snyk.io"),
    ("us2", "https://api.us.snyk.io"),
    ("eu", "https://api.eu.snyk.io"),
    ("au", "https://api.au.snyk.io"),
    ("gov", "https://api.snykgov.io"),
];

/// Client fields that never go up: credentials, the connection's, a trace's, and what claims another origin.
const NEVER_FORWARDED: [&str; 20] = [
    "authorization",
    "baggage",
    "connection",
    "content-length",
    "cookie",
    "expect",
    "forwarded",
    "host",
    "keep-alive",
    "session-token",
    "snyk-request-id",
    "te",
    "traceparent",
    "tracestate",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "via",
    "x-api-key",
    "accept-encoding",
];

/// The settings, and the hosts that may be reached without TLS.
pub(super) fn read(r: &mut Reader<'_>, listener: &Listener) -> (Settings, Vec<String>) {
    let _ = r.text("upstream.url");
    let _ = r.text("upstream.region");
    let plain = r.list("upstream.plain_http_hosts", |host| Ok(host.to_ascii_lowercase()));
    let root = root(r, &plain);
    refuse_ourselves(r, &root, listener);
    let ca_file = r.path("upstream.ca_file");
    check_certificates(r, "upstream.ca_file", ca_file.as_deref());
    check_proxy(r, &root);
    let settings = Settings {
        root,
        ca_file,
        connect_timeout: r.duration("upstream.connect_timeout", "10ms"..="10m"),
        dead_after: r.duration("upstream.dead_after", "500ms"..="10m"),
        header_timeout: r.duration("upstream.header_timeout", "10ms"..="1h"),
        request_timeout: r.duration("upstream.request_timeout", "10ms"..="1h"),
        max_answer: r.size("upstream.max_answer", "1KiB"..="1GiB"),
        forward_headers: r.list("upstream.forward_headers", forwarded),
        default_version: version(r),
    };
    (settings, plain)
}

/// Says which proxy is between us and Snyk, or why the one that is named cannot be used.
fn check_proxy(r: &mut Reader<'_>, root: &Root) {
    match Proxy::for_destination(&root.uri(), |name| r.sources.env.get(name).cloned()) {
        Ok(Some(proxy)) => r.note(format!("Snyk is reached through the proxy {proxy}")),
        Ok(None) => {}
        Err(BadProxy { variable }) => r.problem(variable, "", BadProxy::WHAT),
    }
}

/// A file of certificates to trust must hold some.
pub(super) fn check_certificates(r: &mut Reader<'_>, key: &str, path: Option<&Path>) {
    let Some(path) = path else { return };
    r.check_file(key, path, |pem| {
        let has_certificate = CertificateDer::pem_slice_iter(pem).any(|found| found.is_ok());
        has_certificate.then_some(()).ok_or_else(|| "has no certificate in PEM in it".to_owned())
    });
}

/// A URL of an endpoint that is not Snyk's API; HTTPS, but for loopback and hosts that are allowed by name.
pub(super) fn endpoint(text: &str, plain: &[String]) -> Result<Uri, String> {
    let example = "must be a URL such as https://host/path";
    let uri: Uri = text.parse().map_err(|_| example.to_owned())?;
    let (Some(scheme), Some(authority)) = (uri.scheme_str(), uri.authority()) else {
        return Err(example.to_owned());
    };
    let host = authority.host().to_ascii_lowercase();
    if authority.as_str().contains('@') || text.contains('#') {
        Err("must not hold a user name, a password or a fragment".to_owned())
    } else if scheme == "https" || (scheme == "http" && (is_ours(&host, &[]) || plain.contains(&host))) {
        Ok(uri)
    } else {
        Err("must begin with https://; http:// is for loopback and upstream.plain_http_hosts".to_owned())
    }
}

fn forwarded(name: &str) -> Result<HeaderName, String> {
    // What is no field name may be anything, a secret too: it is not repeated.
    let parsed: HeaderName = name.parse().map_err(|_| "one of them is no field name".to_owned())?;
    let name = parsed.as_str();
    let never = NEVER_FORWARDED.contains(&name)
        || name.contains('_')
        || name.starts_with("proxy-")
        || name.starts_with("x-forwarded")
        || name.starts_with("exportgate-");
    if never { Err(format!("{name} is never forwarded: leave it out")) } else { Ok(parsed) }
}

fn version(r: &mut Reader<'_>) -> Option<String> {
    let key = "upstream.default_version";
    let text = r.text(key);
    let (date, stage) = text.split_once('~').unwrap_or((&text, "ga"));
    let is_date = date.len() == 10
        && date
            .bytes()
            .enumerate()
            .all(|(i, b)| if i == 4 || i == 7 { b == b'-' } else { b.is_ascii_digit() });
    let is_stage = ["ga", "beta", "experimental"].contains(&stage);
    if !text.is_empty() && (!is_date || !is_stage) {
        r.invalid(key, "must be YYYY-MM-DD, followed by ~beta or ~experimental where it is one");
    }
    (!text.is_empty()).then_some(text)
}

/// A source of the root: the key, its place and the URL.
struct RootSource {
    key: &'static str,
    place: String,
    url: String,
}

impl RootSource {
    fn given(r: &Reader<'_>, key: &'static str) -> Option<Self> {
        let given = r.given(key)?;
        let url = given.text.concat();
        (!url.is_empty()).then_some(Self { key, place: given.place, url })
    }

    /// The precedence of its place.
    fn rank(&self) -> u8 {
        match &self.place {
            flag if flag.starts_with("--") => 3,
            variable if variable.starts_with("EXPORTGATE_") => 2,
            _ => 1,
        }
    }

    /// The URL of a region.
    fn of_region(self, r: &mut Reader<'_>) -> Self {
        let known = REGIONS.iter().find(|(name, _)| *name == self.url);
        if known.is_none() {
            let what = "must be \"us\", \"us2\", \"eu\", \"au\" or \"gov\"";
            r.problem(&self.place, self.key, what);
        }
        Self { url: known.map_or(REGIONS[0].1, |(_, url)| url).to_owned(), ..self }
    }
}

/// The root by the highest of flag, variable and file; then `SNYK_API`; then the default.
fn root(r: &mut Reader<'_>, plain: &[String]) -> Root {
    let url = RootSource::given(r, "upstream.url");
    let region = RootSource::given(r, "upstream.region").map(|region| region.of_region(r));
    let source = match (url, region) {
        (Some(url), Some(region)) => {
            if url.rank() == region.rank() {
                let what = "set either upstream.url or upstream.region, not both";
                r.problem(&region.place, region.key, what);
            }
            if url.rank() < region.rank() { region } else { url }
        }
        (Some(source), None) | (None, Some(source)) => source,
        (None, None) => {
            let snyk_api = r.sources.env.get("SNYK_API").filter(|text| !text.is_empty());
            let place = if snyk_api.is_some() { "SNYK_API" } else { "default" };
            let url = snyk_api.map_or(REGIONS[0].1, String::as_str).to_owned();
            RootSource { key: "upstream.url", place: place.to_owned(), url }
        }
    };
    match parse(&source.url, plain) {
        Ok(root) => {
            r.show("upstream.url", &root.to_string(), &source.place);
            root
        }
        Err(what) => {
            r.problem(&source.place, source.key, what);
            Root {
                scheme: Scheme::HTTPS,
                authority: Authority::from_static("api.snyk.io"),
                prefix: String::new(),
            }
        }
    }
}

/// Parses a root. Nothing of the text is in an error: it might hold a password.
fn parse(text: &str, plain: &[String]) -> Result<Root, String> {
    let example = "write it like https://api.snyk.io";
    let uri: Uri = text.trim().parse().map_err(|_| format!("is no URL: {example}"))?;
    let (Some(scheme), Some(authority)) = (uri.scheme(), uri.authority()) else {
        return Err(format!("must begin with https://: {example}"));
    };
    if authority.as_str().contains('@') {
        return Err("must not hold a user name or password".to_owned());
    }
    if uri.query().is_some() || text.contains('#') {
        return Err(format!("must not hold a query or fragment: {example}"));
    }
    let host = authority.host().to_ascii_lowercase();
    let default_port = match scheme.as_str() {
        "https" => 443,
        "http" if is_ours(&host, &[]) || plain.contains(&host) => 80,
        "http" => {
            return Err(
                "must begin with https://; http:// is for loopback and upstream.plain_http_hosts".to_owned()
            );
        }
        _ => return Err(format!("must begin with https://: {example}")),
    };
    let port = authority.port_u16().filter(|port| *port != default_port);
    let authority = port.map_or_else(|| host.clone(), |port| format!("{host}:{port}"));
    let path = uri.path().trim_end_matches('/');
    let prefix = path.strip_suffix("/rest").or_else(|| path.strip_suffix("/v1")).unwrap_or(path);
    let plain_path = prefix.split('/').skip(1).all(|segment| {
        !segment.is_empty()
            && !segment.starts_with('.')
            && segment.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.~".contains(&b))
    });
    let authority = authority.parse().map_err(|_| format!("is no URL: {example}"))?;
    if plain_path {
        Ok(Root { scheme: scheme.clone(), authority, prefix: prefix.to_owned() })
    } else {
        Err("has a path with parts that are not plain".to_owned())
    }
}

/// In a pod the tools' `SNYK_API` points at us, and we may be given the same environment.
fn refuse_ourselves(r: &mut Reader<'_>, root: &Root, listener: &Listener) {
    let default_port = if root.scheme == Scheme::HTTPS { 443 } else { 80 };
    let port = root.authority.port_u16().unwrap_or(default_port);
    let ours = listener.listen.iter().any(|address| match address {
        Address::Tcp(address) | Address::Tls(address) => {
            address.port() == port && port != 0 && is_ours(root.authority.host(), &[])
        }
        Address::Unix(_) | Address::Systemd => false,
    });
    if ours {
        let place = ["upstream.url", "upstream.region"].iter().find_map(|key| r.given(key));
        let place = place.map_or_else(|| "SNYK_API".to_owned(), |given| given.place);
        r.problem(
            &place,
            "upstream.url",
            "this is the gateway itself (SNYK_API is meant for the tools): set upstream.url or upstream.region to Snyk's API",
        );
    }
}
