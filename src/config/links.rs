//! Variables of a container's network that begin as ours do: a Service called `exportgate`, or a container that is linked
//! under such a name, puts its addresses into the environment of its neighbours.
//!
//! Kubernetes sets them for every Service of the namespace (`enableServiceLinks`), Docker for `--link`. They are told from
//! misspelled settings by name and value together.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

const PROTOCOLS: [&str; 3] = ["tcp", "udp", "sctp"];

/// Recognises the variable `name` of `env` as such a one.
pub(super) fn is_link(name: &str, env: &BTreeMap<String, String>) -> bool {
    let Some(value) = env.get(name) else { return false };
    let ends = |end: &str| name.ends_with(end);
    let of_port = |ends: &[&str]| ends.iter().any(|end| name.strip_suffix(end).is_some_and(is_of_port));
    if is_url(value) {
        ends("_PORT") || of_port(&["", "_START", "_END"])
    } else if value.parse::<IpAddr>().is_ok() {
        ends("_SERVICE_HOST") || of_port(&["_ADDR"])
    } else if value.parse::<u16>().is_ok() {
        let is_services = ends("_SERVICE_PORT") || name.contains("_SERVICE_PORT_");
        is_services || of_port(&["_PORT", "_PORT_START", "_PORT_END"])
    } else if PROTOCOLS.contains(&value.as_str()) {
        of_port(&["_PROTO"])
    } else {
        is_container_name(name, value) || is_of_container(name, env)
    }
}

/// `tcp://10.0.0.11:7080`.
fn is_url(value: &str) -> bool {
    let parts = value.split_once("://");
    parts.is_some_and(|(protocol, at)| PROTOCOLS.contains(&protocol) && at.parse::<SocketAddr>().is_ok())
}

/// `…_PORT_7080_TCP`.
fn is_of_port(name: &str) -> bool {
    let mut words = name.rsplit('_');
    let (protocol, number, word) = (words.next(), words.next(), words.next());
    protocol.is_some_and(|word| PROTOCOLS.contains(&&*word.to_ascii_lowercase()))
        && number.is_some_and(|number| number.parse::<u16>().is_ok())
        && word == Some("PORT")
}

/// Docker's `…_NAME=/tool/exportgate`.
fn is_container_name(name: &str, value: &str) -> bool {
    name.ends_with("_NAME") && value.starts_with('/')
}

/// Docker's `…_ENV_ANYTHING`: what the linked container has in its own environment.
fn is_of_container(name: &str, env: &BTreeMap<String, String>) -> bool {
    let Some((container, _)) = name.split_once("_ENV_") else { return false };
    let its_name = format!("{container}_NAME");
    env.get(&its_name).is_some_and(|value| is_container_name(&its_name, value))
}

#[cfg(test)]
mod tests {
    fn is_link(variables: &[(&str, &str)], name: &str) -> bool {
        let env = variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        super::is_link(name, &env.collect())
    }

    #[test]
    fn what_kubernetes_and_docker_set_is_a_link_whatever_the_service_is_called() {
        for service in [
            "EXPORTGATE",
            "EXPORTGATE_ADMIN",
            "EXPORTGATE_SERVICE",
            "EXPORTGATE_PORT",
            "EXPORTGATE_UPSTREAM_URL",
            "EXPORTGATE_7080",
        ] {
            for (rest, value) in [
                ("SERVICE_HOST", "10.0.0.11"),
                ("SERVICE_HOST", "fd00::b"),
                ("SERVICE_PORT", "7080"),
                ("SERVICE_PORT_HTTPS", "7443"),
                ("SERVICE_PORT_7080_TCP", "7080"),
                ("SERVICE_PORT_PORT", "7080"),
                ("PORT", "tcp://10.0.0.11:7080"),
                ("PORT", "udp://[fd00::b]:53"),
                ("PORT_7080_TCP", "tcp://10.0.0.11:7080"),
                ("PORT_7080_TCP_PROTO", "tcp"),
                ("PORT_7080_TCP_PORT", "7080"),
                ("PORT_7080_TCP_ADDR", "10.0.0.11"),
                ("PORT_36412_SCTP_PROTO", "sctp"),
                ("PORT_8000_TCP_START", "tcp://172.17.0.5:8000"),
                ("PORT_8000_TCP_PORT_END", "8010"),
                ("NAME", "/tool/exportgate"),
            ] {
                let name = format!("{service}_{rest}");
                assert!(is_link(&[(&name, value)], &name), "{name}={value}");
            }
        }
        let linked = [("EXPORTGATE_NAME", "/tool/exportgate"), ("EXPORTGATE_ENV_LANG", "C.UTF-8")];
        assert!(is_link(&linked, "EXPORTGATE_ENV_LANG"));
    }

    #[test]
    fn what_only_looks_like_a_link_by_name_or_by_value_is_none() {
        for (name, value) in [
            ("EXPORTGATE_PORT", "7080"),
            ("EXPORTGATE_PORT", "tcp://gate:7080"),
            ("EXPORTGATE_PORT", ""),
            ("EXPORTGATE_PORT_7080_TCP", "7080"),
            ("EXPORTGATE_LISTEN_PORT", "7080"),
            ("EXPORTGATE_ADMIN_LISTEM", "tcp://10.0.0.11:7081"),
            ("EXPORTGATE_SERVICE_HOST", "gate.example"),
            ("EXPORTGATE_LISTENER_MAX_BODI", "7080"),
            ("EXPORTGATE_OTLP_SERVICE_NAM", "gate"),
            ("EXPORTGATE_CREDENTIAL_NAMES", "/x"),
            ("EXPORTGATE_ENV_LANG", "C.UTF-8"),
        ] {
            assert!(!is_link(&[(name, value)], name), "{name}={value}");
        }
        assert!(!is_link(&[], "EXPORTGATE_PORT"));
    }
}
