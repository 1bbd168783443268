//! `listen` and `[listener]`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::reader::{Declared, Reader};
use crate::listener::{Address, Settings};

pub(super) fn read(r: &mut Reader<'_>) -> Settings {
    let listen = r.list(
        (
            "listen",
            "127.0.0.1:7080, [::1]:7080",
            "Where clients connect: \"ADDRESS:PORT\" (port 0 takes a free one), \"tls:…\", \"unix:/path\" or \"systemd\".",
        ),
        address,
    );
    if listen.is_empty() {
        r.problem("listen", "listen", "name at least one address, such as \"127.0.0.1:7080\"");
    }
    let repeated = listen.iter().enumerate().any(|(at, address)| {
        let is_fixed = !matches!(address, Address::Tcp(tcp) | Address::Tls(tcp) if tcp.port() == 0);
        is_fixed && listen[..at].contains(address)
    });
    if repeated {
        let place = r.place("listen");
        r.problem(&place, "listen", "names the same address twice");
    }
    Settings {
        listen,
        has_roster: false,
        h2c: r.boolean((
            "listener.h2c",
            "false",
            "Whether clients may speak HTTP/2 in the clear (prior knowledge).",
        )),
        max_connections: r
            .number(("listener.max_connections", "10000", "Most connections at once."), 1..=1_000_000),
        max_connections_per_address: r.number(
            (
                "listener.max_connections_per_address",
                "256",
                "Most connections at once from one address of another machine (an IPv6 /64 counts as one).",
            ),
            1..=1_000_000,
        ),
        allow_plain_http: r.boolean((
            "listener.allow_plain_http",
            "false",
            "Whether other machines may be served without TLS: only where TLS ends before the gateway.",
        )),
        handshake_timeout: r.duration(
            ("listener.handshake_timeout", "10s", "Longest that a TLS handshake may take."),
            ("100ms", "10m"),
        ),
        header_timeout: r.duration(
            (
                "listener.header_timeout",
                "10s",
                "Longest wait for a connection's first request, and for the rest of a header section.",
            ),
            ("100ms", "1h"),
        ),
        idle_timeout: idle_timeout(r),
        body_timeout: r.duration(
            ("listener.body_timeout", "30s", "Longest wait for the body of a start call."),
            ("100ms", "1h"),
        ),
        send_timeout: r.duration(
            ("listener.send_timeout", "30s", "Longest that a client may take none of an answer."),
            ("100ms", "1h"),
        ),
        linger_timeout: linger_timeout(r),
        max_discarded: size(
            r,
            ("listener.max_discarded", "64MiB", "Most of an upload that is so discarded."),
            ("0B", "1TiB"),
        ),
        request_timeout: r.duration(
            ("listener.request_timeout", "90s", "Longest that a client is kept waiting for an answer."),
            ("100ms", "1h"),
        ),
        max_head: size(r, ("listener.max_head", "64KiB", "Largest header section."), ("8KiB", "1MiB")),
        max_headers: r.number(("listener.max_headers", "100", "Most header fields."), 1..=10_000),
        max_target: size(r, ("listener.max_target", "8KiB", "Longest request target."), ("256B", "60KiB")),
        max_body: size(r, ("listener.max_body", "1MiB", "Largest body of a start call."), ("1B", "1GiB")),
        max_buffered: max_buffered(r),
        max_buffered_per_connection: size(
            r,
            ("listener.max_buffered_per_connection", "32MiB", "The same for the requests of one connection."),
            ("64KiB", "1TiB"),
        ),
        max_streams: r.number(
            ("listener.max_streams", "128", "Most HTTP/2 streams that a connection may have open."),
            1..=10_000,
        ),
        max_reset_streams: r.number(
            (
                "listener.max_reset_streams",
                "20",
                "Most HTTP/2 streams that a client may open and reset before they were looked at.",
            ),
            1..=10_000,
        ),
        unix_mode: mode(r),
        unix_owner: owner(r),
    }
}

fn idle_timeout(r: &mut Reader<'_>) -> Duration {
    r.duration(
            (
                "listener.idle_timeout",
                "97s",
                "How long a connection may idle between two requests. Not a time by which clients poll: they would meet its end.",
            ),
            ("100ms", "1h"),
        )
}

fn linger_timeout(r: &mut Reader<'_>) -> Duration {
    r.duration(
            (
                "listener.linger_timeout",
                "5s",
                "Longest that the rest of an upload is read and discarded before its connection is closed, so that its client sees the answer.",
            ),
            ("0s", "1m"),
        )
}

fn max_buffered(r: &mut Reader<'_>) -> usize {
    size(
        r,
        (
            "listener.max_buffered",
            "48MiB",
            "Most memory for bodies that are gathered and for answers that clients have not taken yet; stored ones count for cache.max_bytes.",
        ),
        ("1MiB", "1TiB"),
    )
}

/// A size that fits the machine's.
pub(super) fn size(r: &mut Reader<'_>, key: Declared<'_>, bounds: (&'static str, &'static str)) -> usize {
    usize::try_from(r.bytes(key, bounds)).unwrap_or(usize::MAX)
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
    let key = ("listener.unix_mode", "0600", "The mode of Unix sockets: who may connect.");
    let text = r.text(key);
    let mode = u32::from_str_radix(&text, 8).ok().filter(|mode| *mode <= 0o777);
    mode.unwrap_or_else(|| {
        let place = r.place(key.0);
        r.problem(&place, key.0, "must be a mode in octal, such as \"0660\"");
        0o600
    })
}

/// `"user:group"` in numbers; either may be left out.
fn owner(r: &mut Reader<'_>) -> (Option<u32>, Option<u32>) {
    let key = (
        "listener.unix_owner",
        "",
        "User and group of Unix sockets, in numbers: \"1000:1000\" or \":1000\".",
    );
    let text = r.text(key);
    let (user, group) = text.split_once(':').unwrap_or((&text, ""));
    let id = |text: &str| if text.is_empty() { Ok(None) } else { text.parse().map(Some) };
    if let (Ok(user), Ok(group)) = (id(user), id(group)) {
        return (user, group);
    }
    let place = r.place(key.0);
    r.problem(&place, key.0, "must be \"user:group\" in numbers, such as \"1000:1000\" or \":1000\"");
    (None, None)
}
