//! `[files]`.

use std::net::IpAddr;

use http::Uri;
use ipnet::IpNet;

use super::reader::Reader;
use super::upstream::check_certificates;
use crate::file_store::{Settings, TransferLimits};
use crate::transport::{BadProxy, Proxy, Resolver};

/// The settings of the stores' client, and whether clients may log in with HTTP Basic.
pub(super) fn read(r: &mut Reader<'_>) -> (Settings, bool) {
    let ca_file = r.path("files.ca_file");
    check_certificates(r, "files.ca_file", ca_file.as_deref());
    let settings = Settings {
        hosts: r.list("files.hosts", str::parse),
        origins: r.list("files.origins", str::parse),
        private_addresses: r.list("files.private_addresses", network),
        resolver: Resolver::System,
        ca_file,
        connect_timeout: r.duration("files.connect_timeout", "10ms"..="10m"),
        idle_timeout: r.duration("files.idle_timeout", "10ms"..="1h"),
        transfers: TransferLimits {
            all: r.number("files.max_transfers", 1..=100_000),
            per_client: r.number("files.max_transfers_per_client", 1..=100_000),
        },
    };
    note_proxies(r, &settings);
    (settings, r.boolean("files.basic"))
}

/// A network, or one address.
fn network(text: &str) -> Result<IpNet, String> {
    let address = |_| text.parse::<IpAddr>().map(IpNet::from);
    let found: IpNet = text
        .parse()
        .or_else(address)
        .map_err(|_| "one of them is no network: write it like \"10.20.0.0/16\", or an address".to_owned())?;
    if found.prefix_len() == 0 {
        return Err(format!("{found} stands for all addresses: name the networks of your stores"));
    }
    Ok(found.trunc())
}

/// Says which proxy is between us and the stores: it resolves their names itself.
fn note_proxies(r: &mut Reader<'_>, settings: &Settings) {
    let Settings { hosts, origins, .. } = settings;
    let hosts = hosts.iter().map(|host| format!("https://{}", host.to_string().replace('*', "any")));
    let stores = hosts.chain(origins.iter().map(ToString::to_string));
    let variable = |name: &str| r.sources.env.get(name).cloned();
    let mut proxies = stores.filter_map(|store| {
        let uri: Uri = format!("{store}/").parse().ok()?;
        Some(Proxy::for_destination(&uri, variable))
    });
    match proxies.find(|proxy| !matches!(proxy, Ok(None))) {
        Some(Ok(Some(proxy))) => r.note(format!(
            "file stores are reached through the proxy {proxy}: their names are checked, but not their addresses, which the proxy resolves"
        )),
        Some(Err(BadProxy { variable })) => r.note(format!(
            "WARNING: file stores cannot be reached: {variable} {}",
            BadProxy::WHAT
        )),
        Some(Ok(None)) | None => {}
    }
}
