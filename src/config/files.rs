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

#[cfg(test)]
mod tests {
    use crate::config::tests::{problems, resolve};

    #[test]
    fn file_stores_are_named_by_whole_labels_origins_and_networks() {
        let config = resolve("", &[], &[]).expect("a configuration");
        let allows = |host: &str| config.files.hosts.iter().any(|pattern| pattern.matches(host));
        for host in [
            "storage.googleapis.com",
            "bucket.storage.googleapis.com",
            "s3.us-east-1.amazonaws.com",
            "bucket.s3.us-gov-west-1.amazonaws.com",
            "s3.dualstack.eu-west-1.amazonaws.com",
            "bucket.s3.dualstack.eu-west-1.amazonaws.com",
        ] {
            assert!(allows(host), "{host}");
        }
        for host in ["www.googleapis.com", "a.ec2.amazonaws.com", "x.execute-api.eu-west-1.amazonaws.com"] {
            assert!(!allows(host), "{host}");
        }
        assert!(config.files.origins.is_empty() && config.files.private_addresses.is_empty());
        assert!(!config.access.files_basic);

        let file = "[files]\nhosts = ['files.corp.example']\norigins = ['http://127.0.0.1:9000']\nprivate_addresses = ['10.20.1.2/16', 'fd12::1']";
        let files = resolve(file, &[], &[]).expect("a configuration").files;
        assert_eq!(files.origins[0].to_string(), "http://127.0.0.1:9000");
        let networks: Vec<String> = files.private_addresses.iter().map(ToString::to_string).collect();
        assert_eq!(networks, ["10.20.0.0/16", "fd12::1/128"]);

        for (key, value, expected) in [
            ("hosts", "'*.amazonaws.com'", "stands for more than a file store"),
            ("hosts", "'*.com'", "no host name with at least two labels at its end"),
            ("hosts", "'127.0.0.1'", "name it in files.origins"),
            ("origins", "'minio.example:9000'", "write it like https://minio.example:9000"),
            ("private_addresses", "'0.0.0.0/0'", "stands for all addresses"),
            ("private_addresses", "'inner'", "write it like \"10.20.0.0/16\""),
        ] {
            let problems = problems(&format!("[files]\n{key} = [{value}]"), &[]);
            assert!(
                problems.contains(&format!("files.{key}: ")) && problems.contains(expected),
                "{problems}"
            );
        }
    }

    #[test]
    fn a_proxy_before_the_file_stores_is_said_not_to_be_checked() {
        let notes =
            |env: &[(&str, &str)]| resolve("", env, &[]).expect("a configuration").resolved.notes.join("; ");
        let (proxy, bad) =
            (("HTTPS_PROXY", "http://u:p4ss@proxy.test:3128"), ("HTTPS_PROXY", "socks5://u:p4ss@proxy.test"));
        let unchecked = "file stores are reached through the proxy proxy.test:3128 (HTTPS_PROXY): their names are checked, but not their addresses";
        assert!(notes(&[proxy]).contains(unchecked), "{}", notes(&[proxy]));
        assert!(!notes(&[]).contains("file stores"));
        assert!(!notes(&[proxy, ("NO_PROXY", "googleapis.com,amazonaws.com")]).contains("file stores"));
        // Snyk is reached all the same.
        let notes = notes(&[bad, ("NO_PROXY", "api.snyk.io")]);
        assert!(
            notes.contains("WARNING: file stores cannot be reached: HTTPS_PROXY must be http://"),
            "{notes}"
        );
        assert!(!notes.contains("p4ss"));
    }
}
