//! The place that is asked: a gateway, or Snyk itself by a gateway in this process.
//!
//! A gateway is never sent a Snyk token. The one in this process serves this run alone: it listens on one Unix socket in a
//! folder that only its user can open, and has no admin listener and no clients file.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::super::CommandError;
use super::super::admin::AdminAddress;
use super::args::ConductArgs;
use super::failure::Ending;
use crate::app::App;
use crate::clock::Clock;
use crate::config::{Config, Sources};
use crate::credential;
use crate::error_text::error_text;
use crate::listener::Address;
use crate::secret::Secret;
use crate::shutdown::Shutdown;
use crate::telemetry::{self, Format, Unwritten};
use crate::watched_file;

/// The events that the user of a run without a gateway needs: they name hosts, causes and proofs.
const WARNINGS: &str = "off,exportgate::exchange=warn,exportgate::files=warn";
/// Longest time for the last records of the journal.
const LAST_RECORDS: Duration = Duration::from_millis(700);

/// The place as the command line and the environment name it.
#[derive(Debug)]
pub(super) enum AskedPlace {
    Gateway(GatewayPlace),
    Direct(Box<Config>),
}

/// A gateway, and what is shown to it.
#[derive(Debug)]
pub(super) struct GatewayPlace {
    pub(super) address: AdminAddress,
    pub(super) key: Option<Secret>,
    pub(super) ca: Option<PathBuf>,
    /// True for the one in this process.
    pub(super) is_direct: bool,
}

impl AskedPlace {
    /// `is_named` where only a gateway has what is asked for.
    pub(super) fn of(args: &ConductArgs, is_named: bool) -> Result<Self, CommandError> {
        let sources = args.configured.configured().sources()?;
        let snyk_api = sources.snyk_api().filter(|_| args.configured.upstream.is_none());
        let named = match (&args.via, snyk_api) {
            (Some(via), _) => Some(("--via", via.as_str())),
            (None, Some(text)) if !is_snyk(text) => Some(("SNYK_API", text)),
            (None, _) => None,
        };
        match named {
            Some((source, text)) => Ok(gateway(args, source, text)?),
            None if args.key_file.is_some() => {
                let text = "--key-file is for a gateway, and Snyk is asked directly here: add --via URL, or leave it out";
                Err(Ending::usage(text).into())
            }
            None if is_named => {
                let text = "--named is for a gateway, which makes that export: add --via URL, or set SNYK_API to the gateway";
                Err(Ending::usage(text).into())
            }
            None => Self::direct(&sources),
        }
    }

    fn direct(sources: &Sources) -> Result<Self, CommandError> {
        let mut config = Config::resolve(sources)
            .map_err(|problems| {
                let why = "Snyk is asked directly here: neither --via nor SNYK_API names a gateway";
                Ending::usage(format!("{problems}\n  {why}"))
            })?
            .0;
        config.clients_file = None;
        config.named.exports.clear();
        config.access.clients = None;
        config.access.tokens = None;
        config.access.required_header = None;
        config.tls = None;
        config.admin.listener = None;
        config.listener.has_clients = false;
        config.listener.unix_mode = 0o600;
        config.listener.unix_owner = (None, None);
        Ok(Self::Direct(Box::new(config)))
    }

    /// Writes the warnings of a gateway in this process about requests and files to standard error, until the value is dropped.
    pub(super) fn log(&self, is_json: bool) -> Result<Option<Unwritten>, CommandError> {
        let Self::Direct(config) = self else { return Ok(None) };
        let format = if is_json { Format::Json } else { Format::Text };
        let settings = telemetry::Settings { format, filter: WARNINGS.to_owned(), ..config.log.clone() };
        let log = telemetry::init(&settings);
        log.map(|(_, unwritten)| Some(unwritten))
            .map_err(|error| CommandError::Other("logs cannot be set up", error))
    }

    /// The place in words.
    pub(super) fn shown(&self) -> String {
        match self {
            Self::Gateway(GatewayPlace { address, .. }) => format!("through the gateway {address}"),
            Self::Direct(config) => format!("directly to {}", config.upstream.root),
        }
    }
}

