//! `listen` and `[listener]`.

use std::net::SocketAddr;
use std::path::PathBuf;

use super::reader::Reader;
use crate::listener::{Address, Settings};

pub(super) fn read(r: &mut Reader<'_>) -> Settings {
    Settings {
        listen: addresses(r),
        has_clients: false,
        h2c: r.boolean("listener.h2c"),
        max_connections: r.number("listener.max_connections", 1..=1_000_000),
        max_connections_per_address: r.number("listener.max_connections_per_address", 1..=1_000_000),
        allow_plain_http: r.boolean("listener.allow_plain_http"),
        handshake_timeout: r.duration("listener.handshake_timeout", "100ms"..="10m"),
        header_timeout: r.duration("listener.header_timeout", "100ms"..="1h"),
        idle_timeout: r.duration("listener.idle_timeout", "100ms"..="1h"),
        body_timeout: r.duration("listener.body_timeout", "100ms"..="1h"),
        send_timeout: r.duration("listener.send_timeout", "100ms"..="1h"),
        linger_timeout: r.duration("listener.linger_timeout", "0s"..="1m"),
        max_discarded: r.size("listener.max_discarded", "0B"..="1TiB"),
        request_timeout: r.duration("listener.request_timeout", "100ms"..="1h"),
        max_head: r.size("listener.max_head", "8KiB"..="1MiB"),
        max_headers: r.number("listener.max_headers", 1..=10_000),
        max_target: r.size("listener.max_target", "256B"..="60KiB"),
        max_body: r.size("listener.max_body", "1B"..="1GiB"),
        max_buffered: r.size("listener.max_buffered", "1MiB"..="1TiB"),
        max_buffered_per_connection: r.size("listener.max_buffered_per_connection", "64KiB"..="1TiB"),
        max_streams: r.number("listener.max_streams", 1..=10_000),
        max_reset_streams: r.number("listener.max_reset_streams", 1..=10_000),
        unix_mode: mode(r),
        unix_owner: owner(r),
    }
}

fn addresses(r: &mut Reader<'_>) -> Vec<Address> {
    let listen = r.list("listen", address);
    if listen.is_empty() {
        r.problem("listen", "listen", "name at least one address, such as \"127.0.0.1:7080\"");
    }
    let is_repeated = listen.iter().enumerate().any(|(at, address)| {
        let is_fixed = !matches!(address, Address::Tcp(tcp) | Address::Tls(tcp) if tcp.port() == 0);
        is_fixed && listen[..at].contains(address)
    });
    if is_repeated {
        r.invalid("listen", "names the same address twice");
    }
    listen
}

pub(super) fn address(text: &str) -> Result<Address, String> {
    if let Some(path) = text.strip_prefix("unix:") {
        return if path.starts_with('/') {
            Ok(Address::Unix(PathBuf::from(path)))
        } else {
            Err("a Unix socket needs an absolute path, such as \"unix:/run/exportgate.sock\"".to_owned())
        };
    }
    if text == "systemd" {
        return Ok(Address::Systemd);
    }
    let (made, bare): (fn(SocketAddr) -> Address, &str) = match text.strip_prefix("tls:") {
        Some(bare) => (Address::Tls, bare),
        None => (Address::Tcp, text),
    };
    bare.parse().map(made).map_err(|_| {
        "must be an address and port, such as \"127.0.0.1:7080\" or \"tls:0.0.0.0:7443\", \"unix:/path\", or \"systemd\""
            .to_owned()
    })
}

/// An octal mode such as `"0660"`.
fn mode(r: &mut Reader<'_>) -> u32 {
    let key = "listener.unix_mode";
    let text = r.text(key);
    let mode = u32::from_str_radix(&text, 8).ok().filter(|mode| *mode <= 0o777);
    mode.unwrap_or_else(|| {
        r.invalid(key, "must be a mode in octal, such as \"0660\"");
        0o600
    })
}

/// `"user:group"` in numbers; either may be left out.
fn owner(r: &mut Reader<'_>) -> (Option<u32>, Option<u32>) {
    let key = "listener.unix_owner";
    let text = r.text(key);
    let (user, group) = text.split_once(':').unwrap_or((&text, ""));
    let id = |text: &str| if text.is_empty() { Ok(None) } else { text.parse().map(Some) };
    if let (Ok(user), Ok(group)) = (id(user), id(group)) {
        return (user, group);
    }
    r.invalid(key, "must be \"user:group\" in numbers, such as \"1000:1000\" or \":1000\"");
    (None, None)
}