fn gateway(args: &ConductArgs, source: &str, text: &str) -> Result<AskedPlace, Ending> {
    let address = ConductArgs::gateway(text).map_err(|what| Ending::usage(format!("{source}: {what}")))?;
    let key = args.key_file.as_deref().map(read_key).transpose()?;
    if key.is_some() && address.is_open() {
        return Err(Ending::usage(format!(
            "the key could be read on the way to {address}: use https://, or leave --key-file out"
        )));
    }
    Ok(AskedPlace::Gateway(GatewayPlace { address, key, ca: args.ca.clone(), is_direct: false }))
}

fn read_key(path: &Path) -> Result<Secret, Ending> {
    let failed = |text: String| Ending::usage(format!("--key-file {}: {text}", path.display()));
    let content = watched_file::read(path).map_err(|error| failed(error.source.to_string()))?;
    credential::parse(&String::from_utf8_lossy(&content)).map_err(|error| failed(error.to_string()))
}

/// True for Snyk's own hosts, of every region.
fn is_snyk(url: &str) -> bool {
    let host = url.parse::<http::Uri>().ok().and_then(|uri| uri.host().map(str::to_ascii_lowercase));
    let domains = ["snyk.io", "snykgov.io"];
    host.is_some_and(|host| {
        domains.iter().any(|domain| {
            host == *domain || host.strip_suffix(domain).is_some_and(|before| before.ends_with('.'))
        })
    })
}

/// A gateway in this process.
#[derive(Debug)]
pub(super) struct OwnGateway {
    shutdown: Shutdown,
    socket: PathBuf,
    folder: PathBuf,
    running: tokio::task::JoinHandle<()>,
}

impl OwnGateway {
    pub(super) async fn start(mut config: Config) -> Result<Self, Ending> {
        let folder = private_folder().map_err(|error| Ending::of_file(&std::env::temp_dir(), &error))?;
        let socket = folder.join("fetch.sock");
        config.listener.listen = vec![Address::Unix(socket.clone())];
        let shutdown = Shutdown::new();
        let bound = Box::pin(App::bind(config, Clock::system(), shutdown.clone())).await;
        let app = match bound {
            Ok(app) => app,
            Err(error) => {
                let _ = std::fs::remove_dir_all(&folder);
                return Err(Ending::failed(format!("cannot start: {}", error_text(&error))));
            }
        };
        #[expect(
            clippy::disallowed_methods,
            reason = "the run waits for it, and its shutdown waits for the rest"
        )]
        let running = tokio::spawn(Box::pin(app.run()));
        Ok(Self { shutdown, socket, folder, running })
    }

    pub(super) fn place(&self) -> GatewayPlace {
        let address = AdminAddress::Unix(self.socket.clone());
        GatewayPlace { address, key: None, ca: None, is_direct: true }
    }

    /// Ends it: nobody else uses it.
    pub(super) async fn end(mut self) {
        self.shutdown.end();
        let _ = tokio::time::timeout(LAST_RECORDS, &mut self.running).await;
    }
}

impl Drop for OwnGateway {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

fn private_folder() -> std::io::Result<PathBuf> {
    use std::os::unix::fs::DirBuilderExt as _;
    let path = std::env::temp_dir().join(format!("exportgate-fetch-{}", uuid::Uuid::new_v4().simple()));
    std::fs::DirBuilder::new().mode(0o700).create(&path)?;
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_of_snyk_are_asked_directly() {
        for url in [
            "https://api.snyk.io",
            "https://api.eu.snyk.io/rest",
            "https://API.SNYKGOV.IO/v1",
            "https://snyk.io",
        ] {
            assert!(is_snyk(url), "{url}");
        }
        for url in [
            "http://127.0.0.1:7080",
            "https://api.snyk.io.evil.test",
            "https://notsnyk.io",
            "https://snyk.io@evil.test",
            "unix:/run/x",
        ] {
            assert!(!is_snyk(url), "{url}");
        }
    }

    #[test]
    fn a_gateway_is_named_as_tools_name_snyk() {
        for text in [
            "http://127.0.0.1:7080",
            "http://127.0.0.1:7080/",
            "http://127.0.0.1:7080/rest",
            "http://127.0.0.1:7080/v1/",
        ] {
            let address = ConductArgs::gateway(text).map(|address| address.to_string());
            assert_eq!(address.as_deref(), Ok("http://127.0.0.1:7080"), "{text}");
        }
        assert!(ConductArgs::gateway("127.0.0.1:7080").is_err());
        assert!(ConductArgs::gateway("unix:/run/exportgate.sock").is_ok());
    }
}
